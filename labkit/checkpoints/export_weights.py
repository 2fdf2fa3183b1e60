"""Writing a trained model as a checkpoint and configuration of Detectron2."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from torch import nn

from labkit.checkpoints.detectron2 import to_detectron2
from labkit.checkpoints.detectron2_config import to_settings
from labkit.checkpoints.own_files import CONFIG
from labkit.errors import LabkitError
from labkit.models.panoptic_fpn.panoptic_fpn import PanopticFPN
from labkit.models.rcnn.mask_rcnn import MaskRCNN
from labkit.system.atomic_write import atomic_write

WEIGHTS = "model_final.pth"


def export_detectron2_weights(model: nn.Module, out: Path) -> Path:
    """Write ``model_final.pth`` and ``config.yaml``, which Detectron2 loads.

    Detectron2's ``DetectionCheckpointer`` loads the first into the model that its ``build_model``
    makes of the second. Labels are numbered as in labkit; a semantic head has class 0, "things".

    Args:
        model: a Mask R-CNN or Panoptic FPN with a ResNet-50 or ResNet-101.
        out: folder to write into.

    Returns:
        The weights' path.

    Raises:
        LabkitError: Detectron2 has no such model, or ``out`` has such a file already.
    """
    if not isinstance(model, MaskRCNN | PanopticFPN):
        raise LabkitError(
            f"Detectron2 has no {type(model).__name__}; Mask R-CNN and Panoptic FPN can be exported"
        )
    categories = model.categories
    if isinstance(model, PanopticFPN) and not model.config.semantic_head.merge_things:
        raise LabkitError("Detectron2's semantic head has one class for all things, this one more")
    settings = to_settings(model.config, len(categories.things), len(categories.stuff))
    for name in (WEIGHTS, CONFIG):
        if (out / name).exists():
            raise LabkitError(f"{out / name}: there already; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    settings["MODEL"]["WEIGHTS"] = WEIGHTS
    with atomic_write(out / WEIGHTS) as temporary:
        torch.save({"model": to_detectron2(model.state_dict())}, temporary)
    with atomic_write(out / CONFIG) as temporary:
        temporary.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return out / WEIGHTS
