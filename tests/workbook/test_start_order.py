from __future__ import annotations

from pathlib import Path

import pytest
from helpers.paths import CHECKOUT

from labkit.errors import LabkitError
from labkit.workbook.claims import PROFILES
from labkit.workbook.notebook_sources import sources
from labkit.workbook.start_order import load_minutes, longest_first

MINUTES = "[smoke]\na = 0.5\nb = 1\n[quick]\na = 9\n"


def test_longest_first_and_the_unknown_before(tmp_path: Path) -> None:
    path = tmp_path / "minutes.toml"
    path.write_text(MINUTES)
    assert longest_first({"a": "smoke", "b": "smoke", "c": "smoke"}, path) == ["c", "b", "a"]
    assert longest_first({"b": "smoke", "a": "quick"}, path) == ["a", "b"]
    assert longest_first({"a": "smoke", "c": None, "b": "full"}, path) == ["c", "b", "a"]


def test_without_a_file_the_order_stays(tmp_path: Path) -> None:
    assert longest_first({"b": None, "a": None}, tmp_path / "minutes.toml") == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[smoke\n", "not valid TOML"),
        ("smoke = 1\n", "smoke must be a table"),
        ('[smoke]\na = "long"\n', r"\[smoke\] a must be a number of minutes"),
        ("[smoke]\na = true\n", r"\[smoke\] a must be a number of minutes"),
    ],
)
def test_file_that_is_no_table_of_minutes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "minutes.toml"
    path.write_text(text)
    with pytest.raises(LabkitError, match=message):
        load_minutes(path)


def test_every_notebook_has_its_minutes() -> None:
    minutes = load_minutes(CHECKOUT / "notebooks" / "minutes.toml")
    assert set(minutes) < set(PROFILES)
    for of in minutes.values():
        assert list(of) == [source.stem for source in sources(CHECKOUT)]
