"""Exported models for tests: made by hand, and models whose random weights find something."""

import copy
import hashlib
import json
from dataclasses import asdict, replace

import numpy as np
import onnx
import torch
from helpers.small_models import made
from onnx import TensorProto, helper
from torchvision.transforms import v2

from labkit.checkpoints.shipped import shipped
from labkit.datasets.shapes import Shapes
from labkit.engine import export_onnx
from labkit.engine.onnx_graphs import with_fixed_steps
from labkit.engine.predictor import load_model
from labkit.models.backbones.frozen_norm import FrozenBatchNorm2d
from labkit.models.backbones.resnet import Bottleneck
from labkit.models.detr.detr import DETR
from labkit.models.preprocess import LABKIT_PREPROCESSING, preprocess
from labkit.models.presets import PRESETS

# How much larger random weights of the last layers become, so that classes and masks differ.
LARGER = {
    "objectness.weight": 10,
    "cls_score.weight": 20,
    "class_embed.weight": 20,
    "class_head.weight": 20,
    "mask_head.predictor.weight": 500,
}


def model_of(preset, full_size=False):
    """The weights that come with labkit, or else a random model of Shapes' classes.

    It is small, or has the layers of the preset; in both, images are not enlarged, but for EoMT.
    """
    if preset in shipped():
        return load_model(preset)
    if full_size:
        config = PRESETS[preset]
        if not preset.startswith("eomt"):
            unscaled = replace(config.preprocessing, resize=None)
            config = replace(config, preprocessing=unscaled)
        torch.manual_seed(0)
        model = config.build(Shapes.categories).eval()
        set_norms(model, sized_image(1, preset))
    else:
        model = made(preset, Shapes.categories).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for ending, factor in LARGER.items():
                if name.endswith(ending):  # wide layers need less, or all scores are 1 alike
                    parameter *= factor**0.5 if full_size else factor
            if name.endswith("class_embed.bias") and hasattr(model, "label_of"):
                parameter[:-1][model.label_of >= 0] += 10  # the other ids are no classes
    if full_size and isinstance(model, DETR):
        spread_queries(model, [sized_image(index, preset) for index in range(4)])
    if hasattr(model.config, "inference"):
        low = replace(model.config.inference, score_thresh=0.15, overlap_thresh=0.3)
        model.config = replace(model.config, inference=low)
    return model


def set_norms(model, image):
    """Make a random residual network as steady as a trained one: float32's rounding stays small.

    Its frozen norms get the statistics of an image, and each block adds little to its input. With
    random scales alone, 50 layers make differences of 1e-6 a thousand times larger.
    """

    def set_statistics(norm, inputs):
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))

    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.conv3.norm.weight.fill_(0.2)
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    with torch.no_grad():
        model([image])
    for hook in hooks:
        hook.remove()


def spread_queries(model, images):
    """Make the queries of a random DETR differ, in class and mask, as those of a trained one do.

    With random weights they attend to all cells alike, so that all have the same class and mask.
    Steeper attention tells them apart, the masks follow the attention, and the classes begin at
    the queries' mean over some images.
    """
    with torch.no_grad():
        for layer in model.transformer.decoder.layers:
            layer.multihead_attn.in_proj_weight[: 2 * model.config.d_model] *= 8
        model.bbox_attention.q_linear.weight *= 5
        model.mask_head.lay1.weight[:, model.config.d_model :] *= 10_000
        for adapter in (
            model.mask_head.adapter1,
            model.mask_head.adapter2,
            model.mask_head.adapter3,
        ):
            adapter.weight *= 0.1  # what all queries of the image share
        features = []
        for image in images:
            batch = preprocess([image], model.config.preprocessing)
            output = model.predict(model.backbone(batch.tensor), batch)
            features.append(output.query_features[0].mean(0))
        model.class_embed.weight *= 3
        model.class_embed.bias -= model.class_embed.weight @ torch.stack(features).mean(0)
    model.config = replace(model.config, score_thresh=0.7)


SIZES = ((128, 128), (160, 224), (75, 110))


def sized_image(index, preset):
    """An image of Shapes, ``(3, H, W)``, in one of SIZES in turn; for EoMT's square half of it."""
    height, width = SIZES[index % len(SIZES)]
    if preset.startswith("eomt"):
        height, width = height // 2, width // 2
    image, _ = Shapes("val")[index]
    return v2.functional.resize(image, [height, width], antialias=True)


def as_array(image):
    """``(3, H, W)`` to ``(H, W, 3)``."""
    return image.permute(1, 2, 0).numpy()


def eager(model):
    """What ``labkit.deploy`` is given for an exported model, with the parts run by PyTorch.

    Returns:
        The function that runs a part by name, the family, and its configuration.
    """
    model = copy.deepcopy(model)
    with_fixed_steps(model)
    family, parts = export_onnx._parts(model)

    @torch.no_grad()
    def run(name, **inputs):
        part = parts[name]
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in part.names]
        single = sum(isinstance(argument, torch.Tensor) for argument in part.arguments)
        arguments = [*tensors[:single], tensors[single:]] if single < len(tensors) else tensors
        outputs = part.module(*arguments)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        return {n: o.numpy() for n, o in zip(part.module.outputs, outputs, strict=True)}

    return run, family, json.loads(json.dumps(export_onnx._config(model)))


def write_export(folder, size=("height", "width"), **changes):
    """An export of a network that calls the largest of red, green and blue the class.

    Args:
        folder: to write into.
        size: of its images; names vary.
        changes: of ``model.json``.
    """
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *size])
        for name in ("image", "logits")
    ]
    node = helper.make_node("Identity", ["image"], ["logits"])
    graph = helper.make_graph([node], "network", values[:1], values[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, folder / "network.onnx")
    digest = hashlib.sha256((folder / "network.onnx").read_bytes()).hexdigest()
    description = {
        "family": "semantic",
        "opset": 18,
        "graphs": {"network": {"file": "network.onnx", "sha256": digest}},
        "categories": [{"id": i, "name": n, "isthing": 0} for i, n in enumerate("rgb", 1)],
        "num_categories": 3,
        "preprocessing": asdict(LABKIT_PREPROCESSING),
        "config": {},
    }
    (folder / "model.json").write_text(json.dumps(description | changes))
