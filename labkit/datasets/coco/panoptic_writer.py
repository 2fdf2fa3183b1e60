"""Incremental, resumable writer of predicted panoptic maps in the COCO format.

    OUT/panoptic_SPLIT/*.png        the maps, each written as soon as it is predicted
    OUT/panoptic_SPLIT.0.jsonl      one line for each map: the image's index and its annotation
    OUT/panoptic_SPLIT.json         all annotations, written at the end

A line is written after its PNG, so a map with both is complete even after a crash. Every process
has its own file of lines, whose first line identifies the run that the folder belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from labkit.datasets.coco.panoptic_json import write_json
from labkit.datasets.coco.panoptic_png import to_annotation, write_png
from labkit.errors import LabkitError
from labkit.structures import Categories, Panoptic


class PanopticWriter:
    """Writer of the panoptic maps of one run.

    Args:
        out: output folder; created with the first map.
        split: name of the files.
        run: identifies the run, in JSON types. A folder holds the predictions of one run: values of
            the same key must be equal in all its files.
        categories: the classes of the maps' labels.
        process: rank of this process among those that share the images.

    Raises:
        LabkitError: the folder holds panoptic files of another run, or of something else.
    """

    def __init__(
        self, out: Path, split: str, run: Mapping[str, Any], categories: Categories, process: int
    ) -> None:
        self.json_path = out / f"panoptic_{split}.json"
        self.png_dir = self.json_path.with_suffix("")
        self.run, self.categories = dict(run), categories
        self._lines_path = out / f"panoptic_{split}.{process}.jsonl"
        self._lines: IO[bytes] | None = None
        self._check_folder(out)
        self._written = self._read()

    def __contains__(self, index: int) -> bool:
        """Whether the map of image ``index`` of the data set is written."""
        annotation = self._written.get(index)
        return annotation is not None and (self.png_dir / annotation["file_name"]).is_file()

    def add(self, index: int, image_id: int | str, panoptic: Panoptic) -> None:
        """Write a map.

        Args:
            index: index of the image in the data set.
            image_id: names the PNG; a number is written with twelve digits, as in COCO.
            panoptic: the map, with segment ids up to 16,777,215.

        Raises:
            LabkitError: an id is too large for a PNG, segments and map differ, the image id cannot
                be a file name, or a file cannot be written.
        """
        name = f"{image_id:012d}.png" if isinstance(image_id, int) else f"{image_id}.png"
        if Path(name).name != name:
            raise LabkitError(f"image {image_id!r}: its id cannot be the name of a file")
        annotation = to_annotation(panoptic, image_id, name, self.categories)
        if not self._lines_path.exists():  # before the first PNG, so that no PNG is of unknown run
            self._append({"run": self.run})
        try:
            write_png(self.png_dir / name, panoptic.ids.numpy(force=True))
        except LabkitError as error:
            raise LabkitError(f"image {image_id}: {error}") from None
        self._append({"index": index, "annotation": annotation})
        self._written[index] = annotation

    def finish(self, count: int) -> Path:
        """Write the JSON of the first ``count`` images, from the lines of all processes.

        Raises:
            LabkitError: an image has no map yet, or the file cannot be written.
        """
        self._written = self._read()
        missing = [index for index in range(count) if index not in self]
        if missing:
            raise LabkitError(
                f"{self.png_dir}: {len(missing)} of {count} maps are missing, the first of image"
                f" number {missing[0]}; run the same command again to make them"
            )
        about = ", ".join(f"{key} {value}" for key, value in self.run.items())
        content = {
            "info": {"description": f"panoptic maps predicted by labkit: {about}"},
            "annotations": [self._written[index] for index in range(count)],
            "categories": self.categories.to_coco(),
        }
        write_json(self.json_path, content)
        return self.json_path

    def close(self) -> None:
        """Close this process's file of lines."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _append(self, row: dict[str, Any]) -> None:
        path = self._lines_path
        try:
            if self._lines is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                # A line that was cut off when its process was stopped must not be continued.
                whole = not path.exists() or path.read_bytes().endswith(b"\n")
                self._lines = path.open("ab")
                self._lines.write(b"" if whole else b"\n")
            self._lines.write(json.dumps(row).encode() + b"\n")
            self._lines.flush()
        except OSError as error:
            raise LabkitError(f"{path}: cannot be written: {error.strerror}") from None

    def _read(self) -> dict[int, dict[str, Any]]:
        """Read the annotations in all processes' lines by index; later lines win."""
        stem = self.json_path.stem
        return {
            row["index"]: row["annotation"]
            for path in sorted(self.json_path.parent.glob(f"{stem}.[0-9]*.jsonl"))
            for row in _rows(path)
            if "annotation" in row
        }

    def _check_folder(self, out: Path) -> None:
        known = set()
        for path in sorted(out.glob("panoptic_*.jsonl")):
            known.add(path.name.split(".")[0])
            before = next(_rows(path), {}).get("run")
            if before is None:
                raise LabkitError(f"{path}: damaged; delete {out}, or name another folder")
            changed = [
                f"{key} was {before[key]}, is {value}"
                for key, value in self.run.items()
                if before.get(key, value) != value  # another split has other keys beside these
            ]
            if changed:
                raise LabkitError(
                    f"{out}: holds the predictions of another run ({'; '.join(changed)}). Name"
                    " another folder, or delete this one"
                )
        for path in sorted(out.glob("panoptic_*")):
            if path.name.split(".")[0] not in known:
                raise LabkitError(
                    f"{path}: is not from `labkit predict --panoptic`, or its lines"
                    f" ({path.name.split('.')[0]}.0.jsonl) are lost; name another folder"
                )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file; skip one that was cut off when its process was stopped."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror}") from None
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row
