"""Exports beside their models on many images.

Where an export differs by more than the tolerance, the model is asked whether the image is a tie:
whether PyTorch's own results differ as well when its weights change by one unit of rounding.

``PYTHONPATH=tests python -m helpers.check_exports [PRESET ...] --images 50 [--full-size]``
"""

import argparse
import copy
import tempfile
import time
from pathlib import Path

import torch
from helpers.exports import as_array, model_of, sized_image
from helpers.small_models import STRUCTURES

from labkit.deploy import Result, load
from labkit.engine.check_export import Differences, compare
from labkit.engine.export_onnx import export_onnx
from labkit.engine.predictor import Predictor
from labkit.structures import Prediction

EPSILON = torch.finfo(torch.float32).eps
DRAWS = 6


@torch.no_grad()
def is_tie(predictor, image, prediction):
    """Whether PyTorch alone gives the image another result, by rounding.

    The model computes it again with weights that are one unit of rounding larger or smaller, at
    random: that is as much as another order of the sums changes.
    """
    usual = as_result(prediction)
    for seed in range(DRAWS):
        rounded = copy.deepcopy(predictor)
        generator = torch.Generator().manual_seed(seed)
        for parameter in rounded.model.parameters():
            up = torch.rand(parameter.shape, generator=generator) < 0.5
            parameter.mul_(1 + EPSILON * (2 * up - 1))
        if not compare(rounded(image), usual, image.shape[1:]).within_tolerance:
            return True
    return False


def as_result(prediction: Prediction) -> Result:
    """A model's prediction in the form of an exported model's."""
    result = Result()
    if prediction.detections is not None:
        found = prediction.detections
        parts = (found.boxes, found.scores, found.labels, found.masks)
        arrays = [None if part is None else part.numpy() for part in parts]
        result = Result(*arrays)
    if prediction.semantic is not None:
        result.semantic = prediction.semantic.numpy()
    if prediction.panoptic is not None:
        result.panoptic = prediction.panoptic.ids.numpy()
        result.segments = [{"id": s.id, "label": s.label} for s in prediction.panoptic.segments]
    return result


def differences(preset, folder, images, full_size):
    """Of each image: the differences, the result, and if they are too large, whether it is a tie.

    ``folder`` gets the export.
    """
    model = model_of(preset, full_size)
    export_onnx(model, folder)
    predictor, exported = Predictor(model, torch.device("cpu")), load(folder)
    for index in range(images):
        image = sized_image(index, preset)
        prediction, result = predictor(image), exported(as_array(image))
        found = compare(prediction, result, image.shape[1:])
        yield found, result, not found.within_tolerance and is_tie(predictor, image, prediction)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=[p for p in STRUCTURES if "tiny" in p])
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--full-size", action="store_true", help="all layers of large presets")
    arguments = parser.parse_args()
    for preset in arguments.presets:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "out"
            rows = differences(preset, folder, arguments.images, arguments.full_size)
            found, results, ties = zip(*rows, strict=True)
        largest, beyond = Differences(), sum(not f.within_tolerance for f in found)
        for one in found:
            largest = largest.largest(one)
        same = sum(f.panoptic + f.semantic + f.unmatched == 0 for f in found)
        detections = sum(0 if r.boxes is None else len(r.boxes) for r in results)
        segments = sum(len(r.segments) for r in results)
        print(
            f"{preset}: {len(found)} images, {detections} detections, {segments} segments;"
            f" {same} with equal maps; {beyond} beyond the tolerance, of which {sum(ties)} are"
            f" ties of PyTorch too; {largest};"
            f" {time.monotonic() - begin:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
