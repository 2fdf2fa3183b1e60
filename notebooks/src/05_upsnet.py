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
# # 5. UPSNet
#
# **The question.** Notebook 4 ended with a rule: the best score first, a threshold for the overlap, a
# threshold for the area. The network never learnt about any of it. Can the decision be part of the
# network, so that one softmax takes it and one loss trains it?
#
# By the end you have built a deformable convolution and watched its taps walk to where they are needed,
# drawn where a trained network looks, worked the panoptic head on 8 × 8 pixels, followed a gradient
# through it, taken an object's box away to see what becomes of its pixels, and compared both fusions on
# the answers of one and the same network.
#
# You need: notebooks 3 and 4, and patience for a minute of training. Panoptic quality, PQ = SQ × RQ, is
# in detail in notebook 6.

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: minutes; full: a GPU
seed: int = 0

# %%
# %matplotlib inline
import copy
import json
import time
from collections import Counter
from dataclasses import dataclass, replace

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from IPython.display import display
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional as F

import labkit
from labkit.checkpoints.run_folder import start_from
from labkit.checkpoints.shipped import FOLDER
from labkit.colors import PETROFF_10
from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import load_model
from labkit.engine.train import TrainConfig, train
from labkit.metrics.panoptic_matching import summarize
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.semantic import ConfusionMatrix
from labkit.models import build
from labkit.models.panoptic_fpn.merge import merge
from labkit.models.preprocess import preprocess
from labkit.models.rcnn.mask_head import paste_detections
from labkit.models.upsnet.losses import panoptic_targets
from labkit.models.upsnet.panoptic_head import panoptic_logits, prune, resized_masks, windows_of
from labkit.models.upsnet.postprocess import (
    UNKNOWN,
    PixelLabels,
    assign_segments,
    panoptic_argmax,
    panoptic_maps,
)
from labkit.ops.deform_conv import deform_conv2d
from labkit.structures import VOID, Detections, Panoptic, Segment
from labkit.system.cpu_cores import use_threads
from labkit.system.progress_bars import progress_bar
from labkit.visualize import panels

num_train, num_val, steps, walk_steps = {
    "smoke": (8, 4, 2, 5),
    "quick": (400, 100, 150, 250),
    "full": (10_000, 500, 3000, 250),
}[profile]
BATCH = 8 if profile == "full" else 2
_ = torch.manual_seed(seed)
if profile != "full":
    use_threads(1)  # the tensors are small: threads would wait for one another
random = np.random.default_rng(seed)
blue, orange, red, grey, purple = [np.array(c) / 255 for c in PETROFF_10[:5]]

train_set = Shapes("train", num=num_train, seed=seed)
val_set = Shapes("val", num=num_val, seed=seed)
crowded_set = Shapes("val", num=num_val, crowded=True, seed=seed)
categories = val_set.categories
THINGS, CLASSES, SIDE = len(categories.things), len(categories), val_set.size
SIZE = (SIDE, SIDE)
SETS = {
    name: [dataset[i] for i in progress_bar(range(num_val), unit="image")]
    for name, dataset in (("Shapes", val_set), ("crowded", crowded_set))
}

# %% [markdown]
# ## 5.1 A convolution that chooses where to look
#
# A $3 \times 3$ convolution looks at nine places around each cell, the same nine everywhere: at
# $p_0 + p_n$ with $p_n \in \{(-1,-1), (-1,0), \ldots, (1,1)\}$. But an object may be small or large,
# and a border may run anywhere. A **deformable convolution** (Dai et al., 2017) moves each tap by an
# offset $\Delta p_n$, another one at each cell, which a second, plain convolution of the same map
# predicts:
#
# $$y(p_0) = \sum_n w(p_n) \, x(p_0 + p_n + \Delta p_n) .$$
#
# The places are not whole cells any more, so $x$ is interpolated, with the weights of its cells $q$
#
# $$x(p) = \sum_q \max(0, 1 - |q_y - p_y|) \, \max(0, 1 - |q_x - p_x|) \, x(q),$$
#
# which is as in RoIAlign (notebook 2) a product $A_y \, x \, A_x^{\top}$. Three steps: where, what is
# there, times the weights.


# %%
def taps(dilation=1):
    """The nine places of a plain convolution around its cell, row by row, (9, 2), y before x."""
    steps = dilation * torch.tensor([-1, 0, 1])
    return torch.cartesian_prod(steps, steps)


def positions(offset):
    """Where each tap of each cell looks: (B, 18, h, w) to (B, 9, 2, h, w)."""
    rows, columns = (torch.arange(n) for n in offset.shape[2:])
    cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))  # (2, h, w)
    return cells + taps()[:, :, None, None] + offset.unflatten(1, (9, 2))


def at(x, places):
    """The map (B, C, H, W) at places (B, 9, 2, h, w): (B, C, 9, h, w); outside it is 0."""
    y, x_ = places.unbind(dim=2)
    A_y = (1 - (y[..., None] - torch.arange(x.shape[2])).abs()).clamp(min=0)  # (B, 9, h, w, H)
    A_x = (1 - (x_[..., None] - torch.arange(x.shape[3])).abs()).clamp(min=0)  # (B, 9, h, w, W)
    return torch.einsum("bnhwr,bnhws,bcrs->bcnhw", A_y, A_x, x)


def my_deform_conv(x, offset, weight):
    """(B, C, H, W), (B, 18, H, W) and (D, C, 3, 3) to (B, D, H, W)."""
    return torch.einsum("bcnhw,dcn->bdhw", at(x, positions(offset)), weight.flatten(2))


x, weight = torch.randn(2, 5, 9, 11).double(), torch.randn(4, 5, 3, 3).double()
offset = 2 * torch.randn(2, 18, 9, 11).double()
mine = my_deform_conv(x, offset, weight)
from_torchvision = torchvision.ops.deform_conv2d(x, offset, weight, padding=1)
labkit.record("own_deform_conv_vs_torchvision", (mine - from_torchvision).abs().max())
from_labkit = deform_conv2d(x, offset, weight, padding=(1, 1))
labkit.record("own_deform_conv_vs_labkit", (mine - from_labkit).abs().max())
without = my_deform_conv(x, torch.zeros_like(offset), weight)
labkit.record("zero_offsets_vs_plain", (without - F.conv2d(x, weight, padding=1)).abs().max())
twice = taps().flatten()[:, None, None].double().expand_as(offset)  # each tap as far out again
dilated = F.conv2d(x, weight, padding=2, dilation=2)
labkit.record("own_as_dilated", (my_deform_conv(x, twice, weight) - dilated).abs().max())
for name, other in (("torchvision", from_torchvision), ("labkit", from_labkit)):
    print(f"largest difference to {name}: {(mine - other).abs().max():.2g}")

# %% [markdown]
# Without offsets it is a plain convolution, and with $\Delta p_n = p_n$ a dilated one: dilation
# (notebook 1) is one of the things that offsets can learn. But *can* they be learnt? The weights
# $\max(0, 1 - |\cdot|)$ depend on the place, so a gradient reaches the offsets. We try it. The target
# is what a convolution of dilation 2 says about a smooth random map; ours has the same weights, and
# eighteen numbers to learn, the offsets, which begin at 0.

# %%
noise = torch.randn(1, 16, 40, 40)
x = F.avg_pool2d(F.avg_pool2d(noise, 5, 1, 2), 5, 1, 2)
weight = torch.randn(8, 16, 3, 3)
with torch.no_grad():
    target = F.conv2d(x, weight, padding=2, dilation=2)
learnt = torch.zeros(18, requires_grad=True)
optimizer = torch.optim.Adam([learnt], lr=0.03)
walk, misfit = [learnt.detach().clone()], []
for _ in range(walk_steps):
    field = learnt[None, :, None, None].expand(1, 18, 40, 40)
    loss = F.mse_loss(deform_conv2d(x, field, weight, padding=(1, 1)), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    walk.append(learnt.detach().clone())
    misfit.append(loss.item())
walk = torch.stack(walk).unflatten(1, (9, 2)) + taps()  # (steps + 1, 9, 2)
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
axes[0].plot(walk[..., 1], walk[..., 0], color=blue, linewidth=1.3)
axes[0].plot(*walk[0].T.flip(0), "o", color="0.55", markersize=6, label="first")
axes[0].plot(*walk[-1].T.flip(0), "o", color=blue, markersize=6, label="last")
axes[0].plot(*taps(2).T.flip(0), "x", color=red, markersize=9, label="of the target")
axes[0].set(xlim=(-2.6, 4.9), ylim=(2.6, -2.6), aspect="equal", xlabel="cells")
axes[0].set_xticks(range(-2, 3))
axes[0].legend(frameon=False, loc="center right", fontsize=8)
axes[0].grid(alpha=0.3)
axes[1].semilogy(misfit, color=blue)
axes[1].set(xlabel="step", ylabel="mean squared error")
axes[1].grid(alpha=0.3)
plt.show()
labkit.record("taps_end_from_target_in_cells", (walk[-1] - taps(2)).abs().max())

# %% [markdown]
# The taps found the grid of the target. In a network the offsets are not constants but predicted at
# each cell from what is there, so the convolution can look farther on a large object than on a small
# one.
#
# ## 5.2 Where a trained network looks
#
# UPSNet's semantic branch is two or three deformable convolutions (here two), the same weights on every
# level of the pyramid. Its maps are brought to one size, stacked, and a linear layer says the classes.
# We load `upsnet_tiny`, which comes with labkit (`data/checkpoints/checkpoints.toml` has the commands
# that trained it), and follow the taps back: the second layer looks at nine places of the first one's
# output, and the first at nine around each of those. 81 places, in white without the offsets and in red
# with them:

# %%
upsnet = load_model("upsnet_tiny")
config = upsnet.config
first, second = upsnet.sem_seg_head.subnet
STRIDES = upsnet.backbone.strides


@torch.no_grad()
def features_of(image):
    """The feature maps of one picture, (1, D, h, w) by level."""
    return upsnet.backbone(preprocess([image], config.preprocessing).tensor)


@torch.no_grad()
def offsets_of(features, level):
    """What the two layers add to their taps on a level: (1, 18, h, w) each."""
    return first.offset(features[level]), second.offset(first(features[level]))


def places_of(features, level, cell, moved=True):
    """The 81 places of a level, in its cells, that the output at a cell depends on, (81, 2)."""
    near, far = [positions(o if moved else 0 * o)[0] for o in offsets_of(features, level)]
    limit = torch.tensor(near.shape[2:]) - 1
    found = []
    for place in far[:, :, cell[0], cell[1]]:  # of the second layer's taps
        r, c = place.round().long().clamp(min=0).minimum(limit).tolist()
        found.append(place + near[:, :, r, c] - torch.tensor([r, c]))
    return torch.cat(found)


def middle(mask):
    """The pixel of a mask that is farthest from its border: row, column."""
    padded = cv2.copyMakeBorder(mask.numpy().astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.unravel_index(int(distance.argmax()), distance.shape)


def show_pixels(axis, image):
    """A picture in the coordinates of boxes: pixel (r, c) covers [c, c + 1] × [r, r + 1]."""
    axis.imshow(image.permute(1, 2, 0), extent=(0, SIDE, SIDE, 0), interpolation="nearest")
    axis.set(xlim=(0, SIDE), ylim=(SIDE, 0), xticks=[], yticks=[])


image, target = SETS["Shapes"][1]
by_area = target["masks"].sum(dim=(1, 2)).argsort()
stuff_area = torch.bincount(target["semantic"].flatten(), minlength=CLASSES)[THINGS:]
ground = target["semantic"] == THINGS + int(stuff_area.argmax())
POINTS = {
    "a small object": target["masks"][by_area[0]],
    "a large object": target["masks"][by_area[-1]],
    "stuff": ground,
}
features = features_of(image)
figure, axes = plt.subplots(2, 3, figsize=(9.6, 6.6), layout="constrained")
for row, level in zip(axes, ("p2", "p3"), strict=True):
    for axis, (name, mask) in zip(row, POINTS.items(), strict=True):
        show_pixels(axis, image)
        cell = [int(v) // STRIDES[level] for v in middle(mask)]
        for moved, color, size in ((False, "white", 9), (True, red, 14)):
            y, x = (places_of(features, level, cell, moved).T + 0.5) * STRIDES[level]
            axis.scatter(x, y, s=size, color=color, edgecolor="black", linewidth=0.3)
        y, x = [(v + 0.5) * STRIDES[level] for v in cell]
        axis.plot(x, y, "+", color="yellow", markersize=13, markeredgewidth=2.2)
        axis.set_title(f"{level}, stride {STRIDES[level]}: {name}", fontsize=9)
plt.show()

# %% [markdown]
# How far do the taps go? For a cell two numbers say most of it: by how much its nine taps are *shifted*
# together, and how far they are *spread* around their middle, measured so that a plain convolution has
# 1 and one of dilation 2 has 2.


# %%
def shift_and_spread(offset):
    """For each cell, in cells: the common shift, and the spread of a plain convolution's as 1."""
    moved = offset[0].unflatten(0, (9, 2))  # (9, 2, h, w)
    places = taps()[:, :, None, None] + moved
    centre = places.mean(dim=0)
    spread = (places - centre).square().sum(dim=1).mean(dim=0).sqrt()
    return centre.norm(dim=0), spread / (12 / 9) ** 0.5


some = SETS["Shapes"][:20]
measured = {}  # level to rows (layer, is it a thing?, shift, spread)
for image, target in progress_bar(some, unit="image"):
    features = features_of(image)
    for level in upsnet.sem_seg_head.levels:
        stride = STRIDES[level]
        thing = (
            target["semantic"][stride // 2 :: stride, stride // 2 :: stride] < THINGS
        ).flatten()
        for layer, offset in enumerate(offsets_of(features, level), start=1):
            shift, spread = [v.flatten() for v in shift_and_spread(offset)]
            rows = torch.stack([torch.full_like(shift, layer), thing.float(), shift, spread], dim=1)
            measured.setdefault(level, []).append(rows)
print(f"{'':22}{'shift, cells':>20}{'spread':>22}{'spread: 5 % to 95 %':>26}")
print(f"{'':22}" + f"{'things':>12}{'stuff':>10}" * 2)
for level, rows in measured.items():
    rows = torch.cat(rows)
    for layer in (1, 2):
        of_layer = rows[rows[:, 0] == layer]
        means = [of_layer[of_layer[:, 1] == kind].mean(dim=0) for kind in (1, 0)]
        low, high = of_layer[:, 3].quantile(torch.tensor([0.05, 0.95])).tolist()
        print(
            f"{level}, stride {STRIDES[level]:2}, layer {layer}"
            + "".join(f"{means[0][k]:12.2f}{means[1][k]:10.2f}" for k in (2, 3))
            + f"{low:16.2f} to {high:.2f}"
        )
        if level == "p2":
            labkit.record(f"mean_shift_p2_layer_{layer}", of_layer[:, 2].mean())
            labkit.record(f"mean_spread_p2_layer_{layer}", of_layer[:, 3].mean())

# %% [markdown]
# And does it matter? We put the offsets of the trained network to 0. What remains is a plain
# convolution with the same weights.


# %%
def upsample(sem_seg_logits):
    """Logits (C, h, w) at every fourth pixel, at every pixel: (C, H, W)."""
    return F.interpolate(sem_seg_logits[None], size=SIZE, mode="bilinear", align_corners=False)[0]


straight = copy.deepcopy(upsnet.sem_seg_head)
for layer in straight.subnet:
    torch.nn.init.zeros_(layer.offset.weight)
    torch.nn.init.zeros_(layer.offset.bias)
HEADS = {"as trained": upsnet.sem_seg_head, "without offsets": straight}
confusions = {name: ConfusionMatrix(categories) for name in HEADS}
with torch.no_grad():
    for image, target in progress_bar(SETS["Shapes"][:50], unit="image"):
        features = features_of(image)
        for name, branch in HEADS.items():
            answer = upsample(branch(features)[0]).argmax(dim=0)
            confusions[name].update(answer, target["semantic"])
miou = {name: confusion.compute().miou for name, confusion in confusions.items()}
for name, value in miou.items():
    print(f"{name:16} mIoU {100 * value:.1f}")
    labkit.record(f"miou_{name}".replace(" ", "_"), value)

# %% [markdown]
# On the two fine levels the taps go farther on things than on stuff: the nine of the second layer are
# shifted by a cell or so together, and spread more than a plain convolution's. Texture is told by the
# pixels around, an object by its outline, which may be far. The pictures say it even better: on the
# small object the 81 places draw together, on the large square they reach to its sides, and on grass
# they line up with the blades. And the network relies on it: without the offsets the same weights lose
# many points of mIoU. (That is not what a network would lose that had been *trained* without offsets;
# it would have found other weights. Exercise 4 goes on.)
#
# ## 5.3 The panoptic head by hand
#
# Both branches have spoken: the semantic one has a logit $S_k$ for every class $k$ and pixel, the
# instance branch has $n$ objects, object $i$ with a box $B_i$, a class $c_i$ and a mask of logits. The
# **panoptic head** makes one list of logits for each pixel, without a single weight of its own:
#
# - **stuff**: $X^{stuff}_j = S_j$, as it is;
# - **objects**: $Z_i = X^{thing}_i + Y^{mask}_i$. Here $X^{thing}_i$ is $S_{c_i}$ inside the box $B_i$
#   and 0 outside: what the semantic branch thinks of this class there. $Y^{mask}_i$ is the mask,
#   enlarged to its box, 0 outside: what the instance branch thinks;
# - **unknown**: $\max_{k \in things} S_k - \max_i X^{thing}_i$. Large where the semantic branch is sure
#   of some thing and no box explains it.
#
# The largest wins the pixel. On 8 × 8 pixels, with grass and water, two circles whose boxes overlap,
# and in the upper right corner a square that the detector has missed:

# %%
NAMES = ("square", "circle", "grass", "water")  # two things, two kinds of stuff
S = torch.full((4, 8, 8), -1.0)
S[0, :3, 5:] = 3  # the square, which has no box
S[2] = 0.0
S[2, :, :4] = 2
S[3] = 1.0
boxes = torch.tensor([[1.0, 1, 5, 5], [3.0, 3, 7, 7]])  # x1, y1, x2, y2
for x1, y1, x2, y2 in boxes.int().tolist():
    S[1, y1:y2, x1:x2] = 2
labels = torch.tensor([1, 1])
masks = torch.tensor(
    [
        [[-4.0, 2, 2, -4], [2, 4, 4, 2], [2, 4, 4, 2], [-4, 2, 2, -4]],
        [[-4.0, 1, 1, -4], [1, 3, 3, 1], [1, 3, 3, 1], [-4, 1, 1, -4]],
    ]
)  # as large as their boxes: nothing has to be enlarged


def my_panoptic_logits(S, things, labels, boxes, masks):
    """Of S (C, H, W) and n objects with masks in whole pixels: all terms by name."""
    x_thing, y_mask = torch.zeros(2, len(labels), *S.shape[1:])
    for i, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
        x_thing[i, y1:y2, x1:x2] = S[labels[i], y1:y2, x1:x2]
        y_mask[i, y1:y2, x1:x2] = masks[i]
    return {
        "X_stuff": S[things:],
        "X_thing": x_thing,
        "Y_mask": y_mask,
        "Z": x_thing + y_mask,
        "unknown": S[:things].amax(dim=0) - x_thing.amax(dim=0),
    }


terms = my_panoptic_logits(S, 2, labels, boxes, masks)
mine = torch.cat([terms["X_stuff"], terms["Z"], terms["unknown"][None]])
theirs = panoptic_logits(S, 2, labels, masks, windows_of(boxes, (8, 8)))
labkit.record("own_panoptic_logits_vs_labkit", (mine - theirs).abs().max())
print(f"largest difference to labkit's panoptic head: {(mine - theirs).abs().max():.2g}")


# %%
def show_numbers(axis, values, title, marked=()):
    axis.imshow(values, cmap="PuOr_r", vmin=-7, vmax=7)
    for r in range(8):
        for c in range(8):
            number = f"{values[r, c]:g}".replace("-", "−")
            axis.text(c, r, number, ha="center", va="center", fontsize=7.5)
    for x1, y1, x2, y2 in marked:
        axis.add_patch(
            Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor="black")
        )
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)


def show_winners(axis, winners, title, boxes=boxes):
    colors = ["#d9ead3", "#cfe2f3", blue, orange, "0.25"]
    axis.imshow(winners, cmap=ListedColormap(colors), vmin=0, vmax=4)
    for r in range(8):
        for c in range(8):
            k = int(winners[r, c])
            light = {"color": "white"} if k == 4 else {}
            axis.text(c, r, "gw12?"[k], ha="center", va="center", fontsize=8, **light)
    for x1, y1, x2, y2 in boxes.tolist():
        axis.add_patch(
            Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor="black")
        )
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)


winners = mine.argmax(dim=0)
figure, axes = plt.subplots(2, 5, figsize=(12.2, 5.2), layout="constrained")
x_thing, y_mask, z = terms["X_thing"], terms["Y_mask"], terms["Z"]
for axis, (values, title, box) in zip(
    axes.flat,
    (
        (S[2], "$X^{stuff}$, grass", []),
        (x_thing[0], "$X^{thing}_1$, circle 1", boxes[:1].tolist()),
        (y_mask[0], "$Y^{mask}_1$", boxes[:1].tolist()),
        (z[0], "$Z_1 = X^{thing}_1 + Y^{mask}_1$", boxes[:1].tolist()),
        (terms["unknown"], "unknown", []),
        (S[3], "$X^{stuff}$, water", []),
        (x_thing[1], "$X^{thing}_2$, circle 2", boxes[1:].tolist()),
        (y_mask[1], "$Y^{mask}_2$", boxes[1:].tolist()),
        (z[1], "$Z_2 = X^{thing}_2 + Y^{mask}_2$", boxes[1:].tolist()),
    ),
    strict=False,
):
    show_numbers(axis, values, title, box)
show_winners(axes[1, 4], winners, "the largest: g, w, 1, 2, or ? unknown")
plt.show()

# %% [markdown]
# Follow three pixels. At row 3, column 3, in both boxes: grass 2, water 1, circle 1 has $2 + 4 = 6$,
# circle 2 has $2 - 4 = -2$, unknown $2 - 2 = 0$: circle 1. One to the right and one below, at row 4,
# column 4: circle 1 has $2 - 4 = -2$, circle 2 has $2 + 3 = 5$, water 1: circle 2. In the corner at row
# 0, column 7: water 1, both circles 0, unknown $3 - 0 = 3$. Without unknown the pixel would become
# water: a wrong answer instead of none.
#
# The same definition on what the trained network says, and the argmax beside
# `labkit.models.upsnet.postprocess`, which never holds all logits at once. First we ask the network about
# all pictures and keep what both branches say; everything after this is fusion.


# %%
@dataclass
class Said:
    """What both branches say about one picture, before any fusion."""

    sem_seg_logits: Tensor  # (C, h, w)
    detections: Detections  # as Mask R-CNN gives them
    mask_logits: Tensor  # (n, m, m)
    panoptic_detections: Detections  # the objects for the panoptic head, best first
    panoptic_mask_logits: Tensor  # (k, m, m)


@torch.no_grad()
def ask(network, image):
    batch = preprocess([image], network.config.preprocessing)
    output = network.predict(network.backbone(batch.tensor), batch)
    return Said(
        output.sem_seg_logits[0],
        output.detections[0],
        output.mask_logits[0],
        output.panoptic_detections[0],
        output.panoptic_mask_logits[0],
    )


start = time.perf_counter()
said = {
    name: [ask(upsnet, image) for image, _ in progress_bar(items, unit="image")]
    for name, items in SETS.items()
}
ms_network = 1000 * (time.perf_counter() - start) / (2 * num_val)
print(f"the network: {ms_network:.0f} ms a picture")


def sure(detections, mask_logits, score):
    """The objects with a score above a threshold, and their masks."""
    keep = detections.scores > score
    return detections[keep], mask_logits[keep]


def for_head(one, score=config.panoptic.score_thresh):
    """The objects that come to the panoptic head, and their masks."""
    return sure(one.panoptic_detections, one.panoptic_mask_logits, score)


gap, differ = 0.0, 0
for one in said["crowded"][:10]:
    detections, mask_logits = for_head(one)
    large = upsample(one.sem_seg_logits)
    windows = windows_of(detections.boxes, SIZE)
    theirs = panoptic_logits(large, THINGS, detections.labels, mask_logits, windows)
    if len(detections):
        placed = resized_masks(mask_logits, windows.mask)
        x_thing, y_mask = torch.zeros(2, len(placed), *SIZE)
        for i, label in enumerate(detections.labels):
            top, bottom, left, right = windows.seg[i]  # which whole pixels a box covers
            x_thing[i, top:bottom, left:right] = large[label, top:bottom, left:right]
            top, bottom, left, right = windows.mask[i]
            y_mask[i, top:bottom, left:right] = placed[i]
        unknown = large[:THINGS].amax(dim=0) - x_thing.amax(dim=0)
        mine = torch.cat([large[THINGS:], x_thing + y_mask, unknown[None]])
        gap = max(gap, (mine - theirs).abs().max().item())
        frugal = panoptic_argmax(
            one.sem_seg_logits, THINGS, detections.labels, placed, windows, SIZE
        ).winners
        plain = mine.argmax(dim=0) + THINGS
        plain[plain == CLASSES + len(placed)] = UNKNOWN
        differ += int((frugal != plain).sum())
labkit.record("own_panoptic_logits_vs_labkit_on_pictures", gap)
labkit.record("pixels_where_the_frugal_fusion_differs", differ)

# %% [markdown]
# ## 5.4 One loss for the decision
#
# What became of the thresholds of notebook 4?
#
# | the merge asks | the panoptic head |
# | --- | --- |
# | who is painted first? the best **score** | nobody: at each pixel the larger $X^{thing}_i + Y^{mask}_i$ |
# | how much **overlap** is too much? | the same, pixel by pixel |
# | an object here, stuff there? always the object | the larger of $Z_i$ and $X^{stuff}$ |
# | a thing without an object? void | unknown, if it is the largest |
#
# To be honest about it: *around* the head a few thresholds stay. Objects come in with a score above
# 0.6, after non-maximum suppression over all classes at 0.5 and a pruning of masks (section 5.7); and
# afterwards small stuff is left out as in the merge, and an object's region that the semantic branch
# takes for stuff by majority becomes that stuff. What has no threshold is the decision itself. It is a
# softmax, so it has a loss, the cross-entropy with the true segment at each pixel, and a gradient:
#
# $$\frac{\partial L}{\partial Z_i} = p_i - y_i .$$
#
# On the example: let the truth be what the head says, but with circle 2 in front. (The square has no
# box, so the truth of its pixels is unknown.)

# %%
truth = winners.clone()
truth[3:5, 3:5] = 3  # circle 2 is in front where the boxes overlap
S_, masks_ = S.clone().requires_grad_(True), masks.clone().requires_grad_(True)
logits = panoptic_logits(S_, 2, labels, masks_, windows_of(boxes, (8, 8)))
logits.retain_grad()
F.cross_entropy(logits[None], truth[None], reduction="sum").backward()
by_formula = logits.detach().softmax(dim=0) - F.one_hot(truth, 5).permute(2, 0, 1)
labkit.record("gradient_vs_formula", (logits.grad - by_formula).abs().max())
figure, axes = plt.subplots(1, 5, figsize=(12.2, 2.7), layout="constrained")
show_winners(axes[0], truth, "the truth")
of_masks = torch.zeros(2, 8, 8)
for i, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
    of_masks[i, y1:y2, x1:x2] = masks_.grad[i]
for axis, values, title in zip(
    axes[1:],
    (of_masks[0], of_masks[1], S_.grad[1], S_.grad[3]),
    ("$Y^{mask}_1$", "$Y^{mask}_2$", "$S$, circle", "$S$, water"),
    strict=True,
):
    drawn = axis.imshow(values, cmap="PuOr_r", vmin=-1, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.set_title(f"gradient for {title}", fontsize=9)
figure.colorbar(drawn, ax=axes, shrink=0.8)
plt.show()

# %% [markdown]
# Descent goes against the gradient: in the overlap mask 1 is pushed down and mask 2 up. The merge could
# not have told them so: who is in front was decided by the scores, which no mask can change. In the
# semantic logits the two cancel: both circles are circles. And whom does the loss reach in the network?

# %%
batch = [train_set[k] for k in range(2)]
images, targets = [image for image, _ in batch], [target for _, target in batch]
_ = upsnet.train()
_ = torch.manual_seed(seed)
upsnet.zero_grad()
upsnet(images, targets)["loss_panoptic"].backward()
PARTS = {
    "backbone and pyramid": "backbone",
    "semantic branch": "sem_seg_head",
    "its offsets": "sem_seg_head.subnet.0.offset",
    "masks": "roi_heads.mask_head",
    "class and box of an object": "roi_heads.cls_score roi_heads.bbox_pred",
    "proposals": "rpn",
}
for part, prefixes in PARTS.items():
    squares = [
        float(p.grad.square().sum())
        for name, p in upsnet.named_parameters()
        if p.grad is not None and name.startswith(tuple(prefixes.split()))
    ]
    print(f"{part:28}{sum(squares) ** 0.5:8.3f}")
    labkit.record(f"panoptic_gradient_{part.replace(' ', '_')}", sum(squares) ** 0.5)
upsnet.zero_grad()
_ = upsnet.eval()

# %% [markdown]
# Both branches, and through them the backbone, hear that the *map* is wrong. Class and box of an object
# hear nothing: in training the objects are the true boxes. (The panoptic head itself has no weights
# that could hear.)
#
# **Held back.** With all true boxes there would be no pixel whose truth is unknown, and the logit would
# never be trained. So in each step 30 % of the objects of a picture are held back: they have no box,
# and the truth of their pixels is *unknown*. The semantic branch learns to be sure of things that have
# no box, surer than of any stuff.

# %%
image, target = SETS["Shapes"][3]
kept = torch.randperm(len(target["labels"]))[: int(0.7 * len(target["labels"]))].sort().values


def as_panoptic(truth, kept_labels):
    """The truth of the panoptic loss as a map; unknown is void."""
    stuff = CLASSES - THINGS
    segments = [Segment(1 + k, THINGS + k) for k in range(stuff)]
    segments += [Segment(1 + stuff + k, label) for k, label in enumerate(kept_labels.tolist())]
    ids = torch.where(truth < stuff + len(kept_labels), truth + 1, VOID).int()
    return Panoptic(ids, [s for s in segments if (ids == s.id).any()])


truth = panoptic_targets(target["semantic"], target["masks"], kept, THINGS, CLASSES)
panels(
    [
        ("image", image, None),
        ("all objects", image, target["panoptic"]),
        ("30 % held back, left unpainted", image, as_panoptic(truth, target["labels"][kept])),
    ],
    categories,
    columns=3,
)

# %% [markdown]
# Did it learn that? We take the box of an object away that the network has found, and look at what wins
# the pixels that were this object's, as the head decides and without unknown.


# %%
def by_head(one, score=config.panoptic.score_thresh, **changes):
    """The panoptic map of the head; the changes are of its configuration."""
    detections, mask_logits = for_head(one, score)
    _, panoptic = panoptic_maps(
        one.sem_seg_logits,
        detections,
        mask_logits,
        THINGS,
        input_size=SIZE,
        image_size=SIZE,
        scale=(1.0, 1.0),
        config=replace(config.panoptic, **changes),
    )
    return panoptic


def fate(panoptic, detections, away):
    """Who has the pixels ``away`` in a map that was made of ``detections``."""
    rows, columns = torch.nonzero(away, as_tuple=True)
    ids = panoptic.ids[away]
    tally = Counter({"unknown": int((ids == VOID).sum())})
    for segment in panoptic.segments:
        its = ids == segment.id
        if segment.label >= THINGS:
            tally["stuff"] += int(its.sum())
            continue
        number = int((detections.scores == segment.score).nonzero()[0])
        x1, y1, x2, y2 = detections.boxes[number]
        inside = (columns + 1 > x1) & (columns < x2) & (rows + 1 > y1) & (rows < y2)
        tally["an object with a box here"] += int((its & inside).sum())
        tally["an object elsewhere"] += int((its & ~inside).sum())
    return tally


FATES = ("unknown", "stuff", "an object with a box here", "an object elsewhere")
became, example = {"with unknown": Counter(), "without unknown": Counter()}, None
for k, one in enumerate(progress_bar(said["Shapes"], unit="image")):
    complete = by_head(one, min_stuff_area=0)
    if not complete.segments or complete.segments[0].label >= THINGS:
        continue
    away = complete.ids == 1  # the best object of the map
    rest = one.panoptic_detections.scores != complete.segments[0].score
    detections, mask_logits = one.panoptic_detections[rest], one.panoptic_mask_logits[rest]
    less = replace(one, panoptic_detections=detections, panoptic_mask_logits=mask_logits)
    now = [by_head(less, min_stuff_area=0, unknown=unknown) for unknown in (True, False)]
    for way, panoptic in zip(became, now, strict=True):
        became[way] += fate(panoptic, detections, away)
    if example is None and int(away.sum()) > 600 and len(complete.segments) > 3:
        example = (SETS["Shapes"][k][0], complete, *now)
for way, tally in became.items():
    shares = {kind: tally[kind] / max(1, tally.total()) for kind in FATES}
    print(f"{way:16}" + ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items()))
    for kind, share in shares.items():
        if kind in ("unknown", "an object elsewhere"):
            labkit.record(f"box_away_{way}_{kind}".replace(" ", "_"), share)
if example:
    image, *maps_ = example
    titles = ("all boxes", "one box less", "one box less, without unknown")
    shown = [(title, image, panoptic) for title, panoptic in zip(titles, maps_, strict=True)]
    display(panels(shown, categories, columns=3))

# %% [markdown]
# Nearly all of the pixels become unknown: the branch is sure of a thing, no box explains it, and the
# head says so. Without unknown they have to go somewhere, and where they go is a surprise: mostly not
# to the ground around them but to an *object elsewhere*, whose box does not even contain them. On a
# thing all stuff logits are negative, and outside its box every object has the logit 0: zero wins, and
# of equal logits the first. So unknown also repairs a weakness of the formula (exercise 3 repairs it
# otherwise).
#
# ## 5.5 Eight losses
#
# Proposals have two losses (is it an object, where is it), objects three (class, box, mask), and UPSNet
# adds three: the classes of all pixels; the same once more inside the true boxes alone, so that small
# objects are heard; and the panoptic loss. All eight are added and pull at one backbone, here from
# nothing and from the trained detector `mask_rcnn_tiny`, which has learnt what five of them measure and
# lacks the semantic branch.


# %%
class Drawn(torch.utils.data.Dataset):
    """Images drawn once, and mirrored at random."""

    def __init__(self, dataset):
        self.items = [dataset[i] for i in progress_bar(range(len(dataset)), unit="image")]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        image, target = self.items[index]
        if torch.rand(()) < 0.5:
            return image, target
        boxes = target["boxes"].clone()
        boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
        maps = {key: target[key].flip(-1) for key in ("masks", "semantic")}
        return image.flip(-1), {**target, **maps, "boxes": boxes}


drawn = Drawn(train_set)
histories = {}
for beginning in ("from nothing", "from mask_rcnn_tiny"):
    _ = torch.manual_seed(seed)
    network = build("upsnet_tiny", categories)
    if beginning != "from nothing":
        fresh = start_from(network, load_model("mask_rcnn_tiny"))
        print("fresh:", ", ".join({name.split(".")[0] for name in fresh}))
    start = time.perf_counter()
    histories[beginning] = train(
        network, drawn, TrainConfig(steps=steps, batch_size=BATCH, lr=2e-3, warmup=10, seed=seed)
    ).losses
    print(f"{beginning}: {steps} steps in {time.perf_counter() - start:.0f} s")

# %%
TITLES = {
    "loss_rpn_cls": "proposals: object or not",
    "loss_rpn_loc": "proposals: where",
    "loss_cls": "objects: class",
    "loss_box_reg": "objects: box",
    "loss_mask": "objects: mask",
    "loss_sem_seg": "semantic: all pixels",
    "loss_sem_seg_roi": "semantic: in the boxes",
    "loss_panoptic": "panoptic",
}
figure, axes = plt.subplots(2, 4, figsize=(11, 4.6), layout="constrained", sharex=True)
window = min(10, steps)
for axis, (name, title) in zip(axes.flat, TITLES.items(), strict=True):
    for (beginning, losses), color, style in zip(
        histories.items(), (blue, orange), ("-", "--"), strict=True
    ):
        values = np.array(losses[name])
        mean = np.convolve(values, np.ones(window) / window, mode="valid")
        axis.plot(values, color=color, alpha=0.25, linewidth=0.8)
        axis.plot(np.arange(window - 1, steps), mean, style, color=color, label=beginning)
    axis.set_title(title, fontsize=9)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
figure.supxlabel("step", fontsize=9)
figure.legend(
    *axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False
)
plt.show()
tenth = max(1, steps // 5)
for beginning, losses in histories.items():
    for name in ("loss_sem_seg", "loss_panoptic", "total"):
        ratio = np.mean(losses[name][-tenth:]) / np.mean(losses[name][:tenth])
        short = beginning.replace(" ", "_")
        labkit.record(f"{name.removeprefix('loss_')}_last_over_first_{short}", ratio)
    fallen = [
        name for name in TITLES if np.mean(losses[name][-tenth:]) < np.mean(losses[name][:tenth])
    ]
    print(f"{beginning}: {len(fallen)} of {len(TITLES)} losses are lower in the last fifth")
    labkit.record(f"losses_that_fell_{beginning.replace(' ', '_')}", len(fallen))

# %% [markdown]
# From nothing the proposals learn within a few steps, and classes and masks after them. The loss of the
# boxes does not fall but rises at first: it is counted on the proposals that hit an object, and of
# those there are more and more. The semantic losses need longer. From the detector the five losses that
# it brings stay low, disturbed a little, and the three new ones fall faster than from nothing, for the
# features are there. The panoptic loss follows the semantic one closely: most pixels are stuff, and for
# them the two say nearly the same.
#
# ## 5.6 Unknown, on and off
#
# Back to the trained network and to what it said about our pictures. Every row of what follows fuses
# the *same* logits and masks; nothing else differs.
#
# - *panoptic head*: the network as it is. *Without unknown* and *without pruning* (section 5.7) are
#   what they say.
# - *heuristic merge*: that of notebook 4, with the detections from score 0.5 on. *Merge, head's
#   objects* gets the objects that the head gets, above 0.6 and after non-maximum suppression over all
#   classes. This separates the selection of the objects from the fusion.
# - *head, without vote* and *head, without area* take away what comes after the head: the vote of the
#   majority, and the smallest area of stuff.
# - *head, exact boxes* and the last row are about an explanation in section 5.8.


# %%
def by_merge(one, score=0.5, heads_objects=False):
    """The heuristic merge of the same answers."""
    if heads_objects:
        detections, mask_logits = for_head(one, score)
    else:
        detections, mask_logits = sure(one.detections, one.mask_logits, score)
    detections = paste_detections(detections, mask_logits, SIZE, SIZE)
    semantic = upsample(one.sem_seg_logits).argmax(dim=0)
    area = config.panoptic.min_stuff_area
    return merge(detections, semantic, categories, score_thresh=score, min_stuff_area=area)


def by_exact_head(one, score=config.panoptic.score_thresh, pruned=True):
    """The head with boxes that begin and end where they do, not at whole pixels."""
    detections, mask_logits = for_head(one, score)
    windows = windows_of(detections.boxes, SIZE).mask
    kept = list(range(len(detections)))
    if pruned:
        kept = prune(resized_masks(mask_logits, windows), windows, detections.labels, SIZE)
    if not kept:
        return by_head(one, score)
    detections, mask_logits = detections[torch.tensor(kept)], mask_logits[kept]
    large = upsample(one.sem_seg_logits)
    x_thing, y_mask = torch.zeros(2, len(kept), *SIZE)
    middles = torch.arange(SIDE) + 0.5  # of the pixels
    for i, (x1, y1, x2, y2) in enumerate(detections.boxes):
        x, y = (middles - x1) / (x2 - x1) * 2 - 1, (middles - y1) / (y2 - y1) * 2 - 1  # -1 to 1
        inside = (y.abs() <= 1)[:, None] & (x.abs() <= 1)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
        mask = mask_logits[i][None, None]
        drawn = F.grid_sample(mask, grid, padding_mode="border", align_corners=False)[0, 0]
        x_thing[i], y_mask[i] = large[detections.labels[i]] * inside, drawn * inside
    unknown = large[:THINGS].amax(dim=0) - x_thing.amax(dim=0)
    winners = torch.cat([large[THINGS:], x_thing + y_mask, unknown[None]]).argmax(dim=0) + THINGS
    winners[winners == CLASSES + len(kept)] = UNKNOWN
    return assign_segments(
        PixelLabels(winners, large.argmax(dim=0)),
        detections.labels,
        detections.scores,
        CLASSES,
        THINGS,
        min_stuff_area=config.panoptic.min_stuff_area,
    )


WAYS = {
    "panoptic head": by_head,
    "without unknown": lambda one: by_head(one, unknown=False),
    "without pruning": lambda one: by_head(one, prune=False),
    "heuristic merge": by_merge,
    "merge, head's objects": lambda one: by_merge(
        one, config.panoptic.score_thresh, heads_objects=True
    ),
    "head, without vote": lambda one: by_head(one, stuff_majority=2.0),
    "head, without area": lambda one: by_head(one, min_stuff_area=0),
    "head, exact boxes": by_exact_head,
    "exact, 0.5, unpruned": lambda one: by_exact_head(one, 0.5, pruned=False),
}


def fused_by(way, answers):
    """The maps of all pictures, and the milliseconds that one takes (the median)."""
    maps_, times = [], []
    with torch.no_grad():
        for one in answers:
            start = time.perf_counter()
            maps_.append(way(one))
            times.append(time.perf_counter() - start)
    return maps_, 1000 * float(np.median(times))


def counts_of(maps_, items):
    """Sum of IoU, TP, FP, FN of every class for each picture, ``(pictures, classes, 4)``."""
    counts = []
    for panoptic, (_, target) in zip(maps_, items, strict=True):
        quality = PanopticQuality(categories)
        quality.update(panoptic, target["panoptic"])
        counts.append(quality.counts)
    return np.stack(counts)


def quality_of(counts):
    """PQ, SQ and RQ from counts ``(classes, 4)``."""
    return summarize(counts, [(c.id, c.name, c.isthing) for c in categories])


fused = {
    (of, name): fused_by(way, said[of])
    for of in SETS
    for name, way in progress_bar(WAYS.items(), unit="fusion")
}
ms_of = {key: ms for key, (_, ms) in fused.items()}
fused = {key: maps_ for key, (maps_, _) in fused.items()}
counts = {key: counts_of(maps_, SETS[key[0]]) for key, maps_ in fused.items()}
with torch.no_grad():
    whole = [upsnet([image])[0].panoptic for image, _ in SETS["crowded"][:10]]
differ = sum(
    int((a.ids != b.ids).sum())
    for a, b in zip(whole, fused["crowded", "panoptic head"], strict=False)
)
labkit.record("cut_into_parts_vs_whole_network", differ)


def print_table(names):
    for of in SETS:
        print(f"{of:22}{'all':^21}{'things':^21}{'stuff':^21}   things FP   FN   stuff FP   FN")
        print(f"{'':22}" + "".join(f"{h:>7}" for h in ("PQ", "SQ", "RQ")) * 3)
        for name in names:
            total = counts[of, name].sum(axis=0)
            result = quality_of(total)
            values = [
                100 * getattr(getattr(result, kind), what)
                for kind in ("all", "things", "stuff")
                for what in ("pq", "sq", "rq")
            ]
            wrong = [total[:THINGS, 2:].sum(axis=0), total[THINGS:, 2:].sum(axis=0)]
            print(
                f"{name:22}"
                + "".join(f"{v:7.1f}" for v in values)
                + "".join(f"{fp:12.0f}{fn:5.0f}" for fp, fn in wrong)
            )


print_table(["panoptic head", "without unknown"])

# %% [markdown]
# On the usual pictures unknown changes little, for hardly any object is missed. In a crowd it gains
# about a point, for things and stuff alike: there are fewer false positives, and no more false
# negatives, since a pixel that would have gone to a wrong segment was lost in any case. The outlines of
# the others get better too, as SQ says: what does not belong to them is kept out.
#
# Where unknown wins, what would have been there without it?

# %%
for of, items in SETS.items():
    tally = Counter()
    for one, (_, target), instead in zip(
        said[of], items, fused[of, "without unknown"], strict=True
    ):
        void = by_head(one, min_stuff_area=0).ids == VOID
        true, otherwise = target["semantic"][void], instead.semantic()[void]
        tally["pixels"] += void.numel()
        tally["unknown"] += int(void.sum())
        tally["on a thing"] += int((true < THINGS).sum())
        tally["wrong otherwise"] += int((true != otherwise).sum())
    share = tally["unknown"] / tally["pixels"]
    on_thing = tally["on a thing"] / max(1, tally["unknown"])
    wrong = tally["wrong otherwise"] / max(1, tally["unknown"])
    print(
        f"{of}: unknown on {share:.1%} of the pixels; {on_thing:.0%} of these lie on a thing;"
        f" without unknown {wrong:.0%} of them would have the wrong class"
    )
    labkit.record(f"unknown_pixels_{of}", share)
    labkit.record(f"unknown_on_a_thing_{of}", on_thing)
    labkit.record(f"unknown_wrong_otherwise_{of}", wrong)

# %% [markdown]
# So most of what unknown takes would have been wrong, and more so in a crowd, where it takes more. The
# rest is the price.
#
# ## 5.7 Mask pruning, on and off
#
# Non-maximum suppression looks at boxes. Two boxes with IoU 0.45 both survive it, though their masks
# may be the same object. Pruning looks at masks: the objects in the order of their scores, and one is
# dropped when more than 30 % of its mask is covered by those kept before, of its class.

# %%
print_table(["panoptic head", "without pruning"])
for of in SETS:
    before = after = 0
    for one in said[of]:
        detections, mask_logits = for_head(one)
        windows = windows_of(detections.boxes, SIZE).mask
        before += len(detections)
        placed = resized_masks(mask_logits, windows)
        overlap = config.panoptic.overlap_thresh
        after += len(prune(placed, windows, detections.labels, SIZE, overlap))
    print(f"{of}: {before} objects come to the pruning, {before - after} are dropped")
    labkit.record(f"objects_pruned_{of}", (before - after) / max(1, before))

# %% [markdown]
# Pruning drops one object in ten in a crowd and next to none elsewhere. What it drops are partly
# repetitions, false positives that are saved, and partly true objects behind others of their class,
# which a crowd is made of: the false negatives grow nearly as much. In PQ there is no gain from it
# here, on the usual pictures rather a small loss. The threshold was chosen for COCO.
#
# ## 5.8 The same network, two fusions

# %%
print_table(list(WAYS))
print()
for of in SETS:
    print(f"{of}: milliseconds of the fusion of one picture")
    print("    " + ", ".join(f"{name} {ms_of[of, name]:.1f}" for name in WAYS))
for of in SETS:
    for name in ("panoptic head", "heuristic merge"):
        result = quality_of(counts[of, name].sum(axis=0))
        short = name.replace(" ", "_")
        for kind in ("all", "things", "stuff"):
            quality = getattr(result, kind)
            labkit.record(f"pq_{kind}_{short}_{of}", quality.pq)
            labkit.record(f"sq_{kind}_{short}_{of}", quality.sq)
            labkit.record(f"rq_{kind}_{short}_{of}", quality.rq)
    ratio = ms_of[of, "panoptic head"] / ms_of[of, "heuristic merge"]
    labkit.record(f"time_head_over_merge_{of}", ratio)

# %% [markdown]
# Which of the differences are larger than chance? As in notebook 4 we draw as many pictures as we have
# from ours, with repetition, a thousand times, and look at where 95 % of the differences lie. It says
# what other pictures might have given, and nothing about another training.

# %%
PAIRS = {
    "head − merge": ("panoptic head", "heuristic merge"),
    "head − merge, head's objects": ("panoptic head", "merge, head's objects"),
    "unknown on − off": ("panoptic head", "without unknown"),
    "pruning on − off": ("panoptic head", "without pruning"),
    "vote on − off": ("panoptic head", "head, without vote"),
    "area on − off": ("panoptic head", "head, without area"),
    "boxes exact − in whole pixels": ("head, exact boxes", "panoptic head"),
    "head, exact boxes − merge": ("head, exact boxes", "heuristic merge"),
    "exact, 0.5, unpruned − merge": ("exact, 0.5, unpruned", "heuristic merge"),
}
draws = random.multinomial(
    num_val, [1 / num_val] * num_val, size=1000 if profile != "smoke" else 20
).astype(float)


def pq_of(counts):
    """PQ of all, things and stuff."""
    result = quality_of(counts)
    return np.array([result.all.pq, result.things.pq, result.stuff.pq])


print(f"{'PQ':40}{'all':>22}{'things':>22}{'stuff':>22}")
for of in SETS:
    resampled = {
        name: np.array([pq_of(c) for c in np.tensordot(draws, counts[of, name], 1)])
        for name in WAYS
    }
    for pair, (name, other) in PAIRS.items():
        difference = pq_of(counts[of, name].sum(axis=0)) - pq_of(counts[of, other].sum(axis=0))
        low, high = np.nanquantile(resampled[name] - resampled[other], (0.025, 0.975), axis=0)
        print(
            f"{of + ': ' + pair:40}"
            + "".join(
                f"{100 * d:+8.1f} [{100 * a:+5.1f}, {100 * b:+5.1f}]"
                for d, a, b in zip(difference, low, high, strict=True)
            )
        )
        short = {
            "head − merge": "head_minus_merge",
            "unknown on − off": "unknown_on_minus_off",
            "pruning on − off": "pruning_on_minus_off",
            "boxes exact − in whole pixels": "exact_boxes_minus_whole",
            "exact, 0.5, unpruned − merge": "exact_unpruned_minus_merge",
        }.get(pair)
        if short:
            for k, kind in enumerate(("all", "things", "stuff")):
                labkit.record(f"pq_{kind}_{short}_{of}", difference[k])

# %% [markdown]
# **The merge is ahead**, on this network, of about a point on the usual pictures and of two in a crowd,
# and the intervals say that it is not chance. Object selection is not the cause: given the head's
# objects, the merge does as well. Stuff is nearly level; it is the things that make the difference, and on the
# usual pictures their SQ alone: the same objects are found, and outlined worse.
#
# *Why?* The head works in whole pixels: a box begins with the pixel that it begins in, and the mask is
# resized to what is left. On a picture of $800 \times 1333$ nobody notices. Ours are 128 pixels large,
# and an object of ten pixels that is moved by half a one loses a tenth of its IoU. We can test that:
# *head, exact boxes* is the same head, but samples each mask at the middles of the pixels, as RoIAlign
# would, and as the merge's masks are pasted. It wins back the difference on the usual pictures, and in
# a crowd nearly half of it. Taking all objects from 0.5 on, unpruned, adds little. In a crowd about a
# point remains that none of this explains; exercise 6 is one suspicion.
#
# The fusions take about the same time here, a few milliseconds, the head a little less. Its work grows
# with the area of the boxes, that of the merge with the number of objects; `labkit bench panoptic`
# measures both on 480 × 640 pixels with a hundred objects.
#
# **A fair threshold?** The merge takes objects from 0.5 on, the head from 0.6, and neither number was
# chosen for this network. So we turn both, on the crowded pictures:

# %%
SCORES = (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
curves = {
    name: np.array(
        [
            pq_of(counts_of([way(one, s) for one in said["crowded"]], SETS["crowded"]).sum(axis=0))
            for s in progress_bar(SCORES, unit="score")
        ]
    )
    for name, way in (("panoptic head", by_head), ("heuristic merge", by_merge))
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
for k, (axis, kind) in enumerate(zip(axes, ("all", "things", "stuff"), strict=True)):
    for (name, values), color, style in zip(
        curves.items(), (blue, orange), ("o-", "s--"), strict=True
    ):
        axis.plot(SCORES, 100 * values[:, k], style, color=color, label=name, markersize=4)
    axis.set_title(f"PQ, {kind}, crowded", fontsize=9)
    axis.set_xlabel("lowest score of an object", fontsize=9)
    axis.grid(alpha=0.3)
axes[0].legend(frameon=False, fontsize=8)
plt.show()
for name, values in curves.items():
    best = int(values[:, 0].argmax())
    print(f"{name}: best PQ {100 * values[best, 0]:.1f} at {SCORES[best]}")
    labkit.record(f"best_pq_over_scores_{name.replace(' ', '_')}", values[best, 0])
gap = curves["panoptic head"][:, 0].max() - curves["heuristic merge"][:, 0].max()
labkit.record("head_minus_merge_at_the_best_scores", gap)

# %% [markdown]
# Neither was at its best, but nearly: both curves are flat around their thresholds, and at each one's
# own best the difference stays. That the head has *no* thresholds is therefore worth less than it
# sounds: the choice of objects before it has one, and needs it as little or as much as the merge does.
#
# And in pictures, with the head's objects for both, so that the fusion alone makes the difference: of
# both sets the picture on which the head is farthest ahead, and the one on which the merge is. Above
# each map stands the PQ of this picture, over all its segments together; what is unpainted is void.


# %%
def of_picture(counts):
    """PQ of each picture over all its segments, from (pictures, classes, 4)."""
    total = counts.sum(axis=1)
    return total[:, 0] / np.maximum(total @ [0, 1, 0.5, 0.5], 1e-9)


shown = []
for of, items in SETS.items():
    head, rule = [
        of_picture(counts[of, name]) for name in ("panoptic head", "merge, head's objects")
    ]
    for k in (int(np.argmax(head - rule)), int(np.argmin(head - rule))):
        image, target = items[k]
        shown += [
            (f"{of}, picture {k}", image, None),
            ("truth", image, target["panoptic"]),
            (f"panoptic head: {100 * head[k]:.0f}", image, fused[of, "panoptic head"][k]),
            (f"merge: {100 * rule[k]:.0f}", image, fused[of, "merge, head's objects"][k]),
        ]
    better, equal, worse = [int(v.sum()) for v in (head > rule, head == rule, head < rule)]
    print(f"{of}: the head is better on {better} pictures, equal on {equal}, worse on {worse}")
panels(shown, categories, columns=4, names=False)

# %% [markdown]
# The first row (of the hundred pictures of `quick`) shows what the head is for. The detector takes the
# patch of grass at the lower edge for a square and is sure of it. The merge has no doubt either and
# paints it; the head adds what the semantic branch thinks, and grass it stays. The merge wins where
# objects are small, whose outlines the whole pixels spoil, and in crowds, where the head leaves as
# unknown what the merge still gives to an object.
#
# ## 5.9 One training is not a result
#
# Everything above is about one network. Another seed gives another network, and the difference between
# two fusions may change with it. `labkit bench crowded --out RUNS` repeats the comparison: it
# trains Panoptic FPN on its three backbones and UPSNet on with crowded pictures, from the weights that
# come with labkit, each with three seeds and otherwise the same settings; measures all of them on other
# crowded pictures; fuses UPSNet's answers with both fusions, network by network; and prints means, spreads
# and the differences seed by seed. These are twelve trainings, too long for a lesson.
#
# `data/checkpoints/crowded_study.json` is what it wrote, with `--steps 120 --images 150`:

# %%
study = json.loads((FOLDER / "crowded_study.json").read_text(encoding="utf-8"))
for name, seeds in study["scores"].items():
    cells = "".join(
        f"{what:>9} {np.mean([s[what] for s in seeds]):5.1f} ± {np.std([s[what] for s in seeds], ddof=1):.1f}"
        for what in ("PQ", "things", "stuff")
    )
    print(f"{name:30}{cells}")
for name, gaps in study["differences"].items():
    print(f"PQ, {name}: {', '.join(f'{gap:+.1f}' for gap in gaps)}")
gaps = study["differences"]["upsnet_tiny - upsnet_tiny, heuristic merge"]
labkit.record("study_head_minus_merge", float(np.mean(gaps)))
labkit.record("study_head_minus_merge_largest", max(gaps))

# %% [markdown]
# On the same three networks the merge is ahead by about two points, all of them among the things, and the
# seeds hardly differ: they all begin from the same weights, so that this spread is smaller than that of
# whole trainings would be. UPSNet with the merge is no better and no worse than Panoptic FPN. So on our
# pictures, with networks of this size, the panoptic loss buys nothing that the merge does not have.
#
# The paper's own comparison on COCO, with the same backbone and full trainings, for scale: its baseline
# of a Mask R-CNN and a PSPNet, merged by the heuristic, reached 41.8 PQ (things 47.8, stuff 32.8),
# UPSNet 42.5 (48.5, 33.4). There the head was ahead, by less than a point, and the semantic branches
# were different ones.
#
# ## To take away
#
# - A deformable convolution asks the map where to look. Its places are interpolated, so offsets are
#   learnt by gradient; zero offsets are a plain convolution, and dilation is one special case.
# - The panoptic head adds what both branches think, $Z_i = X^{thing}_i + Y^{mask}_i$, and lets objects,
#   stuff and unknown compete in one softmax. It has no weights and no thresholds.
# - The softmax has a loss, and its gradient $p - y$ reaches both branches and the backbone. A merge has
#   none.
# - Unknown is learnt from objects that are held back; an object that was missed becomes void rather
#   than something else.
# - On our small pictures the heuristic merge is ahead of the head, much of it because the head's boxes
#   are whole pixels.
# - Two fusions are compared on the *same* answers, with an interval, over thresholds, and at last over
#   seeds.
#
# ## Exercises
#
# 1. **By hand.** In 5.3 give the square a box (rows 0 to 2, columns 5 to 7) and a mask of $-4$
#    everywhere. What wins in its pixels, and what with a mask of $-1$? Check with `panoptic_logits`.
# 2. **Who is in front?** Let circle 2 be in front in 5.3 by changing its mask alone. How large must its
#    logits in the overlap become? Now let both masks be equal there. What decides?
# 3. **Zero is not nothing.** Outside its box an object has the logit 0, and 0 wins where all stuff is
#    negative. Put $-\infty$ there instead (in `by_exact_head`, with and without unknown). What changes
#    in the experiment with the box that is taken away, and in PQ?
# 4. **Offsets of one level.** Put the offsets to 0 on one level of the pyramid at a time, as in 5.2.
#    Which level needs them most?
# 5. **Modulation.** Deformable ConvNets v2 (Zhu et al., 2019) multiply each tap by a weight between 0
#    and 1 that is predicted as well (`mask` of `torchvision.ops.deform_conv2d`). Add it to
#    `my_deform_conv` and check it.
# 6. **Masks that count double.** Replace $Z_i$ by $X^{thing}_i + \alpha Y^{mask}_i$ and draw PQ of
#    things over $\alpha$ from 0 to 4. Should the head have had a weight after all?
# 7. **No one held back.** Train `upsnet_tiny` from `mask_rcnn_tiny` for a few hundred steps with
#    `unknown_ratio=0` and with 0.3 (`replace(PRESETS["upsnet_tiny"], unknown_ratio=0.0)`), and repeat
#    the experiment with the box that is taken away.
# 8. **A head on other branches.** `panoptic_fpn_tiny` has the same two branches. Fuse its answers with
#    the panoptic head. It was never trained for it: what is lost?
#
# ## References
#
# - Y. Xiong, R. Liao, H. Zhao, R. Hu, M. Bai, E. Yumer, R. Urtasun. UPSNet: A Unified Panoptic
#   Segmentation Network. CVPR 2019: the heads in section 3.1, losses, inference and mask pruning in
#   3.2, COCO in table 1.
# - J. Dai, H. Qi, Y. Xiong, Y. Li, G. Zhang, H. Hu, Y. Wei. Deformable Convolutional Networks. ICCV
#   2017: section 2.1.
# - X. Zhu, H. Hu, S. Lin, J. Dai. Deformable ConvNets v2: More Deformable, Better Results. CVPR 2019.
# - A. Kirillov, R. Girshick, K. He, P. Dollár. Panoptic Feature Pyramid Networks. CVPR 2019: the merge.
# - A. Kirillov, K. He, R. Girshick, C. Rother, P. Dollár. Panoptic Segmentation. CVPR 2019: PQ.
# - K. He, G. Gkioxari, P. Dollár, R. Girshick. Mask R-CNN. ICCV 2017.
