"""Mask2Former and EoMT in the package transformers, with the weights of labkit's models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labkit.checkpoints.key_map import KeyMap, Rule
from labkit.errors import LabkitError
from labkit.models.mask2former.eomt import EoMT
from labkit.models.mask2former.mask2former import Mask2Former

_PIXELS = "model.pixel_level_module.decoder."
_QUERIES = "model.transformer_module."
MASK2FORMER: tuple[Rule, ...] = (
    (r"pixel_decoder\.input_proj\.", f"{_PIXELS}input_projections."),
    (r"pixel_decoder\.level_embed", f"{_PIXELS}level_embed"),
    (r"pixel_decoder\.layers\.(\d+)\.norm1", rf"{_PIXELS}encoder.layers.\1.self_attn_layer_norm"),
    (r"pixel_decoder\.layers\.(\d+)\.norm2", rf"{_PIXELS}encoder.layers.\1.final_layer_norm"),
    (r"pixel_decoder\.layers\.(\d+)\.linear(\d)", rf"{_PIXELS}encoder.layers.\1.fc\2"),
    (r"pixel_decoder\.layers\.", f"{_PIXELS}encoder.layers."),
    (r"pixel_decoder\.lateral\.", f"{_PIXELS}adapter_1."),
    (r"pixel_decoder\.output\.", f"{_PIXELS}layer_1."),
    (r"pixel_decoder\.mask_features", f"{_PIXELS}mask_projection"),
    (r"decoder\.query_feat", f"{_QUERIES}queries_features"),
    (r"decoder\.query_embed", f"{_QUERIES}queries_embedder"),
    (r"decoder\.level_embed", f"{_QUERIES}level_embed"),
    (r"decoder\.layers\.(\d+)\.norm1", rf"{_QUERIES}decoder.layers.\1.cross_attn_layer_norm"),
    (r"decoder\.layers\.(\d+)\.norm2", rf"{_QUERIES}decoder.layers.\1.self_attn_layer_norm"),
    (r"decoder\.layers\.(\d+)\.norm3", rf"{_QUERIES}decoder.layers.\1.final_layer_norm"),
    (r"decoder\.layers\.(\d+)\.linear(\d)", rf"{_QUERIES}decoder.layers.\1.fc\2"),
    (r"decoder\.layers\.", f"{_QUERIES}decoder.layers."),
    (r"decoder\.norm", f"{_QUERIES}decoder.layernorm"),
    (r"decoder\.class_embed", "class_predictor"),
    (
        r"decoder\.mask_embed\.layers\.(\d)\.",
        rf"{_QUERIES}decoder.mask_predictor.mask_embedder.\1.0.",
    ),
)
EOMT: tuple[Rule, ...] = (
    (r"backbone\.cls_token", "embeddings.cls_token"),
    (r"backbone\.reg_token", "embeddings.register_tokens"),
    (r"backbone\.pos_embed", "embeddings.position_embeddings.weight"),
    (r"backbone\.patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"backbone\.blocks\.(\d+)\.attn\.proj", r"layers.\1.attention.out_proj"),
    (r"backbone\.blocks\.(\d+)\.attn\.qkv\.", r"layers.\1.attention.in_proj_"),
    (r"backbone\.blocks\.(\d+)\.ls(\d)\.gamma", r"layers.\1.layer_scale\2.lambda1"),
    (r"backbone\.blocks\.", "layers."),
    (r"backbone\.norm", "layernorm"),
    (r"q\.weight", "query.weight"),
    (r"class_head", "class_predictor"),
    (r"mask_head\.0", "mask_head.fc1"),
    (r"mask_head\.2", "mask_head.fc2"),
    (r"mask_head\.4", "mask_head.fc3"),
    (r"upscale\.(\d)\.norm", r"upscale_block.block.\1.layernorm2d"),
    (r"upscale\.", "upscale_block.block."),
)


def mask2former_twin(model: Mask2Former) -> nn.Module:
    """Build transformers' Mask2Former with the weights of labkit's on a ResNet of bottlenecks.

    Raises:
        LabkitError: transformers is not installed.
    """
    transformers = import_transformers()
    pixel_decoder, decoder = model.config.pixel_decoder, model.config.decoder
    config = transformers.Mask2FormerConfig(
        backbone_config=resnet_config(model.backbone),
        feature_size=pixel_decoder.d_model,
        mask_feature_size=pixel_decoder.d_model,
        hidden_dim=pixel_decoder.d_model,
        encoder_layers=pixel_decoder.encoder_layers,
        encoder_feedforward_dim=pixel_decoder.dim_feedforward,
        num_attention_heads=decoder.num_heads,
        decoder_layers=decoder.layers + 1,  # it counts predictions
        dim_feedforward=decoder.dim_feedforward,
        num_queries=decoder.num_queries,
        num_labels=len(model.categories),
        output_auxiliary_logits=True,
    )
    twin: nn.Module = transformers.Mask2FormerForUniversalSegmentation(config)
    return _with_weights(twin, renamed(model.state_dict(), MASK2FORMER))


def eomt_twin(model: EoMT) -> nn.Module:
    """Build transformers' EoMT with the weights of labkit's.

    Raises:
        LabkitError: transformers is not installed.
    """
    transformers = import_transformers()
    vit = model.config.vit
    config = transformers.EomtConfig(
        hidden_size=vit.width,
        num_hidden_layers=vit.depth,
        num_attention_heads=vit.num_heads,
        image_size=vit.image_size,
        patch_size=vit.patch_size,
        num_blocks=model.config.query_blocks,
        num_queries=model.config.num_queries,
        num_register_tokens=vit.num_registers,
        num_labels=len(model.categories),
    )
    twin: nn.Module = transformers.EomtForUniversalSegmentation(config)
    return _with_weights(twin, renamed(model.state_dict(), EOMT))


def resnet_config(backbone: nn.Module) -> Any:
    """The configuration of transformers' network that is labkit's ResNet of bottlenecks."""
    stages = [backbone.get_submodule(f"res{i}") for i in (2, 3, 4, 5)]
    return import_transformers().ResNetConfig(
        embedding_size=64,
        hidden_sizes=[256, 512, 1024, 2048],
        depths=[len(list(stage.children())) for stage in stages],
        layer_type="bottleneck",
        downsample_in_bottleneck=False,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def renamed(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """A labkit state dict with the names and shapes of transformers.

    What labkit has in one matrix for queries, keys and values, transformers mostly has in three.
    """
    names = {}
    for key, value in state.items():
        backbone = key.startswith("backbone.") and rules is not EOMT
        name = _backbone_name(key) if backbone else KeyMap(rules, dropped="").name(key)
        if "in_proj_" in name and ".cross_attn." not in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                names[name.replace("in_proj_", f"{letter}_proj.")] = part
        elif name == "embeddings.position_embeddings.weight":
            names[name] = value[0]
        else:
            names[name] = value
    return names


def _backbone_name(key: str) -> str:
    def of_block(match: re.Match[str]) -> str:
        stage, block, layer, rest = int(match[1]) - 2, match[2], match[3], match[4]
        rest = rest.replace("norm.", "normalization.") if "norm." in rest else f"convolution.{rest}"
        layer = layer if layer == "shortcut" else f"layer.{int(layer[-1]) - 1}"
        return f"encoder.stages.{stage}.layers.{block}.{layer}.{rest}"

    name = key.removeprefix("backbone.")
    name = re.sub(r"^stem\.conv1\.norm\.", "embedder.embedder.normalization.", name)
    name = re.sub(r"^stem\.conv1\.", "embedder.embedder.convolution.", name)
    name = re.sub(r"^res(\d)\.(\d+)\.(\w+)\.(.+)", of_block, name)
    return f"model.pixel_level_module.encoder.{name}"


def _with_weights(twin: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    # The weights of the classes in the loss are no parameters of labkit's.
    assert (missing, unexpected) == (["criterion.empty_weight"], [])
    return twin


def import_transformers() -> Any:
    """The package.

    Raises:
        LabkitError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise LabkitError(
            "transformers is not installed: pip install transformers (in a checkout: uv sync)"
        ) from None
    transformers.logging.set_verbosity_error()  # it warns that it has not tested a ResNet
    return transformers


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Add noise to every weight, also to those that begin with 0 or 1.

    Otherwise exchanged names would go unnoticed.
    """
    for name, value in model.state_dict().items():
        if not name.endswith(("running_var", "attn_mask_probs")):
            value.add_(torch.randn_like(value), alpha=0.02 if value.ndim > 1 else 0.1)
