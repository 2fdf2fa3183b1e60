"""Write mask_classification.npz: what transformers returns for the networks of small_mask_models.

Run where labkit is installed with its development tools, among them transformers:

    PYTHONPATH=tests python tests/golden/make_mask_classification.py
"""

from pathlib import Path

import numpy as np
import torch
from helpers import small_mask_models as small
from helpers.maskformer_twin import every_layer, maskformer_twin
from torch.nn import functional as F

from labkit.bench.transformers_models import eomt_twin, mask2former_twin

LEAD = 1e-3
"""How far from 0 every logit must be that opens or closes attention."""


def main():
    makers = {"maskformer": maskformer, "mask2former": mask2former, "eomt": eomt}
    arrays = {}
    with torch.no_grad():
        for name, make in makers.items():
            twin, predictions = make(small.made(name), small.images(name))
            arrays |= recorded(name, twin, predictions)
        twin.attn_mask_probs.zero_()  # EoMT's attention in evaluation
        out = twin.eval()(pixel_values=small.images("eomt"))
        arrays["eomt plain class_logits"] = out.class_queries_logits.numpy()
        arrays["eomt plain mask_logits"] = out.masks_queries_logits.numpy()
    np.savez_compressed(Path(__file__).with_name("mask_classification.npz"), **arrays)


def maskformer(model, images):
    """All predictions, in double precision: with these weights its attention is sharp."""
    twin = maskformer_twin(model).double()
    predictions = every_layer(twin, images.double())
    twin.criterion.float()
    return twin, [(classes.float(), masks.float()) for classes, masks in predictions]


def mask2former(model, images):
    """All predictions, none of whose attention rounding can change."""
    twin = mask2former_twin(model).eval()
    out = twin(pixel_values=images)
    predictions = [
        (a["class_queries_logits"], a["masks_queries_logits"]) for a in out.auxiliary_logits
    ]
    for i, (_, masks) in enumerate(predictions):
        check_margin(masks, small.SIDE // (32, 16, 8)[i % 3])
    return twin, [*predictions, (out.class_queries_logits, out.masks_queries_logits)]


def eomt(model, images):
    """With every query masked, as early in training: predictions before the last blocks, after."""
    twin = eomt_twin(model)
    predictions = []

    def predict(tokens):
        masks, classes = type(twin).predict(twin, tokens)
        predictions.append((classes, masks))
        return masks, classes

    twin.predict = predict
    twin.train()
    twin.attn_mask_probs.fill_(1.0)
    twin(pixel_values=images)
    del twin.predict
    for _, masks in predictions[:-1]:
        check_margin(masks, small.CONFIGS["eomt"].vit.grid)
    return twin, predictions


def check_margin(mask_logits, side):
    """Refuse masks of which rounding can change what a query sees."""
    coarse = F.interpolate(mask_logits, (side, side), mode="bilinear", align_corners=False)
    nearest = coarse.abs().min()
    print(f"nearest to 0: {nearest:.1e}")
    if nearest < LEAD:
        raise SystemExit(f"too near to 0 (at least {LEAD}): change small_mask_models' pictures")


def recorded(name, twin, predictions):
    """Logits of every prediction (masks of the last alone), and the losses of the seed."""
    targets = small.segments()
    torch.manual_seed(small.SEED)
    *auxiliary, (classes, masks) = predictions
    losses = twin.get_loss_dict(
        masks,
        classes,
        [target.masks.float() for target in targets],
        [target.classes for target in targets],
        [{"class_queries_logits": c, "masks_queries_logits": m} for c, m in auxiliary],
    )
    print(name, {key: round(float(value), 4) for key, value in losses.items()})
    return {
        f"{name} class_logits": torch.stack([c for c, _ in predictions]).numpy(),
        f"{name} mask_logits": masks.numpy(),
        **{f"{name} loss {key}": np.float32(value) for key, value in losses.items()},
    }


if __name__ == "__main__":
    main()
