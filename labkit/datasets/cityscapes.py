"""Reader for Cityscapes' panoptic annotations: COCO panoptic format with other file names.

``createPanopticImgs`` of the package ``cityscapesscripts`` makes them. Run
without ``--use-train-id``, it writes JSON and PNGs into ``gtFine``. The file names of images in its
JSON do not exist; an image is found by its id, ``CITY_SEQUENCE_FRAME``.
"""

from __future__ import annotations

from pathlib import Path

from labkit.datasets.cityscapes_categories import cityscapes_panoptic
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.errors import LabkitError


class Cityscapes(CocoPanoptic):
    """Street scenes of 2048 × 1024 pixels with the 19 classes of Cityscapes' evaluation.

    What Cityscapes ignores, such as the bonnet of the recording car, is void. Groups of things that
    are annotated as one are crowds. Image ids are strings.

    Args:
        root: holds ``gtFine/cityscapes_panoptic_SPLIT.json``, ``gtFine/cityscapes_panoptic_SPLIT/``
            with its PNGs, and ``leftImg8bit/SPLIT/CITY/ID_leftImg8bit.png``.
        split: ``train`` or ``val``.

    Raises:
        LabkitError: the split or a folder is not there, the JSON is refused, or its categories are
            not Cityscapes' label ids. Reading an item raises it as :class:`CocoPanoptic` does.
    """

    def __init__(self, root: str | Path, split: str) -> None:
        annotations = Path(root) / "gtFine"
        path = annotations / f"cityscapes_panoptic_{split}.json"
        if not path.exists():
            found = [p.stem for p in sorted(annotations.glob("cityscapes_panoptic_*.json"))]
            names = [name.removeprefix("cityscapes_panoptic_") for name in found]
            names = [name for name in names if not name.endswith("_trainId")]
            raise LabkitError(
                f"{path}: there is no such file"
                + (f"; the splits here are {', '.join(names)}" if names else "")
                + ". Make it from Cityscapes' annotations with createPanopticImgs of"
                " cityscapesscripts, without --use-train-id"
            )
        super().__init__(path, image_dir=Path(root) / "leftImg8bit" / split)
        known = [(c.id, c.name, c.isthing) for c in cityscapes_panoptic()]
        if sorted(known) != sorted((c.id, c.name, c.isthing) for c in self.categories):
            raise LabkitError(
                f"{path}: the categories are not Cityscapes' 19 label ids, 7 road to 33 bicycle;"
                " make it with createPanopticImgs of cityscapesscripts, without --use-train-id"
            )
        # Labels in the order that weights expect, independent of the file's order and colours.
        self.categories = cityscapes_panoptic()

    def image_path(self, index: int) -> Path:
        """Path ``CITY/ID_leftImg8bit.png`` of an image; the JSON's ``file_name`` is ignored."""
        image_id = str(self.image_info(index)["id"])
        return self.image_dir / image_id.split("_")[0] / f"{image_id}_leftImg8bit.png"
