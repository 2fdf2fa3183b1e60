# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10. Mask classification
#
# **The question.** Semantic, instance and panoptic segmentation had three kinds of networks. Can one network, with one
# loss, do all three?
#
# The idea of the lesson in one sentence: **a segment is a class and a mask, and a network predicts the segments of an
# image as a set.** MaskFormer (2021), Mask2Former (2022) and EoMT (2025) are three networks of this kind: Mask2Former
# improves MaskFormer's attention, pixel decoder and loss; EoMT needs neither decoder. You build the mask of a query, draw
# the cells of masked attention, compute a loss on a few points instead of all pixels, and read three tasks from one
# output.
#
# You need [notebook 8](08_detr_panoptic.ipynb) (queries, Hungarian matching, the set loss) and
# [notebook 6](06_panoptic_quality.ipynb) (PQ). [Glossary](../docs/glossary.md) of all terms.

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: minutes; full: a GPU
seed: int = 0

# %% tags=["hide-input"]
# Set-up: imports, sizes of the profiles, data, the network
# %matplotlib inline
import json
import time
from dataclasses import replace

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Patch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import labkit
from labkit.bench.training_study import StudyRow
from labkit.checkpoints.shipped import FOLDER, shipped
from labkit.checks import Checks, equal, has_shape
from labkit.colors import PETROFF_10
from labkit.datasets.coco.categories import coco_panoptic
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.in_memory import InMemory
from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor, load_model
from labkit.metrics.coco_ap import COCOAP
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.semantic import ConfusionMatrix
from labkit.models import build
from labkit.models.layers import resize_bilinear
from labkit.models.mask2former.criterion import (
    MaskLossConfig,
    mask_classification_losses,
    match_segments,
    sample_points,
)
from labkit.models.mask2former.deformable_attention import deformable_attention
from labkit.models.mask2former.pixel_decoder import level_positions
from labkit.models.mask2former.postprocess import (
    instance_inference,
    panoptic_inference,
    resize_masks,
    semantic_inference,
)
from labkit.models.preprocess import preprocess
from labkit.models.targets import segments_of
from labkit.structures import VOID, Detections, Panoptic, Prediction, Segment
from labkit.system.cpu_cores import use_threads
from labkit.system.paths import find_data
from labkit.system.progress_bars import progress_bar
from labkit.visualize import feature_colors, panels, show_image

num_val, num_draws = {"smoke": (4, 5), "quick": (100, 200), "full": (500, 1000)}[profile]
_ = torch.manual_seed(seed)
if profile != "full":
    use_threads(1)  # the tensors are small: threads would wait for one another
COLORS = [np.array(c) / 255 for c in PETROFF_10]
blue, orange, red, grey = COLORS[:4]

val_set = Shapes("val", num=num_val, seed=seed)
crowded_set = Shapes("val", num=max(1, num_val // 2), crowded=True, seed=seed)
categories = val_set.categories
THINGS, CLASSES, SIDE = len(categories.things), len(categories), val_set.size
SETS = {"Shapes": InMemory(val_set).items, "crowded": InMemory(crowded_set).items}
NAMES = [c.name for c in categories] + ["∅"]
network = load_model("mask2former_tiny")
SCORE_THRESH = network.config.inference.score_thresh


@torch.no_grad()
def predictions_of(model, of):
    """For each image: class logits (L, Q, K + 1), mask logits (L, Q, h, w) of all layers, its batch."""
    results = []
    for one, _ in progress_bar(SETS[of], unit="image"):
        of_image = preprocess([one], model.config.preprocessing)
        decoded = model.pixel_decoder(model.backbone(of_image.tensor))
        classes, masks = model.decoder(*decoded, every_layer=True)
        results.append((classes[:, 0], masks[:, 0], of_image))
    return results


def large(result, layer=-1):
    """Class logits (Q, K + 1) and mask logits (Q, H, W) after a layer, at the image's size."""
    classes, masks, of_image = result
    return classes[layer], resize_masks(masks[layer], of_image, 0)


def panoptic_maps(results, layer=-1):
    config = network.config.inference
    return [panoptic_inference(*large(result, layer), THINGS, config) for result in results]


def quality_of(maps, of="Shapes"):
    """PQ, SQ and RQ of panoptic maps, one for each image of a set."""
    quality = PanopticQuality(categories)
    for panoptic, (_, target) in zip(maps, SETS[of], strict=True):
        quality.update(panoptic, target["panoptic"])
    return quality.compute()


def to_map(classes, masks):
    """A set of disjoint masks as a panoptic map."""
    ids = torch.zeros(masks.shape[1:], dtype=torch.int32)
    segments = []
    for label, mask in zip(classes.tolist(), masks, strict=True):
        segments.append(Segment(len(segments) + 1, label, 1.0 if label < THINGS else None))
        ids[mask] = segments[-1].id
    return Panoptic(ids, segments)


HEADER = f"{'':44}{'PQ':>6}{'things':>8}{'stuff':>7}"


def table_row(name, result):
    values = result.all.pq, result.things.pq, result.stuff.pq
    return f"{name:44}" + "".join(
        f"{100 * v:{n}.1f}" for v, n in zip(values, (6, 8, 7), strict=True)
    )


STUDY = json.loads((FOLDER / "mask_classification.json").read_text(encoding="utf-8"))
RESULTS = {of: predictions_of(network, of) for of in SETS}
MAPS = {of: panoptic_maps(RESULTS[of]) for of in SETS}

# %% [markdown]
# ## 10.1 A class for each pixel, or a class for each mask
#
# ![Two ways to segment an image. Per-pixel classification: a network gives every pixel a softmax over the classes, and
# two touching squares become one region. Mask classification: a network gives a set of pairs, each a class and a mask,
# and the two squares are two pairs.](diagrams/mask_classification.svg)
#
# **Per-pixel classification** (notebook 1) is a softmax over $K$ classes in every pixel. It is the natural form of
# semantic segmentation. But its output has no place for "which object": where two squares touch, all their pixels have
# the class *square*, and nothing says where one ends. Instance segmentation therefore used another method: boxes first,
# then a mask in each box (notebook 3). Panoptic segmentation merged the two (notebooks 4 and 5).
#
# **Mask classification** gives a set of $Q$ pairs. Pair $q$ has
#
# - a distribution $p_q$ over $K + 1$ classes, the last of them $\varnothing$ (no object),
# - a mask $m_q \in [0, 1]^{H \times W}$: a probability for each pixel, on its own. Masks may overlap.
#
# The ground truth has the same form, whatever the task. Only what counts as a segment differs: for semantic
# segmentation all pixels of a class, for instance segmentation one object, for panoptic segmentation one object of a
# thing class or all pixels of a stuff class.


# %% tags=["idea"]
def as_set(panoptic):
    """A panoptic map as a set of segments: classes (n,) and masks (n, H, W)."""
    classes = torch.tensor([segment.label for segment in panoptic.segments])
    ids = torch.tensor([segment.id for segment in panoptic.segments])
    return classes, panoptic.ids == ids[:, None, None]


def split_by_components(semantic):
    """A semantic map as a set: every connected region of a thing class is taken for one object."""
    classes, masks = [], []
    for label in semantic.unique().tolist():
        pixels = (semantic == label).numpy().astype(np.uint8)
        stuff = 2, pixels  # one segment, however many regions
        count, region = cv2.connectedComponents(pixels, connectivity=4) if label < THINGS else stuff
        classes += [label] * (count - 1)
        masks += [region == k for k in range(1, count)]
    return torch.tensor(classes), torch.from_numpy(np.stack(masks))


# %% [markdown]
# > **Predict.** Suppose a per-pixel classifier is *perfect*: its semantic map is the ground truth. We split it into
# > connected regions, one object each. What is the PQ of things on Shapes (two to eight objects), and on the crowded
# > images, where they overlap?

# %% tags=["hide-input"]
# Figure and table: perfect semantic maps, split into connected regions

print(HEADER)
for of, items in SETS.items():
    regions = [to_map(*split_by_components(t["semantic"])) for _, t in items]
    result = quality_of(regions, of)
    print(table_row(f"perfect map, connected regions: {of}", result))
    labkit.record(f"pq_things_of_regions_{of}", result.things.pq)
    if of == "Shapes":
        regions_of_shapes = regions


def pq_of_image(k):
    """PQ of the network on one image of Shapes; 0 where the regions lose no object."""
    gt = SETS["Shapes"][k][1]["panoptic"]
    quality = PanopticQuality(categories)
    quality.update(MAPS["Shapes"][k], gt)
    return quality.compute().all.pq * (len(regions_of_shapes[k].segments) < len(gt.segments))


EXAMPLE = max(range(num_val), key=pq_of_image)  # the image of most figures
image, target = SETS["Shapes"][EXAMPLE]
gt_classes, gt_masks = as_set(target["panoptic"])
shown = [("image", image, None), ("ground truth", image, target["panoptic"])]
shown += [
    ("a class for each pixel", image, target["semantic"]),
    ("its regions", image, regions_of_shapes[EXAMPLE]),
]
panels(shown, categories, columns=4, size=2.45)

# %% [markdown]
# With few objects the regions are often right. In a crowd nearly all objects touch another of their class, and almost
# nothing is left. No better classifier can help: the information is not in the output.
#
# ## 10.2 MaskFormer: a mask is a dot product
#
# ![Mask2Former. The backbone's maps pass through the pixel decoder, which gives mask features and three
# memories. The decoder refines the queries by masked cross-attention to the memories, self-attention and a feed-forward
# network. Each query gives class logits and a mask embedding; mask logits are the dot products of mask embeddings and mask
# features, and the next layer's attention is masked with them. Below, class logits and mask logits together are read as
# panoptic, instance or semantic result.](diagrams/mask2former.svg)
#
# DETR predicts boxes, and adds a mask head later (8.10). **MaskFormer** has no boxes at all. Like DETR it has a backbone
# and a transformer decoder with $Q$ queries. Beside it a **pixel decoder** (in MaskFormer an FPN) makes a vector
# for every cell at stride 4, the **mask features** $E$. An MLP of three layers makes a vector of the same length
# from every query, the **mask embedding** $v_q$. The mask logit of query $q$ in pixel $x$ is their dot product, and the mask is its sigmoid:
#
# $$ m_q(x) = \mathrm{sigmoid}\bigl(v_q \cdot E(x)\bigr) . $$
#
# The shapes of `mask2former_tiny`, which comes with labkit, for an image of 128 × 128 pixels: $Q = 40$ queries with
# $D = 64$ channels; class logits (40, 8); mask features (64, 64, 64), of stride 2 because the objects are small; mask
# logits (40, 64, 64).


# %% tags=["idea"]
def my_heads(decoder, x, mask_features):
    """Class logits (Q, K + 1) and mask logits (Q, h, w) of query features x (Q, D)."""
    x = decoder.norm(x)
    class_logits = decoder.class_embed(x)  # one linear layer
    mask_embeddings = decoder.mask_embed(x)  # (Q, D), three linear layers
    mask_logits = torch.einsum("qd,dhw->qhw", mask_embeddings, mask_features)  # features (D, h, w)
    return class_logits, mask_logits


# %% tags=["hide-input"]
# Figure: mask features, and the dot products of some queries


@torch.no_grad()
def decode(model, image):
    """The parts of a network for one image: mask features, memories, features of the queries, output, batch."""
    batch = preprocess([image], model.config.preprocessing)
    features, memories = model.pixel_decoder(model.backbone(batch.tensor))
    states = []
    handle = model.decoder.layers[-1].register_forward_hook(lambda *call: states.append(call[2]))
    class_logits, mask_logits = model.decoder(features, memories, every_layer=True)
    handle.remove()
    return features[0], [m[0] for m in memories], states[0][0], (class_logits, mask_logits), batch


with torch.no_grad():
    mask_features, memories, x, (all_classes, all_masks), batch = decode(network, image)
    class_logits, mask_logits = my_heads(network.decoder, x, mask_features)
gap = max(
    float((class_logits - all_classes[-1, 0]).abs().max()),
    float((mask_logits - all_masks[-1, 0]).abs().max()),
)
print(f"largest difference from the model's logits: {gap:.1e}")
labkit.record("own_heads_vs_labkit", gap)
scores, labels = class_logits.softmax(dim=-1)[:, :-1].max(dim=-1)
pair = match_segments(
    all_classes[-1, 0], all_masks[-1, 0], segments_of(target, CLASSES, True), network.config.loss
)
touching = [int(q) for q, s in zip(*pair, strict=True) if gt_classes[s] < THINGS]
confident = (scores > 0.5).nonzero()[:, 0].tolist()
drawn = sorted(touching[:3] + [q for q in confident if labels[q] >= THINGS][:1])
figure, axes = plt.subplots(1, 2 + len(drawn), figsize=(10, 2.3), layout="constrained")
show_image(axes[0], image)
axes[1].imshow(feature_colors(mask_features)[0], extent=(0, SIDE, SIDE, 0))
axes[0].set_title("image", fontsize=9)
axes[1].set_title("mask features", fontsize=9)
for axis, q in zip(axes[2:], drawn, strict=True):
    axis.imshow(mask_logits[q], cmap="RdBu_r", vmin=-10, vmax=10, extent=(0, SIDE, SIDE, 0))
    axis.set_title(f"query {q}: {NAMES[labels[q]]} {scores[q]:.2f}", fontsize=9)
for axis in axes:
    axis.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# The colours of the mask features are their first three principal components: pixels of one object have similar
# vectors, and two objects of one class have different ones. Red is a positive logit. A mask is the set of pixels
# whose features lie on one side of a hyperplane through the origin, and $v_q$ is its normal.
#
# Like DETR, MaskFormer trains for long: 300 epochs of COCO. Mask2Former keeps the heads and changes mainly three things:
# attention (10.3), the pixel decoder (10.4), the loss (10.5). It also has nine decoder layers instead of six, another
# augmentation and other weights of the losses, so this table does not separate the causes (10.8 does).
#
# | COCO val, ResNet-50 | steps | batch | millions of images seen | PQ |
# | --- | --- | --- | --- | --- |
# | MaskFormer | 554 400 | 64 | 35.5 | 46.5 |
# | Mask2Former | 368 750 | 16 | 5.9 | 51.9 |
#
# (Published configurations and model zoos of the two projects; ResNet-50. This MaskFormer has six layers of DETR's
# encoder in front of its FPN.)
#
# ## 10.3 Masked attention: what a query may attend to
#
# In DETR a query attends to all cells, and training must first teach it *where* its object is. In **masked attention** a
# query attends only to the cells inside the mask that it has predicted so far:
#
# 1. Before each decoder layer the heads predict a mask from the present query features.
# 2. The mask logits are resized to the layer's level, then the sigmoid. Cells with a probability below 0.5 are
#    *forbidden*: their attention weight is 0, the softmax runs over the others.
# 3. The layers visit three levels in turn: stride 32, 16, 8, and again.
#
# The first prediction is made before the first layer: from the learnt query features (`query_feat`) alone, the same
# for every image. But its dot product with the mask features does depend on the image.
#
# **Empty masks.** If an empty mask forbids all cells, the softmax runs over nothing: $0 / 0$. Such a query may attend to
# all cells.
#
# > **Exercise 10.1.** Write `forbidden_cells(mask_logits)` for mask logits $(Q, h, w)$ at the size of the level. It
# > returns a tensor of bool $(Q, h \cdot w)$, row by row: `True` where attention is forbidden, with the rule for an
# > empty mask. For one query and the logits `[[2, -1], [0, -3]]` it is `[[False, True, False, True]]`: a probability of
# > exactly 0.5 is allowed.


# %% exercise="forbidden_cells"
# Exercise 10.1: the cells that a query must not attend to
def forbidden_cells(mask_logits):
    """The mask of the next attention, ``(Q, h · w)`` bool, True where attention is forbidden.

    Args:
        mask_logits: ``(Q, h, w)``.
    """
    # BEGIN SOLUTION
    outside = mask_logits.flatten(1).sigmoid() < 0.5
    empty = outside.all(dim=1, keepdim=True)
    return outside & ~empty
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 10.1
two = torch.tensor([[[2.0, -1], [0, -3]], [[-1, -2], [-0.5, -4]]])
check = Checks("Exercise 10.1")
with check("the example; a probability of 0.5 is allowed"):
    equal(forbidden_cells(two[:1]), [[False, True, False, True]])
with check("an empty mask: everything is allowed, for this query only"):
    equal(forbidden_cells(two), [[False, True, False, True], [False] * 4])
with check("a cell for each of h · w, row by row"):
    has_shape(forbidden_cells(torch.zeros(3, 2, 5)), (3, 10))
    rows = torch.tensor([[[1.0, -1, 1], [-1, -1, -1]]])
    equal(forbidden_cells(rows).int(), [[0, 1, 0, 1, 1, 1]])
check.report()


# %% tags=["idea"]
@torch.no_grad()
def my_decoder(decoder, mask_features, memories):
    """Query features (Q, D) before the first layer and after each; the attention mask of each layer."""
    x = decoder.query_feat.weight  # (Q, D), the learnt start, which DETR sets to zero
    query_positions = decoder.query_embed.weight  # (Q, D), the object queries of 8.1
    states, forbidden = [x], []
    for i, layer in enumerate(decoder.layers):
        level = i % len(memories)  # coarse to fine, and again
        memory = memories[level] + decoder.level_embed.weight[level][:, None, None]  # (D, h, w)
        size = memory.shape[1:]
        # A dot product with resized features is the resized dot product: both are linear.
        _, mask_logits = my_heads(decoder, x, resize_bilinear(mask_features[None], size)[0])
        forbidden.append(forbidden_cells(mask_logits))
        cells = memory.flatten(1).T  # (h · w, D)
        positions = level_positions(size, len(memory), memory)
        # Masked cross-attention, then self-attention, then a feed-forward network.
        x = layer(x[None], query_positions[None], cells[None], positions, forbidden[-1])[0]
        states.append(x)
    return states, forbidden


# %% tags=["hide-input"]
# Figure and table: the cells that queries may attend to, layer by layer
states, forbidden = my_decoder(network.decoder, mask_features, memories)
gap = float((states[-1] - x).abs().max())
print(f"largest difference from the model's query features: {gap:.1e}")
labkit.record("own_decoder_vs_labkit", gap)
sides = [m.shape[1] for m in memories]
LAYERS = len(forbidden)
figure, axes = plt.subplots(
    len(drawn),
    LAYERS + 1,
    figsize=(10, 1.5 * len(drawn) + 0.3),
    layout="constrained",
    squeeze=False,
)
for row, q in zip(axes, drawn, strict=True):
    for i, axis in enumerate(row[:-1]):
        side = sides[i % len(sides)]
        seen = ~forbidden[i][q].view(side, side).numpy()
        show_image(axis, image, alpha=0.35)
        axis.imshow(
            np.where(seen, 1.0, np.nan),
            cmap="autumn",
            vmin=0,
            vmax=2,
            alpha=0.65,
            extent=(0, SIDE, SIDE, 0),
            interpolation="nearest",
        )
        if q == drawn[0]:
            axis.set_title(f"layer {i + 1}: {side} × {side}", fontsize=8)
    show_image(row[-1], image, alpha=0.35)
    row[-1].imshow(
        np.where(mask_logits[q] > 0, 1.0, np.nan),
        cmap="cool",
        vmin=0,
        vmax=2,
        alpha=0.75,
        extent=(0, SIDE, SIDE, 0),
        interpolation="nearest",
    )
    row[0].set_ylabel(f"query {q}: {NAMES[labels[q]]}", fontsize=8)
axes[0][-1].set_title("final mask", fontsize=8)
plt.show()


def attended_by_layer(items):
    """By layer, over some images: the share of empty masks among the queries that predict a segment and
    among the others; the share of cells that the queries with a mask may attend to."""
    of_segments, of_others, cells = [], [], []
    for one, _ in items:
        features, of_levels, _, (classes, _), _ = decode(network, one)
        _, masks = my_decoder(network.decoder, features, of_levels)
        predicts = classes[-1, 0].argmax(dim=1) < CLASSES
        free = torch.stack([~m.any(dim=1) for m in masks])  # (layers, Q): nothing is forbidden
        seen = torch.stack([(~m).float().mean(dim=1) for m in masks])
        of_segments.append(free[:, predicts].float())
        of_others.append(free[:, ~predicts].float())
        cells.append(torch.where(free, torch.nan, seen))
    parts = (torch.cat(part, dim=1) for part in (of_segments, of_others, cells))
    return [part.nanmean(dim=1).tolist() for part in parts]


ROWS = ("empty, queries with a segment", "empty, the others", "cells attended to with a mask")
print(f"\n{'layer':32}" + "".join(f"{i + 1:>6}" for i in range(LAYERS)))
for name, values in zip(
    ROWS, attended_by_layer(SETS["Shapes"][: max(4, num_val // 5)]), strict=True
):
    print(f"{name:32}" + "".join(f"{v:6.0%}" for v in values))
    for i, value in enumerate(values):
        labkit.record(f"{name.replace(', ', '_').replace(' ', '_')}_{i + 1}", value)

# %% [markdown]
# Where everything is orange the mask was empty. On the level of 4 × 4 cells small objects vanish; on the finer ones
# a query with a mask attends to 5 to 10 % of the cells on average. Of the queries that end with $\varnothing$ 47 to
# 91 % have an empty mask, so the rule is needed in every layer.
#
# > **Predict.** We switch the masks off in the trained network: every query attends to all cells, in all layers.
# > Does PQ rise, stay the same, or fall?

# %% tags=["hide-input"]
# Table: the trained network with and without masks in its attention

unmasked = load_model("mask2former_tiny")
unmasked.decoder.config = replace(unmasked.decoder.config, masked=False)
print(HEADER)
for of in SETS:
    with_masks = quality_of(MAPS[of], of)
    without = quality_of(panoptic_maps(predictions_of(unmasked, of)), of)
    print(table_row(f"masked attention: {of}", with_masks))
    print(table_row("masks switched off", without))
    labkit.record(f"pq_masked_{of}", with_masks.all.pq)
    labkit.record(f"pq_unmasked_{of}", without.all.pq)
    labkit.record(f"pq_lost_without_masks_{of}", with_masks.all.pq - without.all.pq)

# %% [markdown]
# It falls, by tens of points. In training the layers received a mean over the mask; a mean over the whole image is
# another input. (A network *trained* without masks loses only a few points: 10.8. EoMT removes the masks during
# training: 10.9.)
#
# ## 10.4 The pixel decoder: deformable attention
#
# The queries should read features with context from the whole image, at three strides. A DETR encoder (8.6) over the
# cells of all three levels would do, but attention among $T$ cells costs $T^2$. **Deformable attention** (Deformable
# DETR, 2021) predicts for each cell what is read. From the cell's features one linear layer predicts, for each of $M$
# heads, $S$ levels and $P$ points, an **offset** from its own place; another one predicts a weight, and a softmax runs
# over the $S \cdot P$ weights of a head. The places for one cell, with the trained network:

# %% tags=["hide-input"]
# Figure: sampling points of one cell
attention = network.pixel_decoder.layers[0].self_attn
inputs = []
handle = attention.register_forward_pre_hook(lambda module, args: inputs.extend(args))
with torch.no_grad():
    network.predict(network.backbone(batch.tensor), batch)
handle.remove()
query, reference, value, sizes = inputs
HEADS, LEVELS, POINTS = attention.shape
with torch.no_grad():
    offsets = attention.sampling_offsets(query).unflatten(2, (HEADS, LEVELS, POINTS, 2))
    weights = attention.attention_weights(query).unflatten(2, (HEADS, -1)).softmax(dim=-1)
    weights = weights.unflatten(3, (LEVELS, POINTS))  # (1, T, M, S, P)
    extent = torch.tensor([(w, h) for h, w in sizes])  # (S, 2)
    locations = reference[:, None, None, None] + offsets / extent[:, None]  # (1, T, M, S, P, 2)
rows, columns = np.nonzero(gt_masks[gt_classes < THINGS][0].numpy())
height, width = sizes[-1]
cell = int(rows.mean() / SIDE * height) * width + int(columns.mean() / SIDE * width)
token = sum(h * w for h, w in sizes[:-1]) + cell  # the levels are in a row, coarse to fine
figure, axes = plt.subplots(1, LEVELS, figsize=(9, 3.2), layout="constrained")
for s, (axis, (h, w)) in enumerate(zip(axes, sizes, strict=True)):
    show_image(axis, image, alpha=0.6, margin=SIDE / 3)
    axis.set_xticks(np.arange(1, w) * SIDE / w, [""] * (w - 1))
    axis.set_yticks(np.arange(1, h) * SIDE / h, [""] * (h - 1))
    axis.grid(color="white", linewidth=0.4)
    axis.tick_params(length=0)
    for head in range(HEADS):
        place = locations[0, token, head, s] * SIDE
        size = 15 + 300 * weights[0, token, head, s].numpy()
        axis.scatter(
            *place.T,
            s=size,
            color=COLORS[head],
            edgecolor="black",
            linewidth=0.5,
            label=f"head {head + 1}",
        )
    axis.plot(*(reference[token] * SIDE), "w*", markersize=13, markeredgecolor="black")
    axis.set_title(f"level {s + 1}: {h} × {w} cells", fontsize=9)
handles, names = axes[0].get_legend_handles_labels()
legend = figure.legend(
    handles, names, loc="outside lower center", ncols=HEADS, fontsize=8, frameon=False
)
for handle in legend.legend_handles:
    handle.set_sizes([40])
plt.show()
outside = ((locations < 0) | (locations > 1)).any(dim=-1).float().mean(dim=(0, 1, 2, 4))
for s, share in enumerate(outside):
    print(
        f"level {s + 1}: {share:.0%} of all sampling points lie outside the image, where values are 0"
    )
    labkit.record(f"samples_outside_level_{s + 1}", share)

# %% [markdown]
# The star is the cell's own place, a dot a sampling point, its colour the head, its size the weight.
#
# > **At toy size.** Offsets are counted in cells of their level, and training starts with 1 to 4 cells. A level of 4 × 4
# > has no room for that: most points of level 1 lie outside the image and read 0, many even outside the figure.
#
# The values at these places are interpolated bilinearly, as in RoIAlign (2.2), and summed:
#
# $$ \mathrm{head}(t) = \sum_{s=1}^{S} \sum_{p=1}^{P} a_{t,s,p} \, V_s(r_t + \Delta_{t,s,p}) . $$
#
# $r_t$ is the centre of cell $t$, in fractions of the sides; $\Delta$ the offset, divided by the level's width and height;
# $a$ the weight; $V_s$ a linear projection of level $s$ for this head. The heads are concatenated and projected. The pixel
# decoder has six such layers, `mask2former_tiny` one.
#
# There is no comparison of queries and keys, so no $T \times T$ table. (Notebook 5's deformable *convolution* also
# predicts offsets; its weights are fixed, here they are predicted.)


# %% tags=["idea"]
def my_deformable_attention(levels, locations, weights):
    """One head: S levels (d, h, w), sampling locations (T, S, P, 2) and weights (T, S, P) of T cells."""
    total = 0
    for s, values in enumerate(levels):
        grid = 2 * locations[:, s] - 1  # fractions of the sides; for grid_sample from -1 to 1
        sampled = F.grid_sample(values[None], grid[None], align_corners=False)[0]  # (d, T, P)
        total = total + torch.einsum("dtp,tp->td", sampled, weights[:, s])
    return total  # (T, d)


# %% tags=["hide-input"]
# Test: comparison with labkit; table: costs
with torch.no_grad():
    values = attention.value_proj(value).unflatten(2, (HEADS, -1))  # (1, T, M, d)
    theirs = deformable_attention(values, sizes, locations, weights).unflatten(2, (HEADS, -1))
    gaps = []
    for head in range(HEADS):
        of_levels = values[0, :, head].split([h * w for h, w in sizes])
        levels = [v.T.unflatten(1, size) for v, size in zip(of_levels, sizes, strict=True)]
        ours = my_deformable_attention(levels, locations[0, :, head], weights[0, :, head])
        gaps.append(float((ours - theirs[0, :, head]).abs().max()))
print(f"largest difference from labkit's: {max(gaps):.1e}\n")
labkit.record("own_deformable_attention_vs_labkit", max(gaps))
print(f"{'cells read for each cell and head':36}{'full attention':>16}{'deformable':>12}")
STRIDES = (32, 16, 8)
for name, sides_of, heads_of in (
    ("mask2former_tiny, 128 × 128", (128, 128), attention.shape),
    ("mask2former_r50, 800 × 1344", (800, 1344), (8, 3, 4)),
):
    cells = sum((sides_of[0] // k) * (sides_of[1] // k) for k in STRIDES)
    read = 4 * heads_of[1] * heads_of[2]  # four cells for each bilinear sample
    print(f"{name:36}{cells:16,}{read:12}")
    labkit.record(f"cells_of_{name.split(',')[0]}", cells)
    labkit.record(f"cells_read_for_one_of_{name.split(',')[0]}", read)

# %% [markdown]
# Full attention reads every cell of every level. Deformable attention always reads 48: twelve points, and four cells for
# each interpolation. At the test size for COCO, 800 × 1344, the full attention weights of one layer would be
# $22\,050^2 \cdot 8 = 3.9$ billion numbers, 15.6 GB in float32.
#
# The mask features at stride 4 come from one FPN step (3.2) after these layers.
#
# ## 10.5 Matching and losses on points
#
# **Matching.** Every segment gets a query of its own, by the Hungarian algorithm (8.2). The cost has no boxes. With
# query $q$ and segment $i$ of class $c_i$:
#
# $$ C_{q,i} = -2 \, p_q(c_i) + 5 \, \mathrm{BCE}(m_q, g_i) + 5 \, \mathrm{Dice}(m_q, g_i) . $$
#
# BCE is the mean binary cross-entropy over the pixels, and $\mathrm{Dice} = 1 - (2 \sum m g + 1) / (\sum m + \sum g + 1)$
# is nearly 1 minus the Dice overlap: it does not depend on the size of the segment. The **losses** are the same three
# terms with the same weights (cross-entropy for the class, with 0.1 for $\varnothing$), before the first layer and after
# every layer, each prediction with its own matching.
#
# **Points.** Both compare masks: all queries with all segments in the matching, matched pairs in the loss. On all
# pixels of a training image of 1024 × 1024 the loss compares a million numbers for each pair (the matching, at
# stride 4, 65 536). Mask2Former compares $P = 112^2$ random points instead (PointRend's idea): bilinear samples of
# the logits and of the ground truth. In the matching the points are uniform, the same ones for all pairs. In the
# loss three quarters of them lie where the mask is *uncertain*: of $3 P$ random candidates, the $\tfrac{3}{4} P$ with
# the smallest $|\mathrm{logit}|$. That is a quarter of the candidates, so a quarter of the image, however many points
# there are.
#
# > **Exercise 10.2.** Write `uncertain_points(candidates, logits, keep)`: of the candidates $(N, C, 2)$ of each mask
# > return the `keep` points $(N, \mathrm{keep}, 2)$ whose logits $(N, C)$ are nearest to 0, nearest first. For one mask
# > with logits `[3, -1, 0.5]` and `keep` 2 these are candidates 2 and 1. `keep` may be 0.


# %% exercise="uncertain_points"
# Exercise 10.2: uncertain points
def uncertain_points(candidates, logits, keep):
    """The points of each mask with the smallest absolute logits, ``(N, keep, 2)``, smallest first.

    Args:
        candidates: ``(N, C, 2)`` points, x and y.
        logits: ``(N, C)``, the mask logits at the points.
        keep: number of points.
    """
    # BEGIN SOLUTION
    chosen = logits.abs().topk(keep, dim=1, largest=False).indices  # (N, keep)
    return candidates.gather(1, chosen[:, :, None].expand(-1, -1, 2))
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 10.2
three = torch.tensor([[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]])
twice = torch.cat([three, three + 1])
check = Checks("Exercise 10.2")
with check("the example"):
    equal(uncertain_points(three, torch.tensor([[3.0, -1, 0.5]]), 2), three[:, [2, 1]])
with check("each mask has its own points"):
    of_two = uncertain_points(twice, torch.tensor([[3.0, -1, 0.5], [0.1, -2, -9]]), 1)
    equal(of_two, torch.stack([three[0, 2:], three[0, :1] + 1]))
with check("the sign of a logit does not matter; keep may be 0"):
    equal(uncertain_points(three, torch.tensor([[-4.0, -6, 5]]), 3), three[:, [0, 2, 1]])
    has_shape(uncertain_points(three, torch.tensor([[3.0, -1, 0.5]]), 0), (1, 0, 2))
check.report()


# %% tags=["idea"]
def loss_points(mask_logits, num_points, oversample=3, importance=0.75):
    """P points (N, P, 2) for each of N masks (N, h, w): uncertain ones, and uniform ones."""
    candidates = torch.rand(len(mask_logits), oversample * num_points, 2)
    keep = int(importance * num_points)
    chosen = uncertain_points(candidates, sample_points(mask_logits, candidates), keep)
    uniform = torch.rand(len(mask_logits), num_points - keep, 2)
    return torch.cat([chosen, uniform], dim=1)


def point_loss(mask_logits, gt_masks, points):
    """Binary cross-entropy (N,) of N masks with the ground truth, on points (N, P, 2)."""
    x, g = sample_points(mask_logits, points), sample_points(gt_masks.float(), points)
    return F.binary_cross_entropy_with_logits(x, g, reduction="none").mean(dim=1)


# %% [markdown]
# > **Predict.** The mean loss on uniform points estimates the mean over the whole image. How does its error change with
# > four times as many points? And does the mean on *uncertain* points estimate the same number?

# %% tags=["hide-input"]
# Figure and table: points drawn on an image; the estimate's error for several numbers of points
segments = segments_of(target, CLASSES, True)
queries, which = match_segments(all_classes[-1, 0], all_masks[-1, 0], segments, network.config.loss)
of_pairs, gt_of_pairs = all_masks[-1, 0, queries], segments.masks[which]
full = F.interpolate(of_pairs[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
exact = F.binary_cross_entropy_with_logits(full, gt_of_pairs.float(), reduction="none").mean(
    dim=(1, 2)
)
COUNTS = (16, 64, 256, 1024, 4096)
errors, ratio = {}, {}


def mean_losses(draw):
    """The loss on points, the mean over the pairs, for many draws of the points."""
    return torch.stack([point_loss(of_pairs, gt_of_pairs, draw()).mean() for _ in range(num_draws)])


for P in COUNTS:
    uniform = mean_losses(lambda P=P: torch.rand(len(of_pairs), P, 2))
    errors[P] = float(uniform.std() / uniform.mean())
    ratio[P] = float(mean_losses(lambda P=P: loss_points(of_pairs, P)).mean() / uniform.mean())
figure, axes = plt.subplots(
    1, 3, figsize=(9.6, 3.1), layout="constrained", width_ratios=[1, 1, 1.35]
)
one = int((segments.classes[which] < THINGS).nonzero()[0, 0])
for axis, points, title in (
    (axes[0], torch.rand(1, 256, 2), "256 uniform points"),
    (axes[1], loss_points(of_pairs[one : one + 1], 256), "256 points of the loss"),
):
    show_image(axis, image, alpha=0.5)
    axis.contour(
        np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5, full[one], [0], colors="black", linewidths=1
    )
    inside = sample_points(of_pairs[one : one + 1], points)[0] > 0
    for side, color in ((inside, orange), (~inside, blue)):
        axis.scatter(*(points[0, side] * SIDE).T, s=6, color=color)
    axis.set_title(title, fontsize=9)
axes[2].loglog(COUNTS, list(errors.values()), "o-", color=blue, label="measured")
axes[2].loglog(
    COUNTS, [errors[16] * (16 / n) ** 0.5 for n in COUNTS], "--", color="0.5", label="1 / √P"
)
axes[2].set(xlabel="uniform points P")
axes[2].set_title("relative error of the loss", fontsize=9)
axes[2].legend(frameon=False, fontsize=8)
axes[2].grid(alpha=0.3)
plt.show()
print(f"{'points':>8}{'of the pixels':>15}{'error, uniform':>16}{'loss, uncertain / uniform':>27}")
for P in COUNTS:
    print(f"{P:8,}{P / SIDE**2:15.1%}{errors[P]:16.1%}{ratio[P]:27.1f}")
print(f"\nuniform points against all pixels: {float(uniform.mean() / exact.mean()) - 1:+.0%}")
labkit.record("uniform_points_over_pixels", uniform.mean() / exact.mean())
labkit.record("error_1024_points", errors[1024])
labkit.record("error_ratio_4096_to_1024", errors[4096] / errors[1024])
labkit.record("loss_on_uncertain_over_uniform_points", ratio[1024])
labkit.record("pixels_over_points_at_1024", 1024**2 / MaskLossConfig().num_points)

# %% [markdown]
# In the figure the black line is the outline of the predicted mask; points where the logit is positive are orange, the
# others blue. Four times as many points halve the error, as in any mean of independent samples: the size of the image
# does not enter. So the larger the image, the larger the saving: at 1024 × 1024 the 12 544 points are one pixel in 84.
# (Uniform points give a larger loss than the pixels: between the centres of two pixels the label of an outline is between
# 0 and 1, and cross-entropy with such a label cannot reach 0.)
#
# The uncertain points are the quarter of the image with the smallest $|\mathrm{logit}|$. Here nearly all the loss is in
# this quarter, so the ratio is close to $0.75 \cdot 4 + 0.25 = 3.25$, for every number of points. On large images a
# quarter still contains much more than the outline. Points that the network gets wrong with confidence are left to the
# uniform part.
#
# **What it saves.** In the paper points reduce the training memory from 18 to 6 GB for each image (section 3.3).
#
# The three losses of the example, weights included, for each prediction. "Other query" counts segments whose query
# differs from that of the last layer:

# %% tags=["hide-input"]
# Table: losses and matching, layer by layer
torch.manual_seed(seed)
losses = mask_classification_losses(all_classes, all_masks, [segments], network.config.loss)
last_query = dict(zip(which.tolist(), queries.tolist(), strict=True))
print(f"{'prediction':>12}{'loss_ce':>10}{'loss_mask':>11}{'loss_dice':>11}{'other query':>20}")
for i in range(LAYERS + 1):
    ending = "" if i == LAYERS else f"_{i}"
    values = [float(losses[f"loss_{name}{ending}"]) for name in ("ce", "mask", "dice")]
    q, s = match_segments(all_classes[i, 0], all_masks[i, 0], segments, network.config.loss)
    moved = sum(last_query[int(b)] != int(a) for a, b in zip(q, s, strict=True))
    print(f"{i:12}{values[0]:10.3f}{values[1]:11.3f}{values[2]:11.3f}{moved:16} of {len(which)}")
    if i in (0, LAYERS):
        labkit.record(f"loss_of_prediction_{'first' if i == 0 else 'last'}", sum(values))

# %% [markdown]
# The first prediction has its own loss (8.3), so its masks are good already. In this image the layers correct the classes;
# the masks hardly change.
#
# ## 10.6 One output, three tasks
#
# The output is $Q$ pairs of a distribution and a mask. Each task has its own rule.
#
# **Semantic.** Every query votes in every pixel for every class; $\varnothing$ has no vote. No threshold:
#
# $$ \mathrm{class}(x) = \arg\max_c \sum_q p_q(c) \, m_q(x) . $$
#
# **Instance.** Every pair of a query and a class is a candidate. Of the 100 with the largest $p_q(c)$ those of things are
# detections. The mask is $m_q(x) > 0.5$, the score is $p_q(c)$ times the mean of $m_q$ inside that mask. So a sharp mask
# raises the score. Masks may overlap; there is no NMS.
#
# **Panoptic.** Every pixel gets one query.
#
# 1. Keep the queries whose best class is not $\varnothing$ and has a score $s_q$ above a threshold (0.8 in
#    Mask2Former, 0.5 in `mask2former_tiny`).
# 2. Each pixel goes to the kept query with the largest $s_q \, m_q(x)$.
# 3. A segment is the pixels that the query won *and* where $m_q(x) \ge 0.5$. It is dropped if the query won less
#    than 0.8 times as many pixels as its mask has. Then more than a fifth of the mask went to other queries: it is
#    partly hidden, or a duplicate.
# 4. Segments of one stuff class are joined. Pixels that nobody got are void.
#
# > **Exercise 10.3.** Write `semantic_votes(class_logits, mask_logits)` for class logits $(Q, K + 1)$ and mask logits
# > $(Q, H, W)$: the sums $(K, H, W)$ of the first formula. With probabilities $(0.5, 0.25, \varnothing\ 0.25)$ and
# > $m = 0.8$ in a pixel, a query adds 0.4 and 0.2 there.


# %% exercise="semantic_votes"
# Exercise 10.3: the votes for each class in each pixel
def semantic_votes(class_logits, mask_logits):
    """Sums over the queries of class probability times mask probability, ``(K, H, W)``.

    Args:
        class_logits: ``(Q, K + 1)``, the last of them "no object".
        mask_logits: ``(Q, H, W)``.
    """
    # BEGIN SOLUTION
    probability = class_logits.softmax(dim=-1)[:, :-1]  # the softmax first, with no object
    return torch.einsum("qc,qhw->chw", probability, mask_logits.sigmoid())
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 10.3
of_one = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[[0.8, 0.5]]]).logit()
of_two = (
    torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log(),
    torch.tensor([[[0.8, 0.5]], [[0.5, 1.0]]]).logit(),
)
check = Checks("Exercise 10.3")
with check("one query"):
    equal(semantic_votes(*of_one), [[[0.4, 0.25]], [[0.2, 0.125]]], within=1e-6)
with check("two queries add up; the second is probably no object, and adds little"):
    equal(semantic_votes(*of_two), [[[0.45, 0.35]], [[0.25, 0.225]]], within=1e-6)
with check("a row of votes for each class, none for no object"):
    has_shape(semantic_votes(torch.zeros(5, 4), torch.zeros(5, 2, 3)), (3, 2, 3))
with check("a query without a class has no vote, whatever its mask"):
    nothing = torch.tensor([[0.0, 0, 40]]), torch.full((1, 1, 1), 9.0)
    equal(semantic_votes(*nothing), [[[0]], [[0]]], within=1e-6)
check.report()


# %% tags=["idea"]
def my_instances(class_logits, mask_logits, limit=100):
    """Labels (N,), scores (N,) and masks (N, H, W) of the things among the best pairs."""
    probability = class_logits.softmax(dim=-1)[:, :-1]  # (Q, K)
    scores, pairs = probability.flatten().topk(min(limit, probability.numel()))
    queries, labels = pairs // probability.shape[1], pairs % probability.shape[1]
    m, masks = mask_logits[queries].sigmoid(), mask_logits[queries] > 0
    mask_scores = (m * masks).sum(dim=(1, 2)) / (masks.sum(dim=(1, 2)) + 1e-6)
    thing = labels < THINGS
    return labels[thing], (scores * mask_scores)[thing], masks[thing]


def my_panoptic(class_logits, m, score_thresh, intersect=True, scored=False):
    """Panoptic map of class logits (Q, K + 1) and mask probabilities m (Q, H, W).

    The two switches are for section 10.7.
    """
    scores, labels = class_logits.softmax(dim=-1).max(dim=-1)
    kept = (labels < CLASSES) & (scores > score_thresh)  # 1
    scores, labels, m = scores[kept], labels[kept].tolist(), m[kept]
    weighted = scores[:, None, None] * m
    ids, segments, id_of_stuff = torch.full(m.shape[1:], VOID, dtype=torch.int32), [], {}
    winner = weighted.argmax(dim=0) if labels else ids  # 2
    for q, label in enumerate(labels):
        won = winner == q
        mask = (weighted if scored else m)[q] >= 0.5
        region = won & mask if intersect else won  # 3
        if min(int(region.sum()), int(mask.sum())) == 0 or won.sum() / mask.sum() < 0.8:
            continue
        if label not in id_of_stuff:  # 4
            segments.append(Segment(len(segments) + 1, label, float(scores[q])))
        segment_id = id_of_stuff.get(label, len(segments))
        if label >= THINGS:
            id_of_stuff[label] = segment_id
        ids[region] = segment_id
    return Panoptic(ids, segments)


# %% tags=["hide-input"]
# Figure and table: three tasks from one output


def detections_of(labels, scores, masks):
    """Detections, best score first. Only masks are measured: boxes are left at zero."""
    order = scores.argsort(descending=True)
    return Detections(torch.zeros(len(order), 4), scores[order], labels[order], masks[order])


def read_all(of):
    """PQ, mask AP and mIoU of the read-outs above; differences from labkit's."""
    quality, miou = PanopticQuality(categories), ConfusionMatrix(CLASSES)
    ap, differ = COCOAP(categories, val_set.area_limits), np.zeros(3)
    for result, (_, target) in zip(RESULTS[of], SETS[of], strict=True):
        classes, masks = large(result)
        panoptic = my_panoptic(classes, masks.sigmoid(), SCORE_THRESH)
        semantic = semantic_votes(classes, masks).argmax(dim=0)
        detections = detections_of(*my_instances(classes, masks))
        config = network.config.inference
        theirs = instance_inference(classes, masks, THINGS, config)
        differ += [
            int((panoptic.ids != panoptic_inference(classes, masks, THINGS, config).ids).sum()),
            int((semantic != semantic_inference(classes, masks)).sum()),
            float((detections.scores - theirs.scores).abs().sum()),
        ]
        quality.update(panoptic, target["panoptic"])
        miou.update(semantic, target["semantic"])
        ap.update(Prediction(detections), target)
    return quality.compute().all.pq, ap.compute().segm.ap, miou.compute().miou, differ


print(f"{'':14}{'PQ':>8}{'mask AP':>10}{'mIoU':>8}")
for of in SETS:
    pq, ap, miou, differ = read_all(of)
    print(f"{of:14}{100 * pq:8.1f}{100 * ap:10.1f}{100 * miou:8.1f}")
    for name, value in (("pq", pq), ("mask_ap", ap), ("miou", miou)):
        labkit.record(f"{name}_{of}", value)
    for name, value in zip(("panoptic", "semantic", "instance"), differ, strict=True):
        labkit.record(f"own_{name}_differs_{of}", value)
classes, masks = large(RESULTS["Shapes"][EXAMPLE])
found = detections_of(*my_instances(classes, masks))
panels(
    [
        ("image", image, None),
        ("panoptic", image, my_panoptic(classes, masks.sigmoid(), SCORE_THRESH)),
        ("instance: scores above 0.5", image, found[found.scores > 0.5]),
        ("semantic", image, semantic_votes(classes, masks).argmax(dim=0)),
    ],
    categories,
    columns=4,
    size=2.45,
)

# %% [markdown]
# In the panel *instance* the small triangle has two labels (0.97 and 0.93): two queries predict it, and without NMS both
# stay. The panoptic read-out drops one of them in step 3.
#
# One set of weights, one loss, one output. So the model zoo lists three numbers for the panoptic Mask2Former R50: PQ 51.9,
# mask AP 41.7, mIoU 61.7. (Trained for instances alone, with *targets* of things only, it has AP 43.7.)
#
# ## 10.7 The same weights, three post-processings
#
# A published number belongs to weights *and* a post-processing. Several implementations of the panoptic read-out exist,
# and they differ in lines that look like details:
#
# - **Mask2Former** (the original): the four steps above. Masks are resized as *logits*, then the sigmoid.
# - **MaskFormer**: a segment is all that the query won, not cut with $m_q \ge 0.5$.
# - **transformers** (5.24), `Mask2FormerImageProcessor.post_process_panoptic_segmentation`: as MaskFormer, with three
#   changes. $m$ is multiplied by the score before the test $m \ge 0.5$ that gives the area of the mask: a query with a
#   score of 0.6 has only the pixels with $m \ge 0.83$ in it. Masks are resized twice: logits to a fixed size, then
#   *probabilities* to the image. The default threshold of the score is 0.5, not 0.8.
#
# > **Predict.** Which of the three gives the highest PQ with our weights? By how much do they differ: 0.1, 1 or 10
# > points?


# %% tags=["idea"]
def transformers_map(class_logits, mask_logits, size, score_thresh, fixed=(384, 384)):
    """The panoptic map of the package transformers, from small mask logits (Q, h, w)."""
    m = resize_bilinear(mask_logits[None], fixed).sigmoid()
    m = resize_bilinear(m, size)[0]  # probabilities are resized, not logits
    return my_panoptic(class_logits, m, score_thresh, intersect=False, scored=True)


# %% tags=["hide-input"]
# Table: the three read-outs
RULES = {
    "Mask2Former": lambda c, small, big, t: my_panoptic(c, big.sigmoid(), t),
    "MaskFormer: no cut with m ≥ 0.5": lambda c, small, big, t: my_panoptic(
        c, big.sigmoid(), t, intersect=False
    ),
    "transformers: area of score · m ≥ 0.5": lambda c, small, big, t: transformers_map(
        c, small, big.shape[1:], t
    ),
}
CASES = (("Shapes", 0.5), ("Shapes", 0.8), ("crowded", 0.5))  # images, threshold of the score
of_rule = {}
print(f"{'':40}" + "".join(f"{f'{of}, {t}':>18}" for of, t in CASES))
print(f"{'':40}" + f"{'PQ':>10}{'void':>8}" * len(CASES))
for name, rule in RULES.items():
    cells = ""
    for of, threshold in CASES:
        maps = []
        for result in RESULTS[of]:
            classes, masks = large(result)
            maps.append(rule(classes, result[1][-1], masks, threshold))
        pq = of_rule[name, of, threshold] = quality_of(maps, of).all.pq
        void = np.mean([float((p.ids == VOID).float().mean()) for p in maps])
        cells += f"{100 * pq:10.1f}{void:8.1%}"
    print(f"{name:40}{cells}")
first, no_cut, last = RULES
for of, threshold in CASES:
    original = of_rule[first, of, threshold]
    labkit.record(
        f"pq_without_cut_minus_original_{of}_{int(100 * threshold)}",
        of_rule[no_cut, of, threshold] - original,
    )
    labkit.record(
        f"pq_transformers_minus_original_{of}_{int(100 * threshold)}",
        of_rule[last, of, threshold] - original,
    )

# %% [markdown]
# On Shapes the three are within 0.1, too little for 100 images; on crowded images the original is ahead by 1.5 and
# 1.6. That is small, but from ResNet-50 to ResNet-101 Mask2Former gains 0.7 PQ (10.11), and a table that mixes two
# read-outs cannot show that. Say which one you use; labkit has the original's.
#
# ## 10.8 Which part matters
#
# **Depth.** Every layer gives a complete prediction, trained by its own loss. So one network holds seven decoders, of 0
# to 6 layers:

# %% tags=["hide-input"]
# Table: PQ of the prediction after each layer
print(f"{'layers':44}{'PQ':>6}{'things':>8}{'stuff':>7}")
of_layer = []
for layer in range(LAYERS + 1):
    result = quality_of(panoptic_maps(RESULTS["Shapes"], layer))
    of_layer.append(result.all.pq)
    print(table_row(f"{layer}", result))
    labkit.record(f"pq_after_{layer}_layers", result.all.pq)
    labkit.record(f"pq_things_after_{layer}_layers", result.things.pq)

# %% [markdown]
# Layer 0 is no decoder at all. Its class logits are the same for every image; only its masks depend on it. Still it
# finds most of the stuff and many things: each query has a class and a place of its own (the paper compares it with
# a region proposal network). The layers add 13.7 points in things, 6.5 in stuff, and three of them reach 90.2 of
# the 90.6. With all six layers and the masks switched off PQ was 54.2 (10.3), far below no layer at all.
#
# **One part changed.** To see what masked attention, the losses of the earlier layers and the points contribute, each
# must be changed in *training*. `labkit bench mask-study --steps 300 --out RUNS` trains Mask2Former on Shapes, from
# Panoptic FPN's backbone, with three seeds for each change, and measures 150 images;
# `data/checkpoints/mask_classification.json` is the result. (± is the sample standard deviation, n − 1, over the
# seeds. These trainings are short: `mask2former_tiny` had 12,000 steps. "Time" is the computing time of a step, as a
# multiple of the first row's.)
#
# > **Predict.** Attention without masks; a loss of the last layer only; losses on 16,384 uniform points, as many as the
# > image has pixels, instead of 1024 mostly uncertain ones. Which change costs most, and is there one that helps?

# %% tags=["hide-input"]
# Table: Mask2Former with one part changed in training
steps_of = f"{STUDY['steps']} steps"
print(f"{steps_of:32}{'PQ':>12}{'things':>12}{'stuff':>12}{'time':>7}")
KINDS = ("PQ", "things", "stuff")
of_mask2former = STUDY["ablations"]["Mask2Former"]
for name, seeds in STUDY["ablations"].items():
    # Seeds 1 and 2: some runs of seed 0 were timed with slower code.
    seconds, of_reference = (
        np.mean([scores["CPU seconds a step"] for scores in rows[1:]])
        for rows in (seeds, of_mask2former)
    )
    row = StudyRow(name, seeds)
    cells = "".join(f"{row.show(kind):>12}" for kind in KINDS)
    print(f"{name:32}{cells}{seconds / of_reference:6.1f}×")
    labkit.record(f"study_time_{name.replace(' ', '_').replace(',', '')}", seconds / of_reference)
    for kind in KINDS:
        gaps = [a[kind] - b[kind] for a, b in zip(seeds, of_mask2former, strict=True)]
        if seeds is not of_mask2former:
            labkit.record(f"study_{kind}_{name.replace(' ', '_').replace(',', '')}", np.mean(gaps))

# %% [markdown]
# Without masks in training the network loses 3.4 points of PQ, nearly all of them in stuff: 5.2 there, 1.1 in things, which
# is less than the spread. So a network trained without masks is far better than one from which they are taken
# afterwards (10.3). With a loss of the last layer only it loses 5.4, in things and in stuff. Sixteen times as many points,
# none of them chosen, gain 4.1 in things, lose 1.7 in stuff, and a step takes 2.1 times as long: at this size
# points halve the time of a step; PQ differs by no more than the spread, while things lose and stuff gains. (This
# row changes both number and choice of the points, so it does not separate them.)
#
# > **At toy size.** After 300 steps all rows are far below the 90.6 of the trained network, and images of 128 × 128
# > have few pixels. The table shows which part speeds up the start of the training, not what is reached at its end;
# > and the saving of points grows with the image.
#
# The paper's table 4 has the same question after full trainings on COCO: PQ falls by 4.8 without masked attention, by
# 1.7 with stride 32 alone, by 1.2 with an FPN as pixel decoder, and by 1.1 with three smaller changes undone together
# (learnt query features, cross-attention first, no dropout).
#
# ## 10.9 EoMT: how much of the decoder is needed
#
# Mask2Former puts a pixel decoder and a transformer decoder behind a convolutional backbone. A vision transformer
# (**ViT**) is itself a transformer: it cuts the image into patches of 16 × 16, makes a token of each, and lets the
# tokens attend to one another in 12 or 24 blocks. **EoMT** (encoder-only mask transformer, 2025) therefore drops both
# decoders:
#
# 1. In the first blocks there are only the patch tokens.
# 2. Before the last three or four blocks 200 learnt queries are added as further tokens. One self-attention now
#    does the work of three (patches to patches, queries to patches, queries to queries) and adds a fourth: patches
#    also attend to queries.
# 3. The heads are those of 10.2: a linear layer, an MLP, a dot product with the patches, enlarged to stride 4 by two
#    transposed convolutions.
#
# **Masked attention, and its end.** In training a query attends only to the patches in its mask, as in 10.3. Then the masks
# are removed *during* training: each query is masked with a probability that falls from 1 to 0, in the earlier blocks
# first (**mask annealing**). In prediction nothing is masked, and no mask has to be computed before the end.
# Compare 10.3, where switching the masks off at once destroyed the result.
#
# **What it costs** (the paper's tables 1 to 3): with the same ViT, against an adapter and Mask2Former, EoMT loses
# 1.1 PQ with ViT-L (57.1 to 56.0, at 4.4 times the speed), but 5.8 with ViT-S, and 6.1 with a ViT-L pretrained on
# ImageNet-1K.
#
# Where are the weights? (Counted on the device "meta", without memory.)

# %% tags=["hide-input"]
# Table: million weights by part
coco = coco_panoptic()
SYSTEMS = ("mask2former_r50", "eomt_small_640", "eomt_base_640", "eomt_large_640")


def million(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


print(
    f"{'million weights':17}{'all':>7}{'backbone':>10}{'pixel decoder':>15}{'decoder, queries, heads':>25}"
)
for name in SYSTEMS:
    with torch.device("meta"):
        model = build(name, coco)
    decoder = million(model.pixel_decoder) if hasattr(model, "pixel_decoder") else 0.0
    every, backbone = million(model), million(model.backbone)
    rest = every - backbone - decoder
    print(f"{name:17}{every:7.1f}{backbone:10.1f}{decoder:15.1f}{rest:25.1f}")
    labkit.record(f"million_weights_{name}", every)
    labkit.record(f"million_weights_beyond_the_backbone_{name}", every - backbone)

# %% [markdown]
# Behind its backbone Mask2Former has 20.5 million weights, most of them in nine decoder layers; EoMT-S has 1.8.
# (Its last three blocks, 5.3 million, count as backbone.)
#
# > **Predict.** We send one image of 640 × 640 through Mask2Former R50 and through EoMT-S. What share of the time does
# > Mask2Former spend behind its backbone?

# %% tags=["hide-input"]
# Figure and table: CPU time by part, random weights


def cpu_seconds(function, repeats):
    """The least CPU time of some calls."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def billion_multiplications(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 2e9


repeats = 5 if profile == "full" else 1
picture = torch.randn(1, 3, 640, 640)
spent = {}
with torch.inference_mode():
    model = build("mask2former_r50", coco).eval()
    features = model.backbone(picture)
    decoded = model.pixel_decoder(features)
    spent["Mask2Former R50"] = {
        "backbone": cpu_seconds(lambda: model.backbone(picture), repeats),
        "pixel decoder": cpu_seconds(lambda: model.pixel_decoder(features), repeats),
        "decoder": cpu_seconds(lambda: model.decoder(*decoded, every_layer=False), repeats),
    }
    billions = {
        "backbone": billion_multiplications(lambda: model.backbone(picture)),
        "pixel decoder": billion_multiplications(lambda: model.pixel_decoder(features)),
    }
    model = build("eomt_small_640", coco).eval()
    tokens = model.backbone(picture)
    spent["EoMT-S"] = {
        "backbone": cpu_seconds(lambda: model.backbone(picture), repeats),
        "last three blocks and heads": cpu_seconds(lambda: model.decode(tokens, False), repeats),
    }
figure, axis = plt.subplots(figsize=(9, 1.6), layout="constrained")
PARTS = {
    "backbone": blue,
    "pixel decoder": orange,
    "decoder": red,
    "last three blocks and heads": grey,
}
for name, parts in spent.items():
    left = 0.0
    for part, seconds_of in parts.items():
        axis.barh(name, seconds_of, left=left, color=PARTS[part], edgecolor="white")
        left += seconds_of
axis.invert_yaxis()
axis.set_xlabel("CPU seconds for an image of 640 × 640", fontsize=9)
handles = [Patch(color=color, label=part) for part, color in PARTS.items()]
axis.legend(handles=handles, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
total = {name: sum(parts.values()) for name, parts in spent.items()}
behind = 1 - spent["Mask2Former R50"]["backbone"] / total["Mask2Former R50"]
print(f"Mask2Former behind its backbone: {behind:.0%} of the time")
labkit.record("share_behind_the_backbone", behind)
labkit.record("mask2former_over_eomt_time", total["Mask2Former R50"] / total["EoMT-S"])
parts = spent["Mask2Former R50"]
labkit.record("pixel_decoder_over_backbone_time", parts["pixel decoder"] / parts["backbone"])
for part, count in billions.items():
    print(f"{part}: {count:.0f} billion multiplications")
    labkit.record(f"billion_multiplications_{part.replace(' ', '_')}", count)

# %% [markdown]
# On a CPU the pixel decoder takes longer than the backbone: six layers over 8400 cells and a convolution at stride 4 are
# more multiplications than a ResNet-50. Masks would add a prediction before each of EoMT's last blocks; after annealing
# they are not computed. (The published PQ of these two networks is 51.9 and 46.7: the shorter time is not at equal
# quality. A GPU has other ratios; published speeds are in 10.11.)
#
# ## 10.10 Four panoptic systems
#
# A merge (notebook 4), a panoptic head (notebook 5), an argmax over DETR's masks (notebook 8), and mask classification,
# all in their tiny sizes on the same images. "Minutes" is the recorded training time on one core; Mask2Former starts from
# Panoptic FPN's backbone, so its minutes contain the other's 47.

# %% tags=["hide-input"]
# Table and figure: Panoptic FPN, UPSNet, DETR and Mask2Former
RIVALS = {
    "Panoptic FPN": "panoptic_fpn_tiny",
    "UPSNet": "upsnet_tiny",
    "DETR": "detr_panoptic_tiny",
    "Mask2Former": "mask2former_tiny",
}
compared = {}
for of, items in SETS.items():
    print(
        f"{of:14}{'PQ':>7}{'SQ':>7}{'RQ':>7}{'things':>8}{'stuff':>7}{'ms':>6}{'M weights':>11}{'minutes':>9}"
    )
    for name, preset in RIVALS.items():
        model = load_model(preset)
        predictor, times, maps = Predictor(model), [], []
        for one, _ in progress_bar(items, unit="image"):
            start = time.process_time()
            maps.append(predictor(one).panoptic)
            times.append(time.process_time() - start)
        compared[name, of] = maps
        result = quality_of(maps, of)
        every = result.all
        values = every.pq, every.sq, every.rq, result.things.pq, result.stuff.pq
        minutes = shipped()[preset].seconds / 60
        print(
            f"{name:14}"
            + "".join(f"{100 * v:{n}.1f}" for v, n in zip(values, (7, 7, 7, 8, 7), strict=True))
            + f"{1000 * np.median(times):6.0f}{million(model):11.2f}{minutes:9.0f}"
        )
        short = name.replace(" ", "_")
        for kind in ("all", "things", "stuff"):
            labkit.record(f"pq_{kind}_{short}_{of}", getattr(result, kind).pq)
    print()
SIZES = ("small", "medium", "large")


def found_things(maps, of):
    """Share of the things of each size that have a segment of their class with an IoU above 0.5."""
    found = {size: [] for size in SIZES}
    for panoptic, (_, target_of) in zip(maps, SETS[of], strict=True):
        pred_classes, pred_masks = as_set(panoptic)
        for label, mask in zip(*as_set(target_of["panoptic"]), strict=True):
            if label >= THINGS:
                continue
            intersection = (pred_masks & mask).sum(dim=(1, 2))
            iou = intersection / (pred_masks | mask).sum(dim=(1, 2))
            up_to, large_from = val_set.area_limits
            size = SIZES[int(mask.sum() > up_to) + int(mask.sum() >= large_from)]
            found[size].append(bool(((iou > 0.5) & (pred_classes == label)).any()))
    return [float(np.mean(found[size])) if found[size] else float("nan") for size in SIZES]


print(f"{'things that are found':24}" + "".join(f"{of:>27}" for of in SETS))
print(f"{'':24}" + "".join(f"{size:>9}" for size in SIZES) * len(SETS))
for name in RIVALS:
    shares = {of: found_things(compared[name, of], of) for of in SETS}
    print(f"{name:24}" + "".join(f"{v:9.0%}" for of in SETS for v in shares[of]))
    for of in SETS:
        for size, value in zip(SIZES, shares[of], strict=True):
            if np.isfinite(value):
                labkit.record(f"found_{size}_{name.replace(' ', '_')}_{of}", value)


def masks_of_things(of):
    """Shares of the kept thing queries: masks that cover two or more objects; dropped in step 3."""
    several, dropped = [], []
    for result, (_, target_of) in zip(RESULTS[of], SETS[of], strict=True):
        classes, mask_logits = large(result)
        scores, labels = classes.softmax(dim=-1).max(dim=-1)
        kept = (labels < CLASSES) & (scores > SCORE_THRESH)
        m, things = mask_logits[kept].sigmoid(), labels[kept] < THINGS
        winner = (scores[kept][:, None, None] * m).argmax(dim=0)
        object_classes, objects = as_set(target_of["panoptic"])
        objects = objects[object_classes < THINGS]
        for q in things.nonzero()[:, 0].tolist():
            mask, won = m[q] >= 0.5, winner == q
            covered = (objects & mask).sum(dim=(1, 2)) > 0.5 * objects.sum(dim=(1, 2))
            several.append(int(covered.sum()) > 1)
            dropped.append(not (won & mask).any() or bool(won.sum() < 0.8 * mask.sum()))
    return len(several), float(np.mean(several)), float(np.mean(dropped))


print("\nthing queries that Mask2Former's read-out keeps (10.6, step 1)")
for of in SETS:
    count, several, dropped = masks_of_things(of)
    print(f"{of:10}{count:5}: {several:.0%} cover two or more objects, step 3 drops {dropped:.0%}")
    labkit.record(f"share_of_masks_over_several_objects_{of}", several)
    labkit.record(f"share_of_queries_dropped_in_step_3_{of}", dropped)
shown = []
for of, k in (("Shapes", EXAMPLE), ("crowded", 0)):
    one, target_of = SETS[of][k]
    shown.append(("ground truth", one, target_of["panoptic"]))
    shown += [(name, one, compared[name, of][k]) for name in RIVALS]
panels(shown, categories, columns=5, size=1.95)

# %% [markdown]
# On Shapes Mask2Former is level with the two networks with RoI heads, without boxes: it has the best stuff, and
# misses about one in six of the things that are not large, more than they do. It was also trained more than three
# times as long. Duplicates are left: step 3 drops one in eight of the kept thing queries, the work of NMS elsewhere.
#
# **Crowds.** None of the four was trained on crowded images. There Mask2Former finds the fewest things, fewer even
# than DETR. Four in ten of its masks cover two or more objects, several queries predict the same group, and step 3
# of 10.6 drops the duplicates: the grey areas in the picture are void.
#
# **With three seeds.** The same study trains each of the four further, from its weights that come with labkit, for
# equal steps: once on Shapes, once on crowded images.

# %% tags=["hide-input"]
# Table: the four systems, trained further with three seeds
steps_of = f"{STUDY['more steps']} further steps"
print(f"{steps_of:20}{'PQ':>14}{'things':>14}{'stuff':>14}")
for of, rows in STUDY["systems"].items():
    print(f"\non {of}")
    for name, preset in RIVALS.items():
        row = StudyRow(name, rows[preset])
        cells = "".join(f"{row.show(kind):>14}" for kind in KINDS)
        print(f"{name:20}{cells}")
        for kind in KINDS:
            labkit.record(f"study_{kind}_{name.replace(' ', '_')}_{of}", row.mean(kind))

# %% [markdown]
# On Shapes 120 steps change little: Panoptic FPN, Mask2Former and UPSNet are within a point, Mask2Former behind in
# things and ahead in stuff, DETR far behind. Trained on crowded images, all but DETR have a higher PQ of things than
# above (there 50 images, here 150). Mask2Former has the best stuff and a far lower PQ of things than the networks with
# RoI heads. Whether longer training helps is open: exercise 5. (± is the spread of 120 steps that begin with the same
# weights, so it is far smaller than that of whole trainings would be.)
#
# ## 10.11 Photographs and published results
#
# The ground truth of a photograph as a set, one mask for each segment:

# %% tags=["hide-input"]
# Figure: a photograph as a set of classes and masks
sample, holds = find_data("coco_panoptic_sample"), {}
if sample is None:
    print(
        "The photographs are not here: run `labkit data get coco-panoptic-sample`, then this cell."
    )
    print(
        "It shows a game of rugby as a set: trees, grass and sky are one mask each,"
        " and most players have one each; the rest are one crowd."
    )
else:
    photos = CocoPanoptic(sample / "panoptic_examples.json", image_dir=sample / "input_images")
    photo, photo_target = photos[0]
    photo_classes, photo_masks = as_set(photo_target["panoptic"])
    order = photo_masks.sum(dim=(1, 2)).argsort(descending=True)[:9].tolist()
    figure, axes = plt.subplots(2, 5, figsize=(10, 3.4), layout="constrained")
    show_image(axes.flat[0], photo)
    axes.flat[0].set_title("photograph", fontsize=9)
    for axis, i in zip(axes.flat[1:], order, strict=False):
        axis.imshow(photo_masks[i], cmap="Greys")
        crowd = " (crowd)" if photo_target["panoptic"].segments[i].iscrowd else ""
        axis.set_title(photos.categories[int(photo_classes[i])].name + crowd, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    plt.show()
    holds["the masks are disjoint"] = bool((photo_masks.sum(dim=0) <= 1).all())
    holds["one is a crowd"] = sum(s.iscrowd for s in photo_target["panoptic"].segments) == 1
labkit.record("photograph_statements_not_true", sum(not true for true in holds.values()))

# %% [markdown]
# A **crowd** is several objects in one mask, so it is no target (6.4). labkit brings no weights of Mask2Former for
# photographs. These commands fetch the published ones (176 MB, not for commercial use) and write the panoptic map of a
# photograph of yours:
#
# ```
# labkit zoo get mask2former_R_50
# labkit predict PHOTO.jpg --panoptic --model mask2former_R_50 --out DIR
# ```
#
# **Published results** on COCO val (the projects' model zoos and configurations; weights counted above; DETR and
# Panoptic FPN from 8.12, UPSNet from 5.10). Speed is EoMT's own measurement on an H100, compiled.
#
# | network | PQ | million weights | images a second | licence of the weights |
# | --- | --- | --- | --- | --- |
# | Panoptic FPN, retrained by DETR's authors | 42.4 | – | – | – |
# | UPSNet | 42.5 | – | – | – |
# | DETR R50 | 43.4 | – | – | Apache 2.0 |
# | MaskFormer R50, 6 encoder layers | 46.5 | – | – | CC BY-NC 4.0 |
# | Mask2Former R50 | 51.9 | 44.0 | – | CC BY-NC 4.0 |
# | Mask2Former R101 | 52.6 | – | – | CC BY-NC 4.0 |
# | Mask2Former Swin-L | 57.8 | – | – | CC BY-NC 4.0 |
# | EoMT-S, 640 × 640 | 46.7 | 24.0 | 330 | see its model card |
# | EoMT-B, 640 × 640 | 51.6 | 93.7 | 261 | see its model card |
# | EoMT-L, 640 × 640 | 56.0 | 316.7 | 128 | see its model card |
#
# Mask2Former R50 against EoMT is no experiment: the backbones have different pretraining (ImageNet's labels, or DINOv2),
# and the image sizes differ.
#
# ## To take away
#
# - A segment is a class and a mask. Predicted as a set, with Hungarian matching, the same network does semantic,
#   instance and panoptic segmentation; only the targets and the read-out differ.
# - A mask is a dot product: one vector for each query, one for each pixel.
# - Masked attention restricts each query to the cells of its present mask, and becomes a part of what the network has
#   learnt. Without it at test time, the same weights fail.
# - Deformable attention reads a fixed number of places, whatever the size of the image.
# - The mask losses can be computed on a few points, which saves memory and time. Uncertain points weight the
#   quarter of the image with the smallest |logit| about three times as much as a mean over all pixels does.
# - A PQ belongs to weights and post-processing together.
# - With a large pretrained ViT, most of the decoder is not needed.
#
# [Notebook 11](11_speed_and_export.ipynb) puts networks to work: conventions, speed, export, licences.
#
# ## More exercises
#
# 1. **Void.** For which pixels does Mask2Former's read-out give void although several kept queries have $m > 0.3$ there?
#    Find an image and draw them.
# 2. **Other thresholds.** Plot PQ against the share of step 3 (0.8 here, `overlap_thresh` of
#    `network.config.inference`) from 0 to 1. Which segments does 0 keep?
# 3. **One level.** In `my_decoder` let all layers use memory and level embedding of stride 8, then apply `my_heads` to the
#    last state. What happens to the time, and (without training) to the losses of the example?
# 4. **Point count.** For the loss of 10.5, the mean over 20 images: how many uniform points does an error below 5 % need?
# 5. **Homework.** Train `mask2former_tiny` on crowded images for ten times as many steps as the study of 10.10 (`labkit
#    train mask2former_tiny --data crowded --init mask2former_tiny --steps 1200 --lr 0.001 --out RUN`; about a quarter of
#    an hour on one core), and compare it with Panoptic FPN, trained as long on the same images.
#
# ## References
#
# - B. Cheng, A. Schwing, A. Kirillov. Per-Pixel Classification is Not All You Need for Semantic Segmentation. NeurIPS
#   2021: MaskFormer, sections 10.1, 10.2 and 10.6.
# - B. Cheng, I. Misra, A. Schwing, A. Kirillov, R. Girdhar. Masked-attention Mask Transformer for Universal Image
#   Segmentation. CVPR 2022: Mask2Former.
# - X. Zhu et al. Deformable DETR: Deformable Transformers for End-to-End Object Detection. ICLR 2021.
# - A. Kirillov, Y. Wu, K. He, R. Girdhar. PointRend: Image Segmentation as Rendering. CVPR 2020: points where a mask is
#   uncertain.
# - T. Kerssies et al. Your ViT is Secretly an Image Segmentation Model. CVPR 2025: EoMT; in the table S and B are
#   the repository's models of 24 epochs, L the paper's of 12.
# - A. Dosovitskiy et al. An Image is Worth 16x16 Words. ICLR 2021: ViT. M. Oquab et al. DINOv2. TMLR 2024.
