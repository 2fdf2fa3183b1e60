"""What stands in the way of an answer, seen in its syntax: a mistake, other names, other arguments.

The harvest records remarks, because scoring never sees the code; the score words them.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from labkit.grading.authoring.assignment import Exercise
from labkit.grading.execution.cell_analysis import mistake, parse, units

MOST = 8  # names that are noted
LONGEST_NAME = 60


def remarks(pieces: Sequence[str], exercise: Exercise) -> dict[str, Any]:
    """Return what is to be noted about an answer's pieces.

    Returns:
        ``syntax``: line, text and message of the first mistake, if there is one; ``defines``: the
        functions and classes that the pieces define under names nobody asked for; ``takes``: of
        each function its arguments' ``names``, which of them are ``required``, and whether it
        takes ``any``.
    """
    noted: dict[str, Any] = {}
    for source in pieces:
        wrong = mistake(source)
        if wrong is not None:
            noted["syntax"] = {"line": wrong.line, "text": wrong.text, "message": wrong.message}
            break
    nodes = [node for source in pieces for node in _definitions(source)]
    others = [name for name, _ in nodes if name not in exercise.names and len(name) <= LONGEST_NAME]
    noted["defines"] = list(dict.fromkeys(others))[:MOST]
    noted["takes"] = {
        name: _arguments(arguments)
        for name, arguments in nodes
        if name in exercise.names and arguments is not None
    }
    return noted


def _definitions(source: str) -> list[tuple[str, ast.arguments | None]]:
    """Return the names of functions and classes, with the arguments of functions."""
    found = list[tuple[str, ast.arguments | None]]()
    for unit in units(source):
        tree = parse(unit.source)
        for node in tree.body if tree is not None else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append((node.name, node.args))
            elif isinstance(node, ast.ClassDef):
                found.append((node.name, None))
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
                found += [(t.id, node.value.args) for t in node.targets if isinstance(t, ast.Name)]
    return found


def _arguments(arguments: ast.arguments) -> dict[str, Any]:
    # By position only is as good as absent: probes call by name.
    named = [*arguments.args, *arguments.kwonlyargs]
    optional = len(arguments.defaults)
    required = [
        *(arguments.posonlyargs + arguments.args)[: -optional or None],
        *(
            one
            for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if default is None
        ),
    ]
    return {
        "names": _short(named),
        "required": _short(required),
        "any": arguments.kwarg is not None,
    }


def _short(arguments: Sequence[ast.arg]) -> list[str]:
    return [one.arg[:LONGEST_NAME] for one in arguments[: 2 * MOST]]
