"""HTML pages of a grading: self-contained, with all text escaped."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from labkit.grading.reports.gradebook import number

BETWEEN_BACKTICKS = re.compile(r"`([^`]+)`")
TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Render a template; everything that a student wrote is escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["points"] = _points
    environment.filters["code"] = _code
    return environment


def _code(text: str) -> Markup:
    """Show text between backticks as code, after escaping it."""
    return Markup(BETWEEN_BACKTICKS.sub(r"<code>\1</code>", str(escape(text))))


def _points(points: float) -> str:
    return f"{number(points)} point{'' if points == 1 else 's'}"
