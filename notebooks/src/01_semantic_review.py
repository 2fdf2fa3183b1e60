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
# By the end you have turned a classifier into a segmenter, seen why its answer is coarse, traded
# stride for dilation to make it fine, measured both with intersection over union, and met the
# picture that semantic segmentation cannot describe. The rest of the course is about that picture.
#
# You need: convolutions, a training loop in PyTorch, and patience for about two minutes of training.

# %% tags=["parameters"]
profile: str = "quick"  # smoke: seconds, to see that it runs; quick: minutes; full: a GPU
seed: int = 0

# %%
# %matplotlib inline
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import resize

import labkit
from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor
from labkit.engine.train import TrainConfig, train
from labkit.metrics.semantic import ConfusionMatrix
from labkit.models import build
from labkit.models.backbones.tiny_resnet import TinyResNet
from labkit.models.preprocess import LABKIT, preprocess
from labkit.structures import IGNORE
from labkit.system.progress_bars import progress_bar
from labkit.visualize import loss_curves, panels

num_train, num_val, pretrain_steps, steps = {
    "smoke": (24, 8, 3, 3),
    "quick": (2000, 200, 550, 420),
    "full": (20_000, 1000, 4000, 8000),
}[profile]
_ = torch.manual_seed(seed)

# %% [markdown]
# ## 1.1 The task
#
# A semantic segmentation assigns one of $C$ classes to each of the $H \times W$ pixels: a function
# $\ell : \{1..H\} \times \{1..W\} \to \{1..C\}$. Our data set, *Shapes*, draws itself: squares,
# circles and triangles lie on regions of sky, grass, water and sand. Colour says nothing about the
# class of an object; its outline does. The regions below differ mostly in texture.
#
# On the left the picture, in the middle its semantic map, on the right the *panoptic* map, in
# which objects of one class are told apart. Look for touching objects of the same class: the
# middle picture melts them into one.

# %%
train_set = Shapes("train", num=num_train, seed=seed)
val_set = Shapes("val", num=num_val, seed=seed)
categories = train_set.categories

rows = []
for index in (4, 7):
    image, target = train_set[index]
    rows += [
        ("image", image, None),
        ("semantic", image, target["semantic"]),
        ("panoptic", image, target["panoptic"]),
    ]
panels(rows, categories, columns=3)

# %% [markdown]
# ## 1.2 A classifier is already a segmenter
#
# We begin with the easier question that computer vision asked first: one picture, one class. The
# training pictures are crops of 64 × 64 pixels, some around an object and some of plain ground.
# A small residual network (`labkit.models.backbones.tiny_resnet.TinyResNet`) turns a crop into a feature map, the
# map is averaged into one vector, and a linear layer scores the seven classes.


# %%
class Drawn(torch.utils.data.Dataset):
    """The first images of a data set, drawn once (again at every step would cost a third of the
    training time), mirrored at random when they are used."""

    def __init__(self, dataset, count):
        keys = ("image_id", "boxes", "labels", "semantic")
        self.items = []
        for index in progress_bar(range(count), unit="image"):
            image, target = dataset[index]
            self.items.append((image, {key: target[key] for key in keys}))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        image, target = self.items[index]
        semantic = target["semantic"]
        if torch.rand(()) >= 0.5:
            image, semantic = image.flip(-1), semantic.flip(-1)
        return image, {"image_id": target["image_id"], "semantic": semantic}


class Crops(torch.utils.data.Dataset):
    """Crops of a data set with one label each: its objects, and as many patches of ground."""

    def __init__(self, items, side=64):
        self.crops, self.labels = [], []
        place = torch.Generator().manual_seed(seed)
        for image, target in items:
            size = image.shape[-1]
            for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
                # a square around the object with a margin, cut at the image's border
                half = 0.8 * max(box[2] - box[0], box[3] - box[1])
                x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                x1, y1, x2, y2 = (
                    int(min(max(v, 0), size)) for v in (x - half, y - half, x + half, y + half)
                )
                if min(x2 - x1, y2 - y1) >= 8:
                    self.crops.append(resize(image[:, y1:y2, x1:x2], [side, side]))
                    self.labels.append(label)
            for _ in range(2):
                y, x = torch.randint(0, size - side + 1, (2,), generator=place).tolist()
                self.crops.append(image[:, y : y + side, x : x + side].clone())
                self.labels.append(int(target["semantic"][y + side // 2, x + side // 2]))

    def __len__(self):
        return len(self.crops)

    def __getitem__(self, index):
        mirrored = torch.rand(()) < 0.5
        crop = self.crops[index].flip(-1) if mirrored else self.crops[index]
        return crop, {"label": torch.tensor(self.labels[index])}


class Classifier(nn.Module):
    def __init__(self, backbone, num_classes):
        super().__init__()
        self.backbone = backbone
        self.classify = nn.Linear(backbone.channels["res5"], num_classes)

    def forward(self, images, targets=None):
        batch = preprocess(images, LABKIT)  # labkit's own choices: normalised, padded, stacked
        features = self.backbone(batch.tensor)["res5"]  # (B, K, 2, 2)
        scores = self.classify(features.mean(dim=(2, 3)))  # (B, C)
        if not self.training:
            return scores.argmax(dim=1)
        return {"loss_cls": F.cross_entropy(scores, torch.stack([t["label"] for t in targets]))}


drawn = Drawn(train_set, num_train)
train_crops, val_crops = Crops(drawn.items), Crops(val_set)
print(len(train_crops), "crops to learn from,", len(val_crops), "to test")

_ = torch.manual_seed(seed)
classifier = Classifier(TinyResNet(), len(categories))
history = train(
    classifier, train_crops, TrainConfig(steps=pretrain_steps, batch_size=24, seed=seed)
)

with torch.no_grad():
    classifier.cpu().eval()  # a GPU, where there is one, has trained it; the crops are here
    guesses = torch.cat([classifier(batch) for batch in DataLoader(val_crops.crops, 64)])
accuracy = (guesses == torch.tensor(val_crops.labels)).float().mean().item()
labkit.record("classifier_accuracy", accuracy)

# %% [markdown]
# Some of the remaining errors are unavoidable: a crop around an object that is mostly hidden shows
# mainly what hides it.
#
# Now the trick. The classifier ends in a linear layer on a feature vector: $s = W f + b$ with
# $f \in \mathbb{R}^{K}$ and one score per class. A feature *map* has such a vector at every
# position. Applying the same $W$ and $b$ at each of them is a $1 \times 1$ convolution, and the
# network now returns a map of scores: it has become *fully convolutional* (Long et al., 2015).

# %%
classify = classifier.classify
score = nn.Conv2d(classify.in_features, classify.out_features, kernel_size=1)
score.weight.data = classify.weight.data[:, :, None, None]  # (C, K) -> (C, K, 1, 1)
score.bias.data = classify.bias.data

image, target = val_set[0]
with torch.no_grad():
    batch = preprocess([image], LABKIT)
    features = classifier.backbone(batch.tensor)["res5"]  # (1, K, 4, 4)
    one_by_one = torch.stack([classify(features[0, :, y, x]) for y in range(4) for x in range(4)])
    as_a_map = score(features)[0].flatten(1).T  # (C, 4, 4) -> (16, C)
difference = (one_by_one - as_a_map).abs().max().item()
labkit.record("linear_vs_1x1_conv", difference)

blocks = as_a_map.argmax(dim=1).reshape(4, 4).repeat_interleave(32, 0).repeat_interleave(32, 1)
panels(
    [
        ("image", image, None),
        ("the classifier, at 4 × 4 places", image, blocks),
        ("truth", image, target["semantic"]),
    ],
    categories,
    names=False,
)

# %% [markdown]
# A network that never saw a segmentation already says roughly what is where. What its answer lacks
# is resolution. A residual network halves the size five times, so a
# $128 \times 128$ picture ends as $4 \times 4$ scores: one answer for every $32 \times 32$ pixels,
# enlarged by bilinear interpolation. That is **FCN-32s**. The paper's remedy is to add the scores
# of earlier, finer stages (*skips*): **FCN-8s** adds those of stride 16 and of stride 8.
#
# Both fit into one short class. Read `forward` from top to bottom:


# %%
class FCN(nn.Module):
    """Scores of the last stage, enlarged; with skips, finer stages correct them on the way."""

    def __init__(self, backbone, num_classes, skips=()):
        super().__init__()
        self.backbone = backbone
        self.score = nn.Conv2d(backbone.channels["res5"], num_classes, 1)
        self.skips = nn.ModuleDict(
            {name: nn.Conv2d(backbone.channels[name], num_classes, 1) for name in skips}
        )

    def forward(self, x):  # (B, 3, H, W)
        features = self.backbone(x)
        scores = self.score(features["res5"])  # (B, C, H/32, W/32)
        for name, skip in self.skips.items():
            finer = skip(features[name])  # (B, C, H/16, W/16), then (B, C, H/8, W/8)
            scores = F.interpolate(scores, finer.shape[-2:], mode="bilinear") + finer
        return F.interpolate(scores, x.shape[-2:], mode="bilinear")  # (B, C, H, W)


# %% [markdown]
# `labkit.models.semantic.fcn` holds the version that the course uses from here on. It is the same
# algorithm: with the same weights it returns the same numbers. As in every model of labkit, its
# `predict` begins at the backbone's feature maps.

# %%
library_fcn = build("fcn8_tiny", categories)
for skip in library_fcn.skips.values():  # they start at zero; make the comparison mean something
    nn.init.normal_(skip.weight, std=0.1)
own_fcn = FCN(library_fcn.backbone, len(categories), skips=("res4", "res3"))
own_fcn.load_state_dict(library_fcn.state_dict())
batch = preprocess([val_set[k][0] for k in range(2)], LABKIT)
logits = library_fcn.predict(library_fcn.backbone(batch.tensor), batch)
difference = (own_fcn(batch.tensor) - logits).abs().max().item()
labkit.record("own_fcn_vs_labkit", difference)
print(f"largest difference: {difference:.2g}")

# %% [markdown]
# ## 1.3 Dilated convolution
#
# Why halve the size at all? Because a unit deep in the network should see much of the picture, and
# a stride widens the view of every later filter at no cost. If we simply removed the strides, the
# map would stay fine but each filter would look at a tiny neighbourhood.
#
# A **dilated** (or *atrous*, "with holes") convolution spreads its taps $r$ cells apart,
#
# $$y[i] = \sum_{k} x[i + r \cdot k]\; w[k],$$
#
# which widens the view without more weights and without a smaller map. For $r = 1$ it is the usual
# convolution. By definition, in one dimension:


# %%
def dilated_conv1d(x, w, rate):
    """``y[i] = sum over k of x[i + rate * k] w[k]``, k from the centre of ``w``, zeros outside."""
    y = np.zeros(len(x))
    for i in range(len(x)):
        for k in range(len(w)):
            position = i + rate * (k - len(w) // 2)
            if 0 <= position < len(x):
                y[i] += x[position] * w[k]
    return y


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
labkit.record("own_dilated_conv_vs_torch", worst)
print(f"largest difference to PyTorch's convolution at the rates 1, 2 and 4: {worst:.2g}")

# %% [markdown]
# **Strides can be traded for dilation exactly.** Take a network, replace a stride of 2 by 1 and
# double the dilation of everything after it: each filter then reads the very cells it read before,
# and additionally answers at the positions in between. At every fourth cell the dilated network
# ($H/8$) repeats the strided one ($H/32$). The test below switches the normalisation off, because
# GroupNorm averages over positions and there are now more of them.


# %%
def without_norm(network):
    for module in network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return network.double()


strided, dilated = (
    without_norm(TinyResNet(output_stride=32)),
    without_norm(TinyResNet(output_stride=8)),
)
dilated.load_state_dict(strided.state_dict())  # the same weights fit: dilation has none of its own
x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
coarse, fine = strided(x)["res5"], dilated(x)["res5"]
print("strided", tuple(coarse.shape), " dilated", tuple(fine.shape))
relative = ((fine[..., ::4, ::4] - coarse).abs().max() / coarse.abs().max()).item()
labkit.record("dilated_repeats_strided", relative)

# %% [markdown]
# **What does one unit see?** The size of its view, the *receptive field*, follows from a
# recursion over the layers: with kernel $k$, stride $s$ and dilation $r$ of each layer,
#
# $$R \leftarrow R + (k - 1)\, r\, j, \qquad j \leftarrow j\, s,$$
#
# where $j$ is the distance in pixels between neighbouring cells. We let the network tell us
# instead: the gradient of one output with respect to the picture is non-zero exactly where the
# output looks. Three variants of the same weights: strided, strides simply removed, strides traded
# for dilation.


# %%
def view_of_centre(network):
    """Where the centre cell of res5 looks: mean absolute gradient per pixel, ``(H, W)``."""
    x = torch.randn(8, 3, 256, 256, dtype=torch.float64, requires_grad=True)
    out = network(x)["res5"]
    middle = out.shape[-1] // 2
    out[:, :, middle, middle].sum().backward()
    return x.grad.abs().mean(dim=(0, 1))


naive = without_norm(TinyResNet(output_stride=8))
naive.load_state_dict(strided.state_dict())
for module in naive.modules():
    if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
        module.dilation, module.padding = (1, 1), (1, 1)

networks = {"strided, 1/32": strided, "strides removed": naive, "dilated, 1/8": dilated}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for axis, (name, network) in zip(axes, networks.items(), strict=True):
    view = view_of_centre(network)
    side = int((view.sum(dim=0) > 0).sum())
    axis.imshow(view.sqrt(), cmap="magma")
    axis.set_title(f"{name}: sees {side} × {side} pixels", fontsize=9)
    axis.set_axis_off()
    labkit.record(f"receptive_field_{name.split(',')[0].replace(' ', '_')}", side)
plt.show()

# %% [markdown]
# Dilation keeps the wide view *and* the fine map. The price is arithmetic: the last stages now run
# on sixteen times as many cells. **DeepLab** puts one more idea on top, *atrous spatial pyramid
# pooling*: convolutions of several dilation rates side by side look at the same map, so that small
# and large objects both find a filter of their size (`labkit.models.semantic.deeplab`).
#
# ## 1.4 Intersection over union
#
# How good is a map? Counting right pixels flatters: on a picture that is 95 % sky, answering "sky"
# everywhere is 95 % right. Intersection over union asks per class $c$, with the set of pixels $P_c$
# predicted and $G_c$ true,
#
# $$\mathrm{IoU}_c = \frac{|P_c \cap G_c|}{|P_c \cup G_c|},\qquad
#   \mathrm{mIoU} = \frac{1}{C} \sum_c \mathrm{IoU}_c .$$
#
# By hand on a 4 × 4 picture of two classes: class 1 is predicted on 4 pixels, true on 6, and 3
# agree. Its IoU is $3 / (4 + 6 - 3) = 3/7$; class 0 has $9 / (12 + 10 - 9) = 9/13$.

# %%
truth = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
guess = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]])


def iou(prediction, target, c):
    """Intersection over union of class ``c`` over the pixels whose target is known."""
    known = target != IGNORE
    p, g = (prediction == c) & known, (target == c) & known
    return (p & g).sum().item() / (p | g).sum().item()


by_hand = (3 / 7 + 9 / 13) / 2
matrix = ConfusionMatrix(2)
matrix.update(guess, truth)
print("confusion matrix, rows true, columns predicted:", matrix.counts[:, :2].tolist())
print(f"accuracy {matrix.compute().pixel_accuracy:.3f}")
labkit.record("iou_by_hand_error", abs(by_hand - (iou(guess, truth, 0) + iou(guess, truth, 1)) / 2))
labkit.record("iou_labkit_error", abs(by_hand - matrix.compute().miou))

# %% [markdown]
# Over a data set the sums run over all pictures before the division: one confusion matrix
# collects them, so that a class that is rare in one picture does not count double.
#
# ## 1.5 The experiment
#
# Three networks with the same residual backbone, the same data, steps and learning rate. As in the
# papers, none starts from nothing: each begins with the classifier's backbone (the dilated one too:
# dilation has no weights of its own) and is fine-tuned, the loss being the cross-entropy of every
# pixel.

# %%
MODELS = {"FCN-32s": "fcn32_tiny", "FCN-8s": "fcn8_tiny", "dilated": "deeplab_tiny"}
models, losses, seconds = {}, {}, {}
for name, preset in MODELS.items():
    torch.manual_seed(seed)
    models[name] = build(preset, categories)
    models[name].backbone.load_state_dict(classifier.backbone.state_dict())
    start = time.perf_counter()
    history = train(models[name], drawn, TrainConfig(steps=steps, lr=3e-3, seed=seed))
    seconds[name] = time.perf_counter() - start
    losses[name] = history.losses["total"]

loss_curves(losses)

# %%
predictors = {name: Predictor(model) for name, model in models.items()}
results, boundary = {}, {}


def near_border(semantic, width=2):
    """Pixels within ``width`` of a change of class."""
    padded = F.pad(semantic[None].float(), [width] * 4, mode="replicate")
    high = F.max_pool2d(padded, 2 * width + 1, stride=1)
    low = -F.max_pool2d(-padded, 2 * width + 1, stride=1)
    return (high != low)[0]


for name, predictor in predictors.items():
    everywhere, borders = ConfusionMatrix(categories), ConfusionMatrix(categories)
    for prediction, target in predictor.predict_dataset(val_set):
        everywhere.update(prediction.semantic, target["semantic"])
        only_border = target["semantic"].where(near_border(target["semantic"]), IGNORE)
        borders.update(prediction.semantic, only_border)
    results[name], boundary[name] = everywhere.compute(), borders.compute()

print(
    f"{'':9} {'mIoU':>6} {'things':>7} {'stuff':>6} {'border':>7} {'pixels':>7} {'weights':>8} {'train':>6}"
)
for name, result in results.items():
    things = np.mean([result.iou[i] for i in categories.things])
    stuff = np.mean([result.iou[i] for i in categories.stuff])
    weights = sum(p.numel() for p in models[name].parameters()) / 1e6
    print(
        f"{name:9} {result.miou:6.3f} {things:7.3f} {stuff:6.3f} {boundary[name].miou:7.3f} "
        f"{result.pixel_accuracy:7.3f} {weights:6.2f} M {seconds[name]:4.0f} s"
    )
    labkit.record(f"miou_{name}", result.miou)
    labkit.record(f"border_miou_{name}", boundary[name].miou)
labkit.record("dilated_minus_fcn32", results["dilated"].miou - results["FCN-32s"].miou)
labkit.record("dilated_minus_fcn8", results["dilated"].miou - results["FCN-8s"].miou)

# %% [markdown]
# The column *border* measures only pixels within two of a change of class. That is where the
# coarse map loses most: no interpolation of $4 \times 4$ scores can follow an outline. The same
# pictures, side by side:

# %%
chosen = [val_set[i] for i in range(3)]
rows = []
for image, target in chosen:
    rows += [("truth", image, target["semantic"])]
    rows += [(name, image, predictor(image).semantic) for name, predictor in predictors.items()]
panels(rows, categories, columns=4, names=False)

# %% [markdown]
# ## 1.6 What semantic labels cannot say
#
# How many squares are in the picture? Let us be generous and start from the *true* semantic map,
# as if our network were perfect, and count connected regions of each thing class. Where two
# objects of one class touch, they melt into one region; where one object is cut in two by another,
# it counts twice.

# %%
import cv2


def count_regions(semantic, label):
    """Connected regions of a class in a semantic map."""
    return cv2.connectedComponents((semantic == label).numpy().astype(np.uint8))[0] - 1


def counting_errors(dataset):
    """Share of the pictures in which some class is counted wrongly from the true semantic map."""
    wrong, merged, split = 0, 0, 0
    for _, target in dataset:
        errors = []
        for label in categories.things:
            true = int((target["labels"] == label).sum())
            errors.append(count_regions(target["semantic"], label) - true)
        wrong += any(errors)
        merged += sum(-e for e in errors if e < 0)
        split += sum(e for e in errors if e > 0)
    return wrong / len(dataset), merged, split


crowded = Shapes("val", num=num_val, crowded=True, seed=seed)
for name, dataset in (("shapes", val_set), ("crowded", crowded)):
    share, merged, split = counting_errors(dataset)
    print(
        f"{name:8} wrong count in {share:.0%} of the pictures: {merged} objects lost by merging, "
        f"{split} gained by splitting"
    )
    labkit.record(f"wrong_count_{name}", share)

# %%
image, target = crowded[0]
panels(
    [
        ("image", image, None),
        ("perfect semantic map", image, target["semantic"]),
        ("the objects", image, target["panoptic"]),
    ],
    categories,
    columns=3,
)

# %% [markdown]
# A *perfect* semantic map miscounts. The information is not blurred, it is absent: the map
# $\ell(i)$ has a class for each pixel and nothing that says "this one and that one are two". What
# is missing is a second number per pixel, the instance $z_i$. **Instance segmentation** (notebooks
# 2 and 3) finds the objects, each with its mask, and ignores the rest of the picture.
# **Panoptic segmentation** (notebooks 4 to 8) gives every pixel the pair $(\ell_i, z_i)$.
#
# ## To take away
#
# - A $1 \times 1$ convolution turns a classifier into a segmenter; the stride of the backbone sets
#   how coarse its answer is.
# - Skips repair coarse scores with finer ones; dilation avoids the coarseness and keeps the view.
#   The same weights fit both.
# - IoU counts what is shared against what is claimed by either side; sum over the data set first.
# - Semantic maps do not count. That is a property of the representation, not of the network.
#
# ## Exercises
#
# 1. Compute the receptive field of `res5` by the recursion of 1.3 and compare with the picture.
#    (Solution: the stem is a 5 × 5 convolution of stride 2 and a 3 × 3 pooling of stride 2; each
#    block has two 3 × 3 convolutions.)
# 2. Build `deeplab_tiny` with `output_stride=16` (`replace` its configuration in
#    `labkit.models.presets.PRESETS`). Where on the line between FCN-32s and stride 8 does it
#    land, in mIoU and in seconds?
# 3. Add the skip of `res2` to the notebook's `FCN`. Does *border* improve more than mIoU? Why?
# 4. Find the smallest change to the semantic map, a map of the same size with more values, from
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
#   Segmentation. arXiv 1706.05587, 2017.
# - K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. CVPR 2016.
