"""Reading and writing panoptic PNGs of the COCO format, whose colours are segment ids.

Source: https://cocodataset.org/#format-data, "Panoptic Segmentation". A pixel's segment id is
``R + 256 G + 65536 B``, 0 is void. The JSON has one annotation per image: ``image_id``, the PNG's
``file_name`` and ``segments_info``, a list of ``{id, category_id, area, bbox, iscrowd}``.

The module imports NumPy and OpenCV only: the evaluation of files uses it, which would wait seconds
for torch.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from labkit.datasets.coco.compiled_maps import decode_ids
from labkit.datasets.coco.panoptic_json import MAX_ID
from labkit.datasets.file_names import missing_file_hint
from labkit.datasets.json_fields import MAX_PIXELS
from labkit.errors import LabkitError
from labkit.system.atomic_write import atomic_write

if TYPE_CHECKING:
    from labkit.structures import Categories, Panoptic

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLORS = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale with alpha", 6: "RGBA"}


def rgb_to_id(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Convert colours ``(..., 3)`` uint8 RGB to segment ids ``(...)`` int32."""
    padded = np.zeros((*rgb.shape[:-1], 4), np.uint8)
    for channel in range(3):  # one by one: five times quicker than all three at once
        padded[..., channel] = rgb[..., channel]
    return padded.view("<i4")[..., 0]


def id_to_rgb(ids: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Convert segment ids ``(...)`` to colours ``(..., 3)`` uint8 RGB.

    Raises:
        LabkitError: an id does not fit into three bytes.
    """
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise LabkitError(f"segment ids must be in 0..{MAX_ID}, got {ids.min()}..{ids.max()}")
    return np.ascontiguousarray(ids, "<i4")[..., None].view(np.uint8)[..., :3]


def read_png(path: str | Path, size: tuple[int, int] | None = None) -> NDArray[np.int32]:
    """Read the segment ids ``(H, W)`` int32 of a panoptic PNG.

    Args:
        path: the file.
        size: the required (H, W).

    Raises:
        LabkitError: the file is missing, truncated, damaged, not an 8-bit colour PNG, or of another
            size.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise LabkitError(
            f"{path}: cannot read the PNG: {error.strerror}{missing_file_hint(Path(path))}"
        ) from None
    found = _check_png(data, path)
    if size is not None and found.size != tuple(size):
        raise LabkitError(
            f"{path}: the PNG is {found.size[0]} x {found.size[1]} pixels (height x width),"
            f" expected {size[0]} x {size[1]}"
        )
    ids = None if found.plain is None else decode_ids(found.plain, found.size)
    return _decode_by_opencv(data, path) if ids is None else ids


def _decode_by_opencv(data: bytes, path: str | Path) -> NDArray[np.int32]:
    """Segment ids of any 8-bit colour PNG; whether a damaged one can be decoded is decided here."""
    try:
        # The quickest of OpenCV, torchvision and Pillow up to int32 ids: 1.5, 1.8 and 1.9 ms.
        rgb = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error:
        rgb = None
    if rgb is None:
        raise LabkitError(f"{path}: the PNG is damaged and cannot be decoded; fetch it again")
    return rgb_to_id(np.asarray(rgb, np.uint8))


class _CheckedPNG(NamedTuple):
    """Contents of a PNG whose checksums are right.

    Attributes:
        size: (H, W) of the header.
        plain: the pixels' zlib stream if the PNG is as COCO's are (8-bit RGB, not interlaced, and
            without further chunks); None for others, which OpenCV decodes.
    """

    size: tuple[int, int]
    plain: bytes | None


def _check_png(data: bytes, path: str | Path) -> _CheckedPNG:
    """Check all chunks and checksums, because decoders silently fill missing pixels with black."""
    if not data.startswith(_PNG_SIGNATURE):
        jpeg = " but a JPEG, which changes values a little" if data.startswith(b"\xff\xd8") else ""
        raise LabkitError(f"{path}: not a PNG file{jpeg}; a panoptic map is an 8-bit RGB PNG")
    start, kind = len(_PNG_SIGNATURE), b""
    kinds: list[bytes] = []
    pixels: list[bytes] = []
    while kind != b"IEND":
        length, kind = (
            struct.unpack_from(">I4s", data, start) if start + 8 <= len(data) else (0, b"")
        )
        end = start + 12 + length
        if end > len(data):
            raise LabkitError(
                f"{path}: the PNG is truncated (it ends after {len(data)} bytes); fetch it again"
            )
        if zlib.crc32(data[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise LabkitError(f"{path}: the PNG is damaged (checksum differs); fetch it again")
        if kind == b"eXIf":
            _require_upright(data[start + 8 : end - 4], path)
        if kind == b"IDAT":
            pixels.append(data[start + 8 : end - 4])
        kinds.append(kind)
        start = end
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise LabkitError(f"{path}: the PNG is damaged (it has no header); fetch it again")
    width, height, depth, color, *methods = struct.unpack_from(">IIBBBBB", data, 16)
    if depth != 8 or color not in (2, 6):
        raise LabkitError(
            f"{path}: the PNG is {depth}-bit {_PNG_COLORS.get(color, 'unknown')}; a panoptic PNG"
            " is 8-bit RGB with segment id = R + 256 G + 65536 B"
        )
    if height * width > MAX_PIXELS:
        raise LabkitError(
            f"{path}: the PNG is {height} x {width} pixels (height x width), more than the"
            f" {MAX_PIXELS:,} that can be read"
        )
    plain = (
        data[8:12] == b"\0\0\0\x0d"  # the header's length
        and height * width > 0
        and color == 2
        and not any(methods)  # of compression, filters and interlacing
        and kinds == [b"IHDR", *[b"IDAT"] * len(pixels), b"IEND"]
    )
    return _CheckedPNG((height, width), b"".join(pixels) if plain else None)


def _require_upright(exif: bytes, path: str | Path) -> None:
    from PIL import Image

    entries = Image.Exif()
    try:
        entries.load(exif)
        orientation = entries.get(0x0112, 1)
    except Exception:  # a damaged entry turns nothing, as in viewers
        return
    if orientation in range(2, 9):
        raise LabkitError(
            f"{path}: the PNG has the EXIF orientation {orientation}; a panoptic map is stored"
            " upright, without that entry"
        )


def write_png(path: str | Path, ids: NDArray[np.integer[Any]]) -> None:
    """Write segment ids ``(H, W)`` as a panoptic PNG, completely or not at all.

    Raises:
        LabkitError: an id does not fit into three bytes, or the file cannot be written.
    """
    # Unfiltered: areas of one value compress as well without PNG's gradient filters, and decode
    # twice as fast.
    options = [
        cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE
    ]  # fmt: skip
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(id_to_rgb(ids)[..., ::-1]), options)
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(encoded.tobytes())


def run_starts(*maps: NDArray[np.int32]) -> NDArray[np.intp]:
    """Start indices of runs of equal pixels in flattened maps ``(P,)`` of one size, ascending.

    A run ends where any of the maps changes. A panoptic map of 300,000 pixels has a few thousand
    runs, so counting runs and their lengths is many times quicker than sorting pixels.
    """
    starts = np.ones(maps[0].size, bool)
    np.not_equal(maps[0][1:], maps[0][:-1], out=starts[1:])
    for other in maps[1:]:
        starts[1:] |= other[1:] != other[:-1]
    return np.flatnonzero(starts)


def check_segments(
    listed: Iterable[int],
    present: Iterable[int],
    where: str,
    names: tuple[str, str] = ("the PNG", "the JSON's segments_info"),
) -> None:
    """Compare the ids listed for an image with those present in its map.

    Args:
        listed: ids of the segment list.
        present: ids in the map; void (0) need not be listed.
        where: file and image, for messages.
        names: names of the map and of the list in messages.

    Raises:
        LabkitError: an id is in only one of them.
    """
    in_list, in_map = set(listed), set(present)
    the_map, the_list = names
    for extra, here, there in (
        (in_map - in_list - {0}, the_map, the_list),
        (in_list - in_map, the_list, the_map),
    ):
        if extra:
            more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
            swapped = {_swapped(id_) for id_ in in_map}
            hint = (
                "; red and blue look exchanged (OpenCV writes BGR): a panoptic PNG is RGB"
                if in_list and in_list - {0} == swapped - {0}
                else ""
            )
            raise LabkitError(
                f"{where}: segment {min(extra)} is in {here} but not in {there}{more}{hint}"
            )


def _swapped(id_: int) -> int:
    """Segment id after an exchange of red and blue."""
    return (id_ & 255) << 16 | id_ & 0xFF00 | id_ >> 16


def to_panoptic(
    annotation: dict[str, Any], ids: NDArray[np.int32], categories: Categories, where: str
) -> Panoptic:
    """Join an image's annotation in the JSON and its map of :func:`read_png`.

    Args:
        annotation: the image's entry of ``annotations``.
        ids: ``(H, W)`` segment ids.
        categories: translate category ids into labels.
        where: the PNG's name, for messages.

    Raises:
        LabkitError: map and annotation list different segments, a category is unknown, or a
            segment has id 0, which is void.
    """
    import torch

    from labkit.structures import Panoptic, Segment

    infos: Sequence[dict[str, Any]] = annotation["segments_info"]
    flat = ids.ravel()
    check_segments((s["id"] for s in infos), np.unique(flat[run_starts(flat)]).tolist(), where)
    try:
        segments = [
            Segment(
                s["id"], categories.label(s["category_id"]), iscrowd=bool(s.get("iscrowd", False))
            )
            for s in infos
        ]
        return Panoptic(torch.from_numpy(ids), segments)
    except LabkitError as error:
        raise LabkitError(f"{where}: {error}") from None


def to_annotation(
    panoptic: Panoptic, image_id: int | str, file_name: str, categories: Categories
) -> dict[str, Any]:
    """Make the JSON annotation of a map that :func:`write_png` stores as ``file_name``.

    Boxes are COCO's ``[x, y, width, height]`` in pixels.

    Raises:
        LabkitError: the map's ids and its segments differ.
    """
    ids = panoptic.ids.cpu().numpy()
    width, flat = ids.shape[1], ids.ravel()
    starts = np.union1d(run_starts(flat), np.arange(0, flat.size, width))
    lengths = np.diff(starts, append=flat.size)
    present, of_run = np.unique(flat[starts], return_inverse=True)
    check_segments(
        (s.id for s in panoptic.segments),
        present.tolist(),
        f"image {image_id}",
        ("ids", "segments"),
    )

    areas = np.bincount(of_run, lengths).astype(int)
    left, top = np.full((2, present.size), flat.size)
    right, bottom = np.zeros((2, present.size), int)
    rows, columns = np.divmod(starts, width)
    np.minimum.at(left, of_run, columns)
    np.maximum.at(right, of_run, columns + lengths)
    np.minimum.at(top, of_run, rows)
    np.maximum.at(bottom, of_run, rows + 1)
    boxes = np.stack([left, top, right - left, bottom - top], axis=1).tolist()
    at = {int(id): i for i, id in enumerate(present)}
    return {
        "image_id": image_id,
        "file_name": file_name,
        "segments_info": [
            {
                "id": s.id,
                "category_id": categories[s.label].id,
                "area": int(areas[at[s.id]]),
                "bbox": boxes[at[s.id]],
                "iscrowd": int(s.iscrowd),
            }
            for s in panoptic.segments
        ],
    }
