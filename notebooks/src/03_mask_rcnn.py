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
# # 3. From R-CNN to Mask R-CNN
#
# **The question.** A network that classifies pictures says *what*. How does it become one that finds
# every object, with a box and a mask each, and does so without looking at thousands of boxes one by
# one?
#
# By the end you have counted what each of four detectors saves over the one before, drawn anchors and
# decided which of them learn, written non-maximum suppression and the forward pass of a region
# proposal network, trained a whole Mask R-CNN, measured it with AP, looked at what it gets wrong, and
# exchanged its backbone.
#
# You need: notebooks 1 and 2, and patience for two minutes of training in all.

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: minutes; full: a GPU
seed: int = 0

# %%
# %matplotlib inline
import math
import os
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from IPython.display import display
from matplotlib.patches import Rectangle
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn
from torchvision.ops import box_iou
from torchvision.transforms import v2

import labkit
from labkit.checkpoints.shipped import shipped
from labkit.checkpoints.torchvision import CONFIG, load
from labkit.colors import PETROFF_10
from labkit.datasets.penn_fudan import PennFudan
from labkit.datasets.shapes import Shapes
from labkit.datasets.transforms import JointTransform, TransformedDataset
from labkit.engine.predictor import Predictor, load_model
from labkit.engine.train import TrainConfig, train
from labkit.metrics.average_precision import (
    area_under,
    average_precision,
    detection_iou,
    precision_recall,
)
from labkit.metrics.average_precision import (
    match_detections as match_detections,
)
from labkit.metrics.coco_ap import COCOAP
from labkit.models import build
from labkit.models.preprocess import TORCHVISION, preprocess
from labkit.models.presets import PRESETS
from labkit.models.rcnn.mask_head import crop_masks, paste_masks
from labkit.models.rcnn.matcher import IGNORED, NEGATIVE, POSITIVE, match_boxes, sample_boxes
from labkit.ops import roi_align
from labkit.ops.boxes import clip_boxes, decode_boxes, encode_boxes
from labkit.structures import Detections
from labkit.system.cpu_cores import use_threads
from labkit.system.progress_bars import progress_bar
from labkit.visualize import loss_curves, panels
from labkit.widgets import AnchorsNMS
from labkit.widgets.anchors_nms.explorer import draw_anchors_nms
from labkit.widgets.anchors_nms.pyramid_levels import rpn_levels

num_train, num_val, steps, street_steps = {
    "smoke": (16, 4, 2, 1),
    "quick": (1000, 100, 600, 0),
    "full": (10_000, 500, 6000, 1500),
}[profile]
BATCH = 8 if profile == "full" else 2
_ = torch.manual_seed(seed)
if profile != "full":
    use_threads(1)  # the tensors are small: threads would wait for one another
random = np.random.default_rng(seed)
blue, orange, red, grey, purple = [np.array(c) / 255 for c in PETROFF_10[:5]]

train_set = Shapes("train", num=num_train, seed=seed)
val_set = Shapes("val", num=num_val, seed=seed)
categories = train_set.categories
SIDE = val_set.size
val_items = [val_set[i] for i in progress_bar(range(num_val), unit="image")]

# %% [markdown]
# ## 3.1 Four detectors and what they cost
#
# **R-CNN** (Girshick et al., 2014) takes the classifier as it is. Something outside the network, an
# algorithm called *selective search*, guesses some 2000 boxes; each is cut out of the picture, warped
# to a fixed size and pushed through the whole network. It works, and it is slow: neighbouring boxes
# overlap, and the same pixels are convolved hundreds of times.
#
# **Fast R-CNN** (2015) turns the order round. Convolutions do not care where a picture ends, so they
# run *once*, on the whole picture, and the boxes are cut out of the feature map: RoIPool, or today
# RoIAlign (notebook 2). What is left for each region is two fully connected layers.
#
# **Faster R-CNN** (2015) removes the guessing. Selective search took about two seconds for a picture,
# more than the network. A *region proposal network* of three convolutions on the same feature map
# does it instead, and it can learn.
#
# **Mask R-CNN** (2017) adds: a few convolutions for each *detection* that draw its mask.
#
# We count. A hook on every layer adds up its multiplications; the parts are those of labkit's tiny
# Mask R-CNN, and R-CNN gets the same backbone on crops of $64 \times 64$.


# %%
@contextmanager
def counting(network):
    """Collects, while it is open, how often convolutions ran and all multiplications."""
    total, hooks = Counter(), []

    def count(layer, inputs, output):
        taps = layer.weight[0].numel()  # multiplications for one number of the output
        if isinstance(layer, nn.ConvTranspose2d):
            taps = layer.weight.shape[0]  # stride = kernel: each output has one tap a channel
        total["multiplications"] += taps * output.numel()
        total["convolutions"] += not isinstance(layer, nn.Linear)

    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            hooks.append(layer.register_forward_hook(count))
    yield total
    for hook in hooks:
        hook.remove()


def some_boxes(number):
    """Boxes of all sizes in the picture."""
    sides = torch.exp(torch.empty(number, 2).uniform_(math.log(10), math.log(60)))
    corner = torch.rand(number, 2) * (SIDE - sides)
    return torch.cat([corner, corner + sides], dim=1)


detector = build("mask_rcnn_tiny", categories).eval()
classify = nn.Linear(detector.backbone.bottom_up.channels["res5"], len(categories.things) + 1)
image, target = val_items[1]


# Each detector in two parts: what is done once, and what is done with every box.
def nothing():
    return None


def backbone():
    batch = preprocess([image], detector.config.preprocessing)
    return detector.backbone(batch.tensor)


def backbone_and_proposals():
    batch = preprocess([image], detector.config.preprocessing)
    features = detector.backbone(batch.tensor)
    detector.rpn(features, batch)
    return features


def network_on_crops(_, boxes):
    crops = roi_align(image[None].float(), [boxes], 64, 1.0, 2, aligned=True)
    return classify(detector.backbone.bottom_up(crops)["res5"].mean(dim=(2, 3)))


def two_layers(features, boxes):
    x = detector.roi_heads.box_features(features, [boxes])
    return detector.roi_heads.cls_score(x), detector.roi_heads.bbox_pred(x)


def mask_branch(features, boxes):
    return detector.roi_heads.mask_head(detector.roi_heads.mask_features(features, [boxes]))


DETECTORS = {  # once, for every box, for every detection
    "R-CNN": (nothing, network_on_crops, None),
    "Fast R-CNN": (backbone, two_layers, None),
    "Faster R-CNN": (backbone_and_proposals, two_layers, None),
    "Mask R-CNN": (backbone_and_proposals, two_layers, mask_branch),
}
DETECTIONS = 20
whole = nn.ModuleList([detector, classify])
print(f"{'':14}convolutions a   millions of multiplications a")
print(f"{'':14}picture   box    picture     box   detection    100 boxes, 20 detections")
million = {}
with torch.no_grad():
    for name, (once, each, last) in DETECTORS.items():
        counts = []
        with counting(whole) as count:
            features = once()
            counts.append(Counter(count))
            each(features, some_boxes(1))
            counts.append(count - counts[0])
        with counting(whole) as count:
            if last:
                last(features, some_boxes(1))
            counts.append(Counter(count))
        picture, box, detection = [c["multiplications"] / 1e6 for c in counts]
        million[name] = (picture, box, detection)
        work = picture + 100 * box + DETECTIONS * detection
        print(
            f"{name:14}{counts[0]['convolutions']:7}{counts[1]['convolutions']:6}"
            f"{picture:11.1f}{box:8.2f}{detection:12.2f}{work:14.0f}"
        )
        labkit.record(f"convolutions_a_box_{name.replace(' ', '_')}", counts[1]["convolutions"])
labkit.record("multiplications_r_cnn_over_fast", million["R-CNN"][1] / million["Fast R-CNN"][1])

# %% [markdown]
# What each step removes is plain to see: a region of R-CNN costs a pass through the network, one of
# Fast R-CNN two matrix products. The proposals of Faster R-CNN cost the picture a little more, and
# nothing for a region. Masks cost more than the classification of a box, but only the few boxes
# that are left at the end have them. Multiplications are not seconds, so we measure as well:


# %%
def seconds_of(name, number, repeats=5):
    once, each, last = DETECTORS[name]
    boxes, times = some_boxes(number), []
    for _ in range(repeats):
        start = time.perf_counter()
        features = once()
        each(features, boxes)
        if last:
            last(features, boxes[:DETECTIONS])
        times.append(time.perf_counter() - start)
    return min(times)


numbers = (1, 10, 30, 100, 300) if profile != "smoke" else (1, 10)
with torch.no_grad():
    seconds = {name: [seconds_of(name, n) for n in numbers] for name in DETECTORS}
figure, axis = plt.subplots(figsize=(6.6, 3.3), layout="constrained")
STYLES = zip(DETECTORS, (red, orange, blue, purple), ("o-", "s--", "^-", "D:"), strict=True)
for name, color, style in STYLES:
    axis.plot(numbers, np.array(seconds[name]) * 1000, style, color=color, label=name)
axis.set(xscale="log", yscale="log", xlabel="boxes looked at", ylabel="milliseconds a picture")
for side in (axis.xaxis, axis.yaxis):
    side.set_major_formatter("{x:g}")
    side.set_minor_formatter("")
axis.set_yticks((10, 30, 100, 300))
axis.grid(alpha=0.3)
axis.legend(frameon=False)
plt.show()
for name in DETECTORS:
    print(f"{name:14}{seconds[name][-1] * 1000:8.1f} ms for {numbers[-1]} boxes")
labkit.record("seconds_r_cnn_over_faster", seconds["R-CNN"][-1] / seconds["Faster R-CNN"][-1])

# %% [markdown]
# For a few boxes the order does not matter; with hundreds R-CNN is hopeless, and for the others a
# hundred boxes cost little more than one. (Fast R-CNN's curve leaves out what its boxes cost, which were
# not free.) From here on we build the last two.
#
# ## 3.2 Anchors
#
# A convolution has the same output size everywhere, but objects come in all sizes and any number. The
# way out: at every cell of the feature map lie a few fixed boxes, the **anchors**, and the network
# says for each of them whether it holds an object and how it should be moved. With size $s$ and ratio
# $r = h / w$ an anchor has the area $s^2$:
#
# $$w = s / \sqrt{r}, \qquad h = s \sqrt{r} .$$
#
# On a feature pyramid (FPN) every level has one size, and the ratios are here 0.7, 1 and 1.4.


# %%
def my_anchors(size, ratios, cells, stride):
    """Anchors of a level, row by row, at each cell one for each ratio."""
    boxes = []
    for row in range(cells):
        for column in range(cells):
            for r in ratios:
                x, y = column * stride, row * stride
                w, h = size / r**0.5, size * r**0.5
                boxes.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    return torch.tensor(boxes)


rpn = detector.config.rpn
strides = detector.backbone.strides
levels = [
    my_anchors(size, rpn.aspect_ratios, SIDE // strides[level], strides[level])
    for level, (size,) in zip(rpn.levels, rpn.anchor_sizes, strict=True)
]
anchors = torch.cat(levels)
batch = preprocess([image], detector.config.preprocessing)
with torch.no_grad():
    from_labkit = torch.cat(detector.rpn.anchors(detector.backbone(batch.tensor), batch))
labkit.record("anchors", len(anchors))
labkit.record("own_anchors_vs_labkit", (anchors - from_labkit).abs().max())


def frame(axis, box, color, style="-", width=1.6, **options):
    x1, y1, x2, y2 = [float(v) for v in box]
    options = {"fill": False, "edgecolor": color, "linestyle": style, "linewidth": width, **options}
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **options))


def show_pixels(axis, image, margin=0):
    """A picture in the coordinates of boxes: pixel (r, c) covers [c, c + 1] × [r, r + 1]."""
    height, width = image.shape[1:]
    axis.imshow(image.permute(1, 2, 0), extent=(0, width, height, 0), interpolation="nearest")
    axis.set(xlim=(-margin, width + margin), ylim=(height + margin, -margin))
    axis.set(xticks=[], yticks=[])


figure, axes = plt.subplots(1, 4, figsize=(11, 3.1), layout="constrained")
for axis, level, (size,), boxes in zip(axes, rpn.levels, rpn.anchor_sizes, levels, strict=True):
    show_pixels(axis, image, 8)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    axis.plot(*centres.T, ".", color="white", markersize=2.5)
    middle = len(boxes) // 2 + len(rpn.aspect_ratios) * (SIDE // strides[level] // 2)
    for box, color in zip(boxes[middle:], (orange, blue, red), strict=False):
        frame(axis, box, "white", width=3.6)
        frame(axis, box, color)
    axis.set_title(f"{level}: stride {strides[level]}, size {size:g}\n{len(boxes)} anchors", size=9)
plt.show()

# %% [markdown]
# The white dots are the centres, at the upper left corner of each cell by convention. Are the
# anchors good enough? They need not fit, since they get moved, but an object without any anchor near
# it has no one to speak for it. For every object of the validation set, its best anchor's IoU:

# %%
true_boxes = torch.cat([target["boxes"] for _, target in val_items])
small_limit, large_limit = val_set.area_limits
areas = torch.cat([target["masks"].sum(dim=(1, 2)) for _, target in val_items])
SIZES = {
    "small": areas < small_limit,
    "medium": (areas >= small_limit) & (areas < large_limit),
    "large": areas >= large_limit,
    "all": areas >= 0,
}
best_iou = box_iou(true_boxes, anchors).amax(dim=1)
print(
    f"{'objects':10}{'number':>7}{'mean of the best IoU':>22}{'at least 0.5':>14}{'at least 0.7':>14}"
)
for name, of_size in SIZES.items():
    of = best_iou[of_size]
    if len(of):
        near, close = (of >= 0.5).float().mean(), (of >= 0.7).float().mean()
        print(f"{name:10}{len(of):7}{of.mean():22.2f}{near:14.0%}{close:14.0%}")
labkit.record("objects_with_anchor_above_0.5", (best_iou >= 0.5).float().mean())
labkit.record("objects_with_anchor_above_0.7", (best_iou >= 0.7).float().mean())

# %% [markdown]
# ## 3.3 Which anchor learns what
#
# An anchor is **positive** if it overlaps an object by IoU 0.7 or more, **negative** if it overlaps
# none by 0.3, and takes no part in between: whatever it said would be half right. As the table shows,
# that alone would leave three of four objects without a positive anchor. So the anchor that overlaps an
# object best is positive in any case.


# %%
def my_match(iou):
    """For each anchor 1 (positive), 0 (negative) or -1 (no part); ``iou`` is (objects, anchors)."""
    match_labels = torch.full((iou.shape[1],), -1)
    match_labels[iou.amax(dim=0) < 0.3] = 0
    match_labels[iou.amax(dim=0) >= 0.7] = 1
    for row in iou:  # no object is left without
        match_labels[row == row.max()] = 1
    return match_labels


wrong, tally, alone = 0, Counter(), []
for _, target in val_items:
    iou = box_iou(target["boxes"], anchors)
    _, match_labels = match_boxes(iou, 0.3, 0.7, allow_low_quality=True)
    wrong += int((my_match(iou) != match_labels).sum())
    positive, negative = sample_boxes(match_labels, rpn.batch_size_per_image, 0.5)
    tally["positive"] += int((match_labels == POSITIVE).sum())
    tally["ignored"] += int((match_labels == IGNORED).sum())
    tally["negative"] += int((match_labels == NEGATIVE).sum())
    tally["positive, drawn"] += len(positive)
    tally["negative, drawn"] += len(negative)
    alone.append(iou.amax(dim=1) < 0.7)
labkit.record("own_match_vs_labkit", wrong)
print("anchors of a picture:", ", ".join(f"{k} {v / num_val:.1f}" for k, v in tally.items()))
labkit.record("negatives_for_each_positive", tally["negative"] / tally["positive"])
labkit.record("objects_saved_by_their_best_anchor", torch.cat(alone).float().mean())

# %% [markdown]
# There are hundreds of negatives for each positive. A network that always says "nothing here" would
# be almost right, so the loss looks at a *sample*: 128 anchors, at most half of them positive, the
# rest filled up with negatives. Below, one picture: its positives, those in between (their outlines
# drawn thin, there are many), and a sample.

# %%
image, target = val_items[1]
iou = box_iou(target["boxes"], anchors)
matched_idxs, match_labels = match_boxes(iou, 0.3, 0.7, allow_low_quality=True)
positive, negative = sample_boxes(match_labels, rpn.batch_size_per_image, 0.5)
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.8), layout="constrained")
shown = (
    ("positive", [(match_labels == POSITIVE).nonzero()[:, 0]], [blue]),
    ("ignored: no part in the loss", [(match_labels == IGNORED).nonzero()[:, 0]], [orange]),
    ("drawn", [negative, positive], ["black", blue]),
)
for axis, (title, groups, colors) in zip(axes, shown, strict=True):
    show_pixels(axis, image, 12)
    for group, color in zip(groups, colors, strict=True):
        thin = 0.6 if len(group) > 40 else 1.3
        for box in anchors[group]:
            frame(axis, box, color, width=thin)
    for box in target["boxes"]:
        frame(axis, box, "white", "--", width=1.8)
    count = " + ".join(str(len(group)) for group in groups[::-1])
    axis.set_title(f"{title}: {count}", fontsize=10)
plt.show()

# %% [markdown]
# The true boxes are dashed. A positive anchor also learns **how to move**. With its centre
# $(x_a, y_a)$ and sides $w_a, h_a$, and those of its object, it should say
#
# $$t_x = \frac{x - x_a}{w_a},\quad t_y = \frac{y - y_a}{h_a},\quad
#   t_w = \log \frac{w}{w_a},\quad t_h = \log \frac{h}{h_a} :$$
#
# shifts in units of the anchor and scales as logarithms, so that the same numbers mean the same thing
# for small anchors and large ones. The loss is the sum of the absolute differences (or a smooth
# version of it).


# %%
def my_encode(box, anchor):
    """The four numbers that take an anchor to a box; both are (x1, y1, x2, y2)."""
    w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
    to_w, to_h = box[2] - box[0], box[3] - box[1]
    shift_x = ((box[0] + box[2]) - (anchor[0] + anchor[2])) / 2
    shift_y = ((box[1] + box[3]) - (anchor[1] + anchor[3])) / 2
    return (shift_x / w, shift_y / h, math.log(to_w / w), math.log(to_h / h))


ONES = (1.0, 1.0, 1.0, 1.0)
start, goal = anchors[positive].double(), target["boxes"][matched_idxs[positive]].double()
mine = [my_encode(b, a) for b, a in zip(goal.tolist(), start.tolist(), strict=True)]
offsets = encode_boxes(goal, start, ONES)
labkit.record("own_offsets_vs_labkit", (torch.tensor(mine) - offsets).abs().max())
labkit.record("decode_undoes_encode", (decode_boxes(offsets, start, ONES) - goal).abs().max())
print(f"largest difference to labkit: {(torch.tensor(mine) - offsets).abs().max():.2g}")

# %% [markdown]
# ## 3.4 Training, and what the proposal network learns
#
# The whole detector is trained at once. Every picture gives five losses: of the proposals, object or
# not (`loss_rpn_cls`) and the offsets of the positives (`loss_rpn_loc`); of the second stage, the
# class of each box (`loss_cls`, with one more class, the background), its offsets once more
# (`loss_box_reg`), and the mask (`loss_mask`). First we keep what the proposal network says before it
# has learnt anything.


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
        return image.flip(-1), {**target, "boxes": boxes, "masks": target["masks"].flip(-1)}


@torch.no_grad()
def propose(model, image):
    """Proposals ``(K, 4)``, best first."""
    model.eval()
    batch = preprocess([image], model.config.preprocessing)
    proposals, _ = model.rpn(model.backbone(batch.tensor), batch)
    return proposals[0]


drawn = Drawn(train_set)
_ = torch.manual_seed(seed)
model = build("mask_rcnn_tiny", categories)
before = [propose(model, image) for image, _ in val_items]

config = TrainConfig(steps=steps, batch_size=BATCH, seed=seed)
start = time.perf_counter()
history = train(model, drawn, config)
print(f"{steps} steps in {time.perf_counter() - start:.0f} s")
loss_curves({name: values for name, values in history.losses.items() if name != "total"})

# %%
# What sections 3.7 and 3.8 measure:
found = [p for p, _ in Predictor(model).predict_dataset(val_items)]
_ = model.cpu().eval()
after = [propose(model, image) for image, _ in val_items]


def recalls(proposals, threshold):
    """Share of the objects that one of the best k proposals overlaps enough, for k = 1 to 100."""
    hits = []
    for boxes, (_, target) in zip(proposals, val_items, strict=True):
        good = box_iou(target["boxes"], boxes) >= threshold  # (objects, proposals)
        good = F.pad(good, (0, 100 - good.shape[1]))
        hits.append(good.cumsum(dim=1) > 0)
    return torch.cat(hits).float().mean(dim=0)


figure, axis = plt.subplots(figsize=(6.6, 3.2), layout="constrained")
for name, proposals, color in (("before", before, grey), ("after", after, blue)):
    for threshold, style in ((0.5, "-"), (0.75, "--")):
        curve = recalls(proposals, threshold)
        label = f"{name} training, IoU {threshold}"
        axis.plot(range(1, 101), curve, style, color=color, linewidth=2, label=label)
        labkit.record(f"recall_of_100_{name}_at_{threshold}", curve[-1])
        if threshold == 0.5:
            labkit.record(f"recall_of_20_{name}_at_{threshold}", curve[19])
axis.set(xlabel="proposals looked at, best first", ylabel="share of the objects", ylim=(0, 1))
axis.grid(alpha=0.3)
axis.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.51))
plt.show()

figure, axes = plt.subplots(1, 4, figsize=(11.5, 3.2), layout="constrained")
for axis, (index, proposals, title) in zip(
    axes,
    [(k, p, t) for k in (1, 3) for p, t in ((before, "before"), (after, "after"))],
    strict=True,
):
    image, target = val_items[index]
    show_pixels(axis, image)
    boxes = proposals[index][:20]
    hit = box_iou(boxes, target["boxes"]).amax(dim=1) >= 0.5
    for box, good in zip(boxes, hit, strict=True):
        frame(axis, box, blue if good else red, "-" if good else ":", width=1.4)
    for box in target["boxes"]:
        frame(axis, box, "white", "--", width=1.6)
    axis.set_title(f"{title} training: {int(hit.sum())} of {len(boxes)} on an object", fontsize=9)
plt.show()

# %% [markdown]
# The first twenty proposals of two pictures, blue where they overlap an object (white) by one half or
# more. The network has no idea of squares or circles; it has learnt that something *is* there, and
# that is enough to reduce four thousand anchors to a few dozen candidates. At IoU 0.75 the recall is much
# lower: the first stage finds, it does not measure. That is left to the second.
#
# ## 3.5 Non-maximum suppression
#
# Many anchors see the same object, and all say so. **Non-maximum suppression** (NMS) keeps the best
# box, removes the ones that overlap it by more than a threshold, and goes on with what is left.


# %%
def my_nms(boxes, scores, threshold):
    """Indices of the boxes that stay, best first; and for each step whom it removed."""
    left = scores.argsort(descending=True, stable=True)
    keep, removed = [], []
    while len(left):
        best, rest = left[0], left[1:]
        overlap = box_iou(boxes[best][None], boxes[rest])[0] > threshold
        keep.append(int(best))
        removed.append(rest[overlap])
        left = rest[~overlap]
    return torch.tensor(keep, dtype=torch.int64), removed


differ = 0
for _ in range(50):
    boxes, scores = some_boxes(60), torch.rand(60)
    threshold = float(random.uniform(0.1, 0.9))
    reference = torchvision.ops.nms(boxes, scores, threshold)
    differ += my_nms(boxes, scores, threshold)[0].tolist() != reference.tolist()
labkit.record("own_nms_vs_torchvision", differ)
print(f"{differ} of 50 random cases differ from torchvision's")

# %% [markdown]
# Here it is at work, on boxes of the trained network around one object: what a step suppresses is red
# and dotted, what stays is blue. The threshold of the proposals is a generous 0.7, so that two objects
# behind one another both keep a box; among the final detections of a class it is 0.5.


# %%
@torch.no_grad()
def candidates(model, image, count):
    """By level the best ``count`` boxes before suppression, with their scores."""
    batch = preprocess([image], model.config.preprocessing)
    features = model.backbone(batch.tensor)
    result = []
    rpn = model.rpn
    for level, of_level in zip(rpn.config.levels, levels, strict=True):
        hidden = F.relu(rpn.conv(features[level]))
        scores = rpn.objectness(hidden)[0].permute(1, 2, 0).flatten()  # (h w A,)
        deltas = rpn.deltas(hidden)[0].permute(1, 2, 0).reshape(-1, 4)  # (h w A, 4)
        best = scores.topk(min(count, len(scores))).indices
        boxes = decode_boxes(deltas[best], of_level[best], ONES)
        result.append((clip_boxes(boxes, (SIDE, SIDE)), scores[best]))
    return result


# Boxes of one level around one object; of the larger objects the one with the largest crowd.
crowds = []
for image, target in val_items[:10]:
    for boxes, scores in candidates(model, image, 60):
        for box in target["boxes"][(target["boxes"][:, 2:] - target["boxes"][:, :2]).amin(1) > 28]:
            near = (box_iou(box[None], boxes)[0] >= 0.4).nonzero()[:12, 0]  # best scores first
            crowds.append((len(near), image, box, boxes[near], scores[near]))
_, image, goal, boxes, scores = max(crowds, key=lambda crowd: (crowd[0], crowd[4].sum().item()))
keep, removed = my_nms(boxes, scores, 0.7)
shown = min(3, len(keep))
figure, axes = plt.subplots(1, shown + 1, figsize=(2.9 * (shown + 1), 3.2), layout="constrained")
x1, y1, x2, y2 = goal.tolist()
for k, axis in enumerate(axes):
    show_pixels(axis, image)
    axis.set(xlim=(max(x1 - 22, 0), min(x2 + 22, SIDE)), ylim=(min(y2 + 22, SIDE), max(y1 - 22, 0)))
    out = set(torch.cat(removed[:k]).tolist()) if k else set()
    for i, box in enumerate(boxes):
        if i in out and i not in removed[k - 1]:
            continue
        if i in out:
            frame(axis, box, red, ":", width=1.8)
        else:
            frame(axis, box, blue if i in keep[:k] else "white", width=2.6 if i in keep[:k] else 1)
    title = f"{len(boxes)} boxes"
    if k:
        chance = scores[keep[k - 1]].sigmoid()
        title = f"step {k}: keep {chance:.2f}, remove {len(removed[k - 1])}"
    axis.set_title(title, fontsize=9)
plt.show()

# %% [markdown]
# From anchors to proposals in one picture, on one level of the pyramid: the anchors of a cell, what the
# network makes of them, and suppression among the level's best boxes. The table names for each suppressed
# box the one responsible.

# %%
draw_anchors_nms(image, rpn_levels(model, image), level="p4")

# %% [markdown]
# In JupyterLab, take it step by step: change the level and the threshold, and click on a cell or a box.
# Can you find a box that goes although it was the best one of its object?

# %%
AnchorsNMS(model, image, level="p4")

# %% [markdown]
# That was the last part, and a region proposal network fits into a few lines: `candidates` above (one
# $3 \times 3$ convolution, two of $1 \times 1$), suppression within each level, and the best hundred.
# On ten validation pictures, against `labkit.models.rcnn.rpn`:

# %%
worst = 0.0
for (image, _), reference in zip(val_items[:10], after, strict=False):
    stay = []
    for boxes, scores in candidates(model, image, model.rpn.config.pre_nms_top_n[1]):
        usable = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)  # some end outside the picture
        boxes, scores = boxes[usable], scores[usable]
        keep, _ = my_nms(boxes, scores, model.rpn.config.nms_thresh)
        stay.append((boxes[keep], scores[keep]))
    boxes, scores = [torch.cat(part) for part in zip(*stay, strict=True)]
    best = scores.argsort(descending=True, stable=True)[: model.rpn.config.post_nms_top_n[1]]
    worst = max(worst, (boxes[best] - reference).abs().max().item())
labkit.record("own_proposals_vs_labkit", worst)
print(f"largest difference to labkit's proposals: {worst:.2g} pixels")

# %% [markdown]
# The **second stage** takes each proposal's $7 \times 7$ window (RoIAlign, notebook 2) and says what
# it is, and once more how to move the box. Is the second correction worth it? For all proposals that
# overlap an object by one half or more:


# %%
@torch.no_grad()
def refined(model, image, boxes, labels):
    """The boxes as the second stage moves them, believing they are of these classes."""
    batch = preprocess([image], model.config.preprocessing)
    roi_heads = model.roi_heads
    x = roi_heads.box_features(model.backbone(batch.tensor), [boxes])
    deltas = roi_heads.bbox_pred(x).unflatten(1, (roi_heads.num_classes, 4))
    chosen = deltas[torch.arange(len(boxes)), labels]
    return clip_boxes(decode_boxes(chosen, boxes, (10.0, 10.0, 5.0, 5.0)), (SIDE, SIDE))


first, second = [], []
for (image, target), boxes in zip(val_items, after, strict=True):
    best, objects = box_iou(boxes, target["boxes"]).max(dim=1)
    boxes, objects = boxes[best >= 0.5], objects[best >= 0.5]
    moved = refined(model, image, boxes, target["labels"][objects])
    first.append(best[best >= 0.5])
    second.append(box_iou(moved, target["boxes"])[torch.arange(len(boxes)), objects])
first, second = torch.cat(first), torch.cat(second)
if len(first):  # hardly any in the profile smoke
    labkit.record("iou_of_proposals", first.mean())
    labkit.record("iou_after_the_second_stage", second.mean())
    print(
        f"mean IoU of the proposals {first.mean():.3f}, after the second stage {second.mean():.3f}"
    )

# %% [markdown]
# ## 3.6 The mask branch
#
# For each detection, a $14 \times 14$ window, convolutions, one doubling: $28 \times 28$ numbers for
# *each class*, through a sigmoid. Only the mask of the class that the box head chose is used. The
# masks of the classes do not compete, which is Mask R-CNN's second idea beside RoIAlign: *what* it is
# has been decided elsewhere, the mask only says *where*.


# %%
@torch.no_grad()
def with_masks(model, image):
    """Detections and the probabilities of their masks for all classes ``(n, C, 28, 28)``."""
    batch = preprocess([image], model.config.preprocessing)
    features = model.backbone(batch.tensor)
    proposals, _ = model.rpn(features, batch)
    roi_heads = model.roi_heads
    ((scores, boxes),) = roi_heads.score_proposals(features, proposals, batch.input_sizes)
    detections = roi_heads.select(scores, boxes)
    logits = roi_heads.mask_head(roi_heads.mask_features(features, [detections.boxes]))
    return detections, logits.sigmoid()


# The surest detection of each of three pictures, among those of middle size and more.
rows = []
for image, _ in val_items[:40]:
    detections, masks = with_masks(model, image)
    wide = (detections.boxes[:, 2:] - detections.boxes[:, :2]).amin(dim=1) >= 24
    if wide.any():
        score, box, label = detections.scores[wide], detections.boxes[wide], detections.labels[wide]
        rows.append((score[0].item(), image, box[0], int(label[0]), masks[wide][0]))
rows = sorted(rows, key=lambda row: -row[0])
rows = [next((r for r in rows if r[3] == label), None) for label in categories.things]
rows = [row for row in rows if row]
names = [categories[label].name for label in categories.things]
figure, axes = plt.subplots(
    len(rows), 5, figsize=(10, 2.15 * len(rows) + 0.2), layout="constrained", squeeze=False
)
for line, (score, image, box, label, masks) in zip(axes, rows, strict=True):
    x1, y1, x2, y2 = box.tolist()
    for axis in line[[0, 4]]:
        show_pixels(axis, image)
        frame(axis, box, "white", width=2)
        axis.set(xlim=(x1 - 6, x2 + 6), ylim=(y2 + 6, y1 - 6))
    line[0].set_title(f"{names[label]} {score:.2f}", fontsize=9)
    for k, axis in enumerate(line[1:4]):
        axis.imshow(masks[k], vmin=0, vmax=1, cmap="magma")
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"as {names[k]}", fontsize=9, fontweight="bold" if k == label else None)
        for side in axis.spines.values():
            side.set(visible=True, color=blue if k == label else "white", linewidth=3)
    pasted = paste_masks(masks[label][None], box[None], (SIDE, SIDE))[0]
    shade = np.zeros((SIDE, SIDE, 4))
    shade[pasted.numpy()] = (*blue, 0.65)
    line[4].imshow(shade, extent=(0, SIDE, SIDE, 0), interpolation="nearest")
    line[4].set_title(f"pasted: {int(pasted.sum())} pixels", fontsize=9)
plt.show()

# %% [markdown]
# The masks of the three classes are much alike: the branch has learnt to follow outlines, whatever they
# enclose. To **paste** a mask, every pixel centre of the picture is carried into the box's
# $28 \times 28$ grid, the probability there is interpolated, and from one half on the pixel belongs to
# the object. How much is lost by the coarse grid? We cut the *true* masks in their true boxes down to $28 \times 28$ and
# paste them back:

# %%
back = []
for _, target in val_items:
    order = torch.arange(len(target["boxes"]))
    cropped = crop_masks(target["masks"], order, target["boxes"], 28)  # (M, 28, 28)
    pasted = paste_masks(cropped.float(), target["boxes"], (SIDE, SIDE))
    both = (pasted & target["masks"]).sum(dim=(1, 2))
    back.append(both / (pasted | target["masks"]).sum(dim=(1, 2)))
back = torch.cat(back)
for name, of_size in SIZES.items():
    if of_size.any():
        print(
            f"{name:8} IoU of a true mask with itself through 28 × 28: {back[of_size].mean():.3f}"
        )
labkit.record("iou_through_28_by_28", back.mean())

# %% [markdown]
# The grid is no limit for objects of this size; on photographs, where objects are hundreds of pixels
# large, it is why the outlines of Mask R-CNN look smooth.
#
# ## 3.7 Average precision
#
# A detector returns boxes with scores, from sure to doubtful. Walk down that list, over all pictures:
# a detection is *right* if it overlaps a not yet taken object of its class by the IoU threshold.
# **Precision** is the share of right ones so far, **recall** the share of the objects found so far.
# AP is the area under the curve of precision over recall, made monotone and read at 101 recalls;
# COCO's AP is the mean over the classes and over the thresholds 0.50, 0.55, …, 0.95.

# %%
pairs = [(p.detections, target) for p, (_, target) in zip(found, val_items, strict=True)]
figure, axes = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained", sharey=True)
for label, axis in zip(categories.things, axes, strict=True):
    for threshold, color, style in ((0.5, blue, "-"), (0.75, orange, "--"), (0.9, red, ":")):
        scores, right, objects = [], [], 0
        for one, target in pairs:
            mine, true = (
                np.flatnonzero(one.labels == label),
                np.flatnonzero(target["labels"] == label),
            )
            taken = match_detections(detection_iou(one, target, "masks", mine, true), threshold)
            scores.append(one.scores[mine].numpy())  # best first already
            right.append(taken >= 0)
            objects += len(true)
        if not objects:
            continue
        curve = precision_recall(np.concatenate(scores), np.concatenate(right), objects)
        area = area_under(*curve)
        axis.plot(curve[1], curve[0], style, color=color, label=f"IoU {threshold}: {area:.2f}")
    axis.set(title=categories[label].name, xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(frameon=False, fontsize=8)
axes[0].set_ylabel("precision")
plt.show()

# %% [markdown]
# `labkit.metrics.average_precision` does this in steps to read, and `labkit.metrics.coco_ap` asks
# pycocotools, whose number papers report. They agree. COCO also tells objects by size; its limits of
# $32^2$ and $96^2$ pixels are scaled here to our small pictures.


# %%
def measure(predictions, items):
    coco = COCOAP(categories, val_set.area_limits)
    for prediction, (_, target) in zip(predictions, items, strict=True):
        coco.update(prediction, target)
    return coco.compute()


def print_row(name, r):
    values = (r.ap, r.ap50, r.ap75, r.small, r.medium, r.large)
    print(f"{name:18}" + "".join(f"{100 * v:8.1f}" for v in values))


result = measure(found, val_items)
print(f"{'':18}" + "".join(f"{h:>8}" for h in ("AP", "AP50", "AP75", "APs", "APm", "APl")))
for name, r, kind in (("boxes", result.bbox, "boxes"), ("masks", result.segm, "masks")):
    print_row(name, r)
    own = average_precision(pairs, categories, kind)
    labkit.record(f"ap_from_scratch_vs_pycocotools_{kind}", abs(own.ap - r.ap))
    labkit.record(f"{kind}_ap", r.ap)
    labkit.record(f"{kind}_ap50", r.ap50)
    labkit.record(f"{kind}_ap75", r.ap75)
if math.isfinite(result.segm.small * result.segm.large):  # not with a handful of pictures
    labkit.record("masks_ap_small", result.segm.small)
    labkit.record("masks_ap_medium", result.segm.medium)
    labkit.record("masks_ap_large", result.segm.large)

# %% [markdown]
# For a minute or two of training from nothing that is a start, no more: with so few steps another seed, or
# another machine, ends five points lower or higher, and the losses are still falling. The same network
# trained for half an hour comes with labkit (`load_model("mask_rcnn_tiny")`), and section 3.9 measures it.
#
# Look at the curves. For squares and circles the two at IoU 0.5 and 0.75 lie close together: what is found
# is outlined well, and precision is lost by the class. At 0.9 little is left. (In the profile `smoke`
# nothing has learnt anything, and all of this is near zero.)
#
# ## 3.8 What goes wrong
#
# One number hides the reasons. For each true object we ask in this order: was it *found* (a detection
# with a score above 0.5, of its class, mask IoU at least 0.5)? Was it found with the *wrong class*? Is
# there a detection whose *outline* is poor? If there is none at all: did the first stage *propose* it
# (a box of IoU 0.5), and the second did not believe it? Or was it *never proposed*?

# %%
REASONS = ("found", "wrong class", "poor outline", "not believed", "never proposed")
reasons, errors, lower = [], [], []
for (one, target), proposals in zip(pairs, after, strict=True):
    sure = np.flatnonzero(one.scores > 0.5)
    everything = np.arange(len(target["labels"]))
    iou = detection_iou(one, target, "masks", sure, everything)  # (D, G)
    same = one.labels[sure].numpy()[:, None] == target["labels"].numpy()[None]
    proposed = (box_iou(target["boxes"], proposals) >= 0.5).any(dim=1)
    of_image = []
    for g in everything:
        if (iou[:, g][same[:, g]] >= 0.5).any():
            of_image.append(0)
        elif (iou[:, g] >= 0.5).any():
            of_image.append(1)
        elif (iou[:, g] >= 0.1).any():
            of_image.append(2)
        else:
            of_image.append(3 if proposed[g] else 4)
            if proposed[g]:  # how many classes have a detection there with a lower score?
                here = (
                    detection_iou(one, target, "masks", np.arange(len(one)), everything[[g]])[:, 0]
                    >= 0.5
                )
                lower.append(len(one.labels[here].unique()))
    reasons += of_image
    false = sum(not (iou[d][same[d]] >= 0.5).any() for d in range(len(sure)))
    errors.append((sum(r > 0 for r in of_image) + false) / (len(everything) + len(sure)))
reasons = np.array(reasons)

figure, axis = plt.subplots(figsize=(8, 2.3), layout="constrained")
hatches = ("", "//", "..", "xx", "\\\\")
for row, of_size in enumerate(list(SIZES.values())[:3]):
    chosen, left = reasons[of_size.numpy()], 0.0
    for k, (reason, color) in enumerate(
        zip(REASONS, (blue, orange, purple, grey, red), strict=True)
    ):
        share = float((chosen == k).mean()) if len(chosen) else 0.0
        label = reason if row == 0 else None
        axis.barh(
            row, share, left=left, color=color, label=label, hatch=hatches[k], edgecolor="white"
        )
        if share >= 0.06:
            text = axis.text(
                left + share / 2, row, f"{share:.0%}", ha="center", va="center", size=8
            )
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8})
        left += share
axis.set_yticks(range(3), [f"{n} ({int(SIZES[n].sum())})" for n in list(SIZES)[:3]])
axis.set(xlim=(0, 1), xlabel="share of the objects")
axis.invert_yaxis()
axis.spines[["top", "right"]].set_visible(False)
figure.legend(loc="outside upper center", ncols=5, fontsize=8, frameon=False)
plt.show()
for k, reason in enumerate(REASONS):
    labkit.record(f"objects_{reason.replace(' ', '_')}", float((reasons == k).mean()))
if lower:
    labkit.record("of_those_not_believed_found_with_a_lower_score", np.mean(np.array(lower) >= 1))
    labkit.record("of_those_not_believed_as_two_classes_or_more", np.mean(np.array(lower) >= 2))

# %% [markdown]
# And the pictures with the largest share of errors, truth beside what the detector said with a score
# above 0.5:

# %%
rows = []
for k in np.argsort(errors, kind="stable")[::-1][:4]:
    image, target = val_items[k]
    one = pairs[k][0]
    truth = Detections(
        target["boxes"], torch.ones(len(target["boxes"])), target["labels"], target["masks"]
    )
    rows += [("truth", image, truth), ("found", image, one[one.scores > 0.5])]
panels(rows, categories, columns=4)

# %% [markdown]
# The proposals miss few objects, and few objects have a bad outline. Most of the loss is in the
# classification of the second stage: nearly 90 % of the objects that were *not believed* were detected,
# but with a score below 0.5, and usually with two competing labels. A class depends on corners, a box
# does not, and `loss_cls` in 3.4 is slow to fall. Small objects suffer most, as everywhere.
#
# ## 3.9 C4, DC5, FPN
#
# Which feature map should a detector look at? Three answers, all of them in published models:
#
# - **C4**: the map of the fourth stage, stride 16. The fifth stage becomes the head and runs on every
#   region, so that a region costs convolutions again, as in R-CNN.
# - **DC5**: the fifth stage runs on the whole picture, dilated (notebook 1) so that the map stays at
#   stride 16, and a region costs two matrix products.
# - **FPN**: all stages, joined from top to bottom. Small objects are read from the fine level,
#   large ones from a coarse one.
#
# Training them here until they differ by more than luck would take an hour, so we take weights that come
# with labkit, trained on Shapes by the commands in `data/README.md`. They are panoptic networks, that is,
# Mask R-CNNs with one more branch (notebook 4), of which we look at the detections alone. What a box costs
# is counted; what each finds is measured on the same pictures.

# %%
KINDS = {
    kind: f"panoptic_fpn_tiny{end}" for kind, end in (("FPN", ""), ("C4", "_c4"), ("DC5", "_dc5"))
}
trained, box_cost = {kind: load_model(name) for kind, name in KINDS.items()}, {}
print(f"{'':6}stride {'weights':>9}   millions of multiplications a picture, a box")
for kind, other in trained.items():
    with torch.no_grad(), counting(other) as count:
        batch = preprocess([image], other.config.preprocessing)
        features = other.backbone(batch.tensor)
        other.rpn(features, batch)
        once = count["multiplications"] / 1e6
        other.roi_heads.box_features(features, [some_boxes(1)])
        box_cost[kind] = count["multiplications"] / 1e6 - once
    detector = {n: p for n, p in other.named_parameters() if not n.startswith("sem_seg_head")}
    weights = sum(p.numel() for p in detector.values()) / 1e6
    used = [other.backbone.strides[name] for name in other.config.roi_heads.pooler.levels]
    text = f"{min(used)}–{max(used)}" if len(used) > 1 else str(used[0])
    print(f"{kind:6}{text:>6}{weights:8.2f} M{once:20.1f}{box_cost[kind]:10.2f}")
labkit.record("box_cost_c4_over_fpn", box_cost["C4"] / box_cost["FPN"])

# %%
measured, own = {}, shipped()
print(f"{'masks':28}" + "".join(f"{h:>8}" for h in ("AP", "AP50", "AP75", "APs", "APm", "APl")))
for kind, other in trained.items():
    predictor, start = Predictor(other), time.perf_counter()
    found = [p for p, _ in predictor.predict_dataset(val_items)]
    ms = 1000 * (time.perf_counter() - start) / len(val_items)
    measured[kind] = measure(found, val_items)
    minutes = own[KINDS[kind]].seconds / 60
    print_row(f"{kind}, trained {minutes:.0f} min, {ms:.0f} ms", measured[kind].segm)
    labkit.record(f"trained_masks_ap_{kind}", measured[kind].segm.ap)
    labkit.record(f"trained_boxes_ap_{kind}", measured[kind].bbox.ap)
if math.isfinite(measured["FPN"].segm.small):  # not with a handful of pictures
    for kind in ("C4", "DC5"):
        gaps = {
            size: getattr(measured["FPN"].segm, size) - getattr(measured[kind].segm, size)
            for size in ("small", "large")
        }
        for size, gap in gaps.items():
            labkit.record(f"trained_masks_ap_{size}_fpn_minus_{kind.lower()}", gap)

# %% [markdown]
# C4 and DC5 read our objects, eight pixels small, from a map with one cell for $16 \times 16$ pixels, and
# it shows in the columns by size. On COCO with long training, Detectron2's published ResNet-50 models
# reach a mask AP of 34.4 (C4), 35.9 (DC5) and 37.2 (FPN): the same order, closer together. The trainings
# here were not equally long (the table says how long each took on one core; a step of C4 costs most), so
# read only two things here: the cost per box, which is exact, and which backbone finds small objects.
#
# ## 3.10 torchvision's Faster and Mask R-CNN
#
# The lecture's homework asks for the detectors of torchvision. They have the same parts under other
# names. Below with random weights, since nothing is downloaded here; as published, the first argument
# is `weights="DEFAULT"`. The classes are one more than the things: in torchvision the background is
# class 0.

# %%
_ = torch.manual_seed(seed)
options = {
    "weights": None,
    "weights_backbone": None,
    "num_classes": len(categories.things) + 1,
    "min_size": SIDE,  # their models resize; here to the size that the picture has
    "box_detections_per_img": 10,
    "rpn_post_nms_top_n_test": 200,
}
theirs = maskrcnn_resnet50_fpn(**options).eval()
faster = fasterrcnn_resnet50_fpn(**options).eval()
for name, network in (("Faster R-CNN", faster), ("Mask R-CNN", theirs)):
    heads = network.roi_heads
    parts = {
        "backbone": [network.backbone.body],
        "pyramid": [network.backbone.fpn],
        "proposals": [network.rpn],
        "box head": [heads.box_head, heads.box_predictor],
        "mask head": [heads.mask_head, heads.mask_predictor] if heads.has_mask() else [],
    }
    weights = {
        part: sum(p.numel() for p in nn.ModuleList(modules).parameters()) / 1e6
        for part, modules in parts.items()
    }
    print(f"{name:13}{sum(weights.values()):5.1f} million weights:", end=" ")
    print(", ".join(f"{part} {number:.1f}" for part, number in weights.items()))
    labkit.record(f"million_weights_{name.replace(' ', '_')}", sum(weights.values()))

# %% [markdown]
# The same architecture does not mean the same numbers. Libraries differ in small things, and a
# checkpoint expects the ones that it was trained with:
#
# | | Detectron2 | torchvision |
# | --- | --- | --- |
# | background | last class | class 0 |
# | colours | blue first, less the mean | red first, and divided by the deviation |
# | anchors | real numbers | whole pixels |
# | RoIAlign | half a cell shifted, samples adaptive | neither: `aligned=False`, 2 × 2 samples |
# | box loss | absolute differences | smooth below 1/9 |
# | masks of a prediction | `(N, H, W)` bool | `(N, 1, H, W)` probabilities, pasted |
#
# In labkit each is a value of the configuration, and `mask_rcnn_r50` has the first column's. With
# torchvision's values and torchvision's weights `labkit.models` returns torchvision's detections:

# %%
# Fresh weights find nothing and their features grow with depth: make them find something.
for layer in theirs.backbone.fpn.layer_blocks:
    layer[0].weight.data *= 0.03
for layer, std in (
    (theirs.rpn.head.cls_logits, 0.1),
    (theirs.roi_heads.box_predictor.cls_score, 0.2),
    (theirs.roi_heads.box_predictor.bbox_pred, 0.01),
):
    nn.init.normal_(layer.weight, std=std)

ours = replace(
    CONFIG,
    backbone=replace(CONFIG.backbone, eps=1e-5),  # of the norms of a fresh model
    rpn=replace(CONFIG.rpn, post_nms_top_n=(200, 200)),
    roi_heads=replace(CONFIG.roi_heads, detections_per_img=10),
).build(categories)
with TemporaryDirectory() as folder:
    torch.save(theirs.state_dict(), Path(folder) / "theirs.pth")
    load(Path(folder) / "theirs.pth", ours)
# The size of the pictures is no part of the weights: no enlarging here either.
ours.config = replace(ours.config, preprocessing=replace(TORCHVISION, min_size=SIDE))
image, target = val_items[1]
with torch.no_grad():
    reference = theirs([image / 255])[0]
    detections = ours.eval()([image])[0].detections
print("torchvision:", {key: tuple(value.shape) for key, value in reference.items()})
same = torch.equal(detections.labels + 1, reference["labels"])  # the same number of them, too
labkit.record("torchvision_same_classes", same)
difference = (detections.boxes - reference["boxes"]).abs().max()
labkit.record("torchvision_box_difference", difference)
differ = detections.masks != (reference["masks"][:, 0] > 0.5)
labkit.record("torchvision_pixels_that_differ", int(differ.sum()))

# %% [markdown]
# To train torchvision's models on Shapes or any other set, shift the labels by one, divide the pictures
# by 255, and sum the dictionary of losses; with weights from COCO, exchange the two predictors
# (`FastRCNNPredictor`, `MaskRCNNPredictor`) for ones with your number of classes. `labkit zoo get
# maskrcnn_resnet50_fpn` fetches the weights, and `labkit predict` shows what they find.
#
# ## 3.11 Photographs
#
# Penn-Fudan is a small set of street photographs with pedestrians. `labkit data get penn-fudan` fetches
# it; this section looks for the folder `PennFudanPed` in the one that the environment variable
# `LABKIT_DATA` names. Pedestrians are tall, and so are the anchors. Training a detector from nothing
# on so few photographs takes minutes and belongs to the profile `full`.

# %%
streets = Path(os.environ.get("LABKIT_DATA", "/nowhere")) / "PennFudanPed"
if not streets.is_dir():
    print("no PennFudanPed in $LABKIT_DATA: photographs would be shown here")
else:
    smaller, mirror = v2.Resize(192), v2.RandomHorizontalFlip()
    street_train = TransformedDataset(PennFudan(streets, "train"), JointTransform(smaller, mirror))
    street_val = TransformedDataset(PennFudan(streets, "val"), JointTransform(smaller))
    limit = 2 if profile == "smoke" else len(street_val)
    photographs = [street_val[i] for i in (range(limit) if street_steps else range(3))]
    rows = []
    for image, target in photographs[:3]:
        sure = torch.ones(len(target["boxes"]))
        truth = Detections(target["boxes"], sure, target["labels"], target["masks"])
        rows.append(("truth", image, truth))
    if street_steps:
        sizes, ratios = ((20.0,), (40.0,), (80.0,), (128.0,)), (1.6, 2.2, 3.0)
        tall = replace(rpn, anchor_sizes=sizes, aspect_ratios=ratios)
        _ = torch.manual_seed(seed)
        walkers = replace(PRESETS["mask_rcnn_tiny"], rpn=tall).build(PennFudan.categories)
        config = TrainConfig(steps=street_steps, batch_size=BATCH, seed=seed)
        _ = train(walkers, street_train, config)
        coco = COCOAP(PennFudan.categories)
        predictions = Predictor(walkers).predict_dataset(photographs)
        for k, (prediction, target) in enumerate(predictions):
            coco.update(prediction, target)
            if k < 3:
                detections = prediction.detections
                sure = detections[detections.scores > 0.5]
                rows.append(("found", photographs[k][0], sure))
        streets_result = coco.compute()
        labkit.record("streets_boxes_ap50", streets_result.bbox.ap50)
        labkit.record("streets_masks_ap50", streets_result.segm.ap50)
    display(
        panels(rows, PennFudan.categories, columns=min(3, len(photographs)), names=False, size=3.4)
    )

# %% [markdown]
# ## To take away
#
# - Each detector of the family does less for a box than the one before: a whole network, two fully
#   connected layers, and no guessing outside the network. Masks are drawn for the few boxes that are
#   left.
# - Anchors turn "any number of objects of any size" into a fixed number of questions; matching says
#   which of them have an answer, sampling keeps the many "no" from drowning the few "yes".
# - NMS is a loop of five lines. It cannot tell two objects that truly overlap from one seen twice.
# - The mask branch says where, not what: one mask a class, no competition.
# - AP is a ranking measure: a mean over thresholds and classes that hides *why* a detector fails.
# - Two libraries with the same architecture differ in a dozen conventions, and weights remember them.
#
# ## Exercises
#
# 1. **Two thousand boxes.** From the table of 3.1, how many multiplications does each detector need for
#    2000 boxes and 100 detections? At how many boxes does Fast R-CNN overtake R-CNN?
# 2. **Anchors for pedestrians.** Which ratios and sizes would you choose for Penn-Fudan? Compute the
#    table of 3.2 for its boxes with ours and with yours.
# 3. **Without the best anchor.** Train with `allow_low_quality=False` in `RPN.losses` (copy the class
#    into a cell). Which objects lose recall?
# 4. **The threshold of NMS.** Measure AP for `nms_thresh` 0.3, 0.5, 0.7 and 0.9 in the second stage
#    (`model.roi_heads.config`) on `Shapes("val", crowded=True)` and on the usual pictures. Why is there
#    no value that is best for both?
# 5. **One mask for all classes.** Let the mask branch have a single output that all classes share. Does
#    AP change? The paper found almost no difference: what does that say about the branch?
# 6. **Duplicates.** Give every detection of `found` a copy with a score a little lower. What happens to
#    AP, and why does adding false detections *below* all others not matter?
# 7. **Homework.** Train torchvision's Faster and Mask R-CNN on Penn-Fudan from their COCO weights, report
#    AP, AP₅₀ and AP₇₅ of boxes and masks, and show three good and three bad pictures.
#
# ## References
#
# - R. Girshick, J. Donahue, T. Darrell, J. Malik. Rich Feature Hierarchies for Accurate Object Detection
#   and Semantic Segmentation. CVPR 2014 (R-CNN; the offsets of boxes in appendix C).
# - R. Girshick. Fast R-CNN. ICCV 2015.
# - S. Ren, K. He, R. Girshick, J. Sun. Faster R-CNN: Towards Real-Time Object Detection with Region
#   Proposal Networks. NIPS 2015 (anchors and matching in section 3.1).
# - T.-Y. Lin, P. Dollár, R. Girshick, K. He, B. Hariharan, S. Belongie. Feature Pyramid Networks for
#   Object Detection. CVPR 2017.
# - K. He, G. Gkioxari, P. Dollár, R. Girshick. Mask R-CNN. ICCV 2017 (C4 and FPN compared in table 2a).
# - T.-Y. Lin et al. Microsoft COCO: Common Objects in Context. ECCV 2014 (AP).
