# %% [markdown]
# # Assignment 6. Set prediction
#
# DETR outputs a set. You write what that takes, in the variants that later work uses and notebook 8
# does not: the focal cost of a padded batch, a matching by auction with a proof of how good it is, a
# set loss with crowds, the denoising queries of DN-DETR. Then you count duplicates, and read out a
# panoptic map that tolerates them.
#
# **Before you begin:** notebook 8. **Time:** about two hours. **Points:** 20, of which 18 are
# computed and 2 are for a question.
#
# | exercise | points |
# | --- | --- |
# | 1 the cost matrix: plain, with padding and large logits | 2 + 1 |
# | 2 matching by auction, a lower bound | 2 + 1 |
# | 3 the set loss: values, gradients | 2 + 1 |
# | 4 denoising: boxes, attention mask | 1 + 1 |
# | 5 duplicates: counted, after NMS, in theory | 2 + 1 + 1 |
# | 6 the panoptic map: from clean queries, with duplicates | 2 + 1 |
# | question | 2 |
#
# Your functions will be called with other inputs than those below, drawn anew for every submission.
# Speed is not graded; loops are fine. You may call PyTorch, NumPy, `scipy` with its
# `linear_sum_assignment`, and `torchvision.ops.box_iou`, `nms` and `batched_nms`. You write the
# generalised IoU; `generalized_box_iou` and labkit's own matching, losses and read-out may not be
# called in your answers. Put imports and helper functions into your answer cells; a later answer may
# use a function of an earlier one.
#
# **Letters.** $B$ images, $Q$ queries, $C$ classes, $N$ objects. Classes are numbered from 0.
# Unless said otherwise a box is `cx, cy, w, h`, the centre and the sides as fractions of the image.
#
# **Padding.** The images of a batch have different numbers of objects. $N$ is the largest of them,
# and the rows of an image with fewer objects are filled up at their end: with the label −1 and the
# box 0, 0, 0, 0.

# %% tags=["setup"]
import math

import numpy as np
import torch
from torch.nn import functional as F

from labkit.checks import Checks, equal, has_shape

# %% [markdown]
# ## Exercise 1. The cost matrix (2 + 1 points)
#
# Many detectors after DETR have no ∅ output: each class has a sigmoid of its own, and "no object"
# means that all are low. With the probability $p = \mathrm{sigmoid}(z)$, where $z$ is the query's
# logit of the *object's* class, the class cost is a difference of two focal losses, that of the
# target 1 minus that of the target 0:
#
# $$F(p) = \tfrac14 \, (1 - p)^2 \, (-\log p) \; - \; \tfrac34 \, p^2 \, (-\log (1 - p)) .$$
#
# With the predicted box $\hat b$ and the object's box $b$ the cost is
#
# $$C = 2 \, F(p) + 5 \, \lVert \hat b - b \rVert_1 - 2 \, \mathrm{GIoU}(\hat b, b) .$$
#
# - $\lVert \cdot \rVert_1$ is the sum of the four absolute differences of `cx, cy, w, h`.
# - With $|\cdot|$ the area and $H$ the smallest box around both, $\mathrm{GIoU}$ is
#   $|\hat b \cap b| / |\hat b \cup b| - (|H| - |\hat b \cup b|) / |H|$.
# - Columns of padding are 0.
# - Logits between −100 and 100 must give finite costs. `sigmoid(100)` is exactly 1 in float32, so
#   $\log(1 - p)$ must not be computed from $p$: `F.logsigmoid(z)` is $\log p$, and
#   $1 - \mathrm{sigmoid}(z) = \mathrm{sigmoid}(-z)$.


# %% exercise="cost"
def cost_matrix(pred_logits, pred_boxes, gt_labels, gt_boxes):
    """Matching costs of a batch.

    Args:
        pred_logits: (B, Q, C) float32, no ∅ output.
        pred_boxes: (B, Q, 4) float32, with positive sides.
        gt_labels: (B, N) int64, -1 for padding.
        gt_boxes: (B, N, 4) float32, 0 for padding.

    Returns:
        (B, Q, N).
    """
    # BEGIN SOLUTION
    valid = gt_labels >= 0  # (B, N)
    queries = pred_logits.shape[1]
    at = gt_labels.clamp(min=0)[:, None].expand(-1, queries, -1)
    z = pred_logits.gather(2, at)  # (B, Q, N)
    positive = 0.25 * torch.sigmoid(-z) ** 2 * -F.logsigmoid(z)
    negative = 0.75 * torch.sigmoid(z) ** 2 * -F.logsigmoid(-z)
    a, b = pred_boxes[:, :, None], gt_boxes[:, None]  # (B, Q, 1, 4), (B, 1, N, 4)
    l1 = (a - b).abs().sum(dim=-1)
    cost = 2 * (positive - negative) + 5 * l1 - 2 * giou(corners(a), corners(b))
    return torch.where(valid[:, None], cost, 0.0)


def corners(boxes):
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def giou(a, b):
    """Of boxes (..., 4) x1, y1, x2, y2."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    both, hull = sides.clamp(min=0).prod(dim=-1), around.prod(dim=-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both
    return both / union - (hull - union) / hull
    # END SOLUTION


# %% [markdown]
# By hand: the object is at (0.3, 0.3, 0.2, 0.4), and the logits are 0, so $p = \frac12$ and
# $F = (\frac1{16} - \frac3{16}) \ln 2 = -\frac18 \ln 2$. Query 0 at (0.3, 0.4, 0.2, 0.4): $L_1 = 0.1$;
# three quarters of each box are in the other: of the height 0.5 that they cover they share 0.3, so
# $\mathrm{IoU} = 0.3 / 0.5 = 0.6$, and $H$ is the union. Query 1 at (0.7, 0.3, 0.2, 0.4): $L_1 = 0.4$, IoU 0,
# and a third of $H$ (0.6 × 0.4) is in neither box, so $\mathrm{GIoU} = -\frac13$.

# %% tags=["check"]
two_queries = torch.tensor([[[0.3, 0.4, 0.2, 0.4], [0.7, 0.3, 0.2, 0.4]]])  # B = 1, Q = 2
one_object = torch.tensor([[[0.3, 0.3, 0.2, 0.4]]])  # N = 1
of_class_1 = torch.tensor([[1]])


def costs_of(logits, labels=of_class_1, boxes=one_object):
    """The costs of the two queries, with these logits of the classes 0 and 1."""
    repeated = torch.tensor(logits).expand(1, 2, 2)
    return cost_matrix(repeated, two_queries, labels, boxes)


padded = torch.tensor([[1, -1]]), torch.cat([one_object, torch.zeros(1, 1, 4)], dim=1)

check = Checks("Exercise 1")
with check("one cost for each query and object: (B, Q, N)"):
    has_shape(costs_of([0.0, 0.0]), (1, 2, 1))
with check("query 0: 2 F + 0.5 − 1.2"):
    equal(costs_of([0.0, 0.0])[0, 0, 0], -math.log(2) / 4 + 0.5 - 1.2, within=1e-5)
with check("query 1: 2 F + 2 + 2/3"):
    equal(costs_of([0.0, 0.0])[0, 1, 0], -math.log(2) / 4 + 2 + 2 / 3, within=1e-5)
with check("the logit of class 0 is of no importance for an object of class 1"):
    equal(costs_of([9.0, 0.0])[0, 0, 0], -math.log(2) / 4 + 0.5 - 1.2, within=1e-5)
with check("a logit of 100: 2 · (−3/4 · 100)"):
    equal(costs_of([0.0, 100.0])[0, 0, 0], -150 + 0.5 - 1.2, within=1e-3)
with check("a logit of −100: 2 · 1/4 · 100"):
    equal(costs_of([0.0, -100.0])[0, 0, 0], 50 + 0.5 - 1.2, within=1e-3)
with check("a column of padding is 0"):
    equal(costs_of([0.0, 0.0], *padded)[0, :, 1], [0, 0])
check.report()

# %% [markdown]
# ## Exercise 2. An auction (2 + 1 points)
#
# Notebook 8 subtracts from rows and columns. Bertsekas' **auction** finds a matching as a market
# does: objects bid for queries. Query $q$ has a price $\lambda_q$, 0 at first. A queue holds the
# objects 0, 1, … $n - 1$, in this order. Until it is empty:
#
# 1. Take the first object $i$ from the queue. What query $q$ would cost it is $C_{q,i} + \lambda_q$.
# 2. Let $q$ be the query with the lowest of these numbers (of equal ones the lowest $q$), $w_1$ that
#    number, and $w_2$ the lowest number among *all other* queries.
# 3. Object $i$ raises $\lambda_q$ by $w_2 - w_1 + \varepsilon$ and gets query $q$. An object that had
#    $q$ before loses it and goes to the end of the queue.
#
# Every step is one *bid*. The total cost of the result is at most $n \varepsilon$ above the optimum;
# a small $\varepsilon$ needs more bids. (So a solver that finds the optimum does not give the same
# matching, and no prices.)
#
# How can one be sure? By the prices. For *any* prices $\lambda_q \ge 0$ no matching costs less than
#
# $$\sum_i \min_q \, (C_{q,i} + \lambda_q) \; - \; \sum_q \lambda_q ,$$
#
# because an object with query $q$ contributes $C_{q,i} + \lambda_q$ minus the price of that query, and
# no price is subtracted twice. If this **lower bound** is equal to the total cost of a matching, that
# matching is the best one, and nobody has to try the others.


# %% exercise="auction"
def auction(cost, epsilon):
    """A matching by auction.

    Args:
        cost: (Q, n) float64 array of NumPy; Q is at least 2, and n at most Q.
        epsilon: a positive number.

    Returns:
        {"query_of": (n,) integers, the query of each object, "prices": (Q,), "bids": their number}
    """
    # BEGIN SOLUTION
    prices, object_of = np.zeros(len(cost)), {}
    waiting, bids = list(range(cost.shape[1])), 0
    while waiting:
        i = waiting.pop(0)
        bids += 1
        expense = cost[:, i] + prices
        q = int(expense.argmin())
        prices[q] += np.delete(expense, q).min() - expense[q] + epsilon
        if q in object_of:
            waiting.append(object_of[q])
        object_of[q] = i
    query_of = sorted(object_of, key=object_of.get)
    return {"query_of": np.array(query_of, dtype=np.int64), "prices": prices, "bids": bids}
    # END SOLUTION


# %% exercise="bound"
def lower_bound(cost, prices):
    """A number that no matching's total cost is below.

    Args:
        cost: (Q, n) float64 array of NumPy.
        prices: (Q,) float64, none negative.

    Returns:
        A number.
    """
    # BEGIN SOLUTION
    return float((cost + prices[:, None]).min(axis=0).sum() - prices.sum())
    # END SOLUTION


# %% [markdown]
# By hand, with $\varepsilon = \frac12$: objects A and B both prefer query 0.
#
# | cost | A | B |
# | --- | --- | --- |
# | query 0 | 1 | 2 |
# | query 1 | 4 | 6 |
# | query 2 | 9 | 9 |
#
# With their prices the queries cost A 1, 4, 9: it takes query 0 and raises its price by 4 − 1 + ½ to
# 3.5. They cost B 5.5, 6, 9: it takes query 0, too, and raises its price by 6 − 5.5 + ½ to 4.5. A has
# lost its query. Now they cost A 5.5, 4, 9: it takes query 1 and raises its price by 5.5 − 4 + ½ to 2.
# The total cost is 4 + 2 = 6. The lower bound of these prices is (5.5 + 6.5) − 6.5 = 5.5; since the
# costs are whole numbers, no matching costs less than 6.

# %% tags=["check"]
small_cost = np.array([[1.0, 2], [4, 6], [9, 9]])
equal_costs = np.full((3, 2), 7.0)

check = Checks("Exercise 2")
with check("A gets query 1, B query 0"):
    equal(auction(small_cost, 0.5)["query_of"], [1, 0])
with check("after three bids"):
    equal(auction(small_cost, 0.5)["bids"], 3)
with check("the prices"):
    equal(auction(small_cost, 0.5)["prices"], [4.5, 2, 0], within=1e-9)
with check("equal costs: the lowest query first, then one that has no price yet"):
    equal(auction(equal_costs, 0.25)["query_of"], [0, 1])
with check("where w₂ = w₁ the price rises by ε alone"):
    equal(auction(equal_costs, 0.25)["prices"], [0.25, 0.25, 0], within=1e-9)
with check("a displaced object waits behind the others"):
    all_want_0 = np.array([[1.0, 1, 1], [1, 2, 1], [1, 2, 1]])
    equal(auction(all_want_0, 0.5)["query_of"], [2, 0, 1])
with check("ε = 4, one bid each: a total of 7, which is not the optimum"):
    found = auction(small_cost, 4.0)
    equal(found["query_of"], [0, 1])
    equal(found["bids"], 2)
with check("the lower bound of these prices"):
    equal(lower_bound(small_cost, np.array([4.5, 2, 0])), 5.5, within=1e-9)
with check("without prices: each object its cheapest query, 1 + 2"):
    equal(lower_bound(small_cost, np.zeros(3)), 3, within=1e-9)
with check("a price that nobody wants to pay makes the bound worse"):
    equal(lower_bound(small_cost, np.array([0, 0, 5.0])), -2, within=1e-9)
check.report()

# %% [markdown]
# ## Exercise 3. The set loss (2 + 1 points)
#
# Now with a softmax and ∅, as in notebook 8, but for a padded batch, with the matching given, and with
# crowds. A query on a **crowd** (a region of many objects without masks of their own) may well be right,
# so the loss must not train it towards ∅. The target class of a query with an object is that of
# the object, of all others ∅, the *last* output. The weight $w$ of a query is
#
# - 1 if it has an object, on a crowd or not;
# - otherwise 0 if it lies on a crowd;
# - otherwise `eos_coef`.
#
# $$L_{ce} = \frac{\sum w \, (-\log p(\text{target}))}{\sum w}, \qquad
# L_{bbox} = \frac5n \sum \lVert \hat b - b \rVert_1, \qquad
# L_{giou} = \frac2n \sum (1 - \mathrm{GIoU}(\hat b, b)) .$$
#
# The sums of $L_{ce}$ run over all queries of *all images of the batch*; if all weights are 0,
# $L_{ce}$ is 0. Those of the box losses run over all matched pairs of the batch. $n$ is the number of
# *objects* in the batch, or 1 if there is none: padding does not count, an object that got no query does.
# (Why not the mean of the images' losses? Then a box would weigh more in an image with few objects.)


# %% exercise="loss"
def set_losses(pred_logits, pred_boxes, gt_labels, gt_boxes, query_of, on_crowd, eos_coef):
    """The losses of a batch.

    Args:
        pred_logits: (B, Q, C + 1) float32; the last output is ∅.
        pred_boxes: (B, Q, 4) float32.
        gt_labels: (B, N) int64, -1 for padding.
        gt_boxes: (B, N, 4) float32.
        query_of: (B, N) int64, the query of each object; -1 for padding, and for an object without
            a query.
        on_crowd: (B, Q) bool.
        eos_coef: a number.

    Returns:
        {"loss_ce": ..., "loss_bbox": ..., "loss_giou": ...}, tensors without dimensions,
        differentiable with respect to pred_logits and pred_boxes.
    """
    # BEGIN SOLUTION
    image, number = torch.nonzero(query_of >= 0, as_tuple=True)
    query = query_of[image, number]
    target = torch.full(pred_logits.shape[:2], pred_logits.shape[2] - 1)
    target[image, query] = gt_labels[image, number]
    weight = torch.where(on_crowd, 0.0, float(eos_coef))
    weight[image, query] = 1.0
    each = F.cross_entropy(pred_logits.transpose(1, 2), target, reduction="none")
    n = max(int((gt_labels >= 0).sum()), 1)
    a, b = pred_boxes[image, query], gt_boxes[image, number]
    return {
        "loss_ce": (weight * each).sum() / weight.sum().clamp(min=1e-12),
        "loss_bbox": 5 * (a - b).abs().sum() / n,
        "loss_giou": 2 * (1 - giou(corners(a), corners(b))).sum() / n,
    }
    # END SOLUTION


# %% [markdown]
# By hand: one class, two images with three queries each, and the probabilities of the class are ½, ¼
# and ⅛ in both. The first image has the object of exercise 1; query 0 has it, query 2 lies on a crowd.
# The second image has no object. With `eos_coef` 0.1
#
# $$L_{ce} = \frac{-\ln \frac12 - 0.1 \ln \frac34 - 0.1 \, (\ln \frac12 + \ln \frac34 + \ln \frac78)}
# {1 + 0.1 + 0.3} .$$
#
# The box of query 0 is that of exercise 1, with $L_1 = 0.1$ and GIoU 0.6.

# %% tags=["check"]
of_class = torch.tensor([0.5, 0.25, 0.125])
six_logits = torch.stack([of_class, 1 - of_class], dim=1).log().expand(2, 3, 2)
six_boxes = two_queries[:, [0, 1, 1]].expand(2, 3, 4)
nowhere, third = torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
third[0, 2] = True


def losses_of(labels=((0,), (-1,)), query_of=((0,), (-1,)), on_crowd=third):
    """The losses of the example, as plain numbers."""
    boxes = torch.cat([one_object, torch.zeros(1, 1, 4)])
    arguments = torch.tensor(labels), boxes, torch.tensor(query_of), on_crowd
    found = set_losses(six_logits, six_boxes, *arguments, 0.1)
    return {name: float(value) for name, value in found.items()}


half, quarter, eighth = math.log(1 / 2), math.log(3 / 4), math.log(7 / 8)  # of ∅

check = Checks("Exercise 3")
with check("loss_ce: five of the six queries count"):
    expected = -(half + 0.1 * quarter + 0.1 * (half + quarter + eighth)) / 1.4
    equal(losses_of()["loss_ce"], expected, within=1e-5)
with check("loss_bbox: 5 · 0.1 for one object"):
    equal(losses_of()["loss_bbox"], 0.5, within=1e-5)
with check("loss_giou: 2 · (1 − 0.6)"):
    equal(losses_of()["loss_giou"], 0.8, within=1e-5)
with check("a query with an object has the weight 1, also on a crowd"):
    everywhere = torch.ones(2, 3, dtype=torch.bool)
    equal(losses_of(on_crowd=everywhere)["loss_ce"], math.log(2), within=1e-5)
with check("an object without a query is an object: n = 2 halves the box losses"):
    more = losses_of(labels=((0,), (0,)))
    equal([more["loss_bbox"], more["loss_giou"]], [0.25, 0.4], within=1e-5)
with check("no object in the whole batch: no box loss, and all queries have the target ∅"):
    none = losses_of(((-1,), (-1,)), ((-1,), (-1,)), nowhere)
    expected = {"loss_ce": -(half + quarter + eighth) / 3, "loss_bbox": 0, "loss_giou": 0}
    equal(none, expected, within=1e-5)
with check("all queries on a crowd and no object: nothing to learn"):
    none = losses_of(((-1,), (-1,)), ((-1,), (-1,)), torch.ones(2, 3, dtype=torch.bool))
    equal(none["loss_ce"], 0)
check.report()

# %% [markdown]
# ## Exercise 4. Denoising queries (1 + 1 points)
#
# At first the matching changes from step to step (notebook 8, section 8.8). DN-DETR adds queries that
# need no matching: they *start* from ground-truth boxes with noise, and learn to give these boxes back.
# There are $G$ groups, each with one query for each of the $n$ objects of the image.
#
# **Boxes.** With the noise $u = (u_1, u_2, u_3, u_4)$, each number in $[-1, 1]$, and a scale $s$, the
# centre moves by $s \, u_1 \frac w2$ and $s \, u_2 \frac h2$, and the sides grow by $s \, u_3 \, w$ and
# $s \, u_4 \, h$, where $w$ and $h$ are the sides *before*. Then all four numbers are clamped to
# $[0, 1]$ (the numbers, not the corners; a box may reach beyond the image).
#
# **Attention mask.** All queries go through the decoder together: first the $G \cdot n$ denoising
# queries, group by group, then the $Q$ ordinary ones, $S = G n + Q$ in all. In self-attention
#
# - an ordinary query may not attend to any denoising query: it would read the answer there, which does
#   not exist in prediction;
# - a denoising query may not attend to those of another group, which know the same object;
# - everything else is allowed.


# %% exercise="denoising"
def denoising_boxes(gt_boxes, noise, scale):
    """Ground-truth boxes with noise.

    Args:
        gt_boxes: (n, 4) float32.
        noise: (G, n, 4) float32, in -1..1.
        scale: s.

    Returns:
        (G, n, 4).
    """
    # BEGIN SOLUTION
    w_h = gt_boxes[:, 2:]
    reach = torch.cat([w_h / 2, w_h], dim=1)
    return (gt_boxes + scale * noise * reach).clamp(0, 1)
    # END SOLUTION


def attention_mask(groups, objects, queries):
    """Which query may not attend to which.

    Args:
        groups: G; 0 is possible.
        objects: n; 0 is possible.
        queries: Q, at least 1.

    Returns:
        (S, S) bool: entry [a, b] is True if query a may NOT attend to query b.
    """
    # BEGIN SOLUTION
    group = torch.arange(groups * objects + queries) // max(objects, 1)
    ordinary = torch.arange(len(group)) >= groups * objects
    group[ordinary] = -1
    return ~ordinary & (group[:, None] != group)
    # END SOLUTION


# %% tags=["check"]
noise = torch.tensor([[[1.0, -1, 0.5, 0]], [[0, 0, -1, 1]]])  # G = 2, n = 1

check = Checks("Exercise 4")
with check("one box for each group and object: (G, n, 4)"):
    has_shape(denoising_boxes(one_object[0], noise, 0.4), (2, 1, 4))
with check(
    "(0.3, 0.3, 0.2, 0.4): the centre by 0.4 · 0.1 and −0.4 · 0.2, the width by 0.4 · ½ · 0.2"
):
    equal(denoising_boxes(one_object[0], noise, 0.4)[0], [[0.34, 0.22, 0.24, 0.4]], within=1e-6)
with check("the width loses 0.4 · 0.2, the height gains 0.4 · 0.4"):
    equal(denoising_boxes(one_object[0], noise, 0.4)[1], [[0.3, 0.3, 0.12, 0.56]], within=1e-6)
with check("clamped to 0..1"):
    large = denoising_boxes(torch.tensor([[0.9, 0.1, 0.8, 0.8]]), noise[:1], 1.0)
    equal(large, [[[1, 0, 1, 0.8]]], within=1e-6)
with check("2 groups of 1 object, 1 ordinary query: (3, 3)"):
    has_shape(attention_mask(2, 1, 1), (3, 3))
with check(
    "two denoising queries of different groups do not see each other; both see the ordinary query"
):
    equal(attention_mask(2, 1, 1)[:2], [[False, True, False], [True, False, False]])
with check("the ordinary query sees itself alone"):
    equal(attention_mask(2, 1, 1)[2], [True, True, False])
with check("within a group everything is seen"):
    equal(attention_mask(1, 2, 1)[:2], [[False] * 3] * 2)
with check("no objects: only ordinary queries, nothing is forbidden"):
    equal(attention_mask(3, 0, 2), [[False] * 2] * 2)
check.report()

# %% [markdown]
# ## Exercise 5. Duplicates (2 + 1 + 1 points)
#
# **Counted.** Go through the predictions of an image in order of their scores, highest first (of equal
# ones the lowest index first). Consider the ground-truth objects *of the prediction's class*, without
# crowds, with which it has an IoU of *at least* `threshold`.
#
# - If some of them are still free: a **true positive**. It takes the free one with the highest IoU (of
#   equal ones the lowest index).
# - Otherwise, if a *single* crowd of its class covers at least the share `threshold` of the *prediction's
#   own area* (intersection / area of the prediction): **ignored**. A crowd can cover any number of
#   predictions.
# - Otherwise, if there are such objects (all of them taken): a **duplicate**.
# - Otherwise: **another error**.
#
# **After NMS.** NMS among the predictions of each class, with the given threshold, then the same counts.
#
# **In theory.** A decoder that cannot tell $m$ queries apart gives all of them the same probability $p$
# of a class (and $1 - p$ of ∅). The matching gives $n$ of them objects of this class, the other $m - n$
# the target ∅. Which $p$ minimises $L_{ce}$, with weight 1 for a query with an object and `eos_coef` for
# one without?


# %% exercise="outcomes"
def outcomes(boxes, scores, labels, gt_boxes, gt_labels, gt_crowd, threshold):
    """What became of the predictions of an image.

    Args:
        boxes: (P, 4) float32, here x1, y1, x2, y2 in pixels.
        scores: (P,) float32, in no order.
        labels: (P,) int64.
        gt_boxes: (N, 4) float32, x1, y1, x2, y2.
        gt_labels: (N,) int64; N and P may be 0.
        gt_crowd: (N,) bool.
        threshold: of the IoU, and of the share.

    Returns:
        [true positives, duplicates, other errors, ignored]
    """
    # BEGIN SOLUTION
    from torchvision.ops import box_iou

    iou, taken, counts = box_iou(boxes, gt_boxes), set(), [0, 0, 0, 0]
    for p in scores.argsort(descending=True, stable=True).tolist():
        of_class = [g for g in range(len(gt_labels)) if gt_labels[g] == labels[p]]
        near = [g for g in of_class if not gt_crowd[g] and iou[p, g] >= threshold]
        free = [g for g in near if g not in taken]
        if free:
            taken.add(max(free, key=lambda g: (float(iou[p, g]), -g)))
            counts[0] += 1
        elif any(gt_crowd[g] and covered(boxes[p], gt_boxes[g]) >= threshold for g in of_class):
            counts[3] += 1
        else:
            counts[1 if near else 2] += 1
    return counts


def covered(box, crowd):
    sides = torch.minimum(box[2:], crowd[2:]) - torch.maximum(box[:2], crowd[:2])
    return sides.clamp(min=0).prod() / (box[2:] - box[:2]).prod()
    # END SOLUTION


# %% exercise="nms"
def outcomes_after_nms(boxes, scores, labels, gt_boxes, gt_labels, gt_crowd, threshold, nms_thresh):
    """The same after NMS within each class.

    Args:
        boxes, scores, labels, gt_boxes, gt_labels, gt_crowd, threshold: as above.
        nms_thresh: a box is removed if its IoU with a kept one of its class is above it.

    Returns:
        [true positives, duplicates, other errors, ignored]
    """
    # BEGIN SOLUTION
    from torchvision.ops import batched_nms

    kept = batched_nms(boxes, scores, labels, nms_thresh)
    gt = gt_boxes, gt_labels, gt_crowd
    return outcomes(boxes[kept], scores[kept], labels[kept], *gt, threshold)
    # END SOLUTION


# %% exercise="copies"
def confidence_of_copies(copies, objects, eos_coef):
    """The probability that queries have which the decoder cannot tell apart.

    Args:
        copies: m, at least 1.
        objects: n, between 0 and m.
        eos_coef: a positive number.

    Returns:
        p, in 0..1.
    """
    # BEGIN SOLUTION
    return objects / (objects + eos_coef * (copies - objects))
    # END SOLUTION


# %% tags=["check"]
true_boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60], [0, 30, 40, 70]])
true_labels = torch.tensor([0, 0, 1, 0])
the_last_is_a_crowd = torch.tensor([False, False, False, True])
same, half_box = [0.0, 0, 10, 10], [50.0, 50, 60, 55]
inside, half_inside = [5.0, 40, 15, 50], [35.0, 40, 45, 50]  # of the crowd


def of_class_0(boxes, crowds):
    """Ground truth: boxes of class 0, and which of them are crowds."""
    return torch.tensor(boxes), torch.zeros(len(boxes), dtype=torch.int64), torch.tensor(crowds)


def counted(*rows, gt=(true_boxes, true_labels, the_last_is_a_crowd), nms_thresh=None):
    """The outcomes of predictions (box, score, label)."""
    boxes = torch.tensor([box for box, _, _ in rows]).reshape(-1, 4)
    scores = torch.tensor([score for _, score, _ in rows])
    labels = torch.tensor([label for _, _, label in rows], dtype=torch.int64)
    arguments = boxes, scores, labels, *gt, 0.5
    if nms_thresh is None:
        return list(map(int, outcomes(*arguments)))
    return list(map(int, outcomes_after_nms(*arguments, nms_thresh)))


check = Checks("Exercise 5")
with check("nothing is predicted"):
    equal(counted(), [0, 0, 0, 0])
with check("an IoU of exactly the threshold is enough; the wrong class is another error"):
    equal(counted((half_box, 0.9, 1), (half_box, 0.8, 0)), [1, 0, 1, 0])
with check("objects 0 and 1 have an IoU of 2/3: a second box on 0 takes the free object 1"):
    equal(counted((same, 0.9, 0), (same, 0.8, 0)), [2, 0, 0, 0])
with check("and a third one is a duplicate"):
    equal(counted((same, 0.9, 0), (same, 0.8, 0), (same, 0.7, 0)), [2, 1, 0, 0])
with check("the higher score comes first, wherever it stands"):
    on_1, right_of_1 = [2.0, 0, 12, 10], [4.5, 0, 14.5, 10]  # IoU of the second with object 1: 0.6
    equal(counted((on_1, 0.5, 0), (right_of_1, 0.9, 0)), [2, 0, 0, 0])
with check("of the free objects it takes the one with the highest IoU, not the first"):
    left_of_0 = [-2.0, 0, 8, 10]  # IoU with object 0: 2/3, with object 1: 3/7
    equal(counted((on_1, 0.9, 0), (left_of_0, 0.8, 0)), [2, 0, 0, 0])
with check("two boxes on the crowd, of which one lies half outside: both are ignored"):
    equal(counted((inside, 0.9, 0), (half_inside, 0.8, 0)), [0, 0, 0, 2])
with check("on a crowd and near an object: it takes the free object; if that is taken, ignored"):
    gt = of_class_0([same, [0.0, 0, 40, 40]], [False, True])
    equal(counted((same, 0.9, 0), (same, 0.8, 0), gt=gt), [1, 0, 0, 1])
with check("two crowds cover 4/9 each, and neither of them half"):
    gt = of_class_0([[0.0, 0, 9, 20], [11, 0, 20, 20]], [True, True])
    equal(counted(([1.0, 0, 19, 10], 0.9, 0), gt=gt), [0, 0, 1, 0])
with check("a crowd of class 0 excuses no prediction of class 1"):
    equal(counted((inside, 0.9, 1)), [0, 0, 1, 0])
with check("NMS removes the duplicate and, with it, the second true positive"):
    rows = (same, 0.9, 0), (same, 0.8, 0), (same, 0.7, 0)
    equal(counted(*rows, nms_thresh=0.6), [1, 0, 0, 0])
with check("NMS leaves the other class alone"):
    equal(counted((same, 0.9, 0), (same, 0.8, 1), nms_thresh=0.6), [1, 0, 1, 0])
with check("two copies, one object, eos_coef 1: one half"):
    equal(confidence_of_copies(2, 1, 1.0), 0.5, within=1e-9)
with check("the minimum, found by trying"):
    p = np.linspace(0.001, 0.999, 999)
    loss = -2 * np.log(p) - 0.3 * 3 * np.log(1 - p)  # 5 copies, 2 objects
    equal(confidence_of_copies(5, 2, 0.3), p[loss.argmin()], within=1e-3)
check.report()

# %% [markdown]
# Look at the values of `confidence_of_copies(2, 1, e)` for the paper's `eos_coef` 0.1 and for 0.5. You
# will need them in the question.

# %% [markdown]
# ## Exercise 6. The panoptic map (2 + 1 points)
#
# A read-out that tolerates duplicates and leaves pixels undecided. (That of notebook 8 does neither. Here
# nothing is decided anew after a drop, and a joined segment keeps the pixels of all its queries.)
#
# 1. **Select** the queries whose most probable output, by a softmax over the $C + 1$ outputs, is a
#    class and has a probability *above* `score_thresh`. That probability is the query's score, the
#    class its label. Sort them by score, highest first (of equal ones the lowest index first).
# 2. **Suppress.** A query's mask is where its mask logit is above 0. Walk through the sorted queries. A
#    query of a *thing* class is dropped if the IoU of its mask with the mask of a kept query of *the same*
#    class is above `nms_thresh`. (If both masks are empty, the IoU is 0.) Queries of stuff are all kept.
# 3. **Decide.** The kept query with the highest mask logit gets the pixel (of equal ones the one that comes
#    first in this order), but only if that logit is above 0. Otherwise the pixel is void.
# 4. **Join.** Each kept query of a thing is a segment. All kept queries of one stuff class are one
#    segment together, which has the place of the first of them in the order.
# 5. **Drop** segments with fewer than `min_area` pixels, and those without any: their pixels become void.
# 6. **Number** the remaining segments 1, 2, … in their order. Void is 0.


# %% exercise="map"
def panoptic_map(pred_logits, mask_logits, things, score_thresh, nms_thresh, min_area):
    """A panoptic map from queries.

    Args:
        pred_logits: (Q, C + 1); the last output is ∅.
        mask_logits: (Q, H, W).
        things: the classes 0 .. things - 1 are things, the others stuff.
        score_thresh, nms_thresh: see above.
        min_area: in pixels.

    Returns:
        {"ids": (H, W) integers, "segments": [{"id": ..., "label": ...}, ...]} in order of the ids.
    """
    # BEGIN SOLUTION
    score, label = pred_logits.softmax(dim=1).max(dim=1)
    selected = (label < pred_logits.shape[1] - 1) & (score > score_thresh)
    order = score.argsort(descending=True, stable=True)
    kept = []
    for q in order[selected[order]].tolist():
        if label[q] >= things or not any(
            label[k] == label[q] and mask_iou(mask_logits[k], mask_logits[q]) > nms_thresh
            for k in kept
        ):
            kept.append(q)
    ids, segments = torch.zeros(mask_logits.shape[1:], dtype=torch.int64), []
    if not kept:
        return {"ids": ids, "segments": segments}
    largest, winner = mask_logits[kept].max(dim=0)
    winner[largest <= 0] = -1
    members = {}  # of a segment: the places of its queries in `kept`
    for place, q in enumerate(kept):
        c = int(label[q])
        members.setdefault(("thing", q) if c < things else ("stuff", c), (c, []))[1].append(place)
    for c, places in members.values():
        pixels = torch.isin(winner, torch.tensor(places))
        if int(pixels.sum()) >= max(min_area, 1):
            segments.append({"id": len(segments) + 1, "label": c})
            ids[pixels] = len(segments)
    return {"ids": ids, "segments": segments}


def mask_iou(a, b):
    either = int(((a > 0) | (b > 0)).sum())
    return int(((a > 0) & (b > 0)).sum()) / either if either else 0.0
    # END SOLUTION


# %% [markdown]
# By hand: a map of one row with six pixels, two classes of things (0 and 1) and one of stuff (2).

# %% tags=["check"]
SURE = {
    0: [4.0, 0, 0, 0],
    1: [0, 3.0, 0, 0],
    2: [0, 0, 2.0, 0],
    "2, more sure": [0, 0, 6.0, 0],
    "1, probability 1": [0, 200.0, 0, 0],
    "∅": [0, 0, 0, 5.0],
    "?": [0.1, 0, 0, 0],
}


def map_of(*queries, score_thresh=0.5, min_area=1):
    """The map of queries (outputs, mask logits of the six pixels)."""
    logits = torch.tensor([SURE[name] for name, _ in queries])
    masks = torch.tensor([row for _, row in queries], dtype=torch.float32)[:, None]
    found = panoptic_map(logits, masks, 2, score_thresh, 0.6, min_area)
    ids = np.asarray(found["ids"])
    has_shape(ids, (1, 6))
    return ids[0].tolist(), [int(s["label"]) for s in found["segments"]]


check = Checks("Exercise 6")
with check("a thing and stuff; the pixel without a positive logit is void"):
    rows = (2, [1, 1, 1, 1, 1, -1]), (0, [3, 3, -1, -1, -1, -1])
    equal(map_of(*rows), ([1, 1, 2, 2, 2, 0], [0, 2]))
with check("queries of ∅ and below the threshold get nothing"):
    rows = ("∅", [9, 9, 9, 9, 9, 9]), ("?", [8, 8, 8, 8, 8, 8]), (1, [1, 1, -1, -1, -1, -1])
    equal(map_of(*rows), ([1, 1, 0, 0, 0, 0], [1]))
with check("a probability of exactly the threshold is not above it"):
    equal(map_of(("1, probability 1", [1, 1, 1, 1, 1, 1]), score_thresh=1.0), ([0] * 6, []))
with check("two queries of one stuff class are one segment"):
    rows = (2, [1, 1, -1, -1, -1, -1]), (2, [-1, -1, -1, 1, 1, 1])
    equal(map_of(*rows), ([1, 1, 0, 1, 1, 1], [2]))
with check("it has the place of the first of them, before the thing"):
    rows = (2, [1, 1, -1, -1, -1, -1]), (1, [-1, -1, 1, 1, -1, -1])
    rows += (("2, more sure", [-1, -1, -1, -1, 1, 1]),)
    equal(map_of(*rows), ([1, 1, 2, 2, 1, 1], [2, 1]))
with check("stuff is never suppressed (IoU 4/6)"):
    rows = (2, [1, 1, 1, 1, 1, -1]), (2, [2, 2, 2, 2, -1, 2])
    equal(map_of(*rows), ([1] * 6, [2]))
with check("two things of one class, side by side, are two segments"):
    rows = (0, [1, 1, 1, -1, -1, -1]), (0, [-1, -1, 1, 2, 2, 2])
    equal(map_of(*rows), ([1, 1, 1, 2, 2, 2], [0, 0]))
with check("a duplicate of a thing (IoU 3/4) is dropped, although its logits are larger"):
    rows = (0, [1, 1, 1, 1, -1, -1]), (0, [2, 2, 2, -1, -1, -1])
    equal(map_of(*rows), ([1, 1, 1, 1, 0, 0], [0]))
with check("a dropped query suppresses nobody"):
    rows = (0, [1, 1, 1, 1, -1, -1]), (0, [1, 1, 1, 1, 1, -1]), (0, [-1, 2, 2, 2, 2, 2])
    equal(map_of(*rows), ([1, 2, 2, 2, 2, 2], [0, 0]))
with check("the same masks with two classes are no duplicates; the larger logit decides"):
    rows = (0, [1, 1, 1, 1, -1, -1]), (1, [2, 2, 2, -1, -1, -1])
    equal(map_of(*rows), ([2, 2, 2, 1, 0, 0], [0, 1]))
with check("a segment with fewer than min_area pixels becomes void"):
    rows = (0, [1, -1, -1, -1, -1, -1]), (1, [-1, 1, 1, -1, -1, -1])
    equal(map_of(*rows, min_area=2), ([0, 1, 1, 0, 0, 0], [1]))
with check("min_area counts the joined segment"):
    rows = (2, [1, -1, -1, -1, -1, -1]), (2, [-1, 1, -1, -1, -1, -1])
    equal(map_of(*rows, min_area=2), ([1, 1, 0, 0, 0, 0], [2]))
with check("nothing selected: all void"):
    equal(map_of(("∅", [1, 1, 1, 1, 1, 1])), ([0] * 6, []))
check.report()

# %% [markdown]
# ## Question. Training with many, predicting one (2 points)
#
# 1. Two queries predict the same object, each with a probability of 0.9. What does the loss do with each
#    of them if the matching is one-to-one, and what if each query is matched to its cheapest object? Why can
#    the second one keep a high probability even with a one-to-one matching, as long as the decoder cannot
#    tell the two apart? (`confidence_of_copies` has a number.)
# 2. Group DETR trains with $G$ groups of queries. Each group is matched one-to-one by itself, groups do not
#    attend to one another, and prediction uses the first group only. An object thus has $G$ queries in
#    training. Why does this not teach duplicates, and what is it good for?

# %% [markdown] question="duplicates"
# <!-- BEGIN SOLUTION -->
# 1. One-to-one: the query with the lower cost is matched, its class probability rises and its box gets
# better; the other has the target ∅, and its class probability falls (with weight eos_coef). Each query to
# its cheapest object: both are matched, both are rewarded, and both stay: NMS is needed. If the decoder
# cannot tell the two apart, the loss pulls their common probability up (weight 1) and down (weight
# eos_coef), and both settle at p = 1 / (1 + eos_coef), 0.91 for 0.1 and 0.67 for 0.5, both above one half. A larger eos_coef and features that differ (self-attention between the
# queries) remove it.
# 2. Within each group every object has exactly one query, and a second query of the same group for the same
# object is penalised. Queries of different groups cannot see one another, so they cannot be duplicates of
# one another, and in prediction only one group is there. What is gained: G positive examples for each object
# in every step, so more gradient for boxes and classes and a faster training, at no cost in prediction.
# <!-- END SOLUTION -->

# %% tags=["probes"]
import numpy as np
import torch

NEAR = Tolerance(rtol=1e-4, atol=1e-5)


def random_boxes(rng, *shape):
    sides = rng.uniform(0.1, 0.4, (*shape, 2))
    centre = rng.uniform(0.2, 0.8, (*shape, 2))
    return np.concatenate([centre, sides], axis=-1).astype(np.float32)


def padded_objects(rng, counts, classes):
    """Labels and boxes of a batch, filled up to the largest count."""
    size = max(counts)
    labels = rng.integers(0, classes, (len(counts), size))
    boxes = random_boxes(rng, len(counts), size)
    for row, count in enumerate(counts):
        labels[row, count:], boxes[row, count:] = -1, 0
    return torch.from_numpy(labels), torch.from_numpy(boxes)


def cost_case(rng, counts, large):
    images, queries, classes = len(counts), int(rng.integers(4, 8)), int(rng.integers(2, 6))
    logits = rng.normal(0, 2, (images, queries, classes))
    if large:
        logits = rng.choice([-80.0, -40.0, -1.0, 2.0, 40.0, 80.0], logits.shape)
    labels, boxes = padded_objects(rng, counts, classes)
    return {
        "pred_logits": torch.from_numpy(logits.astype(np.float32)),
        "pred_boxes": torch.from_numpy(random_boxes(rng, images, queries)),
        "gt_labels": labels,
        "gt_boxes": boxes,
    }


def plain_cost_inputs(rng):
    return [cost_case(rng, [int(rng.integers(1, 5))] * 2, large=False) for _ in range(5)]


def hard_cost_inputs(rng):
    padding = [cost_case(rng, [3, 0, 1], large=False), cost_case(rng, [1, 4], large=False)]
    return [*padding, *(cost_case(rng, [3, 3], large=True) for _ in range(2))]


def right_giou(a, b):
    """Of boxes (..., 4) cx, cy, w, h in float64."""
    low = [x[..., :2] - x[..., 2:] / 2 for x in (a, b)]
    high = [x[..., :2] + x[..., 2:] / 2 for x in (a, b)]
    inner = np.clip(np.minimum(*high) - np.maximum(*low), 0, None).prod(-1)
    outer = (np.maximum(*high) - np.minimum(*low)).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - inner
    return inner / union + union / outer - 1


def right_costs(pred_logits, pred_boxes, gt_labels, gt_boxes, mistake=""):
    logits, boxes, gt = (t.numpy().astype(np.float64) for t in (pred_logits, pred_boxes, gt_boxes))
    out = np.zeros((*logits.shape[:2], gt.shape[1]))
    for b, image_labels in enumerate(gt_labels.tolist()):
        for n, label in enumerate(image_labels):
            if label < 0 and mistake != "padding":
                continue
            z = logits[b, :, max(label, 0)]
            minus_log_p, minus_log_rest = np.logaddexp(0, -z), np.logaddexp(0, z)
            if mistake == "softmax":
                p = torch.from_numpy(logits[b]).softmax(dim=1)[:, label].numpy()
                minus_log_p, minus_log_rest = -np.log(p), -np.log(1 - p)
            p, rest = np.exp(-minus_log_p), np.exp(-minus_log_rest)
            focal = 0.25 * rest**2 * minus_log_p - 0.75 * p**2 * minus_log_rest
            if mistake == "positive":
                focal = 0.25 * rest**2 * minus_log_p
            if mistake == "saturates":  # float32, as it is usually computed
                p = pred_logits[b, :, label].sigmoid()
                focal = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()
                focal = focal.double().numpy()
            distance = np.abs(boxes[b] - gt[b, n]).sum(-1)
            if mistake == "centres":
                a, b_xyxy = torch.from_numpy(boxes[b]), torch.from_numpy(gt[b, n][None])
                giou = centres_as_corners(a, b_xyxy).numpy()
            else:
                giou = right_giou(boxes[b], gt[b, n][None])
            out[b, :, n] = 2 * focal + 5 * distance - 2 * giou
    return out


def centres_as_corners(a, b):
    """The formula of GIoU with cx, cy, w, h in place of x1, y1, x2, y2."""
    sides = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1)
    both = sides.clamp(min=0).prod(dim=1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - both
    return both / union - (hull - union) / hull


def contested(rng, queries, objects):
    """Costs of which every object prefers much the same queries."""
    return rng.normal(0, 1, (queries, 1)) + rng.normal(0, 0.4, (queries, objects))


def auction_inputs(rng):
    cases = []
    for epsilon in (0.02, 0.1, 0.5):
        queries = int(rng.integers(5, 10))
        objects = int(rng.integers(4, queries))
        cases.append({"cost": contested(rng, queries, objects), "epsilon": epsilon})
    cases.append({"cost": contested(rng, 6, 6), "epsilon": 0.05})
    for epsilon in (0.5, 2.0):  # whole numbers: equal costs are equal
        cost = rng.integers(0, 6, (6, 4)).astype(np.float64)
        cost[1] = cost[0]
        cases.append({"cost": cost, "epsilon": epsilon})
    return cases


def right_auction(cost, epsilon, mistake=""):
    from collections import deque

    queries, objects = cost.shape
    owner, prices, bids = [None] * queries, [0.0] * queries, 0
    queue, taken = deque(range(objects)), []
    while queue:
        bidder = queue.popleft()
        bids += 1
        ranked = sorted((cost[q, bidder] + prices[q], q) for q in range(queries))
        (first, q), (second, _) = ranked[:2]
        prices[q] += epsilon if mistake == "epsilon" else second - first + epsilon
        if owner[q] is not None:
            (queue.appendleft if mistake == "at once" else queue.append)(owner[q])
        owner[q] = bidder
        taken += [] if q in taken else [q]
    query_of = np.array(taken if mistake == "order" else [owner.index(i) for i in range(objects)])
    return {"query_of": query_of, "prices": np.array(prices), "bids": bids}


def bound_inputs(rng):
    return [
        {"cost": rng.normal(0, 2, (queries, 3)), "prices": rng.exponential(1.0, queries)}
        for queries in rng.integers(3, 8, 5).tolist()
    ]


def right_bound(cost, prices, mistake=""):
    if mistake == "axis":
        return sum(min(c + p for c in row) for row, p in zip(cost, prices, strict=True)) - sum(
            prices
        )
    added = np.zeros_like(prices) if mistake == "not added" else prices
    cheapest = [min(c + p for c, p in zip(column, added, strict=True)) for column in cost.T]
    return sum(cheapest) - (0 if mistake == "not subtracted" else sum(prices))


def loss_case(rng, counts):
    images, queries, classes = len(counts), int(rng.integers(5, 8)), int(rng.integers(2, 5))
    labels, boxes = padded_objects(rng, counts, classes)
    query_of = np.full(labels.shape, -1)
    for row, count in enumerate(counts):
        query_of[row, :count] = rng.permutation(queries)[:count]
        if count > 2:  # an object without a query
            query_of[row, int(rng.integers(count))] = -1
    on_crowd = rng.random((images, queries)) < 0.3
    matched = [(row, q) for row, found in enumerate(query_of) for q in found if q >= 0]
    if matched:  # a query with an object, on a crowd
        on_crowd[matched[int(rng.integers(len(matched)))]] = True
    logits = rng.normal(0, 2, (images, queries, classes + 1))
    return {
        "pred_logits": torch.from_numpy(logits.astype(np.float32)),
        "pred_boxes": torch.from_numpy(random_boxes(rng, images, queries)),
        "gt_labels": labels,
        "gt_boxes": boxes,
        "query_of": torch.from_numpy(query_of),
        "on_crowd": torch.from_numpy(on_crowd),
        "eos_coef": float(rng.uniform(0.05, 0.6)),
    }


def loss_inputs(rng):
    return [loss_case(rng, counts) for counts in ([3, 1], [0, 4], [2, 2, 5], [0, 0], [1, 3, 0])]


def gradient_inputs(rng):
    return [loss_case(rng, counts) for counts in ([3, 1], [0, 4], [2, 2, 5], [1, 3, 0])]


def total_losses(
    pred_logits, pred_boxes, gt_labels, gt_boxes, query_of, on_crowd, eos_coef, mistake=""
):
    """The three losses in float64, query by query."""
    log_p = pred_logits.log_softmax(dim=-1)
    above, below, l1, giou = 0.0, 0.0, 0.0, 0.0
    for b in range(len(log_p)):
        object_of = {q: n for n, q in enumerate(query_of[b].tolist()) if q >= 0}
        for q in range(log_p.shape[1]):
            n, crowd = object_of.get(q), bool(on_crowd[b, q])
            output = -1 if n is None else int(gt_labels[b, n])
            w = 1.0 if n is not None else 0.0 if crowd else eos_coef
            if crowd and mistake == "crowd":
                w = 0.0
            if crowd and n is None and mistake == "no crowd":
                w = eos_coef
            above, below = above - w * log_p[b, q, output], below + w
            if n is not None:
                pred, gt = pred_boxes[b, q], gt_boxes[b, n]
                l1 = l1 + (pred - gt).abs().sum()
                giou = giou + 1 - torch_giou(pred, gt)
    objects = int((gt_labels >= 0).sum())
    objects = {"rows": gt_labels.numel(), "pairs": int((query_of >= 0).sum())}.get(mistake, objects)
    below = log_p[..., 0].numel() if mistake == "queries" else max(below, 1e-12)
    return above / below, 5 * l1 / max(objects, 1), 2 * giou / max(objects, 1)


def torch_giou(pred, gt):
    from torchvision.ops import box_convert, generalized_box_iou

    pair = (box_convert(box[None], "cxcywh", "xyxy") for box in (pred, gt))
    return generalized_box_iou(*pair)[0, 0]


def right_losses(pred_logits, pred_boxes, gt_boxes, **case):
    found = total_losses(
        pred_logits.double(), pred_boxes.double(), gt_boxes=gt_boxes.double(), **case
    )
    return dict(zip(("loss_ce", "loss_bbox", "loss_giou"), map(float, found), strict=True))


def right_gradients(pred_logits, pred_boxes, gt_boxes, **case):
    logits, boxes = pred_logits.double().requires_grad_(), pred_boxes.double().requires_grad_()
    sum(total_losses(logits, boxes, gt_boxes=gt_boxes.double(), **case)).backward()
    return {"logits": logits.grad, "boxes": boxes.grad}


GRADIENTS = """
import torch

def drive(function, pred_logits, pred_boxes, **case):
    pred_logits, pred_boxes = pred_logits.clone(), pred_boxes.clone()
    with torch.enable_grad():
        losses = function(pred_logits.requires_grad_(), pred_boxes.requires_grad_(), **case)
        total = losses["loss_ce"] + losses["loss_bbox"] + losses["loss_giou"]
    of_logits, of_boxes = torch.autograd.grad(total, [pred_logits, pred_boxes])
    return {"logits": of_logits, "boxes": of_boxes}
"""


def noise_inputs(rng):
    cases = []
    for scale in (0.2, 0.4, 1.0):
        groups, objects = int(rng.integers(1, 4)), int(rng.integers(1, 5))
        noise = rng.uniform(-1, 1, (groups, objects, 4)).astype(np.float32)
        boxes = random_boxes(rng, objects)
        boxes[0], noise[0, 0] = (0.95, 0.05, 0.9, 0.9), (0.9, -0.9, 0.9, 0.3)  # is clamped
        cases.append(
            {"gt_boxes": torch.from_numpy(boxes), "noise": torch.from_numpy(noise), "scale": scale}
        )
    return cases


def right_noise(gt_boxes, noise, scale, mistake=""):
    x, y, w, h = gt_boxes.double().unbind(-1)
    u = scale * noise.double()
    if mistake == "halves":
        u = u * torch.tensor([1, 1, 0.5, 0.5])
    if mistake == "sides":
        u = u * torch.tensor([2, 2, 1, 1])
    moved = [x + u[..., 0] * w / 2, y + u[..., 1] * h / 2, w + u[..., 2] * w, h + u[..., 3] * h]
    moved = torch.stack(moved, dim=-1)
    return moved if mistake == "outside" else moved.clamp(0, 1)


def mask_inputs(rng):
    numbers = [rng.integers(1, [4, 4, 6]).tolist() for _ in range(4)]
    numbers += [[2, 0, 3], [0, 2, 3]]
    return [{"groups": g, "objects": n, "queries": q} for g, n, q in numbers]


def right_mask(groups, objects, queries, mistake=""):
    owner = [g for g in range(groups) for _ in range(objects)] + [None] * queries
    hidden = np.array([[b is not None and a != b for b in owner] for a in owner])
    if mistake == "transposed":
        return hidden.T
    if mistake == "allowed":
        return ~hidden
    if mistake == "groups":
        return np.array([[b is not None and a is None for b in owner] for a in owner])
    return hidden


class Crowded:
    """Objects and predictions of an image in pixels; events are placed in cells of a grid."""

    def __init__(self, rng):
        self.rng = rng
        self.places = [
            (40 * x, 40 * y)
            for x, y in rng.permutation([(x, y) for x in range(5) for y in range(5)]).tolist()
        ]
        self.gt, self.crowds, self.predictions, self.chains = [], [], [], []

    def cell(self):
        x, y = self.places.pop()
        width, height = self.rng.integers(16, 26, 2).tolist()
        return [x, y, x + width, y + height], int(self.rng.integers(3))

    def predict(self, box, label):
        self.predictions.append((box, label))

    def near(self, box):
        """A box with an IoU above 0.8 with this one."""
        shift = int(self.rng.integers(2))
        return [box[0] + shift, box[1], box[2] + shift, box[3]]

    def hit(self, times=1):
        box, label = self.cell()
        self.gt.append((box, label))
        for _ in range(times):
            self.predict(self.near(box), label)

    def half(self):
        """An IoU of exactly one half."""
        box, label = self.cell()
        box[2] = box[0] + 20
        self.gt.append((box, label))
        self.predict([box[0], box[1], box[0] + 10, box[3]], label)

    def confused(self):
        box, label = self.cell()
        self.gt.append((box, label))
        self.predict(box, label)
        self.predict(self.near(box), (label + 1) % 3)

    def invented(self):
        self.predict(*self.cell())

    def missed(self):
        self.gt.append(self.cell())

    def pair(self, times):
        """Two objects of one class with an IoU of 2/3, and boxes exactly on the first of them."""
        box, label = self.cell()
        box[2] = box[0] + 20
        second = [box[0] + 4, box[1], box[2] + 4, box[3]]
        self.gt += [(box, label), (second, label)]
        for _ in range(times):
            self.predict(list(box), label)

    def crowd(self):
        """A crowd, with an object in it that is predicted twice, and boxes that lie on it."""
        (x, y, _, _), label = self.cell()
        inner = [x + 18, y + 18, x + 34, y + 34]
        self.crowds.append(([x, y, x + 36, y + 36], label))
        self.gt.append((inner, label))
        for _ in range(2):
            self.predict(inner, label)
        self.predict([x + 2, y + 2, x + 14, y + 14], label)
        self.predict([x + 30, y, x + 42, y + 12], label)  # exactly half of it
        self.predict([x + 28, y + 4, x + 43, y + 14], label)  # 8/15
        self.predict([x + 2, y + 20, x + 14, y + 34], (label + 1) % 3)

    def chain(self):
        """Two objects of one class; the second box listed is better, and leaves the first one free."""
        box, label = self.cell()
        box[2] = box[0] + 20
        second = [box[0] + 4, box[1], box[2] + 4, box[3]]
        self.gt += [(box, label), (second, label)]
        self.chains.append(len(self.predictions))
        self.predict(second, label)
        self.predict(
            [box[0] + 9, box[1], box[2] + 9, box[3]], label
        )  # near the second object alone

    def nearest(self):
        """Two objects of one class; the better box is on the second, the other near the first alone."""
        first, label = self.cell()
        first = [first[0] + 4, first[1], first[0] + 24, first[3]]
        second = [first[0] + 4, first[1], first[2] + 4, first[3]]
        self.gt += [(first, label), (second, label)]
        self.chains.append(len(self.predictions))
        self.predict([first[0] - 4, first[1], first[2] - 4, first[3]], label)
        self.predict(second, label)

    def crowds_side_by_side(self):
        """Two crowds of one class that cover 8/18 of a box each."""
        (x, y, _, _), label = self.cell()
        self.crowds += [([x, y, x + 9, y + 20], label), ([x + 11, y, x + 20, y + 20], label)]
        self.predict([x + 1, y + 2, x + 19, y + 14], label)

    def case(self):
        order = self.rng.permutation(len(self.predictions))
        boxes = [self.predictions[k][0] for k in order]
        scores = self.rng.permutation(90)[: len(order)] / 100 + 0.05
        for first in self.chains:
            here, there = sorted(
                k for k, number in enumerate(order) if number in (first, first + 1)
            )
            boxes[here], boxes[there] = self.predictions[first][0], self.predictions[first + 1][0]
            scores[[here, there]] = np.sort(scores[[here, there]])
        gt = [*self.crowds, *self.gt]
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "scores": torch.from_numpy(scores.astype(np.float32)),
            "labels": torch.tensor([self.predictions[k][1] for k in order]),
            "gt_boxes": torch.tensor([box for box, _ in gt], dtype=torch.float32),
            "gt_labels": torch.tensor([label for _, label in gt]),
            "gt_crowd": torch.tensor([one in self.crowds for one in gt]),
            "threshold": 0.5,
        }


def crowded_case(rng):
    scene = Crowded(rng)
    scene.hit()
    scene.hit(times=int(rng.integers(2, 5)))
    scene.hit(times=2)
    for event in ("half", "confused", "invented", "missed", "chain", "nearest", "crowd"):
        getattr(scene, event)()
    scene.nearest()  # once more: it must cost more than a wrong order does in the chain
    scene.crowds_side_by_side()
    scene.pair(times=2)
    scene.pair(times=3)
    return scene.case()


def outcome_inputs(rng):
    empty = crowded_case(rng)
    empty["gt_boxes"] = torch.zeros(0, 4)
    empty["gt_labels"] = torch.zeros(0, dtype=torch.int64)
    empty["gt_crowd"] = torch.zeros(0, dtype=torch.bool)
    return [*(crowded_case(rng) for _ in range(5)), empty]


def with_a_row(rng, case, listed):
    """The case with two more objects of one class and three boxes, the best one on the left.

    Neighbours have an IoU of 2/3 and the outer two of 3/7. `listed`: the order of the list.
    """
    y, height, label = int(rng.integers(150)), int(rng.integers(16, 26)), int(rng.integers(3))
    left, middle, right = ([x, y, x + 20, y + height] for x in (210, 214, 218))
    scores = -np.sort(-rng.permutation(90)[:3]) / 100 + 0.055  # no score twice
    more = {
        "boxes": torch.tensor([left, middle, right], dtype=torch.float32)[listed],
        "scores": torch.from_numpy(scores.astype(np.float32))[listed],
        "labels": torch.tensor([label] * 3),
        "gt_boxes": torch.tensor([left, right], dtype=torch.float32),
        "gt_labels": torch.tensor([label] * 2),
        "gt_crowd": torch.tensor([False] * 2),
    }
    return {**case, **{name: torch.cat([case[name], rows]) for name, rows in more.items()}}


def nms_inputs(rng):
    by_score, middle_first = [0, 1, 2], [1, 0, 2]
    return [
        {**with_a_row(rng, crowded_case(rng), listed), "nms_thresh": nms_thresh}
        for nms_thresh, listed in (
            (0.3, by_score),
            (0.55, middle_first),
            (0.62, by_score),
            (0.95, by_score),
        )
    ]


def iou_of(a, b, crowd=False):
    """IoU of two boxes, or the share of the first one that lies in the second, a crowd."""
    sides = [min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return both / (areas[0] if crowd else sum(areas) - both)


def right_outcomes(
    boxes, scores, labels, gt_boxes, gt_labels, gt_crowd, threshold, kept=None, mistake=""
):
    rows = zip(scores.tolist(), range(len(scores)), boxes.tolist(), labels.tolist(), strict=True)
    rows = list(rows) if mistake == "unsorted" else sorted(rows, key=lambda row: (-row[0], row[1]))
    gt = list(zip(gt_boxes.tolist(), gt_labels.tolist(), gt_crowd.tolist(), strict=True))
    free, counts = [True] * len(gt), [0, 0, 0, 0]
    for _, number, box, label in rows:
        if kept is not None and number not in kept:
            continue
        of_class = [(k, g, crowd) for k, (g, c, crowd) in enumerate(gt) if c == label]
        found = sorted((-iou_of(box, g), k) for k, g, crowd in of_class if not crowd)
        found = [
            k for iou, k in found if -iou > threshold or (-iou == threshold and mistake != "above")
        ]
        rest = [k for k in (found[:1] if mistake == "nearest" else found) if free[k]]
        shares = [iou_of(box, g, mistake != "IoU") for _, g, crowd in of_class if crowd]
        if mistake == "together":
            shares = [sum(shares)]
        if rest:
            free[min(rest) if mistake == "first" else rest[0]] = False
            counts[0] += 1
        elif found and mistake == "taken":
            counts[1] += 1
        elif any(share >= threshold for share in shares):
            counts[3] += 1
        else:
            counts[1 if found else 2] += 1
    return counts


def right_nms(boxes, scores, labels, threshold, nms_thresh, mistake="", **case):
    if mistake == "thresholds":
        threshold, nms_thresh = nms_thresh, threshold
    kept, seen = [], []
    order = scores.argsort(descending=True, stable=True)
    if mistake == "unsorted":
        order = torch.arange(len(scores))
    for k in order.tolist():
        rivals = seen if mistake == "removed" else kept
        rivals = [j for j in rivals if labels[j] == labels[k] or mistake == "classes"]
        seen.append(k)
        if all(iou_of(boxes[j].tolist(), boxes[k].tolist()) <= nms_thresh for j in rivals):
            kept.append(k)
    return right_outcomes(boxes, scores, labels, threshold=threshold, kept=set(kept), **case)


def copy_inputs(rng):
    numbers = [(int(m), int(rng.integers(1, m))) for m in rng.integers(2, 12, 5)] + [(4, 0)]
    return [
        {"copies": m, "objects": n, "eos_coef": float(rng.uniform(0.05, 1.5))} for m, n in numbers
    ]


def right_copies(copies, objects, eos_coef, mistake=""):
    if mistake == "weight":
        return objects / copies
    if mistake == "exchanged":
        return eos_coef * objects / (eos_coef * objects + copies - objects)
    if mistake == "no object":
        return 1 - right_copies(copies, objects, eos_coef)
    return 1 / (1 + eos_coef * (copies / objects - 1)) if objects else 0.0


def map_case(rng, duplicates, spare):
    size, things, classes = 24, 3, 5
    queries = []  # label (or None for no object), confidence, mask logits

    def add(label, confidence, region, level):
        logits = np.where(
            region,
            rng.uniform(level, level + 0.9, region.shape),
            -rng.uniform(0.1, 3, region.shape),
        )
        queries.append((label, confidence, logits))

    def box(y, x, h, w):
        region = np.zeros((size, size), bool)
        region[y : y + h, x : x + w] = True
        return region

    border = int(rng.integers(8, 16))
    first, second = (things + rng.permutation(2)).tolist()
    add(first, 3.5, box(0, 0, size - 3, border), 0.1)  # three rows stay void
    add(second, 4.5, box(0, border, size // 2, size), 0.1)
    add(second, 2.5, box(size // 2 - 2, border, size // 2 - 1, size), 0.1)
    add(second, 2.2, box(size - 2, 0, 1, 3), 0.1)  # smaller than min_area, the segment is not
    corners_left = [(1, 1), (1, 9), (1, 17), (11, 1), (11, 9), (11, 17)]
    places = [corners_left[k] for k in rng.permutation(6)]
    for y, x in places[:4]:
        label, h, w = int(rng.integers(things)), *rng.integers(4, 7, 2).tolist()
        add(label, float(rng.uniform(2.5, 6)), box(y, x, h, w), 2)
        if duplicates:
            add(label, float(rng.uniform(2.5, 6)), box(y, x, h, w - 1), 2)
    if duplicates:
        twins = [len(queries) - 2, len(queries) - 1]  # their scores are equal
        add(first, 3, box(1, 0, size - 3, border), 0.1)  # IoU 20/22
        for confidence, x, width in ((5, 9, 4), (4, 9, 5), (3, 10, 5)):  # IoU 4/5, 4/6; 3/6
            add(1, confidence, box(18, x, 4, width), 2)
    y, x = places[4]  # the same pixels with two classes: both stay
    add(0, 4, box(y, x, 5, 5), 2)
    add(1, 5, box(y, x, 5, 4), 2)
    y, x = places[5]
    width = int(rng.integers(2, 5))
    add(2, 4, box(y, x, 2, width), 2)  # as large as min_area, or a pixel smaller
    add(None, 6, box(0, 0, size, size), 6)
    add(0, 0.3, box(0, 0, size, size), 6)  # not confident
    order = rng.permutation(len(queries))
    logits = rng.uniform(-0.1, 0.1, (len(queries), classes + 1))
    for row, k in enumerate(order):
        label, confidence, _ = queries[k]
        logits[row, classes if label is None else label] = confidence + rng.uniform(0, 0.1)
    if duplicates:
        one, other = (order.tolist().index(k) for k in twins)
        logits[one] = logits[other]
    return {
        "pred_logits": torch.from_numpy(logits.astype(np.float32)),
        "mask_logits": torch.from_numpy(
            np.stack([queries[k][2] for k in order]).astype(np.float32)
        ),
        "things": things,
        "score_thresh": 0.5,
        "nms_thresh": 0.55 - 0.05 * spare,
        "min_area": 2 * width + spare,
    }


def map_inputs(duplicates):
    def inputs(rng):
        cases = [map_case(rng, duplicates, k % 2) for k in range(5)]
        if not duplicates:  # all probabilities are exactly 1: none is above
            certain = {**map_case(rng, duplicates, 0), "score_thresh": 1.0}
            cases.append({**certain, "pred_logits": 1000 * certain["pred_logits"]})
        return cases

    return inputs


def right_map(pred_logits, mask_logits, things, score_thresh, nms_thresh, min_area, mistake=""):
    z, masks = pred_logits.double().numpy(), mask_logits.numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    kept, seen = [], []
    numbers = np.arange(len(p))
    for q in np.lexsort((-numbers if mistake == "ties" else numbers, -p.max(1))):
        label = int(p[q].argmax())
        exactly = mistake == "exactly" and p[q, label] == score_thresh
        if label == p.shape[1] - 1 or not (p[q, label] > score_thresh or exactly):
            continue
        mask = masks[q] > 0
        same = [
            m
            for m, other, _ in (seen if mistake == "dropped" else kept)
            if (label < things or mistake == "stuff") and (other == label or mistake == "classes")
        ]
        seen.append((mask, label, masks[q]))
        overlaps = [((m & mask).sum(), nms_thresh * (m | mask).sum()) for m in same]
        if mistake != "none" and any(
            both > limit or (both == limit and mistake == "reached") for both, limit in overlaps
        ):
            continue
        kept.append((mask, label, masks[q]))
    owner = np.full(masks.shape[1:], -1)
    best = np.full(masks.shape[1:], -np.inf if mistake == "everywhere" else 0.0)
    for place, (_, _, logits) in enumerate(kept):
        better = logits > best
        best[better], owner[better] = logits[better], place
    names = [
        f"stuff {label}" if label >= things and mistake != "pieces" else place
        for place, (_, label, _) in enumerate(kept)
    ]
    ids, segments = np.zeros(owner.shape, int), []
    least = max(min_area + (mistake == "area"), 1)
    in_order = list(dict.fromkeys(names))
    if mistake == "last":
        in_order = list(dict.fromkeys(names[::-1]))[::-1]
    for name in in_order:
        members = [place for place, other in enumerate(names) if other == name]
        if mistake == "each":
            members = [place for place in members if (owner == place).sum() >= least]
        pixels = np.isin(owner, members)
        if pixels.sum() >= least:
            segments.append({"id": len(segments) + 1, "label": kept[members[0]][1]})
            ids[pixels] = len(segments)
    return {"ids": ids, "segments": segments}


def wrong(reference, mistake):
    """What a mistake gives: the reference with one switch."""
    return lambda **case: reference(**case, mistake=mistake)


ASSIGNMENT = Assignment(
    title="Set prediction",
    minutes=120,
    probes=[
        Probe(
            "cost",
            "cost",
            "cost_matrix",
            2,
            plain_cost_inputs,
            right_costs,
            NEAR,
            mistakes=(
                Mistake(
                    "Which corners does a box have whose centre and sides you know?",
                    wrong(right_costs, "centres"),
                ),
                Mistake(
                    "Is the cost low where the class is likely? Which two losses does it subtract?",
                    wrong(right_costs, "positive"),
                ),
                Mistake(
                    "Does the probability of one class depend on the logits of the others here?",
                    wrong(right_costs, "softmax"),
                ),
            ),
        ),
        Probe(
            "cost-padding",
            "cost",
            "cost_matrix",
            1,
            hard_cost_inputs,
            right_costs,
            NEAR,
            mistakes=(
                Mistake("What do objects cost that are not there?", wrong(right_costs, "padding")),
                Mistake(
                    "What is the logarithm of 1 - p if p is rounded to 1?",
                    wrong(right_costs, "saturates"),
                ),
            ),
        ),
        Probe(
            "auction",
            "auction",
            "auction",
            2,
            auction_inputs,
            right_auction,
            NEAR,
            mistakes=(
                Mistake("By how much does a bid raise the price?", wrong(right_auction, "epsilon")),
                Mistake(
                    "Who bids next after an object has lost its query?",
                    wrong(right_auction, "at once"),
                ),
                Mistake("Is query_of in the order of the objects?", wrong(right_auction, "order")),
            ),
        ),
        Probe(
            "bound",
            "bound",
            "lower_bound",
            1,
            bound_inputs,
            right_bound,
            NEAR,
            mistakes=(
                Mistake("What is subtracted in the end?", wrong(right_bound, "not subtracted")),
                Mistake("Which sum is the minimum taken of?", wrong(right_bound, "not added")),
                Mistake(
                    "What is the minimum taken over: queries or objects?",
                    wrong(right_bound, "axis"),
                ),
            ),
        ),
        Probe(
            "losses",
            "loss",
            "set_losses",
            2,
            loss_inputs,
            right_losses,
            NEAR,
            mistakes=(
                Mistake("What counts in n: do rows of padding?", wrong(right_losses, "rows")),
                Mistake(
                    "What counts in n: does an object without a query?",
                    wrong(right_losses, "pairs"),
                ),
                Mistake(
                    "Which weight has a query with an object on a crowd?",
                    wrong(right_losses, "crowd"),
                ),
                Mistake(
                    "Which weight has a query without an object on a crowd?",
                    wrong(right_losses, "no crowd"),
                ),
                Mistake(
                    "By what is the sum of the weighted cross-entropies divided?",
                    wrong(right_losses, "queries"),
                ),
            ),
        ),
        Probe(
            "gradients",
            "loss",
            "set_losses",
            1,
            gradient_inputs,
            right_gradients,
            NEAR,
            driver=GRADIENTS,
            mistakes=(
                Mistake("What counts in n: do rows of padding?", wrong(right_gradients, "rows")),
                Mistake(
                    "What counts in n: does an object without a query?",
                    wrong(right_gradients, "pairs"),
                ),
                Mistake(
                    "Which weight has a query with an object on a crowd?",
                    wrong(right_gradients, "crowd"),
                ),
                Mistake(
                    "Which weight has a query without an object on a crowd?",
                    wrong(right_gradients, "no crowd"),
                ),
                Mistake(
                    "By what is the sum of the weighted cross-entropies divided?",
                    wrong(right_gradients, "queries"),
                ),
            ),
        ),
        Probe(
            "denoising",
            "denoising",
            "denoising_boxes",
            1,
            noise_inputs,
            right_noise,
            NEAR,
            mistakes=(
                Mistake(
                    "By how much can a side grow: by itself, or by its half?",
                    wrong(right_noise, "halves"),
                ),
                Mistake(
                    "By how much can the centre move: by a side, or by its half?",
                    wrong(right_noise, "sides"),
                ),
                Mistake("May a box be outside 0..1?", wrong(right_noise, "outside")),
            ),
        ),
        Probe(
            "attention",
            "denoising",
            "attention_mask",
            1,
            mask_inputs,
            right_mask,
            mistakes=(
                Mistake(
                    "Which index is that of the query that attends?",
                    wrong(right_mask, "transposed"),
                ),
                Mistake("Does True allow or forbid?", wrong(right_mask, "allowed")),
                Mistake(
                    "What may a denoising query know of the other groups?",
                    wrong(right_mask, "groups"),
                ),
            ),
        ),
        Probe(
            "outcomes",
            "outcomes",
            "outcomes",
            2,
            outcome_inputs,
            right_outcomes,
            mistakes=(
                Mistake(
                    "The nearest object is taken: may another one be free?",
                    wrong(right_outcomes, "nearest"),
                ),
                Mistake(
                    "Is an IoU of exactly the threshold enough?", wrong(right_outcomes, "above")
                ),
                Mistake(
                    "In which order do the predictions choose?", wrong(right_outcomes, "unsorted")
                ),
                Mistake("What is the part on a crowd divided by?", wrong(right_outcomes, "IoU")),
                Mistake(
                    "There may be several free objects: which one is taken?",
                    wrong(right_outcomes, "first"),
                ),
                Mistake(
                    "Its objects are taken, and it lies on a crowd: which rule comes first?",
                    wrong(right_outcomes, "taken"),
                ),
                Mistake(
                    "May two crowds cover a prediction together?",
                    wrong(right_outcomes, "together"),
                ),
            ),
        ),
        Probe(
            "nms",
            "nms",
            "outcomes_after_nms",
            1,
            nms_inputs,
            right_nms,
            given=("outcomes",),
            mistakes=(
                Mistake("In which order are boxes kept?", wrong(right_nms, "unsorted")),
                Mistake("May a removed box remove another one?", wrong(right_nms, "removed")),
                Mistake(
                    "Which boxes may a kept box remove: all, or those of its class?",
                    wrong(right_nms, "classes"),
                ),
                Mistake(
                    "There are two thresholds: which one is for what?",
                    wrong(right_nms, "thresholds"),
                ),
            ),
        ),
        Probe(
            "copies",
            "copies",
            "confidence_of_copies",
            1,
            copy_inputs,
            right_copies,
            NEAR,
            mistakes=(
                Mistake("Where does eos_coef enter?", wrong(right_copies, "weight")),
                Mistake(
                    "Which queries have the weight eos_coef?", wrong(right_copies, "exchanged")
                ),
                Mistake(
                    "Whose probability is p: that of the class, or that of no object?",
                    wrong(right_copies, "no object"),
                ),
            ),
        ),
        Probe(
            "map",
            "map",
            "panoptic_map",
            2,
            map_inputs(duplicates=False),
            right_map,
            mistakes=(
                Mistake("Which pixels are void?", wrong(right_map, "everywhere")),
                Mistake("How many segments can a class of stuff have?", wrong(right_map, "pieces")),
                Mistake(
                    "What becomes of a segment of exactly min_area pixels?",
                    wrong(right_map, "area"),
                ),
                Mistake(
                    "Is min_area for a query, or for the joined segment?", wrong(right_map, "each")
                ),
                Mistake(
                    "Which of its queries gives a joined segment its place?",
                    wrong(right_map, "last"),
                ),
                Mistake(
                    "Is a probability of exactly score_thresh above it?",
                    wrong(right_map, "exactly"),
                ),
            ),
        ),
        Probe(
            "map-duplicates",
            "map",
            "panoptic_map",
            1,
            map_inputs(duplicates=True),
            right_map,
            mistakes=(
                Mistake("Are all queries of a thing kept that cover it?", wrong(right_map, "none")),
                Mistake("May a query remove one of another class?", wrong(right_map, "classes")),
                Mistake("Is an IoU of exactly nms_thresh above it?", wrong(right_map, "reached")),
                Mistake("May a dropped query remove another one?", wrong(right_map, "dropped")),
                Mistake("May a query of stuff be removed?", wrong(right_map, "stuff")),
                Mistake("Which of two equal scores comes first?", wrong(right_map, "ties")),
                Mistake("Which pixels are void?", wrong(right_map, "everywhere")),
            ),
        ),
    ],
    questions=[
        Question(
            "duplicates",
            2,
            "1: one-to-one raises the matched query and lowers the other (target no object, weight eos_coef), "
            "many-to-one rewards both; queries that cannot be told apart settle at 1 / (1 + eos_coef), 0.91 or 0.67, "
            "so a small eos_coef lets the copy live. 1: within a group the matching is one-to-one, groups do not see "
            "one another and only one is used in prediction; more positive queries for each object give faster "
            "training. Half a point off if the role of eos_coef or of the separation of the groups is missing.",
        ),
    ],
    forbidden=(
        "torchvision.ops.generalized_box_iou",
        "torchvision.ops.boxes.generalized_box_iou",
        "torchvision.ops.generalized_box_iou_loss",
        "torchvision.ops.sigmoid_focal_loss",
        "labkit.models.detr.criterion.hungarian_match",
        "labkit.models.detr.criterion.set_losses",
        "labkit.models.detr.criterion.class_loss",
        "labkit.models.detr.criterion.focal_loss",
        "labkit.models.detr.postprocess.select_queries",
        "labkit.models.detr.postprocess.panoptic_map",
        "labkit.models.mask2former.postprocess.panoptic_inference",
        "labkit.deploy.queries.detr_panoptic",
        "labkit.deploy.queries.mask_panoptic",
        "labkit.metrics.average_precision.match_detections",
    ),
    limits=Limits(cell_seconds=180, total_seconds=600),
)
