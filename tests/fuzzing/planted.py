"""Readers that break the rule on purpose, so that the harness is seen to notice."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
from fuzzing.reader import Reader

from labkit.errors import LabkitError


def _make(root: Path) -> None:
    (root / "file.json").write_text('{"key": [1, 2, 3]}')


def _is_valid(root: Path) -> bool:
    return root.parent.name != "examples"


def _good(root: Path) -> None:
    try:
        assert json.loads((root / "file.json").read_bytes())["key"] == [1, 2, 3]
    except Exception as error:
        raise LabkitError(f"{root}/file.json: {error!r}") from None


def _raises(root: Path) -> None:
    if not _is_valid(root):
        raise KeyError("key")


def _nameless(root: Path) -> None:
    if not _is_valid(root):
        raise LabkitError("something is wrong")


def _computes(root: Path) -> None:
    while not _is_valid(root):
        pass


def _sleeps(root: Path) -> None:
    if not _is_valid(root):
        time.sleep(1000)


def _allocates(root: Path) -> None:
    if not _is_valid(root):
        np.ones(300 * 2**20, np.uint8)


def _keeps(root: Path) -> None:
    if not _is_valid(root):
        kept = np.ones(300 * 2**20, np.uint8)
        time.sleep(1000)
        kept[0] = 0


def _dies(root: Path) -> None:
    if not _is_valid(root):
        os.abort()


READERS = {
    name: Reader(_make, read)
    for name, read in {
        "good": _good,
        "raises": _raises,
        "nameless": _nameless,
        "computes": _computes,
        "sleeps": _sleeps,
        "allocates": _allocates,
        "keeps": _keeps,
        "dies": _dies,
    }.items()
}
