"""The data sets that lessons can use: those whose command, ``labkit data get NAME``, they show."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from labkit.datasets.fetch.catalog import RemoteDataset, catalogue, fetch_dataset, is_available
from labkit.errors import LabkitError
from labkit.system.paths import download_folder
from labkit.workbook.notebook_sources import load_notebook

COMMAND = re.compile(r"labkit data get ([\w-]+)")


def missing_datasets(notebooks: Sequence[Path]) -> list[RemoteDataset]:
    """List the data sets that notebooks name and that are not on this machine.

    Raises:
        LabkitError: a file is no notebook.
    """
    named = {
        name
        for path in notebooks
        for cell in load_notebook(path).cells
        for name in COMMAND.findall(cell.source)
    }
    known = catalogue().values()
    return [dataset for dataset in known if dataset.name in named and not is_available(dataset)]


def fetch_for_lessons(
    notebooks: Sequence[Path], ask: Callable[[str], bool], show: Callable[[str], None]
) -> None:
    """Fetch what notebooks can use, after one question.

    Without a connection the notebooks run all the same and say what they would show.

    Args:
        notebooks: those that will run.
        ask: whether to fetch, given the question.
        show: prints lines for the user.
    """
    missing = missing_datasets(notebooks)
    if not missing:
        show("nothing to fetch: the data sets that these lessons can use are on this machine")
        return
    show("These lessons can use:")
    for dataset in missing:
        show(f"  {dataset.name}, {_megabytes(dataset.size)}: {dataset.title}")
        show(f"    licence: {dataset.licence}")
    sizes = [dataset.size for dataset in missing]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    if not ask(f"Fetch {_megabytes(total)} into {download_folder()}?"):
        show("nothing fetched; the lessons run without it")
        return
    for dataset in missing:
        try:
            fetch_dataset(dataset, download_folder(), lambda _: None)
            show(f"{dataset.name}: fetched")
        except LabkitError as error:
            show(f"{dataset.name}: not fetched, the lessons run without it: {error}")


def _megabytes(size: int | None) -> str:
    return "unknown size" if size is None else f"{size / 1e6:.1f} MB"
