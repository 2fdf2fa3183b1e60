"""Train Detectron2 on a data set that `labkit export-detectron2` wrote: ``python train.py``.

This file is copied beside ``dataset.json`` and ``config.yaml``; it needs Detectron2 and not labkit.

    from train import config, register
    register()                 # registers the splits as data sets of Detectron2
    cfg = config()             # config.yaml, on the GPU if there is one

``python train.py KEY VALUE ...`` trains with changes of Detectron2's settings;
``python train.py --resume`` resumes from the last checkpoint.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import (
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)

HERE = Path(__file__).resolve().parent
DATA: dict[str, Any] = json.loads((HERE / "dataset.json").read_text())


def files_of(split: str) -> dict[str, str]:
    """Files and folders of a split; paths in ``dataset.json`` are relative to this folder."""
    return {kind: str((HERE / path).resolve()) for kind, path in DATA["splits"][split].items()}


def load(name: str, split: str) -> list[dict[str, Any]]:
    """Load the entries of a split in Detectron2's standard format.

    Detectron2's own ``register_coco_panoptic_separated`` expects ``.jpg`` images; this function
    uses the names in the JSON.
    """
    files = files_of(split)
    if DATA["task"] == "semantic":
        content = json.loads(Path(files["panoptic"]).read_text())
        labelled = {annotation["image_id"] for annotation in content["annotations"]}
        found = [
            {
                "file_name": str(Path(files["images"], image["file_name"])),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
            }
            for image in content["images"]
            if image["id"] in labelled
        ]
    else:
        found = load_coco_json(files["instances"], files["images"], name)
    for entry in found:  # Windows' separators
        if "\\" in entry["file_name"] and not Path(entry["file_name"]).exists():
            entry["file_name"] = entry["file_name"].replace("\\", "/")
    if DATA["task"] != "instance":
        for entry in found:
            picture = Path(entry["file_name"]).relative_to(files["images"])
            png = HERE / "semantic" / split / picture.with_suffix(".png")
            entry["sem_seg_file_name"] = str(png)
    return found


def register() -> list[str]:
    """Register the splits with Detectron2 and return their names."""
    names = [f"{DATA['name']}_{split}" for split in DATA["splits"]]
    # JSON's keys are text; Detectron2 looks category ids up as numbers.
    metadata = {
        key: {int(k): v for k, v in value.items()} if isinstance(value, dict) else value
        for key, value in DATA["metadata"].items()
    }
    for name, split in zip(names, DATA["splits"], strict=True):
        files = files_of(split)
        if name in DatasetCatalog.list():
            continue
        DatasetCatalog.register(name, functools.partial(load, name, split))
        paths = {"image_root": files["images"]}
        if DATA["task"] != "semantic":
            paths["json_file"] = files["instances"]
        if DATA["task"] == "panoptic":
            paths |= {"panoptic_json": files["panoptic"], "panoptic_root": files["pngs"]}
        MetadataCatalog.get(name).set(**paths, **metadata)
    return names


def config(*changes: str) -> CfgNode:
    """Read ``config.yaml`` and change settings: a key, its value, another key, ..."""
    cfg = get_cfg()
    cfg.merge_from_file(str(HERE / "config.yaml"))
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.OUTPUT_DIR = str(HERE / "output")
    cfg.merge_from_list(list(changes))
    return cfg


class Trainer(DefaultTrainer):
    """Detectron2's trainer with the evaluators of the task."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
        found: list[Any] = []
        if DATA["task"] != "semantic":
            found.append(COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR))
        if DATA["task"] != "instance":
            found.append(SemSegEvaluator(dataset_name))
        if DATA["task"] == "panoptic" and importlib.util.find_spec("panopticapi"):
            found.append(COCOPanopticEvaluator(dataset_name, cfg.OUTPUT_DIR))
        return DatasetEvaluators(found)


if __name__ == "__main__":
    settings = [argument for argument in sys.argv[1:] if argument != "--resume"]
    register()
    changed = config(*settings)
    Path(changed.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = Trainer(changed)
    trainer.resume_or_load(resume="--resume" in sys.argv)
    trainer.train()
