"""Panoptic maps from UPSNet's two branches.

Y. Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019, section 3. Pruning,
the argmax of the panoptic logits, and the segments, in pixels of the image.

Letters in shapes: ``C`` categories (things first), ``T`` of them things, ``n`` objects, ``h × w``
the semantic logits, ``H × W`` the network's input, ``H' × W'`` the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.models.preprocess import Preprocessing, Size
from labkit.models.rcnn.mask_head import paste_detections, paste_masks_by_resizing
from labkit.models.upsnet.assign_segments import assign_segments
from labkit.models.upsnet.panoptic_argmax import PixelLabels, panoptic_argmax
from labkit.models.upsnet.panoptic_head import prune, resized_masks, windows_of
from labkit.ops.boxes import clip_boxes
from labkit.structures import Detections, Panoptic


@dataclass(frozen=True)
class PanopticConfig:
    """Panoptic map configuration.

    Attributes:
        score_thresh: objects at or below it do not enter the map.
        nms_thresh: IoU above which the lower-scored one of two objects is removed, whatever their
            classes.
        max_detections: at most so many objects; more where scores are equal.
        prune: whether objects that repeat others are dropped, see ``panoptic_head.prune``.
        overlap_thresh: of ``prune``.
        unknown: whether the unknown class competes.
        stuff_majority: a region that the semantic branch labels as one stuff class on at least this
            share of its pixels becomes that stuff.
        min_stuff_area: stuff classes with fewer pixels are left out.
    """

    score_thresh: float = 0.6
    nms_thresh: float = 0.5
    max_detections: int = 100
    prune: bool = True
    overlap_thresh: float = 0.3
    unknown: bool = True
    stuff_majority: float = 0.5
    min_stuff_area: int = 4096


def panoptic_maps(
    sem_seg_logits: Tensor,
    detections: Detections,
    mask_logits: Tensor,
    num_things: int,
    input_size: Size,
    image_size: Size,
    scale: tuple[float, float],
    config: PanopticConfig,
) -> tuple[Tensor, Panoptic]:
    """The semantic map ``(H', W')`` and the panoptic map of one image.

    Args:
        sem_seg_logits: ``(C, h, w)``.
        detections: n objects, highest score first, boxes in pixels of the network's input.
        mask_logits: ``(n, m, m)`` of their classes.
        num_things: T.
        input_size: (H, W) of the network's input.
        image_size: (H', W').
        scale: of :func:`input_scale`.
        config: thresholds.
    """
    windows = windows_of(detections.boxes, input_size)
    masks = resized_masks(mask_logits, windows.mask)
    if config.prune and masks:
        kept = prune(masks, windows.mask, detections.labels, input_size, config.overlap_thresh)
        if not kept:  # no mask has a pixel: the best object stays, without one
            kept, masks = [0], [torch.zeros_like(masks[0])]
        else:
            masks = [masks[i] for i in kept]
        detections = detections[torch.tensor(kept, device=detections.labels.device)]
        windows = windows_of(detections.boxes, input_size)
    pixels = panoptic_argmax(
        sem_seg_logits, num_things, detections.labels, masks, windows, input_size, config.unknown
    )
    pixels = resize_nearest(pixels, image_size, scale)
    panoptic = assign_segments(
        pixels,
        detections.labels,
        detections.scores,
        len(sem_seg_logits),
        num_things,
        config.stuff_majority,
        config.min_stuff_area,
    )
    return pixels.semantic, panoptic


def input_scale(
    input_size: Size, image_size: Size, preprocessing: Preprocessing
) -> tuple[float, float]:
    """Pixels of the network's input per pixel of the image, along y and x."""
    if preprocessing.resize == "opencv":
        scale = preprocessing.scale(image_size)
        if input_size == (round(image_size[0] * scale), round(image_size[1] * scale)):
            return scale, scale
    return input_size[0] / image_size[0], input_size[1] / image_size[1]


def paste_upsnet_detections(
    detections: Detections,
    mask_logits: Tensor,
    input_size: Size,
    image_size: Size,
    scale: tuple[float, float],
    plus_one: bool,
) -> Detections:
    """:func:`~labkit.models.rcnn.mask_head.paste_detections`, also for boxes from pixel to pixel.

    Of these the coordinates of pixels are scaled, not of edges.
    """
    if not plus_one:
        return paste_detections(detections, mask_logits, input_size, image_size)
    y, x = scale
    last_pixel = detections.boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    scaled = (detections.boxes - last_pixel) / detections.boxes.new_tensor([x, y, x, y])
    boxes = clip_boxes(scaled + last_pixel, image_size, plus_one=True)
    masks = paste_masks_by_resizing(mask_logits.sigmoid(), boxes - last_pixel, image_size)
    return Detections(boxes, detections.scores, detections.labels, masks)


def resize_nearest(pixels: PixelLabels, size: Size, scale: tuple[float, float]) -> PixelLabels:
    """Resize by taking the nearest pixel.

    Args:
        pixels: ``(H, W)``.
        size: (H', W').
        scale: pixels of the network's input per pixel of the image, along y and x.
    """
    if size == tuple(pixels.winners.shape) and scale == (1.0, 1.0):
        return pixels
    device = pixels.winners.device
    rows, columns = (
        (torch.arange(n, dtype=torch.float64, device=device) * s).long().clamp(max=limit - 1)
        for n, s, limit in zip(size, scale, pixels.winners.shape, strict=True)
    )
    return PixelLabels(
        pixels.winners[rows[:, None], columns], pixels.semantic[rows[:, None], columns]
    )
