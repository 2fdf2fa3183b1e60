"""What a wrong name is answered with, for every kind of name that a command takes."""

import pytest

from labkit.checkpoints.model_zoo import find
from labkit.datasets.registry import open_dataset
from labkit.engine.predictor import load_model
from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import find_assignment
from labkit.models import build
from labkit.structures import Categories
from labkit.system.unknown_names import did_you_mean, unknown_name
from labkit.workbook.find_notebook import find_openable
from labkit.workbook.notebook_sources import find_root, resolve


def test_the_closest_names_are_suggested_without_regard_to_case():
    known = ["mask_rcnn_tiny", "mask_rcnn_tiny_c4", "fcn8_tiny"]
    assert did_you_mean("mask_rcnn_tny", known) == "did you mean mask_rcnn_tiny?"
    assert did_you_mean("MASK_RCNN_TINY", known) == "did you mean mask_rcnn_tiny?"
    assert did_you_mean("set", ["sot", "seat", "sat"]) == "did you mean seat?"
    assert did_you_mean("cut", ["cat", "cot"]) == "did you mean cot or cat?"
    assert did_you_mean("yolo", known) == ""
    assert did_you_mean("", known) == ""


def test_the_message_names_all_or_says_where_they_are():
    assert str(unknown_name("colour", "gren", ["green", "red"])) == (
        "there is no colour 'gren': did you mean green? there are: green, red"
    )
    assert str(unknown_name("colour", "x", ["green"])) == "there is no colour 'x'; there are: green"
    assert str(unknown_name("colour", "x", [])) == "there is no colour 'x'; there are: none"
    assert str(unknown_name("colour", "x", [], "see the box")) == (
        "there is no colour 'x'; see the box"
    )


@pytest.mark.parametrize(
    ("look_up", "meant"),
    [
        (lambda: build("mask_rcnn_tny", Categories([])), "did you mean mask_rcnn_tiny?"),
        (lambda: open_dataset("penn-fudan", "train"), "did you mean penn_fudan?"),
        (lambda: find("mask_rcnn_R_50_FPN_3"), "did you mean mask_rcnn_R_50_FPN_3x"),
        (lambda: load_model("detr_tny"), "did you mean detr_tiny?"),
        (lambda: load_model("runs/fcn"), "runs/fcn: no such folder"),
        (lambda: find("detr_tiny"), "come with labkit and need no download"),
        (lambda: find_assignment("a1_roi_algn"), "did you mean a1_roi_align?"),
        (lambda: resolve("roi_algn", find_root()), "did you mean 02_roi_align?"),
        (lambda: resolve("03_mask_rcn.ipynb", find_root()), "did you mean 03_mask_rcnn?"),
        (lambda: find_openable("a1_roi_algn", find_root()), "did you mean a1_roi_align?"),
    ],
)
def test_every_kind_of_name(look_up, meant):
    with pytest.raises(LabkitError) as refusal:
        look_up()
    assert meant in str(refusal.value)
