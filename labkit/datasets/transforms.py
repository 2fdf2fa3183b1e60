"""Joint transforms: torchvision's ``transforms.v2`` applied to an image and its whole target.

Any ``v2`` transform works, for example::

    JointTransform(
        v2.RandomHorizontalFlip(),
        v2.ScaleJitter((128, 128), scale_range=(0.5, 2.0)),
        v2.RandomCrop((128, 128), pad_if_needed=True),
        v2.RandomPhotometricDistort(),
    )

Resizing by the short side with a limit for the long one is ``v2.Resize(800, max_size=1333)``, or
``v2.RandomShortestSize`` with several sizes to choose from.

Letters in shapes: ``N`` objects, ``H`` × ``W`` pixels before and ``h`` × ``w`` after.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from labkit.datasets.targets import SegmentationDataset
from labkit.ops.boxes import masks_to_edge_boxes
from labkit.structures import IGNORE, VOID, Panoptic, Target


class JointTransform:
    """``v2`` transforms in sequence, with the same draws for an image and all maps of its target.

    Maps are resampled by nearest neighbour. Boxes are computed again from the masks, so they are
    tight after a crop or a rotation too. Objects and segments without a pixel left are removed from
    the target. Padding becomes void, which is ignored.

    Args:
        steps: the transforms; they draw from torch's global random generator.
    """

    def __init__(self, *steps: v2.Transform) -> None:
        self.transform = v2.Compose(steps) if steps else v2.Identity()

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Transform ``image`` ``(3, H, W)`` and ``target``; neither is changed.

        Returns:
            The image ``(3, h, w)`` and its target, both of plain tensors.
        """
        # All maps are stacked into one tensor, which is never empty and is padded with 0. Semantic
        # labels are shifted by one, so that 0 means ignore.
        layers = [*target["masks"].to(torch.int32)]
        if "semantic" in target:
            layers.append((target["semantic"].to(torch.int32) + 1) % (IGNORE + 1))
        if "panoptic" in target:
            layers.append(target["panoptic"].ids)
        if not layers:
            layers = [torch.zeros(image.shape[1:], dtype=torch.int32)]
        moved_image, moved = self.transform(
            tv_tensors.Image(image), tv_tensors.Mask(torch.stack(layers))
        )
        maps = moved.as_subclass(Tensor)  # (N + 2, h, w)
        return moved_image.as_subclass(Tensor), _rebuild(target, maps)


def _rebuild(target: Target, maps: Tensor) -> Target:
    """Build the target of transformed maps ``(N + 2, h, w)``, without what has no pixel left."""
    count = len(target["masks"])
    masks = maps[:count] > 0  # (N, h, w)
    kept = masks.flatten(1).any(1)  # (N,)
    masks = masks[kept]
    rebuilt: Target = {
        "image_id": target["image_id"],
        "boxes": masks_to_edge_boxes(masks),
        "labels": target["labels"][kept],
        "masks": masks,
    }
    if "semantic" in target:
        rebuilt["semantic"] = (maps[count].to(torch.int64) - 1) % (IGNORE + 1)
        count += 1
    if "panoptic" in target:
        ids = maps[count].contiguous()
        present = set(ids.unique().tolist()) - {VOID}
        segments = [s for s in target["panoptic"].segments if s.id in present]
        rebuilt["panoptic"] = Panoptic(ids, segments)
    return rebuilt


class TransformedDataset(Dataset[tuple[Tensor, Target]]):
    """A data set with a transform that is drawn again at every access."""

    def __init__(self, dataset: SegmentationDataset, transform: JointTransform) -> None:
        self.dataset, self.transform = dataset, transform
        self.categories = dataset.categories

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.transform(*self.dataset[index])
