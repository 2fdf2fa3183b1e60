"""Where each file of the repository is in the site, and its links rewritten accordingly.

Lessons, assignments and documents link to one another by file, as GitHub and JupyterLab follow
links: ``[6.3](06_panoptic_quality.ipynb#6.3-PQ-=-SQ-×-RQ)``. In the site each file is a page, and
each heading of a lesson a label. A link to a file that has no page leads to the repository on
GitHub if its address is known; otherwise its text stays, without a link.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from labkit.workbook.notebook_sources import load_notebook, sources

DOCUMENTS = {
    "docs/live.md": "live.md",
    "docs/glossary.md": "glossary.md",
    "docs/commands.md": "commands.md",
    "docs/export.md": "export.md",
    "docs/gpu.md": "gpu.md",
    "docs/rocm.md": "rocm.md",
    "data/README.md": "data.md",
    "docs/teaching.md": "teaching.md",
    "docs/grading.md": "grading.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}
"""Documents of the repository, and their pages."""

PICTURES = "pictures"
"""Folder of the pictures that pages show, in the source of the site."""

_HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)
_SECTION = re.compile(r"(\d+\.\d+)\b")
# Code first, so that what looks like a link within it is left alone.
_LINK = re.compile(
    r"(?P<code>```.*?```|`[^`\n]+`)"
    r"|(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)",
    re.DOTALL,
)


@dataclass
class SiteLinks:
    """Pages of the site by file of the repository.

    Attributes:
        root: the checkout.
        folder: folder of the site's source, into which pictures are copied.
        repository: address of the repository, or "".
        pages: a page's file in the site's source, by its file in the repository.
        labels: the label of a heading, by lesson and fragment as JupyterLab makes it.
    """

    root: Path
    folder: Path
    repository: str = ""
    pages: dict[str, str] = field(default_factory=dict)
    labels: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for document, page in DOCUMENTS.items():
            if (self.root / document).is_file():
                self.pages[document] = page
        for source in sources(self.root):
            lesson = f"notebooks/{source.stem}.ipynb"
            self.pages[lesson] = f"lessons/{source.stem}.ipynb"
            for cell in load_notebook(source).cells:
                if cell.cell_type == "markdown":
                    for heading in _HEADING.findall(cell.source):
                        self.labels[lesson, fragment(heading)] = heading_label(lesson, heading)
        for notebook in sorted((self.root / "assignments").glob("*/*.ipynb")):
            if notebook.stem == notebook.parent.name:
                path = notebook.relative_to(self.root).as_posix()
                self.pages[path] = f"assignments/{notebook.name}"

    def with_labels(self, text: str, lesson: str) -> str:
        """Put its label before each heading of a lesson."""

        def labelled(match: re.Match[str]) -> str:
            label = self.labels.get((lesson, fragment(match[1])))
            return f"({label})=\n{match[0]}" if label else match[0]

        return _HEADING.sub(labelled, text)

    def rewrite(self, text: str, path: str) -> str:
        """Rewrite the links of a text in Markdown.

        Args:
            text: the text.
            path: its file in the repository, from which its links lead.
        """
        return _LINK.sub(lambda match: self._rewritten(match, path), text)

    def _rewritten(self, match: re.Match[str], path: str) -> str:
        if match["code"] or re.match(r"\w+:|#$", match["target"]):
            return match[0]
        target, _, heading = match["target"].partition("#")
        to = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) if target else path
        if match["image"]:
            return f"![{match['text']}](/{self.picture(to)})"
        page = self.pages.get(to)
        if page is None:
            if self.repository and (self.root / to).exists():
                return f"[{match['text']}]({self.repository}/blob/main/{to})"
            return match["text"]
        numbered = _SECTION.match(match["text"])  # "[9.10](09_your_own_data.ipynb)"
        label = self.labels.get((to, heading))
        if label is None and numbered and f"section-{numbered[1]}" in self.labels.values():
            label = f"section-{numbered[1]}"
        if label is not None:
            return f"[{match['text']}](#{label})"
        return f"[{match['text']}](/{page}{'#' + heading if heading else ''})"

    def picture(self, path: str) -> str:
        """Copy a picture of the repository into the site's source; return its path there."""
        there = f"{PICTURES}/{posixpath.basename(path)}"
        place = self.folder / there
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / path, place)
        return there


def fragment(heading: str) -> str:
    """The fragment that JupyterLab makes of a heading."""
    return heading.strip().replace(" ", "-")


def heading_label(lesson: str, heading: str) -> str:
    """A label of the site: ``section-6.3``, or of a heading without a number ``06-references``."""
    section = _SECTION.match(heading)
    if section:
        return f"section-{section[1]}"
    words = re.sub(r"\W+", "-", heading.lower()).strip("-")
    return f"{posixpath.basename(lesson)[:2]}-{words}"
