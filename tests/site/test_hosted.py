"""Lessons that work alone, in Colab and elsewhere."""

from __future__ import annotations

import nbformat
import pytest
from helpers.paths import CHECKOUT

from labkit.errors import LabkitError
from labkit.site.hosted import launch_buttons, site_address, standalone
from labkit.workbook.notebook_sources import load_notebook, sources

REPOSITORY = "https://github.com/Some-One/labkit.git"


def alone(name: str, repository: str = REPOSITORY) -> nbformat.NotebookNode:
    student = load_notebook(CHECKOUT / "notebooks" / "src" / f"{name}.py", student=True)
    content = standalone(student, CHECKOUT / "notebooks", repository)
    return nbformat.reads(content.decode(), as_version=4)


@pytest.mark.parametrize("name", [source.stem for source in sources(CHECKOUT)])
def test_a_lesson_needs_no_other_file(name: str) -> None:
    notebook = alone(name)
    nbformat.validate(notebook)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "](diagrams/" not in text
    assert ".ipynb" not in text
    assert "](../" not in text
    assert notebook.cells[0].source.startswith("# In Colab: install labkit.")
    assert (
        '"labkit[pretrained] @ git+https://github.com/Some-One/labkit"' in notebook.cells[0].source
    )


def test_without_a_repository_nothing_is_installed() -> None:
    notebook = alone("06_panoptic_quality", "")
    assert all("google.colab" not in cell.source for cell in notebook.cells)


def test_addresses() -> None:
    colab, binder = (address for _, address in launch_buttons(REPOSITORY, "02_roi_align"))
    assert colab == (
        "https://colab.research.google.com/github/Some-One/labkit/blob/gh-pages/notebooks/"
        "02_roi_align.ipynb"
    )
    assert binder == (
        "https://mybinder.org/v2/gh/Some-One/labkit/main?urlpath="
        "lab%2Ftree%2Flabkit-workbook%2Fnotebooks%2F02_roi_align.ipynb"
    )
    assert site_address(REPOSITORY) == "https://some-one.github.io/labkit"


@pytest.mark.parametrize(
    "address", ["someone/labkit", "https://gitlab.com/a/b", "https://github.com/a"]
)
def test_another_address(address: str) -> None:
    with pytest.raises(LabkitError, match="not the address of a repository on GitHub"):
        site_address(address)
