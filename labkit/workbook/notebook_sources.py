"""The workbook's notebooks: finding them, and generating them from their sources.

A notebook is edited as ``notebooks/src/NAME.py`` (jupytext's py:percent format) and committed
as ``notebooks/NAME.ipynb`` without outputs. The second is a pure function of the first, to the
byte: fixed metadata, no outputs, and cell ids derived from what is in the cells.

A code cell with the tag ``hide-input`` is folded, in JupyterLab and on a page. Its first line, a
comment, says what it holds. What becomes of exercises: :mod:`labkit.workbook.exercises`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.system.atomic_write import atomic_write
from labkit.system.paths import WORKBOOK
from labkit.system.text_files import decoded
from labkit.system.unknown_names import did_you_mean, unknown_name
from labkit.workbook.exercises import FOLDED, STUDENT, solved_cells, student_cells

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = re.compile(r"[\w+#. -]{1,30}")
KERNELS = {"ir": "R", "julia": "Julia", "octave": "Octave", "bash": "Bash", "scala": "Scala"}
"""Prefixes of the kernel names of other languages, for notebooks without a language entry."""
NUMBERED = re.compile(r"\d\d_\w+")


def find_root(start: Path | None = None) -> Path:
    """Find the project folder, which contains ``notebooks/src``.

    Looked for in `start` (the working directory by default) and the folders above it; otherwise it
    is the checkout that labkit runs from, or what an installed labkit carries.

    Raises:
        LabkitError: there is no such folder.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents, WORKBOOK):
        if (folder / "notebooks" / "src").is_dir():
            return folder
    raise LabkitError(
        f"no folder notebooks/src in {start} or above it: run the command inside a labkit checkout"
    )


def sources(root: Path) -> list[Path]:
    """Return the sources of the numbered notebooks, in their order."""
    return sorted(
        path for path in (root / "notebooks" / "src").glob("*.py") if NUMBERED.fullmatch(path.stem)
    )


def notebook_path(source: Path) -> Path:
    """Return the path of the notebook that a source generates."""
    return source.parents[1] / f"{source.stem}.ipynb"


def resolve(selector: str, root: Path) -> Path:
    """Find the notebook of a number ("6", "06"), a name or a path.

    Numbers and names stand for the notebook, or for its source where no notebook has been
    generated yet.

    Raises:
        LabkitError: nothing is called so.
    """
    path = Path(selector)
    if path.suffix in {".ipynb", ".py"}:
        for candidate in (path, root / "notebooks" / path.name):
            if candidate.is_file():
                return candidate.resolve()
        hint = did_you_mean(path.stem, [source.stem for source in sources(root)])
        raise LabkitError(f"the notebook {selector} does not exist{': ' + hint if hint else ''}")
    known = sources(root)
    for source in known:
        number, _, title = source.stem.partition("_")
        if selector in {source.stem, title} or (
            selector.isdecimal() and int(selector) == int(number)
        ):
            notebook = notebook_path(source)
            return notebook if notebook.is_file() else source
    raise unknown_name("notebook", selector, [source.stem for source in known])


def load_notebook(path: Path, *, student: bool = False) -> Any:
    """Read an ``.ipynb`` file or a py:percent source as an nbformat 4.5 notebook.

    Args:
        student: of a source, the student's edition instead of the solved one.

    Raises:
        LabkitError: the file is not a notebook.
    """
    import nbformat

    try:
        text = decoded(path.read_bytes())  # some editors put a byte order mark first
        if path.suffix == ".py":
            return from_source(text, student=student)
        # Not nbformat.reads(as_version=4): it only warns about an invalid notebook.
        notebook = nbformat.reads(text, as_version=nbformat.NO_CONVERT)
        if notebook.nbformat < 4 or notebook.nbformat_minor < 5:
            notebook = nbformat.v4.upgrade(nbformat.convert(notebook, 4))
        nbformat.validate(notebook)
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # of a malformed notebook nbformat raises whatever it runs into
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise LabkitError(f"{path} is not a Jupyter notebook: {reason}") from error
    return notebook


def other_language(notebook: Any) -> str:
    """Return the language in a notebook's metadata if it is not Python, else "".

    Args:
        notebook: a notebook of nbformat, or a dictionary of unknown origin.
    """
    metadata = notebook.get("metadata")
    parts = metadata if isinstance(metadata, dict) else {}
    kernel, info = (
        part if isinstance(part, dict) else {}
        for part in (parts.get("kernelspec"), parts.get("language_info"))
    )
    named = (kernel.get("language"), info.get("name"))
    name = next((text for text in named if isinstance(text, str) and text.strip()), "")
    if not name and isinstance(kernel.get("name"), str):
        begins = re.match(r"[a-z]*", kernel["name"].lower())
        name = KERNELS.get(begins[0] if begins else "", "")
    plain = LANGUAGE.fullmatch(name.strip())
    return "" if plain is None or "python" in name.lower() else plain[0]


def from_source(text: str, *, student: bool = False) -> Any:
    """Build the output-free notebook of a py:percent source.

    Args:
        student: the student's edition, with exercises to complete; otherwise the solved one.

    Raises:
        LabkitError: an exercise is malformed; the message says which.
    """
    import jupytext
    import nbformat

    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.cells = (student_cells if student else solved_cells)(notebook.cells)
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        # Ids from the content keep a difference small when a cell is inserted; the count tells
        # equal cells apart.
        content = f"{cell.cell_type}\n{cell.source}"
        seen[content] += 1
        digest = hashlib.sha256(f"{seen[content]}\n{content}".encode())
        cell.id = digest.hexdigest()[:12]
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if FOLDED in cell.metadata.get("tags", []):
                cell.metadata["jupyter"] = {"source_hidden": True}  # JupyterLab's own name
    metadata: dict[str, Any] = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    if student:
        metadata["labkit"] = {"edition": STUDENT}
    notebook.metadata = nbformat.from_dict(metadata)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def generate(source: Path, *, student: bool = False) -> bytes:
    """Return the bytes of the notebook that a source generates, solved or for students.

    Raises:
        LabkitError: the source is malformed; the message says where.
    """
    import nbformat

    notebook = load_notebook(source, student=student)
    nbformat.validate(notebook)
    return (nbformat.writes(notebook).rstrip("\n") + "\n").encode()


def differing(root: Path) -> dict[Path, str]:
    """Return the notebooks that differ from what their sources generate, with the reasons."""
    found: dict[Path, str] = {}
    for source in sources(root):
        notebook = notebook_path(source)
        if not notebook.is_file():
            found[notebook] = "not generated yet"
        elif notebook.read_bytes() != generate(source, student=_is_student(notebook)):
            found[notebook] = f"differs from src/{source.name}"
    names = {source.stem for source in sources(root)}
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        if NUMBERED.fullmatch(notebook.stem) and notebook.stem not in names:
            found[notebook] = f"has no source src/{notebook.stem}.py"
    return found


def sync(root: Path) -> list[Path]:
    """Write every notebook that differs from its source; return those written.

    What a reader changed in a generated notebook is overwritten. A notebook without a source is
    left alone.
    """
    written = []
    for notebook in differing(root):
        source = root / "notebooks" / "src" / f"{notebook.stem}.py"
        if not source.is_file():
            continue
        content = generate(source, student=notebook.is_file() and _is_student(notebook))
        with atomic_write(notebook) as temporary:
            temporary.write_bytes(content)
        written.append(notebook)
    return written


def _is_student(notebook: Path) -> bool:
    """Whether a notebook is the student's edition of a lesson."""
    try:
        mark = load_notebook(notebook).metadata.get("labkit")
    except LabkitError:  # a damaged notebook is generated anew
        return False
    return isinstance(mark, dict) and mark.get("edition") == STUDENT


def edited(notebook: Path) -> bool:
    """Whether a generated notebook's cells differ from its source, apart from outputs."""
    source = notebook.parent / "src" / f"{notebook.stem}.py"
    if notebook.suffix != ".ipynb" or not source.is_file():
        return False

    def cells(of: Any) -> list[tuple[str, str]]:
        return [(cell.cell_type, cell.source) for cell in of.cells if cell.source.strip()]

    as_generated = load_notebook(source, student=_is_student(notebook))
    return cells(load_notebook(notebook)) != cells(as_generated)
