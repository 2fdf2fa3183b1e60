"""What every network for objects shares: images of any size in, losses or predictions out.

Letters in shapes: ``B`` images, ``h × w`` one image, ``H × W`` the padded batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from labkit.errors import LabkitError
from labkit.models.preprocess import check_images, normalised
from labkit.models.preprocessing import Conventions
from labkit.ops.boxes import larger_than
from labkit.structures import Categories, Prediction, Target
from labkit.system.message_text import counted


@dataclass(frozen=True)
class DetectorConfig:
    """A detector's numbers.

    Attributes:
        conventions: see :class:`~labkit.models.preprocessing.Conventions`.
    """

    conventions: Conventions


class Detector(nn.Module):
    """A network that finds objects.

    Args:
        config: its numbers.
        categories: the things among them are its objects' classes.
    """

    config: DetectorConfig

    def __init__(self, config: DetectorConfig, categories: Categories) -> None:
        super().__init__()
        self.config = config
        self.categories = categories

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Prediction]:
        """Losses in training mode, predictions in evaluation mode.

        Args:
            images: B tensors ``(3, h, w)`` uint8 RGB.
            targets: B targets with ``boxes``, ``labels`` and ``masks``; in training mode only.

        Returns:
            Training: :meth:`training_losses`. Evaluation: B predictions at the images' sizes.

        Raises:
            LabkitError: an image of another type, or targets with boxes without area or labels
                that are not the categories'.
        """
        check_images(images)
        if not self.training:
            return self.infer(images, [size_of(image) for image in images])
        if targets is None:
            raise ValueError("targets are needed in training mode; call model.eval() first?")
        check_targets(targets, len(self.categories.things))
        return self.training_losses(images, targets)

    @abstractmethod
    def training_losses(
        self, images: Sequence[Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """All losses by name, weighted so that their sum is what is minimised."""

    @abstractmethod
    def infer(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Predictions at other sizes than the images'.

        Args:
            images: B tensors ``(3, h, w)`` RGB from 0 to 255, uint8 or float, resized as the
                weights want them.
            sizes: (height, width) for each prediction, such as those before the resizing.

        Returns:
            B predictions, in pixels of ``sizes``.
        """

    def batch(self, images: Sequence[Tensor], divisor: int) -> Tensor:
        """The network's input ``(B, 3, H, W)``, H and W multiples of ``divisor``."""
        conventions = self.config.conventions
        x = normalised(images, divisor, conventions.mean, conventions.std)
        return x.flip(1) if conventions.bgr else x


def size_of(image: Tensor) -> tuple[int, int]:
    """(height, width)."""
    return image.shape[-2], image.shape[-1]


def check_targets(targets: Sequence[Target], classes: int) -> None:
    """Refuse what would make a loss meaningless or infinite.

    Raises:
        LabkitError: boxes without area or not finite, labels outside the things, or numbers of
            boxes, labels and masks that differ.
    """
    for target in targets:
        where = f"target of image {target['image_id']}"
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) != len(labels):
            raise LabkitError(
                f"{where}: boxes must be (N, 4) and labels (N,), "
                f"got {tuple(boxes.shape)} and {tuple(labels.shape)}"
            )
        if len(target["masks"]) != len(labels):
            raise LabkitError(
                f"{where}: {counted(len(labels), 'label')} but"
                f" {counted(len(target['masks']), 'mask')}"
            )
        bad = ~(boxes.isfinite().all(dim=1) & larger_than(boxes, 0.0))
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise LabkitError(
                f"{where}: box {i} {boxes[i].tolist()} has no area; drop objects without pixels"
            )
        outside = (labels < 0) | (labels >= classes)
        if bool(outside.any()):
            i = int(outside.nonzero()[0])
            raise LabkitError(
                f"{where}: label {int(labels[i])} of object {i} is not one of the {classes} thing "
                "classes; build the model with this data set's categories"
            )
