"""Valid files to files that are nearly valid, each in the way of its kind."""

from __future__ import annotations

from pathlib import PurePosixPath
from random import Random

from fuzzing.mutated_containers import (
    damaged_pickle,
    damaged_safetensors,
    damaged_torch,
    damaged_zip,
)
from fuzzing.mutated_pictures import damaged_picture
from fuzzing.mutated_values import damaged_bytes, damaged_json, damaged_text

Files = dict[str, bytes]
"""The files of a folder by their names in it."""

KINDS = {
    ".json": damaged_json,
    ".ipynb": damaged_json,
    ".toml": damaged_text,
    ".py": damaged_text,
    ".txt": damaged_text,
    ".png": damaged_picture,
    ".jpg": damaged_picture,
    ".zip": lambda random, content: damaged_zip(random, content, damaged_file),
    ".pkl": damaged_pickle,
    ".pth": lambda random, content: damaged_torch(random, content, damaged_file),
    ".pt": lambda random, content: damaged_torch(random, content, damaged_file),
    ".safetensors": damaged_safetensors,
}


def damaged_file(random: Random, name: str, content: bytes) -> bytes:
    """A file changed in the way of its kind, which its name tells."""
    return KINDS.get(PurePosixPath(name).suffix, damaged_bytes)(random, content)


def damaged_folder(random: Random, files: Files) -> Files:
    """A folder with one to three changes, mostly in one file; rarely one is missing or another."""
    files = dict(files)
    names = sorted(files)
    # A kind of file of which there are many is not chosen the oftener.
    suffix = random.choice(sorted({PurePosixPath(name).suffix for name in names}))
    name = random.choice([name for name in names if name.endswith(suffix)])
    if random.random() < 0.06:
        other = random.choice(names)
        change = random.randrange(4)
        if change == 0:
            del files[name]
        elif change == 1:
            files[name] = files[other]
        elif change == 2:
            files[name] = b""
        else:
            files[name.upper()] = files.pop(name)
        return files
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        files[name] = damaged_file(random, name, files[name])
    return files
