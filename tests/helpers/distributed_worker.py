"""What tests/engine/test_train.py runs under torchrun, and alone for comparison.

Trains a small network on Shapes, then measures fixed predictions in shares: the reduced metrics
must be the single-process ones to the last bit, while trained weights agree up to rounding only.
"""

import sys
from pathlib import Path

import torch

from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor
from labkit.engine.train import TrainConfig, train
from labkit.engine.validation import Validation
from labkit.metrics.coco_ap import COCOAP
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.semantic import ConfusionMatrix
from labkit.models.semantic.fcn import FCNConfig
from labkit.structures import Detections, Panoptic, Prediction, Segment
from labkit.system.distributed import process_group, rank, world_size

CONFIG = FCNConfig(widths=(16, 16, 16, 16), blocks=(1, 1, 1, 1), stride=8)


def run(out: Path) -> dict[str, object]:
    dataset = Shapes("train", num=40, size=64)
    with process_group():
        torch.manual_seed(0)
        model = CONFIG.build(dataset.categories)
        config = TrainConfig(steps=6, batch_size=4, warmup=2)
        validation = Validation(Shapes("val", num=5, size=64), every=4)
        history = train(model, dataset, config, out=out, validation=validation)
        torch.manual_seed(1)
        model = CONFIG.build(dataset.categories)
        confusion, quality = (
            ConfusionMatrix(dataset.categories),
            PanopticQuality(dataset.categories),
        )
        detections = COCOAP(dataset.categories)
        images = torch.zeros(1)
        for prediction, target in Predictor(model).predict_dataset(Shapes("val", num=11, size=64)):
            confusion.update(prediction.semantic, target["semantic"])
            quality.update(_moved(target["panoptic"]), target["panoptic"])
            detections.update(Prediction(_shrunk(target)), target)
            images += 1
        confusion.all_reduce()
        quality.all_reduce()
        detections.all_reduce()
        if world_size() > 1:
            torch.distributed.all_reduce(images)
        return {
            "world": world_size(),
            "rank": rank(),
            "losses": history.losses["total"],
            "validation": history.validation["mIoU"],
            "miou": confusion.compute().miou,
            "pq": quality.compute().all.pq,
            "images": images.item(),
            "box_ap": detections.compute().bbox.ap,
            "mask_ap": detections.compute().segm.ap,
        }


def _moved(truth: Panoptic) -> Panoptic:
    """The true map moved by two pixels: a prediction whose quality depends on every image."""
    ids = truth.ids.roll(2, dims=1)
    present = set(ids.unique().tolist())
    return Panoptic(ids, [Segment(s.id, s.label) for s in truth.segments if s.id in present])


def _shrunk(target):
    """Boxes a pixel too small and masks moved by one; scores are tied within and between images."""
    boxes = target["boxes"] + torch.tensor([0.0, 0, -1, -1])
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    scores = 1 / (1 + torch.arange(len(boxes)) % 3)
    return Detections(boxes, scores, target["labels"], target["masks"].roll(1, dims=2))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    result = run(folder)
    if result["rank"] == 0:
        torch.save(result, folder / "result.pt")
