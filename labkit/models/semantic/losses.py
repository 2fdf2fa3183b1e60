"""The loss of the semantic branch of panoptic networks.

Letters in shapes: ``B`` images, ``H × W`` the padded batch, ``C`` categories.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.models.preprocess import batch_semantic
from labkit.structures import IGNORE, Target


def semantic_truth(targets: Sequence[Target], classes: int, size: tuple[int, int]) -> Tensor:
    """The labels of every pixel, ``(B, H, W)``, IGNORE where there is none.

    Args:
        targets: B targets with ``semantic``.
        classes: C.
        size: (H, W).

    Raises:
        LabkitError: a target has no ``semantic``, or a label that is no category.
    """
    for target in targets:
        where = f"target of image {target['image_id']}"
        if "semantic" not in target:
            raise LabkitError(
                f"{where}: has objects only; a panoptic model needs a class for every pixel"
            )
        labels = target["semantic"]
        wrong = labels[((labels < 0) | (labels >= classes)) & (labels != IGNORE)]
        if len(wrong):
            raise LabkitError(
                f"{where}: semantic label {int(wrong[0])} is neither one of the {classes}"
                f" categories nor {IGNORE}"
            )
    return batch_semantic([target["semantic"] for target in targets], size)


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """The mean over the labelled places; 0 where there are none, of which there is no mean.

    Args:
        logits: ``(B, K, ...)``.
        truth: ``(B, ...)``.
    """
    total = F.cross_entropy(logits, truth, ignore_index=IGNORE, reduction="sum")
    return total / (truth != IGNORE).sum().clamp(min=1)
