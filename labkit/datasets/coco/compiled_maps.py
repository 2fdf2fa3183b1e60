"""The compiled functions of ``csrc/panoptic_maps.cpp``: quicker versions of a few lines of NumPy.

They serve once :func:`load` has been called, which the evaluation of files does: compiling takes as
long as some hundred maps save. Each returns None where it does not apply, and the caller goes the
slower way to the same numbers. They need no torch, whose import takes longer, and run without
Python's lock.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache

import numpy as np
from numpy.typing import NDArray

from labkit.system.compiled_library import (
    CSRC,
    HOST_FLAGS,
    LIBRARY,
    BuildError,
    Built,
    build_library,
    cpu_flag,
    host_compiler,
    library_key,
)

try:
    import deflate
except ImportError:  # a platform without it: OpenCV decodes
    deflate = None  # type: ignore[assignment]

log = logging.getLogger("labkit")

SOURCE = CSRC / "panoptic_maps.cpp"
MAX_PAIRS = 2048  # of the source
_library: ctypes.CDLL | None = None


def build() -> Built:
    """Compile the library, or take it from the cache.

    Raises:
        BuildError: there is no compiler, or it failed.
    """
    flags = [*HOST_FLAGS, cpu_flag(), "-shared"]
    return build_library(
        "panoptic_maps",
        "the reader of panoptic PNGs",
        library_key([SOURCE]),
        lambda: [[*host_compiler(), *flags, str(SOURCE), "-o", LIBRARY]],
    )


@cache
def load() -> None:
    """Let this process use the library, compiling it if needed; say once if that is impossible."""
    global _library
    try:
        built = build()
        library = ctypes.CDLL(str(built.path))
    except (BuildError, OSError) as error:
        log.warning("labkit: panoptic PNGs are read by OpenCV and NumPy, slower: %s", error)
        return
    if built.note:
        log.warning("labkit: %s", built.note)
    if deflate is None:
        log.warning(
            "labkit: panoptic PNGs are decoded by OpenCV, slower: the package deflate is missing;"
            " run: pip install deflate"
        )
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.labkit_png_ids.argtypes = (pointer, integer, integer, pointer)
    library.labkit_png_ids.restype = ctypes.c_bool
    library.labkit_shared_areas.argtypes = (pointer, pointer, integer, pointer, pointer)
    library.labkit_shared_areas.restype = integer
    _library = library


def decode_ids(stream: bytes, size: tuple[int, int]) -> NDArray[np.int32] | None:
    """Segment ids ``(H, W)`` of the zlib stream of a PNG that is 8-bit RGB and not interlaced.

    None if the stream is damaged or has another length than ``size`` (H, W) needs, without the
    package deflate, or without the library.
    """
    if _library is None or deflate is None:
        return None
    height, width = size
    length = height * (1 + 3 * width)
    try:
        rows = np.frombuffer(deflate.zlib_decompress(stream, length), np.uint8)
    except deflate.DeflateError:
        return None
    ids = np.empty(size, np.int32)
    if rows.size != length or not _library.labkit_png_ids(
        rows.ctypes.data, height, width, ids.ctypes.data
    ):
        return None
    return ids


def shared_areas(
    a: NDArray[np.int32], b: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Pairs of ids of two maps ``(P,)`` that share pixels, and the number of these pixels.

    A pair is ``a * 2**32 + b``; pairs ascend. None if there are more than ``MAX_PAIRS``, or without
    the library.
    """
    if _library is None:
        return None
    a, b = np.ascontiguousarray(a, np.int32), np.ascontiguousarray(b, np.int32)
    pairs, areas = np.empty((2, MAX_PAIRS), np.int64)
    found = _library.labkit_shared_areas(
        a.ctypes.data, b.ctypes.data, a.size, pairs.ctypes.data, areas.ctypes.data
    )
    if found < 0:
        return None
    order = np.argsort(pairs[:found])
    return pairs[order], areas[order]
