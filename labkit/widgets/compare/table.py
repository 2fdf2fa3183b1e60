"""Table of a comparison's metrics, as text for a figure and as HTML for a page."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence

from labkit.structures import Detections
from labkit.widgets.compare.image_source import SourceImage
from labkit.widgets.compare.outcomes import COLORS
from labkit.widgets.compare.views import View

HEADS = (
    "model",
    "score",
    "objects",
    "stuff",
    "PQ",
    "PQ things",
    "PQ stuff",
    "AP",
    "TP",
    "FP",
    "FN",
    "weights",
    "time",
)


def as_text(picture: SourceImage, views: Sequence[View]) -> str:
    """Format the metrics as aligned columns, followed by remarks of at most their width."""
    rows = [HEADS, *(_row(view) for view in views)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADS))]
    lines = [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    width = max(map(len, lines))
    wrapped = [textwrap.fill(x, width, subsequent_indent="    ") for x in remarks(picture, views)]
    return "\n".join([*lines, *wrapped])


def as_html(picture: SourceImage, views: Sequence[View]) -> str:
    """Format the metrics as an HTML table with row and column headings."""
    heads = "".join(f'<th scope="col">{head}</th>' for head in HEADS)
    rows = ""
    for view in views:
        name, *cells = _row(view)
        rows += f'<tr><th scope="row">{html.escape(name)}</th>'
        rows += "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    said = "".join(f"<p>{html.escape(text)}</p>" for text in remarks(picture, views))
    table = f'<table class="labkit-table"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>'
    scrolled = f'<div class="labkit-table-place" tabindex="0">{table}</table></div>'
    return f"{_STYLE}{scrolled}<div class='labkit-remarks'>{said}</div>"


def colors_html() -> str:
    """HTML legend of the colours of an outcome layer."""
    square = "display:inline-block;width:0.9em;height:0.9em;border:1px solid;margin:0 0.3em 0 0"
    return " ".join(
        f'<span style="margin-right:1.5em;white-space:nowrap"><span style="{square};'
        f'background:rgb{color}"></span>{name}</span>'
        for name, color in COLORS.items()
    )


def remarks(picture: SourceImage, views: Sequence[View]) -> list[str]:
    """Remarks below the table: the meaning of the thresholds, what is missing and why."""
    said = [picture.note] if picture.note else []
    meanings: dict[str, list[str]] = {}
    for view in views:
        if view.answer is not None:
            meanings.setdefault(view.answer.threshold.meaning, []).append(view.title)
        if view.reason:
            said.append(f"{view.title} is not measured: {view.reason}")
        if view.message is not None:
            said.append(f"{view.title}: {view.message}")
    said += [f"The score of {', '.join(names)}: {meaning}." for meaning, names in meanings.items()]
    if any(view.quality is not None for view in views):
        said.append(
            "PQ and AP in percent, of this image alone; AP uses all detections, of any score."
        )
    return said


def _row(view: View) -> tuple[str, ...]:
    if view.answer is None or view.layer is None:
        return (view.title, *[""] * (len(HEADS) - 1))
    objects = sum(info.isthing for info in view.layer.info.values())
    stuff = len(view.layer.info) - objects
    quality, outcome = view.quality, view.outcome
    return (
        view.title,
        "" if view.score is None else f"{view.score:.2f}",
        str(objects),
        "" if isinstance(view.shown, Detections) else str(stuff),
        _percent(None if quality is None else quality.all.pq),
        _percent(None if quality is None else quality.things.pq),
        _percent(None if quality is None else quality.stuff.pq),
        _percent(view.ap),
        "" if outcome is None else str(len(outcome.right)),
        "" if outcome is None else str(len(outcome.wrong)),
        "" if outcome is None else str(len(outcome.missed)),
        f"{view.answer.parameters / 1e6:.2f} M",
        f"{1000 * view.answer.seconds:.0f} ms",
    )


def _percent(share: float | None) -> str:
    return "" if share is None or share != share else f"{100 * share:.1f}"


_STYLE = """<style>
.labkit-table { border-collapse: collapse; line-height: 1.5; font-variant-numeric: tabular-nums; }
.labkit-table-place { overflow-x: auto; }
.labkit-table th, .labkit-table td { padding: 1px 8px; text-align: right; white-space: nowrap; }
.labkit-table thead th { white-space: normal; vertical-align: bottom; line-height: 1.3; }
.labkit-table th[scope=row] { text-align: left; }
.labkit-table thead th { border-bottom: 1px solid currentColor; }
.labkit-remarks p { margin: 2px 0; line-height: 1.4; white-space: normal; }
</style>"""
