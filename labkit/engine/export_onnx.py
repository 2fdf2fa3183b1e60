"""Models as ONNX graphs in a folder, for :mod:`labkit.deploy`.

The folder has the graphs and ``model.json``: categories, preprocessing, anchors and thresholds, and
the sha256 of each graph.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_map

from labkit.deploy.exported import DESCRIPTION, OPSET
from labkit.engine.onnx_graphs import (
    Boxes,
    DETRQueries,
    Features,
    MaskClassification,
    Masks,
    Semantic,
    with_fixed_steps,
)
from labkit.errors import LabkitError
from labkit.models.backbones.frozen_norm import fold_norms
from labkit.models.detr.detr import DETR
from labkit.models.mask2former.eomt import EoMT
from labkit.models.panoptic_fpn.panoptic_fpn import PanopticFPN
from labkit.models.rcnn.mask_rcnn import MaskRCNN
from labkit.models.semantic.deeplab import DeepLab
from labkit.models.semantic.fcn import FCN
from labkit.models.upsnet.upsnet import UPSNet
from labkit.system.atomic_write import atomic_write

EXAMPLE = (96, 160)
"""(H, W) of the image that is followed through the network; other sizes give the same graph."""


@dataclass(frozen=True)
class Part:
    """A graph to be exported.

    Attributes:
        module: its steps, with ``outputs``, their names.
        names: of the inputs.
        arguments: examples of them, as ``module`` takes them.
        fixed: the sizes are those of the examples; otherwise they may vary.
    """

    module: Any
    names: list[str]
    arguments: tuple[Tensor | list[Tensor], ...]
    fixed: bool = False


def export_onnx(model: nn.Module, folder: Path) -> list[Path]:
    """Write a model as ONNX graphs and ``model.json``.

    Args:
        model: of any preset or trained run.
        folder: to write into; it may exist, but have no export yet.

    Returns:
        The files.

    Raises:
        LabkitError: the packages for it are missing, the folder has an export already, or a file
            cannot be written.
    """
    _require_packages()
    if (folder / DESCRIPTION).exists():
        raise LabkitError(f"{folder / DESCRIPTION}: there already; name another folder")
    try:  # before the minutes that the graphs may take
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabkitError(f"{folder}: cannot be made: {error.strerror}; name another") from None
    original: Any = model
    model = copy.deepcopy(model).float().cpu().eval()
    fold_norms(model)
    with_fixed_steps(model)
    family, parts = _parts(model)
    graphs = {}
    for name, part in parts.items():
        content = _to_onnx(part)
        with atomic_write(folder / f"{name}.onnx") as temporary:
            temporary.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        graphs[name] = {"file": f"{name}.onnx", "sha256": digest}
    description = {
        "family": family,
        "opset": OPSET,
        "graphs": graphs,
        "categories": original.categories.to_coco(),
        "num_categories": len(original.categories),
        "preprocessing": asdict(original.config.preprocessing),
        "config": _config(model),
    }
    with atomic_write(folder / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(description, indent=1), encoding="utf-8")
    return [*(folder / graph["file"] for graph in graphs.values()), folder / DESCRIPTION]


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise LabkitError(
            f"{error.name} is not installed; run: pip install 'labkit[export]'"
        ) from None


def _parts(model: Any) -> tuple[str, dict[str, Part]]:
    """The family that ``labkit.deploy`` knows, and the graphs by name."""
    image = torch.zeros(1, 3, *EXAMPLE)
    if isinstance(model, UPSNet):
        return "upsnet", _rcnn_parts(model, image)
    if isinstance(model, MaskRCNN | PanopticFPN):
        return "rcnn", _rcnn_parts(model, image)
    if isinstance(model, DETR):
        padding = torch.zeros(1, *EXAMPLE, dtype=torch.bool)
        return "detr", {"network": Part(DETRQueries(model), ["image", "padding"], (image, padding))}
    if isinstance(model, FCN | DeepLab):
        return "semantic", {"network": Part(Semantic(model), ["image"], (image,))}
    fixed = isinstance(model, EoMT)
    if isinstance(model, EoMT):
        side = model.config.vit.image_size
        image = torch.zeros(1, 3, side, side)
    network = Part(MaskClassification(model), ["image"], (image,), fixed)
    return "mask_classification", {"network": network}


def _rcnn_parts(model: Any, image: Tensor) -> dict[str, Part]:
    features = Features(model)
    with torch.no_grad():
        maps = features(image)[: len(features.maps)]
    boxes = torch.tensor(
        [[4.0, 4.0, 40.0, 60.0], [10.0, 20.0, 100.0, 90.0], [0.0, 0.0, 20.0, 20.0]]
    )
    parts = {
        "features": Part(features, ["image"], (image,)),
        "boxes": Part(Boxes(model.roi_heads), ["boxes", *features.maps], (boxes, maps)),
    }
    if model.roi_heads.mask_head is not None:
        labels = torch.zeros(len(boxes), dtype=torch.int64)
        names = ["boxes", "labels", *features.maps]
        parts["masks"] = Part(Masks(model.roi_heads), names, (boxes, labels, maps))
    return parts


def _config(model: Any) -> dict[str, Any]:
    """What the steps of ``labkit.deploy`` need to know."""
    config = model.config
    if hasattr(model, "roi_heads"):
        return _rcnn_config(model)
    if isinstance(model, DETR):
        return {
            "label_of": model.label_of.tolist(),
            "masks": config.mask_channels is not None,
            **_named(config, "panoptic", "score_thresh", "min_segment_area"),
        }
    if hasattr(config, "inference"):
        return {"panoptic": getattr(config, "panoptic", True), **asdict(config.inference)}
    return {}


def _rcnn_config(model: Any) -> dict[str, Any]:
    rpn, roi = model.config.rpn, model.config.roi_heads
    config: dict[str, Any] = {
        "rpn": {
            "levels": rpn.levels,
            "strides": [model.rpn.strides[name] for name in rpn.levels],
            "anchors": [model.rpn.get_buffer(f"{name}_anchors").tolist() for name in rpn.levels],
            "pre_nms_top_n": rpn.pre_nms_top_n[1],
            "post_nms_top_n": rpn.post_nms_top_n[1],
            **_named(rpn, "nms_thresh", "min_size", "plus_one"),
            **_named(rpn, "rank_by_probability", "strides_from_grid"),
        },
        "roi_heads": _named(
            roi, "score_thresh", "nms_thresh", "detections_per_img", "min_size", "plus_one"
        ),
        "masks": model.roi_heads.mask_head is not None,
        "paste_by_resizing": getattr(model.config, "paste_by_resizing", False),
    }
    if isinstance(model, PanopticFPN):
        config["label_of"] = model.label_of.tolist()
        config["merge"] = _named(model.config, "score_thresh", "overlap_thresh", "min_stuff_area")
    if isinstance(model, UPSNet):
        config["panoptic"] = asdict(model.config.panoptic)
    return config


def _named(config: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def _to_onnx(part: Part) -> bytes:
    """The file of a graph, without the source lines that the exporter records."""
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            part.module.eval(),
            part.arguments,
            input_names=part.names,
            output_names=list(part.module.outputs),
            dynamic_shapes=None if part.fixed else tree_map(_varying, part.arguments),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto  # made anew at each access
    graph = proto.graph
    for recorded in (*graph.node, *graph.value_info, *graph.input, *graph.output, graph):
        del recorded.metadata_props[:]
    content: bytes = proto.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of the exporter and its optimiser, which no user can act on."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# Maps have varying sides, boxes and labels a varying number.
VARYING = {1: (0,), 2: (0,), 3: (1, 2), 4: (2, 3)}


def _varying(example: Tensor) -> dict[int, Any]:
    """The axes of an input whose sizes may vary."""
    return dict.fromkeys(VARYING[example.ndim], Dim.AUTO)
