"""Names that the package transformers gives to the parameters of Mask2Former and EoMT."""

import re

import torch

_PIXELS = "model.pixel_level_module.decoder."
_QUERIES = "model.transformer_module."
MASK2FORMER = (
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
EOMT = (
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


def for_transformers(state, rules):
    """A labkit state dict with the names and shapes of transformers.

    What labkit has in one matrix for queries, keys and values, transformers mostly has in three.
    """
    renamed = {}
    for key, value in state.items():
        name = _backbone_name(key) if key.startswith("backbone.") and rules is MASK2FORMER else None
        name = name or next(
            (re.sub(rf"\A{pattern}", new, key) for pattern, new in rules if re.match(pattern, key)),
            key,
        )
        if "in_proj_" in name and ".cross_attn." not in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                renamed[name.replace("in_proj_", f"{letter}_proj.")] = part
        elif name == "embeddings.position_embeddings.weight":
            renamed[name] = value[0]
        else:
            renamed[name] = value
    return renamed


def _backbone_name(key):
    def of_block(match):
        stage, block, layer, rest = int(match[1]) - 2, match[2], match[3], match[4]
        rest = rest.replace("norm.", "normalization.") if "norm." in rest else f"convolution.{rest}"
        layer = layer if layer == "shortcut" else f"layer.{int(layer[-1]) - 1}"
        return f"encoder.stages.{stage}.layers.{block}.{layer}.{rest}"

    name = key.removeprefix("backbone.")
    name = re.sub(r"^stem\.conv1\.norm\.", "embedder.embedder.normalization.", name)
    name = re.sub(r"^stem\.conv1\.", "embedder.embedder.convolution.", name)
    name = re.sub(r"^res(\d)\.(\d+)\.(\w+)\.(.+)", of_block, name)
    return f"model.pixel_level_module.encoder.{name}"


@torch.no_grad()
def randomize(model):
    """Random weights that no part is indifferent to: what begins with zeros or ones as well."""
    for name, value in model.state_dict().items():
        if not name.endswith(("running_var", "attn_mask_probs")):
            value.add_(torch.randn_like(value), alpha=0.02 if value.ndim > 1 else 0.1)
