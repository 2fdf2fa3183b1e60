# %% [markdown]
# # Warm-up 1. Semantic segmentation
#
# Five short exercises on what notebook 1 builds on: counting pixels, the metrics made of the counts,
# what a cell of a feature map depends on, strides replaced by dilation, and transposed convolution.
#
# **Before you begin:** notebook 1. **Time:** 30 to 40 minutes. **Points:** 10, all of them computed.
#
# | exercise | points |
# | --- | --- |
# | 1 the confusion matrix | 2 |
# | 2 metrics: of classes that all occur, and not all | 1 + 1 |
# | 3 what a cell sees | 2 |
# | 4 dilation instead of strides | 2 |
# | 5 transposed convolution, bilinear weights | 1 + 1 |
#
# Your functions will be called with other inputs than those below, drawn anew for every submission.
# Speed is not graded. PyTorch's transposed convolutions and labkit's `ConfusionMatrix` may not be called
# in your answers.

# %% tags=["setup"]
import numpy as np

from labkit.checks import Checks, equal, has_shape

# %% [markdown]
# ## Exercise 1. The confusion matrix (2 points)
#
# Entry $[g, p]$ is the number of pixels with ground truth $g$ that are predicted as $p$. A pixel with
# ground truth 255 has no label: it does not count. A pixel *predicted* as 255 is undecided: with a label
# in the ground truth it counts in the last column, number $C$.


# %% exercise="confusion"
def confusion(prediction, gt, num_classes):
    """The confusion matrix of an image.

    Args:
        prediction, gt: (H, W) uint8 arrays of NumPy with 0 .. C - 1, or 255.
        num_classes: C, at most 200.

    Returns:
        (C, C + 1) integers: rows are the ground truth, columns the predictions.
    """
    # BEGIN SOLUTION
    matrix = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    columns = np.where(prediction == 255, num_classes, prediction)
    labelled = gt != 255
    np.add.at(matrix, (gt[labelled], columns[labelled]), 1)
    return matrix
    # END SOLUTION


# %% tags=["check"]
small_gt = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
small_prediction = np.array([[0, 1, 1, 1], [0, 255, 0, 1]], np.uint8)

check = Checks("Exercise 1")
with check("one row for each class, one column more: (2, 3)"):
    has_shape(np.asarray(confusion(small_prediction, small_gt, 2)), (2, 3))
with check("of the four pixels of class 0: two right, one as class 1, one undecided"):
    equal(confusion(small_prediction, small_gt, 2)[0], [2, 1, 1])
with check("of the three pixels of class 1: one as class 0, two right"):
    equal(confusion(small_prediction, small_gt, 2)[1], [1, 2, 0])
with check("20 classes: 20 · 19 does not fit into a uint8"):
    last = np.full((2, 3), 19, np.uint8)
    equal(confusion(last, last, 20)[19, 19], 6)
check.report()

# %% [markdown]
# ## Exercise 2. Metrics (1 + 1 points)
#
# From a matrix $m$ as above, with $C + 1$ columns. Let $t_c$ be the sum of row $c$ (the labelled pixels of
# class $c$) and $u_c$ the number of pixels in the union of class $c$'s ground truth and prediction.
#
# - `iou`: $m_{cc} / u_c$ for each class; `nan` for a class whose union is empty.
# - `miou`: its mean over the classes whose union is not empty.
# - `pixel_accuracy`: $\sum_c m_{cc} / \sum_c t_c$.
# - `mean_accuracy`: the mean of $m_{cc} / t_c$ over the classes with $t_c > 0$.
# - `fw_iou`, frequency-weighted: $\sum_c t_c \, \mathrm{IoU}_c / \sum_c t_c$ over the classes with
#   $t_c > 0$.


# %% exercise="metrics"
def metrics(matrix):
    """The five metrics of FCN.

    Args:
        matrix: (C, C + 1) integers; at least one pixel is labelled.

    Returns:
        {"iou": (C,), "miou": ..., "pixel_accuracy": ..., "mean_accuracy": ..., "fw_iou": ...}
    """
    # BEGIN SOLUTION
    right, of_gt = matrix.diagonal(), matrix.sum(axis=1)
    union = of_gt + matrix[:, :-1].sum(axis=0) - right
    with np.errstate(invalid="ignore"):
        iou, accuracy = right / union, right / of_gt
    return {
        "iou": iou,
        "miou": np.nanmean(iou),
        "pixel_accuracy": right.sum() / of_gt.sum(),
        "mean_accuracy": np.nanmean(accuracy),
        "fw_iou": np.nansum(of_gt * iou) / of_gt.sum(),
    }
    # END SOLUTION


# %% [markdown]
# By hand on `[[2, 1, 1], [1, 2, 0]]`: class 0 has the union 4 + 3 − 2 = 5, class 1 has 3 + 3 − 2 = 4. The
# undecided pixel is in the union of class 0 and in no column of a class.

# %% tags=["check"]
of_exercise_1 = np.array([[2, 1, 1], [1, 2, 0]])
missing = np.array(
    [[3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
)  # 1 is only predicted, 2 never occurs

check = Checks("Exercise 2")
with check("IoU of the classes: 2/5 and 2/4"):
    equal(metrics(of_exercise_1)["iou"], [0.4, 0.5], within=1e-9)
with check("pixel accuracy 4/7"):
    equal(metrics(of_exercise_1)["pixel_accuracy"], 4 / 7, within=1e-9)
with check("mean accuracy: the mean of 2/4 and 2/3"):
    equal(metrics(of_exercise_1)["mean_accuracy"], 7 / 12, within=1e-9)
with check("frequency-weighted: (4 · 0.4 + 3 · 0.5) / 7"):
    equal(metrics(of_exercise_1)["fw_iou"], 3.1 / 7, within=1e-9)
with check("a class that is only predicted has IoU 0, one that never occurs has none"):
    equal(metrics(missing)["iou"], [0.75, 0, np.nan], within=1e-9)
with check(
    "mIoU over the two classes with a union, mean accuracy over the one in the ground truth"
):
    equal(metrics(missing)["miou"], 0.375, within=1e-9)
    equal(metrics(missing)["mean_accuracy"], 0.75, within=1e-9)
check.report()

# %% [markdown]
# ## Exercise 3. What a cell sees (2 points)
#
# A stack of convolutions in one dimension. A layer is (kernel size $k$, stride $s$, dilation $r$, padding
# $p$): its output cell $i$ reads the input cells $i \, s - p + r \, j$ for $j = 0 \dots k - 1$. With
# $p = r (k - 1) / 2$ that is a window around cell $i \, s$; with less padding the window lies farther to the
# right. On which pixels of the image does a cell of the last map depend?


# %% exercise="seen"
def seen_pixels(layers, cell, size):
    """The first and the last pixel on which a cell depends.

    Args:
        layers: a list of [k, s, r, p], the first one reads the image; p is at most r (k - 1) / 2.
        cell: the index of the cell in the last map, from 0.
        size: of the image, with the pixels 0 .. size - 1.

    Returns:
        [first, last], both inside the image.
    """
    # BEGIN SOLUTION
    first = last = cell
    for k, s, r, p in reversed(layers):
        first, last = first * s - p, last * s - p + r * (k - 1)
    return [max(first, 0), min(last, size - 1)]
    # END SOLUTION


# %% [markdown]
# By hand: a convolution with k = 5, stride 2 and p = 2, then one with k = 3, stride 2 and p = 1. Cell 3 of the
# second map reads the cells 5 to 7 of the first; the first of these reads the pixels 8 to 12, the last one 12 to
# 16.

# %% tags=["check"]
stem = [[5, 2, 1, 2], [3, 2, 1, 1]]

check = Checks("Exercise 3")
with check("cell 3 sees the pixels 8 to 16"):
    equal(seen_pixels(stem, 3, 64), [8, 16])
with check("at the border there are no pixels to the left of 0"):
    equal(seen_pixels(stem, 0, 64), [0, 4])
with check("and none to the right of the last"):
    equal(seen_pixels(stem, 15, 64), [56, 63])
with check("dilation 3 and k = 3: three cells to both sides"):
    equal(seen_pixels([[3, 1, 3, 3]], 10, 64), [7, 13])
with check("without padding the window begins at the cell's own number"):
    equal(seen_pixels([[3, 1, 3, 0]], 10, 64), [10, 16])
with check("behind a stride of 2 each of these cells is two pixels"):
    equal(seen_pixels([[3, 2, 1, 1], [3, 1, 3, 0]], 10, 64), [19, 33])
check.report()

# %% [markdown]
# ## Exercise 4. Dilation instead of strides (2 points)
#
# Turn a network into one with a finer last map and the same weights. Go through the layers and multiply
# their strides as you go. A layer whose stride would raise the product above `output_stride` gets the
# stride 1. That makes the map behind it finer, so *every layer behind it* (not the layer itself) gets its
# dilation multiplied by the stride that was taken away. If two strides are taken away, the dilation behind
# both is multiplied by both.


# %% exercise="dilate"
def dilate(layers, output_stride):
    """The layers of the dilated network.

    Args:
        layers: a list of [k, s, r]; s is 1 or 2.
        output_stride: a power of 2.

    Returns:
        A list of [k, s, r].
    """
    # BEGIN SOLUTION
    dilated, stride, factor = [], 1, 1
    for k, s, r in layers:
        taken = stride * s > output_stride
        dilated.append([k, 1 if taken else s, r * factor])
        if taken:
            factor *= s
        else:
            stride *= s
    return dilated
    # END SOLUTION


# %% tags=["check"]
network = [[5, 2, 1], [3, 2, 1], [3, 1, 1], [3, 2, 1], [3, 1, 1]]  # stride 8

check = Checks("Exercise 4")
with check("output stride 8: nothing changes"):
    equal(dilate(network, 8), network)
with check("output stride 4: the last stride is taken, the layer behind it is dilated"):
    equal(dilate(network, 4), [*network[:3], [3, 1, 1], [3, 1, 2]])
with check("output stride 2: two strides are taken, and the last layer has dilation 4"):
    equal(dilate(network, 2), [[5, 2, 1], [3, 1, 1], [3, 1, 2], [3, 1, 2], [3, 1, 4]])
with check("a layer that was dilated before: 3 · 2"):
    equal(dilate([[3, 2, 1], [3, 1, 3]], 1), [[3, 1, 1], [3, 1, 6]])
check.report()

# %% [markdown]
# ## Exercise 5. Transposed convolution (1 + 1 points)
#
# FCN makes its map larger by a **transposed convolution**, here in one dimension. Input cell $i$ adds
# $x_i w_k$ to the output at the position $i \, s + k$, for every $k = 0 \dots K - 1$. The output has
# $(n - 1) s + K$ positions; of these, `padding` are cut off at *each* end.
#
# With the right weights it interpolates. For the factor $f$ take the stride $f$. The weights are the
# samples of a triangle: its height is 1 in the middle of the kernel, and it falls to 0 at a distance of
# $f$ from there. For an even $f$ there are $K = 2 f$ weights (the middle is between two of them) and
# $f / 2$ positions are cut off; for an odd $f$ there are $K = 2 f - 1$ and $(f - 1) / 2$.


# %% exercise="transposed"
def transposed_conv1d(x, w, stride, padding):
    """Transposed convolution.

    Args:
        x: (n,) float64 array of NumPy, n at least 1.
        w: (K,) float64.
        stride: s.
        padding: how much is cut off at each end.

    Returns:
        ((n - 1) s + K - 2 padding,); the inputs are chosen such that this is at least 1.
    """
    # BEGIN SOLUTION
    out = np.zeros((len(x) - 1) * stride + len(w))
    for i, value in enumerate(x):
        out[i * stride : i * stride + len(w)] += value * w
    return out[padding : len(out) - padding]
    # END SOLUTION


def bilinear_weights(factor):
    """Weights of a transposed convolution that interpolates.

    Args:
        factor: f, at least 1.

    Returns:
        (K,)
    """
    # BEGIN SOLUTION
    size = 2 * factor - factor % 2
    return 1 - np.abs(np.arange(size) - (size - 1) / 2) / factor
    # END SOLUTION


# %% tags=["check"]
import torch
from torch.nn import functional as F

three, weights = np.array([1.0, 0, 2]), np.array([1.0, 10, 100])

check = Checks("Exercise 5")
with check("stride 3: three copies of the weights side by side"):
    equal(transposed_conv1d(three, weights, 3, 0), [1, 10, 100, 0, 0, 0, 2, 20, 200])
with check("stride 2: neighbouring copies overlap at one position, and add up"):
    equal(transposed_conv1d(three, weights, 2, 0), [1, 10, 100, 0, 2, 20, 200])
with check("padding 1 cuts off one position at each end"):
    equal(transposed_conv1d(three, weights, 2, 1), [10, 100, 0, 2, 20])
with check("factor 2: ¼, ¾, ¾, ¼"):
    equal(bilinear_weights(2), [0.25, 0.75, 0.75, 0.25], within=1e-9)
with check("factor 3: a third, two thirds, 1, and back"):
    equal(bilinear_weights(3), [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3], within=1e-9)
with check("away from the border it is PyTorch's interpolation, align_corners=False"):
    signal = np.array([3.0, 1, 4, 1, 5])
    larger = transposed_conv1d(signal, bilinear_weights(4), 4, 2)
    reference = F.interpolate(torch.tensor(signal)[None, None], scale_factor=4, mode="linear")
    equal(larger[2:-2], reference[0, 0, 2:-2], within=1e-9)
check.report()

# %% tags=["probes"]
import numpy as np

NEAR = Tolerance(rtol=1e-6, atol=1e-9)


def maps(rng, classes):
    """A prediction and a ground truth with both kinds of 255, and with confusions."""
    gt = rng.integers(0, classes, (9, 11))
    prediction = np.where(rng.random(gt.shape) < 0.6, gt, rng.integers(0, classes, gt.shape))
    gt[rng.random(gt.shape) < 0.1] = 255
    prediction[rng.random(gt.shape) < 0.1] = 255
    gt[0, :2], prediction[0, :2] = (classes - 1, 0), 255
    gt[1, 0], prediction[1, 0] = 255, 255
    prediction[2, 0], gt[2, 0] = 0, 1
    prediction[2, 1], gt[2, 1] = classes - 1, classes - 1
    return prediction.astype(np.uint8), gt.astype(np.uint8)


def confusion_inputs(rng):
    cases = []
    for classes in (3, 5, 20, 133):
        prediction, gt = maps(rng, classes)
        cases.append({"prediction": prediction, "gt": gt, "num_classes": classes})
    return cases


def right_confusion(prediction, gt, num_classes, mistake=""):
    matrix = np.zeros((num_classes, num_classes + 1), int)
    for p, g in zip(prediction.ravel().tolist(), gt.ravel().tolist(), strict=True):
        if g == 255 or (mistake == "undecided" and p == 255):
            continue
        row, column = g, num_classes if p == 255 else p
        if mistake == "transposed":
            if column < num_classes:
                matrix[column, row] += 1
            else:
                matrix[row, column] += 1
        elif mistake == "wraps":
            place = (row * (num_classes + 1) + column) % 256
            if place < matrix.size:
                matrix.reshape(-1)[place] += 1
        else:
            matrix[row, column] += 1
    return matrix


def whole_inputs(rng):
    return [{"matrix": rng.integers(1, 60, (c, c + 1))} for c in rng.integers(2, 8, 4).tolist()]


def missing_inputs(rng):
    cases = []
    for classes in rng.integers(4, 8, 4).tolist():
        matrix = rng.integers(1, 60, (classes, classes + 1))
        absent, predicted = rng.permutation(classes)[:2]
        matrix[absent], matrix[:, absent] = 0, 0
        matrix[predicted] = 0
        cases.append({"matrix": matrix})
    return cases


def right_metrics(matrix, mistake=""):
    classes = len(matrix)
    counted = matrix[:, :classes] if mistake == "undecided" else matrix
    t = [int(row.sum()) for row in counted]
    iou, accuracy, weighted = [], [], 0.0
    for c in range(classes):
        union = t[c] + int(matrix[:, c].sum()) - int(matrix[c, c])
        iou.append(int(matrix[c, c]) / union if union else float("nan"))
        if t[c]:
            accuracy.append(int(matrix[c, c]) / t[c])
            weighted += t[c] * iou[c]
        elif mistake == "accuracy":
            accuracy.append(0.0)
    occurring = [value for value in iou if value == value]
    over = classes if mistake == "zeros" else len(occurring)
    if mistake == "only-gt":
        occurring, over = [v for v, n in zip(iou, t, strict=True) if n], sum(n > 0 for n in t)
    return {
        "iou": np.array(iou),
        "miou": sum(occurring) / over,
        "pixel_accuracy": int(matrix.diagonal().sum()) / sum(t),
        "mean_accuracy": sum(accuracy) / len(accuracy),
        "fw_iou": weighted / sum(t),
    }


def stack(rng, layers):
    """Layers with all that can be forgotten: strides, dilations, kernels and paddings."""
    kinds = [[5, 2, 1], [3, 1, 2], [3, 2, 1], [1, 1, 1], [3, 1, 1], [7, 2, 1], [3, 1, 3]]
    chosen = [kinds[k] for k in rng.integers(0, len(kinds), layers)]
    chosen[1], chosen[2] = [3, 2, 1], [5, 1, 2]
    chosen = [[k, s, r, int(rng.integers(r * (k - 1) // 2 + 1))] for k, s, r in chosen]
    chosen[2][3] = int(rng.integers(4))  # less than 4, with which its window would be in the middle
    return chosen


def last_cell(layers, size):
    for k, s, r, p in layers:
        size = (size + 2 * p - r * (k - 1) - 1) // s + 1
    return size - 1


def seen_inputs(rng):
    cases = []
    for number in range(6):
        while True:
            layers, size = stack(rng, int(rng.integers(3, 6))), int(rng.integers(200, 300))
            last = last_cell(layers, size)
            # In the middle, at the left and at the right border.
            case = {"layers": layers, "cell": (last // 2, 0, last)[number % 3], "size": size}
            outside = right_seen(**case, mistake="border") != right_seen(**case)
            # What lies beyond the image also lies beyond the maps between.
            if right_seen(**case, mistake="maps") == right_seen(**case) and outside == bool(
                number % 3
            ):
                break
        cases.append(case)
    return cases


def right_seen(layers, cell, size, mistake=""):
    first = last = cell
    for number in range(len(layers))[:: 1 if mistake == "forwards" else -1]:
        k, s, r, p = layers[number]
        r = 1 if mistake == "dilation" else r
        p = r * (k - 1) // 2 if mistake == "middle" else p
        first, last = first * s - p, last * s - p + r * (k - 1)
        if mistake == "maps":  # nothing is different: maps end where the image does
            largest = last_cell(layers[:number], size)
            first, last = max(first, 0), min(last, largest)
    return [first, last] if mistake == "border" else [max(first, 0), min(last, size - 1)]


def dilate_inputs(rng):
    cases = []
    for output_stride in (1, 2, 4, 4, 8):
        # Five strides, so that at least two are taken away, with other layers between them.
        layers = []
        for _ in range(5):
            layers.append([int(rng.choice([3, 5])), 2, 1])
            layers += [[3, 1, int(rng.integers(1, 4))] for _ in range(int(rng.integers(1, 3)))]
        cases.append({"layers": layers, "output_stride": output_stride})
    return cases


def right_dilate(layers, output_stride, mistake=""):
    out = []
    for number, (k, s, r) in enumerate(layers):
        before = [layer[1] for layer in layers[:number]]
        product = int(np.prod(before, initial=1))
        limit = output_stride // 2 if mistake == "early" else output_stride
        excess = max(1, product // max(limit, 1))
        here = max(1, product * s // max(limit, 1))
        taken = here > excess
        factor = here if mistake == "itself" else excess
        if mistake == "once":
            factor = min(factor, 2)
        out.append([k, 1 if taken else s, r * factor])
    return out


def transposed_inputs(rng):
    cases = []
    for n, size, stride, padding in (
        (4, 3, 2, 1),
        (5, 4, 2, 0),
        (3, 5, 3, 2),
        (6, 2, 3, 0),
        (4, 6, 1, 1),
    ):
        x, w = rng.normal(size=n), rng.normal(size=size)
        cases.append({"x": x, "w": w, "stride": stride, "padding": padding})
    return cases


def right_transposed(x, w, stride, padding, mistake=""):
    size = (len(x) - 1) * stride + len(w)
    w = w[::-1] if mistake == "flipped" else w
    out = [
        sum(x[i] * w[at - i * stride] for i in range(len(x)) if 0 <= at - i * stride < len(w))
        for at in range(size)
    ]
    if mistake == "overwrites":
        out = np.zeros(size)
        for i, value in enumerate(x):
            out[i * stride : i * stride + len(w)] = value * w
    end = size - padding
    if mistake == "one-end":
        return np.array(out[2 * padding :])
    return np.array(out[padding:end])


def weight_inputs(rng):
    return [{"factor": int(f)} for f in rng.permutation(np.arange(2, 12))[:6]]


def right_weights(factor, mistake=""):
    size = 2 * factor - factor % 2
    middle = factor - 1 if factor % 2 else factor - 0.5
    if mistake == "middle":
        middle = factor - 1
    w = np.array([(factor - abs(k - middle)) / factor for k in range(size)])
    if mistake == "normalised":
        return w / w.sum()
    if mistake == "distance":
        return np.array([1 - abs(k - middle) / (size / 2 + 0.5) for k in range(size)])
    return w


def wrong(reference, mistake):
    """What a mistake gives: the reference with one switch."""
    return lambda **case: reference(**case, mistake=mistake)


ASSIGNMENT = Assignment(
    title="Warm-up: semantic segmentation",
    minutes=40,
    probes=[
        Probe(
            "confusion",
            "confusion",
            "confusion",
            2,
            confusion_inputs,
            right_confusion,
            mistakes=(
                Mistake(
                    "In which direction do you read the matrix: are its rows the ground truth?",
                    wrong(right_confusion, "transposed"),
                ),
                Mistake(
                    "Which pixels do not count: those without a label, or also those without a decision?",
                    wrong(right_confusion, "undecided"),
                ),
                Mistake(
                    "Which type do the products of your class numbers have? How large is the largest?",
                    wrong(right_confusion, "wraps"),
                ),
            ),
        ),
        Probe(
            "metrics",
            "metrics",
            "metrics",
            1,
            whole_inputs,
            right_metrics,
            NEAR,
            mistakes=(
                Mistake(
                    "Are undecided pixels in the ground truth of their class?",
                    wrong(right_metrics, "undecided"),
                ),
            ),
        ),
        Probe(
            "metrics-missing",
            "metrics",
            "metrics",
            1,
            missing_inputs,
            right_metrics,
            NEAR,
            mistakes=(
                Mistake(
                    "Are undecided pixels in the ground truth of their class?",
                    wrong(right_metrics, "undecided"),
                ),
                Mistake(
                    "By how many classes do you divide for mIoU if one of them never occurs?",
                    wrong(right_metrics, "zeros"),
                ),
                Mistake(
                    "Which classes take part in mIoU: what of one that is predicted only?",
                    wrong(right_metrics, "only-gt"),
                ),
                Mistake(
                    "Which classes take part in the mean accuracy: what of one without ground truth?",
                    wrong(right_metrics, "accuracy"),
                ),
            ),
        ),
        Probe(
            "seen",
            "seen",
            "seen_pixels",
            2,
            seen_inputs,
            right_seen,
            mistakes=(
                Mistake(
                    "Which layer does the cell belong to? Begin there.",
                    wrong(right_seen, "forwards"),
                ),
                Mistake(
                    "How far apart are the weights of a dilated kernel?",
                    wrong(right_seen, "dilation"),
                ),
                Mistake("Where does the image end?", wrong(right_seen, "border")),
                Mistake(
                    "Where does the window of a cell begin if there is less padding?",
                    wrong(right_seen, "middle"),
                ),
            ),
        ),
        Probe(
            "dilate",
            "dilate",
            "dilate",
            2,
            dilate_inputs,
            right_dilate,
            mistakes=(
                Mistake(
                    "Does the layer that loses its stride read a finer map than before, or those behind it?",
                    wrong(right_dilate, "itself"),
                ),
                Mistake(
                    "Two strides of 2 are taken away: how much finer is the map behind both?",
                    wrong(right_dilate, "once"),
                ),
                Mistake(
                    "May the product of the strides reach output_stride?",
                    wrong(right_dilate, "early"),
                ),
            ),
        ),
        Probe(
            "transposed",
            "transposed",
            "transposed_conv1d",
            1,
            transposed_inputs,
            right_transposed,
            NEAR,
            mistakes=(
                Mistake(
                    "At which position does weight 0 of cell i end?",
                    wrong(right_transposed, "flipped"),
                ),
                Mistake(
                    "What happens where two copies of the weights overlap?",
                    wrong(right_transposed, "overwrites"),
                ),
                Mistake(
                    "At which ends is the padding cut off?", wrong(right_transposed, "one-end")
                ),
            ),
        ),
        Probe(
            "weights",
            "transposed",
            "bilinear_weights",
            1,
            weight_inputs,
            right_weights,
            NEAR,
            mistakes=(
                Mistake(
                    "Where is the middle of a kernel with an even number of weights?",
                    wrong(right_weights, "middle"),
                ),
                Mistake(
                    "A constant signal stays the same: what is the sum of all weights that meet at one position?",
                    wrong(right_weights, "normalised"),
                ),
                Mistake(
                    "At which distance from the middle does the triangle reach 0?",
                    wrong(right_weights, "distance"),
                ),
            ),
        ),
    ],
    forbidden=(
        "torch.nn.ConvTranspose1d",
        "torch.nn.ConvTranspose2d",
        "torch.nn.ConvTranspose3d",
        "torch.nn.functional.conv_transpose1d",
        "torch.nn.functional.conv_transpose2d",
        "torch.nn.functional.conv_transpose3d",
        "torch.conv_transpose1d",
        "torch.conv_transpose2d",
        "torch.conv_transpose3d",
        "labkit.metrics.semantic.ConfusionMatrix",
    ),
    limits=Limits(cell_seconds=60, total_seconds=300),
)
