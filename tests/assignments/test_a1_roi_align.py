"""RoIAlign: the usual mistakes cost what they should, and other types cost nothing."""

import pytest
from played import lost, play

NAME = "a1_roi_align"


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    assert lost(NAME, play(NAME, checks=True), tmp_path) == {}


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


@pytest.mark.parametrize("dtype", ["float", "double"])
def test_another_type_costs_nothing(dtype, tmp_path):
    edits = {"pooled.append(values.mean(dim=(2, 4)).to(features.dtype))": f"pooled.append(values.mean(dim=(2, 4)).{dtype}())"}  # fmt: skip  # noqa: E501
    assert lost(NAME, play(NAME, edits), tmp_path, only=("aligned", "original", "adaptive")) == {}
