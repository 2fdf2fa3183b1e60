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
# # 9. Your own data
#
# **The question.** You have a folder of photographs and a folder of masks that somebody painted. What
# lies between them and a panoptic model that works on your pictures?
#
# By the end you have turned masks into polygons and into run-length code yourself and counted the
# pixels that the usual recipe gets wrong, written COCO's files and checked them pixel by pixel,
# planted mistakes and seen which of them a program can find, trained a semantic and a panoptic model,
# and measured what bad labels cost. Last, the same data goes to Detectron2, past its pitfalls.
#
# You need: notebook 1 for IoU, notebook 4 for Panoptic FPN, notebook 6 for the panoptic format and PQ.

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: minutes; full: a GPU
seed: int = 0

# %%
# %matplotlib inline
import contextlib
import importlib.util
import io
import json
import shlex
import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml
from IPython.display import Image, display
from matplotlib.colors import ListedColormap
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision.transforms import v2

import labkit
from labkit.checkpoints.run_folder import start_from
from labkit.cli.commands import app
from labkit.colors import PETROFF_10
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.coco.panoptic_png import read_png
from labkit.datasets.masks.mask_categories import read_mask_categories
from labkit.datasets.masks.mask_folder import MaskFolder
from labkit.datasets.masks.mask_to_polygons import mask_to_polygons
from labkit.datasets.sanity_checks import check_annotations
from labkit.datasets.targets import target_from_panoptic
from labkit.datasets.transforms import JointTransform, TransformedDataset
from labkit.engine.evaluate import evaluate
from labkit.engine.predictor import Predictor, load_model
from labkit.engine.train import TrainConfig, train
from labkit.errors import LabkitError
from labkit.metrics.coco_ap import COCOAP
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.semantic import ConfusionMatrix
from labkit.models import build
from labkit.models.panoptic_fpn.merge import merge
from labkit.structures import Panoptic, Segment
from labkit.system import optional_packages
from labkit.system.cpu_cores import use_threads
from labkit.system.progress_bars import progress_bar
from labkit.visualize import loss_curves, panels

num_train, num_val, semantic_steps, steps, seeds = {
    "smoke": (8, 4, 2, 2, 1),
    "quick": (120, 40, 100, 50, 2),
    "full": (2000, 200, 2000, 1500, 3),
}[profile]
if profile != "full":
    use_threads(1)  # the tensors are small: threads would wait for one another
blue, orange, red, grey, purple = [np.array(c) / 255 for c in PETROFF_10[:5]]
scratch = TemporaryDirectory(prefix="your_own_data_")  # removed when the notebook ends
folder = Path(scratch.name)

# %% [markdown]
# ## 9.1 A building site
#
# To know afterwards what is right we need data whose truth we know, and so we draw it: a building site
# seen from above. Three kinds of **things** are counted, concrete pipes that stand on end, planks and
# bags of cement; three kinds of **stuff** are the ground, soil, concrete and puddles. Three properties
# are those of real data. Objects **cover** one another. A plank across a pipe **splits** it. And a pipe
# has a **hole**, through which one sees what lies beneath. (Your own pictures go through the
# commands of 9.5 and 9.6 and the training of 9.7; the other cells compare with the drawing.)
#
# We draw at four times the size and shrink the picture, so that edges are soft, as a camera makes them.
# For each object the drawing keeps the *whole* mask, also what others hide.

# %%
SIDE, FINE = 128, 4  # of a picture in pixels; how much finer we draw
STUFF, THINGS = ("soil", "concrete", "puddle"), ("pipe", "plank", "bag")


def blank():
    return np.zeros((SIDE * FINE, SIDE * FINE), np.uint8)


def patches(random, cells):
    """A smooth random map, mostly between -1 and 1, in fine pixels."""
    coarse = random.normal(0, 0.5, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (SIDE * FINE, SIDE * FINE), interpolation=cv2.INTER_CUBIC)


def box(middle, length, width, angle):
    """The corners of a turned rectangle."""
    size = (float(length), float(width))
    return cv2.boxPoints(((float(middle[0]), float(middle[1])), size, float(angle))).astype(
        np.int32
    )


def pipe(picture, random, at):
    """Draw it, and return its mask."""
    outer, wall = FINE * int(random.integers(12, 20)), FINE * int(random.integers(4, 7))
    cv2.circle(picture, at, outer - wall // 2, (176, 168, 158), wall)
    cv2.circle(picture, at, outer - wall // 2, (205, 198, 190), wall // 3)
    return cv2.circle(blank(), at, outer - wall // 2, 255, wall)


def plank(picture, random, at):
    length, width = FINE * random.integers(36, 60), FINE * random.integers(8, 12)
    angle = random.uniform(0, 180)
    cv2.fillPoly(picture, [box(at, length, width, angle)], (214, 164, 92))
    across = width / 4 * np.array([-np.sin(np.radians(angle)), np.cos(np.radians(angle))])
    for k in (-1, 0, 1):  # the grain
        cv2.fillPoly(picture, [box(at + k * across, length, 2, angle)], (176, 126, 64))
    return cv2.fillPoly(blank(), [box(at, length, width, angle)], 255)


def bag(picture, random, at):
    length, width = FINE * random.integers(20, 28), FINE * random.integers(13, 17)
    angle = random.uniform(0, 180)
    corners = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (17, 17))  # rounds them off
    mask = cv2.fillPoly(blank(), [box(at, length - 16, width - 16, angle)], 255)
    mask = cv2.dilate(mask, corners)
    picture[mask > 0] = (226, 220, 205)
    cv2.fillPoly(picture, [box(at, length * 0.3, width * 0.8, angle)], (70, 110, 170))
    return mask


def draw_ground(random):
    """The picture without objects, and which of STUFF is where; both in fine pixels."""
    bumps = 14 * (patches(random, 6) + patches(random, 40))[..., None]
    picture, ground = np.array([134, 104, 76]) + bumps, blank()
    middle, angle = SIDE * FINE / 2, random.uniform(0, 2 * np.pi)
    away = np.array([np.cos(angle), np.sin(angle)])
    if random.random() < 0.8:
        width, length = random.uniform(0.7, 1), 1.5  # of the picture: it has one edge inside
        slab = [SIDE * FINE * v for v in (width, length)]
        cv2.fillPoly(ground, [box(middle + 1.1 * middle * away, *slab, np.degrees(angle))], 1)
    if random.random() < 0.7:
        x, y = middle - 2 * middle * random.uniform(0.1, 0.4) * away
        for _ in range(3):
            at = (int(x + random.integers(-50, 50)), int(y + random.integers(-50, 50)))
            axes = (int(random.integers(40, 100)), int(random.integers(30, 70)))
            cv2.ellipse(ground, at, axes, random.uniform(0, 180), 0, 360, 2, -1)
    slab, water = ground == 1, ground == 2
    picture[slab] = np.array([158, 156, 150]) + 0.4 * bumps[slab]
    picture[water] = np.array([84, 96, 104]) + 16 * patches(random, 4)[water][:, None]
    return picture.clip(0, 255).astype(np.uint8), ground


def sampled(fine):
    """A map in fine pixels at the pixels' middles."""
    return fine[FINE // 2 :: FINE, FINE // 2 :: FINE]


def draw_site(random):
    """A picture ``(SIDE, SIDE, 3)``, its ground ``(SIDE, SIDE)``, and (name, whole mask) upwards."""
    picture, ground = draw_ground(random)
    objects, seen, wanted = [], np.zeros((SIDE, SIDE), int), random.integers(3, 8)
    for _ in range(20):
        name, at = THINGS[random.integers(3)], random.integers(50, SIDE * FINE - 50, 2).tolist()
        drawn = picture.copy()
        fine = globals()[name](drawn, random, at) > 0
        mask = sampled(fine)
        now = np.where(mask, len(objects) + 1, seen)
        if len(objects) == wanted or np.bincount(now.ravel())[1:].min() < 60:
            continue  # enough, or it would hide another one
        shadow = cv2.warpAffine(
            fine.astype(np.uint8), np.float32([[1, 0, 10], [0, 1, 10]]), fine.shape
        )
        picture[shadow > 0] = 0.6 * picture[shadow > 0]
        picture[fine] = (random.uniform(0.85, 1.1) * drawn[fine]).clip(0, 255)
        objects, seen = [*objects, (name, mask)], now
    small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    noisy = small + random.normal(0, 4, small.shape)
    return noisy.clip(0, 255).astype(np.uint8), sampled(ground), objects


SITES = {
    split: [
        draw_site(np.random.default_rng((seed, number, k)))
        for k in progress_bar(range(count), desc=split, unit="image")
    ]
    for number, (split, count) in enumerate((("train", num_train), ("val", num_val)))
}
names = {split: [f"site_{k:04d}" for k in range(len(sites))] for split, sites in SITES.items()}
figure, axes = plt.subplots(1, 6, figsize=(12, 2.2), layout="constrained")
for axis, (picture, _, objects) in zip(axes, SITES["train"], strict=False):
    axis.imshow(picture)
    axis.set_axis_off()
    axis.set_title(f"{len(objects)} objects", fontsize=9)
plt.show()


# %%
def visible(objects):
    """(name, mask) of each object without what those above it cover."""
    found, covered = [], np.zeros((SIDE, SIDE), bool)
    for name, mask in reversed(objects):
        found.append((name, mask & ~covered))
        covered |= mask
    return found[::-1]


def partly_hidden(objects):
    pairs = zip(objects, visible(objects), strict=True)
    return sum(mask.sum() < whole.sum() for (_, whole), (_, mask) in pairs)


parts = [
    (name, mask, cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1)
    for _, _, objects in SITES["train"]
    for name, mask in visible(objects)
]
split = sum(count > 1 for _, _, count in parts)
hidden = sum(partly_hidden(objects) for _, _, objects in SITES["train"])
print(f"{len(parts)} objects: {hidden} partly hidden, {split} of them in several parts")
labkit.record("share_partly_hidden", hidden / len(parts))
labkit.record("share_in_several_parts", split / len(parts))

# %% [markdown]
# ## 9.2 Three ways to keep masks
#
# People keep masks in three ways. They do not say the same.
#
# - **Classes.** One file a picture; the value (or the colour) of a pixel is its class.
# - **Instances.** One file a picture with 16 bits a pixel: 1000 × the class + the number of the object,
#   as Cityscapes has it. Stuff has its plain class.
# - **Objects.** A folder for each picture with a black-and-white file for each object, named after its
#   class. Only this way can say what is hidden.
#
# What the values mean stands in a small file of your own. We choose values with gaps, as they come out
# of labelling programs, and not 0: it is wise to keep 0 for "nobody has looked at this pixel". labkit
# reads all three by what it finds (`labkit.datasets.masks.mask_folder`).

# %%
VALUE = {"pipe": 2, "plank": 5, "bag": 9, "soil": 21, "concrete": 22, "puddle": 30}
entries = [
    {"name": name, "isthing": name in THINGS, "value": value, "id": value}
    for name, value in VALUE.items()
]
(folder / "categories.json").write_text(json.dumps(entries, indent=1))
print((folder / "categories.json").read_text()[:150], "...")


def ground_of(ground):
    """Which pixels are which stuff, by value."""
    return np.array([VALUE[name] for name in STUFF])[ground]


def as_classes(ground, objects):
    mask = ground_of(ground).astype(np.uint8)
    for name, where in objects:
        mask[where] = VALUE[name]
    return mask


def as_instances(ground, objects):
    mask = ground_of(ground).astype(np.uint16)
    for number, (name, where) in enumerate(objects, start=1):
        mask[where] = 1000 * VALUE[name] + number
    return mask


def as_files(ground, objects):
    """File name to mask; what lies beneath is drawn whole."""
    files = {f"{name}.png": 255 * (ground == k).astype(np.uint8) for k, name in enumerate(STUFF)}
    files |= {
        f"{name}_{number}.png": 255 * where.astype(np.uint8)
        for number, (name, where) in enumerate(objects, start=1)
    }
    return {name: mask for name, mask in files.items() if mask.any()}


def write_masks(where, masks):
    """A file for each picture, or a folder of files."""
    for name, mask in masks.items():
        if isinstance(mask, dict):
            write_masks(where / name, {Path(file).stem: m for file, m in mask.items()})
        else:
            where.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(where / f"{name}.png"), mask)


WAYS = {"classes": as_classes, "instances": as_instances, "objects": as_files}
for of, sites in SITES.items():
    pictures = [picture[..., ::-1] for picture, _, _ in sites]  # OpenCV writes blue first
    write_masks(folder / of / "images", dict(zip(names[of], pictures, strict=True)))
    for way, made in WAYS.items():
        masks = [made(ground, objects) for _, ground, objects in sites]
        write_masks(folder / of / way, dict(zip(names[of], masks, strict=True)))


example = max(range(num_train), key=lambda k: partly_hidden(SITES["train"][k][2]))
picture, ground, objects = SITES["train"][example]
files = as_files(ground, objects)
figure, axes = plt.subplots(2, 5, figsize=(11, 4.6), layout="constrained")
shown = [("picture", picture), ("classes", as_classes(ground, objects))]
mask = as_instances(ground, objects)
shown += [("instances", np.unique(mask, return_inverse=True)[1].reshape(mask.shape))]
shown += [(name, files[name]) for name in list(files)[-7:]]
for axis, (title, drawn) in zip(axes.flat, shown, strict=False):
    axis.imshow(drawn, cmap="gray" if title.endswith("png") else "nipy_spectral")
    axis.set_axis_off()
    axis.set_title(title, fontsize=9)
plt.show()

# %% [markdown]
# What comes back out of each? We read them and compare with what we have drawn.

# %%
classes = read_mask_categories(folder / "categories.json")
categories = classes.categories
LABEL = {category.name: label for label, category in enumerate(categories)}
print(f"{'':12}{'objects':>9}{'pictures with the right number':>32}{'pixels of a wrong class':>25}")
true_counts = [len(objects) for _, _, objects in SITES["train"]]
print(f"{'drawn':12}{sum(true_counts):9}")
for way in WAYS:
    read = MaskFolder(folder / "train/images", folder / "train" / way, classes)
    counts, wrong = [], 0
    for k, (_, ground, objects) in enumerate(SITES["train"]):
        target = read[k][1]
        counts.append(len(target["labels"]))
        truth = as_classes(ground, objects)
        value = np.array([category.id for category in categories])
        wrong += int((value[target["semantic"].numpy()] != truth).sum())
    right = np.mean(np.array(counts) == true_counts)
    share = wrong / (num_train * SIDE**2)
    print(f"{way:12}{sum(counts):9}{right:32.0%}{share:25.1%}")
    labkit.record(f"objects_read_over_drawn_{way}", sum(counts) / sum(true_counts))
    labkit.record(f"right_number_{way}", right)
    labkit.record(f"pixels_of_a_wrong_class_{way}", share)

# %% [markdown]
# **Classes** cannot be turned back into objects: whatever is connected becomes one, and whatever is
# split two. Sometimes both mistakes cancel, so that not even the number shows them. **Objects** keep
# everything but the order: whose file lies on top? labkit lets the later name lie on top, and
# here that is wrong wherever a bag lies on a pipe or a plank, or a pipe on a plank. (Cut the files to what is visible, and they say the same as
# instances.) **Instances** lose nothing that a panoptic model needs, and we go on with them.
#
# **A mask is not a picture.** It looks like one, and programs treat it so. What happens to the values
# if a mask is made smaller with interpolation, or saved as JPEG?

# %%
mask = as_classes(ground, objects)
_, jpeg = cv2.imencode(".jpg", mask, [cv2.IMWRITE_JPEG_QUALITY, 95])
smaller = cv2.resize(mask, (96, 96), interpolation=cv2.INTER_LINEAR)
nearest = cv2.resize(mask, (96, 96), interpolation=cv2.INTER_NEAREST)
OTHERS = {
    "as painted": mask,
    "JPEG, quality 95": cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE),
    "smaller, linear": smaller,
    "smaller, nearest": nearest,
}
for name, values in OTHERS.items():
    present = np.unique(values)
    invented = ~np.isin(values, np.unique(mask))
    print(f"{name:18}{len(present):3} values; {invented.mean():6.1%} of the pixels of no class")
    labkit.record(f"invented_{name.split(',')[-1].strip().replace(' ', '_')}", invented.mean())

# %% [markdown]
# Values that nobody painted, and some of them *are* classes: 5 and 9 lie between, so
# a pipe gets an edge of plank and bag. PNG without loss, and nearest neighbour: nothing else.
#
# ## 9.3 A mask as an outline
#
# COCO's instance files describe an object by polygons or by run-length code. First the polygon. A mask
# is a set of unit squares, pixel $(x, y)$ covers $[x, x+1] \times [y, y+1]$, and its outline runs along
# the *edges* of pixels. We walk them with the mask on the right hand: above a pixel from left to right,
# at its right side down, and so on, wherever the neighbour is outside. Each corner says where the walk
# goes on. The **shoelace formula** gives the area that a closed walk goes round,
#
# $$A = \tfrac12 \sum_i (x_i \, y_{i+1} - x_{i+1} \, y_i) ,$$
#
# positive for outer borders and *negative* round a hole, since with the mask on the right the walk goes
# the other way round. So no pixel has to be filled: the sum over all walks must be the number of pixels,
# exactly.


# %%
def outlines(mask):
    """Closed walks along the edges of pixels, ``(n, 2)`` corners x, y each, straight runs as one."""
    outside = ~np.pad(mask, 1)
    follow = defaultdict(list)
    for y, x in np.argwhere(mask).tolist():
        if outside[y, x + 1]:  # the padding moves everything by one: this is the pixel above
            follow[x, y].append((x + 1, y))
        if outside[y + 1, x + 2]:
            follow[x + 1, y].append((x + 1, y + 1))
        if outside[y + 2, x + 1]:
            follow[x + 1, y + 1].append((x, y + 1))
        if outside[y + 1, x]:
            follow[x, y + 1].append((x, y))
    walks = []
    while follow:
        here = first = next(iter(follow))
        walk = []
        while True:
            walk.append(here)
            here = follow[here].pop()
            if not follow[walk[-1]]:
                del follow[walk[-1]]
            if here == first:
                break
        corners = np.array(walk)
        before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
        walks.append(corners[((corners - before) != (after - corners)).any(axis=1)])
    return walks


def shoelace(corners):
    x, y = corners.T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


error = max(abs(sum(map(shoelace, outlines(mask))) - mask.sum()) for _, mask, _ in parts)
labkit.record("own_area_error", error)
holes = sum(any(shoelace(walk) < 0 for walk in outlines(mask)) for _, mask, _ in parts)
print(f"{holes} of {len(parts)} objects have a hole")

# %% [markdown]
# **The usual recipe.** Often the way from masks to COCO is four lines of OpenCV:
# `findContours` with `RETR_EXTERNAL`, its points as the polygon, and `contourArea` of all of them
# joined as the area.


# %%
def usual(mask):
    """Polygons and area as the usual recipe makes them."""
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    return [c.ravel().tolist() for c in contours], cv2.contourArea(np.concatenate(contours))


def filled(polygons, shape):
    """The pixels that COCO's own program makes of polygons."""
    codes = coco_mask.frPyObjects(polygons, *shape)
    return coco_mask.decode(coco_mask.merge(codes)).astype(bool)


print("area by the usual recipe, in % of the pixels: mean, smallest, largest")
KINDS = {
    "bag, plank: whole": [m for n, m, c in parts if n != "pipe" and c == 1],
    "bag, plank: split": [m for n, m, c in parts if n != "pipe" and c > 1],
    "pipe: closed ring": [
        m for n, m, c in parts if n == "pipe" and len(outlines(m)) == 2 and c == 1
    ],
    "pipe: cut open": [m for n, m, c in parts if n == "pipe" and len(outlines(m)) == 1],
    "pipe: split": [m for n, m, c in parts if n == "pipe" and c > 1],
}
for kind, masks in KINDS.items():
    if not masks:
        continue
    percent = 100 * np.array([usual(mask)[1] / mask.sum() for mask in masks])
    print(f"{kind:20}{len(masks):4} {percent.mean():7.0f}{percent.min():7.0f}{percent.max():7.0f}")
    if kind != "pipe: cut open":
        short = kind.replace(": ", "_").replace(", ", "_").replace(" ", "_")
        labkit.record(f"usual_area_in_percent_{short}", percent.mean())

# %% [markdown]
# Every row is wrong, for one of three reasons.
#
# **Too small.** OpenCV's contour does not run along the edges of the border pixels but through their
# *middles*: half a pixel is lost all around. How much that is can be said exactly. The middles are the
# points of a lattice, and for a polygon between lattice points **Pick's theorem** holds: with $I$ points
# inside and $B$ on its border the area is $I + \frac B2 - 1$. All $N = I + B$ of them are pixels of the
# mask, so that for one part without a hole
#
# $$A_{\text{contour}} = N - \tfrac B2 - 1 .$$
#
# The mistake grows with the perimeter: a tenth for a bag, more for a plank, all of it for a line.

# %%
gaps = []
for _, mask, count in parts:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = contours[0][:, 0]
    once = len(np.unique(points, axis=0)) == len(points)  # no spur that is walked to and fro
    if count == 1 and once and len(outlines(mask)) == 1:
        gaps.append(abs(cv2.contourArea(contours[0]) - (mask.sum() - len(points) / 2 - 1)))
print(f"Pick's theorem holds for {gaps.count(0)} of {len(gaps)} objects without holes")
labkit.record("picks_theorem_error", max(gaps))

# %% [markdown]
# **Too large.** `RETR_EXTERNAL` means outer borders only: the hole of a pipe is filled, with what lies
# in it. **Nonsense.** Joined, the contours of several parts are one polygon that jumps from part to
# part, and its signed pieces cancel or not, as it happens.
#
# **Two points.** A region one pixel wide has no inside: its contour goes there and back, and
# `CHAIN_APPROX_SIMPLE` keeps the two ends. Let a slip of the brush be a line of nine pixels:

# %%
slip = np.zeros((SIDE, SIDE), bool)
slip[70, 60:69] = True
polygons, area = usual(slip)
print(f"polygons {polygons}, area {area}; it has {slip.sum()} pixels")
try:
    coco_mask.frPyObjects(polygons, SIDE, SIDE)
except TypeError as refusal:
    print(f"pycocotools, as a list: {refusal}")
read = coco_mask.decode(coco_mask.frPyObjects(np.array(polygons, float), SIDE, SIDE)[0])
square = [10.0, 10, 20, 10, 20, 20, 10, 20]
beside = filled([square, *polygons], slip.shape).sum() - filled([square], slip.shape).sum()
print(f"as an array: {read.sum()} pixels; as the second part of an object: {beside} pixels")
labkit.record("pixels_of_a_slip_of_9_as_an_array", int(read.sum()))
labkit.record("pixels_of_a_slip_of_9_as_a_second_part", int(beside))
thin = Counter(min(len(p) // 2, 3) for _, mask, _ in parts for p in usual(mask)[0])
print(f"in our {len(parts)} objects: {thin[1]} polygons of one point, {thin[2]} of two")

# %% [markdown]
# Four numbers in COCO's files are a *box*, and so pycocotools takes them. As a list, which is what comes
# out of JSON, it stops with a message about a `bb` that nobody has written; as an array they are x 60,
# y 70, 68 wide and 70 high, as far as the picture goes; and as a later part of an object the line is gone
# without a word. It happens in good data too, wherever a plank hides all but a sliver of a bag. labkit
# refuses such a polygon and says where it stands.
#
# ## 9.4 A mask as run lengths
#
# COCO's other form has no corners: go through the mask **column by column** and write how long the runs
# of 0 and 1 are, in turn, beginning with 0. Holes and parts need no thought. In a file the numbers are
# packed: from the fourth on, each is replaced by its difference to the one two before (runs of
# neighbouring columns are alike), and five bits at a time, low ones first, become a character, a sixth
# bit saying that more follow.


# %%
def run_lengths(mask):
    """Lengths of the runs of 0, 1, 0, ..., column by column."""
    values = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(values[1:] != values[:-1])
    return np.diff([0, *changes, mask.size]).tolist()


def packed(counts):
    """Run lengths as COCO's text."""
    text = ""
    for k, count in enumerate(counts):
        value, more = count - (counts[k - 2] if k > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)  # the fifth bit is the sign of the rest
            text += chr(48 + bits + 32 * more)
    return text


different = 0
for _, mask, _ in parts:
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    different += packed(run_lengths(mask)) != theirs["counts"].decode()
print(f"{run_lengths(slip)} is {packed(run_lengths(slip))!r}")
labkit.record("own_run_lengths_different", different)

# %% [markdown]
# **Area and box** come from the mask, not from the polygon: the number of its pixels, and x, y, width,
# height with the *edges* of the outermost pixels, so that a single pixel is 1 wide and not 0.
#
# Now everything side by side: the polygon of the usual recipe; the outer walks of our own outline;
# labkit's (`mask_to_polygons`, which comes from OpenCV too, but at twice the size, so that it runs a quarter of
# a pixel inside the edges: near enough for COCO's program to give the mask back); and run-length code. What COCO's program makes of each is compared with the mask.


# %%
def outer(mask):
    """Outer borders along the edges as COCO has polygons."""
    return [walk.ravel().tolist() for walk in outlines(mask) if shoelace(walk) > 0]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


FORMS = {
    "usual recipe": lambda m: usual(m)[0],
    "own outline": outer,
    "labkit's polygons": mask_to_polygons,
}
GROUPS = {
    "bags": [m for n, m, _ in parts if n == "bag"],
    "planks": [m for n, m, _ in parts if n == "plank"],
    "pipes": [m for n, m, _ in parts if n == "pipe"],
}
print(f"{'IoU with the mask, mean (worst)':34}" + "".join(f"{g:>18}" for g in GROUPS) + "   bytes")
agreement = defaultdict(list)
for form, made in FORMS.items():
    size = 0
    for group, masks in GROUPS.items():
        for mask in masks:
            polygons = [p for p in made(mask) if len(p) >= 6]  # slivers would become boxes
            agreement[form, group].append(
                iou(filled(polygons, mask.shape), mask) if polygons else 0
            )
            size += len(json.dumps(polygons, separators=(",", ":")))
        short = f"{form} {group}".replace(" ", "_").replace("'", "")
        labkit.record(f"iou_{short}", np.mean(agreement[form, group]))
    cells = "".join(
        f"{np.mean(agreement[form, g]):11.3f} ({min(agreement[form, g]):.2f})" for g in GROUPS
    )
    print(f"{form:34}{cells}{size / len(parts):8.0f}")
size = np.mean([len(packed(run_lengths(mask))) for _, mask, _ in parts])
print(f"{'run lengths':34}" + f"{1:11.3f} (1.00)" * 3 + f"{size:8.0f}")

# %%
ring = max(KINDS["pipe: closed ring"], key=lambda m: m.sum())
rows, columns = np.flatnonzero(ring.any(axis=1)), np.flatnonzero(ring.any(axis=0))
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for axis, (title, made) in zip(axes, FORMS.items(), strict=True):
    wrong = filled(made(ring), ring.shape) ^ ring
    axis.imshow(np.where(wrong, 2, ring), cmap=ListedColormap(["white", "0.8", "#e8a79c"]))
    for polygon in made(ring):
        corners = np.array([*polygon, *polygon[:2]]).reshape(-1, 2)
        if title != "usual recipe":  # edges of pixels are at halves where pixels are drawn
            corners = corners - 0.5
        axis.plot(*corners.T, color=blue)
    axis.set(xlim=(columns[0] - 3, columns[-1] + 3), ylim=(rows[-1] + 3, rows[0] - 3))
    axis.set_title(f"{title}: {wrong.sum()} pixels wrong of {ring.sum()}", fontsize=9)
plt.show()

# %% [markdown]
# Along the edges the polygon of an object without a hole is the mask itself; through the middles it
# misses some border pixels, which costs a thin plank more than a bag. But no polygon can say *hole*: a
# list of polygons means all of them together. So labkit writes polygons only on request (`--polygons`)
# and only where COCO's program makes at least 0.99 of IoU of them; a ring becomes run lengths, which
# are always right and shorter as well. Polygons are for people who want to move a corner with the mouse.

# %% [markdown]
# ## 9.5 To COCO's files
#
# Nobody has to write all this again: `labkit data from-masks` reads the masks, checks them and writes
# COCO's layout. (The commands of this lesson run as they would in a terminal, only within the notebook's
# own Python, which saves the time to start one.)


# %%
def command(line):
    """Run a command of labkit in the folder of this lesson, as a terminal would show it."""
    print(f"$ labkit {line}")
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
        try:
            return app(shlex.split(line), standalone_mode=False)
        except LabkitError as error:
            print(f"error: {error}")
            return error


for of in SITES:
    _ = command(
        f"data from-masks {of}/images {of}/instances --categories categories.json"
        f" --out site --split {of}"
    )
    print()
for path in sorted((folder / "site").rglob("*")):
    if path.is_dir() or path.suffix == ".json":
        inside = f"{len(list(path.glob('*.png')))} PNGs" if path.is_dir() else ""
        print(path.relative_to(folder), inside)

# %% [markdown]
# It also says which annotations *look like* mistakes; we come to that in section 9.6. First the other
# question: is what was written what we have drawn? Three readers have a look.
#
# **labkit** reads the panoptic files; every pixel must have the class and the object that it had.
# **pycocotools** reads the instance file; masks, areas and boxes must be those of the drawing.
# **panopticapi** is the program that papers measure with. What it relies on: the ids in the PNG are those in
# `segments_info`, neither more nor less; no id occurs twice in a picture; classes are those of
# `categories`; areas are the numbers of pixels. (It checks ids and classes of predictions only; what the
# truth says it believes.) We check these rules, and where the program is installed it also measures the
# files against themselves.


# %%
def panoptic_of(ground, objects):
    """The panoptic map of a drawing: the ground, then the objects upwards."""
    ids, segments = np.zeros((SIDE, SIDE), np.int32), []
    kinds = [(name, ground == k) for k, name in enumerate(STUFF)]
    for name, where in kinds + objects:
        ids[where] = len(segments) + 1
        segments.append(Segment(len(segments) + 1, LABEL[name]))
    left = set(np.unique(ids).tolist())
    return Panoptic(torch.from_numpy(ids), [s for s in segments if s.id in left])


pixels = objects_wrong = rules = coco_wrong = 0
for of, sites in SITES.items():
    data = CocoPanoptic.from_folder(folder / "site", of)
    coco_json = folder / f"site/annotations/instances_{of}.json"
    content = json.loads((folder / f"site/annotations/panoptic_{of}.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(coco_json)
    for k, (_, ground, objects) in enumerate(sites):
        truth, (_, target) = panoptic_of(ground, objects), data[k]
        pixels += int((truth.semantic() != target["semantic"]).sum())
        drawn = {(LABEL[name], mask.tobytes()): mask for name, mask in visible(objects)}
        written = zip(target["labels"].tolist(), target["masks"].numpy(), strict=True)
        objects_wrong += len(drawn.keys() ^ {(label, mask.tobytes()) for label, mask in written})

        annotation = content["annotations"][k]
        ids = read_png(folder / f"site/annotations/panoptic_{of}" / annotation["file_name"])
        in_png = dict(zip(*[v.tolist() for v in np.unique(ids, return_counts=True)], strict=True))
        in_png.pop(0, None)  # void
        listed = [info["id"] for info in annotation["segments_info"]]
        rules += in_png != {i["id"]: i["area"] for i in annotation["segments_info"]}
        rules += len(listed) != len(set(listed))
        known = {category["id"] for category in content["categories"]}
        rules += not {info["category_id"] for info in annotation["segments_info"]} <= known

        rows = coco.loadAnns(coco.getAnnIds(imgIds=[annotation["image_id"]]))
        coco_wrong += len(rows) != len(objects)
        for row in rows:
            mask = coco.annToMask(row).astype(bool)
            key = LABEL[coco.loadCats(row["category_id"])[0]["name"]], mask.tobytes()
            y, x = np.nonzero(mask)
            edges = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            coco_wrong += key not in drawn or row["area"] != mask.sum() or row["bbox"] != edges
labkit.record("pixels_that_differ_after_the_round_trip", pixels)
labkit.record("objects_that_differ_after_the_round_trip", objects_wrong)
labkit.record("objects_wrong_for_pycocotools", int(coco_wrong))
labkit.record("rules_of_panopticapi_broken", int(rules))

disagreements = 0
if problem := optional_packages.problem("panopticapi"):
    print(f"The rules of panopticapi alone are checked: {problem}")
else:
    from panopticapi.evaluation import pq_compute

    path = str(folder / "site/annotations/panoptic_val.json")
    with contextlib.redirect_stdout(io.StringIO()):
        itself = pq_compute(path, path)
    print(f"panopticapi: PQ of the truth {itself['All']['pq']:.3f}, {itself['All']['n']} classes")
    disagreements = int(itself["All"]["pq"] != 1)
labkit.record("panopticapi_disagreements", disagreements)

# %% [markdown]
# A trap for those who write such files themselves: an image's id must be a number. With its name for
# an id everything looks well, but pycocotools takes a single text for a list of letters, so that
# `getAnnIds(imgIds="site_0007")` finds nothing and says nothing, and Detectron2's loader of panoptic files
# (`register_coco_panoptic`) stops at `int("site_0007")`. labkit numbers the images; `file_name` is what connects an entry with its picture.
#
# ## 9.6 Mistakes that a program finds, and others
#
# Now we plant six mistakes in copies of masks: four that only look odd, two that cannot be right.

# %%
spoilt_of = dict(zip(names["val"], SITES["val"], strict=True))
chosen = sorted(spoilt_of, key=lambda name: -len(spoilt_of[name][2]))[: min(6, num_val)]
masks = {name: as_instances(*spoilt_of[name][1:]) for name in chosen}
a, b, c, d = chosen[:4]
planted = {}


def plant(kind, name, where, value):
    masks[name][where] = value
    planted[kind] = name


corner = np.s_[2:4, 2:4]
plant("tiny", a, corner, 1000 * VALUE["bag"] + 99)  # a slip of the brush
_, whole = max(visible(spoilt_of[b][2]), key=lambda o: o[1].sum())
half = whole & (np.arange(SIDE) > np.median(np.nonzero(whole)[1]))
plant("touching", b, half, masks[b][whole][0] + 90)  # one object under two numbers
plant("unlabelled", c, np.s_[:100], 0)  # the brush was put down too early
plant("empty", d, np.s_[:], 0)  # never begun
good = masks[a].copy(), masks[b].copy()
masks[a][60, 60] = 12  # a value of no class
masks[b] = masks[b][:, :-2]  # of a copy of the picture that was cropped


def write_spoilt():
    shutil.rmtree(folder / "spoilt", ignore_errors=True)
    pictures = {name: spoilt_of[name][0][..., ::-1] for name in chosen}
    write_masks(folder / "spoilt/images", pictures)
    write_masks(folder / "spoilt/masks", masks)
    line = "data from-masks spoilt/images spoilt/masks --categories categories.json"
    return command(f"{line} --out spoilt_annotated --split val")


refused = write_spoilt()
labkit.record(
    "damaged_masks_refused", isinstance(refused, LabkitError) and str(refused).count("png")
)

# %% [markdown]
# What cannot be right is refused, all of it at once and before anything is written: a value that stands
# for nothing, a mask that does not fit its picture. We repair these two. The other four are allowed in
# the format and only *look* like mistakes, so they are written and reported. (`labkit data check` says
# the same about any data set in COCO's formats, and `labkit.datasets.sanity_checks`
# does the same checks from Python.)

# %%
masks[a], masks[b] = good
write_spoilt()


def found_in(data):
    """How many findings of each kind there are in each picture of a folder, by its name."""
    return Counter((Path(f.image).stem, f.kind) for f in check_annotations(data))


before = found_in(CocoPanoptic.from_folder(folder / "site", "val"))
after = found_in(CocoPanoptic.from_folder(folder / "spoilt_annotated"))
found = {
    kind: after[name, kind] > before[name, kind]  # not one that was there before
    for kind, name in planted.items()
}
print(
    "\nplanted:", ", ".join(f"{kind} {'found' if v else 'NOT found'}" for kind, v in found.items())
)
labkit.record("planted_mistakes_found", sum(found.values()))
alarms = [sum(n for (name, _), n in before.items() if name == one) for one in names["val"]]
print(
    f"on the clean masks: {sum(alarms)} alarms in {sum(v > 0 for v in alarms)} of {num_val} pictures"
)
labkit.record("clean_pictures_with_an_alarm", np.mean(np.array(alarms) > 0))

# %% [markdown]
# All four are found. The price is alarms where nothing is wrong: on a building site two pipes *do* lie
# side by side, and no program can know from a mask that they are two. A finding is a place to look at,
# not a verdict.
#
# **And now mistakes that are perfectly good annotations.** A mask that lies six pixels beside its
# object, an object under another class's name, an object that was overlooked so that its pixels count
# as what lies beneath. The format has no objection. We need these three again in section 9.8, for a share of all
# objects.

# %%
SHARE, SHIFT = 0.4, 6  # of the objects; pixels, in any direction


def moved(mask, dx, dy):
    move = np.float32([[1, 0, dx], [0, 1, dy]])
    return cv2.warpAffine(mask.astype(np.uint8), move, mask.shape[::-1]) > 0


def spoilt(objects, kind, random, share=SHARE):
    """Objects of which a share is moved, renamed or left out, and which these are."""
    left, hit = [], random.random(len(objects)) < share
    for (name, mask), bad in zip(objects, hit, strict=True):
        angle, other = random.uniform(0, 2 * np.pi), random.integers(2)
        if bad and kind == "shift":
            mask = moved(mask, SHIFT * np.cos(angle), SHIFT * np.sin(angle))
        if bad and kind == "swap":
            name = [n for n in THINGS if n != name][other]
        if not (bad and kind == "drop"):
            left.append((name, mask))
    return left, hit


shown = list(zip(names["train"], SITES["train"], strict=True))[:40]
for kind in ("true", "shift", "swap", "drop"):
    pictures = {name: picture[..., ::-1] for name, (picture, _, _) in shown}
    masks = {
        name: as_instances(ground, spoilt(objects, kind, np.random.default_rng((seed, k)))[0])
        for k, (name, (_, ground, objects)) in enumerate(shown)
    }
    write_masks(folder / kind / "images", pictures)
    write_masks(folder / kind / "masks", masks)
    with contextlib.redirect_stdout(io.StringIO()):
        _ = command(
            f"data from-masks {kind}/images {kind}/masks --categories categories.json"
            f" --out {kind}_annotated --split train"
        )
    data = CocoPanoptic.from_folder(folder / f"{kind}_annotated")
    kinds = Counter(finding.kind for finding in check_annotations(data))
    print(f"{kind}: {kinds.total()} findings in {len(data)} pictures: {dict(kinds)}")
    labkit.record(f"findings_a_picture_{kind}", kinds.total() / len(data))

# %% [markdown]
# With four objects in ten wrong the checks say about as much as before, of dropped objects less:
# what is not there touches nothing. Against such mistakes there are only eyes. `labkit data show` draws
# a contact sheet, here of four: dropped, shifted, as drawn, swapped.

# %%
for kind in ("drop", "shift", "true", "swap"):
    _ = command(f"data show coco_panoptic:{kind}_annotated --num 4 --out {kind}.png")
    display(Image(folder / f"{kind}.png", width=760))

# %% [markdown]
# ## 9.7 Two models
#
# Any folder in COCO's format trains with one command: `labkit train PRESET --data coco_panoptic:site --out
# RUN` takes its split `train`, and `labkit eval RUN` its `val`; with instances alone it is `coco:DIR`. Here we call what these commands call. The pictures are read
# once and mirrored at random; mirroring is the cheapest way to more data where left and right mean the
# same.
#
# **A semantic model.** FCN-8s of notebook 1, from nothing: a class for every pixel, no objects.


# %%
class Kept(torch.utils.data.Dataset):
    """Items that are read once and kept in memory."""

    def __init__(self, items):
        self.items, self.categories = list(items), categories

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def mirrored(dataset):
    return TransformedDataset(dataset, JointTransform(v2.RandomHorizontalFlip()))


train_set, val_set = [
    Kept(progress_bar(CocoPanoptic.from_folder(folder / "site", of), desc=of, unit="image"))
    for of in SITES
]
_ = torch.manual_seed(seed)
semantic = build("fcn8_tiny", categories)
settings = TrainConfig(
    steps=semantic_steps, batch_size=8, lr=3e-3, warmup=min(10, semantic_steps), seed=seed
)
start = time.perf_counter()
_ = train(semantic, mirrored(train_set), settings)
print(f"{semantic_steps} steps in {time.perf_counter() - start:.0f} s")
result = evaluate(semantic.eval(), val_set, progress=False).semantic
print(f"mIoU {100 * result.miou:.1f}: ", end="")
print(", ".join(f"{c.name} {100 * v:.1f}" for c, v in zip(categories, result.iou, strict=True)))
labkit.record("semantic_miou", result.miou)

# %% [markdown]
# **A panoptic model, with a warm start.** A hundred pictures are few. A network that begins at random
# must learn from them what an edge is before it learns what a pipe is. So begin with weights that know:
# for photographs those of COCO (`labkit zoo list`), for our small drawings `panoptic_fpn_tiny`, which
# comes with labkit and has learnt squares, circles and triangles on grass. No class is the same. What
# carries over are the features, the proposals and the outlines of "some object".
#
# `start_from` copies every layer whose name and shape agree. The layer that says the semantic classes
# does not fit, seven classes there and six here, and stays fresh. The layers that say the things *do*
# fit, because there are three in both: pipes begin as squares. That does no harm, the training moves
# them, but it shows how little agreeing shapes prove. (`labkit train ... --init panoptic_fpn_tiny` does
# the same; with `:backbone` at the end only the backbone is taken, the choice when a model has other
# heads.)

# %%
BATCH, RATE = 4, 3e-3


def fitted(dataset, init="panoptic_fpn_tiny", seed=seed):
    """A panoptic model that was trained on a data set, and its losses."""
    _ = torch.manual_seed(seed)
    network = build("panoptic_fpn_tiny", categories)
    fresh = start_from(network, load_model(init)) if init else ["everything"]
    config = TrainConfig(steps=steps, batch_size=BATCH, lr=RATE, warmup=min(10, steps), seed=seed)
    start = time.perf_counter()
    losses = train(network, mirrored(dataset), config).losses
    seconds = time.perf_counter() - start
    print(f"fresh: {', '.join(fresh)}; {steps} steps in {seconds:.0f} s")
    return network.eval(), losses


panoptic, warm = fitted(train_set)
cold_one, cold = fitted(train_set, init=None)
display(loss_curves({"warm start": warm["total"], "from nothing": cold["total"]}, smooth=10))

# %%
for name, network in (("warm start", panoptic), ("from nothing", cold_one)):
    result = evaluate(network, val_set, progress=False)
    quality, ap = result.panoptic, result.detection
    print(
        f"{name:14}PQ {100 * quality.all.pq:.1f} (things {100 * quality.things.pq:.1f}, stuff"
        f" {100 * quality.stuff.pq:.1f}), mIoU {100 * result.semantic.miou:.1f}, AP of masks"
        f" {100 * ap.segm.ap:.1f}, AP50 {100 * ap.segm.ap50:.1f}"
    )
    short = name.replace(" ", "_")
    labkit.record(f"pq_{short}", quality.all.pq)
    labkit.record(f"pq_things_{short}", quality.things.pq)
    labkit.record(f"pq_stuff_{short}", quality.stuff.pq)
    labkit.record(f"miou_{short}", result.semantic.miou)
    labkit.record(f"mask_ap_{short}", ap.segm.ap)
    if network is panoptic:
        for one in quality.per_class:
            print(
                f"    {one.name:9} PQ {100 * one.pq:5.1f}  SQ {100 * one.sq:5.1f}  RQ {100 * one.rq:5.1f}"
            )
            labkit.record(f"pq_of_{one.name}", one.pq)

# %% [markdown]
# The warm start is worth much for the things: proposals, boxes and outlines of objects carry over. For the
# stuff it is worth nothing here (in `quick`, with one seed, even a few points less): three grounds that
# differ in colour are quickly learnt from nothing. The total of the
# losses hides both; look at what you want to know.

# %%
rows, by_class, by_segment = [], Predictor(semantic), Predictor(panoptic)
for image, target in val_set.items[:3]:
    rows += [("picture", image, None), ("truth", image, target["panoptic"])]
    rows += [("semantic model", image, by_class(image).semantic)]
    rows += [("panoptic model", image, by_segment(image).panoptic)]
panels(rows, categories, columns=4)

# %% [markdown]
# The semantic model sees what is where and cannot say how many; where two bags touch it has one region.
# The panoptic model tells them apart, often sees through pipes, and leaves some pixels open: a
# pixel that its semantic branch takes for a thing, while no object was found there, belongs to nobody
# and stays unpainted (notebook 4). Planks are its worst class: most are missed or covered by less than
# half, perhaps because, long, thin and lying askew, they fill little of their boxes. Where *your* data differ from what a model was made for, the table by class is the place to see
# it.
#
# ## 9.8 What bad labels do to the result
#
# How much care do labels need? We spoil the masks of the *training* set as in section 9.6, four
# objects in ten, and measure on the clean validation set. Everything else stays: the pictures, the steps, the
# weights to begin with. Two seeds each in `quick`, for which objects are hit and for the training.
#
# - **shift**: the mask lies six pixels beside its object;
# - **swap**: the object has the name of another thing;
# - **drop**: the object is not labelled; its pixels belong to what lies beneath.
#
# Before you look: which of the three is the worst, and which number will notice it?

# %%
SCORES = (0.1, 0.2, 0.3, 0.5, 0.7)


def spoilt_set(kind, seed):
    """The training set with spoilt labels, and for each picture which objects were hit."""
    items, hits = [], []
    for k, ((image, target), (_, ground, objects)) in enumerate(
        zip(train_set.items, SITES["train"], strict=True)
    ):
        left, hit = spoilt(objects, kind, np.random.default_rng((seed, k)))
        now = target_from_panoptic(panoptic_of(ground, left), categories, target["image_id"])
        items.append((image, now))
        hits.append(hit)
    return Kept(items), hits


def measure(network):
    """All metrics on the clean validation set; PQ also with other thresholds for the objects."""
    confusion, ap = ConfusionMatrix(categories), COCOAP(categories)
    qualities = {score: PanopticQuality(categories) for score in SCORES}
    predictor = Predictor(network)
    for image, target in progress_bar(val_set, unit="image"):
        prediction = predictor(image)
        confusion.update(prediction.semantic, target["semantic"])
        ap.update(prediction, target)
        for score, quality in qualities.items():
            made = merge(
                prediction.detections,
                prediction.semantic,
                categories,
                score_thresh=score,
                min_stuff_area=network.config.min_stuff_area,
            )
            quality.update(made, target["panoptic"])
    found = {score: quality.compute() for score, quality in qualities.items()}
    usual_ = found[0.5]
    return {
        "mIoU": confusion.compute().miou,
        "AP": ap.compute().segm.ap,
        "PQ": usual_.all.pq,
        "things": usual_.things.pq,
        "stuff": usual_.stuff.pq,
        **{one.name: one.pq for one in usual_.per_class if one.isthing},
        "over scores": [found[score].things.pq for score in SCORES],
    }


scores = {("clean", seed): measure(panoptic)}
networks = {("clean", seed): panoptic}
for s in range(seed, seed + seeds):
    for kind in ("clean", "shift", "swap", "drop"):
        if (kind, s) not in scores:
            print(f"{kind}, seed {s}: ", end="")
            dataset = train_set if kind == "clean" else spoilt_set(kind, s)[0]
            networks[kind, s], _ = fitted(dataset, seed=s)
            scores[kind, s] = measure(networks[kind, s])

# %%
LABELS = ("clean", "shift", "swap", "drop")
COLUMNS = ("mIoU", "AP", "PQ", "stuff", "things", *THINGS)
mean = {
    kind: {
        column: np.mean([scores[kind, s][column] for s in range(seed, seed + seeds)], axis=0)
        for column in (*COLUMNS, "over scores")
    }
    for kind in LABELS
}
print(f"{'mean of the seeds':18}" + "".join(f"{column:>9}" for column in COLUMNS))
for kind in LABELS:
    print(f"{kind:18}" + "".join(f"{100 * mean[kind][column]:9.1f}" for column in COLUMNS))
    for column in COLUMNS:
        labkit.record(f"{column} {kind}".replace(" ", "_"), mean[kind][column])
for kind in LABELS[1:]:
    for column in ("mIoU", "AP", "PQ"):
        labkit.record(f"{column}_lost_by_{kind}", mean["clean"][column] - mean[kind][column])
spread = max(
    np.ptp([scores[kind, s][column] for s in range(seed, seed + seeds)])
    for kind in LABELS
    for column in ("mIoU", "AP", "PQ")
)
labkit.record("largest_difference_between_seeds", spread)
figure, axes = plt.subplots(1, 2, figsize=(11, 3.3), layout="constrained", width_ratios=[1.7, 1])
places = np.arange(len(COLUMNS))
for i, (kind, color) in enumerate(zip(LABELS, (grey, blue, orange, red), strict=True)):
    heights = [100 * mean[kind][column] for column in COLUMNS]
    axes[0].bar(places + 0.2 * (i - 1.5), heights, width=0.2, color=color, label=kind)
    for s in range(seed, seed + seeds):
        dots = [100 * scores[kind, s][column] for column in COLUMNS]
        axes[0].plot(places + 0.2 * (i - 1.5), dots, ".", color="black", markersize=4)
    style = ("-", "--", "-.", ":")[i]
    axes[1].plot(SCORES, 100 * mean[kind]["over scores"], style, color=color, label=kind)
axes[0].set_xticks(places, COLUMNS)
axes[0].set_title("mean of the seeds; points: each seed; from PQ on all are PQ", fontsize=9)
axes[0].grid(axis="y", alpha=0.3)
axes[0].legend(frameon=False, ncols=4, fontsize=8, loc="upper left")
axes[0].set_ylim(0, 110)
axes[1].set_title("PQ of things", fontsize=9)
axes[1].set_xlabel("lowest score of an object in the panoptic map", fontsize=9)
axes[1].set_ylim(bottom=0)
axes[1].grid(alpha=0.3)
plt.show()
for kind in LABELS:
    best = int(np.argmax(mean[kind]["over scores"]))
    gain = mean[kind]["over scores"][best] - mean[kind]["over scores"][SCORES.index(0.5)]
    print(f"{kind}: PQ of things is best from score {SCORES[best]} on, {100 * gain:+.1f}")
    labkit.record(f"gain_of_the_best_score_{kind}", gain)

# %%
rows, predictors = [], {kind: Predictor(networks[kind, seed]) for kind in LABELS}
for image, target in val_set.items[3:6]:
    rows += [("truth", image, target["panoptic"])]
    rows += [(kind, image, predictors[kind](image).panoptic) for kind in LABELS]
panels(rows, categories, columns=5, size=2.2)

# %% [markdown]
# **Not every number notices every mistake.** (Of `quick`, on two seeds, which differ by up to seven points,
# single classes by fifteen.) Shifts cost *AP*, which looks at outlines, and *PQ* of the things, but hardly
# *mIoU*: most pixels of a shifted mask are still right. Dropped objects cost mIoU, since their pixels teach
# that a plank is soil, but hardly AP, which counts unsure objects as well. Swapped names cost all three.
# Stuff is as good as before, since its labels are.
#
# **It depends on the object.** A bag is thick: moved by six pixels it still covers more than half of
# itself. The wall of a pipe is four to six pixels wide: moved by six, less than four tenths of it still lie on
# the pipe, at an IoU of about 0.2. And planks, the class with the lowest PQ to begin with, are nearly gone
# under every mistake: what is barely learnt has no reserve.
#
# **Doubt is not ignorance.** The right figure turns the score from which on objects enter the panoptic map.
# With swapped and dropped labels PQ of the things gains ten points or so if less sure objects are let
# in: a model that has seen four of ten bags without a label, or with another, cannot be sure of any bag,
# and 0.5 is not a natural constant. Much of what seemed to be lost is there, below the threshold. For
# shifts less is to be won: an outline does not get better by believing it. (To choose the threshold one
# needs clean labels, at least of a few validation pictures. If care is limited, that is where to spend
# it.)
#
# **The model as a proofreader.** A model does not learn all of its labels by heart, certainly not in so
# few steps. So ask the one that was trained on swapped labels about its own training pictures: for each
# object, how much surer is it of another class than of the one in the label? Where the difference is
# largest a person should look first.


# %%
def doubts(network, dataset, hits):
    """(how much surer of another class, was it swapped?, picture, object, that class) by doubt."""
    found, predictor = [], Predictor(network)
    for k, ((image, target), hit) in enumerate(
        zip(progress_bar(dataset.items, unit="image"), hits, strict=True)
    ):
        detections = predictor(image).detections
        masks, true = detections.masks.flatten(1).float(), target["masks"].flatten(1).float()
        shared = true @ masks.T
        either = true.sum(dim=1)[:, None] + masks.sum(dim=1) - shared
        score = torch.where(
            shared > 0.5 * either, detections.scores, 0.0
        )  # 0: not about this object
        for n, (row, label) in enumerate(zip(score, target["labels"].tolist(), strict=True)):
            best = [max([0.0, *row[detections.labels == c].tolist()]) for c in range(len(THINGS))]
            other = int(np.argmax([-1 if c == label else v for c, v in enumerate(best)]))
            found.append((best[other] - best[label], bool(hit[n]), k, n, other))
    return sorted(found, key=lambda row: -row[0])


dataset, hits = spoilt_set("swap", seed)
ranked = doubts(networks["swap", seed], dataset, hits)
right = np.array([swapped for _, swapped, *_ in ranked])
reports = sum(doubt > 0 for doubt, *_ in ranked)
first = min(50, len(ranked))
print(f"{len(ranked)} objects, {right.sum()} with a swapped label; {reports} reports")
print(
    f"right among the first {first}: {right[:first].sum()}, among all reports {right[:reports].sum()}"
)
labkit.record("swapped_labels", right.mean())
labkit.record("first_50_reports_right", right[:first].mean())
labkit.record("reports_right", right[:reports].mean() if reports else 0.0)
labkit.record("swapped_labels_reported", right[:reports].sum() / max(1, right.sum()))
figure, axes = plt.subplots(
    1, 7, figsize=(12, 2.4), layout="constrained", width_ratios=[2.2, *[1] * 6]
)
counts = np.arange(1, len(ranked) + 1)
axes[0].plot(counts, right.cumsum() / counts, color=blue)
axes[0].axhline(right.mean(), color="0.5", linestyle=":")
axes[0].axvline(reports, color="0.5", linewidth=0.8)
axes[0].set(ylim=(0, 1.05), xlabel="objects looked at, surest first")
axes[0].set_title("share with a swapped label", fontsize=9)
for axis, (_, swapped, k, n, other) in zip(axes[1:], ranked[:first:8], strict=False):
    image, target = dataset[k]
    x1, y1, x2, y2 = target["boxes"][n].tolist()
    axis.imshow(image.permute(1, 2, 0))
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    axis.set(xlim=(x - 32, x + 32), ylim=(y + 32, y - 32), xticks=[], yticks=[])
    name = categories[int(target["labels"][n])].name
    text = f"label: {name}\nmodel: {categories[other].name}"
    axis.set_title(text, fontsize=8, color="black" if swapped else red)  # red: a false alarm
plt.show()

# %% [markdown]
# Three in four of the first fifty suspects are rightly suspected, where chance would find two in five,
# and two thirds of all swapped labels are among the reports: an hour of looking that is spent well.
# (False alarms have a red title.) With fewer wrong labels the proofreader ought to make fewer mistakes of its
# own, but has fewer to find; exercise 7 is about it.
#
# ## 9.9 The same data in Detectron2
#
# Many models live in Detectron2, and much goes wrong on the way there, mostly without a message. The
# pitfalls in the order in which they bite:
#
# **Two class counts that mean two things.** `MODEL.ROI_HEADS.NUM_CLASSES` counts things (the background
# is added inside). `MODEL.SEM_SEG_HEAD.NUM_CLASSES` counts, for Panoptic FPN, the stuff **and one more**,
# class 0, "things", all objects together. (labkit's tiny model keeps the things apart in its semantic
# branch and so has 6 classes there; Detectron2's has one for all, so 4.) Both have COCO's defaults, 80 and
# 54. Forget one and nothing fails as long as the data have fewer: a head with 80 classes learns three as well, only never fires for the rest. Setting both to the
# same number, as one reads it often, is right for no data but by chance.
#
# **Ids are not classes.** Networks count 0, 1, 2, ...; files have the ids that somebody chose (ours: 2,
# 5, 9, 21, 22, 30). For things Detectron2's loader numbers the sorted ids itself and notes it as
# `thing_dataset_id_to_contiguous_id`, which must not contradict yours. For stuff nobody translates: the
# PNGs must have the network's numbers already, and the sister table only serves to measure.
#
# **Semantic PNGs.** The semantic head does not read the panoptic PNGs but others, with its own classes:
# 0 for all things, then the stuff, 255 where nothing is labelled. Pass the raw mask, and class 21 meets
# a 4-class head.
#
# **The learning rate belongs to the batch.** The files of the model zoo have 0.02 for 16 pictures a
# step. With fewer the gradient is noisier, and the usual rule makes the rate proportional (Goyal et al.,
# 2017): $0.02 \cdot b / 16$. The number of steps is then inversely proportional, so that every picture
# is seen as often.
#
# **And the small print.** `register_coco_panoptic_separated` takes every picture for a `.jpg`; pictures
# without things are left out unless `DATALOADER.FILTER_EMPTY_ANNOTATIONS` is false; run-length codes need
# `INPUT.MASK_FORMAT` "bitmask".
#
# `labkit export-detectron2` takes care of all of it. The training starts from weights of COCO, whose
# licence it prints:

# %%
things, stuff = [c for c in categories if c.isthing], [c for c in categories if not c.isthing]
print(f"{'pictures a step':>16}{'learning rate':>15}{'steps for 36 epochs':>21}")
for b in (1, 2, 4, 8, 16):
    print(f"{b:16}{0.02 * b / 16:15.5f}{round(36 * num_train / b):21}")
out = "for_detectron2"
_ = command(
    f"export-detectron2 coco_panoptic:site --split train --val-split val --batch-size 2 --out {out}"
)
config = yaml.safe_load((folder / out / "config.yaml").read_text())
print(json.dumps(config["MODEL"]["ROI_HEADS"]), json.dumps(config["MODEL"]["SEM_SEG_HEAD"]))
print(json.dumps(config["SOLVER"]), json.dumps(config["INPUT"]))
metadata = json.loads((folder / out / "dataset.json").read_text())["metadata"]
for key, value in metadata.items():
    print(f"    {key}: {json.dumps(value)}")
labkit.record("class_count_things", config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"])
labkit.record("class_count_semantic", config["MODEL"]["SEM_SEG_HEAD"]["NUM_CLASSES"])
labkit.record("learning_rate_for_2", config["SOLVER"]["BASE_LR"])

# %% [markdown]
# Do the semantic PNGs say what we have drawn? And the two other lines that are easily missed:
# `MASK_FORMAT: bitmask`, since our masks are run-length codes (with `polygon` Detectron2 stops at the
# first), and `STUFF_AREA_LIMIT`: the fusion drops stuff under 4096 pixels, which is a quarter of our
# pictures and so most puddles; the limit here has COCO's *share* of a picture.

# %%
wrong = 0
for name, (_, ground, objects) in zip(names["train"], SITES["train"], strict=True):
    png = cv2.imread(str(folder / out / "semantic/train" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    mine = 1 + ground.astype(int)  # soil, concrete, puddle have rising ids
    for _, mask in objects:
        mine[mask] = 0
    wrong += int((png != mine).sum())
labkit.record("semantic_pixels_wrong", wrong)
puddles = [
    int((panoptic_of(g, o).semantic() == LABEL["puddle"]).sum()) for _, g, o in SITES["train"]
]
puddles = [area for area in puddles if area]
limit = config["MODEL"]["PANOPTIC_FPN"]["COMBINE"]["STUFF_AREA_LIMIT"]
for of, least in (("Detectron2's default", 4096), ("written here", limit)):
    dropped = np.mean(np.array(puddles) < least)
    print(f"{of}: {least} pixels, {dropped:.0%} of the puddles would be dropped")
labkit.record("puddles_under_4096_pixels", np.mean(np.array(puddles) < 4096))
labkit.record("puddles_under_the_limit", np.mean(np.array(puddles) < limit))

# %% [markdown]
# Beside the configuration lies `train.py`, which registers both splits and trains: `python train.py`
# is all. Where Detectron2 is installed we let it register the data, read a picture of ours back through
# *its* mapper and build the model, and count classes once more where they end: in the shapes of
# the last layers.

# %%
holds = {}
if problem := optional_packages.problem("detectron2"):
    print(f"The export is not run: {problem}")
else:
    from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    spec = importlib.util.spec_from_file_location("exported", folder / out / "train.py")
    exported = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exported)
    registered = exported.register()
    cfg = exported.config("MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", "(128,)")
    entries_ = DatasetCatalog.get(registered[0])
    read = DatasetMapper(cfg, is_train=True, augmentations=[])(entries_[0])
    print(f"{registered}: {len(entries_)} pictures, {len(read['instances'])} objects in the first")
    print("things:", MetadataCatalog.get(registered[0]).thing_classes, end="; ")
    print("semantic classes:", MetadataCatalog.get(registered[0]).stuff_classes)
    network = build_model(cfg)
    outputs = {
        "boxes": network.roi_heads.box_predictor.cls_score.out_features,  # and background
        "masks": network.roi_heads.mask_head.predictor.out_channels,
        "semantic": network.sem_seg_head.predictor.out_channels,
    }
    print(f"outputs of the last layers: {outputs}")
    count = {"boxes": len(things) + 1, "masks": len(things), "semantic": len(stuff) + 1}
    holds["the last layers count the classes"] = outputs == count
    _, ground, objects = SITES["train"][0]
    mine = np.where(np.any([mask for _, mask in objects], axis=0), 0, 1 + ground.astype(int))
    holds["semantic map as drawn"] = bool((read["sem_seg"].numpy() == mine).all())
    seen = [(LABEL[name], mask) for name, mask in visible(objects) if mask.any()]
    drawn = sorted((label, mask.tobytes()) for label, mask in seen)
    masks = read["instances"].gt_masks.tensor.numpy()
    classes = read["instances"].gt_classes.tolist()
    found = sorted((label, mask.tobytes()) for label, mask in zip(classes, masks, strict=True))
    holds["objects as drawn"] = found == drawn
    _ = network.train()
    with EventStorage():  # Detectron2's losses write into one
        losses = network([read])
    print({name: round(value.item(), 2) for name, value in losses.items()})
    holds["losses are finite"] = all(np.isfinite(value.item()) for value in losses.values())
failed = [name for name, true in holds.items() if not true]
if holds:
    print(f"{len(holds)} statements about Detectron2, not true: {', '.join(failed) or 'none'}")
labkit.record("detectron2_statements_not_true", len(failed))

# %% [markdown]
# ## To take away
#
# - Keep instances apart when you paint: from classes no objects come back, and the errors of merging and
#   splitting hide each other. Masks are PNGs, resized by nearest neighbour, and 0 is nobody's class.
# - A contour through the middles of pixels has the area $N - B/2 - 1$: half of the border pixels, and one more, are lost; outer contours fill
#   holes; joined contours are nonsense; thin regions become polygons of two points. Areas and boxes come
#   from the mask. Run-length code has none of these problems.
# - Believe a conversion after a round trip, pixel by pixel, not after a look.
# - A program finds what is malformed and can point at what is odd. What is merely *false* it cannot see.
# - With few pictures begin from trained weights, and do not read agreement of shapes as agreement of
#   classes.
# - Bad labels cost most where objects are thin or hardly learnt. Shifts are seen by AP, dropped objects by
#   mIoU, both and swapped names by PQ. Part of the loss is only doubt: look at lower scores before you despair.
# - A model that was trained on labels with mistakes is a good proofreader of them.
# - Two class counts, ids against classes, semantic PNGs, the rate for the batch: let them follow from the
#   data instead of typing them.
#
# ## Exercises
#
# 1. **Your own pictures.** Paint ten photographs with any program that saves PNGs, write a category
#    file, use `data from-masks`, `data check` and `data show`, then train as in 9.7. Which findings were
#    mistakes?
# 2. **A keyhole.** A polygon can say *hole* after all: cut the ring open along a line and let the walk go
#    in, round the hole and out again. Join the two walks of `outlines` like this. What IoU does COCO's
#    program make of it, and what would a person who edits polygons say?
# 3. **Pick with holes.** Derive the error of `contourArea` for a mask with $h$ holes if `RETR_CCOMP` is
#    used and the holes' areas are subtracted, and check it on the pipes. (The contour of a hole runs
#    through pixels of the mask, outside the hole.)
# 4. **Fewer corners.** `cv2.approxPolyDP` makes polygons lighter. Draw the mean IoU of bags and planks
#    over the bytes for tolerances from 0.5 to 4 pixels. Where would you stop?
# 5. **A systematic mistake.** Let all masks be shifted by three pixels in the *same* direction. Is that
#    better or worse for the model than six pixels at random? Look at SQ and at the predictions.
# 6. **How much care?** Repeat section 9.8 with shares of 0.1, 0.2, 0.3 and draw PQ over the share. Is
#    there a share below which it does not matter?
# 7. **A better proofreader.** With a share of 0.3 of swapped labels, how many of the first fifty reports
#    are right? And let the model that was trained on dropped labels report detections without a label:
#    from which score on are most of them dropped objects?
# 8. **Is it the labels or their number?** Train on the clean labels of six pictures in ten alone. Is that better
#    than all pictures with four names in ten swapped?
#
# ## References
#
# - T.-Y. Lin, M. Maire, S. Belongie, J. Hays, P. Perona, D. Ramanan, P. Dollár, C. L. Zitnick.
#   Microsoft COCO: Common Objects in Context. ECCV 2014. The formats: https://cocodataset.org/#format-data.
# - A. Kirillov, K. He, R. Girshick, C. Rother, P. Dollár. Panoptic Segmentation. CVPR 2019; and its
#   program, https://github.com/cocodataset/panopticapi.
# - A. Kirillov, R. Girshick, K. He, P. Dollár. Panoptic Feature Pyramid Networks. CVPR 2019: things as
#   one class of the semantic branch.
# - G. Pick. Geometrisches zur Zahlenlehre. Sitzungsberichte des Vereins "Lotos", Prague 1899.
# - P. Goyal, P. Dollár, R. Girshick, P. Noordhuis, L. Wesolowski, A. Kyrola, A. Tulloch, Y. Jia, K. He.
#   Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour. 2017: the linear scaling rule.
# - D. Rolnick, A. Veit, S. Belongie, N. Shavit. Deep Learning is Robust to Massive Label Noise. 2017.
# - C. Northcutt, L. Jiang, I. Chuang. Confident Learning: Estimating Uncertainty in Dataset Labels.
#   Journal of Artificial Intelligence Research 70, 2021: a model that finds wrong labels.
# - Y. Wu, A. Kirillov, F. Massa, W.-Y. Lo, R. Girshick. Detectron2. 2019.
#   https://github.com/facebookresearch/detectron2.
