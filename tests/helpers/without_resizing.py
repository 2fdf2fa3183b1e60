"""Predictions of images that have the network's size already, at sizes of the caller's choosing."""

from dataclasses import replace

from labkit.models.preprocess import preprocess


def network_batch(model, images, sizes=None):
    """The images as they are, and the sizes of the predictions; default: the images' own."""
    batch = preprocess(images, replace(model.config.preprocessing, resize=None))
    return batch if sizes is None else replace(batch, image_sizes=list(sizes))


def infer(model, images, sizes=None):
    """The model's predictions."""
    batch = network_batch(model, images, sizes)
    return model.postprocess(model.predict(model.backbone(batch.tensor), batch), batch)
