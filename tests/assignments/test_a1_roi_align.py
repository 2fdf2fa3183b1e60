"""RoIAlign: the usual mistakes cost what they should, and other types cost nothing."""

import pytest
from helpers.played import failed, lost, play

NAME = "a1_roi_align"


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert lost(NAME, play(NAME, checks=checks), tmp_path) == {}
    assert failed(checks) == []


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        # Without the half cell: all aligned values, and the aligned half of the gradients by hand.
        ({"start -= 0.5": "start -= 0.0"}, {"aligned": 3, "backward": 1.5}),
        # Small boxes are not widened: half of the original operator's cases have some.
        ({"length = max(length, 1.0)": "pass"}, {"original": 1}),
        ({"math.ceil(length / bins)": "1"}, {"adaptive": 1}),
        ({"return torch.stack(pooled)": "return torch.stack(pooled).detach()"}, {"differentiable": 2}),  # noqa: E501
        ({"A_y.T @ of_box @ A_x": "(A_y.T @ of_box @ A_x).flip(-1)"}, {"backward": 3}),
        ({"bins * samples, dtype=torch.float64) + 0.5": "bins * samples, dtype=torch.float64)"}, None),  # noqa: E501
    ],
)  # fmt: skip
def test_mistakes(edits, expected, tmp_path):
    found = lost(NAME, play(NAME, edits), tmp_path)
    if expected is None:  # samples at the lower ends: everything that uses them is wrong
        assert set(found) == {
            "points",
            "aligned",
            "original",
            "adaptive",
            "differentiable",
            "backward",
        }
    else:
        assert found == expected


def test_the_checks_say_what_was_got():
    checks = []
    play(NAME, {"start -= 0.5": "start -= 0.0"}, checks=checks)
    by_hand = next(check for check in checks if check.title == "Exercise 3, by hand")
    assert repr(by_hand).splitlines() == [
        "Exercise 3, by hand: 4 of 6 checks pass",
        "✓ the shape is (K, C, h, w)",
        "✗ aligned: the first bin's middle is at x = 1.25, half a cell less is 0.75",
        "    got [[7.5, 6.5], [5, 5.125]], expected [[7.4375, 7], [5.0625, 7]]; "
        "first at [0, 0] got 7.5, expected 7.4375",
        "✓ original: no half cell, the first sample is at y = 1.75, x = 1.25",
        "✓ original: half a cell wide is widened to one cell, with its middle at 1.5",
        "✗ at stride 8 the box is eight times as large in pixels and the same in cells",
        "    got 7.5, expected 7.4375",
        "✓ no boxes give (0, C, h, w)",
    ]


@pytest.mark.parametrize("dtype", ["float", "double"])
def test_another_type_costs_nothing(dtype, tmp_path):
    edits = {"pooled.append(values.mean(dim=(2, 4)).to(features.dtype))": f"pooled.append(values.mean(dim=(2, 4)).{dtype}())"}  # fmt: skip  # noqa: E501
    assert lost(NAME, play(NAME, edits), tmp_path, only=("aligned", "original", "adaptive")) == {}
