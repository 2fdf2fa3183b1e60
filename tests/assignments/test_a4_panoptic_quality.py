"""Panoptic quality: what a mistake about void, crowds or the mean costs."""

import pytest
from helpers.played import failed, lost, play

NAME = "a4_panoptic_quality"


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert lost(NAME, play(NAME, checks=checks), tmp_path) == {}
    assert failed(checks) == []


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        # Predictions on crowds count as false positives.
        (
            {'if g.get("iscrowd", False) and g["label"] == p["label"]:': "if False:"},
            {"counting-crowd": 3},
        ),
        # A crowd excuses every class.
        (
            {'if g.get("iscrowd", False) and g["label"] == p["label"]:': 'if g.get("iscrowd", False):'},  # noqa: E501
            {"counting-crowd": 3},
        ),
        # A crowd is missed like any other segment.
        (
            {'if g["id"] not in matched_g and not g.get("iscrowd", False):': 'if g["id"] not in matched_g:'},  # noqa: E501
            {"counting-crowd": 3},
        ),
        # Void stays in the union.
        (
            {'in_p, in_g = (prediction == p["id"]) & labelled, truth == g["id"]': 'in_p, in_g = prediction == p["id"], truth == g["id"]'},  # noqa: E501
            {"matching-void": 2, "counting-void": 2},
        ),
        # Predictions on void are not excused.
        ({"excuse = truth == VOID": "excuse = truth == -1"}, {"counting-void": 2}),
        # Half on void is excused, too.
        ({"<= in_p.sum() / 2": "< in_p.sum() / 2"}, {"counting-void": 2, "counting-crowd": 3}),
        # From one half on.
        (
            {"iou > 0.5": "iou >= 0.5"},
            {
                "matching-plain": 2, "matching-void": 2, "counting-plain": 2, "counting-void": 2,
                "counting-crowd": 3, "dataset": 2,
            },
        ),
        ({"rgb.astype(np.int64)": "rgb"}, {"ids": 1}),
        # Classes that do not occur pull the mean down.
        ({"if size == 0:\n            continue": "size = size or 1"}, {"quality": 2}),
        # The mean over the pictures.
        (
            {"return quality(counts, isthing)": 'return {k: np.mean([quality(count(**p, num_classes=num_classes), isthing)[k] for p in pictures], axis=0).tolist() for k in ("all", "things", "stuff")}'},  # noqa: E501
            {"dataset": 2},
        ),
    ],
)  # fmt: skip
def test_mistakes(edits, expected, tmp_path):
    found = lost(NAME, play(NAME, edits), tmp_path)
    # Whether every class occurs in three pictures is up to chance.
    if "quality" in expected:
        found.pop("dataset", None)
    assert found == expected
