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
# # 6. Panoptic quality
#
# **The question.** A panoptic map divides an image into segments; every pixel is in one of them. How
# good is it, in one number, when nobody says which predicted segment belongs to which true one?
#
# In this lesson you read and write the panoptic format, prove that the matching of segments needs no
# search, write panoptic quality in thirty lines, compare it with the original code, and find out what the
# number rewards, what it punishes, and what it cannot see.
#
# You need: notebook 1 for IoU. No training, no GPU, no download.
# [Glossary](../docs/glossary.md) of all terms.

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: a minute; full: more data
seed: int = 0

# %% tags=["hide-input"]
# Set-up: imports, sizes of the profiles, panoptic maps of Shapes
# %matplotlib inline
import io
import json
from collections import Counter, defaultdict
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import PercentFormatter
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import labkit
from labkit.checks import Checks, equal
from labkit.cli.commands import app
from labkit.colors import PETROFF_10
from labkit.datasets.coco.export import export_coco
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.coco.panoptic_json import write_json
from labkit.datasets.coco.panoptic_png import id_to_rgb, read_png, to_annotation, write_png
from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor
from labkit.errors import LabkitError
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.semantic import ConfusionMatrix
from labkit.structures import IGNORE, VOID, Categories, Category, Panoptic, Segment
from labkit.system import optional_packages
from labkit.system.cpu_cores import use_threads
from labkit.system.paths import find_data
from labkit.visualize import draw, panels
from labkit.widgets import PQMatching
from labkit.widgets.pq_matching.matching import matching, move

num, trials = {"smoke": (12, 400), "quick": (150, 10_000), "full": (1000, 100_000)}[profile]
random = np.random.default_rng(seed)
use_threads(1)  # the maps are small: threads would wait for one another
scratch = TemporaryDirectory(prefix="panoptic_quality_")  # removed when the notebook ends
folder = Path(scratch.name)
plt.rcParams["axes.prop_cycle"] = plt.cycler(color=[np.array(c) / 255 for c in PETROFF_10])

val_set = Shapes("val", num=num, seed=seed)
crowded = Shapes("val", num=num, crowded=True, seed=seed)
categories = val_set.categories
targets = [target for _, target in val_set]
gt_maps = [target["panoptic"] for target in targets]
crowded_maps = [target["panoptic"] for _, target in crowded]
SQUARE, CIRCLE, SKY, GRASS, SAND = 0, 1, 3, 4, 6  # labels of Shapes


def tiny(rows, labels, crowd=()):
    """A map written with one digit per pixel, and the label of each digit; 0 is void."""
    ids = torch.tensor([[int(digit) for digit in row] for row in rows.split()], dtype=torch.int32)
    return Panoptic(ids, [Segment(i, label, iscrowd=i in crowd) for i, label in labels.items()])


def draw_grid(axis, title, panoptic, classes):
    """A tiny map with the grid of its pixels, so that they can be counted."""
    height, width = panoptic.ids.shape
    white = torch.full((3, height, width), 255, dtype=torch.uint8)
    draw(axis, white, panoptic, classes)
    edges = {"color": "0.4", "linewidth": 0.4}
    axis.hlines(np.arange(height + 1) - 0.5, -0.5, width - 0.5, **edges)
    axis.vlines(np.arange(width + 1) - 0.5, -0.5, height - 0.5, **edges)
    axis.set(xlim=(-0.6, width - 0.4), ylim=(height - 0.4, -0.6))
    axis.set_title(title, fontsize=9)


def iou_table(a, b):
    """IoU of every segment of map ``a`` (rows) with every segment of map ``b`` (columns)."""
    intersection = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(intersection, (a, b), 1)
    areas = intersection.sum(axis=1, keepdims=True) + intersection.sum(axis=0, keepdims=True)
    return intersection / np.maximum(areas - intersection, 1)


# %% [markdown]
# The whole lesson in one figure: segments of the ground truth and of the prediction are matched where they
# have the same class and overlap enough. Matched pairs are true positives (**TP**). Predicted segments
# without a match are false positives (**FP**), true segments without a match are false negatives (**FN**).

# %% tags=["hide-input"]
# Figure: matched segments (TP), false positives (FP), false negatives (FN)
left = tiny(
    "3333333333 3111333223 3111333223 3111333333 3333444433 3333444433",
    {1: SQUARE, 2: SQUARE, 3: GRASS, 4: CIRCLE},
)
right = tiny(
    "3333333333 3311333333 3311333333 3311333333 3333444433 3333444555",
    {1: SQUARE, 3: GRASS, 4: CIRCLE, 5: SQUARE},
)
figure, axes = plt.subplots(1, 2, figsize=(9.6, 2.7), gridspec_kw={"wspace": 0.4})
figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.02)
for axis, title, panoptic in zip(axes, ("ground truth", "prediction"), (left, right), strict=True):
    draw_grid(axis, title, panoptic, categories)
ious = iou_table(left.ids.numpy(), right.ids.numpy())
figure.canvas.draw()  # the places of the maps are known from now on
gap = {"xycoords": "data", "annotation_clip": False, "ha": "center", "fontsize": 9}
for i, y in {3: 0, 1: 2, 4: 4}.items():  # segment and the row of its line
    style = {"arrowstyle": "<->", "color": "0.35", "mutation_scale": 12}
    line = ConnectionPatch(
        (9.7, y), (-0.7, y), "data", "data", axesA=axes[0], axesB=axes[1], **style
    )
    line.set_annotation_clip(False)  # its ends are beside the maps
    figure.add_artist(line)
    name = categories[left.segments[i - 1].label].name
    axes[0].annotate(f"{name} {i}: TP", (11.6, y - 0.1), va="bottom", **gap)
    axes[0].annotate(f"IoU {ious[i, i]:.2f}", (11.6, y + 0.1), va="top", **gap)
mark = {"ha": "center", "va": "center", "fontsize": 9, "weight": "bold", "color": "#bd1f01"}
axes[0].text(7.5, 2.75, "FN", **mark)
axes[1].text(8.5, 4.1, "FP", **mark)
plt.show()

# %% [markdown]
# ## 6.1 Two numbers for every pixel
#
# Panoptic segmentation gives each pixel $i$ a pair $(\ell_i, z_i)$: a class $\ell_i$ and an
# instance $z_i$. The pixels that share both form a **segment**. Four words belong to the format:
#
# - **things** are the countable classes, such as person or square: each object has its own $z$;
# - **stuff** are the other classes, such as sky or grass: $z$ has no meaning, a class is one segment
#   however many pieces it has;
# - **void** are the pixels of the ground truth without a label, because they are unclear or belong to
#   no class;
# - a **crowd** is a segment of a thing class in which several objects were not separated.
#
# Since each pixel has exactly one pair, **segments do not overlap**. The whole lesson rests on
# that property.

# %% tags=["hide-input"]
# Figure: an image, its classes, its segments
example = int(np.argmax([len(p.segments) for p in gt_maps[:12]]))
image, target = val_set[example]
panels(
    [
        ("image", image, None),
        ("class ℓ of each pixel", image, target["semantic"]),
        ("the pair (ℓ, z): segments", image, target["panoptic"]),
    ],
    categories,
    columns=3,
)

# %% [markdown]
# On disk (COCO's format) the map is a PNG whose colours are numbers,
#
# $$\text{id} = R + 256\, G + 65536\, B ,$$
#
# with 0 for void, and a JSON file with the class of each id, whether it is a crowd, and its number of
# pixels.


# %% tags=["idea"]
def encode(ids):
    """Ids ``(...)`` to colours ``(..., 3)``."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def decode(rgb):
    """Colours ``(..., 3)`` to ids ``(...)``; widened first, because 256 · G overflows a byte."""
    return rgb.astype(np.int64) @ np.array([1, 256, 65536])


# %% tags=["hide-input"]
# Table: ids and their colours; the code against labkit's
for i in (1, 255, 256, 3_937_500, 256**3 - 1):
    r, g, b = encode(np.array(i)).tolist()
    print(f"{i:>10,} = {r:3} + 256 · {g:3} + 65536 · {b:3}")

ids = random.integers(0, 256**3, 100_000)
wrong = (decode(encode(ids)) != ids).sum() + (encode(ids) != id_to_rgb(ids)).any(axis=-1).sum()
labkit.record("png_code_errors", int(wrong))

# %% [markdown]
# The id 3 937 500 is that of a person in COCO. COCO's authors chose ids whose colours are similar to the
# class's own colour, so that the file can be looked at as well. A map with the ids 1, 2, 3, ... is a valid
# file too, but it looks broken: everything is nearly black. Read the numbers, not the colours. And treat
# the file as numbers: JPEG compression, resizing with interpolation, or a reader that exchanges red and
# blue creates ids of segments that do not exist.

# %% tags=["hide-input"]
# Figure: a panoptic PNG as a viewer shows it, and its ids
rgb = encode(target["panoptic"].ids.numpy())
figure, axes = plt.subplots(1, 2, figsize=(5.6, 2.9), layout="constrained")
axes[0].imshow(rgb)
axes[0].set_title("the PNG as a viewer shows it", fontsize=9)
axes[1].imshow(decode(rgb), cmap="viridis")
axes[1].set_title("the ids in it", fontsize=9)
for axis in axes:
    axis.set_axis_off()
for segment in target["panoptic"].segments:
    inside = np.pad(decode(rgb) == segment.id, 1).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)  # its most interior pixel
    box = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1}
    axes[1].text(x, y, segment.id, color="white", ha="center", va="center", fontsize=8, bbox=box)
plt.show()

# %% [markdown]
# ## 6.2 The matching theorem
#
# To score segments we must know which predicted segment $p$ belongs to which true segment $g$. In
# general that is an assignment problem. Here it is not (Kirillov et al., 2019):
#
# > **Theorem.** Let the true segments be disjoint, and the predicted ones too. Then each segment
# > has at most one match with $\mathrm{IoU}(p, g) > \tfrac12$.
#
# **Proof.** Let $p_1 \ne p_2$ both have IoU above one half with $g$. The union contains $g$, hence
#
# $$\tfrac12 < \mathrm{IoU}(p_1, g) = \frac{|p_1 \cap g|}{|p_1 \cup g|} \le \frac{|p_1 \cap g|}{|g|}
# \quad\Rightarrow\quad |p_1 \cap g| > \tfrac12 |g| ,$$
#
# and the same for $p_2$. But $p_1$ and $p_2$ are disjoint, so their intersections with $g$ are disjoint
# as well: $|g| \ge |p_1 \cap g| + |p_2 \cap g| > |g|$, a contradiction. With the roles exchanged, each
# $p$ has at most one $g$. $\square$
#
# So the rule "match where the IoU exceeds one half" needs no search, no scores and no order, and
# has a unique result. Would a lower threshold do, and must the inequality be strict? We search for a
# counterexample: the ground truth is a random map of four segments, the prediction the same map, cut along a random
# line and often moved by one pixel.
# The IoUs of all pairs of segments are a table with a row for each segment of the ground truth and a column for
# each predicted one. For each pair of maps we need the largest *second-best* IoU: with a threshold below it, a
# segment has two matches.
#
# > **Exercise 6.1.** Write `second_best(ious)`. A segment's IoUs are its row, or its column, of the table.
# > Take the second-largest value of every row and of every column, and return the largest of them. For
# > `[[0.8, 0.1], [0.3, 0.6]]` these values are 0.1 and 0.3 in the rows, 0.3 and 0.1 in the columns: the result is 0.3.


# %% exercise="second_best"
# Exercise 6.1: the second-best IoU
def second_best(ious):
    """The largest second-best value in a row or a column of a table of IoUs (at least 2 x 2)."""
    # BEGIN SOLUTION
    of_columns = np.sort(ious, axis=0)[-2]
    of_rows = np.sort(ious, axis=1)[:, -2]
    return max(of_columns.max(), of_rows.max())
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 6.1
check = Checks("Exercise 6.1")
with check("the example: 0.3"):
    equal(second_best(np.array([[0.8, 0.1], [0.3, 0.6]])), 0.3)
with check("a column counts as a row does: 0.4 and 0.45 in one column"):
    equal(second_best(np.array([[0.4, 0.1], [0.45, 0.2]])), 0.4)
with check("two equal halves: 0.5"):
    equal(second_best(np.array([[0.5, 0.5, 0.0], [0.0, 0.1, 0.9]])), 0.5)
with check("a perfect prediction: 0"):
    equal(second_best(np.eye(3)), 0)
check.report()


# %% tags=["hide-input"]
# Search: the second-best IoU of random pairs of maps
def random_cells(number, side):
    """A random map ``(side, side)``: every pixel takes the nearest of some random centres."""
    centres = random.uniform(0, side, (number, 2))
    pixels = np.stack(np.mgrid[:side, :side], axis=-1) + 0.5  # (side, side, 2)
    return ((pixels[:, :, None] - centres) ** 2).sum(axis=-1).argmin(axis=-1) + 1


seconds, halves = [], None
for _ in range(trials):
    gt = random_cells(4, 8)
    prediction = np.roll(2 * gt + random_cells(2, 8), random.integers(2), axis=1)
    table = iou_table(gt, prediction)
    seconds.append(second_best(table))
    if seconds[-1] == 0.5 and halves is None:
        halves = gt, prediction, table
seconds = np.array(seconds)

labkit.record("largest_second_best_iou", seconds.max())
labkit.record("pairs_with_two_partners_above_0.5", int((seconds > 0.5).sum()))
labkit.record("pairs_with_two_partners_from_0.5", int((seconds >= 0.5).sum()))
labkit.record("share_with_two_partners_above_0.4", (seconds > 0.4).mean())
print(f"{trials:,} pairs of maps; the largest second-best IoU: {seconds.max():.3f}")
for threshold in (0.5, 0.4):
    print(f"pairs with two matches of IoU > {threshold}: {(seconds > threshold).sum():,}")
print(f"pairs with two matches of IoU ≥ 0.5: {(seconds >= 0.5).sum():,}")

# %% tags=["hide-input"]
# Figure: two exact halves; share of pairs with two matches, over the threshold
gt, prediction, table = halves
row = int(np.argmax((table == 0.5).sum(axis=1)))  # the true segment with two halves
first, second = np.flatnonzero(table[row] == 0.5).tolist()
figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", width_ratios=[1, 1, 1.6])
for axis, grid, letter, title in (
    (axes[0], gt, "g", "ground truth"),
    (axes[1], prediction, "p", f"prediction: p {first}, p {second} halve g {row}"),
):
    segments = [Segment(i, 0) for i in np.unique(grid).tolist()]
    panoptic = Panoptic(torch.tensor(grid, dtype=torch.int32), segments)
    draw_grid(axis, title, panoptic, Categories([Category(1, letter, isthing=True)]))

threshold = np.linspace(0, 0.7, 141)
axes[2].plot(threshold, [(seconds > t).mean() for t in threshold])
axes[2].axvline(0.5, color="0.5", linestyle=":")
axes[2].set_xlabel("matched where IoU > threshold")
axes[2].set_ylabel("share of pairs of maps")
axes[2].set_title("some segment has two matches", fontsize=9)
plt.show()

# %% [markdown]
# No segment ever has two matches above one half: the curve is zero from there on.
# The pair of maps shows why the inequality must be strict: two exact halves both have an IoU of
# one half. Without disjointness the theorem is false: two copies of a mask, one of them
# moved by a pixel, may both overlap an object almost completely. Instance segmentation allows that, and
# section 6.7 shows the consequence.
#
# ## 6.3 PQ = SQ × RQ
#
# Of a class, let $M$ be the set of matched pairs and TP (true positives) their number, FP (false positives) that of
# predicted segments without a match, and FN (false negatives) that of true segments without a match. Then
#
# $$\mathrm{PQ} = \frac{\sum_{(p,g) \in M} \mathrm{IoU}(p,g)}{TP + \frac12 FP + \frac12 FN}
# = \mathrm{SQ} \times \mathrm{RQ}, \qquad
# \mathrm{SQ} = \frac{\sum_{(p,g) \in M} \mathrm{IoU}(p,g)}{TP}, \qquad
# \mathrm{RQ} = \frac{TP}{TP + \frac12 FP + \frac12 FN} .$$
#
# **SQ**, segmentation quality, is the mean IoU of the matches. **RQ**, recognition quality, is
# the $F_1$ score of the detection. The counts are summed over all images of the data set, the
# quotient is computed per class, and the mean over the classes comes last.
#
# **By hand.** In the 4 × 8 image below the left square has 6 pixels, of which 4 are predicted
# and none elsewhere: $\mathrm{IoU} = 4/6$, a match. The right square has 4 pixels, of which 2 are
# predicted: $2/4$ is *not above* one half, so the square is missed (FN), and the prediction is
# wrong (FP). Squares: $\mathrm{SQ} = \frac23$, $\mathrm{RQ} = \frac{1}{1 + 1/2 + 1/2} = \frac12$,
# $\mathrm{PQ} = \frac13$. Sky: 22 true pixels, 26 predicted, 22 shared, $\mathrm{PQ} =
# \frac{22}{26} = \frac{11}{13}$. The mean over the two classes is $\frac{23}{39}$, about 59 %.

# %% tags=["hide-input"]
# Figure: the example
tiny_gt = tiny("33333333 31113223 31113223 33333333", {1: SQUARE, 2: SQUARE, 3: SKY})
tiny_prediction = tiny("33333333 31133233 31133233 33333333", {1: SQUARE, 2: SQUARE, 3: SKY})
figure, axes = plt.subplots(1, 2, figsize=(8, 2.2), layout="constrained")
draw_grid(axes[0], "ground truth", tiny_gt, categories)
draw_grid(axes[1], "prediction", tiny_prediction, categories)
plt.show()

# %% [markdown]
# **In code.** The definition, line by line. For now skip the lines with `void`, `iscrowd`, `crowd_of` and
# `ignored`: 6.4 explains them.


# %% tags=["idea"]
def count_matches(prediction, target, num_classes):
    """For every class: sum of IoU over the matches, TP, FP, FN. Returns ``(classes, 4)``."""
    counts = np.zeros((num_classes, 4))
    p_ids, g_ids = prediction.ids.numpy(), target.ids.numpy()
    void, matched = g_ids == VOID, set()
    for g in target.segments:
        if g.iscrowd:  # neither TP nor FN
            continue
        counts[g.label, 3] += 1  # FN, unless a match is found
        for p in prediction.segments:
            if p.label == g.label:
                in_g, in_p = g_ids == g.id, p_ids == p.id
                iou = (in_g & in_p).sum() / (in_g | (in_p & ~void)).sum()
                if iou > 0.5:
                    counts[g.label] += iou, 1, 0, -1
                    matched.add(p.id)
    # Of several crowds of a class the last one counts: panopticapi's rule (6.8).
    crowd_of = {g.label: g_ids == g.id for g in target.segments if g.iscrowd}
    for p in prediction.segments:
        if p.id not in matched:
            ignored = void | crowd_of.get(p.label, False)
            if ignored[p_ids == p.id].mean() <= 0.5:
                counts[p.label, 2] += 1
    return counts


# %% tags=["idea"]
def quality(counts):
    """PQ, SQ and RQ of every class that occurs, ``(3, classes)``."""
    iou, tp, fp, fn = counts[counts[:, 1:].sum(axis=1) > 0].T
    sq = iou / np.maximum(tp, 1)  # without a match: 0
    rq = tp / (tp + fp / 2 + fn / 2)
    return np.stack([sq * rq, sq, rq])


# %% tags=["hide-input"]
# Table: PQ, SQ and RQ of the example
counts = count_matches(tiny_prediction, tiny_gt, len(categories))
pq, sq, rq = quality(counts)
for name, values in (("PQ", pq), ("SQ", sq), ("RQ", rq)):
    square, sky, mean = (Fraction(v).limit_denominator(100) for v in (*values, values.mean()))
    print(f"{name}: square {square}, sky {sky}, mean {mean}")
labkit.record("tiny_pq", pq.mean())
labkit.record("tiny_error_by_hand", abs(pq - [1 / 3, 11 / 13]).max())
labkit.record("tiny_sq_times_rq_of_the_means", sq.mean() * rq.mean())

# %% [markdown]
# One trap is in the last number. PQ = SQ × RQ holds **for a class**. Tables report means over
# classes, and the product of two means is not the mean of the products: here it is about 57 %
# while PQ is 59 %. Do not multiply columns of a table.
#
# `labkit.metrics.panoptic_quality.PanopticQuality` is the same algorithm, but counts all pairs of
# segments in one pass over the pixels instead of comparing masks. The next cell tests that both are equal
# on random maps, with void and crowd, and with predictions from completely wrong to nearly right.

# %% tags=["hide-input"]
# Test: our counts against labkit's on random maps


def evaluate(predictions, maps, classes=categories):
    """Panoptic quality of a list of maps by labkit."""
    metric = PanopticQuality(classes)
    for prediction, target in zip(predictions, maps, strict=True):
        metric.update(prediction, target)
    return metric.compute()


def random_pair(side=16):
    """A prediction and its ground truth: half of the image agrees but for a pixel, half does not."""
    gt = random_cells(7, side) - 1  # cell 0 is void
    prediction = np.where(
        random_cells(2, side) == 1, np.roll(gt, 1, axis=1), 7 + random_cells(5, side)
    )
    prediction[random.random(prediction.shape) < 0.05] = VOID
    labels = random.integers(0, len(categories), 13)
    crowd = (random.random(13) < 0.3) & (labels < len(categories.things))
    maps = []
    for grid in (prediction, gt):
        ids = [i for i in np.unique(grid).tolist() if i != VOID]
        segments = [Segment(i, int(labels[i]), iscrowd=bool(crowd[i])) for i in ids]
        maps.append(Panoptic(torch.tensor(grid, dtype=torch.int32), segments))
    return maps


pairs = [random_pair() for _ in range(trials // 50)]
worst, total = 0.0, np.zeros((len(categories), 4))
for prediction, target in pairs:
    metric = PanopticQuality(categories)
    metric.update(prediction, target)
    own = count_matches(prediction, target, len(categories))
    worst, total = max(worst, np.abs(own - metric.counts).max()), total + own
random_result = evaluate(*zip(*pairs, strict=True))
_, tp, fp, fn = total.sum(axis=0).astype(int).tolist()
ignored = sum(len(prediction.segments) for prediction, _ in pairs) - tp - fp
print(f"{len(pairs)} pairs: {tp} TP, {fp} FP, {fn} FN, {ignored} predictions ignored")
print(f"largest difference of a count: {worst:.0e}")
labkit.record("own_counts_vs_labkit", worst)
labkit.record("own_pq_vs_labkit", abs(quality(total)[0].mean() - random_result.all.pq))

# %% [markdown]
# ## 6.4 Void and crowd
#
# Both mark what the ground truth does not know. There a prediction must count neither as right nor as
# wrong:
#
# 1. **Void pixels leave the union.** A segment that continues into void is not punished:
#    $\mathrm{IoU}(p, g) = |p \cap g| \,/\, |p' \cup g|$, where $p'$ is $p$ without void. The proof still holds with
#    $p'$ in place of $p$, because $g$ contains no void.
# 2. **A false positive is ignored** if more than half of its pixels lie on void or on a crowd
#    *of its own class*.
# 3. **A crowd is neither TP nor FN.** Unlike void it stays in the union.
#
# One prediction against three ground truths. On the left part of the image these agree. The right
# part, 48 pixels, is once labelled void, once a crowd of squares, once sand. The prediction extends
# the large square into that part, and puts a second square and a circle there.

# %% tags=["hide-input"]
# Figure: one prediction, three ground truths
PREDICTION = """3333333333332223 3333333333332223 3333331111113333 3333331111113333
                3333331111113333 3333331111113444 3333333333333444 3333333333333444"""
TRUTH = """3333333333999999 3333333333999999 3333331111999999 3333331111999999
           3333331111999999 3333331111999999 3333333333999999 3333333333999999"""
prediction = tiny(PREDICTION, {1: SQUARE, 2: SQUARE, 3: GRASS, 4: CIRCLE})
known = {1: SQUARE, 3: GRASS}
scenes = {
    "void": tiny(TRUTH.replace("9", "0"), known),
    "crowd": tiny(TRUTH, {**known, 9: SQUARE}, crowd=[9]),
    "sand": tiny(TRUTH, {**known, 9: SAND}),
}
figure, axes = plt.subplots(2, 2, figsize=(9, 5), layout="constrained")
draw_grid(axes.flat[0], "prediction", prediction, categories)
for axis, (name, scene) in zip(axes.flat[1:], scenes.items(), strict=True):
    draw_grid(axis, f"ground truth: {name}", scene, categories)
axes.flat[1].text(12.5, 2.5, "void", fontsize=8, ha="center", va="center")
plt.show()

# %% tags=["hide-input"]
# Table: counts and PQ with each of the three
print(f"{'label':6} {'class':7} {'IoU sum':>7} {'TP':>3} {'FP':>3} {'FN':>3} {'PQ':>6}")
tables = {name: count_matches(prediction, scene, len(categories)) for name, scene in scenes.items()}
for name, table in tables.items():
    for label in (SQUARE, CIRCLE, GRASS, SAND):
        if table[label].any():
            row = "{:7.3f} {:3.0f} {:3.0f} {:3.0f}".format(*table[label])
            pq = quality(table[[label]])[0, 0]
            print(f"{name:6} {categories[label].name:7} {row} {pq:6.3f}")
for name, table in tables.items():
    labkit.record(f"pq_squares_{name}", quality(table[[SQUARE]])[0, 0])
    labkit.record(f"false_circles_{name}", int(table[CIRCLE, 2]))

# %% [markdown]
# Check the large square by hand: 16 true pixels, 24 predicted, 16 shared, 8 of the predicted ones
# on the right part. Void removes these 8 from the union, $16 / (24 - 8) = 1$; otherwise the IoU is
# $16 / 24 = 2/3$. The small square is ignored on void and on the crowd, and a false positive on
# sand: $\mathrm{PQ} = \frac{2/3}{1 + 1/2} = \frac49$. The circle is ignored on void, but not on a crowd of
# *squares*.
#
# Rule 2 has a threshold, and it is strict as well. We move a predicted bar of ten pixels over the
# edge of the void. From which position on is it ignored?

# %% tags=["hide-input"]
# Table: pixels of the bar that lie on void, and whether the bar is ignored
is_ignored = []
for k in range(11):
    gt = tiny("3333333333" + "0000000000", {3: GRASS})
    bar = tiny("3" * k + "1" * 10 + "3" * (10 - k), {1: SQUARE, 3: GRASS})
    is_ignored.append(count_matches(bar, gt, len(categories))[SQUARE, 2] == 0)
print("pixels on void" + "".join(f"{k:5}" for k in range(11)))
print("ignored       " + "".join(f"{'yes' if flag else 'no':>5}" for flag in is_ignored))
labkit.record("void_share_that_is_forgiven", is_ignored.index(True) / 10)

# %% [markdown]
# Void in a *prediction* is something else: those pixels were left without a label. There is no rule for
# it; the pixels are just missing from every predicted segment. What does that cost or gain? We measure it
# now.
#
# ## 6.5 What the two factors react to
#
# A perfect prediction is known: the ground truth itself. We degrade it in controlled ways. First the
# outlines: shift the whole map to the right by $k$ pixels.


# %% tags=["idea"]
def with_ids(ids, segments):
    """A map, and those of the segments that still occur in it."""
    present = set(ids.unique().tolist())
    return Panoptic(ids, [s for s in segments if s.id in present])


def shift(panoptic, pixels):
    """Everything to the right; what is uncovered is void."""
    ids = torch.zeros_like(panoptic.ids)
    ids[:, pixels:] = panoptic.ids[:, : ids.shape[1] - pixels]
    return with_ids(ids, panoptic.segments)


# %% tags=["hide-input"]
# Table: PQ, SQ and RQ over the shift
labkit.record("pq_of_the_truth", evaluate(gt_maps, gt_maps).all.pq)

shifts = [0, 1, 2, 3, 4, 6, 8, 10, 12]
shifted = {k: evaluate([shift(p, k) for p in gt_maps], gt_maps) for k in shifts}
print("shift    " + "".join(f"{k:6}" for k in shifts))
for part in ("all", "things", "stuff"):
    for factor in ("pq", "sq", "rq"):
        row = [100 * getattr(getattr(shifted[k], part), factor) for k in shifts]
        print(f"{part:6} {factor.upper()}" + "".join(f"{value:6.1f}" for value in row))
for k in (2, 8):
    labkit.record(f"pq_shift_{k}", shifted[k].all.pq)
    labkit.record(f"sq_shift_{k}", shifted[k].all.sq)
    labkit.record(f"rq_shift_{k}", shifted[k].all.rq)
    labkit.record(f"stuff_minus_things_shift_{k}", shifted[k].stuff.pq - shifted[k].things.pq)
labkit.record("sq_lost_from_6_to_12", shifted[6].all.sq - shifted[12].all.sq)
labkit.record("rq_lost_from_6_to_12", shifted[6].all.rq - shifted[12].all.rq)

# %% [markdown]
# Now the segments, with perfect outlines. A share $q$ of them is degraded in one of three ways.
#
# - **Dropped**: the pixels become void. The segment is one FN.
# - **Relabelled**: it gets another class, things remain things. One FN and one FP.
# - **Split**: it is cut into three equal stripes, none of which can match. One FN and three FP.
#
# > **Predict.** Which of the three costs most PQ, and how many times as much as the cheapest? Which of them lowers
# > SQ?
#
# > **Exercise 6.2.** Write `rq_after(q, false_positives)`: RQ if a share $q$ of the segments becomes one FN and
# > `false_positives` FP each (0 dropped, 1 relabelled, 3 split), and all others match. The number of segments
# > cancels. An example: of four segments two are dropped, so TP 2, FN 2 and FP 0, and
# > $\mathrm{RQ} = 2 / (2 + 1) = \frac23$.


# %% exercise="rq_after"
# Exercise 6.2: what a mistake costs
def rq_after(q, false_positives):
    """RQ if a share q of the segments is not matched, with so many false positives for each."""
    # BEGIN SOLUTION
    tp, fn, fp = 1 - q, q, q * false_positives
    return tp / (tp + fp / 2 + fn / 2)
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 6.2
check = Checks("Exercise 6.2")
with check("half of the segments dropped: 2/3"):
    equal(rq_after(0.5, 0), 2 / 3, within=1e-12)
with check("half relabelled: 1/2"):
    equal(rq_after(0.5, 1), 1 / 2, within=1e-12)
with check("half split in three: 1/3"):
    equal(rq_after(0.5, 3), 1 / 3, within=1e-12)
with check("nothing degraded: 1; everything: 0"):
    equal([rq_after(0.0, 3), rq_after(1.0, 3)], [1, 0], within=1e-12)
check.report()


# %% tags=["idea"]
def drop(panoptic, chosen):
    ids = panoptic.ids.clone()
    for s in chosen:
        ids[panoptic.ids == s.id] = VOID
    return with_ids(ids, panoptic.segments)


def relabel(panoptic, chosen):
    def other(label):
        kind = categories.things if label in categories.things else categories.stuff
        return kind[(kind.index(label) + 1) % len(kind)]

    segments = [replace(s, label=other(s.label)) if s in chosen else s for s in panoptic.segments]
    return Panoptic(panoptic.ids, segments)


def split(panoptic, chosen):
    ids, segments = panoptic.ids.clone(), list(panoptic.segments)
    for s in chosen:
        columns, rows = torch.where((panoptic.ids == s.id).T)  # its pixels from left to right
        for third in (1, 2):
            stripe = slice(third * len(rows) // 3, (third + 1) * len(rows) // 3)
            segments.append(Segment(max(s.id for s in segments) + 1, s.label))
            ids[rows[stripe], columns[stripe]] = segments[-1].id
    return with_ids(ids, segments)


# %% tags=["hide-input"]
# Figure: PQ with shifted outlines and with degraded segments
def choose(panoptic, share, index):
    """A random share of the segments of map number ``index``; more contains less."""
    draws = np.random.default_rng((seed, index)).random(len(panoptic.segments))
    return [s for s, u in zip(panoptic.segments, draws, strict=True) if u < share]


MISTAKES = {
    "dropped": (drop, 0),
    "relabelled": (relabel, 1),
    "split in three": (split, 3),
}
shares = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
degraded, lowest_sq = {}, 1.0
for name, (degrade, false_positives) in MISTAKES.items():
    degraded[name] = []
    for q in shares:
        result = evaluate([degrade(p, choose(p, q, i)) for i, p in enumerate(gt_maps)], gt_maps)
        degraded[name].append(result.all.pq)
        lowest_sq = min(lowest_sq, result.all.sq)
    predicted = [rq_after(q, false_positives) for q in shares]
    gap = np.abs(np.array(degraded[name]) - predicted).max()
    labkit.record(f"gap_to_formula_{name.split()[0]}", gap)
labkit.record("lowest_sq_with_perfect_outlines", lowest_sq)


def in_percent(axis):
    """The looks of a plot of scores."""
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set_ylim(0, 1.03)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)


figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
for factor, style in (("sq", "--s"), ("rq", "-.^"), ("pq", "-o")):
    values = [getattr(shifted[k].all, factor) for k in shifts]
    axes[0].plot(shifts, values, style, label=factor.upper(), markersize=4)
axes[0].set_xlabel("shift in pixels")
axes[0].set_title("outlines: the whole map shifted", fontsize=9)
for (name, (_, false_positives)), style in zip(MISTAKES.items(), "os^", strict=True):
    line = axes[1].plot(shares, [rq_after(q, false_positives) for q in shares], ":")[0]
    axes[1].plot(shares, degraded[name], style, color=line.get_color(), label=name, markersize=5)
axes[1].set_xlabel("share of the segments that are degraded")
axes[1].xaxis.set_major_formatter(PercentFormatter(1))
axes[1].set_title("segments: PQ measured (markers) and predicted (dots)", fontsize=9)
for axis in axes:
    in_percent(axis)
plt.show()

# %% [markdown]
# - With perfect outlines SQ stays at 100 %, however many segments are degraded. Only RQ changes, as
#   `rq_after` predicts: for small $q$ it is $1 - q/2$ (dropped), $1 - q$ (relabelled), $1 - 2q$ (split).
# - With shifted outlines both fall, but differently. SQ is a mean over *matches*, so it stays above one half while
#   a class has a match (without one it is 0). A segment whose IoU falls below one half is no match any more: it
#   leaves SQ and lowers RQ, small and thin segments first. So SQ flattens while RQ keeps falling.
# - Stuff loses less than things: a shifted outline is a small part of a large region.
# - A wrong class costs twice as much as no prediction, a split four times. **PQ rewards leaving out** a
#   segment that is probably wrong (the third exercise at the end computes the limit). That is why
#   panoptic networks remove doubtful and small segments before they make their map (notebook 4).
#
# ### The score of one image, segment by segment
#
# PQ is the mean over the $n$ classes that occur. So each match of a class contributes
#
# $$\frac{\mathrm{IoU}(p, g)}{TP + \frac12 FP + \frac12 FN} \cdot \frac1n ,$$
#
# a mistake contributes nothing, and the contributions sum to PQ. Below, object 1 stays where
# it is, object 2 is moved to the right by two pixels, object 3 by four, and so on. Which of them still
# match?
#
# The figure is interactive in JupyterLab and on the web site. Point at a segment: its match is outlined in the
# other map, and below are the IoU and the contribution. Drag a predicted segment, or select it with
# Enter and use the arrow keys. SQ grows while the segment fits better, and RQ jumps where the segment's IoU crosses
# one half. What a moved segment uncovers is void, what it covers is lost to others: try to raise one contribution
# and lower another.

# %% tags=["hide-input"]
# Set-up of the figure: an image, its ground truth, and a prediction with moved objects
one_image, one_gt = val_set[example][0], gt_maps[example]
object_ids = [s.id for s in one_gt.segments if s.label in categories.things]
one_prediction = move(one_gt, {i: (2 * k, 0) for k, i in enumerate(object_ids)})
matched = matching(one_prediction, one_gt, categories)
contributions = [contribution.share for contribution in matched.predicted.values()]
labkit.record("shares_sum_to_pq", abs(sum(contributions) - matched.quality.all.pq))

# %%
PQMatching(one_image, one_gt, one_prediction, categories)

# %% [markdown]
# Square 6 still matches after ten pixels, because it is large. Triangle 5 does not after eight, nor the small visible
# part of square 2 after two.
#
# ## 6.6 PQ against IoU
#
# mIoU compares classes, PQ segments. Take the *perfect* semantic map and make segments of it
# in the only way it allows: a connected region of a thing class is an object.
#
# > **Exercise 6.3.** Write `regions(semantic, classes)`: from a semantic map, a tensor (H, W) of labels, to a
# > `Panoptic` map.
# > Each connected region of a thing class is a segment; a stuff class is one segment, in however many pieces.
# > Segments are numbered from 1; pixels with the value `IGNORE` (255) stay `VOID` (0). `classes.stuff` holds the
# > labels of the stuff. `Segment(id, label)` is a segment. `cv2.connectedComponents` takes a mask of `uint8`
# > (`.numpy()` of a tensor) and returns the number of its labels and a map, 0 outside and 1, 2, ... in its
# > regions (pixels that touch at a corner are connected).


# %% exercise="regions"
# Exercise 6.3: segments of a semantic map
def regions(semantic, classes=categories):
    """Segments of a semantic map: connected regions of things, one segment per stuff class."""
    ids, segments = np.zeros(semantic.shape, np.int32), []
    # BEGIN SOLUTION
    for label in semantic[semantic != IGNORE].unique().tolist():
        region = (semantic == label).numpy().astype(np.uint8)
        pieces = region if label in classes.stuff else cv2.connectedComponents(region)[1]
        for piece in range(1, pieces.max() + 1):
            segments.append(Segment(len(segments) + 1, label))
            ids[pieces == piece] = len(segments)
    # END SOLUTION
    return Panoptic(torch.from_numpy(ids), segments)


# %% tags=["check", "hide-input"]
# Check of exercise 6.3
def segment_counts(rows):
    """How many segments of each label the regions of a map have; a digit is a label, x ignored."""
    labels = [[IGNORE if c == "x" else int(c) for c in row] for row in rows.split()]
    made = regions(torch.tensor(labels, dtype=torch.uint8))
    assert made.ids.unique().tolist() == [0] * ("x" in rows) + [s.id for s in made.segments], (
        f"the map has the ids {made.ids.unique().tolist()}, the segments {made.segments}"
    )
    return dict(Counter(s.label for s in made.segments))


check = Checks("Exercise 6.3")
with check("two squares (label 0) apart, on sky (3): 2 segments and 1"):
    equal(segment_counts("0303 0303"), {0: 2, 3: 1})
with check("squares that touch at a corner are one region"):
    equal(segment_counts("033 303 330"), {0: 1, 3: 1})
with check("a square and a circle (1) that touch are two"):
    equal(segment_counts("0011 0011"), {0: 1, 1: 1})
with check("ignored pixels are void, and separate"):
    equal(segment_counts("0x0 3x3"), {0: 2, 3: 1})
check.report()

# %% [markdown]
# > **Predict.** The semantic maps are perfect, mIoU is 100 %. What is the PQ of the things, on Shapes and on its
# > *crowded* variant, where objects touch (no `iscrowd`)?


# %% tags=["hide-input"]
# Table: mIoU and PQ of the regions of perfect semantic maps
def semantic_iou(predictions, maps, classes=categories):
    """IoU of every class, of the semantic maps inside panoptic maps."""
    matrix = ConfusionMatrix(classes)
    for prediction, target in zip(predictions, maps, strict=True):
        matrix.update(prediction.semantic(), target.semantic())
    return np.array(matrix.compute().iou)


print(f"{'':8} {'mIoU':>6} | things {'PQ':>6} {'SQ':>6} {'RQ':>6} | stuff {'PQ':>6}")
for name, maps in (("shapes", gt_maps), ("crowded", crowded_maps)):
    predicted = [regions(p.semantic()) for p in maps]
    miou, result = np.nanmean(semantic_iou(predicted, maps)), evaluate(predicted, maps)
    things = " ".join(f"{v:6.1%}" for v in (result.things.pq, result.things.sq, result.things.rq))
    print(f"{name:8} {miou:6.1%} |        {things} |       {result.stuff.pq:6.1%}")
    labkit.record(f"regions_miou_{name}", miou)
    labkit.record(f"regions_pq_things_{name}", result.things.pq)

# %% [markdown]
# PQ of the things loses a tenth on Shapes, and on the crowded images it is nearly zero,
# because objects that touch become one segment that matches none of them. Below: which objects and which
# regions have a match. An object without a match is a false negative, a region without one a false
# positive.

# %% tags=["hide-input"]
# Figure: objects and regions with and without a match
OUTCOMES = Categories([Category(1, "matched", True), Category(2, "without a match", True)])


def outcomes(panoptic, other):
    """The things of a map, by whether they have a match in the other map."""
    table = iou_table(panoptic.ids.numpy(), other.ids.numpy())
    label_of = {s.id: s.label for s in other.segments}
    things = [s for s in panoptic.segments if s.label in categories.things]
    labelled = []
    for s in things:
        best = int(table[s.id].argmax())
        matched = table[s.id, best] > 0.5 and label_of[best] == s.label
        labelled.append(Segment(s.id, 0 if matched else 1))
    return Panoptic(drop(panoptic, set(panoptic.segments) - set(things)).ids, labelled)


image, target = crowded[1]
gt, predicted = target["panoptic"], regions(target["semantic"])
panels(
    [
        ("image", image, None),
        ("objects of the ground truth", image, outcomes(gt, predicted)),
        ("connected regions", image, outcomes(predicted, gt)),
    ],
    OUTCOMES,
    columns=3,
    names=False,
    size=3.3,
)

# %% [markdown]
# The second difference: mIoU weighs pixels, PQ gives every segment the same weight. Remove
# objects from the ground truth, the smallest first, and compare over the thing classes.


# %% tags=["idea"]
def without_small(panoptic, limit):
    """A map without the things of fewer than ``limit`` pixels."""
    things = [s for s in panoptic.segments if s.label in categories.things]
    return drop(panoptic, [s for s in things if (panoptic.ids == s.id).sum() < limit])


# %% tags=["hide-input"]
# Figure: mIoU and PQ without the smallest objects
areas = np.concatenate([target["masks"].sum(dim=(1, 2)) for target in targets])
removed = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
pq_things, iou_things = [], []
for share in removed:
    predicted = [without_small(p, np.quantile(areas, share)) for p in gt_maps]
    pq_things.append(evaluate(predicted, gt_maps).things.pq)
    iou_things.append(semantic_iou(predicted, gt_maps)[list(categories.things)].mean())
labkit.record("pq_things_without_smaller_half", pq_things[removed.index(0.5)])
labkit.record("iou_things_without_smaller_half", iou_things[removed.index(0.5)])

figure, axis = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
axis.plot(removed, iou_things, "--s", label="mIoU of the things", markersize=4)
axis.plot(removed, pq_things, "-o", label="PQ of the things", markersize=4)
axis.set_xlabel("share of the objects removed, smallest first")
axis.xaxis.set_major_formatter(PercentFormatter(1))
in_percent(axis)
plt.show()

# %% [markdown]
# Without the smaller half of all objects mIoU has lost about a tenth, PQ a third. Neither is wrong; they answer
# different questions. To know how much road is segmented, use mIoU. To know whether the
# children on it are detected, use PQ.
#
# ## 6.7 PQ against AP
#
# Instance segmentation is measured by **average precision** (AP; Lin et al., 2014). Its input is a
# list of masks with scores, which *may overlap*. For an IoU threshold $t$ the masks are taken in
# the order of their scores. Each becomes a true positive if its IoU with a still unmatched object is
# at least $t$. The area under the resulting precision-recall curve is AP$_t$; AP is the
# mean over $t = 0.5, 0.55, \dots, 0.95$ and over the classes. Two things follow:
#
# - AP needs scores, because they define the order. A panoptic map has none; PQ uses the map as it is.
# - A detection with a low score comes late in the list. If it is false, the precision before it does not change; if
#   it matches by chance, recall rises. So more detections do AP no harm. In a map every detection takes pixels from
#   others.
#
# The experiment: one detection for each object, its mask moved by up to two pixels, with a high
# score. Then, in addition, eight *duplicates* of each: moved again in all directions, with low
# scores.
#
# > **Predict.** With the duplicates, eight of nine detections are superfluous. Does AP fall, rise or stay? And the PQ
# > of the map that contains all of them?


# %% tags=["idea"]
def moved(mask, down, right):
    """A mask moved by up to eight pixels; what leaves the image is lost."""
    height, width = mask.shape
    return np.pad(mask, 8)[8 - down : 8 - down + height, 8 - right : 8 - right + width]


def paste(detections, shape, score_thresh):
    """A panoptic map of the detections above a threshold: the better score owns the pixel."""
    ids, segments = np.zeros(shape, np.int32), []
    for mask, label, score in reversed(detections):  # best score last, on top
        if score >= score_thresh:
            segments.append(Segment(len(segments) + 1, label, score))
            ids[mask] = len(segments)
    return with_ids(torch.from_numpy(ids), segments)


# %% [markdown]
# `pycocotools`, the reference implementation, computes AP from an export of our images.

# %% tags=["hide-input"]
# Measurement: AP and PQ of one detection for each object, and with duplicates
with redirect_stderr(io.StringIO()):  # a progress bar
    export_coco(val_set, folder / "shapes", split="val")


def detect(target, duplicates):
    """(mask, label, score) of every detection in an image, best score first."""
    rng = np.random.default_rng((seed, target["image_id"]))
    detections = []
    for mask, label in zip(target["masks"].numpy(), target["labels"].tolist(), strict=True):
        first = moved(mask, *rng.integers(-2, 3, 2))
        detections.append((first, label, rng.uniform(0.7, 1.0)))
        around = [(y, x) for y in (-2, 0, 2) for x in (-2, 0, 2) if y or x]
        copies = [(moved(first, y, x), label, rng.uniform(0.05, 0.6)) for y, x in around]
        detections += copies if duplicates else []
    return sorted((one for one in detections if one[0].any()), key=lambda one: -one[2])


def average_precision(detections):
    """COCO's mask AP of a list of detections for every image."""
    results = [
        {
            "image_id": target["image_id"],
            "category_id": categories[label].id,
            "segmentation": coco_mask.encode(np.asfortranarray(mask, np.uint8)),
            "score": score,
        }
        for target, of_image in zip(targets, detections, strict=True)
        for mask, label, score in of_image
    ]
    with redirect_stdout(io.StringIO()):
        gt = COCO(folder / "shapes/annotations/instances_val.json")
        evaluation = COCOeval(gt, gt.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def pq_of_detections(detections, score_thresh):
    maps = [paste(d, p.ids.shape, score_thresh) for d, p in zip(detections, gt_maps, strict=True)]
    return evaluate(maps, gt_maps).things.pq


exact = [
    [(t["masks"][i].numpy(), label, 0.9) for i, label in enumerate(t["labels"].tolist())]
    for t in targets
]
labkit.record("ap_of_the_truth", average_precision(exact))

thresholds = np.linspace(0, 0.7, 15)
ap, pq = {}, {}
for name, duplicates in (("one detection", False), ("with duplicates", True)):
    detections = [detect(target, duplicates) for target in targets]
    ap[name] = average_precision(detections)
    pq[name] = [pq_of_detections(detections, score_thresh) for score_thresh in thresholds]
    labkit.record(f"ap_{name.replace(' ', '_')}", ap[name])
    labkit.record(f"pq_things_{name.replace(' ', '_')}", pq[name][0])
    print(f"{name:16} AP {ap[name]:.3f}, PQ of things {pq[name][0]:.3f}")
labkit.record("ap_gain_by_duplicates", ap["with duplicates"] - ap["one detection"])

# %% tags=["hide-input"]
# Figure: all detections in one map; PQ over the score threshold, and AP
image, target = val_set[example]
pasted = paste(detect(target, duplicates=True), target["semantic"].shape, score_thresh=0)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", width_ratios=[1, 1.7])
draw(axes[0], image, pasted, categories, names=False)
axes[0].set_title("all detections in one map", fontsize=9)
for name, style in (("with duplicates", "-o"), ("one detection", "-.^")):
    line = axes[1].plot(thresholds, pq[name], style, label=f"PQ of things, {name}", markersize=4)[0]
    axes[1].axhline(ap[name], color=line.get_color(), linestyle=":", label=f"AP, {name}")
axes[1].set_xlabel("score threshold of the map")
in_percent(axes[1])
plt.show()

# %% [markdown]
# The duplicates *raise* AP by a few points: at strict IoU thresholds one of the nine often fits better
# than the first detection, and the eight others are too far down the list to do harm. In the map they
# are rims around the objects, nearly all of them false positives, and PQ collapses. It recovers
# when the score threshold rises. AP (the horizontal lines) does not depend on that
# threshold: it averages over all of them. AP ranks detectors before a threshold is chosen. PQ is
# the quality of *one final result*, the map that a user would see.
#
# ### Results: PQ beside AP and IoU
#
# Kirillov et al. (2019) measured the best entries of challenges with all three, on three data sets:
# streets seen from a car (Cityscapes, 8 + 11 classes of things and stuff), scenes of all kinds (ADE20k, 100 + 50),
# streets of all continents (Mapillary Vistas, 37 + 28). Th are things, St stuff; a method's name is its team's, or the
# network's, where "+ COCO" means trained on COCO before.
#
# **Instances** (the paper's table 3). AP$^{NO}$ is AP after overlaps between the masks are removed. The order by AP
# is the order by PQ; removing overlaps costs AP 3 to 5 points; and the methods differ in RQ, hardly in SQ.
#
# | data set | method | AP | AP$^{NO}$ | PQ$^{Th}$ | SQ$^{Th}$ | RQ$^{Th}$ |
# | --- | --- | --- | --- | --- | --- | --- |
# | Cityscapes | Mask R-CNN + COCO | 36.4 | 33.1 | 54.0 | 79.4 | 67.8 |
# | Cityscapes | Mask R-CNN | 31.5 | 28.0 | 49.6 | 78.7 | 63.0 |
# | ADE20k | Megvii | 30.1 | 24.8 | 41.1 | 81.6 | 49.6 |
# | ADE20k | G-RMI | 24.6 | 20.6 | 35.3 | 79.3 | 43.2 |
#
# **Stuff** (table 4). On ADE20k 1.7 points of IoU are 8.1 of PQ, again by RQ: a false region of a few pixels costs
# little IoU, but it is a whole FP.
#
# | data set | method | IoU | PQ$^{St}$ | SQ$^{St}$ | RQ$^{St}$ |
# | --- | --- | --- | --- | --- | --- |
# | Cityscapes | PSPNet, multi-scale | 80.6 | 66.6 | 82.2 | 79.3 |
# | Cityscapes | PSPNet, single-scale | 79.6 | 65.2 | 81.6 | 78.0 |
# | ADE20k | CASIA_IVA_JD | 32.3 | 27.4 | 61.9 | 33.7 |
# | ADE20k | G-RMI | 30.6 | 19.3 | 58.7 | 24.3 |
#
# **Both in one map** (table 5). *Machine-separate* measures the instance and the semantic method each on its own;
# *machine-panoptic* puts both into one map, objects on top of stuff. So PQ of the things stays, and stuff loses what
# false objects cover. The mean over classes is PQ: on Cityscapes $(8 \cdot 54.0 + 11 \cdot 66.4) / 19 = 61.2$.
#
# | data set | PQ$^{Th}$ | PQ$^{St}$ separate | PQ$^{St}$ panoptic | PQ |
# | --- | --- | --- | --- | --- |
# | Cityscapes | 54.0 | 66.6 | 66.4 | 61.2 |
# | ADE20k | 41.1 | 27.4 | 24.5 | 35.6 |
# | Vistas | 35.7 | 43.7 | 41.8 | 38.3 |
#
# ## 6.8 Files, and a comparison with panopticapi
#
# In practice predictions are evaluated from files. Here are the regions of 6.6 as a file of predictions beside the
# exported ground truth, and the command that compares them:

# %% tags=["hide-input"]
# The regions as COCO panoptic files, measured by `labkit pq`


def write_maps(path, maps, image_ids, classes=categories):
    """Maps as a panoptic JSON and, beside it, the folder of their PNGs."""
    path.with_suffix("").mkdir()
    images, annotations = [], []
    for image_id, panoptic in zip(image_ids, maps, strict=True):
        name, (height, width) = f"{image_id:012d}.png", panoptic.ids.shape
        write_png(path.with_suffix("") / name, panoptic.ids.numpy())
        annotations.append(to_annotation(panoptic, image_id, name, classes))
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
    parts = {"images": images, "annotations": annotations, "categories": classes.to_coco()}
    write_json(path, parts)


def run_pq(*arguments, where=folder):
    """Run ``labkit pq`` in a folder, as a terminal would show it; returns whether it was refused."""
    print("$ labkit pq", *arguments)
    with chdir(where), redirect_stderr(io.StringIO()):
        try:
            app(["pq", *arguments], standalone_mode=False)
        except LabkitError as error:
            print(f"error: {error}")
            return True
    return False


image_ids = [target["image_id"] for target in targets]
shapes_json = "shapes/annotations/panoptic_val.json"
predicted = [regions(target["semantic"]) for target in targets]
write_maps(folder / "regions.json", predicted, image_ids)
_ = run_pq("--gt", shapes_json, "--pred", "regions.json", "--json", "pq.json")
in_memory, from_files = evaluate(predicted, gt_maps), json.loads((folder / "pq.json").read_text())
labkit.record("pq_files_vs_memory", abs(from_files["all"]["pq"] - in_memory.all.pq))

# %% [markdown]
# The numbers in papers come from one program, `panopticapi`; all of its rules belong to the
# definition. Where it is installed (`labkit install panopticapi`), it now evaluates the same files, and the
# random maps of 6.3 with their void and crowd.

# %% tags=["hide-input"]
# Comparison with panopticapi, where it is installed
if problem := optional_packages.problem("panopticapi"):
    pq_compute_single_core = None
    print(f"Nothing is compared: {problem}")
else:
    from panopticapi.evaluation import pq_compute_single_core

differences = {}  # largest difference of nine numbers: PQ, SQ, RQ of all, things and stuff


def compare_with_panopticapi(name, result, gt_json, pred_json):
    """Compare a result of labkit with the original program's, if that is installed."""
    if pq_compute_single_core is None:
        return
    gt, predicted = json.loads(gt_json.read_text()), json.loads(pred_json.read_text())
    predicted_of = {annotation["image_id"]: annotation for annotation in predicted["annotations"]}
    annotations = [(a, predicted_of[a["image_id"]]) for a in gt["annotations"]]
    classes = {category["id"]: category for category in gt["categories"]}
    folders = gt_json.with_suffix(""), pred_json.with_suffix("")
    with redirect_stdout(io.StringIO()):
        counts = pq_compute_single_core(0, annotations, *folders, classes)
    differences[name] = 0.0
    for own, isthing in ((result.all, None), (result.things, True), (result.stuff, False)):
        original = counts.pq_average(classes, isthing)[0]
        for factor in ("pq", "sq", "rq"):
            gap = abs(getattr(own, factor) - original[factor])
            differences[name] = max(differences[name], gap)
    print(f"{name}: labkit and panopticapi differ by {differences[name]:.1e}")


write_maps(folder / "random_gt.json", [target for _, target in pairs], range(len(pairs)))
write_maps(folder / "random_prediction.json", [one for one, _ in pairs], range(len(pairs)))
for name, result, gt, pred in (
    ("regions", in_memory, shapes_json, "regions.json"),
    ("random maps", random_result, "random_gt.json", "random_prediction.json"),
):
    compare_with_panopticapi(name, result, folder / gt, folder / pred)

# %% [markdown]
# ## 6.9 One map, three formats
#
# There are three formats for the same segmentation, and confusing them is a common mistake:
#
# | format | content | watch out |
# | --- | --- | --- |
# | panoptic | PNG: $R + 256\,G + 65536\,B$ is the segment; JSON: its class | 0 is void |
# | two channels | PNG: $R$ is the class, $G$ the instance, $B = 0$; no JSON | instance 255 is a crowd, $(0, 0)$ void |
# | detection | JSON: class and mask of every segment | masks may overlap; ids may begin at 0 |
#
# The other two are converted in a few lines. The pair $(\ell, z)$ of a two-channel file, read as if the
# file were a panoptic one, is the number $\ell + 256 z$. It is different for each segment: a valid id.


# %% tags=["idea"]
def from_two_channels(png, classes=categories):
    """The map of a two-channel PNG: class + 256 · instance serves as the id."""
    ids = torch.from_numpy(read_png(png))
    present = [i for i in ids.unique().tolist() if i != VOID]
    segments = [Segment(i, classes.label(i % 256), iscrowd=i // 256 == 255) for i in present]
    return Panoptic(ids, segments)


def from_detections(annotations, shape, classes=categories):
    """The map of COCO detection annotations, if no two of their masks overlap."""
    ids, segments = np.zeros(shape, np.int32), []
    for number, annotation in enumerate(annotations, start=1):  # not their ids: one may be 0
        mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
        assert not ids[mask].any(), "masks overlap: the owner of a pixel must be decided first"
        ids[mask] = number
        label, iscrowd = classes.label(annotation["category_id"]), bool(annotation["iscrowd"])
        segments.append(Segment(number, label, iscrowd=iscrowd))
    return Panoptic(torch.from_numpy(ids), segments)


# %% tags=["hide-input"]
# Test: PQ after the way through the two other formats
def to_two_channels(png, panoptic, classes=categories):
    """Write the map with the class in red and the instance, counted per class, in green."""
    ids, instances = np.zeros(panoptic.ids.shape, np.int32), Counter()
    for s in panoptic.segments:
        instance = 255 if s.iscrowd else instances[s.label]
        instances[s.label] += not s.iscrowd
        ids[panoptic.ids.numpy() == s.id] = classes[s.label].id + 256 * instance
    write_png(png, ids)


def masks_of(path):
    """The annotations of a detection JSON by image."""
    of_image = defaultdict(list)
    for annotation in json.loads(path.read_text())["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    return of_image


(folder / "two_channels").mkdir()
converted = []
for image_id, panoptic in zip(image_ids, gt_maps, strict=True):
    png = folder / "two_channels" / f"{image_id:012d}.png"
    to_two_channels(png, panoptic)
    converted.append(from_two_channels(png))
labkit.record("pq_from_two_channels", evaluate(converted, gt_maps).all.pq)

masks = masks_of(folder / "shapes/annotations/instances_val.json")
result = evaluate([from_detections(masks[i], gt_maps[0].ids.shape) for i in image_ids], gt_maps)
labkit.record("pq_things_from_detections", result.things.pq)
labkit.record("pq_stuff_from_detections", result.stuff.pq)  # an instance file has no stuff
print(f"two channels: PQ {evaluate(converted, gt_maps).all.pq:.3f}")
print(f"detections: PQ of things {result.things.pq:.3f}, of stuff {result.stuff.pq:.3f}")

# %% [markdown]
# (The detection file has no stuff, so PQ of the stuff is 0.) `labkit pq` refuses both formats as they are, with
# file, image and reason. That is important: a number computed from the wrong file looks like any other number.

# %% tags=["hide-input"]
# The wrong formats, given to `labkit pq`
refused = [
    run_pq("--gt", shapes_json, "--pred", "shapes/annotations/instances_val.json"),
    run_pq("--gt", shapes_json, "--pred", shapes_json, "--pred-dir", "two_channels"),
]
labkit.record("wrong_formats_refused", sum(refused))

# %% [markdown]
# ## 6.10 Photographs
#
# Two photographs of COCO with annotations in all three formats are the sample data of panopticapi, 0.7 MB:
# `labkit data get coco-panoptic-sample` downloads them. The cells below look for the folder
# `coco_panoptic_sample` in the folder that the environment variable `LABKIT_DATA` names, and then among the
# downloads, and repeat the experiments on real annotations, with void and crowds. Without internet, skip
# this section: it confirms the results above, and nothing later needs it.

# %% tags=["hide-input"]
# Figure: the photographs, their ground truth, and the regions of their semantic maps
sample = find_data("coco_panoptic_sample")
labkit.record("real_coco", sample is not None)
holds = {}  # what must be true of the photographs
if sample is not None:
    photos = CocoPanoptic(sample / "panoptic_examples.json", image_dir=sample / "input_images")
    coco, rows = photos.categories, []
    coco_names = [category.name for category in coco]
    photo_ids = [target["image_id"] for _, target in photos]
    photo_maps = [target["panoptic"] for _, target in photos]
    for image, target in photos:
        rows += [("image", image, None), ("ground truth", image, target["panoptic"])]
        rows += [("regions of its semantic map", image, regions(target["semantic"], coco))]
        void = (target["panoptic"].ids == VOID).float().mean()
        crowds = [coco[s.label].name for s in target["panoptic"].segments if s.iscrowd]
        print(f"image {target['image_id']}: {void:.1%} void, crowds: {', '.join(crowds)}")
    display(panels(rows, coco, columns=3, names=False, size=3.3))
else:
    print("The photographs are not here: labkit data get coco-panoptic-sample")

# %% tags=["hide-input"]
# Table: the experiments of 6.5 and 6.6 on the photographs
if sample is not None:
    degraded = {
        "ground truth": photo_maps,
        **{f"shift by {k}": [shift(p, k) for p in photo_maps] for k in (1, 2, 4, 8, 16)},
        "30 % dropped": [drop(p, choose(p, 0.3, i)) for i, p in enumerate(photo_maps)],
        "30 % split": [split(p, choose(p, 0.3, i)) for i, p in enumerate(photo_maps)],
        "semantic regions": [regions(p.semantic(), coco) for p in photo_maps],
    }
    results = {}
    print(f"{'':16} {'mIoU':>6} {'PQ':>6} {'SQ':>6} {'RQ':>6} {'things':>7} {'stuff':>6}")
    for name, maps in degraded.items():
        result = results[name] = evaluate(maps, photo_maps, coco)
        miou = np.nanmean(semantic_iou(maps, photo_maps, coco))
        numbers = f"{result.all.pq:6.1%} {result.all.sq:6.1%} {result.all.rq:6.1%}"
        print(f"{name:16} {miou:6.1%} {numbers} {result.things.pq:7.1%} {result.stuff.pq:6.1%}")
        both = zip(maps, photo_maps, strict=True)
        counts = sum(count_matches(prediction, gt, len(coco)) for prediction, gt in both)
        holds[f"own PQ, {name}"] = abs(quality(counts)[0].mean() - result.all.pq) < 1e-12
        if name in ("30 % split", "semantic regions"):
            holds[f"mIoU 100, {name}"] = miou == 1
    labkit.record("real_pq", [result.all.pq for result in results.values()])
    pq_of_shifts = [result.all.pq for name, result in results.items() if name.startswith("shift")]
    holds["the ground truth scores 100"] = results["ground truth"].all.pq == 1
    holds["more shift, less PQ"] = pq_of_shifts == sorted(pq_of_shifts, reverse=True)
    holds["regions lose things"] = results["semantic regions"].things.pq < 1
    holds["shifts hurt things more"] = all(
        results[f"shift by {k}"].things.pq < results[f"shift by {k}"].stuff.pq
        for k in (1, 2, 4, 8, 16)
    )
    holds["splits cost more"] = results["30 % split"].all.pq < results["30 % dropped"].all.pq
    holds["regions keep stuff"] = results["semantic regions"].stuff.pq == 1

# %% [markdown]
# As on Shapes: the last two rows have a perfect mIoU and lose things all the same, shifts cost
# things more than stuff, and dropping costs less than splitting.
#
# The next cell compares with panopticapi on the same photographs, and converts the annotations
# from the other two formats. Then it shows what crowds do: cut every crowd into three
# stripes and predict those as people or horses. With the ground truth as it is this costs nothing. Without
# the `iscrowd` flags, as a careless converter might write it, the same prediction is full of mistakes.

# %% tags=["hide-input"]
# Test: panopticapi, the other formats, and crowds on the photographs
if sample is not None:
    for number, (name, maps) in enumerate(degraded.items()):
        path = folder / f"photos_{number}.json"
        write_maps(path, maps, photo_ids, coco)
        gt_json = sample / "panoptic_examples.json"
        compare_with_panopticapi(f"photographs, {name}", results[name], gt_json, path)

    pngs = sample / "panoptic_examples_2ch_format"
    masks = masks_of(sample / "panoptic_coco_detection_format.json")
    converted = {"two channels": [], "detection": []}
    for i, gt in zip(photo_ids, photo_maps, strict=True):
        converted["two channels"].append(from_two_channels(pngs / f"{i:012d}.png", coco))
        converted["detection"].append(from_detections(masks[i], gt.ids.shape, coco))
    for name, maps in converted.items():
        result = evaluate(maps, photo_maps, coco)
        print(f"from {name}: PQ {result.all.pq:.1%}")
        holds[f"from {name}"] = result.all.pq == 1

    stripes = [split(p, [s for s in p.segments if s.iscrowd]) for p in photo_maps]
    unflagged = [
        Panoptic(p.ids, [replace(s, iscrowd=False) for s in p.segments]) for p in photo_maps
    ]
    with_flag, without = evaluate(stripes, photo_maps, coco), evaluate(stripes, unflagged, coco)
    print(f"PQ of things {with_flag.things.pq:.1%}, without the flags {without.things.pq:.1%}")
    holds["stripes of a crowd are ignored"] = with_flag.all.pq == 1
    holds["not so without the flag"] = without.things.pq < with_flag.things.pq

# %% [markdown]
# **A network on photographs.** `pedestrians_lite`, which comes with labkit, has learnt people in streets. These two
# photographs show rugby players and riders. Its masks above a score become a map by `paste` (6.7); the table measures
# the class person, with the crowds of the ground truth flagged and not.


# %% tags=["hide-input"]
# Table and figure: the people that pedestrians_lite detects
def counts_of(label, predictions, maps):
    """Sum of IoU, TP, FP and FN of one class."""
    metric = PanopticQuality(coco)
    for prediction, target in zip(predictions, maps, strict=True):
        metric.update(prediction, target)
    return metric.counts[label]


if sample is not None:
    predictor, person = Predictor("pedestrians_lite"), coco_names.index("person")
    detected, rows = [], []
    for image, _ in photos:
        of_image = predictor(image).detections  # best score first
        both = zip(of_image.masks.numpy(), of_image.scores.tolist(), strict=True)
        detected.append([(mask, person, score) for mask, score in both])
    print(
        f"{'score':>5} {'TP':>4} {'FP':>4} {'FN':>4} {'PQ':>6} {'SQ':>6} {'RQ':>6} | not flagged: FP, PQ"
    )
    for score_thresh in (0.3, 0.5, 0.7, 0.9):
        both = zip(detected, photo_maps, strict=True)
        maps = [paste(one, gt.ids.shape, score_thresh) for one, gt in both]
        flagged, plain = counts_of(person, maps, photo_maps), counts_of(person, maps, unflagged)
        pq, sq, rq = quality(flagged[None])[:, 0]
        numbers = " ".join(f"{n:4.0f}" for n in flagged[1:]) + f" {pq:6.1%} {sq:6.1%} {rq:6.1%}"
        print(f"{score_thresh:5} {numbers} | {plain[2]:16.0f} {quality(plain[None])[0, 0]:6.1%}")
        if score_thresh == 0.5:
            rows = [
                ("score above 0.5", image, p) for (image, _), p in zip(photos, maps, strict=True)
            ]
            holds["people: outlines better than detection"] = sq > rq
            holds["flags excuse false positives"] = plain[2] > flagged[2]
    display(panels(rows, coco, columns=2, names=False, size=4))

# %% [markdown]
# The people who stand apart are matched; players who hold one another and riders are missed, or share a mask with
# the horse. So RQ is low, while SQ is higher: the matched outlines are usable. Some false positives lie on a crowd:
# only its flag excuses them. (On streets the same network does much better, see [notebook 3](03_mask_rcnn.ipynb).)

# %% tags=["hide-input"]
# The wrong formats of the photographs, given to `labkit pq`; summary
if sample is not None:
    gt, detections = "panoptic_examples.json", "panoptic_coco_detection_format.json"
    two_channels = ["--pred", gt, "--pred-dir", "panoptic_examples_2ch_format"]
    holds["detections refused"] = run_pq("--gt", gt, "--pred", detections, where=sample)
    holds["two channels refused"] = run_pq("--gt", gt, *two_channels, where=sample)

failed = [name for name, true in holds.items() if not true]
print(f"{len(holds)} checks on photographs; failed: {', '.join(failed) or 'none'}")
labkit.record("real_statements", len(holds))
labkit.record("real_statements_not_true", len(failed))
labkit.record("panopticapi_comparisons", len(differences))
labkit.record("panopticapi_disagreements", sum(gap > 1e-12 for gap in differences.values()))

# %% [markdown]
# ## To take away
#
# - Panoptic format: each pixel has one pair $(\ell_i, z_i)$, so segments cannot overlap.
# - Because they cannot, IoU > ½ (strictly) already *is* the matching. No search, no scores.
# - PQ = SQ × RQ per class: the mean IoU of the matches, times the $F_1$ of the detection. Sum
#   over the data set, divide per class, average last.
# - Void pixels leave the union; false positives mostly on void, or on a crowd of their class, are
#   ignored; crowds are neither TP nor FN. A lost `iscrowd` flag changes the score.
# - If a small share $q$ of the segments is missed, RQ falls by $q/2$; with a wrong class by $q$; split in three by
#   $2q$. PQ rewards leaving out what is doubtful.
# - mIoU weighs pixels and cannot count. AP ranks lists and is not lowered by duplicates of low score. PQ
#   weighs segments and needs one final map.
#
# ## More exercises
#
# 1. **How large can the second best be?** In `second_best` look at rows and columns whose best IoU is
#    0.7 or more. How large is the second best at most? Prove that it is at most $1 - 0.7$, and find
#    a pair of maps that reaches it. (Follow the proof of 6.2 with 0.7 instead of one half.)
# 2. **A cut that is not in the middle.** Change `split` so that it cuts a segment into shares $f$
#    and $1 - f$, cut all segments, and draw PQ over $f$ from 0.5 to 1. Expect a jump just above one
#    half and $\mathrm{PQ} = \frac23 f$ after it: one TP with IoU $f$ and one FP each. At exactly
#    one half: one FN and two FP. Mind segments with an odd number of pixels.
# 3. **When to leave a segment out?** A segment would match with probability $a$, then with IoU $s$; the
#    PQ of the class without it is $Q$. Show that predicting it pays when $a\,s > Q/2$. (Left out: an
#    FN. Predicted: a TP, or an FP and an FN. So predicting adds ½ to the denominator in any case, and
#    $a\,s$ to the numerator on average.) Check it with `drop` and `relabel` on the same segments.
# 4. **Size.** `val_set.area_limits` are COCO's limits of small and large, for these images. Give
#    each true object its size class and draw RQ over the shift for the three classes. Which one
#    makes the things' rows of 6.5 fall?
# 5. **Stuff without a threshold.** Porzi et al. match the stuff segments of an image by class
#    alone and average their IoU over the images whose ground truth has that class (PQ†). Add it to `count_matches`
#    and repeat the shift. How does the curve of the stuff differ from that of PQ?
# 6. **The product of the columns.** Multiply SQ and RQ in the rows of the shift table and compare
#    with PQ. Where is the product most wrong, and what is the sign of the difference? (The mean of
#    products minus the product of means is a covariance, here over the classes.)
#
# ## References
#
# - A. Kirillov, K. He, R. Girshick, C. Rother, P. Dollár. Panoptic Segmentation. CVPR 2019: the
#   format in section 3, metric and theorem in section 4, the data sets in section 5, the results of 6.7 in tables
#   3 to 5.
# - T.-Y. Lin, M. Maire, S. Belongie, J. Hays, P. Perona, D. Ramanan, P. Dollár, C. L. Zitnick.
#   Microsoft COCO: Common Objects in Context. ECCV 2014. Its AP, as computed here:
#   https://github.com/cocodataset/cocoapi.
# - L. Porzi, S. Rota Bulò, A. Colovic, P. Kontschieder. Seamless Scene Segmentation. CVPR 2019: PQ†.
# - The format: https://cocodataset.org/#format-data. The original evaluation:
#   https://github.com/cocodataset/panopticapi.
