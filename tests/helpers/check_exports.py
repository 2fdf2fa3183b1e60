"""Exports beside their models on many pictures.

``PYTHONPATH=tests python -m helpers.check_exports [PRESET ...] --pictures 50 [--full-size]``
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from helpers.exports import as_array, model_of, picture
from helpers.small_models import STRUCTURES

from labkit.deploy import load
from labkit.engine.check_export import Differences, compare
from labkit.engine.export_onnx import export_onnx
from labkit.engine.predictor import Predictor


def differences(preset, folder, pictures, full_size):
    """Of each picture, in order, with its result; ``folder`` gets the export."""
    model = model_of(preset, full_size)
    export_onnx(model, folder)
    predictor, exported = Predictor(model, torch.device("cpu")), load(folder)
    for index in range(pictures):
        image = picture(index, preset)
        result = exported(as_array(image))
        yield compare(predictor(image), result, image.shape[1:]), result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=[p for p in STRUCTURES if "tiny" in p])
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--full-size", action="store_true", help="all layers of large presets")
    arguments = parser.parse_args()
    for preset in arguments.presets:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "out"
            found = list(differences(preset, folder, arguments.pictures, arguments.full_size))
        largest, beyond = Differences(), sum(not f.within_tolerance for f, _ in found)
        for one, _ in found:
            largest = largest.largest(one)
        same = sum(f.panoptic + f.semantic + f.unmatched == 0 for f, _ in found)
        detections = sum(0 if r.boxes is None else len(r.boxes) for _, r in found)
        segments = sum(len(r.segments) for _, r in found)
        print(
            f"{preset}: {len(found)} pictures, {detections} detections, {segments} segments;"
            f" {same} with equal maps, {beyond} beyond: {largest};"
            f" {time.monotonic() - begin:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
