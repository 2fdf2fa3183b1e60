"""The committed notebooks are what their sources generate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.paths import CHECKOUT

from labkit.errors import LabkitError
from labkit.workbook.notebook_sources import (
    differing,
    edited,
    find_root,
    generate,
    load_notebook,
    resolve,
    sync,
)

SOURCE = """# ---
# jupyter:
#   kernelspec:
#     display_name: Somebody else's
#     language: python
#     name: somebody-elses
# ---

# %% [markdown]
# # Title

# %% tags=["parameters"]
profile: str = "quick"

# %%
print("twice")

# %%
print("twice")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "notebooks" / "src"
    folder.mkdir(parents=True)
    (folder / "01_first.py").write_text(SOURCE)
    (folder / "02_second.py").write_text("# %%\n1 + 1\n")
    (folder / "helper.py").write_text("# not a notebook\n")
    return tmp_path


def test_committed_notebooks_match_their_sources() -> None:
    found = {path.name: reason for path, reason in differing(CHECKOUT).items()}
    assert not found, "run: uv run labkit notebooks sync"


def test_generated_notebook(project: Path) -> None:
    source = project / "notebooks" / "src" / "01_first.py"
    text = generate(source)
    assert text == generate(source)
    assert text.endswith(b"}\n")
    notebook = json.loads(text)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert [cell["cell_type"] for cell in notebook["cells"]] == ["markdown", *["code"] * 3]
    assert notebook["cells"][1]["metadata"] == {"tags": ["parameters"]}
    assert all(cell.get("outputs", []) == [] for cell in notebook["cells"])
    assert len({cell["id"] for cell in notebook["cells"]}) == 4


def test_inserting_a_cell_keeps_the_ids_of_the_others(project: Path) -> None:
    source = project / "notebooks" / "src" / "01_first.py"
    before = [cell["id"] for cell in json.loads(generate(source))["cells"]]
    source.write_text(SOURCE.replace("# %% tags", '# %%\nprint("new")\n\n# %% tags'))
    after = [cell["id"] for cell in json.loads(generate(source))["cells"]]
    assert [after[0], *after[2:]] == before


def test_sync_and_check(project: Path) -> None:
    folder = project / "notebooks"
    assert [path.name for path in differing(project)] == ["01_first.ipynb", "02_second.ipynb"]
    assert [path.name for path in sync(project)] == ["01_first.ipynb", "02_second.ipynb"]
    assert differing(project) == {}
    assert sync(project) == []

    changed = folder / "02_second.ipynb"
    changed.write_text(changed.read_text().replace("1 + 1", "1 + 2"))
    (folder / "03_orphan.ipynb").write_bytes(changed.read_bytes())
    (folder / "scratch.ipynb").write_bytes(changed.read_bytes())
    assert {path.name: reason for path, reason in differing(project).items()} == {
        "02_second.ipynb": "differs from src/02_second.py",
        "03_orphan.ipynb": "has no source src/03_orphan.py",
    }
    assert edited(changed)
    assert [path.name for path in sync(project)] == ["02_second.ipynb"]
    assert not edited(changed)
    assert (folder / "03_orphan.ipynb").exists()
    assert not list(folder.glob("*.tmp"))


def test_resolve(project: Path) -> None:
    source = project / "notebooks" / "src" / "01_first.py"
    assert resolve("1", project) == source
    sync(project)
    notebook = project / "notebooks" / "01_first.ipynb"
    for selector in ("1", "01", "01_first", "first", "01_first.ipynb", str(notebook)):
        assert resolve(selector, project) == notebook
    assert resolve(str(source), project) == source
    with pytest.raises(LabkitError, match=r"no notebook '7'.*01_first, 02_second"):
        resolve("7", project)
    with pytest.raises(LabkitError, match=r"missing\.ipynb does not exist"):
        resolve("missing.ipynb", project)


def test_find_root(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert find_root(project / "notebooks" / "src") == project
    assert find_root(tmp_path_factory.mktemp("elsewhere")) == CHECKOUT


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"cells": 3}', '{"nbformat": 4, "nbformat_minor": 5}']
)
def test_file_that_is_not_a_notebook(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_text(text)
    with pytest.raises(LabkitError, match=r"broken\.ipynb is not a Jupyter notebook"):
        load_notebook(path)


def test_binary_file(tmp_path: Path) -> None:
    for name in ("broken.ipynb", "broken.py"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(LabkitError, match=name):
            load_notebook(tmp_path / name)
