# %% [markdown]
# # Assignment 1. RoIAlign of rotated boxes
#
# Text lines, ships from above, cars in a car park: objects that stand at an angle fill little of an
# upright box. Detectors for them predict *rotated* boxes, and the operator that crops their features is
# RoIAlign once more, with a sampling grid that is rotated with the box. You write it, its gradient with
# respect to the feature map, and the one that the usual operators leave out, with respect to the *box*.
# With that gradient a box can search for its object by itself, which it does at the end.
#
# **Before you begin:** notebook 2, sections 2.1 to 2.5 and 2.8; for the question also notebook 3,
# sections 3.3 to 3.7. **Time:** about two hours.
# **Points:** 20, of which 18 are computed and 2 are for a question.
#
# | exercise | points |
# | --- | --- |
# | 1 the sampling grid: fixed, adaptive | 2 + 2 |
# | 2 RoIAlign: inside, at the border, adaptive | 2 + 2 + 1 |
# | 3 the gradient of the map | 3 |
# | 4 the gradient of the box: centre, size, angle | 1 + 1 + 2 |
# | 5 a box that finds its object | 2 |
# | question | 2 |
#
# Your functions will be called on other maps and boxes than those below, drawn anew for every
# submission. Maps have at least two rows and columns. Loops over boxes are fine; each call has a few
# boxes. Later answers may call earlier ones, and helper functions may be in any cell that is not a
# check. Compute in float64; the type of the result is not graded. What torchvision and labkit have for RoIs
# and for sampling at places between cells, `grid_sample` and autograd may not be used in your answers. The
# cells with checks may, and do.
#
# **Conventions.** Coordinates are $x$ to the right and $y$ *down*. A rotated box is
# $(x, y, \text{width}, \text{height}, \text{angle})$: the centre, the two sides and an angle in
# *degrees*. At angle 0 the width lies along $x$ and the height along $y$. A positive angle turns the box
# about its centre, *counter-clockwise as you see it on the screen*: at 90° what was its right end is
# at the top, and its upper side, where the first row of bins is, is on the left.
#
# Boxes have pixels of the image as units and count *edges*: the image's left edge is $x = 0$. A feature
# map is indexed by the *centres* of its cells: cell $[r, c]$ lies at $y = r$, $x = c$. With
# $s$ = `spatial_scale` cells per pixel, such as 1/16, a point of the image at $x$ pixels lies at
# $s x - \frac12$ on the map, and likewise in $y$.

# %% tags=["setup"]
import math

import torch
from torch import Tensor

from labkit.checks import Checks, equal, has_shape

cells = torch.tensor(
    [[1.0, 3, 2, 0, 4], [5, 9, 6, 2, 1], [2, 7, 8, 4, 0], [0, 4, 5, 3, 2], [3, 1, 0, 6, 8]],
    dtype=torch.float64,
)


def numbers(*values):
    """A float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


# %% [markdown]
# ## Exercise 1. The sampling grid (2 + 2 points)
#
# Seen from the box itself nothing is rotated: its width is cut into $w$ equal bins and its height into
# $h$, each bin into $t$ equal parts along the width and $s$ along the height, and a sample lies in the
# middle of each part. Then the whole grid is rotated with the box.
#
# `sampling_ratio` $> 0$ is the number of samples in a bin along both sides, $s = t$. 0 means
# *adaptive*: as many as the bin is cells *of the map* long, rounded up,
# $s = \lceil \text{height of a bin} \rceil$ and $t = \lceil \text{width of a bin} \rceil$.


# %% exercise="grid"
def sampling_grid(
    box: Tensor, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """The samples of a rotated box, on the feature map.

    Args:
        box: (5,) x, y, width, height in pixels (the sides are positive), angle in degrees.
        output_size: (h, w), bins along the height and along the width of the box.
        spatial_scale: cells of the map per pixel.
        sampling_ratio: samples in a bin along each side; 0: adaptive.

    Returns:
        (2, h, w, s, t): first y, then x of sample (s, t) of bin (h, w), where cell [r, c] of
        the map lies at y = r, x = c.
    """
    # BEGIN SOLUTION
    x, y, width, height, angle = box.tolist()
    v = along(height * spatial_scale, output_size[0], sampling_ratio)[:, None, :, None]
    u = along(width * spatial_scale, output_size[1], sampling_ratio)[None, :, None, :]
    sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    return torch.stack(
        [
            y * spatial_scale - 0.5 - u * sin + v * cos,
            x * spatial_scale - 0.5 + u * cos + v * sin,
        ]
    )


def along(length, bins, ratio):
    """The samples along a side, (bins, samples), from its middle."""
    samples = ratio if ratio > 0 else math.ceil(length / bins)
    steps = torch.arange(bins * samples, dtype=torch.float64) + 0.5
    return (steps / (bins * samples) - 0.5).reshape(bins, samples) * length
    # END SOLUTION


# %% [markdown]
# By hand: a box with its centre at $(3, 2)$, 4 pixels wide and 2 high, in one row of two bins, at scale
# 1. On the map its centre is at $(2.5, 1.5)$. Upright, the samples lie one to the left and one to the
# right of it. At 90° the left one is *below* ($y$ larger), the right one above.


# %% tags=["check"]
def places(angle, output_size=(1, 2), scale=1.0, ratio=1):
    """The grid of the example at an angle, as (y, x) of all samples."""
    box = numbers(3 / scale, 2 / scale, 4 / scale, 2 / scale, angle)
    return sampling_grid(box, output_size, scale, ratio).reshape(2, -1)


check = Checks("Exercise 1")
with check("the shape is (2, h, w, s, t)"):
    has_shape(sampling_grid(numbers(3, 2, 4, 2, 30), (3, 4), 1.0, 2), (2, 3, 4, 2, 2))
with check("upright: the same y, one to the left and one to the right of 2.5"):
    equal(places(0.0), [[1.5, 1.5], [1.5, 3.5]])
with check("90 degrees: the right end is at the top"):
    equal(places(90.0), [[2.5, 0.5], [2.5, 2.5]], within=1e-9)
with check("90 degrees, two rows of bins: the first row is on the left"):
    equal(places(90.0, output_size=(2, 1)), [[1.5, 1.5], [2, 3]], within=1e-9)
with check("30 degrees: half of the way up, and the cosine of 30 degrees to the side"):
    equal(places(30.0), [[2, 1], [2.5 - math.sqrt(3) / 2, 2.5 + math.sqrt(3) / 2]], within=1e-9)
with check("at stride 8 the box is eight times as large in pixels and the same in cells"):
    equal(places(90.0, scale=1 / 8), [[2.5, 0.5], [2.5, 2.5]], within=1e-9)
with check("two samples along each side, upright: at a quarter and three quarters of the bin"):
    grid = sampling_grid(numbers(3, 2, 4, 2, 0), (1, 1), 1.0, 2)
    equal(grid[0, 0, 0], [[1, 1], [2, 2]])
    equal(grid[1, 0, 0], [[1.5, 3.5], [1.5, 3.5]])
with check("two bins with two samples each: the first bin has the left ones"):
    grid = sampling_grid(numbers(3, 2, 4, 2, 0), (1, 2), 1.0, 2)
    equal(grid[1, 0, :, 0], [[1, 2], [3, 4]])
with check("adaptive: a bin of 2 by 1.5 cells has 2 by 2 samples, one of 2 by 1 has 2 by 1"):
    has_shape(sampling_grid(numbers(3, 2, 3, 4, 30), (2, 2), 1.0, 0), (2, 2, 2, 2, 2))
    has_shape(sampling_grid(numbers(24, 16, 16, 32, 30), (2, 2), 1 / 8, 0), (2, 2, 2, 2, 1))
with check("adaptive, rounded up: a bin of 2.1 by 1.5 cells has 3 by 2 samples"):
    has_shape(sampling_grid(numbers(3, 2, 3, 4.2, 30), (2, 2), 1.0, 0), (2, 2, 2, 3, 2))
check.report()

# %% [markdown]
# ## Exercise 2. RoIAlign (2 + 2 + 1 points)
#
# Each bin is the mean of the map at its samples, by bilinear interpolation. At the border of the map
# the rule is that of notebook 2, for $y$ and for $x$ alike:
#
# - up to one cell outside ($-1 \le y < 0$ or $H - 1 < y \le H$) the value at the border holds;
# - a sample that is farther out, in $y$ or in $x$, is 0. It counts in the mean like all others.
#
# You may take the bilinear interpolation of notebook 2 (section 2.2), or write one for many points at
# once. There may be no boxes at all.


# %% exercise="roi_align"
def roi_align_rotated(
    features: Tensor,
    boxes: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
) -> Tensor:
    """Mean of bilinear samples in every bin of every rotated box.

    Args:
        features: (N, C, H, W) maps of N images.
        boxes: (K, 6), each row the number of the image, 0 .. N - 1, and the box of exercise 1.
        output_size, spatial_scale, sampling_ratio: as in exercise 1.

    Returns:
        (K, C, h, w).
    """
    # BEGIN SOLUTION
    pooled = torch.zeros(len(boxes), features.shape[1], *output_size, dtype=torch.float64)
    for k, row in enumerate(boxes.double()):
        y, x = sampling_grid(row[1:], output_size, spatial_scale, sampling_ratio)
        image = features[int(row[0])].double()
        values = sum(
            image[:, r, c] * (a * b)
            for r, a, _ in neighbours(y, image.shape[1])
            for c, b, _ in neighbours(x, image.shape[2])
        )
        pooled[k] = values.mean(dim=(3, 4))
    return pooled


def neighbours(points, size):
    """The two neighbours along an axis: index, weight, and the weight's derivative."""
    counts = (points >= -1) & (points <= size)
    moves = (points >= 0) & (points <= size - 1)  # elsewhere the value is constant
    points = points.clamp(0, size - 1)
    low = points.floor().long()
    share = points - low
    high = (low + 1).clamp(max=size - 1)
    return (low, (1 - share) * counts, -1.0 * moves), (high, share * counts, 1.0 * moves)
    # END SOLUTION


# %% [markdown]
# On the small map, the box of above at 90° with samples at $y = 2.5$ and $0.5$, $x = 2.5$: the lower one
# lies in the middle of the cells 8, 4, 5 and 3, which is 5; the upper one between 2, 0, 6 and 2: 2.5.

# %% tags=["check"]
turned = numbers(0, 3, 2, 4, 2, 90)[None]
ramp = torch.arange(9.0, dtype=torch.float64).expand(1, 1, 8, 9)  # every cell holds its column

check = Checks("Exercise 2")
with check("the shape is (K, C, h, w)"):
    has_shape(roi_align_rotated(cells[None, None], turned, (1, 2), 1.0, 1), (1, 1, 1, 2))
with check("two bins of one sample, by hand"):
    equal(roi_align_rotated(cells[None, None], turned, (1, 2), 1.0, 1), [[[[5, 2.5]]]], within=1e-9)
with check("upright it is the RoIAlign of notebook 2"):
    upright = numbers(0, 1.75, 2.25, 2, 2, 0)[None]
    found = roi_align_rotated(cells[None, None], upright, (2, 2), 1.0, 1)
    equal(found[0, 0], [[7.4375, 7], [5.0625, 7]], within=1e-6)
with check("on a map that holds the column, a box at any angle has the x of its centre"):
    found = roi_align_rotated(ramp, numbers(0, 4.3, 4, 3, 2, 25)[None], (1, 1), 1.0, 2)
    equal(found, [[[[3.8]]]], within=1e-9)
with check("up to one cell outside the border's value holds: the sample at y = -0.75 is 3"):
    outside = numbers(0, 1.5, -0.25, 1, 1, 90)[None]
    equal(roi_align_rotated(cells[None, None], outside, (1, 1), 1.0, 1).item(), 3, within=1e-9)
with check("farther out a sample is 0 and counts: here two of four"):
    outside = numbers(0, 1.5, -0.5, 2, 1, 90)[None]  # samples at y = -0.5 and y = -1.5
    ones = torch.ones(1, 1, 5, 5, dtype=torch.float64)
    equal(roi_align_rotated(ones, outside, (1, 1), 1.0, 2).item(), 0.5, within=1e-9)
with check("the same in x: two of four"):
    outside = numbers(0, -0.5, 1.5, 2, 1, 0)[None]  # samples at x = -0.5 and x = -1.5
    equal(roi_align_rotated(ones, outside, (1, 1), 1.0, 2).item(), 0.5, within=1e-9)
with check("a box in the second image reads the second image"):
    two = torch.stack([cells, 10 * cells])[:, None]
    found = roi_align_rotated(two, turned + numbers(1, 0, 0, 0, 0, 0), (1, 2), 1.0, 1)
    equal(found, [[[[50, 25]]]], within=1e-9)
with check("no boxes give (0, C, h, w)"):
    has_shape(roi_align_rotated(cells[None, None], turned[:0], (2, 3), 1.0, 2), (0, 1, 2, 3))
check.report()

# %% [markdown]
# ## Exercise 3. The gradient of the map (3 points)
#
# Each value of the result is a weighted sum of cells, so the gradient of a loss goes back to these
# cells, with the same weights. The two matrices of notebook 2 do not help any more: for a rotated box
# the $y$ of a sample depends on its column, too. Several samples, bins and boxes may reach one cell;
# what they send adds up. A sample that is farther out than one cell sends nothing, but still counts in
# the mean. (In PyTorch `total[:, r, c] += values` writes *once* where a pair of indices
# occurs several times; `index_put_(..., accumulate=True)` and `index_add_` add.)


# %% exercise="map_gradient"
def map_gradient(
    gradient: Tensor,
    boxes: Tensor,
    feature_size: tuple[int, int, int, int],
    spatial_scale: float,
    sampling_ratio: int,
) -> Tensor:
    """The gradient of a loss with respect to the maps.

    Args:
        gradient: (K, C, h, w), of the loss with respect to the result of exercise 2.
        boxes, spatial_scale: as in exercise 2.
        feature_size: (N, C, H, W) of the maps.
        sampling_ratio: as in exercise 1, also 0.

    Returns:
        (N, C, H, W).
    """
    # BEGIN SOLUTION
    total = torch.zeros(feature_size, dtype=torch.float64)
    for of_box, row in zip(gradient.double(), boxes.double(), strict=True):
        y, x = sampling_grid(row[1:], tuple(of_box.shape[1:]), spatial_scale, sampling_ratio)
        image = total[int(row[0])]
        for r, a, _ in neighbours(y, image.shape[1]):
            for c, b, _ in neighbours(x, image.shape[2]):
                weights = a * b / (y.shape[2] * y.shape[3])
                shares = of_box[..., None, None] * weights  # (C, h, w, s, t)
                places = (r * image.shape[2] + c).flatten()
                image.view(len(image), -1).index_add_(1, places, shares.flatten(1))
    return total
    # END SOLUTION


# %% tags=["check"]
check = Checks("Exercise 3")
with check("the shape is (N, C, H, W)"):
    one = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    has_shape(map_gradient(one, turned, (1, 1, 5, 5), 1.0, 1), (1, 1, 5, 5))
with check("the upper sample sends a quarter to each of its four cells"):
    upper = numbers(0, 1).reshape(1, 1, 1, 2)
    found = map_gradient(upper, turned, (1, 1, 5, 5), 1.0, 1)
    equal(found[0, 0, :2, 1:4], [[0, 0.25, 0.25], [0, 0.25, 0.25]], within=1e-9)
with check("two equal boxes send twice as much"):
    found = map_gradient(torch.cat([one, one]), turned.repeat(2, 1), (1, 1, 5, 5), 1.0, 1)
    equal(found.sum().item(), 4, within=1e-9)
_ = torch.manual_seed(0)
features = torch.randn(2, 3, 8, 9, dtype=torch.float64)
some = torch.cat([torch.rand(3, 2).double() * 60, 10 + torch.rand(3, 2).double() * 40], dim=1)
some = torch.cat([numbers(0, 1, 1)[:, None], some, numbers(20, -75, 140)[:, None]], dim=1)
some = torch.cat([some, numbers(0, -12, 70, 42, 41, 33)[None]])  # the last has samples far outside
G = torch.randn(4, 3, 2, 3, dtype=torch.float64)
for ratio, samples in ((2, "two samples"), (0, "adaptive")):
    with check(
        f"gradient times map = gradient times result, as it is linear in the map: {samples}"
    ):
        direct = (roi_align_rotated(features, some, (2, 3), 1 / 8, ratio) * G).sum()
        found = (map_gradient(G, some, (2, 3, 8, 9), 1 / 8, ratio) * features).sum()
        equal(found.item(), direct.item(), within=1e-9)
check.report()

# %% [markdown]
# ## Exercise 4. The gradient of the box (1 + 1 + 2 points)
#
# When the box moves, its samples move, and with them the values. By the chain rule, for each sample
# with the value $V$ and for each number $\beta$ of the box
#
# $$\frac{\partial V}{\partial \beta} = \frac{\partial V}{\partial y} \frac{\partial y}{\partial \beta}
# + \frac{\partial V}{\partial x} \frac{\partial x}{\partial \beta} .$$
#
# The first factors are differences of neighbouring cells. Where the value does not depend on a
# coordinate (in the strip outside the map where the border's value holds, and farther out) its
# derivative is 0. The second factors follow from exercise 1. The box counts in pixels and degrees, and
# so do the derivatives: what changes per *pixel* and per *degree*. The adaptive number of samples counts
# as constant. (No sample of the hidden cases lies exactly on a row or column of cells, where the
# derivative jumps.)


# %% exercise="box_gradient"
def box_gradient(
    gradient: Tensor,
    features: Tensor,
    boxes: Tensor,
    spatial_scale: float,
    sampling_ratio: int,
) -> Tensor:
    """The gradient of a loss with respect to the boxes.

    Args:
        gradient: (K, C, h, w), of the loss with respect to the result of exercise 2.
        features, boxes, spatial_scale: as in exercise 2.
        sampling_ratio: as in exercise 1, also 0.

    Returns:
        (K, 5): with respect to x, y, width, height (per pixel) and angle (per degree).
    """
    # BEGIN SOLUTION
    sums = torch.zeros(len(boxes), 5, dtype=torch.float64)
    for k, (of_box, row) in enumerate(zip(gradient.double(), boxes.double(), strict=True)):
        y, x = sampling_grid(row[1:], tuple(of_box.shape[1:]), spatial_scale, sampling_ratio)
        image = features[int(row[0])].double()
        by_y = by_x = 0.0
        for r, a, slope_a in neighbours(y, image.shape[1]):
            for c, b, slope_b in neighbours(x, image.shape[2]):
                sent = (of_box[..., None, None] * image[:, r, c]).sum(dim=0)  # (h, w, s, t)
                by_y, by_x = by_y + sent * slope_a * b, by_x + sent * a * slope_b
        by_y, by_x = (part / (y.shape[2] * y.shape[3]) for part in (by_y, by_x))
        _, cx, cy, width, height, angle = row.tolist()
        sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        y, x = y - (cy * spatial_scale - 0.5), x - (cx * spatial_scale - 0.5)  # from the centre
        u, v = x * cos - y * sin, x * sin + y * cos  # in the box's own axes
        sums[k, 0] = (by_x * spatial_scale).sum()
        sums[k, 1] = (by_y * spatial_scale).sum()
        sums[k, 2] = ((by_x * cos - by_y * sin) * u).sum() / width
        sums[k, 3] = ((by_x * sin + by_y * cos) * v).sum() / height
        sums[k, 4] = math.radians(1) * (by_x * y - by_y * x).sum()
    return sums
    # END SOLUTION


# %% [markdown]
# On the map that holds its columns the result is the $x$ of each bin, and everything can be followed by
# hand: two bins at $u = \mp 1$ from the centre of a box that is 4 wide have
# $x = x_0 - \frac12 \mp \cos\theta$.


# %% tags=["check"]
def on_ramp(angle, of_bins=(0.0, 1.0), scale=1.0):
    """The gradient for a box of two bins on the ramp."""
    box = numbers(0, 4.3 / scale, 4 / scale, 4 / scale, 2 / scale, angle)[None]
    return box_gradient(numbers(*of_bins).reshape(1, 1, 1, 2), ramp, box, scale, 1)[0]


def by_differences(G, features, boxes, scale, ratio, by=1e-5):
    """The same gradient by central differences of exercise 2, slow and approximate."""
    found = torch.zeros(len(boxes), 5, dtype=torch.float64)
    for n in range(5):
        moved = torch.zeros(6, dtype=torch.float64)
        moved[n + 1] = by
        more = roi_align_rotated(features, boxes + moved, tuple(G.shape[2:]), scale, ratio)
        less = roi_align_rotated(features, boxes - moved, tuple(G.shape[2:]), scale, ratio)
        found[:, n] = ((more - less) * G).sum(dim=(1, 2, 3)) / (2 * by)
    return found


check = Checks("Exercise 4")
with check("the shape is (K, 5)"):
    has_shape(box_gradient(G, features, some, 1 / 8, 2), (4, 5))
with check("x and y: the ramp rises by 1 for each pixel to the right and not at all downwards"):
    equal(on_ramp(20.0)[:2], [1, 0], within=1e-9)
with check("at stride 8 it rises by an eighth for each pixel"):
    equal(on_ramp(20.0, scale=1 / 8)[:2], [1 / 8, 0], within=1e-9)
with check("width: the right bin moves by a quarter of what the box grows, times cos 60°"):
    equal(on_ramp(60.0)[2:4], [1 / 8, 0], within=1e-9)
with check(
    "angle: the x of the right bin is cos θ from the centre; per degree it loses sin θ · π / 180"
):
    equal(on_ramp(30.0)[4].item(), -math.pi / 360, within=1e-9)
with check("angle: the left bin gains what the right one loses"):
    equal(on_ramp(30.0, (1.0, 1.0))[4].item(), 0, within=1e-9)
for ratio, samples in ((2, "two samples"), (0, "adaptive")):
    with check(f"the same as the differences of exercise 2: {samples}"):
        expected = by_differences(G, features, some, 1 / 8, ratio)
        equal(box_gradient(G, features, some, 1 / 8, ratio), expected, within=1e-5)
check.report()

# %% [markdown]
# ## Exercise 5. A box that finds its object (2 points)
#
# We have features $T$ of an object, cut from another image by RoIAlign, and a box that lies roughly
# where the object is now. Its features should become those of the object:
#
# $$L = \tfrac12 \sum \left(\mathrm{RoIAlign}(F, \text{box}) - T\right)^2 .$$
#
# Gradient descent moves the box: all five numbers at once, each with a step size of its own,
# $\beta \leftarrow \beta - \eta_\beta\, \partial L / \partial \beta$, and again from there. A detector does not search
# like this, but trackers do, and the step also shows what such a gradient would teach an RPN.


# %% exercise="fit"
def fit_box(
    features: Tensor,
    target: Tensor,
    box: Tensor,
    step_sizes: Tensor,
    steps: int,
    spatial_scale: float,
    sampling_ratio: int,
) -> Tensor:
    """The box after some steps of gradient descent.

    Args:
        features: (1, C, H, W), the map of one image.
        target: (C, h, w), the features to be found.
        box: (5,), where to begin.
        step_sizes: (5,), one for each number of the box.
        steps: how many.
        spatial_scale, sampling_ratio: as in exercise 2.

    Returns:
        (5,).
    """
    # BEGIN SOLUTION
    row = torch.cat([torch.zeros(1, dtype=torch.float64), box.double()])[None]
    for _ in range(steps):
        pooled = roi_align_rotated(
            features, row, tuple(target.shape[1:]), spatial_scale, sampling_ratio
        )
        found = box_gradient(pooled - target, features, row, spatial_scale, sampling_ratio)
        row[:, 1:] -= step_sizes * found
    return row[0, 1:]
    # END SOLUTION


# %% [markdown]
# On the ramp one number is enough: a bin with the value 3.8 whose target is 5 moves to the right by
# $1.2\,\eta$. Then an image of three blurred spots, and a box that was moved, stretched and turned.

# %% tags=["check"]
rows, columns = torch.meshgrid(*[torch.arange(16, dtype=torch.float64)] * 2, indexing="ij")
spots = torch.stack(
    [
        torch.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 8)
        for r, c in ((6.0, 5.0), (9.0, 8.0), (6.0, 11.0))
    ]
)[None]
true_box = numbers(64, 60, 60, 44, 15)
start_box = true_box + numbers(5, -4, 6, -5, -8)
only_x = numbers(0.5, 0, 0, 0, 0)

check = Checks("Exercise 5")
with check("half a step on the ramp"):
    found = fit_box(ramp, numbers(5).reshape(1, 1, 1), numbers(4.3, 4, 3, 2, 0), only_x, 1, 1.0, 1)
    equal(found, [4.9, 4, 3, 2, 0], within=1e-9)
with check("two of them, the second from where the first ended"):
    found = fit_box(ramp, numbers(5).reshape(1, 1, 1), numbers(4.3, 4, 3, 2, 0), only_x, 2, 1.0, 1)
    equal(found, [5.2, 4, 3, 2, 0], within=1e-9)
with check("the given box is not changed"):
    before = start_box.clone()
    target = roi_align_rotated(spots, torch.cat([numbers(0), true_box])[None], (5, 5), 1 / 8, 2)[0]
    fit_box(spots, target, start_box, numbers(30, 30, 60, 60, 60), 1, 1 / 8, 2)
    equal(start_box, before)
with check("after 200 steps the box is back within half a pixel and half a degree"):
    found = fit_box(spots, target, start_box, numbers(30, 30, 60, 60, 60), 200, 1 / 8, 2)
    equal(found, true_box, within=0.5)
check.report()

# %% [markdown]
# ## Question. Where a gradient goes (2 points)
#
# RoIPool rounds the box and takes the largest value of each bin. Where does the gradient of one bin of
# RoIPool go on the *map*, and what is its derivative with respect to the *box*? The operators of Mask
# R-CNN leave out the gradient of the box, although RoIAlign has one: from what do the box coordinates
# learn instead, and what would the head's losses do to the proposals if it were not left out?

# %% [markdown] question="gradient"
# <!-- BEGIN SOLUTION -->
# On the map all of it goes to one cell, the largest of the bin. With respect to the box RoIPool's
# derivative is 0 wherever it exists: while the rounded corners stay the same nothing changes, and where
# they jump there is none. In Mask R-CNN proposals are treated as given; the boxes learn from their
# regression losses (RPN and box head), which compare them with the ground truth. With the gradient of
# the box the class, box and mask losses would also move the proposals towards places whose features make these
# losses small, end to end, which need not be the places of the objects.
# <!-- END SOLUTION -->

# %% tags=["probes"]
import math

import numpy as np
import torch


def some_boxes(rng, number, images, pixels, low, high):
    """Rotated boxes with centres in the picture; no angle is near a multiple of 90 degrees."""
    angles = rng.uniform(10, 80, number) + 90 * rng.integers(-2, 2, number)
    columns = [
        rng.permutation(np.arange(number) % images),
        *rng.uniform(0.15 * pixels, 0.85 * pixels, (2, number)),
        *rng.uniform(low, high, (2, number)),
        angles,
    ]
    return torch.from_numpy(np.stack(columns, axis=1))


def roi_case(rng, ratio, cells=(2.5, 5.0), images=None, number=4, dtype=torch.float64):
    """Boxes of so many cells on maps of about ten."""
    images = images or int(rng.integers(1, 4))
    stride = int(rng.choice([4, 8, 16]))
    height, width = rng.integers(9, 13, 2).tolist()
    maps = rng.normal(size=(images, int(rng.integers(2, 5)), height, width))
    low, high = (stride * length for length in cells)
    boxes = some_boxes(rng, number, images, stride * min(height, width), low, high)
    bins = rng.permutation([1, 2, 3, 4])[:2]  # never square
    return {
        "features": torch.from_numpy(maps).to(dtype),
        "boxes": boxes.to(dtype),
        "output_size": tuple(bins.tolist()),
        "spatial_scale": 1 / stride,
        "sampling_ratio": ratio,
    }


def grid_case(rng, ratio):
    case = roi_case(rng, ratio, (2.5, 9.0), number=1)
    del case["features"]
    box = case.pop("boxes")[0, 1:]
    return {**case, "box": box}


def fixed_grids(rng):
    return [grid_case(rng, int(rng.integers(1, 4))) for _ in range(6)]


def adaptive_grids(rng):
    return [grid_case(rng, 0) for _ in range(6)]


def inside_inputs(rng):
    """Small boxes about the middle: no sample leaves the map."""
    cases = []
    for dtype in (torch.float64,) * 4 + (torch.float32,):
        case = roi_case(rng, int(rng.integers(1, 4)), dtype=dtype)
        middle = torch.tensor(case["features"].shape[:1:-1]) / case["spatial_scale"] / 2
        case["boxes"][:, 1:3] = 0.75 * middle + 0.25 * case["boxes"][:, 1:3]
        cases.append(case)
    return [*cases, roi_case(rng, 2, number=0)]


def border_inputs(rng):
    cases = [roi_case(rng, int(rng.integers(2, 4)), (9.0, 16.0)) for _ in range(4)]
    for case in cases:  # half of the centres lie at the border, with samples in its strip
        case["boxes"][::2, 1] = 0.0
    return cases


def adaptive_inputs(rng):
    return [roi_case(rng, 0, (3.0, 12.0)) for _ in range(4)]


def with_gradient(case, rng):
    shape = (len(case["boxes"]), case["features"].shape[1], *case.pop("output_size"))
    return {**case, "gradient": torch.from_numpy(rng.normal(size=shape))}


def map_inputs(rng):
    cases = []
    for ratio in (1, 2, 3, 0):
        case = with_gradient(roi_case(rng, ratio, (3.0, 12.0), images=2), rng)
        shape = tuple(case.pop("features").shape)
        cases.append({**case, "feature_size": shape})
    return cases


def box_inputs(rng):
    return [with_gradient(roi_case(rng, ratio, (4.0, 14.0)), rng) for ratio in (1, 2, 2, 3, 0)]


def fit_inputs(rng):
    cases = []
    for steps in (1, 2, 3):
        case = roi_case(rng, 2, images=1, number=1)
        shape = (case["features"].shape[1], *case.pop("output_size"))
        stride = 1 / case["spatial_scale"]
        # Smaller steps than a cell or a few degrees: rounding errors stay small.
        sizes = rng.uniform(0.02, 0.05, 5) * stride**2 / shape[0]
        sizes[4] = rng.uniform(2.0, 6.0) / shape[0]
        case["target"] = torch.from_numpy(rng.normal(size=shape))
        case["box"] = case.pop("boxes")[0, 1:]
        cases.append({**case, "step_sizes": torch.from_numpy(sizes), "steps": steps})
    return cases


# The reference weighs every cell of the map for every sample, as a tent of width 2 in y and x, and
# takes its gradients from autograd. Each option is a mistake.


def right_grid(
    box,
    output_size,
    spatial_scale,
    sampling_ratio,
    half=0.5,
    sign=1.0,
    unit=math.pi / 180,
    middle=0.5,
    rounded=math.ceil,
    cells=True,
    row_sign=1.0,
):
    x, y, width, height, angle = box.double()
    own = []
    for length, bins in zip((height, width), output_size, strict=True):
        length = length * spatial_scale
        long = length.item() if cells else length.item() / spatial_scale
        count = sampling_ratio or max(rounded(long / bins), 1)
        parts = torch.arange(bins * count, dtype=torch.float64) + middle
        own.append(((parts / (bins * count) - 0.5) * length).reshape(bins, count))
    v, u = own[0][:, None, :, None], own[1][None, :, None, :]
    sin, cos = sign * torch.sin(angle * unit), torch.cos(angle * unit)
    across = x * spatial_scale - half + u * cos + row_sign * v * sin
    return torch.stack([y * spatial_scale - half - u * sin + v * cos, across])


def tents(points, size, clamp=True, zero=True, through=False):
    counts = (points >= -1) & (points <= size) if zero else torch.ones_like(points)
    if through:  # the slope between the cells 0 and 1 also before cell 0
        points = points + (points.clamp(min=1e-9) - points).detach()
        points = points.clamp(max=size - 1)
    elif clamp:
        points = points.clamp(0, size - 1)
    tent = (1 - (points[..., None] - torch.arange(size)).abs()).clamp(min=0)
    return tent * counts[..., None]


def right_pooled(
    features,
    boxes,
    output_size,
    spatial_scale,
    sampling_ratio,
    clamp=True,
    zero=True,
    through=False,
    share=None,
    image=None,
    **mistake,
):
    pooled = features.new_zeros((len(boxes), features.shape[1], *output_size))
    for k, row in enumerate(boxes):
        y, x = right_grid(row[1:], output_size, spatial_scale, sampling_ratio, **mistake)
        one = features[int(row[0]) if image is None else image].double()
        A, B = (
            tents(points, length, clamp, zero, through)
            for points, length in zip((y, x), one.shape[1:], strict=True)
        )
        rows = torch.einsum("hwstr,krc->hwstkc", A, one)
        values = torch.einsum("hwstkc,hwstc->khwst", rows, B)
        if share == "inside":  # the mean over the samples that are not farther out
            size = torch.tensor(one.shape[1:])[:, None, None, None, None]
            points = torch.stack([y, x])
            counts = ((points >= -1) & (points <= size)).all(dim=0).sum(dim=(2, 3))
            pooled[k] = values.sum(dim=(3, 4)) / counts.clamp(min=1)
        else:
            counts = {"sum": 1, "ratio": sampling_ratio**2}.get(share, y.shape[2] * y.shape[3])
            pooled[k] = values.sum(dim=(3, 4)) / counts
    return pooled


def right_map(gradient, feature_size, **case):
    maps = torch.zeros(feature_size, dtype=torch.float64, requires_grad=True)
    loss = right_pooled(maps, output_size=tuple(gradient.shape[2:]), **case) * gradient
    return torch.autograd.grad(loss.sum(), maps)[0]


def overwritten(gradient, boxes, feature_size, spatial_scale, sampling_ratio):
    """Where samples of a box share a cell, only the last of them counts."""
    total = gradient.new_zeros(feature_size)
    for of_box, row in zip(gradient, boxes, strict=True):
        size = tuple(of_box.shape[1:])
        points = right_grid(row[1:], size, spatial_scale, sampling_ratio)
        height, width = feature_size[2:]
        y, x = points[0].clamp(0, height - 1), points[1].clamp(0, width - 1)
        counts = (
            (points[0] >= -1) & (points[0] <= height) & (points[1] >= -1) & (points[1] <= width)
        )
        shares = of_box[..., None, None] * counts / (y.shape[2] * y.shape[3])
        for down in (0, 1):
            for right in (0, 1):
                r = (y.floor().long() + down).clamp(max=height - 1)
                c = (x.floor().long() + right).clamp(max=width - 1)
                a = y - y.floor() if down else 1 - (y - y.floor())
                b = x - x.floor() if right else 1 - (x - x.floor())
                total[int(row[0])][:, r, c] += shares * a * b
    return total


def right_box(gradient, features, boxes, spatial_scale, sampling_ratio, **mistake):
    boxes = boxes.double().clone().requires_grad_()
    size = tuple(gradient.shape[2:])
    pooled = right_pooled(features, boxes, size, spatial_scale, sampling_ratio, **mistake)
    return torch.autograd.grad((pooled * gradient).sum(), boxes)[0][:, 1:]


def right_fit(features, target, box, step_sizes, steps, sign=-1.0, factor=1.0, again=True, **scale):
    row = torch.cat([torch.zeros(1, dtype=torch.float64), box.double()])[None]
    first = row.clone()
    for _ in range(steps):
        place = row if again else first
        pooled = right_pooled(features, place, tuple(target.shape[1:]), **scale)
        found = right_box(factor * (pooled - target), features, place, **scale)
        row = row + sign * torch.cat([torch.zeros(1), step_sizes])[None] * torch.cat(
            [torch.zeros(1, 1), found], dim=1
        )
    return row[0, 1:]


def instead(function, **options):
    """The function with options that make it a mistake."""
    return lambda **case: function(**case, **options)


def in_pixels(**case):
    """Without the factor that turns cells into pixels."""
    found = right_box(**case)
    found[:, :4] /= case["spatial_scale"]
    return found


def per_radian(**case):
    found = right_box(**case)
    found[:, 4] *= 180 / math.pi
    return found


def other_sense(**case):
    found = right_box(**case)
    found[:, 4] *= -1
    return found


def centre(function):
    return lambda **case: function(**case)[:, :2]


def size(function):
    return lambda **case: function(**case)[:, 2:4]


def angle(function):
    return lambda **case: function(**case)[:, 4]


def part_of(columns):
    """Only some columns of the result: a mistake in the others costs no points here."""
    return f"def drive(function, **case):\n    return function(**case)[:, {columns}]\n"


HALF = Mistake(
    "Where does the first cell of the map begin, and where does `[0, 0]` lie? Look at the last "
    "paragraph of the conventions.",
    instead(right_grid, half=0.0),
)
CLOCKWISE = Mistake(
    "Draw the box at 30 degrees on paper, with y pointing down: which way did it turn?",
    instead(right_grid, sign=-1.0),
)
RADIANS = Mistake(
    "Which unit does the angle have, and which one do `sin` and `cos` expect?",
    instead(right_grid, unit=1.0),
)
SHEARED = Mistake(
    "Look at a box with two rows of bins at 90 degrees: where is the first row?",
    instead(right_grid, row_sign=-1.0),
)
FROM_GRID = "Is the number of samples taken from the grid, also when `sampling_ratio` is 0?"

NEAR = Tolerance(rtol=1e-4, atol=1e-5)

ASSIGNMENT = Assignment(
    title="RoIAlign of rotated boxes",
    minutes=120,
    probes=[
        Probe(
            "grid-fixed",
            "grid",
            "sampling_grid",
            2,
            fixed_grids,
            right_grid,
            NEAR,
            mistakes=(
                HALF,
                CLOCKWISE,
                SHEARED,
                RADIANS,
                Mistake(
                    "Mark the samples of one bin: is there as much room before the first as after the last?",
                    instead(right_grid, middle=0.0),
                ),
            ),
        ),
        Probe(
            "grid-adaptive",
            "grid",
            "sampling_grid",
            2,
            adaptive_grids,
            right_grid,
            NEAR,
            hint="Look at the shape first: how many samples are there along each side of a bin?",
            mistakes=(
                Mistake(
                    "In which unit is a bin measured before its length is rounded up?",
                    instead(right_grid, cells=False),
                ),
                Mistake(
                    "How many samples does a bin of 1.2 cells need?",
                    instead(right_grid, rounded=math.floor),
                ),
                Mistake(
                    "How many samples does a bin of 1.2 cells need?",
                    instead(right_grid, rounded=round),
                ),
                HALF,
                CLOCKWISE,
                SHEARED,
                RADIANS,
            ),
        ),
        Probe(
            "inside",
            "roi_align",
            "roi_align_rotated",
            2,
            inside_inputs,
            right_pooled,
            NEAR,
            mistakes=(
                Mistake(
                    "On a constant map the result is that constant. Is it, with 3 samples in a bin?",
                    instead(right_pooled, share="sum"),
                ),
                Mistake(
                    "Which map does a box read? Look at the first column of `boxes`.",
                    instead(right_pooled, image=0),
                ),
            ),
            given=("grid",),
        ),
        Probe(
            "border",
            "roi_align",
            "roi_align_rotated",
            2,
            border_inputs,
            right_pooled,
            NEAR,
            hint="Right inside the map, but wrong at its border? Check single samples at "
            "y = -0.5, -1.5, H - 0.5 and H + 0.5, and at x = -0.5, -1.5, W - 0.5 and W + 0.5.",
            mistakes=(
                Mistake(
                    "What is the value of a sample at y = -0.6, between the edge of the map and one cell outside?",
                    instead(right_pooled, clamp=False),
                ),
                Mistake(
                    "What is the value of a sample far outside of the map?",
                    instead(right_pooled, zero=False),
                ),
                Mistake(
                    "By which number is the sum of a bin divided when some of its samples are far outside?",
                    instead(right_pooled, share="inside"),
                ),
            ),
            given=("grid",),
        ),
        Probe(
            "adaptive",
            "roi_align",
            "roi_align_rotated",
            1,
            adaptive_inputs,
            right_pooled,
            NEAR,
            mistakes=(
                Mistake(
                    "By how many samples is the sum of a bin divided? The two sides can differ.",
                    instead(right_pooled, share="sum"),
                ),
                Mistake(FROM_GRID, instead(right_pooled, share="ratio")),
            ),
            given=("grid",),
        ),
        Probe(
            "map",
            "map_gradient",
            "map_gradient",
            3,
            map_inputs,
            right_map,
            NEAR,
            hint=f"Do cells that several samples, bins or boxes reach get the sum of all shares? {FROM_GRID}",
            mistakes=(
                Mistake(
                    "A bin is a mean. Which factor does the gradient get from that?",
                    instead(right_map, share="sum"),
                ),
                Mistake(
                    "What does a cell get that several samples of one box reach? Try one bin with 3 by 3 samples in a box of one cell.",
                    overwritten,
                ),
                Mistake(
                    "Which map does the gradient of a box go to? Look at the first column of `boxes`.",
                    instead(right_map, image=0),
                ),
                Mistake(
                    "Where does the gradient of a sample go that lies up to one cell outside?",
                    instead(right_map, clamp=False),
                ),
                Mistake(
                    "Does a sample far outside of the map send anything?",
                    instead(right_map, zero=False),
                ),
            ),
            given=("grid",),
        ),
        Probe(
            "box-centre",
            "box_gradient",
            "box_gradient",
            1,
            box_inputs,
            centre(right_box),
            NEAR,
            driver=part_of(":2"),
            hint="Check x and y on a map that rises in one direction only. Then put samples outside of the map.",
            mistakes=(
                Mistake(
                    "When the box moves by one pixel, by how many cells do its samples move?",
                    centre(in_pixels),
                ),
                Mistake(
                    "Does the value of a sample change with y while it is outside of the map?",
                    centre(instead(right_box, through=True)),
                ),
                Mistake(
                    "A bin is a mean. Which factor does the derivative get from that?",
                    centre(instead(right_box, share="sum")),
                ),
                Mistake(FROM_GRID, centre(instead(right_box, share="ratio"))),
            ),
            given=("grid",),
        ),
        Probe(
            "box-size",
            "box_gradient",
            "box_gradient",
            1,
            box_inputs,
            size(right_box),
            NEAR,
            driver=part_of("2:4"),
            hint="When the width grows by one pixel, how far does a sample at the end of the box move, and how far one in the middle?",
            mistakes=(
                Mistake(
                    "When the box grows by one pixel, by how many cells do its samples move?",
                    size(in_pixels),
                ),
                Mistake(
                    "A bin is a mean. Which factor does the derivative get from that?",
                    size(instead(right_box, share="sum")),
                ),
                Mistake(FROM_GRID, size(instead(right_box, share="ratio"))),
                Mistake(
                    "Which of the last columns is the width, and along which axis of the box do the samples move with it?",
                    lambda **case: size(right_box)(**case).flip(1),
                ),
            ),
            given=("grid",),
        ),
        Probe(
            "box-angle",
            "box_gradient",
            "box_gradient",
            2,
            box_inputs,
            angle(right_box),
            NEAR,
            driver=part_of("4"),
            hint="Write y and x of a sample as functions of the angle (exercise 1), and differentiate.",
            mistakes=(
                Mistake("The change per which unit of the angle is asked for?", angle(per_radian)),
                Mistake(
                    "Which way does a sample at the right end move when the angle grows a little?",
                    angle(other_sense),
                ),
                Mistake(
                    "A bin is a mean. Which factor does the derivative get from that?",
                    angle(instead(right_box, share="sum")),
                ),
                Mistake(FROM_GRID, angle(instead(right_box, share="ratio"))),
            ),
            given=("grid",),
        ),
        Probe(
            "fit",
            "fit",
            "fit_box",
            2,
            fit_inputs,
            right_fit,
            NEAR,
            hint="Print the loss after each step: does it fall?",
            mistakes=(
                Mistake("Does the loss rise or fall with each step?", instead(right_fit, sign=1.0)),
                Mistake("What is the derivative of half a square?", instead(right_fit, factor=2.0)),
                Mistake(
                    "Where is the box when the second step begins?", instead(right_fit, again=False)
                ),
            ),
            given=("grid", "roi_align", "box_gradient"),
        ),
    ],
    questions=[
        Question(
            "gradient",
            2,
            "Half: on the map one cell (the largest of the bin) gets all of it. Half: with respect to the box the "
            "derivative is 0 (or does not exist, at a jump). Half: boxes learn from their regression losses. Half: "
            "proposals would be moved to lower the head's losses, not (only) towards the ground truth; any "
            "consequence of that which makes sense.",
        ),
    ],
    forbidden=(
        "torchvision.ops.roi_align",
        "torchvision.ops.RoIAlign",
        "torchvision.ops.ps_roi_align",
        "torchvision.ops.MultiScaleRoIAlign",
        "torch.ops.torchvision.roi_align",
        "torchvision.ops.deform_conv2d",
        "torch.nn.functional.grid_sample",
        "torch.autograd.grad",
        "torch.autograd.backward",
        "torch.autograd.forward_ad.make_dual",
        "labkit.ops.roi_align",
        "labkit.ops.roi_align.bilinear",
        "labkit.ops.deform_conv.deform_conv2d",
        "labkit.ops.deform_conv.neighbours",
        "labkit.ops.ms_deform_attn.ms_deform_attn",
        "labkit.ops.roi_align_compiled.roi_align",
        "labkit.ops.roi_align_separable.roi_align_separable",
    ),
    limits=Limits(cell_seconds=180, total_seconds=600),
)
