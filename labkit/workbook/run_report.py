"""Report of a run: ``index.html``, a page for each notebook, and ``results.json``."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from PIL import Image, UnidentifiedImageError

from labkit.doctor import describe_environment
from labkit.system.atomic_write import atomic_write
from labkit.workbook.notebook_html import TEMPLATES, notebook_html
from labkit.workbook.notebook_results import NotebookResult, OutputImage
from labkit.workbook.outcome import Outcome
from labkit.workbook.records import format_value

SCHEMA = 1
THUMBNAIL = (520, 320)  # pixels, the largest width and height
MAX_THUMBNAILS = 8
TRACEBACK_LINES = 30
_COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class RunReport:
    """Results of a finished run."""

    folder: Path
    started: datetime
    command: str
    jobs: int
    results: list[NotebookResult]

    @property
    def ok(self) -> bool:
        """Whether every notebook ran to its end without an error."""
        return all(result.outcome is Outcome.OK for result in self.results)

    @property
    def counts(self) -> Counter[str]:
        """Number of notebooks by outcome."""
        return Counter(result.outcome.value for result in self.results)

    @property
    def claims(self) -> int:
        """Number of checked claims."""
        return sum(len(result.claims) for result in self.results)

    @property
    def claims_held(self) -> int:
        """Number of claims that hold."""
        return sum(result.claims_held for result in self.results)

    @property
    def seconds(self) -> float:
        """Sum of the notebooks' times."""
        return sum(result.seconds for result in self.results)


def write_notebook_page(result: NotebookResult, folder: Path, origin: Path) -> None:
    """Write ``NAME.html`` of a completely or partly executed notebook.

    Args:
        origin: folder of the original notebook, for images in its text.
    """
    if result.executed is not None:
        page = notebook_html(result.executed, result.title, origin)
        _write(folder / f"{result.name}.html", page)


def write_run_report(report: RunReport) -> None:
    """Write ``index.html`` and ``results.json`` into the report's folder."""
    environment = describe_environment()
    document = {
        "schema": SCHEMA,
        "finished": True,
        "started": report.started.isoformat(timespec="seconds"),
        "command": report.command,
        "jobs": report.jobs,
        "environment": environment,
        "ok": report.ok,
        "notebooks": [result.as_json() for result in report.results],
    }
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["value"] = format_value
    templates.filters["duration"] = format_duration
    templates.filters["plain"] = lambda text: _COLOUR_CODE.sub("", text)
    page = templates.get_template("index.html.j2").render(
        report=report,
        environment=environment,
        thumbnails={result.name: _thumbnails(result) for result in report.results},
        traceback_lines=TRACEBACK_LINES,
    )
    _write(report.folder / "index.html", page)
    _write(report.folder / "results.json", json.dumps(document, indent=2) + "\n")


def format_duration(seconds: float) -> str:
    """Format a duration: ``4.2 s``, ``2 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _thumbnails(result: NotebookResult) -> list[dict[str, Any]]:
    shown = []
    for number, picture in enumerate(result.pictures[:MAX_THUMBNAILS], start=1):
        source = _thumbnail(picture)
        if source is not None:
            link = f"{result.name}.html#cell-id={picture.cell_id}"
            shown.append({"number": number, "link": link, "source": source})
    return shown


def _thumbnail(picture: OutputImage) -> str | None:
    """Return a small copy as a data URI, so that the page is one file; None if unreadable."""
    try:
        image = Image.open(io.BytesIO(picture.data)).convert("RGBA")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    page.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    page.convert("RGB").save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
