"""Training augmentation: horizontal flip and, optionally, scale jitter, crop and colour jitter."""

from __future__ import annotations

from dataclasses import dataclass

from torchvision.transforms import v2

from labkit.datasets.transforms import JointTransform
from labkit.errors import LabkitError

HUE = 0.25
"""Hue jitter as a share of the strength: at full strength, hues would be exchanged."""


@dataclass(frozen=True)
class Augmentation:
    """Settings of the random transforms beside the horizontal flip.

    Attributes:
        scale_jitter: range of scales; 1 fits the image into the crop. The large-scale
            jitter of G. Ghiasi et al. (CVPR 2021) is 0.1 to 2.
        crop: side of the square crop after scaling; smaller images are padded, and
            the padding is ignored. Scale jitter needs it.
        color_jitter: strength in 0..1 of brightness, contrast and saturation; hue gets a quarter.
    """

    scale_jitter: tuple[float, float] | None = None
    crop: int | None = None
    color_jitter: float | None = None

    def __post_init__(self) -> None:
        if self.scale_jitter is not None:
            low, high = self.scale_jitter
            if not 0.05 <= low <= high <= 10:  # also refuses nan
                raise LabkitError(
                    f"scale jitter {low:g} to {high:g}: two scales in 0.05..10, the smaller first,"
                    " such as 0.5 2"
                )
        if self.crop is not None and not 16 <= self.crop <= 4096:
            raise LabkitError(f"crop {self.crop}: must be in 16..4096 pixels")
        if self.color_jitter is not None and not 0 < self.color_jitter <= 1:
            raise LabkitError(f"colour jitter {self.color_jitter:g}: must be above 0, at most 1")

    def joint(self, resize: v2.Transform | None) -> JointTransform:
        """Build the transform of an image and its target.

        Args:
            resize: resizes to the model's input size; scale jitter replaces it.
        """
        steps: list[v2.Transform] = [v2.RandomHorizontalFlip()]
        if self.scale_jitter is not None:
            if self.crop is None:
                raise LabkitError("scale jitter needs the side of the crop")
            steps.append(v2.ScaleJitter((self.crop, self.crop), self.scale_jitter))
        elif resize is not None:
            steps.append(resize)
        if self.crop is not None:
            steps.append(v2.RandomCrop(self.crop, pad_if_needed=True))
        if self.color_jitter is not None:
            strength = self.color_jitter
            steps.append(v2.ColorJitter(strength, strength, strength, HUE * strength))
        return JointTransform(*steps)
