"""RoIAlign of rotated boxes: what the usual mistakes cost, and which hint they get."""

import pytest
from helpers.played import failed, lost, play, scored

NAME = "a1_roi_align"
ALL_GRIDS = {"grid-fixed": 2, "grid-adaptive": 2}


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert lost(NAME, play(NAME, checks=checks), tmp_path) == {}
    assert failed(checks) == []


# Each mistake is made in the solution: what it costs at least, and words of the hint of a probe.
@pytest.mark.parametrize(
    ("edits", "expected", "probe", "hint"),
    [
        (
            {"y * spatial_scale - 0.5 -": "y * spatial_scale -", "x * spatial_scale - 0.5 +": "x * spatial_scale +"},  # noqa: E501
            ALL_GRIDS, "grid-fixed", "where does `[0, 0]` lie",
        ),
        (
            {"- u * sin + v * cos": "+ u * sin + v * cos", "+ u * cos + v * sin": "+ u * cos - v * sin"},  # noqa: E501
            ALL_GRIDS, "grid-fixed", "with y pointing down",
        ),
        (
            {"sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))\n    return": "sin, cos = math.sin(angle), math.cos(angle)\n    return"},  # noqa: E501
            ALL_GRIDS, "grid-adaptive", "which one do `sin` and `cos` expect",
        ),
        ({"+ u * cos + v * sin": "+ u * cos - v * sin"}, {"grid-fixed": None, "grid-adaptive": 2}, "grid-adaptive", "where is the first row"),  # noqa: E501
        ({"dtype=torch.float64) + 0.5\n": "dtype=torch.float64)\n"}, ALL_GRIDS, "grid-fixed", "as much room before"),  # noqa: E501
        ({"math.ceil(length / bins)": "max(int(length / bins), 1)"}, {"grid-adaptive": 2}, "grid-adaptive", "1.2 cells"),  # noqa: E501
        ({"math.ceil(length / bins)": "max(round(length / bins), 1)"}, {"grid-adaptive": None}, "grid-adaptive", "1.2 cells"),  # noqa: E501
        (
            {"along(height * spatial_scale, output_size[0], sampling_ratio)": "(spatial_scale * along(height, output_size[0], sampling_ratio))", "along(width * spatial_scale, output_size[1], sampling_ratio)": "(spatial_scale * along(width, output_size[1], sampling_ratio))"},  # noqa: E501
            {"grid-adaptive": 2}, "grid-adaptive", "In which unit is a bin measured",
        ),
        ({"values.mean(dim=(3, 4))": "values.sum(dim=(3, 4))"}, {"inside": None, "border": 2, "adaptive": 1}, "adaptive", "the sum of a bin divided"),  # noqa: E501
        ({"values.mean(dim=(3, 4))": "values.sum(dim=(3, 4)) / sampling_ratio**2"}, {"adaptive": 1}, "adaptive", "also when `sampling_ratio` is 0"),  # noqa: E501
        ({"features[int(row[0])].double()\n        values": "features[0].double()\n        values"}, {"inside": None}, "inside", "Which map does a box read"),  # noqa: E501
        (
            {"counts = (points >= -1) & (points <= size)": "counts = (points > -10 * size)"},
            {"border": None}, "border", "far outside",
        ),
        (
            {"in neighbours(x, image.shape[2])\n        )": "in neighbours(x.clamp(-1, image.shape[2]), image.shape[2])\n        )"},  # noqa: E501
            {"border": None}, "border", "x = -0.5, -1.5, W - 0.5 and W + 0.5",
        ),
        (
            {"counts = (points >= -1) & (points <= size)": "counts = (points >= 0) & (points <= size - 1)"},  # noqa: E501
            {"border": None}, "border", "Right inside the map, but wrong at its border?",
        ),
        ({"a * b / (y.shape[2] * y.shape[3])": "a * b / sampling_ratio**2"}, {"map": None}, "map", "also when `sampling_ratio` is 0"),  # noqa: E501
        ({"a * b / (y.shape[2] * y.shape[3])": "a * b"}, {"map": None}, "map", "A bin is a mean"),
        (
            {"image.view(len(image), -1).index_add_(1, places, shares.flatten(1))": "image.view(len(image), -1)[:, places] += shares.flatten(1)"},  # noqa: E501
            {"map": None}, "map", "several samples of one box",
        ),
        ({"image = total[int(row[0])]": "image = total[0]"}, {"map": None}, "map", "does the gradient of a box go to"),  # noqa: E501
        (
            {"(by_x * spatial_scale)": "by_x", "(by_y * spatial_scale)": "by_y"},
            {"box-centre": 1}, "box-centre", "by how many cells",
        ),
        ({"moves = (points >= 0) & (points <= size - 1)": "moves = counts"}, {"box-centre": None}, "box-centre", "while it is outside"),  # noqa: E501
        (
            {"part / (y.shape[2] * y.shape[3]) for": "part for"},
            {"box-centre": None, "box-size": None, "box-angle": None}, "box-size", "A bin is a mean",  # noqa: E501
        ),
        (
            {"part / (y.shape[2] * y.shape[3]) for": "part / sampling_ratio**2 for"},
            {"box-centre": None, "box-size": None, "box-angle": None}, "box-angle", "also when `sampling_ratio` is 0",  # noqa: E501
        ),
        ({"u).sum() / width": "u).sum() / height", "v).sum() / height": "v).sum() / width"}, {"box-size": 1}, "box-size", "how far one in the middle"),  # noqa: E501
        ({"math.radians(1) * (by_x": "(by_x"}, {"box-angle": 2}, "box-angle", "which unit of the angle"),  # noqa: E501
        ({"(by_x * y - by_y * x)": "(by_y * x - by_x * y)"}, {"box-angle": 2}, "box-angle", "Which way"),  # noqa: E501
        ({"row[:, 1:] -= step_sizes": "row[:, 1:] += step_sizes"}, {"fit": 2}, "fit", "rise or fall"),  # noqa: E501
        ({"box_gradient(pooled - target": "box_gradient(2 * (pooled - target)"}, {"fit": 2}, "fit", "half a square"),  # noqa: E501
        (
            {"for _ in range(steps):": "start = row.clone()\n    for _ in range(steps):", "features, row, tuple(target": "features, start, tuple(target", "features, row, spatial_scale, sampling_ratio)\n        row": "features, start, spatial_scale, sampling_ratio)\n        row"},  # noqa: E501
            {"fit": None}, "fit", "when the second step begins",
        ),
    ],
)  # fmt: skip
def test_mistakes(edits, expected, probe, hint, tmp_path):
    found = scored(NAME, play(NAME, edits), tmp_path, only=expected)
    lost = {part.name: part.out_of - part.points for part in found.probes if part.name in expected}
    for name, points in expected.items():  # None: some of the points, by the drawn boxes
        assert lost[name] == points or (points is None and lost[name] > 0), lost
    assert hint in next(part.hint for part in found.probes if part.name == probe)


def test_upright_boxes_alone_earn_nothing(tmp_path):
    """Without the angle it would be the RoIAlign of the lesson."""
    edits = {"angle = box.tolist()": "angle = *box.tolist()[:4], 0.0"}
    assert lost(NAME, play(NAME, edits), tmp_path, only=ALL_GRIDS) == ALL_GRIDS


CLOCKWISE = {
    "- u * sin + v * cos": "+ u * sin + v * cos",
    "+ u * cos + v * sin": "+ u * cos - v * sin",
}


def test_the_checks_say_what_was_got():
    checks = []
    play(NAME, CLOCKWISE, checks=checks)
    assert repr(checks[0]).splitlines() == [
        "Exercise 1: 6 of 10 checks pass",
        "✓ the shape is (2, h, w, s, t)",
        "✓ upright: the same y, one to the left and one to the right of 2.5",
        "✗ 90 degrees: the right end is at the top",
        "    got [[0.5, 2.5], [2.5, 2.5]], expected [[2.5, 0.5], [2.5, 2.5]]; "
        "first at [0, 0] got 0.5, expected 2.5",
        "✗ 90 degrees, two rows of bins: the first row is on the left",
        "    got [[1.5, 1.5], [3, 2]], expected [[1.5, 1.5], [2, 3]]; "
        "first at [1, 0] got 3, expected 2",
        "✗ 30 degrees: half of the way up, and the cosine of 30 degrees to the side",
        "    got [[1, 2], [1.63397, 3.36603]], expected [[2, 1], [1.63397, 3.36603]]; "
        "first at [0, 0] got 1, expected 2",
        "✗ at stride 8 the box is eight times as large in pixels and the same in cells",
        "    got [[0.5, 2.5], [2.5, 2.5]], expected [[2.5, 0.5], [2.5, 2.5]]; "
        "first at [0, 0] got 0.5, expected 2.5",
        "✓ two samples along each side, upright: at a quarter and three quarters of the bin",
        "✓ two bins with two samples each: the first bin has the left ones",
        "✓ adaptive: a bin of 2 by 1.5 cells has 2 by 2 samples, one of 2 by 1 has 2 by 1",
        "✓ adaptive, rounded up: a bin of 2.1 by 1.5 cells has 3 by 2 samples",
    ]


FAR = "{0}.clamp(-1, image.shape[{1}]), image.shape[{1}]"  # far outside as at the edge of the strip
ADAPTIVE = ["adaptive"]
BOTH = ["two samples", "adaptive"]


@pytest.mark.parametrize(
    ("old", "new", "exercise", "samples"),
    [
        ("a, _ in neighbours(y, image.shape[1]):", f"a, _ in neighbours({FAR.format('y', 1)}):", 3, BOTH),  # noqa: E501
        ("b, _ in neighbours(x, image.shape[2]):", f"b, _ in neighbours({FAR.format('x', 2)}):", 3, BOTH),  # noqa: E501
        ("a * b / (y.shape[2] * y.shape[3])", "a * b / sampling_ratio**2", 3, ADAPTIVE),
        ("slope_a in neighbours(y, image.shape[1]):", f"slope_a in neighbours({FAR.format('y', 1)}):", 4, BOTH),  # noqa: E501
        ("slope_b in neighbours(x, image.shape[2]):", f"slope_b in neighbours({FAR.format('x', 2)}):", 4, BOTH),  # noqa: E501
        ("part / (y.shape[2] * y.shape[3]) for", "part / sampling_ratio**2 for", 4, ADAPTIVE),
    ],
)  # fmt: skip
def test_the_checks_of_gradients_reach_far_outside_and_adaptive(old, new, exercise, samples):
    checks = []
    play(NAME, {old: new}, checks=checks)
    problems = [problem.rsplit(": ", 2) for problem in failed(checks)]
    assert [(p[0].split(":")[0], p[1]) for p in problems] == [
        (f"Exercise {exercise}", kind) for kind in samples
    ]


@pytest.mark.parametrize("dtype", ["float", "double"])
def test_another_type_costs_nothing(dtype, tmp_path):
    edits = {"return pooled\n": f"return pooled.{dtype}()\n"}
    assert lost(NAME, play(NAME, edits), tmp_path, only=("inside", "border", "adaptive")) == {}
