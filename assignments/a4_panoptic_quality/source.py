# %% [markdown]
# # Assignment 4. Panoptic quality
#
# A land-cover map of a continent at ten metres has $10^{12}$ pixels. Nobody compares two such maps
# pixel by pixel, and nobody needs to: for panoptic quality it is enough to know how many pixels each
# predicted segment shares with each true one. You write that table from compressed maps, panoptic
# quality from the table, with everything that makes it hard in practice (*void*, crowds, images that
# come in tiles), and then three things that panoptic quality by itself does not see.
#
# **Before you begin:** notebook 6. **Time:** about two hours. **Points:** 20, of which 18 are
# computed and 2 are for a question.
#
# | exercise | points |
# | --- | --- |
# | 1 the table of overlaps: small maps, large ones | 1 + 2 |
# | 2 counting: plain, with void, with crowds | 2 + 2 + 2 |
# | 3 tiles and images | 2 |
# | 4 stuff without a threshold | 2 |
# | 5 boundaries: the region, the counts | 1 + 2 |
# | 6 what is worth drawing | 2 |
# | question | 2 |
#
# Answers may call each other and the functions of the set-up cells. Exercises 3 and 4 build on 1 and 2;
# exercise 5 on the rules of 2.
#
# Your functions will be called on other maps than those below, drawn anew for every submission. Loops
# over segments, runs and images are fine; loops over pixels are not, where there are $10^{12}$ of them.
# What labkit and panopticapi have for panoptic quality may not be called in your answers.
#
# **Conventions.** Each pixel of a map has an id, and the pixels with one id are a segment. Beside the
# map stands the list of its segments, a dictionary each; all of them occur in the map:
#
# - `"id"`: a positive integer, up to $2^{24}$;
# - `"label"`: its class, `0 .. num_classes - 1`;
# - `"iscrowd"`: in the ground truth only, whether it is a crowd. A class has at most one crowd in an
#   image.
#
# Pixels with id 0 belong to no segment: in the ground truth they are void, in a prediction undecided.
#
# A map is stored as **runs**: an array `(R, 2)` of int64 with rows `[id, length]`. Read row by row from
# the upper left corner, the map has `length` pixels of this id, then those of the next run. Two runs of
# one id may follow each other.

# %% tags=["setup"]
import numpy as np

from labkit.checks import Checks, equal, has_shape

VOID = 0
SQUARE, CIRCLE, SKY, SEA = 0, 1, 2, 3


def tiny(rows):
    """A map from words of digits."""
    return np.array([[int(digit) for digit in row] for row in rows.split()], dtype=np.int64)


def runs_of(ids, times=1):
    """The runs of a map, each `times` as long: as if every pixel were that many."""
    ids = ids.ravel()
    starts = np.flatnonzero(np.diff(ids, prepend=-1))
    lengths = np.diff(starts, append=len(ids))
    return np.stack([ids[starts], lengths * times], axis=1)


def listed(labels, crowd=()):
    """A list of segments from {id: label} and the ids of the crowds."""
    return [{"id": i, "label": c, "iscrowd": i in crowd} for i, c in labels.items()]


# %% [markdown]
# The example that accompanies the exercises, four rows of eight pixels:

# %% tags=["setup"]
truth = tiny("33333333 31113223 31113223 33333333")
guess = tiny("77777777 75577677 75577677 77777777")
truth_segments = listed({1: SQUARE, 2: SQUARE, 3: SKY})
guess_segments = [{"id": i, "label": c} for i, c in {5: SQUARE, 6: SQUARE, 7: SKY}.items()]

# %% [markdown]
# ## Exercise 1. The table of overlaps (1 + 2 points)
#
# How many pixels does each segment of the one map share with each of the other? Both maps have the same
# number of pixels, but their runs end at different places. Never unpack them: between two neighbouring
# ends, of either map, nothing changes. `np.cumsum`, `np.searchsorted` and `np.unique` help.


# %% exercise="overlaps"
def overlaps(prediction, truth):
    """The number of pixels that each pair of ids shares.

    Args:
        prediction, truth: the runs of two maps with equally many pixels, (R, 2) and (S, 2) int64.

    Returns:
        {"prediction": the P ids that occur in the prediction, ascending, 0 included if it occurs,
         "truth": the G ids that occur in the truth, likewise,
         "pixels": (P, G) int64, the shared pixels}.
    """
    # BEGIN SOLUTION
    ends_p, ends_g = np.cumsum(prediction[:, 1]), np.cumsum(truth[:, 1])
    ends = np.union1d(ends_p, ends_g)
    p_ids, rows = np.unique(prediction[np.searchsorted(ends_p, ends), 0], return_inverse=True)
    g_ids, columns = np.unique(truth[np.searchsorted(ends_g, ends), 0], return_inverse=True)
    pixels = np.zeros((len(p_ids), len(g_ids)), np.int64)
    np.add.at(pixels, (rows, columns), np.diff(ends, prepend=0))
    return {"prediction": p_ids.tolist(), "truth": g_ids.tolist(), "pixels": pixels}
    # END SOLUTION


# %% [markdown]
# By hand, in the example: segment 5 has 4 pixels, all in segment 1; of segment 1's other two pixels,
# and of two of segment 2's, the prediction says 7.

# %% tags=["check"]
table = [[4, 0, 0], [0, 2, 0], [2, 2, 22]]

check = Checks("Exercise 1")
with check("a row for each predicted id, a column for each true one"):
    has_shape(np.asarray(overlaps(runs_of(guess), runs_of(truth))["pixels"]), (3, 3))
with check("the ids, ascending"):
    found = overlaps(runs_of(guess), runs_of(truth))
    equal([list(found["prediction"]), list(found["truth"])], [[5, 6, 7], [1, 2, 3]])
with check("the example"):
    equal(overlaps(runs_of(guess), runs_of(truth))["pixels"], table)
with check("0 is an id like any other here"):
    found = overlaps(np.array([[0, 3], [4, 1]]), np.array([[9, 2], [0, 2]]))
    equal([list(found["prediction"]), list(found["truth"])], [[0, 4], [0, 9]])
    equal(found["pixels"], [[1, 2], [1, 0]])
with check("two runs of one id after each other"):
    found = overlaps(np.array([[4, 1], [4, 1], [4, 2]]), np.array([[9, 3], [9, 1]]))
    equal(found["pixels"], [[4]])
with check("as many pixels as a continent: nothing is unpacked, and no number is too large"):
    found = overlaps(runs_of(guess, 10**11), runs_of(truth, 10**11))
    equal(found["pixels"], 10**11 * np.array(table))
check.report()

# %% [markdown]
# ## Exercise 2. Counting (2 + 2 + 2 points)
#
# From the table and the two lists of segments, for each class: the sum of the IoU of the matches, TP,
# FP and FN. The areas of the segments are in the table as well.
#
# - A predicted and a true segment of one class **match** when their IoU is *above* one half. **Void**
#   pixels of the ground truth are left out of the union. Pixels that are undecided in the prediction
#   are not: they still belong to the true segment. A crowd never matches. Unlike void, it stays in the
#   union.
# - True segments without a match are **FN**. A **crowd** is not missed: no FN.
# - Predicted segments without a match are **FP**, unless they lie for *more than half* of all their
#   pixels (void ones included) on void, or on the crowd of their own class, or on both together. A
#   crowd of another class is no excuse.
#
# The numbers of pixels go up to $10^{13}$; int64 and float64 can hold them. The sum of IoU has to be
# right to nine digits. (`segment.get("iscrowd", False)` reads a list without `"iscrowd"` as one without
# crowds.)


# %% exercise="counting"
def count(overlap, prediction_segments, truth_segments, num_classes):
    """What panoptic quality is made of.

    Args:
        overlap: the table of exercise 1.
        prediction_segments, truth_segments: the segments of the two maps.
        num_classes: how many classes there are.

    Returns:
        (num_classes, 4) floats: for each class the sum of the IoU of the matches, and the numbers of
        true positives, false positives and false negatives, in this order.
    """
    # BEGIN SOLUTION
    ious = mask_ious(overlap, prediction_segments, truth_segments)
    return tally(ious, overlap, prediction_segments, truth_segments, num_classes)


def shared(overlap, ids, other_ids):
    """The entries of the table for some ids; 0 for an id that does not occur."""
    rows = {i: n for n, i in enumerate(overlap["prediction"])}
    columns = {i: n for n, i in enumerate(overlap["truth"])}
    padded = np.pad(np.asarray(overlap["pixels"]), (0, 1))
    return padded[np.ix_([rows.get(i, -1) for i in ids], [columns.get(i, -1) for i in other_ids])]


def mask_ious(overlap, prediction_segments, truth_segments):
    """The IoU of all pairs of segments, without void."""
    p_ids, g_ids = ([s["id"] for s in part] for part in (prediction_segments, truth_segments))
    both = shared(overlap, p_ids, g_ids)
    of_p = shared(overlap, p_ids, overlap["truth"]).sum(axis=1, keepdims=True)
    of_g = shared(overlap, overlap["prediction"], g_ids).sum(axis=0)
    return both / (of_p - shared(overlap, p_ids, [VOID]) + of_g - both)


def tally(ious, overlap, prediction_segments, truth_segments, num_classes):
    """Counts from the IoU of all pairs; the table tells what lies on void and crowds."""
    counts = np.zeros((num_classes, 4))
    found = set()
    for n, g in enumerate(truth_segments):
        if g.get("iscrowd", False):
            continue
        same = [m for m, p in enumerate(prediction_segments) if p["label"] == g["label"]]
        hits = [m for m in same if ious[m, n] > 0.5]
        counts[g["label"]] += (ious[hits, n].sum(), len(hits), 0, 1 - len(hits))
        found.update(hits)
    crowd_of = {g["label"]: g["id"] for g in truth_segments if g.get("iscrowd", False)}
    for m, p in enumerate(prediction_segments):
        area = shared(overlap, [p["id"]], overlap["truth"]).sum()
        unknown = [VOID, crowd_of[p["label"]]] if p["label"] in crowd_of else [VOID]
        if m not in found and 2 * shared(overlap, [p["id"]], unknown).sum() <= area:
            counts[p["label"], 2] += 1
    return counts
    # END SOLUTION


# %% [markdown]
# In the example the left square has 6 pixels, of which 4 are predicted, IoU 4/6; of the right one's 4
# pixels 2 are predicted, IoU exactly one half, which is not above it: one FP and one FN. The sky has 22
# of 26. Then a ground truth whose left half is void and, of the same shape, one whose left half is a
# crowd. The tables are written out, so that this exercise does not need the first one.


# %% tags=["check"]
def counts_of(p_ids, g_ids, pixels, *segments):
    """What `count` returns, as an array."""
    overlap = {"prediction": p_ids, "truth": g_ids, "pixels": np.array(pixels, np.int64)}
    found = np.asarray(count(overlap, *segments, 4), float)
    has_shape(found, (4, 4))  # 4 classes, 4 numbers
    return found


example = [5, 6, 7], [1, 2, 3], table, guess_segments, truth_segments
# Four predictions on two rows of 8 pixels, the left four of which are void (0) or a crowd (5):
#   44422333
#   11122333
segments = listed({1: SQUARE, 2: SQUARE, 3: SKY, 4: CIRCLE})
on_void = [1, 2, 3, 4], [0, 3], [[3, 0], [2, 2], [0, 6], [3, 0]], segments, listed({3: SKY})
in_crowd = listed({3: SKY, 5: SQUARE}, crowd=[5])
on_crowd = [1, 2, 3, 4], [3, 5], [[0, 3], [2, 2], [6, 0], [0, 3]], segments, in_crowd
squares = [{"id": 4, "label": SQUARE}], listed({1: SQUARE})

check = Checks("Exercise 2")
with check("squares: one of two found; one half is not above one half"):
    equal(counts_of(*example)[SQUARE], [4 / 6, 1, 1, 1], within=1e-9)
with check("sky: found"):
    equal(counts_of(*example)[SKY], [22 / 26, 1, 0, 0], within=1e-9)
with check("classes that do not occur have zeros"):
    equal(counts_of(*example)[[CIRCLE, SEA]], [[0] * 4] * 2)
with check("sea does not match sky, however well it fits"):
    swapped = [{**s, "label": SEA if s["label"] == SKY else s["label"]} for s in guess_segments]
    equal(counts_of(*example[:3], swapped, truth_segments)[[SKY, SEA], 1:], [[0, 0, 1], [0, 1, 0]])
with check("void is left out of the union: 4 pixels of 4, and 4 beside them on void"):
    equal(counts_of([4], [0, 1], [[4, 4]], *squares)[SQUARE], [1, 1, 0, 0], within=1e-9)
with check("pixels that the prediction leaves undecided are in the union: 6 of 10"):
    equal(counts_of([0, 4], [1], [[4], [6]], *squares)[SQUARE], [6 / 10, 1, 0, 0], within=1e-9)
with check("a prediction on void is excused: nobody knows what is there"):
    equal(counts_of(*on_void)[CIRCLE, 2], 0)
with check("of the two squares one lies on void; half of the other is not more than half"):
    equal(counts_of(*on_void)[SQUARE, 2], 1)
with check("a crowd is not missed, and never matches"):
    equal(counts_of(*on_crowd)[SQUARE, 3], 0)
    alone = [{"id": 4, "label": SQUARE}], listed({1: SQUARE}, crowd=[1])
    equal(counts_of([4], [1], [[9]], *alone)[SQUARE], [0, 0, 0, 0])
with check("a crowd stays in the union: 6 pixels of 6, and 2 beside them on a crowd"):
    beside = squares[0], listed({1: SQUARE, 5: SQUARE}, crowd=[5])
    equal(counts_of([4], [1, 5], [[6, 2]], *beside)[SQUARE], [6 / 8, 1, 0, 0], within=1e-9)
with check("a square on a crowd of squares is excused, one that is half on it is not"):
    equal(counts_of(*on_crowd)[SQUARE, 2], 1)
with check("a crowd of squares does not excuse a circle"):
    equal(counts_of(*on_crowd)[CIRCLE, 2], 1)
with check("2 of 7 on void and 2 on the crowd: together more than half"):
    equal(counts_of([4], [0, 3, 5], [[2, 3, 2]], squares[0], in_crowd)[SQUARE], [0, 0, 0, 0])
check.report()

# %% [markdown]
# ## Exercise 3. Tiles and images (2 points)
#
# Large images come in tiles, and one segment may lie in several of them, with the same id everywhere.
# What may be summed over tiles, and what over images?
#
# The quality of a data set has the counts of all *images* summed, and for a class
#
# $$\mathrm{PQ} = \frac{\sum \mathrm{IoU}}{TP + \frac12 FP + \frac12 FN}, \qquad
# \mathrm{SQ} = \frac{\sum \mathrm{IoU}}{TP}, \qquad
# \mathrm{RQ} = \frac{TP}{TP + \frac12 FP + \frac12 FN} ,$$
#
# all three 0 without any match. Then comes the mean over the classes *that occur*, those with at least
# one TP, FP or FN: over all of them, over the things, over the stuff.


# %% exercise="evaluate"
def evaluate(images, num_classes, isthing):
    """PQ, SQ and RQ of a data set.

    Args:
        images: a list of dictionaries: "tiles", a list of dictionaries with the runs "prediction" and
            "truth" of each tile (equally many pixels); "prediction_segments" and "truth_segments",
            the segments of the whole image. A segment may be missing in a tile.
        num_classes: how many classes there are. At least one thing and one stuff class occur.
        isthing: a list of num_classes truth values.

    Returns:
        {"all": [PQ, SQ, RQ], "things": [PQ, SQ, RQ], "stuff": [PQ, SQ, RQ]}, numbers in 0..1.
    """
    # BEGIN SOLUTION
    counts = sum(
        count(joined(one), one["prediction_segments"], one["truth_segments"], num_classes)
        for one in images
    )
    rows = {"all": [], "things": [], "stuff": []}
    for (iou, tp, fp, fn), thing in zip(counts.tolist(), isthing, strict=True):
        size = tp + fp / 2 + fn / 2
        if size > 0:
            row = [iou / size, iou / tp if tp else 0.0, tp / size]
            rows["all"].append(row)
            rows["things" if thing else "stuff"].append(row)
    return {name: np.mean(values, axis=0).tolist() for name, values in rows.items()}


def joined(image):
    """The table of an image: its tiles one after another are a map, too."""
    return overlaps(
        *(np.concatenate([t[k] for t in image["tiles"]]) for k in ("prediction", "truth"))
    )
    # END SOLUTION


# %% tags=["check"]
isthing = [True, True, False, False]


def in_tiles(prediction, truth, *segments, width=4):
    """An image in tiles of some columns."""
    tiles = [
        {
            "prediction": runs_of(prediction[:, x : x + width]),
            "truth": runs_of(truth[:, x : x + width]),
        }
        for x in range(0, truth.shape[1], width)
    ]
    return {"tiles": tiles, "prediction_segments": segments[0], "truth_segments": segments[1]}


whole = in_tiles(guess, truth, guess_segments, truth_segments, width=8)
halves = in_tiles(guess, truth, guess_segments, truth_segments)
perfect = in_tiles(truth, truth, truth_segments, truth_segments)
invented = listed({1: SQUARE, 3: SKY, 4: SEA}), listed({1: SQUARE, 3: SKY})

check = Checks("Exercise 3")
with check("the keys are all, things and stuff"):
    equal(set(evaluate([whole], 4, isthing)), {"all", "things", "stuff"})
with check("one image, one tile: squares"):
    equal(evaluate([whole], 4, isthing)["things"], [1 / 3, 2 / 3, 1 / 2], within=1e-9)
with check("and the sky; circles and sea do not occur and take no part in the mean"):
    equal(evaluate([whole], 4, isthing)["stuff"], [11 / 13, 11 / 13, 1], within=1e-9)
    equal(evaluate([whole], 4, isthing)["all"][0], (1 / 3 + 11 / 13) / 2, within=1e-9)
with check("the same image in two tiles has the same quality"):
    equal(evaluate([halves], 4, isthing)["all"][0], (1 / 3 + 11 / 13) / 2, within=1e-9)
with check("two images: (2/3 + 2) / (3 + 1) of the squares, not the mean of 1/3 and 1"):
    equal(evaluate([whole, perfect], 4, isthing)["things"][0], 2 / 3, within=1e-9)
with check("a perfect sky and an invented sea: a class without any match counts 0, in SQ as well"):
    found = evaluate([in_tiles(tiny("11143333"), tiny("11113333"), *invented)], 4, isthing)
    equal(found["stuff"], [1 / 2, 1 / 2, 1 / 2], within=1e-9)
check.report()

# %% [markdown]
# ## Exercise 4. Stuff without a threshold (2 points)
#
# In most images a stuff class is one segment in each map; nothing has to be matched. Yet a sky with IoU
# 0.51 counts 0.51, and one with 0.49 counts nothing. Porzi et al. (2019) leave the threshold out:
# PQ† keeps PQ for the things, and for a stuff class it is
#
# $$\mathrm{PQ}^\dagger = \frac{1}{n} \sum_{\text{images}} \mathrm{IoU} ,$$
#
# where $n$ is the number of images in whose *ground truth* the class occurs, and the IoU of an image
# whose prediction lacks the class is 0; an image whose ground truth lacks it takes no part. Void pixels
# are left out of the union as before.


# %% exercise="stuff"
def stuff_quality(images, num_classes, isthing):
    """PQ† of the stuff classes.

    Args:
        images, num_classes, isthing: as in exercise 3. A map has at most one segment of a stuff
            class, and it is no crowd.

    Returns:
        A list of num_classes entries: a number in 0..1, or None for things, and for stuff classes
        that occur in no ground truth.
    """
    # BEGIN SOLUTION
    sums, numbers = [0.0] * num_classes, [0] * num_classes
    for one in images:
        guesses, truths = one["prediction_segments"], one["truth_segments"]
        ious = mask_ious(joined(one), guesses, truths)
        for n, g in enumerate(truths):
            numbers[g["label"]] += not isthing[g["label"]]
            for m, p in enumerate(guesses):
                if p["label"] == g["label"]:
                    sums[g["label"]] += ious[m, n]
    return [total / n if n else None for total, n in zip(sums, numbers, strict=True)]
    # END SOLUTION


# %% tags=["check"]
sky, both = tiny("33333333"), tiny("33333344")
only_sky, and_sea = listed({3: SKY}), listed({3: SKY, 4: SEA})
small = in_tiles(tiny("33344444"), sky, and_sea, only_sky)  # sky with IoU 3/8, invented sea

check = Checks("Exercise 4")
with check("things are None, and so is sea, which is in no ground truth"):
    found = stuff_quality([small], 4, isthing)
    equal([found[SQUARE], found[CIRCLE], found[SEA]], [None] * 3)
with check("sky with an IoU of 3/8 counts 3/8"):
    equal(stuff_quality([small], 4, isthing)[SKY], 3 / 8, within=1e-9)
with check("the mean over two images"):
    found = stuff_quality([small, in_tiles(sky, sky, only_sky, only_sky)], 4, isthing)
    equal(found[SKY], 11 / 16, within=1e-9)
with check("sea is missing in one of the two images that have it"):
    images = [in_tiles(both, both, and_sea, and_sea), in_tiles(sky, both, only_sky, and_sea)]
    equal(stuff_quality(images, 4, isthing)[SEA], 1 / 2, within=1e-9)
with check("an image that has sea in the prediction alone does not count"):
    images = [in_tiles(both, both, and_sea, and_sea), small]
    equal(stuff_quality(images, 4, isthing)[SEA], 1, within=1e-9)
with check("void is left out of the union"):
    unclear = in_tiles(sky, tiny("33330000"), only_sky, only_sky)
    equal(stuff_quality([unclear], 4, isthing)[SKY], 1, within=1e-9)
check.report()

# %% [markdown]
# ## Exercise 5. Boundaries (1 + 2 points)
#
# The IoU of large segments hardly sees their outline. **Boundary IoU** (Cheng et al., 2021) is the IoU
# of their *boundary regions*: the pixels of a segment from which a pixel that does not belong to it is at
# most $d$ rows *and* at most $d$ columns away. What lies outside of the image does not belong to it.
#
# **Boundary PQ** is panoptic quality with, instead of the IoU of two segments, the *smaller* of their
# IoU and their boundary IoU, for the matching (above one half) and in the sum. The IoU is that of
# exercise 2. Void: the boundary regions are those of the segments as they are; then the void pixels are
# taken out of the predicted one. (If nothing is left of it, the boundary IoU is 0.) Which unmatched
# predictions are excused does not change, nor does anything about crowds.


# %% exercise="boundary"
def boundary_region(mask, distance):
    """The pixels of a segment that are near its boundary.

    Args:
        mask: (H, W) bool.
        distance: d, at least 1.

    Returns:
        (H, W) bool.
    """
    # BEGIN SOLUTION
    height, width = mask.shape
    padded = np.pad(mask, distance)
    inner = mask.copy()
    for down in range(2 * distance + 1):
        for right in range(2 * distance + 1):
            inner &= padded[down : down + height, right : right + width]
    return mask & ~inner
    # END SOLUTION


def boundary_count(prediction, truth, prediction_segments, truth_segments, num_classes, distance):
    """The counts of exercise 2 for Boundary PQ.

    Args:
        prediction, truth: (H, W) ids, 0 is void in the truth.
        prediction_segments, truth_segments: the segments of the two maps.
        num_classes: how many classes there are.
        distance: d of the boundary regions.

    Returns:
        (num_classes, 4) floats as in exercise 2.
    """
    # BEGIN SOLUTION
    overlap = overlaps(runs_of(prediction), runs_of(truth))
    ious = mask_ious(overlap, prediction_segments, truth_segments)
    regions = [boundary_region(truth == g["id"], distance) for g in truth_segments]
    for m, p in enumerate(prediction_segments):
        own = boundary_region(prediction == p["id"], distance) & (truth != VOID)
        for n, other in enumerate(regions):
            ious[m, n] = min(ious[m, n], (own & other).sum() / (own | other).sum())
    return tally(ious, overlap, prediction_segments, truth_segments, num_classes)
    # END SOLUTION


# %% [markdown]
# A square of 8 × 8 pixels whose prediction lacks two columns has IoU $48/64$. For $d = 1$ the boundary
# regions are rings of 28 and 24 pixels; they share the left column and six pixels of the upper and of
# the lower row, 18 in all: boundary IoU $18/34$. With three columns missing the IoU is $40/64$ and the
# boundary IoU $16/34$, below one half.


# %% tags=["check"]
def squares_of(missing, void=0):
    """A map of a square, one that lacks some columns, and void columns at its right."""
    true = np.full((10, 12), 3)
    true[1:9, 1:9] = 1
    guessed = np.full((10, 12), 3)
    guessed[1:9, 1 : 9 - missing] = 1
    true[:, 9 - void : 9] = VOID
    return guessed, true, listed({1: SQUARE, 3: SKY}), listed({1: SQUARE, 3: SKY})


def ring_of(side):
    """A map of a square and one of its outermost pixels alone; the others are undecided."""
    true = np.full((10, 12), 3)
    true[1 : 1 + side, 1 : 1 + side] = 1
    guessed = true.copy()
    guessed[2:side, 2:side] = 0
    return guessed, true, listed({1: SQUARE, 3: SKY}), listed({1: SQUARE, 3: SKY})


check = Checks("Exercise 5")
with check("the ring of a square: one pixel wide, inside"):
    ring = tiny("00000 01110 01010 01110 00000") == 1
    equal(boundary_region(tiny("00000 01110 01110 01110 00000") == 1, 1), ring)
with check("diagonal neighbours count: where the corner is missing, the middle is at the boundary"):
    equal(boundary_region(tiny("111 111 110") == 1, 1), tiny("111 111 110") == 1)
with check("the edge of the image is a boundary"):
    equal(boundary_region(np.ones((5, 5), bool), 1), tiny("11111 10001 10001 10001 11111") == 1)
with check("two pixels wide"):
    equal(np.asarray(boundary_region(np.ones((7, 7), bool), 2)).sum(), 49 - 9)
with check("two columns missing: 18/34 is smaller than 48/64"):
    equal(boundary_count(*squares_of(2), 4, 1)[SQUARE], [18 / 34, 1, 0, 0], within=1e-9)
with check("three columns missing: no match any more"):
    equal(boundary_count(*squares_of(3), 4, 1)[SQUARE], [0, 0, 1, 1], within=1e-9)
with check("with d = 4 the regions are the whole squares: the IoU"):
    equal(boundary_count(*squares_of(2), 4, 4)[SQUARE], [48 / 64, 1, 0, 0], within=1e-9)
with check("a ring: its boundary is perfect, its IoU is the smaller one"):
    equal(boundary_count(*ring_of(5), 4, 1)[SQUARE], [16 / 25, 1, 0, 0], within=1e-9)
    equal(boundary_count(*ring_of(8), 4, 1)[SQUARE], [0, 0, 1, 1], within=1e-9)  # 28 / 64
with check("void columns leave the predicted region: 20 pixels of the rings of 26 and 28 - 8"):
    equal(boundary_count(*squares_of(0, void=1), 4, 1)[SQUARE], [20 / 26, 1, 0, 0], within=1e-9)
check.report()

# %% [markdown]
# ## Exercise 6. What is worth drawing (2 points)
#
# A class has the counts $(\sum\mathrm{IoU}, TP, FP, FN)$ from the segments that are certain. Then there
# are some objects that the network has seen but doubts. *Each of them is really there.* If it draws
# object $i$, the segment matches with probability $a_i$, then with IoU $s_i$; otherwise it is an FP and
# the object an FN. If it does not draw it, the object is an FN.
#
# Which of them should it draw for the largest PQ? Take for PQ the expected numerator over the expected
# denominator. (The denominator does not depend on chance: why?) Whether one object pays depends on the
# PQ, and the PQ depends on what else is drawn.
#
# In the first case below the class has TP 10; the one object, not drawn, is an FN: $8 / (10 + 1/2)$.


# %% exercise="draw"
def worth_drawing(counts, objects):
    """The best choice of doubtful objects.

    Args:
        counts: [sum of IoU, TP, FP, FN] of the certain segments; TP is at least 1.
        objects: a list of pairs (a, s): the probability of a match, and its IoU.

    Returns:
        A list of truth values, one for each object: whether to draw it. (No two choices of the hidden
        cases are equally good.)
    """
    # BEGIN SOLUTION
    iou, tp, fp, fn = counts
    order = sorted(range(len(objects)), key=lambda n: -objects[n][0] * objects[n][1])
    gains = [a * s for a, s in (objects[n] for n in order)]
    size = tp + fp / 2 + fn / 2 + len(objects) / 2
    best = max(range(len(gains) + 1), key=lambda k: (iou + sum(gains[:k])) / (size + k / 2))
    return [n in order[:best] for n in range(len(objects))]
    # END SOLUTION


# %% tags=["check"]
check = Checks("Exercise 6")
with check("0.6 of a match with IoU 0.9: 8.54 / 11 is more than 8 / 10.5"):
    equal(list(worth_drawing([8, 10, 0, 0], [(0.6, 0.9)])), [True])
with check("0.4 of one with 0.9: 8.36 / 11 is less than 8 / 10.5"):
    equal(list(worth_drawing([8, 10, 0, 0], [(0.4, 0.9)])), [False])
with check("no doubts, nothing to draw"):
    equal(list(worth_drawing([8, 10, 0, 0], [])), [])
with check("beside ten objects that do not pay it does: 8.36 / 16 is more than 8 / 15.5"):
    found = worth_drawing([8, 10, 0, 0], [(0.4, 0.9), *[(0.1, 0.9)] * 10])
    equal(list(found), [True] + [False] * 10)
with check("a poor class takes what a good one leaves out"):
    equal(list(worth_drawing([2, 10, 0, 0], [(0.4, 0.9)])), [True])
with check("together: with the three good ones drawn the class is too good for the last"):
    found = worth_drawing([0.6, 1, 0, 0], [(0.2, 0.95), (0.9, 0.9), (0.9, 0.9), (0.9, 0.9)])
    equal(list(found), [False, True, True, True])
check.report()

# %% [markdown]
# ## Question. Why no search? (2 points)
#
# Panoptic quality needs no search because a segment has at most one partner with an IoU above one half.
# Does that still hold (a) for the smaller of IoU and boundary IoU, (b) for the boundary IoU alone (think
# of what the regions of two segments of one map have in common), and (c) why does PQ† do without it?
# Give a reason for each.

# %% [markdown] question="thresholds"
# <!-- BEGIN SOLUTION -->
# (a) Yes: if the smaller one is above one half, so is the IoU, and the theorem holds for that. (b) Yes:
# boundary regions are parts of their segments, so those of one map are disjoint, and the proof needs
# nothing else. (c) A class of stuff is at most one segment in each map of an image, so the class says
# which two belong together; nothing has to be matched. With two segments of a class in a map it would not do.
# <!-- END SOLUTION -->

# %% tags=["probes"]
import numpy as np

CLASSES, THINGS, BLOCK, COLUMNS, ROWS = 8, 4, 10, 6, 4
ISTHING = [True] * THINGS + [False] * (CLASSES - THINGS)
GROUNDS, UNMATCHED = 2, 6  # the grounds are the classes 4 and 5; 6 is never matched, 7 never occurs


class Scene:
    """A truth and a prediction with a stuff segment everywhere; events are painted into blocks."""

    def __init__(self, rng):
        self.rng = rng
        self.truth = np.zeros((ROWS * BLOCK, COLUMNS * BLOCK), np.int32)
        self.prediction = self.truth.copy()
        self.ids = rng.choice(60_000, 200, replace=False) + 1
        self.used = 0
        self.segments = {"truth": [], "prediction": []}
        self.blocks = list(rng.permutation(ROWS * COLUMNS))
        ground = THINGS + int(rng.integers(GROUNDS))
        for which in ("truth", "prediction"):
            getattr(self, which)[:] = self.new(which, ground)

    def new(self, which, label, iscrowd=False):
        """A new segment's id; the caller paints it."""
        number = int(self.ids[self.used])
        self.used += 1
        segment = {"id": number, "label": int(label)}
        if which == "truth":
            segment["iscrowd"] = iscrowd
        self.segments[which].append(segment)
        return number

    def block(self):
        """Rows and columns of a block that is still empty: an 8 × 8 window with a margin."""
        row, column = divmod(int(self.blocks.pop()), COLUMNS)
        return row * BLOCK + 1, column * BLOCK + 1

    def paint(self, which, value, where, top, left, height, width):
        y, x = where[0] + top, where[1] + left
        getattr(self, which)[y : y + height, x : x + width] = value

    def thing(self):
        return int(self.rng.integers(THINGS))

    def other(self, label):
        return int((label + 1 + self.rng.integers(THINGS - 1)) % THINGS)

    # What can happen to an object. A true one is h × 8 pixels.

    def hit(self):
        where, label, h = self.block(), self.thing(), int(self.rng.integers(3, 9))
        self.paint("truth", self.new("truth", label), where, 0, 0, h, 8)
        self.paint(
            "prediction",
            self.new("prediction", label),
            where,
            0,
            0,
            h,
            int(self.rng.integers(5, 9)),
        )

    def half(self):
        where, label, h = self.block(), self.thing(), int(self.rng.integers(3, 9))
        self.paint("truth", self.new("truth", label), where, 0, 0, h, 8)
        self.paint("prediction", self.new("prediction", label), where, 0, 4, h, 4)

    def poor_outline(self):
        """IoU 40 / 64, boundary IoU 16 / 34 for d = 1 and 28 / 56 for d = 2."""
        where, label = self.block(), self.thing()
        self.paint("truth", self.new("truth", label), where, 0, 0, 8, 8)
        self.paint("prediction", self.new("prediction", label), where, 0, 0, 8, 5)

    def hollow(self, height, width):
        """Only the frame of a rectangle: the boundary regions agree better than the segments."""
        where, label = self.block(), self.thing()
        self.paint("truth", self.new("truth", label), where, 0, 0, height, width)
        self.paint("prediction", self.new("prediction", label), where, 0, 0, height, width)
        self.paint("prediction", 0, where, 1, 1, height - 2, width - 2)

    def missed(self):
        self.paint(
            "truth",
            self.new("truth", self.thing()),
            self.block(),
            1,
            1,
            int(self.rng.integers(2, 7)),
            5,
        )

    def invented(self):
        self.paint(
            "prediction",
            self.new("prediction", self.thing()),
            self.block(),
            2,
            0,
            5,
            int(self.rng.integers(2, 9)),
        )

    def confused(self):
        where, label = self.block(), self.thing()
        self.paint("truth", self.new("truth", label), where, 0, 0, 7, 7)
        self.paint("prediction", self.new("prediction", self.other(label)), where, 0, 0, 7, 7)

    def saved_by_void(self):
        where, label, h = self.block(), self.thing(), int(self.rng.integers(3, 9))
        self.paint("truth", 0, where, 0, 4, h, 4)
        self.paint("truth", self.new("truth", label), where, 0, 0, h, 4)
        self.paint("prediction", self.new("prediction", label), where, 0, 0, h, 8)

    def excused_by_void(self):
        where = self.block()
        self.paint("truth", 0, where, 0, 0, 8, 5)
        self.paint(
            "prediction",
            self.new("prediction", self.thing()),
            where,
            0,
            0,
            int(self.rng.integers(3, 9)),
            8,
        )

    def partly_on_void(self, columns):
        """As many of 8 columns on void: half or less is no excuse."""
        where, height = self.block(), int(self.rng.integers(3, 9))
        self.paint("truth", 0, where, 0, 0, 8, columns)
        self.paint("prediction", self.new("prediction", self.thing()), where, 0, 0, height, 8)

    def undecided(self):
        self.paint("prediction", 0, self.block(), 0, 0, 4, 4)

    def unmatched(self, which):
        """A stuff segment in one of the maps alone, of a class that nothing else has."""
        self.paint(which, self.new(which, UNMATCHED), self.block(), 0, 0, 6, 6)

    def crowd(self, label):
        """Predictions of its class are excused, one of another is not; a match reaches into it."""
        crowd = self.new("truth", label, iscrowd=True)
        first, second, third, fourth = (self.block() for _ in range(4))
        for where in (first, second, third):
            self.paint("truth", crowd, where, 0, 0, 8, 6)
        self.paint(
            "prediction",
            self.new("prediction", label),
            first,
            0,
            0,
            int(self.rng.integers(3, 9)),
            6,
        )
        self.paint(
            "prediction",
            self.new("prediction", label),
            second,
            0,
            0,
            int(self.rng.integers(3, 9)),
            8,
        )
        self.paint("prediction", self.new("prediction", self.other(label)), third, 0, 0, 8, 6)
        self.paint("truth", crowd, fourth, 0, 6, 8, 2)
        self.paint("truth", self.new("truth", label), fourth, 0, 0, 8, 6)
        self.paint("prediction", self.new("prediction", label), fourth, 0, 0, 8, 8)

    def lone_crowd(self, label):
        """A crowd that one prediction covers exactly: no match all the same."""
        where = self.block()
        self.paint("truth", self.new("truth", label, iscrowd=True), where, 0, 0, 7, 7)
        self.paint("prediction", self.new("prediction", label), where, 0, 0, 7, 7)

    def half_on_crowd(self, label):
        where = self.block()
        self.paint("truth", self.new("truth", label, iscrowd=True), where, 0, 0, 8, 4)
        self.paint("prediction", self.new("prediction", label), where, 0, 0, 6, 8)

    def on_void_and_crowd(self, label):
        """A third on void, a third on the crowd: excused by both together only."""
        where = self.block()
        self.paint("truth", self.new("truth", label, iscrowd=True), where, 0, 0, 8, 3)
        self.paint("truth", 0, where, 0, 3, 8, 3)
        self.paint("prediction", self.new("prediction", label), where, 0, 0, 7, 8)


def plain_scene(rng):
    scene = Scene(rng)
    for event in ("hit", "hit", "hit", "half", "missed", "invented", "confused", "undecided"):
        getattr(scene, event)()
    return scene


def void_scene(rng):
    scene = plain_scene(rng)
    for event in ("saved_by_void", "saved_by_void", "excused_by_void"):
        getattr(scene, event)()
    scene.partly_on_void(4)
    scene.partly_on_void(3)
    return scene


def crowd_scene(rng):
    scene = plain_scene(rng)
    first, second, third, fourth = rng.permutation(THINGS).tolist()
    scene.crowd(first)
    scene.lone_crowd(second)
    scene.half_on_crowd(third)
    scene.on_void_and_crowd(fourth)
    return scene


def missed_stuff_scene(rng):
    scene = plain_scene(rng)
    scene.unmatched("truth")
    return scene


def invented_stuff_scene(rng):
    scene = plain_scene(rng)
    scene.unmatched("prediction")
    return scene


def stuff_scene(rng):
    """Bands of stuff with edges that are far off, a void column; not every class in both maps."""
    scene = Scene(rng)
    scene.segments = {"truth": [], "prediction": []}
    order = THINGS + rng.permutation(CLASSES - THINGS)
    for which, labels in (("truth", order[:3]), ("prediction", order[rng.permutation(4)[:3]])):
        ids = getattr(scene, which)
        known = sorted(labels.tolist(), key=order.tolist().index)
        edges = [0, *sorted(rng.choice(np.arange(5, 56), 2, replace=False).tolist()), 60]
        for label, left, right in zip(known, edges[:-1], edges[1:], strict=True):
            ids[:, left:right] = scene.new(which, label)
    where = int(rng.integers(5, 50))
    scene.truth[:8, where : where + 5] = 0
    return scene


def weights_of(rng):
    """Every row of a scene stands for so many rows: halves along a row stay halves."""
    return rng.integers(10**8, 10**10, (ROWS * BLOCK, 1)) * np.ones((1, COLUMNS * BLOCK), np.int64)


def runs_from(ids, weights, rng=None):
    """The runs of a scene, here and there cut in two."""
    ids, weights = ids.ravel(), weights.ravel()
    begins = np.diff(ids, prepend=-1) != 0
    if rng is not None:
        begins |= rng.random(len(ids)) < 0.02
    starts = np.flatnonzero(begins)
    return np.stack([ids[starts], np.add.reduceat(weights, starts)], axis=1).astype(np.int64)


def overlap_inputs(large):
    def inputs(rng):
        cases = []
        for scene in (plain_scene, void_scene, crowd_scene, stuff_scene):
            drawn = scene(rng)
            weights = weights_of(rng) if large else np.ones_like(drawn.truth, np.int64)
            maps = [drawn.prediction, drawn.truth, weights]
            cases.append(
                {
                    "prediction": runs_from(drawn.prediction, weights, rng),
                    "truth": runs_from(drawn.truth, weights, rng),
                    "maps": maps,
                }
            )
        return cases

    return inputs


def counting_inputs(scene):
    def inputs(rng):
        cases = []
        for _ in range(6):
            drawn = scene(rng)
            maps = [drawn.prediction, drawn.truth, weights_of(rng)]
            cases.append(
                {
                    "overlap": right_overlaps(maps),
                    "prediction_segments": drawn.segments["prediction"],
                    "truth_segments": drawn.segments["truth"],
                    "num_classes": CLASSES,
                    "maps": maps,
                }
            )
        return cases

    return inputs


def image_inputs(*data_sets):
    """Data sets of images in four tiles each, from the scenes of their images."""

    def inputs(rng):
        cases = []
        for scenes in data_sets:
            images, maps = [], []
            for scene in scenes:
                drawn = scene(rng)
                weights = weights_of(rng)
                row, column = int(rng.integers(12, 28)), int(rng.integers(20, 40))
                tiles = []
                for rows in (slice(row), slice(row, None)):
                    for columns in (slice(column), slice(column, None)):
                        part = weights[rows, columns]
                        tiles.append(
                            {
                                "prediction": runs_from(drawn.prediction[rows, columns], part),
                                "truth": runs_from(drawn.truth[rows, columns], part),
                            }
                        )
                images.append(
                    {
                        "tiles": tiles,
                        "prediction_segments": drawn.segments["prediction"],
                        "truth_segments": drawn.segments["truth"],
                    }
                )
                maps.append([drawn.prediction, drawn.truth, weights])
                maps[-1].append([row, column])
            cases.append(
                {"images": images, "num_classes": CLASSES, "isthing": ISTHING, "maps": maps}
            )
        return cases

    return inputs


def region_inputs(rng):
    cases = []
    for distance in (1, 1, 2, 3):
        height, width = rng.integers(14, 22, 2).tolist()
        mask = np.zeros((height, width), bool)
        for _ in range(3):  # three rectangles, one of them at the edge of the image
            top, left = rng.integers(0, 8, 2).tolist()
            mask[top : top + int(rng.integers(6, 12)), left : left + int(rng.integers(6, 12))] = (
                True
            )
        mask[: int(rng.integers(8, 12)), : int(rng.integers(8, 12))] = True
        cases.append({"mask": mask, "distance": distance})
    return cases


def boundary_inputs(rng):
    cases = []
    for scene in (plain_scene, plain_scene, void_scene, void_scene, crowd_scene):
        drawn = scene(rng)
        drawn.poor_outline()
        drawn.hollow(8, 8)  # IoU 28 / 64: no match
        for _ in range(2):  # IoU 16 / 25 to 22 / 40: matches whose boundary IoU is larger
            drawn.hollow(5, int(rng.integers(5, 9)))
        cases.append(
            {
                "prediction": drawn.prediction.astype(np.int64),
                "truth": drawn.truth.astype(np.int64),
                "prediction_segments": drawn.segments["prediction"],
                "truth_segments": drawn.segments["truth"],
                "num_classes": CLASSES,
                "distance": int(rng.integers(1, 3)),
            }
        )
    return cases


def doubtful_inputs(rng):
    """Cases in which no simple rule is right, and each gives something else."""
    cases = []
    while len(cases) < 6:
        tp, fp, fn = rng.integers([1, 0, 0], [5, 4, 4]).tolist()
        counts = [float(tp * rng.uniform(0.6, 0.9)), tp, fp, fn]
        objects = [
            (float(a), float(s))
            for a, s in zip(rng.uniform(0.03, 0.95, 8), rng.uniform(0.55, 0.95, 8), strict=True)
        ]
        case = {"counts": counts, "objects": objects}
        answers = [
            right_choice(**case),
            by_rule(**case),
            not_missed(**case),
            not_missed(**case, cost=0.5),
            [a > 0.5 for a, _ in objects],
            [True] * 8,
            [False] * 8,
        ]
        values = sorted((value_of(chosen, **case) for chosen in prefixes(objects)), reverse=True)
        if len(set(map(tuple, answers))) == len(answers) and values[0] > values[1] + 1e-6:
            cases.append(case)
    return cases


# The references count with masks and weights, pixel by pixel. Each option is a mistake.


def right_overlaps(maps, pieces=False, bits=64, **_):
    prediction, truth, weights = maps
    p_ids, g_ids = np.unique(prediction).tolist(), np.unique(truth).tolist()
    table = np.array(
        [[weights[(prediction == p) & (truth == g)].sum() for g in g_ids] for p in p_ids]
    )
    table = table.astype(np.int32).astype(np.int64) if bits == 32 else table
    return {"prediction": p_ids, "truth": g_ids, "pixels": table}


def without_zero(**case):
    """Id 0 is left out."""
    found = right_overlaps(**case)
    rows, columns = ([i != 0 for i in found[k]] for k in ("prediction", "truth"))
    return {
        "prediction": [i for i in found["prediction"] if i],
        "truth": [i for i in found["truth"] if i],
        "pixels": found["pixels"][rows][:, columns],
    }


def pieces_counted(prediction, truth, maps):
    """The number of pieces instead of their pixels."""
    found = right_overlaps(maps)
    ends_p, ends_g = np.cumsum(prediction[:, 1]), np.cumsum(truth[:, 1])
    pixels = np.zeros_like(found["pixels"])
    for end in np.union1d(ends_p, ends_g):
        p, g = (
            runs[np.searchsorted(ends, end), 0]
            for runs, ends in ((prediction, ends_p), (truth, ends_g))
        )
        pixels[found["prediction"].index(p), found["truth"].index(g)] += 1
    return {**found, "pixels": pixels}


def by_whole_runs(prediction, truth, maps):
    """Each run of the prediction is given to the true segment in which it begins."""
    found = right_overlaps(maps)
    pixels, ends, place = np.zeros_like(found["pixels"]), np.cumsum(truth[:, 1]), 0
    for p, length in prediction.tolist():
        g = truth[np.searchsorted(ends, place, side="right"), 0]
        pixels[found["prediction"].index(p), found["truth"].index(g)] += length
        place += length
    return {**found, "pixels": pixels}


def right_counts(
    maps,
    prediction_segments,
    truth_segments,
    num_classes,
    distance=None,
    matched_by=min,
    summed=min,
    at_least=False,
    void_in_union=False,
    crowd_in_union=True,
    undecided_in_union=True,
    excused_by=("void", "crowd"),
    half_excused=False,
    half_of_known=False,
    together=True,
    crowd_missed=False,
    any_crowd=False,
    region=None,
    of_classes=True,
    areas_added=False,
    **_,
):
    prediction, truth, weights = maps[:3]
    counts = np.zeros((num_classes, 4))
    void, matched = truth == 0, set()
    left_out = void & (not void_in_union)
    if not undecided_in_union:
        left_out |= prediction == 0
    if not crowd_in_union:
        left_out |= np.isin(truth, [g["id"] for g in truth_segments if g.get("iscrowd", False)])
    outline = region or right_region
    for g in truth_segments:
        in_g, crowd = truth == g["id"], g.get("iscrowd", False)
        hit = False
        for p in prediction_segments:
            if crowd or (of_classes and p["label"] != g["label"]):
                continue
            in_p = prediction == p["id"]
            iou = edge = ratio(in_p, in_g, left_out, weights, areas_added)
            if distance is not None:
                edge_p, edge_g = outline(in_p, distance), outline(in_g, distance)
                edge = ratio(edge_p, edge_g, left_out, weights, areas_added)
            value = matched_by(iou, edge)
            if value > 0.5 or (at_least and value == 0.5):
                counts[g["label"]] += summed(iou, edge), 1, 0, 0
                matched.add(p["id"])
                hit = True
        if not hit and (crowd_missed or not crowd):
            counts[g["label"], 3] += 1
    for p in prediction_segments:
        if p["id"] in matched:
            continue
        in_p = prediction == p["id"]
        crowds = [
            truth == g["id"]
            for g in truth_segments
            if g.get("iscrowd", False) and (any_crowd or g["label"] == p["label"])
        ]
        excuses = [void] * ("void" in excused_by) + crowds * ("crowd" in excused_by)
        if together and excuses:
            excuses = [np.any(excuses, axis=0)]
        area = weights[in_p & ~(void & half_of_known)].sum()
        shares = [2 * weights[in_p & one].sum() - area for one in excuses]
        if not any(share > 0 or (half_excused and share == 0) for share in shares):
            counts[p["label"], 2] += 1
    return counts


def ratio(in_p, in_g, left_out, weights, areas_added=False):
    shared = int(weights[in_p & in_g].sum())
    union = int(weights[(in_p | in_g) & ~left_out].sum())
    return shared / (union + shared * areas_added)


def the_iou(iou, edge):
    return iou


def the_edge(iou, edge):
    return edge


def right_region(mask, distance):
    """A pixel is inner if the window about it is full; windows leave the image as not full."""
    from scipy.ndimage import minimum_filter

    return mask & ~minimum_filter(mask, 2 * distance + 1, mode="constant", cval=False)


def both_sides(mask, distance):
    """The boundary region reaches outside of the segment."""
    from scipy.ndimage import maximum_filter, minimum_filter

    outer = maximum_filter(mask, 2 * distance + 1, mode="constant", cval=False)
    return outer & ~minimum_filter(mask, 2 * distance + 1, mode="constant", cval=False)


def edge_forgotten(mask, distance):
    from scipy.ndimage import minimum_filter

    return mask & ~minimum_filter(mask, 2 * distance + 1, mode="nearest")


def straight_neighbours(mask, distance):
    """Only rows and columns, no diagonals."""
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask, iterations=distance)


def right_boundary_counts(prediction, truth, **case):
    return right_counts([prediction, truth, np.ones_like(truth)], **case)


def means(counts, isthing, every_class=False, unmatched=0.0):
    rows = []
    for iou, tp, fp, fn in counts:
        size = tp + fp / 2 + fn / 2
        found = [iou / size, iou / tp if tp else unmatched, tp / size] if size else [0.0] * 3
        rows.append(found if size or every_class else [np.nan] * 3)
    rows, things = np.array(rows), np.array(isthing)
    parts = {"all": rows, "things": rows[things], "stuff": rows[~things]}
    return {name: np.nanmean(part, axis=0).tolist() for name, part in parts.items()}


def counts_of_image(image, maps, num_classes):
    parts = {k: image[k] for k in ("prediction_segments", "truth_segments")}
    return right_counts(maps, **parts, num_classes=num_classes)


def right_evaluation(images, num_classes, isthing, maps, **options):
    pairs = zip(images, maps, strict=True)
    counts = sum(counts_of_image(image, one, num_classes) for image, one in pairs)
    return means(counts, isthing, **options)


def mean_of_images(images, num_classes, isthing, maps):
    found = [
        means(counts_of_image(image, one, num_classes), isthing)
        for image, one in zip(images, maps, strict=True)
    ]
    return {k: np.mean([one[k] for one in found], axis=0).tolist() for k in found[0]}


def counted_by_tile(images, num_classes, isthing, maps):
    """Each tile as an image of its own, with the segments that occur in it."""
    counts = 0
    for image, (prediction, truth, weights, (row, column)) in zip(images, maps, strict=True):
        for rows in (slice(row), slice(row, None)):
            for columns in (slice(column), slice(column, None)):
                tile = [part[rows, columns] for part in (prediction, truth, weights)]
                present = {
                    name: [s for s in image[name] if (ids == s["id"]).any()]
                    for name, ids in zip(
                        ("prediction_segments", "truth_segments"), tile[:2], strict=True
                    )
                }
                counts = counts + right_counts(tile, **present, num_classes=num_classes)
    return means(counts, isthing)


def right_stuff(
    images,
    num_classes,
    isthing,
    maps,
    above=0.0,
    void_in_union=False,
    over="truth",
):
    sums, numbers = np.zeros(num_classes), np.zeros(num_classes, int)
    for image, (prediction, truth, weights, _) in zip(images, maps, strict=True):
        of = {
            name: {s["label"]: s["id"] for s in image[f"{name}_segments"]}
            for name in ("truth", "prediction")
        }
        for label in range(num_classes):
            g, p = of["truth"].get(label), of["prediction"].get(label)
            numbers[label] += (
                g is not None
                if over == "truth"
                else g is not None or p is not None
                if over == "either"
                else g is not None and p is not None
            )
            if g is not None and p is not None:
                left_out = (truth == 0) & (not void_in_union)
                iou = ratio(prediction == p, truth == g, left_out, weights)
                sums[label] += iou * (iou > above)
    return [
        float(total / n) if n and not thing else None
        for total, n, thing in zip(sums, numbers.tolist(), isthing, strict=True)
    ]


def prefixes(objects):
    """All choices of the k objects with the largest expected IoU."""
    order = sorted(objects, key=lambda one: -one[0] * one[1])
    return [[one in order[:k] for one in objects] for k in range(len(objects) + 1)]


def value_of(chosen, counts, objects):
    iou, tp, fp, fn = counts
    for drawn, (a, s) in zip(chosen, objects, strict=True):
        if drawn:
            iou, tp, fp, fn = iou + a * s, tp + a, fp + 1 - a, fn + 1 - a
        else:
            fn += 1
    return iou / (tp + fp / 2 + fn / 2)


def right_choice(counts, objects):
    """All subsets are tried."""
    from itertools import product

    return list(
        max(
            product([False, True], repeat=len(objects)),
            key=lambda chosen: value_of(chosen, counts, objects),
        )
    )


def not_missed(counts, objects, cost=1.0):
    """An object that is not drawn is no FN, one that is drawn adds so much to the denominator."""
    iou, tp, fp, fn = counts

    def value(chosen):
        gain = sum(a * s for drawn, (a, s) in zip(chosen, objects, strict=True) if drawn)
        return (iou + gain) / (tp + fp / 2 + fn / 2 + cost * sum(chosen))

    return max(prefixes(objects), key=value)


def by_rule(counts, objects):
    """The rule for one object, with the PQ while nothing is drawn."""
    before = value_of([False] * len(objects), counts, objects)
    return [a * s > before / 2 for a, s in objects]


def instead(function, **options):
    """The function with options that make it a mistake."""
    return lambda **case: function(**case, **options)


EXACT = Tolerance(rtol=1e-9, atol=1e-9)
LEFT_OUT = Mistake(
    "Is 0 among the ids that occur in a map?",
    without_zero,
)
HALF = Mistake(
    "What does the task say about an IoU of exactly one half?", instead(right_counts, at_least=True)
)
UNION = Mistake(
    "What is the IoU of a segment with itself? Write the union as areas minus what is counted twice.",
    instead(right_counts, areas_added=True),
)
CLASS = Mistake(
    "May two segments of different classes match?", instead(right_counts, of_classes=False)
)

ASSIGNMENT = Assignment(
    title="Panoptic quality",
    minutes=120,
    probes=[
        Probe(
            "overlaps-small",
            "overlaps",
            "overlaps",
            1,
            overlap_inputs(False),
            right_overlaps,
            hidden=("maps",),
            mistakes=(
                LEFT_OUT,
                Mistake("How many pixels does a piece between two ends have?", pieces_counted),
                Mistake(
                    "What if a run of the prediction reaches over several segments of the truth?",
                    by_whole_runs,
                ),
            ),
        ),
        Probe(
            "overlaps-large",
            "overlaps",
            "overlaps",
            2,
            overlap_inputs(True),
            right_overlaps,
            hidden=("maps",),
            hint="The maps have about 10^13 pixels: work with the ends of the runs, never with the pixels.",
            mistakes=(
                Mistake(
                    "How large may a number of the type be in which you count?",
                    instead(right_overlaps, bits=32),
                ),
                LEFT_OUT,
                Mistake(
                    "What if a run of the prediction reaches over several segments of the truth?",
                    by_whole_runs,
                ),
            ),
        ),
        Probe(
            "plain",
            "counting",
            "count",
            2,
            counting_inputs(plain_scene),
            right_counts,
            EXACT,
            hidden=("maps",),
            mistakes=(
                HALF,
                UNION,
                CLASS,
                Mistake(
                    "Do the pixels of a true segment that are undecided in the prediction belong to the union?",
                    instead(right_counts, undecided_in_union=False),
                ),
            ),
        ),
        Probe(
            "void",
            "counting",
            "count",
            2,
            counting_inputs(void_scene),
            right_counts,
            EXACT,
            hidden=("maps",),
            hint="If the plain cases are right: look at the union, and at predictions that lie on void.",
            mistakes=(
                Mistake(
                    "Which pixels of a prediction belong to the union when it reaches into void?",
                    instead(right_counts, void_in_union=True),
                ),
                Mistake(
                    "What becomes of an unmatched prediction that lies on void?",
                    instead(right_counts, excused_by=("crowd",)),
                ),
                Mistake(
                    "Is a prediction excused that lies with exactly half of its pixels on void?",
                    instead(right_counts, half_excused=True),
                ),
                Mistake(
                    "More than half of which pixels of a prediction have to lie on void?",
                    instead(right_counts, half_of_known=True),
                ),
                HALF,
            ),
        ),
        Probe(
            "crowd",
            "counting",
            "count",
            2,
            counting_inputs(crowd_scene),
            right_counts,
            EXACT,
            hidden=("maps",),
            hint="If the plain cases are right: follow one crowd through the three rules.",
            mistakes=(
                Mistake("Can a crowd be missed?", instead(right_counts, crowd_missed=True)),
                Mistake(
                    "A match reaches into a crowd: do these pixels belong to the union?",
                    instead(right_counts, crowd_in_union=False),
                ),
                Mistake(
                    "Does a crowd of people excuse a car that lies on it?",
                    instead(right_counts, any_crowd=True),
                ),
                Mistake(
                    "A prediction lies with a third of its pixels on void and with a third on the crowd of its class: is it excused?",
                    instead(right_counts, together=False),
                ),
                Mistake(
                    "What becomes of an unmatched prediction that lies on a crowd of its class?",
                    instead(right_counts, excused_by=("void",)),
                ),
                Mistake(
                    "Is a prediction excused that lies with exactly half of its pixels on a crowd?",
                    instead(right_counts, half_excused=True),
                ),
                HALF,
            ),
        ),
        Probe(
            "images",
            "evaluate",
            "evaluate",
            2,
            image_inputs(
                [plain_scene, plain_scene, plain_scene],
                [plain_scene, plain_scene, missed_stuff_scene],
                [invented_stuff_scene, plain_scene, plain_scene],
            ),
            right_evaluation,
            EXACT,
            hidden=("maps",),
            mistakes=(
                Mistake(
                    "One segment lies in two tiles. How many segments may it count as?",
                    counted_by_tile,
                ),
                Mistake(
                    "What is summed over the images before it is divided? Look at the last public check.",
                    mean_of_images,
                ),
                Mistake(
                    "Which classes take part in the mean?",
                    instead(right_evaluation, every_class=True),
                ),
                Mistake(
                    "What is the SQ of a class without any match, and is it in the mean?",
                    instead(right_evaluation, unmatched=np.nan),
                ),
            ),
        ),
        Probe(
            "stuff",
            "stuff",
            "stuff_quality",
            2,
            image_inputs(*[[stuff_scene, stuff_scene, stuff_scene]] * 3),
            right_stuff,
            EXACT,
            hidden=("maps",),
            hint="Check the IoU of one image by hand, then by how many images the sum is divided.",
            mistakes=(
                Mistake(
                    "What does an image count in which the two segments of a class have an IoU of 0.4?",
                    instead(right_stuff, above=0.5),
                ),
                Mistake(
                    "Which images are counted in n: what if the class is in the prediction alone?",
                    instead(right_stuff, over="either"),
                ),
                Mistake(
                    "Which images are counted in n: what if the class is in the truth alone?",
                    instead(right_stuff, over="both"),
                ),
                Mistake(
                    "Which pixels of a prediction belong to the union when it reaches into void?",
                    instead(right_stuff, void_in_union=True),
                ),
            ),
        ),
        Probe(
            "region",
            "boundary",
            "boundary_region",
            1,
            region_inputs,
            right_region,
            mistakes=(
                Mistake("Does the region contain pixels that are not in the segment?", both_sides),
                Mistake("What lies beyond the edge of the image?", edge_forgotten),
                Mistake(
                    "Is the diagonal neighbour of a pixel one row and one column away, or two steps?",
                    straight_neighbours,
                ),
            ),
        ),
        Probe(
            "boundary-counts",
            "boundary",
            "boundary_count",
            2,
            boundary_inputs,
            right_boundary_counts,
            EXACT,
            hint="Compute the two IoU of one pair of segments by hand, and then what is excused.",
            mistakes=(
                Mistake(
                    "Which of the two numbers counts when the boundary IoU is larger than the IoU?",
                    instead(right_boundary_counts, matched_by=the_edge, summed=the_edge),
                ),
                Mistake(
                    "Which of the two numbers goes into the sum of a match?",
                    instead(right_boundary_counts, summed=the_edge),
                ),
                Mistake(
                    "Which of the two numbers goes into the sum when the boundary IoU is the smaller one?",
                    instead(right_boundary_counts, summed=the_iou),
                ),
                Mistake(
                    "Does a match with a poor outline still count?",
                    instead(right_boundary_counts, matched_by=the_iou),
                ),
                Mistake(
                    "Does the outline of a match count for anything?",
                    instead(right_boundary_counts, matched_by=the_iou, summed=the_iou),
                ),
                Mistake(
                    "Does the boundary region contain pixels that are not in the segment?",
                    instead(right_boundary_counts, region=both_sides),
                ),
                Mistake(
                    "Which pixels of the predicted boundary region belong to the union when it reaches into void?",
                    instead(right_boundary_counts, void_in_union=True),
                ),
            ),
        ),
        Probe(
            "draw",
            "draw",
            "worth_drawing",
            2,
            doubtful_inputs,
            right_choice,
            hint="Compute the PQ of all choices for two or three objects and look at the best one.",
            mistakes=(
                Mistake("Is the PQ still the same once the best objects have been drawn?", by_rule),
                Mistake("What is an object that is not drawn?", not_missed),
                Mistake("What are the objects that are not drawn?", instead(not_missed, cost=0.5)),
                Mistake(
                    "Is a probability above one half what counts? The IoU matters as well, and so does the PQ of the class.",
                    lambda counts, objects: [a > 0.5 for a, _ in objects],
                ),
                Mistake(
                    "What does a drawn object cost that does not match?",
                    lambda counts, objects: [True] * len(objects),
                ),
            ),
        ),
    ],
    questions=[
        Question(
            "thresholds",
            2,
            "Half: (a) yes, the smaller one above one half implies IoU above one half. 1: (b) yes, boundary regions are "
            "subsets of disjoint segments and so disjoint themselves (half a point for yes with a vague reason). "
            "Half: (c) at most one segment of a stuff class in each map of an image, so the class is the match.",
        ),
    ],
    # What labkit's PanopticQuality is made of: with these it raises, too.
    forbidden=(
        "labkit.metrics.panoptic_matching.find_overlaps",
        "labkit.metrics.panoptic_matching.count_pairs",
        "labkit.metrics.panoptic_matching.pixels_on_void",
        "labkit.metrics.panoptic_matching.pixels_on_crowd",
        "labkit.metrics.panoptic_matching.match_segments",
        "labkit.metrics.panoptic_matching.count_matches",
        "labkit.metrics.panoptic_matching.summarize",
        "panopticapi.evaluation.pq_compute",
        "panopticapi.evaluation.pq_compute_single_core",
        "panopticapi.evaluation.PQStat",
    ),
    limits=Limits(cell_seconds=180, total_seconds=600),
)
