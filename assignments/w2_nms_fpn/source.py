# %% [markdown]
# # Warm-up 2. NMS and FPN
#
# Notebook 3 suppresses duplicates and builds a feature pyramid. Here you write what stands beside them in
# real detectors: NMS by class with a limit, two kinds of NMS that lower scores instead of removing boxes,
# and a pyramid of maps whose sides are not simply halved.
#
# **Before you begin:** notebook 3, sections 3.2, 3.3 and 3.7. **Time:** 30 to 40 minutes. **Points:** 10,
# all of them computed.
#
# | exercise | points |
# | --- | --- |
# | 1 NMS by class | 1 |
# | 2 Soft-NMS | 2 |
# | 3 Matrix NMS | 2 |
# | 4 the level of a box | 1 |
# | 5 sizes of the maps, the place of an anchor | 1 + 1 |
# | 6 the pyramid | 2 |
#
# Your functions will be called with other inputs than those below, drawn anew for every submission.
# `torchvision.ops.box_iou` and everything in `torch.nn.functional` may be called. The NMS and the pyramid
# of torchvision and labkit may not. Boxes are `x1, y1, x2, y2` in pixels.

# %% tags=["setup"]
import math

import torch
from torch.nn import functional as F
from torchvision.ops import box_iou

from labkit.checks import Checks, equal, has_shape

# %% [markdown]
# ## Exercise 1. NMS by class (1 point)
#
# Keep the box with the highest score (of equal ones that with the lowest index) and remove all boxes *of
# its class* whose IoU with it is *above* the threshold. Repeat with the rest. Return the indices of the boxes
# that are kept, highest score first, of all classes together, and at most `limit` of them.


# %% exercise="nms"
def nms_by_class(boxes, scores, labels, threshold, limit):
    """The boxes that are kept.

    Args:
        boxes: (n, 4) float32; n may be 0.
        scores: (n,) float32.
        labels: (n,) int64.
        threshold: of the IoU.
        limit: the largest number of boxes that are returned.

    Returns:
        A list of indices.
    """
    # BEGIN SOLUTION
    iou, kept = box_iou(boxes, boxes), []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not any(labels[k] == labels[i] and iou[k, i] > threshold for k in kept):
            kept.append(i)
    return kept[:limit]
    # END SOLUTION


# %% [markdown]
# Three boxes of 8 × 10 pixels: the second one is shifted by 2 pixels (IoU 60/100 with the first), the third
# by another 2 (60/100 with the second, 40/120 with the first).

# %% tags=["check"]
row_of_three = torch.tensor([[0.0, 0, 8, 10], [2, 0, 10, 10], [4, 0, 12, 10]])
falling, one_class = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 0])


def kept_of(labels=one_class, scores=falling, threshold=0.5, limit=9):
    """The boxes that are kept, as plain numbers."""
    return list(map(int, nms_by_class(row_of_three, scores, labels, threshold, limit)))


check = Checks("Exercise 1")
with check("the second is removed by the first; then nothing removes the third"):
    equal(kept_of(), [0, 2])
with check("highest score first, wherever it stands"):
    equal(kept_of(scores=torch.tensor([0.7, 0.8, 0.9])), [2, 0])
with check("an IoU of exactly the threshold stays"):
    exactly = float(box_iou(row_of_three, row_of_three)[0, 1])
    equal(kept_of(threshold=exactly), [0, 1, 2])
with check("a box of another class removes nothing"):
    equal(kept_of(labels=torch.tensor([0, 1, 0])), [0, 1, 2])
with check("at most two, of all classes together"):
    equal(kept_of(labels=torch.tensor([0, 1, 2]), limit=2), [0, 1])
check.report()

# %% [markdown]
# ## Exercise 2. Soft-NMS (2 points)
#
# In a crowd the second object is removed like a duplicate. Soft-NMS (Bodla et al., 2017) lowers scores
# instead. All boxes are of one class.
#
# 1. Of the boxes not yet chosen, choose the one with the highest *current* score (of equal ones the lowest
#    index). Its score is final.
# 2. Multiply the current score of each box not yet chosen by $\exp(-\mathrm{IoU}^2 / \sigma)$, with its IoU
#    with the chosen one.
# 3. Repeat until all are chosen. Finally, scores *below* `min_score` become 0.


# %% exercise="soft"
def soft_nms(boxes, scores, sigma, min_score):
    """The new scores.

    Args:
        boxes: (n, 4) float32, n at least 1.
        scores: (n,) float32; it must not be changed.
        sigma: a positive number.
        min_score: final scores below it become 0.

    Returns:
        (n,), in the order of the boxes.
    """
    # BEGIN SOLUTION
    factor = torch.exp(-(box_iou(boxes, boxes) ** 2) / sigma)
    current, waiting = scores.clone(), torch.ones(len(scores), dtype=torch.bool)
    while waiting.any():
        chosen = int(torch.where(waiting, current, -1.0).argmax())
        waiting[chosen] = False
        current[waiting] *= factor[chosen, waiting]
    return torch.where(current < min_score, 0.0, current)
    # END SOLUTION


# %% tags=["check"]
near, far = math.exp(-0.36 / 0.5), math.exp(-1 / 9 / 0.5)  # of the IoU 0.6 and 1/3, sigma = 0.5

check = Checks("Exercise 2")
with check("one score for each box"):
    has_shape(soft_nms(row_of_three, falling, 0.5, 0.0), (3,))
with check("the best one keeps its score"):
    equal(soft_nms(row_of_three, falling, 0.5, 0.0)[0], 0.9, within=1e-6)
with check("the second falls to 0.39, so the third (0.56) is chosen before it"):
    equal(soft_nms(row_of_three, falling, 0.5, 0.0)[2], 0.7 * far, within=1e-6)
with check("then the second is lowered once more, by the third"):
    equal(soft_nms(row_of_three, falling, 0.5, 0.0)[1], 0.8 * near * near, within=1e-6)
with check("below min_score it is 0"):
    equal(soft_nms(row_of_three, falling, 0.5, 0.3)[1], 0)
with check("the given scores are not changed"):
    _ = soft_nms(row_of_three, falling, 0.5, 0.0)
    equal(falling, [0.9, 0.8, 0.7], within=1e-6)
check.report()

# %% [markdown]
# ## Exercise 3. Matrix NMS (2 points)
#
# Soft-NMS is a loop. Matrix NMS (SOLOv2, Wang et al., 2020) lowers all scores in one step, here with masks
# and classes. Number the masks by score, highest first (of equal ones the lowest index first). Let
# $o_{ij}$ be the IoU of masks $i$ and $j$ if they have the same class, and 0 otherwise. Mask $i$ is probably
# a duplicate itself if a higher one covers it; how much is
#
# $$m_i = \max_{k < i} o_{ki}, \qquad m_0 = 0 ,$$
#
# and then it should not lower others. The factor of mask $j$ is
#
# $$\min_{i < j} \, \exp\bigl(-(o_{ij}^2 - m_i^2) / \sigma\bigr) ,$$
#
# and 1 for the first one. The IoU of two empty masks is 0.


# %% exercise="matrix"
def matrix_nms(masks, scores, labels, sigma):
    """The new scores.

    Args:
        masks: (n, H, W) bool, n at least 1.
        scores: (n,) float32, in no order.
        labels: (n,) int64.
        sigma: a positive number.

    Returns:
        (n,), in the order of the masks.
    """
    # BEGIN SOLUTION
    order = scores.argsort(descending=True, stable=True)
    flat = masks[order].flatten(1).double()
    both = flat @ flat.T
    area = flat.sum(dim=1)
    iou = both / (area[:, None] + area - both).clamp(min=1)
    same_class = labels[order][:, None] == labels[order]
    higher = (iou * same_class).triu(diagonal=1)  # row i, column j > i
    compensation = higher.amax(dim=0)
    factor = torch.exp(-(higher**2 - compensation[:, None] ** 2) / sigma)
    # Entries that are not above the diagonal must not be the smallest.
    above = torch.ones_like(factor).triu(diagonal=1).bool()
    factor = torch.where(above, factor, torch.inf).amin(dim=0)
    factor[0] = 1.0
    new = torch.empty(len(scores), dtype=torch.float64)
    new[order] = scores[order] * factor
    return new
    # END SOLUTION


# %% [markdown]
# By hand: three masks of four pixels in a row of eight, at the pixels 0–3, 1–4 and 2–5, with falling scores
# and $\sigma = \frac12$. Neighbours share 3 of 5 pixels, the first and the last 2 of 6. For the last mask the
# first one gives $\exp(-\frac19 \cdot 2)$, the second $\exp(-(0.36 - 0.36) \cdot 2) = 1$: the second is
# covered as much as it covers. The smaller of both is the first.

# %% tags=["check"]
bars = torch.zeros(3, 1, 8, dtype=torch.bool)
for number in range(3):
    bars[number, 0, number : number + 4] = True

check = Checks("Exercise 3")
with check("one score for each mask"):
    has_shape(matrix_nms(bars, falling, one_class, 0.5), (3,))
with check("the best one keeps its score"):
    equal(matrix_nms(bars, falling, one_class, 0.5)[0], 0.9, within=1e-6)
with check("the second: exp(−0.36 · 2)"):
    equal(matrix_nms(bars, falling, one_class, 0.5)[1], 0.8 * near, within=1e-6)
with check("the third: exp(−2/9), because the second is a duplicate itself"):
    equal(matrix_nms(bars, falling, one_class, 0.5)[2], 0.7 * far, within=1e-6)
with check("other classes lower nothing"):
    equal(matrix_nms(bars, falling, torch.tensor([0, 1, 2]), 0.5), [0.9, 0.8, 0.7], within=1e-6)
with check("in the order of the masks, whatever the order of the scores"):
    rising = torch.tensor([0.7, 0.8, 0.9])
    equal(matrix_nms(bars, rising, one_class, 0.5), [0.7 * far, 0.8 * near, 0.9], within=1e-6)
check.report()

# %% [markdown]
# ## Exercise 4. The level of a box (1 point)
#
# A box of $w \times h$ pixels is read from level $\lfloor k_0 + \log_2 (\sqrt{w h} / s_0) \rfloor$, clamped to
# the levels that exist. A box without area belongs to the finest level.


# %% exercise="levels"
def levels_of(boxes, s0, k0, finest, coarsest):
    """The level of each box.

    Args:
        boxes: (n, 4) float32; n may be 0.
        s0, k0: a square of side s0 belongs to level k0.
        finest, coarsest: the levels that exist, for example 2 and 5.

    Returns:
        (n,) integers.
    """
    # BEGIN SOLUTION
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    # log2(0) is -inf, and is clamped like every other number
    return (k0 + torch.log2(sides / s0)).clamp(finest, coarsest).floor().long()
    # END SOLUTION


# %% tags=["check"]
def square(side):
    """A box with its upper left corner at (10, 20)."""
    return [10.0, 20, 10 + side, 20 + side]


check = Checks("Exercise 4")
with check("the paper's numbers: sides 224, 223, 112 and 448"):
    paper = torch.tensor([square(side) for side in (224, 223, 112, 448)])
    equal(levels_of(paper, 224, 4, 2, 5), [4, 3, 3, 5])
with check("clamped at both ends, and a box without area"):
    extreme = torch.tensor([square(1000), square(8), square(0)])
    equal(levels_of(extreme, 224, 4, 2, 5), [5, 2, 2])
with check("128 × 32 pixels are as much as 64 × 64"):
    equal(levels_of(torch.tensor([[0.0, 0, 128, 32]]), 32, 3, 2, 5), [4])
with check("no boxes"):
    has_shape(levels_of(torch.zeros(0, 4), 224, 4, 2, 5), (0,))
check.report()

# %% [markdown]
# ## Exercise 5. Sizes and anchors (1 + 1 points)
#
# Level $l$ has stride $2^l$: the image is halved $l$ times, and *each time* a remainder is rounded up. The
# anchors of all levels are one long list: level by level, the finest first; within a level row by row from
# the top; within a row from left to right; within a cell by the index of the anchor, `0 .. per_cell - 1`.


# %% exercise="anchors"
def map_sizes(height, width, finest, coarsest):
    """The sizes of the maps.

    Args:
        height, width: of the image.
        finest, coarsest: the first and the last level.

    Returns:
        A list of [height, width], one for each level, the finest first.
    """
    # BEGIN SOLUTION
    return [
        [-(-side // 2**level) for side in (height, width)] for level in range(finest, coarsest + 1)
    ]
    # END SOLUTION


def locate(index, height, width, finest, coarsest, per_cell):
    """The place of an anchor.

    Args:
        index: its place in the list of all anchors, from 0.
        height, width, finest, coarsest: as above.
        per_cell: how many anchors a cell has.

    Returns:
        [level, row, column, number in the cell]
    """
    # BEGIN SOLUTION
    for level, (rows, columns) in enumerate(map_sizes(height, width, finest, coarsest), finest):
        count = rows * columns * per_cell
        if index < count:
            cell, number = divmod(index, per_cell)
            return [level, *divmod(cell, columns), number]
        index -= count
    raise IndexError("there are fewer anchors")
    # END SOLUTION


# %% tags=["check"]
check = Checks("Exercise 5")
with check("64 × 96 pixels divide without remainder"):
    equal(map_sizes(64, 96, 2, 5), [[16, 24], [8, 12], [4, 6], [2, 3]])
with check("100 × 75: 25 × 19, then 13 × 10"):
    equal(map_sizes(100, 75, 2, 4), [[25, 19], [13, 10], [7, 5]])
with check("the first anchor, the last of the first cell, the first of the second cell"):
    found = [locate(index, 100, 75, 2, 4, 3) for index in (0, 2, 3)]
    equal(found, [[2, 0, 0, 0], [2, 0, 0, 2], [2, 0, 1, 0]])
with check("the second row begins behind 19 cells"):
    equal(locate(3 * 19, 100, 75, 2, 4, 3), [2, 1, 0, 0])
with check("level 3 begins behind 25 · 19 cells"):
    equal(locate(3 * 25 * 19 + 3 * 11 + 1, 100, 75, 2, 4, 3), [3, 1, 1, 1])
check.report()

# %% [markdown]
# ## Exercise 6. The pyramid (2 points)
#
# With the stages $x_l$ of a backbone, the finest first:
#
# $$t_l = \text{lateral}_l(x_l) + \text{up}(t_{l+1}), \qquad p_l = \text{output}_l(t_l) ,$$
#
# and no second term for the coarsest level. A lateral is a 1 × 1 convolution, an output a 3 × 3 convolution
# with padding 1. $\text{up}$ enlarges by nearest neighbour *to the size of the finer map*. That is not always
# twice as large: sides may be odd, and behind a dilated stage both maps have the same size. Row $i$ of a map
# with $h$ rows reads row $\lfloor i \, h' / h \rfloor$ of the one with $h'$ rows, and columns likewise.
# (`F.interpolate(..., size=..., mode="nearest")` does so.)


# %% exercise="fpn"
def fpn(stages, laterals, outputs):
    """A feature pyramid.

    Args:
        stages: a list of (B, C_l, H_l, W_l), the finest first; none is larger than the one before.
        laterals: a list of (weight (D, C_l, 1, 1), bias (D,)), in the same order.
        outputs: a list of (weight (D, D, 3, 3), bias (D,)), in the same order.

    Returns:
        A list of (B, D, H_l, W_l), the finest first.
    """
    # BEGIN SOLUTION
    pyramid, top_down = [], None
    for x, lateral, output in reversed(list(zip(stages, laterals, outputs, strict=True))):
        t = F.conv2d(x, *lateral)
        if top_down is not None:
            t = t + F.interpolate(top_down, size=t.shape[-2:], mode="nearest")
        pyramid.insert(0, F.conv2d(t, *output, padding=1))
        top_down = t
    return pyramid
    # END SOLUTION


# %% [markdown]
# By hand, with one channel: the finer map has one row of three pixels, the coarser one of two. The lateral
# of the finer level multiplies by 1, that of the coarser one by 10. Both outputs read the pixel to the
# left, and 0 outside.

# %% tags=["check"]
finer, coarser = torch.tensor([[[[1.0, 2, 3]]]]), torch.tensor([[[[4.0, 5]]]])
by_1, by_10 = ((torch.full((1, 1, 1, 1), value), torch.zeros(1)) for value in (1.0, 10.0))
left = torch.zeros(1, 1, 3, 3)
left[0, 0, 1, 0] = 1.0
to_the_left = (left, torch.zeros(1))

check = Checks("Exercise 6")
with check("one map for each stage, of its size"):
    found = fpn([finer, coarser], [by_1, by_10], [to_the_left, to_the_left])
    equal([list(p.shape) for p in found], [[1, 1, 1, 3], [1, 1, 1, 2]])
with check("the coarser level: 40, 50, shifted"):
    equal(fpn([finer, coarser], [by_1, by_10], [to_the_left, to_the_left])[1][0, 0], [[0, 40]])
with check("the finer level: 1 + 40, 2 + 40, 3 + 50, shifted; the 40 and 50 before their output"):
    equal(fpn([finer, coarser], [by_1, by_10], [to_the_left, to_the_left])[0][0, 0], [[0, 41, 42]])
with check("two maps of one size: 1 + 10, 2 + 20, shifted"):
    found = fpn([finer, finer], [by_1, by_10], [to_the_left, to_the_left])
    equal(found[0][0, 0], [[0, 11, 22]])
with check("one level alone has no top-down path"):
    equal(fpn([finer], [by_1], [to_the_left])[0][0, 0], [[0, 1, 2]])
check.report()

# %% tags=["probes"]
import math

import numpy as np
import torch

NEAR = Tolerance(rtol=1e-4, atol=1e-5)


def clusters(rng, number):
    """Boxes in clusters of close ones, with different scores, in random order."""
    middles = rng.integers(20, 200, (number, 2))
    rows = [
        [x + dx, y + dy, x + dx + w, y + dy + h]
        for x, y in middles.tolist()
        for dx, dy, w, h in rng.integers(
            [0, 0, 25, 25], [9, 9, 40, 40], (int(rng.integers(2, 6)), 4)
        ).tolist()
    ]
    boxes = np.array(rows, np.float32)[rng.permutation(len(rows))]
    scores = (rng.permutation(90)[: len(boxes)] + 5).astype(np.float32) / 100
    return torch.from_numpy(boxes), torch.from_numpy(scores)


def nms_inputs(rng):
    cases = []
    for number in range(5):
        boxes, scores = clusters(rng, 5)
        # A pair with an IoU of exactly one half, of one class and far from all others.
        pair = torch.tensor([[300.0, 0, 320, 8], [300, 0, 310, 8]])
        boxes, scores = torch.cat([boxes, pair]), torch.cat([scores, torch.tensor([0.99, 0.98])])
        labels = torch.from_numpy(rng.integers(0, 2, len(boxes)))
        labels[-2:] = 1
        limit = 6 if number % 2 else 100
        case = {
            "boxes": boxes,
            "scores": scores,
            "labels": labels,
            "threshold": 0.5,
            "limit": limit,
        }
        cases.append(case)
    return cases


def iou_of(a, b):
    sides = [min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return both / (sum(areas) - both)


def right_nms(boxes, scores, labels, threshold, limit, mistake=""):
    rows = boxes.tolist()
    order = sorted(range(len(rows)), key=lambda k: (-float(scores[k]), k))
    kept, removed = [], set()
    for k in order:
        if k in removed:
            continue
        kept.append(k)
        for j in order:
            iou = iou_of(rows[k], rows[j])
            over = iou >= threshold if mistake == "equal" else iou > threshold
            if j not in kept and over and (mistake == "classes" or labels[j] == labels[k]):
                removed.add(j)
    if mistake == "limit":  # of each class
        return [k for k in kept if [j for j in kept if labels[j] == labels[k]].index(k) < limit]
    return kept[:limit]


def soft_inputs(rng):
    cases = []
    for sigma in (0.2, 0.5, 0.8, 0.5):
        boxes, scores = clusters(rng, 3)
        case = {
            "boxes": boxes,
            "scores": scores,
            "sigma": sigma,
            "min_score": float(rng.uniform(0.02, 0.15)),
        }
        cases.append(case)
    # A chain in which the order changes: the second falls below the third.
    chain = torch.tensor([[0.0, 0, 8, 10], [1, 0, 9, 10], [5, 0, 13, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7]) - float(rng.uniform(0, 0.05))
    cases.append({"boxes": chain, "scores": scores, "sigma": 0.4, "min_score": 0.01})
    return cases


def right_soft(boxes, scores, sigma, min_score, mistake=""):
    rows, current = boxes.double().tolist(), scores.double().tolist()
    order = sorted(range(len(rows)), key=lambda k: (-current[k], k))
    waiting, final = set(range(len(rows))), [0.0] * len(rows)
    while waiting:
        chosen = max(waiting, key=lambda k: (current[k], -k))
        if mistake == "order":
            chosen = next(k for k in order if k in waiting)
        waiting.remove(chosen)
        final[chosen] = current[chosen]
        for k in waiting:
            iou = iou_of(rows[chosen], rows[k])
            current[k] *= math.exp(-(iou if mistake == "square" else iou**2) / sigma)
    if mistake == "low":
        return np.array(final)
    return np.array([0.0 if score < min_score else score for score in final])


def discs(rng):
    """Masks in clusters of close ones, one of them empty."""
    y, x = np.mgrid[:40, :40]
    masks = []
    for _ in range(3):
        middle = rng.integers(10, 30, 2)
        for _ in range(int(rng.integers(2, 5))):
            dy, dx = middle + rng.integers(-3, 4, 2)
            masks.append((y - dy) ** 2 + (x - dx) ** 2 < rng.integers(30, 70))
    masks.append(np.zeros((40, 40), bool))
    return np.stack(masks)[rng.permutation(len(masks))]


def matrix_inputs(rng):
    cases = []
    for sigma in (0.3, 0.5, 0.5, 1.0):
        masks = discs(rng)
        scores = (rng.permutation(90)[: len(masks)] + 5).astype(np.float32) / 100
        cases.append(
            {
                "masks": torch.from_numpy(masks),
                "scores": torch.from_numpy(scores),
                "labels": torch.from_numpy(rng.integers(0, 2, len(masks))),
                "sigma": sigma,
            }
        )
    return cases


def right_matrix(masks, scores, labels, sigma, mistake=""):
    order = sorted(range(len(masks)), key=lambda k: (-float(scores[k]), k))
    pixels = [masks[k].numpy() for k in order]

    def overlap(i, j):
        if labels[order[i]] != labels[order[j]] and mistake != "classes":
            return 0.0
        union = (pixels[i] | pixels[j]).sum()
        return float((pixels[i] & pixels[j]).sum() / union) if union else 0.0

    new = np.zeros(len(order))
    for j, k in enumerate(order):
        factors = [1.0]
        for i in range(j):
            covered = max((overlap(m, i) for m in range(i)), default=0.0)
            if mistake == "compensation":
                covered = 0.0
            factors.append(math.exp(-(overlap(i, j) ** 2 - covered**2) / sigma))
        new[j if mistake == "sorted" else k] = float(scores[k]) * min(factors)
    return new


def level_inputs(rng):
    cases = []
    for s0, k0, finest, coarsest in ((224, 4, 2, 5), (32, 3, 2, 4), (64, 3, 1, 6)):
        corner = rng.integers(0, 50, (12, 2))
        sides = np.exp(rng.uniform(np.log(s0 / 40), np.log(s0 * 12), (12, 2))).round()
        sides[0], sides[1], sides[2], sides[3] = s0, s0 / 2, 0, s0 * 20
        sides[4], sides[5] = (s0 * 1.6, s0), (s0 * 0.8, s0 * 0.5)
        sides[6] = 1
        boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
        boxes = torch.from_numpy(boxes[rng.permutation(12)])
        cases.append({"boxes": boxes, "s0": s0, "k0": k0, "finest": finest, "coarsest": coarsest})
    return cases


def right_levels(boxes, s0, k0, finest, coarsest, mistake=""):
    levels = []
    for x1, y1, x2, y2 in boxes.tolist():
        area = (x2 - x1) * (y2 - y1)
        if area == 0:
            levels.append(finest)
            continue
        k = k0 + math.log2(math.sqrt(area) / s0)
        if mistake == "area":
            k = k0 + math.log2(area / s0)
        if mistake == "side":
            k = k0 + math.log2(max(x2 - x1, y2 - y1) / s0)
        k = round(k) if mistake == "round" else math.floor(k)
        levels.append(min(max(k, finest), coarsest))
    return np.array(levels, int)


def odd(rng):
    """A height and a width that are not multiples of 32, and differ."""
    height = int(rng.integers(3, 9)) * 32 + int(rng.integers(1, 16))
    return height, height + 16 + int(rng.integers(1, 16))


def size_inputs(rng):
    cases = []
    for finest, coarsest in ((2, 5), (3, 6), (2, 6), (1, 4)):
        height, width = odd(rng)
        cases.append({"height": height, "width": width, "finest": finest, "coarsest": coarsest})
    return cases


def right_sizes(height, width, finest, coarsest, mistake=""):
    sizes, rows, columns = [], height, width
    for level in range(1, coarsest + 1):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
        if mistake == "floor":
            rows, columns = height // 2**level, width // 2**level
        if mistake == "round":
            rows, columns = round(height / 2**level), round(width / 2**level)
        if level >= finest:
            sizes.append([columns, rows] if mistake == "swapped" else [rows, columns])
    return sizes


def place_inputs(rng):
    cases = []
    for case in size_inputs(rng):
        per_cell = int(rng.integers(3, 10))
        counts = [h * w * per_cell for h, w in right_sizes(**case)]
        for level in rng.permutation(len(counts))[:3].tolist():
            # Not in the first row or column, not the first of its cell.
            rows, columns = right_sizes(**case)[level]
            row, column = int(rng.integers(1, rows)), int(rng.integers(1, columns))
            inside = (row * columns + column) * per_cell + int(rng.integers(1, per_cell))
            cases.append({"index": sum(counts[:level]) + inside, **case, "per_cell": per_cell})
    return cases


def right_place(index, height, width, finest, coarsest, per_cell, mistake=""):
    sizes = right_sizes(height, width, finest, coarsest)
    for level, (rows, columns) in enumerate(sizes, finest):
        if index < rows * columns * per_cell:
            shape = (rows, columns, per_cell)
            if mistake == "anchor-major":
                number, row, column = np.unravel_index(index, (per_cell, rows, columns))
            elif mistake == "column-major":
                column, row, number = np.unravel_index(index, (columns, rows, per_cell))
            else:
                row, column, number = np.unravel_index(index, shape)
            first = level - finest if mistake == "level" else level
            return [int(v) for v in (first, row, column, number)]
        index -= rows * columns * per_cell
    raise AssertionError("an index beyond the last anchor")


def fpn_inputs(rng):
    def convolution(outputs, inputs, kernel):
        weight = rng.normal(0, 0.5, (outputs, inputs, kernel, kernel)).astype(np.float32)
        return [
            torch.from_numpy(weight),
            torch.from_numpy(rng.normal(0, 1, outputs).astype(np.float32)),
        ]

    cases = []
    for levels in (2, 3, 4):
        height, width = rng.integers(33, 60, 2).tolist()
        dilated = int(rng.integers(1, levels))  # as large as the stage before
        depth = int(rng.integers(2, 5))
        channels = rng.integers(2, 6, levels).tolist()
        stages = []
        for number, count in enumerate(channels):
            if number not in (0, dilated):
                height, width = (height + 1) // 2, (width + 1) // 2
            stage = rng.normal(0, 1, (2, count, height, width)).astype(np.float32)
            stages.append(torch.from_numpy(stage))
        cases.append(
            {
                "stages": stages,
                "laterals": [convolution(depth, count, 1) for count in channels],
                "outputs": [convolution(depth, depth, 3) for _ in channels],
            }
        )
    return cases


def right_fpn(stages, laterals, outputs, mistake=""):
    from torch.nn import functional as F

    pyramid, below = [], None
    for x, (weight, bias), output in list(zip(stages, laterals, outputs, strict=True))[::-1]:
        t = torch.einsum("bchw,dc->bdhw", x, weight[:, :, 0, 0]) + bias[:, None, None]
        if below is not None and mistake != "no-path":
            rows = torch.arange(t.shape[2]) * below.shape[2] // t.shape[2]
            columns = torch.arange(t.shape[3]) * below.shape[3] // t.shape[3]
            up = below[:, :, rows][:, :, :, columns]
            if mistake == "bilinear":
                up = F.interpolate(below, size=t.shape[2:], mode="bilinear", align_corners=False)
            if mistake == "cropped":
                doubled = below.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                up = doubled[:, :, : t.shape[2], : t.shape[3]]
            t = t + up
        pyramid.append(F.conv2d(t, *output, padding=1))
        below = pyramid[-1] if mistake == "after" else t
    return pyramid[::-1]


def wrong(reference, mistake):
    """What a mistake gives: the reference with one switch."""
    return lambda **case: reference(**case, mistake=mistake)


ASSIGNMENT = Assignment(
    title="Warm-up: NMS and FPN",
    minutes=40,
    probes=[
        Probe(
            "nms",
            "nms",
            "nms_by_class",
            1,
            nms_inputs,
            right_nms,
            mistakes=(
                Mistake(
                    "Which boxes may a kept box remove: all, or those of its class?",
                    wrong(right_nms, "classes"),
                ),
                Mistake(
                    "What happens to a box whose IoU is exactly the threshold?",
                    wrong(right_nms, "equal"),
                ),
                Mistake("Of what are at most `limit` returned?", wrong(right_nms, "limit")),
            ),
        ),
        Probe(
            "soft",
            "soft",
            "soft_nms",
            2,
            soft_inputs,
            right_soft,
            NEAR,
            mistakes=(
                Mistake(
                    "Which box is chosen next after the scores have changed?",
                    wrong(right_soft, "order"),
                ),
                Mistake("Look at the exponent again.", wrong(right_soft, "square")),
                Mistake("What becomes of low scores at the end?", wrong(right_soft, "low")),
            ),
        ),
        Probe(
            "matrix",
            "matrix",
            "matrix_nms",
            2,
            matrix_inputs,
            right_matrix,
            NEAR,
            mistakes=(
                Mistake(
                    "How much may a mask lower others that is covered itself?",
                    wrong(right_matrix, "compensation"),
                ),
                Mistake(
                    "Which pairs of masks have an overlap of 0?", wrong(right_matrix, "classes")
                ),
                Mistake(
                    "In which order are the new scores expected?", wrong(right_matrix, "sorted")
                ),
            ),
        ),
        Probe(
            "levels",
            "levels",
            "levels_of",
            1,
            level_inputs,
            right_levels,
            mistakes=(
                Mistake("Is s0 a side or an area?", wrong(right_levels, "area")),
                Mistake("Which way is the level rounded?", wrong(right_levels, "round")),
                Mistake("Which side has a box that is no square?", wrong(right_levels, "side")),
            ),
        ),
        Probe(
            "sizes",
            "anchors",
            "map_sizes",
            1,
            size_inputs,
            right_sizes,
            mistakes=(
                Mistake(
                    "What becomes of a remainder when a map is halved?", wrong(right_sizes, "floor")
                ),
                Mistake(
                    "Halve step by step: which way is each remainder rounded?",
                    wrong(right_sizes, "round"),
                ),
                Mistake("Which comes first, height or width?", wrong(right_sizes, "swapped")),
            ),
        ),
        Probe(
            "place",
            "anchors",
            "locate",
            1,
            place_inputs,
            right_place,
            mistakes=(
                Mistake(
                    "Which comes first in the list: all cells of one anchor, or all anchors of one cell?",
                    wrong(right_place, "anchor-major"),
                ),
                Mistake(
                    "Is the second cell to the right of the first, or below it?",
                    wrong(right_place, "column-major"),
                ),
                Mistake("From which number do levels count?", wrong(right_place, "level")),
            ),
        ),
        Probe(
            "fpn",
            "fpn",
            "fpn",
            2,
            fpn_inputs,
            right_fpn,
            Tolerance(rtol=1e-3, atol=1e-3),
            mistakes=(
                Mistake(
                    "Which map goes up: the one before or after its output?",
                    wrong(right_fpn, "after"),
                ),
                Mistake("How is the coarser map enlarged?", wrong(right_fpn, "bilinear")),
                Mistake(
                    "Which row does row i read if both maps have the same size?",
                    wrong(right_fpn, "cropped"),
                ),
            ),
        ),
    ],
    forbidden=(
        "torchvision.ops.nms",
        "torchvision.ops.batched_nms",
        "torchvision.ops.boxes.nms",
        "torchvision.ops.boxes.batched_nms",
        "torch.ops.torchvision.nms",
        "torchvision.ops.FeaturePyramidNetwork",
        "labkit.ops.nms.nms_steps",
        "labkit.deploy.boxes.nms",
        "labkit.models.backbones.fpn.FPN",
        "labkit.models.rcnn.roi_pooler.assign_level",
    ),
    limits=Limits(cell_seconds=60, total_seconds=300),
)
