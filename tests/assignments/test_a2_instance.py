"""Instance segmentation, with a detector that labkit has trained in place of the student's."""

from functools import cache

import pytest
import torch
from helpers.played import failed, lost, play

from labkit.engine.predictor import Predictor

NAME = "a2_instance"


@cache
def found_in(content):
    """labkit's detections in a picture of 128 pixels, by its bytes: many tests ask for the same."""
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
                "masks": found.masks[:, None].float(),
            }
            for found in (found_in(picture.numpy().tobytes()) for picture in pictures)
        ]

    namespace["detector"] = detector


def losses(folder, edits=(), **options):
    namespace = play(NAME, edits, instead={"training": stand_in}, **options)
    return lost(NAME, namespace, folder)


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert losses(tmp_path, checks=checks) == {}
    assert failed(checks) == []


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        # The tutorial's boxes end one pixel early.
        ({"x.max() + 1, y.max() + 1": "x.max(), y.max()"}, {"targets": 2}),
        # The background is taken for an object.
        ({"found = found[found > 0]": "pass"}, {"targets": 2, "no-objects": 1}),
        # No output for the background.
        ({"FastRCNNPredictor(inputs, num_classes)": "FastRCNNPredictor(inputs, num_classes - 1)"}, {"box-head": 2, "mask-head": 3}),  # noqa: E501
        # The widths of one model, for all.
        ({"MaskRCNNPredictor(inputs, hidden, num_classes)": "MaskRCNNPredictor(inputs, 256, num_classes)"}, {"mask-head": 3}),  # noqa: E501
        # The mask head alone, the boxes still have 91 classes.
        ({"model = faster_rcnn(model, num_classes)": "pass"}, {"mask-head": 3}),
        # Labels as torchvision has them.
        ({'found["labels"] - 1': 'found["labels"]'}, {"boxes": 2, "masks": 3}),
        ({'found["masks"][:, 0] > 0.5': 'found["masks"][:, 0] > 1.5'}, {"masks": 3}),
        ({'found["masks"][:, 0] > 0.5': 'found["masks"] > 0.5'}, {"boxes": 2, "masks": 3}),
    ],
)  # fmt: skip
def test_mistakes(edits, expected, tmp_path):
    assert losses(tmp_path, edits) == expected


def test_a_worse_detector_earns_a_part(tmp_path):
    # Every box three pixels too far to the right: less AP, and not none.
    found = losses(tmp_path, {'"boxes": found["boxes"]': '"boxes": found["boxes"] + 2.0'})
    assert set(found) == {"boxes"}
    assert 0 < found["boxes"] < 2
