from __future__ import annotations

import os
from pathlib import Path

import pytest

from labkit.system import cpu_cores


@pytest.fixture
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight cpu_cores, and the folder of its containers' limits."""
    monkeypatch.setattr(cpu_cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("nonsense", 8),
    ],
)
def test_limit_of_a_container(limits: Path, limit: str, expected: int) -> None:
    (limits / "cpu.max").write_text(f"{limit}\n")
    assert cpu_cores.available_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [(-1, 8), (300000, 3)])
def test_limit_of_an_older_container(limits: Path, quota: int, expected: int) -> None:
    (limits / "cpu").mkdir()
    (limits / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (limits / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_cores.available_cores() == expected


def test_machine_without_limits(limits: Path) -> None:
    assert cpu_cores.available_cores() == 8


def test_process_that_is_kept_to_some_cores(monkeypatch: pytest.MonkeyPatch, limits: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert cpu_cores.available_cores() == 1
