"""Catalogue of the data sets in ``data/datasets.toml``, and their download.

On disk, in the download folder (:func:`labkit.system.paths.download_folder`)::

    archives/NAME                  archives as received; may be removed after unpacking
    archives/NAME.unpacked         what was unpacked: the archive's sha256, then the files
    FOLDER/...                     the data set
    .../NAME.sha256                recorded by the first download of a file whose hash nobody gives
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit.datasets.fetch.archives import unpack
from labkit.errors import LabkitError
from labkit.system.atomic_write import atomic_write
from labkit.system.paths import DATA, download_folder, prepare_downloads
from labkit.system.text_files import read_toml


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch; the fields are explained at the top of ``data/datasets.toml``."""

    url: str
    size: int | None = None
    sha256: str | None = None
    source: str | None = None
    unpack: bool = False
    keep: list[str] = field(default_factory=lambda: ["*"])
    nested: list[str] = field(default_factory=list)
    to: str = ""


@dataclass(frozen=True)
class RemoteDataset:
    """A data set that can be fetched."""

    name: str
    title: str
    licence: str
    homepage: str
    folder: str
    files: list[RemoteFile]

    @property
    def root(self) -> str:
        """Name of its folder, in the download folder and in ``$LABKIT_DATA``."""
        if self.folder != ".":
            return self.folder
        return self.files[0].keep[0].split("/")[0]

    @property
    def size(self) -> int | None:
        """Bytes to fetch; None if the size of a file is unknown."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(s for s in sizes if s is not None)


def catalogue(path: Path | None = None) -> dict[str, RemoteDataset]:
    """Read the catalogue: data sets by name.

    Args:
        path: the catalogue's file; None for ``data/datasets.toml``.

    Raises:
        LabkitError: the file is missing or has an unknown, missing or ill-typed field.
    """
    path = path or DATA / "datasets.toml"
    return {name: _dataset(name, table, path) for name, table in read_toml(path).items()}


def _dataset(name: str, table: dict[str, Any], path: Path) -> RemoteDataset:
    try:
        files = [RemoteFile(**entry) for entry in table.pop("files")]
        dataset = RemoteDataset(name, files=files, **table)
    except (KeyError, TypeError) as error:
        raise LabkitError(f"{path}: [{name}]: {error}") from None
    for file in files:
        if file.unpack == bool(file.to):
            raise LabkitError(f'{path}: [{name}] {file.url}: needs either "unpack" or "to"')
    return dataset


def is_available(dataset: RemoteDataset) -> bool:
    """Whether labkit finds a data set: in the download folder, or in ``$LABKIT_DATA``."""
    return is_here(dataset, download_folder()) or given_folder(dataset) is not None


def given_folder(dataset: RemoteDataset) -> Path | None:
    """Return a data set's folder in ``$LABKIT_DATA``; None where it is not there.

    Of an archive only the folder is looked for: others than labkit may have unpacked it.
    """
    place = os.environ.get("LABKIT_DATA")
    if not place:
        return None
    found = Path(place, dataset.root)
    whole = all(file.unpack or (found / file.to).is_file() for file in dataset.files)
    alone = dataset.root != "coco"  # several data sets share that folder
    return found if found.is_dir() and whole and alone else None


def is_here(dataset: RemoteDataset, folder: Path) -> bool:
    """Whether all files of a data set are downloaded and unpacked."""
    return all(_is_done(file, dataset, folder) for file in dataset.files)


def _is_done(file: RemoteFile, dataset: RemoteDataset, folder: Path) -> bool:
    if not file.unpack:
        return (folder / dataset.folder / file.to).is_file()
    marker = _marker(file, folder)
    if not marker.is_file():
        return False
    unpacked = marker.read_text(encoding="utf-8").splitlines()[1:]
    return all((folder / dataset.folder / name).is_file() for name in unpacked)


def _archive(file: RemoteFile, folder: Path) -> Path:
    return folder / "archives" / file.url.rsplit("/", 1)[1]


def _marker(file: RemoteFile, folder: Path) -> Path:
    archive = _archive(file, folder)
    return archive.with_name(f"{archive.name}.unpacked")


def fetch_dataset(
    dataset: RemoteDataset, folder: Path, show: Callable[[str], None] = print
) -> Path:
    """Fetch, verify and unpack a data set, except the parts that are already complete.

    Args:
        dataset: an entry of :func:`catalogue`.
        folder: the download folder.
        show: prints lines for the user: the licence, and recorded hashes.

    Returns:
        The data set's folder.

    Raises:
        LabkitError: the download folder cannot be written; or see
            :func:`labkit.datasets.fetch.verified_download.download` and
            :func:`labkit.datasets.fetch.archives.unpack`.
    """
    show(f"{dataset.title}\nLicence: {dataset.licence}\nHomepage: {dataset.homepage}")
    home = folder / dataset.folder
    if not is_here(dataset, folder):
        prepare_downloads(folder)
    for file in dataset.files:
        if not file.unpack:
            _record(file, home / file.to, _fetch(file, home / file.to), show)
        elif not _is_done(file, dataset, folder):
            archive = _archive(file, folder)
            digest = _fetch(file, archive)
            unpacked = _unpack(file, archive, home)
            _record(file, archive, digest, show)
            _write(_marker(file, folder), "\n".join([digest, *unpacked]))
    return home


def _fetch(file: RemoteFile, path: Path) -> str:
    """Download a file to ``path`` and verify it with the published or else the recorded hash."""
    from labkit.datasets.fetch.verified_download import (
        download,  # here, because listing needs no requests
    )

    record = _record_of(path)
    recorded = record.read_text().split()[0] if record.is_file() else None
    try:
        return download(file.url, path, file.sha256 or recorded, file.size)
    except LabkitError as error:
        if file.sha256 or not recorded:
            raise
        raise LabkitError(
            f"{error} (the hash is that of an earlier download, from {record}; remove that file to"
            " accept another version)"
        ) from None


def _unpack(file: RemoteFile, archive: Path, home: Path) -> list[str]:
    """Unpack an archive and the archives in it; return the files, relative to ``home``."""
    try:
        unpacked = unpack(archive, home, file.keep)
        for name in file.nested:
            inner = home / name
            unpacked.remove(name)
            within = unpack(inner, inner.parent)
            inner.unlink()
            unpacked += [(inner.parent / path).relative_to(home).as_posix() for path in within]
    except LabkitError:
        if file.sha256 is None:  # without a hash, only a failure shows that the file is wrong
            archive.unlink()
        raise
    return unpacked


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _record(file: RemoteFile, path: Path, digest: str, show: Callable[[str], None]) -> None:
    """Record the hash of a file without a published one, in the format of ``sha256sum``."""
    record = _record_of(path)
    if file.sha256 is None and not record.is_file():
        _write(record, f"{digest}  {path.name}\n")
        show(
            f"{path.name}: no published sha256 is known, so it could not be verified. Recorded"
            f" {digest} in {record.name}, to check later downloads against it."
        )


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
