"""The glossary: every term has a sentence, and a section of a lesson that names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.paths import CHECKOUT

GLOSSARY = CHECKOUT / "docs" / "glossary.md"
ROW = re.compile(
    r"\| \*\*(?P<term>.+?)\*\* \| (?P<meaning>.+) \|"
    r" \[(?P<section>\d+\.\d+)\]\(\.\./notebooks/(?P<lesson>\w+)\.ipynb\) \|"
)


@dataclass(frozen=True)
class Entry:
    """A row of the glossary."""

    term: str
    meaning: str
    section: str
    lesson: str


def rows() -> list[str]:
    lines = GLOSSARY.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| **")]


def entries() -> list[Entry]:
    matches = (ROW.fullmatch(row) for row in rows())
    return [Entry(**match.groupdict()) for match in matches if match]


def plain(text: str) -> str:
    """Lower case, without marks of Markdown, hyphens, underscores and line ends."""
    return re.sub(r"[\s_\-`*#]+", " ", text).lower()


def names(term: str) -> list[str]:
    """The names of an entry: what commas separate, without what stands in brackets."""
    return [name for part in re.split(r",|\(.*?\)", term) if (name := plain(part).strip(' "'))]


def is_named(term: str, text: str) -> bool:
    """Whether a text has all words of one of a term's names; five letters of a word suffice."""
    return any(all(word[:5] in plain(text) for word in name.split()) for name in names(term))


def sections(lesson: Path) -> dict[str, str]:
    """The sections of a lesson by number."""
    parts = re.split(r"(?m)^# ## ", lesson.read_text(encoding="utf-8"))[1:]
    return {part.split()[0]: part for part in parts if re.match(r"\d", part)}


def test_names() -> None:
    assert names("FPN, feature pyramid network") == ["fpn", "feature pyramid network"]
    assert is_named("Lateral (connection)", "the *lateral*")
    assert is_named("Fine-tuning", "by fine tuning")
    assert not is_named("Smooth L1", "smooth")


def test_every_row_is_an_entry() -> None:
    assert len(entries()) == len(rows()) > 70


def test_terms_are_sorted_and_occur_once() -> None:
    terms = [entry.term.strip('"').lower() for entry in entries()]
    assert terms == sorted(set(terms))


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.term)
def test_the_section_exists_and_names_the_term(entry: Entry) -> None:
    source = CHECKOUT / "notebooks" / "src" / f"{entry.lesson}.py"
    found = sections(source)
    assert entry.section in found
    assert is_named(entry.term, found[entry.section])


def test_a_meaning_is_one_sentence() -> None:
    sentence = re.compile(r"[A-Z\d](?!.*\. )[^|]{15,220}\.")
    assert [e.meaning for e in entries() if not sentence.fullmatch(e.meaning)] == []


def test_the_readme_links_the_glossary() -> None:
    assert (CHECKOUT / "README.md").read_text(encoding="utf-8").count("docs/glossary.md") == 1
