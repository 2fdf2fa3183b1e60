"""Reading a Detectron2 ``config.yaml``: the labkit configuration of the same model.

The file is read as data and never executed. A setting that is not in it has Detectron2's default.
A setting that labkit cannot reproduce is refused by name, so that no model returns other numbers
than Detectron2's without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from labkit.checkpoints.detectron2_settings import (
    COUNTS,
    DEFAULTS,
    FIELDS,
    FIXED,
    INPUT_LEVELS,
    PANOPTIC_FIELDS,
    PHASES,
    PYRAMID,
    STAGES,
)
from labkit.errors import LabkitError
from labkit.models.backbones.backbone_config import DEPTHS, BackboneConfig
from labkit.models.panoptic_fpn.panoptic_fpn import PanopticFPNConfig
from labkit.models.panoptic_fpn.semantic_head import SemanticFPNConfig
from labkit.models.preprocess import Preprocessing
from labkit.models.presets import panoptic_fpn_of
from labkit.models.rcnn.mask_rcnn import MaskRCNNConfig
from labkit.models.rcnn.roi_heads import RoIHeadsConfig
from labkit.models.rcnn.roi_pooler import PoolerConfig
from labkit.models.rcnn.rpn import RPNConfig
from labkit.system.text_files import decoded

_TYPES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
}
"""What a setting must be, by the type of its default."""


@dataclass(frozen=True)
class Detectron2Model:
    """What ``config.yaml`` says about a model.

    Attributes:
        config: labkit's configuration.
        num_things: number of thing classes.
        num_stuff: number of stuff classes; 0 for a detector.
        datasets: names of the training data, which tell whose classes these are.
    """

    config: MaskRCNNConfig | PanopticFPNConfig
    num_things: int
    num_stuff: int
    datasets: tuple[str, ...]


def read_config(path: Path) -> Detectron2Model:
    """Read a ``config.yaml``, with the files that its ``_BASE_`` names beside it.

    Args:
        path: the file; Detectron2 writes one into the folder of every training.

    Raises:
        LabkitError: the file is missing or no YAML, a setting is unknown to labkit's models, or has
            a value that they cannot reproduce.
    """
    given = _flat(_read(path, ()))
    settings = {**DEFAULTS, **{name: given[name] for name in DEFAULTS if name in given}}
    _check_types(path, settings)
    fixed = dict(FIXED)
    pyramid = settings["MODEL.BACKBONE.NAME"] == "build_resnet_fpn_backbone"
    if pyramid:
        fixed |= INPUT_LEVELS
    panoptic = settings["MODEL.META_ARCHITECTURE"] == "PanopticFPN"
    if not panoptic:  # the file lists the semantic head's settings of every model
        fixed = {name: value for name, value in fixed.items() if "SEM_SEG_HEAD" not in name}
    for name, value in fixed.items():
        if name in given and _plain(given[name]) != _plain(value):
            raise _refused(path, name, given[name], value)
    _check_architecture(path, settings, pyramid)
    try:
        detector = _detector(path, settings, pyramid)
    except (TypeError, ValueError) as error:
        raise LabkitError(f"{path}: a list has a value of another type: {error}") from None
    config: MaskRCNNConfig | PanopticFPNConfig = detector
    if panoptic:
        head = SemanticFPNConfig(tuple(PYRAMID), settings["MODEL.SEM_SEG_HEAD.CONVS_DIM"])
        numbers = {field: settings[name] for name, field in PANOPTIC_FIELDS.items()}
        config = panoptic_fpn_of(detector, head, **numbers)
    return Detectron2Model(
        config,
        settings["MODEL.ROI_HEADS.NUM_CLASSES"],
        settings["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] - 1 if panoptic else 0,
        tuple(map(str, settings["DATASETS.TRAIN"])),
    )


def _check_types(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse values of another type than Detectron2's default, and impossible class counts."""
    for name, value in settings.items():
        default = DEFAULTS[name]
        kinds: tuple[type, ...] = (type(default),)
        if isinstance(default, list):
            kinds = (list, tuple)
        elif isinstance(default, float):
            kinds = (int, float)
        if type(value) not in kinds:
            raise LabkitError(
                f"{path}: {name} is {value!r}; it must be {_TYPES[type(default)]}, as in"
                " Detectron2's config.yaml"
            )
    for name, least in COUNTS.items():
        if settings[name] < least:
            raise LabkitError(f"{path}: {name} is {settings[name]}; it must be {least} or more")


def _detector(path: Path, s: dict[str, Any], pyramid: bool) -> MaskRCNNConfig:
    dilated = s["MODEL.RESNETS.RES5_DILATION"] == 2
    kind = "fpn" if pyramid else "dc5" if dilated else "c4"
    network = f"resnet{s['MODEL.RESNETS.DEPTH']}"
    levels = tuple(s["MODEL.ROI_HEADS.IN_FEATURES"])
    convs = 0 if kind == "c4" else s["MODEL.ROI_MASK_HEAD.NUM_CONV"]
    width = s["MODEL.ROI_MASK_HEAD.CONV_DIM"]
    rgb = s["INPUT.FORMAT"] == "RGB"
    mean, std = ([float(v) for v in s[f"MODEL.PIXEL_{name}"]] for name in ("MEAN", "STD"))
    if len(mean) != 3 or len(std) != 3:
        raise _refused(path, "MODEL.PIXEL_MEAN or _STD", (mean, std), "three values")
    order = slice(None) if rgb else slice(None, None, -1)  # labkit writes red first
    sampling = s["MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"]
    if s["MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO"] != sampling and s["MODEL.MASK_ON"]:
        raise _refused(path, "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", "another", sampling)
    rpn_levels = tuple(s["MODEL.RPN.IN_FEATURES"])
    sizes = [tuple(float(v) for v in level) for level in s["MODEL.ANCHOR_GENERATOR.SIZES"]]
    ratios = [tuple(float(v) for v in level) for level in s["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"]]
    if len(set(ratios)) != 1:
        raise _refused(path, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", ratios, "one list")
    if len(sizes) == 1:  # one list stands for every level
        sizes *= len(rpn_levels)
    if len(sizes) != len(rpn_levels):
        raise _refused(path, "MODEL.ANCHOR_GENERATOR.SIZES", sizes, f"{len(rpn_levels)} lists")
    fields: dict[str, dict[str, Any]] = {
        part: {field: s[name] for name, field in names.items()} for part, names in FIELDS.items()
    }
    return MaskRCNNConfig(
        preprocessing=Preprocessing(
            bgr=not rgb,
            mean=tuple(mean[order]),  # type: ignore[arg-type]
            std=tuple(std[order]),  # type: ignore[arg-type]
            resize="pillow",
            size_divisor=32 if pyramid else 1,
            **fields["preprocessing"],
        ),
        backbone=BackboneConfig(
            kind,  # type: ignore[arg-type]
            network,  # type: ignore[arg-type]
            **fields["backbone"],
        ),
        rpn=RPNConfig(
            rpn_levels,
            anchor_sizes=tuple(sizes),
            aspect_ratios=ratios[0],
            pre_nms_top_n=tuple(s[f"MODEL.RPN.PRE_NMS_TOPK_{phase}"] for phase in PHASES),
            post_nms_top_n=tuple(s[f"MODEL.RPN.POST_NMS_TOPK_{phase}"] for phase in PHASES),
            **fields["rpn"],
        ),
        roi_heads=RoIHeadsConfig(
            PoolerConfig(levels, sampling_ratio=sampling),
            box_resolution=7 if kind == "c4" else s["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"],
            mask_channels=(width,) * (convs + 1),
            **fields["roi_heads"],
        ),
        masks=s["MODEL.MASK_ON"],
    )


def _check_architecture(path: Path, s: dict[str, Any], pyramid: bool) -> None:
    """Refuse a combination that none of labkit's models has."""
    allowed: dict[str, list[Any]] = {
        "MODEL.META_ARCHITECTURE": ["GeneralizedRCNN", "PanopticFPN"],
        "MODEL.BACKBONE.NAME": ["build_resnet_fpn_backbone", "build_resnet_backbone"],
        "MODEL.RESNETS.DEPTH": [50, 101],
        "INPUT.FORMAT": ["BGR", "RGB"],
    }
    if pyramid:
        allowed |= {
            "MODEL.RESNETS.OUT_FEATURES": [STAGES],
            "MODEL.RESNETS.RES5_DILATION": [1],
            "MODEL.ROI_HEADS.NAME": ["StandardROIHeads"],
            "MODEL.ROI_HEADS.IN_FEATURES": [PYRAMID],
            "MODEL.RPN.IN_FEATURES": [[*PYRAMID, "p6"]],
        }
    elif s["MODEL.RESNETS.RES5_DILATION"] == 2:
        allowed |= {
            "MODEL.META_ARCHITECTURE": ["GeneralizedRCNN"],
            "MODEL.RESNETS.OUT_FEATURES": [["res5"]],
            "MODEL.ROI_HEADS.NAME": ["StandardROIHeads"],
            "MODEL.ROI_HEADS.IN_FEATURES": [["res5"]],
            "MODEL.RPN.IN_FEATURES": [["res5"]],
        }
    else:
        allowed |= {
            "MODEL.META_ARCHITECTURE": ["GeneralizedRCNN"],
            "MODEL.RESNETS.OUT_FEATURES": [["res4"]],
            "MODEL.ROI_HEADS.NAME": ["Res5ROIHeads"],
            "MODEL.ROI_HEADS.IN_FEATURES": [["res4"]],
            "MODEL.RPN.IN_FEATURES": [["res4"]],
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": [14],
        }
    if s["MODEL.ROI_HEADS.NAME"] == "StandardROIHeads":
        allowed |= {
            "MODEL.ROI_BOX_HEAD.NAME": ["FastRCNNConvFCHead"],
            "MODEL.ROI_BOX_HEAD.NUM_FC": [2],
        }
    for name, values in allowed.items():
        if s[name] not in values:
            raise _refused(path, name, s[name], " or ".join(map(str, values)))


def _refused(path: Path, name: str, found: Any, supported: Any) -> LabkitError:
    return LabkitError(
        f"{path}: {name} is {found}; labkit's models have {supported!s}. Nothing was loaded: the"
        " model would return other numbers than Detectron2's"
    )


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Read a file and, before it, the one that its ``_BASE_`` names."""
    try:
        content = yaml.safe_load(decoded(path.read_bytes()))
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LabkitError(f"{path}: not a Detectron2 configuration: {reason}") from None
    if not isinstance(content, dict):
        raise LabkitError(f"{path}: not a Detectron2 configuration: it holds no settings")
    base = content.pop("_BASE_", None)
    if base is None:
        return content
    if not isinstance(base, str) or "://" in base:
        raise LabkitError(f"{path}: _BASE_: {base!r} is no file beside it")
    source = path.parent / base
    if path in above or len(above) > 10:
        raise LabkitError(f"{path}: _BASE_: the files name one another in a circle")
    return _merged(_read(source, (*above, path)), content)


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        before = merged.get(name)
        both = isinstance(before, dict) and isinstance(value, dict)
        merged[name] = _merged(before, value) if both else value  # type: ignore[arg-type]
    return merged


def _flat(settings: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _plain(value: Any) -> Any:
    """Make numbers and sequences comparable: 0 is 0.0, a tuple a list."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def to_settings(
    config: MaskRCNNConfig | PanopticFPNConfig, num_things: int, num_stuff: int
) -> dict[str, Any]:
    """Return the settings of ``config.yaml`` for a labkit model, as :func:`read_config` reads them.

    Raises:
        LabkitError: Detectron2 has no such model.
    """
    backbone, rpn, roi, pre = (
        config.backbone,
        config.rpn,
        config.roi_heads,
        config.preprocessing,
    )
    if backbone.network not in DEPTHS or pre.resize != "pillow" or rpn.legacy_anchors:
        raise LabkitError(
            f"Detectron2 has no model with the backbone {backbone.network} and this preprocessing;"
            " models of the presets mask_rcnn_r* and panoptic_fpn_r* can be exported"
        )
    pyramid, dilated = backbone.kind == "fpn", backbone.kind == "dc5"
    stage = "res5" if dilated else "res4"
    order = slice(None, None, -1) if pre.bgr else slice(None)
    box_pool = 14 if backbone.kind == "c4" else roi.box_resolution
    flat: dict[str, Any] = {
        "MODEL.MASK_ON": not isinstance(config, MaskRCNNConfig) or config.masks,
        "MODEL.PIXEL_MEAN": list(pre.mean)[order],
        "MODEL.PIXEL_STD": list(pre.std)[order],
        "MODEL.BACKBONE.NAME": f"build_resnet_{'fpn_' if pyramid else ''}backbone",
        "MODEL.RESNETS.DEPTH": DEPTHS[backbone.network],
        "MODEL.RESNETS.OUT_FEATURES": STAGES if pyramid else [stage],
        "MODEL.RESNETS.RES5_DILATION": 2 if dilated else 1,
        "MODEL.FPN.IN_FEATURES": STAGES if pyramid else [],
        "MODEL.ANCHOR_GENERATOR.SIZES": [list(level) for level in rpn.anchor_sizes],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(rpn.aspect_ratios)],
        "MODEL.RPN.IN_FEATURES": list(rpn.levels),
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeads" if backbone.kind == "c4" else "StandardROIHeads",
        "MODEL.ROI_HEADS.NUM_CLASSES": num_things,
        "MODEL.ROI_HEADS.IN_FEATURES": list(roi.pooler.levels),
        "MODEL.ROI_BOX_HEAD.NAME": "" if backbone.kind == "c4" else "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 0 if backbone.kind == "c4" else 2,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": box_pool,
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": roi.pooler.sampling_ratio,
        "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.NUM_CONV": len(roi.mask_channels) - 1,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": roi.mask_channels[-1],
        "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": roi.pooler.sampling_ratio,
        "INPUT.FORMAT": "BGR" if pre.bgr else "RGB",
        "VERSION": 2,
    }
    for part, names in FIELDS.items():
        flat |= {name: getattr(getattr(config, part), field) for name, field in names.items()}
    # Detectron2 refuses a number of another type than its default, and its least size is whole.
    flat["MODEL.PROPOSAL_GENERATOR.MIN_SIZE"] = int(rpn.min_size)
    for k, phase in enumerate(PHASES):
        flat[f"MODEL.RPN.PRE_NMS_TOPK_{phase}"] = rpn.pre_nms_top_n[k]
        flat[f"MODEL.RPN.POST_NMS_TOPK_{phase}"] = rpn.post_nms_top_n[k]
    if isinstance(config, PanopticFPNConfig):
        flat |= {
            "MODEL.META_ARCHITECTURE": "PanopticFPN",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES": num_stuff + 1,
            "MODEL.SEM_SEG_HEAD.CONVS_DIM": config.semantic_head.channels,
            **{name: getattr(config, field) for name, field in PANOPTIC_FIELDS.items()},
        }
    return _nested(flat)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *above, last = name.split(".")
        part = nested
        for key in above:
            part = part.setdefault(key, {})
        part[last] = value
    return nested
