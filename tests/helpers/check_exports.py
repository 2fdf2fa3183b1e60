"""Exports beside their models on many pictures.

``PYTHONPATH=tests python -m helpers.check_exports [PRESET ...] --pictures 50``
"""

import argparse
import tempfile
from pathlib import Path

import torch
from helpers.exports import as_array, model_of, picture
from helpers.small_models import STRUCTURES

from labkit.deploy import load
from labkit.engine.check_export import Differences, compare
from labkit.engine.export_onnx import export_onnx
from labkit.engine.predictor import Predictor


def differences(preset, folder, pictures):
    """Of each picture, in order; ``folder`` gets the export."""
    model = model_of(preset)
    export_onnx(model, folder)
    predictor, exported = Predictor(model, torch.device("cpu")), load(folder)
    for index in range(pictures):
        image = picture(index, preset)
        yield compare(predictor(image), exported(as_array(image)), image.shape[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=[p for p in STRUCTURES if "tiny" in p])
    parser.add_argument("--pictures", type=int, default=50)
    arguments = parser.parse_args()
    for preset in arguments.presets:
        with tempfile.TemporaryDirectory() as folder:
            found = list(differences(preset, Path(folder) / "out", arguments.pictures))
        largest, beyond = Differences(), sum(not f.within_tolerance for f in found)
        for one in found:
            largest = largest.largest(one)
        same = sum(f.panoptic + f.semantic + f.unmatched == 0 for f in found)
        print(
            f"{preset}: {len(found)} pictures, {same} with equal maps, {beyond} beyond: {largest}"
        )


if __name__ == "__main__":
    main()
