"""Full-size models beside the original DETR, in one process: same weights, same pictures.

git clone https://github.com/facebookresearch/detr
LABKIT_DETR=detr pytest tests/models/detr/test_beside_detr.py
"""

import os
from argparse import Namespace

import pytest
import torch
from golden import make_detr
from helpers import small_detr as small
from helpers.without_resizing import network_batch

from labkit.checkpoints.detr import load
from labkit.models import build

CHECKOUT = os.environ.get("LABKIT_DETR")
pytestmark = [
    pytest.mark.skipif(
        CHECKOUT is None,
        reason="no checkout of DETR; run: git clone https://github.com/facebookresearch/detr"
        " && LABKIT_DETR=detr pytest tests/models/detr/test_beside_detr.py",
    ),
    pytest.mark.filterwarnings("ignore"),  # the original's own
]

PRESETS = {
    "detr_panoptic_r50": {},
    "detr_panoptic_r50_dc5": {"dilation": True},
    "detr_panoptic_r101": {"backbone": "resnet101"},
    "detr_r50": {"masks": False, "dataset_file": "coco"},
    "detr_r101_dc5": {
        "masks": False,
        "dataset_file": "coco",
        "backbone": "resnet101",
        "dilation": True,
    },
}
FULL = {"hidden_dim": 256, "dim_feedforward": 2048, "enc_layers": 6, "dec_layers": 6}


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_answers(preset, tmp_path, monkeypatch):
    """Logits, boxes and masks of the hundred queries, for two pictures of different size."""
    monkeypatch.syspath_prepend(CHECKOUT)
    import models.backbone
    from models import build_model

    monkeypatch.setattr(models.backbone, "is_main_process", lambda: False)  # it would fetch weights
    options = make_detr.ARGUMENTS | FULL | {"num_queries": 100} | PRESETS[preset]
    theirs, _, _ = build_model(Namespace(**options))
    state = {name: small.weight(name, value.shape) for name, value in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    torch.save({"model": state}, tmp_path / "weights.pth")
    categories = small.CATEGORIES
    if not options["masks"]:
        from labkit.datasets.coco.categories import coco_things

        categories = coco_things()
    ours = build(preset, categories).eval()
    load(tmp_path / "weights.pth", ours)

    mean, std = (
        torch.tensor(v)[:, None, None]
        for v in (make_detr.DETR_PREPROCESSING.mean, make_detr.DETR_PREPROCESSING.std)
    )
    pictures = [small.image(case) for case in small.SIZES]
    expected = theirs.eval()([(picture - mean) / std for picture in pictures])
    batch = network_batch(ours, pictures)
    output = ours.decode(ours.backbone(batch.tensor), batch)
    found = {"logits": output.pred_logits[-1], "boxes": output.pred_boxes[-1]}
    if options["masks"]:
        masks = ours.masks(output, [torch.arange(100)] * len(pictures))
        found["masks"] = masks.unflatten(0, (len(pictures), -1))
    for part, value in found.items():
        wanted = expected[f"pred_{part}"]
        assert wanted.std() > 0.01  # the queries disagree, so that equality says something
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-4)
