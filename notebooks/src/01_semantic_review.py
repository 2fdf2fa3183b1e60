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
# # 1. Semantic segmentation
#
# **The question.** Which class does each pixel belong to? And once every pixel has its class, what
# do we still not know about the picture?
#
# By the end you have turned a classifier into a segmentation network, seen why its output is coarse
# and refined it with skips, dilation, context (ASPP) and a decoder, one at a time. You have measured all of them
# with intersection over union, and seen that a semantic map cannot count objects. The rest of the course solves
# that. Section 1.7 repeats the lesson on photographs.
#
# You need: convolutions and a training loop in PyTorch, and about a minute and a half for the training.
# [Glossary](../docs/glossary.md) of all terms.
#
# ![Above: FCN-32s enlarges the class scores of res5 32 times; FCN-8s adds the scores of res4 and res3 on the way. Below: DeepLabv3+ with a dilated backbone, ASPP on res5, and a decoder that joins the enlarged result with res2.](diagrams/semantic.svg)
#
# The two families of networks of this lesson: FCN above (section 1.2), DeepLab below (section 1.3). Return to the
# figure there.

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
from matplotlib.cbook import get_sample_data
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import resize

import labkit
from labkit.checkpoints.efficientnet_lite import pretrained_backbone
from labkit.checks import Checks, equal
from labkit.datasets.image_files import read_image
from labkit.datasets.in_memory import InMemory
from labkit.datasets.penn_fudan import PennFudan
from labkit.datasets.shapes import Shapes
from labkit.datasets.transforms import JointTransform, TransformedDataset
from labkit.engine.predictor import Predictor
from labkit.engine.train import TrainConfig, train
from labkit.metrics.semantic import ConfusionMatrix
from labkit.models import PRESETS, build
from labkit.models.backbones.efficientnet_lite import EfficientNetLite
from labkit.models.backbones.tiny_resnet import TinyResNet
from labkit.models.preprocess import (
    EFFICIENTNET_LITE_PREPROCESSING,
    LABKIT_PREPROCESSING,
    preprocess,
)
from labkit.structures import IGNORE, Detections
from labkit.system.cpu_cores import use_threads
from labkit.system.distributed import default_device
from labkit.system.paths import find_data
from labkit.visualize import feature_colors, panels, show_image

num_train, num_val, pretrain_steps, steps, runs = {
    "smoke": (24, 8, 3, 3, 1),
    "quick": (800, 150, 220, 120, 1),
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
# (`labkit.models.backbones.tiny_resnet.TinyResNet`). It has four stages, `res2` to `res5` (torchvision: `layer1` to
# `layer4`), with strides 4, 8, 16 and 32: neighbouring cells of `res5` are 32 pixels apart. The classifier averages
# the $K$ channels of `res5` over the map into one vector, and a linear layer computes one logit for each class.
# As in torchvision's detectors, a model of this course returns its losses in training mode and its predictions
# otherwise.


# %% tags=["idea"]
class Classifier(nn.Module):
    def __init__(self, backbone, num_classes):
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(backbone.channels["res5"], num_classes)

    def forward(self, images, targets=None):
        batch = preprocess(images, LABKIT_PREPROCESSING)  # normalise (mean and std), pad, stack
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
    batch = preprocess([image], LABKIT_PREPROCESSING)
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
# No segmentation was used in this training, and the map is roughly right. But it is coarse: an image of $128 \times
# 128$ pixels ends as $4 \times 4$ logits for each class. Two ways back to full size, named after the stride of the
# finest logits:
#
# - **FCN-32s** enlarges these logits 32 times by bilinear interpolation.
# - **FCN-8s** adds *skips*: a $1 \times 1$ convolution computes logits from `res4` (stride 16), which
#   are added to the enlarged logits of `res5`; the sum is enlarged and the logits of `res3`
#   (stride 8) are added. The finer stages correct the coarse prediction.
#
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
# `labkit.models.semantic.fcn` is the same network plus loss and preprocessing. With the same weights both give the
# same logits:

# %% tags=["hide-input"]
# Check: our FCN against labkit's
library_fcn = build("fcn8_tiny", categories)
for skip in library_fcn.skips.values():  # they start at zero, which would make the check easy
    nn.init.normal_(skip.weight, std=0.1)
own_fcn = FCN(library_fcn.backbone, len(categories), skips=("res4", "res3"))
own_fcn.load_state_dict(library_fcn.state_dict())
batch = preprocess([val_set[k][0] for k in range(2)], LABKIT_PREPROCESSING)
logits = library_fcn.predict(library_fcn.backbone(batch.tensor), batch)
difference = (own_fcn(batch.tensor) - logits).abs().max().item()
print(f"largest difference: {difference:.2g}")
labkit.record("own_fcn_vs_labkit", difference)

# %% [markdown]
# ## 1.3 Dilated convolution
#
# Why does a backbone have strides at all? Because a cell of the last stage should depend on a large
# part of the image, its **receptive field**. After a stride of 2 every later filter spans twice as many pixels in
# each direction, without more computation. Without the strides the map stays fine, but each filter covers a small
# neighbourhood.
#
# A **dilated** (or *atrous*, "with holes") convolution places its weights $r$ cells apart. This enlarges the
# receptive field without more weights and without a coarser map. $r$ is the *dilation* or *rate*; $r = 1$ is the
# ordinary convolution. Three weights $w$ and the cells of $x$ that they read for $y[i]$:
#
# ```
# cells      i-4  i-3  i-2  i-1   i   i+1  i+2  i+3  i+4
# r = 1                      w    w    w
# r = 2                 w         w         w
# r = 4       w                   w                   w
# ```
#
# $$y[i] = \sum_{m} x[i + r \cdot m]\; w[m]$$
#
# > **Exercise 1.1.** Write this definition. $m$ counts from the centre of the weights: three weights have $m = -1,
# > 0, 1$. Outside the signal $x$ is 0. The result is as long as $x$. An example: for $x = (1, 2, 3, 4, 5)$, $w =
# > (1, 10, 100)$ and $r = 2$, the middle value is
# > $1 \cdot 1 + 3 \cdot 10 + 5 \cdot 100 = 531$.


# %% exercise="dilated_conv1d"
# Exercise 1.1: dilated convolution
def dilated_conv1d(x, w, dilation):
    """``y[i]`` is the sum over m of ``x[i + dilation * m] * w[m]``.

    Args:
        x: the signal, an array of numbers.
        w: the weights, an odd number; m is 0 at the middle one.
        dilation: the distance r of neighbouring weights, in cells.

    Returns:
        An array as long as ``x``.
    """
    # BEGIN SOLUTION
    y = np.zeros(len(x))
    for i in range(len(x)):
        for k in range(len(w)):
            position = i + dilation * (k - len(w) // 2)
            if 0 <= position < len(x):
                y[i] += x[position] * w[k]
    return y
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 1.1
check = Checks("Exercise 1.1")
with check("rate 2, in the middle: x[0], x[2] and x[4]"):
    equal(dilated_conv1d([1, 2, 3, 4, 5], [1, 10, 100], 2)[2], 531)
with check("rate 2, near the ends: zeros outside the signal"):
    equal(dilated_conv1d([1, 2, 3, 4, 5], [1, 10, 100], 2), [310, 420, 531, 42, 53])
with check("rate 1: the ordinary convolution"):
    equal(dilated_conv1d([1, 2, 3, 4, 5], [1, 10, 100], 1), [210, 321, 432, 543, 54])
with check("five weights: m from -2 to 2"):
    equal(dilated_conv1d([1, 2, 3], [7, 1, 10, 100, 9], 1), [237, 321, 39])
check.report()

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
# map: 32 for the ordinary backbone, 8 if the last two strides are replaced. With the same weights, the dilated
# network repeats the strided one at every fourth cell in each direction. (Exactly so without GroupNorm, the
# normalisation of our backbone: its mean over the map includes the new positions.)


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
# where $R$ is the receptive field so far and $j$ the stride so far, in pixels: a kernel spans $(k-1)\,r$ steps of
# its input, and each step is $j$ pixels. Before the first layer $R = j = 1$.
#
# > **Predict.** With all strides, a cell of `res5` depends on 193 × 193 pixels. How large is the receptive
# > field if the last two strides are removed and nothing is dilated: a quarter of 193, half of it, or more?
#
# > **Exercise 1.2.** Write the recursion. An example: a $3 \times 3$ layer of stride 2 gives $R = 1 + 2 = 3$
# > and $j = 2$; an ordinary $3 \times 3$ layer behind it $R = 3 + 2 \cdot 2 = 7$.


# %% exercise="receptive_field"
# Exercise 1.2: the receptive field
def receptive_field(layers):
    """Side of the receptive field in pixels.

    Args:
        layers: (kernel size, stride, dilation) of each layer; the first one reads the image.
    """
    # BEGIN SOLUTION
    field, distance = 1, 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * distance
        distance *= stride
    return field
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 1.2
check = Checks("Exercise 1.2")
with check("without a layer: the pixel itself"):
    equal(receptive_field([]), 1)
with check("two layers of 3 x 3 see 5 pixels"):
    equal(receptive_field([(3, 1, 1), (3, 1, 1)]), 5)
with check("behind a stride of 2, a layer reaches twice as far"):
    equal(receptive_field([(3, 2, 1), (3, 1, 1)]), 7)
with check("a stride does not enlarge the field of its own layer"):
    equal(receptive_field([(3, 1, 1), (3, 2, 1)]), 5)
with check("dilation 2 behind a stride of 2"):
    equal(receptive_field([(3, 2, 1), (3, 1, 2)]), 11)
check.report()

# %% [markdown]
# The layers of our backbone: the stem (a $5 \times 5$ convolution and a $3 \times 3$ max pooling, both of stride
# 2), then two $3 \times 3$ convolutions in each stage.

# %% tags=["idea"]
STEM_RES2_RES3 = [(5, 2, 1), (3, 2, 1), (3, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 1)]
LAYERS = {  # the last four are those of res4 and res5
    "strided": [*STEM_RES2_RES3, (3, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 1)],
    "strides removed": [*STEM_RES2_RES3, (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 1, 1)],
    "dilated": [*STEM_RES2_RES3, (3, 1, 1), (3, 1, 2), (3, 1, 2), (3, 1, 4)],
}

# %% [markdown]
# The receptive field can also be measured: the gradient of one output with respect to the image is
# non-zero exactly at the pixels on which the output depends.


# %% tags=["idea"]
def input_gradient(network):
    """Mean absolute gradient of the centre cell of res5 for each pixel, ``(H, W)``."""
    x = torch.randn(4, 3, 256, 256, dtype=torch.float64, requires_grad=True)
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
    print(f"{name:16} by the recursion {receptive_field(LAYERS[name])}, measured {side}")
    labkit.record(f"receptive_field_{name.replace(' ', '_')}", side)
    labkit.record(f"by_recursion_{name.replace(' ', '_')}", receptive_field(LAYERS[name]))
plt.show()

# %% [markdown]
# Bright pixels have a large gradient (its square root is shown). The measured side counts every pixel whose
# gradient is not zero; those at the edge have little influence. Left: the strided backbone, output stride 32.
# Middle: the last two strides removed, output stride 8 without dilation: the receptive field shrinks to 113, more
# than half, because the strides of the stem and of `res3` remain. Right: the same output stride with dilation.
# Dilation keeps the receptive field
# *and* the fine map. The price is computation: `res5` now has sixteen times as many cells.
#
# **DeepLab** is built on a dilated backbone. Two parts were added later (`labkit.models.semantic.deeplab`):
#
# - **ASPP**, *atrous spatial pyramid pooling* (DeepLabv2; here in the form of DeepLabv3, 2017). Several
#   convolutions read the map of `res5` side by side: a $1 \times 1$ one, $3 \times 3$ ones with different rates,
#   and one on the mean of the whole map. Their outputs are concatenated, and a $1 \times 1$ convolution mixes them.
#   So the logits of a cell see context at several scales.
# - A **decoder** (DeepLabv3+, 2018). The result is enlarged to stride 4 and concatenated with the map
#   of `res2`, reduced to a few channels; a $3 \times 3$ convolution joins the two. The fine map
#   contains the outlines, the deep map the classes.
#
# ## 1.4 Intersection over union
#
# How good is a semantic map? The share of correct pixels (*pixel accuracy*) misleads: on an image that is 95 % sky,
# the answer "sky" everywhere is 95 % correct. Intersection over union is computed for each class $c$.
# With the set of predicted pixels $P_c$ and the set of ground-truth pixels $G_c$,
#
# $$\mathrm{IoU}_c = \frac{|P_c \cap G_c|}{|P_c \cup G_c|},\qquad
#   \mathrm{mIoU} = \frac{1}{C} \sum_c \mathrm{IoU}_c .$$
#
# By hand on a 4 × 4 image of two classes: class 1 is predicted on 4 pixels, 6 are in the ground
# truth, and 3 are in both. Its IoU is $3 / (4 + 6 - 3) = 3/7$; class 0 has $9 / (12 + 10 - 9) = 9/13$.

# %%
gt = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
prediction = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]])

# %% [markdown]
# > **Exercise 1.3.** Write the IoU of one class. Annotators leave some pixels without a label; in the ground
# > truth they have the value `IGNORE` (255). Such a pixel counts nowhere, whatever is predicted there.


# %% exercise="iou"
# Exercise 1.3: the IoU of one class
def iou(prediction, gt, c):
    """Intersection over union of class ``c``, from 0 to 1.

    Args:
        prediction, gt: (H, W) class of each pixel; ``gt`` is ``IGNORE`` where there is no label.
        c: a class that occurs.
    """
    # BEGIN SOLUTION
    labelled = gt != IGNORE
    p, g = (prediction == c) & labelled, (gt == c) & labelled
    return (p & g).sum().item() / (p | g).sum().item()
    # END SOLUTION


# %% tags=["check", "hide-input"]
# Check of exercise 1.3
check = Checks("Exercise 1.3")
with check("class 1: 3/7"):
    equal(iou(prediction, gt, 1), 3 / 7, within=1e-6)
with check("class 0: 9/13"):
    equal(iou(prediction, gt, 0), 9 / 13, within=1e-6)
with check("without a label at a pixel of class 1 that was missed: 3/6"):
    unlabelled = gt.clone()
    unlabelled[0, 0] = IGNORE
    equal(iou(prediction, unlabelled, 1), 3 / 6, within=1e-6)
with check("without a label at a pixel that was predicted as class 1: 3/6"):
    unlabelled = gt.clone()
    unlabelled[1, 3] = IGNORE
    equal(iou(prediction, unlabelled, 1), 3 / 6, within=1e-6)
check.report()

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
# Over a data set, one **confusion matrix** counts the pixels of all images by their true class (row) and predicted
# class (column). $\mathrm{IoU}_c$ is the diagonal entry, divided by its row's sum plus its column's sum minus
# itself. In the mean of the single images' IoUs, ten pixels of a class in one image would count as much as ten
# thousand in another.
#
# Outlines are a small share of all pixels, so mIoU hardly shows them. **Border mIoU** (in the DeepLab papers
# *trimap* mIoU) is the same measure on the pixels within two pixels of a change of class; all others are ignored.


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
# What does each part bring, and what does it cost? Five networks on the same backbone; each row differs in one part
# from the one it is compared with:
#
# | network | compared with | difference |
# | --- | --- | --- |
# | FCN-32s | | logits at stride 32, enlarged |
# | FCN-8s | FCN-32s | skips from strides 16 and 8 |
# | dilated FCN | FCN-32s | output stride 8 instead of 32 |
# | + ASPP (DeepLabv3) | dilated FCN | ASPP before the logits |
# | + decoder (DeepLabv3+) | + ASPP | decoder at stride 4 |
#
# In code, each is a configuration with parts left out:

# %% tags=["idea"]
v3plus = PRESETS["deeplab_tiny"]
CONFIGS = {
    "FCN-32s": PRESETS["fcn32_tiny"],
    "FCN-8s": PRESETS["fcn8_tiny"],
    "dilated FCN": replace(v3plus, rates=None, skip_channels=None),  # no ASPP, no decoder
    "+ ASPP": replace(v3plus, skip_channels=None),  # no decoder
    "+ decoder": v3plus,
}

# %% [markdown]
# Data, steps, batches and learning rate are the same. All five start from the backbone of the
# classifier, as in the papers, where it was trained on ImageNet. The loss is the mean cross-entropy over the pixels.


# %% tags=["idea"]
def fine_tune(config, run):
    """A network, trained from the classifier's backbone; ``run`` seeds all random choices."""
    torch.manual_seed(run)
    model = config.build(categories)
    model.backbone.load_state_dict(classifier.backbone.state_dict())
    augmented = TransformedDataset(train_set, JointTransform(v2.RandomHorizontalFlip()))
    train(model, augmented, TrainConfig(steps=steps, batch_size=4, lr=3e-3, seed=run))
    return model


# %% [markdown]
# > **Predict.** Skips, dilation, ASPP, decoder: which of the four changes raises mIoU most here? Does each of
# > them raise it?

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
print(f"{'':12}{'weights':>9}{'time':>8}{'mIoU':>8}{'border mIoU':>13}")
means = {name: values.mean(axis=0) for name, values in scores.items()}
for name, (miou, border) in means.items():
    weights = sum(p.numel() for p in models[name].parameters()) / 1e6
    relative = seconds[name] / seconds["FCN-32s"]
    print(f"{name:12}{weights:7.2f} M{relative:8.2f}{miou:8.1f}{border:13.1f}")
    key = name.removeprefix("+ ").replace(" ", "_")
    labkit.record(f"million_weights_{key}", weights)
    labkit.record(f"time_{key}", relative)
    labkit.record(f"miou_{key}", miou)
    labkit.record(f"border_miou_{key}", border)
print("time: training, relative to FCN-32s")
COMPARED = {
    "skips": ("FCN-32s", "FCN-8s"),
    "dilation": ("FCN-32s", "dilated FCN"),
    "aspp": ("dilated FCN", "+ ASPP"),
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
# What the table shows after this short training (`full` trains more than sixty times as long):
#
# - **Skips** gain about ten points of mIoU, with about 1,100 weights and almost no time.
# - **Dilation** alone gains most, about twenty points over FCN-32s, and more than skips. It adds no
#   weights; the finer maps cost about 1.4 times the training time.
# - **ASPP** *loses* here. In the papers it gains. Two reasons are possible. Its 0.26 M weights start
#   untrained, between a trained backbone and the logits. And on images of 128 pixels it has little to
#   add: the receptive field of `res5`, 193 pixels, already covers the image. Exercise 2 at the end of the lesson
#   trains longer.
# - **The decoder** gains more near borders than overall, which is its purpose. The authors of
#   DeepLabv3+ found the same on photographs (their section 4.4).
#
# In the images the outlines become finer from FCN-32s to the decoder. The classes of the objects are often still
# wrong.
#
# Each network was trained once. A difference of two or three points, such as the decoder's in mIoU,
# can be chance; run the lesson with another `seed` to see how much the numbers change.
#
# A comparison of FCN-8s with the complete DeepLabv3+ would have misled us: DeepLabv3+ is at most a little better
# and takes twice the time. Three parts were changed at once, and a loss by one hid the gain by another.
#
# **What is special at this small size.** The loss by ASPP and the small price of dilation come from images of 128
# pixels, narrow stages and a short training. On Cityscapes (Kirillov et al., Panoptic FPN, table 1a) DeepLabV3 with
# a ResNet-101 of stride 8 reaches 77.8 mIoU with $1.9 \cdot 10^{12}$ multiply-adds. A network without dilation on
# the same ResNet (Semantic FPN, [notebook 4](04_panoptic_fpn.ipynb)) reaches 77.7 with $0.5 \cdot 10^{12}$: on
# large images dilation is expensive.
#
# ## 1.6 What semantic labels cannot express
#
# How many squares are in the image? Start from the *ground-truth* semantic map, as if our network
# were perfect, and count the connected regions of each thing class. Where two objects of one class
# touch, they form one region. Where one object is cut in two by another, it counts twice.
#
# > **Predict.** In how many of the images does the perfect semantic map give a wrong count for some class: one
# > in a hundred, one in ten, one in three?


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
        ("panoptic map", image, target["panoptic"]),
    ],
    categories,
    columns=3,
)

# %% [markdown]
# A *perfect* semantic map gives wrong counts, in a third of the usual images and in nearly all crowded
# ones. The map $\ell$ has a class for each pixel, and nothing that separates two objects of one class.
# What is missing is a second number for each pixel $i$, the instance $z_i$. **Instance segmentation** (notebooks
# 2 and 3) finds the objects, each with its mask, and ignores the rest of the image.
# **Panoptic segmentation** (from notebook 4) gives pixel $i$ the pair $(\ell_i, z_i)$.
#
# ## 1.7 Photographs
#
# Does all this hold on photographs? Most data sets are too small to train a backbone from scratch. So it starts
# from weights that classify ImageNet, as ours started from the classifier of 1.2. Here it is EfficientNet-Lite0,
# with stages `res2` to `res5` as well.
#
# A stage has up to 320 channels. To see them, its cells are projected onto the three directions in which
# they differ most (principal components), shown as red, green and blue. **Cells of similar colour have similar
# features**; the colour itself means nothing.
#
# > **Predict.** ImageNet has one label for each photograph; no pixel was labelled. Do the cells of a person get
# > a colour of their own? And in the same network with random weights?
#
# (The weights come with `labkit[pretrained]`, otherwise they are those of labkit's `pedestrians_lite`. The photograph
# is one of Penn-Fudan if `labkit data get penn-fudan` has fetched it, otherwise a portrait of matplotlib's.)

# %% tags=["hide-input"]
# Figure: features of a photograph, with pretrained and with random weights
_ = torch.manual_seed(seed)
pretrained, pretrained_on = pretrained_backbone()
LITE = {pretrained_on: pretrained, "random weights": EfficientNetLite().eval()}
streets = find_data("PennFudanPed")
if streets is None:
    photograph = read_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
else:
    photograph = PennFudan(streets, "val")[3][0]


@torch.no_grad()
def stages(backbone, image):
    """Maps ``(C, h, w)`` of all stages, without the padding of the batch."""
    batch = preprocess([image], EFFICIENTNET_LITE_PREPROCESSING)
    height, width = batch.input_sizes[0]
    return {
        name: features[0, :, : height // stride, : width // stride]
        for (name, features), stride in zip(
            backbone(batch.tensor).items(), backbone.strides.values(), strict=True
        )
    }


SHOWN = ("res3", "res4", "res5")
ratio = photograph.shape[1] / photograph.shape[2]
figure, axes = plt.subplots(2, 4, figsize=(10, 5 * ratio + 0.7), layout="constrained")
for row, (name, backbone) in zip(axes, LITE.items(), strict=True):
    maps = stages(backbone, photograph)
    show_image(row[0], photograph)
    row[0].set_title(f"{name.removesuffix(' weights')} weights", fontsize=10)
    for axis, stage in zip(row[1:], SHOWN, strict=True):
        axis.imshow(feature_colors(maps[stage])[0], aspect="auto")
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{stage}, stride {backbone.strides[stage]}", fontsize=10)
plt.show()

# %% [markdown]
# With ImageNet weights `res4` separates heads, bodies and background, although no pixel was ever labelled.
# (If the title says `pedestrians_lite`: that network was trained with masks of people, so its figure proves
# nothing.) With random weights `res3` still looks like the photograph, because convolutions keep edges and colours;
# in `res4` and `res5` little remains but the distance to the border of the image, an effect of the zero padding.
#
# How much of a semantic map is in these features? Freeze the backbone and train *one linear layer* on the cells of
# `res4`: which share of the cell belongs to a person? As in 1.2 it becomes a $1 \times 1$ convolution, and the
# network is an FCN of stride 16 with 113 trained weights (112 channels and a bias).


# %% tags=["idea"]
def train_linear(cells, labels):
    """A linear layer from frozen features ``(N, C)`` to one logit, as a 1 × 1 convolution."""
    linear = nn.Linear(cells.shape[1], 1)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=30)

    def closure():
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(linear(cells)[:, 0], labels)
        loss = loss + 1e-3 * linear.weight.square().sum()  # keeps the weights small
        loss.backward()
        return loss

    optimizer.step(closure)
    return to_convolution(linear)


# %% tags=["hide-input"]
# Measuring loop, table and figure: people on photographs, and how many regions they are
statements = {}  # what the text below states about the photographs
if streets is None:
    print(
        "Penn-Fudan is not here. With it, this cell trains the linear layer on 16 of its photographs,"
    )
    print("tests it on 20 others, and counts their people: labkit data get penn-fudan (51 MB)")
else:
    split, held_out = PennFudan(streets, "train"), PennFudan(streets, "val")
    few = profile == "smoke"
    train_photos = [split[i] for i in range(0, 80, 16 if few else 5)]
    val_photos = [held_out[i] for i in range(6 if few else 20)]
    PERSON = 0
    predictions = {}
    for name, backbone in LITE.items():
        maps = [stages(backbone, image)["res4"] for image, _ in train_photos]
        cells = torch.cat([features.flatten(1).T for features in maps])
        labels = torch.cat(
            [
                F.adaptive_avg_pool2d(
                    (target["semantic"] == PERSON).float()[None], features.shape[1:]
                ).flatten()
                for features, (_, target) in zip(maps, train_photos, strict=True)
            ]
        )
        mean, std = cells.mean(dim=0), cells.std(dim=0) + 1e-6
        layer = train_linear((cells - mean) / std, labels)
        predictions[name] = []
        for image, target in val_photos:
            features = (stages(backbone, image)["res4"] - mean[:, None, None]) / std[:, None, None]
            with torch.no_grad():
                logits = layer(features[None])
            logits = F.interpolate(logits, target["semantic"].shape, mode="bilinear")[0, 0]
            predictions[name].append((logits <= 0).long())  # class 0 is the person
        matrix = ConfusionMatrix(PennFudan.categories)
        for semantic, (_, target) in zip(predictions[name], val_photos, strict=True):
            matrix.update(semantic, target["semantic"])
        person_iou = float(matrix.compute().iou[PERSON])
        print(f"IoU of people, linear layer on res4, {name + ':':18}{100 * person_iou:5.1f}")
        labkit.record(f"person_iou_{name.replace(' ', '_')}", 100 * person_iou)
        statements[name] = person_iou > 0.4 if name == pretrained_on else person_iou < 0.2
    counts = [
        (len(target["boxes"]), count_regions(target["semantic"], PERSON))
        for _, target in val_photos
    ]
    wrong = sum(people != found for people, found in counts)
    print(
        f"perfect semantic map: the count of people is wrong in {wrong} of {len(counts)} photographs"
    )
    labkit.record("photographs_counted_wrongly", wrong / len(counts))
    statements["a third counted wrongly"] = wrong / len(counts) > 0.25
    rows = []
    for k in (3, 0) if few else (3, 15):
        image, target = val_photos[k]
        people, found = counts[k]
        objects = Detections(
            target["boxes"], torch.ones(people), target["labels"], masks=target["masks"]
        )
        rows += [
            (f"{people} people", image, objects),
            (f"perfect semantic map: {found} region{'s' * (found > 1)}", image, target["semantic"]),
            (f"linear layer, {pretrained_on}", image, predictions[pretrained_on][k]),
            ("linear layer, random weights", image, predictions["random weights"][k]),
        ]
    rows = [  # the background is left as it is
        (title, image, one.where(one == PERSON, IGNORE) if isinstance(one, torch.Tensor) else one)
        for title, image, one in rows
    ]
    display(panels(rows, PennFudan.categories, columns=4, names=False, size=2.6, by_object=True))
labkit.record("photograph_statements_not_true", sum(not true for true in statements.values()))

# %% [markdown]
# On Penn-Fudan one linear layer on pretrained features finds most of each person (IoU near 60 % in `quick`), on
# random ones almost nobody. The outlines are as coarse as stride 16.
#
# A better network would not help to count. Where people walk side by side or behind one another, the *perfect*
# map has one region for them: the count is wrong in about a third of the photographs, as on Shapes.
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
# - The features of a backbone trained to classify already separate people from their background: one linear
#   layer on them finds most of each person.
#
# ## More exercises
#
# 1. Add a row to `CONFIGS`: dilation with `output_stride=16`. Where between FCN-32s and the dilated FCN does it
#    fall, in mIoU and in time?
# 2. Is ASPP not trained enough, or of no use on images of this size? Train "dilated FCN" and "+ ASPP" for 200, 600
#    and 1800 steps (set `steps` before `fine_tune` is called) and plot mIoU over the steps. Add the row "decoder
#    without ASPP", `replace(v3plus, rates=None)`.
# 3. Add the skip of `res2` to the notebook's `FCN`. Does border mIoU gain more than mIoU? Why?
# 4. Store class and instance of every pixel in *one* integer: write the encoding and its inverse. (COCO's panoptic
#    format does this, see notebook 6.)
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
# - M. Tan, Q. Le. EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML 2019.
# - A. Kirillov, R. Girshick, K. He, P. Dollár. Panoptic Feature Pyramid Networks. CVPR 2019 (table 1a).
# - K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. CVPR 2016.
