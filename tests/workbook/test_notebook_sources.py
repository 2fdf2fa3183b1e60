"""Reading notebooks as people have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labkit.errors import LabkitError
from labkit.workbook.notebook_sources import load_notebook, other_language


@pytest.mark.parametrize("name", ["a.ipynb", "a.py"])
def test_a_byte_order_mark_is_no_content(tmp_path: Path, name: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")])
    text = nbformat.writes(notebook) if name.endswith("ipynb") else "# %%\nprint(1)\n"
    (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
    assert [cell.source for cell in load_notebook(tmp_path / name).cells] == ["print(1)"]


@pytest.mark.parametrize(
    ("metadata", "language"),
    [
        ({"kernelspec": {"language": "R", "name": "ir"}}, "R"),
        ({"kernelspec": {"name": "ir"}}, "R"),
        ({"kernelspec": {"name": "julia-1.9"}, "language_info": 3}, "Julia"),
        ({"kernelspec": {"name": "iruby"}}, ""),
        ({"language_info": {"name": "julia"}}, "julia"),
        ({"kernelspec": {"language": "python"}, "language_info": {"name": "ipython"}}, ""),
        ({"kernelspec": {"display_name": "py39", "name": "py39_new"}}, ""),
        ({"kernelspec": {"language": "<script>"}}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_notebooks_of_other_languages(metadata: Any, language: str) -> None:
    assert other_language({"cells": [], "metadata": metadata}) == language
    assert other_language({"cells": []}) == ""


@pytest.mark.parametrize(
    ("minor", "change"),
    [
        (5, {"id": ["a"]}),  # before 4.5 an id means nothing
        (5, {"id": {}}),
        *(
            (minor, change)
            for minor in (2, 5)
            for change in (
                {"metadata": []},
                {"outputs": [[]]},
                {"cell_type": {}},
                {"source": 3},
            )
        ),
    ],
)
def test_malformed_cells_are_refused(tmp_path: Path, change: dict[str, Any], minor: int) -> None:
    """Whatever nbformat runs into; a list for an id was a TypeError."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    notebook["nbformat_minor"] = minor
    notebook["cells"].append({**notebook["cells"][0], **change})
    (tmp_path / "a.ipynb").write_text(json.dumps(notebook))
    with pytest.raises(LabkitError, match=r"a\.ipynb is not a Jupyter notebook: "):
        load_notebook(tmp_path / "a.ipynb")
