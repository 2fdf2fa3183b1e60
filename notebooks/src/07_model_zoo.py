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
# # 7. The model zoo
#
# **The question.** Others have trained for weeks, and the weights are free. What do you get when you
# download a network: what does the file hold, may you trust it, what does it find on *your* picture,
# and how do you tell that the code you run it with is right?
#
# By the end you have read the table of a model zoo, seen how much six digits of a hash are worth and
# what a pickle can do to you, lost a layer without noticing, repeated the experiment of an article with
# five networks on one photograph, found out what its numbers can and cannot say, measured time and
# memory, and held this library against the original.
#
# You need: notebooks 3, 4 and 5, and from notebook 6 that PQ is the quality of a panoptic map. **Nothing
# is downloaded unless you ask for it.** The published networks of this lesson are 1.9 GB, so that
# there are two ways to read it:
#
# - as it is: every experiment runs on six small networks that come with labkit, trained on the drawn
#   pictures of Shapes;
# - with `fetch = True` (the profile `full` does that as well): the published networks come, and the
#   same cells show photographs as well. What was fetched before is used without asking.

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: minutes; full: fetches, a GPU
seed: int = 0  # of random weights and forged files; the pictures are always the same
fetch: bool = False  # get the published networks, 1.9 GB, and the article's photograph
photograph: str = ""  # a picture of your own: the name of a file

# %%
# %matplotlib inline
import hashlib
import itertools
import pickle
import statistics
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import labkit
from labkit.checkpoints import detectron2, model_zoo
from labkit.checkpoints.safe_unpickle import read_pickle
from labkit.colors import PETROFF_10
from labkit.datasets.coco.categories import coco_panoptic
from labkit.datasets.fetch import catalog
from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor, as_image, load_model
from labkit.errors import LabkitError
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.models import build
from labkit.structures import Categories, Detections
from labkit.system import optional_packages
from labkit.system.distributed import default_device
from labkit.system.paths import download_folder
from labkit.system.progress_bars import progress_bar
from labkit.visualize import panels

num, num_short, digits, repeats = {
    "smoke": (4, 2, 2, 2),
    "quick": (100, 30, 4, 5),
    "full": (500, 100, 4, 10),
}[profile]
fetch = fetch or profile == "full"
_ = torch.manual_seed(seed)
blue, orange, red, grey, purple, brown = [np.array(c) / 255 for c in PETROFF_10[:6]]
threads = torch.get_num_threads()

SHOWN = 79  # the picture of Shapes that is drawn, see 7.4
val_set = Shapes("val")
shapes = val_set.categories
indices = sorted({*range(num), SHOWN})
val_items = [val_set[i] for i in progress_bar(indices, unit="image")]

# %% [markdown]
# ## 7.1 What a zoo publishes
#
# A **model zoo** is a table: for each network a configuration, a file of weights, and what it reaches on
# a data set that everybody knows. The article that we follow (*Panoptic segmentation and instance
# segmentation with Detectron2 on AMD GPUs*, 2024) takes five networks from Detectron2's zoo: two that
# draw panoptic maps, and three Mask R-CNNs that differ in the feature map that the detector looks at.
# We add UPSNet (notebook 5), and DETR (notebook 8), which works without anchors and suppression.

# %%
PUBLISHED = [
    "panoptic_fpn_R_101_3x",
    "panoptic_fpn_R_50_3x",
    "mask_rcnn_R_101_C4_3x",
    "mask_rcnn_R_101_DC5_3x",
    "mask_rcnn_R_101_FPN_3x",
    "upsnet_R_50",
    "detr_panoptic_R_50",
]
zoo = [model_zoo.find(name) for name in PUBLISHED]
print(f"{'':24}{'labkit model':20}{'MB':>5}{'box AP':>8}{'mask AP':>9}{'PQ':>6}  hash begins with")
for entry in zoo:
    numbers = [entry.metrics.get(m, "") for m in ("box AP", "mask AP", "PQ")]
    row = "{:>8}{:>9}{:>6}".format(*numbers)
    print(f"{entry.name:24}{entry.preset:20}{entry.megabytes:5}{row}  {entry.hash}")
for licence in dict.fromkeys(entry.licence for entry in zoo):
    print(f"\n{', '.join(e.name for e in zoo if e.licence == licence)}:\n  {licence}")
labkit.record("megabytes_of_the_line_up", sum(entry.megabytes for entry in zoo))

# %% [markdown]
# The names are the configuration in short: `R_101` is a residual network of 101 layers, `C4`, `DC5` and
# `FPN` the feature map (notebook 3), and `3x` the **schedule**: three times 90,000 steps of 16 images, of
# the 118,287 in COCO's training set. How often has such a network seen each picture?

# %%
epochs = 3 * 90_000 * 16 / 118_287
labkit.record("epochs_of_a_3x_schedule", epochs)
print(f"{epochs:.1f} times")

# %% [markdown]
# Read the numbers of a zoo with care. They are means over 5,000 pictures and eighty classes, measured by
# the publisher, at all scores (AP) or at one threshold (PQ). None of them says what you will see on one
# picture, and section 7.4 shows how far one picture is from any of them. And the licence is part of the
# row: weights are a work, which may be under other terms than the code. CC BY-SA asks you to name the
# authors and to share what you make of it alike; UPSNet's forbids commercial use, *also of a network that
# was trained on from it*.
#
# ## 7.2 A file from a stranger
#
# Three things can be wrong with a file of weights. It is **damaged**, or not the one that was meant. It is
# **hostile**. Or it is whole and harmless and belongs to **another network** than the one in front of you.
#
# **Damaged.** The publisher writes the first digits of the file's hash into its name: a download of
# `model_final_cafdb1.pkl` must have an md5 that begins with `cafdb1`. A hash of a damaged file is as good
# as random, so one in $16^6$ damaged files would pass, about one in 17 million. Against accidents that is
# plenty. Against someone who *wants* another file to pass, we try: append a number to a forged file until
# the digits are right.


# %%
def forge(content, prefix):
    """The first number that gives a file the wanted beginning of its md5."""
    begun = hashlib.md5(content)

    def fits(number):
        copy = begun.copy()
        copy.update(str(number).encode())
        return copy.hexdigest().startswith(prefix)

    return next(filter(fits, itertools.count()))


wanted = [hashlib.md5(f"{seed} original {k}".encode()).hexdigest()[:digits] for k in range(20)]
start = time.process_time()  # of this process alone, whatever else the machine does
tries = [forge(f"forged {k}".encode(), prefix) + 1 for k, prefix in enumerate(wanted)]
each = (time.process_time() - start) / sum(tries)
print(f"{digits} digits: {np.mean(tries):,.0f} tries on average, expected {16**digits:,}")
print(f"{1e6 * each:.2f} µs a try; 6 digits (Detectron2): {16**6 * each:.0f} s")
print(f"8 digits (torchvision): {16**8 * each / 3600:.1f} hours; 64 digits: {16.0**64:.0e} tries")
labkit.record(f"tries_for_{digits}_digits_over_expected", np.mean(tries) / 16**digits)
labkit.record("seconds_to_forge_6_digits", 16**6 * each)

# %% [markdown]
# Less than a minute, in Python, on one core. A hash prefix tells a *broken* file, never a forged one; only the whole
# hash, from a place that you trust, does that. So the second question cannot be left to the hash.
#
# **Hostile.** Detectron2's files are pickles, and a pickle is not data but a small program: it may name
# any function and have it called. Here is one that calls `print`; it could as well have sent your keys
# somewhere.


# %%
class Trap:
    def __reduce__(self):
        return print, ("  >>> this line was printed by the FILE, while it was being read",)


scratch = TemporaryDirectory(prefix="model_zoo_")  # removed when the notebook ends
folder = Path(scratch.name)
(folder / "trap.pkl").write_bytes(pickle.dumps({"model": Trap()}))
print("pickle.load:")
with (folder / "trap.pkl").open("rb") as file:
    pickle.load(file)
print("labkit:")
try:
    read_pickle(folder / "trap.pkl")
    refused = False
except LabkitError as error:
    print(f"  {str(error).replace(str(folder), '...')}")
    refused = True
labkit.record("hostile_pickle_refused", refused)

# %% [markdown]
# `labkit.checkpoints.safe_unpickle` knows the handful of calls that rebuild an array and refuses every other
# before anything is imported. (For PyTorch's own files `torch.load(..., weights_only=True)` does the same;
# safetensors, the format of labkit's own weights, cannot hold a program at all.)
#
# **Of another network.** What is left is a dictionary: names and arrays. Other projects use other names
# for the same layer. Below, a small network of labkit is written as Detectron2 would have written it, and
# read back.

# %%
model = load_model("panoptic_fpn_tiny")
state = model.state_dict()
theirs = detectron2.to_detectron2(state)
print(f"{len(state)} arrays; some names here and there:")
for ours, other in list(zip(state, theirs, strict=True))[::17]:
    print(f"  {ours:44}{other if ours != other else '(the same)'}")
content = {"model": {name: value.numpy() for name, value in theirs.items()}}
(folder / "published.pkl").write_bytes(pickle.dumps(content))
again = build("panoptic_fpn_tiny", shapes)
detectron2.load(folder / "published.pkl", again)
wrong = sum(not torch.equal(value, state[name]) for name, value in again.state_dict().items())
labkit.record("arrays_that_came_back_wrong", wrong)

# %% [markdown]
# Now the usual accident: one name does not fit, because a version renamed it or a rule was forgotten. In
# many scripts stands `load_state_dict(..., strict=False)`, which leaves a layer without a partner as it
# was: at random. What does that cost?


# %%
def pq_of(network, items):
    """Panoptic quality over some pictures."""
    predictor, metric = Predictor(network), PanopticQuality(shapes)
    for image, target in items:
        metric.update(predictor(image).panoptic, target["panoptic"])
    return metric.compute().all.pq


few, lost = val_items[:num_short], {}
complete = pq_of(model, few)
print(f"{'all layers':34}PQ {100 * complete:5.1f}")
for layer in ("backbone.lateral4", "roi_heads.box_head.fc2", "roi_heads.mask_head.conv1"):
    _ = torch.manual_seed(seed)
    lossy = build("panoptic_fpn_tiny", shapes)
    kept = {name: value for name, value in state.items() if not name.startswith(layer)}
    lossy.load_state_dict(kept, strict=False)  # no complaint
    pq = pq_of(lossy.eval(), few)
    print(f"without {layer:26}PQ {100 * pq:5.1f}")
    lost[layer] = complete - pq
for layer, points in lost.items():
    labkit.record(f"pq_lost_without_{layer}", points)

# %% [markdown]
# One of them costs a point, which nobody would notice, and none makes the network fail: it draws a
# plausible map, only worse. (Residual connections and neighbouring levels carry a network over a broken
# layer.) So labkit's readers accept a file only if *every* name and shape fits, otherwise the network
# stays as it was and the difference is listed:

# %%
content["model"]["roi_heads.box_head.fc_2.weight"] = content["model"].pop(
    "roi_heads.box_head.fc2.weight"
)
(folder / "renamed.pkl").write_bytes(pickle.dumps(content))
fresh = build("panoptic_fpn_tiny", shapes)
before = {name: value.clone() for name, value in fresh.state_dict().items()}
try:
    detectron2.load(folder / "renamed.pkl", fresh)
except LabkitError as error:
    print(str(error).replace(str(folder), "..."))
changed = sum(not torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
labkit.record("arrays_changed_by_a_file_that_does_not_fit", changed)

# %% [markdown]
# ## 7.3 The line-up
#
# Now the files. `labkit zoo get NAME...` in a terminal does what the next cell does: it shows the licence,
# resumes an interrupted download, checks the file against its hash, and only then gives it its name.
# It runs if you asked for it; otherwise it says what would be fetched. Files that are already in the
# download folder are used.


# %%
def describe(entry):
    digits = entry.hash.partition(":")[2] or "none published"
    host = urlsplit(entry.url).hostname
    return f"{entry.name}: {entry.megabytes} MB from {host}, beginning of the hash: {digits}"


home = download_folder()
article = catalog.catalogue()["coco-test-image"]
unreachable = {}  # by host, the first message: one is enough
for entry in zoo:
    host = urlsplit(entry.url).hostname
    if fetch and host not in unreachable:
        try:
            model_zoo.fetch_weights(entry, home)
        except LabkitError as error:
            unreachable[host] = str(error)
            print(f"NOT FETCHED: {error}")
if fetch and not catalog.is_here(article, home):
    try:
        catalog.fetch_dataset(article, home)
    except LabkitError as error:
        print(f"NOT FETCHED: {error}")

here = [entry.name for entry in zoo if entry.path(home).is_file()]
missing = [entry for entry in zoo if entry.name not in here]
if missing:
    print("Not here:" if fetch else "Not here; fetch = True would get, under the licences of 7.1:")
    print(*(f"  {describe(entry)}" for entry in missing), sep="\n")
if here:
    print(f"These published networks are used: {', '.join(here)}.")
else:
    print(
        "NO PUBLISHED NETWORK IS HERE. All pictures and numbers below are of the six small networks"
        " that come with labkit, on the drawn pictures of Shapes. They show the same effects, not the"
        " article's numbers."
    )
labkit.record("published_networks", len(here))
labkit.record("ran_on", "published weights" if here else "small networks on Shapes")

# %% [markdown]
# A **scene** is some pictures and the networks that are asked about them. The first is always there: the
# pictures of Shapes, whose truth we know, and the six small networks, C4, DC5 and FPN among them. With
# published networks there is a second, the article's photograph (image 16 of COCO's test set: a batter,
# a catcher and an umpire, before spectators). A photograph of your own (parameter `photograph`) is asked
# about with the best that is here.


# %%
@dataclass
class Scene:
    title: str  # "Shapes", "the article's" or "yours"
    networks: list[str]
    categories: Categories
    images: list[torch.Tensor]
    source: object  # for the app of 7.9: which picture
    shown: int = 0  # which of the images is drawn
    truth: list | None = None  # targets, where they are known
    found: dict = field(default_factory=dict)  # by network, a prediction for each image
    facts: dict = field(default_factory=dict)  # by network, what it costs


def small_enough(image, side=192):
    """Our small networks know pictures of 128 pixels; a photograph is made small for them."""
    shrink = side / max(image.shape[1:])
    if shrink >= 1:
        return image
    smaller = F.interpolate(image[None].float(), scale_factor=shrink, mode="area")[0]
    return smaller.round().to(torch.uint8)


small = [  # they come with labkit
    "mask_rcnn_tiny",
    "panoptic_fpn_tiny",
    "panoptic_fpn_tiny_c4",
    "panoptic_fpn_tiny_dc5",
    "upsnet_tiny",
    "detr_panoptic_tiny",
]
scenes = [
    Scene(
        "Shapes",
        small,
        shapes,
        [image for image, _ in val_items],
        ("shapes", SHOWN),
        indices.index(SHOWN),
        [target for _, target in val_items],
    )
]
test_image = home / article.folder / article.files[0].to
if here and test_image.is_file():
    image = as_image(test_image)
    scenes.append(Scene("the article's", here, coco_panoptic(), [image], test_image))
if photograph and here:
    image = as_image(photograph)
    scenes.append(Scene("yours", here, coco_panoptic(), [image], Path(photograph)))
elif photograph:
    print("Your photograph is shown to networks that know squares, circles and triangles only.")
    image = small_enough(as_image(photograph))
    plt.imsave(folder / "yours.png", image.permute(1, 2, 0).numpy())
    scenes.append(Scene("yours", small, shapes, [image], folder / "yours.png"))
for scene in scenes:
    height, width = scene.images[scene.shown].shape[1:]
    number = f"{len(scene.images)} pictures" if len(scene.images) > 1 else "one picture"
    print(f"{scene.title}: {number} of {width} × {height} pixels, {len(scene.networks)} networks")

# %% [markdown]
# Each network in turn is loaded, asked about all pictures of a scene, and measured. Time is the median of
# several runs after a first one that does not count (section 7.7). Memory is the most bytes that tensors
# held at one moment, weights aside: we listen to every operation of PyTorch, note the storage of its
# result, and cross it out when it is released. (What a compiled operator needs inside is not seen.)


# %%
class LiveTensors(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that are still in use, now and at most."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.storages = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        before = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if is_tensor(t)
        }
        result = operation(*args, **(kwargs or {}))
        for tensor in filter(is_tensor, tree_leaves(result)):
            storage = tensor.untyped_storage()
            key, size = storage.data_ptr(), storage.nbytes()
            if key and key not in before | self.storages:  # a view shares the storage of its input
                self.storages.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.released, key, size)
        return result

    def released(self, key, size):
        self.storages.discard(key)
        self.now -= size


def is_tensor(value):
    return isinstance(value, torch.Tensor)


def seconds_of(predictor, image):
    start = time.perf_counter()
    predictor(image)
    return time.perf_counter() - start


def examine(scene, name):
    """Ask a network about a scene's pictures, and note what it costs."""
    # Tensors of 128 pixels are so small that threads would wait for one another.
    torch.set_num_threads(1 if name in small else threads)
    predictor = Predictor(name)
    image = scene.images[scene.shown]
    first = seconds_of(predictor, image)
    times = [seconds_of(predictor, image) for _ in range(repeats)]
    with LiveTensors() as live:
        predictor(image)
    weights = list(predictor.model.parameters())
    scene.facts[name] = {
        "first": first,
        "seconds": statistics.median(times),
        "parameters": sum(w.numel() for w in weights) / 1e6,
        "weights": sum(w.nbytes for w in weights) / 1e6,
        "peak": live.peak / 1e6,
    }
    bar = progress_bar(scene.images, desc=name, unit="image", disable=len(scene.images) < 10)
    scene.found[name] = [predictor(image) for image in bar]


for scene in scenes:
    for name in list(scene.networks):
        try:
            examine(scene, name)
        except LabkitError as error:  # a damaged file costs its own row, not the experiment
            scene.networks.remove(name)
            print(f"LEFT OUT: {error}")

# %% [markdown]
# ## 7.4 The experiment, and what was counted
#
# The article prints one number for each network: `len(outputs["panoptic_seg"][1])` for the panoptic ones
# and `len(outputs["instances"])` for the others. It reports 7 and 6 "objects" for the two panoptic networks and
# 4 for each of the three detectors. Here is what is behind such numbers:

# %%
SCORE = 0.5  # the article's threshold


def sure(prediction, least=SCORE):
    """The objects of a prediction from a score on."""
    detections = prediction.detections
    return detections[detections.scores >= least]


def count(prediction, categories):
    """Segments, things among them, instances, and the names of the classes."""
    instances, panoptic = sure(prediction), prediction.panoptic
    segments = panoptic.segments if panoptic is not None else []
    things = sum(segment.label in categories.things for segment in segments)
    labels = [s.label for s in segments] or instances.labels.tolist()
    classes = [categories[label].name for label in sorted(set(labels))]
    return len(segments), things, len(instances), ", ".join(classes)


counts = {}
for scene in scenes:
    print(f"{scene.title} ({'small networks' if scene.networks == small else 'published weights'})")
    print(f"  {'':24}segments = things + stuff   instances   classes")
    if scene.truth:
        true = scene.truth[scene.shown]
        segments, things = len(true["panoptic"].segments), len(true["labels"])
        print(f"  {'(the truth)':24}{segments:8}{things:9}{segments - things:8}{things:12}")
    for name in scene.networks:
        prediction = scene.found[name][scene.shown]
        segments, things, instances, classes = count(prediction, scene.categories)
        counts[scene.title, name] = segments, instances
        row = (
            f"{segments:8}{things:9}{segments - things:8}"
            if segments
            else f"{'–':>8}{'–':>9}{'–':>8}"
        )
        print(f"  {name:24}{row}{instances:12}   {classes}")
for (title, name), (segments, instances) in counts.items():
    if title != "yours":
        where = "shapes" if title == "Shapes" else "article"
        labkit.record(f"{where}_instances_{name}", instances)
        if segments:
            labkit.record(f"{where}_segments_{name}", segments)

# %%
for scene in scenes:
    rows = []
    for name in scene.networks:
        prediction = scene.found[name][scene.shown]
        drawn = sure(prediction) if prediction.panoptic is None else prediction.panoptic
        rows.append((name, scene.images[scene.shown], drawn))
    if scene.truth:
        truth = scene.truth[scene.shown]["panoptic"]
        rows.insert(0, ("the truth", scene.images[scene.shown], truth))
    display(panels(rows, scene.categories, columns=3, size=3.6))

# %% [markdown]
# "All of them identified 4 objects, accurately", the article says of its detectors. Ours say 4 as well, all
# five that have anchors: that is why this picture was chosen among a hundred. Look at the panels, and at the truth.
# C4 has cut the large triangle in two, DC5 lists it a second time as a circle, and both have missed the small
# one beside it. Two mistakes, and the count is right. DETR counts 6, since it says some objects twice and has
# nothing that takes the second away.
#
# Three things about such numbers:
#
# - **7 and 4 are not counts of the same.** A panoptic map's segments are things *and* stuff: the grass and
#   the wall are two of the 7. The detectors' 4 are things alone.
# - **A count is a count at a threshold.** It was set to 0.5 there. Each network spreads its scores
#   differently, so that at another threshold the order of the counts is another.
# - **The same number is not the same answer.** One missed and one invented, and the count is right.
#
# The last two can be measured. First the threshold: objects in a picture, on average, over the score from
# which on they count.

# %%
STYLES = list(
    zip((blue, orange, red, purple, grey, brown), ("-", "--", "-.", ":", "-", "--"), strict=True)
)
least = np.linspace(0.05, 0.95, 37)
figure, axes = plt.subplots(
    1, len(scenes), figsize=(6.4 * len(scenes), 3.3), layout="constrained", squeeze=False
)
for axis, scene in zip(axes[0], scenes, strict=True):
    for name, (color, style) in zip(scene.networks, STYLES, strict=False):
        scores = torch.cat([p.detections.scores for p in scene.found[name]]).numpy()
        curve = [(scores >= t).sum() / len(scene.images) for t in least]
        axis.plot(least, curve, style, color=color, linewidth=2, label=name)
    if scene.truth:
        mean = np.mean([len(target["labels"]) for target in scene.truth])
        axis.axhline(mean, color="black", linewidth=0.8)
        axis.text(0.94, mean, "the truth", ha="right", va="bottom", fontsize=8)
    axis.axvline(SCORE, color="0.7", linewidth=0.8)
    axis.set(xlabel="smallest score that counts", ylabel="objects a picture", title=scene.title)
    axis.set(ylim=(0, None if scene.truth is None else 15))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
plt.show()
for name in small:
    scores = torch.cat([p.detections.scores for p in scenes[0].found[name]])
    for t in (0.25, 0.5, 0.75):
        labkit.record(f"mean_count_{name}_at_{t}", (scores >= t).sum().item() / len(indices))

# %% [markdown]
# Where a curve is flat, the network knows what it thinks; where it is steep, the threshold decides. For
# some threshold each network has the true count on average: any count can be reached by moving the
# threshold.
#
# Then the answer itself. An object of one list has a **partner** in another if there is one of its class
# there with a mask IoU above one half. In how many pictures is the *count* right, and in how many the
# *objects*, each true one found and nothing else?


# %%
def have_partners(a, b):
    """For each object of ``a`` (labels, masks) whether it has a partner among those of ``b``."""
    (labels_a, masks_a), (labels_b, masks_b) = a, b
    if not len(labels_a) or not len(labels_b):
        return torch.zeros(len(labels_a), dtype=torch.bool)
    rows, columns = masks_a.flatten(1).float(), masks_b.flatten(1).float()
    shared = rows @ columns.T
    union = rows.sum(dim=1)[:, None] + columns.sum(dim=1)[None] - shared
    same = labels_a[:, None] == labels_b[None]
    return ((shared > union / 2) & same).any(dim=1)


def objects_of(scene):
    """Labels and masks of the sure objects, by network and image; the truth last."""
    lists = {}
    for name in scene.networks:
        chosen = [sure(p) for p in scene.found[name]]
        lists[name] = [(d.labels, d.masks) for d in chosen]
    if scene.truth:
        lists["the truth"] = [(t["labels"], t["masks"]) for t in scene.truth]
    return lists


objects = {scene.title: objects_of(scene) for scene in scenes}
of_shapes = objects["Shapes"]
print(f"{'':26}count right   objects right   of {len(indices)} pictures")
shares = {}
for name in small:
    pairs = list(zip(of_shapes[name], of_shapes["the truth"], strict=True))
    counted = [len(mine[0]) == len(true[0]) for mine, true in pairs]
    matched = [
        same and bool(have_partners(true, mine).all() and have_partners(mine, true).all())
        for same, (mine, true) in zip(counted, pairs, strict=True)
    ]
    shares[name] = np.mean(counted), np.mean(matched)
    print(f"{name:26}{sum(counted):11}{sum(matched):16}")
for name, (count_right, objects_right) in shares.items():
    labkit.record(f"share_count_right_{name}", count_right)
    labkit.record(f"share_objects_right_{name}", objects_right)

# %% [markdown]
# A count flatters, and the worse the network the more: with C4 and DC5 more than half of the right counts
# are of wrong objects, with DETR about half. That five networks count 4 on *one* picture says next to nothing about them.
#
# ## 7.5 Who agrees with whom
#
# Without the truth, which you do not have for your own pictures, networks can still be compared with one
# another. Agreement of two lists: the share of the objects in both that have a partner in the other.

# %%


def agreement(a, b):
    """2 · matched / (all of a + all of b), over the pictures."""
    matched = sum(
        int(have_partners(x, y).sum() + have_partners(y, x).sum())
        for x, y in zip(a, b, strict=True)
    )
    return matched / max(sum(len(x[0]) + len(y[0]) for x, y in zip(a, b, strict=True)), 1)


tables = {}
figure, axes = plt.subplots(
    1, len(scenes), figsize=(5.6 * len(scenes), 4.2), layout="constrained", squeeze=False
)
for axis, scene in zip(axes[0], scenes, strict=True):
    lists = objects[scene.title]
    table = np.array([[agreement(a, b) for b in lists.values()] for a in lists.values()])
    tables[scene.title] = table
    axis.imshow(table, vmin=0, vmax=1, cmap="Blues")
    for y, x in np.ndindex(table.shape):
        color = "white" if table[y, x] > 0.6 else "black"
        axis.text(x, y, f"{table[y, x]:.2f}", ha="center", va="center", fontsize=8, color=color)
    axis.set_xticks(range(len(lists)), lists, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(len(lists)), lists, fontsize=8)
    axis.set_title(f"agreement of the objects, {scene.title}", fontsize=9)
plt.show()
order = list(of_shapes)
for a, b in itertools.combinations(
    ("mask_rcnn_tiny", "panoptic_fpn_tiny", "upsnet_tiny", "panoptic_fpn_tiny_dc5"), 2
):
    labkit.record(f"agreement_{a}_{b}", tables["Shapes"][order.index(a), order.index(b)])

# %% [markdown]
# Does agreement mean that they are right? On Shapes we can ask. For each object that one of the six
# reports: how many of them (itself included) report it, and is it true?

# %%
votes, right = [], []
for name in small:
    for k, mine in enumerate(of_shapes[name]):
        votes.append(sum(have_partners(mine, of_shapes[other][k]).int() for other in small))
        right.append(have_partners(mine, of_shapes["the truth"][k]))
votes, right = torch.cat(votes).numpy(), torch.cat(right).numpy()
print("reported by   objects   of them true")
true_share = {}
for number in np.unique(votes):
    true_share[number] = right[votes == number].mean()
    print(f"{number:11}{(votes == number).sum():10}{true_share[number]:15.1%}")
for number, share in true_share.items():
    labkit.record(f"true_if_reported_by_{number}", share)

# %% [markdown]
# What a single network claims is nearly always wrong, what all six claim is nearly always right, and no
# truth was needed to sort them. But votes count only if the voters are independent. Three of ours
# (`mask_rcnn_tiny`, `panoptic_fpn_tiny`, `upsnet_tiny`) were trained on from the same weights, and agree with
# one another more than with the truth: compare the table. What they all get wrong has three votes as well.
# (Exercise 3 looks for pictures on which all six agree and err.)
#
# ## 7.6 Red and blue
#
# The article reads its photograph with matplotlib, which returns red, green, blue, and hands it to
# Detectron2's `DefaultPredictor`, which expects blue first, as OpenCV reads. Nothing complains: three
# channels are three channels. Were its results those of the network? We exchange red and blue and look.

# %%
names, measured = ["panoptic_fpn_tiny", "upsnet_tiny"], {}
torch.set_num_threads(1)
print(f"{'':44}{'PQ':>6}{'things':>8}{'stuff':>7}   segments a picture")
for name in names:
    predictor = Predictor(name)
    for title, flip in (("as it should", False), ("red and blue exchanged", True)):
        metric, segments = PanopticQuality(shapes), []
        for image, target in few:
            panoptic = predictor(image.flip(0) if flip else image).panoptic
            metric.update(panoptic, target["panoptic"])
            segments.append(len(panoptic.segments))
        result, mean = metric.compute(), np.mean(segments)
        parts = [100 * part.pq for part in (result.all, result.things, result.stuff)]
        print(f"{name:20}{title:24}" + "{:6.1f}{:8.1f}{:7.1f}".format(*parts) + f"{mean:10.1f}")
        measured[name, flip] = np.array([result.things.pq, result.stuff.pq, mean])
for scene in scenes[1:]:
    image = scene.images[scene.shown]
    for name in scene.networks:
        predictor = Predictor(name)
        exchanged, usual = predictor(image.flip(0)), scene.found[name][scene.shown]
        a, b = [(d.labels, d.masks) for d in (sure(usual), sure(exchanged))]
        print(f"{scene.title}, {name}: {len(a[0])} objects, exchanged {len(b[0])}, ", end="")
        print(f"agreement {agreement([a], [b]):.2f}")
for name in names:
    things, stuff, more = measured[name, True] - measured[name, False]
    labkit.record(f"pq_things_lost_by_the_exchange_{name}", -things)
    labkit.record(f"pq_stuff_lost_by_the_exchange_{name}", -stuff)
    labkit.record(f"segments_more_by_the_exchange_{name}", more)

# %% [markdown]
# Things lose a few points, since colour says little about a square. Stuff loses thirty and more: the sky has
# become brown. And the **count goes up**. A mistake of this kind does not look like one; the network finds
# something in any picture. What protects from it is a comparison of numbers with someone else's, on the same picture,
# which is section 7.8.
#
# In labkit the order of the colours is part of a network's *preprocessing*, like the mean that is subtracted and
# the size to which a picture is brought: `Predictor` takes red first, always, and hands on what the weights
# were trained with.

# %%
for name in dict.fromkeys([*here, *small]):
    preset = model_zoo.find(name).preset if name in here else name
    with torch.device("meta"):
        classes = shapes if name in small else model_zoo.find(name).list_categories()
        preprocessing = build(preset, classes).config.preprocessing
    order = "blue, green, red" if preprocessing.bgr else "red, green, blue"
    size = "as it is"
    if preprocessing.resize is not None:
        size = f"{preprocessing.min_size} to {preprocessing.max_size}"
    print(f"{name:26}{order}, mean {[round(v, 3) for v in preprocessing.mean]}, size {size}")

# %% [markdown]
# ## 7.7 What it costs
#
# "Do not use the above code snippets for benchmarking", says the article, and it is right: the first run
# of a network also pays for what is done once, from memory that is asked for to kernels that are chosen. On
# a GPU one would moreover measure how long it takes to *ask*, as the work itself goes on in the background
# (notebook 10). Here: the first run, then the median of several, with the picture's way through resizing and back.

# %%
for scene in scenes:
    on = "1 thread" if scene.networks == small else f"{default_device().type}, {threads} threads"
    print(f"{scene.title} ({on})")
    print(f"  {'':26}{'million':>9}{'weights':>10}{'tensors':>12}{'first run':>12}{'median':>9}")
    print(f"  {'':26}{'weights':>9}{'MB':>10}{'at most, MB':>12}{'ms':>12}{'ms':>9}")
    for name in scene.networks:
        f = scene.facts[name]
        print(
            f"  {name:26}{f['parameters']:9.2f}{f['weights']:10.1f}{f['peak']:12.1f}"
            f"{1000 * f['first']:12.0f}{1000 * f['seconds']:9.0f}"
        )
facts = scenes[0].facts
for name in small:
    labkit.record(f"million_weights_{name}", facts[name]["parameters"])
    labkit.record(f"peak_megabytes_{name}", facts[name]["peak"])
    labkit.record(f"milliseconds_{name}", 1000 * facts[name]["seconds"])
fpn, c4 = facts["panoptic_fpn_tiny"], facts["panoptic_fpn_tiny_c4"]
labkit.record("peak_c4_over_fpn", c4["peak"] / fpn["peak"])
labkit.record("seconds_c4_over_fpn", c4["seconds"] / fpn["seconds"])

# %% [markdown]
# C4 has the fewest weights, and needs by far the most time and memory: it runs the last stage of the
# backbone on every region (notebook 3). The size of a file says little about what a network costs.
#
# ## 7.8 Beside Detectron2
#
# Is what labkit computes what Detectron2 computes? Where Detectron2 is installed (`labkit install
# detectron2`) both get the same weights and the same picture, and the answers are compared number by
# number: with the published networks if they are here; otherwise with a ResNet-50 Mask R-CNN whose
# random weights are made to find a hundred objects. For the equality of two programs any weights will do.


# %%
def detectron2_predictor(entry):
    """Detectron2's own predictor with a file of its zoo."""
    from detectron2 import model_zoo
    from detectron2.engine import DefaultPredictor

    kind = "Panoptic" if entry.preset.startswith("panoptic") else "Instance"
    config = model_zoo.get_config(f"COCO-{kind}Segmentation/{entry.name}.yaml")
    config.MODEL.WEIGHTS = str(entry.path(home))
    config.MODEL.DEVICE = default_device().type
    return DefaultPredictor(config)


def difference(name, ours, theirs):
    """Print and record how far two lists of detections are apart."""
    from labkit.bench.detectors import agreement as compare_detections

    result = compare_detections(ours, theirs)
    print(f"{name}: {result}")
    same = result.boxes is not None and result.labels == 0 and result.boxes < 0.01
    differing.append(not (same and result.scores < 1e-3))


differing = []
if problem := optional_packages.problem("detectron2"):
    print(f"Nothing is compared: {problem}")
elif len(scenes) > 1 and scenes[1].networks == here:
    scene = scenes[1]
    bgr = scene.images[0].flip(0).permute(1, 2, 0).numpy()  # blue first: see 7.6
    for entry in zoo:
        if entry.name not in scene.networks or entry.format != "detectron2":
            continue
        predictor, bgr = detectron2_predictor(entry), np.ascontiguousarray(bgr)
        answer = predictor(bgr)
        seconds = statistics.median(seconds_of(predictor, bgr) for _ in range(repeats))
        d, prediction = answer["instances"].to("cpu"), scene.found[entry.name][0]
        theirs = Detections(d.pred_boxes.tensor, d.scores, d.pred_classes, d.pred_masks)
        difference(entry.name, prediction.detections, theirs)
        print(f"  median {seconds:.2f} s, labkit {scene.facts[entry.name]['seconds']:.2f} s")
        if prediction.panoptic is not None:
            ids, segments = answer["panoptic_seg"]
            apart = int((ids.cpu() != prediction.panoptic.ids).sum())
            print(f"  {len(segments)} and {len(prediction.panoptic.segments)} segments; ", end="")
            print(f"the map differs in {apart} of {ids.numel()} pixels")
else:
    from labkit.bench.detectors_peers import InputSizes, detectron2_pair, test_image

    torch.set_num_threads(threads)
    setting = InputSizes((96, 128), 160, 267) if profile == "smoke" else InputSizes()
    pair, image = detectron2_pair(setting), test_image(setting)
    pair.theirs.eval()
    with torch.no_grad():
        theirs = pair.detections(pair.predict(image))
    ours = Predictor(pair.ours, torch.device("cpu"))(image).detections
    difference("Mask R-CNN R50-FPN, random weights", ours, theirs)
labkit.record("compared_with_detectron2", len(differing))
labkit.record("different_from_detectron2", sum(differing))

# %% [markdown]
# (Equal means: the same number of objects with the same classes, boxes to a hundredth of a pixel, scores
# to a thousandth. Two programs that add in another order never agree to the last bit.)
#
# ## 7.9 All of it to play with
#
# The figure shows the networks on the picture of section 7.4, with what is right and wrong where the truth
# is known. The app below it is the same with controls: choose networks and a picture, your own included,
# move the threshold, point at a segment to see what each network says about that pixel.

# %%
from labkit.widgets.compare.compare import compare

last = scenes[-1]
compare(last.networks, last.source, difference=last.truth is not None)

# %%
from labkit.widgets import Compare

Compare(last.networks, last.source)

# %% [markdown]
# ## To take away
#
# - A row of a zoo is a configuration, a file, numbers that its publisher measured, and a licence.
# - The beginning of a hash tells a damaged file, not a forged one. A pickle is a program: read arrays
#   only. Load strictly: a network with a layer at random still draws plausible maps.
# - Counting is not measuring. Segments and instances are different things, both depend on a threshold, and a
#   right count may be of wrong objects.
# - Agreement of networks sorts true objects from false ones without a truth, as far as the networks are
#   independent.
# - Wrong preprocessing (here red and blue) does not crash; it costs quality where you may not look.
# - The number of weights says little about time and memory: regions that each run convolutions cost most.
#
# ## Exercises
#
# 1. **The schedule.** From the table of 7.1 and `labkit zoo list`: what do 50 more layers buy in AP and PQ,
#    what does a schedule three times as long (`panoptic_fpn_R_50_1x` and `_3x`)? Which would you pay for?
# 2. **More digits.** In 7.2 measure 3, 4 and 5 digits. How does the time grow, and how long would a forger
#    need for the 8 digits of torchvision on your machine with all of its cores?
# 3. **All agree and err.** Find the pictures of Shapes with an object that all six report and that is not
#    true. Draw them. What do they have in common? Repeat 7.5 with `Shapes("val", crowded=True)`: is "all
#    six" still a proof?
# 4. **A fair threshold.** For each small network find the threshold at which its mean count is the truth's.
#    In how many pictures are the *objects* right then?
# 5. **Other preprocessing.** Instead of exchanging red and blue, subtract no mean (give the model another
#    `config.preprocessing`, with `dataclasses.replace`), or shift the picture by ten grey levels. Which is
#    worst, and does a count tell?
# 6. **Your photograph.** Set `photograph`. Without published networks: why do networks that know three
#    classes find squares in it, and with which scores? With them: which of your objects belong to none of
#    the 133 classes, and what are they called?
# 7. **Detectron2's defaults.** The article sets `SCORE_THRESH_TEST = 0.5`. Which results of the *panoptic*
#    networks does that change, given that the merge has a threshold of its own (notebook 4)?
#
# ## References
#
# - V. L. Bayanagari. Panoptic segmentation and instance segmentation with Detectron2 on AMD GPUs. ROCm
#   blogs, 2024: the experiment.
# - Y. Wu, A. Kirillov, F. Massa, W.-Y. Lo, R. Girshick. Detectron2. 2019. Its zoo:
#   https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md.
# - K. He, G. Gkioxari, P. Dollár, R. Girshick. Mask R-CNN. ICCV 2017 (C4 and FPN).
# - J. Dai et al. Deformable Convolutional Networks. ICCV 2017 (the dilated fifth stage, DC5).
# - A. Kirillov, R. Girshick, K. He, P. Dollár. Panoptic Feature Pyramid Networks. CVPR 2019.
# - Y. Xiong et al. UPSNet: A Unified Panoptic Segmentation Network. CVPR 2019.
# - T.-Y. Lin et al. Microsoft COCO: Common Objects in Context. ECCV 2014.
# - Python's documentation of `pickle`: the warning at the top of the page.
