"""Functions of the lessons, copied as a student would copy them, with what they need."""

import ast
import builtins
from functools import cache

from helpers.paths import CHECKOUT

from labkit.workbook.notebook_sources import load_notebook, sources


def lesson_code(number, *names):
    """Run the definitions of some names of a lesson and return them all.

    Imports, constants and other functions that they use come with them; nothing else of the lesson
    is run. The solutions of its exercises belong to it.
    """
    known = _definitions(number)
    wanted, pending = dict[str, ast.stmt](), list(names)
    while pending:
        name = pending.pop()
        if name in wanted or (name not in known and name not in names):
            continue
        wanted[name] = known[name]
        if not isinstance(known[name], ast.Import | ast.ImportFrom):
            pending += [
                node.id
                for node in ast.walk(known[name])
                if isinstance(node, ast.Name) and not hasattr(builtins, node.id)
            ]
    order = list(known.values())
    body = sorted({id(one): one for one in wanted.values()}.values(), key=order.index)
    namespace = {"__name__": f"lesson {number}"}
    exec(compile(ast.Module(body, []), f"lesson {number}", "exec"), namespace)
    return {name: value for name, value in namespace.items() if name in wanted}


@cache
def _definitions(number):
    """By name: the statement that defines it: a function, class, import, or upper-case constant."""
    (path,) = [one for one in sources(CHECKOUT) if one.name.startswith(f"{number:02}_")]
    known = {}
    for cell in load_notebook(path).cells:
        if cell.cell_type != "code":
            continue
        lines = cell.source.splitlines()
        for node in ast.parse("\n".join(x for x in lines if not x.startswith("%"))).body:
            for name in _defined(node):
                known.setdefault(name, node)
    # A constant that depends on the lesson's data is left out: the glue says what it is.
    return {name: node for name, node in known.items() if _complete(node, known)}


def _complete(node, known):
    return not isinstance(node, ast.Assign) or all(
        name.id in known or hasattr(builtins, name.id)
        for name in ast.walk(node.value)
        if isinstance(name, ast.Name)
    )


def _defined(node):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0]
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id.isupper():
                yield target.id
