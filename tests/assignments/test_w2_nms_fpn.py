"""The warm-up on NMS and FPN: what a mistake costs, and its hint."""

import pytest
from helpers.played import failed, lost, play, scored

NAME = "w2_nms_fpn"


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert lost(NAME, play(NAME, checks=checks), tmp_path) == {}
    assert failed(checks) == []


@pytest.mark.parametrize(
    ("edits", "expected"),  # the probes that lose points, and how their hints begin
    [
        # Across classes.
        ({"labels[k] == labels[i] and iou": "iou"}, {"nms": "Which boxes"}),
        # At the threshold.
        ({"iou[k, i] > threshold": "iou[k, i] >= threshold"}, {"nms": "What happens to a box"}),
        # The limit for each class.
        ({"return kept[:limit]": "return [k for n, k in enumerate(kept) if sum(int(labels[j] == labels[k]) for j in kept[:n]) < limit]"}, {"nms": "Of what are"}),  # noqa: E501
        # In the order of the first scores.
        ({"torch.where(waiting, current, -1.0)": "torch.where(waiting, scores, -1.0)"}, {"soft": "Which box is chosen"}),  # noqa: E501
        # IoU without the square.
        ({"(box_iou(boxes, boxes) ** 2)": "box_iou(boxes, boxes)"}, {"soft": "Look at the exponent"}),  # noqa: E501
        # Low scores stay.
        ({"return torch.where(current < min_score, 0.0, current)": "return current"}, {"soft": "What becomes of low"}),  # noqa: E501
        # No compensation.
        ({"factor = torch.exp(-(higher**2 - compensation[:, None] ** 2) / sigma)": "factor = torch.exp(-(higher**2) / sigma)"}, {"matrix": "How much may"}),  # noqa: E501
        # Across classes.
        ({"(iou * same_class)": "iou"}, {"matrix": "Which pairs"}),
        # In the order of the scores.
        ({"new[order] = scores[order] * factor": "new = scores[order] * factor"}, {"matrix": "In which order"}),  # noqa: E501
        # The area for the side.
        ({".prod(dim=1).sqrt()": ".prod(dim=1)"}, {"levels": "Is s0"}),
        # Rounded to the nearest.
        ({".clamp(finest, coarsest).floor().long()": ".clamp(finest, coarsest).round().long()"}, {"levels": "Which way"}),  # noqa: E501
        # The longer side.
        ({"sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()": "sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)"}, {"levels": "Which side"}),  # noqa: E501
        # Rounded down.
        ({"-(-side // 2**level)": "side // 2**level"}, {"sizes": "What becomes", "place": ""}),
        # Rounded to the nearest.
        ({"-(-side // 2**level)": "round(side / 2**level)"}, {"sizes": "Halve step", "place": ""}),
        # Width first.
        ({"for side in (height, width)]": "for side in (width, height)]"}, {"sizes": "Which comes first", "place": ""}),  # noqa: E501
        # All cells of one anchor first.
        ({"cell, number = divmod(index, per_cell)": "number, cell = divmod(index, rows * columns)"}, {"place": "Which comes first"}),  # noqa: E501
        # Column by column.
        ({"return [level, *divmod(cell, columns), number]": "return [level, *divmod(cell, rows)[::-1], number]"}, {"place": "Is the second cell"}),  # noqa: E501
        # Levels from 0.
        ({"return [level, *divmod(cell, columns), number]": "return [level - finest, *divmod(cell, columns), number]"}, {"place": "From which number"}),  # noqa: E501
        # After the output.
        ({"top_down = t": "top_down = pyramid[0]"}, {"fpn": "Which map goes up"}),
        # Bilinear.
        ({'mode="nearest")': 'mode="bilinear", align_corners=False)'}, {"fpn": "How is the coarser"}),  # noqa: E501
        # Doubled and cropped.
        ({'F.interpolate(top_down, size=t.shape[-2:], mode="nearest")': 'F.interpolate(top_down, scale_factor=2, mode="nearest")[..., : t.shape[-2], : t.shape[-1]]'}, {"fpn": "Which row"}),  # noqa: E501
    ],
)  # fmt: skip
def test_mistakes_and_their_hints(edits, expected, tmp_path):
    result = scored(NAME, play(NAME, edits), tmp_path, only=tuple(expected))
    lost_in = {p.name: p.hint for p in result.probes if p.name in expected and p.points < p.out_of}
    assert set(lost_in) == set(expected)
    for name, beginning in expected.items():
        assert lost_in[name].startswith(beginning) if beginning else not lost_in[name], lost_in
