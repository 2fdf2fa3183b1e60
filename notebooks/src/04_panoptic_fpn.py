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
# # 4. Panoptic FPN
#
# **The question.** One network gives every pixel a class, another finds the objects. Can one network do
# both, and how do its two outputs become one map without overlaps?
#
# By the end you have counted the pixels on which the two outputs contradict each other, built the semantic
# branch, measured what it costs, trained both branches together, varied the weight between their losses,
# written the merge, moved each of its thresholds, and compared three backbones.
#
# You need: notebooks 1 and 3, and about a minute of training in all. [Glossary](../docs/glossary.md) of all
# terms.
#
# ![Diagram of Panoptic FPN: one backbone with a feature pyramid feeds the instance branch of Mask R-CNN and a semantic branch; the losses of class, box and mask are weighted by lambda i, the semantic loss by lambda s; the merge makes one panoptic map of both outputs.](diagrams/panoptic_fpn.svg)
#
# The whole network. The upper branch is Mask R-CNN. The lower branch is new. In training, $\lambda_i$ and
# $\lambda_s$ weight the losses of the two branches (section 4.4). In inference, the merge makes one map
# (section 4.6).
#
# > **Before you start.**
# >
# > - **PQ, panoptic quality.** A predicted and a ground-truth segment of the same class *match* if their IoU is
# >   above 0.5. A match is a true positive (**TP**), a predicted segment without a match a false positive (**FP**), a
# >   ground-truth segment without a match a false negative (**FN**). PQ = SQ × RQ: **SQ** is the mean IoU of the
# >   matches, **RQ** = TP / (TP + ½ FP + ½ FN) is the F1 score of finding segments. Each is computed for every class
# >   and averaged ([6.3](06_panoptic_quality.ipynb#6.3-PQ-=-SQ-×-RQ)). *PQ Th* and *PQ St* are the means over things
# >   and over stuff.
# > - **AP**: the area under the precision-recall curve of the detections, mean over classes and IoU thresholds
# >   ([3.9](03_mask_rcnn.ipynb#3.9-Average-precision)). **mIoU**: the IoU of the pixels of a class, mean over the
# >   classes ([1.4](01_semantic_review.ipynb#1.4-Intersection-over-union)).
# > - **FPN**: feature maps $P_2$ to $P_5$ with strides 4, 8, 16 and 32. The *stride* is the number of pixels between
# >   neighbouring positions (*cells*) of a map ([3.2](03_mask_rcnn.ipynb)).
# > - **Shapes**: our drawn images, 128 × 128 ([1.1](01_semantic_review.ipynb#1.1-The-task)). Its *crowded* variant has
# >   groups of touching objects of one class, and stuff of similar colours; no network is trained on it.
# > - `mask_rcnn_tiny`, `panoptic_fpn_tiny`: small networks, whose weights, trained on Shapes, come with labkit.

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: minutes; full: a GPU
seed: int = 0

# %% tags=["hide-input"]
# Set-up: imports, sizes of the profiles, data.
# %matplotlib inline
import re
import time
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from math import prod

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from IPython.display import display
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import NullLocator
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

import labkit
from labkit.checkpoints.run_folder import start_from
from labkit.checkpoints.shipped import shipped
from labkit.checks import Checks, equal, has_shape
from labkit.colors import PETROFF_10
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.in_memory import InMemory
from labkit.datasets.shapes import Shapes
from labkit.datasets.transforms import JointTransform, TransformedDataset
from labkit.engine.predictor import Predictor, load_model
from labkit.engine.train import TrainConfig, train
from labkit.metrics.coco_ap import COCOAP
from labkit.metrics.panoptic_matching import summarize
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.semantic import ConfusionMatrix
from labkit.models import build
from labkit.models.backbones.backbone_config import TINY_BLOCKS, TINY_WIDTHS, BackboneConfig
from labkit.models.backbones.tiny_resnet import TinyResNet
from labkit.models.panoptic_fpn.merge import merge
from labkit.models.panoptic_fpn.semantic_head import ConvGroupNorm, SemanticFPN, SemanticFPNConfig
from labkit.models.preprocess import preprocess
from labkit.models.presets import PRESETS
from labkit.models.semantic.losses import cross_entropy, label_maps, semantic_targets
from labkit.structures import (
    IGNORE,
    VOID,
    Panoptic,
    Prediction,
    Segment,
)
from labkit.system.cpu_cores import use_threads
from labkit.system.paths import find_data
from labkit.system.progress_bars import progress_bar
from labkit.visualize import draw, panels
from labkit.widgets import Compare
from labkit.widgets.compare.compare import compare

num_train, num_val, num_networks, num_study, branch_steps, study_steps = {
    "smoke": (16, 6, 4, 4, 1, 1),
    "quick": (300, 100, 60, 40, 100, 30),
    "full": (10_000, 300, 300, 300, 1000, 2000),
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
categories = train_set.categories
THINGS, STUFF = len(categories.things), len(categories.stuff)
SETS = {"Shapes": InMemory(val_set).items, "crowded": InMemory(crowded_set).items}

# %% [markdown]
# ## 4.1 The task
#
# A **panoptic segmentation** gives each pixel $i$ a pair $(\ell_i, z_i)$: a class $\ell_i$ and the
# number $z_i$ of an instance. The classes are of two kinds, $\mathcal{L} = \mathcal{L}^{Th} \cup
# \mathcal{L}^{St}$:
#
# - **things** are countable: all pixels with the same $(\ell_i, z_i)$ are one object;
# - **stuff** is not: $z_i$ has no meaning, and all grass of an image is one segment.
#
# Each pixel has one pair, so segments **do not overlap**. A semantic segmentation has the $\ell_i$ but no
# $z_i$. An instance segmentation has things only, and its masks may overlap. A pixel in no segment is **void**.
# The crowded variant of Shapes shows the difference: squares that touch are one region in the middle image and
# separate objects on the right.

# %% tags=["hide-input"]
# Figure: semantic and panoptic ground truth.
rows, densest = [], {}
for name, items in SETS.items():  # of the first images the one with the most visible objects
    _, densest[name] = max(
        (sum(s.label < THINGS for s in target["panoptic"].segments), k)
        for k, (_, target) in enumerate(items[:8])
    )
    image, target = items[densest[name]]
    rows += [
        (name, image, None),
        ("the class ℓ of each pixel", image, target["semantic"]),
        ("the pair (ℓ, z)", image, target["panoptic"]),
    ]
panels(rows, categories, columns=3)

# %% [markdown]
# **Photographs.** Shapes has about five objects an image and seven classes. Two annotated photographs of COCO
# (sample data of panopticapi, 0.7 MB) show what it does not have. The class map and the panoptic map of each:

# %% tags=["hide-input"]
# Figure and table: ground truth of two photographs.
sample = find_data("coco_panoptic_sample")
photos, holds = [], {}  # holds: statements about the photographs, checked where they are there
if sample is None:
    print("The photographs are not here. `labkit data get coco-panoptic-sample` fetches them;")
    print("then this cell shows people and horses, most of them partly hidden.")
else:
    coco_sample = CocoPanoptic(sample / "panoptic_examples.json", image_dir=sample / "input_images")
    coco, photos, rows = coco_sample.categories, list(coco_sample), []
    print(
        f"{'':12}{'objects':>8}{'in pieces':>11}{'smallest':>10}{'largest':>9}{'void':>7}  crowds"
    )
    for k, (image, target) in enumerate(photos):
        truth = target["panoptic"]
        rows += [
            (f"photograph {k + 1}", image, None),
            ("the class ℓ of each pixel", image, target["semantic"]),
            ("the pair (ℓ, z)", image, truth),
        ]
        objects = [s for s in truth.segments if s.label in coco.things and not s.iscrowd]
        masks = [(truth.ids == s.id).numpy().astype(np.uint8) for s in objects]
        pieces = [cv2.connectedComponents(mask)[0] - 1 for mask in masks]
        areas = [int(mask.sum()) for mask in masks]
        in_pieces, void = sum(n > 1 for n in pieces), float((truth.ids == VOID).float().mean())
        crowds = ", ".join(coco[s.label].name for s in truth.segments if s.iscrowd)
        print(
            f"photograph {k + 1}{len(objects):8}{in_pieces:11}{min(areas):10}{max(areas):9}"
            f"{void:7.1%}  {crowds}"
        )
        facts = (len(objects), in_pieces, max(pieces), min(areas), max(areas))
        holds[f"objects of photograph {k + 1}"] = (
            facts
            == (
                (14, 1, 2, 153, 4076),
                (26, 5, 4, 96, 5791),
            )[k]
        )
    classes = {s.label for _, target in photos for s in target["panoptic"].segments}
    holds["8 of 133 classes"] = (len(classes), len(coco)) == (8, 133)
    display(panels(rows, coco, columns=3, names=False, size=3.3))

# %% [markdown]
# - **Occlusion.** Of the 26 objects on the second photograph five are in pieces, one in four pieces, because something
#   in front divides them. A pair $(\ell, z)$ need not be one connected region.
# - **Scale.** The objects have between 96 and 5791 pixels, on one photograph.
# - **Many classes, most of them rare.** COCO has 133 (80 of things, 53 of stuff); 8 occur here. The ball is one segment
#   of 175 pixels. In the mean over classes it counts as much as all people together.
# - **Crowd and void.** People (or horses) that nobody could separate are annotated as one *crowd* region, and some pixels
#   as nothing. PQ does not count errors there ([notebook 6](06_panoptic_quality.ipynb)).
#
# ## 4.2 Why two outputs disagree
#
# The simplest way is two networks: one for the objects and one for the classes of all pixels. Here the first is
# `mask_rcnn_tiny`, and the second is the semantic half of `panoptic_fpn_tiny`. (This half was not trained alone:
# its training started from a detector like the first network, and had an instance branch beside it.) Neither
# reads the output of the other. Only objects with a score of at least 0.5 count. Four contradictions are possible:
#
# 1. two objects claim one pixel (inside the detector alone);
# 2. the detector has an object, the semantic output is stuff;
# 3. both are things, but of different classes;
# 4. the semantic output is a thing, but there is no object.
#
# A pixel counts once: under 1 if two objects claim it, otherwise under the one of 2 to 4 that holds. (Things are
# the labels 0 to `THINGS` − 1, stuff the labels from `THINGS` on.)
#
# > **Predict.** The table below also has *one network*: the two branches of `panoptic_fpn_tiny`, which read the
# > same feature maps. Do they still contradict each other?

# %% tags=["idea"]
KINDS = (
    "agree",
    "two objects claim the pixel",
    "object in one, stuff in the other",
    "object in one, another thing class in the other",
    "no object in one, a thing in the other",
)


def contradictions(detections, semantic):
    """For every pixel, the index in ``KINDS``; the detections are sorted by score, best first."""
    claims = detections.masks.sum(dim=0)  # (H, W): how many objects claim the pixel
    label = torch.full_like(semantic, -1)  # class of the best object
    for mask, value in zip(detections.masks.flip(0), detections.labels.flip(0), strict=True):
        label[mask] = value
    thing = semantic < THINGS
    cases = (
        claims > 1,
        (claims > 0) & ~thing,
        (claims > 0) & thing & (semantic != label),
        (claims == 0) & thing,
    )
    kind = torch.zeros_like(semantic)
    for number, case in enumerate(cases, start=1):
        kind[case & (kind == 0)] = number
    return kind


# %% tags=["hide-input"]
# Table: shares of contradicting pixels.
def confident(detections, score_thresh=0.5):
    return detections[detections.scores >= score_thresh]


def predictions_of(model, items):
    """A model's predictions for all images, and the milliseconds that one takes (the median)."""
    predictor, predictions, times = Predictor(model), [], []
    for image, _ in progress_bar(items, unit="image", leave=False):
        start = time.perf_counter()
        predictions.append(predictor(image))
        times.append(time.perf_counter() - start)
    return predictions, 1000 * float(np.median(times))


detector, panoptic_fpn = load_model("mask_rcnn_tiny"), load_model("panoptic_fpn_tiny")
by_fpn = {name: predictions_of(panoptic_fpn, items)[0] for name, items in SETS.items()}
by_detector = {
    name: predictions_of(detector, items[:num_networks])[0] for name, items in SETS.items()
}

print(f"{'contradictions, % of the pixels of':36}{'things':>8}{'stuff':>8}{'all':>8}")
for name, items in SETS.items():
    for networks, predictions in (
        ("two networks", by_detector[name]),
        ("one network", by_fpn[name]),
    ):
        wrong, pixels = np.zeros(2), np.zeros(2)
        for instance, semantic, (_, target) in zip(
            predictions[:num_networks], by_fpn[name], items, strict=False
        ):
            kind = contradictions(confident(instance.detections), semantic.semantic)
            thing = target["semantic"] < THINGS
            for row, part in enumerate((thing, ~thing)):
                wrong[row] += int((kind[part] > 0).sum())
                pixels[row] += int(part.sum())
        values = [*(wrong / pixels), wrong.sum() / pixels.sum()]
        print(f"{name + ', ' + networks:36}" + "".join(f"{100 * v:8.1f}" for v in values))
        labkit.record(f"contradictions_{networks}_{name}".replace(" ", "_"), values[-1])

# %% [markdown]
# The crowded image with the most contradictions between the two networks:

# %% tags=["hide-input"]
# Figure: contradictions on one image.
pairs = [
    (confident(a.detections), b.semantic)
    for a, b in zip(by_detector["crowded"], by_fpn["crowded"], strict=False)
]
worst = int(np.argmax([(contradictions(*pair) > 0).float().mean() for pair in pairs]))
(image, _), (objects, classes) = SETS["crowded"][worst], pairs[worst]
kind = contradictions(objects, classes)
colors = ["white", "black", "#ffd21a", "#e0007f", "#00a087"]  # none is a colour of a class
figure, axes = plt.subplots(1, 4, figsize=(10, 3.2), layout="constrained")
for axis, title, shown in (
    (axes[0], "image", None),
    (axes[1], "objects of network 1", objects),
    (axes[2], "classes of network 2", classes),
):
    draw(axis, image, shown, categories, names=False)
    axis.set_title(title, fontsize=9)
axes[3].imshow(image.float().mean(dim=0), cmap="gray", alpha=0.35)
axes[3].imshow(
    np.ma.masked_equal(kind, 0), cmap=ListedColormap(colors), vmin=0, vmax=4, interpolation="none"
)
axes[3].set_axis_off()
axes[3].set_title(f"contradictions: {float((kind > 0).float().mean()):.0%} of the pixels", size=9)
figure.legend(
    handles=[Patch(color=c, label=k) for c, k in zip(colors[1:], KINDS[1:], strict=True)],
    loc="outside lower center",
    ncols=2,
    fontsize=8,
    frameon=False,
)
plt.show()

# %% [markdown]
# The figure shows outlines that differ by a pixel, objects that only one network found, objects with another class in
# the semantic output, and masks that overlap because nothing forbids it.
#
# The two branches of one network contradict each other on 1.9 % of the pixels of Shapes and on 5.3 % in the crowd:
# sharing features does not remove contradictions. (The two networks, 2.1 % and 5.1 %, are no fair comparison: the
# second was fine-tuned from the first.) A rule has to decide; section 4.6 has one.
#
# Are two networks needed at all? They have more weights and take more time; section 4.5 measures both. One
# network instead is the subject of *Panoptic Feature Pyramid Networks* (Kirillov et al., 2019).
#
# ## 4.3 The semantic branch
#
# A Mask R-CNN with a feature pyramid (FPN) already has what a semantic segmentation needs: feature maps that
# are fine *and* have deep semantics. The semantic branch (lower half of the diagram at the top) upsamples all
# levels to stride 4, adds them, and classifies each cell:
#
# $$s = W \Big( \sum_{l=2}^{5} u_l(P_l) \Big) + b .$$
#
# Let $\mathrm{conv}$ be a $3 \times 3$ convolution with group norm and ReLU, each time with its own weights, and
# $\mathrm{up}$ bilinear upsampling by two. Then
#
# $$u_2(P_2) = \mathrm{conv}(P_2), \qquad u_3(P_3) = \mathrm{up}(\mathrm{conv}(P_3)), \qquad
# u_4(P_4) = \mathrm{up}(\mathrm{conv}(\mathrm{up}(\mathrm{conv}(P_4)))),$$
#
# $$u_5(P_5) = \mathrm{up}(\mathrm{conv}(\mathrm{up}(\mathrm{conv}(\mathrm{up}(\mathrm{conv}(P_5)))))) .$$
#
# So level $l > 2$ is convolved and upsampled $l - 2$ times. $P_2$ already has stride 4: it is convolved once
# and not upsampled. $W$ and $b$ are a $1 \times 1$ convolution. At the end the logits $s$ are upsampled by a factor
# of 4, to one for each pixel. (The paper's branch has one output for all things together; ours has one for each
# class of things, so that it is a complete semantic segmentation.)
#
# > **Exercise 4.1.** Write $u_l$. `blocks` are the $\mathrm{conv}$ of the level in order: one for levels 2 and 3, two
# > for 4, three for 5. $\mathrm{up}$ is `F.interpolate(x, scale_factor=2, mode="bilinear")`. Example: $P_4$ of shape
# > (1, 64, 8, 8) becomes (1, 64, 16, 16) after the first convolution and upsampling, and (1, 64, 32, 32) after the second.


# %% exercise="to_stride_4"
# Exercise 4.1: from a level of the pyramid to stride 4
def to_stride_4(x, level, blocks):
    """u_l(P_l).

    Args:
        x: P_l, (B, D, h, w).
        level: l, from 2 to 5.
        blocks: the convolutions of this level, in order; each is called with a map.

    Returns:
        (B, channels, H/4, W/4).
    """
    # BEGIN SOLUTION
    for block in blocks:
        x = block(x)
        if level > 2:
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
    return x
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 4.1
def doubled(x):
    """In the place of a convolution: its result is known."""
    widths.append(x.shape[3])
    return 2 * x


check = Checks("Exercise 4.1")
with check("P2 is convolved once and keeps its size: 2 everywhere"):
    widths = []
    equal(to_stride_4(torch.ones(1, 1, 2, 3), 2, [doubled]), [[[[2] * 3] * 2]])
with check("P3 becomes twice as large"):
    has_shape(to_stride_4(torch.ones(1, 1, 2, 3), 3, [doubled]), (1, 1, 4, 6))
with check("P4 is upsampled between its convolutions: they see the widths 3 and 6"):
    widths = []
    to_stride_4(torch.ones(1, 1, 2, 3), 4, [doubled] * 2)
    equal(widths, [3, 6])
with check("P5 is convolved three times: 8 everywhere, eight times as large"):
    large = to_stride_4(torch.ones(1, 1, 1, 1), 5, [doubled] * 3)
    has_shape(large, (1, 1, 8, 8))
    equal(large.unique(), [8])
with check("values are interpolated bilinearly: 0 and 4 become 0, 1, 3, 4 (times 2)"):
    equal(to_stride_4(torch.tensor([[[[0.0, 4.0]]]]), 3, [doubled])[0, 0, 0], [0, 2, 6, 8])
check.report()


# %% tags=["idea"]
def conv_norm_relu(in_channels, channels):
    """A 3 × 3 convolution, group norm, ReLU."""
    conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(channels // 4, channels), nn.ReLU())


class SemanticBranch(nn.Module):
    """P2 to P5 (B, D, h, w) to logits (B, C, H/4, W/4)."""

    def __init__(self, in_channels, channels, num_classes):
        super().__init__()
        self.blocks = nn.ModuleDict()
        for level, convs in {2: 1, 3: 1, 4: 2, 5: 3}.items():
            inputs = [in_channels] + [channels] * (convs - 1)
            self.blocks[f"p{level}"] = nn.ModuleList(conv_norm_relu(n, channels) for n in inputs)
        self.predictor = nn.Conv2d(channels, num_classes, 1)

    def at_stride_4(self, features):
        """u_l(P_l) of each level, by its name."""
        return {
            name: to_stride_4(features[name], int(name[1]), blocks)
            for name, blocks in self.blocks.items()
        }

    def forward(self, features):
        return self.predictor(sum(self.at_stride_4(features).values()))


# %% [markdown]
# We give it the weights of the trained `panoptic_fpn_tiny`, follow the shapes through both, and compare the
# logits:

# %% tags=["hide-input"]
# Check: shapes level by level, and the same logits as labkit's branch.
their_branch = panoptic_fpn.sem_seg_head
branch = SemanticBranch(64, 64, len(categories))
# The same layers in the same order, under other names: the weights are copied one by one.
weights = zip(branch.state_dict(), their_branch.state_dict().values(), strict=True)
_ = branch.load_state_dict(dict(weights))


def features_of(image):
    batch = preprocess([image], panoptic_fpn.config.preprocessing)
    return panoptic_fpn.backbone(batch.tensor), batch.padded_size


with torch.no_grad():
    features, padded_size = features_of(SETS["Shapes"][0][0])
    for name in branch.blocks:
        layers = their_branch.get_submodule(name)
        x, shapes = features[name], [tuple(features[name].shape[1:])]
        for layer in layers:
            x = layer(x)
            shapes.append(
                "conv" if isinstance(layer, ConvGroupNorm) else f"up {tuple(x.shape[1:])}"
            )
        print(f"{name}: " + " → ".join(map(str, shapes)))
        labkit.record(f"convolutions_{name}", sum(isinstance(m, ConvGroupNorm) for m in layers))
        labkit.record(f"upsamplings_{name}", sum(isinstance(m, nn.Upsample) for m in layers))
    logits = branch(features)
    enlarged = F.interpolate(logits, padded_size, mode="bilinear")
    print(f"sum, 1 × 1 conv: {tuple(logits.shape[1:])} → up by 4: {tuple(enlarged.shape[1:])}")
    gap = 0.0
    for image, _ in SETS["Shapes"][:10]:
        features, _ = features_of(image)
        gap = max(gap, (branch(features) - their_branch(features)).abs().max().item())
labkit.record("own_branch_vs_labkit", gap)
print(f"largest difference to labkit's branch: {gap:.1g}")


def millions(*networks):
    return sum(p.numel() for network in networks for p in network.parameters()) / 1e6


print(f"weights: detector {millions(detector):.2f} M, semantic branch {millions(branch):.2f} M")
labkit.record("branch_over_detector_weights", millions(branch) / millions(detector))

# %% [markdown]
# **What each level contributes.** After the sum everything is linear, so the logits of the branch are
# *exactly* a sum over the levels: $s = \sum_l W u_l(P_l) + b$. We can therefore remove the finer levels from
# the trained branch. A level that is removed is replaced by its mean over the image: its average effect on
# each class stays, its spatial detail goes.


# %% tags=["idea"]
def contributions(branch, features):
    """W u_l(P_l) of each level, coarsest first."""
    maps = branch.at_stride_4(features)
    return {name: F.conv2d(maps[name], branch.predictor.weight) for name in sorted(maps)[::-1]}


def logits_down_to(last, parts, bias):
    """The logits from p5 down to the level ``last``, with the means of the finer levels."""
    total, removed = bias[:, None, None], False
    for name, part in parts.items():
        total = total + (part.mean((2, 3), keepdim=True) if removed else part)
        removed = removed or name == last
    return total


# %% tags=["hide-input"]
# Table and figure: mIoU with the levels down to p5, p4, p3, p2.
LEVELS = ("p5", "p4", "p3", "p2")
confusions = {level: ConfusionMatrix(categories) for level in LEVELS}
shown, gap = [], 0.0
with torch.no_grad():
    for k, (image, target) in enumerate(progress_bar(SETS["Shapes"][:40], unit="image")):
        features, padded_size = features_of(image)
        parts = contributions(branch, features)
        for last in LEVELS:
            logits = logits_down_to(last, parts, branch.predictor.bias)
            labels = F.interpolate(logits, padded_size, mode="bilinear")[0].argmax(dim=0)
            confusions[last].update(labels, target["semantic"])
            if k == densest["Shapes"]:
                shown.append((f"and {last}" if last != "p5" else "p5 alone", image, labels))
        gap = max(gap, (logits - branch(features)).abs().max().item())
        if k == densest["Shapes"]:
            shown.append(("ground truth", image, target["semantic"]))
labkit.record("sum_of_levels_vs_branch", gap)
print(f"{'mIoU, levels':16}{'all':>6}{'stuff':>8}{'things':>8}")
for level in LEVELS:
    result = confusions[level].compute()
    stuff, things = np.nanmean(result.iou[THINGS:]), np.nanmean(result.iou[:THINGS])
    name = "p5" if level == "p5" else f"p5 to {level}"
    print(f"{name:16}{100 * result.miou:6.0f}{100 * stuff:8.0f}{100 * things:8.0f}")
    labkit.record(f"miou_down_to_{level}", result.miou)
panels(shown, categories, columns=5, names=False, size=2.0)

# %% [markdown]
# The levels were trained together, so this is not what a branch on P5 alone would learn. It shows which levels
# *this* network uses. Large objects appear with $P_4$, as blobs; the finer levels add their outlines and the small
# objects. Stuff depends mostly on the fine levels here. A coarse cell could encode texture in its channels too, so
# this need not hold for other networks.
#
# **What does it cost?** The usual alternative for a fine feature map is *dilation* (notebook 1): the last
# stages of the backbone keep a stride of 16 or 8 and dilate their filters instead. Then their many channels
# are computed on 4 or 16 times as many cells. FPN leaves the backbone at stride 32 and adds a few
# convolutions:

# %% tags=["hide-input"]
# Figure: sizes of the maps of ResNet-101, dilated and with FPN.
KEEP_STRIDE = {32: (False, False, False), 16: (False, False, True), 8: (False, True, True)}
PHOTO = 1024, 2048


def resnet(depth, stride):
    """torchvision's ResNet, dilated so that its largest stride is ``stride``."""
    make = getattr(torchvision.models, f"resnet{depth}")
    return make(weights=None, replace_stride_with_dilation=KEEP_STRIDE[stride])


def fpn_of(network, pyramid):
    return BackboneConfig("fpn", network, pyramid=pyramid, stride_in_1x1=False).build()


def stage_shapes(network):
    """Shapes of the outputs of the four stages."""
    x, shapes = torch.zeros(1, 3, *PHOTO), {}
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    for n in (2, 3, 4, 5):
        x = network.get_submodule(f"layer{n - 1}")(x)
        shapes[f"res{n}"] = tuple(x.shape[1:])
    return shapes


with torch.device("meta"), torch.no_grad():  # shapes without numbers: nothing is computed
    pyramid_maps = fpn_of("resnet101", 256)(torch.zeros(1, 3, *PHOTO))
    MAPS = {
        "dilated, stride 8": stage_shapes(resnet(101, 8)),
        "FPN: the backbone": stage_shapes(resnet(101, 32)),
        "and its pyramid": {f"p{n}": tuple(pyramid_maps[f"p{n}"].shape[1:]) for n in (2, 3, 4, 5)},
    }
figure, axes = plt.subplots(len(MAPS), 1, figsize=(10, 4.2), layout="constrained")
for axis, color, (title, maps) in zip(axes, (orange, blue, purple), MAPS.items(), strict=True):
    for k, (name, (channels, height, width)) in enumerate(maps.items()):
        axis.add_patch(Rectangle((700 * k, 0), width, height, color=color, alpha=0.6))
        text = f"{name}, stride {PHOTO[0] // height}\n{channels} × {height} × {width}"
        axis.text(700 * k, -15, text, va="top", fontsize=8)
    axis.set(xlim=(0, 2800), ylim=(-150, 260), aspect="equal")
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_axis_off()
plt.show()

# %% [markdown]
# Sizes for one image of 1024 × 2048. Dilation computes 1024 and 2048 channels at stride 8. FPN computes them at
# strides 16 and 32, and only 256 channels at stride 4.
#
# We count the multiplications of all convolutions, and the values that they output (*activations*), which
# training must keep in memory for the backward pass.
#
# > **Exercise 4.2.** Count the multiplications of one convolution. Each value of its output is a sum over a window of
# > `conv.kernel_size` (height and width) in `conv.in_channels` channels. With `conv.groups` = $g > 1$ it reads only one
# > $g$-th of these channels. Example: a $3 \times 3$ convolution from 2 to 4 channels with an output of shape
# > (1, 4, 5, 5) multiplies $4 \cdot 5 \cdot 5 \cdot 2 \cdot 3 \cdot 3 = 1800$ times. What does dilation change?


# %% exercise="multiplications"
# Exercise 4.2: multiplications of a convolution
def multiplications(conv, output):
    """The number of multiplications of a convolution.

    Args:
        conv: nn.Conv2d, with ``in_channels``, ``groups`` and ``kernel_size`` (height, width).
        output: its output (B, D, h, w).

    Returns:
        An integer.
    """
    # BEGIN SOLUTION
    per_value = conv.in_channels // conv.groups * prod(conv.kernel_size)
    return output.numel() * per_value
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 4.2
def counted(size, *arguments, **keywords):
    """The count for a convolution on a map of zeros."""
    conv = nn.Conv2d(*arguments, **keywords)
    return multiplications(conv, conv(torch.zeros(1, conv.in_channels, *size)))


check = Checks("Exercise 4.2")
with check("the example: 4 · 5 · 5 · 2 · 3 · 3"):
    equal(counted((5, 5), 2, 4, 3, padding=1), 1800)
with check("1 × 1, from 8 to 2 channels on 3 × 4 cells: 2 · 3 · 4 · 8"):
    equal(counted((3, 4), 8, 2, 1), 192)
with check("1 × 5 is no square: 3 · 4 · 6 · 2 · 5"):
    equal(counted((4, 6), 2, 3, (1, 5), padding=(0, 2)), 720)
with check("two groups halve the example with 4 input channels: 4 · 5 · 5 · 2 · 9"):
    equal(counted((5, 5), 4, 4, 3, padding=1, groups=2), 1800)
with check("dilation changes nothing as long as the output has the same size"):
    equal(counted((5, 5), 2, 4, 3, padding=2, dilation=2), 1800)
check.report()

# %% [markdown]
# So dilation itself is free. It is expensive because it *keeps the map large* for the stages that follow.


# %% tags=["idea"]
def cost(network, height, width):
    """Multiplications of all convolutions, and the number of their outputs, for one image."""
    total = Counter()

    def count(conv, inputs, output):
        total["multiplications"] += multiplications(conv, output)
        total["activations"] += output.numel()

    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks = [conv.register_forward_hook(count) for conv in convs]
    network(torch.zeros(1, 3, height, width, device=convs[0].weight.device))
    for hook in hooks:
        hook.remove()
    return total


# %% tags=["hide-input"]
# Table: dilated backbones against FPN.
def fpn_and_branch(network, pyramid, channels, num_classes):
    fpn = fpn_of(network, pyramid)
    config = SemanticFPNConfig(("p2", "p3", "p4", "p5"), channels, merge_things=False)
    return fpn, SemanticFPN(pyramid, fpn.strides, num_classes, config)


with torch.device("meta"), torch.no_grad():
    costs = {}
    for depth in (50, 101):
        for stride in (32, 16, 8):
            costs[f"R{depth}", f"stride {stride}"] = cost(resnet(depth, stride), *PHOTO)
        fpn, head = fpn_and_branch(f"resnet{depth}", 256, 128, 19)
        costs[f"R{depth}", "FPN"] = cost(fpn, *PHOTO)
        costs[f"R{depth}", "FPN + branch"] = cost(nn.Sequential(fpn, head), *PHOTO)
    for stride in (32, 16, 8):
        trunk = TinyResNet(TINY_WIDTHS, TINY_BLOCKS, stride)
        costs["tiny", f"stride {stride}"] = cost(trunk, 128, 128)
    fpn, head = fpn_and_branch("tiny_resnet", 64, 64, len(categories))
    costs["tiny", "FPN"] = cost(fpn, 128, 128)
    costs["tiny", "FPN + branch"] = cost(nn.Sequential(fpn, head), 128, 128)
    published = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["_ops"]
    of_r50 = cost(resnet(50, 32), 224, 224)["multiplications"] / 1e9
labkit.record("r50_gigamultiplications_over_published", of_r50 / published)

VARIANTS = {
    "stride 32": ("no dilation", 32),
    "stride 16": ("dilated", 16),
    "stride 8": ("dilated", 8),
    "FPN": ("FPN", 4),
    "FPN + branch": ("FPN + branch", 4),
}
print(f"{'':8}{'':14}{'output stride':>14}{'multiplications':>18}{'activations':>14}")
for network, scale, unit in (("tiny", 1e6, "M"), ("R50", 1e9, "G"), ("R101", 1e9, "G")):
    for key, (name, stride) in VARIANTS.items():
        value = costs[network, key]
        print(
            f"{network:8}{name:14}{stride:14}{value['multiplications'] / scale:16.0f} {unit}"
            f"{value['activations'] / scale:12.2f} {unit}"
        )
    for what in ("multiplications", "activations"):
        dilated = costs[network, "stride 8"][what] / costs[network, "FPN + branch"][what]
        labkit.record(f"{what}_dilated_8_over_fpn_{network}", dilated)
        dilated = costs[network, "stride 16"][what] / costs[network, "FPN + branch"][what]
        labkit.record(f"{what}_dilated_16_over_fpn_{network}", dilated)

# %% [markdown]
# R50 and R101 are counted on 1024 × 2048 pixels, the size of Cityscapes; tiny on our 128 × 128. (The counter
# agrees with torchvision's published number for R50.)
#
# With stride 8, dilation of R101 costs 2.8 times the multiplications and 2.4 times the activations of FPN with the
# semantic branch, and its map is twice as coarse. With stride 16 it costs about as much as FPN (0.8 and 0.9 times),
# and its map is four times as coarse. (The dilated rows have no head yet.) The tiny network is an exception: FPN
# with the branch needs 183 M multiplications, dilation with stride 8 only 150 M. Its last stages have just 96 and
# 128 channels, little more than the 64 of the pyramid. FPN pays where the deep stages are wide, as in every ResNet.
#
# The paper compares whole networks on Cityscapes (table 1a). In $10^{12}$ multiplications and $10^9$ activations
# its row *Semantic FPN, ResNet-101* is what we have counted:
#
# | network | backbone | mIoU | FLOPs | memory |
# | --- | --- | --- | --- | --- |
# | DeepLabV3 | ResNet-101, dilated, stride 8 | 77.8 | 1.9 | 1.9 |
# | PSANet101 | ResNet-101, dilated, stride 8 | 77.9 | 2.0 | 2.0 |
# | DeepLabV3+ | Xception-71, dilated, stride 16 | 79.6 | 0.5 | 1.9 |
# | Semantic FPN | ResNet-101, FPN | 77.7 | 0.5 | 0.8 |
# | Semantic FPN | ResNeXt-101, FPN | 79.1 | 0.8 | 1.4 |
#
# Our counts for R101 agree: 0.5 and 0.8 for FPN; 1.4 and 1.9 for dilation with stride 8, to which DeepLabV3 and
# PSANet add modules of their own. For stride 16 they differ: DeepLabV3+ keeps 1.9, more than twice as much as FPN,
# and ours 0.9 times as much. Its backbone is another one (Xception-71), and it has a decoder, so this row does not
# compare strides alone.
#
# Width of the branch, sum or concatenation, and a pyramid shared or divided between the tasks: section 4.10.

# %% [markdown]
# ## 4.4 Joint training
#
# Both branches read the same feature maps, so the gradients of both flow into the same backbone. The losses
# are added with two weights:
#
# $$L = L_{rpn} + \lambda_i (L_c + L_b + L_m) + \lambda_s L_s$$
#
# $L_{rpn}$ are the two losses of the RPN (without a weight of its own). $L_c$, $L_b$ and $L_m$ are those of
# class, box and mask. $L_s$ is the cross-entropy of the pixels' classes. **$\lambda_i$ scales the gradient of
# the object losses, $\lambda_s$ that of the pixel loss; their ratio decides which branch has more influence on
# the shared backbone.** Weights are needed because each loss is a mean of something else (boxes, offsets, mask
# pixels, image pixels) and has its own size; without weights the branch with the larger gradients has more
# influence. The check below prints the sizes in a trained network: there the losses of box and mask are larger
# than $L_s$.


# %% tags=["idea"]
def joint_loss(losses, lambda_i, lambda_s):
    """The loss of Panoptic FPN from its parts."""
    rpn = losses["loss_rpn_cls"] + losses["loss_rpn_loc"]
    objects = losses["loss_cls"] + losses["loss_box_reg"] + losses["loss_mask"]
    return rpn + lambda_i * objects + lambda_s * losses["loss_sem_seg"]


# %% tags=["hide-input"]
# Check: the joint loss by hand, with our own branch, against labkit's.
images, targets = zip(*(SETS["Shapes"][k % num_val] for k in range(2)), strict=True)
plain = panoptic_fpn.config


def labkit_losses(lambda_i, lambda_s):
    """What labkit returns: the losses times their weights, with the same sampled proposals."""
    panoptic_fpn.config = replace(
        plain, instance_loss_weight=lambda_i, semantic_loss_weight=lambda_s
    )
    torch.manual_seed(seed)  # proposals are sampled
    return panoptic_fpn(images, targets)


with torch.no_grad():
    panoptic_fpn.train()  # losses, not predictions; nothing in this network behaves differently
    parts = labkit_losses(1.0, 1.0)
    total = sum(labkit_losses(0.5, 2.0).values())
    _ = panoptic_fpn.eval()
    panoptic_fpn.config = plain
    batch = preprocess(images, plain.preprocessing)
    logits = branch(panoptic_fpn.backbone(batch.tensor))
    logits = F.interpolate(logits, batch.padded_size, mode="bilinear")
    gt_labels = torch.stack([target["semantic"] for target in targets])
    parts["loss_sem_seg"] = F.cross_entropy(logits, gt_labels, ignore_index=IGNORE)
print(", ".join(f"{k.removeprefix('loss_')} {float(v):.3f}" for k, v in parts.items()))
by_hand = float(joint_loss(parts, lambda_i=0.5, lambda_s=2.0))
print(f"λ_i = 0.5, λ_s = 2: by hand {by_hand:.4f}, labkit {float(total):.4f}")
labkit.record("joint_loss_by_hand_error", abs(float(total) - by_hand))

# %% [markdown]
# **A live training.** The losses of a detector fall one after the other: proposals, then classes, then masks. From
# random weights that takes more steps than a lesson can wait for. In practice nobody starts there. We start from
# `mask_rcnn_tiny`, the detector of notebook 3, which comes with labkit, and only the semantic branch is new. It is
# trained in two steps:
#
# 1. *Only the branch*: the detector is frozen, because the first gradients of a random branch would disturb it.
# 2. *Both branches*, with $\lambda_i = \lambda_s = 1$.
#
# In the code, `train_data` are the training images, half of them mirrored; `evaluate` returns predictions, metrics
# and time on a part of the validation images; `branch_steps` and `study_steps` are 100 and 30 in the quick profile.

# %% tags=["hide-input"]
# Set-up: training images, the network of step 1, metrics.
train_data = TransformedDataset(InMemory(train_set), JointTransform(v2.RandomHorizontalFlip()))
study_items = SETS["Shapes"][:num_study]


class SemanticFPNAlone(nn.Module):
    """The backbone and the semantic branch of a Panoptic FPN, without the instance branch."""

    def __init__(self, whole):
        super().__init__()
        self.config = whole.config
        self.backbone, self.branch = whole.backbone, whole.sem_seg_head

    def forward(self, images, targets=None):
        batch = preprocess(images, self.config.preprocessing, self.training)
        logits = self.branch(self.backbone(batch.tensor)).float()  # (B, C, H/4, W/4)
        logits = F.interpolate(logits, batch.padded_size, mode="bilinear")
        if not self.training:
            return label_maps(logits, batch)
        gt_labels = semantic_targets(targets, len(categories), batch.padded_size)
        return {"loss_sem_seg": cross_entropy(logits, gt_labels)}


def measure(predictions, items):
    """AP of masks, mIoU and PQ."""
    ap, iou = COCOAP(categories, val_set.area_limits), ConfusionMatrix(categories)
    pq = PanopticQuality(categories)
    for prediction, (_, target) in zip(predictions, items, strict=True):
        ap.update(prediction, target)
        iou.update(prediction.semantic, target["semantic"])
        pq.update(prediction.panoptic, target["panoptic"])
    return {"AP": ap.compute().segm.ap, "mIoU": iou.compute().miou, "PQ": pq.compute()}


def evaluate(network):
    """Predictions for the images of the study, their metrics, and milliseconds an image."""
    predictions, ms = predictions_of(network, study_items)
    return predictions, measure(predictions, study_items), ms


COLUMNS = {
    "AP": lambda r: r["AP"],
    "PQ Th": lambda r: r["PQ"].things.pq,
    "mIoU": lambda r: r["mIoU"],
    "PQ St": lambda r: r["PQ"].stuff.pq,
    "PQ": lambda r: r["PQ"].all.pq,
}
_ = torch.manual_seed(seed)

# %%
model = build("panoptic_fpn_tiny", categories)
fresh = start_from(model, detector)  # the names of the weights that the detector lacks
print(f"{len(fresh)} tensors stay random, all in", {name.split(".")[0] for name in fresh})
model.backbone.requires_grad_(False)
branch_config = TrainConfig(branch_steps, batch_size=2 * BATCH, lr=3e-3, warmup=10, seed=seed)
_ = train(SemanticFPNAlone(model), train_data, branch_config)
_ = model.backbone.requires_grad_(True)
beginning = {name: value.clone() for name, value in model.state_dict().items()}

joint_config = TrainConfig(study_steps, batch_size=BATCH, lr=1e-3, warmup=10, seed=seed)
before = evaluate(model)
history = train(model, train_data, joint_config)
after = evaluate(model)

# %% tags=["hide-input"]
# Figure and table: losses, metrics, two images.
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained")
LOSSES = {
    "$L_{rpn}$": ("loss_rpn_cls", "loss_rpn_loc"),
    "$L_c + L_b + L_m$": ("loss_cls", "loss_box_reg", "loss_mask"),
    "$L_s$": ("loss_sem_seg",),
}
window = min(10, study_steps)
for axis, (title, names) in zip(axes, LOSSES.items(), strict=True):
    values = sum(np.array(history.losses[name]) for name in names)
    mean = np.convolve(values, np.ones(window) / window, mode="valid")
    axis.plot(values, color=blue, alpha=0.25, linewidth=0.8)
    axis.plot(np.arange(window - 1, len(values)), mean, color=blue)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("joint step", fontsize=9)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
plt.show()
ROWS = {f"{branch_steps} steps of the branch": before, f"and {study_steps} steps of both": after}
print(f"{'':28}" + "".join(f"{name:>8}" for name in COLUMNS))
for (row, (_, result, _)), short in zip(ROWS.items(), ("branch", "joint"), strict=True):
    print(f"{row:28}" + "".join(f"{100 * column(result):8.1f}" for column in COLUMNS.values()))
    for name, column in COLUMNS.items():
        labkit.record(f"{short}_{name.replace(' ', '_')}", column(result))
panels(
    [
        item
        for k in (0, 3)
        for item in (
            ("image", study_items[k][0], None),
            ("ground truth", study_items[k][0], study_items[k][1]["panoptic"]),
            ("after step 1: the branch", study_items[k][0], before[0][k].panoptic),
            ("after step 2: both", study_items[k][0], after[0][k].panoptic),
        )
    ],
    categories,
    columns=4,
    size=2.4,
)

# %% [markdown]
# After step 1 the network has the objects of the detector (PQ of things 89) and poor stuff (PQ of stuff below 35).
# In the joint steps the backbone may change as well. PQ of stuff rises to 58, PQ of things falls to 86, and AP
# falls too (section 4.5). The objects come from the detector. From random weights it takes longer:
# `panoptic_fpn_tiny_1500`, which started there, had 1500 steps (section 4.9).
#
# ## 4.5 One network or two, and what λ does
#
# **What $\lambda_s$ changes depends on the optimizer.** SGD moves a weight in proportion to its gradient. AdamW
# divides the gradient of each weight by a running root mean square of that gradient. If the gradient of a
# weight is five times as large at every step, so is the divisor.
#
# > **Predict.** A weight of the semantic branch gets its gradient from $\lambda_s L_s$ alone. $\lambda_s$ goes from 0.1
# > to 5, so its gradient is 50 times as large. How many times as far does the first step of SGD move it, and how many
# > times as far does AdamW?


# %% tags=["idea"]
def first_step(optimizer, scale):
    """How far the first step moves a weight whose loss has the gradient ``scale``."""
    weight = nn.Parameter(torch.zeros(()))
    (scale * weight).backward()
    optimizer([weight]).step()
    return abs(weight.item())


# %% tags=["hide-input"]
# Table: first steps of SGD and AdamW.
WEIGHTS = (0.1, 1.0, 5.0)
print(f"{'λ_s':8}" + "".join(f"{value:10g}" for value in WEIGHTS))
for name, optimizer in {
    "SGD": partial(torch.optim.SGD, lr=1e-3),
    "AdamW": partial(torch.optim.AdamW, lr=1e-3),
}.items():
    moved = [first_step(optimizer, value) for value in WEIGHTS]
    print(f"{name:8}" + "".join(f"{step:10.4f}" for step in moved))
    labkit.record(f"step_for_lambda_5_over_0.1_{name}", moved[-1] / moved[0])

# %% [markdown]
# SGD moves it 50 times as far, AdamW exactly as far as before. So with AdamW, which we use, $\lambda_s$ hardly
# changes the steps of the semantic branch (only through the clipping of the whole gradient). A weight of the
# backbone gets the sum $g_i + \lambda_s \, g_s$ of two gradients. There $\lambda_s$ does matter: it decides how
# much of the sum comes from the pixels. With SGD, which the paper uses, $\lambda_s$ does both: it scales the steps
# of the branch, and it weights the sum in the backbone.
#
# **The experiment.** All rows start from the network of 4.4 after its first step (*only the branch*), and run
# the same number of steps on the same images:
#
# - **two networks**: the detector goes on alone, and so does a copy of the backbone with the semantic branch
#   (*Semantic FPN*). Each has its own backbone. Their outputs are merged.
# - **one network**, with $\lambda_i = 1$ and three values of $\lambda_s$.
#
# Every row is trained twice. A seed decides the order of the images, for all rows alike. **In this course
# "±" is the sample standard deviation (with n − 1) over three or more runs; with two runs, as here, we give both
# numbers instead.**

# %% tags=["hide-input"]
# Training and table: two networks, and one with three values of λ_s, two seeds each.
study = defaultdict(list)  # row to one result for each seed
price = {}  # row to (million weights, milliseconds an image)


def trained(network, config):
    """Train and evaluate a network whose predictions may lack one of the two outputs."""
    train(network, train_data, config)
    return predictions_of(network, study_items)


def one_network(value):
    network = replace(PRESETS["panoptic_fpn_tiny"], semantic_loss_weight=value).build(categories)
    network.load_state_dict(beginning)
    return network


study["only the branch"].append(before[1])
price["only the branch"] = millions(model), before[2]
for run in range(2):
    config = replace(joint_config, seed=seed + run)
    objects, classes = build("mask_rcnn_tiny", categories), SemanticFPNAlone(one_network(1.0))
    _ = start_from(objects, detector)
    first, ms_first = trained(objects, config)
    second, ms_second = trained(classes, config)
    start = time.perf_counter()
    both = [
        Prediction(
            a.detections,
            b.semantic,
            merge(a.detections, b.semantic, categories, min_stuff_area=plain.min_stuff_area),
        )
        for a, b in zip(first, second, strict=True)
    ]
    ms_merge = 1000 * (time.perf_counter() - start) / len(both)
    study["two networks"].append(measure(both, study_items))
    price["two networks"] = millions(objects, classes), ms_first + ms_second + ms_merge
    for value in WEIGHTS:
        if run == 0 and value == 1.0:  # this run is the one of 4.4
            result, ms = after[1:]
        else:
            network = one_network(value)
            predictions, ms = trained(network, config)
            result = measure(predictions, study_items)
        study[f"one, λ_s = {value:g}"].append(result)
        price[f"one, λ_s = {value:g}"] = millions(model), ms

print(f"{'':17}" + "".join(f"{c:^12}" for c in COLUMNS) + f"{'weights':>9}{'an image':>10}")
for row, results in study.items():
    cells = [" ".join(f"{100 * column(r):.1f}" for r in results) for column in COLUMNS.values()]
    weights, ms = price[row]
    print(f"{row:17}" + "".join(f"{cell:^12}" for cell in cells) + f"{weights:7.2f} M{ms:7.0f} ms")

# %% tags=["hide-input"]
# Figure: both runs of each row.
rows = [row for row in study if row != "only the branch"]
figure, axes = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained")
for axis, name in zip(axes, ("AP", "mIoU", "PQ"), strict=True):
    for run, marker in enumerate("os"):
        values = [100 * COLUMNS[name](study[row][run]) for row in rows]
        axis.plot(values, marker + "-", color=(blue, orange)[run], label=f"seed {seed + run}")
    start_value = 100 * COLUMNS[name](study["only the branch"][0])
    axis.axhline(start_value, color="0.4", linestyle=":", label="only the branch")
    ticks = [row.replace("one, λ_s", "$λ_s$").replace(" n", "\nn") for row in rows]
    axis.set_xticks(range(len(rows)), ticks)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_title(name, fontsize=9)
    axis.set_xlim(-0.4, len(rows) - 0.6)
    axis.grid(axis="y", alpha=0.3)
figure.legend(
    *axes[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=3,
    fontsize=8,
    frameon=False,
)
plt.show()

# %% tags=["hide-input"]
# Table: differences between rows, seed by seed. Bookkeeping: numbers for the report.
for column in ("AP", "mIoU", "PQ"):
    for row, results in study.items():
        short = row.replace("one, λ_s = ", "weight_").replace(" ", "_")
        labkit.record(f"{column}_{short}", float(np.mean([COLUMNS[column](r) for r in results])))
    spreads = [np.ptp([COLUMNS[column](r) for r in study[row]]) for row in rows]
    labkit.record(f"largest_difference_between_two_seeds_{column}", max(spreads))
PAIRS = {
    "λ_s = 1 minus 0.1": ("weight_1_minus_0.1", "one, λ_s = 1", "one, λ_s = 0.1"),
    "λ_s = 5 minus 1": ("weight_5_minus_1", "one, λ_s = 5", "one, λ_s = 1"),
    "one minus two": ("one_minus_two", "one, λ_s = 1", "two networks"),
}
print(f"{'differences':20}" + "".join(f"{c:^14}" for c in COLUMNS))
for title, (short, row, other) in PAIRS.items():
    text = ""
    for column in COLUMNS:
        gaps = [
            100 * (COLUMNS[column](a) - COLUMNS[column](b))
            for a, b in zip(study[row], study[other], strict=True)
        ]
        text += f"{' '.join(f'{gap:+.1f}' for gap in gaps):^14}"
        labkit.record(f"{column.replace(' ', '_')}_{short}", float(np.mean(gaps)) / 100)
    print(f"{title:20}{text}")
labkit.record("weights_two_over_one", price["two networks"][0] / price["one, λ_s = 1"][0])
labkit.record("time_one_over_two", price["one, λ_s = 1"][1] / price["two networks"][1])

# %% [markdown]
# **What can we conclude?** The two numbers of a row differ by up to 3.6 points, as much as some rows do. But a seed moves
# most rows in the same direction, as the lines show, so we compare runs with the *same* seed.
#
# - **Against the start.** mIoU rises by at least 4 points in every row, because the branch trains longer and because the
#   backbone may change now (the table cannot separate the two). AP falls in every row: by 2 to 3 points for the detector
#   that goes on alone, which is the effect of the restarted training, and by 5 to 6 with $\lambda_s = 5$.
# - **λ.** From $\lambda_s = 0.1$ to 1 mIoU rises by 3.6 and 3.2, PQ by 5.5 and 3.8 (the two seeds). From 1 to 5
#   neither changes clearly. AP falls at both steps (by 3.1 and 0.5, then by 1.0 and 1.4): a larger share of the
#   pixel loss costs objects.
# - **One or two.** One network ($\lambda_s = 1$) minus two, with the same seed: PQ −1.7 and −1.6, AP −3.1 and −0.6, PQ
#   of stuff −1.8 and −2.4, although mIoU is level. (A possible cause: a small wrong region is a few pixels in mIoU
#   and a whole FP in PQ.) So one network is one to two points of PQ behind: the sign is likely, the size uncertain.
#   It has 69 % of the weights. It saves one backbone but no head: on a quiet core it took 32 ms per image, two
#   networks 43 ms (last column: the times of your machine).
#
# **At full size.** Two seeds and few images, 128 × 128 pixels and a minute of training: our rows measure how *fast* a
# branch learns, and their conclusions hold for this set-up. The paper's rows are full trainings (its tables
# *Panoptic R50-FPN vs. R50-FPN × 2* and the same with R101):
#
# | data | backbone | AP | PQ Th | mIoU | PQ St | PQ |
# | --- | --- | --- | --- | --- | --- | --- |
# | COCO | R50-FPN × 2, two networks | 33.9 | 46.6 | 40.2 | 27.9 | 39.2 |
# | | R50-FPN, one network | 33.3 | 45.9 | 41.0 | 28.7 | 39.0 |
# | | R101-FPN, one network | 35.2 | 47.5 | 42.1 | 29.5 | 40.3 |
# | Cityscapes | R50-FPN × 2, two networks | 32.2 | 51.3 | 74.5 | 62.4 | 57.7 |
# | | R50-FPN, one network | 32.0 | 51.6 | 75.0 | 62.2 | 57.7 |
# | | R101-FPN, one network | 33.0 | 52.0 | 75.7 | 62.5 | 58.1 |
#
# One network with the same backbone is 0.2 PQ behind on COCO (0.7 in things; 0.8 ahead in stuff) and level on
# Cityscapes. The weights that are saved can be used for a larger backbone: R101 is ahead of two networks everywhere, and
# still smaller:

# %% tags=["hide-input"]
# Table: weights of one and of two networks, R50 and R101.
with torch.device("meta"):  # shapes without numbers: nothing is filled in or trained
    large = {depth: build(f"panoptic_fpn_r{depth}", categories) for depth in (50, 101)}
    alone = build("mask_rcnn_r50", categories)
two = millions(alone, SemanticFPNAlone(large[50]))
print(f"R50-FPN × 2: {two:.1f} million weights")
for depth, network in large.items():
    print(f"R{depth}-FPN, one network: {millions(network):.1f} million weights")
labkit.record("weights_two_over_one_r50", two / millions(large[50]))
labkit.record("weights_two_r50_over_one_r101", two / millions(large[101]))

# %% [markdown]
# ## 4.6 The merge, step by step
#
# The rule that makes one map of two outputs resembles non-maximum suppression:
#
# 1. Sort the objects by score and drop those with a score below `score_thresh`.
# 2. Take them in this order. If more than the share `overlap_thresh` of an object's mask is already painted, drop
#    the object: it is probably a second detection of the same object. Otherwise paint it on the pixels that are
#    still free. So where two objects overlap, **the object with the higher score gets the pixels**.
# 3. For each stuff class count its pixels in the semantic output that are still free, all regions of the image
#    together. If they are at least `min_stuff_area`, paint them. (The usual 4096 pixels are meant for images of
#    640 × 480. The same share of 128 × 128 pixels is 218.)
# 4. What remains is void (no segment). This includes pixels where the semantic output is a thing but no object
#    was painted: it is not known to which instance they belong.
#
# > **Exercise 4.3.** Write step 2 for one object: the pixels that it gets. `ids` is the map so far, with `VOID` (0)
# > where nothing is painted. Example on a row of four pixels with `overlap_thresh` 0.5: the map is 1 1 0 0, the object's
# > mask covers the last three pixels. A third of it is painted already, so the object stays and gets the last two.


# %% exercise="pixels_of_object"
# Exercise 4.3: the pixels that an object gets in the merge
def pixels_of_object(mask, ids, overlap_thresh):
    """The pixels that an object is painted on.

    Args:
        mask: (H, W) bool, its mask; not empty.
        ids: (H, W) integers, the map so far; VOID where nothing is painted.
        overlap_thresh: the object is dropped if more than this share of its mask is painted.

    Returns:
        (H, W) bool; all False if the object is dropped.
    """
    # BEGIN SOLUTION
    painted = int((mask & (ids != VOID)).sum())
    dropped = painted > overlap_thresh * int(mask.sum())
    return torch.zeros_like(mask) if dropped else mask & (ids == VOID)
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 4.3
row = torch.tensor([[1, 1, 0, 0, 0, 2]])


def covers(*columns):
    """A mask of one row that covers the columns."""
    mask = torch.zeros(1, 6, dtype=torch.bool)
    mask[0, list(columns)] = True
    return mask


check = Checks("Exercise 4.3")
with check("one pixel of three is painted: the object gets the other two"):
    equal(pixels_of_object(covers(1, 2, 3), row, 0.5), covers(2, 3))
with check("half of it is painted, which is not more than 0.5: it stays"):
    equal(pixels_of_object(covers(0, 1, 2, 3), row, 0.5), covers(2, 3))
with check("two pixels of three are painted, by two objects together: dropped"):
    equal(pixels_of_object(covers(1, 4, 5), row, 0.5), covers())
with check("threshold 0: one painted pixel is too many"):
    equal(pixels_of_object(covers(1, 2, 3), row, 0.0), covers())
with check("threshold 1: nothing is dropped, but no painted pixel is taken back"):
    equal(pixels_of_object(covers(0, 1, 2), row, 1.0), covers(2))
check.report()


# %% tags=["idea"]
def my_merge(detections, semantic, score_thresh=0.5, overlap_thresh=0.5, min_stuff_area=218):
    """The panoptic map, and a list of (what, painted?, the map after it). VOID is the id 0."""
    ids, segments, log = torch.zeros_like(semantic, dtype=torch.int32), [], []
    for k in detections.scores.argsort(descending=True, stable=True).tolist():
        score, label = float(detections.scores[k]), int(detections.labels[k])
        if score < score_thresh:
            break
        mask = detections.masks[k]
        area, left = int(mask.sum()), int((mask & (ids == VOID)).sum())
        pixels = pixels_of_object(mask, ids, overlap_thresh)
        painted = bool(pixels.any())
        if painted:
            segments.append(Segment(len(segments) + 1, label, score=score))
            ids[pixels] = len(segments)
        log.append(((label, score, area, left), painted, ids.clone()))
    for label in categories.stuff:
        free = (semantic == label) & (ids == VOID)
        painted = int(free.sum()) >= max(1, min_stuff_area)
        if painted:
            segments.append(Segment(len(segments) + 1, label))
            ids[free] = len(segments)
        log.append(((label, None, int(free.sum()), int(free.sum())), painted, ids.clone()))
    return Panoptic(ids, segments), log


# %% tags=["hide-input"]
# Check against labkit's merge; list and figure: one merge step by step.
differ, log_of = 0, {}
for name in SETS:
    log_of[name] = []
    for prediction in by_fpn[name]:
        merged, log = my_merge(
            prediction.detections, prediction.semantic, min_stuff_area=plain.min_stuff_area
        )
        differ += int((merged.ids != prediction.panoptic.ids).sum())
        differ += merged.segments != prediction.panoptic.segments
        log_of[name].append([step for step in log if step[0][2]])  # that had pixels
labkit.record("own_merge_vs_labkit", differ)

# An image with objects left out, not too many to follow, and as much of it covered as can be.
suits = []
for prediction, log in zip(by_fpn["crowded"], log_of["crowded"], strict=True):
    left_out = sum(what[1] is not None and not painted for what, painted, _ in log)
    covered = int((prediction.panoptic.semantic() < THINGS).sum())
    suits.append(covered if left_out >= 2 and len(log) <= 24 else left_out)
example = int(np.argmax(suits))
(image, target), prediction = SETS["crowded"][example], by_fpn["crowded"][example]
log, count = log_of["crowded"][example], 0
for (label, score, area, left), painted, _ in log:
    count += painted
    taken = "" if score is None else f"score {score:.2f}, {1 - left / area:3.0%} already painted"
    result = f"segment {count}" if painted else "dropped"
    print(f"{categories[label].name:9}{area:5} pixels   {taken:34}{result}")


def so_far(ids):
    """A panoptic map as far as it has been painted."""
    present = set(ids.unique().tolist())
    return Panoptic(ids, [s for s in prediction.panoptic.segments if s.id in present])


painted_objects = [ids for what, painted, ids in log if painted and what[1] is not None]
shown = [("image", image, None)]
shown.append(("objects, with overlaps", image, confident(prediction.detections)))
shown.append(("classes", image, prediction.semantic))
for number in (1, (len(painted_objects) + 1) // 2, len(painted_objects)):
    if painted_objects and number:
        title = f"{number} object{'s' * (number > 1)} painted"
        shown.append((title, image, so_far(painted_objects[number - 1])))
shown.append(("and stuff", image, prediction.panoptic))
shown.append(("ground truth", image, target["panoptic"]))
panels(shown, categories, columns=4, names=False, size=2.4)

# %% [markdown]
# `labkit.models.panoptic_fpn.merge.merge` does the same with NumPy, and the two agree on every pixel.
#
# **On photographs.** `pedestrians_lite`, a Mask R-CNN that comes with labkit, finds people; it was trained on 80
# photographs of streets. We merge its objects with the *ground truth* of the two photographs in place of a semantic
# output (labkit has no small network for COCO's stuff):

# %% tags=["hide-input"]
# Figure and table: objects of pedestrians_lite merged with the ground-truth classes of the photographs.
if not photos:
    print(
        "Without the photographs (`labkit data get coco-panoptic-sample`) there is nothing to merge."
    )
else:
    pedestrians, rows = Predictor("pedestrians_lite"), []
    person, horse = [
        next(k for k, c in enumerate(coco) if c.name == name) for name in ("person", "horse")
    ]
    print(
        f"{'':13}{'objects':>8}{'dropped':>9}{'in two masks':>14}{'person: TP':>12}{'FP':>4}{'FN':>4}"
    )
    for k, (image, target) in enumerate(photos):
        objects = confident(pedestrians(image).detections)
        objects = replace(objects, labels=torch.full_like(objects.labels, person))
        merged = merge(objects, target["semantic"], coco)
        quality = PanopticQuality(coco)
        quality.update(merged, target["panoptic"])
        of_person = next(c for c in quality.compute().per_class if c.name == "person")
        errors_of_person = [int(n) for n in (of_person.tp, of_person.fp, of_person.fn)]
        claims = objects.masks.sum(dim=0)
        dropped = len(objects) - sum(s.label == person for s in merged.segments)
        in_two = int((claims > 1).sum())
        print(
            f"photograph {k + 1}{len(objects):9}{dropped:9}{in_two:14}"
            + "".join(f"{n:{w}}" for n, w in zip(errors_of_person, (12, 4, 4), strict=True))
        )
        rows += [
            ("objects, with overlaps", image, objects),
            ("merged", image, merged),
            ("ground truth", image, target["panoptic"]),
        ]
        on_horses = sum(
            float((target["semantic"][mask] == horse).float().mean()) > 0.5
            for mask in objects.masks
        )
        holds[f"overlaps on photograph {k + 1}"] = (
            (len(objects) in (11, 12, 13) and dropped in (1, 2, 3) and 2500 < in_two < 4000),
            (len(objects) in (7, 8, 9) and dropped == 0 and on_horses in (5, 6, 7)),
        )[k]
    display(panels(rows, coco, columns=3, names=False, size=3.3))
labkit.record("photographs", len(photos))
labkit.record("photo_statements_not_true", len([name for name, true in holds.items() if not true]))

# %% [markdown]
# *Photograph 1*: the players hold one another, and 3238 pixels lie in two masks. The object with the higher score gets
# them, in front or not. Two of the 12 objects are dropped, because more than half of their mask was painted already.
# What nobody painted of the players becomes void (grey): there the semantic output is a thing without an object.
# *Photograph 2*: nothing overlaps, and yet the map is wrong. Six of the 8 "pedestrians" are horses with their riders: the
# network has never seen a horse. A merge cannot repair what the detector mistakes.
#
# **The price of merging.** Kirillov and others first merged two networks and measured what the merge costs: PQ of
# things from the objects alone, PQ of stuff from the semantic output alone, and both after the merge. (PQ needs a map
# without overlaps. So "objects alone" are the objects after steps 1 and 2.)
#
# > **Predict.** In the merge, objects are painted first and stuff gets what is left. So stuff can only lose pixels. Does
# > PQ of stuff fall, on Shapes and in the crowd?


# %% tags=["hide-input"]
# Table: PQ of both outputs, separate and merged.
def panoptic_quality(predictions, items, **thresholds):
    """PQ of what is merged from cached predictions: no network runs again."""
    quality = PanopticQuality(categories)
    thresholds = {"min_stuff_area": plain.min_stuff_area, **thresholds}
    for prediction, (_, target) in zip(predictions, items, strict=True):
        merged = merge(prediction.detections, prediction.semantic, categories, **thresholds)
        quality.update(merged, target["panoptic"])
    return quality.compute()


def objects_alone(prediction):
    return Prediction(prediction.detections, torch.full_like(prediction.semantic, IGNORE))


def classes_alone(prediction):
    return Prediction(prediction.detections[:0], prediction.semantic)


print(f"{'':22}{'PQ St':>8}{'PQ Th':>8}{'PQ':>8}")
for name, items in SETS.items():
    things = panoptic_quality([objects_alone(p) for p in by_fpn[name]], items).things.pq
    stuff = panoptic_quality([classes_alone(p) for p in by_fpn[name]], items).stuff.pq
    merged = panoptic_quality(by_fpn[name], items)
    print(f"{name + ', separate':22}{100 * stuff:8.1f}{100 * things:8.1f}{'n/a':>8}")
    values = merged.stuff.pq, merged.things.pq, merged.all.pq
    print(f"{name + ', merged':22}" + "".join(f"{100 * v:8.1f}" for v in values))
    labkit.record(f"pq_things_merged_minus_separate_{name}", merged.things.pq - things)
    labkit.record(f"pq_stuff_merged_minus_separate_{name}", merged.stuff.pq - stuff)

# %% [markdown]
# PQ of stuff stays level on Shapes, and in the crowd it *rises* by a point. The pixels that stuff loses may be wrong
# ones: a true object takes back pixels that the semantic output had spilled over its outline. A false positive hides
# stuff; that is the opposite effect. PQ of things cannot change, because objects are painted first. In the published
# table (Kirillov et al., *Panoptic Segmentation*, table 5: two strong networks) PQ of stuff falls on Cityscapes from
# 66.6 to 66.4, on ADE20k from 27.4 to 24.5 and on Vistas from 43.7 to 41.8.
#
# ## 4.7 What the thresholds do
#
# The predictions are cached, so a new threshold costs a merge and no network. One threshold moves, the other
# two stay at their defaults (0.5, 0.5, 218; the grey lines). The crowded variant; below the curves, FP and FN of the
# default and of both ends:

# %% tags=["hide-input"]
# Figure and table: PQ, SQ and RQ over each threshold.
GRID = {
    "score_thresh": (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
    "overlap_thresh": (0.0, 0.05, 0.1, 0.2, 0.5, 0.7, 0.9, 0.99),
    "min_stuff_area": (0, 50, 109, 218, 436, 872, 1744, 3488, 6976),
}
LABELS = {
    "score_thresh": "lowest score of an object",
    "overlap_thresh": "largest share that may be hidden",
    "min_stuff_area": "fewest pixels of a stuff class",
}
curves = {
    key: [panoptic_quality(by_fpn["crowded"], SETS["crowded"], **{key: v}) for v in values]
    for key, values in GRID.items()
}
figure, axes = plt.subplots(2, 3, figsize=(10, 5.2), layout="constrained", sharey="row")
for column, (key, values) in zip(axes.T, GRID.items(), strict=True):
    for axis, kind in zip(column, ("things", "stuff"), strict=True):
        for what, color, style in (("pq", blue, "o-"), ("sq", orange, "s--"), ("rq", red, "^:")):
            line = [100 * getattr(getattr(r, kind), what) for r in curves[key]]
            axis.plot(values, line, style, color=color, label=what.upper(), markersize=4)
        axis.axvline(getattr(plain, key), color="0.6", linewidth=1)
        axis.grid(alpha=0.3)
        axis.set_title(f"{kind} over {key}", fontsize=9)
        if key == "min_stuff_area":
            axis.set_xscale("symlog", linthresh=50)
            axis.set_xlim(-8, 9000)
            axis.set_xticks([0, 50, 218, 872, 3488], ["0", "50", "218", "872", "3488"])
            axis.xaxis.set_minor_locator(NullLocator())
    column[1].set_xlabel(LABELS[key], fontsize=9)
handles = axes[0, 0].get_legend_handles_labels()
figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
plt.show()


def at(key, value, kind, what="pq"):
    return getattr(getattr(curves[key][GRID[key].index(value)], kind), what)


def errors(key, value, kind):
    """FP and FN of all classes of things or of stuff."""
    classes = curves[key][GRID[key].index(value)].per_class
    classes = classes[:THINGS] if kind == "things" else classes[THINGS:]
    return sum(c.fp for c in classes), sum(c.fn for c in classes)


ENDS = {
    "score_thresh": ("things", (0.05, 0.5, 0.95)),
    "overlap_thresh": ("things", (0.0, 0.5, 0.99)),
    "min_stuff_area": ("stuff", (0, 218, 6976)),
}
print(f"{'':24}{'':8}" + "".join(f"{h:>7}" for h in ("PQ", "SQ", "RQ", "FP", "FN")))
for key, (kind, values) in ENDS.items():
    for value in values:
        numbers = "".join(f"{100 * at(key, value, kind, what):7.1f}" for what in ("pq", "sq", "rq"))
        fp, fn = errors(key, value, kind)
        print(f"{f'{key} {value}':24}{kind:8}{numbers}{fp:7.0f}{fn:7.0f}")
        labkit.record(f"fp_{key}_{value}", fp)
        labkit.record(f"fn_{key}_{value}", fn)
print()
for key, values in GRID.items():
    best = values[int(np.argmax([r.all.pq for r in curves[key]]))]
    print(f"{key}: the best PQ, {100 * max(r.all.pq for r in curves[key]):.1f}, at {best}")
    short = key.removeprefix("min_").removesuffix("_thresh")
    labkit.record(f"best_{short}", best)
    labkit.record(
        f"gain_of_the_best_{short}",
        max(r.all.pq for r in curves[key]) - at(key, getattr(plain, key), "all"),
    )
for value in (0.05, 0.5, 0.95):
    labkit.record(f"rq_things_score_{value}", at("score_thresh", value, "things", "rq"))
for value in (0.0, 0.99):
    gap = at("overlap_thresh", value, "things") - at("overlap_thresh", 0.5, "things")
    labkit.record(f"pq_things_overlap_{value:g}_minus_0.5", gap)
for value in (0, 6976):
    gap = at("min_stuff_area", value, "stuff") - at("min_stuff_area", 218, "stuff")
    labkit.record(f"pq_stuff_area_{value}_minus_218", gap)

# %% [markdown]
# The same on images: each threshold far too low, at its default, and far too high.


# %% tags=["hide-input"]
# Figure: extreme values of each threshold.
def merged_with(prediction, **thresholds):
    thresholds = {"min_stuff_area": plain.min_stuff_area, **thresholds}
    return merge(prediction.detections, prediction.semantic, categories, **thresholds)


EXTREMES = {
    "score_thresh": (0.05, 0.95),
    "overlap_thresh": (0.0, 0.99),
    "min_stuff_area": (0, 6976),
}


def change(prediction, key, value):
    """Share of the pixels that get another class or lose theirs."""
    moved = merged_with(prediction, **{key: value}).semantic()
    return (moved != prediction.panoptic.semantic()).float().mean()


shown = []
for key, (low, high) in EXTREMES.items():
    # The image on which both ends differ most from the default.
    changes = [min(change(p, key, low), change(p, key, high)) for p in by_fpn["crowded"]]
    if key == "min_stuff_area":  # too high always removes a lot; we look for what too low lets in
        changes = [float(change(p, key, low)) for p in by_fpn["crowded"]]
    k = int(np.argmax(changes))
    (image, target), prediction = SETS["crowded"][k], by_fpn["crowded"][k]
    shown += [
        (f"{key} {v}", image, merged_with(prediction, **{key: v}))
        for v in (low, getattr(plain, key), high)
    ]
    shown.append(("ground truth", image, target["panoptic"]))
panels(shown, categories, columns=4, names=False, size=2.4)

# %% [markdown]
# What happens when a threshold is *raised*, with FP and FN at the lowest, default and highest value of the table:
#
# - **`score_thresh`**: fewer objects; their pixels become stuff or void. FP of things fall (362, 118, 28), FN rise (756,
#   841, 1081). RQ is flat in the middle, then falls steeply. SQ rises slightly, because objects with high scores have
#   better outlines.
# - **`overlap_thresh`**: more partly hidden objects stay; near 1 also the rests of duplicates. At 0 an object is dropped
#   as soon as one of its pixels is taken. From 0 to 0.5 FN of things fall (1076, 841), from 0.5 to 0.99 FP rise (118,
#   269).
# - **`min_stuff_area`**: stuff classes with few pixels in the image become void. From 0 to 218 FP of stuff fall (100, 23),
#   then FN rise (16, 225).
#
# A small FP counts in PQ as much as a missed sky over half of the image.
#
# Thresholds are chosen on validation images, as here, and then used on others. A gain that was found by
# trying dozens of values on a hundred images is partly luck.
#
# ## 4.8 Things and stuff
#
# PQ is a mean over the classes, so it hides which ones are hard. With the default thresholds:

# %% tags=["hide-input"]
# Table: PQ, SQ and RQ of each class.
results = {name: panoptic_quality(by_fpn[name], items) for name, items in SETS.items()}
heads = "".join(f"{h:>7}" for h in ("PQ", "SQ", "RQ"))
print(f"{'':10}{'Shapes':>21}{'crowded':>25}")
print(f"{'':10}{heads}    {heads}")


def line(quality):
    return "".join(f"{100 * v:7.1f}" for v in (quality.pq, quality.sq, quality.rq))


for of_shapes, of_crowded in zip(*(r.per_class for r in results.values()), strict=True):
    print(f"{of_shapes.name:10}{line(of_shapes)}    {line(of_crowded)}")
for kind in ("things", "stuff", "all"):
    print(f"{kind:10}" + "    ".join(line(getattr(r, kind)) for r in results.values()))
for name, result in results.items():
    labkit.record(f"pq_things_{name}", result.things.pq)
    labkit.record(f"pq_stuff_{name}", result.stuff.pq)

# %% [markdown]
# On the usual images things and stuff are nearly level. In a crowd both fall, things much more. SQ of things falls
# from 92 to 82 and RQ from 96 to 64: most of the loss is missed objects. Small touching objects of one colour are
# hard to separate, and no network was trained on them.
#
# ## 4.9 Which backbone?
#
# Change the backbone: what happens, in numbers and in images? Here are Panoptic FPNs on the three backbones of
# notebook 3:
#
# - **FPN**: the pyramid, as above;
# - **C4**: one map of stride 16, after the fourth stage; the fifth stage runs on every proposal;
# - **DC5**: one map of stride 16 too, but after the fifth stage, which is dilated.
#
# **Equal:** random start, data, 1500 steps, batch size 8, learning rate 0.003 (the commands are in
# `data/checkpoints/checkpoints.toml`). The FPN here is therefore not `panoptic_fpn_tiny`, which started from a
# detector, but `panoptic_fpn_tiny_1500`. **Not equal:** weights (1.46, 0.80 and 1.49 M), time per image, stride of the
# maps (4 to 32 against 16), the semantic branch (all levels for FPN; $u_4$ on one map for C4 and DC5), the place of
# the fifth stage, the proposals sampled in training (C4 64, the others 128), the masks (C4 14 × 14, the others 28 ×
# 28), the width of the box head. So we compare whole designs at equal steps, not at equal weights or time. One
# training each.

# %% tags=["hide-input"]
# Tables: three backbones, budget and quality.
BACKBONES = {
    "FPN": "panoptic_fpn_tiny_1500",
    "C4": "panoptic_fpn_tiny_c4",
    "DC5": "panoptic_fpn_tiny_dc5",
}
small_limit, large_limit = val_set.area_limits
COMPARED = {name: items[:num_study] for name, items in SETS.items()}
compared = {}  # (backbone, set) to everything below


def counts_of(predictions, items):
    """Sum of IoU, TP, FP, FN of every class for each image, ``(images, classes, 4)``."""
    counts = []
    for prediction, (_, target) in zip(predictions, items, strict=True):
        quality = PanopticQuality(categories)
        quality.update(prediction.panoptic, target["panoptic"])
        counts.append(quality.counts)
    return np.stack(counts)


def objects_of(predictions, items):
    """For each ground-truth object its visible area and whether a segment of its class matches it."""
    rows = []
    for prediction, (_, target) in zip(predictions, items, strict=True):
        truth, predicted = target["panoptic"], prediction.panoptic
        g, p = truth.ids.numpy(), predicted.ids.numpy()
        shared = np.zeros((g.max() + 1, p.max() + 1))
        np.add.at(shared, (g, p), 1)
        union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
        label_of = {s.id: s.label for s in predicted.segments}
        for s in truth.segments:
            if s.label < THINGS:
                partners = np.flatnonzero(shared[s.id] / union[s.id] > 0.5)
                rows.append((shared[s.id].sum(), any(label_of.get(k) == s.label for k in partners)))
    return np.array(rows)


print(f"{'':6}{'steps':>7}{'weights':>10}{'an image':>11}")
for kind, name in BACKBONES.items():
    network, commands = load_model(name), shipped()[name].commands
    for of, items in COMPARED.items():
        predictions, ms = predictions_of(network, items)
        result = measure(predictions, items)
        areas, hit = objects_of(predictions, items).T
        sizes = (
            areas < small_limit,
            (areas >= small_limit) & (areas < large_limit),
            areas >= large_limit,
        )
        compared[kind, of] = {
            **{c: column(result) for c, column in COLUMNS.items()},
            "counts": counts_of(predictions, items),
            "panoptic": [p.panoptic for p in predictions],
            "found": [hit[size].mean() if size.any() else float("nan") for size in sizes],
        }
        for c in COLUMNS:
            labkit.record(f"{kind}_{of}_{c.replace(' ', '_')}", compared[kind, of][c])
        for size, share in zip(("small", "medium"), compared[kind, of]["found"], strict=False):
            labkit.record(f"{kind}_{of}_{size}_objects_found", share)
    steps = sum(int(re.search(r"--steps (\d+)", command)[1]) for command in commands)
    print(f"{kind:6}{steps:7}{millions(network):8.2f} M{ms:8.0f} ms")
    labkit.record(f"{kind}_million_weights", millions(network))
    labkit.record(f"{kind}_training_steps", steps)

print(
    f"\n{'':15}" + "".join(f"{c:>7}" for c in COLUMNS) + "   objects found: small  medium   large"
)
for (kind, of), result in sorted(compared.items(), key=lambda item: item[0][1]):
    found = ["none" if np.isnan(share) else f"{share:.0%}" for share in result["found"]]
    print(
        f"{of + ', ' + kind:15}"
        + "".join(f"{100 * result[c]:7.1f}" for c in COLUMNS)
        + " " * 13
        + "".join(f"{share:>8}" for share in found)
    )

# %% [markdown]
# **Is a difference real?** All networks see the same images, so we can ask how the *difference* would vary
# with other images. Draw 40 of our 40 images with replacement, a thousand times, and look at the range of
# 95 % of the differences (a bootstrap). It does not tell what another seed of the training would have given.


# %% tags=["hide-input"]
# Table: differences between backbones, with bootstrap intervals.
def pq_of(counts):
    """PQ of all, things and stuff from counts ``(classes, 4)``."""
    result = summarize(counts, [(c.id, c.name, c.isthing) for c in categories])
    return np.array([result.all.pq, result.things.pq, result.stuff.pq])


draws = random.multinomial(
    num_study, [1 / num_study] * num_study, size=1000 if profile != "smoke" else 50
)
print(f"{'PQ of FPN minus':16}{'all':>20}{'things':>20}{'stuff':>20}")
for of in COMPARED:
    counts = {kind: compared[kind, of]["counts"] for kind in BACKBONES}
    resampled = {
        kind: np.array([pq_of(c) for c in np.tensordot(draws.astype(float), of_kind, 1)])
        for kind, of_kind in counts.items()
    }
    for other in ("C4", "DC5"):
        middle = pq_of(counts["FPN"].sum(axis=0)) - pq_of(counts[other].sum(axis=0))
        gaps = resampled["FPN"] - resampled[other]
        low, high = np.nanquantile(gaps, (0.025, 0.975), axis=0)
        text = "".join(
            f"{100 * m:7.1f} [{100 * a:4.1f}, {100 * b:4.1f}]"
            for m, a, b in zip(middle, low, high, strict=True)
        )
        print(f"{of + ', ' + other:15}{text}")
        for k, kind in enumerate(("all", "things", "stuff")):
            labkit.record(f"pq_{kind}_fpn_minus_{other}_{of}", middle[k])
        labkit.record(f"pq_all_fpn_minus_{other}_{of}_lowest", low[0])

# %% [markdown]
# With the same budget FPN is 11.3 and 14.6 PQ ahead of C4 and DC5 on Shapes, and 15.6 and 15.5 in the crowd. No
# interval contains 0. C4 and DC5 read one map with a cell for each 16 × 16 pixels; FPN also has cells of 4 × 4. What is
# not much larger than a cell is lost first: of the medium objects of Shapes FPN finds 89 %, C4 65 % and DC5 55 %,
# of the few small ones 43 %, 14 % and 14 %; of the large ones all three find about nine in ten. (In the crowd, on
# which none was trained, all of them miss nearly all small objects.) Stuff loses too, along its borders and where a
# region is small. C4 has half of the weights of DC5, but it is the slowest, because its fifth stage runs on every
# proposal. These distances belong to images of 128 × 128, whose objects are as small as the cells. On photographs
# C4 and FPN are closer (Mask R-CNN with ResNet-101 on COCO: mask AP 33.1 with C4, 35.7 with FPN; He et al., 2017).
#
# How much another seed of the training would change, one training each cannot tell. The images on which the three
# differ most, one of each kind:

# %% tags=["hide-input"]
# Figure: the images on which the backbones differ most.
shown = []
for of, items in COMPARED.items():
    of_image = {
        kind: compared[kind, of]["counts"][:, :, 1].sum(axis=1)
        / np.maximum(compared[kind, of]["counts"] @ [0, 1, 0.5, 0.5], 1e-9).sum(axis=1)
        for kind in BACKBONES
    }
    k = int(np.argmax(np.ptp(list(of_image.values()), axis=0)))
    image, target = items[k]
    shown += [(of, image, None), ("ground truth", image, target["panoptic"])]
    shown += [(kind, image, compared[kind, of]["panoptic"][k]) for kind in BACKBONES]
panels(shown, categories, columns=5, names=False, size=2.0)

# %% [markdown]
# **Segment by segment.** PQ counts segments. The next figure shows what became of every segment of one image, for
# each network: blue is a TP (IoU above 0.5), red an FP, orange an FN. Violet is an FP and an FN on the same pixels: the
# predicted segment there does not match the ground-truth segment there.

# %% tags=["hide-input"]
# Figure: outcomes of the segments of one image.
compare(BACKBONES, ("crowded", 9), difference=True)

# %% [markdown]
# `Compare` is this figure as an app. Choose networks and an image, also one of your own, and
# point at a segment to compare all networks at that pixel. Moving the score threshold repeats the merge of 4.6 for
# each network. Move it on a crowded image: which network loses objects first? For which network does another
# threshold give a higher PQ?

# %%
Compare(BACKBONES, ("crowded", 9))

# %% [markdown]
# ## 4.10 History and published results
#
# *Image parsing* (2005), *holistic scene understanding* (2012) and *scene parsing* (2014) already joined objects and
# regions. *Panoptic Segmentation* (Kirillov et al., 2019) gave the task one format and one measure, and merged the outputs
# of two strong networks, Mask R-CNN and PSPNet. *Panoptic FPN* made them one network. All tables of this section
# are this paper's.
#
# **The semantic branch alone.** The challenge *COCO-Stuff 2017*:
#
# | network | backbone | mIoU | fIoU |
# | --- | --- | --- | --- |
# | Vllab | Stacked Hourglass | 12.4 | 38.8 |
# | DeepLab VGG16 | VGG-16 | 20.2 | 47.5 |
# | Oxford | ResNeXt-101 | 24.1 | 50.6 |
# | G-RMI | Inception ResNet v2 | 26.6 | 51.9 |
# | Semantic FPN | ResNeXt-152-FPN | 28.8 | 55.7 |
#
# (*fIoU* weights each class by its number of pixels.) Semantic FPN is ahead. The backbones differ, so the table
# compares systems, not branches.
#
# **How wide, and how to join the levels?** mIoU of Semantic FPN:
#
# | | COCO | Cityscapes |
# | --- | --- | --- |
# | 64 channels in the branch | 39.6 | 74.1 |
# | 128 channels | 40.2 | 74.5 |
# | 256 channels | 40.1 | 74.6 |
# | levels summed | 40.2 | 74.5 |
# | levels concatenated | 39.9 | 74.4 |
#
# 128 channels and the sum are enough: what costs more brings nothing that one can see.
#
# **Do the two tasks disturb each other?** *Alternate*: each step uses only one of the losses. *Grouped*: one half of
# the pyramid's channels for each task.
#
# | data | variant | AP | PQ Th | mIoU | PQ St | PQ |
# | --- | --- | --- | --- | --- | --- | --- |
# | COCO | losses added, channels shared | 33.3 | 45.9 | 41.0 | 28.7 | 39.0 |
# | | alternate | 31.7 | 43.9 | 40.2 | 28.0 | 37.5 |
# | | grouped | 33.1 | 45.7 | 41.2 | 28.4 | 38.8 |
# | Cityscapes | losses added, channels shared | 32.0 | 51.6 | 75.0 | 62.2 | 57.7 |
# | | alternate | 32.0 | 51.4 | 74.3 | 61.3 | 57.4 |
# | | grouped | 32.0 | 51.8 | 75.3 | 61.7 | 57.5 |
#
# Adding the losses is better than alternating, by 1.5 and 0.3 PQ. Separate channels do not help: there is no sign
# that the tasks compete for them.
#
# **State of the art at its time** (the annotations of COCO's test-dev are not public):
#
# | COCO test-dev | PQ | PQ Th | PQ St |
# | --- | --- | --- | --- |
# | Artemis | 16.9 | 16.8 | 17.0 |
# | LeChen | 26.2 | 31.0 | 18.9 |
# | MPS-TU Eindhoven | 27.2 | 29.6 | 23.4 |
# | MMAP-seg | 32.1 | 38.9 | 22.0 |
# | Panoptic FPN | 40.9 | 48.3 | 29.7 |
#
# | Cityscapes | PQ | PQ Th | PQ St | mIoU | AP |
# | --- | --- | --- | --- | --- | --- |
# | DIN (with the coarse annotations) | 53.8 | 42.5 | 62.1 | 80.1 | 28.6 |
# | Panoptic FPN | 58.1 | 52.0 | 62.5 | 75.7 | 33.0 |
#
# DIN, with the coarse annotations, has the higher mIoU, Panoptic FPN the higher AP and PQ of things; in stuff they
# are level. Notebook 5 continues the table.
#
# ## To take away
#
# - Panoptic segmentation: one pair $(\ell_i, z_i)$ for each pixel, things and stuff, no overlap.
# - Two outputs contradict each other, whether they come from two networks or from two branches of one. A rule
#   has to decide.
# - The semantic branch is convolutions, upsampling and a sum: a fifth more weights on an existing detector.
#   After the sum it is linear, so the contribution of each level can be read off.
# - FPN gives a map of stride 4 for less than half of the multiplications that dilation needs for stride 8 (in a
#   ResNet; not in a thin network like ours).
# - $\lambda_s$ sets the share of the pixel loss in the gradients of the backbone. Compare rows seed by seed; if the
#   differences change sign between seeds, there is no result.
# - One network nearly replaces two. With two thirds of the weights it ends one to two points of PQ behind in our short
#   study; in the paper's full trainings it is 0.2 behind on COCO and level on Cityscapes.
# - The merge has three thresholds. `score_thresh` and `overlap_thresh` decide PQ of things. PQ of stuff depends on
#   `min_stuff_area` and on the objects that were painted before.
#
# ## More exercises
#
# 1. **Stuff first.** Write a merge that paints stuff first and gives objects only pixels that the semantic
#    output labels as a thing. On which images of 4.2 is it better? What happens to PQ of things?
# 2. **One output for all things.** With `SemanticFPNConfig.merge_things`, as in the paper, the semantic branch
#    has one output "a thing", and only the instance branch tells which one. Train both variants as in 4.4 (each
#    needs its own step 1). Which of the four contradictions of 4.2 disappears? Does PQ change?
# 3. **Concatenate.** In `SemanticBranch` replace the sum by a concatenation and a wider `predictor`. How many more
#    multiplications does `cost` count? Train both. Does your mIoU differ more than the paper's (4.10)?
# 4. **Alternate.** Instead of adding the losses, alternate steps with $\lambda_s = 0$ and steps with $\lambda_i =
#    0$, twice as many in all. With two seeds, do you see the paper's loss (4.10)?
# 5. **SGD.** Repeat 4.5 with `optimizer="sgd", lr=5e-3`. How does $\lambda_s$ matter now, and why?
# 6. **A threshold for each class.** Choose `score_thresh` for each class of things on the first half of the images
#    and measure on the second half. How much of the gain is left?
# 7. **The void.** Give the void pixels of the merged maps the stuff class with the largest logit (the logits are
#    `sem_seg_logits` of `Predictor(panoptic_fpn).raw(image).output`). Does PQ of stuff rise?
# 8. **Homework.** Add a fourth backbone to 4.9: a pyramid with 32 channels instead of 64
#    (`preset = PRESETS["panoptic_fpn_tiny"]`, then `replace(preset, backbone=replace(preset.backbone,
#    pyramid=32)).build(categories)`), trained by `train` with the budget of 4.9. Report its row, show two images on
#    which it differs from FPN, and say which of the differences are larger than their interval.
#
# ## References
#
# - A. Kirillov, R. Girshick, K. He, P. Dollár. Panoptic Feature Pyramid Networks. CVPR 2019: the branch in section
#   3.1, the loss in 3.2, the tables in section 4.
# - A. Kirillov, K. He, R. Girshick, C. Rother, P. Dollár. Panoptic Segmentation. CVPR 2019: the task, PQ,
#   the merge and its price (table 5).
# - T.-Y. Lin, P. Dollár, R. Girshick, K. He, B. Hariharan, S. Belongie. Feature Pyramid Networks for Object
#   Detection. CVPR 2017.
# - K. He, G. Gkioxari, P. Dollár, R. Girshick. Mask R-CNN. ICCV 2017.
