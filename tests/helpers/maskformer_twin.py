"""MaskFormer in the package transformers, with the weights of labkit's."""

from labkit.bench.transformers_models import import_transformers, renamed, resnet_config

_FPN = "model.pixel_level_module.decoder.fpn."
_LAYER, _THEIRS = r"transformer\.decoder\.layers\.(\d)", "model.transformer_module.decoder."
MASKFORMER = (
    (r"pixel_decoder\.outputs\.0\.", f"{_FPN}stem."),
    (r"pixel_decoder\.outputs\.(\d)\.", lambda match: f"{_FPN}layers.{int(match[1]) - 1}.block."),
    (r"pixel_decoder\.laterals\.(\d)\.", rf"{_FPN}layers.\1.proj."),
    (r"pixel_decoder\.mask_features", "model.pixel_level_module.decoder.mask_projection"),
    (r"input_proj", "model.transformer_module.input_projection"),
    (r"query_embed", "model.transformer_module.queries_embedder"),
    (rf"{_LAYER}\.multihead_attn\.out_proj", rf"{_THEIRS}layers.\1.encoder_attn.o_proj"),
    (rf"{_LAYER}\.multihead_attn", rf"{_THEIRS}layers.\1.encoder_attn"),
    (rf"{_LAYER}\.self_attn\.out_proj", rf"{_THEIRS}layers.\1.self_attn.o_proj"),
    (rf"{_LAYER}\.norm1", rf"{_THEIRS}layers.\1.self_attn_layer_norm"),
    (rf"{_LAYER}\.norm2", rf"{_THEIRS}layers.\1.encoder_attn_layer_norm"),
    (rf"{_LAYER}\.norm3", rf"{_THEIRS}layers.\1.final_layer_norm"),
    (rf"{_LAYER}\.linear(\d)", rf"{_THEIRS}layers.\1.mlp.fc\2"),
    (rf"{_LAYER}\.", rf"{_THEIRS}layers.\1."),
    (r"transformer\.decoder\.norm", f"{_THEIRS}layernorm"),
    (r"class_embed", "class_predictor"),
    (r"mask_embed\.layers\.(\d)\.", r"mask_embedder.\1.0."),
)


def maskformer_twin(model):
    """transformers' MaskFormer for one of labkit's on a ResNet, in evaluation mode."""
    transformers, config = import_transformers(), model.config
    decoder = transformers.DetrConfig(
        d_model=config.d_model,
        num_queries=config.num_queries,
        decoder_layers=config.decoder_layers,
        decoder_attention_heads=config.num_heads,
        decoder_ffn_dim=config.dim_feedforward,
    )
    twin = transformers.MaskFormerForInstanceSegmentation(
        transformers.MaskFormerConfig(
            fpn_feature_size=config.d_model,
            mask_feature_size=config.d_model,
            backbone_config=resnet_config(model.backbone),
            decoder_config=decoder,
            num_labels=len(model.categories),
        )
    )
    missing, unexpected = twin.load_state_dict(
        renamed(model.state_dict(), MASKFORMER), strict=False
    )
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    assert (missing, unexpected) == (["criterion.empty_weight"], [])  # of the loss
    return twin.eval()


def every_layer(twin, images):
    """Class and mask logits of every layer of the decoder.

    With auxiliary losses transformers feeds each layer the normalised output of the one before; the
    original, like DETR, normalises for the heads alone. So the layers' outputs are taken without.
    """
    decoder = twin.model.transformer_module.decoder
    outputs = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        for layer in decoder.layers
    ]
    expected = twin(pixel_values=images)
    for hook in hooks:
        hook.remove()
    # The heads, on each layer's output.
    features = expected.pixel_decoder_last_hidden_state
    made = []
    for output in outputs:
        x = decoder.layernorm(output)
        vectors = twin.mask_embedder(x)
        masks = (vectors @ features.flatten(2)).unflatten(2, features.shape[2:])
        made.append((twin.class_predictor(x), masks))
    assert (made[-1][0] - expected.class_queries_logits).abs().max() < 1e-4
    assert (made[-1][1] - expected.masks_queries_logits).abs().max() < 1e-4
    return made
