"""What every semantic segmentation network shares: scores per class, their loss, their argmax.

Letters in shapes: ``B`` images, ``C`` classes, ``H × W`` the padded batch, ``h × w`` one image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from labkit.models.preprocess import batch_images, batch_semantic
from labkit.models.semantic.losses import cross_entropy
from labkit.structures import Prediction, Target


class SemanticModel(nn.Module):
    """A network whose answer is one score per class and pixel; subclasses say how it is made."""

    size_divisor = 32
    """Images are padded to a multiple of this, so that every stage divides evenly."""

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` normalised images to ``(B, C, H, W)`` scores."""

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Prediction]:
        """Losses in training mode, predictions in evaluation mode.

        Args:
            images: B tensors ``(3, h, w)`` uint8 RGB.
            targets: B targets with ``semantic``; needed in training mode only.

        Returns:
            Training: ``{"loss_sem_seg": ()}``, the mean cross-entropy over labelled pixels.
            Evaluation: B predictions with ``semantic`` ``(h, w)``.
        """
        x = batch_images(images, self.size_divisor)  # (B, 3, H, W)
        scores = self.logits(x)  # (B, C, H, W)
        if self.training:
            if targets is None:
                raise ValueError("targets are needed in training mode; call model.eval() first?")
            truth = batch_semantic([t["semantic"] for t in targets], (x.shape[2], x.shape[3]))
            return {"loss_sem_seg": cross_entropy(scores, truth)}
        labels = scores.argmax(dim=1)  # (B, H, W)
        return [
            Prediction(semantic=m[: image.shape[1], : image.shape[2]])
            for m, image in zip(labels, images, strict=True)
        ]


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation to ``size``, pixel centres aligned by area (not by corners)."""
    return F.interpolate(x, size=tuple(size[-2:]), mode="bilinear", align_corners=False)
