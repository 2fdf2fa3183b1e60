"""Draw the lessons' diagrams of networks: ``uv run python docs/make_diagrams.py``.

``docs/diagrams/NAME.toml`` describes a diagram: its nodes, the arrows between them, and the preset
whose modules and shapes they show. The drawing is ``notebooks/diagrams/NAME.svg``, beside the
notebooks, so that copies of the workbook, the wheel and reports have it too.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path

DESCRIPTIONS = Path(__file__).with_name("diagrams")
DRAWINGS = Path(__file__).parents[1] / "notebooks" / "diagrams"
WIDTH = 1000
HEADING, TEXT, LINE = 14, 13, 18
"""Sizes of a node's first line and of its other lines, and the height of a line."""
SHEET = 5
"""How far the sheets of a map are apart."""

# By role: fill, border, and the word in the legend.
ROLES = {
    "data": ("#ffffff", "#64748b", ""),
    "backbone": ("#dcebfb", "#2b6cb0", "backbone"),
    "attention": ("#e9e8cf", "#6b6a2f", "transformer"),
    "proposal": ("#fdebc8", "#b7791f", "proposals"),
    "box": ("#d9f2dd", "#2f855a", "class and box"),
    "mask": ("#eadcf9", "#6b46c1", "mask"),
    "semantic": ("#d3f1f2", "#0f7c86", "semantic"),
    "fusion": ("#fbdfeb", "#b83280", "fusion"),
    "loss": ("#fff5f5", "#c53030", "loss (training)"),
}
INK, FAINT, CARD, RED = "#1f2937", "#475569", "#fbfcfe", "#c53030"
STYLE = f"""
text {{ font: {TEXT}px "Helvetica Neue", Helvetica, Arial, sans-serif; fill: {INK}; }}
.title {{ font-size: 21px; font-weight: bold; }}
.heading {{ font-size: {HEADING}px; font-weight: bold; }}
.code {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
.shape {{ fill: {FAINT}; }}
.halo {{ stroke: {CARD}; stroke-width: 5px; paint-order: stroke; stroke-linejoin: round; }}
.badge {{ fill: #ffffff; font-weight: bold; }}
.arrow {{ fill: none; stroke: {FAINT}; stroke-width: 1.6; marker-end: url(#head); }}
.loss {{ stroke: {RED}; stroke-dasharray: 5 4; marker-end: url(#loss-head); }}
"""
MARKER = (
    '<marker id="{}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8"'
    ' markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.5 10 5 0 9.5Z" fill="{}"/></marker>'
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Node:
    """A part of a diagram.

    Attributes:
        at: left, top, width, height.
        kind: "box", "map" (a stack of sheets), "circle", "group" (a frame around others), "note"
            (text alone), "dot", "grid" or "picture" (a scene, its text below).
        role: key of ``ROLES``.
        text: lines, the first one large; `code` and **headings** are marked as in Markdown.
        shape: sizes, drawn as the last line; a letter where the size depends on the image. ``B``,
            the images, is not drawn.
        module, input_of, function: what has this shape: the output of a module of the preset's
            model, the first input of one, or the result of a function.
        losses: names of the losses that it stands for.
        config: numbers of the preset's configuration that the text shows.
        step: number in a sequence.
        new: what a model adds to the one before.
        scene: what a picture shows of Shapes: the image (""), "boxes", "masks", "semantic" or
            "panoptic".
        cells: columns and rows of a grid.
        preset: if it is not the diagram's.
    """

    at: tuple[float, float, float, float]
    kind: str = "box"
    role: str = "data"
    text: Sequence[str] = ()
    shape: Sequence[int | str] = ()
    module: str = ""
    input_of: str = ""
    function: str = ""
    losses: Sequence[str] = ()
    config: dict[str, float] = field(default_factory=dict)
    step: int = 0
    new: bool = False
    scene: str = ""
    cells: tuple[int, int] = (1, 1)
    preset: str = ""

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The lines of text, each with its class."""
        heads = self.kind in ("box", "map", "circle", "group") and self.role != "loss"
        lines = [(line, "heading" if heads and i == 0 else "") for i, line in enumerate(self.text)]
        if self.shape:
            lines.append((" × ".join(str(size) for size in self.shape if size != "B"), "shape"))
        return lines

    def side(self, name: str, fraction: float = 0.5) -> Point:
        """A point on a side, ``fraction`` of the way from left to right or from top to bottom."""
        x, y, width, height = self.at
        if name in ("left", "right"):
            return x + width * (name == "right"), y + height * fraction
        return x + width * fraction, y + height * (name == "bottom")


@dataclass(frozen=True)
class Arrow:
    """An arrow between two nodes.

    Attributes:
        path: names, points and names, such as ``a right 0.3 -> 120,80 -> b top``. A side is right
            of the first and left of the last node where none is named.
        text: stands above the longest part.
        shift: moves the text right and down.
    """

    path: str
    text: str = ""
    shift: Point = (0, 0)


@dataclass(frozen=True)
class Diagram:
    """A diagram, as its description says.

    Attributes:
        title, description: what a screen reader reads; the title is drawn too.
        height: pixels; the width is ``WIDTH``.
        nodes: by name.
        arrows: between them.
        preset: of the modules and shapes; none if there are none.
        caption: stands at the bottom.
        legend: whether the colours of the roles are explained.
    """

    title: str
    description: str
    height: float
    nodes: dict[str, Node]
    arrows: Sequence[Arrow]
    preset: str = ""
    caption: str = ""
    legend: bool = True

    def points(self, arrow: Arrow) -> list[Point]:
        """The corners of an arrow, horizontal and vertical in turn."""
        first, *via, last = (part.split() for part in arrow.path.split(" -> "))
        start, end = self._end(first, "right"), self._end(last, "left")
        points = [start[0], *(_point(part[0]) for part in via), end[0]]
        if not via:
            (x0, y0), (x1, y1) = points
            if start[1] and end[1]:  # both leave sideways
                # Straight where both nodes reach; else with a step half-way.
                if len(last) < 3 and self._reaches(last[0], 1, y0):
                    points[1] = (x1, y0)
                elif len(first) < 3 and self._reaches(first[0], 1, y1):
                    points[0] = (x0, y1)
                else:
                    points[1:1] = [((x0 + x1) / 2, y0), ((x0 + x1) / 2, y1)]
            elif not start[1] and not end[1]:
                if len(last) < 3 and self._reaches(last[0], 0, x0):
                    points[1] = (x0, y1)
                elif len(first) < 3 and self._reaches(first[0], 0, x1):
                    points[0] = (x1, y0)
                else:
                    points[1:1] = [(x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2)]
            else:
                points.insert(1, (x1, y0) if start[1] else (x0, y1))
        return points

    def _end(self, words: Sequence[str], side: str) -> tuple[Point, bool]:
        """Where an arrow ends, and whether that is on the left or the right."""
        name, side, *fraction = words if len(words) > 1 else (words[0], side)
        return self.nodes[name].side(side, *map(float, fraction)), side in ("left", "right")

    def _reaches(self, name: str, axis: int, value: float) -> bool:
        at = self.nodes[name].at
        return at[axis] + 4 <= value <= at[axis] + at[axis + 2] - 4

    def is_loss(self, arrow: Arrow) -> bool:
        """Whether the arrow leads to a loss; it is drawn dashed."""
        return self.nodes[arrow.path.split(" -> ")[-1].split()[0]].role == "loss"

    def label(self, arrow: Arrow) -> Point:
        """The middle of the base line of an arrow's text."""
        points = self.points(arrow)
        (x0, y0), (x1, y1) = max(pairwise(points), key=lambda p: _length(*p))
        return (x0 + x1) / 2 + arrow.shift[0], (y0 + y1) / 2 - 7 + arrow.shift[1]

    def text(self) -> list[tuple[str, str, str, Point]]:
        """Every text that nodes and arrows show: line, class, anchor, and the point it starts at.

        The anchor says whether the point is the start or the middle of the base line.
        """
        texts = []
        for node in self.nodes.values():
            x, y, width, height = node.at
            count = len(node.lines)
            for i, (line, style) in enumerate(node.lines):
                base = y + height / 2 + (i - (count - 1) / 2) * LINE + TEXT * 0.36
                if node.kind == "group":
                    texts.append((line, style, "start", (x + 12, y + 21 + i * LINE)))
                elif node.kind == "note":
                    texts.append((line, style, "start", (x, base)))
                elif node.kind == "picture":
                    texts.append(
                        (line, style, "middle", (x + width / 2, y + height + LINE * (i + 1)))
                    )
                else:
                    texts.append((line, style, "middle", (x + width / 2, base)))
        for arrow in self.arrows:
            if arrow.text:
                texts.append((arrow.text, "halo", "middle", self.label(arrow)))
        return texts

    def svg(self) -> str:
        """The drawing."""
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height:g}"'
            f' viewBox="0 0 {WIDTH} {self.height:g}" role="img" aria-labelledby="title desc">',
            f'<title id="title">{escape(self.title)}</title>',
            f'<desc id="desc">{escape(self.description)}</desc>',
            f"<style>{STYLE}</style>",
            f"<defs>{MARKER.format('head', FAINT)}{MARKER.format('loss-head', RED)}</defs>",
            f'<rect x="1" y="1" width="{WIDTH - 2}" height="{self.height - 2:g}" rx="14"'
            f' fill="{CARD}" stroke="#d5dce6"/>',
            _text(self.title, "title", "start", (28, 42)),
        ]
        # Frames first and text last, so that nothing is covered.
        parts += [_frame(node) for node in self.nodes.values() if node.kind == "group"]
        parts += [self._arrow(arrow) for arrow in self.arrows]
        parts += [_shape(node) for node in self.nodes.values() if node.kind != "group"]
        parts += [_text(*text) for text in self.text()]
        if self.legend:
            parts += self._legend()
        if self.caption:
            parts.append(_text(self.caption, "shape", "start", (28, self.height - 18)))
        return "\n".join([*filter(None, parts), "</svg>\n"])

    def _arrow(self, arrow: Arrow) -> str:
        style = "arrow" + " loss" * self.is_loss(arrow)
        return f'<path class="{style}" d="{_rounded(self.points(arrow))}"/>'

    def _legend(self) -> list[str]:
        used = {node.role for node in self.nodes.values()}
        parts, right = [], float(WIDTH - 28)
        for role, (fill, stroke, word) in reversed(ROLES.items()):
            if word and role in used:
                right -= sum(4 if c in "filst ()" else 10 if c == "m" else 7.2 for c in word)
                y = self.height - 18
                parts.append(_text(word, "", "start", (right, y)))
                parts.append(
                    f'<rect x="{right - 20:g}" y="{y - 11:g}" width="14" height="13" rx="3"'
                    f' fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
                )
                right -= 36
        return parts


def read(path: Path) -> Diagram:
    """Read a description."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    nodes = {name: Node(**node) for name, node in content.pop("nodes").items()}
    arrows = [
        Arrow(arrow) if isinstance(arrow, str) else Arrow(**arrow)
        for arrow in content.pop("arrows")
    ]
    return Diagram(nodes=nodes, arrows=arrows, **content)


def _point(words: str) -> Point:
    x, y = words.split(",")
    return float(x), float(y)


def _length(a: Point, b: Point) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _rounded(points: Sequence[Point]) -> str:
    """A path with rounded corners."""
    parts = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(8, _length(before, corner) / 2, _length(corner, after) / 2)
        enter, leave = _toward(corner, before, radius), _toward(corner, after, radius)
        parts.append(f"L{enter[0]:g} {enter[1]:g}Q{corner[0]:g} {corner[1]:g}")
        parts.append(f"{leave[0]:g} {leave[1]:g}")
    return " ".join([*parts, f"L{points[-1][0]:g} {points[-1][1]:g}"])


def _toward(start: Point, end: Point, distance: float) -> Point:
    part = distance / max(_length(start, end), 1e-9)
    return start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part


def _text(line: str, style: str, anchor: str, at: Point) -> str:
    spans = re.sub("`([^`]+)`", r'<tspan class="code">\1</tspan>', escape(line))
    spans = re.sub(r"\*\*([^*]+)\*\*", r'<tspan class="heading">\1</tspan>', spans)
    spans = re.sub(r"(?<=λ)_(\w)(.)", r'<tspan dy="4">\1</tspan><tspan dy="-4">\2</tspan>', spans)
    return (
        f'<text class="{style}" text-anchor="{anchor}" x="{at[0]:g}" y="{at[1]:g}">{spans}</text>'
    )


def _frame(node: Node) -> str:
    x, y, width, height = node.at
    fill, stroke, _ = ROLES[node.role]
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="12" fill="{fill}"'
        f' fill-opacity="0.35" stroke="{stroke}" stroke-dasharray="3 4"/>'
    )


def _shape(node: Node) -> str:
    """What is drawn of a node beside its text."""
    x, y, width, height = node.at
    fill, stroke, _ = ROLES[node.role]
    parts = []
    if node.kind == "picture":
        parts.append(_scene(node))
    elif node.kind == "circle":
        parts.append(
            f'<circle cx="{x + width / 2:g}" cy="{y + height / 2:g}" r="{width / 2:g}"'
            f' fill="{fill}" stroke="{stroke}" stroke-width="1.8"/>'
        )
    elif node.kind == "dot":
        parts.append(
            f'<circle cx="{x + width / 2:g}" cy="{y + height / 2:g}" r="{width / 2:g}"'
            f' fill="{stroke}"/>'
        )
    elif node.kind == "grid":
        columns, rows = node.cells
        lines = [
            *(f"M{x + width * i / columns:g} {y:g}v{height:g}" for i in range(columns + 1)),
            *(f"M{x:g} {y + height * i / rows:g}h{width:g}" for i in range(rows + 1)),
        ]
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}"'
            f' fill-opacity="0.4"/><path d="{"".join(lines)}" fill="none" stroke="{stroke}"'
            f' stroke-width="{1 if node.role == "backbone" else 2.5}"/>'
        )
    elif node.kind in ("box", "map"):
        dashed = ' stroke-dasharray="5 4"' if node.role == "loss" else ""
        for i in (2, 1, 0) if node.kind == "map" else (0,):
            parts.append(
                f'<rect x="{x + i * SHEET:g}" y="{y - i * SHEET:g}" width="{width:g}"'
                f' height="{height:g}" rx="{4 if node.kind == "map" else 8}" fill="{fill}"'
                f' stroke="{stroke}" stroke-width="{3 if node.new else 1.5}"{dashed}/>'
            )
    if node.new:
        parts.append(
            f'<rect x="{x + width - 42:g}" y="{y - 10:g}" width="40" height="19" rx="9.5"'
            f' fill="{stroke}"/>' + _text("new", "badge", "middle", (x + width - 22, y + 4))
        )
    if node.step:
        parts.append(
            f'<circle cx="{x + 4:g}" cy="{y + 3:g}" r="12" fill="{INK}"/>'
            + _text(str(node.step), "badge", "middle", (x + 4, y + 7.6))
        )
    return "".join(parts)


def _scene(node: Node) -> str:
    """A picture as those of Shapes: two squares and a circle before sky and grass."""
    x, y, width, height = node.at
    scene = node.scene
    colors = {
        "": ("#a9cdea", "#9cc586", "#d9813f", "#c8504b", "#d9b13f"),
        "semantic": ("#3f90da", "#92dadd", "#ffa90e", "#832db6", "#ffa90e"),
        "panoptic": ("#3f90da", "#92dadd", "#ffa90e", "#832db6", "#bd1f01"),
    }.get(scene, ("#dde3ea", "#d3dae2", "#d9813f", "#c8504b", "#d9b13f"))
    sky, grass, square, circle, other = colors
    outline = ' stroke="#1f2937" stroke-width="2.5"' if scene in ("masks", "panoptic") else ""
    parts = [
        f'<svg x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" viewBox="0 0 128 128">',
        f'<rect width="128" height="128" fill="{sky}"/>',
        f'<path d="M0 70Q40 56 70 68T128 62V128H0Z" fill="{grass}"/>',
        f'<rect x="16" y="46" width="40" height="40" fill="{square}"{outline}/>',
        f'<rect x="48" y="68" width="32" height="32" fill="{other}"{outline}/>',
        f'<circle cx="96" cy="50" r="19" fill="{circle}"{outline}/>',
    ]
    if scene == "boxes":
        for left, top, side in ((13, 43, 46), (45, 65, 38), (74, 28, 44)):
            parts.append(
                f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none"'
                ' stroke="#b7791f" stroke-width="3"/>'
            )
    parts.append(
        f'<rect x="0.5" y="0.5" width="127" height="127" fill="none" stroke="{FAINT}"/></svg>'
    )
    return "".join(parts)


def main() -> None:
    """Write all drawings."""
    DRAWINGS.mkdir(exist_ok=True)
    for path in sorted(DESCRIPTIONS.glob("*.toml")):
        drawing = DRAWINGS / f"{path.stem}.svg"
        drawing.write_text(read(path).svg(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
