"""The process that reads: ``python -m fuzzing.worker MODULE FOLDER``.

A line of standard input is ``READER SEED NUMBER``, one example; the answer is two lines of JSON,
one before it is read and one that says how it ended. The campaign watches meanwhile, and ends this
process when an example takes too long or too much memory.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import psutil
from fuzzing.mutations import Files, damaged_folder

from labkit.errors import LabkitError
from labkit.grading.sandbox.limits import peak_memory

MEGABYTE = 2**20


def main() -> None:
    module, folder = sys.argv[1:]
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a reader prints is no answer; stderr leads nowhere
    warnings.simplefilter("ignore")

    def tell(**result: Any) -> None:
        told.write(f"{json.dumps(result)}\n")

    try:
        readers = importlib.import_module(module).READERS
        valid: dict[str, Files] = {}
        for line in sys.stdin:
            name, seed, number = line.split()
            if name not in valid:
                valid[name] = _valid(readers[name], Path(folder) / name)
            # Numbered: a reader that keeps what it has read must not give the last one back.
            root = Path(folder) / "examples" / f"{name}-{seed}-{number}"
            _example(readers[name], valid[name], Random(f"{name} {seed} {number}"), root, tell)
    except Exception:  # of the harness, or of the reader's valid files
        tell(broken=traceback.format_exc())


def _valid(reader: Any, folder: Path) -> Files:
    """A reader's valid files. They are read once, so that what is imported at first use counts for
    no example."""
    folder.mkdir()
    reader.make(folder)
    reader.read(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _example(
    reader: Any, files: Files, random: Random, root: Path, tell: Callable[..., None]
) -> None:
    shutil.rmtree(root.parent, ignore_errors=True)  # the last one: until now it could be saved
    root.mkdir(parents=True)
    for path, content in damaged_folder(random, files).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    with contextlib.suppress(OSError):  # Linux: the peak begins anew
        Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss // MEGABYTE
    tell(begun=str(root))
    began = time.process_time()
    ended = _read(reader, root, {Path(path).name for path in files})
    seconds = time.process_time() - began
    tell(**ended, seconds=seconds, megabytes=peak_memory() // MEGABYTE - before)


def _read(reader: Any, root: Path, names: set[str]) -> dict[str, str]:
    """``outcome`` is "read", "refused" or "fault", the last with ``what`` and ``trace``."""
    try:
        reader.read(root)
    except LabkitError as error:
        try:
            str(error).encode()
        except UnicodeEncodeError:
            what = "a message that cannot be printed"
            return {"outcome": "fault", "what": what, "trace": traceback.format_exc()[-6000:]}
        if any(name in str(error) for name in (*names, root.name)):
            return {"outcome": "refused"}
        what = re.sub(r"\d+", "N", f"a message without a file's name: {error}")
        return {"outcome": "fault", "what": what[:200], "trace": traceback.format_exc()[-6000:]}
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/labkit/" in frame.filename] or frames
        what = f"{type(error).__name__} in {Path(ours[-1].filename).name}, {ours[-1].name}"
        return {"outcome": "fault", "what": what, "trace": traceback.format_exc()[-6000:]}
    return {"outcome": "read"}


if __name__ == "__main__":
    main()
