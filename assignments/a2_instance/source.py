# %% [markdown]
# # Assignment 2. Faster and Mask R-CNN for classes of your own
#
# A detector that knows other classes than yours is most of the detector that you need. You exchange
# the heads of torchvision's Faster R-CNN and Mask R-CNN, train what is new, and discuss what comes
# out. This is the lecture's first homework: change the model with torchvision's detection models,
# show the metrics and discuss the results by them.
#
# **Before you begin:** notebook 3. **Time:** about two and a half hours, with trainings of a minute
# or two on one processor core. **Points:** 20, of which 13 are computed and 7 are for three
# questions.
#
# | exercise | points |
# | --- | --- |
# | 1 targets from masks: with objects, without | 2 + 1 |
# | 2 new heads: Faster R-CNN, Mask R-CNN | 2 + 3 |
# | 3 your detector on new pictures: boxes, masks | 2 + 3 |
# | questions | 2 + 3 + 2 |
#
# Grading runs your training again, on one core without a GPU and without a network, and asks
# `predict` about pictures that nobody has seen. Keep everything together under five minutes: what
# the cell of exercise 3 has not finished then does not count.

# %% tags=["setup"]
import math
from collections import OrderedDict

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from labkit.checkpoints.shipped import FOLDER
from labkit.checks import Checks, equal, has_shape
from labkit.datasets.shapes import Shapes
from labkit.models.backbones.backbones import BackboneConfig

torch.set_num_threads(1)  # the tensors are small: threads would wait for one another
_ = torch.manual_seed(0)

# %% [markdown]
# ## Exercise 1. Targets (2 + 1 points)
#
# The Penn-Fudan database of pedestrians stores a picture's objects as one mask: 0 is the
# background, and each person has a number, not necessarily without gaps. torchvision's detectors
# want a dictionary. Mind the convention of boxes: they touch the *edges* of the outermost pixels,
# so that an object of a single pixel has a box with an area of one. (With the last pixel's own
# coordinate its box would be empty, and the training would stop.)


# %% exercise="targets"
def target_of(numbers):
    """The target of a picture.

    Args:
        numbers: (H, W) uint8 tensor, 0 for the background, another number for each of N objects.

    Returns:
        A dictionary, objects in ascending order of their numbers:
        "boxes": (N, 4) float32, x1, y1, x2, y2, with x2 the last column plus one and y2 the last
        row plus one; "labels": (N,) int64, all 1; "masks": (N, H, W) uint8, 1 inside.
    """
    # BEGIN SOLUTION
    found = numbers.unique()
    found = found[found > 0]
    masks = numbers == found[:, None, None]
    boxes = torch.zeros(len(found), 4)
    for box, mask in zip(boxes, masks, strict=True):
        y, x = mask.nonzero().unbind(dim=1)
        box[:] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
    labels = torch.ones(len(found), dtype=torch.int64)
    return {"boxes": boxes, "labels": labels, "masks": masks.to(torch.uint8)}
    # END SOLUTION


# %% tags=["check"]
numbers = torch.zeros(6, 8, dtype=torch.uint8)
numbers[1:4, 2:7] = 5
numbers[2, 3] = 9  # a single pixel

check = Checks("Exercise 1")
with check("the keys are boxes, labels and masks"):
    equal(set(target_of(numbers)), {"boxes", "labels", "masks"})
with check("two objects: the background is none, and gaps are none"):
    has_shape(target_of(numbers)["boxes"], (2, 4))
with check("the box around the columns 2 to 6 and the rows 1 to 3"):
    equal(target_of(numbers)["boxes"][0], [2, 1, 7, 4])
with check("a pixel's box goes from its edge to its edge"):
    equal(target_of(numbers)["boxes"][1], [3, 2, 4, 3])
with check("one mask for each object; 5's has a hole where 9 is"):
    found = target_of(numbers)
    has_shape(found["masks"], (2, 6, 8))
    equal(found["masks"].sum(dim=(1, 2)), [14, 1])
with check("every label is 1, of type int64"):
    found = target_of(numbers)
    equal(found["labels"], [1, 1])
    equal(found["labels"].dtype, torch.int64)
with check("no objects: boxes (0, 4) and masks (0, H, W)"):
    empty = target_of(torch.zeros(6, 8, dtype=torch.uint8))
    has_shape(empty["boxes"], (0, 4))
    has_shape(empty["masks"], (0, 6, 8))
check.report()

# %% [markdown]
# ## Exercise 2. New heads (2 + 3 points)
#
# torchvision's detectors come with heads for the 91 classes of COCO. Class 0 is the *background*,
# so a data set with three classes needs four outputs. Everything else, backbone, proposals, and the
# layers in front of the last ones, should stay exactly as it is. How wide these layers are differs
# from model to model: ask the layer that you replace.


# %% exercise="heads"
def faster_rcnn(model, num_classes):
    """Give a Faster R-CNN a box predictor for other classes.

    Args:
        model: a torchvision FasterRCNN (or MaskRCNN) whose model.roi_heads.box_predictor is a
            FastRCNNPredictor.
        num_classes: with the background.

    Returns:
        The model, with a new box predictor and everything else unchanged.
    """
    # BEGIN SOLUTION
    inputs = model.roi_heads.box_predictor.cls_score.in_features
    model.roi_heads.box_predictor = FastRCNNPredictor(inputs, num_classes)
    return model
    # END SOLUTION


def mask_rcnn(model, num_classes):
    """Give a Mask R-CNN a box predictor and a mask predictor for other classes.

    Args:
        model: a torchvision MaskRCNN whose model.roi_heads.mask_predictor is a MaskRCNNPredictor.
        num_classes: with the background.

    Returns:
        The model, with two new predictors and everything else unchanged. The hidden layer of the new
        mask predictor is as wide as that of the old one.
    """
    # BEGIN SOLUTION
    model = faster_rcnn(model, num_classes)
    before = model.roi_heads.mask_predictor
    inputs, hidden = before.conv5_mask.in_channels, before.conv5_mask.out_channels
    model.roi_heads.mask_predictor = MaskRCNNPredictor(inputs, hidden, num_classes)
    return model
    # END SOLUTION


# %% [markdown]
# On torchvision's own models, with fresh weights (building them takes a few seconds):

# %% tags=["check"]
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

check = Checks("Exercise 2")
with check("Faster R-CNN: three classes and the background, four offsets for each"):
    big = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    before = big.roi_heads.box_head.fc6
    assert faster_rcnn(big, 4) is not None, "got None: return the model"
    scores, deltas = big.roi_heads.box_predictor(torch.zeros(2, 1024))
    has_shape(scores, (2, 4))
    has_shape(deltas, (2, 16))
    assert big.roi_heads.box_head.fc6 is before, "the layers before the last one should stay"
with check("Mask R-CNN: it has a box predictor, too"):
    big = mask_rcnn(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None), 4)
    equal(big.roi_heads.box_predictor.cls_score.out_features, 4)
with check("Mask R-CNN: a mask for each class"):
    big = mask_rcnn(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None), 4)
    has_shape(big.roi_heads.mask_predictor(torch.zeros(2, 256, 14, 14)), (2, 4, 28, 28))
big = before = None  # they are large
check.report()

# %% [markdown]
# With published weights and photographs this is all that is needed:
# `maskrcnn_resnet50_fpn(weights="DEFAULT")`, `mask_rcnn(model, 2)`, and some epochs on
# `labkit.datasets.penn_fudan.PennFudan` (`labkit data get penn-fudan`) on a GPU. If you have one,
# try it, and use its pictures in your discussion. It is not graded.
#
# ## Exercise 3. A detector for Shapes (2 + 3 points)
#
# Here, without a GPU and without a download, the part of the published detector is played by a
# small one: torchvision's `MaskRCNN` around the feature pyramid that labkit trained on Shapes, with
# heads for 91 classes that have learnt nothing. The pyramid is good. What it lacks is proposals and
# heads.


# %% tags=["setup"]
class Pyramid(nn.Module):
    """labkit's tiny pyramid, in the form that torchvision's detectors expect."""

    out_channels = 64

    def __init__(self):
        super().__init__()
        self.body = BackboneConfig("fpn", "tiny_resnet", pyramid=64).build()
        weights = load_file(FOLDER / "mask_rcnn_tiny.safetensors")
        own = {
            n.removeprefix("backbone."): w.float()
            for n, w in weights.items()
            if n.startswith("backbone.")
        }
        self.body.load_state_dict(own)

    def forward(self, x):
        maps = self.body(x)
        return OrderedDict((level, maps[level]) for level in ("p2", "p3", "p4", "p5"))


def small_mask_rcnn(num_classes=91):
    """A Mask R-CNN for pictures of 128 pixels with a trained pyramid and fresh heads."""
    pooled = {"featmap_names": ["p2", "p3", "p4"], "canonical_scale": 32, "canonical_level": 3}
    return MaskRCNN(
        Pyramid(),
        min_size=128,
        max_size=128,
        rpn_anchor_generator=AnchorGenerator(((10,), (20,), (40,), (64,)), ((0.7, 1.0, 1.4),) * 4),
        rpn_pre_nms_top_n_train=400,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=128,
        box_roi_pool=MultiScaleRoIAlign(output_size=7, sampling_ratio=2, **pooled),
        box_head=TwoMLPHead(64 * 7 * 7, 128),
        box_predictor=FastRCNNPredictor(128, num_classes),
        box_batch_size_per_image=64,
        mask_roi_pool=MultiScaleRoIAlign(output_size=14, sampling_ratio=2, **pooled),
        mask_head=MaskRCNNHeads(64, (64, 64), 1),
        mask_predictor=MaskRCNNPredictor(64, 32, num_classes),
    )


# %% [markdown]
# First the training: leave a trained model in `detector`. What worked for us: the pyramid frozen
# (`requires_grad_(False)`), AdamW with a learning rate of 0.002 that rises for 20 steps and then
# falls to 0 along a cosine, 200 steps of two pictures, the gradient's norm clipped to 1. That takes
# half a minute to a minute, and reaches an AP of masks of 0.58 to 0.69. Points are given in full
# from an AP of 0.5 of boxes and 0.45 of masks, so do not wait for more.
#
# torchvision wants pictures as floats in 0..1, and labels from 1 on. Those of Shapes are `uint8`,
# and its labels 0, 1,
# 2. In training mode the model returns a dictionary of losses.

# %% exercise="training"
# Build, change and train the model here; it should be in `detector` at the end.
# BEGIN SOLUTION
_ = torch.manual_seed(1)
detector = mask_rcnn(small_mask_rcnn(), 1 + len(Shapes.categories.things))
_ = detector.backbone.requires_grad_(False)
train_set = Shapes("train", num=600)
items = []
for image, target in train_set:
    converted = {
        "boxes": target["boxes"],
        "labels": target["labels"] + 1,
        "masks": target["masks"].to(torch.uint8),
    }
    items.append((image / 255, converted))
steps, peak = 200, 2e-3
optimizer = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], lr=peak)
_ = detector.train()
for step in range(steps):
    rising, falling = min(1.0, (step + 1) / 20), 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = peak * rising * falling
    chosen = [items[i] for i in torch.randint(len(items), (2,)).tolist()]
    losses = detector([image for image, _ in chosen], [target for _, target in chosen])
    optimizer.zero_grad()
    sum(losses.values()).backward()
    _ = nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
    optimizer.step()
    if (step + 1) % 50 == 0:
        print(step + 1, ", ".join(f"{name} {value.item():.2f}" for name, value in losses.items()))
_ = detector.eval()
# END SOLUTION

# %% [markdown]
# And its use. torchvision returns masks as probabilities `(N, 1, H, W)`.


# %% exercise="predict"
def predict(image):
    """The objects in a picture.

    Args:
        image: (3, H, W) uint8.

    Returns:
        A dictionary, best score first, at most 100 objects: "boxes": (N, 4) x1, y1, x2, y2 in
        pixels; "scores": (N,) in 0..1; "labels": (N,) 0 square, 1 circle, 2 triangle; "masks":
        (N, H, W) bool.
    """
    # BEGIN SOLUTION
    with torch.no_grad():
        found = detector([image / 255])[0]
    return {
        "boxes": found["boxes"],
        "scores": found["scores"],
        "labels": found["labels"] - 1,
        "masks": found["masks"][:, 0] > 0.5,
    }
    # END SOLUTION


# %% tags=["check"]
val_set = Shapes("val", num=40)
image, target = val_set[0]

check = Checks("Exercise 3")
with check("the keys are boxes, scores, labels and masks"):
    equal(set(predict(image)), {"boxes", "scores", "labels", "masks"})
with check("masks are (N, H, W), true or false instead of probabilities"):
    found = predict(image)
    has_shape(found["masks"], (len(found["boxes"]), 128, 128))
    equal(found["masks"].dtype, torch.bool)
with check("labels are 0, 1, 2"):
    labels = set(predict(image)["labels"].tolist())
    assert labels <= {0, 1, 2}, f"got {sorted(labels)}"
with check("the result has no gradients: torch.no_grad()"):
    found = predict(image)
    assert not found["scores"].requires_grad, "the scores have"
    print(f"{len(found['boxes'])} objects found, {len(target['boxes'])} are there.")
check.report()

# %% [markdown]
# ## What did it learn?
#
# COCO's metrics on forty pictures, and the four pictures with the most and the fewest mistakes.

# %%
from labkit.metrics.coco_ap import COCOAP
from labkit.structures import Detections, Prediction
from labkit.visualize import panels

measure, rows = COCOAP(Shapes.categories, val_set.area_limits), []
for image, target in val_set:
    said = Detections(**predict(image))
    measure.update(Prediction(said), target)
    sure = said.scores > 0.5
    said = Detections(said.boxes[sure], said.scores[sure], said.labels[sure], said.masks[sure])
    rows.append((abs(len(said) - len(target["labels"])), image, target, said))
result = measure.compute()
print(
    f"{'':6}" + "".join(f"{name:>9}" for name in ("AP", "AP50", "AP75", "small", "medium", "large"))
)
for name, ap in (("boxes", result.bbox), ("masks", result.segm)):
    print(
        f"{name:6}"
        + "".join(
            f"{100 * v:9.1f}" for v in (ap.ap, ap.ap50, ap.ap75, ap.small, ap.medium, ap.large)
        )
    )
for name, box, mask in zip(
    Shapes.categories.names, result.bbox.per_class, result.segm.per_class, strict=False
):
    print(f"{name:9} boxes {100 * box:5.1f}, masks {100 * mask:5.1f}")
rows.sort(key=lambda row: row[0])
shown = []
for wrong, image, target, said in rows[:2] + rows[-2:]:
    shown += [("truth", image, target["panoptic"]), (f"found, count off by {wrong}", image, said)]
panels(shown, Shapes.categories, columns=4, names=False)

# %% [markdown]
# ## Question 1. Heads (2 points)
#
# Why does the background need an output of the box predictor and none in the proposals'
# classification of its own? Why does the mask predictor give one mask for *each class*, when only
# one of them is used in the end?

# %% [markdown] question="heads"
# <!-- BEGIN SOLUTION -->
# Most proposals hold no object, and a softmax over the classes has to put its probability
# somewhere; the proposal network's answer is one number, "object or not", whose complement is the
# background. With a mask for each class the classes do not compete for a pixel: each mask is a
# sigmoid of its own, trained only where its class is the truth, and the box head decides which one
# is taken. So the mask branch need not classify, and a wrong class does not disturb the masks of
# the others (He et al. measure a loss of 5.5 AP with a softmax).
# <!-- END SOLUTION -->

# %% [markdown]
# ## Question 2. Metrics (3 points)
#
# Report your table. Which of AP50 and AP75, which size, which class is worst, and what in the data
# or the model explains it? Train once more as a Faster R-CNN, without the mask branch
# (`faster_rcnn` and `FasterRCNN`, or the mask loss left out of the sum): do the boxes get better or
# worse, and is the difference larger than what another seed gives?

# %% [markdown] question="metrics"
# <!-- BEGIN SOLUTION -->
# (An example; the numbers are yours.) Boxes reach an AP of 73, masks 65, AP50 of both is 93: nearly
# everything is found, and what is missing is precision. Small objects are worst, by far: at 8
# pixels, one pixel off at a side is an IoU below 0.8. Masks are 28 × 28 in the head, so large
# objects lose fine corners; triangles have the worst masks since corners are what a coarse mask
# rounds. Without the mask loss the boxes changed by less than two seeds differ (about one point),
# so I claim no difference.
# <!-- END SOLUTION -->

# %% [markdown]
# ## Question 3. Pictures (2 points)
#
# Show two pictures that went well and two that went wrong (above, or others), and say for each
# mistake which part made it: the proposals, the class, the box or the mask. How do you know?

# %% [markdown] question="pictures"
# <!-- BEGIN SOLUTION -->
# (An example.) In the third picture two objects of one colour that overlap were found as one: the
# proposals around each exist (I looked at `detector.rpn`'s output), but non-maximum suppression
# kept only the better one, since the boxes overlap by more than 0.5. In the fourth a circle was
# taken for a square: box and mask fit well, so it is the class alone. The mask of the large
# triangle has round corners: class and box are right, the mask is coarse.
# <!-- END SOLUTION -->

# %% tags=["probes"]
# What inputs are made with: imported once, before any submission is graded.
import numpy as np
import torch

from labkit.datasets.shapes import Shapes


def mask_inputs(rng):
    cases = []
    for _ in range(5):
        height, width = rng.integers(20, 50, 2).tolist()
        drawn = np.zeros((height, width), np.uint8)
        for number in rng.choice(250, 4, replace=False) + 1:
            h, w = rng.integers(2, 15, 2)
            y, x = rng.integers(0, height - 2), rng.integers(0, width - 2)
            drawn[y : y + h, x : x + w] = number
        y, x = rng.integers(0, height), rng.integers(0, width)
        drawn[y, x] = 251  # a single pixel
        cases.append({"numbers": torch.from_numpy(drawn)})
    return cases


def background_inputs(rng):
    return [
        {"numbers": torch.zeros(tuple(rng.integers(10, 40, 2).tolist()), dtype=torch.uint8)}
        for _ in range(2)
    ]


def right_target(numbers):
    from labkit.datasets.targets import masks_to_boxes

    drawn = numbers.numpy()
    inside = drawn == np.unique(drawn[drawn > 0])[:, None, None]
    return {
        "boxes": masks_to_boxes(inside),
        "labels": np.ones(len(inside), np.int64),
        "masks": inside,
    }


def head_inputs(masks):
    def inputs(rng):
        return [
            {
                "num_classes": int(rng.integers(2, 12)),
                "width": int(rng.choice([8, 16, 24])),
                "hidden": int(rng.integers(10, 40)),
                "depth": int(rng.integers(5, 30)),
                "masks": masks,
            }
            for _ in range(4)
        ]

    return inputs


# Builds a small model of other widths, lets the student change it, and tells what came of it.
HEADS = """
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

def drive(function, num_classes, width, hidden, depth, masks):
    backbone = nn.Sequential(nn.Conv2d(3, width, 3, 8, 1))
    backbone.out_channels = width
    parts = dict(
        min_size=64, max_size=64,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        box_head=TwoMLPHead(width * 49, hidden),
        box_predictor=FastRCNNPredictor(hidden, 91),
    )
    if masks:
        parts.update(
            mask_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
            mask_head=MaskRCNNHeads(width, (depth,), 1),
            mask_predictor=MaskRCNNPredictor(depth, hidden, 91),
        )
    model = (MaskRCNN if masks else FasterRCNN)(backbone, **parts)
    new = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.")
    old = {n: p.detach().clone() for n, p in model.named_parameters() if not n.startswith(new)}
    model = function(model, num_classes)
    now = {n: p for n, p in model.named_parameters() if not n.startswith(new)}
    scores, deltas = model.roi_heads.box_predictor(torch.zeros(3, hidden))
    told = {
        "kept": old.keys() == now.keys() and all(torch.equal(old[n], now[n]) for n in old),
        "scores": list(scores.shape),
        "deltas": list(deltas.shape),
    }
    target = {
        "boxes": torch.tensor([[5.0, 7.0, 40.0, 50.0]]),
        "labels": torch.tensor([num_classes - 1]),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
    }
    if masks:
        predictor = model.roi_heads.mask_predictor
        told["masks"] = list(predictor(torch.zeros(3, depth, 14, 14)).shape)
        told["hidden"] = predictor.conv5_mask.out_channels
    told["losses"] = sorted(model.train()([torch.rand(3, 64, 64)], [target]))
    return told
"""


def right_heads(num_classes, width, hidden, depth, masks):
    told = {"kept": True, "scores": [3, num_classes], "deltas": [3, 4 * num_classes]}
    losses = ["loss_box_reg", "loss_classifier", "loss_objectness", "loss_rpn_box_reg"]
    if masks:
        told |= {"masks": [3, num_classes, 28, 28], "hidden": hidden}
        losses.append("loss_mask")
    return {**told, "losses": sorted(losses)}


def picture_inputs(rng):
    drawn = Shapes("test", num=1_000_000, seed=int(rng.integers(2**32)))
    cases = []
    for index in rng.integers(0, len(drawn), 16).tolist():
        image, truth = drawn[index]
        cases.append(
            {"image": image, **{name: truth[name] for name in ("boxes", "labels", "masks")}}
        )
    return cases


def detections(answer, size):
    """What was found as Detections; nothing where the answer is malformed."""
    from labkit.structures import Detections

    try:
        parts = [np.asarray(answer[name]) for name in ("boxes", "scores", "labels", "masks")]
        # On the grid of the picture, one entry an object, finite.
        shapes = [(len(parts[0]), *rest) for rest in ((4,), (), (), size)]
        if any(part.shape != shape for part, shape in zip(parts, shapes, strict=True)):
            raise ValueError
        boxes, scores, labels = (torch.from_numpy(part.astype(np.float64)) for part in parts[:3])
        if not all(bool(part.isfinite().all()) for part in (boxes, scores, labels)):
            raise ValueError
        best = scores.argsort(descending=True, stable=True)[:100]
        best = best[(labels[best] >= 0) & (labels[best] <= 2)]
        inside = torch.from_numpy(parts[3] > 0.5)
        return Detections(
            boxes[best].float(), scores[best].float(), labels[best].long(), inside[best]
        )
    except (TypeError, KeyError, ValueError, IndexError):
        nothing = torch.zeros(0)
        return Detections(
            nothing.reshape(0, 4),
            nothing,
            nothing.long(),
            torch.zeros((0, *size), dtype=torch.bool),
        )


def by_ap(kind, none, full):
    """Points from an average precision: none at or below the one, all from the other on."""

    def share(cases, answers):
        from labkit.metrics.average_precision import average_precision

        pairs = [
            (detections(answer, tuple(case["image"].shape[1:])), {**case, "image_id": number})
            for number, (case, answer) in enumerate(zip(cases, answers, strict=True))
        ]
        ap = average_precision(pairs, Shapes.categories, kind).ap
        return min(max((ap - none) / (full - none), 0.0), 1.0)

    return share


def picture_probe(name, points, kind, none, full):
    return Probe(
        name,
        "predict",
        "predict",
        points,
        picture_inputs,
        score=by_ap(kind, none, full),
        hidden=("boxes", "labels", "masks"),
        seconds=120,
    )


ASSIGNMENT = Assignment(
    title="Faster and Mask R-CNN for classes of your own",
    minutes=150,
    probes=[
        Probe("targets", "targets", "target_of", 2, mask_inputs, right_target),
        Probe(
            "no-objects", "targets", "target_of", 1, background_inputs, right_target, partial=False
        ),
        Probe("box-head", "heads", "faster_rcnn", 2, head_inputs(False), right_heads, driver=HEADS),
        Probe("mask-head", "heads", "mask_rcnn", 3, head_inputs(True), right_heads, driver=HEADS),
        picture_probe("boxes", 2, "boxes", 0.1, 0.5),
        picture_probe("masks", 3, "masks", 0.1, 0.45),
    ],
    questions=[
        Question(
            "heads",
            2,
            "1: a softmax over classes needs an output for 'none of them', while the proposal network's single number "
            "has the background as its complement. 1: masks of the classes do not compete, sigmoid instead of "
            "softmax, trained for the true class only; the class is decided by the box head.",
        ),
        Question(
            "metrics",
            3,
            "1: the table is there and read correctly (AP50 far above AP75, small objects worst). 1: an explanation "
            "that fits the numbers (one pixel matters at 8 pixels; 28 x 28 masks; occlusion). 1: the comparison with "
            "a Faster R-CNN was made, and the claim respects the spread of at least two seeds. No points for a "
            "number without a reading.",
        ),
        Question(
            "pictures",
            2,
            "1: two good and two bad pictures are shown or named precisely. 1: each mistake is attributed to a stage "
            "with evidence (proposals looked at, scores, box fits but class wrong ...), not only described.",
        ),
    ],
    # Detectors that know Shapes already; the pyramid alone is given.
    forbidden=(
        "labkit.engine.predictor.load_model",
        "labkit.engine.predictor.Predictor",
        "labkit.checkpoints.shipped.shipped",
        "labkit.checkpoints.weights.load_weights",
        "labkit.models.presets.build",
        "labkit.models.rcnn.mask_rcnn.MaskRCNN",
    ),
    limits=Limits(cell_seconds=600, total_seconds=1200),
    data=("data/checkpoints",),
)
