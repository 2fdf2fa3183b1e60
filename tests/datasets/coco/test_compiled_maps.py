"""The compiled functions on panoptic maps: the numbers and the messages of NumPy and OpenCV."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from labkit.datasets.coco import compiled_maps
from labkit.datasets.coco.panoptic_png import id_to_rgb, read_png, write_png
from labkit.errors import LabkitError
from labkit.metrics.panoptic_matching import count_pairs
from labkit.system.compiled_library import HOST_COMPILERS

SAMPLE = Path(os.environ.get("LABKIT_DATA", "/nonexistent")) / "coco_panoptic_sample"
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module", autouse=True)
def library() -> Iterator[None]:
    """The library, for these tests alone."""
    if not any(map(shutil.which, HOST_COMPILERS)):
        pytest.skip("needs a C++ compiler; `labkit doctor` names the command that installs one")
    compiled_maps.load.cache_clear()  # other tests may have loaded it and taken it away again
    compiled_maps.load()
    loaded, deflate = compiled_maps._library, compiled_maps.deflate
    assert loaded is not None
    assert deflate is not None
    yield
    compiled_maps._library = None
    compiled_maps.load.cache_clear()


def outcome(path: Path, compiled: bool) -> str | bytes:
    """What :func:`read_png` returns, or says."""
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(compiled_maps, "_library", None)
        try:
            ids = read_png(path)
        except LabkitError as error:
            return str(error)
    assert ids.dtype == np.int32
    return repr(ids.shape).encode() + ids.tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int], stream: bytes, methods: tuple[int, ...] = (8, 2, 0, 0, 0), parts: int = 1
) -> bytes:
    """A PNG of a zlib stream, in several chunks; ``methods`` are the header's last five bytes."""
    header = struct.pack(">II", size[1], size[0]) + bytes(methods)
    step = max(1, -(-len(stream) // parts))
    pixels = [chunk(b"IDAT", stream[i : i + step]) for i in range(0, len(stream), step)]
    return SIGNATURE + chunk(b"IHDR", header) + b"".join(pixels) + chunk(b"IEND", b"")


def filtered(ids: np.ndarray, filters: np.ndarray) -> bytes:
    """The rows of a PNG with a filter for each: bytes less their prediction, by the definition."""
    pixels = id_to_rgb(ids).astype(int)  # (H, W, 3)
    padded = np.pad(pixels, ((1, 0), (1, 0), (0, 0)))
    left, above, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    neighbours = np.stack([left, above, corner])
    nearest = np.abs(neighbours - (left + above - corner)).argmin(0)  # the first of equals
    paeth = np.take_along_axis(neighbours, nearest[None], 0)[0]
    predictions = np.stack([0 * left, left, above, (left + above) // 2, paeth])
    chosen = predictions[filters, np.arange(len(ids))]  # (H, W, 3)
    rows = ((pixels - chosen) % 256).astype(np.uint8).reshape(len(ids), -1)
    return np.concatenate([filters[:, None].astype(np.uint8), rows], axis=1).tobytes()


@st.composite
def filtered_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 40)))
    values = draw(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=5))
    ids = draw(arrays(np.int32, shape, elements=st.sampled_from(values)))
    return ids, draw(arrays(np.int64, shape[0], elements=st.integers(0, 4)))


def test_every_filter_worked_by_hand() -> None:
    rows = [
        [0, 1, 0, 0, 2, 0, 0],  # as they are
        [1, 5, 0, 0, 250, 1, 0],  # to the left: 5, then 250 + 5 and 1 + 0
        [2, 1, 0, 0, 1, 0, 0],  # above: 1 + 5, then 1 + 255 = 0 modulo 256 and 0 + 1
        [3, 4, 0, 0, 10, 0, 0],  # half the sum: 4 + 3, then 10 + (7 + 0) // 2 and (0 + 1) // 2
        [4, 1, 0, 0, 0, 0, 9],  # the nearest to 0 + 7 - 0 is 7, that to 8 + 13 - 7 is 13
    ]
    stream = zlib.compress(b"".join(map(bytes, rows)))
    ids = [[1, 2], [5, 255 + 256], [6, 256], [7, 13], [8, 13 + 9 * 65536]]
    found = compiled_maps.decode_ids(stream, (5, 2))
    assert found is not None
    assert found.tolist() == ids


@settings(max_examples=60, deadline=None)
@given(filtered_maps(), st.integers(1, 4))
def test_all_filters_as_opencv(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[np.ndarray, np.ndarray], parts: int
) -> None:
    ids, filters = made
    path = tmp_path_factory.getbasetemp() / "filters.png"
    path.write_bytes(png(ids.shape, zlib.compress(filtered(ids, filters)), parts=parts))
    np.testing.assert_array_equal(read_png(path), ids)
    assert outcome(path, compiled=True) == outcome(path, compiled=False)
    stream = zlib.compress(filtered(ids, filters))
    np.testing.assert_array_equal(compiled_maps.decode_ids(stream, ids.shape), ids)


IDS = np.array([[7, 7, 300], [0, 7, 70_000]], np.int32)
ROWS = filtered(IDS, np.array([1, 4]))
STREAM = zlib.compress(ROWS)


def test_truncated_and_damaged_files_end_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    whole = png(IDS.shape, STREAM, parts=2)
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for content in damaged:
        path.write_bytes(content)
        said = outcome(path, compiled=True)
        assert "a.png: " in str(said)
        assert said == outcome(path, compiled=False)


@pytest.mark.parametrize("at", range(len(STREAM)))
def test_damage_below_right_checksums_ends_alike(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(IDS.shape, STREAM[:at] + bytes([STREAM[at] ^ 16]) + STREAM[at + 1 :]))
    assert outcome(path, compiled=True) == outcome(path, compiled=False)
    path.write_bytes(png(IDS.shape, STREAM[:at]))
    assert outcome(path, compiled=True) == outcome(path, compiled=False)


@pytest.mark.parametrize(
    "content",
    {
        "too few rows": png((3, 3), STREAM),
        "too many rows": png((1, 3), STREAM),
        "unknown filter": png(IDS.shape, zlib.compress(b"\5" + ROWS[1:])),
        "more after the stream": png(IDS.shape, STREAM + b"more"),
        "no pixels": png(IDS.shape, b""),
        "no width": png((2, 0), zlib.compress(bytes(2))),
        "other compression": png(IDS.shape, STREAM, (8, 2, 1, 0, 0)),
        "other filters": png(IDS.shape, STREAM, (8, 2, 0, 1, 0)),
        "interlaced": png(IDS.shape, STREAM, (8, 2, 0, 0, 1)),
        "two headers": png(IDS.shape, STREAM).replace(
            chunk(b"IEND", b""), chunk(b"IHDR", struct.pack(">II", 1, 1) + bytes((8, 2, 0, 0, 0)))
        )
        + chunk(b"IEND", b""),
        "a longer header": SIGNATURE
        + chunk(b"IHDR", struct.pack(">II", 3, 2) + bytes((8, 2, 0, 0, 0, 0)))
        + png(IDS.shape, STREAM)[33:],
        "unknown critical chunk": png(IDS.shape, STREAM)[:33]
        + chunk(b"ABCD", b"?")
        + png(IDS.shape, STREAM)[33:],
    }.items(),
    ids=lambda item: item[0],
)
def test_odd_files_end_alike(tmp_path: Path, content: tuple[str, bytes]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content[1])
    assert outcome(path, compiled=True) == outcome(path, compiled=False)


def test_other_colours_are_left_to_opencv(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.dstack([id_to_rgb(IDS), np.full(IDS.shape, 9, np.uint8)])).save(path)
    np.testing.assert_array_equal(read_png(path), IDS)


@pytest.mark.skipif(
    not SAMPLE.is_dir(),
    reason="needs coco_panoptic_sample in FOLDER: LABKIT_DATA=FOLDER uv run pytest",
)
def test_cocos_own_files() -> None:
    files = sorted(SAMPLE.rglob("*.png"))
    assert files
    for path in files:
        assert outcome(path, compiled=True) == outcome(path, compiled=False)


def test_shared_areas_worked_by_hand() -> None:
    a = np.array([1, 1, 1, 2, 2, 0, 1], np.int32)
    b = np.array([5, 5, 6, 6, 6, 5, 5], np.int32)
    pairs, areas = compiled_maps.shared_areas(a, b) or pytest.fail("not compiled")
    assert [divmod(pair, 2**32) for pair in pairs.tolist()] == [(0, 5), (1, 5), (1, 6), (2, 6)]
    assert areas.tolist() == [1, 3, 1, 2]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1600), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_shared_areas_as_numpy(pixels: int, many: int, run: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**24, many).astype(np.int32)
    a, b = (np.repeat(rng.choice(values, 1600), rng.integers(1, run + 1))[:pixels] for _ in "ab")
    found = compiled_maps.shared_areas(a, b)
    assert found is not None
    for ours, readable in zip(found, count_pairs(a, b), strict=True):
        np.testing.assert_array_equal(ours, readable)
        assert ours.dtype == readable.dtype == np.int64


def test_more_pairs_than_the_table_holds() -> None:
    many = np.arange(compiled_maps.MAX_PAIRS + 1, dtype=np.int32)
    assert compiled_maps.shared_areas(many, many) is None
    found = compiled_maps.shared_areas(many[1:], many[1:])
    assert found is not None
    assert found[1].tolist() == [1] * compiled_maps.MAX_PAIRS


def test_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled_maps, "_library", None)
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "c++-99")
    compiled_maps.load.cache_clear()
    compiled_maps.load()
    compiled_maps.load()
    (record,) = caplog.records
    assert record.getMessage() == (
        "labkit: panoptic PNGs are read by OpenCV and NumPy, slower: CXX names c++-99, which is not"
        " there; `labkit doctor` names the command that installs one"
    )
    assert compiled_maps.decode_ids(STREAM, (2, 3)) is None
    assert compiled_maps.shared_areas(IDS[0], IDS[1]) is None


def test_without_deflate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled_maps, "deflate", None)
    compiled_maps.load.cache_clear()
    compiled_maps.load()
    (record,) = caplog.records
    assert "the package deflate is missing; run: pip install deflate" in record.getMessage()
    write_png(tmp_path / "a.png", IDS)
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), IDS)
    assert compiled_maps.shared_areas(IDS[0], IDS[1]) is not None
