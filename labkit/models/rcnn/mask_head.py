"""The mask branch of Mask R-CNN: the head, its targets, its loss, and pasting into the image.

K. He et al., "Mask R-CNN", ICCV 2017, section 3. Letters in shapes: ``K`` boxes of all images,
``n`` boxes of one, ``C`` thing classes, ``D`` channels, ``s`` resolution of the pooled features,
``m = 2 s`` resolution of the mask, ``H × W`` the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.models.layers import resize_bilinear
from labkit.ops.boxes import clip_boxes, larger_than
from labkit.ops.roi_align import roi_align
from labkit.structures import Detections


class MaskHead(nn.Module):
    """Convolutions, a deconvolution that doubles the resolution, one mask per class (section 3).

    Notebook 03, section 3.8.

    One mask for *each* class, without competition between them: the box head decides the class.

    Args:
        in_channels: D.
        channels: of the 3 × 3 convolutions, and last of the deconvolution.
        num_classes: C.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        *convs, last = channels
        self.convs = len(convs)
        for i, width in enumerate(convs, 1):
            self.add_module(f"conv{i}", nn.Conv2d(in_channels, width, 3, padding=1))
            in_channels = width
        self.deconv = nn.ConvTranspose2d(in_channels, last, 2, stride=2)
        self.predictor = nn.Conv2d(last, num_classes, 1)
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


def crop_masks(
    masks: Tensor, matched_idxs: Tensor, boxes: Tensor, resolution: int, soft: bool = False
) -> Tensor:
    """Mask targets: the ground-truth mask in each box, sampled as the features are.

    Args:
        masks: ``(M, H, W)`` bool, of an image's objects.
        matched_idxs: ``(n,)`` index of the object that each box is matched to.
        boxes: ``(n, 4)`` proposals, in pixels of the masks.
        resolution: m.
        soft: keep the sampled values instead of thresholding them at one half, and sample half a
            pixel further right and down (torchvision).

    Returns:
        ``(n, m, m)`` bool; float from 0 to 1 if ``soft``.
    """
    if len(matched_idxs) == 0:
        shape = (0, resolution, resolution)
        return boxes.new_zeros(shape) if soft else masks.new_zeros(shape)
    rois = torch.cat([matched_idxs[:, None].to(boxes), boxes], dim=1)
    sampled = roi_align(
        masks[:, None].to(boxes.dtype), rois, resolution, sampling_ratio=0, aligned=not soft
    )[:, 0]
    return sampled if soft else sampled >= 0.5


def mask_loss(logits: Tensor, labels: Tensor, mask_targets: Tensor) -> Tensor:
    """Mean binary cross-entropy over the pixels of the mask of the ground-truth class.

    Args:
        logits: ``(K, C, m, m)``.
        labels: ``(K,)``.
        mask_targets: ``(K, m, m)`` bool, or float from 0 to 1.
    """
    if len(labels) == 0:
        return logits.sum() * 0.0  # keeps the branch in the graph of every process
    of_class = select_class(logits, labels)
    return F.binary_cross_entropy_with_logits(of_class, mask_targets.to(logits.dtype))


def select_class(logits: Tensor, labels: Tensor) -> Tensor:
    """The mask of each box's class: ``(K, C, m, m)`` and ``(K,)`` to ``(K, m, m)``."""
    return logits[torch.arange(labels.shape[0], device=labels.device), labels]


def paste_detections(
    detections: Detections,
    mask_logits: Tensor | None,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    by_resizing: bool = False,
) -> Detections:
    """Scale boxes from the network's input to the image, and paste their masks.

    Args:
        detections: n objects without masks, boxes in pixels of the input.
        mask_logits: ``(n, m, m)``, or None for boxes alone.
        input_size: (h, w) of the network's input.
        image_size: (H, W).
        by_resizing: :func:`paste_masks_by_resizing` instead of :func:`paste_masks`.

    Returns:
        Those with an area in the image, masks ``(n', H, W)``.
    """
    scale = torch.tensor([image_size[1] / input_size[1], image_size[0] / input_size[0]] * 2)
    boxes = clip_boxes(detections.boxes * scale.to(detections.boxes), image_size)
    keep = larger_than(boxes, 0.0)
    masks = None
    if mask_logits is not None:
        paste = paste_masks_by_resizing if by_resizing else paste_masks
        masks = paste(mask_logits[keep].sigmoid(), boxes[keep], image_size)
    return Detections(boxes[keep], detections.scores[keep], detections.labels[keep], masks)


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Paste masks into the image: sample each at the pixel centres, and threshold at one half.

    Only the pixels around the box are computed: outside the box the mask is 0.

    Args:
        masks: ``(n, m, m)`` probabilities; a mask covers its box.
        boxes: ``(n, 4)``, in pixels of the image.
        size: (H, W).

    Returns:
        ``(n, H, W)`` bool.
    """
    height, width = size
    pasted = torch.zeros((len(masks), height, width), dtype=torch.bool, device=masks.device)
    # One cell around the box: its border lies on pixel edges, and a sample blends two cells.
    low = (boxes[:, :2].floor() - 1).clamp(min=0).long().tolist()
    high = (boxes[:, 2:].ceil() + 1).long().tolist()
    for image, mask, box, (left, top), (right, bottom) in zip(
        pasted, masks, boxes, low, high, strict=True
    ):
        right, bottom = min(right, width), min(bottom, height)
        x = _to_mask(torch.arange(left, right, device=box.device) + 0.5, box[0], box[2])
        y = _to_mask(torch.arange(top, bottom, device=box.device) + 0.5, box[1], box[3])
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (h, w, 2) x before y
        window = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        image[top:bottom, left:right] = window >= 0.5
    return pasted


def _to_mask(centres: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Pixel centres in the mask's own coordinates: -1 at one side of the box, 1 at the other."""
    return (centres - low) / (high - low) * 2 - 1


def paste_masks_by_resizing(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Paste masks as torchvision does: with a border of 0, resized to the box in whole pixels.

    Arguments and result are those of :func:`paste_masks`; a pixel must be *above* one half.
    """
    height, width = size
    pasted = torch.zeros((len(masks), height, width), dtype=torch.bool, device=masks.device)
    side = masks.shape[-1]
    grown = (side + 2) / side
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * grown
    whole = torch.cat([centre - half, centre + half], dim=1).to(torch.int64).tolist()
    padded = F.pad(masks, (1, 1, 1, 1))
    for image, mask, (x1, y1, x2, y2) in zip(pasted, padded, whole, strict=True):
        shape = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
        large = resize_bilinear(mask[None, None], shape)[0, 0]
        top, left = max(y1, 0), max(x1, 0)
        bottom, right = min(y2 + 1, height), min(x2 + 1, width)
        image[top:bottom, left:right] = large[top - y1 : bottom - y1, left - x1 : right - x1] > 0.5
    return pasted
