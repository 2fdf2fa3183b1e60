"""Instance segmentation, with a detector that labkit has trained in place of the student's."""

import subprocess
import sys
from functools import cache

import pytest
import torch
from helpers.played import failed, hints, load, lost, play

from labkit.checkpoints.shipped import shipped
from labkit.engine.predictor import Predictor

NAME = "a2_instance"


@cache
def found_in(content):
    """labkit's detections in an image of 128 pixels, by its bytes: many tests ask for the same."""
    image = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(3, 128, 128)
    return predictor()(image).detections


@cache
def predictor():
    return Predictor("mask_rcnn_tiny")


def stand_in(namespace):
    """A detector that answers in torchvision's way."""

    def detector(images):
        pictures = [(255 * image).round().to(torch.uint8) for image in images]
        return [
            {
                "boxes": found.boxes,
                "scores": found.scores,
                "labels": found.labels + 1,
                "masks": probabilities(found.masks, found.boxes)[:, None],
            }
            for found in (found_in(picture.numpy().tobytes()) for picture in pictures)
        ]

    namespace["detector"] = detector


def probabilities(masks, boxes):
    """Masks as torchvision pastes them: above 0 in the whole box."""
    soft = 0.8 * masks.float()
    for mask, (x1, y1, x2, y2) in zip(soft, boxes.round().int().tolist(), strict=True):
        mask[max(y1, 0) : y2, max(x1, 0) : x2] += 0.1
    return soft


def squares_as_background(namespace):
    """A detector that was trained with the labels of Shapes: squares are its background."""
    stand_in(namespace)
    detector = namespace["detector"]

    def poorer(images):
        answers = detector(images)
        for n, found in enumerate(answers):
            answers[n] = {name: values[found["labels"] > 1] for name, values in found.items()}
            answers[n]["labels"] -= 1
        return answers

    namespace["detector"] = poorer


def played(edits=(), training=stand_in, **options):
    return play(NAME, edits, instead={"training": training}, **options)


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert lost(NAME, played(checks=checks), tmp_path) == {}
    assert failed(checks) == []


@pytest.mark.parametrize(
    ("probe", "edits", "gap", "hint"),
    [
        ("targets", {"x.max() + 1, y.max() + 1": "x.max(), y.max()"}, 2, "box of a single pixel"),
        (
            "targets",
            {"things.index(value // 1000) + 1": "things.index(value // 1000)"},
            2,
            "background",
        ),
        ("targets", {"areas >= min_area": "areas > min_area"}, None, "exactly `min_area`"),
        (
            "no-objects",
            {
                "boxes = torch.zeros(len(found), 4)": "boxes = torch.zeros(len(found), 4)\n    masks = masks if len(found) else torch.zeros(0)",  # noqa: E501
                '{"boxes": boxes, "labels": labels,': '{"boxes": boxes if len(found) else torch.zeros(0), "labels": labels,',  # noqa: E501
            },
            1,
            "Which shapes",
        ),
        (
            "mirror",
            {"[width - x2, y1, width - x1, y2]": "[width - x1, y1, width - x2, y2]"},
            1,
            "the smaller one",
        ),
        ("mirror", {"width = target": "width = -1 + target"}, 1, "W - 1"),
        ("mirror", {'target["masks"].flip(-1)': 'target["masks"]'}, 1, "still fit"),
        (
            "box-head",
            {
                "enumerate([0, *sources]):\n            if source is not None:\n                for name": "enumerate([None, *sources]):\n            if source is not None:\n                for name"  # noqa: E501
            },
            2,
            "background",
        ),
        (
            "box-head",
            {"of.weight[n * source : n * source + n]": "of.weight[source : source + n]"},
            2,
            "Which four outputs",
        ),
        (
            "box-head",
            {
                "if source is not None:\n                for name": "if False:\n                for name"  # noqa: E501
            },
            2,
            "Is everything fresh",
        ),
        (
            "mask-head",
            {"new.conv5_mask.load_state_dict(old.conv5_mask.state_dict())": "pass"},
            3,
            "conv5_mask",
        ),
        (
            "mask-head",
            {
                "enumerate([0, *sources]):\n            if source is not None:\n                new": "enumerate([None, *sources]):\n            if source is not None:\n                new"  # noqa: E501
            },
            3,
            "background",
        ),
        (
            "mask-head",
            {
                "new.conv5_mask.load_state_dict(old.conv5_mask.state_dict())": "pass",
                "if source is not None:\n                new": "if False:\n                new",
            },
            3,
            "Is everything fresh",
        ),
        ("errors", {"same[d] & free, iou[d], 0.0": "same[d], iou[d], 0.0"}, None, "two detections"),
        (
            "errors",
            {
                "elif (iou[d][same[d]] >= 0.5).any():": "elif (iou[d][same[d]] >= 0.5).any() "
                "and not (iou[d][~same[d]] >= 0.5).any():"
            },
            None,
            "Which name comes first",
        ),
        (
            "errors",
            {"elif (iou[d][same[d]] >= 0.1).any()": "elif (iou[d] >= 0.1).any()"},
            None,
            "Which classes count",
        ),
        ("missed", {"missed & free": "free"}, None, "wrong class or a poor outline"),
        (
            "missed",
            {"missed[same[d] & (iou[d] >= 0.1)] = False": "pass"},
            None,
            "a location error overlaps",
        ),
        (
            "missed",
            {"missed[same[d] & (iou[d] >= 0.1)]": "missed[iou[d] >= 0.1]"},
            None,
            "that a location error covers",
        ),
        (
            "effect",
            {"d.std(ddof=1)": "np.hypot(np.std(a, ddof=1), np.std(b, ddof=1))"},
            2,
            "the same seeds",
        ),
        ("effect", {"d.std(ddof=1)": "d.std()"}, 2, "denominator"),
        ("effect", {"stats.t.ppf(0.975, len(d) - 1)": "stats.norm.ppf(0.975)"}, 2, "distribution"),
    ],
)
def test_mistakes(probe, edits, gap, hint, tmp_path):
    namespace = played(edits)
    found = lost(NAME, namespace, tmp_path, only=(probe,))
    assert found[probe] > 0 if gap is None else found == {probe: gap}
    assert hint in hints(NAME, namespace, tmp_path, only=(probe,))[probe]


@pytest.mark.parametrize(
    ("edits", "training", "expected"),
    [
        # Labels as torchvision has them.
        ({'found["labels"] - 1': 'found["labels"]'}, stand_in, {"boxes": "too high", "masks": "compare the masks"}),  # noqa: E501
        ({'found["labels"] - 1': 'found["labels"] - 2'}, stand_in, {"boxes": "too low", "masks": "compare the masks"}),  # noqa: E501
        # Trained without + 1, predicted with - 1 and without.
        ({}, squares_as_background, {"boxes": "too low", "masks": "compare the masks"}),
        (
            {'found["labels"] - 1': 'found["labels"]', '"boxes": found["boxes"]': '"boxes": found["boxes"] + 2.0'},  # noqa: E501
            squares_as_background,
            {"boxes": "Squares are never found"},
        ),
        ({'found["masks"][:, 0] > 0.5': 'found["masks"] > 0.5'}, stand_in, {"boxes": "the shape", "masks": "compare the masks"}),  # noqa: E501
        ({'found["masks"][:, 0] > 0.5': 'found["masks"][:, 0].bool()'}, stand_in, {"masks": "At which probability"}),  # noqa: E501
        ({'found["masks"][:, 0] > 0.5': 'found["masks"][:, 0] > 1.5'}, stand_in, {"masks": "compare the masks"}),  # noqa: E501
    ],
)  # fmt: skip
def test_mistakes_of_predict(edits, training, expected, tmp_path):
    namespace = played(edits, training)
    assert set(lost(NAME, namespace, tmp_path, only=("boxes", "masks"))) == set(expected)
    shown = hints(NAME, namespace, tmp_path, only=("boxes", "masks"))
    for probe, hint in expected.items():
        assert hint in shown[probe]


WAYS = (
    "from labkit.engine.predictor import load_model as f; f({name!r})",
    "from labkit.engine.predictor import Predictor as f; f({name!r})",
    "import labkit.checkpoints.shipped as m; m.shipped()[{name!r}].load()",
    "import labkit.checkpoints.shipped as m; m.Shipped.load({shipped})",
    "from labkit.models import build; build({preset!r}, Shapes.categories)",
    "from labkit.models import PRESETS; PRESETS[{preset!r}].build(Shapes.categories)",
    "import labkit.checkpoints.run_folder as m; "
    "m.Run({preset!r}, Shapes.categories, 'shapes', 'train', None, (), {{}}).build()",
)


def test_trained_detectors_cannot_be_loaded():
    """Every way to a network that comes with labkit ends where the assignment forbids it."""
    code = f"""
from labkit.grading.execution.in_kernel import forbid
forbid({load(NAME).assignment.forbidden})
from types import SimpleNamespace
from labkit.checkpoints.shipped import FOLDER
from labkit.datasets.shapes import Shapes
"""
    tried = 0
    for of_labkit in shipped().values():
        if not any("AP" in metric for metric in of_labkit.metrics):
            continue
        given = (
            f"SimpleNamespace(preset={of_labkit.preset!r}, data='shapes',"
            f" path=FOLDER / '{of_labkit.name}.safetensors')"
        )
        for way in WAYS:
            line = way.format(name=of_labkit.name, preset=of_labkit.preset, shipped=given)
            code += f"""
try:
    {line}
    print("loaded by", {line!r})
except Exception as error:
    if "may not be used in this assignment" not in str(error):
        print({line!r}, repr(error))
"""
            tried += 1
    assert tried > 30
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_box_predictor_is_not_touched_by_that_of_the_masks(tmp_path):
    edits = {"old = model.roi_heads.mask_predictor": "model = transfer_boxes(model, sources)\n    old = model.roi_heads.mask_predictor"}  # fmt: skip  # noqa: E501
    assert lost(NAME, played(edits), tmp_path, only=("mask-head",)) == {"mask-head": 3}


def test_a_worse_detector_earns_a_part(tmp_path):
    # Every box two pixels too far to the right and the bottom: less AP, and not none.
    edits = {'"boxes": found["boxes"]': '"boxes": found["boxes"] + 2.0'}
    found = lost(NAME, played(edits), tmp_path, only=("boxes", "masks"))
    assert set(found) == {"boxes"}
    assert 0 < found["boxes"] < 2


def test_the_measured_runs_show_no_difference():
    namespace = played()
    assert len(namespace["WITH_MASKS"]) == len(namespace["WITHOUT_MASKS"]) == 6
    result = namespace["effect"](namespace["WITH_MASKS"], namespace["WITHOUT_MASKS"])
    assert result["verdict"] == "not shown"
