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
# # 4. Panoptic FPN
#
# **The question.** One network says which class each pixel has, another finds the objects. Can one
# network do both, and how do its two answers become one map in which nothing overlaps?
#
# By the end you have counted the pixels on which the two answers contradict one another, built the
# semantic branch and taken its answer apart level by level, trained both branches together, turned
# the weight between them and seen how little a short study may claim, written the merge, moved each of
# its thresholds, and compared three backbones.
#
# You need: notebooks 1 and 3, and patience for two minutes of training in all. Notebook 6 has panoptic
# quality, PQ = SQ × RQ, in detail; here it is enough that SQ is how well the segments that were found
# fit, and RQ how many were found and how many invented.

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: minutes; full: a GPU
seed: int = 0

# %%
# %matplotlib inline
import time
from collections import defaultdict
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from torch import nn
from torch.nn import functional as F

import labkit
from labkit.checkpoints.run_folder import start_from
from labkit.colors import PETROFF_10
from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor, load_model
from labkit.engine.train import TrainConfig, train
from labkit.metrics.coco_ap import COCOAP
from labkit.metrics.panoptic_matching import summarize
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.semantic import ConfusionMatrix
from labkit.models import build
from labkit.models.panoptic_fpn.merge import merge
from labkit.models.preprocess import preprocess
from labkit.models.presets import PRESETS
from labkit.models.semantic.losses import cross_entropy, label_maps, semantic_targets
from labkit.structures import (
    IGNORE,
    VOID,
    Panoptic,
    Prediction,
    Segment,
)
from labkit.system.cpu_cores import use_threads
from labkit.system.progress_bars import progress_bar
from labkit.visualize import draw, loss_curves, panels

num_train, num_val, num_study, steps, branch_steps, study_steps = {
    "smoke": (16, 6, 4, 2, 1, 1),
    "quick": (500, 100, 60, 160, 100, 60),
    "full": (10_000, 300, 300, 6000, 1000, 2000),
}[profile]
BATCH = 8 if profile == "full" else 2
_ = torch.manual_seed(seed)
if profile != "full":
    use_threads(1)  # the tensors are small: threads would wait for one another
random = np.random.default_rng(seed)
blue, orange, red, grey, purple = [np.array(c) / 255 for c in PETROFF_10[:5]]

train_set = Shapes("train", num=num_train, seed=seed)
val_set = Shapes("val", num=num_val, seed=seed)
crowded_set = Shapes("val", num=num_val, crowded=True, seed=seed)
categories = train_set.categories
THINGS, STUFF = len(categories.things), len(categories.stuff)
SETS = {
    name: [dataset[i] for i in progress_bar(range(num_val), unit="image")]
    for name, dataset in (("Shapes", val_set), ("crowded", crowded_set))
}

# %% [markdown]
# ## 4.1 The task
#
# A **panoptic segmentation** gives each pixel $i$ a pair $(\ell_i, z_i)$: a class $\ell_i$ and the
# number $z_i$ of an instance. The classes are of two kinds, $\mathcal{L} = \mathcal{L}^{Th} \cup
# \mathcal{L}^{St}$:
#
# - **things** are countable: all pixels with the same $(\ell_i, z_i)$ are one object;
# - **stuff** is not: $z_i$ says nothing, and all the grass of a picture is one segment.
#
# A pixel has one pair, so segments **do not overlap**. A semantic segmentation has the $\ell_i$ and no
# $z_i$. An instance segmentation has things only, and its masks may overlap as they like. The
# crowded variant of Shapes shows why it matters: squares that touch are one region in the middle
# picture, and on the right they are counted.

# %%
rows, full = [], {}
for name, items in SETS.items():  # of the first pictures the one with the most objects in sight
    _, full[name] = max(
        (sum(s.label < THINGS for s in target["panoptic"].segments), k)
        for k, (_, target) in enumerate(items[:8])
    )
    image, target = items[full[name]]
    rows += [
        (name, image, None),
        ("the class ℓ of each pixel", image, target["semantic"]),
        ("the pair (ℓ, z)", image, target["panoptic"]),
    ]
panels(rows, categories, columns=3)

# %% [markdown]
# ## 4.2 Why two answers disagree
#
# The obvious way is to ask two networks, one for the classes of all pixels and one for the objects.
# Here are a Mask R-CNN (notebook 3) and a semantic segmenter, both trained on Shapes and loaded from
# the weights that come with labkit. (The segmenter is the semantic half of `panoptic_fpn_tiny`, whose
# other half we use in a moment.) Neither knows what the other said, and at each pixel four things may
# go wrong:

# %%
KINDS = (
    "agree",
    "two objects want the pixel",
    "an object here, stuff there",
    "an object here, another class there",
    "a thing there, no object here",
)
CONFIDENT = 0.5


def contradictions(found, semantic):
    """For every pixel the number of what is wrong in ``KINDS``; ``found`` is the instance answer."""
    sure = found[found.scores >= CONFIDENT]
    masks, labels = sure.masks, sure.labels
    claims = masks.sum(dim=0)  # (H, W)
    top = torch.full(semantic.shape, -1)
    for mask, label in zip(masks.flip(0), labels.flip(0), strict=True):  # the best score last
        top[mask] = label
    wrong = torch.zeros_like(semantic)
    wrong[(claims == 0) & (semantic < THINGS)] = 4
    wrong[(claims > 0) & (semantic < THINGS) & (semantic != top)] = 3
    wrong[(claims > 0) & (semantic >= THINGS)] = 2
    wrong[claims > 1] = 1
    return wrong


detector, panoptic_fpn = load_model("mask_rcnn_tiny"), load_model("panoptic_fpn_tiny")


def predictions_of(model, items):
    """A model's answers to all pictures, and the milliseconds that one takes."""
    predictor, answers, times = Predictor(model), [], []
    for image, _ in progress_bar(items, unit="image", leave=False):
        start = time.perf_counter()
        answers.append(predictor(image))
        times.append(time.perf_counter() - start)
    return answers, 1000 * float(np.median(times))


said = {name: predictions_of(panoptic_fpn, items) for name, items in SETS.items()}
ms_of_fpn = said["Shapes"][1]
said = {name: answers for name, (answers, _) in said.items()}
by_detector = {name: predictions_of(detector, items)[0] for name, items in SETS.items()}

print(
    f"{'contradictions, % of':32}" + "".join(f"{k:>13}" for k in ("things", "stuff", "all pixels"))
)
shares = {}
for name, items in SETS.items():
    for who, objects in (("two networks", by_detector[name]), ("one network", said[name])):
        count, pixels = np.zeros((2, len(KINDS))), np.zeros(2)
        for with_objects, with_classes, (_, target) in zip(objects, said[name], items, strict=True):
            wrong = contradictions(with_objects.detections, with_classes.semantic)
            for row, part in enumerate((target["semantic"] < THINGS, target["semantic"] >= THINGS)):
                count[row] += np.bincount(wrong[part], minlength=len(KINDS))
                pixels[row] += int(part.sum())
        shares[name, who] = count[:, 1:].sum() / pixels.sum()
        values = [*(count[:, 1:].sum(axis=1) / pixels), shares[name, who]]
        print(f"{name + ', ' + who:32}" + "".join(f"{100 * v:13.1f}" for v in values))
        labkit.record(f"contradictions_{who}_{name}".replace(" ", "_"), shares[name, who])

# %% [markdown]
# On the picture with the most of them:

# %%
most = int(
    np.argmax(
        [
            (contradictions(a.detections, b.semantic) > 0).float().mean()
            for a, b in zip(by_detector["crowded"], said["crowded"], strict=True)
        ]
    )
)
image, target = SETS["crowded"][most]
colors = ["white", "black", "#ffd21a", "#e0007f", "#00a087"]  # none is a colour of a class
figure, axes = plt.subplots(1, 4, figsize=(11.4, 3.6), layout="constrained")
first, second = by_detector["crowded"][most].detections, said["crowded"][most].semantic


def confident(detections):
    """Those that are counted in ``contradictions``."""
    return detections[detections.scores >= CONFIDENT]


for axis, title, shown in (
    (axes[0], "image", None),
    (axes[1], "the objects", confident(first)),
    (axes[2], "the classes", second),
):
    draw(axis, image, shown, categories, names=False)
    axis.set_title(title, fontsize=9)
wrong = contradictions(first, second)
axes[3].imshow(image.float().mean(dim=0), cmap="gray", alpha=0.35)
axes[3].imshow(
    np.ma.masked_equal(wrong, 0), cmap=ListedColormap(colors), vmin=0, vmax=4, interpolation="none"
)
axes[3].set_axis_off()
axes[3].set_title(f"contradictions: {float((wrong > 0).float().mean()):.0%} of the pixels", size=9)
figure.legend(
    handles=[Patch(color=c, label=k) for c, k in zip(colors[1:], KINDS[1:], strict=True)],
    loc="outside lower center",
    ncols=4,
    fontsize=8,
    frameon=False,
)
plt.show()

# %% [markdown]
# Outlines that differ by a pixel, an object that only one of them saw, a square that the other takes for
# a triangle, and masks that overlap because nothing forbids it. Two networks contradict one another, and
# so do, hardly less, the two branches of one: sharing features does not make them agree. Some rule has to
# decide (section 4.6). But must it be two networks, with twice the weights and twice the
# time? That is the question of *Panoptic Feature Pyramid Networks* (Kirillov et al., 2019).
#
# ## 4.3 The semantic branch
#
# A Mask R-CNN on a feature pyramid has everything that a semantic segmentation needs: maps that are fine
# *and* know what they see. The smallest possible addition brings all its levels to one size and adds
# them:
#
# $$s = W \Big( \sum_{l=2}^{5} u_l(P_l) \Big) + b, \qquad
# u_l = \underbrace{(\uparrow_2 \circ \mathrm{ReLU} \circ \mathrm{GN} \circ \mathrm{conv}_{3 \times 3})}_{
# l - 2 \text{ times}} .$$
#
# The level $P_5$ of stride 32 is convolved and doubled three times, $P_4$ twice, $P_3$ once, and $P_2$,
# which already has stride 4, is convolved once without doubling. The sum is as large as a quarter of
# the picture; $W$ is a $1 \times 1$ convolution; and the scores are enlarged four times at the end.


# %%
class SemanticBranch(nn.Module):
    def __init__(self, inputs, channels, outputs, doublings):
        super().__init__()
        self.doublings = doublings  # by level
        for level, number in doublings.items():
            layers = []
            for k in range(max(1, number)):
                layers += [
                    nn.Conv2d(inputs if k == 0 else channels, channels, 3, padding=1, bias=False),
                    nn.GroupNorm(channels // 4, channels),
                ]
            self.add_module(level, nn.ModuleList(layers))
        self.predictor = nn.Conv2d(channels, outputs, 1)

    def bring(self, level, x, tell=lambda what, x: None):
        """A level (B, D, h, w) at the common size (B, c, H/4, W/4)."""
        layers = list(self.get_submodule(level))
        for conv, norm in zip(layers[::2], layers[1::2], strict=True):
            x = F.relu(norm(conv(x)))
            tell("convolved", x)
            if self.doublings[level]:
                x = F.interpolate(x, scale_factor=2, mode="bilinear")
                tell("doubled", x)
        return x

    def forward(self, features):
        return self.predictor(sum(self.bring(level, features[level]) for level in self.doublings))


DOUBLINGS = {"p2": 0, "p3": 1, "p4": 2, "p5": 3}
theirs = panoptic_fpn.sem_seg_head
branch = SemanticBranch(64, 64, len(categories), DOUBLINGS)
# The same layers in the same order, under other names: the weights are copied one by one.
weights = zip(branch.state_dict(), theirs.state_dict().values(), strict=True)
_ = branch.load_state_dict(dict(weights))

with torch.no_grad():
    batch = preprocess([SETS["Shapes"][0][0]], panoptic_fpn.config.preprocessing)
    features = panoptic_fpn.backbone(batch.tensor)
    for level in DOUBLINGS:
        print(f"{level}: {'':8}{tuple(features[level].shape)}")
        branch.bring(level, features[level], lambda what, x: print(f"    {what:9}{tuple(x.shape)}"))
    logits = branch(features)
    enlarged = F.interpolate(logits, batch.padded_size, mode="bilinear")
    print(f"sum and classes {tuple(logits.shape)}, enlarged {tuple(enlarged.shape)}")
    worst = 0.0
    for image, _ in SETS["Shapes"][:10]:
        batch = preprocess([image], panoptic_fpn.config.preprocessing)
        features = panoptic_fpn.backbone(batch.tensor)
        worst = max(worst, (branch(features) - theirs(features)).abs().max().item())
labkit.record("own_branch_vs_labkit", worst)
size = {
    "detector": sum(p.numel() for p in detector.parameters()),
    "branch": sum(p.numel() for p in branch.parameters()),
}
print(", ".join(f"{k}: {v / 1e6:.2f} million weights" for k, v in size.items()))
labkit.record("branch_over_detector_weights", size["branch"] / size["detector"])

# %% [markdown]
# **Who says what.** After the sum everything is linear, so the scores of the branch are *exactly* the
# sum of what the levels contribute, $s = \sum_l W u_l(P_l) + b$. That lets us ask the branch what it
# would say without its finer levels: for a level that is left out we put its mean over the picture, so
# that it still says what it says on average, and no longer where.

# %%
ORDER = ("p5", "p4", "p3", "p2")
confusions = {level: ConfusionMatrix(categories) for level in ORDER}
shown, gap = [], 0.0
with torch.no_grad():
    for k, (image, target) in enumerate(progress_bar(SETS["Shapes"][:40], unit="image")):
        batch = preprocess([image], panoptic_fpn.config.preprocessing)
        features = panoptic_fpn.backbone(batch.tensor)
        of_level = {
            level: F.conv2d(branch.bring(level, features[level]), branch.predictor.weight)
            for level in ORDER
        }  # (1, C, H/4, W/4) each
        for last in range(len(ORDER)):
            total = branch.predictor.bias[:, None, None]
            for level in ORDER:
                used = ORDER.index(level) <= last
                total = total + (of_level[level] if used else of_level[level].mean((2, 3), True))
            enlarged = F.interpolate(total, batch.padded_size, mode="bilinear")
            answer = enlarged[0].argmax(dim=0)
            confusions[ORDER[last]].update(answer, target["semantic"])
            if k == full["Shapes"]:
                shown.append((f"and {ORDER[last]}" if last else "p5 alone", image, answer))
        gap = max(gap, (total - branch(features)).abs().max().item())
        if k == full["Shapes"]:
            shown.append(("truth", image, target["semantic"]))
labkit.record("sum_of_levels_vs_branch", gap)
for level in ORDER:
    result = confusions[level].compute()
    stuff, things = np.nanmean(result.iou[THINGS:]), np.nanmean(result.iou[:THINGS])
    print(f"down to {level}: mIoU {result.miou:.2f}, of stuff {stuff:.2f}, of things {things:.2f}")
    labkit.record(f"miou_down_to_{level}", result.miou)
panels(shown, categories, columns=5, names=False, size=2.3)

# %% [markdown]
# The levels were trained to work together, so none of the first answers is what a branch on that level
# alone would learn; but it shows who is responsible for what. Large objects appear with $P_4$, as blobs, and
# get their outlines and small neighbours from the finer levels. Stuff waits for those almost entirely: here
# it differs by texture, and a texture is a matter of a few pixels.
#
# ## 4.4 Joint training
#
# Both branches read the same maps, so both send their gradients into the same backbone. The losses are
# added:
#
# $$L = \lambda_i (L_c + L_b + L_m) + \lambda_s L_s$$
#
# with the three losses of the instance branch (class, box, mask), those of the proposal network in
# addition, and $L_s$, the cross-entropy of the classes, a mean over all labelled pixels. Why the weights?
# The losses are means over different things, some tens of boxes there and thousands of pixels here, and
# are of different size. We compute the sum by hand from our own branch and compare:

# %%
images, targets = zip(*(SETS["Shapes"][k % num_val] for k in range(2)), strict=True)
plain = panoptic_fpn.config
truth = torch.stack([target["semantic"] for target in targets])
with torch.no_grad():
    panoptic_fpn.train()  # losses, not predictions; nothing in this network behaves differently
    torch.manual_seed(seed)  # proposals are sampled: the same ones twice
    panoptic_fpn.config = replace(plain, instance_loss_weight=1.0, semantic_loss_weight=1.0)
    one = panoptic_fpn(images, targets)
    torch.manual_seed(seed)
    panoptic_fpn.config = replace(plain, instance_loss_weight=0.5, semantic_loss_weight=2.0)
    total = sum(panoptic_fpn(images, targets).values())
    _ = panoptic_fpn.eval()
    panoptic_fpn.config = plain
    batch = preprocess(images, plain.preprocessing)
    logits = branch(panoptic_fpn.backbone(batch.tensor))
    enlarged = F.interpolate(logits, batch.padded_size, mode="bilinear")
    L_s = F.cross_entropy(enlarged, truth, ignore_index=IGNORE)
L_c, L_b, L_m = one["loss_cls"], one["loss_box_reg"], one["loss_mask"]
by_hand = one["loss_rpn_cls"] + one["loss_rpn_loc"] + 0.5 * (L_c + L_b + L_m) + 2.0 * L_s
print(", ".join(f"{k} {float(v):.3f}" for k, v in one.items()))
labkit.record("joint_loss_by_hand_error", abs(float(total - by_hand)))

# %% [markdown]
# Now both branches together, from nothing. A minute of training does not make a good model; it makes the
# losses visible.


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
        maps = {key: target[key].flip(-1) for key in ("masks", "semantic")}
        return image.flip(-1), {**target, **maps, "boxes": boxes}


def measure(answers, items):
    """AP of masks, mIoU and PQ."""
    ap, iou = COCOAP(categories, val_set.area_limits), ConfusionMatrix(categories)
    pq = PanopticQuality(categories)
    for answer, (_, target) in zip(answers, items, strict=True):
        ap.update(answer, target)
        iou.update(answer.semantic, target["semantic"])
        pq.update(answer.panoptic, target["panoptic"])
    return {"AP": ap.compute().segm.ap, "mIoU": iou.compute().miou, "PQ": pq.compute()}


drawn = Drawn(train_set)
study_items = SETS["Shapes"][:num_study]
_ = torch.manual_seed(seed)
model = build("panoptic_fpn_tiny", categories)
start = time.perf_counter()
history = train(model, drawn, TrainConfig(steps=steps, batch_size=BATCH, seed=seed))
print(f"{steps} steps in {time.perf_counter() - start:.0f} s")
losses = {name: np.array(values) for name, values in history.losses.items()}
loss_curves(
    {
        "$L_s$, classes of pixels": losses["loss_sem_seg"],
        "$L_c + L_b + L_m$, objects": losses["loss_cls"]
        + losses["loss_box_reg"]
        + losses["loss_mask"],
        "proposals": losses["loss_rpn_cls"] + losses["loss_rpn_loc"],
    }
)

# %%
answers = [p for p, _ in Predictor(model).predict_dataset(study_items)]
result = measure(answers, study_items)
pq = result["PQ"]
print(
    f"after {steps} steps from nothing: AP {100 * result['AP']:.1f}, mIoU {100 * result['mIoU']:.1f},"
    f" PQ {100 * pq.all.pq:.1f} (things {100 * pq.things.pq:.1f}, stuff {100 * pq.stuff.pq:.1f})"
)
labkit.record("scratch_miou", result["mIoU"])
labkit.record("scratch_pq_things", pq.things.pq)
labkit.record("scratch_pq_stuff", pq.stuff.pq)
labkit.record("scratch_loss_last_over_first", losses["total"][-20:].mean() / losses["total"][0])
panels(
    [
        item
        for k in (0, 3)
        for item in (
            ("image", study_items[k][0], None),
            ("after a short training", study_items[k][0], answers[k].panoptic),
            ("truth", study_items[k][0], study_items[k][1]["panoptic"]),
        )
    ],
    categories,
    columns=3,
)

# %% [markdown]
# The classes of the pixels come first: grass and water are told apart by texture, at each pixel anew,
# while an object must be proposed, classified and outlined before it counts.
#
# ## 4.5 One network or two, and how much of each
#
# In practice nobody starts from nothing. We take the trained detector and add the branch. The detector
# is frozen for the first steps, so that the fresh branch, whose first gradients mean little, spoils
# nothing. That is a baseline in itself: a network with both answers, in which only the branch has learnt
# that there is stuff.

# %%
_ = torch.manual_seed(seed)
joined = build("panoptic_fpn_tiny", categories)
fresh = start_from(joined, detector)
print(f"{len(fresh)} tensors stay fresh, all in", ", ".join({name.split(".")[0] for name in fresh}))


class SemanticFPNAlone(nn.Module):
    """The backbone and the semantic branch of a Panoptic FPN, without the objects."""

    def __init__(self, whole):
        super().__init__()
        self.config = whole.config
        self.backbone, self.branch = whole.backbone, whole.sem_seg_head

    def forward(self, images, targets=None):
        batch = preprocess(images, self.config.preprocessing, self.training)
        logits = self.branch(self.backbone(batch.tensor)).float()  # (B, C, H/4, W/4)
        logits = F.interpolate(logits, batch.padded_size, mode="bilinear")
        if not self.training:
            return label_maps(logits, batch)
        gt_labels = semantic_targets(targets, len(categories), batch.padded_size)
        return {"loss_sem_seg": cross_entropy(logits, gt_labels)}


_ = joined.backbone.requires_grad_(False)
config = TrainConfig(steps=branch_steps, batch_size=2 * BATCH, lr=3e-3, warmup=10, seed=seed)
history = train(SemanticFPNAlone(joined), drawn, config)
_ = joined.backbone.requires_grad_(True)
beginning = {name: value.clone() for name, value in joined.state_dict().items()}

# %% [markdown]
# From this common beginning, all for the same number of steps on the same pictures:
#
# - **two networks**: the detector goes on alone, and so does a copy with nothing but the backbone and
#   the branch (*Semantic FPN*); each has a backbone to itself, and their answers are merged;
# - **one network**, with $\lambda_i = 1$ and three values of $\lambda_s$.
#
# Everything is done twice with different seeds, so that we see at least roughly how far two runs of the
# *same* row lie apart. A seed decides which pictures come in which order, for all rows alike. (Steps are AdamW's, which divides every weight's gradient by its usual size: for a
# weight that only $L_s$ reaches, $\lambda_s$ then cancels. What $\lambda_s$ decides is who is heard in
# the weights that both reach, the backbone. With SGD, as in the paper, it scales the steps as well.)

# %%
WEIGHTS = (0.1, 1.0, 5.0)
study = defaultdict(list)  # row to one result for each seed
cost = {}  # row to (weights, seconds of training, milliseconds an image)


def trained(network, config):
    """Train, then answer; with seconds of training and milliseconds an image."""
    start = time.perf_counter()
    train(network, drawn, config)
    seconds = time.perf_counter() - start
    return (*predictions_of(network, study_items), seconds)


def weights_of(*networks):
    return sum(p.numel() for network in networks for p in network.parameters()) / 1e6


def one_network(value):
    preset = replace(PRESETS["panoptic_fpn_tiny"], semantic_loss_weight=value)
    network = preset.build(categories)
    network.load_state_dict(beginning)
    return network


before = one_network(1.0)
answers, ms = predictions_of(before, study_items)
study["only the branch"].append(measure(answers, study_items))
cost["only the branch"] = (weights_of(before), 0.0, ms)
for run in range(2):
    config = TrainConfig(steps=study_steps, batch_size=BATCH, lr=1e-3, warmup=10, seed=seed + run)
    objects, classes = build("mask_rcnn_tiny", categories), SemanticFPNAlone(one_network(1.0))
    _ = start_from(objects, detector)
    first, ms_first, seconds_first = trained(objects, config)
    second, ms_second, seconds_second = trained(classes, config)
    both = [
        Prediction(
            a.detections,
            b.semantic,
            merge(a.detections, b.semantic, categories, min_stuff_area=plain.min_stuff_area),
        )
        for a, b in zip(first, second, strict=True)
    ]
    study["two networks"].append(measure(both, study_items))
    cost["two networks"] = (
        weights_of(objects, classes),
        seconds_first + seconds_second,
        ms_first + ms_second,
    )
    for value in WEIGHTS:
        network = one_network(value)
        answers, ms, seconds = trained(network, config)
        study[f"one, λ_s = {value:g}"].append(measure(answers, study_items))
        cost[f"one, λ_s = {value:g}"] = (weights_of(network), seconds, ms)

COLUMNS = {
    "AP": lambda r: r["AP"],
    "PQ Th": lambda r: r["PQ"].things.pq,
    "mIoU": lambda r: r["mIoU"],
    "PQ St": lambda r: r["PQ"].stuff.pq,
    "PQ": lambda r: r["PQ"].all.pq,
}
print(f"{'':18}" + "".join(f"{c:>13}" for c in COLUMNS) + "   weights   train  an image")
for row, results in study.items():
    text = ""
    for column in COLUMNS.values():
        of_runs = [100 * column(r) for r in results]
        spread = f" ± {np.ptp(of_runs) / 2:.1f}" if len(of_runs) > 1 else ""
        text += f"{np.mean(of_runs):7.1f}{spread:6}"
    millions, seconds, ms = cost[row]
    print(f"{row:18}{text}{millions:8.2f} M{seconds:6.0f} s{ms:7.0f} ms")

# %%
rows = [row for row in study if row != "only the branch"]
figure, axes = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained")
for axis, name in zip(axes, ("AP", "mIoU", "PQ"), strict=True):
    for run, marker in enumerate("os"):
        values = [100 * COLUMNS[name](study[row][run]) for row in rows]
        axis.plot(values, marker + "-", color=(blue, orange)[run], label=f"seed {seed + run}")
    before = 100 * COLUMNS[name](study["only the branch"][0])
    axis.axhline(before, color="0.4", linestyle=":", label="only the branch")
    ticks = [row.replace("one, λ_s", "$λ_s$").replace(" n", "\nn") for row in rows]
    axis.set_xticks(range(len(rows)), ticks)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_title(name, fontsize=9)
    axis.set_xlim(-0.4, len(rows) - 0.6)
    axis.grid(axis="y", alpha=0.3)
figure.legend(
    *axes[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=3,
    fontsize=8,
    frameon=False,
)
plt.show()

for column in ("AP", "mIoU", "PQ"):
    for row, of_row in study.items():
        short = row.replace("one, λ_s = ", "weight_").replace(" ", "_")
        labkit.record(f"{column}_{short}", float(np.mean([COLUMNS[column](r) for r in of_row])))
    spreads = [np.ptp([COLUMNS[column](r) for r in study[row]]) for row in rows]
    labkit.record(f"largest_difference_between_two_seeds_{column}", max(spreads))

print(f"\n{'differences of runs':24}" + "".join(f"{c:>17}" for c in ("AP", "mIoU", "PQ")))
PAIRS = {
    "weight_1_minus_0.1": ("one, λ_s = 1", "one, λ_s = 0.1"),
    "weight_5_minus_1": ("one, λ_s = 5", "one, λ_s = 1"),
    "one_minus_two": ("one, λ_s = 1", "two networks"),
}
paired = {}
for name, (row, other) in PAIRS.items():
    text = ""
    for column in ("AP", "mIoU", "PQ"):
        gaps = [
            100 * (COLUMNS[column](a) - COLUMNS[column](b))
            for a, b in zip(study[row], study[other], strict=True)
        ]
        paired[column, name] = float(np.mean(gaps)) / 100
        text += f"{', '.join(f'{gap:+.1f}' for gap in gaps):>17}"
    print(f"{name.replace('_', ' '):24}{text}")
for (column, name), gap in paired.items():
    labkit.record(f"{column}_{name}", gap)
labkit.record("weights_two_over_one", cost["two networks"][0] / cost["one, λ_s = 1"][0])

# %% [markdown]
# **What may be read from this?** A row moves by a point or two from one seed to the other, as much as some
# rows lie apart. But a seed moves all rows together, as the lines show, so we compare runs of the *same*
# seed.
#
# - With the backbone frozen the branch stays ten points of mIoU behind: what serves a detector is not all
#   that grass and water need. Where the backbone may move, stuff is better at once. The objects, which
#   have been trained for thousands of steps before, pay a point or two for the disturbance.
# - From $\lambda_s = 0.1$ to 1 mIoU and PQ rise clearly, for both seeds; from there to 5 nothing more is
#   gained. AP falls, barely beyond the noise. Both answers pull at one backbone, and
#   $\lambda_s$ says how hard one of them does.
# - One network with $\lambda_s = 1$ is as good as two at the classes, a point or so behind in AP and PQ, and
#   has two thirds of the weights.
#
# What it cannot say: two seeds are not many, sixty pictures are not either, and runs this short measure how
# *fast* a branch learns. In long trainings the rows come closer.
#
# The paper's own tables, with full trainings on COCO, for comparison:
#
# | backbone | AP | PQ Th | mIoU | PQ St | PQ |
# | --- | --- | --- | --- | --- | --- |
# | R50-FPN × 2, two networks | 33.9 | 46.6 | 40.2 | 27.9 | 39.2 |
# | R50-FPN, one network | 33.3 | 45.9 | 41.0 | 28.7 | 39.0 |
# | R101-FPN, one network | 35.2 | 47.5 | 42.1 | 29.5 | 40.3 |
#
# There too one network gives up a little at objects, gains a little at stuff, and ends nearly level. And what is
# saved can be spent: the larger backbone of the last row costs less than the second network. We count:

# %%
with torch.device("meta"):  # shapes without numbers: nothing is filled in or trained
    large = {depth: build(f"panoptic_fpn_r{depth}", categories) for depth in (50, 101)}
    alone = build("mask_rcnn_r50", categories)
two = weights_of(alone, SemanticFPNAlone(large[50]))
print(f"R50-FPN × 2: {two:.1f} million weights", end="")
for depth, network in large.items():
    print(f", one R{depth}-FPN: {weights_of(network):.1f}", end="")
print()
labkit.record("weights_two_over_one_r50", two / weights_of(large[50]))
labkit.record("weights_two_r50_over_one_r101", two / weights_of(large[101]))

# %% [markdown]
# ## 4.6 The merge, step by step
#
# The rule that makes one map of two answers is as simple as non-maximum suppression:
#
# 1. Take the objects with a score of at least `score_thresh`, the best first.
# 2. Paint each where nothing is painted yet. If more than the part `overlap_thresh` of it is painted
#    already, leave it out: it is probably an object that was seen twice.
# 3. Where nothing is painted, paint the stuff of the semantic answer; a class of stuff on fewer than
#    `min_stuff_area` pixels of the picture is left out.
# 4. What is left is void: undecided. Things of the semantic answer paint nothing, for nobody knows which
#    instance they would be.


# %%
def my_merge(detections, semantic, score_thresh=0.5, overlap_thresh=0.5, min_stuff_area=218):
    """The panoptic map, and the story of how it came about."""
    ids, segments, story = torch.zeros_like(semantic, dtype=torch.int32), [], []
    for k in detections.scores.argsort(descending=True, stable=True).tolist():
        score, label = float(detections.scores[k]), int(detections.labels[k])
        if score < score_thresh:
            break
        mask = detections.masks[k]
        free = mask & (ids == VOID)
        area, left = int(mask.sum()), int(free.sum())
        taken = (area - left) / area if area else 1.0
        what = "is left out"
        if left and taken <= overlap_thresh:
            segments.append(Segment(len(segments) + 1, label, score=score))
            ids[free] = segments[-1].id
            what = f"is painted as {len(segments)}"
        name = categories[label].name
        story.append((f"{name} {score:.2f}, {area} pixels, {taken:.0%} taken: {what}", ids.clone()))
    for label in categories.stuff:
        free = (semantic == label) & (ids == VOID)
        area = int(free.sum())
        if area and area >= min_stuff_area:
            segments.append(Segment(len(segments) + 1, label))
            ids[free] = segments[-1].id
        if area:
            what = "is painted" if area >= min_stuff_area else "is left out"
            story.append((f"{categories[label].name}, {area} pixels: {what}", ids.clone()))
    return Panoptic(ids, segments), story


differ, stories = 0, {}
for name in SETS:
    stories[name] = []
    for answer in said[name]:
        mine, story = my_merge(
            answer.detections, answer.semantic, min_stuff_area=plain.min_stuff_area
        )
        differ += int((mine.ids != answer.panoptic.ids).sum())
        differ += mine.segments != answer.panoptic.segments
        stories[name].append([text for text, _ in story])
labkit.record("own_merge_vs_labkit", differ)

# A picture with objects left out, not too many to follow, and as much of it covered as can be.
suits = []
for answer, story in zip(said["crowded"], stories["crowded"], strict=True):
    left_out = sum("taken" in line and "left out" in line for line in story)
    covered = int((answer.panoptic.semantic() < THINGS).sum())
    suits.append(covered if left_out >= 2 and len(story) <= 24 else left_out)
example = int(np.argmax(suits))
image, target = SETS["crowded"][example]
answer = said["crowded"][example]
whole, story = my_merge(answer.detections, answer.semantic, min_stuff_area=plain.min_stuff_area)
print("\n".join(text for text, _ in story))


def part(ids, panoptic=whole):
    """A panoptic map as far as it has been painted."""
    present = set(ids.unique().tolist())
    return Panoptic(ids, [s for s in panoptic.segments if s.id in present])


objects = sum(s.score is not None for s in whole.segments)
painted = [ids for text, ids in story if "painted as" in text]
lines = [text for text, _ in story]
shown = [("the image", image, None)]
shown.append(("objects, with overlaps", image, confident(answer.detections)))
shown.append(("classes", image, answer.semantic))
for number in (1, (objects + 1) // 2, objects):
    if painted and number:
        shown.append((f"{number} painted", image, part(painted[number - 1])))
shown.append(("and stuff", image, whole))
shown.append(("truth", image, target["panoptic"]))
panels(shown, categories, columns=4, names=False)

# %% [markdown]
# `labkit.models.panoptic_fpn.merge.merge` does the same on bytes instead of tensors, and the two agree on every pixel.
#
# **The price of deciding.** Kirillov and others first merged two networks and then asked what the merge
# cost: PQ of things with the objects alone, PQ of stuff with the classes alone, and both after merging.
# (For the first, the overlaps still have to be resolved.)


# %%
def panoptic_quality(answers, items, **thresholds):
    """PQ of what is merged from cached answers: no network runs again."""
    quality = PanopticQuality(categories)
    thresholds = {"min_stuff_area": plain.min_stuff_area, **thresholds}
    for answer, (_, target) in zip(answers, items, strict=True):
        merged = merge(answer.detections, answer.semantic, categories, **thresholds)
        quality.update(merged, target["panoptic"])
    return quality.compute()


def without_classes(answer):
    return Prediction(answer.detections, torch.full_like(answer.semantic, IGNORE))


def without_objects(answer):
    return Prediction(answer.detections[:0], answer.semantic)


print(f"{'':22}{'PQ St':>8}{'PQ Th':>8}{'PQ':>8}")
for name, items in SETS.items():
    things = panoptic_quality([without_classes(a) for a in said[name]], items).things.pq
    stuff = panoptic_quality([without_objects(a) for a in said[name]], items).stuff.pq
    merged = panoptic_quality(said[name], items)
    after_merge = merged.stuff.pq, merged.things.pq
    print(f"{name + ', separate':22}{100 * stuff:8.1f}{100 * things:8.1f}{'n/a':>8}")
    values = (*after_merge, merged.all.pq)
    print(f"{name + ', merged':22}" + "".join(f"{100 * v:8.1f}" for v in values))
    labkit.record(f"pq_things_merged_minus_separate_{name}", merged.things.pq - things)
    labkit.record(f"pq_stuff_merged_minus_separate_{name}", merged.stuff.pq - stuff)

# %% [markdown]
# PQ of things cannot change, since objects are painted first. PQ of stuff can, in both directions: an
# object that is not there hides stuff that is, and one that is there takes back what the classes had
# spilled over its outline. In the published table (two strong networks on Cityscapes, ADE20k and Vistas)
# PQ of stuff falls by 0.2, 2.9 and 1.9; here the two effects about balance, and in a crowd the second is the
# larger one.
#
# ## 4.7 What the thresholds do
#
# The answers are cached, so trying a threshold costs a merge and no network. One threshold moves, the
# other two stay. On the crowded variant:

# %%
GRID = {
    "score_thresh": (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    "overlap_thresh": (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 0.99),
    "min_stuff_area": (0, 50, 109, 218, 436, 872, 1744, 3488, 6976),
}
LABELS = {
    "score_thresh": "score_thresh: least score of an object",
    "overlap_thresh": "overlap_thresh: largest part that may be hidden",
    "min_stuff_area": "min_stuff_area: fewest pixels of stuff",
}
curves = {
    key: [panoptic_quality(said["crowded"], SETS["crowded"], **{key: v}) for v in values]
    for key, values in GRID.items()
}
figure, axes = plt.subplots(2, 3, figsize=(10.5, 5.2), layout="constrained", sharey="row")
for column, (key, values) in zip(axes.T, GRID.items(), strict=True):
    for axis, kind in zip(column, ("things", "stuff"), strict=True):
        for what, color, style in (("pq", blue, "o-"), ("sq", orange, "s--"), ("rq", red, "^:")):
            line = [100 * getattr(getattr(r, kind), what) for r in curves[key]]
            axis.plot(values, line, style, color=color, label=what.upper(), markersize=4)
        axis.axvline(getattr(plain, key), color="0.6", linewidth=1)
        axis.grid(alpha=0.3)
        axis.set_title(f"{kind} over {key}", fontsize=9)
        if key == "min_stuff_area":
            axis.set_xscale("symlog", linthresh=50)
            axis.set_xlim(-8, 9000)
            axis.set_xticks([0, 50, 218, 872, 3488], ["0", "50", "218", "872", "3488"])
            axis.xaxis.set_minor_locator(NullLocator())
    column[1].set_xlabel(LABELS[key], fontsize=9)
axes[0, 0].legend(frameon=False, fontsize=8)
plt.show()


def at(key, value, kind, what="pq"):
    return getattr(getattr(curves[key][GRID[key].index(value)], kind), what)


for key, values in GRID.items():
    best = values[int(np.argmax([r.all.pq for r in curves[key]]))]
    print(f"{key}: the best PQ, {100 * max(r.all.pq for r in curves[key]):.1f}, at {best}")
    short = key.removeprefix("min_").removesuffix("_thresh")
    labkit.record(f"best_{short}", best)
    labkit.record(
        f"gain_of_the_best_{short}",
        max(r.all.pq for r in curves[key]) - at(key, getattr(plain, key), "all"),
    )
labkit.record("rq_things_score_0.05", at("score_thresh", 0.05, "things", "rq"))
labkit.record("rq_things_score_0.5", at("score_thresh", 0.5, "things", "rq"))
labkit.record("rq_things_score_0.95", at("score_thresh", 0.95, "things", "rq"))
labkit.record(
    "pq_things_overlap_0_minus_0.5",
    at("overlap_thresh", 0.0, "things") - at("overlap_thresh", 0.5, "things"),
)
labkit.record(
    "pq_things_overlap_0.99_minus_0.5",
    at("overlap_thresh", 0.99, "things") - at("overlap_thresh", 0.5, "things"),
)
labkit.record(
    "pq_stuff_area_0_minus_218",
    at("min_stuff_area", 0, "stuff") - at("min_stuff_area", 218, "stuff"),
)
labkit.record(
    "pq_stuff_area_6976_minus_218",
    at("min_stuff_area", 6976, "stuff") - at("min_stuff_area", 218, "stuff"),
)

# %% [markdown]
# The same in pictures, each threshold far too low and far too high:


# %%
def tried(answer, **thresholds):
    thresholds = {"min_stuff_area": plain.min_stuff_area, **thresholds}
    return merge(answer.detections, answer.semantic, categories, **thresholds)


EXTREMES = {
    "score_thresh": (0.05, 0.95),
    "overlap_thresh": (0.0, 0.99),
    "min_stuff_area": (0, 6976),
}


def change(answer, key, value):
    """Share of the pixels that get another class or lose theirs."""
    return (tried(answer, **{key: value}).semantic() != answer.panoptic.semantic()).float().mean()


shown = []
for key, (low, high) in EXTREMES.items():
    # The picture on which the two ends differ most from the middle.
    changes = [min(change(a, key, low), change(a, key, high)) for a in said["crowded"]]
    if key == "min_stuff_area":  # too high always removes a lot; we look for what too low lets in
        changes = [float(change(a, key, low)) for a in said["crowded"]]
    k = int(np.argmax(changes))
    image, target = SETS["crowded"][k]
    answer = said["crowded"][k]
    shown += [
        (f"{key} {v}", image, tried(answer, **{key: v})) for v in (low, getattr(plain, key), high)
    ]
    shown.append(("truth", image, target["panoptic"]))
panels(shown, categories, columns=4, names=False, size=2.6)

# %% [markdown]
# - **score_thresh** trades objects that are missed for objects that are invented. RQ of things is nearly flat
#   over a wide middle, below which objects are invented, and it falls steeply once the sure ones alone are left.
#   SQ rises on the way, for it looks only at what matched, and what is sure fits better.
# - **overlap_thresh** decides what happens to the object behind. At 0 an object that is touched by a better one
#   is dropped whole; near 1 what peeps out from under another becomes an object of its own.
# - **min_stuff_area** removes crumbs of stuff. Each would be a false positive, as heavy for PQ as a sky over
#   half the picture. Too high a value removes true regions.
#
# Thresholds are chosen on validation pictures, as here, and then used on others; a gain that is found by
# trying thirty values on a hundred pictures is partly luck.
#
# ## 4.8 Things and stuff
#
# PQ is a mean over the classes, and hides which ones are hard. With the thresholds back in the middle:

# %%
results = {name: panoptic_quality(said[name], items) for name, items in SETS.items()}
heads = "".join(f"{h:>7}" for h in ("PQ", "SQ", "RQ"))
print(f"{'':10}{'Shapes':>21}{'crowded':>25}")
print(f"{'':10}{heads}    {heads}")


def line(quality):
    return "".join(f"{100 * v:7.1f}" for v in (quality.pq, quality.sq, quality.rq))


for of_shapes, of_crowded in zip(*(r.per_class for r in results.values()), strict=True):
    print(f"{of_shapes.name:10}{line(of_shapes)}    {line(of_crowded)}")
for kind in ("things", "stuff", "all"):
    print(f"{kind:10}" + "    ".join(line(getattr(r, kind)) for r in results.values()))
for name, result in results.items():
    labkit.record(f"pq_things_{name}", result.things.pq)
    labkit.record(f"pq_stuff_{name}", result.stuff.pq)

# %% [markdown]
# On the usual pictures things and stuff are nearly level. In a crowd both fall, stuff since the colours of its
# regions are close there, and things much further, since small objects of nearly one colour that touch are
# hard to count. SQ says that what is found is still outlined well; it is RQ that breaks down.
#
# ## 4.9 The homework: which backbone?
#
# The lecture's homework is to change the backbone and to discuss what happens, with numbers and with
# pictures. Here are Panoptic FPNs on the three backbones of notebook 3, trained longer than a lesson can
# wait, and not equally long: FPN for 47 minutes, DC5 for 24, C4, whose steps cost most, for 10
# (`data/README.md` has the commands). So the table shows what is there, not what could be:
#
# - **FPN**: the pyramid, as above;
# - **C4**: one map of stride 16, after the fourth stage; the fifth runs on every region, and the
#   semantic branch is $u_4$ alone;
# - **DC5**: one map of stride 16 too, but after the fifth stage, which is dilated.

# %%
BACKBONES = {
    "FPN": "panoptic_fpn_tiny",
    "C4": "panoptic_fpn_tiny_c4",
    "DC5": "panoptic_fpn_tiny_dc5",
}
small_limit, large_limit = val_set.area_limits
compared = {}  # (backbone, set) to everything below


def counts_of(answers, items):
    """Sum of IoU, TP, FP, FN of every class for each picture, ``(pictures, classes, 4)``."""
    counts = []
    for answer, (_, target) in zip(answers, items, strict=True):
        quality = PanopticQuality(categories)
        quality.update(answer.panoptic, target["panoptic"])
        counts.append(quality.counts)
    return np.stack(counts)


def objects_of(answers, items):
    """For each true object its visible area and whether a segment of its class matches it."""
    rows = []
    for answer, (_, target) in zip(answers, items, strict=True):
        true, made = target["panoptic"], answer.panoptic
        g, p = true.ids.numpy(), made.ids.numpy()
        shared = np.zeros((g.max() + 1, p.max() + 1))
        np.add.at(shared, (g, p), 1)
        union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
        label_of = {s.id: s.label for s in made.segments}
        for s in true.segments:
            if s.label < THINGS:
                partners = np.flatnonzero(shared[s.id] / union[s.id] > 0.5)
                rows.append((shared[s.id].sum(), any(label_of.get(k) == s.label for k in partners)))
    return np.array(rows)


print(
    f"{'':13}{'PQ':>7}{'PQ Th':>7}{'PQ St':>7}{'AP':>7}{'mIoU':>7}   weights  an image   found: small medium large"
)
for kind, name in BACKBONES.items():
    network = load_model(name)
    for of, items in SETS.items():
        answers, ms = (said[of], ms_of_fpn) if kind == "FPN" else predictions_of(network, items)
        result = measure(answers, items)
        areas, hit = objects_of(answers, items).T
        sizes = (
            areas < small_limit,
            (areas >= small_limit) & (areas < large_limit),
            areas >= large_limit,
        )
        found = [hit[size].mean() if size.any() else 0.0 for size in sizes]
        compared[kind, of] = {
            **{c: column(result) for c, column in COLUMNS.items()},
            "counts": counts_of(answers, items),
            "panoptic": [a.panoptic for a in answers],
            "found": found,
        }
        values = [compared[kind, of][c] for c in ("PQ", "PQ Th", "PQ St", "AP", "mIoU")]
        print(
            f"{kind + ', ' + of:13}"
            + "".join(f"{100 * v:7.1f}" for v in values)
            + f"{weights_of(network):8.2f} M{ms:7.0f} ms"
            + " " * 9
            + "".join(f"{share:7.0%}" for share in found)
        )
        for c in ("PQ", "PQ Th", "PQ St", "AP", "mIoU"):
            labkit.record(f"{kind}_{of}_{c.replace(' ', '_')}", compared[kind, of][c])
        labkit.record(f"{kind}_{of}_small_objects_found", found[0])
    labkit.record(f"{kind}_million_weights", weights_of(network))

# %% [markdown]
# **Is a difference real?** The networks see the same pictures, so we may ask how the *difference* would
# vary if the pictures had been others: draw as many pictures as we have from ours, with repetition, a
# thousand times, and look at where 95 % of the differences lie (a bootstrap). It says nothing about what
# another seed of the training would have given.


# %%
def pq_of(counts):
    """PQ of all, things and stuff from counts ``(classes, 4)``."""
    result = summarize(counts, [(c.id, c.name, c.isthing) for c in categories])
    return np.array([result.all.pq, result.things.pq, result.stuff.pq])


draws = random.multinomial(
    num_val, [1 / num_val] * num_val, size=1000 if profile != "smoke" else 50
)
print(f"{'PQ of FPN minus':24}{'all':>22}{'things':>22}{'stuff':>22}")
for of in SETS:
    for other in ("C4", "DC5"):
        of_fpn, of_other = compared["FPN", of]["counts"], compared[other, of]["counts"]
        gaps = [
            pq_of(np.tensordot(drawn_times, of_fpn, 1))
            - pq_of(np.tensordot(drawn_times, of_other, 1))
            for drawn_times in draws.astype(float)
        ]
        middle = pq_of(of_fpn.sum(axis=0)) - pq_of(of_other.sum(axis=0))
        low, high = np.nanquantile(gaps, (0.025, 0.975), axis=0)
        text = "".join(
            f"{100 * m:8.1f} [{100 * a:4.1f}, {100 * b:4.1f}]"
            for m, a, b in zip(middle, low, high, strict=True)
        )
        print(f"{other + ', ' + of:24}{text}")
        for k, kind in enumerate(("all", "things", "stuff")):
            labkit.record(f"pq_{kind}_fpn_minus_{other}_{of}", middle[k])
        labkit.record(f"pq_all_fpn_minus_{other}_{of}_lowest", low[0])

# %% [markdown]
# C4 and DC5 look at one map with a cell for each 16 × 16 pixels; FPN has cells of 4 × 4 as well. Objects
# that are no larger than a cell are where they fall behind first, as the last columns show: of the small
# ones FPN finds nearly all, the others few. (In the crowd, which none of the three was trained on, all of
# them miss the small ones.) Stuff suffers too, along its borders and where a region is small. These
# numbers cannot separate the backbone from the training time. And the pictures on which the three
# differ most, one of each kind:

# %%
shown = []
for of, items in SETS.items():
    of_picture = {
        kind: compared[kind, of]["counts"][:, :, 1].sum(axis=1)
        / np.maximum(compared[kind, of]["counts"] @ [0, 1, 0.5, 0.5], 1e-9).sum(axis=1)
        for kind in BACKBONES
    }
    spread = np.ptp(list(of_picture.values()), axis=0)
    k = int(np.argmax(spread))
    image, target = items[k]
    shown += [(of, image, None), ("truth", image, target["panoptic"])]
    shown += [(kind, image, compared[kind, of]["panoptic"][k]) for kind in BACKBONES]
panels(shown, categories, columns=5, names=False, size=2.4)

# %% [markdown]
# **Segment by segment.** PQ counts segments, so let us see which: the same picture for each network, and what
# became of every segment. Blue was found (TP, IoU above 0.5), red is invented (FP), orange was missed (FN), and
# violet is both at once: something was found there, but not what is there. With the three backbones stands
# UPSNet (notebook 5), whose panoptic map is made without a merge.

# %%
from labkit.widgets.compare.compare import compare

NETWORKS = {**BACKBONES, "UPSNet": "upsnet_tiny"}
compare(NETWORKS, ("crowded", 9), difference=True)

# %% [markdown]
# Now you: choose networks and a picture, also one of your own, and point at a segment to see what all of them
# say about the same pixel. The score threshold does in each method what it does there: in Panoptic FPN the
# merge of 4.6 is done again, in UPSNet the fusion. Move it on a crowded picture and watch which network loses
# objects first, and which one's PQ has its best value elsewhere than at the middle.

# %%
from labkit.widgets import Compare

Compare(NETWORKS, ("crowded", 9))

# %% [markdown]
# ## To take away
#
# - Panoptic: one pair $(\ell_i, z_i)$ a pixel, things and stuff, no overlap.
# - Two answers contradict one another, whether two networks gave them or two branches of one. A rule has to
#   decide.
# - The semantic branch is convolutions, doublings and a sum: a fifth more weights on a detector that
#   exists. After the sum it is linear, so each level's share of the answer can be read off.
# - $\lambda_s$ weighs who is heard in the backbone. A study of it needs runs that are repeated: when the
#   rows differ by less than the runs of a row, there is no result.
# - One network does what two do, with two thirds of their weights.
# - The merge: best score first, `overlap_thresh`, `min_stuff_area`. PQ of things is decided by the first two,
#   PQ of stuff by the third and by the objects that were missed.
#
# ## Exercises
#
# 1. **Stuff first.** Write a merge that paints stuff first and gives objects only pixels that the classes
#    call a thing. On which pictures of 4.2 is it better? What happens to the PQ of things?
# 2. **One output for all things.** `SemanticFPNConfig.merge_things` is what the paper uses: the branch says
#    "a thing", and the other branch which. Train both variants as in 4.5 (the common beginning needs a branch
#    of its own). Which of the four contradictions of 4.2 disappears, and does PQ notice?
# 3. **Concatenate.** In `SemanticBranch` replace the sum by a concatenation and a wider `predictor`. The
#    paper found no difference (COCO: 40.2 and 39.9 mIoU). How many more multiplications does it cost?
# 4. **Alternate.** Instead of adding the losses, take a step with $\lambda_s = 0$ and one with $\lambda_i =
#    0$ in turn, twice as many in all. The paper lost 1.5 PQ on COCO that way. With two seeds, do you see it?
# 5. **SGD.** Repeat 4.5 with `optimizer="sgd", lr=5e-3`. How does $\lambda_s$ matter now, and why?
# 6. **A threshold of one's own.** Choose `score_thresh` for each class of things on the first half of the pictures
#    and measure on the second. How much of the gain is left?
# 7. **The void.** Give the void pixels of the merged maps the class of stuff that the semantic answer ranks
#    second (the scores are `sem_seg_logits` of `Predictor(panoptic_fpn).raw(image).output`). Does PQ of stuff rise?
# 8. **Homework.** Add a fourth backbone to 4.9: a pyramid with 32 channels instead of 64
#    (`replace(preset, backbone=replace(preset.backbone, pyramid=32))`), trained by `labkit train` or here.
#    Report its row, show two pictures on which it differs from FPN, and say which of the differences are
#    larger than their interval.
#
# ## References
#
# - A. Kirillov, R. Girshick, K. He, P. Dollár. Panoptic Feature Pyramid Networks. CVPR 2019: the branch in
#   section 3.1, the loss in 3.2, the tables in section 5.
# - A. Kirillov, K. He, R. Girshick, C. Rother, P. Dollár. Panoptic Segmentation. CVPR 2019: the task, PQ,
#   the merge in section 4.1 and its price in table 5.
# - T.-Y. Lin, P. Dollár, R. Girshick, K. He, B. Hariharan, S. Belongie. Feature Pyramid Networks for Object
#   Detection. CVPR 2017.
# - K. He, G. Gkioxari, P. Dollár, R. Girshick. Mask R-CNN. ICCV 2017.
