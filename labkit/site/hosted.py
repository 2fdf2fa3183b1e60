"""Lessons for Colab and Binder: addresses of the buttons, and notebooks that work alone.

The site carries a notebook of each lesson that needs no other file: its drawings are inside, its
links lead to the site, and its first cell installs labkit in Colab. Colab opens it from the branch
from which GitHub Pages serves the site, so a fork that publishes its own site has its own buttons.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from labkit.errors import LabkitError

BRANCH = "gh-pages"
"""The branch with the built site (``.github/workflows/site.yml``)."""

COPY = "labkit-workbook"
"""The copy of the workbook in Binder (``.binder/postBuild``)."""

_GITHUB = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
_DRAWING = re.compile(r"!\[([^\]]*)\]\((diagrams/[\w.-]+\.svg)\)")
_LESSON = re.compile(r"\]\((\d\d_\w+)\.ipynb(?:#[^)\s]*)?\)")

INSTALL = '''\
# In Colab: install labkit. Elsewhere this cell does nothing.
import sys
from importlib.util import find_spec

if "google.colab" in sys.modules and find_spec("labkit") is None:
    %pip install --quiet "{requirement}"'''


def repository_parts(repository: str) -> tuple[str, str]:
    """Owner and name of a repository on GitHub.

    Raises:
        LabkitError: it is no address of one.
    """
    match = _GITHUB.fullmatch(repository)
    if match is None:
        raise LabkitError(
            f"--repository {repository}: not the address of a repository on GitHub, such as"
            " https://github.com/OWNER/NAME"
        )
    return match[1], match[2]


def site_address(repository: str) -> str:
    """Address from which GitHub Pages serves the site of a repository."""
    owner, name = repository_parts(repository)
    return f"https://{owner.lower()}.github.io/{name}"


def launch_buttons(repository: str, lesson: str) -> list[tuple[str, str]]:
    """Buttons that open a lesson elsewhere, as (text, address)."""
    owner, name = repository_parts(repository)
    path = quote(f"lab/tree/{COPY}/notebooks/{lesson}.ipynb", safe="")
    return [
        (
            "Open in Colab",
            f"https://colab.research.google.com/github/{owner}/{name}/blob/{BRANCH}/notebooks/"
            f"{lesson}.ipynb",
        ),
        ("Open in Binder", f"https://mybinder.org/v2/gh/{owner}/{name}/main?urlpath={path}"),
    ]


def install_cell(requirement: str) -> Any:
    """The cell that installs labkit in Colab.

    Args:
        requirement: what pip installs.
    """
    import nbformat

    source = INSTALL.format(requirement=requirement)
    metadata = {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}
    return nbformat.v4.new_code_cell(source, id="install-labkit", metadata=metadata)


def standalone(notebook: Any, notebooks: Path, repository: str) -> bytes:
    """A lesson that needs no other file.

    Args:
        notebook: the student's edition; it is changed.
        notebooks: folder of the lessons, with the drawings.
        repository: address of the repository, or "": then links stay, and nothing is installed.
    """
    import nbformat

    def embedded(match: re.Match[str]) -> str:
        drawing = base64.b64encode((notebooks / match[2]).read_bytes()).decode()
        return f"![{match[1]}](data:image/svg+xml;base64,{drawing})"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _DRAWING.sub(embedded, cell.source)
            if repository:
                site = site_address(repository)
                text = _LESSON.sub(rf"]({site}/lessons/\1.html)", cell.source)
                cell.source = text.replace("](../docs/glossary.md)", f"]({site}/glossary.html)")
    if repository:
        owner, name = repository_parts(repository)
        source = f"labkit[pretrained] @ git+https://github.com/{owner}/{name}"
        notebook.cells.insert(0, install_cell(source))
    return (nbformat.writes(notebook) + "\n").encode()
