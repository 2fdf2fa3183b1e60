"""Problems of an answer that its syntax shows: syntax errors, other names, other arguments.

They are stored in the harvest, because scoring never sees the code.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field

from labkit.grading.authoring.assignment import Exercise
from labkit.grading.execution.cell_analysis import SyntaxProblem, parse, syntax_problem, units

MAX_NAMES = 8  # names that are noted
MAX_NAME = 60


@dataclass(frozen=True)
class Arguments:
    """The arguments of a function: their names, the required ones, whether it takes ``**any``."""

    names: list[str]
    required: list[str]
    any: bool


@dataclass(frozen=True)
class Remarks:
    """Remarks on the answer to an exercise.

    Attributes:
        syntax: the first syntax error.
        defines: functions and classes under other names than the exercise asks for.
        takes: the arguments of each function that the exercise asks for.
    """

    syntax: SyntaxProblem | None = None
    defines: list[str] = field(default_factory=list)
    takes: dict[str, Arguments] = field(default_factory=dict)


def remarks_on(pieces: Sequence[str], exercise: Exercise) -> Remarks:
    """Return the remarks on an answer, which may consist of several cells."""
    nodes = [node for source in pieces for node in _definitions(source)]
    others = [name for name, _ in nodes if name not in exercise.names and len(name) <= MAX_NAME]
    return Remarks(
        syntax=next(filter(None, map(syntax_problem, pieces)), None),
        defines=list(dict.fromkeys(others))[:MAX_NAMES],
        takes={
            name: _arguments(arguments)
            for name, arguments in nodes
            if name in exercise.names and arguments is not None
        },
    )


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


def _arguments(arguments: ast.arguments) -> Arguments:
    # Positional-only arguments count as missing: probes pass arguments by name.
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
    return Arguments(_short(named), _short(required), any=arguments.kwarg is not None)


def _short(arguments: Sequence[ast.arg]) -> list[str]:
    return [one.arg[:MAX_NAME] for one in arguments[: 2 * MAX_NAMES]]
