"""Writing a file atomically: complete, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labkit.errors import LabkitError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; rename it to ``path`` on success.

    A reader sees the old file or the new one, never an incomplete one. After an error the temporary
    file is removed and the old file is unchanged. Missing folders are created.

    Raises:
        LabkitError: the file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise LabkitError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # a folder that could not be made has nothing to remove
            temporary.unlink(missing_ok=True)
