"""Readers of files from outside under damaged files; and that the harness notices what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing.campaign import MOST_FAULTS, Limits, Readers, fuzz
from fuzzing.mutations import damaged_folder
from fuzzing.readers import READERS

SEED = 1
EXAMPLES = dict.fromkeys(READERS, 150) | {
    "masks": 60,  # many files, many readings
    "penn_fudan": 60,
    "parameters": 60,
    "run": 60,  # each builds two models
}


@pytest.fixture(scope="module")
def process() -> Iterator[Readers]:
    with Readers() as readers:
        yield readers


@pytest.mark.parametrize("name", READERS)
def test_a_result_or_an_error_that_names_the_file(process: Readers, name: str) -> None:
    tally = fuzz(process, name, SEED, range(EXAMPLES[name]))
    assert not tally.faults, "\n\n".join(
        f"example {number}: {ended.what}\n{ended.trace}" for number, ended in tally.faults.values()
    )
    # Neither is every damage harmless nor every file refused.
    assert tally.read > 0
    assert tally.refused > EXAMPLES[name] // 10


@pytest.fixture(scope="module")
def planted() -> Iterator[Readers]:
    with Readers("fuzzing.planted", Limits(seconds=1.5, megabytes=150)) as readers:
        yield readers


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("raises", "KeyError in planted.py, _raises"),
        ("nameless", "a message without a file's name: something is wrong"),
        ("computes", "more than 1.5 s of CPU time"),
        ("allocates", "more than 150 MB"),
        ("keeps", "more than 150 MB"),
        ("dies", "the process died (-6)"),
    ],
)
def test_a_fault_is_noticed_and_its_input_kept(
    planted: Readers, tmp_path: Path, name: str, what: str
) -> None:
    tally = fuzz(planted, name, SEED, range(1), keep=tmp_path)
    assert list(tally.faults) == [what]
    assert tally.times == {what: tally.examples}
    kept = tmp_path / f"{name}-{SEED}-0"
    assert (kept / "FAULT.txt").read_text().startswith(what)


def test_a_reader_that_only_waits_is_ended() -> None:
    with Readers("fuzzing.planted", Limits(clock=2)) as readers:
        assert list(fuzz(readers, "sleeps", SEED, range(1)).faults) == ["more than 2 s"]


def test_a_reader_that_always_fails_is_not_tried_for_ever(planted: Readers) -> None:
    assert fuzz(planted, "raises", SEED, range(1000)).examples == MOST_FAULTS


def test_a_good_reader_has_no_faults(planted: Readers) -> None:
    tally = fuzz(planted, "good", SEED, range(300))
    assert not tally.faults
    assert tally.read + tally.refused == 300
    assert tally.refused > 100


def test_a_reader_that_refuses_its_valid_files_is_no_result(planted: Readers) -> None:
    with pytest.raises(RuntimeError, match="harness failed"):
        planted.read("unknown", SEED, 0)


def test_damage_is_repeatable_and_mostly_damage() -> None:
    from random import Random

    files = {"a.json": b'{"a": [1, 2, {"b": null}]}', "b.toml": b"a = 1\nb = 2\n", "c.bin": b"abc"}
    first = [damaged_folder(Random(n), files) for n in range(200)]
    assert first == [damaged_folder(Random(n), files) for n in range(200)]
    assert sum(damaged != files for damaged in first) > 160
    assert files["c.bin"] == b"abc"
