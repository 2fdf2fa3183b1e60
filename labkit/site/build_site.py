"""Build of the site: its source is written to a temporary folder, and Sphinx makes the pages.

Sphinx with MyST-NB and the theme of Jupyter Book 1: a notebook is a page, formulas, links between
pages and docstrings are checked while it is built, and search works from the disk. What these load
from the network by default is replaced or left out: formulas are MathML (MathJax), figures stand
for widgets (require.js), and icons are the theme's own files.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

import labkit
from labkit.errors import LabkitError
from labkit.site.hosted import launch_buttons, repository_parts, standalone
from labkit.site.live.placement import with_scripts
from labkit.site.live.write_live import write_live
from labkit.site.notebook_pages import assignment_page, facts_html, lesson_page
from labkit.site.reference_pages import write_reference
from labkit.site.site_links import PICTURES, SiteLinks
from labkit.site.start_page import start_page
from labkit.system.paths import CARRIED, PACKAGE
from labkit.workbook.lesson_facts import (
    AssignmentFacts,
    LessonFacts,
    assignment_facts,
    lesson_facts,
)
from labkit.workbook.notebook_sources import load_notebook

STATIC = Path(__file__).parent / "static"
ICON = str(STATIC / "icon.svg")
NOTEBOOKS = "notebooks"
"""Folder of the site with the notebooks to download and to open in Colab."""

UNNAMED, NAMED = "<summary><span", '<summary aria-label="More pages"><span'
"""How a foldable part of the sidebar begins; a screen reader finds no text in it."""

MARK = ".buildinfo"
"""A file of every site, by which an earlier one is recognised."""

WITHOUT_LEGEND = (0, 24, 1320, 238)
"""Of docs/shapes.png: left, top, right, bottom."""

NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme")

SETTINGS = {
    "project": "labkit",
    "author": "The labkit authors",
    "copyright": "The labkit authors, Apache License 2.0",
    "extensions": [
        "myst_nb",
        "sphinx.ext.autodoc",
        "sphinx.ext.napoleon",
        "labkit.site.sphinx_extension",
    ],
    "html_theme": "sphinx_book_theme",
    "html_title": "labkit",
    "html_static_path": [str(STATIC)],
    "html_css_files": ["site.css"],
    "html_favicon": ICON,
    "html_math_renderer": "mathml",
    "html_copy_source": False,
    "html_use_index": False,
    "html_domain_indices": False,
    "html_show_sphinx": False,
    # The theme's summaries of search results are fetched from pages, which a browser refuses
    # when they are opened from the disk.
    "html_show_search_summary": False,
    "html_context": {"default_mode": "auto"},
    "html_theme_options": {
        "logo": {"text": "labkit", "image_light": ICON, "image_dark": ICON, "alt_text": ""},
        "use_download_button": False,
        "use_fullscreen_button": False,
        "show_toc_level": 2,
        "navigation_with_keys": False,
        "navbar_persistent": [],
        "pygments_light_style": "a11y-high-contrast-light",
        "pygments_dark_style": "a11y-high-contrast-dark",
    },
    "myst_enable_extensions": ["amsmath", "colon_fence", "dollarmath"],
    "myst_heading_anchors": 4,
    "nb_execution_mode": "off",
    "nb_output_stderr": "remove",
    "nb_merge_streams": True,
    "add_module_names": False,
    "toc_object_entries_show_parents": "hide",
    "autodoc_member_order": "bysource",
    "autodoc_typehints": "signature",
    "autodoc_preserve_defaults": True,
    "napoleon_use_ivar": True,
    # Two types called Size, which signatures name without their modules.
    "suppress_warnings": ["ref.python"],
}
"""What the site's generator is told."""


@dataclass(frozen=True)
class BuiltSite:
    """A finished site.

    Attributes:
        folder: of the site, with ``index.html``.
        not_executed: lessons that the run does not have.
        warnings: what the generator complained about.
    """

    folder: Path
    not_executed: list[str]
    warnings: list[str]

    @property
    def pages(self) -> int:
        """Number of pages."""
        return sum(1 for _ in self.folder.rglob("*.html"))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def build_site(root: Path, run: Path, out: Path, repository: str = "") -> BuiltSite:
    """Build the site.

    Args:
        root: the checkout.
        run: report of ``labkit run`` with executed notebooks.
        out: the folder of the site; what an earlier build wrote there is replaced.
        repository: address of the repository on GitHub, for links to files and the buttons of Colab
            and Binder; "" leaves these out.

    Raises:
        LabkitError: a package is missing, this is no checkout, the run has no executed lesson, or
            the folder holds something else.
    """
    _require_generator()
    if root == CARRIED:
        raise LabkitError(
            "the site needs the documents of a checkout, which an installed labkit does not have;"
            " run this inside a checkout"
        )
    if repository:
        repository_parts(repository)
    _require_place(out)
    lessons, assignments = lesson_facts(root), assignment_facts(root)
    executed = {x.name: run / f"{x.name}.ipynb" for x in lessons}
    executed = {name: path for name, path in executed.items() if path.is_file()}
    if not executed:
        raise LabkitError(
            f"{run} has no executed lesson; make it first: labkit run --profile smoke --out {run}"
        )
    with tempfile.TemporaryDirectory(prefix="labkit_site_") as temporary:
        source, extra, made = (Path(temporary, name) for name in ("source", "extra", "site"))
        links = SiteLinks(root, source, repository)
        _write_lessons(lessons, executed, links, extra)
        _write_assignments(assignments, links, extra)
        _write_documents(links)
        write_live(extra)
        write_reference(PACKAGE, source / "reference")
        _write_start(lessons, assignments, links, extra)
        sections = [
            label.removeprefix("section-")
            for label in links.labels.values()
            if label.startswith("section-")
        ]
        warnings = _run_sphinx(
            source,
            made,
            Path(temporary, "doctrees"),
            {
                **SETTINGS,
                "release": labkit.__version__,
                "html_extra_path": [str(extra)],
                "labkit_sections": sections,
            },
        )
        _finish(made)
        # Only now, so that a failed build leaves the earlier site as it is.
        if out.is_dir():
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, out)
    missing = [lesson.name for lesson in lessons if lesson.name not in executed]
    return BuiltSite(out, missing, warnings)


def _require_generator() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise LabkitError(
            f"the site's generator is not installed ({', '.join(missing)}): pip install"
            " 'labkit[site]' (in a checkout: uv sync --extra site)"
        )


def _require_place(out: Path) -> None:
    """Require a new or empty folder, or one with an earlier site."""
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise LabkitError(f"{out} is not empty and not a site; name a new folder")
    if out.exists() and not out.is_dir():
        raise LabkitError(f"{out} is a file; name a folder")


def _write_lessons(
    lessons: list[LessonFacts], executed: dict[str, Path], links: SiteLinks, extra: Path
) -> None:
    for lesson in lessons:
        source = links.root / "notebooks" / "src" / f"{lesson.name}.py"
        student = load_notebook(source, student=True)
        alone = standalone(student, source.parents[1], links.repository)
        _write(extra / NOTEBOOKS / f"{lesson.name}.ipynb", alone)
        buttons = [("Download the notebook", f"../{NOTEBOOKS}/{lesson.name}.ipynb")]
        if links.repository:
            buttons = [*launch_buttons(links.repository, lesson.name), *buttons]
        page = lesson_page(
            load_notebook(executed[lesson.name]) if lesson.name in executed else None,
            load_notebook(source),
            load_notebook(source, student=True),
            lesson.name,
            links,
            facts_html([lesson.times], buttons),
        )
        _write_notebook(page, links.folder / "lessons" / f"{lesson.name}.ipynb")


def _write_assignments(assignments: list[AssignmentFacts], links: SiteLinks, extra: Path) -> None:
    for assignment in assignments:
        path = f"assignments/{assignment.name}/{assignment.name}.ipynb"
        _write(extra / NOTEBOOKS / f"{assignment.name}.ipynb", (links.root / path).read_bytes())
        facts = [f"about {assignment.minutes} min"] if assignment.minutes else []
        buttons = [("Download the notebook", f"../{NOTEBOOKS}/{assignment.name}.ipynb")]
        if assignment.lesson:
            number = int(assignment.lesson[:2])
            buttons.insert(0, (f"after lesson {number}", f"../lessons/{assignment.lesson}.html"))
        page = assignment_page(
            load_notebook(links.root / path), path, links, facts_html(facts, buttons)
        )
        _write_notebook(page, links.folder / links.pages[path])


def _write_documents(links: SiteLinks) -> None:
    for document, page in links.pages.items():
        if page.endswith(".md") and page != "index.md":
            text = links.rewrite((links.root / document).read_text(encoding="utf-8"), document)
            _write(links.folder / page, with_scripts(text, "").encode())


def _write_start(
    lessons: list[LessonFacts], assignments: list[AssignmentFacts], links: SiteLinks, extra: Path
) -> None:
    shapes = f"{PICTURES}/shapes.png"
    with Image.open(links.root / "docs" / "shapes.png") as drawn:
        (extra / PICTURES).mkdir(parents=True, exist_ok=True)
        drawn.crop(WITHOUT_LEGEND).save(extra / shapes)
    pictures = {}
    for lesson in lessons:
        if lesson.thumbnail is not None:
            pictures[lesson.name] = _add_picture(lesson.thumbnail, extra)
    contents = {
        "Lessons": [f"lessons/{lesson.name}" for lesson in lessons],
        "Assignments": [f"assignments/{assignment.name}" for assignment in assignments],
        "In this browser": ["live"],
        "Look up": ["glossary", "commands", "reference/index", "export", "gpu", "rocm", "data"],
        "Teach": ["teaching", "grading"],
        "The project": ["architecture", "contributing", "changelog"],
    }
    more = [
        ("Glossary", "glossary.html", "every term in a sentence, with its section"),
        ("Teaching with labkit", "teaching.html", "a course of twelve weeks or of two days"),
        ("Grading", "grading.html", "from a folder of submissions to a gradebook"),
        ("Commands", "commands.html", "train, measure, use and export a model"),
        ("Reference", "reference/index.html", "the package, from its docstrings"),
        ("Architecture", "architecture.html", "in which order to read the code"),
    ]
    actions = [
        ("Begin with lesson 1", f"lessons/{lessons[0].name}.html"),
        ("Try a model in this page", "live.html"),
    ]
    text = start_page(lessons, assignments, shapes, pictures, actions, more, contents)
    _write(links.folder / "index.md", text.encode())


def _add_picture(path: Path, extra: Path) -> str:
    """Add a picture to the site; return its address from the start page."""
    _write(extra / PICTURES / path.name, path.read_bytes())
    return f"{PICTURES}/{path.name}"


def _run_sphinx(source: Path, out: Path, doctrees: Path, settings: dict[str, Any]) -> list[str]:
    """Run the generator; return its warnings."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    complaints = io.StringIO()
    with docutils_namespace():
        app = Sphinx(source, None, out, doctrees, "html", settings, status=None, warning=complaints)
        app.build()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", complaints.getvalue())
    return [line for line in plain.splitlines() if line.strip()]


def _finish(site: Path) -> None:
    """Remove the themes' templates, and name what the theme leaves without a name."""
    for template in (site / "_static").glob("*-macros.html"):
        template.unlink()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        named = text.replace(
            UNNAMED, UNNAMED.replace("<summary", '<summary aria-label="More pages"')
        )
        if named != text:
            page.write_text(named, encoding="utf-8")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_notebook(notebook: object, path: Path) -> None:
    import nbformat

    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
