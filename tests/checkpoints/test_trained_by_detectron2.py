"""A model that Detectron2 trains on exported Shapes has Detectron2's AP in labkit, and back.

labkit install detectron2 && pytest -m detectron2
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from labkit.checkpoints.export_weights import export_detectron2_weights
from labkit.checkpoints.own_files import load_file, read_categories
from labkit.datasets.coco.export import export_coco
from labkit.datasets.coco.instances import CocoInstances
from labkit.datasets.detectron2.export import export_detectron2
from labkit.datasets.shapes import Shapes
from labkit.engine.evaluate import evaluate
from labkit.engine.train import TrainConfig, train

pytestmark = pytest.mark.detectron2

SETTINGS = {
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
    # Untrained scores are nearly equal: without a threshold there is an AP to compare.
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "INPUT.MIN_SIZE_TRAIN": [64],
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.MAX_ITER": 3,
    "SOLVER.STEPS": [2],
    "SOLVER.BASE_LR": 1e-3,
    "SOLVER.IMS_PER_BATCH": 2,
    "DATALOADER.NUM_WORKERS": 0,
    "SEED": 1,
}

TRAIN = """
from train import Trainer, config, register
import torch
from detectron2.modeling import build_model

register()
cfg = config(*arguments)
torch.manual_seed(cfg.SEED)
model = build_model(cfg)
# Without pretrained weights the frozen norms are identities: each block adds less, to stay finite.
for name, norm in model.backbone.bottom_up.named_modules():
    if name.endswith("conv3.norm"):
        norm.weight.mul_(0.25)
torch.save({"model": model.state_dict()}, "initial.pth")
cfg.MODEL.WEIGHTS = "initial.pth"
Path(cfg.OUTPUT_DIR).mkdir()
Path(cfg.OUTPUT_DIR, "config.yaml").write_text(cfg.dump())
trainer = Trainer(cfg)
trainer.resume_or_load(resume=False)
trainer.train()
print(json.dumps(Trainer.test(cfg, trainer.model)))
"""

MEASURE = """
from train import Trainer, register
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model

name = register()[1]
cfg = get_cfg()
cfg.merge_from_file(arguments[0] + "/config.yaml")
cfg.MODEL.DEVICE, cfg.DATASETS.TEST, cfg.OUTPUT_DIR = "cpu", (name,), arguments[0]
model = build_model(cfg)
DetectionCheckpointer(model).load(arguments[0] + "/model_final.pth")
print(json.dumps(Trainer.test(cfg, model)))
"""


def in_detectron2(code, folder, *arguments):
    """Run code beside the exported ``train.py``; return the metrics that it prints last."""
    start = f"import json, sys\nfrom pathlib import Path\narguments = {list(map(str, arguments))}\n"
    command = [sys.executable, "-c", start + code]
    done = subprocess.run(
        command,
        cwd=folder,
        # What a few steps learn depends on the order of the sums, and so on the threads.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def same_ap(result, metrics):
    """Compare labkit's AP with what Detectron2's evaluator printed, in percent."""
    for kind, ap in (("bbox", result.detection.bbox), ("segm", result.detection.segm)):
        found = {"AP": ap.ap, "AP50": ap.ap50, "AP75": ap.ap75, "APm": ap.medium}
        for name, value in found.items():
            assert 100 * value == pytest.approx(metrics[kind][name], abs=1e-2, nan_ok=True), name
    return metrics["bbox"]["AP50"] > 0


@pytest.mark.usefixtures("detectron2")
def test_the_same_ap_in_both_directions(tmp_path):
    data, job = tmp_path / "shapes", tmp_path / "job"
    for split, count in (("train", 4), ("val", 5)):
        export_coco(Shapes(split, count), data, split=split)
    export_detectron2(data, job, "instance", "train", "val", weights="", batch_size=2)
    changes = [value for pair in SETTINGS.items() for value in pair]
    theirs = in_detectron2(TRAIN, job, *changes)

    held_out = CocoInstances.from_folder(data, "val")
    classes = read_categories(data / "annotations" / "instances_val.json")
    model = load_file(job / "output" / "model_final.pth", classes)
    assert len(model.categories) == 3
    assert same_ap(evaluate(model, held_out, progress=False), theirs), "some objects are found"

    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, CocoInstances.from_folder(data, "train"), TrainConfig(2, 2, 1e-5, warmup=1))
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    export_detectron2_weights(model.eval(), tmp_path / "back")
    back = in_detectron2(MEASURE, job, tmp_path / "back")
    assert same_ap(evaluate(model, held_out, progress=False), back)
