"""What DETR's queries are to find: the objects of a target, and its stuff regions as objects too.

N. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 4.4.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from labkit.errors import LabkitError
from labkit.models.detr.criterion import Objects
from labkit.structures import Target


def objects_of(target: Target, label_of: Tensor, panoptic: bool) -> Objects:
    """The objects of one image.

    Args:
        target: with ``panoptic`` where stuff is wanted; crowds are left out.
        label_of: ``(K - 1,)``, the label of each output, -1 for none.
        panoptic: with stuff, whose box is the one around all of a class's pixels.

    Raises:
        LabkitError: stuff is wanted and the target has no panoptic map.
    """
    if panoptic:
        if "panoptic" not in target:
            raise LabkitError(
                f"target of image {target['image_id']}: this DETR finds stuff too and needs"
                " panoptic maps; take a data set that has them, such as coco_panoptic:DIR"
            )
        ids, segments = target["panoptic"].ids, target["panoptic"].segments
        segments = [s for s in segments if not s.iscrowd]
        wanted = torch.tensor([s.id for s in segments], dtype=ids.dtype, device=ids.device)
        masks = ids == wanted[:, None, None]  # (n, h, w)
        seen = masks.flatten(1).any(dim=1)
        masks = masks[seen]
        labels = torch.tensor([s.label for s in segments], device=ids.device)[seen]
        boxes = masks_to_boxes(masks)
        boxes[:, 2:] += 1  # to the far edge of the last pixel
    else:
        boxes, labels, masks = target["boxes"], target["labels"], target["masks"]
    height, width = masks.shape[1:]
    outputs = (label_of == labels.reshape(-1, 1)).int().argmax(dim=1)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    sides = boxes.new_tensor([width, height])
    return Objects(outputs, torch.cat([centre / sides, size / sides], dim=1), masks)
