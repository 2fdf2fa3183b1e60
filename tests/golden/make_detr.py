"""Write detr.npz: what the original DETR returns for the network of small_detr.py.

Run with a checkout of https://github.com/facebookresearch/detr and one of
https://github.com/cocodataset/panopticapi on the path, where labkit is installed:

    PYTHONPATH=tests:PATH/TO/panopticapi python tests/golden/make_detr.py PATH/TO/detr
"""

import io
import sys
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from helpers import small_detr as small
from PIL import Image
from torch.nn import functional as F

from labkit.models.detr.criterion import set_targets
from labkit.models.preprocess import DETR_PREPROCESSING

LEAD, SURE = 5e-6, 5e-3
"""How far from a tie every decision of the panoptic maps must be.

``LEAD``: at a pixel, the mask logit of the best query before the second best. ``SURE``: a query's
probability of its class before the next one's, and from the threshold. Double precision leaves a
difference below 1e-6 between two programs, since the original's positions are single.
"""

ARGUMENTS = {
    "dataset_file": "coco_panoptic",
    "device": "cpu",
    "masks": True,
    "frozen_weights": None,
    "aux_loss": True,
    "backbone": "resnet50",
    "dilation": False,
    "lr_backbone": 1e-5,
    "position_embedding": "sine",
    "hidden_dim": small.WIDTH,
    "nheads": small.HEADS,
    "dim_feedforward": small.HIDDEN,
    "enc_layers": small.LAYERS,
    "dec_layers": small.LAYERS,
    "num_queries": small.QUERIES,
    "dropout": 0.0,
    "pre_norm": False,
    "set_cost_class": 1,
    "set_cost_bbox": 5,
    "set_cost_giou": 2,
    "bbox_loss_coef": 5,
    "giou_loss_coef": 2,
    "mask_loss_coef": 1,
    "dice_loss_coef": 1,
    "eos_coef": 0.1,
}


@contextmanager
def double_precision():
    """New tensors have 64 bits."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def check_margins(out, size):
    """Refuse a case in which rounding can choose a class or the segment of a pixel."""
    best = out["pred_logits"][0].softmax(dim=-1).topk(2)
    scores, labels = best.values[:, 0], best.indices[:, 0]
    named = labels != out["pred_logits"].shape[-1] - 1
    sure = min((scores - small.SCORE)[named].abs().min(), (scores - best.values[:, 1]).min())
    masks = F.interpolate(out["pred_masks"], size, mode="bilinear", align_corners=False)[0]
    first, second = masks[named & (scores > small.SCORE)].topk(2, dim=0).values
    lead = (first - second).min()
    print(f"nearest to a tie: mask logits by {lead:.1e}, probabilities by {sure:.1e}")
    if lead < LEAD or sure < SURE:
        raise SystemExit(
            f"too near to a tie (at least {LEAD}, {SURE}): change small_detr's weights"
        )


def main():
    sys.path.insert(0, sys.argv[1])
    import models.backbone
    from models import build_model
    from panopticapi.utils import rgb2id

    models.backbone.is_main_process = lambda: False  # it would fetch weights
    model, criterion, post = build_model(Namespace(**ARGUMENTS))
    state = model.state_dict()
    model.load_state_dict({name: small.weight(name, v.shape) for name, v in state.items()})
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (DETR_PREPROCESSING.mean, DETR_PREPROCESSING.std)
    )
    # Output k stands for category id k, whether or not there is such a category.
    label_of = torch.full((250,), -1)
    for label, category in enumerate(small.CATEGORIES):
        label_of[category.id] = label
    pictures = [(small.image(case) - mean) / std for case in small.SIZES]
    asked = []  # what the class layer gets
    hook = model.detr.class_embed.register_forward_hook(lambda _, x, __: asked.append(x[0][-1]))
    with torch.no_grad():
        for picture in pictures:
            model.eval()([picture])
        bias = small.class_bias(model.detr.class_embed.weight, torch.cat(asked, dim=1)[0])
        model.detr.class_embed.bias.copy_(bias)
    hook.remove()
    arrays = {"class_bias": bias.numpy()}
    for name, batch in {"both": pictures, "one": pictures[:1], "small": pictures[1:]}.items():
        model.eval()
        with torch.no_grad():
            out = model(batch)
        arrays |= {f"{name}_{key}": out[f"pred_{key}"].numpy() for key in ("boxes", "masks")}
        arrays[f"{name}_logits"] = out["pred_logits"].numpy()[..., [*label_of.ge(0).tolist(), True]]
        if name == "both":
            objects = [set_targets(small.target(case), label_of, True) for case in small.SIZES]
            targets = [{"labels": o.outputs, "boxes": o.boxes, "masks": o.masks} for o in objects]
            losses = criterion.train()(out, targets)
            for key, value in losses.items():
                if key in criterion.weight_dict:
                    arrays[f"loss {key}"] = (criterion.weight_dict[key] * value).detach().numpy()
            continue
        post["panoptic"].threshold = small.SCORE
        with torch.no_grad(), double_precision():
            out = model.double()([picture.double() for picture in batch])
            check_margins(out, small.SIZES[name])
            (made,) = post["panoptic"](out, [small.SIZES[name]], [small.OUTPUTS[name]])
        model.float()
        ids = rgb2id(np.array(Image.open(io.BytesIO(made["png_string"]))))
        info = made["segments_info"]
        arrays[f"{name}_ids"] = ids.astype(np.uint8)
        arrays[f"{name}_categories"] = np.array([s["category_id"] for s in info])
        arrays[f"{name}_areas"] = np.array([s["area"] for s in info])
        print(name, info)
    print({key: value for key, value in arrays.items() if key.startswith("loss")})
    np.savez_compressed(Path(__file__).with_name("detr.npz"), **arrays)


if __name__ == "__main__":
    main()
