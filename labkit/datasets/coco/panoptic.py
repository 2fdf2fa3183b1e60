"""Reader for data sets in the COCO panoptic format, with the categories of their JSON."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from labkit.datasets.coco.layout import image_folder, split_file
from labkit.datasets.coco.panoptic_json import read_json
from labkit.datasets.coco.panoptic_png import read_png, to_panoptic
from labkit.datasets.file_names import resolve_file_name
from labkit.datasets.image_files import read_image
from labkit.datasets.targets import target_from_panoptic
from labkit.errors import LabkitError
from labkit.structures import Categories, Target
from labkit.system.message_text import counted


class CocoPanoptic(Dataset[tuple[Tensor, Target]]):
    """COCO panoptic: ``ds[i]`` is ``(image, target)`` with ``image`` ``(3, H, W)`` uint8 RGB.

    Images that the JSON lists without an annotation are left out.

    Args:
        json_path: the panoptic JSON.
        png_dir: folder of the PNGs that the annotations name; by default the JSON's path without
            ``.json``.
        image_dir: folder of the images; by default the one named as COCO does, ``val2017`` beside
            ``annotations/panoptic_val2017.json``'s folder.

    Raises:
        LabkitError: the JSON is refused (the message says where), or a folder does not exist.
            Reading an item raises it for a missing or damaged file, a size or a segment that
            differs from the JSON.
    """

    def __init__(
        self,
        json_path: str | Path,
        png_dir: str | Path | None = None,
        image_dir: str | Path | None = None,
    ) -> None:
        path = Path(json_path)
        self.png_dir = Path(png_dir or path.with_suffix(""))
        self.image_dir = Path(image_dir or image_folder(path, "panoptic"))
        data = read_json(path)
        for folder, argument in ((self.png_dir, "png_dir"), (self.image_dir, "image_dir")):
            if not folder.is_dir():
                raise LabkitError(f"{path}: no folder {folder}; say {argument}=...")
        self.categories = Categories.from_coco(data["categories"])
        images = {image["id"]: image for image in data["images"]}
        self._items: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (images[annotation["image_id"]], annotation) for annotation in data["annotations"]
        ]
        left_out = len(images) - len(self._items)
        if left_out and self._items:
            warnings.warn(
                f"{path}: lists {counted(len(images), 'image')}; left out, because they have no"
                f" annotation: {left_out}",
                stacklevel=2,
            )

    @classmethod
    def from_folder(cls, root: str | Path, split: str | None = None) -> CocoPanoptic:
        """Open a folder in COCO's layout, which ``labkit data export`` also writes.

        Args:
            root: holds ``annotations/panoptic_SPLIT.json``, ``annotations/panoptic_SPLIT/*.png``
                and ``SPLIT/`` with the images.
            split: as :func:`~labkit.datasets.coco.layout.split_file` takes it.

        Raises:
            LabkitError: no split has this name, or several fit.
        """
        return cls(split_file(Path(root), "panoptic", split))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image_info, annotation = self._items[index]
        size = image_info["height"], image_info["width"]
        image = read_image(self.image_path(index), size)
        png = resolve_file_name(self.png_dir, annotation["file_name"])
        panoptic = to_panoptic(annotation, read_png(png, size), self.categories, str(png))
        return image, target_from_panoptic(panoptic, self.categories, image_info["id"])

    def image_info(self, index: int) -> dict[str, Any]:
        """Entry of ``images`` of an item."""
        return self._items[index][0]

    def segments(self, index: int) -> list[dict[str, Any]]:
        """Entries of ``segments_info`` of an item."""
        found: list[dict[str, Any]] = self._items[index][1]["segments_info"]
        return found

    def image_path(self, index: int) -> Path:
        """Path of an image."""
        return resolve_file_name(self.image_dir, self._items[index][0]["file_name"])
