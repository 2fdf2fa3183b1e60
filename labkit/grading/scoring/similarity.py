"""Identical answers in several submissions, apart from comments and layout."""

from __future__ import annotations

import ast
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.reports.gradebook import Entry

EXECUTED = "executed.ipynb"
MAX_CODE = 200_000  # characters of an answer that is compared
MIN_NODES = 12  # statements and expressions; shorter answers are equal by chance


def identical_answers(
    entries: Sequence[Entry], loaded: LoadedAssignment
) -> list[tuple[str, list[Entry]]]:
    """Return groups of two or more students with the same answer to an exercise.

    Answers are compared as syntax trees without docstrings; nothing is run. Unchanged and very
    short answers are omitted.

    Returns:
        The exercise and its group, largest groups first.
    """
    stubs = {exercise.name: _digest(exercise.stub) for exercise in loaded.exercises.values()}
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.harvest is not None:
            for name, source in _answers(entry.harvest / EXECUTED).items():
                digest = _digest(source)
                if digest is not None and name in stubs and digest != stubs[name]:
                    groups[name, digest].append(entry)
    alike = [(name, group) for (name, _), group in groups.items() if len(group) > 1]
    return sorted(alike, key=lambda found: (-len(found[1]), found[0]))


def _answers(path: Path) -> dict[str, str]:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return {
            cell["metadata"]["labkit"]["exercise"]: "".join(cell["source"])
            for cell in cells
            if "exercise" in cell.get("metadata", {}).get("labkit", {})
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # a notebook that was never executed has no answers to compare


def _digest(source: str) -> str | None:
    if len(source) > MAX_CODE:
        return None
    try:
        tree = ast.parse(source)
        nodes = list(ast.walk(tree))
        for node in nodes:
            body = getattr(node, "body", None)
            if isinstance(body, list) and len(body) > 1 and _is_text(body[0]):
                del body[0]
        dump = ast.dump(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if sum(isinstance(node, ast.stmt | ast.expr) for node in nodes) < MIN_NODES:
        return None
    return hashlib.sha256(dump.encode(errors="replace")).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
