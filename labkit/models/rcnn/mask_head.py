"""The mask branch of Mask R-CNN: a small fully convolutional network for every detected box.

K. He et al., "Mask R-CNN", ICCV 2017, section 3. Letters in shapes: ``K`` boxes, ``C`` thing
classes, ``D`` channels, ``s`` side of the pooled window, ``m = 2 s`` side of the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.ops.roi_align import roi_align


class MaskHead(nn.Module):
    """Convolutions, a deconvolution that doubles the side, one mask a class (section 3).

    One mask for *each* class, without competition between them: the class is the box head's work.

    Args:
        inputs: channels.
        widths: channels of the 3 × 3 convolutions, and last of the deconvolution.
        classes: C.
    """

    def __init__(self, inputs: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        *convs, last = widths
        self.convs = len(convs)
        for i, width in enumerate(convs, 1):
            self.add_module(f"conv{i}", nn.Conv2d(inputs, width, 3, padding=1))
            inputs = width
        self.deconv = nn.ConvTranspose2d(inputs, last, 2, stride=2)
        self.predictor = nn.Conv2d(last, classes, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.predictor.weight, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """``(K, D, s, s)`` to logits ``(K, C, 2 s, 2 s)``."""
        for i in range(1, self.convs + 1):
            x = F.relu(self.get_submodule(f"conv{i}")(x), inplace=True)
        logits: Tensor = self.predictor(F.relu(self.deconv(x), inplace=True))
        return logits


def cut_masks(
    masks: Tensor, objects: Tensor, boxes: Tensor, side: int, soft: bool = False
) -> Tensor:
    """The true mask in each box: sampled as the features are, inside from one half on.

    Args:
        masks: ``(M, H, W)`` bool, of an image's objects.
        objects: ``(K,)`` which object each box is matched to.
        boxes: ``(K, 4)`` proposals, in pixels of the masks.
        side: m.
        soft: keep the sampled values, and sample half a pixel further right and down (torchvision).

    Returns:
        ``(K, m, m)`` bool; float from 0 to 1 if ``soft``.
    """
    if len(objects) == 0:
        return boxes.new_zeros((0, side, side)) if soft else masks.new_zeros((0, side, side))
    rois = torch.cat([objects[:, None].to(boxes), boxes], dim=1)
    sampled = roi_align(masks[:, None].to(boxes.dtype), rois, side, 1.0, 0, not soft)[:, 0]
    return sampled if soft else sampled >= 0.5


def mask_loss(logits: Tensor, labels: Tensor, truth: Tensor) -> Tensor:
    """Mean binary cross-entropy over the pixels of the true class's mask.

    Args:
        logits: ``(K, C, m, m)``.
        labels: ``(K,)``.
        truth: ``(K, m, m)`` bool, or float from 0 to 1.
    """
    if len(labels) == 0:
        return logits.sum() * 0.0  # keeps the branch in the graph of every process
    chosen = masks_of(logits, labels)
    return F.binary_cross_entropy_with_logits(chosen, truth.to(logits.dtype))


def masks_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Each box's mask of its class: ``(K, C, m, m)`` and ``(K,)`` to ``(K, m, m)``."""
    return logits[torch.arange(len(labels), device=labels.device), labels]
