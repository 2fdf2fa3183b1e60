"""The late policy: deadline, late penalty, extensions.

A TOML file in which every key is optional::

    deadline = 2026-05-03T23:59:00+02:00  # without an offset: local time; a date: its end
    grace_minutes = 15                    # tolerance
    percent_per_day = 10                  # of the earned points, for each day that has begun
    last_day = 5                          # days after which a submission counts 0 points
    counts = "last"                       # of several submissions: "last", "first" or "best"

    [extensions]                          # individual deadlines
    ada = 2026-05-10

    [received]                            # time of submission, where that of the file is wrong
    "Bob Builder" = 2026-05-04T08:00:00
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.intake.student import Student
from labkit.system.text_files import parse_toml

KEYS = (
    "deadline",
    "grace_minutes",
    "percent_per_day",
    "last_day",
    "counts",
    "extensions",
    "received",
)
YEARS = range(1971, 9999)


class Counts(StrEnum):
    """Which of a student's submissions counts."""

    LAST = "last"
    FIRST = "first"
    BEST = "best"


@dataclass(frozen=True)
class Lateness:
    """The lateness of one submission.

    Attributes:
        text: for the student; empty if it was in time.
        kept: the fraction of the points that counts.
        unknown: whether it is late by an unknown time, so that there is no penalty yet.
    """

    text: str = ""
    kept: float = 1.0
    unknown: bool = False


@dataclass(frozen=True)
class LatePolicy:
    """A late policy; by default there is no deadline.

    Attributes:
        deadline: with a time zone.
        grace: the tolerance.
        percent_per_day: the penalty of the earned points, for each day that has begun.
        last_day: days after the deadline after which a submission counts 0 points.
        counts: which of several submissions counts.
        extensions, received: by the key, name or number of a student.
    """

    deadline: datetime | None = None
    grace: timedelta = timedelta()
    percent_per_day: float = 0.0
    last_day: float = math.inf
    counts: Counts = Counts.LAST
    extensions: dict[str, datetime] = field(default_factory=dict)
    received: dict[str, datetime] = field(default_factory=dict)

    def when(self, student: Student, received: datetime | None) -> datetime | None:
        """Return the time of submission: from the policy, otherwise from the file."""
        return _look_up(self.received, student) or received

    def lateness(self, student: Student, received: datetime | None, *, marked: bool) -> Lateness:
        """Return the lateness of a submission and its penalty.

        Args:
            student: its owner.
            received: the time of submission; None if unknown.
            marked: whether the course system marked it as late.
        """
        received = self.when(student, received)
        deadline = _look_up(self.extensions, student) or self.deadline
        if deadline is None or received is None:
            # The course system does not know the extensions of this policy.
            if marked and _look_up(self.extensions, student) is None:
                return Lateness("marked as late", unknown=self.percent_per_day > 0)
            return Lateness()
        late = received - deadline
        if late <= self.grace:
            return Lateness()
        days = math.ceil(late / timedelta(days=1))
        how = f"{_duration(late)} late"
        if late / timedelta(days=1) > self.last_day:
            return Lateness(f"{how}: too late to count", 0.0)
        percent = min(100.0, self.percent_per_day * days)
        if not percent:
            return Lateness(how)
        return Lateness(f"{how}: {percent:g} % of the points are deducted", 1 - percent / 100)

    def unknown_students(self, students: Iterable[Student]) -> list[str]:
        """Return the names in the policy that belong to no student."""
        known = {name for student in students for name in _names(student)}
        return sorted({*self.extensions, *self.received} - known)


def read_policy(path: Path) -> LatePolicy:
    """Read a late policy.

    Raises:
        LabkitError: the file cannot be read, is not TOML, or is not a late policy.
    """
    try:
        table = parse_toml(path.read_bytes())
    except OSError as error:
        raise LabkitError(
            f"late policy {path}: cannot be read: {error.strerror or error}"
        ) from error
    except ValueError as error:
        raise LabkitError(f"late policy {path}: not TOML: {error}") from error
    for key in table:
        if key not in KEYS:
            raise LabkitError(f"late policy {path}: unknown key {key!r}; known: {', '.join(KEYS)}")
    policy = LatePolicy(
        deadline=_moment(table["deadline"], "deadline", path) if "deadline" in table else None,
        grace=timedelta(minutes=_number(table, "grace_minutes", 0.0, 1e6, path)),
        percent_per_day=_number(table, "percent_per_day", 0.0, 100.0, path),
        last_day=_number(table, "last_day", math.inf, 1e5, path),
        counts=_counts(table.get("counts", "last"), path),
        extensions=_moments(table, "extensions", path),
        received=_moments(table, "received", path),
    )
    if policy.deadline is None and {"grace_minutes", "percent_per_day", "last_day"} & set(table):
        raise LabkitError(f"late policy {path}: deadline is missing; the other keys refer to it")
    return policy


def _moments(table: dict[str, Any], key: str, path: Path) -> dict[str, datetime]:
    given = table.get(key, {})
    if not isinstance(given, dict):
        raise LabkitError(f"late policy {path}: {key} must be a table: [{key}]")
    return {name: _moment(value, f"{key}, {name}", path) for name, value in given.items()}


def _moment(value: Any, where: str, path: Path) -> datetime:
    # Python cannot convert all times of other years to local time.
    if isinstance(value, date) and value.year not in YEARS:
        raise LabkitError(
            f"late policy {path}: {where} is in the year {value.year}; it must be in {YEARS[0]} to "
            f"{YEARS[-1]}"
        )
    if isinstance(value, datetime):
        return value.astimezone()
    if isinstance(value, date):
        return datetime.combine(value, time(23, 59, 59, 999_999)).astimezone()
    raise LabkitError(
        f"late policy {path}: {where} must be a date and time without quotes, such as "
        f"2026-05-03T23:59:00, not {value!r}"
    )


def _number(table: dict[str, Any], key: str, default: float, most: float, path: Path) -> float:
    value = table.get(key, default)
    if key not in table:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise LabkitError(
            f"late policy {path}: {key} must be a number from 0 to {most:g}, not {value!r}"
        )
    return float(value)


def _counts(value: Any, path: Path) -> Counts:
    if value not in list(Counts):
        raise LabkitError(
            f"late policy {path}: counts must be one of {', '.join(Counts)}, not {value!r}"
        )
    return Counts(value)


def _names(student: Student) -> list[str]:
    names = (student.key, student.name, student.canvas_id, student.moodle_id)
    return [name for name in names if name]


def _look_up(moments: dict[str, datetime], student: Student) -> datetime | None:
    return next((moments[name] for name in _names(student) if name in moments), None)


def _duration(late: timedelta) -> str:
    minutes = max(1, round(late / timedelta(minutes=1)))
    if minutes < 120:
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    hours = round(minutes / 60)
    return f"{hours} hours" if hours < 48 else f"{late / timedelta(days=1):.1f} days"
