"""Extraction of free-text answers from a notebook, as a person would find them.

- The answer is the text in the cell of the question, without the question. A cell without its
  metadata is recognized by the text of the question.
- Text directly below belongs to the answer: markdown cells, comments or prose in code cells.
- Otherwise the answer is text directly above, or the only other text in the notebook.

If no answer is found although there may be one, :class:`FreeTextAnswers` records the doubt, and a
person checks it: nobody gets 0 points unseen.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.authoring.source import Cell, Role
from labkit.grading.execution.cell_analysis import parse, units, without_commands
from labkit.grading.intake.notebook_reader import StudentCell
from labkit.workbook.solutions import TEXT_STUB

MAX_ANSWER = 100_000  # characters
MIN_TELLING = 15  # characters of a text that identifies a cell
COMMENT = re.compile(r"^\s*#+ *", re.MULTILINE)


@dataclass(frozen=True)
class FreeTextAnswers:
    """The free-text answers.

    Attributes:
        answers: by question; empty where none was found.
        doubts: by question, why there may be an answer that was not found.
    """

    answers: dict[str, str]
    doubts: dict[str, str] = field(default_factory=dict)


def without_task(text: str, stub: str) -> str:
    """Return the text of a cell without the question and the placeholder for the answer."""
    for given in _task(stub):
        text = _pattern(given).sub("", text, count=1)
    return text.replace(TEXT_STUB, "").strip()


def find_free_text(cells: Sequence[StudentCell], loaded: LoadedAssignment) -> FreeTextAnswers:
    """Find the answers to all questions of an assignment."""
    questions = {cell.name: cell for cell in loaded.cells if cell.role is Role.QUESTION}
    if not questions:
        return FreeTextAnswers({})
    owners = [_owner(cell, questions, loaded) for cell in cells]
    texts = [
        _prose(cell, loaded) if owner is None else ""
        for cell, owner in zip(cells, owners, strict=True)
    ]
    taken = set[int]()
    found = dict[str, list[str]]()
    for name, question in questions.items():
        places = [n for n, owner in enumerate(owners) if owner == name]
        found[name] = [without_task(cells[n].source, question.stub) for n in places]
        for place in places:
            found[name] += _take(range(place + 1, len(cells)), owners, texts, taken)
    for name in questions:
        places = [n for n, owner in enumerate(owners) if owner == name]
        if places and not any(found[name]):
            above = _take(range(places[0] - 1, -1, -1), owners, texts, taken)
            found[name] = above[::-1]
    left = [n for n, text in enumerate(texts) if text and n not in taken]
    unanswered = [name for name in questions if not any(found[name])]
    if len(unanswered) == 1:
        found[unanswered[0]] = [texts[n] for n in left]
    answers = {
        name: "\n\n".join(dict.fromkeys(filter(None, pieces)))[:MAX_ANSWER]
        for name, pieces in found.items()
    }
    doubts = dict[str, str]()
    for name in questions:
        if not answers[name] and cells:
            if left:
                doubts[name] = "there is text in cells that belong to no question"
            elif name not in owners:
                doubts[name] = "its cell is missing"
    return FreeTextAnswers(answers, doubts)


def _take(places: range, owners: list[str | None], texts: list[str], taken: set[int]) -> list[str]:
    """Take the texts of neighbouring cells that belong to no question."""
    pieces = list[str]()
    for place in places:
        if owners[place] is not None or place in taken:
            break
        if texts[place]:
            taken.add(place)
            pieces.append(texts[place])
    return pieces


def _owner(cell: StudentCell, questions: dict[str, Cell], loaded: LoadedAssignment) -> str | None:
    """Return the question of a cell; "" for another cell of the released notebook."""
    if cell.question in questions:
        return cell.question
    if (cell.exercise in loaded.exercises or cell.role) and _is_code(cell):
        return ""
    text = _normal(cell.source)
    for name, question in questions.items():
        tasks = [_normal(given) for given in _task(question.stub)]
        if any(
            text.startswith(task) or (len(task) >= MIN_TELLING and task in text) for task in tasks
        ):
            return name
    given = {_normal(ours.stub) for ours in loaded.cells if ours.role is not Role.PROBES}
    return "" if text and text in given else None


def _prose(cell: StudentCell, loaded: LoadedAssignment) -> str:
    """Return the prose of a cell that belongs to no question."""
    source = cell.source.strip()
    for ours in loaded.cells:  # an answer in the cell of a task
        if ours.role is Role.TEXT and len(ours.source.strip()) >= MIN_TELLING:
            source = source.replace(ours.source.strip(), "").strip()
    if cell.kind == "code":
        return _prose_of_code(source)
    return "" if _is_code(cell) else source


def _is_code(cell: StudentCell) -> bool:
    # One wrong key turns a code cell into markdown.
    return cell.kind == "code" or any(unit.binds for unit in units(cell.source))


def _prose_of_code(source: str) -> str:
    """Return the prose of a code cell without code: comments, strings, or text."""
    tree = parse(source)
    if tree is None:
        code = any(unit.binds for unit in units(source)) or source.startswith(("%", "!"))
        return "" if code else source
    if not tree.body:
        words = COMMENT.sub("", without_commands(source)).strip()
        code = any(unit.binds or unit.uses for unit in units(words)) and " " in words
        return "" if code else words
    pieces = [_words(node) for node in tree.body]
    return "\n".join(piece for piece in pieces if piece) if all(pieces) else ""


def _words(node: ast.stmt) -> str:
    """Return the string of a statement that consists of it or prints it."""
    value = node.value if isinstance(node, ast.Expr) else None
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        printed = value.func.id == "print" and len(value.args) == 1 and not value.keywords
        value = value.args[0] if printed else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _task(stub: str) -> list[str]:
    before, _, after = stub.partition(TEXT_STUB)
    return [given.strip() for given in (before, after) if given.strip()]


def _pattern(given: str) -> re.Pattern[str]:
    # An editor may have wrapped the lines differently.
    return re.compile(r"\s+".join(map(re.escape, given.split())))


def _normal(text: str) -> str:
    return " ".join(text.split())
