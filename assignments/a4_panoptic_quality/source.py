# %% [markdown]
# # Assignment 4. Panoptic quality
#
# A panoptic map gives every pixel one segment. You write the number that says how good such a map
# is, from the definition, with everything that makes it hard in practice: pixels that nobody
# labelled (*void*) and crowds that nobody separated. The lecture's optional homework, "implement
# the panoptic quality metric", is this.
#
# **Before you begin:** notebook 6. **Time:** about two hours. **Points:** 20, of which 16 are
# computed and 4 are for two questions.
#
# | exercise | points |
# | --- | --- |
# | 1 ids from colours | 1 |
# | 2 matching: plain pictures, with void | 2 + 2 |
# | 3 counting: plain pictures, with void, with crowds | 2 + 2 + 3 |
# | 4 from counts to PQ, SQ and RQ | 2 |
# | 5 many pictures | 2 |
# | questions | 2 + 2 |
#
# Your functions will be called on other maps than those below, drawn anew for every submission.
# Speed is not graded; a loop over segments is fine. Panoptic quality is to be written, so what
# labkit and panopticapi have for it may not be called in your answers. The cells with checks may,
# and do.
#
# **Conventions.** A map is an array `(H, W)` of ids, one for each segment. Beside it stands the
# list of its segments, a dictionary each:
#
# - `"id"`: its value in the map, positive;
# - `"label"`: its class, `0 .. num_classes - 1`;
# - `"iscrowd"`: in true maps only, whether it is a crowd. A class has at most one crowd in a
#   picture.
#
# Pixels with id 0 belong to no segment: in the truth they are void, in a prediction undecided.

# %% tags=["setup"]
import numpy as np

from labkit.checks import Checks, equal, has_shape

VOID = 0

# %% [markdown]
# A few tiny maps to look at and to check with, written with a digit a pixel.

# %% tags=["setup"]
SQUARE, CIRCLE, SKY, SEA = 0, 1, 2, 3


def tiny(rows):
    """A map from words of digits."""
    return np.array([[int(digit) for digit in row] for row in rows.split()], dtype=np.int32)


def listed(labels, crowd=()):
    """A list of segments from {id: label} and the ids of the crowds."""
    return [{"id": i, "label": c, "iscrowd": i in crowd} for i, c in labels.items()]


truth = tiny("33333333 31113223 31113223 33333333")
guess = tiny("77777777 75577677 75577677 77777777")
truth_segments = listed({1: SQUARE, 2: SQUARE, 3: SKY})
guess_segments = [{"id": i, "label": c} for i, c in {5: SQUARE, 6: SQUARE, 7: SKY}.items()]

# %% [markdown]
# ## Exercise 1. Ids from colours (1 point)
#
# On disk the ids are the colours of a PNG: $\text{id} = R + 256\,G + 65536\,B$.


# %% exercise="ids"
def ids_of(rgb):
    """The ids of a panoptic PNG.

    Args:
        rgb: (H, W, 3) uint8, red first.

    Returns:
        (H, W) integers.
    """
    # BEGIN SOLUTION
    red, green, blue = np.moveaxis(rgb.astype(np.int64), -1, 0)
    return red + 256 * green + 65536 * blue
    # END SOLUTION


# %% tags=["check"]
colours = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [44, 21, 60]]], np.uint8)

check = Checks("Exercise 1")
with check("one id for each pixel"):
    has_shape(np.asarray(ids_of(colours)), (2, 2))
with check("red counts once"):
    equal(ids_of(colours)[0][0], 1)
with check("256 times a byte is no byte any more: widen the numbers first"):
    equal(ids_of(colours)[0][1], 256)
with check("all four"):
    equal(ids_of(colours), [[1, 256], [65536, 3_937_580]])
check.report()

# %% [markdown]
# ## Exercise 2. Matching (2 + 2 points)
#
# A predicted and a true segment of *one class* match when their intersection over union is *above*
# one half. Void pixels of the truth speak neither for nor against a prediction: they are left out
# of the union. A crowd never matches. (Of a list without `"iscrowd"` you may assume that there is
# none; `segment.get("iscrowd", False)` says so in Python.)


# %% exercise="matching"
def match(prediction, truth, prediction_segments, truth_segments):
    """The pairs of segments that match.

    Args:
        prediction: (H, W) ids.
        truth: (H, W) ids, 0 is void.
        prediction_segments, truth_segments: the segments of the two maps.

    Returns:
        A list of pairs [id in the prediction, id in the truth], in ascending order of the first.
    """
    # BEGIN SOLUTION
    return [
        [p, g]
        for p, g, _ in sorted(matches(prediction, truth, prediction_segments, truth_segments))
    ]


def matches(prediction, truth, prediction_segments, truth_segments):
    found = []
    labelled = truth != VOID
    for g in truth_segments:
        for p in prediction_segments:
            if p["label"] != g["label"] or g.get("iscrowd", False):
                continue
            in_p, in_g = (prediction == p["id"]) & labelled, truth == g["id"]
            iou = (in_p & in_g).sum() / (in_p | in_g).sum()
            if iou > 0.5:
                found.append((p["id"], g["id"], iou))
    return found
    # END SOLUTION


# %% [markdown]
# By hand: the left square has 6 pixels, of which 4 are predicted, IoU 4/6; of the right one's 4
# pixels 2 are predicted, IoU exactly one half, which is not above it; the sky has 22 of 26.


# %% tags=["check"]
def pairs_of(*arguments):
    """What `match` returns, as a list of lists of plain numbers."""
    return [list(map(int, pair)) for pair in match(*arguments)]


# Four pixels of a square are labelled, and four beside them are void.
with_void = tiny("11003 11003")
wide = tiny("44445 44445")

check = Checks("Exercise 2")
with check("2 of 4 pixels is one half, and one half is not above one half"):
    found = pairs_of(guess, truth, guess_segments, truth_segments)
    assert [6, 2] not in found, f"got {found}, with [6, 2]"
with check("the left square and the sky"):
    equal(pairs_of(guess, truth, guess_segments, truth_segments), [[5, 1], [7, 3]])
with check("sea does not match sky, however well it fits"):
    swapped = [{**s, "label": SEA if s["label"] == SKY else s["label"]} for s in guess_segments]
    equal(pairs_of(guess, truth, swapped, truth_segments), [[5, 1]])
with check("void is left out of the union: the square has 4 pixels then, all of them right"):
    found = listed({4: SQUARE, 5: SKY}), listed({1: SQUARE, 3: SKY})
    equal(pairs_of(wide, with_void, *found), [[4, 1], [5, 3]])
with check("a crowd never matches"):
    crowded = listed({1: SQUARE, 3: SKY}, crowd=[1])
    equal(pairs_of(wide, with_void, listed({4: SQUARE, 5: SKY}), crowded), [[5, 3]])
check.report()

# %% [markdown]
# ## Exercise 3. Counting (2 + 2 + 3 points)
#
# What matched are true positives. The other true segments are false negatives, the other predicted
# ones false positives, with three exceptions:
#
# - a **crowd** is not missed: no false negative;
# - a prediction that lies for *more than half* of its pixels on **void** is excused: no false
#   positive;
# - so is one that lies for more than half of its pixels on void *or the crowd of its own class*,
#   both together. A crowd of another class is no excuse.


# %% exercise="counting"
def count(prediction, truth, prediction_segments, truth_segments, num_classes):
    """What the pictures' quality is made of.

    Args:
        prediction, truth, prediction_segments, truth_segments: as in exercise 2.
        num_classes: how many classes there are.

    Returns:
        (num_classes, 4) floats, for each class: the sum of the IoU of the matches, and the numbers
        of true positives, false positives and false negatives, in this order.
    """
    # BEGIN SOLUTION
    counts = np.zeros((num_classes, 4))
    label_of = {s["id"]: s["label"] for s in truth_segments}
    found = matches(prediction, truth, prediction_segments, truth_segments)
    for _, g, iou in found:
        counts[label_of[g]] += iou, 1, 0, 0
    matched_p, matched_g = {p for p, _, _ in found}, {g for _, g, _ in found}
    for g in truth_segments:
        if g["id"] not in matched_g and not g.get("iscrowd", False):
            counts[g["label"], 3] += 1
    for p in prediction_segments:
        if p["id"] in matched_p:
            continue
        excuse = truth == VOID
        for g in truth_segments:
            if g.get("iscrowd", False) and g["label"] == p["label"]:
                excuse = excuse | (truth == g["id"])
        in_p = prediction == p["id"]
        if (in_p & excuse).sum() <= in_p.sum() / 2:
            counts[p["label"], 2] += 1
    return counts
    # END SOLUTION


# %% [markdown]
# On the example above: squares have one match with IoU 4/6, one FP and one FN; the sky one match
# with 22/26. Then a truth whose left half is void and, of the same shape, one whose left half is a
# crowd.


# %% tags=["check"]
def counts_of(prediction, truth, *segments):
    """What `count` returns, as an array."""
    found = np.asarray(count(prediction, truth, *segments, 4), float)
    has_shape(found, (4, 4))  # 4 classes, 4 numbers
    return found


half_void = tiny("00003333 00003333")
half_crowd = tiny("55553333 55553333")
three = tiny("44422333 11122333")  # 1 and 4 on the void or crowd, 2 half of it
segments = listed({1: SQUARE, 4: CIRCLE, 2: SQUARE, 3: SKY})
in_void = half_void, segments, listed({3: SKY})
in_crowd = half_crowd, segments, listed({5: SQUARE, 3: SKY}, crowd=[5])

check = Checks("Exercise 3")
with check("squares: one of two found"):
    found = counts_of(guess, truth, guess_segments, truth_segments)
    equal(found[SQUARE], [4 / 6, 1, 1, 1], within=1e-6)
with check("sky: found"):
    found = counts_of(guess, truth, guess_segments, truth_segments)
    equal(found[SKY], [22 / 26, 1, 0, 0], within=1e-6)
with check("classes that do not occur have zeros"):
    equal(counts_of(guess, truth, guess_segments, truth_segments)[[CIRCLE, SEA]], [[0] * 4] * 2)
with check("a prediction on void is excused: nobody knows what is there"):
    equal(counts_of(three, *in_void)[CIRCLE, 2], 0)
with check("of the two squares one lies on void; half of the other is not more than half"):
    equal(counts_of(three, *in_void)[SQUARE, 2], 1)
with check("sky beside void: 6 of 8 pixels"):
    equal(counts_of(three, *in_void)[SKY], [0.75, 1, 0, 0], within=1e-6)
with check("a crowd is not missed"):
    equal(counts_of(three, *in_crowd)[SQUARE, 3], 0)
with check("a square on a crowd of squares is excused, one that is half on it is not"):
    equal(counts_of(three, *in_crowd)[SQUARE, 2], 1)
with check("a crowd of squares does not excuse a circle"):
    equal(counts_of(three, *in_crowd)[CIRCLE, 2], 1)
check.report()

# %% [markdown]
# ## Exercise 4. From counts to quality (2 points)
#
# For a class
#
# $$\mathrm{PQ} = \frac{\sum \mathrm{IoU}}{TP + \frac12 FP + \frac12 FN}, \qquad
# \mathrm{SQ} = \frac{\sum \mathrm{IoU}}{TP}, \qquad
# \mathrm{RQ} = \frac{TP}{TP + \frac12 FP + \frac12 FN} .$$
#
# Without any match all three are 0. The result is the mean over the classes *that occur*, which are
# those with at least one TP, FP or FN; once over all of them, once over the things, once over the
# stuff.


# %% exercise="quality"
def quality(counts, isthing):
    """PQ, SQ and RQ from the counts of a whole data set.

    Args:
        counts: (num_classes, 4) as in exercise 3; at least one thing and one stuff class occur.
        isthing: a list of num_classes truth values.

    Returns:
        {"all": [PQ, SQ, RQ], "things": [PQ, SQ, RQ], "stuff": [PQ, SQ, RQ]}, numbers in 0..1.
    """
    # BEGIN SOLUTION
    rows = {"all": [], "things": [], "stuff": []}
    for (iou, tp, fp, fn), thing in zip(np.asarray(counts).tolist(), isthing, strict=True):
        size = tp + fp / 2 + fn / 2
        if size == 0:
            continue
        row = [iou / size, iou / tp if tp else 0.0, tp / size]
        rows["all"].append(row)
        rows["things" if thing else "stuff"].append(row)
    return {name: np.mean(values, axis=0).tolist() for name, values in rows.items()}
    # END SOLUTION


# %% tags=["check"]
isthing = [True, True, False, False]
table = np.array([[4 / 6, 1, 1, 1], [0, 0, 0, 0], [22 / 26, 1, 0, 0], [0, 0, 2, 0]])

check = Checks("Exercise 4")
with check("the keys are all, things and stuff"):
    equal(set(quality(table, isthing)), {"all", "things", "stuff"})
with check("things: circles do not occur and take no part in the mean"):
    equal(quality(table, isthing)["things"], [1 / 3, 2 / 3, 1 / 2], within=1e-6)
with check("stuff: the sea was only invented; it occurs, with three zeros"):
    equal(quality(table, isthing)["stuff"], [11 / 26, 11 / 26, 1 / 2], within=1e-6)
with check("all: squares, sky and sea"):
    equal(quality(table, isthing)["all"][0], (1 / 3 + 22 / 26) / 3, within=1e-6)
check.report()

# %% [markdown]
# ## Exercise 5. Many pictures (2 points)
#
# The quality of a data set is *not* the mean over its pictures. The counts are summed over all
# pictures first.


# %% exercise="dataset"
def evaluate(pictures, num_classes, isthing):
    """PQ, SQ and RQ of a data set.

    Args:
        pictures: a list of dictionaries with the arguments of `count`: "prediction", "truth",
            "prediction_segments", "truth_segments".
        num_classes: how many classes there are.
        isthing: a list of num_classes truth values.

    Returns:
        As in exercise 4.
    """
    # BEGIN SOLUTION
    counts = sum(count(**picture, num_classes=num_classes) for picture in pictures)
    return quality(counts, isthing)
    # END SOLUTION


# %% [markdown]
# The reference: labkit's own on drawn pictures that were spoilt a little.

# %% tags=["check"]
from labkit.datasets.shapes import Shapes
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.structures import Panoptic

shapes = Shapes("val", num=8)
reference, pictures = PanopticQuality(Shapes.categories), []
for number, (_, target) in enumerate(shapes):
    true = target["panoptic"]
    moved = Panoptic(true.ids.roll(2 + number, 1), true.segments)
    reference.update(moved, true)
    as_dicts = [{"id": s.id, "label": s.label, "iscrowd": s.iscrowd} for s in true.segments]
    pictures.append(
        {
            "prediction": moved.ids.numpy(),
            "truth": true.ids.numpy(),
            "prediction_segments": as_dicts,
            "truth_segments": as_dicts,
        }
    )
isthing = [category.isthing for category in Shapes.categories]
theirs = reference.compute()

check = Checks("Exercise 5, beside labkit: sum the counts over the pictures, then divide")
for name in ("all", "things", "stuff"):
    with check(f"PQ, SQ and RQ of {name}"):
        expected = [getattr(getattr(theirs, name), what) for what in ("pq", "sq", "rq")]
        equal(evaluate(pictures, len(isthing), isthing)[name], expected, within=1e-6)
check.report()

# %% [markdown]
# ## Question 1. Why one half? (2 points)
#
# Why can a segment never have two partners with an IoU above one half? Say what would change, and
# why, if segments of one map were allowed to overlap, as the masks of an instance segmentation are.

# %% [markdown] question="theorem"
# <!-- BEGIN SOLUTION -->
# IoU(p, g) > 1/2 means that p and g share more than half of their union, and the union is at least
# as large as g. So p covers more than half of g. A second predicted segment with the same property
# would also cover more than half of g; but segments do not overlap, so the two shares lie side by
# side in g and together would be more than g. The same with the roles exchanged. If segments may
# overlap the two shares can be the same pixels: two nearly equal masks of one object both have an
# IoU near 1, and one needs a rule (scores, an assignment) that says which one is the match.
# <!-- END SOLUTION -->

# %% [markdown]
# ## Question 2. What the number rewards (2 points)
#
# A network is unsure about an object: it would match with probability 0.4, and then with IoU 0.8;
# the PQ of the class without it is 0.5. Should it draw the object? Work it out for a class with
# many segments, and say in a sentence what that means for the score threshold of a merge.

# %% [markdown] question="threshold"
# <!-- BEGIN SOLUTION -->
# Left out, the object is a FN and adds 1/2 to the denominator. Drawn, it is a TP (1 in the
# denominator, IoU in the numerator) or FP and FN (1/2 + 1/2 = 1). So drawing adds 1/2 to the
# denominator in any case and 0.4 · 0.8 = 0.32 to the numerator on average. With many segments the
# quotient grows if what is added has a larger quotient than the rest: 0.32 / 0.5 = 0.64 > 0.5. Yes,
# draw it: it pays as long as probability · IoU > PQ / 2. The better a class already is, the higher
# the threshold should be.
# <!-- END SOLUTION -->

# %% tags=["probes"]
import numpy as np

CLASSES, THINGS, BLOCK, COLUMNS, ROWS = 6, 4, 10, 6, 4
ISTHING = [True] * THINGS + [False] * (CLASSES - THINGS)


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
        ground = THINGS + int(rng.integers(CLASSES - THINGS))
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

    def half_on_void(self):
        where = self.block()
        self.paint("truth", 0, where, 0, 0, 8, 4)
        self.paint(
            "prediction",
            self.new("prediction", self.thing()),
            where,
            0,
            0,
            int(self.rng.integers(3, 9)),
            8,
        )

    def undecided(self):
        self.paint("prediction", 0, self.block(), 0, 0, 4, 4)

    def crowd(self, label):
        """A crowd in two blocks: predictions of its class are excused, one of another is not."""
        crowd = self.new("truth", label, iscrowd=True)
        first, second, third = self.block(), self.block(), self.block()
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

    def lone_crowd(self, label):
        """A crowd that one prediction covers exactly: no match all the same."""
        where = self.block()
        self.paint("truth", self.new("truth", label, iscrowd=True), where, 0, 0, 7, 7)
        self.paint("prediction", self.new("prediction", label), where, 0, 0, 7, 7)

    def half_on_crowd(self, label):
        where = self.block()
        self.paint("truth", self.new("truth", label, iscrowd=True), where, 0, 0, 8, 4)
        self.paint("prediction", self.new("prediction", label), where, 0, 0, 6, 8)

    def case(self):
        return {
            "prediction": self.prediction,
            "truth": self.truth,
            "prediction_segments": self.segments["prediction"],
            "truth_segments": self.segments["truth"],
        }


def plain_scene(rng):
    scene = Scene(rng)
    for event in ("hit", "hit", "hit", "half", "missed", "invented", "confused", "undecided"):
        getattr(scene, event)()
    return scene


def void_scene(rng):
    scene = plain_scene(rng)
    for event in ("saved_by_void", "saved_by_void", "excused_by_void", "half_on_void"):
        getattr(scene, event)()
    return scene


def crowd_scene(rng):
    scene = plain_scene(rng)
    first, second, third = rng.permutation(THINGS)[:3].tolist()
    scene.crowd(first)
    scene.lone_crowd(second)
    scene.half_on_crowd(third)
    return scene


def matching_inputs(scene):
    return lambda rng: [scene(rng).case() for _ in range(6)]


def counting_inputs(scene):
    return lambda rng: [{**scene(rng).case(), "num_classes": CLASSES} for _ in range(6)]


def colour_inputs(rng):
    return [
        {"rgb": rng.integers(0, 256, (int(n), 7, 3), dtype=np.uint8)}
        for n in rng.integers(3, 20, 3)
    ]


def quality_inputs(rng):
    cases = []
    for _ in range(5):
        numbers = rng.integers(0, 9, (CLASSES, 3)) + 1
        numbers[int(rng.integers(THINGS))] = 0  # a class that does not occur
        numbers[THINGS, 0] = 0  # one without a match
        table = np.concatenate(
            [numbers[:, :1] * rng.uniform(0.55, 1, (CLASSES, 1)), numbers], axis=1
        )
        cases.append({"counts": table, "isthing": ISTHING})
    return cases


def dataset_inputs(rng):
    return [
        {
            "pictures": [plain_scene(rng).case() for _ in range(3)],
            "num_classes": CLASSES,
            "isthing": ISTHING,
        }
        for _ in range(3)
    ]


def as_panoptic(ids, entries):
    import torch

    from labkit.structures import Panoptic, Segment

    segments = [Segment(s["id"], s["label"], iscrowd=s.get("iscrowd", False)) for s in entries]
    return Panoptic(torch.from_numpy(ids), segments)


def categories():
    from labkit.structures import Categories, Category

    return Categories(Category(i + 1, f"class {i}", thing) for i, thing in enumerate(ISTHING))


def right_colours(rgb):
    from labkit.datasets.coco.panoptic_png import rgb_to_id

    return rgb_to_id(rgb)


def right_matches(prediction, truth, prediction_segments, truth_segments):
    from labkit.metrics.panoptic_quality import match_panoptic

    guess, true = as_panoptic(prediction, prediction_segments), as_panoptic(truth, truth_segments)
    found = match_panoptic(guess, true, categories())
    rows = zip(found.prediction.tolist(), found.target.tolist(), strict=True)
    return np.array(sorted([guess.segments[p].id, true.segments[g].id] for p, g in rows))


def measured(pictures):
    from labkit.metrics.panoptic_quality import PanopticQuality

    metric = PanopticQuality(categories())
    for one in pictures:
        guess = as_panoptic(one["prediction"], one["prediction_segments"])
        metric.update(guess, as_panoptic(one["truth"], one["truth_segments"]))
    return metric


def right_counts(num_classes, **picture):
    return measured([picture]).counts


def means(result):
    return {
        k: [getattr(getattr(result, k), n) for n in ("pq", "sq", "rq")]
        for k in ("all", "things", "stuff")
    }


def right_quality(counts, isthing):
    from labkit.metrics.panoptic_matching import summarize

    return means(summarize(counts, ((i, str(i), thing) for i, thing in enumerate(isthing))))


def right_evaluation(pictures, num_classes, isthing):
    return means(measured(pictures).compute())


ASSIGNMENT = Assignment(
    title="Panoptic quality",
    minutes=120,
    probes=[
        Probe("ids", "ids", "ids_of", 1, colour_inputs, right_colours, partial=False),
        Probe(
            "matching-plain", "matching", "match", 2, matching_inputs(plain_scene), right_matches
        ),
        Probe("matching-void", "matching", "match", 2, matching_inputs(void_scene), right_matches),
        Probe("counting-plain", "counting", "count", 2, counting_inputs(plain_scene), right_counts),
        Probe("counting-void", "counting", "count", 2, counting_inputs(void_scene), right_counts),
        Probe("counting-crowd", "counting", "count", 3, counting_inputs(crowd_scene), right_counts),
        Probe("quality", "quality", "quality", 2, quality_inputs, right_quality),
        Probe("dataset", "dataset", "evaluate", 2, dataset_inputs, right_evaluation),
    ],
    questions=[
        Question(
            "theorem",
            2,
            "1: IoU above one half means more than half of g (and of p) is shared, and two such shares, being "
            "disjoint, do not fit into g. 1: with overlapping masks the shares may be the same pixels; a "
            "segment may then have several partners, and scores or an assignment have to choose. Half a "
            "point off if the strict inequality is contradicted.",
        ),
        Question(
            "threshold",
            2,
            "1: the calculation: drawing adds 1/2 to the denominator in any case (FN 1/2 becomes TP 1 or "
            "FP + FN 1) and 0.32 on average to the numerator; 0.64 > 0.5, so draw. 1: the conclusion: it pays "
            "when probability x IoU exceeds PQ / 2, so the threshold should rise with the quality of the class. "
            "A right conclusion from a slip in the arithmetic keeps its point.",
        ),
    ],
    # What labkit's PanopticQuality is made of: with these it raises, too.
    forbidden=(
        "labkit.metrics.panoptic_matching.match_segments",
        "labkit.metrics.panoptic_matching.count_matches",
        "labkit.metrics.panoptic_matching.summarize",
        "panopticapi.evaluation.pq_compute",
        "panopticapi.evaluation.pq_compute_single_core",
    ),
    limits=Limits(cell_seconds=180, total_seconds=600),
)
