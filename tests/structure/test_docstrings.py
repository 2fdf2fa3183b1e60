"""Models, operators and metrics name their paper, and the section of the workbook."""

from __future__ import annotations

import ast
import re

import pytest
from helpers.modules import MODULES, tree
from helpers.paths import CHECKOUT

TAUGHT = {
    "ops.boxes": ["encode_boxes", "decode_boxes"],
    "ops.roi_align_compiled": ["roi_align"],
    "ops.deform_conv": ["deform_conv2d"],
    "ops.ms_deform_attn": ["ms_deform_attn"],
    "ops.nms": ["nms_steps"],
    "ops.roi_align": ["roi_align"],
    "ops.roi_pool": ["roi_pool"],
    "ops.roi_warp": ["roi_warp"],
    "ops.roi_align_separable": ["roi_align_separable"],
    "metrics.average_precision": ["average_precision"],
    "metrics.coco_ap": ["COCOAP"],
    "metrics.panoptic_quality_files": ["evaluate_files"],
    "metrics.panoptic_matching": ["match_segments", "summarize"],
    "metrics.panoptic_quality": ["PanopticQuality"],
    "metrics.semantic": ["ConfusionMatrix"],
    "models.backbones.resnet": ["ResNet"],
    "models.backbones.tiny_resnet": ["TinyResNet"],
    "models.backbones.efficientnet_lite": ["EfficientNetLite"],
    "models.backbones.fpn": ["FPN"],
    "models.rcnn.anchors": ["cell_anchors", "grid_anchors"],
    "models.rcnn.matcher": ["match_boxes", "sample_boxes"],
    "models.rcnn.rpn": ["RPN"],
    "models.rcnn.roi_pooler": ["pool"],
    "models.rcnn.roi_heads": ["FPNHeads", "C4Heads"],
    "models.rcnn.roi_losses": ["select_training_samples", "fastrcnn_loss"],
    "models.rcnn.mask_head": ["MaskHead"],
    "models.rcnn.mask_rcnn": ["MaskRCNN"],
    "models.panoptic_fpn.panoptic_fpn": ["PanopticFPN"],
    "models.panoptic_fpn.semantic_head": ["SemanticFPN"],
    "models.panoptic_fpn.merge": ["merge"],
    "models.upsnet.upsnet": ["UPSNet"],
    "models.upsnet.semantic_head": ["DeformableHead"],
    "models.upsnet.panoptic_head": ["panoptic_logits", "prune"],
    "models.upsnet.losses": ["panoptic_loss"],
    "models.detr.detr": ["DETR"],
    "models.detr.transformer": ["Transformer", "sine_positions"],
    "models.detr.criterion": ["hungarian_match", "set_losses"],
    "models.detr.mask_head": ["AttentionMaps", "DETRMaskHead"],
    "models.detr.postprocess": ["panoptic_map", "boxes_map"],
    "models.upsnet.panoptic_argmax": ["panoptic_argmax"],
    "models.upsnet.assign_segments": ["assign_segments"],
    "models.backbones.vit": ["ViT"],
    "models.mask2former.mask2former": ["Mask2Former"],
    "models.mask2former.maskformer": ["MaskFormer"],
    "models.mask2former.masked_decoder": ["MaskedDecoder"],
    "models.mask2former.pixel_decoder": ["PixelDecoder"],
    "models.mask2former.deformable_attention": ["deformable_attention"],
    "models.mask2former.criterion": ["match_segments", "matched_losses", "uncertain_points"],
    "models.mask2former.postprocess": [
        "panoptic_inference",
        "instance_inference",
        "semantic_inference",
    ],
    "models.mask2former.eomt": ["EoMT"],
    "models.semantic.fcn": ["FCN"],
    "models.semantic.deeplab": ["DeepLab"],
}
"""The public functions and classes that a lesson builds, by module."""

UNTAUGHT = {
    "ops.build_kernels",
    "ops.roi_arguments",
    "metrics.coco_annotations",
    "metrics.panoptic_checks",
    "models.backbones.backbone_config",
    "models.backbones.base",
    "models.backbones.frozen_norm",
    "models.layers",
    "models.preprocess",
    "models.presets",
    "models.semantic.losses",
    "models.targets",
    "models.upsnet.postprocess",
}
"""Modules of the same folders that hold what has no paper or no lesson."""

FOLDERS = ("ops", "metrics", "models")
PAPER = re.compile(r"""[A-Z]\.[^"]+?, "[^"]+", [A-Za-z]+ (19|20)\d\d""")  # authors, title, where
SECTION = re.compile(r"Notebook (\d\d), section (\d+\.\d+)\.")


def docstring(module: str, name: str) -> str:
    """The docstring of a function or class, on one line."""
    (node,) = (
        node
        for node in tree(MODULES[f"labkit.{module}"]).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
    )
    return " ".join((ast.get_docstring(node) or "").split())


def test_every_module_is_taught_or_known_not_to_be():
    modules = {
        module.removeprefix("labkit.")
        for module, path in MODULES.items()
        if module.startswith(tuple(f"labkit.{folder}." for folder in FOLDERS))
        and path.name != "__init__.py"
    }
    assert modules == TAUGHT.keys() | UNTAUGHT
    assert not TAUGHT.keys() & UNTAUGHT


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in TAUGHT.items() for name in names]
)
def test_the_paper_and_the_section_are_named_and_the_section_exists(module, name):
    text = docstring(module, name)
    # A part of a model may leave the paper to its file.
    file = ast.get_docstring(tree(MODULES[f"labkit.{module}"])) if "models" in module else None
    assert PAPER.search(text) or PAPER.search(" ".join((file or "").split())), text
    (found,) = SECTION.findall(text)
    number, section = found
    (notebook,) = (CHECKOUT / "notebooks" / "src").glob(f"{number}_*.py")
    assert f"\n# ## {section} " in notebook.read_text()
