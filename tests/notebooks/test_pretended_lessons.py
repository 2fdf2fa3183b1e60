"""The lessons on a GPU that is not there: what they hold on the CPU must not meet what trained."""

import os
import sys

import pytest
from helpers.pretended_gpu import pretended_gpu
from IPython.core.interactiveshell import InteractiveShell

from labkit.workbook.notebook_sources import find_root, load_notebook, sources

NAMES = [source.stem for source in sources(find_root())]


@pytest.mark.skipif(
    "LABKIT_LESSONS" not in os.environ,
    reason="takes minutes; LABKIT_LESSONS=1 pytest tests/notebooks/test_pretended_lessons.py",
)
@pytest.mark.parametrize("name", NAMES)
def test_lesson(name, tmp_path, monkeypatch):
    """With the sizes of ``smoke``; a cell that is meant to fail is left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    # The exporter asks the driver of a GPU; lesson 11 goes on without its package.
    monkeypatch.setitem(sys.modules, "onnx", None)
    shell = InteractiveShell()
    with pretended_gpu():
        for cell in load_notebook(find_root() / "notebooks" / f"{name}.ipynb").cells:
            tags = cell.metadata.get("tags", [])
            if cell.cell_type != "code" or {"raises-exception", "skip-execution"} & set(tags):
                continue
            source = cell.source.replace("%matplotlib inline", "")
            if "parameters" in tags:
                source += '\nprofile = "smoke"'
            shell.run_cell(source).raise_error()
