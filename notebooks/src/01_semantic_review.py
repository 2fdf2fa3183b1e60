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
# # 1. Semantic segmentation: a review
#
# **The question.** Which class does each pixel belong to? And once every pixel has its class, what
# do we still not know about the picture?
#
# By the end you have turned a classifier into a segmentation network, seen why its output is coarse
# and refined it with skips, dilation, ASPP and a decoder, one at a time. You have measured all of
# them with intersection over union, and met the picture that semantic segmentation cannot describe.
# The rest of the course is about that picture.
#
# You need: convolutions and a training loop in PyTorch, and about two minutes for the training.
# [Glossary](../docs/glossary.md) of all terms.
#
# ![Above: FCN-32s enlarges the class scores of res5 32 times; FCN-8s adds the scores of res4 and res3 on the way. Below: DeepLabv3+ with a dilated backbone, ASPP on res5, and a decoder that joins the enlarged result with res2.](diagrams/semantic.svg)
#
# Two families of networks appear in this lesson: FCN (section 1.2) and DeepLab (section 1.3).

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: minutes; full: a GPU
seed: int = 0

# %% tags=["hide-input"]
# Set-up: imports, sizes of the profiles, data
# %matplotlib inline
import time
from dataclasses import replace

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import resize

import labkit
from labkit.datasets.in_memory import InMemory
from labkit.datasets.shapes import Shapes
from labkit.datasets.transforms import JointTransform, TransformedDataset
from labkit.engine.predictor import Predictor
from labkit.engine.train import TrainConfig, train
from labkit.metrics.semantic import ConfusionMatrix
from labkit.models import PRESETS, build
from labkit.models.backbones.tiny_resnet import TinyResNet
from labkit.models.preprocess import LABKIT, preprocess
from labkit.structures import IGNORE
from labkit.system.cpu_cores import use_threads
from labkit.system.distributed import default_device
from labkit.visualize import panels

num_train, num_val, pretrain_steps, steps, runs = {
    "smoke": (24, 8, 3, 3, 1),
    "quick": (800, 200, 250, 200, 1),
    "full": (20_000, 1000, 4000, 8000, 3),
}[profile]
if profile != "full":
    use_threads(1)  # the tensors are small: threads would wait for one another
_ = torch.manual_seed(seed)

train_set = InMemory(Shapes("train", num=num_train, seed=seed))
val_set = InMemory(Shapes("val", num=num_val, seed=seed))
categories = train_set.categories

# %% [markdown]
# ## 1.1 The task
#
# Semantic segmentation assigns one of $C$ classes to each of the $H \times W$ pixels. Its output
# is a **semantic map** $\ell : \{1..H\} \times \{1..W\} \to \{1..C\}$.
#
# Our data set, *Shapes*, is drawn by the program: squares, circles and triangles lie on regions of
# sky, grass, water and sand. The objects are *things*: they can be counted. The regions are
# *stuff*: they cannot. The colour of an object is independent of its class; its outline determines
# the class. The stuff classes differ mostly in texture.
#
# Below: the image, its semantic map, and its *panoptic* map, which also separates the objects of one
# class. Look for touching objects of the same class. In the semantic map they are one region.

# %% tags=["hide-input"]
# Figure: two images with their semantic and panoptic maps
rows = []
for index in (4, 7):
    image, target = train_set[index]
    rows += [
        ("image", image, None),
        ("semantic map", image, target["semantic"]),
        ("panoptic map", image, target["panoptic"]),
    ]
panels(rows, categories, columns=3)

# %% [markdown]
# ## 1.2 From a classifier to a fully convolutional network
#
# We start with image classification: one image, one class. The training images are crops of
# 64 × 64 pixels, some around an object, some of stuff. The **backbone** is a small residual network
# (`labkit.models.backbones.tiny_resnet.TinyResNet`). It has four stages, `res2` to `res5`, with
# strides 4, 8, 16 and 32: a cell of `res5` stands for 32 × 32 pixels. The classifier averages the
# map of `res5` into one vector, and a linear layer computes one logit for each class.


# %% tags=["idea"]
class Classifier(nn.Module):
    def __init__(self, backbone, num_classes):
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(backbone.channels["res5"], num_classes)

    def forward(self, images, targets=None):
        batch = preprocess(images, LABKIT)  # normalise, pad, stack
        features = self.backbone(batch.tensor)["res5"]  # (B, K, 2, 2)
        logits = self.fc(features.mean(dim=(2, 3)))  # (B, C)
        if not self.training:
            return logits.argmax(dim=1)
        labels = torch.stack([target["label"] for target in targets])
        return {"loss_cls": F.cross_entropy(logits, labels)}


# %% tags=["hide-input"]
# Data set: labelled crops of the images, mirrored at random
class Crops(torch.utils.data.Dataset):
    """Crops with one label each: every object, and two patches of each image."""

    def __init__(self, items, side=64):
        self.crops, self.labels = [], []
        generator = torch.Generator().manual_seed(seed)
        for image, target in items:
            size = image.shape[-1]
            for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
                # a square around the object with a margin, clipped to the image
                half = 0.8 * max(box[2] - box[0], box[3] - box[1])
                x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                x1, y1, x2, y2 = (
                    int(min(max(v, 0), size)) for v in (x - half, y - half, x + half, y + half)
                )
                if min(x2 - x1, y2 - y1) >= 8:
                    self.crops.append(resize(image[:, y1:y2, x1:x2], [side, side]))
                    self.labels.append(label)
            for _ in range(2):
                y, x = torch.randint(0, size - side + 1, (2,), generator=generator).tolist()
                self.crops.append(image[:, y : y + side, x : x + side].clone())
                self.labels.append(int(target["semantic"][y + side // 2, x + side // 2]))

    def __len__(self):
        return len(self.crops)

    def __getitem__(self, index):
        crop = self.crops[index].flip(-1) if torch.rand(()) < 0.5 else self.crops[index]
        return crop, {"label": torch.tensor(self.labels[index])}


train_crops, val_crops = Crops(train_set.items), Crops(val_set.items)

# %%
_ = torch.manual_seed(seed)
classifier = Classifier(TinyResNet(), len(categories))
_ = train(classifier, train_crops, TrainConfig(steps=pretrain_steps, batch_size=24, seed=seed))

# %% tags=["hide-input"]
# Bookkeeping: accuracy of the classifier
with torch.no_grad():
    classifier.cpu().eval()  # it was trained on the GPU where there is one; the crops are here
    predicted = torch.cat([classifier(batch) for batch in DataLoader(val_crops.crops, 64)])
accuracy = (predicted == torch.tensor(val_crops.labels)).float().mean().item()
print(f"{len(train_crops)} training crops; accuracy on {len(val_crops)} others: {accuracy:.0%}")
labkit.record("classifier_accuracy", accuracy)

# %% [markdown]
# Some of the remaining errors are unavoidable: a crop around an object that is mostly occluded shows
# mainly the object in front.
#
# Now the step to segmentation. The classifier ends in a linear layer on one feature vector:
# $s = W f + b$ with $f \in \mathbb{R}^{K}$. A feature *map* has such a vector at every position. To
# apply the same $W$ and $b$ at every position is a $1 \times 1$ convolution. The network then has no
# layer left that depends on the size of the image: it is *fully convolutional* (Long et al., 2015).


# %% tags=["idea"]
def to_convolution(linear):
    """The 1 × 1 convolution that applies a linear layer at every position of a map."""
    conv = nn.Conv2d(linear.in_features, linear.out_features, kernel_size=1)
    conv.weight.data = linear.weight.data[:, :, None, None]  # (C, K) -> (C, K, 1, 1)
    conv.bias.data = linear.bias.data
    return conv


# %% tags=["hide-input"]
# Figure: the classifier as a 1 × 1 convolution; check against the linear layer
image, target = val_set[0]
with torch.no_grad():
    batch = preprocess([image], LABKIT)
    features = classifier.backbone(batch.tensor)["res5"]  # (1, K, 4, 4)
    cells = [classifier.fc(features[0, :, y, x]) for y in range(4) for x in range(4)]
    logits = to_convolution(classifier.fc)(features)[0].flatten(1).T  # (16, C)
labkit.record("linear_vs_1x1_conv", (torch.stack(cells) - logits).abs().max().item())

blocks = logits.argmax(dim=1).reshape(4, 4).repeat_interleave(32, 0).repeat_interleave(32, 1)
panels(
    [
        ("image", image, None),
        ("the classifier at 4 × 4 positions", image, blocks),
        ("ground truth", image, target["semantic"]),
    ],
    categories,
)

# %% [markdown]
# No segmentation was used in this training, and the map is roughly right. It is only coarse: an
# image of $128 \times 128$ pixels ends as $4 \times 4$ logits for each class.
#
# - **FCN-32s** enlarges these logits 32 times by bilinear interpolation.
# - **FCN-8s** adds *skips*: a $1 \times 1$ convolution computes logits from `res4` (stride 16), which
#   are added to the enlarged logits of `res5`; the sum is enlarged and the logits of `res3`
#   (stride 8) are added. The finer stages correct the coarse prediction.
#
# On PASCAL VOC the paper reports a mean IoU of 59.4 for FCN-32s and 62.7 for FCN-8s (its Table 2).
# Both fit into one class:


# %% tags=["idea"]
class FCN(nn.Module):
    """Logits of the last stage, enlarged; skips add those of finer stages on the way."""

    def __init__(self, backbone, num_classes, skips=()):
        super().__init__()
        self.backbone = backbone
        self.score = nn.Conv2d(backbone.channels["res5"], num_classes, 1)
        self.skips = nn.ModuleDict(
            {name: nn.Conv2d(backbone.channels[name], num_classes, 1) for name in skips}
        )

    def forward(self, x):  # (B, 3, H, W)
        features = self.backbone(x)
        logits = self.score(features["res5"])  # (B, C, H/32, W/32)
        for name, skip in self.skips.items():
            finer = skip(features[name])  # (B, C, H/16, W/16), then (B, C, H/8, W/8)
            logits = F.interpolate(logits, finer.shape[-2:], mode="bilinear") + finer
        return F.interpolate(logits, x.shape[-2:], mode="bilinear")  # (B, C, H, W)


# %% [markdown]
# `labkit.models.semantic.fcn` has the same algorithm with the losses and the preprocessing around
# it. With the same weights both give the same logits:

# %% tags=["hide-input"]
# Check: our FCN against labkit's
library_fcn = build("fcn8_tiny", categories)
for skip in library_fcn.skips.values():  # they start at zero, which would make the check easy
    nn.init.normal_(skip.weight, std=0.1)
own_fcn = FCN(library_fcn.backbone, len(categories), skips=("res4", "res3"))
own_fcn.load_state_dict(library_fcn.state_dict())
batch = preprocess([val_set[k][0] for k in range(2)], LABKIT)
logits = library_fcn.predict(library_fcn.backbone(batch.tensor), batch)
difference = (own_fcn(batch.tensor) - logits).abs().max().item()
print(f"largest difference: {difference:.2g}")
labkit.record("own_fcn_vs_labkit", difference)

# %% [markdown]
# ## 1.3 Dilated convolution
#
# Why does a backbone have strides at all? Because a cell of the last stage should depend on a large
# part of the image, its **receptive field**. After a stride of 2 every later filter covers twice as
# many pixels, at no cost. Without the strides the map stays fine, but each filter covers a small
# neighbourhood.
#
# A **dilated** (or *atrous*, "with holes") convolution places its weights $r$ cells apart,
#
# $$y[i] = \sum_{k} x[i + r \cdot k]\; w[k],$$
#
# which enlarges the receptive field without more weights and without a coarser map. $r$ is the
# *dilation* or *rate*; $r = 1$ is the ordinary convolution. The definition in one dimension:


# %% tags=["idea"]
def dilated_conv1d(x, w, rate):
    """``y[i] = sum over k of x[i + rate * k] w[k]``, k from the centre of ``w``, zeros outside."""
    y = np.zeros(len(x))
    for i in range(len(x)):
        for k in range(len(w)):
            position = i + rate * (k - len(w) // 2)
            if 0 <= position < len(x):
                y[i] += x[position] * w[k]
    return y


# %% tags=["hide-input"]
# Check: our dilated convolution against PyTorch's
signal, kernel = np.random.default_rng(seed).normal(size=16), np.array([1.0, -2.0, 0.5])
worst = 0.0
for rate in (1, 2, 4):
    reference = F.conv1d(
        torch.tensor(signal)[None, None],
        torch.tensor(kernel)[None, None],
        padding=rate,
        dilation=rate,
    )
    worst = max(worst, np.abs(dilated_conv1d(signal, kernel, rate) - reference.numpy()[0, 0]).max())
print(f"largest difference from PyTorch's convolution at the rates 1, 2 and 4: {worst:.2g}")
labkit.record("own_dilated_conv_vs_torch", worst)

# %% [markdown]
# **Dilation replaces a stride exactly.** Change a stride of 2 to 1 and double the dilation of every
# convolution behind it. Each filter then reads the same cells as before, and the map also has values
# at the positions in between. The result is named by its **output stride**, the stride of the last
# map: 32 for the ordinary backbone, 8 if the last two strides are replaced. At every fourth cell the
# dilated network repeats the strided one, with the same weights:


# %% tags=["idea"]
def dilated_vs_strided(dilated, strided, x):
    """Largest relative difference, at the positions that both networks have."""
    dilated.load_state_dict(strided.state_dict())  # dilation has no weights of its own
    coarse = strided(x)["res5"]  # (B, K, H/32, W/32)
    fine = dilated(x)["res5"]  # (B, K, H/8, W/8)
    return (fine[..., ::4, ::4] - coarse).abs().max() / coarse.abs().max()


# %% tags=["hide-input"]
# Check, without normalisation: GroupNorm averages over positions, and the dilated map has more
def without_norm(network):
    for module in network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return network.double()


strided = without_norm(TinyResNet(output_stride=32))
dilated = without_norm(TinyResNet(output_stride=8))
x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
difference = dilated_vs_strided(dilated, strided, x).item()
print(f"largest relative difference: {difference:.2g}")
labkit.record("dilated_repeats_strided", difference)

# %% [markdown]
# **How large is the receptive field?** It follows from a recursion over the layers. With the kernel
# size $k$, stride $s$ and dilation $r$ of each layer,
#
# $$R \leftarrow R + (k - 1)\, r\, j, \qquad j \leftarrow j\, s,$$
#
# where $R$ is the receptive field so far (1 at the start) and $j$ the distance between neighbouring
# cells, both in pixels. It can also be measured: the gradient of one output with respect to the image
# is non-zero exactly at the pixels on which the output depends.


# %% tags=["idea"]
def input_gradient(network):
    """Mean absolute gradient of the centre cell of res5 for each pixel, ``(H, W)``."""
    x = torch.randn(8, 3, 256, 256, dtype=torch.float64, requires_grad=True)
    features = network(x)["res5"]
    centre = features.shape[-1] // 2
    features[:, :, centre, centre].sum().backward()
    return x.grad.abs().mean(dim=(0, 1))


# %% tags=["hide-input"]
# Figure: receptive fields of three networks with the same weights
undilated = without_norm(TinyResNet(output_stride=8))
undilated.load_state_dict(strided.state_dict())
for module in undilated.modules():
    if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
        module.dilation, module.padding = (1, 1), (1, 1)

networks = {"strided": strided, "strides removed": undilated, "dilated": dilated}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for axis, (name, network) in zip(axes, networks.items(), strict=True):
    gradient = input_gradient(network)
    side = int((gradient.sum(dim=0) > 0).sum())
    axis.imshow(gradient.sqrt(), cmap="magma")
    axis.set_title(f"{name}: {side} × {side} pixels", fontsize=10)
    axis.set_axis_off()
    labkit.record(f"receptive_field_{name.replace(' ', '_')}", side)
plt.show()

# %% [markdown]
# Left: the strided backbone, output stride 32. Middle: the last two strides removed, output stride 8
# without dilation. Right: the same output stride with dilation. Dilation keeps the receptive field
# *and* the fine map. The price is computation: `res5` now has sixteen times as many cells.
#
# **DeepLab** is built on a dilated backbone. Two later versions add one part each
# (`labkit.models.semantic.deeplab`):
#
# - **ASPP**, *atrous spatial pyramid pooling* (DeepLabv3, 2017). Several convolutions read the map of
#   `res5` side by side: a $1 \times 1$ one, $3 \times 3$ ones with different rates, and one on the
#   mean of the whole map. Their outputs are concatenated, and a $1 \times 1$ convolution mixes them.
#   So the logits of a cell see context at several scales.
# - A **decoder** (DeepLabv3+, 2018). The result is enlarged to stride 4 and concatenated with the map
#   of `res2`, reduced to a few channels; a $3 \times 3$ convolution joins the two. The fine map
#   contains the outlines, the deep map the classes.
#
# ## 1.4 Intersection over union
#
# How good is a semantic map? The share of correct pixels flatters: on an image that is 95 % sky, the
# answer "sky" everywhere is 95 % correct. Intersection over union is computed for each class $c$.
# With the set of predicted pixels $P_c$ and the set of ground-truth pixels $G_c$,
#
# $$\mathrm{IoU}_c = \frac{|P_c \cap G_c|}{|P_c \cup G_c|},\qquad
#   \mathrm{mIoU} = \frac{1}{C} \sum_c \mathrm{IoU}_c .$$
#
# By hand on a 4 × 4 image of two classes: class 1 is predicted on 4 pixels, 6 are in the ground
# truth, and 3 are in both. Its IoU is $3 / (4 + 6 - 3) = 3/7$; class 0 has $9 / (12 + 10 - 9) = 9/13$.

# %% tags=["idea"]
gt = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
prediction = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]])


def iou(prediction, gt, c):
    """Intersection over union of class ``c``; pixels without a label do not count."""
    labelled = gt != IGNORE
    p, g = (prediction == c) & labelled, (gt == c) & labelled
    return (p & g).sum().item() / (p | g).sum().item()


# %% tags=["hide-input"]
# Check: by hand, by the function above, by labkit
by_hand = (3 / 7 + 9 / 13) / 2
matrix = ConfusionMatrix(2)
matrix.update(prediction, gt)
print(f"mIoU {by_hand:.3f}, share of correct pixels {matrix.compute().pixel_accuracy:.3f}")
print("confusion matrix, rows ground truth, columns predictions:", matrix.counts[:, :2].tolist())
own = (iou(prediction, gt, 0) + iou(prediction, gt, 1)) / 2
labkit.record("iou_by_hand_error", abs(by_hand - own))
labkit.record("iou_labkit_error", abs(by_hand - matrix.compute().miou))

# %% [markdown]
# Over a data set the pixels of all images are summed before the division: one confusion matrix
# collects them. In the mean of the single images' IoUs, ten pixels of a class in one image would count
# as much as ten thousand in another.
#
# Outlines are a small share of all pixels, so mIoU hardly shows them. **Border mIoU** is the same
# measure on the pixels within two pixels of a change of class; all others are ignored.


# %% tags=["idea"]
def near_border(semantic, width=2):
    """Whether a pixel is within ``width`` of a change of class."""
    padded = F.pad(semantic[None].float(), [width] * 4, mode="replicate")
    largest = F.max_pool2d(padded, 2 * width + 1, stride=1)
    smallest = -F.max_pool2d(-padded, 2 * width + 1, stride=1)
    return (largest != smallest)[0]


# %% [markdown]
# ## 1.5 The experiment: one change at a time
#
# Five networks on the same backbone. Each row differs from the one it is compared with in one part:
#
# | network | compared with | difference |
# | --- | --- | --- |
# | FCN-32s | | logits at stride 32, enlarged |
# | FCN-8s | FCN-32s | skips from strides 16 and 8 |
# | dilation | FCN-32s | output stride 8 instead of 32 |
# | + ASPP (DeepLabv3) | dilation | ASPP before the logits |
# | + decoder (DeepLabv3+) | + ASPP | decoder at stride 4 |
#
# In code, each is a configuration with parts left out:

# %% tags=["idea"]
v3plus = PRESETS["deeplab_tiny"]
CONFIGS = {
    "FCN-32s": PRESETS["fcn32_tiny"],
    "FCN-8s": PRESETS["fcn8_tiny"],
    "dilation": replace(v3plus, rates=None, skip_channels=None),  # no ASPP, no decoder
    "+ ASPP": replace(v3plus, skip_channels=None),  # no decoder
    "+ decoder": v3plus,
}

# %% [markdown]
# Data, steps, batches and learning rate are the same. All five start from the backbone of the
# classifier, as in the papers, where it was trained on ImageNet. The loss is the cross-entropy of
# every pixel.


# %% tags=["idea"]
def fine_tune(config, run):
    """A network, trained from the classifier's backbone; ``run`` seeds all random choices."""
    torch.manual_seed(run)
    model = config.build(categories)
    model.backbone.load_state_dict(classifier.backbone.state_dict())
    augmented = TransformedDataset(train_set, JointTransform(v2.RandomHorizontalFlip()))
    train(model, augmented, TrainConfig(steps=steps, batch_size=4, lr=3e-3, seed=run))
    return model


# %% tags=["hide-input"]
# Measuring loop: training time, mIoU and border mIoU of every network and run
clock = time.process_time if default_device().type == "cpu" else time.perf_counter


def evaluate(model):
    """mIoU everywhere and near borders, in percent."""
    everywhere, borders = ConfusionMatrix(categories), ConfusionMatrix(categories)
    for prediction, target in Predictor(model).predict_dataset(val_set):
        gt = target["semantic"]
        everywhere.update(prediction.semantic, gt)
        borders.update(prediction.semantic, gt.where(near_border(gt), torch.tensor(IGNORE)))
    return 100 * everywhere.compute().miou, 100 * borders.compute().miou


models, seconds, scores = {}, {}, {}
for name, config in CONFIGS.items():
    start = clock()
    trained = [fine_tune(config, seed + run) for run in range(runs)]
    seconds[name] = (clock() - start) / runs
    scores[name] = np.array([evaluate(model) for model in trained])  # (runs, 2)
    models[name] = trained[0]

# %% tags=["hide-input"]
# Table and records
print(f"{'':11}{'weights':>9}{'time':>8}{'mIoU':>8}{'border mIoU':>13}")
means = {name: values.mean(axis=0) for name, values in scores.items()}
for name, (miou, border) in means.items():
    weights = sum(p.numel() for p in models[name].parameters()) / 1e6
    relative = seconds[name] / seconds["FCN-32s"]
    print(f"{name:11}{weights:7.2f} M{relative:8.2f}{miou:8.1f}{border:13.1f}")
    key = name.removeprefix("+ ")
    labkit.record(f"million_weights_{key}", weights)
    labkit.record(f"time_{key}", relative)
    labkit.record(f"miou_{key}", miou)
    labkit.record(f"border_miou_{key}", border)
print("time: training, relative to FCN-32s")
COMPARED = {
    "skips": ("FCN-32s", "FCN-8s"),
    "dilation": ("FCN-32s", "dilation"),
    "aspp": ("dilation", "+ ASPP"),
    "decoder": ("+ ASPP", "+ decoder"),
}
print(f"\n{'gain by':11}{'mIoU':>8}{'border mIoU':>13}")
for part, (before, after) in COMPARED.items():
    miou, border = means[after] - means[before]
    print(f"{part:11}{miou:+8.1f}{border:+13.1f}")
    labkit.record(f"gain_{part}", miou)
    labkit.record(f"border_gain_{part}", border)

# %% tags=["hide-input"]
# Figure: predictions of the five networks
for index in range(2):
    image, target = val_set[index]
    items = [("ground truth", image, target["semantic"])]
    items += [(name, image, Predictor(model)(image).semantic) for name, model in models.items()]
    display(panels(items, categories, columns=3))

# %% [markdown]
# What the table shows after this short training (`full` trains forty times as long):
#
# - **Skips** gain ten points of mIoU or more, with 0.001 M weights and almost no time.
# - **Dilation** alone gains most, about twenty points over FCN-32s, and more than skips. It adds no
#   weights; the finer maps cost about 1.4 times the training time.
# - **ASPP** *loses* here. In the papers it gains. Two reasons are possible. Its 0.26 M weights start
#   untrained, between a trained backbone and the logits. And on images of 128 pixels it has little to
#   add: the receptive field of `res5`, 193 pixels, already covers the image. Exercise 3 trains longer.
# - **The decoder** gains more near borders than overall, which is its purpose. The authors of
#   DeepLabv3+ found the same on photographs (their section 4.4).
#
# Each network was trained once. A difference of two or three points, such as the decoder's in mIoU,
# can be chance; run the lesson with another `seed` to see how much the numbers change.
#
# Note what a comparison of FCN-8s with the complete DeepLabv3+ would have told us: it is no better and
# takes twice the time, so dilation does not help. The opposite is true. Three parts were changed at
# once, and a loss by one hid the gain by another.
#
# ## 1.6 What semantic labels cannot express
#
# How many squares are in the image? Start from the *ground-truth* semantic map, as if our network
# were perfect, and count the connected regions of each thing class. Where two objects of one class
# touch, they form one region. Where one object is cut in two by another, it counts twice.


# %% tags=["idea"]
def count_regions(semantic, label):
    """Number of connected regions of a class in a semantic map."""
    mask = (semantic == label).numpy().astype(np.uint8)
    return cv2.connectedComponents(mask)[0] - 1  # one of them is the background


# %% tags=["hide-input"]
# Table: images in which some class is counted wrongly
def counting_errors(dataset):
    """Share of images with a wrong count, objects merged, objects split."""
    wrong, merged, split = 0, 0, 0
    for _, target in dataset:
        errors = []
        for label in categories.things:
            objects = int((target["labels"] == label).sum())
            errors.append(count_regions(target["semantic"], label) - objects)
        wrong += any(errors)
        merged += sum(-e for e in errors if e < 0)
        split += sum(e for e in errors if e > 0)
    return wrong / len(dataset), merged, split


crowded = InMemory(Shapes("val", num=num_val, crowded=True, seed=seed))
for name, dataset in (("shapes", val_set), ("crowded", crowded)):
    share, merged, split = counting_errors(dataset)
    print(
        f"{name:8} wrong count in {share:.0%} of the images: {merged} objects lost by merging, "
        f"{split} gained by splitting"
    )
    labkit.record(f"wrong_count_{name}", share)

# %% tags=["hide-input"]
# Figure: a crowded image, its semantic and its panoptic map
image, target = crowded[0]
panels(
    [
        ("image", image, None),
        ("perfect semantic map", image, target["semantic"]),
        ("objects", image, target["panoptic"]),
    ],
    categories,
    columns=3,
)

# %% [markdown]
# A *perfect* semantic map gives wrong counts. The information is not blurred, it is absent: the map
# $\ell$ has a class for each pixel, and nothing that separates two objects of one class. What is
# missing is a second number per pixel, the instance $z_i$. **Instance segmentation** (notebooks
# 2 and 3) finds the objects, each with its mask, and ignores the rest of the image.
# **Panoptic segmentation** (notebooks 4 to 8) gives every pixel the pair $(\ell_i, z_i)$.
#
# ## To take away
#
# - A $1 \times 1$ convolution turns a classifier into a segmentation network. The stride of the
#   backbone determines how coarse its output is.
# - Skips correct coarse logits with finer ones. Dilation keeps the map fine and the receptive field
#   large with the same weights, at the price of computation.
# - ASPP adds context at several scales, a decoder adds outlines; both add layers that need training.
# - Change one part at a time, or gains and losses hide each other.
# - IoU divides the pixels in both sets by the pixels in either; over a data set, sum first, then
#   divide.
# - Semantic maps cannot count. That is a property of the representation, not of the network.
#
# ## Exercises
#
# 1. Compute the receptive field of `res5` by the recursion of 1.3 and compare with the figure.
#    (The stem is a 5 × 5 convolution of stride 2 and a 3 × 3 pooling of stride 2; each of the four
#    stages has two 3 × 3 convolutions, and the first of `res3`, `res4` and `res5` has stride 2.)
# 2. Add a row to `CONFIGS`: dilation with `output_stride=16`. Where between FCN-32s and dilation does
#    it fall, in mIoU and in time?
# 3. Is ASPP not trained enough, or of no use on images of this size? Train "dilation" and "+ ASPP" for
#    200, 600 and 1800 steps (set `steps` before `fine_tune` is called) and plot mIoU over the steps.
#    Add the row "decoder without ASPP", `replace(v3plus, rates=None)`.
# 4. Add the skip of `res2` to the notebook's `FCN`. Does border mIoU gain more than mIoU? Why?
# 5. Find the smallest change to the semantic map, a map of the same size with more values, from
#    which objects can be counted. You have just invented the panoptic format of notebook 6.
#
# ## References
#
# - J. Long, E. Shelhamer, T. Darrell. Fully Convolutional Networks for Semantic Segmentation. CVPR
#   2015.
# - L.-C. Chen, G. Papandreou, I. Kokkinos, K. Murphy, A. L. Yuille. DeepLab: Semantic Image
#   Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs. TPAMI
#   2018.
# - L.-C. Chen, G. Papandreou, F. Schroff, H. Adam. Rethinking Atrous Convolution for Semantic Image
#   Segmentation (DeepLabv3). arXiv 1706.05587, 2017.
# - L.-C. Chen, Y. Zhu, G. Papandreou, F. Schroff, H. Adam. Encoder-Decoder with Atrous Separable
#   Convolution for Semantic Image Segmentation (DeepLabv3+). ECCV 2018.
# - K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. CVPR 2016.
