"""The warm-up on semantic segmentation: what a mistake costs, and its hint."""

import pytest
from helpers.played import failed, lost, play, scored

NAME = "w1_semantic"


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert lost(NAME, play(NAME, checks=checks), tmp_path) == {}
    assert failed(checks) == []


@pytest.mark.parametrize(
    ("edits", "expected"),  # the probes that lose points, and how their hints begin
    [
        # Rows are the predictions.
        ({"(gt[labelled], columns[labelled]), 1)": "(gt[labelled], columns[labelled]), 1)\n    matrix[:, :-1] = matrix[:, :-1].T.copy()"}, {"confusion": "In which direction"}),  # noqa: E501
        # Undecided pixels are left out.
        ({"labelled = gt != 255": "labelled = (gt != 255) & (prediction != 255)"}, {"confusion": "Which pixels"}),  # noqa: E501
        # Products of uint8.
        ({"np.add.at(matrix, (gt[labelled], columns[labelled]), 1)": "place = (gt.astype(np.uint8) * np.uint8(num_classes + 1) + columns.astype(np.uint8))[labelled]\n    matrix += np.bincount(place, minlength=matrix.size)[: matrix.size].reshape(matrix.shape)"}, {"confusion": "Which type"}),  # noqa: E501
        # Undecided pixels are not in the ground truth.
        ({"matrix.sum(axis=1)": "matrix[:, :-1].sum(axis=1)"}, {"metrics": "Are undecided", "metrics-missing": "Are undecided"}),  # noqa: E501
        # Zeros for classes that never occur.
        ({"np.nanmean(iou)": "np.nan_to_num(iou).mean()"}, {"metrics-missing": "By how many"}),
        # Only classes of the ground truth.
        ({"np.nanmean(iou)": "iou[of_gt > 0].mean()"}, {"metrics-missing": "Which classes take part in mIoU"}),  # noqa: E501
        # Zeros in the mean accuracy.
        ({"np.nanmean(accuracy)": "np.nan_to_num(accuracy).mean()"}, {"metrics-missing": "Which classes take part in the mean"}),  # noqa: E501
        # From the first layer on.
        ({"in reversed(layers)": "in layers"}, {"seen": "Which layer"}),
        # No dilation.
        ({"- p + r * (k - 1)": "- p + (k - 1)"}, {"seen": "How far apart"}),
        # A window around the cell.
        ({"for k, s, r, p in reversed(layers):": "for k, s, r, p in reversed(layers):\n        p = r * (k - 1) // 2"}, {"seen": "Where does the window"}),  # noqa: E501
        # Beyond the border.
        ({"return [max(first, 0), min(last, size - 1)]": "return [first, last]"}, {"seen": "Where does the image"}),  # noqa: E501
        # The layer itself is dilated.
        ({"        dilated.append([k, 1 if taken else s, r * factor])\n        if taken:\n            factor *= s": "        if taken:\n            factor *= s\n        dilated.append([k, 1 if taken else s, r * factor])\n        if taken:\n            pass"}, {"dilate": "Does the layer"}),  # noqa: E501
        # Dilation 2 behind two strides.
        ({"factor *= s": "factor = s"}, {"dilate": "Two strides"}),
        # One stride too early.
        ({"taken = stride * s > output_stride": "taken = s > 1 and stride * s >= output_stride"}, {"dilate": "May the product"}),  # noqa: E501
        # The kernel flipped.
        ({"+= value * w": "+= value * w[::-1]"}, {"transposed": "At which position"}),
        # The last copy wins.
        ({"+= value * w": "= value * w"}, {"transposed": "What happens"}),
        # All padding at one end.
        ({"out[padding : len(out) - padding]": "out[2 * padding :]"}, {"transposed": "At which ends"}),  # noqa: E501
        # The middle at a weight.
        ({"(size - 1) / 2": "(factor - 1)"}, {"weights": "Where is the middle"}),
        # Weights that add up to 1.
        ({"return 1 - np.abs(np.arange(size) - (size - 1) / 2) / factor": "weights = 1 - np.abs(np.arange(size) - (size - 1) / 2) / factor\n    return weights / weights.sum()"}, {"weights": "A constant signal"}),  # noqa: E501
        # The triangle ends half a weight outside the kernel.
        ({"/ 2) / factor": "/ 2) / (size / 2 + 0.5)"}, {"weights": "At which distance"}),
    ],
)  # fmt: skip
def test_mistakes_and_their_hints(edits, expected, tmp_path):
    result = scored(NAME, play(NAME, edits), tmp_path, only=tuple(expected))
    lost_in = {p.name: p.hint for p in result.probes if p.name in expected and p.points < p.out_of}
    assert set(lost_in) == set(expected)
    for name, beginning in expected.items():
        assert lost_in[name].startswith(beginning) if beginning else not lost_in[name], lost_in
