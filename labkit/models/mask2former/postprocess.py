"""Post-processing of MaskFormer, Mask2Former and EoMT: panoptic, instance and semantic results.

B. Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS
2021, section 3.4.

Letters in shapes: ``Q`` queries, ``K`` class logits, the last of them "no object", ``N`` kept
queries, ``C`` classes, ``H × W`` the original image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from labkit.models.layers import resize_bilinear
from labkit.models.preprocess import Batch
from labkit.ops.boxes import masks_to_edge_boxes
from labkit.structures import VOID, Categories, Detections, Panoptic, Prediction, Segment


@dataclass(frozen=True)
class InferenceConfig:
    """Thresholds of the post-processing; the defaults are Mask2Former's.

    Attributes:
        score_thresh: queries at or below it do not enter the panoptic map.
        overlap_thresh: a segment is dropped if it keeps less than this share of its mask.
        inside_mask: a segment has only pixels of its query's mask, where the probability is at
            least 0.5. MaskFormer's has every pixel that the query wins, however improbable.
        detections_per_image: at most.
    """

    score_thresh: float = 0.8
    overlap_thresh: float = 0.8
    inside_mask: bool = True
    detections_per_image: int = 100


@dataclass(frozen=True)
class MaskOutput:
    """Raw output of a network for mask classification.

    Attributes:
        class_logits: ``(B, Q, K)`` of the last prediction.
        mask_logits: ``(B, Q, h, w)``, at stride 4.
    """

    class_logits: Tensor
    mask_logits: Tensor


def mask_predictions(
    output: MaskOutput,
    batch: Batch,
    categories: Categories,
    config: InferenceConfig,
    panoptic: bool = True,
    score_thresh: float | None = None,
) -> list[Prediction]:
    """Predictions in pixels of the original images.

    Masks are resized as logits: to the network's input, cropped to the image, to its size.

    Args:
        output: of a network.
        batch: for its sizes.
        categories: things and stuff.
        config: thresholds.
        panoptic: panoptic and semantic maps beside the detections; the model has all classes, and
            not things alone.
        score_thresh: instead of the configuration's.
    """
    if score_thresh is not None:
        config = replace(config, score_thresh=score_thresh)
    num_things = len(categories.things)
    predictions = []
    for i, (class_logits, mask_logits) in enumerate(
        zip(output.class_logits, output.mask_logits, strict=True)
    ):
        masks = resize_masks(mask_logits, batch, i)
        detections = instance_inference(class_logits, masks, num_things, config)
        if panoptic:
            predictions.append(
                Prediction(
                    detections,
                    semantic_inference(class_logits, masks),
                    panoptic_inference(class_logits, masks, num_things, config),
                )
            )
        else:
            predictions.append(Prediction(detections))
    return predictions


def panoptic_inference(
    class_logits: Tensor, mask_logits: Tensor, num_things: int, config: InferenceConfig
) -> Panoptic:
    """The panoptic map: each pixel goes to the query with the largest product of class score and
    mask probability.

    Notebook 10, section 10.6.

    Segments of which little remains are dropped. Segments of one stuff class are one. Ids count
    from 1 in the order of the queries; void is the rest.

    Args:
        class_logits: ``(Q, K)``.
        mask_logits: ``(Q, H, W)``.
        num_things: labels from there on are stuff.
        config: thresholds.
    """
    scores, labels = class_logits.softmax(dim=-1).max(dim=-1)
    keep = (labels < class_logits.shape[1] - 1) & (scores > config.score_thresh)
    scores, labels, p = scores[keep], labels[keep], mask_logits[keep].sigmoid()
    ids = torch.full(mask_logits.shape[1:], VOID, dtype=torch.int32, device=p.device)
    segments: list[Segment] = []
    if len(scores) == 0:
        return Panoptic(ids, segments)
    winners = (scores[:, None, None] * p).argmax(dim=0)  # (H, W)
    id_of_stuff: dict[int, int] = {}
    for i, (score, label) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True)):
        won, mask = winners == i, p[i] >= 0.5
        region = won & mask if config.inside_mask else won
        area, mask_area = int(won.sum()), int(mask.sum())
        if min(area, mask_area, int(region.sum())) == 0 or area / mask_area < config.overlap_thresh:
            continue
        if label in id_of_stuff:
            ids[region] = id_of_stuff[label]
            continue
        segments.append(Segment(len(segments) + 1, label, score if label < num_things else None))
        ids[region] = segments[-1].id
        if label >= num_things:
            id_of_stuff[label] = segments[-1].id
    return Panoptic(ids, segments)


def instance_inference(
    class_logits: Tensor, mask_logits: Tensor, num_things: int, config: InferenceConfig
) -> Detections:
    """Detections: the best pairs of a query and a class; a query may be in several of them.

    Notebook 10, section 10.6.

    The score is that of the class times the mean probability of the mask's own pixels.

    Args:
        class_logits: ``(Q, K)``.
        mask_logits: ``(Q, H, W)``.
        num_things: pairs of other classes are left out, after the limit.
        config: how many.

    Returns:
        Highest score first. Boxes are those around the masks; those of empty masks are zeros.
    """
    probability = class_logits.softmax(dim=-1)[:, :-1]  # (Q, C)
    limit = min(config.detections_per_image, probability.numel())
    scores, pairs = probability.flatten().topk(limit)
    labels = pairs % probability.shape[1]
    is_thing = labels < num_things
    scores, labels, pairs = scores[is_thing], labels[is_thing], pairs[is_thing]
    queries, which = (pairs // probability.shape[1]).unique(return_inverse=True)
    logits = mask_logits[queries]
    masks = logits > 0
    areas = masks.flatten(1).sum(dim=1)
    mask_scores = (logits.sigmoid() * masks).flatten(1).sum(dim=1) / (areas + 1e-6)
    boxes = torch.zeros(len(masks), 4, device=logits.device)
    boxes[areas > 0] = masks_to_edge_boxes(masks[areas > 0])
    scores = scores * mask_scores[which]
    order = scores.argsort(descending=True, stable=True)
    which = which[order]
    return Detections(boxes[which], scores[order], labels[order], masks[which])


def semantic_inference(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """The semantic map ``(H, W)``: the class with the largest sum over the queries.

    Notebook 10, section 10.6.

    Args:
        class_logits: ``(Q, K)``.
        mask_logits: ``(Q, H, W)``.
    """
    probability = class_logits.softmax(dim=-1)[:, :-1]
    # In float32 whatever the autocast: close sums would be equal in half precision.
    with torch.autocast(mask_logits.device.type, enabled=False):
        return torch.einsum("qc,qhw->chw", probability, mask_logits.sigmoid()).argmax(dim=0)


def resize_masks(mask_logits: Tensor, batch: Batch, i: int) -> Tensor:
    """Mask logits ``(Q, h, w)`` of image ``i`` to ``(Q, H, W)``, the original's size."""
    height, width = batch.input_sizes[i]
    padded = resize_bilinear(mask_logits[None], batch.padded_size)
    return resize_bilinear(padded[..., :height, :width], batch.image_sizes[i])[0]
