# %% [markdown]
# # Assignment 5. UPSNet
#
# Two branches of a network have spoken: the semantic one gave every pixel a logit for every class,
# the other one found objects with masks. UPSNet's panoptic head makes one decision of it, with a
# softmax over stuff, objects and *unknown*. You write that head on given logits. Then you run the
# whole network with published weights on COCO and report what comes out, as the lecture's last
# homework asks.
#
# **Before you begin:** notebook 5, sections 5.3 to 5.7. **Time:** about three hours, and the time
# that COCO takes on your machine. **Points:** 20, of which 15 are computed and 5 are for two
# questions.
#
# | exercise | points |
# | --- | --- |
# | 1 the semantic part of an object | 2 |
# | 2 its mask | 2 |
# | 3 all logits: stuff and objects, unknown | 2 + 2 |
# | 4 mask pruning | 2 |
# | 5 the map: from logits, on whole pictures | 2 + 2 |
# | 6 the results file | 1 |
# | questions | 1 + 4 |
#
# Your functions will be called on other logits than those below, drawn anew for every submission.
# What labkit has for the panoptic head may not be called in your answers; the cells with checks
# may, and do. Exercises build on one another, but each is asked by itself, too.
#
# **Letters.** $C$ classes, things first; $T$ of them things; $n$ objects, best score first; $H
# \times W$ pixels. A box is given in whole pixels, `x1, y1, x2, y2` with the columns `x1 .. x2 - 1`
# and the rows `y1 .. y2 - 1`, inside the picture and not empty.

# %% tags=["setup"]
import numpy as np
import torch
from torch.nn import functional as F

from labkit.checks import Checks, equal, has_shape

# %% [markdown]
# ## Exercise 1. The semantic part (2 points)
#
# $X_{mask_i}$: the *semantic* logits of the object's class, inside its box; 0 outside. (The names
# $X_{mask_i}$ and $Y_{mask_i}$ are the paper's.)


# %% exercise="semantic"
def thing_logits(scores, labels, boxes):
    """What the semantic branch says about every object.

    Args:
        scores: (C, H, W) semantic logits.
        labels: (n,) int64, the objects' classes 0 .. T - 1.
        boxes: (n, 4) int64, x1, y1, x2, y2.

    Returns:
        (n, H, W); with n = 0 of shape (0, H, W).
    """
    # BEGIN SOLUTION
    out = scores.new_zeros((len(labels), *scores.shape[1:]))
    for term, label, (x1, y1, x2, y2) in zip(out, labels.tolist(), boxes.tolist(), strict=True):
        term[y1:y2, x1:x2] = scores[label, y1:y2, x1:x2]
    return out
    # END SOLUTION


# %% tags=["check"]
small = torch.arange(4 * 3 * 5).reshape(4, 3, 5).float()  # C = 4, of which T = 2 are things
labels, boxes = torch.tensor([1, 0]), torch.tensor([[1, 0, 3, 2], [4, 2, 5, 3]])

check = Checks("Exercise 1")
with check("one map for each object, (n, H, W)"):
    has_shape(thing_logits(small, labels, boxes), (2, 3, 5))
with check("object 0 is of class 1, in the columns 1, 2 and the rows 0, 1"):
    found = thing_logits(small, labels, boxes)[0]
    equal(found, [[0, 16, 17, 0, 0], [0, 21, 22, 0, 0], [0] * 5])
with check("object 1: x is the column, y is the row"):
    found = thing_logits(small, labels, boxes)[1]
    equal(found, [[0] * 5, [0] * 5, [0, 0, 0, 0, 14]])
with check("no objects: (0, H, W)"):
    has_shape(thing_logits(small, labels[:0], boxes[:0]), (0, 3, 5))
check.report()

# %% [markdown]
# ## Exercise 2. The mask (2 points)
#
# $Y_{mask_i}$: the mask's logits, $m \times m$ of them, resized to the box by bilinear
# interpolation (`F.interpolate(..., mode="bilinear", align_corners=False)`); 0 outside the box.


# %% exercise="masks"
def mask_logits(masks, boxes, size):
    """What the mask branch says about every object.

    Args:
        masks: (n, m, m) logits.
        boxes: (n, 4) int64.
        size: (H, W).

    Returns:
        (n, H, W); with n = 0 of shape (0, H, W).
    """
    # BEGIN SOLUTION
    out = masks.new_zeros((len(masks), *size))
    for term, mask, (x1, y1, x2, y2) in zip(out, masks, boxes.tolist(), strict=True):
        shape = (y2 - y1, x2 - x1)
        large = F.interpolate(mask[None, None], shape, mode="bilinear", align_corners=False)
        term[y1:y2, x1:x2] = large[0, 0]
    return out
    # END SOLUTION


# %% tags=["check"]
masks = torch.tensor([[[1.0, 2], [3, 4]], [[5, 5], [5, 9]]])

check = Checks("Exercise 2")
with check("one map for each object, (n, H, W)"):
    has_shape(mask_logits(masks, boxes, (3, 5)), (2, 3, 5))
with check("a 2 × 2 mask in a 2 × 2 box stays as it is"):
    equal(mask_logits(masks, boxes, (3, 5))[0, :2, 1:3], [[1, 2], [3, 4]])
with check("in a box of one pixel it becomes its value in the middle: (5 + 5 + 5 + 9) / 4"):
    equal(mask_logits(masks, boxes, (3, 5))[1, 2, 4], 6)
with check("outside the box it is 0"):
    equal(mask_logits(masks, boxes, (3, 5))[0].count_nonzero(), 4)
with check("enlarged with align_corners=False"):
    wide = mask_logits(masks[:1], torch.tensor([[0, 0, 4, 3]]), (3, 5))
    equal(wide[0, 0, :4], [1, 1.25, 1.75, 2])
check.report()

# %% [markdown]
# ## Exercise 3. All logits (2 + 2 points)
#
# What competes for a pixel, in this order:
#
# - for every class of stuff its semantic logit;
# - for every object $Z_i = X_{mask_i} + Y_{mask_i}$;
# - *unknown*, "there is a thing, but none of the objects": $\max_{c < T} X_c - \max_i X_{mask_i}$,
#   at each pixel, with the semantic logits $X_c$ of class $c$. The masks play no part in it. Without
#   objects it is $\max_{c < T} X_c$.


# %% exercise="logits"
def panoptic_logits(scores, things, labels, boxes, masks):
    """The logits of UPSNet's panoptic head.

    Args:
        scores: (C, H, W) semantic logits.
        things: T.
        labels: (n,), boxes: (n, 4), masks: (n, m, m), as above; n may be 0.

    Returns:
        (C - T + n + 1, H, W): stuff, objects, unknown.
    """
    # BEGIN SOLUTION
    of_classes = thing_logits(scores, labels, boxes)
    objects = of_classes + mask_logits(masks, boxes, scores.shape[1:])
    unknown = scores[:things].amax(dim=0)
    if len(labels):
        unknown = unknown - of_classes.amax(dim=0)
    return torch.cat([scores[things:], objects, unknown[None]])
    # END SOLUTION


# %% tags=["check"]
from labkit.models.upsnet.panoptic_head import Windows
from labkit.models.upsnet.panoptic_head import panoptic_logits as of_labkit

check = Checks("Exercise 3")
with check("2 stuff, 2 objects, unknown: (5, H, W)"):
    has_shape(panoptic_logits(small, 2, labels, boxes, masks), (5, 3, 5))
with check("stuff comes first, as it is"):
    equal(panoptic_logits(small, 2, labels, boxes, masks)[:2], small[2:])
with check("object 0 at row 0, column 1: 16 of its class and 1 of its mask"):
    equal(panoptic_logits(small, 2, labels, boxes, masks)[2, 0, 1], 17)
with check("there its class is the largest thing, so nothing is left for unknown"):
    equal(panoptic_logits(small, 2, labels, boxes, masks)[4, 0, 1], 0)
with check("outside all boxes unknown is the largest thing"):
    equal(panoptic_logits(small, 2, labels, boxes, masks)[4, 1, 4], 24)
with check("in the box of object 1, of class 0: 29 - 14; its mask plays no part"):
    equal(panoptic_logits(small, 2, labels, boxes, masks)[4, 2, 4], 15)
with check("without objects: stuff and unknown"):
    none = panoptic_logits(small, 2, labels[:0], boxes[:0], masks[:0])
    has_shape(none, (3, 3, 5))
    equal(none[2], small[1])
with check("the same as labkit's own head"):
    windows = [(y1, y2, x1, x2) for x1, y1, x2, y2 in boxes.tolist()]
    expected = of_labkit(small, 2, labels, masks, Windows(windows, windows))
    equal(panoptic_logits(small, 2, labels, boxes, masks), expected, within=1e-4)
check.report()

# %% [markdown]
# ## Exercise 4. Mask pruning (2 points)
#
# Before the head decides, objects go that repeat better ones. Walk through them, best first, and
# keep an object unless its mask is empty or *more than* a share `overlap` of its pixels is already
# taken by objects *of its class* that were kept.


# %% exercise="pruning"
def prune(masks, labels, overlap):
    """The objects that stay.

    Args:
        masks: (n, H, W) bool, best object first.
        labels: (n,) int64.
        overlap: in 0..1.

    Returns:
        A list of the numbers of the objects kept, ascending.
    """
    # BEGIN SOLUTION
    taken, kept = {}, []
    for number, (mask, label) in enumerate(zip(masks, labels.tolist(), strict=True)):
        before = taken.setdefault(label, torch.zeros_like(mask))
        area = int(mask.sum())
        if area and int((mask & before).sum()) <= overlap * area:
            before |= mask
            kept.append(number)
    return kept
    # END SOLUTION


# %% tags=["check"]
row = torch.zeros(5, 1, 10, dtype=torch.bool)
row[0, 0, :4] = row[1, 0, 2:6] = row[2, 0, 3:8] = row[3, 0, 2:6] = True  # row[4] is empty
same, other = torch.zeros(5, dtype=torch.int64), torch.tensor([0, 1, 0, 0, 0])


def kept(labels, threshold):
    """The numbers of the objects that `prune` keeps."""
    return list(map(int, prune(row, labels, threshold)))


check = Checks("Exercise 4")
with check("an empty mask is no object"):
    assert 4 not in kept(same, 0.5), f"got {kept(same, 0.5)}, with 4"
with check("2 of 4 pixels are half, and half is not more than half"):
    assert 1 in kept(same, 0.5), f"got {kept(same, 0.5)}, without 1"
with check("of object 2 the three of 0 and 1 are taken, 60 %"):
    equal(kept(same, 0.5), [0, 1])
with check("what was dropped takes nothing"):
    equal(kept(same, 0.25), [0, 2])
with check("other classes take nothing from an object"):
    equal(kept(other, 0.25), [0, 1, 2])
check.report()

# %% [markdown]
# ## Exercise 5. The map (2 + 2 points)
#
# The largest logit wins the pixel; of equal ones the first. Unknown becomes void, 0. So does stuff
# with fewer pixels than `stuff_area`. Segments are numbered from 1 on without gaps: first the
# objects that won a pixel, in their order, then the stuff that stays, by class.
#
# Then everything together, on a whole picture: prune with the masks' positive pixels, compute the
# logits of the objects that stay, make the map.


# %% exercise="map"
def panoptic_map(logits, things, labels, stuff_area):
    """Who wins each pixel.

    Args:
        logits: (S + n + 1, H, W) in the order of exercise 3, S classes of stuff.
        things: T; stuff number s has the label T + s.
        labels: (n,) of the objects.
        stuff_area: stuff with fewer pixels becomes void.

    Returns:
        {"ids": (H, W) integers, "segments": [{"id": ..., "label": ...}, ...]} in order of the ids.
    """
    # BEGIN SOLUTION
    winners = logits.argmax(dim=0)
    stuff = len(logits) - len(labels) - 1
    candidates = [(stuff + k, label, 1) for k, label in enumerate(labels.tolist())]
    candidates += [(s, things + s, max(stuff_area, 1)) for s in range(stuff)]
    ids, segments = torch.zeros_like(winners), []
    for channel, label, least in candidates:
        won = winners == channel
        if int(won.sum()) >= least:
            segments.append({"id": len(segments) + 1, "label": label})
            ids[won] = len(segments)
    return {"ids": ids, "segments": segments}
    # END SOLUTION


def fuse(scores, things, labels, boxes, masks, overlap, stuff_area):
    """From what both branches say to the map.

    Args:
        scores: (C, H, W) semantic logits.
        things: T.
        labels: (n,), boxes: (n, 4), masks: (n, m, m) logits of the objects, best first.
        overlap: of the pruning; a pixel belongs to an object's mask where its resized logit, in
            its box, is positive.
        stuff_area: as above.

    Returns:
        As panoptic_map.
    """
    # BEGIN SOLUTION
    kept = prune(mask_logits(masks, boxes, scores.shape[1:]) > 0, labels, overlap)
    labels, boxes, masks = labels[kept], boxes[kept], masks[kept]
    logits = panoptic_logits(scores, things, labels, boxes, masks)
    return panoptic_map(logits, things, labels, stuff_area)
    # END SOLUTION


# %% tags=["check"]
logits = torch.tensor(  # 2 stuff, 2 objects, unknown, on a map of one row
    [
        [[5.0, 5, 0, 0, 0, 0]],
        [[0, 0, 5, 0, 0, 0]],
        [[5, 0, 0, 5, 0, 0]],
        [[0, 0, 0, 0, 0, 5]],
        [[0, 0, 0, 0, 5, 0]],
    ]
)
objects = torch.tensor([2, 0])  # their classes; 3 of the classes are things

check = Checks("Exercise 5")
with check("one id for each pixel"):
    has_shape(panoptic_map(logits, 3, objects, 2)["ids"], (1, 6))
with check("unknown is void"):
    equal(panoptic_map(logits, 3, objects, 2)["ids"][0, 4], 0)
with check("one pixel of stuff is less than stuff_area = 2"):
    equal(panoptic_map(logits, 3, objects, 2)["ids"][0, 2], 0)
with check("objects are numbered first, then stuff"):
    found = panoptic_map(logits, 3, objects, 2)
    equal(found["ids"], [[3, 3, 0, 1, 0, 2]])
    classes = {1: 2, 2: 0, 3: 3}
    equal(found["segments"], [{"id": i, "label": label} for i, label in classes.items()])
with check("without objects there is stuff"):
    found = panoptic_map(logits[[0, 1, 4]], 3, torch.tensor([], dtype=torch.int64), 1)
    equal([s["label"] for s in found["segments"]], [3, 4])
with check("two equal masks of one class: the second one is pruned"):
    twice = torch.tensor([[0, 0, 3, 3], [0, 0, 3, 3]])
    found = fuse(small - 25, 2, torch.tensor([1, 1]), twice, torch.full((2, 4, 4), 40.0), 0.3, 1)
    equal(len([s for s in found["segments"] if s["label"] < 2]), 1)
check.report()

# %% [markdown]
# ## Exercise 6. The results file (1 point)
#
# COCO's results are a folder of PNGs, whose colours are the ids ($R + 256\,G + 65536\,B$), and a
# JSON with an entry for each picture, in which classes have the data set's own category ids.


# %% exercise="file"
def results_entry(answer, category_ids, image_id):
    """A picture's part of the results.

    Args:
        answer: as panoptic_map returns.
        category_ids: a list; category_ids[label] is the id of the class in the data set.
        image_id: the picture's number.

    Returns:
        {"rgb": (H, W, 3) uint8, "annotation": {"image_id": ..., "file_name": the number with 12 digits and
        ".png", "segments_info": [{"id": ..., "category_id": ...}, ...]}}
    """
    # BEGIN SOLUTION
    ids = np.asarray(answer["ids"]).astype(np.int64)
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    segments = [
        {"id": s["id"], "category_id": category_ids[s["label"]]} for s in answer["segments"]
    ]
    annotation = {
        "image_id": image_id,
        "file_name": f"{image_id:012d}.png",
        "segments_info": segments,
    }
    return {"rgb": rgb, "annotation": annotation}
    # END SOLUTION


# %% tags=["check"]
answer = {"ids": torch.tensor([[0, 300]]), "segments": [{"id": 300, "label": 1}]}

check = Checks("Exercise 6")
with check("the colours: 300 = 44 + 256 · 1"):
    rgb = np.asarray(results_entry(answer, [7, 90], 139)["rgb"])
    equal(rgb, [[[0, 0, 0], [44, 1, 0]]])
with check("the name of the file has the picture's number in twelve digits"):
    entry = results_entry(answer, [7, 90], 139)["annotation"]
    equal(entry["file_name"], "000000000139.png")
with check("the segment, with the category id of its label"):
    entry = results_entry(answer, [7, 90], 139)["annotation"]
    equal(entry["segments_info"], [{"id": 300, "category_id": 90}])
check.report()

# %% [markdown]
# ## COCO
#
# Now the whole network. Where the data (1.7 GB to fetch) and the published weights can be had, and
# best with a GPU:
#
# ```
# labkit data get coco-val2017
# labkit data get coco-panoptic
# labkit zoo get upsnet_R_50
# labkit eval upsnet_R_50 --data coco_panoptic:data/downloads/coco --split val2017 --panoptic --json results.json
# ```
#
# (Add `--limit 100` for a first try.) Where one of them is missing, take the network that comes
# with labkit, on Shapes' crowded pictures:
#
# ```
# labkit eval upsnet_tiny --data crowded --limit 200 --panoptic --json results.json
# ```
#
# `labkit predict --model MODEL PICTURE` draws what it sees in a picture of yours. The next cell
# shows the results file, as it will be handed in with this notebook; it is not run in grading, so
# leave its output here.

# %%
import json
from pathlib import Path

path = Path("results.json")
if path.is_file():
    results = json.loads(path.read_text(encoding="utf-8"))
    print(
        f"{results['model']} on {results['data']}, {results['split']}: {results['images']} pictures"
    )
    print(f"{'':8}" + "".join(f"{name:>7}" for name in ("PQ", "SQ", "RQ", "N")))
    for name in ("all", "things", "stuff"):
        mean = results["panoptic"][name]
        print(
            f"{name:8}"
            + "".join(f"{100 * mean[k]:7.1f}" for k in ("pq", "sq", "rq"))
            + f"{mean['n']:7}"
        )
    classes = [c for c in results["panoptic"]["per_class"] if c["pq"] is not None]
    classes.sort(key=lambda c: c["pq"])
    for c in classes[:5] + classes[-5:]:
        print(
            f"{c['name'][:24]:24} PQ {100 * c['pq']:5.1f}  TP {c['tp']:5} FP {c['fp']:5} FN {c['fn']:5}"
        )
else:
    print("no results.json here yet")

# %% [markdown]
# ## Question 1. Unknown (1 point)
#
# A network overlooks a bird in front of the sky: its semantic logits say *bird* clearly, but there
# is no box. What becomes of its pixels with the unknown class, what without it, and what does each
# cost in PQ?

# %% [markdown] question="overlooked"
# <!-- BEGIN SOLUTION -->
# With it: unknown is the largest thing's logit minus 0, larger than the sky's, so the pixels become
# void: the bird is a false negative and nothing else is wrong. Without it the sky (or a box nearby)
# wins them: the bird is missed as well, and the sky's segment gets pixels that are not sky, so its
# IoU falls; of a small segment of stuff even the match may be lost, which adds a FP and a FN.
# <!-- END SOLUTION -->

# %% [markdown]
# ## Question 2. Results (4 points)
#
# Report your table (model, data, number of pictures, PQ, SQ, RQ, for things and stuff). Compare it
# with the published one (42.5 on COCO val2017 for ResNet-50) and explain a difference, or why the
# two cannot be compared. Which classes are best and worst, and is it SQ or RQ? Describe two
# pictures of your own choice, one that succeeds and one that fails, and name for the failure what
# made it: the objects, the semantic logits, or the fusion.

# %% [markdown] question="results"
# <!-- BEGIN SOLUTION -->
# (An example, without COCO.) upsnet_tiny on 200 crowded pictures of Shapes: PQ 68.4, things 49.0,
# stuff 82.9. It cannot be compared with 42.5 on COCO: 7 classes against 133, drawn pictures,
# another network. Worst are the triangles, by RQ: the SQ of the things is above 80, so what is
# found fits, but half of the objects of a group are missed. Best is the sky: large, one segment a
# picture. Success: picture 12, where two circles overlap and the softmax gives the front one its
# pixels, since its mask logits are larger there. Failure: picture 31, a group of nine squares of
# which four were found: non-maximum suppression dropped boxes with an IoU above 0.5, so it is the
# objects; the semantic logits say square everywhere there, and the pixels became unknown.
# <!-- END SOLUTION -->

# %% tags=["probes"]
# What inputs are made with: imported once, before any submission is graded.
import numpy as np
import torch

from labkit.datasets.shapes import Shapes

CLASSES, THINGS = 6, 3


def eighths(values):
    """Multiples of one eighth: exact in float32 on every machine."""
    return torch.from_numpy(np.round(np.asarray(values) * 8) / 8).float()


def windows(rng, number, height, width):
    x = np.sort(np.stack([rng.choice(width + 1, 2, replace=False) for _ in range(number)]), axis=1)
    y = np.sort(np.stack([rng.choice(height + 1, 2, replace=False) for _ in range(number)]), axis=1)
    return torch.from_numpy(np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.int64))


def said(rng, number=None):
    """What two branches might say: scores, labels, boxes and masks of some objects."""
    height, width = rng.integers(12, 30, 2).tolist()
    number = int(rng.integers(2, 7)) if number is None else number
    side = int(rng.choice([7, 14]))
    return {
        "scores": eighths(rng.normal(0, 3, (CLASSES, height, width))),
        "things": THINGS,
        "labels": torch.from_numpy(rng.integers(0, THINGS, number)),
        "boxes": windows(rng, max(number, 1), height, width)[:number],
        "masks": eighths(rng.normal(0, 4, (number, side, side))),
    }


def sets_of(rng):
    # The last one has no objects.
    return [said(rng), said(rng), said(rng), said(rng, 0)]


def only(*names):
    return lambda rng: [{name: one[name] for name in names} for one in sets_of(rng)]


def mask_cases(rng):
    cases = sets_of(rng)
    return [
        {"masks": c["masks"], "boxes": c["boxes"], "size": tuple(c["scores"].shape[1:])}
        for c in cases
    ]


def as_windows(boxes):
    from labkit.models.upsnet.panoptic_head import Windows

    listed = [(y1, y2, x1, x2) for x1, y1, x2, y2 in boxes.tolist()]
    return Windows(listed, listed)


def right_semantic(scores, labels, boxes):
    from labkit.models.upsnet.panoptic_head import thing_term

    return thing_term(scores, labels, as_windows(boxes).seg)


def right_masks(masks, boxes, size):
    from labkit.models.upsnet.panoptic_head import mask_term, resized_masks

    placed = as_windows(boxes).mask
    return mask_term(resized_masks(masks, placed), placed, masks.new_zeros((1, *size)))


def right_logits(scores, things, labels, boxes, masks):
    from labkit.models.upsnet import panoptic_head

    if len(labels) == 0:
        return torch.cat([scores[things:], scores[:things].amax(dim=0, keepdim=True)])
    return panoptic_head.panoptic_logits(scores, things, labels, masks, as_windows(boxes))


ALL_BUT_UNKNOWN = """
def drive(function, **case):
    logits = function(**case)
    rows = case["scores"].shape[0] - case["things"] + len(case["labels"]) + 1
    return logits[:-1] if logits.shape[0] == rows else logits
"""

UNKNOWN = """
def drive(function, **case):
    return function(**case)[-1]
"""


def pruning_inputs(rng):
    cases = []
    for _ in range(6):
        height, width, number = 20, 24, int(rng.integers(6, 10))
        drawn = np.zeros((number, height, width), bool)
        for mask in drawn:
            y, x = rng.integers(0, 8), rng.integers(0, 10)
            mask[y : y + rng.integers(5, 12), x : x + rng.integers(5, 12)] = True
        drawn[1] = drawn[0]  # a repetition, and one that is covered by exactly the share
        drawn[2:4] = False
        drawn[2, 18, :10] = True
        drawn[3, 18, 5:15] = True
        classes = rng.integers(0, 2, number)
        classes[1], classes[2], classes[3] = classes[0], 2, 2
        gone = int(rng.integers(4, number))
        drawn[gone] = False
        share = 0.5
        cases.append(
            {
                "masks": torch.from_numpy(drawn),
                "labels": torch.from_numpy(classes),
                "overlap": share,
            }
        )
    return cases


def right_pruning(masks, labels, overlap):
    from labkit.models.upsnet.panoptic_head import prune

    size = tuple(masks.shape[1:])
    whole = [(0, size[0], 0, size[1])] * len(masks)
    return prune([mask.float() for mask in masks], whole, labels, size, overlap)


def map_inputs(rng):
    cases = []
    for number in (3, 4, 5, 0):
        stuff = CLASSES - THINGS
        coarse = rng.normal(0, 2, (stuff + number + 1, 5, 6))
        fine = coarse.repeat(4, axis=1).repeat(4, axis=2) + rng.normal(
            0, 0.5, (len(coarse), 20, 24)
        )
        crumb = fine[int(rng.integers(stuff))]  # stuff that wins four pixels and no more
        crumb[:], crumb[:2, :2] = -50, 50
        if number:
            fine[stuff + 1] = -50  # an object that wins nothing
        cases.append(
            {
                "logits": eighths(fine),
                "things": THINGS,
                "labels": torch.from_numpy(rng.integers(0, THINGS, number)),
                "stuff_area": int(rng.integers(20, 60)),
            }
        )
    return cases


def right_map(logits, things, labels, stuff_area):
    scores, classes = logits.numpy(), labels.tolist()
    stuff = len(scores) - len(classes) - 1
    best = np.argmax(scores, axis=0)
    areas = np.bincount(best.ravel(), minlength=len(scores))
    order = [k for k in range(stuff, stuff + len(classes)) if areas[k]]
    order += [k for k in range(stuff) if areas[k] >= stuff_area]
    table = np.zeros(len(scores), int)
    table[order] = np.arange(1, len(order) + 1)
    of = [classes[k - stuff] if k >= stuff else things + k for k in order]
    return {"ids": table[best], "segments": [{"id": i, "label": c} for i, c in enumerate(of, 1)]}


def picture_inputs(rng):
    """Noisy answers about pictures of Shapes: an object overlooked, one repeated."""

    drawn, cases = Shapes("test", num=1_000_000, seed=int(rng.integers(2**32))), []
    while len(cases) < 5:
        _, target = drawn[int(rng.integers(len(drawn)))]
        number = len(target["labels"])
        if number < 3:
            continue
        semantic = target["semantic"].numpy()
        scores = 4.0 * (np.arange(7)[:, None, None] == semantic) + rng.normal(0, 0.7, (7, 128, 128))
        order = rng.permutation(number)
        order = [*order[1:], order[1]]  # the first one has no box, the second one two
        boxes = target["boxes"][order].long()
        masks = []
        for i, (x1, y1, x2, y2) in zip(order, boxes.tolist(), strict=True):
            rows = y1 + (np.arange(28) + 0.5) * (y2 - y1) / 28
            columns = x1 + (np.arange(28) + 0.5) * (x2 - x1) / 28
            inside = target["masks"][i].numpy()[rows.astype(int)[:, None], columns.astype(int)]
            masks.append(10.0 * inside - 5 + rng.normal(0, 0.5, (28, 28)))
        cases.append(
            {
                "scores": eighths(scores),
                "things": 3,
                "labels": target["labels"][order],
                "boxes": boxes,
                "masks": eighths(masks),
                "overlap": 0.3,
                "stuff_area": 218,
                "truth": target["panoptic"].ids,
                "segments": [{"id": s.id, "label": s.label} for s in target["panoptic"].segments],
            }
        )
    return cases


def as_panoptic(answer, size):
    """A panoptic map of an answer; an empty one where it is malformed."""
    from labkit.errors import LabkitError
    from labkit.structures import Panoptic, Segment

    try:
        ids = np.asarray(answer["ids"])
        if ids.shape != size or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= 2**31:
            raise ValueError
        present = set(np.unique(ids).tolist()) - {0}
        listed = [
            Segment(int(s["id"]), int(s["label"])) for s in answer["segments"] if s["id"] in present
        ]
        if {s.id for s in listed} != present or not all(0 <= s.label < 7 for s in listed):
            raise ValueError
        return Panoptic(torch.from_numpy(ids.astype(np.int32)), listed)
    except (TypeError, KeyError, ValueError, IndexError, OverflowError, LabkitError):
        return Panoptic(torch.zeros(size, dtype=torch.int32), [])


def pq_of(cases, answers):
    from labkit.metrics.panoptic_quality import PanopticQuality

    metric = PanopticQuality(Shapes.categories)
    for case, answer in zip(cases, answers, strict=True):
        size = tuple(case["truth"].shape)
        metric.update(
            as_panoptic(answer, size), as_panoptic({**case, "ids": case["truth"].numpy()}, size)
        )
    return metric.compute().all.pq


def right_fusion(case):
    placed = right_masks(case["masks"], case["boxes"], tuple(case["scores"].shape[1:])) > 0
    kept = right_pruning(placed, case["labels"], case["overlap"])
    rest = [case[name][kept] for name in ("labels", "boxes", "masks")]
    return right_map(
        right_logits(case["scores"], case["things"], *rest),
        case["things"],
        rest[0],
        case["stuff_area"],
    )


def by_pq(cases, answers):
    """Points from PQ: none up to half of what the definition reaches, all from 99 % of it on."""
    right = pq_of(cases, [right_fusion(case) for case in cases])
    return min(max((pq_of(cases, answers) / right - 0.5) / 0.49, 0.0), 1.0)


def entry_inputs(rng):
    cases = []
    for _ in range(3):
        numbers = rng.choice(2**24 - 1, 5, replace=False) + 1
        ids = rng.choice([0, *numbers.tolist()], (6, 9))
        listed = [{"id": int(i), "label": int(rng.integers(CLASSES))} for i in np.unique(ids) if i]
        cases.append(
            {
                "answer": {"ids": torch.from_numpy(ids), "segments": listed},
                "category_ids": (rng.choice(200, CLASSES, replace=False) + 1).tolist(),
                "image_id": int(rng.integers(1, 600_000)),
            }
        )
    return cases


def right_entry(answer, category_ids, image_id):
    from labkit.datasets.coco.panoptic_png import id_to_rgb

    listed = [{"category_id": category_ids[s["label"]], "id": s["id"]} for s in answer["segments"]]
    name = str(image_id).zfill(12) + ".png"
    return {
        "rgb": id_to_rgb(answer["ids"].numpy()),
        "annotation": {"image_id": image_id, "file_name": name, "segments_info": listed},
    }


ALL = ("scores", "things", "labels", "boxes", "masks")

ASSIGNMENT = Assignment(
    title="UPSNet",
    minutes=180,
    probes=[
        Probe(
            "semantic",
            "semantic",
            "thing_logits",
            2,
            only("scores", "labels", "boxes"),
            right_semantic,
        ),
        Probe("masks", "masks", "mask_logits", 2, mask_cases, right_masks),
        Probe(
            "stuff-and-objects",
            "logits",
            "panoptic_logits",
            2,
            only(*ALL),
            lambda **case: right_logits(**case)[:-1],
            driver=ALL_BUT_UNKNOWN,
        ),
        Probe(
            "unknown",
            "logits",
            "panoptic_logits",
            2,
            only(*ALL),
            lambda **case: right_logits(**case)[-1],
            driver=UNKNOWN,
        ),
        Probe("pruning", "pruning", "prune", 2, pruning_inputs, right_pruning),
        Probe("map", "map", "panoptic_map", 2, map_inputs, right_map),
        Probe(
            "pictures", "map", "fuse", 2, picture_inputs, score=by_pq, hidden=("truth", "segments")
        ),
        Probe("file", "file", "results_entry", 1, entry_inputs, right_entry),
    ],
    questions=[
        Question(
            "overlooked",
            1,
            "Half: with unknown the pixels are void, only the bird is a FN. Half: without it stuff or a neighbour gets "
            "them, whose IoU falls (perhaps below the match) in addition.",
        ),
        Question(
            "results",
            4,
            "1: the table is complete (model, data, number of pictures, PQ, SQ, RQ for things and stuff) and the output "
            "of the results cell agrees with it. 1: the comparison with 42.5 is right, or it is said why there "
            "is none (fewer pictures, other data). 1: best and worst classes, with SQ and RQ told apart. 1: two pictures "
            "with the part that failed named and a reason. Shapes instead of COCO costs nothing where COCO could not be had.",
        ),
    ],
    forbidden=(
        "labkit.models.upsnet.panoptic_head.thing_term",
        "labkit.models.upsnet.panoptic_head.mask_term",
        "labkit.models.upsnet.panoptic_head.resized_masks",
        "labkit.models.upsnet.panoptic_head.unknown_term",
        "labkit.models.upsnet.panoptic_head.panoptic_logits",
        "labkit.models.upsnet.panoptic_head.prune",
        "labkit.models.upsnet.postprocess.panoptic_argmax",
        "labkit.models.upsnet.postprocess.assign_segments",
        "labkit.models.upsnet.postprocess.panoptic_maps",
    ),
    limits=Limits(cell_seconds=180, total_seconds=600),
)
