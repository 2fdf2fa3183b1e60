# %% [markdown]
# # Assignment 1. RoIAlign
#
# A detector cuts boxes out of a feature map, always to the same size, and RoIAlign does it without
# rounding anything. You write it: the values, in both conventions that are in use, and the gradient
# that goes back to the map.
#
# **Before you begin:** notebook 2, sections 2.1 to 2.5 and 2.8. **Time:** about two hours.
# **Points:** 20, of which 16 are computed and 4 are for two questions.
#
# | exercise | points |
# | --- | --- |
# | 1 bilinear interpolation: on the map, at its border | 2 + 1 |
# | 2 where to look | 2 |
# | 3 RoIAlign: aligned, original, adaptive, differentiable | 3 + 2 + 1 + 2 |
# | 4 the gradient by hand | 3 |
# | questions | 2 + 2 |
#
# Your functions will be called on other maps and boxes than those below, drawn anew for every
# submission. Loops over boxes are fine; each call has a few boxes. The operators of torchvision and
# labkit, and `grid_sample`, may not be called in your answers. The cells with checks may, and do.

# %% tags=["setup"]
import math

import torch
from torch import Tensor

from labkit.checks import Checks, equal, has_shape

cells = torch.tensor(
    [[1.0, 3, 2, 0, 4], [5, 9, 6, 2, 1], [2, 7, 8, 4, 0], [0, 4, 5, 3, 2], [3, 1, 0, 6, 8]],
    dtype=torch.float64,
)

# %% [markdown]
# ## Exercise 1. Between the cells (2 + 1 points)
#
# In the coordinates of this function the cell $[r, c]$ *lies at* $y = r$, $x = c$, and between the
# cells the value is interpolated, first along $x$, then along $y$. At the border:
#
# - up to one cell outside ($-1 \le y < 0$ or $H - 1 < y \le H$, and likewise in $x$) the value at
#   the border holds;
# - farther out the value is 0.


# %% exercise="bilinear"
def bilinear(features: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The values of a map at points.

    Args:
        features: (C, H, W).
        y, x: (P,) coordinates of P points.

    Returns:
        (C, P). The result is differentiable with respect to `features`.
    """
    # BEGIN SOLUTION
    height, width = features.shape[1:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, across = y - top, x - left
    upper = (1 - across) * features[:, top, left] + across * features[:, top, right]
    lower = (1 - across) * features[:, bottom, left] + across * features[:, bottom, right]
    return ((1 - down) * upper + down * lower) * inside
    # END SOLUTION


# %% [markdown]
# By hand, at $y = 1.25$, $x = 0.75$: row 1 gives $\frac14 \cdot 5 + \frac34 \cdot 9 = 8$, row 2
# gives $\frac14 \cdot 2 + \frac34 \cdot 7 = 5.75$, and between them $\frac34 \cdot 8 + \frac14
# \cdot 5.75 = 7.4375$.


# %% tags=["check"]
def at(y, x):
    """The value of the small map at one point."""
    found = bilinear(cells[None], *torch.tensor([[y], [x]], dtype=torch.float64))
    has_shape(found, (1, 1))  # C = 1 and P = 1
    return found.item()


check = Checks("Exercise 1")
with check("on a cell its own value: row 2, column 1 has 7"):
    equal(at(2.0, 1.0), 7)
with check("along x: a quarter of 5 and three quarters of 9"):
    equal(at(1.0, 0.75), 8)
with check("then along y, between the rows 1 and 2"):
    equal(at(1.25, 0.75), 7.4375)
with check("on the last column there is no right neighbour, and none is needed"):
    equal(at(3.5, 4.0), 5)
with check("up to one cell outside the border's value holds"):
    equal(at(-0.6, 1.0), 3)
with check("the same beyond the last row and column"):
    equal(at(4.9, 4.9), 8)
with check("farther out it is 0"):
    equal([at(-1.2, 1.0), at(2.0, 5.1)], [0, 0])
check.report()

# %% [markdown]
# ## Exercise 2. Where to look (2 points)
#
# Along one axis, an interval is cut into equal bins, and each bin into as many equal parts as there
# are samples in it. A sample lies in the middle of its part.


# %% exercise="points"
def sample_points(start: float, length: float, bins: int, samples: int) -> Tensor:
    """The coordinates of all samples along one axis.

    Args:
        start: where the interval begins.
        length: how long it is.
        bins: how many bins it is cut into.
        samples: in each bin.

    Returns:
        (bins, samples) float64, ascending.
    """
    # BEGIN SOLUTION
    steps = torch.arange(bins * samples, dtype=torch.float64) + 0.5
    return (start + steps * length / (bins * samples)).reshape(bins, samples)
    # END SOLUTION


# %% tags=["check"]
check = Checks("Exercise 2")
with check("one sample in a bin: the middles of [0, 2] and [2, 4]"):
    equal(sample_points(0.0, 4.0, 2, 1), [[1], [3]])
with check("two samples in a bin lie at a quarter and at three quarters of it"):
    equal(sample_points(1.0, 4.0, 2, 2), [[1.5, 2.5], [3.5, 4.5]])
check.report()

# %% [markdown]
# ## Exercise 3. RoIAlign (3 + 2 + 1 + 2 points)
#
# For every box: into the map's coordinates, cut into bins, look at the samples of each, average.
# What has to be decided on the way:
#
# - Boxes count in *edges* (the map's left edge is $x = 0$), `bilinear` in *centres* (cell 0 lies at
#   0), half a cell apart. With `aligned=True` this half is subtracted from every coordinate after
#   the scaling. With `aligned=False`, the first version of the operator, it is not; there a box is
#   also at least one cell wide and one cell high (its upper left corner stays).
# - `sampling_ratio` $> 0$ is the number of samples in a bin along each axis. Otherwise it is
#   adaptive: $\lceil \text{height of a bin} \rceil$ along $y$ and $\lceil \text{width of a bin}
#   \rceil$ along $x$, in cells of the map, for each box.
# - There may be no boxes at all.
#
# Autograd should find its way from the result back to `features`.


# %% exercise="roi_align"
def roi_align(
    features: Tensor,
    boxes: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Average of bilinear samples in every bin of every box.

    Args:
        features: (N, C, H, W) maps of N images.
        boxes: (K, 5), each row (image, x1, y1, x2, y2) with the image's number 0 .. N - 1 and
            coordinates in pixels of the image; x1 < x2 and y1 < y2.
        output_size: (h, w), bins along y and x.
        spatial_scale: cells of the map per pixel, such as 1/16.
        sampling_ratio: samples in a bin along each axis; 0: adaptive.
        aligned: subtract the half cell.

    Returns:
        (K, C, h, w) of the type of `features`.
    """
    # BEGIN SOLUTION
    pooled = []
    for box in boxes.tolist():
        y, x = axes_of(box, output_size, spatial_scale, sampling_ratio, aligned)
        grid = torch.cartesian_prod(y.flatten(), x.flatten())
        values = bilinear(features[int(box[0])], grid[:, 0], grid[:, 1])
        values = values.reshape(len(values), *y.shape, *x.shape)  # (C, h, s, w, t)
        pooled.append(values.mean(dim=(2, 4)).to(features.dtype))
    if not pooled:
        return features.new_zeros((0, features.shape[1], *output_size))
    return torch.stack(pooled)


def axes_of(box, output_size, spatial_scale, sampling_ratio, aligned):
    """The samples of a box along y (h, s) and along x (w, t)."""
    _, x1, y1, x2, y2 = box
    points = []
    for first, last, bins in ((y1, y2, output_size[0]), (x1, x2, output_size[1])):
        start, length = first * spatial_scale, (last - first) * spatial_scale
        if aligned:
            start -= 0.5
        else:
            length = max(length, 1.0)
        samples = sampling_ratio if sampling_ratio > 0 else math.ceil(length / bins)
        points.append(sample_points(start, length, bins, samples))
    return points
    # END SOLUTION


# %% [markdown]
# The worked example of notebook 2: the region $x$ from 0.75 to 2.75, $y$ from 1.25 to 3.25, one
# sample in each of $2 \times 2$ bins. Then random boxes beside torchvision's operator.

# %% tags=["check"]
region = torch.tensor([[0, 0.75, 1.25, 2.75, 3.25]], dtype=torch.float64)

check = Checks("Exercise 3, by hand")
with check("the shape is (K, C, h, w)"):
    has_shape(roi_align(cells[None, None], region, (2, 2), 1.0, 1, True), (1, 1, 2, 2))
with check("aligned: the first bin's middle is at x = 1.25, half a cell less is 0.75"):
    found = roi_align(cells[None, None], region, (2, 2), 1.0, 1, True)
    equal(found[0, 0], [[7.4375, 7], [5.0625, 7]], within=1e-6)
with check("original: no half cell, the first sample is at y = 1.75, x = 1.25"):
    found = roi_align(cells[None, None], region, (2, 2), 1.0, 1, False)
    equal(found[0, 0, 0, 0], 7.5)
with check("original: half a cell wide is widened to one cell, with its middle at 1.5"):
    tiny_box = torch.tensor([[0, 1.0, 1.0, 1.5, 1.5]], dtype=torch.float64)
    equal(roi_align(cells[None, None], tiny_box, (1, 1), 1.0, 1, False).item(), 7.5)
with check("at stride 8 the box is eight times as large in pixels and the same in cells"):
    large = region * torch.tensor([1, 8, 8, 8, 8])
    found = roi_align(cells[None, None], large, (2, 2), 1 / 8, 1, True)
    equal(found[0, 0, 0, 0], 7.4375, within=1e-6)
with check("no boxes give (0, C, h, w)"):
    none = roi_align(cells[None, None], torch.zeros(0, 5), (2, 3), 1.0, 2, True)
    has_shape(none, (0, 1, 2, 3))
check.report()

# %% tags=["check"]
import torchvision

_ = torch.manual_seed(0)
features = torch.randn(2, 3, 8, 9, dtype=torch.float64, requires_grad=True)
corner = torch.rand(6, 2).double() * 60 - 10
boxes = torch.cat([torch.arange(6)[:, None] % 2, corner, corner + 4 + torch.rand(6, 2) * 60], dim=1)

check = Checks("Exercise 3, beside torchvision")
for aligned in (True, False):
    for ratio in (2, 0):
        with check(f"aligned={aligned}, sampling_ratio={ratio}"):
            mine = roi_align(features, boxes, (3, 4), 1 / 8, ratio, aligned)
            theirs = torchvision.ops.roi_align(features, boxes, (3, 4), 1 / 8, ratio, aligned)
            equal(mine, theirs, within=1e-6)
with check("the gradient with respect to the features"):
    mine = roi_align(features, boxes, (3, 4), 1 / 8, 2, True).sum()
    theirs = torchvision.ops.roi_align(features, boxes, (3, 4), 1 / 8, 2, True).sum()
    assert mine.requires_grad, "autograd finds no way back: is something detached on the way?"
    mine, theirs = (torch.autograd.grad(loss, features)[0] for loss in (mine, theirs))
    equal(mine, theirs, within=1e-6)
check.report()

# %% [markdown]
# ## Exercise 4. The gradient by hand (3 points)
#
# Each value of the result is a weighted sum of cells, so its gradient goes back to these cells,
# with the same weights. Write it without autograd (it is switched off when your function is
# called). Many ways lead there; with the two matrices of notebook 2 (section 2.8) it is $A_y^\top G
# A_x$ for each box.


# %% exercise="backward"
def roi_align_backward(
    gradient: Tensor,
    boxes: Tensor,
    feature_size: tuple[int, int, int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The gradient of a loss with respect to the maps, from that with respect to the result.

    Args:
        gradient: (K, C, h, w), of the loss with respect to the result of `roi_align`.
        boxes: (K, 5) as in exercise 3.
        feature_size: (N, C, H, W) of the maps.
        spatial_scale, sampling_ratio, aligned: as in exercise 3.

    Returns:
        (N, C, H, W), of the loss with respect to `features`.
    """
    # BEGIN SOLUTION
    total = torch.zeros(tuple(feature_size), dtype=gradient.dtype)
    for box, of_box in zip(boxes.tolist(), gradient, strict=True):
        y, x = axes_of(box, of_box.shape[1:], spatial_scale, sampling_ratio, aligned)
        A_y, A_x = (
            sampling_matrix(points, size).to(gradient.dtype)
            for points, size in zip((y, x), feature_size[2:], strict=True)
        )
        total[int(box[0])] += A_y.T @ of_box @ A_x
    return total


def sampling_matrix(points, size):
    """The weight of every cell in every bin, (bins, size), from the samples (bins, s)."""
    inside = (points >= -1) & (points <= size)
    points = points.clamp(0, size - 1)
    weights = (1 - (points[..., None] - torch.arange(size)).abs()).clamp(min=0)
    return (weights * inside[..., None]).mean(dim=1)
    # END SOLUTION


# %% tags=["check"]
check = Checks("Exercise 4")
with check("the shape is (N, C, H, W)"), torch.no_grad():
    one = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    has_shape(roi_align_backward(one, region, (1, 1, 5, 5), 1.0, 1, True), (1, 1, 5, 5))
with check("four bins of weight 1 inside the map send 4 back in all"), torch.no_grad():
    one = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    found = roi_align_backward(one, region, (1, 1, 5, 5), 1.0, 1, True)
    equal(found.sum().item(), 4, within=1e-6)
with check("the same as autograd through torchvision's operator"):
    G = torch.randn(6, 3, 3, 4, dtype=torch.float64)
    theirs = (torchvision.ops.roi_align(features, boxes, (3, 4), 1 / 8, 2, True) * G).sum()
    theirs = torch.autograd.grad(theirs, features)[0]
    with torch.no_grad():
        mine = roi_align_backward(G, boxes, (2, 3, 8, 9), 1 / 8, 2, True)
    equal(mine, theirs, within=1e-6)
check.report()

# %% [markdown]
# ## Question 1. Half a cell (2 points)
#
# By how many pixels of the picture, and in which direction, does `aligned=False` read each region
# wrongly on a map of stride 16? A detector that was *trained* with it finds boxes nearly as well.
# Why, and why would you still expect its masks of small objects to suffer?

# %% [markdown] question="half"
# <!-- BEGIN SOLUTION -->
# Half a cell, 8 pixels, to the lower right. The shift is the same for all boxes, so the heads that
# are trained on the shifted features can take it into account: the network learns features that say
# what is half a cell further, and box regression learns a constant. With other weights, or when the
# convention is exchanged after the training, it hurts. A small object is a few cells large; half a
# cell of it falls out of the region on one side and is replaced by what is beside it, which no head
# can bring back, and a mask says something about every pixel, so that it loses more than a class or
# a box.
# <!-- END SOLUTION -->

# %% [markdown]
# ## Question 2. Where a gradient goes (2 points)
#
# Which cells get a gradient from one bin of RoIPool, and which from one bin of RoIAlign with $2
# \times 2$ samples? Why do neither of them send one to the *box*, although RoIAlign's values change
# smoothly when a box moves?

# %% [markdown] question="gradient"
# <!-- BEGIN SOLUTION -->
# RoIPool takes the largest value, so one cell, the winner, gets all of it. RoIAlign averages four
# samples of four cells: up to sixteen cells, each with its bilinear weight, the weights summing to
# 1. With respect to the box RoIPool's rounding has the derivative 0 wherever it has one. RoIAlign's
# derivative exists and is not 0 (it is the difference of neighbouring cells), but the usual
# operators leave it out: proposals are treated as given, as in Fast R-CNN, and boxes learn from
# their regression loss.
# <!-- END SOLUTION -->

# %% tags=["probes"]
import importlib

import numpy as np
import torch


def some_boxes(rng, number, images, pixels, low, high):
    """Boxes with sides from low to high pixels, partly outside the picture."""
    sides = rng.uniform(low, high, (number, 2))
    corners = rng.uniform(-0.3 * high, pixels - 0.5 * low, (number, 2))
    numbers = rng.permutation(np.arange(number) % images)[:, None]
    return torch.from_numpy(np.concatenate([numbers, corners, corners + sides], axis=1))


def roi_case(rng, ratio, aligned, low=20.0, high=90.0, number=5, dtype=torch.float64):
    images, channels = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    stride = int(rng.choice([4, 8, 16]))
    size = rng.integers(6, 12, 2)
    maps = torch.from_numpy(rng.normal(size=(images, channels, *size))).to(dtype)
    scaled = some_boxes(rng, number, images, 64.0, low, high)
    scaled[:, 1:] *= stride / 8  # the same number of cells at every stride
    return {
        "features": maps,
        "boxes": scaled.to(dtype),
        "output_size": tuple(rng.integers(1, 5, 2).tolist()),
        "spatial_scale": 1 / stride,
        "sampling_ratio": ratio,
        "aligned": aligned,
    }


def aligned_inputs(rng):
    cases = [roi_case(rng, int(rng.integers(1, 4)), True) for _ in range(5)]
    return [*cases, roi_case(rng, 2, True, dtype=torch.float32)]


def original_inputs(rng):
    # Half of the cases have boxes that are smaller than a cell: they are widened.
    usual = [roi_case(rng, int(rng.integers(1, 4)), False) for _ in range(3)]
    small = [roi_case(rng, int(rng.integers(1, 4)), False, 1.0, 7.0) for _ in range(4)]
    return [*usual, *small, roi_case(rng, 2, False, number=0)]


def adaptive_inputs(rng):
    return [roi_case(rng, 0, False, 30.0, 120.0) for _ in range(4)]


def gradient_inputs(rng):
    cases = []
    for _ in range(4):
        case = roi_case(rng, 2, False)
        shape = (len(case["boxes"]), case["features"].shape[1], *case["output_size"])
        cases.append({**case, "weights": torch.from_numpy(rng.normal(size=shape))})
    return cases


def backward_inputs(rng):
    cases = []
    for aligned in (True, True, False, False):
        case = roi_case(rng, int(rng.integers(1, 4)), aligned)
        features = case.pop("features")
        shape = (len(case["boxes"]), features.shape[1], *case.pop("output_size"))
        gradient = torch.from_numpy(rng.normal(size=shape))
        cases.append({**case, "gradient": gradient, "feature_size": tuple(features.shape)})
    return cases


def right_roi_align(features, boxes, output_size, spatial_scale, sampling_ratio, aligned):
    from torchvision.ops import roi_align as operator

    return operator(features, boxes, output_size, spatial_scale, sampling_ratio, aligned)


def right_gradient(weights, features, **case):
    features = features.clone().requires_grad_()
    loss = (right_roi_align(features, **case) * weights).sum()
    return torch.autograd.grad(loss, features)[0]


def right_backward(gradient, feature_size, **case):
    maps = torch.zeros(feature_size, dtype=gradient.dtype)
    return right_gradient(gradient, maps, output_size=tuple(gradient.shape[2:]), **case)


def points_in(rng, low, high):
    cases = []
    for _ in range(4):
        c, h, w = rng.integers(2, 8, 3).tolist()
        number = int(rng.integers(5, 30))
        y = low + rng.uniform(0, 1, number) * (h - 1 + high - low)
        x = low + rng.uniform(0, 1, number) * (w - 1 + high - low)
        maps = torch.from_numpy(rng.normal(size=(c, h, w)))
        cases.append({"features": maps, "y": torch.from_numpy(y), "x": torch.from_numpy(x)})
    return cases


def inside_inputs(rng):
    return points_in(rng, 0.0, 0.0)


def border_inputs(rng):
    return points_in(rng, -2.5, 2.5)


def right_bilinear(features, y, x):
    # By its module, since the package has a function of the module's name.
    one = importlib.import_module("labkit.ops.roi_align").bilinear
    return torch.stack([one(features, *p) for p in zip(y.tolist(), x.tolist(), strict=True)], dim=1)


def point_inputs(rng):
    return [
        {
            "start": float(rng.uniform(-5, 5)),
            "length": float(rng.uniform(0.5, 20)),
            "bins": int(rng.integers(1, 8)),
            "samples": int(rng.integers(1, 5)),
        }
        for _ in range(6)
    ]


def right_points(start, length, bins, samples):
    edges = np.linspace(start, start + length, bins * samples + 1)
    return ((edges[1:] + edges[:-1]) / 2).reshape(bins, samples)


AUTOGRAD = """
import torch

def drive(function, weights, features, **case):
    features = features.clone().requires_grad_()
    with torch.enable_grad():
        loss = (function(features, **case) * weights).sum()
    return torch.autograd.grad(loss, features)[0]
"""

BY_HAND = """
import torch

def drive(function, **case):
    with torch.inference_mode():
        return function(**case)
"""

NEAR = Tolerance(rtol=1e-4, atol=1e-5)

ASSIGNMENT = Assignment(
    title="RoIAlign",
    minutes=120,
    probes=[
        Probe("bilinear-inside", "bilinear", "bilinear", 2, inside_inputs, right_bilinear, NEAR),
        Probe("bilinear-border", "bilinear", "bilinear", 1, border_inputs, right_bilinear, NEAR),
        Probe("points", "points", "sample_points", 2, point_inputs, right_points, NEAR),
        Probe("aligned", "roi_align", "roi_align", 3, aligned_inputs, right_roi_align, NEAR),
        Probe("original", "roi_align", "roi_align", 2, original_inputs, right_roi_align, NEAR),
        Probe("adaptive", "roi_align", "roi_align", 1, adaptive_inputs, right_roi_align, NEAR),
        Probe(
            "differentiable",
            "roi_align",
            "roi_align",
            2,
            gradient_inputs,
            right_gradient,
            NEAR,
            driver=AUTOGRAD,
        ),
        Probe(
            "backward",
            "backward",
            "roi_align_backward",
            3,
            backward_inputs,
            right_backward,
            NEAR,
            driver=BY_HAND,
        ),
    ],
    questions=[
        Question(
            "half",
            2,
            "1: half a cell, 8 pixels, to the lower right (larger x and y). Half: the shift is the same for every "
            "box, so trained heads take it into account. Half: a small object is a few cells, part of it leaves the "
            "region and cannot be brought back; a mask needs every pixel.",
        ),
        Question(
            "gradient",
            2,
            "1: RoIPool one cell (the largest), RoIAlign up to sixteen cells with their bilinear weights. 1: rounding "
            "has no useful derivative; RoIAlign's exists, but proposals are treated as given by convention. "
            "Full points for the second part only if 'exists but is left out' is said.",
        ),
    ],
    forbidden=(
        "torchvision.ops.roi_align",
        "torchvision.ops.RoIAlign",
        "torchvision.ops.ps_roi_align",
        "torchvision.ops.MultiScaleRoIAlign",
        "torch.ops.torchvision.roi_align",
        "torch.nn.functional.grid_sample",
        "labkit.ops.roi_align",
        "labkit.ops.roi_align_compiled.roi_align",
        "labkit.ops.roi_align_separable.roi_align_separable",
    ),
    limits=Limits(cell_seconds=180, total_seconds=600),
)
