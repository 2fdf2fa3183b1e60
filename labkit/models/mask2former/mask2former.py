"""Mask2Former on one page: segments as a set of classes and masks, for every kind of segmentation.

B. Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022. No
boxes anywhere: a query has a class and a vector, and its mask is the dot product of the vector with
the features of each pixel.

Read next ``pixel_decoder.py``, ``masked_decoder.py``, ``criterion.py`` and ``postprocess.py``.
Letters in shapes: ``B`` images, ``Q`` queries, ``D`` channels, ``K`` class logits, the last of them
"no object", ``L`` predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from labkit.models.backbones.backbone_config import BackboneConfig
from labkit.models.mask2former.criterion import MaskLossConfig, mask_classification_losses
from labkit.models.mask2former.masked_decoder import MaskedDecoder, MaskedDecoderConfig
from labkit.models.mask2former.pixel_decoder import PixelDecoder, PixelDecoderConfig
from labkit.models.mask2former.postprocess import InferenceConfig, MaskOutput, mask_predictions
from labkit.models.preprocess import Batch, Preprocessing, preprocess
from labkit.models.targets import batch_segments
from labkit.structures import Categories, Prediction, Target


@dataclass(frozen=True)
class Mask2FormerConfig:
    """Mask2Former configuration.

    Attributes:
        preprocessing: of the images.
        backbone: residual network.
        pixel_decoder, decoder: of the two halves.
        panoptic: whether stuff is predicted too; otherwise the classes are the things alone.
        loss: weights and points.
        inference: thresholds.
    """

    preprocessing: Preprocessing
    backbone: BackboneConfig
    pixel_decoder: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    decoder: MaskedDecoderConfig = field(default_factory=MaskedDecoderConfig)
    panoptic: bool = True
    loss: MaskLossConfig = field(default_factory=MaskLossConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    def build(self, categories: Categories) -> Mask2Former:
        """A model with fresh weights."""
        return Mask2Former(self, categories)


class Mask2Former(nn.Module):
    """Mask2Former: panoptic, instance and semantic segmentation by one set of masks.

    B. Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR
    2022.

    Notebook 10, section 10.2.

    Args:
        config: the configuration.
        categories: things and stuff.
    """

    def __init__(self, config: Mask2FormerConfig, categories: Categories) -> None:
        super().__init__()
        self.config = config
        self.categories = categories
        num_classes = len(categories) if config.panoptic else len(categories.things)
        self.backbone = config.backbone.build()
        self.pixel_decoder = PixelDecoder(config.pixel_decoder, self.backbone.channels)
        self.decoder = MaskedDecoder(
            config.decoder,
            config.pixel_decoder.d_model,
            len(config.pixel_decoder.levels),
            num_classes,
        )

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Prediction]:
        """Losses in training mode, predictions in evaluation mode.

        Args:
            images: B tensors ``(3, height, width)`` uint8 RGB.
            targets: B targets with ``boxes``, ``labels``, ``masks`` and, for stuff, ``panoptic``;
                in training mode only.

        Returns:
            Training: :meth:`losses`. Evaluation: :meth:`postprocess`.

        Raises:
            LabkitError: an image of another type, or targets that do not fit the categories.
        """
        batch = preprocess(images, self.config.preprocessing, self.training)
        features = self.backbone(batch.tensor)
        if self.training:
            return self.losses(features, batch, targets)
        return self.postprocess(self.predict(features, batch), batch)

    def losses(
        self, features: dict[str, Tensor], batch: Batch, targets: Sequence[Target] | None
    ) -> dict[str, Tensor]:
        """``loss_ce``, ``loss_mask`` and ``loss_dice`` of the last prediction and, with its number
        at the end, of each before."""
        segments = batch_segments(targets, batch, self.categories, self.config.panoptic)
        class_logits, mask_logits = self.decoder(*self.pixel_decoder(features), every_layer=True)
        return mask_classification_losses(class_logits, mask_logits, segments, self.config.loss)

    def predict(self, features: dict[str, Tensor], batch: Batch) -> MaskOutput:
        """Classes and masks of the queries, from the backbone's feature maps."""
        class_logits, mask_logits = self.decoder(*self.pixel_decoder(features), every_layer=False)
        return MaskOutput(class_logits[-1], mask_logits[-1])

    def postprocess(
        self, output: MaskOutput, batch: Batch, score_thresh: float | None = None
    ) -> list[Prediction]:
        """Predictions in pixels of the original images.

        Args:
            output: of :meth:`predict`.
            batch: for its sizes.
            score_thresh: queries at or below it do not enter the panoptic map; None: the
                configuration's.
        """
        return mask_predictions(
            output,
            batch,
            self.categories,
            self.config.inference,
            self.config.panoptic,
            score_thresh,
        )
