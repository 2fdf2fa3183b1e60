"""DETR on one page: a set of objects from a set of queries, things and stuff alike.

N. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020. No anchors, no
proposals, no suppression: training with one-to-one (bipartite) matching penalises duplicates.

Read next ``transformer.py``, ``mask_head.py``, ``postprocess.py`` and ``criterion.py``. Letters in
shapes: ``B`` images, ``H × W`` the padded batch, ``D`` channels, ``h × w`` the transformer's map,
``Q`` queries, ``K`` class logits, the last of them "no object", ``L`` layers of the decoder, ``N``
queries of all images with a mask, ``n`` of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.models.backbones.backbone_config import BackboneConfig
from labkit.models.detr.criterion import (
    LossConfig,
    Match,
    SetTargets,
    hungarian_match,
    mask_losses,
    mean_count,
    named_by_layer,
    set_losses,
    set_targets,
)
from labkit.models.detr.mask_head import AttentionMaps, DETRMaskHead
from labkit.models.detr.postprocess import (
    Queries,
    boxes_map,
    fill_boxes,
    panoptic_map,
    select_queries,
)
from labkit.models.detr.transformer import Transformer
from labkit.models.layers import MLP, resize_bilinear
from labkit.models.preprocess import Batch, Preprocessing, padding_mask, preprocess
from labkit.models.targets import check_targets
from labkit.structures import Categories, Prediction, Target


@dataclass(frozen=True)
class DETRConfig:
    """DETR configuration.

    Attributes:
        preprocessing: of the images.
        backbone: residual network.
        levels: its feature maps: first the transformer's, then those of the mask head, coarse to
            fine.
        d_model, num_heads, dim_feedforward, dropout, encoder_layers, decoder_layers: of
            :class:`~labkit.models.detr.transformer.Transformer`.
        num_queries: Q.
        num_ids: where positive, one class logit for each category id below it (91 and 250 in the
            published checkpoints, gaps included); 0: one for each label.
        panoptic: whether stuff regions are objects too.
        mask_channels: of :class:`~labkit.models.detr.mask_head.DETRMaskHead`; None for boxes alone.
        frozen: only the mask head is trained.
        loss: weights of costs and losses.
        score_thresh: queries at or below it do not enter the panoptic map.
        min_segment_area: segments of the panoptic map with at most so many pixels are dropped.
    """

    preprocessing: Preprocessing
    backbone: BackboneConfig
    levels: tuple[str, ...] = ("res5", "res4", "res3", "res2")
    d_model: int = 256
    num_heads: int = 8
    dim_feedforward: int = 2048
    dropout: float = 0.1
    encoder_layers: int = 6
    decoder_layers: int = 6
    num_queries: int = 100
    num_ids: int = 0
    panoptic: bool = True
    mask_channels: tuple[int, ...] | None = None
    frozen: bool = False
    loss: LossConfig = field(default_factory=LossConfig)
    score_thresh: float = 0.85
    min_segment_area: int = 4

    def build(self, categories: Categories) -> DETR:
        """A model with fresh weights."""
        return DETR(self, categories)


@dataclass(frozen=True)
class DETROutput:
    """Raw output of a DETR.

    Attributes:
        pred_logits: ``(L, B, Q, K)``.
        pred_boxes: ``(L, B, Q, 4)`` centre x, centre y, width, height, as fractions of the sides of
            the network's input.
        query_features: ``(B, Q, D)`` after the last layer.
        memory: ``(B, D, h, w)``, the encoder's map.
        projected: ``(B, D, h, w)``, the transformer's input.
        finer: the backbone's maps for the mask head.
        padding: ``(B, h, w)`` bool.
        mask_logits: for each image ``(n, ., .)`` at the finest map's size, of the queries that
            :func:`~labkit.models.detr.postprocess.select_queries` selects; None without mask head.
    """

    pred_logits: Tensor
    pred_boxes: Tensor
    query_features: Tensor
    memory: Tensor
    projected: Tensor
    finer: list[Tensor]
    padding: Tensor
    mask_logits: list[Tensor] | None = None


class DETR(nn.Module):
    """DETR: objects and, with a mask head, the panoptic map.

    N. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020. Notebook 08,
    section 8.1.

    Args:
        config: the configuration.
        categories: things and stuff.

    Raises:
        LabkitError: a category's id is beyond the outputs.
    """

    def __init__(self, config: DETRConfig, categories: Categories) -> None:
        super().__init__()
        self.config = config
        self.categories = categories
        num_classes = len(categories) if config.panoptic else len(categories.things)
        # label_of[class index]: -1 where these categories have no such id.
        label_of = torch.full((config.num_ids or num_classes,), -1)
        for label in range(num_classes):
            output = categories[label].id if config.num_ids else label
            if output >= len(label_of):
                raise LabkitError(
                    f"category id {output}: this model has outputs for ids below {config.num_ids};"
                    " number the categories anew"
                )
            label_of[output] = label
        self.label_of: Tensor
        self.register_buffer("label_of", label_of, persistent=False)
        d_model, level = config.d_model, config.levels[0]
        self.backbone = config.backbone.build()
        self.input_proj = nn.Conv2d(self.backbone.channels[level], d_model, 1)
        self.transformer = Transformer(
            config.encoder_layers,
            config.decoder_layers,
            d_model,
            config.num_heads,
            config.dim_feedforward,
            config.dropout,
        )
        self.query_embed = nn.Embedding(config.num_queries, d_model)
        self.class_embed = nn.Linear(d_model, len(label_of) + 1)
        self.bbox_embed = MLP(d_model, 4)
        if config.mask_channels is not None:
            if config.frozen:
                self.requires_grad_(False)
            skips = [self.backbone.channels[name] for name in config.levels[1:]]
            self.bbox_attention = AttentionMaps(d_model, config.num_heads)
            self.mask_head = DETRMaskHead(d_model, config.num_heads, skips, config.mask_channels)

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
        with torch.no_grad() if self.config.frozen else nullcontext():
            features = self.backbone(batch.tensor)
        if self.training:
            return self.losses(features, batch, targets)
        return self.postprocess(self.predict(features, batch), batch)

    def losses(
        self, features: dict[str, Tensor], batch: Batch, targets: Sequence[Target] | None
    ) -> dict[str, Tensor]:
        """``loss_ce``, ``loss_bbox`` and ``loss_giou`` of the last layer and, with the layer's
        number at the end, of those before; ``loss_mask`` and ``loss_dice`` with a mask head.

        A frozen model has the losses of its masks alone.
        """
        config = self.config
        targets = check_targets(targets, len(self.categories.things))
        with torch.no_grad() if config.frozen else nullcontext():
            output = self.decode(features, batch)
        gt = [set_targets(target, self.label_of, config.panoptic) for target in targets]
        matches = self._match(output, gt, -1)
        losses: dict[str, Tensor] = {}
        if not config.frozen:
            num_layers = len(output.pred_logits)
            for layer in range(num_layers):
                layer_losses = set_losses(
                    output.pred_logits[layer],
                    output.pred_boxes[layer],
                    gt,
                    matches if layer == num_layers - 1 else self._match(output, gt, layer),
                    config.loss,
                )
                losses |= named_by_layer(layer_losses, layer, num_layers)
        if config.mask_channels is not None:
            # Only matched queries have a mask to learn; the others' are never computed.
            mask_logits = self.masks(output, [queries for queries, _ in matches])
            height, width = batch.padded_size
            gt_masks = [
                F.pad(t.masks[idxs], (0, width - t.masks.shape[2], 0, height - t.masks.shape[1]))
                for t, (_, idxs) in zip(gt, matches, strict=True)
            ]
            losses.update(
                mask_losses(mask_logits, torch.cat(gt_masks), mean_count(gt), config.loss)
            )
        return losses

    def predict(self, features: dict[str, Tensor], batch: Batch) -> DETROutput:
        """Classes, boxes and masks of the queries, from the backbone's feature maps."""
        output = self.decode(features, batch)
        if self.config.mask_channels is None:
            return output
        query_idxs = [queries.idxs for queries in self._select(output)]
        mask_logits = self.masks(output, query_idxs).split([len(idxs) for idxs in query_idxs])
        return replace(output, mask_logits=list(mask_logits))

    def decode(self, features: dict[str, Tensor], batch: Batch) -> DETROutput:
        """Projection, encoder, decoder, class and box heads; no masks."""
        coarse, *finer = (features[name] for name in self.config.levels)
        padding = padding_mask(batch, coarse.shape[-2:])
        projected = self.input_proj(coarse)
        query_features, memory = self.transformer(projected, padding, self.query_embed.weight)
        return DETROutput(
            self.class_embed(query_features).float(),
            self.bbox_embed(query_features).float().sigmoid(),
            query_features[-1],
            memory,
            projected,
            finer,
            padding,
        )

    def masks(self, output: DETROutput, query_idxs: Sequence[Tensor]) -> Tensor:
        """Mask logits ``(N, ., .)`` at the finest map's size.

        Args:
            output: of :meth:`decode`.
            query_idxs: ``(n,)`` int64 for each image.
        """
        image = torch.cat([torch.full_like(idxs, i) for i, idxs in enumerate(query_idxs)])
        query_features = output.query_features[image, torch.cat(list(query_idxs))]  # (N, D)
        attention = self.bbox_attention(query_features, output.memory, output.padding, image)
        masks: Tensor = self.mask_head(output.projected, attention, output.finer, image)
        return masks.float()

    def postprocess(
        self, output: DETROutput, batch: Batch, score_thresh: float | None = None
    ) -> list[Prediction]:
        """Predictions in pixels of the original images.

        ``detections`` are the things, highest score first: without a mask head whatever their
        scores, with one those that are likelier than "no object", so that few masks have to be
        computed. A network for stuff too has ``panoptic``, made of masks or else of filled boxes,
        and ``semantic``, the classes of its segments.

        Args:
            output: of :meth:`predict`.
            batch: for its sizes.
            score_thresh: queries at or below it do not enter the panoptic map; None: the
                configuration's.
        """
        if score_thresh is None:
            score_thresh = self.config.score_thresh
        predictions = []
        for i, queries in enumerate(self._select(output)):
            masks = None
            if output.mask_logits is not None:
                height, width = batch.input_sizes[i]
                # Masks go in the batch dimension: it may be empty, channels may not.
                large = resize_bilinear(output.mask_logits[i][:, None], batch.padded_size)
                masks = large[:, 0, :height, :width]
            predictions.append(self._prediction(queries, masks, batch.image_sizes[i], score_thresh))
        return predictions

    def _select(self, output: DETROutput) -> list[Queries]:
        with_masks = self.config.mask_channels is not None
        return [
            select_queries(logits, boxes, self.label_of, with_masks)
            for logits, boxes in zip(output.pred_logits[-1], output.pred_boxes[-1], strict=True)
        ]

    def _match(self, output: DETROutput, gt: Sequence[SetTargets], layer: int) -> list[Match]:
        return [
            hungarian_match(logits, boxes, image_targets, self.config.loss)
            for logits, boxes, image_targets in zip(
                output.pred_logits[layer], output.pred_boxes[layer], gt, strict=True
            )
        ]

    def _prediction(
        self, queries: Queries, masks: Tensor | None, size: tuple[int, int], score_thresh: float
    ) -> Prediction:
        """Of one image, from mask logits ``(n, ., .)`` of the network's input, if there are any."""
        num_things = len(self.categories.things)
        is_thing, certain = queries.labels < num_things, queries.scores > score_thresh
        pasted = None
        if masks is not None:  # thresholded at the network's size, then the nearest pixel
            pasted = F.interpolate((masks > 0).byte()[:, None], size, mode="nearest")[:, 0].bool()
        detections = queries.detections(is_thing, size, pasted)
        if not self.config.panoptic:
            return Prediction(detections)
        if masks is None:
            areas = fill_boxes(queries.boxes, size)
            panoptic = boxes_map(
                queries.detections(is_thing & certain, size, areas),
                queries.detections(~is_thing & certain, size, areas),
                self.categories,
            )
        else:
            panoptic = panoptic_map(
                masks[certain],
                queries.labels[certain],
                queries.scores[certain],
                num_things,
                size,
                self.config.min_segment_area,
            )
        return Prediction(detections, panoptic.semantic(), panoptic)
