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
# # 11. Speed and export
#
# **The question.** You know the networks. What must you know before you choose a code base, and before you put a model to
# work?
#
# Three things go wrong in practice, mostly without an error. Weights run in a program with other
# **conventions** and lose quality. A **speed** is quoted without its conditions. A model cannot be **exported**, or the
# export gives other results. In this lesson you exchange conventions one at a time and measure what each costs,
# write a benchmark that waits for the device, see where the time of a detector goes, cut a Panoptic FPN into three
# graphs that run without PyTorch, and read the licences.
#
# You need [notebook 3](03_mask_rcnn.ipynb) (Mask R-CNN), [notebook 4](04_panoptic_fpn.ipynb) (the merge) and
# [notebook 7](07_model_zoo.ipynb) (weights and preprocessing). [Glossary](../docs/glossary.md) of all terms.
#
# > **Before you start.** AP is the mean precision over recalls, classes and IoU thresholds from 0.5 to 0.95; AP75 uses the
# > threshold 0.75 alone (3.9). A **proposal** is a box of the RPN; **RoIAlign** reads the features of a box (2.2).

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: minutes; full: a GPU
seed: int = 0

# %% tags=["hide-input"]
# Set-up: imports, sizes of the profiles, data, the network
# %matplotlib inline
import contextlib
import copy
import importlib.util
import io
import logging
import os
import re
import statistics
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from torch.nn import functional as F
from torchvision.ops import box_iou

import labkit
from labkit.bench.detectors_peers import InputSizes, test_image, torchvision_pair
from labkit.bench.detectors_profile import profile as profile_of
from labkit.checkpoints.model_zoo import published_weights
from labkit.checkpoints.shipped import FOLDER
from labkit.checks import Checks, equal, has_shape
from labkit.colors import PETROFF_10
from labkit.datasets.coco.categories import coco_things
from labkit.datasets.fetch.catalog import catalogue
from labkit.datasets.in_memory import InMemory
from labkit.datasets.penn_fudan import PennFudan
from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor, load_model
from labkit.metrics.coco_ap import COCOAP
from labkit.models import build
from labkit.models.preprocess import (
    DETECTRON2_PREPROCESSING,
    DETR_PREPROCESSING,
    TORCHVISION_PREPROCESSING,
    preprocess,
    resize_image,
)
from labkit.models.rcnn import roi_heads as roi_heads_module
from labkit.models.rcnn import rpn as rpn_module
from labkit.models.rcnn.matcher import POSITIVE, match_boxes
from labkit.ops.boxes import MAX_LOG_SCALE, encode_boxes
from labkit.structures import Detections, Prediction
from labkit.system.cpu_cores import available_cores, use_threads
from labkit.system.distributed import default_device
from labkit.system.paths import find_data
from labkit.visualize import draw_box, panels, show_image

num_val, num_checked, rounds = {"smoke": (6, 2, 2), "quick": (60, 12, 5), "full": (500, 50, 20)}[
    profile
]
_ = torch.manual_seed(seed)
use_threads(1)  # the tensors are small: threads would wait for one another
COLORS = [np.array(c) / 255 for c in PETROFF_10]
blue, orange, red, grey = COLORS[:4]

val_set = Shapes("val", num=num_val, seed=seed)
categories = val_set.categories
items = InMemory(val_set).items
model = load_model("mask_rcnn_tiny")
scratch = TemporaryDirectory(prefix="export_")  # removed when the notebook ends
folder = Path(scratch.name)

# %% [markdown]
# ## 11.1 The same weights in another program
#
# ![A Mask R-CNN from left to right with the places where code bases differ, numbered: 1 the preprocessing, 2 the anchors,
# 3 the top-k of the RPN, 4 the decoding of boxes before NMS, 5 RoIAlign, 6 the order of the classes, 7 the pasting of masks, and, in
# training, 8 the box loss.](diagrams/conventions.svg)
#
# A paper leaves choices open, and every code base makes them in its own way. A network learns with one set of choices.
# Detectron2's documentation says of Detectron (2018): "their models are not compatible: running inference with the same
# model weights will produce different results in the two code bases". These are the choices of four programs; the numbers
# are those of the drawing. (UPSNet has Detectron's boxes, anchors and classes.)
#
# | | Detectron2 | torchvision | UPSNet | DETR |
# | --- | --- | --- | --- | --- |
# | 1 colours | blue first, 0 to 255 | red first, 0 to 1 | blue first, 0 to 255 | red first, 0 to 1 |
# | 1 resizing | Pillow: antialiased, uint8 | not antialiased, float32 | not antialiased (OpenCV) | as Detectron2 |
# | 2 anchors | exact | rounded | rounded, centre of the cell | none |
# | 3 ranking | logits | logits | probabilities | none |
# | 4 width of a box | $x_2 - x_1$ | $x_2 - x_1$ | $x_2 - x_1 + 1$ | predicted itself |
# | 5 RoIAlign | aligned, adaptive samples | not aligned, 2 × 2 | not aligned, 2 × 2 | none |
# | 6 background | last class | first class | first class | last class |
# | 7 mask | sampled at pixel centres | resized to whole pixels | resized to whole pixels | bilinear |
# | 8 box loss | L1 | smooth L1, β = 1/9 | smooth L1, β = 1/9 and 1 | L1 and GIoU |
#
# `mask_rcnn_tiny` was trained with Detectron2's column (except for colours, and 2 × 2 samples). We run its weights with one
# entry of another column at a time.
#
# **Number 4, the "+1".** Detectron writes a box by its first and last *pixel*. A box over pixels 3 to 7 has the width
# $7 - 3 + 1 = 5$. Detectron2 writes the far edge, 8, so the width is $8 - 3$. With $w = x_2 - x_1 + 1$, $h$ likewise, and
# offsets $(d_x, d_y, d_w, d_h)$ already divided by their weights (3.4), Detectron decodes
#
# $$ c_x = x_1 + \tfrac{w}{2} + d_x w, \qquad w' = w\, e^{d_w}, \qquad x_1' = c_x - \tfrac{w'}{2}, \qquad x_2' = c_x + \tfrac{w'}{2} - 1 . $$
#
# > **Exercise 11.1.** Write `decode_plus_one(offsets, boxes)` for offsets $(N, 4)$ and boxes $(N, 4)$: the decoded boxes
# > $(N, 4)$. With offsets 0 a box stays what it is. $[0, 0, 9, 19]$ is 10 pixels wide; with $d_x = 0.5$ it becomes
# > $[5, 0, 14, 19]$.


# %% exercise="decode_plus_one"
# Exercise 11.1: boxes decoded as in Detectron
def decode_plus_one(offsets, boxes):
    """Boxes ``(N, 4)`` from offsets, where a box is written by its first and its last pixel.

    Args:
        offsets: ``(N, 4)``: of the centre, in sides of the box, and of the logarithms of the sides.
        boxes: ``(N, 4)`` XYXY.
    """
    # BEGIN SOLUTION
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    centres = boxes[:, :2] + sides / 2 + offsets[:, :2] * sides
    sides = sides * offsets[:, 2:].exp()
    return torch.cat([centres - sides / 2, centres + sides / 2 - 1], dim=1)
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 11.1
check = Checks("Exercise 11.1")
ten_wide = torch.tensor([[0.0, 0, 9, 19]])
with check("offsets 0: the box stays"):
    equal(decode_plus_one(torch.zeros(1, 4), ten_wide), ten_wide)
with check("half of the width to the right"):
    equal(decode_plus_one(torch.tensor([[0.5, 0, 0, 0]]), ten_wide), [[5, 0, 14, 19]])
with check("twice as wide: 20 pixels, from -5 to 14"):
    doubled = torch.tensor([[0, 0, np.log(2), 0]], dtype=torch.float32)
    equal(decode_plus_one(doubled, ten_wide), [[-5, 0, 14, 19]], within=1e-4)
with check("two boxes"):
    has_shape(decode_plus_one(torch.zeros(2, 4), ten_wide.repeat(2, 1)), (2, 4))
check.report()

# %% [markdown]
# **Number 6, the background.** A classifier of $K$ classes has $K + 1$ rows. Detectron2's last row is the background,
# torchvision's first one. A program that expects the other order reads every class one row off.
#
# **Number 5, the half pixel.** Detectron2 takes the value of cell $j$ of a map of stride $s$ to be in the cell's middle, at
# $(j + \tfrac12) s$. Without `aligned`, RoIAlign takes it to be at $j s$ (2.3). A network that was trained with the
# first then reads half a cell too far right and down.


# %% tags=["idea"]
def one_row_off(state):
    """Weights with the background last, as a program with the background first reads them."""
    return {name: v.roll(-1, 0) if ".cls_score." in name else v for name, v in state.items()}


def iou_after_shift(fraction):
    """IoU of a box and its copy, moved right and down by a fraction of its sides."""
    intersection = (1 - fraction) ** 2
    return intersection / (2 - intersection)


# %% [markdown]
# > **Predict.** Sort these three by the AP that they cost: the +1 in the decoding, rounded anchors, RoIAlign without the
# > half pixel.

# %% tags=["hide-input"]
# Table: one convention exchanged at a time
own, rpn_config, pooler = model.config, model.config.rpn, model.config.roi_heads.pooler


def rebuilt(config, state=None):
    """The weights in a network of another configuration."""
    network = config.build(categories)
    network.load_state_dict(state or model.state_dict())
    return network.eval()


def with_rpn(**changes):
    return rebuilt(replace(own, rpn=replace(rpn_config, **changes)))


def with_pooler(**changes):
    heads = replace(own.roi_heads, pooler=replace(pooler, **changes))
    return rebuilt(replace(own, roi_heads=heads))


@contextlib.contextmanager
def plus_one_decoding():
    """A block in which RPN and RoI heads decode with decode_plus_one."""

    def decode(offsets, boxes, weights):
        scale = torch.tensor(weights).to(offsets)
        of_classes = []
        for part in offsets.split(4, dim=1):
            part = part / scale
            part[:, 2:] = part[:, 2:].clamp(max=MAX_LOG_SCALE)
            of_classes.append(decode_plus_one(part, boxes))
        return torch.cat(of_classes, dim=1)

    with (
        mock.patch.object(rpn_module, "decode_boxes", decode),
        mock.patch.object(roi_heads_module, "decode_boxes", decode),
    ):
        yield


def predict_all(network, items=items):
    predictor = Predictor(network, torch.device("cpu"))
    return [predictor(image).detections for image, _ in items]


def scores_of(detections, items=items):
    """Box AP, box AP75 and mask AP, in points."""
    ap = COCOAP(categories, val_set.area_limits)
    for found, (_, target) in zip(detections, items, strict=True):
        ap.update(Prediction(found), target)
    result = ap.compute()
    return 100 * result.bbox.ap, 100 * result.bbox.ap75, 100 * result.segm.ap


def movement(before, after, least=0.5):
    """Mean movement (4,) of the boxes, and the shares of objects with another class and without a box."""
    moves, relabelled, count = [], 0, 0
    for a, b in zip(before, after, strict=True):
        a = a[a.scores > least]
        count += len(a)
        if len(a) and len(b):
            iou, partner = box_iou(a.boxes, b.boxes).max(dim=1)
            near = iou > 0.3
            moves.append(b.boxes[partner[near]] - a.boxes[near])
            relabelled += int((b.labels[partner[near]] != a.labels[near]).sum())
    moves = torch.cat(moves)
    return moves.mean(dim=0), relabelled / count, 1 - len(moves) / count


def handed_over(detections):
    """Far edges read as last pixels: every box a pixel larger."""
    larger = torch.tensor([0.0, 0, 1, 1])
    return [Detections(d.boxes + larger, d.scores, d.labels, d.masks) for d in detections]


expected = predict_all(model)
TABLE = {"as trained": expected}
TABLE["1 blue first"] = predict_all(
    rebuilt(replace(own, preprocessing=replace(own.preprocessing, bgr=True)))
)
TABLE["2 anchors rounded"] = predict_all(with_rpn(round_anchors=True))
TABLE["2 anchors of Detectron"] = predict_all(with_rpn(legacy_anchors=True))
TABLE["3 ranked by probability"] = predict_all(with_rpn(rank_by_probability=True))
with plus_one_decoding():
    TABLE["4 decoded with +1"] = predict_all(model)
TABLE["4 edges read as pixels"] = handed_over(expected)
TABLE["5 no half pixel"] = predict_all(with_pooler(aligned=False))
TABLE["5 adaptive samples"] = predict_all(with_pooler(sampling_ratio=0))
TABLE["6 background first"] = predict_all(rebuilt(own, one_row_off(model.state_dict())))
TABLE["7 pasted by resizing"] = predict_all(rebuilt(replace(own, paste_by_resizing=True)))
print(f"{'':24}{'mean movement in pixels':>28}{'other':>8}{'no':>6}{'box':>9}{'':>6}{'mask':>6}")
print(
    f"{'':24}{'x1':>7}{'y1':>7}{'x2':>7}{'y2':>7}{'class':>8}{'box':>6}{'AP':>9}{'AP75':>6}{'AP':>6}"
)
points = {}
for name, detections in TABLE.items():
    points[name] = scores_of(detections)
    moves, relabelled, lost = movement(expected, detections)
    cells = "".join(f"{v:7.1f}" for v in moves) + f"{relabelled:8.0%}{lost:6.0%}"
    print(f"{name:24}{cells}" + "{:9.1f}{:6.1f}{:6.1f}".format(*points[name]))
    key = name.replace(" ", "_").replace("+", "plus_")
    for kind, value, full in zip(
        ("box_ap", "box_ap75", "mask_ap"), points[name], points["as trained"], strict=True
    ):
        labkit.record(
            f"{kind}_lost_{key}" if name != "as trained" else kind,
            full - value if name != "as trained" else value,
        )
    if name == "5 no half pixel":
        labkit.record("movement_without_half_pixel", float(moves.mean()))
    if name == "6 background first":
        labkit.record("other_class_background_first", relabelled)

# %% [markdown]
# (Movement: to the nearest box, for boxes with a score above 0.5. Other class, no box: shares of these boxes.)
#
# Of the three, RoIAlign without the half pixel costs by far the most. The other two cannot be sorted: both are zero within
# the noise of so few images.
#
# - **Red and blue** cost little for things of random colour. For stuff they cost more (7.6).
# - **The +1 in the decoding costs almost nothing.** With offsets 0 both formulas return the box unchanged, and the
#   offsets of a trained network are small. The +1 matters where boxes are *handed over*: who reads far edges as last
#   pixels gets boxes a pixel too large in both directions, and loses box AP ("4 edges read as pixels").
# - **Anchors.** Rounding moves them by less than half a pixel. Detectron's anchors also stand in the middle of the first
#   cell instead of its corner, half a cell away, and a few points are lost.
# - **The half pixel** is not one pixel of the image. It is half a pixel of the *feature map*. At stride 4 that is 2 pixels of the image, at
#   stride 8 it is 4. The features come from too far right, so the boxes move left and up by as much.
# - **The background** one row off takes nearly all of AP. It is easy to see: most classes are wrong.
# - **Pasting** leaves boxes and scores as they are, and costs masks only.
#
# One image, as trained and with two of the conventions:

# %% tags=["hide-input"]
# Figure: detections of one image with three sets of conventions
EXAMPLE = max(range(num_val), key=lambda k: float(expected[k].scores.clamp(max=0.9).sum()))
image, target = items[EXAMPLE]
shown = []
for name in ("as trained", "2 anchors of Detectron", "5 no half pixel"):
    d = TABLE[name][EXAMPLE]
    shown.append((name, image, d[d.scores > 0.5]))
panels(shown, categories, columns=3, size=3.2, names=False)

# %% [markdown]
# Without the half pixel every mask is up and to the left of its object.
#
# > **At toy size.** One pixel of an image of 128 is as large as six of a photograph of 800. What counts is the
# > movement as a *fraction of the box*. Within a pyramid level the side doubles, so the fraction halves. A box of 32
# > pixels is read here from stride 8, so half a cell is 4 / 32 of its side. In the published networks a box of 224
# > pixels, the smallest of its level, is read from stride 16: 8 / 224. Below the finest level the fraction grows: of a
# > box of 16 pixels at stride 4 half a cell is 2 / 16.

# %% tags=["hide-input"]
# Table: the same half cell in a tiny and in a published network
for name, fraction in (("tiny: 4 of 32 pixels", 4 / 32), ("published: 8 of 224", 8 / 224)):
    print(f"{name:24}{fraction:7.1%} of the side, IoU {iou_after_shift(fraction):.2f}")
    labkit.record(f"iou_after_half_a_cell_{name.split(':')[0]}", iou_after_shift(fraction))

# %% [markdown]
# An IoU of 0.62 fails at AP75; 0.87 fails only at the thresholds 0.90 and 0.95. So by this computation large objects of
# published networks lose less than ours, and small ones as much. The same exchange in photographs, with `pedestrians_lite` (3.13), whose boxes
# of 96 pixels are read from stride 16:

# %% tags=["hide-input"]
# Figure: people in a photograph, with and without the half pixel
streets, holds = find_data("PennFudanPed"), {}
if streets is None:
    print("The photograph is not here: run `labkit data get penn-fudan`, then this cell.")
    print("It shows boxes that are too far left and high.")
else:
    people = load_model("pedestrians_lite")
    photo = PennFudan(streets, "val")[2][0]
    heads = people.config.roi_heads
    off = replace(
        people.config, roi_heads=replace(heads, pooler=replace(heads.pooler, aligned=False))
    )
    other = off.build(people.categories)
    other.load_state_dict(people.state_dict())
    both = [Predictor(m, torch.device("cpu"))(photo).detections for m in (people, other.eval())]
    figure, axis = plt.subplots(figsize=(5.5, 4), layout="constrained")
    show_image(axis, photo, alpha=0.6)
    for found, color, name in zip(both, (blue, red), ("as trained", "no half pixel"), strict=True):
        axis.plot([], [], color=color, label=name)
        for box in found.boxes[found.scores > 0.7]:
            draw_box(axis, box, color)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    plt.show()
    moves, _, _ = movement(both[:1], both[1:], 0.7)
    side = float(
        (
            both[0].boxes[both[0].scores > 0.7][:, 2:] - both[0].boxes[both[0].scores > 0.7][:, :2]
        ).mean()
    )
    print(
        f"mean movement {float(moves.mean()):.1f} pixels, {abs(float(moves.mean())) / side:.1%} of the mean side"
    )
    holds["boxes move left and up"] = bool((moves < 0).all())
    holds["by 1 to 12 % of their sides"] = 0.01 < abs(float(moves.mean())) / side < 0.12
labkit.record("photograph_statements_not_true", sum(not true for true in holds.values()))

# %% [markdown]
# **Number 1, resizing.** A pixel of a reduced image covers several old ones. **Antialiasing** takes a mean of all of
# them, as Pillow does. Plain bilinear interpolation reads the four pixels around one point. Only reductions differ: in
# an enlarged image four pixels are enough. We draw the same scenes three times as fine and reduce them to the
# network's 128 pixels in both ways. Sizes are rounded, too: the last table has an image of 480 × 640, resized for a
# shorter side of 800.
#
# > **Predict.** At a third of the size, how many of the nine pixels under a new one does bilinear interpolation read? Does
# > the network lose AP?

# %% tags=["hide-input"]
# Figure and tables: two ways to reduce an image; the size that an image of 480 × 640 gets
num_fine = max(6, num_val // 2)
fine_set = Shapes("val", num=num_fine, size=3 * val_set.size, seed=seed)  # the same scenes
fine_items = InMemory(fine_set).items
reduced = {}
for name, way in (("Detectron2", "pillow"), ("torchvision", "float")):
    side = val_set.size
    to_side = replace(own.preprocessing, resize=way, min_size=side, max_size=side)
    pictures = [resize_image(one, to_side).float() for one, _ in fine_items]
    reduced[name] = pictures, predict_all(rebuilt(replace(own, preprocessing=to_side)), fine_items)
(pictures, found), (other_pictures, other_found) = reduced.values()
part = 32  # the side of the square in which the two images differ most
difference = (pictures[0] - other_pictures[0]).abs().mean(dim=0)
there = int(F.avg_pool2d(difference[None], part, stride=1).argmax())
top, left = divmod(there, difference.shape[1] - part + 1)
shown = {"three times as fine": fine_items[0][0], "antialiased (Detectron2)": pictures[0]}
shown["not antialiased (torchvision)"] = other_pictures[0]
figure, axes = plt.subplots(1, 3, figsize=(8, 2.8), layout="constrained")
for axis, (name, one) in zip(axes, shown.items(), strict=True):
    k = one.shape[1] // val_set.size
    detail = one[:, k * top : k * (top + part), k * left : k * (left + part)]
    axis.imshow(detail.permute(1, 2, 0).round().byte())
    axis.set(xticks=[], yticks=[])
    axis.set_title(name, fontsize=9)
plt.show()
moved, rescored = [], []
for a, b in zip(found, other_found, strict=True):
    a = a[a.scores > 0.5]
    overlap, partner = box_iou(a.boxes, b.boxes).max(dim=1)
    near = overlap > 0.3
    moved.append((a.boxes - b.boxes[partner])[near].abs().mean(dim=1) / 3)
    rescored.append((a.scores - b.scores[partner])[near].abs())
changes = {
    "grey levels of a pixel": np.mean(
        [float((a - b).abs().mean()) for a, b in zip(pictures, other_pictures, strict=True)]
    ),
    "edges of a box, in pixels": float(torch.cat(moved).mean()),
    "scores": float(torch.cat(rescored).mean()),
}
print("mean difference of Detectron2 and torchvision:")
for name, value in changes.items():
    print(f"    {name:28}{value:6.3f}")
    labkit.record(f"resizing_changes_{name.split(' ')[0]}", value)
print(f"\n{'reduced by':16}{'box AP':>8}{'AP75':>7}{'mask AP':>9}")
of_way = {name: scores_of(answers, fine_items) for name, (_, answers) in reduced.items()}
for name, values in of_way.items():
    print(f"{name:16}" + "{:8.1f}{:7.1f}{:9.1f}".format(*values))
for kind, a, b in zip(("box_ap", "box_ap75", "mask_ap"), *of_way.values(), strict=True):
    labkit.record(f"{kind}_lost_without_antialiasing", a - b)
print("\nan image of 480 × 640 becomes")
blank = torch.zeros(3, 480, 640, dtype=torch.uint8)
for name, preprocessing in (
    ("Detectron2", DETECTRON2_PREPROCESSING),
    ("torchvision", TORCHVISION_PREPROCESSING),
    ("DETR", DETR_PREPROCESSING),
):
    height, width = resize_image(blank, preprocessing).shape[1:]
    print(f"{name:14}{height} × {width}")
    labkit.record(f"width_{name}", width)

# %% [markdown]
# At exactly a third the point is the middle of the middle pixel: of nine pixels one is read. Noise stays, and thin lines
# become dots. (OpenCV's bilinear interpolation gives the same image.) The edges of the boxes move by a third of a
# pixel, but AP stays within the noise of so few images: this network was trained on images with noise and hard edges.
# One that was trained on antialiased photographs need not be as tolerant. Measure yours.
#
# **Number 3 and number 8** count in training. (Number 3 has a second half, the *ranking*: float32 rounds the probabilities
# of large logits to the same number, so the order of the best candidates may be another one. Here that changes nothing: row
# "3 ranked by probability" of the table.) Weights trained with either choice run with the other, but the training is another
# one.
#
# *Top-k.* The RPN passes on the best $k$ proposals of each image. Detectron took the best $k$ of all images of the batch
# together, which Detectron2's documentation calls a bug. Then an image's proposals depend on its neighbours, and on the
# batch size.


# %% tags=["idea"]
def top_k_per_image(scores, k):
    """How many of each image's proposals are kept."""
    return [min(len(s), k) for s in scores]


def top_k_per_batch(scores, k):
    """How many of each image's proposals are among the best of the batch."""
    threshold = torch.cat(scores).topk(min(k, sum(map(len, scores)))).values[-1]
    return [int((s >= threshold).sum()) for s in scores]


def smooth_l1(error, beta):
    """Quadratic up to beta, then linear; beta 0 is L1."""
    linear = error.abs() - beta / 2
    return torch.where(error.abs() < beta, error**2 / (2 * beta), linear) if beta else error.abs()


# %% tags=["hide-input"]
# Table and figure: proposals per image and per batch; loss and gradient of the RPN's box errors


@torch.no_grad()
def rpn_of(image):
    """Anchors (N, 4), offsets (N, 4), and the scores of the proposals after NMS."""
    batch = preprocess([image], own.preprocessing)
    features = model.backbone(batch.tensor)
    objectness, deltas = model.rpn.predict(features)
    anchors = model.rpn.anchors(features, batch)
    _, scores = model.rpn.propose(anchors, objectness, deltas, batch)
    return torch.cat(anchors), torch.cat(deltas, dim=1)[0], scores[0]


crowded = Shapes("val", num=2, crowded=True, seed=seed)
batch_of_four = [items[0][0], items[1][0], crowded[0][0], crowded[1][0]]
scores = [rpn_of(one)[2] for one in batch_of_four]
k = 10
per_image, per_batch = top_k_per_image(scores, k), top_k_per_batch(scores, 4 * k)
print(f"k = {k}, a batch of two images of Shapes and two crowded ones")
print(f"best {k} of each image: {per_image}")
print(f"best {4 * k} of the batch: {per_batch}")
labkit.record("fewest_proposals_per_batch", min(per_batch))
labkit.record("most_proposals_per_batch", max(per_batch))
errors = []
for one, of_one in items[: max(6, num_val // 4)]:
    anchors, deltas, _ = rpn_of(one)
    matched, labels = match_boxes(
        box_iou(of_one["boxes"], anchors), 0.3, 0.7, allow_low_quality=True
    )
    positive = labels == POSITIVE
    gt = of_one["boxes"][matched[positive]]
    errors.append((deltas[positive] - encode_boxes(gt, anchors[positive], (1, 1, 1, 1))).flatten())
errors = torch.cat(errors)
x = torch.linspace(-0.5, 0.5, 401, requires_grad=True)
figure, axes = plt.subplots(1, 3, figsize=(9.6, 2.7), layout="constrained")
for beta, color, name in ((0.0, blue, "L1"), (1 / 9, orange, "β = 1/9"), (1.0, red, "β = 1")):
    y = smooth_l1(x, beta)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    axes[0].plot(x.detach(), y.detach(), color=color, label=name)
    axes[1].plot(x.detach(), gradient, color=color)
axes[0].set_title("loss of an error", fontsize=9)
axes[0].legend(frameon=False, fontsize=8)
axes[1].set_title("its gradient", fontsize=9)
axes[2].hist(errors.clamp(-0.5, 0.5), bins=60, color=grey)
axes[2].set_title("errors of the RPN's offsets", fontsize=9)
axes[2].set_yticks([])
plt.show()
inside = float((errors.abs() < 1 / 9).float().mean())
print(f"errors below 1/9: {inside:.0%}")
labkit.record("errors_below_one_ninth", inside)

# %% [markdown]
# Per batch, one image gets many more proposals than another. With L1 the gradient is 1 or −1, however small the error; with
# smooth L1 it fades where the error is below β, and in a trained network most errors are. So L1 keeps improving boxes that
# are nearly right. Detectron2's documentation reports, for L1, slightly lower AP50 and higher AP at high
# IoU thresholds. It also says that its paste of masks improves the mask AP on COCO by about 0.5.
#
# ## 11.2 Images per second
#
# A speed is a number of a program, a network, an image, a machine, *and a way of measuring*. First the way. A GPU
# computes **asynchronously**: the program asks for a step and goes on, and the GPU does it later. A clock that is
# stopped without waiting measures how fast the program can ask. `torch.cuda.synchronize()` waits. Here is a device of
# this kind to try on any machine: a second thread does the work.


# %% tags=["idea"]
class AsynchronousDevice:
    """A device that computes while the program goes on, as a GPU does."""

    def __init__(self):
        self.queue = ThreadPoolExecutor(max_workers=1)  # one after another, in order
        self.last = None

    def launch(self, work):
        self.last = self.queue.submit(work)  # returns at once

    def synchronize(self):
        if self.last is not None:
            self.last.result()  # the last one is done, so all are


# %% [markdown]
# > **Exercise 11.2.** Write `images_per_second(call, batch, synchronize, clock, warm_up=2, rounds=5)`. Make `warm_up` calls
# > that do not count. Then time each of `rounds` calls: read the clock when nothing is running, call, and read the clock
# > when the call's work is done. Return `batch` divided by the median of the times (`statistics.median`).


# %% exercise="images_per_second"
# Exercise 11.2: a benchmark that waits
def images_per_second(call, batch, synchronize, clock, warm_up=2, rounds=5):
    """Images a second of the median call.

    Args:
        call: starts the work for a batch.
        batch: the number of images in it.
        synchronize: waits until the device has done what it was asked to do.
        clock: returns seconds.
        warm_up: first calls that do not count.
        rounds: calls that count.
    """
    # BEGIN SOLUTION
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(rounds):
        synchronize()  # what was asked for before is not this call's
        begin = clock()
        call()
        synchronize()
        times.append(clock() - begin)
    return batch / statistics.median(times)
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 11.2


class PlayedDevice:
    """A device and a clock without waiting: the n-th call takes costs[n] seconds (then the last one)."""

    def __init__(self, *costs):
        self.costs, self.now, self.busy_until, self.calls = costs, 0.0, 0.0, 0

    def call(self):
        cost = self.costs[min(self.calls, len(self.costs) - 1)]
        self.busy_until, self.calls = max(self.now, self.busy_until) + cost, self.calls + 1

    def synchronize(self):
        self.now = max(self.now, self.busy_until)

    def clock(self):
        return self.now

    def speed(self, batch=1, **options):
        return images_per_second(self.call, batch, self.synchronize, self.clock, **options)


check = Checks("Exercise 11.2")
with check("0.5 seconds for a call: 2 images a second"):
    equal(PlayedDevice(0.5).speed(), 2, within=1e-9)
with check("a batch of 8 in 0.5 seconds: 16"):
    equal(PlayedDevice(0.5).speed(8), 16, within=1e-9)
with check("slow first calls do not count"):
    equal(PlayedDevice(9, 9, 0.25).speed(), 4, within=1e-9)
with check("one round: it begins when the warm-up's work is done"):
    equal(PlayedDevice(9, 9, 0.25).speed(rounds=1), 4, within=1e-9)
with check("the median: one slow call in five changes nothing"):
    equal(PlayedDevice(1, 1, 0.5, 0.5, 7, 0.5).speed(), 2, within=1e-9)
with check("warm-up and rounds are counted"):
    played = PlayedDevice(1)
    played.speed(warm_up=3, rounds=4)
    equal(played.calls, 7)
check.report()

# %% [markdown]
# > **Predict.** The work of a call takes 20 ms. What does a clock measure that does not wait?

# %% tags=["hide-input"]
# Table: with and without synchronisation
device = AsynchronousDevice()
work = partial(device.launch, partial(time.sleep, 0.02))
waits = images_per_second(work, 1, device.synchronize, time.perf_counter)
no_wait = images_per_second(work, 1, lambda: None, time.perf_counter)
device.synchronize()
print(f"waiting for the device: {waits:12,.0f} images per second")
print(f"not waiting:            {no_wait:12,.0f}")
labkit.record("asynchronous_speed_over_real", no_wait / waits)
if torch.cuda.is_available():
    there = copy.deepcopy(model).cuda().eval()
    on_gpu = [torch.rand(8, 3, 512, 512, device="cuda")]

    def backbone_on_gpu():
        with torch.no_grad():
            there.backbone(on_gpu[0])

    real = images_per_second(backbone_on_gpu, 8, torch.cuda.synchronize, time.perf_counter)
    wrong = images_per_second(backbone_on_gpu, 8, lambda: None, time.perf_counter)
    print(f"backbone on this GPU: waiting {real:,.0f}, not waiting {wrong:,.0f} images per second")
else:
    print("(Without a GPU. On one this cell also measures the backbone both ways.)")

# %% [markdown]
# The wrong number does not depend on the work here. (A small network on a GPU is limited by the launches; there both
# numbers are close.) The mistake hides easily: a `.item()`, a `print` of a loss or a copy to the CPU waits too, so that
# one forgotten `synchronize` is wrong in one program and harmless in the next.
#
# **More ways to a wrong number.** The right one: `mask_rcnn_tiny` from the image to pasted masks, after a warm-up.
# Each row changes one thing. (On a CPU in CPU-seconds of one thread, so that other programs count less.)
#
# > **Predict.** Many benchmarks use fresh, random weights: the multiplications are the same. Are they quicker or slower
# > than trained ones? With 3 classes? And with COCO's 80?

# %% tags=["hide-input"]
# Table: one network, measured in several ways
where = default_device()
on_cpu = where.type == "cpu"
clock = time.process_time if on_cpu else time.perf_counter
wait = (lambda: None) if on_cpu else torch.cuda.synchronize
speed = partial(images_per_second, synchronize=wait, clock=clock, rounds=rounds)
trained = Predictor(model, where)
fresh = Predictor(build("mask_rcnn_tiny", categories), where)
fresh_80 = Predictor(build("mask_rcnn_tiny", coco_things()), where)
picture = items[EXAMPLE][0]
half = F.interpolate(picture[None].float(), scale_factor=0.5, mode="area")[0].round().byte()
ROWS = {
    "right": speed(partial(trained, picture), 1),
    "fresh weights, 3 classes": speed(partial(fresh, picture), 1),
    "fresh weights, 80 classes": speed(partial(fresh_80, picture), 1),
    "without post-processing": speed(partial(trained.raw, picture), 1),
    "half the side": speed(partial(trained, half), 1),
    "eight in a batch": speed(partial(trained, [picture] * 8), 8),
}
counted_in = dict.fromkeys(("right", "eight in a batch"), (trained, picture)) | {
    "fresh weights, 3 classes": (fresh, picture),
    "fresh weights, 80 classes": (fresh_80, picture),
    "half the side": (trained, half),
}
print(f"{'':28}{'images per second':>18}{'ratio':>8}{'objects per image':>19}")
for name, value in ROWS.items():
    found = "–"
    if name in counted_in:
        network, one = counted_in[name]
        found = len(network(one).detections)
    print(f"{name:28}{value:18.1f}{value / ROWS['right']:8.2f}{found:>19}")
    key = name.replace(",", "").replace(" ", "_").replace("-", "_")
    if name != "right":
        labkit.record(f"speed_ratio_{key}", value / ROWS["right"])
    if name in counted_in and name != "eight in a batch":
        labkit.record(f"objects_{key}", found)
once = partial(speed, batch=1, warm_up=0, rounds=1)
waits_ms = sorted(1000 / once(partial(trained, one)) for one, _ in items)
middle, high = waits_ms[num_val // 2], waits_ms[int(0.95 * num_val)]
print(
    f"\n{num_val} images, one call each: median {middle:.0f} ms, 95th percentile {high:.0f} ms,"
    f" slowest {waits_ms[-1]:.0f} ms"
)
labkit.record("high_latency_over_median", high / middle)
threads = available_cores()
if on_cpu and threads > 1:
    # One core is this notebook's. Threads that wait for busy cores would give a number of the others' work.
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    result = "not measured, the machine is busy"
    if load < (1 + threads) / 2:
        by_threads = {}
        for count in (1, threads):
            torch.set_num_threads(count)
            by_threads[count] = images_per_second(
                partial(trained, picture), 1, wait, time.perf_counter, rounds=3
            )
        use_threads(1)
        result = f"{by_threads[threads] / by_threads[1]:.2f} times as fast"
    print(f"\n{threads} threads instead of one, by the wall clock: {result}")

# %% [markdown]
# - **Fresh weights** give every class about the same probability. With 3 classes and the background that is 1/4, far
#   above the threshold of 0.05: every proposal is a detection, up to the limit of 100, and each gets a mask. With 80
#   classes it is 1/81, below the threshold: nothing is found, and the mask head has nothing to do. So a benchmark must
#   state the *number of detections*.
# - **Half the side** is a quarter of the pixels, but not four times the speed. Convolutions cost by the pixel; the heads
#   cost by the proposal (up to 100, as before) and by the object.
# - **Post-processing** (here boxes are scaled and masks are pasted; NMS is not in it) is part of what a user waits for:
#   see your ratio.
# - **A batch** spares much of the program's own overhead, and on a GPU it fills what one small image leaves idle. But
#   the first of eight images waits for the eighth: **latency**, the time until an answer, is another number than
#   **throughput**. A median of latencies hides the slow answers, so give a high percentile as well (the line below the
#   table; the images differ in their number of objects).
# - **Threads.** A library that uses all cores looks faster than one that uses one. Say how many. For small tensors, or on a
#   shared machine, more threads can even be slower: they wait for one another.
#
# **Three libraries as they stand.** `torchvision`'s Mask R-CNN resizes its input itself. Detectron2's model does not:
# its `DefaultPredictor` does. `Mask2FormerForUniversalSegmentation` of the package transformers ends with logits;
# another object makes masks of them. So `model(image)` is three different amounts of work. Here are two programs with
# the *same weights*, a ResNet-50 Mask R-CNN, on the same image: once as they stand, once with equal sizes. (Random
# weights, 100 proposals, at most 10 detections. labkit's `Predictor` folds its batch norms and uses channels-last maps;
# torchvision runs as it is. The calls alternate, and the first of each does not count.)

# %% tags=["hide-input"]
# Table: torchvision as it stands against a model that does not resize, and both with equal sizes
small = (48, 64) if profile == "smoke" else (192, 256)
sizes = InputSizes(
    small, small[0] * 5 // 3, small[0] * 3, 64
)  # in a benchmark on COCO: 480, 800, 1333
pair = torchvision_pair(sizes)
published = copy.deepcopy(pair.ours)  # for 11.3
ours, theirs = pair.ours, pair.theirs.eval()
ours.rpn.config = replace(
    ours.rpn.config, post_nms_top_n=(0, 100)
)  # few boxes: this is about pixels
ours.roi_heads.config = replace(ours.roi_heads.config, detections_per_img=10)
theirs.rpn._post_nms_top_n["testing"], theirs.roi_heads.detections_per_img = 100, 10
unresized = copy.deepcopy(ours)
preprocessing = replace(ours.config.preprocessing, resize=None)
unresized.config = replace(ours.config, preprocessing=preprocessing)
photo_sized = test_image(sizes)
calls = {
    "a model that does not resize": Predictor(unresized, torch.device("cpu")),
    "torchvision, which does": torch.no_grad()(lambda p: pair.predict([p])),
    "the first model, resizing too": Predictor(ours, torch.device("cpu")),
}
times_of, objects_of = {name: [] for name in calls}, {}
for _ in range(1 + (2 if profile == "smoke" else 3)):  # in alternation
    for name, call in calls.items():
        begin = time.process_time()
        answer = call(photo_sized)
        times_of[name].append(time.process_time() - begin)
        objects_of[name] = len(
            pair.detections(answer[0]) if isinstance(answer, list) else answer.detections
        )
measured = {name: 1 / statistics.median(times[1:]) for name, times in times_of.items()}
print(f"{'':32}{'images per CPU-second':>22}{'detections':>12}")
for name, value in measured.items():
    print(f"{name:32}{value:22.2f}{objects_of[name]:12}")
without, peer, resizing = measured.values()
labkit.record("as_they_stand_ratio", without / peer)
labkit.record("as_they_stand_over_equal_sizes", without / resizing)

# %% [markdown]
# As they stand, the first program looks faster than it is: compare the last two rows. (The **first call** also pays for
# memory and the choice of algorithms. With `torch.compile` it compiles, for a minute or more.) `labkit bench
# throughput` measures in this way: the same weights, images, sizes and batch, results compared, libraries in
# alternation, inference and training, and beside Detectron2, torchvision and transformers where they are installed:
#
# ```
# labkit bench throughput --device cuda --batch 1,8 --dtype fp32,bf16 --figure bars.png
# ```
#
# ## 11.3 Where the time goes
#
# The forward pass of every detector in labkit is the same four calls: `preprocess`, `backbone`, `predict` (RPN and
# heads) and `postprocess`. A profiler adds up the time of each part. We look at the tiny network and at the ResNet-50
# of 11.2 with the sizes of a benchmark on COCO: an image of 480 × 640, resized to 800 × 1067, 1000 proposals, 100
# detections.
#
# > **Predict.** Which part takes the largest share: the backbone, the RPN with its NMS, the box head, or the mask head?

# %% tags=["hide-input"]
# Figure: shares of the parts
of_coco = InputSizes() if profile != "smoke" else sizes  # 480 × 640, resized to 800 × 1067
preprocessing = replace(ours.config.preprocessing, min_size=of_coco.short, max_size=of_coco.long)
published.config = replace(published.config, preprocessing=preprocessing)
large = Predictor(published, torch.device("cpu"))
tiny = Predictor(model, torch.device("cpu"))  # a profiler does not wait for a GPU
large_picture = test_image(of_coco)


def predict_times(network, one, count):
    for _ in range(count):
        network(one)


profiles = {}
for name, network, one, count in (
    ("mask_rcnn_tiny", tiny, picture, 10),
    ("mask_rcnn_r50", large, large_picture, 1),
):
    detected = network(one).detections  # the warm-up
    profiles[name] = profile_of(partial(predict_times, network, one, count), time.process_time)
    print(f"{name}: {len(detected)} detections in an image of {one.shape[1]} × {one.shape[2]}")
PARTS = {
    "resize, normalise": ("resizing", "checks, normalising"),
    "backbone, FPN": ("backbone", "pyramid"),
    "RPN, NMS": ("RPN", "proposals and NMS"),
    "RoIAlign": ("RoI pooling",),
    "box head, NMS": ("box head", "scores, boxes, NMS"),
    "mask head": ("mask head",),
    "pasting": ("mask pasting",),
    "the rest": ("the rest",),
}
figure, axis = plt.subplots(figsize=(9.6, 1.9), layout="constrained")
shares = {}
for name, parts in profiles.items():
    left, total = 0.0, sum(parts.values())
    for i, (title, keys) in enumerate(PARTS.items()):
        share = shares[name, title] = sum(parts.get(key, 0.0) for key in keys) / total
        axis.barh(
            name,
            share,
            left=left,
            color=COLORS[i],
            edgecolor="white",
            label=title if name == "mask_rcnn_tiny" else "",
        )
        if share > 0.05:
            color = "black" if COLORS[i].mean() > 0.5 else "white"
            place = {"ha": "center", "va": "center", "fontsize": 8, "color": color}
            axis.text(left + share / 2, name, f"{share:.0%}", **place)
        left += share
axis.invert_yaxis()
axis.set(xlim=(0, 1), xticks=[])
axis.spines[["top", "right", "bottom"]].set_visible(False)
figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
plt.show()
for name in profiles:
    heads = sum(shares[name, title] for title in ("RoIAlign", "box head, NMS", "mask head"))
    print(
        f"{name}: backbone {shares[name, 'backbone, FPN']:.0%}, what runs on every box {heads:.0%}"
    )
    labkit.record(f"backbone_share_{name}", shares[name, "backbone, FPN"])
    labkit.record(f"share_of_boxes_{name}", heads)
    if profile != "smoke":  # there the image has few objects, and the large one is not large
        labkit.record(f"boxes_take_more_{name}", heads > shares[name, "backbone, FPN"])

# %% [markdown]
# In the tiny network, with an image full of objects, the parts that run on every box take more than the backbone; in the
# ResNet-50, at the size of a photograph, the backbone takes more. (On one CPU thread; on a GPU the shares are others.) What stands behind the
# backbone depends on the number of proposals and of objects, so on the *image*. That is why the throughput of a
# detector also changes during training: at first few proposals match an object, and the mask head has little to do.
# Three knobs follow: fewer proposals (`post_nms_top_n`), fewer detections (`detections_per_img`), a
# smaller image.
#
# ## 11.4 A published table
#
# A table that is often quoted is Detectron2's own benchmark (its documentation, 2020): training of a Mask R-CNN
# R50-FPN on 8 V100 GPUs, mean of the iterations 100 to 500.
#
# | implementation | images per second |
# | --- | --- |
# | Detectron2 | 62 |
# | mmdetection | 53 |
# | maskrcnn-benchmark | 53 |
# | tensorpack | 50 |
# | simpledet | 39 |
# | Detectron | 19 |
# | matterport/Mask_RCNN | 14 |
#
# What does a row cost? A 3x schedule is 270 000 iterations of 16 images (7.1).


# %% tags=["idea"]
def training_hours(iterations, images_per_batch, images_per_second):
    return iterations * images_per_batch / images_per_second / 3600


PUBLISHED = {
    "Detectron2": 62,
    "mmdetection": 53,
    "tensorpack": 50,
    "Detectron": 19,
    "matterport": 14,
}
{name: round(training_hours(270_000, 16, rate), 1) for name, rate in PUBLISHED.items()}

# %% tags=["hide-input"]
# Bookkeeping: numbers of 11.4
for name in ("Detectron2", "matterport"):
    labkit.record(f"hours_of_3x_{name}", training_hours(270_000, 16, PUBLISHED[name]))
labkit.record("images_per_second_of_the_zoo", 16 / 0.261)

# %% [markdown]
# What the table says today, and what not:
#
# - It is **training on eight GPUs**: 62 is 7.75 a GPU, with the reading of the data. It is not the speed of an answer:
#   the zoo's inference time of this network is 0.043 s an image, 23 images a second, on one V100.
# - The first iterations are left out, as a warm-up. But the documentation adds: "for R-CNN-style models, the throughput
#   of a model typically changes during training, because it depends on the predictions of the model" (11.3). The zoo's
#   0.261 s an iteration, 61 images a second, is the mean of a whole training, with images of several sizes.
# - Hardware and software are of 2019 and 2020: V100, CUDA 10.1, PyTorch 1.5, TensorFlow 1.15. Another GPU, half
#   precision and `torch.compile` change every row, and not by the same factor.
# - Rows 1 to 4 are close. Of Detectron the documentation says: "many of its ops run on CPUs, therefore the performance
#   is limited".
# - The table says nothing about what costs you most later. Is the code base still developed? Does it run with a current
#   PyTorch? Can its models be exported?
#
# ## 11.5 Export
#
# To run a network elsewhere (a phone, a browser, a C++ program) its steps are written into a file, a **graph**. An
# exporter runs the program once with tensors whose sizes are symbols and records the operations. This needs sizes that
# follow from the sizes of the input.

# %% tags=["hide-input"]
# The attempt with torch.export
refused = ""
quiet = io.StringIO()  # the exporter prints all steps up to there
with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
    logging.disable()
    try:
        torch.export.export(model, ([items[0][0]],))
    except Exception as error:
        refused = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    logging.disable(logging.NOTSET)
print(refused)
labkit.record("one_graph_is_refused", bool(refused))

# %% [markdown]
# `u0` is a number of boxes: those with an area, which go into NMS. It depends on the values in the image, and so does
# the number that NMS leaves. That such a number is refused is a rule of `torch.export`. ONNX itself has an operator
# `NonMaxSuppression`, and the older exporter (`torch.onnx.export(..., dynamo=False)`) traces torchvision's Mask R-CNN
# into one graph, for one image size. We **cut at NMS** instead: any size, and each part can be checked alone. There are
# three graphs with ordinary varying sizes; the steps at the cuts are a few lines of NumPy.
#
# ![Panoptic FPN as three graphs. features.onnx goes from the image to feature maps, objectness, box offsets and
# semantic logits. NumPy takes the top-k, decodes boxes and does NMS. boxes.onnx goes from proposals and maps to class
# probabilities and offsets. NumPy applies the threshold and NMS. masks.onnx goes from detections and maps to masks.
# NumPy pastes the masks and merges them with the semantic map.](diagrams/export.svg)
#
# One step inside a graph must change too. `pool` (3.2) sorts boxes by pyramid level and pools each group: again sizes
# that depend on the data. In a graph *every* box is pooled from *every* level, and then the right one is chosen. More
# work, but fixed sizes.
#
# > **Exercise 11.3.** Write `choose_level(pooled, level)`. `pooled` has the shape $(L, K, D, s, s)$: the features of $K$
# > boxes, each pooled from each of $L$ levels. `level` $(K,)$ has the level of each box, from 0. Return $(K, D, s, s)$:
# > each box's features from its own level. No loop over boxes, no `nonzero`, no boolean index: the shapes must not depend
# > on values. A loop over the levels is fine (`torch.where`).


# %% exercise="choose_level"
# Exercise 11.3: each box from its level, with fixed shapes
def choose_level(pooled, level):
    """Features ``(K, D, s, s)`` of K boxes, each from its level.

    Args:
        pooled: ``(L, K, D, s, s)``, every box from every level.
        level: ``(K,)`` int64, from 0 to L - 1.
    """
    # BEGIN SOLUTION
    chosen = pooled[0]
    for i in range(1, len(pooled)):
        chosen = torch.where((level == i)[:, None, None, None], pooled[i], chosen)
    return chosen
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 11.3
check = Checks("Exercise 11.3")
of_levels = (
    torch.arange(3.0)[:, None, None, None, None]
    + torch.tensor([0.0, 10.0])[None, :, None, None, None]
)
with check("box 0 from level 2, box 1 from level 0"):
    chosen = choose_level(of_levels.expand(3, 2, 4, 7, 7), torch.tensor([2, 0]))
    equal(chosen[:, 0, 0, 0], [2, 10])
with check("the shape is that of one level"):
    has_shape(choose_level(of_levels.expand(3, 2, 4, 7, 7), torch.tensor([1, 1])), (2, 4, 7, 7))
with check("no boxes"):
    has_shape(
        choose_level(torch.zeros(3, 0, 4, 7, 7), torch.zeros(0, dtype=torch.int64)), (0, 4, 7, 7)
    )
with check("the values of the levels do not change the shapes: it can be exported"):

    class Graph(torch.nn.Module):
        def forward(self, pooled, level):
            return choose_level(pooled, level)

    torch.export.export(Graph(), (of_levels.expand(3, 2, 4, 7, 7).clone(), torch.tensor([2, 0])))
check.report()

# %% [markdown]
# `labkit export MODEL --onnx FOLDER` writes the graphs, and `labkit.deploy` runs them: NumPy and onnxruntime, without
# PyTorch. We export `panoptic_fpn_tiny`.

# %% tags=["hide-input"]
# The export, where its packages are installed
panoptic = load_model("panoptic_fpn_tiny")
missing = [
    name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None
]
exported, export_holds = None, {}
if missing:
    print(
        f"Not installed: {', '.join(missing)}. Run `pip install 'labkit[export]'`, then this cell."
    )
    print("It exports the network and shows the files, their operators, and the same panoptic map.")
else:
    import onnx

    from labkit.deploy import load
    from labkit.engine.check_export import compare
    from labkit.engine.export_onnx import export_onnx

    export_onnx(panoptic, folder / "panoptic")
    exported = load(folder / "panoptic", threads=1)
    graphs = {
        name: onnx.load(folder / "panoptic" / f"{name}.onnx").graph for name in exported.graphs
    }
    counted = ("RoiAlign", "Where", "Conv", "Gemm", "NonMaxSuppression", "TopK")
    print(f"{'file':16}{'MB':>6}{'nodes':>7}" + "".join(f"{o:>{len(o) + 3}}" for o in counted))
    for name, graph in graphs.items():
        operators = [node.op_type for node in graph.node]
        size = (folder / "panoptic" / f"{name}.onnx").stat().st_size / 1e6
        print(
            f"{name + '.onnx':16}{size:6.2f}{len(operators):7}"
            + "".join(f"{operators.count(o):{len(o) + 3}}" for o in counted)
        )
        export_holds[f"no NMS in {name}"] = not any("NonMax" in o or o == "TopK" for o in operators)
    sizes = [(folder / "panoptic" / f"{name}.onnx").stat().st_size for name in graphs]
    weights = (FOLDER / "panoptic_fpn_tiny.safetensors").stat().st_size
    print(
        f"\nthe weights alone, float16 in a file of their own: {weights / 1e6:.2f} MB; the graphs: {sum(sizes) / 1e6:.2f} MB"
    )

# %% [markdown]
# In boxes.onnx and masks.onnx: three times `RoiAlign`, one for each level, and `Where` to choose. The ONNX operator has the conventions of 11.1 as
# attributes: `coordinate_transformation_mode` is `half_pixel` (aligned) or `output_half_pixel` (not). Version 10 of the
# operator had no such attribute and was never aligned; version 16 is aligned unless told otherwise. So a converter that
# does not write it can cost the half pixel of 11.1. labkit always writes it.
#
# **Is it the same network?** What runs between the graphs is short. This is the prediction, up to the merge:


# %% tags=["idea"]
def predict_without_torch(exported, batch, sizes, steps):
    """Detections and semantic logits: three graphs, and NumPy between them."""
    config = exported.description["config"]
    maps = exported.run("features", image=batch)
    scored = steps.score_proposals(exported.run, maps, sizes, config)  # top-k, NMS, boxes.onnx
    detections = steps.detect(*scored, config["roi_heads"])  # NMS by class
    masks = steps.predict_masks(exported.run, maps, detections)["masks"]  # masks.onnx
    return steps.paste_detections(detections, masks, sizes), maps["sem_seg_logits"]


# %% tags=["hide-input"]
# Table and figure: PyTorch beside onnxruntime
if exported is not None:
    from labkit.deploy import images as deploy_images
    from labkit.deploy import rcnn as deploy_steps
    from labkit.engine.check_export import Differences

    predictor = Predictor(panoptic, torch.device("cpu"))
    largest, seconds = Differences(), {"PyTorch": [], "onnxruntime": []}
    ap_of = {name: COCOAP(categories, val_set.area_limits) for name in seconds}
    for one, of_one in items[:num_checked]:
        pixels = np.ascontiguousarray(one.permute(1, 2, 0).numpy())
        for _ in range(2):  # the first one is the warm-up
            begin = time.process_time()
            prediction = predictor(one)
            middle = time.process_time()
            result = exported(pixels)
            end = time.process_time()
        seconds["PyTorch"].append(middle - begin)
        seconds["onnxruntime"].append(end - middle)
        largest = largest.largest(compare(prediction, result, one.shape[1:]))
        parts = (result.boxes, result.scores, result.labels, result.masks)
        ap_of["PyTorch"].update(prediction, of_one)
        ap_of["onnxruntime"].update(Prediction(Detections(*map(torch.from_numpy, parts))), of_one)
    print(
        f"{num_checked} images: largest difference of a box {largest.boxes:.1e} of the side, of a score {largest.scores:.1e}"
    )
    print(
        f"pixels of the panoptic map that differ: {largest.panoptic}, segments without a partner: {largest.unmatched}"
    )
    ratio = statistics.median(seconds["PyTorch"]) / statistics.median(seconds["onnxruntime"])
    print(f"speed of onnxruntime against PyTorch, one thread of this machine: {ratio:.2f}")
    aps = {name: ap.compute() for name, ap in ap_of.items()}
    for name, ap in aps.items():
        print(f"{name:12} box AP {100 * ap.bbox.ap:.2f}, mask AP {100 * ap.segm.ap:.2f}")
    export_holds["box and mask AP are equal to 0.1 points"] = all(
        abs(getattr(aps["PyTorch"], kind).ap - getattr(aps["onnxruntime"], kind).ap) < 1e-3
        for kind in ("bbox", "segm")
    )
    export_holds["boxes, scores and maps are equal"] = largest.within_tolerance
    export_holds["every segment has a partner"] = largest.unmatched == 0
    one = items[EXAMPLE][0]
    result = exported(np.ascontiguousarray(one.permute(1, 2, 0).numpy()))
    batch, of_one = deploy_images.preprocess(
        np.ascontiguousarray(one.permute(1, 2, 0).numpy()), exported.description["preprocessing"]
    )
    detected, _ = predict_without_torch(exported, batch, of_one, deploy_steps)
    print(f"the image below: {len(detected.boxes)} detections, {len(result.segments)} segments")
    export_holds["the visible steps give the same boxes"] = bool(
        np.abs(detected.boxes - result.boxes).max() < 1e-3
    )
    of_onnx = torch.from_numpy(result.labels_of_panoptic())
    figure = panels(
        [
            ("image", one, None),
            ("PyTorch", one, predictor(one).panoptic.semantic()),
            ("onnxruntime", one, of_onnx),
        ],
        categories,
        columns=3,
        size=2.6,
    )
    display(figure)
labkit.record("export_statements_not_true", sum(not true for true in export_holds.values()))

# %% [markdown]
# The same segments to the pixel; boxes and scores differ by rounding, and the AP is the same. **AP is the accepted test**
# of a model that was changed for its use, above all with 8-bit weights (exercise 7). One image proves little: compare many, of another
# size than the example that the exporter followed (96 × 160 here), and with other numbers of objects, also without any.
#
# Size and speed after the export: the graphs hold float32 weights, twice the size of the float16 file. Whether
# onnxruntime is faster depends on the machine: look at your ratio. Its graph pools every box three times, once from
# each level, and labkit's PyTorch path has a RoIAlign of its own (2.6). The gain is that PyTorch is not needed.
#
# The cut has a price: what passes through NumPy leaves the GPU, with large images also the feature maps (of a ResNet-50
# FPN at 800 × 1088 in float32 about 74 MB). `labkit.deploy` runs on the CPU. A program for a GPU keeps the maps there
# (onnxruntime: I/O binding). (`torch.compile` needs no cut: it compiles the parts with fixed steps and runs the rest as
# before.)
#
# Older advice is still on the web: Detectron2's documentation of 2020 recommended Caffe2, which is no longer
# developed. Its warnings hold today: verify the accuracy of what you exported, and know what the
# file leaves out (theirs left out the post-processing).
#
# ## 11.6 Licences
#
# Three things have a licence each: the **code**, the **weights**, and the **data** that they were trained on. They are
# different documents, often by the same people.
#
# > **Predict.** The code of Mask2Former has the MIT licence. May a company use its published weights in a product?

# %% tags=["hide-input"]
# Table: licences of the published weights in labkit's zoo, and of data sets
CODE = {
    "detectron2": "Apache 2.0",
    "torchvision": "BSD 3-Clause",
    "upsnet": "Uber Non-Commercial",
    "detr": "Apache 2.0",
    "mask2former": "MIT",
    "eomt": "MIT",
}
by_project = {entry.format: entry.licence for entry in published_weights().values()}
print(f"{'project':13}{'code':21}weights")
for project, licence in by_project.items():
    short = re.split(r"[:;]| \(the", licence)[0]
    print(f"{project:13}{CODE[project]:21}{short}")
forbids = [p for p, licence in by_project.items() if "ommercial" in licence]
print("\ndata")
for name in ("coco-val2017", "coco-panoptic", "penn-fudan"):
    print(textwrap.fill(f"{name:14}{catalogue()[name].licence}", 95, subsequent_indent=" " * 14))
labkit.record("projects_whose_weights_forbid_commercial_use", len(forbids))
labkit.record(
    "of_them_with_code_that_allows_it", sum("Non-Commercial" not in CODE[p] for p in forbids)
)

# %% [markdown]
# How to read it (this is a summary of the licences' own terms, and not legal advice):
#
# | licence | commercial use | you must |
# | --- | --- | --- |
# | MIT, BSD, Apache 2.0 | yes | keep the notice; Apache 2.0 also requires you to state changes |
# | CC BY 4.0 (COCO's annotations) | yes | name the authors |
# | CC BY-SA 3.0 (Detectron2's weights) | yes | name the authors, and share adaptations under the same licence |
# | CC BY-NC 4.0 (Mask2Former's weights) | no | name the authors |
# | Uber Non-Commercial (UPSNet, code and weights) | no | keep the licence and its notice; it also covers derivative works, outputs and results |
#
# - **An export contains the same weights**, so their terms go with it. Whether fine-tuned weights are a derivative work
#   is a question for a lawyer. Uber's licence covers derivative works, that of Detectron2's weights covers adaptations.
# - **A company** may not put non-commercial weights into a product. It may train the same network itself, on data that
#   it may use, with code whose licence allows it: Mask2Former's does, UPSNet's does not. (labkit's UPSNet was written
#   from the paper and a list of facts about the original's behaviour, and is compared with its outputs. It contains none
#   of its code. labkit is under Apache 2.0.)
# - **Data.** COCO's annotations are CC BY 4.0. Its images are photographs on Flickr, each with a licence of its own.
#   What follows for weights that were trained on them, the licences do not say; torchvision refers to the terms of the
#   data. That is a question for a lawyer, not for a model zoo.
# - For EoMT read the model card. The code is MIT, the weights of DINOv2, its backbone, are Apache 2.0.
# - labkit's small weights were trained on drawn images. Only `pedestrians_lite` began with ImageNet weights (Apache
#   2.0) and saw Penn-Fudan's photographs.
#
# ## 11.7 Limits and hyperparameters
#
# A report of 2020 on the commercial viability of Detectron2 lists what limits a Mask R-CNN: images of low resolution,
# small data sets, wrong masks (9.8), and wrong hyperparameters. It says that *any* Mask R-CNN fails on images that are
# "not of High resolution". We test this one: each image is reduced and enlarged again, so that only detail is lost.
#
# > **Predict.** At half the resolution, how much of the mask AP is left? At a quarter?

# %% tags=["hide-input"]
# Table: mask AP at lower resolutions; precision and recall by the score threshold


def coarser(image, factor):
    small = F.interpolate(image[None].float(), scale_factor=1 / factor, mode="area")
    large = F.interpolate(small, image.shape[1:], mode="bilinear", align_corners=False)
    return large[0].round().clamp(0, 255).byte()


predictor = Predictor(model, torch.device("cpu"))
print(f"{'resolution':14}{'box AP':>8}{'mask AP':>9}")
full_ap = points["as trained"][2]
for factor in (1, 2, 4, 8):
    found = (
        expected
        if factor == 1
        else [predictor(coarser(one, factor)).detections for one, _ in items]
    )
    box_ap, _, mask_ap = scores_of(found)
    print(f"{'1 / ' + str(factor):14}{box_ap:8.1f}{mask_ap:9.1f}")
    labkit.record(f"mask_ap_left_at_1_{factor}", mask_ap / full_ap)
print(f"\n{'SCORE_THRESH_TEST':20}{'precision':>10}{'recall':>8}{'detections per image':>26}")
for threshold in (0.05, 0.3, 0.5, 0.7, 0.9):
    right = found_objects = gt_objects = 0
    for d, (_, of_one) in zip(expected, items, strict=True):
        d = d[d.scores >= threshold]
        iou = box_iou(d.boxes, of_one["boxes"]) * (d.labels[:, None] == of_one["labels"])
        right += min(len(d), int((iou > 0.5).any(dim=0).sum()))
        found_objects, gt_objects = found_objects + len(d), gt_objects + len(of_one["boxes"])
    precision, recall = right / max(found_objects, 1), right / gt_objects
    print(f"{threshold:<20}{precision:10.1%}{recall:8.1%}{found_objects / num_val:26.1f}")
    labkit.record(f"precision_at_{threshold}", precision)
    labkit.record(f"recall_at_{threshold}", recall)

# %% [markdown]
# At half the resolution most of the AP is left, at a quarter about a third, at an eighth nearly nothing: an object of
# 20 pixels then has less than 3. For this network the report is right, if "resolution" means *pixels per object*. It was
# never trained on blurred images, which may be a part of the loss: exercise 5.
#
# The report's five hyperparameters, and their names in labkit:
#
# | Detectron2 | labkit | what it decides |
# | --- | --- | --- |
# | `SOLVER.IMS_PER_BATCH` | `--batch-size` | memory; the learning rate goes with it (9.9) |
# | `SOLVER.BASE_LR` | `--lr` | 0.02 for 16 images; for $B$ images $0.02 \cdot B / 16$ |
# | `SOLVER.MAX_ITER` | `--steps` | how long; a small data set needs fewer |
# | `MODEL.ROI_HEADS.NUM_CLASSES` | from the categories | in Detectron2 also `SEM_SEG_HEAD.NUM_CLASSES`; they count differently: 9.9 |
# | `MODEL.ROI_HEADS.SCORE_THRESH_TEST` | `score_thresh` | precision against recall, after training |
#
# Only the last one can be changed after training. AP cannot choose it: AP integrates over all thresholds, and a higher one
# only lowers AP. A product has *one* threshold. Choose it from the table above, on images that were not used for training.
#
# ## To take away
#
# - Weights belong to conventions. A wrong one raises no error; it costs from nothing (+1 in the decoding) to most of AP
#   (half a pixel of a feature map). Compare outputs on one image before you compare AP.
# - A speed is complete with: warm-up, synchronisation, the size of the image, the number of detections, post-processing,
#   batch, threads, for a latency a high percentile, the hardware, the versions, and the precision (float32, TF32, bfloat16). On recent GPUs PyTorch
#   computes the convolutions of float32 in TF32 unless told otherwise, which changes the speed and the last digits.
# - Behind the backbone, a detector's time depends on the image.
# - Published throughputs are of their hardware and year. Ratios last longer than numbers.
# - One way to export a detector: cut at NMS. Fixed steps go into graphs, steps that depend on data into a few lines
#   beside them. Compare many images of several sizes.
# - Code, weights and data have three licences. An export keeps that of the weights.
#
# ## More exercises
#
# 1. **Two conventions at once.** Exchange the anchors *and* the half pixel. Do the losses of AP add up? Both shift by
#    half a cell: in which direction does each?
# 2. **Repair.** Shift each box by half a cell of its level inside `pool`, before RoIAlign without `aligned`. Does all of
#    the AP come back? (Without `aligned` a box has at least one cell.)
# 3. **Order of anchors.** `panoptic_fpn_tiny_c4` has several sizes on one level, size outermost. Exchange the loops in
#    `cell_anchors` (`labkit/models/rcnn/anchors.py`). What happens to PQ, and why does nothing happen with an FPN?
# 4. **Your machine.** Run `labkit bench throughput --models panoptic_fpn_tiny --batch 1,2,4,8,16`. Where does the
#    throughput stop growing, and what happens to the latency?
# 5. **Coarse images.** Fine-tune `mask_rcnn_tiny` on images of a quarter of the resolution (wrap `Shapes`), and
#    measure 11.7 again.
# 6. **Another export.** `labkit export upsnet_tiny --onnx DIR --check IMAGE...`, and `eomt_small_640` (`labkit zoo get
#    eomt_small_640`, a large file): which has a fixed size, and why?
# 7. **8 bits.** `onnxruntime.quantization.quantize_dynamic` makes the weights of `boxes.onnx` 8-bit numbers. Write the
#    new file's sha256 into `model.json`. What happens to the size, the speed and the AP?
#
# ## References
#
# - Y. Wu, A. Kirillov, F. Massa, W.-Y. Lo, R. Girshick. Detectron2. 2019. Its documentation: "Compatibility with Other
#   Libraries", "Benchmarks", "Deployment", "Model Zoo and Baselines".
# - V. Joshi. Commercial Viability and Limitation. Report, June 2020: limits, hyperparameters, and the table of 11.4.
# - K. He, G. Gkioxari, P. Dollár, R. Girshick. Mask R-CNN. ICCV 2017.
# - Y. Xiong et al. UPSNet: A Unified Panoptic Segmentation Network. CVPR 2019.
# - B. Cheng et al. Masked-attention Mask Transformer for Universal Image Segmentation. CVPR 2022.
# - The ONNX standard: `RoiAlign`, versions 10 and 16.
# - T.-Y. Lin et al. Microsoft COCO: Common Objects in Context. ECCV 2014.
