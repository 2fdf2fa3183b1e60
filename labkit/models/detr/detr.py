"""DETR on one page: a set of objects from a set of queries, things and stuff alike.

N. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020. No anchors, no
proposals, no suppression: each query answers for at most one object, and the losses see to it that
no two answer for the same one.

In this order: this file, ``transformer.py``, ``mask_head.py``, ``criterion.py`` and
``postprocess.py``. Letters in shapes: ``B`` images, ``H × W`` the padded batch, ``D``
channels, ``h × w`` the transformer's map, ``Q`` queries, ``K`` outputs, the last of them "no
object", ``L`` layers of the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.models.detector import Detector, size_of
from labkit.models.detr.config import DETRConfig
from labkit.models.detr.criterion import (
    Match,
    Objects,
    corners,
    mask_losses,
    match,
    mean_count,
    set_losses,
)
from labkit.models.detr.mask_head import AttentionMaps, MaskHead
from labkit.models.detr.postprocess import Named, boxes_map, filled, panoptic_map
from labkit.models.detr.targets import objects_of
from labkit.models.detr.transformer import Transformer
from labkit.models.preprocess import padding_of
from labkit.models.semantic.semantic_model import upsample
from labkit.structures import Categories, Prediction, Target


@dataclass(frozen=True)
class Answers:
    """What the queries say.

    Attributes:
        logits: ``(L, B, Q, K)``.
        boxes: ``(L, B, Q, 4)`` centre x, centre y, width, height, as shares of the image's sides.
        queries: ``(B, Q, D)`` after the last layer.
        memory: ``(B, D, h, w)``, the encoder's map.
        x: ``(B, D, h, w)``, what went into the transformer.
        finer: the backbone's maps for the mask head.
        padding: ``(B, h, w)`` bool.
        size: (H, W).
    """

    logits: Tensor
    boxes: Tensor
    queries: Tensor
    memory: Tensor
    x: Tensor
    finer: list[Tensor]
    padding: Tensor
    size: tuple[int, int]


class DETR(Detector):
    """Objects and, with a mask head, the panoptic map that they make.

    Args:
        config: every number, and the parts.
        categories: things and stuff.

    Raises:
        LabkitError: a category's id is beyond the outputs.
    """

    config: DETRConfig

    def __init__(self, config: DETRConfig, categories: Categories) -> None:
        super().__init__(config, categories)
        classes = len(categories) if config.panoptic else len(categories.things)
        # label_of[output]: -1 where an output stands for nothing that these categories have.
        label_of = torch.full((config.ids or classes,), -1)
        for label in range(classes):
            output = categories[label].id if config.ids else label
            if output >= len(label_of):
                raise LabkitError(
                    f"category id {output}: this model has outputs for ids below {config.ids};"
                    " number the categories anew"
                )
            label_of[output] = label
        self.label_of: Tensor
        self.register_buffer("label_of", label_of, persistent=False)
        width, first = config.width, config.levels[0]
        self.backbone = config.backbone.build()
        self.input_proj = nn.Conv2d(self.backbone.channels[first], width, 1)
        self.transformer = Transformer(
            config.encoder_layers,
            config.decoder_layers,
            width,
            config.heads,
            config.hidden,
            config.dropout,
        )
        self.query_embed = nn.Embedding(config.queries, width)
        self.class_embed = nn.Linear(width, len(label_of) + 1)
        self.bbox_embed = BoxHead(width)
        if config.mask_widths is not None:
            if config.frozen:
                self.requires_grad_(False)
            skips = [self.backbone.channels[name] for name in config.levels[1:]]
            self.bbox_attention = AttentionMaps(width, config.heads)
            self.mask_head = MaskHead(width, config.heads, skips, config.mask_widths)

    def answers(self, images: Sequence[Tensor]) -> Answers:
        """All that the queries say about ``(3, ., .)`` images, without masks."""
        x = self.batch(images, self.config.divisor)  # (B, 3, H, W)
        maps = self.backbone(x)
        coarse, *finer = (maps[name] for name in self.config.levels)
        padding = padding_of(images, x.shape[-2:], coarse.shape[-2:])
        projected = self.input_proj(coarse)
        queries, memory = self.transformer(projected, padding, self.query_embed.weight)
        return Answers(
            self.class_embed(queries).float(),
            self.bbox_embed(queries).float().sigmoid(),
            queries[-1],
            memory,
            projected,
            finer,
            padding,
            (x.shape[2], x.shape[3]),
        )

    def masks(self, answers: Answers, image: Tensor, query: Tensor) -> Tensor:
        """Mask logits ``(N, ., .)`` at the finest map's size of the queries that are asked for.

        Args:
            answers: of a batch.
            image, query: ``(N,)``: which image, and which of its queries.
        """
        asked = answers.queries[image, query]
        attention = self.bbox_attention(asked, answers.memory, answers.padding, image)
        masks: Tensor = self.mask_head(answers.x, attention, answers.finer, image)
        return masks.float()

    def training_losses(
        self, images: Sequence[Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """``loss_ce``, ``loss_bbox`` and ``loss_giou`` of the last layer and, with the layer's
        number at the end, of those before; ``loss_mask`` and ``loss_dice`` with a mask head.

        A frozen model has the losses of its masks alone.
        """
        config = self.config
        with torch.no_grad() if config.frozen else nullcontext():
            answers = self.answers(images)
        objects = [objects_of(t, self.label_of, config.panoptic) for t in targets]
        matches = self._matches(answers, objects, -1)
        losses: dict[str, Tensor] = {}
        if not config.frozen:
            last = len(answers.logits) - 1
            for layer in range(last + 1):
                layers = matches if layer == last else self._matches(answers, objects, layer)
                of_layer = set_losses(
                    answers.logits[layer], answers.boxes[layer], objects, layers, config.loss
                )
                ending = "" if layer == last else f"_{layer}"
                losses.update({name + ending: value for name, value in of_layer.items()})
        if config.mask_widths is not None:
            # Only queries with an object have a mask to learn; the others' are never computed.
            image = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(matches)])
            logits = self.masks(answers, image, torch.cat([q for q, _ in matches]))
            height, width = answers.size
            truth = [
                F.pad(o.masks[which], (0, width - o.masks.shape[2], 0, height - o.masks.shape[1]))
                for o, (_, which) in zip(objects, matches, strict=True)
            ]
            losses.update(mask_losses(logits, torch.cat(truth), mean_count(objects), config.loss))
        return losses

    def _matches(self, answers: Answers, objects: Sequence[Objects], layer: int) -> list[Match]:
        return [
            match(logits, boxes, of_image, self.config.loss)
            for logits, boxes, of_image in zip(
                answers.logits[layer], answers.boxes[layer], objects, strict=True
            )
        ]

    def infer(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """B predictions; see :meth:`labkit.models.detector.Detector.infer`.

        ``detections`` are the things, best first: without a mask head whatever their scores, with
        one those that are likelier than "no object", so that few masks have to be computed. A
        network for stuff too has ``panoptic``, made of masks or else of filled boxes, and
        ``semantic``, the classes of its segments.
        """
        answers = self.answers(images)
        named = [self._named(answers, i) for i in range(len(images))]
        masks: list[Tensor | None] = [None] * len(images)
        if self.config.mask_widths is not None:
            image = torch.cat([torch.full_like(one.query, i) for i, one in enumerate(named)])
            logits = self.masks(answers, image, torch.cat([one.query for one in named]))
            for i, of_image in enumerate(logits.split([len(one.query) for one in named])):
                height, width = size_of(images[i])
                # One channel each: interpolation takes no images, but not no channels.
                large = upsample(of_image[:, None], answers.size)
                masks[i] = large[:, 0, :height, :width]
        return [self._prediction(*parts) for parts in zip(named, masks, sizes, strict=True)]

    def _named(self, answers: Answers, i: int) -> Named:
        """The queries of image ``i`` that name a category."""
        probability = answers.logits[-1, i].softmax(dim=-1)  # (Q, K)
        score, output = probability[:, :-1].max(dim=-1)
        labels = self.label_of[output]
        names = labels >= 0
        if self.config.mask_widths is not None:
            names &= score > probability[:, -1]
        query = names.nonzero()[:, 0]
        return Named(query, labels[query], score[query], corners(answers.boxes[-1, i, query]))

    def _prediction(self, named: Named, masks: Tensor | None, size: tuple[int, int]) -> Prediction:
        """Of one image, from mask logits ``(N, ., .)`` of its picture, if there are any."""
        things = len(self.categories.things)
        thing, sure = named.labels < things, named.scores > self.config.score
        shown = None
        if masks is not None:  # decided at the network's size, then the nearest pixel
            shown = F.interpolate((masks > 0).byte()[:, None], size, mode="nearest")[:, 0].bool()
        detections = named.detections(thing, size, shown)
        if not self.config.panoptic:
            return Prediction(detections)
        if masks is None:
            areas = filled(named.boxes, size)
            panoptic = boxes_map(
                named.detections(thing & sure, size, areas),
                named.detections(~thing & sure, size, areas),
                self.categories,
            )
        else:
            panoptic = panoptic_map(
                masks[sure],
                named.labels[sure],
                named.scores[sure],
                things,
                size,
                self.config.smallest,
            )
        return Prediction(detections, panoptic.semantic(), panoptic)


class BoxHead(nn.Module):
    """Three linear layers from a query's ``D`` channels to its box before the sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        boxes: Tensor = self.layers[-1](x)
        return boxes
