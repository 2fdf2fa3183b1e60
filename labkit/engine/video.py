"""Videos by OpenCV: the frames of a file or a camera, and writing frames into a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabkitError

CAMERA_FPS = 30.0
"""Frame rate of a file or a camera that does not give one."""

# Of a damaged file FFmpeg prints lines of its own; the messages here say the same.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class VideoReader:
    """The frames of a video file or of a camera, ``(3, H, W)`` uint8 RGB, one at a time.

    Args:
        source: a file; or a camera by number, 0 is the first.

    Raises:
        LabkitError: the file is missing or no video that can be decoded; there is no such camera.
    """

    def __init__(self, source: Path | int) -> None:
        self.source = source
        if isinstance(source, Path) and not source.is_file():
            raise LabkitError(f"{source}: video not found")
        level = cv2.utils.logging.setLogLevel(0)  # of a missing camera OpenCV prints warnings
        try:
            self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
            opened, self._first = self._capture.read()
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not opened:
            self._capture.release()
            raise LabkitError(
                f"camera {source}: not found, or another program uses it"
                if isinstance(source, int)
                else f"{source}: damaged, or not a video that OpenCV can read; convert it, for"
                f" example with: ffmpeg -i {source.name} -c:v libx264 NEW.mp4"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else CAMERA_FPS
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if count > 0 else None
        """Number of frames that the file announces; None where it does not."""
        self.size: tuple[int, int] = self._first.shape[:2]
        """(H, W) of the frames."""

    def __iter__(self) -> Iterator[Tensor]:
        frame = self._first
        more = True
        while more:
            rgb = np.ascontiguousarray(frame[..., ::-1])
            yield torch.from_numpy(rgb).permute(2, 0, 1).contiguous()
            more, frame = self._capture.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._capture.release()


class VideoWriter:
    """A video file (MPEG-4); it has its name when it is complete, after the ``with`` block.

    After an exception the frames so far are a complete video too. A last column or row of an odd
    size is left out, as MPEG-4 has even sizes.

    Args:
        path: the ``.mp4``.
        size: (H, W) of the frames.
        fps: frames per second.

    Raises:
        LabkitError: the file cannot be written.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        self.path, self.frames = path, 0
        self._fps = fps
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = cv2.VideoWriter(
            str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), fps, size[::-1]
        )
        if not self._writer.isOpened():
            raise LabkitError(f"{path}: OpenCV cannot write this video, {size[1]} x {size[0]}")

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, ``(H, W, 3)`` uint8 RGB."""
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))
        self.frames += 1

    def write_until(self, frame: np.ndarray, seconds: float) -> None:
        """Repeat a frame until the video lasts so long; nothing where it does already."""
        while self.frames < seconds * self._fps:
            self.write(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.release()
        if self.frames:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)
