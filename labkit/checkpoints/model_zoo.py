"""Model zoo: the published weights of ``data/zoo.toml``, their download, and loading them.

A file is downloaded to ``archives/`` of the download folder, verified, and only then moved to
``checkpoints/``: files there are complete.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.checkpoints.shipped import shipped
from labkit.errors import LabkitError
from labkit.system.paths import DATA, download_folder, prepare_downloads
from labkit.system.text_files import read_toml
from labkit.system.unknown_names import did_you_mean

if TYPE_CHECKING:  # what only lists must not wait for torch
    from torch import nn

    from labkit.structures import Categories

FORMATS = ("detectron2", "torchvision", "upsnet", "detr", "mask2former", "eomt")
"""Formats; each is a module beside this one, whose ``load(path, model)`` reads such files."""
NO_HASH = "none"
CATEGORIES = {
    "coco_things": "coco.categories",
    "coco_panoptic": "coco.categories",
    "coco_ids_1_to_90": "coco.categories",
    "cityscapes_panoptic": "cityscapes_categories",
}
"""Functions that list classes, with their modules in :mod:`labkit.datasets`."""


@dataclass(frozen=True)
class Checkpoint:
    """Published weights; the fields are explained at the top of ``data/zoo.toml``."""

    name: str
    preset: str
    format: str
    categories: str
    url: str
    hash: str
    megabytes: int
    licence: str
    metrics: dict[str, float]

    def path(self, folder: Path) -> Path:
        """Path of the file in the download folder."""
        return folder / "checkpoints" / f"{self.name}{Path(self.url).suffix}"

    def list_categories(self) -> Categories:
        """Classes of the weights."""
        module = importlib.import_module(f"labkit.datasets.{CATEGORIES[self.categories]}")
        listed: Categories = getattr(module, self.categories)()
        return listed


def published_weights(path: Path | None = None) -> dict[str, Checkpoint]:
    """List the published weights by name.

    Args:
        path: the table; None for ``data/zoo.toml``.

    Raises:
        LabkitError: the file is missing or has an unknown, missing or wrong field.
    """
    path = path or DATA / "zoo.toml"
    checkpoints = {}
    for name, table in read_toml(path).items():
        try:
            checkpoint = checkpoints[name] = Checkpoint(name, **table)
        except TypeError as error:
            raise LabkitError(f"{path}: [{name}]: {error}") from None
        if checkpoint.format not in FORMATS or checkpoint.categories not in CATEGORIES:
            raise LabkitError(
                f"{path}: [{name}]: format is one of {', '.join(FORMATS)}, categories one of"
                f" {', '.join(CATEGORIES)}"
            )
    return checkpoints


def find(name: str) -> Checkpoint:
    """Find published weights by name.

    Raises:
        LabkitError: the name is unknown; similar names are suggested.
    """
    known = published_weights()
    if name in known:
        return known[name]
    if name in shipped():
        raise LabkitError(f"{name}: these weights come with labkit and need no download")
    if "/" in name:
        raise LabkitError(f"{name}: no such folder, and names of weights contain no /")
    from labkit.models.presets import PRESETS  # imports torch, which listing does not wait for

    if name in PRESETS:
        published = [each for each, checkpoint in known.items() if checkpoint.preset == name]
        choice = f"choose published ones: {', '.join(published)}; or " if published else ""
        raise LabkitError(
            f"{name} is a preset and has no weights of this name; {choice}train it, `labkit train"
            f" {name}`, and name the run's folder"
        )
    hint = did_you_mean(name, (*shipped(), *known))
    raise LabkitError(
        f"no folder and no weights are called {name!r}{': ' + hint if hint else ';'} `labkit zoo"
        " list` shows all"
    )


def fetch_weights(
    checkpoint: Checkpoint, folder: Path | None = None, show: Callable[[str], None] = print
) -> Path:
    """Fetch and verify published weights; an existing file is verified again.

    Args:
        checkpoint: an entry of :func:`published_weights`.
        folder: the download folder; None for the default.
        show: prints lines for the user: the licence, the hash.

    Returns:
        The file.

    Raises:
        LabkitError: the download folder cannot be written, the file cannot be fetched (see
            :func:`labkit.datasets.fetch.verified_download.download`), or its hash is wrong. A file
            with a wrong hash is removed.
    """
    from labkit.datasets.fetch.verified_download import (
        download,  # here, because listing needs no requests
    )

    folder = folder or download_folder()
    path = checkpoint.path(folder)
    show(f"{checkpoint.name}\nLicence: {checkpoint.licence}\nFrom: {checkpoint.url}")
    if checkpoint.hash == NO_HASH:
        show("No hash is published, so the file can only be checked by loading it.")
    else:
        show(f"Its hash must begin with {checkpoint.hash}")
    if path.is_file():
        if not _is_whole(path, checkpoint):
            raise LabkitError(
                f"{path}: its hash does not begin with {checkpoint.hash}; the file is damaged or"
                " another version. Remove it and fetch it again"
            )
        return path
    prepare_downloads(folder)
    received = folder / "archives" / path.name
    download(checkpoint.url, received)
    if not _is_whole(received, checkpoint):
        received.unlink()
        raise LabkitError(
            f"{checkpoint.url}: the file received is damaged or another one: its hash does not"
            f" begin with {checkpoint.hash}; it was removed"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    received.replace(path)
    return path


def _is_whole(path: Path, checkpoint: Checkpoint) -> bool:
    if checkpoint.hash == NO_HASH:
        return True
    import pooch

    algorithm, prefix = checkpoint.hash.split(":")
    return str(pooch.file_hash(str(path), alg=algorithm)).startswith(prefix)


def path_of(name: str, folder: Path | None = None) -> Path:
    """Path of published weights on this machine.

    Args:
        name: a name of ``labkit zoo list``.
        folder: the download folder; None for the default.

    Raises:
        LabkitError: the name is unknown, or the file is not fetched yet.
    """
    path = find(name).path(folder or download_folder())
    if not path.is_file():
        raise LabkitError(f"{path}: not fetched yet; run: labkit zoo get {name}")
    return path


def load(name: str, folder: Path | None = None) -> nn.Module:
    """Load a model with published weights and their categories, in evaluation mode.

    Args:
        name: a name of ``labkit zoo list``.
        folder: the download folder; None for the default.

    Raises:
        LabkitError: the name is unknown, or the file is not fetched yet or damaged.
    """
    from labkit.checkpoints import torchvision
    from labkit.models import PRESETS

    checkpoint = find(name)
    path = path_of(name, folder)
    # torchvision's weights fit one network only, with conventions of its own.
    config = (
        torchvision.CONFIG if checkpoint.format == "torchvision" else PRESETS[checkpoint.preset]
    )
    model: Any = config.build(checkpoint.list_categories())
    importlib.import_module(f"labkit.checkpoints.{checkpoint.format}").load(path, model)
    loaded: nn.Module = model.eval()
    return loaded
