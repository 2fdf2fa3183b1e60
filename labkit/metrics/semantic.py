"""Semantic segmentation metrics (mIoU, accuracies) from one confusion matrix.

J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR
2015, section 5, with ``n[i, j]`` the pixels of true class i predicted as j and ``t[i]`` those of
true class i:

    pixel accuracy          sum_i n[i, i] / sum_i t[i]
    mean accuracy           mean_i n[i, i] / t[i]
    IoU of class i          n[i, i] / (t[i] + sum_j n[j, i] - n[i, i])
    mIoU                    mean_i IoU of class i
    frequency-weighted IoU  sum_i t[i] IoU of class i / sum_i t[i]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.errors import LabkitError
from labkit.structures import IGNORE, Categories
from labkit.system.distributed import sum_over_processes


@dataclass(frozen=True)
class SemanticResult:
    """Metrics in 0..1.

    Attributes:
        iou: IoU of each class; nan for a class in neither target nor prediction.
        miou: mean IoU over the classes in target or prediction.
        pixel_accuracy: share of correct pixels.
        mean_accuracy: mean share of correct pixels over the classes in the target.
        frequency_weighted_iou: IoU weighted by the class's share of the target.
    """

    iou: tuple[float, ...]
    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float


class ConfusionMatrix:
    """Confusion matrix: ``update`` with each image or batch, then ``compute``.

    J. Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 5.
    Notebook 01, section 1.4.

    Pixels with target 255 (IGNORE) are ignored. Undecided pixels, predicted as 255, are wrong if
    the target is known; they have their own column. In a data-parallel evaluation, every process
    updates with its share of the images and then calls ``all_reduce`` once.

    Args:
        classes: number of classes C, or the categories.

    Attributes:
        counts: ``(C, C + 1)`` int64 pixels; rows are true, columns predicted classes, the last
            column undecided.

    Raises:
        LabkitError: C is not in 1..255.
    """

    def __init__(self, classes: int | Categories) -> None:
        self.num_classes = classes if isinstance(classes, int) else len(classes)
        if not 1 <= self.num_classes <= IGNORE:
            raise LabkitError(f"classes: 1 to {IGNORE} are possible, got {self.num_classes}")
        self.counts = torch.zeros(self.num_classes, self.num_classes + 1, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add an image or a batch.

        Args:
            prediction: integer labels of any shape, 255 = undecided.
            target: integer labels of the same shape, 255 = ignore.

        Raises:
            LabkitError: shapes differ, or a value is neither a class nor 255.
        """
        if prediction.shape != target.shape:
            raise LabkitError(
                f"prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}"
            )
        target = target.flatten().to(torch.int64)
        prediction = prediction.flatten().to(target)  # also to its device
        for name, labels in (("prediction", prediction), ("target", target)):
            wrong = ((labels < 0) | (labels >= self.num_classes)) & (labels != IGNORE)
            if wrong.any():
                raise LabkitError(
                    f"{name} has label {int(labels[wrong][0])}; labels are"
                    f" 0..{self.num_classes - 1} and {IGNORE}"
                )
        known = target != IGNORE
        columns = self.num_classes + 1
        cell = target * columns + torch.where(prediction == IGNORE, self.num_classes, prediction)
        counts = torch.bincount(cell[known], minlength=self.counts.numel())
        self.counts += counts.reshape(self.counts.shape).cpu()

    def all_reduce(self) -> None:
        """Sum the counts over all processes of ``torch.distributed``; without it, do nothing.

        Call it once, after the last update. Then every process holds the total.
        """
        self.counts = sum_over_processes(self.counts)

    def compute(self) -> SemanticResult:
        """Compute the metrics; nan where no pixel was counted."""
        counts = self.counts.double()
        correct = counts.diagonal()  # (C,)
        true, predicted = counts.sum(dim=1), counts[:, :-1].sum(dim=0)
        iou = correct / (true + predicted - correct)  # 0 / 0 = nan: the class does not occur
        present = true > 0
        return SemanticResult(
            iou=tuple(iou.tolist()),
            miou=float(iou.nanmean()),
            pixel_accuracy=float(correct.sum() / true.sum()),
            mean_accuracy=float((correct / true)[present].mean()),
            frequency_weighted_iou=float((true * iou)[present].sum() / true.sum()),
        )
