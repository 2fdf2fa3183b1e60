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
# # 2. RoIAlign
#
# **The question.** A box has fractional coordinates, a feature map has a few coarse cells. How can the
# features of a box be cropped from the map, always to the same size, without losing its position?
#
# By the end you have computed three operators by hand (RoIPool, RoIWarp, RoIAlign), moved a box by a
# quarter of a pixel and seen two of them jump, written the third as two small matrices, looked into a
# compiled PyTorch operator, followed a gradient backwards, and repeated the ablation of a paper (Mask R-CNN,
# [notebook 3](03_mask_rcnn.ipynb)) that decided between them.
#
# You need: [notebook 1](01_semantic_review.ipynb), bilinear interpolation, and about a minute and a half for the training.
# [Glossary](../docs/glossary.md) of all terms.
#
# **What RoIAlign changes, in one sentence:** it does not round the box to whole cells, but samples the
# feature map by bilinear interpolation at exact positions in the box.
#
# ![Left: a box with real coordinates on the cells of a feature map, divided into 2 × 2 bins with 2 × 2 samples each. Middle: one sample between four cells; its value is their mean, weighted by the opposite areas. Right: the output, one mean per bin.](diagrams/roi_align.svg)

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: minutes; full: a GPU
seed: int = 0

# %% tags=["hide-input"]
# Set-up: imports, sizes of the profiles, data
# %matplotlib inline
import io
import os
import textwrap
import time
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from matplotlib.cbook import get_sample_data
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.transforms import v2

import labkit
from labkit.checkpoints.efficientnet_lite import pretrained_backbone
from labkit.checks import Checks, equal, has_shape
from labkit.colors import PETROFF_10
from labkit.datasets.image_files import read_image
from labkit.datasets.in_memory import InMemory
from labkit.datasets.penn_fudan import PennFudan
from labkit.datasets.shapes import Shapes
from labkit.datasets.transforms import JointTransform, TransformedDataset
from labkit.engine.train import TrainConfig, train
from labkit.models.backbones.tiny_resnet import TinyResNet
from labkit.models.preprocess import (
    EFFICIENTNET_LITE_PREPROCESSING,
    LABKIT_PREPROCESSING,
    preprocess,
    resize_image,
)
from labkit.ops import roi_align, roi_align_compiled, roi_pool, roi_warp
from labkit.ops.build_kernels import build_kernels
from labkit.structures import Detections
from labkit.system.cpu_cores import use_threads
from labkit.system.distributed import default_device
from labkit.system.paths import find_data
from labkit.system.progress_bars import progress_bar
from labkit.visualize import draw_box, feature_colors, panels, show_image
from labkit.widgets import RoIAlignExplorer

num_train, num_val, backbone_steps, head_steps, seeds = {
    "smoke": (16, 8, 2, 2, 1),
    "quick": (500, 80, 240, 100, 2),
    "full": (4000, 1000, 6000, 3000, 5),
}[profile]
_ = torch.manual_seed(seed)
if profile != "full":
    use_threads(1)  # the tensors are small: threads would wait for one another
random = np.random.default_rng(seed)
blue, orange, red, grey, purple = [np.array(c) / 255 for c in PETROFF_10[:5]]
COLORS = {"RoIPool": red, "RoIWarp": orange, "RoIAlign": blue}

train_set = InMemory(Shapes("train", num=num_train, seed=seed))
val_set = InMemory(Shapes("val", num=num_val, seed=seed))
categories = train_set.categories

cells = torch.tensor(  # the feature map of section 2.2
    [[1.0, 3, 2, 0, 4], [5, 9, 6, 2, 1], [2, 7, 8, 4, 0], [0, 4, 5, 3, 2], [3, 1, 0, 6, 8]]
)
example_region = (0.75, 1.25, 2.75, 3.25)

# %% [markdown]
# ## 2.1 Why rounding hurts
#
# A detector computes the feature maps of an image once, with a convolutional network. Then it
# classifies many **regions of interest** (RoIs): boxes that may contain an object. The features of each
# box are resampled to the same small grid, usually $7 \times 7$ *bins*, and given to a head that
# predicts class, box and mask. A map of stride 16 has one cell for $16 \times 16$ pixels, so that the
# coordinate $x = 41.3$ becomes $41.3 / 16 = 2.58$ cells.
#
# The first operator, **RoIPool** (Girshick, 2015), rounds: it takes the whole cells from $\mathrm{round}(x_1/16)$
# to $\mathrm{round}(x_2/16)$, both included, and the same in $y$. The last cell is included because boxes named
# their last pixel then; so this **rounded box** is about one cell too long.
#
# > **Exercise 2.1.** Write a function that returns the rounded box in pixels. At stride $t$, cell $c$ covers the
# > pixels from $t c$ to $t (c + 1)$. An example in one direction: $x$ from 41.3 to 70 is, at stride 16, 2.58 to
# > 4.38 in cells, so the cells 3 and 4 are taken, the pixels from 48 to 80. Halves are rounded up: $\lfloor v +
# > \frac12 \rfloor$.


# %% exercise="pooled_boxes"
# Exercise 2.1: the rounded box
def pooled_boxes(boxes, stride):
    """The pixels under the cells that RoIPool takes for each box.

    Args:
        boxes: (K, 4) tensor of x1, y1, x2, y2 in pixels.
        stride: pixels per cell.

    Returns:
        (K, 4), in pixels.
    """
    # BEGIN SOLUTION
    cells = (boxes / stride + 0.5).floor()
    return torch.cat([cells[:, :2], cells[:, 2:] + 1], dim=1) * stride
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 2.1
box = torch.tensor([[41.3, 20.0, 70.0, 60.0]])
check = Checks("Exercise 2.1")
with check("stride 16: the cells 3 and 4 in x, 1 to 4 in y"):
    equal(pooled_boxes(box, 16), [[48, 16, 80, 80]])
with check("stride 8: 2.5 and 7.5 in y are rounded up"):
    equal(pooled_boxes(box, 8), [[40, 24, 80, 72]])
with check("a box within a cell takes the whole cell"):
    equal(pooled_boxes(torch.tensor([[17.0, 17.0, 20.0, 20.0]]), 16), [[16, 16, 32, 32]])
with check("no boxes give none"):
    has_shape(pooled_boxes(torch.zeros(0, 4), 16), (0, 4))
check.report()

# %% [markdown]
# Three boxes (blue, solid) and their rounded boxes (red, dashed) at stride 16. The table has the mean IoU of the
# two boxes (area of intersection / area of union) for the objects of the validation set, by their size.
#
# > **Predict.** What is this mean at stride 16: near 0.9, 0.6 or 0.3?


# %% tags=["hide-input"]
# Figure and table: boxes and the regions that RoIPool takes for them
def iou(a, b):
    return torchvision.ops.box_iou(a[None], b[None]).item()


figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.5), layout="constrained")
for axis, index in zip(axes, (0, 1, 4), strict=True):
    image, target = val_set[index]
    area = (target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(dim=1)
    box = target["boxes"][area.argsort()[len(area) // 2]]  # of middle size
    taken = pooled_boxes(box[None], 16)[0]
    show_image(axis, image)
    for line in range(16, 128, 16):
        axis.axvline(line, color="white", linewidth=0.7, alpha=0.55)
        axis.axhline(line, color="white", linewidth=0.7, alpha=0.55)
    draw_box(axis, taken, "white", linewidth=4)
    draw_box(axis, taken, red, linewidth=2.2, linestyle="--")
    draw_box(axis, box, "white", linewidth=4)
    draw_box(axis, box, blue, linewidth=2.2)
    axis.set_title(f"stride 16: IoU of the two boxes {iou(box, taken):.2f}", fontsize=10)
plt.show()

boxes = torch.cat([target["boxes"] for _, target in val_set])
area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
small, large = Shapes("val", num=num_val, seed=seed).area_limits
groups = {
    "small": area < small,
    "medium": (area >= small) & (area < large),
    "large": area >= large,
    "all": area > 0,
}
print("mean IoU of a box and its rounded box\nstride " + "".join(f"{g:>8}" for g in groups))
for stride in (4, 8, 16, 32):
    overlap = torchvision.ops.box_iou(boxes, pooled_boxes(boxes, stride)).diagonal()
    print(f"{stride:6} " + "".join(f"{overlap[g].mean():8.2f}" for g in groups.values()))
    labkit.record(f"iou_after_rounding_stride_{stride}", overlap.mean())

# %% [markdown]
# At stride 16 the mean IoU is near 0.3: most of the red box is not the object. The head gets the features of the
# red box and has to predict the position of the object in the blue one. It cannot correct the offset, which differs
# from box to box and is not in its input. This matters little for the class, but much for the mask.
#
# The second problem is a jump. Move a box to the right in steps of a quarter of a pixel. The feature map is the
# image, averaged over blocks of $16 \times 16$ pixels; the box is pooled to $2 \times 2$ bins, and the curve shows
# the upper left one.
#
# > **Predict.** RoIWarp (section 2.2) rounds the corners like RoIPool, then interpolates between the cells like
# > RoIAlign. Does its curve jump?

# %% tags=["hide-input"]
# Figure: the value of a bin while the box moves
image, target = val_set[4]
grey_map = F.avg_pool2d(image.float().mean(dim=0)[None, None] / 255, 16)  # (1, 1, 8, 8)
shifts = torch.arange(0, 64, 0.25)
base = torch.tensor([5.1, 40.0, 55.1, 90.0])
moved = base + shifts[:, None] * torch.tensor([1.0, 0, 1, 0])  # (K, 4)
curves = {
    "RoIPool": roi_pool(grey_map, [moved], 2, 1 / 16),
    "RoIWarp": roi_warp(grey_map, [moved], 2, 1 / 16),
    "RoIAlign": roi_align(grey_map, [moved], 2, 1 / 16, 2, aligned=True),
}
figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
for name, pooled in curves.items():
    curve = pooled[:, 0, 0, 0]
    axis.plot(shifts, curve, color=COLORS[name], label=name, linewidth=2, drawstyle="default")
    steps = pooled.flatten(1).diff(dim=0).abs().amax(dim=1)  # largest change of any bin
    unmoved = (steps == 0).float().mean().item()
    print(f"{name:8} unchanged after {unmoved:4.0%} of the steps, largest change {steps.max():.3f}")
    labkit.record(f"largest_jump_{name}", steps.max())
    labkit.record(f"moves_without_effect_{name}", unmoved)
axis.set(xlabel="the box moves to the right, pixels", ylabel="value of the first bin")
axis.legend(frameon=False)
axis.grid(alpha=0.3)
plt.show()

# %% [markdown]
# It does: RoIPool and RoIWarp stay constant for up to 16 pixels and then jump. RoIAlign, which does not round,
# changes a little at every step. Interpolation does not help where the corners are rounded.
#
# ## 2.2 Three operators by hand
#
# What does each operator read for one box, and what does it return? The feature map $F$ has five by five cells and one
# channel. In cell coordinates, cell $(r, c)$ covers $[c, c+1] \times [r, r+1]$ and its centre is at
# $(c + \frac12, r + \frac12)$. The box (dashed) is $x$ from 0.75 to 2.75 and $y$ from 1.25 to 3.25, to be pooled
# into $2 \times 2$ bins. Coloured: what each operator pools, RoIWarp and RoIAlign with one sample per bin (dots);
# below, its output.

# %% tags=["hide-input"]
# Figure: the three operators on the map, and their outputs
BY_HAND = {
    "RoIPool": [[9, 8], [8, 8]],
    "RoIWarp": [[8, 3.5], [5, 3.875]],
    "RoIAlign": [[7.4375, 7], [5.0625, 7]],
}


def show_cells(axis, F):
    height, width = F.shape
    axis.imshow(F, cmap="Greys", alpha=0.35, extent=(0, width, height, 0), vmin=-2, vmax=12)
    for r in range(height):
        for c in range(width):
            text = f"{F[r, c]:.4g}"
            axis.text(c + 0.5, r + 0.5, text, ha="center", va="center", fontsize=11, color="0.35")
    axis.set(xticks=range(width + 1), yticks=range(height + 1))
    axis.tick_params(labelsize=8, length=2)
    axis.grid(color="0.75", linewidth=0.6)


figure, axes = plt.subplots(
    2, 3, figsize=(9.6, 5), layout="constrained", height_ratios=[5, 2.2], sharey="row"
)
for (name, values), axis, below in zip(BY_HAND.items(), *axes, strict=True):
    color = COLORS[name]
    show_cells(axis, cells)
    if name == "RoIPool":
        for x, y in [(1, 1), (2, 1), (1, 2), (2, 2)]:  # overlapping bins: darker where they do
            shade = {"fill": True, "facecolor": (*color, 0.13)}
            inner = (x + 0.06, y + 0.06, x + 1.94, y + 1.94)
            draw_box(axis, inner, color, linestyle=":", linewidth=1, **shade)
        draw_box(axis, (1, 1, 4, 4), color, linewidth=2.2)
    else:
        x1, y1, x2, y2 = (1, 1, 4, 4) if name == "RoIWarp" else example_region
        draw_box(axis, (x1, y1, x2, y2), color, linewidth=2.2)
        axis.plot([(x1 + x2) / 2] * 2, [y1, y2], color=color, linewidth=1.2)
        axis.plot([x1, x2], [(y1 + y2) / 2] * 2, color=color, linewidth=1.2)
        xs, ys = [(3 * x1 + x2) / 4, (x1 + 3 * x2) / 4], [(3 * y1 + y2) / 4, (y1 + 3 * y2) / 4]
        axis.plot(np.repeat(xs, 2), ys * 2, "o", color=color, markersize=6, markeredgecolor="white")
    if name != "RoIAlign":
        draw_box(axis, example_region, "0.2", linestyle="--", linewidth=1.3)
    axis.set_title(name, fontsize=11, color=color, fontweight="bold")
    below.imshow(np.array(values), cmap="Greys", alpha=0.35, vmin=-2, vmax=12)
    for i in range(2):
        for j in range(2):
            below.text(j, i, f"{values[i][j]:g}", ha="center", va="center", fontsize=11)
    below.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# Now the same numbers on paper.
#
# **RoIPool** (Girshick, 2015). The corners are rounded: cells 1 to 3 in both directions. Three cells do
# not divide into two bins; each bin's edges are rounded outwards, so the bins are cells 1–2 and 2–3 and
# share the middle one. The output is the largest value of each bin:
# $\max(9,6,7,8) = 9$, $\max(6,2,8,4) = 8$, $\max(7,8,4,5) = 8$, $\max(8,4,5,3) = 8$. The
# same cell, 8, is the value of three bins.
#
# **RoIWarp** (Dai et al., 2016). The corners are rounded as before, so the rounded box is $[1, 4] \times [1, 4]$,
# but the bins keep their true width of 1.5. One sample is taken in the middle of each bin, at 1.75 and 3.25.
# Measured from the centre of cell 0 that is $1.75 - 0.5 = 1.25$: a quarter of the way from cell 1 to cell 2. In row
# 1: $\frac34 \cdot 9 + \frac14 \cdot 6 = 8.25$; in row
# 2: $\frac34 \cdot 7 + \frac14 \cdot 8 = 7.25$; and between the rows
# $\frac34 \cdot 8.25 + \frac14 \cdot 7.25 = 8$.
#
# **RoIAlign** (He et al., 2017). Nothing is rounded. The bins are 1 wide, with centres at $x = 1.25, 2.25$ and $y =
# 1.75, 2.75$. Minus ½, as before: $x = 0.75, 1.75$ and $y = 1.25, 2.25$. First bin: row 1 gives $\frac14 \cdot 5 +
# \frac34 \cdot 9 = 8$, row 2 gives
# $\frac14 \cdot 2 + \frac34 \cdot 7 = 5.75$, and between them
# $\frac34 \cdot 8 + \frac14 \cdot 5.75 = 7.4375$.
#
# The definitions in code, for one box and one channel, begin with bilinear interpolation. Two rules
# for samples near the border belong to it: up to half a cell outside the map a sample has the border's value,
# farther out it is zero.


# %% tags=["idea"]
def bilinear(feature_map, y, x):
    """The map at a point, measured from the centre of cell (0, 0)."""
    height, width = feature_map.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    r, c = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    below, right = min(r + 1, height - 1), min(c + 1, width - 1)
    v, u = y - r, x - c  # how far towards the next row and column
    return (1 - v) * ((1 - u) * feature_map[r, c] + u * feature_map[r, right]) + v * (
        (1 - u) * feature_map[below, c] + u * feature_map[below, right]
    )


# %% [markdown]
# RoIWarp and RoIAlign share the sampling: $s \times s$ points in each bin, then their mean. They differ
# in the box: RoIWarp rounds it first.


# %% tags=["idea"]
def sample_bins(feature_map, box, bins, s):
    """The mean of s × s samples in each of bins × bins parts of a box."""
    x1, y1, x2, y2 = box
    width, height = (x2 - x1) / bins, (y2 - y1) / bins
    out = torch.zeros(bins, bins, dtype=feature_map.dtype)
    for i in range(bins):
        for j in range(bins):
            for a in range(s):
                for b in range(s):
                    y = y1 + (i + (a + 0.5) / s) * height
                    x = x1 + (j + (b + 0.5) / s) * width
                    out[i, j] += bilinear(feature_map, y - 0.5, x - 0.5) / s**2
    return out


def round_half_up(value):
    return int(np.floor(value + 0.5))


def my_roi_warp(feature_map, box, bins, s=1):
    x1, y1, x2, y2 = [round_half_up(v) for v in box]
    return sample_bins(feature_map, (x1, y1, x2 + 1, y2 + 1), bins, s)


def my_roi_align(feature_map, box, bins, s=1):
    return sample_bins(feature_map, box, bins, s)


# %% [markdown]
# RoIPool rounds twice, the box and then the edges of the bins, and takes the maximum of whole cells.
#
# > **Exercise 2.2.** Write it. Round the box as in exercise 2.1 (`round_half_up`, the last cell included), here in
# > cells. With $h$ rows of cells in the rounded box and $n$ bins, bin $i$ reaches from row $\lfloor i h / n \rfloor$
# > to row $\lceil (i + 1) h / n \rceil$ (not included), counted from its first row; likewise in $x$. Cells outside
# > the map do not exist, and a bin without cells is 0.


# %% exercise="my_roi_pool"
# Exercise 2.2: RoIPool
def my_roi_pool(feature_map, box, bins):
    """RoIPool of one region.

    Args:
        feature_map: (H, W) map.
        box: x1, y1, x2, y2 in cells.
        bins: in each direction.

    Returns:
        (bins, bins)
    """
    # BEGIN SOLUTION
    x1, y1, x2, y2 = [round_half_up(v) for v in box]
    width, height = (x2 - x1 + 1) / bins, (y2 - y1 + 1) / bins
    out = torch.zeros(bins, bins, dtype=feature_map.dtype)
    for i in range(bins):
        for j in range(bins):
            top, left = y1 + int(np.floor(i * height)), x1 + int(np.floor(j * width))
            bottom, right = y1 + int(np.ceil((i + 1) * height)), x1 + int(np.ceil((j + 1) * width))
            inside = feature_map[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
            out[i, j] = inside.max() if inside.numel() else 0
    return out
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 2.2
check = Checks("Exercise 2.2")
with check("the example by hand: two bins, which share the middle cells"):
    equal(my_roi_pool(cells, example_region, 2), [[9, 8], [8, 8]])
with check("one bin: the maximum of the cells 1 to 3"):
    equal(my_roi_pool(cells, example_region, 1), [[9]])
with check("whole numbers: from 3 to 4 are the two cells 3 and 4"):
    equal(my_roi_pool(cells, (3, 3, 4, 4), 2), [[3, 2], [6, 8]])
with check("partly outside the map: bins without cells are 0"):
    equal(my_roi_pool(cells, (-2, -2, 0.2, 0.2), 2), [[0, 0], [0, 1]])
check.report()


# %% tags=["hide-input"]
# Check: the twelve values by hand
OWN = {"RoIPool": my_roi_pool, "RoIWarp": my_roi_warp, "RoIAlign": my_roi_align}
wrong = sum(
    OWN[name](cells, example_region, 2).tolist()[i][j] != values[i][j]
    for name, values in BY_HAND.items()
    for i in range(2)
    for j in range(2)
)
labkit.record("values_by_hand_that_are_wrong", wrong)
print(f"values that differ from those by hand: {wrong} of 12")


# %% [markdown]
# The same comparison on 100 random boxes, many of them partly outside the map, with the operators of `labkit.ops`
# and of torchvision:

# %% tags=["hide-input"]
# Check: random regions against labkit and torchvision
worst = defaultdict(float)
for _ in range(100):
    values = torch.tensor(random.normal(size=(7, 9)))
    corner, sides = random.uniform(-3, 7, 2), random.uniform(0.3, 6, 2)
    box = (*corner, *(corner + sides))
    batch, rois = values[None, None], [torch.tensor(np.array([box]))]  # N = C = K = 1
    pairs = {
        "pool_vs_labkit": (my_roi_pool(values, box, 3), roi_pool(batch, rois, 3)),
        "pool_vs_torchvision": (
            my_roi_pool(values, box, 3),
            torchvision.ops.roi_pool(batch, rois, 3),
        ),
        "warp_vs_labkit": (my_roi_warp(values, box, 3, 2), roi_warp(batch, rois, 3)),
        "align_vs_labkit": (
            my_roi_align(values, box, 3, 2),
            roi_align(batch, rois, 3, 1.0, 2, aligned=True),
        ),
        "align_vs_torchvision": (
            my_roi_align(values, box, 3, 2),
            torchvision.ops.roi_align(batch, rois, 3, 1.0, 2, aligned=True),
        ),
    }
    for name, (own, other) in pairs.items():
        worst[name] = max(worst[name], (own - other).abs().max().item())
for name, difference in worst.items():
    labkit.record(name, difference)
    print(f"{name.replace('_vs_', ' and '):22} largest difference {difference:.2g}")

# %% [markdown]
# ## 2.3 The half pixel
#
# Why was $\frac12$ subtracted in the code above? Because two conventions meet. The coordinates of a box
# count *edges*: $x = 0$ is the left edge of the image. A map is indexed by *centres*: $F[0]$ is the
# value at the centre of the first cell, half a cell from the edge. The first implementation of RoIAlign
# did not subtract it (`aligned=False`) and read every box half a cell too far to the lower right: eight pixels at
# stride 16. It also enlarged each box to at least one cell. `aligned=True` subtracts the half. Both remain in use,
# because published weights need the one they were trained with.
#
# To see it, average the image over blocks of $8 \times 8$ pixels and apply RoIAlign to that map.
# Does the output show the same part of the image as a crop? (The first two lines measure the shift on
# a map that holds the position of every pixel.)

# %% tags=["hide-input"]
# Figure: a region with and without the half pixel
stride, bins = 8, 48
ramp = torch.arange(128.0) + 0.5  # every pixel has the position of its centre
places = torch.stack([ramp.expand(128, 128), ramp[:, None].expand(128, 128)])
box = torch.tensor([[37.0, 29.0, 101.0, 93.0]])
for aligned in (False, True):
    pooled = roi_align(
        F.avg_pool2d(places, stride)[None], [box], 4, 1 / stride, 2, aligned=aligned
    )[0]
    middles = box[0, 0] + (torch.arange(4) + 0.5) * 16  # of the bins, along x
    shift = (pooled[0] - middles).mean().item()
    print(f"aligned={aligned}: the bins are shifted by {shift:+.1f} pixels")
    labkit.record(f"shift_in_pixels_aligned_{aligned}", shift)

image, target = val_set[7]
centre = (target["boxes"][0, :2] + target["boxes"][0, 2:]) / 2
first = (centre - 32).round().clamp(8, 56)
box = torch.cat([first, first + 64])[None]
coarse = F.avg_pool2d(image.float()[None] / 255, stride)
crops = {
    "crop of the image": roi_align(image.float()[None] / 255, [box], bins, 1.0, 2, aligned=True),
    "aligned=True": roi_align(coarse, [box], bins, 1 / stride, 2, aligned=True),
    "aligned=False": roi_align(coarse, [box], bins, 1 / stride, 2, aligned=False),
}
figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), layout="constrained")
show_image(axes[0], image)
draw_box(axes[0], box[0], "white", linewidth=4)
draw_box(axes[0], box[0], blue, linewidth=2.2)
axes[0].set_title("image and region", fontsize=10)
mask = roi_align(target["masks"][:1, None].float(), [box], 256, 1.0, 1, aligned=True)[0, 0]
places = (np.arange(256) + 0.5) / 4
for axis, (name, crop) in zip(axes[1:], crops.items(), strict=True):
    axis.imshow(crop[0].permute(1, 2, 0).clamp(0, 1), extent=(0, 64, 64, 0))
    axis.contour(places, places, mask, [0.5], colors="white", linewidths=1.6)
    axis.set(xticks=[], yticks=[])
    axis.set_title(name, fontsize=10)
plt.show()

# %% [markdown]
# The white outline is the object's ground truth in the box. With the half pixel the blurred object lies inside it.
# Without, the crop is taken half a cell too far to the lower right, so the object in it appears too far to the
# upper left.
#
# ## 2.4 Where RoIAlign samples
#
# The last choice is the number of samples in a bin. `sampling_ratio=s` takes $s \times s$ of them;
# $s \le 0$ is the *adaptive* rule: $\lceil h \rceil \times \lceil w \rceil$ samples for a bin of $h \times w$
# cells, so that large bins are sampled without gaps. In each direction the samples are equally spaced:


# %% tags=["idea"]
def sampling_points(box, bins, s):
    """x and y of the samples of a region: the columns and rows of a grid, ``(bins * s,)`` each."""
    x1, y1, x2, y2 = box.tolist()
    t = (np.arange(bins * s) + 0.5) / (bins * s)
    return x1 + t * (x2 - x1), y1 + t * (y2 - y1)


# %% [markdown]
# For the rest of the lesson we need a real feature map. We train a backbone for two tasks that use *no
# RoI operator*: a semantic map, as in notebook 1, and *proposals*, boxes that may contain an object (torchvision's
# region proposal network, RPN; [3.3](03_mask_rcnn.ipynb#3.3-Anchors)). So its features prefer none of the operators
# that section 2.9 compares on them. It takes about a minute.


# %% tags=["hide-input"]
# The network: backbone, semantic head, torchvision's RPN
class Backbone(nn.Module):
    """A feature map of stride 8, trained by semantic segmentation and by proposals."""

    def __init__(self, num_classes):
        super().__init__()
        self.body = TinyResNet()
        self.body.res4 = self.body.res5 = nn.Identity()  # these stages are not used here
        self.channels = self.body.channels["res3"]
        # Logits for every block of 4 × 4 pixels in a cell, so that the features have to encode
        # positions within the cell.
        self.score = nn.Sequential(nn.Conv2d(self.channels, num_classes * 4, 1), nn.PixelShuffle(2))
        self.propose = RegionProposalNetwork(
            AnchorGenerator(((12, 24, 48),), ((0.5, 1.0, 2.0),)),
            RPNHead(self.channels, 9),
            fg_iou_thresh=0.6,
            bg_iou_thresh=0.3,
            batch_size_per_image=64,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 300, "testing": 300},
            post_nms_top_n={"training": 60, "testing": 60},
            nms_thresh=0.7,
        )

    def forward(self, images, targets=None):
        batch = preprocess(images, replace(LABKIT_PREPROCESSING, size_divisor=8))
        features = self.body(batch.tensor)["res3"]
        image_list = ImageList(batch.tensor, batch.input_sizes)
        proposals, losses = self.propose(image_list, {"res3": features}, targets)
        if targets is None:
            return features, proposals
        logits = F.interpolate(self.score(features), batch.padded_size, mode="bilinear")
        gt_labels = torch.stack([target["semantic"] for target in targets])
        return {**losses, "loss_sem_seg": F.cross_entropy(logits, gt_labels, ignore_index=255)}


# %%
_ = torch.manual_seed(seed)
backbone = Backbone(len(categories))
mirrored = TransformedDataset(train_set, JointTransform(v2.RandomHorizontalFlip()))
_ = train(backbone, mirrored, TrainConfig(steps=backbone_steps, lr=3e-3, seed=seed))
_ = backbone.cpu().eval().requires_grad_(False)

# %% [markdown]
# One region on the image and on the map of stride 8 (the channel with the largest variance), its
# $7 \times 7$ bins, and the samples of RoIAlign. Left and middle: $s = 2$, the value of most detectors.
# Right: the adaptive rule, which takes one sample per bin here, because the bins are smaller than a
# cell.

# %% tags=["hide-input"]
# Figure: samples of one region
image, target = val_set[1]
features = backbone([image])[0][0]  # (C, 16, 16)
channel = features.var(dim=(1, 2)).argmax()
area = (target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(dim=1)
region = target["boxes"][area.argmax()]

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.8), layout="constrained")
adaptive = int(((region[2] - region[0]) / 8 / 7).ceil())
for axis, s, title in (
    (axes[0], 2, "image, 2 × 2 samples"),
    (axes[1], 2, "stride 8, 2 × 2 samples"),
    (axes[2], adaptive, f"stride 8, adaptive: {adaptive} × {adaptive}"),
):
    if axis is axes[0]:
        show_image(axis, image)
    else:
        axis.imshow(features[channel], cmap="viridis", extent=(0, 128, 128, 0))
    draw_box(axis, region, "white", linewidth=2)
    x1, y1, x2, y2 = region.tolist()
    for t in np.linspace(0, 1, 8)[1:-1]:
        axis.plot([x1 + t * (x2 - x1)] * 2, [y1, y2], color="white", linewidth=0.6)
        axis.plot([x1, x2], [y1 + t * (y2 - y1)] * 2, color="white", linewidth=0.6)
    x, y = np.meshgrid(*sampling_points(region, 7, s))
    axis.plot(x, y, "o", color=orange, markersize=2.6, markeredgecolor="black", markeredgewidth=0.4)
    margin = 12
    axis.set(xlim=(x1 - margin, x2 + margin), ylim=(y2 + margin, y1 - margin))
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=10)
plt.show()

# %% [markdown]
# The same region in detail on that channel, with $4 \times 4$ bins and all three operators side by
# side. Each number can be followed from the cells of the map to the bin; the arithmetic is at the
# bottom. The figure is interactive in JupyterLab and on the web site: drag the box by a fraction of a cell, or move it
# with the arrow keys, and watch which of the three grids change; click on a bin to see its samples.

# %%
in_cells = (region / 8).tolist()
RoIAlignExplorer(features[channel], in_cells, image=image, selected=(1, 2))

# %% [markdown]
# ## 2.5 RoIAlign as two matrix products
#
# Two loops over bins and two over samples, for every channel: can they be avoided? The samples of bin $(i, j)$ are all
# pairs of $s$ positions $y_{ia}$ and $s$ positions $x_{jb}$, measured from the centre of cell 0
# ($a, b = 1, \dots, s$). A bilinear weight is a weight along $y$ times a weight along $x$. Let
# $\lambda(t, r) = \max(0, 1 - |t - r|)$ be the weight of cell $r$ at position $t$. Then
#
# $$\text{out}_{ij} = \frac{1}{s^2} \sum_{a,b} \sum_{r,c} \lambda(y_{ia}, r)\, \lambda(x_{jb}, c)\, F_{rc}
# = \sum_{r,c} \underbrace{\Big[\frac1s \sum_a \lambda(y_{ia}, r)\Big]}_{(A_y)_{ir}} F_{rc}
# \underbrace{\Big[\frac1s \sum_b \lambda(x_{jb}, c)\Big]}_{(A_x)_{jc}}
# = \big(A_y\, F\, A_x^{\top}\big)_{ij} .$$
#
# The sums over the samples are now *inside* two small matrices, which do not depend on the channel.
# The four loops became two matrix products. For $7 \times 7$ bins only $2 \cdot 7 s$ positions are computed, instead
# of $49\, s^2$ samples for each of $C$ channels.


# %% tags=["idea"]
def my_sampling_matrix(start, end, bins, s, size):
    """A of one axis, ``(bins, size)``: the weight of every cell in every bin."""
    A = torch.zeros(bins, size, dtype=torch.float64)
    for i in range(bins):
        for a in range(s):
            t = start + (i + (a + 0.5) / s) * (end - start) / bins - 0.5
            if -1 <= t <= size:
                t = min(max(t, 0), size - 1)
                low = min(int(t), max(size - 2, 0))
                A[i, low] += (1 - (t - low)) / s
                A[i, min(low + 1, size - 1)] += (t - low) / s
    return A


def separable_roi_align(feature_map, box, bins, s):
    """RoIAlign ``(C, bins, bins)`` of a map ``(C, H, W)`` and a box in cells."""
    x1, y1, x2, y2 = box
    A_y = my_sampling_matrix(y1, y2, bins, s, feature_map.shape[1]).to(feature_map.dtype)
    A_x = my_sampling_matrix(x1, x2, bins, s, feature_map.shape[2]).to(feature_map.dtype)
    return A_y @ feature_map @ A_x.T


# %% tags=["hide-input"]
# Figure: the two matrices of a region; check against torchvision
x1, y1, x2, y2 = in_cells
A_y, A_x = my_sampling_matrix(y1, y2, 7, 2, 16), my_sampling_matrix(x1, x2, 7, 2, 16)
product = separable_roi_align(features.double(), in_cells, 7, 2)  # (C, 7, 7)
reference = torchvision.ops.roi_align(
    features[None].double(), [region[None].double()], 7, 1 / 8, 2, aligned=True
)[0]
labkit.record("separable_vs_torchvision", (product - reference).abs().max())

figure, axes = plt.subplots(
    1, 4, figsize=(11, 3.2), layout="constrained", width_ratios=[16, 16, 7, 7]
)
shown = (
    (A_y, "$A_y$", "cells in y", "bins in y", "magma"),
    (features[channel], "$F$", "cells in x", "cells in y", "viridis"),
    (A_x.T, r"$A_x^\top$", "bins in x", "cells in x", "magma"),
    (product[channel], r"$A_y\, F\, A_x^\top$", "bins in x", "bins in y", "viridis"),
)
for axis, (matrix, title, across, down, cmap) in zip(axes, shown, strict=True):
    axis.imshow(matrix, cmap=cmap)
    axis.set_title(title, fontsize=13)
    axis.set(xlabel=across, ylabel=down, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# Here each row of $A_y$ sums to one and is non-zero at the few cells under its bin. The saving grows with
# $s$, because the samples cost time only while the matrices are filled. How much is it in plain Python,
# for one region of all channels? Below, the four loops of section 2.2 (for one channel, times the
# number of channels) against `separable_roi_align`:


# %% tags=["hide-input"]
# Measuring loop: loops against two products
def best_time(function, repeats=5):
    """The shortest of several runs in seconds; disturbances only lengthen a run."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


ratios = {}
for s in (1, 2, 4):
    loops = best_time(lambda s=s: sample_bins(features[channel], in_cells, 7, s), 2)
    loops *= len(features)
    products = best_time(lambda s=s: separable_roi_align(features, in_cells, 7, s))
    ratios[s] = loops / products
    print(
        f"s = {s}: loops {loops:7.3f} s, separable {products * 1e3:6.2f} ms, {ratios[s]:6.0f} times"
    )
labkit.record("separable_over_loops_s_2", ratios[2])

# %% [markdown]
# `labkit.ops.roi_align_separable` does the same for all regions at once, without a Python loop over
# samples, differentiable by autograd and on every device of PyTorch.
#
# ## 2.6 The compiled operator (optional)
#
# Nothing later needs this section. Two things are left that PyTorch's own operators cannot do: skip the zeros of
# the matrices (a bin touches a few rows of the map), and keep the cells of the map in the processor's cache while
# many regions read them. Both need a loop in a compiled language, and PyTorch lets us add one as an
# *operator* of our own. The parts of such an extension:
#
# | part | file | what it contains |
# | --- | --- | --- |
# | schema | `csrc/roi_align_cpu.cpp` | name, arguments and result of the operator |
# | kernel | `csrc/roi_align_cpu.cpp` | the arithmetic, once forward, once backward |
# | autograd | `ops/roi_align_compiled.py` | which operator is the gradient of which |
# | fake kernel | `ops/roi_align_compiled.py` | the result's shape without its values, for `torch.compile` |
# | build | `ops/build_kernels.py` | calls the compiler at first use and keeps the library |
#
# The core is short. Here it is, read from the file that is compiled. The two matrices are kept as
# lists of *taps* (a cell and its weight), and the two loops over a bin's taps are
# $\sum_r (A_y)_{ir} \sum_c (A_x)_{jc} F_{rc}$, with as many channels at a time as a vector register
# holds.

# %% tags=["hide-input"]
# Excerpt: the kernel
PACKAGE = Path(labkit.__file__).parent


def excerpt(file, first_words):
    """The paragraph of a source file that has a line with this beginning."""
    for paragraph in (PACKAGE / file).read_text().split("\n\n"):
        if any(line.strip().startswith(first_words) for line in paragraph.splitlines()):
            return textwrap.dedent(paragraph.strip("\n"))
    raise LookupError(f"{first_words} is not in {file}")


print(excerpt("csrc/roi_align_cpu.cpp", "void pool_box"))

# %% [markdown]
# The library is compiled in seconds at first use, against the few small headers of PyTorch's *stable* C++
# interface (since version 2.10), and kept in a cache. Without a compiler the separable version runs
# instead: the same numbers, more slowly.
#
# **On a GPU.** `csrc/roi_align_gpu.cu` is one source for NVIDIA (`nvcc`) and AMD (`hipcc`); without a
# compiler torchvision's operator runs on the GPU. `docs/rocm.md` has the installation for AMD, and
# `labkit doctor` checks it.

# %% tags=["hide-input"]
# Measuring: the time of the first and of the second use
missing = None if roi_align_compiled.operator_available("cpu") else "compiled"
if not missing and profile != "smoke":  # compile again, into an empty cache
    before = os.environ.get("LABKIT_CACHE")
    with TemporaryDirectory() as empty:
        os.environ["LABKIT_CACHE"] = empty
        seconds = {}
        for use in ("first", "second"):
            start = time.perf_counter()
            size = build_kernels("cpu").path.stat().st_size
            seconds[use] = time.perf_counter() - start
            print(f"{use} use: {seconds[use]:.3f} s for a library of {size / 1024:.0f} KiB")
    labkit.record("build_first_use_over_second", seconds["first"] / seconds["second"])
    if before is None:
        del os.environ["LABKIT_CACHE"]
    else:
        os.environ["LABKIT_CACHE"] = before

# %% [markdown]
# Two registrations make the kernel a full operator: the rule for its gradient and a *fake kernel*,
# which computes shapes only, so that `torch.compile` can include the operator in its graph. `torch.library.opcheck` tests that schema, gradient, fake kernel and kernel
# agree.

# %% tags=["hide-input"]
# Check: opcheck, and torch.compile without a graph break
if not missing and profile != "smoke":
    operator = torch.ops.labkit.roi_align
    huge = torch.empty(64, 256, 2000, 3000, device="meta")  # 393 GB, if it existed
    pooled = operator(huge, torch.empty(100_000, 5, device="meta"), 0.25, 7, 7, 2, True)
    print("shape without computation:", tuple(pooled.shape))

    values = torch.randn(2, 5, 9, 11, requires_grad=True)
    rois = torch.tensor([[0, 3.0, 2.0, 30.0, 28.0], [1, -4.0, 5.0, 12.0, 50.0]])
    outcomes = torch.library.opcheck(operator, (values, rois, 0.25, 7, 7, 2, True))
    failed = [name for name, outcome in outcomes.items() if outcome != "SUCCESS"]
    print(f"opcheck: {len(outcomes) - len(failed)} of {len(outcomes)} tests passed")
    labkit.record("opcheck_failures", len(failed))

    def pooled_sine(values):
        return roi_align(values.relu(), rois, 7, 0.25, 2, aligned=True).sin()

    whole_graph = torch.compile(
        pooled_sine, fullgraph=True, backend="aot_eager"
    )  # fails on a graph break
    labkit.record(
        "compiled_graph_difference", (whole_graph(values) - pooled_sine(values)).abs().max()
    )

# %% [markdown]
# ## 2.7 Four implementations compared
#
# All four compute the same numbers: `loop` is plain Python, `separable` PyTorch only, `torchvision` its
# C++ operator, and `compiled` the one above. The map is that of an ordinary detector, 256 channels at
# stride 8 of an $800 \times 1216$ image, with 7 × 7 bins. Left: 2 × 2 samples in every bin. Right: the
# adaptive rule, with regions four times as large. Times depend on the machine, so compare the ratios.

# %% tags=["hide-input"]
# Measuring loop and figure: time per region
channels, height, width = (32, 25, 38) if profile == "smoke" else (256, 100, 152)
num_boxes = 20 if profile == "smoke" else 100
generator = torch.Generator().manual_seed(seed)
big_map = torch.randn(1, channels, height, width, generator=generator)
centres = torch.rand(num_boxes, 2, generator=generator) * torch.tensor([width, height]) * 8
sides = 32 * 8 ** torch.rand(num_boxes, 2, generator=generator)  # 32 to 256 pixels
cases = {
    "2 × 2 samples": (torch.cat([centres - sides / 2, centres + sides / 2], dim=1), 2),
    "adaptive, large regions": (torch.cat([centres - 2 * sides, centres + 2 * sides], dim=1), 0),
}
IMPLEMENTATIONS = [
    name for name in ("loop", "separable", "torchvision", "compiled") if name != missing
]
speed = {}
for case, (boxes, ratio) in cases.items():
    expected = None
    for impl in reversed(IMPLEMENTATIONS):
        chosen = boxes[:2] if impl == "loop" else boxes  # the loop is slow: two regions

        def call(chosen=chosen, impl=impl, ratio=ratio):
            return roi_align(big_map, [chosen], 7, 1 / 8, ratio, aligned=True, impl=impl)

        out = call()  # the first call is slower; its result is compared
        expected = out if expected is None else expected
        difference = (out - expected[: len(out)]).abs().max().item()
        seconds = best_time(call, 1 if impl == "loop" else 4) / len(chosen)
        speed[case, impl] = seconds
        print(f"{case:24} {impl:12} {seconds * 1e6:10.1f} µs a region, difference {difference:.1e}")

figure, axes = plt.subplots(1, 2, figsize=(10, 2.6), layout="constrained", sharey=True)
for axis, case in zip(axes, cases, strict=True):
    per_loop = [speed[case, "loop"] / speed[case, impl] for impl in IMPLEMENTATIONS]
    bars = axis.barh(IMPLEMENTATIONS, per_loop, color=[grey, purple, orange, blue])
    axis.bar_label(bars, [f" {value:,.0f} ×" for value in per_loop], fontsize=10)
    axis.set(xscale="log", title=case, xlabel="times as fast as the loop")
    axis.set_xlim(0.7, max(per_loop) * 8)
    axis.spines[["top", "right"]].set_visible(False)
axes[0].invert_yaxis()  # the two share it
plt.show()
for case, name in zip(cases, ("two_samples", "adaptive"), strict=True):
    labkit.record(f"separable_over_loop_{name}", speed[case, "loop"] / speed[case, "separable"])
    if not missing:
        labkit.record(
            f"compiled_over_torchvision_{name}",
            speed[case, "torchvision"] / speed[case, "compiled"],
        )

# %% [markdown]
# The compiled operator is the fastest, most of all with many samples: they cost time only while the matrices are
# filled. `labkit bench roi-align` measures more shapes, backward passes, threads and memory formats.
#
# ## 2.8 Gradients
#
# In training, a gradient $G = \partial L / \partial\, \text{out}$ comes back from the head. Since
# $\text{out} = A_y F A_x^\top$ is linear in $F$, its gradient is the transpose:
#
# $$\frac{\partial L}{\partial F} = A_y^{\top}\, G\, A_x .$$
#
# Again without a sum over samples. Three checks: torchvision's backward pass, finite differences
# (change a cell by $\varepsilon$ and see how the loss changes), and PyTorch's `gradcheck`, which does
# this for every cell.

# %% tags=["hide-input"]
# Check: the formula, torchvision, finite differences
small_map = torch.randn(1, 3, 8, 9, dtype=torch.float64, requires_grad=True)
small_region = [torch.tensor([[1.3, -0.8, 7.9, 6.1]], dtype=torch.float64)]
G = torch.randn(3, 4, 5, dtype=torch.float64)


def loss_of(values, operator=roi_align):
    return (operator(values, small_region, (4, 5), 1.0, 2, aligned=True)[0] * G).sum()


x1, y1, x2, y2 = small_region[0][0].tolist()
B_y, B_x = my_sampling_matrix(y1, y2, 4, 2, 8), my_sampling_matrix(x1, x2, 5, 2, 9)
by_formula = (B_y.T @ G @ B_x)[None]
(own,) = torch.autograd.grad(loss_of(small_map), small_map)
(reference,) = torch.autograd.grad(loss_of(small_map, torchvision.ops.roi_align), small_map)
labkit.record("gradient_formula_vs_labkit", (by_formula - own).abs().max())
labkit.record("gradient_labkit_vs_torchvision", (reference - own).abs().max())

epsilon, worst_cell = 1e-5, 0.0
with torch.no_grad():
    for c, r, k in [(0, 0, 2), (1, 3, 4), (2, 5, 7)]:
        nudge = torch.zeros_like(small_map)
        nudge[0, c, r, k] = epsilon
        slope = (loss_of(small_map + nudge) - loss_of(small_map - nudge)) / (2 * epsilon)
        worst_cell = max(worst_cell, (slope - own[0, c, r, k]).abs().item())
labkit.record("gradient_vs_finite_differences", worst_cell)
labkit.record("gradcheck", torch.autograd.gradcheck(loss_of, small_map))
print(
    f"largest differences: torchvision {(reference - own).abs().max():.2g}, the formula "
    f"{(by_formula - own).abs().max():.2g}, finite differences {worst_cell:.2g}"
)

# %% [markdown]
# **Maximum or mean?** RoIPool takes a maximum, RoIAlign a mean. To compare the two without a change of
# positions we need *RoIAlign × max*: the maximum of the $2 \times 2$ samples of each bin.
#
# > **Exercise 2.3.** Write it without loops. `roi_align(features, boxes, bins, scale, s, aligned=True)` returns
# > means of $s \times s$ samples. Which call returns every sample by itself? `F.max_pool2d` does the rest.


# %% exercise="roi_align_max"
# Exercise 2.3: RoIAlign x max
def roi_align_max(features, boxes, bins, scale):
    """Maximum of the 2 x 2 samples of every bin.

    Args:
        features: (N, C, H, W)
        boxes: a list with (K, 4) of each image, in pixels.
        bins: in each direction.
        scale: cells per pixel.

    Returns:
        (sum of the K, C, bins, bins)
    """
    # BEGIN SOLUTION
    # 2 × 2 samples of a bin are single samples of bins half as large.
    samples = roi_align(features, boxes, 2 * bins, scale, 1, aligned=True)
    return F.max_pool2d(samples, 2)
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 2.3
columns = torch.arange(5.0).expand(5, 5)
maps = torch.stack([cells, columns, -columns])[None]
boxes = [torch.tensor([[0.75, 1.25, 2.75, 3.25]])]  # the region of section 2.2
check = Checks("Exercise 2.3")
with check("the shape is (K, C, bins, bins)"):
    has_shape(roi_align_max(maps, boxes, 2, 1.0), (1, 3, 2, 2))
with check("the map of 2.2: the samples of the first bin are 7, 9, 5.75 and 8"):
    equal(roi_align_max(maps, boxes, 2, 1.0)[0, 0], [[9, 7.5], [7, 8]], within=1e-6)
with check("value = column: samples at 0.5 and 1, then at 1.5 and 2"):
    equal(roi_align_max(maps, boxes, 2, 1.0)[0, 1], [[1, 2], [1, 2]], within=1e-6)
with check("negative values: the largest is the one nearest to zero"):
    equal(roi_align_max(maps, boxes, 2, 1.0)[0, 2], [[-0.5, -1.5], [-0.5, -1.5]], within=1e-6)
with check("stride 8: boxes in pixels are eight times as large"):
    equal(roi_align_max(maps, [8 * boxes[0]], 2, 1 / 8)[0, 1], [[1, 2], [1, 2]], within=1e-6)
check.report()

# %% [markdown]
# Which cells get the gradient of *one* bin? The bin in the middle of a $3 \times 3$ grid, with
# $G = 1$, on a random map of $9 \times 9$ cells.

# %% tags=["hide-input"]
# Figure: gradients of one bin
noise = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(5))
one_region = [torch.tensor([[1.4, 1.7, 7.3, 8.2]])]
VARIANTS = {
    "RoIPool": lambda f: roi_pool(f, one_region, 3),
    "RoIWarp": lambda f: roi_warp(f, one_region, 3),
    "RoIAlign × max": lambda f: roi_align_max(f, one_region, 3, 1.0),
    "RoIAlign": lambda f: roi_align(f, one_region, 3, 1.0, 2, aligned=True),
}
figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
for axis, (name, operator) in zip(axes, VARIANTS.items(), strict=True):
    features_in = noise.clone().requires_grad_()
    operator(features_in)[0, 0, 1, 1].backward()
    gradient = features_in.grad[0, 0]
    axis.imshow(gradient, cmap="magma", vmin=0, extent=(0, 9, 9, 0))
    for r, c in gradient.nonzero().tolist():
        shade = "black" if gradient[r, c] > 0.6 * gradient.max() else "white"
        text = f"{gradient[r, c]:.2f}".lstrip("0")
        axis.text(c + 0.5, r + 0.5, text, ha="center", va="center", fontsize=8, color=shade)
    x1, y1, x2, y2 = one_region[0][0].tolist()
    draw_box(axis, (x1, y1, x2, y2), "white", linestyle="--", linewidth=1.2)
    for t in (1 / 3, 2 / 3):
        axis.plot([x1 + t * (x2 - x1)] * 2, [y1, y2], "--", color="white", linewidth=0.6)
        axis.plot([x1, x2], [y1 + t * (y2 - y1)] * 2, "--", color="white", linewidth=0.6)
    axis.set(xticks=[], yticks=[])
    axis.set_title(f"{name}, cells: {int((gradient > 0).sum())}", fontsize=10)
    labkit.record(f"gradient_sum_{name.replace(' × ', '_')}", gradient.sum())
plt.show()

# %% [markdown]
# RoIPool gives the gradient to one cell, the maximum. RoIWarp gives it to the cells of the rounded box, which
# differs from the dashed one. In all four it sums to one, because the weights of the cells do. None of these
# functions returns a gradient for the *box*: with rounding it is zero almost everywhere; RoIAlign has one, but
# detectors treat proposals as constants.
#
# ## 2.9 The ablation of the Mask R-CNN paper
#
# **Average precision (AP)** measures detections, from 0 to 100: the area under their precision-recall curve,
# averaged over the classes and over ten IoU thresholds from 0.50 to 0.95
# ([3.9](03_mask_rcnn.ipynb#3.9-Average-precision)). AP₅₀ and AP₇₅ use one threshold. Mask AP takes the IoU of
# masks, box AP that of boxes. The paper (Table 2c; ResNet-50 up to `res4`, stride 16, on COCO, a large set of
# photographs) trained the same detector with five operators and measured mask AP; *aggregate* is the maximum or the
# mean (*ave*) of the samples:
#
# | | align? | bilinear? | aggregate | AP | AP₅₀ | AP₇₅ |
# | --- | --- | --- | --- | --- | --- | --- |
# | RoIPool | | | max | 26.9 | 48.8 | 26.4 |
# | RoIWarp | | ✓ | max | 27.2 | 49.2 | 27.1 |
# | RoIWarp | | ✓ | ave | 27.1 | 48.9 | 27.1 |
# | RoIAlign | ✓ | ✓ | max | 30.2 | 51.0 | 31.8 |
# | RoIAlign | ✓ | ✓ | ave | 30.3 | 51.2 | 31.5 |
#
# Bilinear samples alone gained nothing, alignment gained three points of AP and five of AP₇₅, and the
# aggregate did not matter. On a map of stride 32 rounding costs more than twice as much AP, and boxes
# lose as well (Table 2d):
#
# | | AP | AP₅₀ | AP₇₅ | box AP | box AP₅₀ | box AP₇₅ |
# | --- | --- | --- | --- | --- | --- | --- |
# | RoIPool | 23.6 | 46.5 | 21.6 | 28.2 | 52.7 | 26.9 |
# | RoIAlign | 30.9 | 51.8 | 32.1 | 34.0 | 55.3 | 36.4 |
#
# At stride 32 RoIAlign is as good as at stride 16 (30.9 and 30.3), and RoIPool is not. Does that hold on
# Shapes? The five operators:

# %% tags=["idea"]
OPERATORS = {
    "RoIPool max": roi_pool,
    "RoIWarp max": lambda f, b, n, scale: roi_warp(f, b, n, scale, reduce="max"),
    "RoIWarp ave": roi_warp,
    "RoIAlign max": roi_align_max,
    "RoIAlign ave": lambda f, b, n, scale: roi_align(f, b, n, scale, 2, aligned=True),
}

# %% [markdown]
# The backbone of section 2.4 is frozen, so that feature maps and proposals are computed once and are
# the same for every operator. Then one head (class, box refinement, mask) is trained per operator, as torchvision's
# `RoIHeads` are (notebook 3): it chooses some proposals of each image for the loss. Objects are a few cells wide at
# stride 8, as COCO's are at stride 16.

# %% tags=["hide-input"]
# The head: torchvision's RoIHeads with small layers
SIDE, BINS, HIDDEN, BATCH = 128, 7, 32, 8
NUM_CLASSES = len(categories.things) + 1  # and background, which is class 0 of the head


class BoxHead(nn.Module):
    """RoI features to class logits and a box refinement for every class."""

    def __init__(self, channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * BINS**2, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
        )
        self.classify, self.refine = nn.Linear(128, NUM_CLASSES), nn.Linear(128, 4 * NUM_CLASSES)

    def forward(self, x):  # (K, C, 7, 7)
        x = self.layers(x)
        return self.classify(x), self.refine(x)


def mask_head(channels):
    """RoI features to mask logits of 14 × 14 for every class."""
    return nn.Sequential(
        nn.Conv2d(channels, HIDDEN, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(HIDDEN, HIDDEN, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(HIDDEN, NUM_CLASSES, 1),
    )


def make_head(operator, channels):
    def pool(features, boxes, image_sizes):
        return operator(features["map"], boxes, BINS, 1 / 8)

    return RoIHeads(
        pool,
        nn.Identity(),
        BoxHead(channels),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=16,
        positive_fraction=0.5,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=20,
        mask_roi_pool=pool,
        mask_head=mask_head(channels),
        mask_predictor=nn.Identity(),
    )


@torch.no_grad()
def with_features(items):
    """Feature maps, proposals and targets of all images, once for all operators."""
    examples = []
    for start in progress_bar(range(0, len(items), 16), unit="batch"):
        part = items[start : start + 16]
        maps, proposals = backbone([image for image, _ in part])
        for features, boxes, (_, target) in zip(maps, proposals, part, strict=True):
            objects = {"boxes": target["boxes"], "labels": target["labels"] + 1}
            objects["masks"] = target["masks"].to(torch.uint8)
            examples.append((features, boxes, objects))
    return examples


train_examples, val_examples = with_features(train_set.items), with_features(val_set.items)

device = default_device()


def batch_of(part):
    maps, proposals, objects = zip(*part, strict=True)
    features = {"map": torch.stack(maps).to(device)}
    proposals = [boxes.to(device) for boxes in proposals]
    objects = [{key: value.to(device) for key, value in one.items()} for one in objects]
    return features, proposals, [(SIDE, SIDE)] * len(part), objects


# %% [markdown]
# For a fair comparison, `run` seeds the initial weights, the batches and the choice of proposals: for the same run
# they are the same for every operator.


# %% tags=["idea"]
def train_head(operator, run):
    """A head trained with an operator; ``run`` seeds all random choices."""
    torch.manual_seed(run)  # the initial weights and the order of the images
    head = make_head(operator, backbone.channels).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=4e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, head_steps, pct_start=0.1)
    epochs = head_steps * BATCH // len(train_examples) + 1
    order = torch.cat([torch.randperm(len(train_examples)) for _ in range(epochs)])
    for step, batch in enumerate(order.split(BATCH)[:head_steps]):
        torch.manual_seed(1000 * run + step)  # the sampling of proposals
        _, losses = head(*batch_of([train_examples[i] for i in batch.tolist()]))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        schedule.step()
    return head.eval()


# %% tags=["hide-input"]
# Measuring loop: detections and COCO's AP of every operator and run
@torch.no_grad()
def detect(head):
    """Detections with masks for every image of the validation set."""
    detections = []
    for start in range(0, len(val_examples), 16):
        *inputs, _ = batch_of(val_examples[start : start + 16])
        for one in head(*inputs)[0]:
            one = {key: value.cpu() for key, value in one.items()}
            masks = paste_masks_in_image(one["masks"], one["boxes"], (SIDE, SIDE))[:, 0] > 0.5
            detections.append(Detections(one["boxes"], one["scores"], one["labels"] - 1, masks))
    return detections


def as_coco(boxes, labels, masks, image_id):
    """The objects of an image in COCO's format."""
    for (x1, y1, x2, y2), label, mask in zip(
        boxes.tolist(), labels.tolist(), masks.numpy(), strict=True
    ):
        yield {
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "segmentation": coco_mask.encode(np.asfortranarray(mask, np.uint8)),
            "area": float(mask.sum()),
            "iscrowd": 0,
        }


def coco_ground_truth():
    ground_truth, objects = COCO(), []
    for k, (_, target) in enumerate(val_set.items):
        objects += as_coco(target["boxes"], target["labels"], target["masks"], k)
    ground_truth.dataset = {
        "info": {},
        "images": [{"id": k, "height": SIDE, "width": SIDE} for k in range(num_val)],
        "categories": [{"id": label + 1} for label in categories.things],
        "annotations": [{**o, "id": number} for number, o in enumerate(objects, start=1)],
    }
    ground_truth.createIndex()
    return ground_truth


def average_precision(of_images):
    """COCO's AP, AP50 and AP75 in percent: of the masks and of the boxes."""
    results = []
    for k, one in enumerate(of_images):
        for result, score in zip(
            as_coco(one.boxes, one.labels, one.masks, k), one.scores.tolist(), strict=True
        ):
            results.append({**result, "score": score})
    if not results:
        return np.zeros((2, 3))
    scores = []
    with redirect_stdout(io.StringIO()):
        detections = ground_truth.loadRes(results)
        for kind in ("segm", "bbox"):
            evaluation = COCOeval(ground_truth, detections, kind)
            # Objects of all sizes together, and all detections: the only numbers used here.
            evaluation.params.areaRng = evaluation.params.areaRng[:1]
            evaluation.params.areaRngLbl = ["all"]
            evaluation.params.maxDets = [100]
            evaluation.evaluate()
            evaluation.accumulate()
            precision = evaluation.eval["precision"]  # thresholds, recalls, classes, 1, 1
            precision = np.where(precision < 0, np.nan, precision)  # a class without objects
            thresholds = (slice(None), 0, 5)  # of IoU: 0.5 to 0.95, 0.5, 0.75
            scores.append([np.nanmean(precision[t]) for t in thresholds])
    return 100 * np.array(scores)


with redirect_stdout(io.StringIO()):
    ground_truth = coco_ground_truth()
mask_ap, box_ap, examples = defaultdict(list), defaultdict(list), {}
for name, run in progress_bar([(n, r) for r in range(seeds) for n in OPERATORS], unit="head"):
    detections = detect(train_head(OPERATORS[name], seed + run))
    masks, boxes = average_precision(detections)
    mask_ap[name].append(masks)
    box_ap[name].append(boxes)
    examples[name] = detections[:8]

# %% tags=["hide-input"]
# Table and figure: AP of the five operators
PAPER = dict(zip(OPERATORS, (26.9, 27.2, 27.1, 30.2, 30.3), strict=True))  # Table 2c, AP
print(f"{'':14}{'mask AP':>8}{'AP50':>6}{'AP75':>6}{'box AP':>8}{'each run':>14}{'paper':>7}")
for name, values in mask_ap.items():
    mask, box = np.mean(values, axis=0), np.mean(box_ap[name], axis=0)
    each = ", ".join(f"{value[0]:.1f}" for value in values)
    print(
        f"{name:14}{mask[0]:8.1f}{mask[1]:6.1f}{mask[2]:6.1f}{box[0]:8.1f}{each:>14}{PAPER[name]:7.1f}"
    )
print("each run: its mask AP; paper: mask AP in Table 2c")

figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained", sharey=True)
short = ["\n".join(name.removeprefix("RoI").split()) for name in OPERATORS]
for metric, (axis, title) in enumerate(zip(axes, ("AP", "AP₅₀", "AP₇₅"), strict=True)):
    for place, (name, of_runs) in enumerate(mask_ap.items()):
        values = np.array(of_runs)[:, metric]
        axis.bar(place, values.mean(), color=COLORS[name.split()[0]], width=0.72)
        axis.plot([place] * len(values), values, "o", color="black", markersize=3.5)
        top, above = (place, values.max()), {"xytext": (0, 4), "textcoords": "offset points"}
        axis.annotate(f"{values.mean():.1f}", top, **above, ha="center", fontsize=9)
    axis.set_xticks(range(len(short)), short, fontsize=8)
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("mask AP, %")
plt.show()

# %% tags=["hide-input"]
# Bookkeeping: gains for the report
mean = {key: np.mean(values, axis=0) for key, values in mask_ap.items()}


def gain(a, b, metric=0):
    """How much the second operator scores above the first."""
    return mean[b][metric] - mean[a][metric]


for name in OPERATORS:
    labkit.record(f"mask_ap_{'_'.join(name.split())}", mean[name][0])
labkit.record("gain_bilinear_warp_over_pool", gain("RoIPool max", "RoIWarp max"))
labkit.record("gain_alignment_max", gain("RoIWarp max", "RoIAlign max"))
labkit.record("gain_alignment_ave", gain("RoIWarp ave", "RoIAlign ave"))
labkit.record("gain_alignment_ave_ap75", gain("RoIWarp ave", "RoIAlign ave", 2))
labkit.record("gain_ave_over_max_warp", gain("RoIWarp max", "RoIWarp ave"))
labkit.record("gain_ave_over_max_align", gain("RoIAlign max", "RoIAlign ave"))
labkit.record("gain_align_over_pool", gain("RoIPool max", "RoIAlign ave"))
relative = gain("RoIPool max", "RoIAlign ave") / max(mean["RoIPool max"][0], 1e-9)
labkit.record("relative_gain_align_over_pool", relative)
spread = max(np.ptp([v[0] for v in values]) for values in mask_ap.values())
labkit.record("largest_spread_between_runs", spread)

# %% [markdown]
# The bars are means, the dots single runs with other initial weights and other batches; with two runs
# we give both numbers. They can differ by a few points of AP. Operators are compared within a run,
# which is fairer, but differences of one or two points are still noise. (In the profile `smoke` nothing
# has been learnt, and all bars are near zero.)
#
# The result is the paper's:
#
# - **Interpolation alone gains nothing.** RoIWarp samples as finely as RoIAlign, but in the rounded box. It is as
#   good as RoIPool within two points.
# - **Alignment gains about three points of AP**, in every run, and more in AP₇₅, which needs accurate outlines.
#   Box AP gains as well, since the head refines the boxes from the same features.
# - **Max against mean**: the difference is smaller than that between two runs of one operator.
#
# **Larger at this small size.** Three points are about 30 % of our RoIPool's AP, and 13 % of the paper's. Three
# reasons are possible: our backbone is frozen and cannot adapt to its operator, as theirs could; our objects are
# small, two or three cells across at the median; and the training is so short that a head cannot learn to
# compensate a wrong box. The same reasons keep all values low.
#
# Detections with a score above 0.5. After this short training the classes are often wrong; look at the
# positions of the boxes and outlines.

# %% tags=["hide-input"]
# Figure: detections of three operators
rows = []
confident = [
    sum(int((examples[name][k].scores > 0.5).sum()) for name in OPERATORS) for k in range(8)
]
for k in np.argsort(confident)[::-1][:3]:  # the three of the first eight with most detections
    image, target = val_set[k]
    gt = Detections(
        target["boxes"], torch.ones(len(target["boxes"])), target["labels"], target["masks"]
    )
    rows.append(("ground truth", image, gt))
    for name in ("RoIPool max", "RoIWarp ave", "RoIAlign ave"):
        detections = examples[name][k]
        rows.append((name, image, detections[detections.scores > 0.5]))
panels(rows, categories, columns=4, scores=False)

# %% [markdown]
# ## 2.10 On a photograph
#
# What do 7 × 7 bins contain of a person? Network, photograph and colours are those of
# [1.7](01_semantic_review.ipynb#1.7-Photographs); the stage is `res4`, stride 16.

# %% tags=["hide-input"]
# Figure: a person on the photograph, on the map, and in 7 × 7 bins
lite, pretrained_on = pretrained_backbone()
streets = find_data("PennFudanPed")
if streets is None:
    photograph = read_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
    person = torch.tensor([150.0, 10.0, 400.0, 330.0])
else:
    photograph, target = PennFudan(streets, "val")[3]
    person = target["boxes"][(target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(dim=1).argmax()]
small = resize_image(photograph, EFFICIENTNET_LITE_PREPROCESSING)  # the short side becomes 320
person = person * small.shape[1] / photograph.shape[1]


@torch.no_grad()
def res4(image):
    """The map ``(1, 112, h, w)`` of stride 16."""
    batch = preprocess([image], replace(EFFICIENTNET_LITE_PREPROCESSING, resize=None))
    return lite(batch.tensor)["res4"]


POOLED = {
    "RoIPool": lambda features, box: roi_pool(features, [box[None]], 7, 1 / 16),
    "RoIWarp": lambda features, box: roi_warp(features, [box[None]], 7, 1 / 16),
    "RoIAlign": lambda features, box: roi_align(features, [box[None]], 7, 1 / 16, 2, aligned=True),
}
features = res4(small)
height, width = small.shape[1:]
pooled = {name: operator(features, person)[0] for name, operator in POOLED.items()}
of_map, *of_bins = feature_colors(features[0, :, : height // 16, : width // 16], *pooled.values())
x1, y1, x2, y2 = person.tolist()
sides = (x2 - x1) / (y2 - y1)
figure, axes = plt.subplots(
    1, 4, figsize=(10, 3.1), layout="constrained", width_ratios=[width / height] * 2 + [sides] * 2
)
show_image(axes[0], small)
axes[1].imshow(of_map, extent=(0, width // 16 * 16, height // 16 * 16, 0))
axes[1].set(xticks=[], yticks=[])
for axis, title in zip(axes[:2], ("photograph", f"res4, {pretrained_on}"), strict=True):
    draw_box(axis, pooled_boxes(person[None], 16)[0], red, linewidth=1.8, linestyle="--")
    draw_box(axis, person, "white", linewidth=2)
    axis.set_title(title, fontsize=10)
for axis, name, colors in zip(
    axes[2:], ("RoIPool", "RoIAlign"), (of_bins[0], of_bins[2]), strict=True
):
    axis.imshow(colors, extent=(0, sides, 1, 0))
    axis.set(xticks=[], yticks=[])
    axis.set_title(f"{name}\n7 × 7", fontsize=10, color=COLORS[name])
plt.show()

# %% [markdown]
# White: the box, as RoIAlign uses it. Red, dashed: the rounded box, here a good part of a
# neighbour or of the background.
#
# A detector should find a person wherever he or she stands. So move image *and* box to the right, by the same
# number of pixels. In the box are the same pixels as before; the head should get the same features.


# %% tags=["idea"]
MAX_SHIFT = 32  # pixels


def move(image, box, pixels):
    """Crop the image so that its content moves right by ``pixels``; move the box with it."""
    start = MAX_SHIFT - pixels
    window = image[:, :, start : image.shape[2] - pixels]
    return window, box - torch.tensor([start, 0, start, 0])


def relative_change(pooled, reference):
    """Length of the difference, relative to the features."""
    return ((pooled - reference).norm() / reference.norm()).item()


# %% [markdown]
# > **Predict.** Which of RoIPool, RoIWarp and RoIAlign return the same features after a move by 8 pixels, half a
# > cell? And after 16?

# %% tags=["hide-input"]
# Figure: features of the same pixels, after image and box were moved together
moves = range(0, MAX_SHIFT + 1, 8 if profile == "smoke" else 2)
changes = defaultdict(list)
reference = {}
for pixels in moves:
    window, box = move(small, person, pixels)
    features = res4(window)
    for name, operator in POOLED.items():
        pooled = operator(features, box)
        reference.setdefault(name, pooled)  # of the first window, before any move
        changes[name].append(relative_change(pooled, reference[name]))
figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
for name, values in changes.items():
    axis.plot(moves, values, "o-", color=COLORS[name], label=name, markersize=4)
axis.set(xlabel="image and box move to the right, pixels", ylabel="relative change", ylim=(0, None))
axis.legend(frameon=False)
axis.grid(alpha=0.3)
plt.show()
between = [k for k, pixels in enumerate(moves) if pixels % 16]
change = {name: np.mean([values[k] for k in between]) for name, values in changes.items()}
whole = moves.index(16)
for name, values in changes.items():
    print(f"{name:8} mean change {change[name]:.2f}, after one whole cell {values[whole]:.2f}")
    labkit.record(f"change_by_moving_{name}", change[name])
    labkit.record(f"change_after_a_cell_{name}", values[whole])
labkit.record("change_RoIAlign_over_RoIPool", change["RoIAlign"] / change["RoIPool"])

# %% [markdown]
# None of them after 8 pixels. RoIAlign's features change much less than those of the other two (about 0.6 times as
# much), but they change: the *network* has strides. After a move by less than 16 pixels its cells are centred at
# other pixels of the image and have other values. After a whole cell the map has moved with the image; what still
# differs comes from the border of the image, which did not move. RoIAlign removes the rounding of the box and
# nothing else.
#
# ## To take away
#
# - A box has fractional coordinates, the map has cells. Rounding (RoIPool, RoIWarp) moves its left and upper edges
#   by up to half a cell, the others by up to one and a half, and makes the output jump; RoIAlign samples at the
#   true coordinates.
# - The gain comes from alignment, not from interpolation: RoIWarp interpolates and gains nothing.
# - The stricter the measure, the more it matters: AP₇₅ gains more than AP₅₀.
# - Box coordinates count edges, map indices count centres, half a cell apart: `aligned=True`.
# - $\text{RoIAlign} = A_y F A_x^{\top}$, whatever the sampling ratio, and its gradient is
#   $A_y^{\top} G A_x$.
# - An operator is more than a kernel: schema, gradient, fake kernel, and a test that they agree.
#
# ## More exercises
#
# 1. **By hand.** Pool the region $x$ from 1 to 3, $y$ from 0.5 to 4.5 of the map in 2.2 into
#    $2 \times 1$ bins (two rows, one column) with all three operators, on paper, and check with
#    `labkit.ops`. Its corners in $x$ are whole numbers. Which of the three still take one column too
#    many, and why?
# 2. **A straight line.** Let $F_{rc} = a r + b c + d$. Show that RoIAlign of a region inside the map
#    returns the value of this plane at the middle of each bin, for any number of samples. (Bilinear
#    interpolation is exact on planes, and the samples lie symmetrically.) What does RoIPool return?
# 3. **Max after samples.** Why can RoIAlign × max not be written as $A_y F A_x^{\top}$? Which part
#    of the speed does it lose?
# 4. **The half pixel, learnt.** Add `aligned=False` to `OPERATORS` and run 2.9 again. AP falls little
#    or not at all. Look at the stem of `TinyResNet`: with padding 2 and stride
#    2, which pixel is in the middle of the first cell? So at which pixel is the centre of a cell of `res3`? Which
#    value of `aligned` fits this network?
# 5. **How much rounding?** Round the boxes to halves or quarters of a cell before `roi_align`, and
#    draw AP over the step. Where does the loss begin?
# 6. **A finer map.** Repeat 2.10 with `res3` (stride 8). After which moves are the features
#    back? Is RoIAlign's lead larger or smaller there, and why?
#
# ## References
#
# - R. Girshick. Fast R-CNN. ICCV 2015: RoIPool in section 2.1.
# - J. Dai, K. He, J. Sun. Instance-aware Semantic Segmentation via Multi-task Network Cascades. CVPR
#   2016: RoI warping in section 3.2.
# - K. He, G. Gkioxari, P. Dollár, R. Girshick. Mask R-CNN. ICCV 2017: RoIAlign in section 3, the
#   ablation in Table 2c and, at stride 32, Table 2d.
# - Custom operators and the stable interface: https://docs.pytorch.org/tutorials/advanced/cpp_custom_ops.html
