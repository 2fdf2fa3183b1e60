"""What lateness costs, and messages about files that are no late policy."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from labkit.errors import LabkitError
from labkit.grading.intake.late_policy import Counts, LatePolicy, read_policy
from labkit.grading.intake.student import Student

ADA = Student("ada", name="Ada Lovelace", moodle_id="77")
DEADLINE = datetime(2026, 5, 3, 22, 0, tzinfo=UTC)
TEXT = """\
deadline = 2026-05-03T22:00:00Z
grace_minutes = 15
percent_per_day = 10
last_day = 5
counts = "best"
[extensions]
"Ada Lovelace" = 2026-05-05T22:00:00+00:00
[received]
77 = 2026-05-05T22:30:00Z
"""


def write(tmp_path, text):
    path = tmp_path / "late.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("late", "kept", "text"),
    [
        (timedelta(seconds=-1), 1.0, ""),
        (timedelta(minutes=15), 1.0, ""),
        (timedelta(minutes=16), 0.9, "16 minutes late: 10 % of the points are deducted"),
        (timedelta(days=1), 0.9, "24 hours late: 10 % of the points are deducted"),
        (timedelta(days=1, seconds=1), 0.8, "24 hours late: 20 % of the points are deducted"),
        (timedelta(days=5), 0.5, "5.0 days late: 50 % of the points are deducted"),
        (timedelta(days=5, minutes=1), 0.0, "5.0 days late: too late to count"),
    ],
)
def test_cost(tmp_path, late, kept, text):
    policy = read_policy(write(tmp_path, TEXT))
    found = policy.lateness(Student("bob"), DEADLINE + late, marked=False)
    assert (found.text, found.kept) == (text, pytest.approx(kept))


def test_extension_and_time_by_name_and_number(tmp_path):
    policy = read_policy(write(tmp_path, TEXT))
    assert policy.counts is Counts.BEST
    # Received half an hour after the extended deadline, whatever the file says.
    assert policy.lateness(ADA, DEADLINE, marked=False).text.startswith("30 minutes late")
    assert policy.unknown_students([ADA]) == []
    assert policy.unknown_students([Student("bob")]) == ["77", "Ada Lovelace"]


def test_marked_late_without_a_time_costs_nothing_but_is_said():
    policy = LatePolicy(deadline=DEADLINE, percent_per_day=10)
    found = policy.lateness(Student("bob"), None, marked=True)
    assert (found.text, found.kept, found.unknown) == ("marked as late", 1.0, True)


def test_local_times_and_dates(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        policy = read_policy(
            write(tmp_path, "deadline = 2026-05-03\n[extensions]\na = 2026-01-03T12:00:00")
        )
        assert policy.deadline.astimezone(UTC) == datetime(2026, 5, 3, 21, 59, 59, 999_999, UTC)
        assert policy.extensions["a"].astimezone(UTC) == datetime(2026, 1, 3, 11, 0, tzinfo=UTC)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deadline = tomorrow", "not TOML"),
        ('deadline = "2026-05-03"', "deadline must be a date and time without quotes"),
        ("dead_line = 2026-05-03", "unknown key 'dead_line'; known: deadline"),
        ("percent_per_day = 10", "deadline is missing"),
        ("deadline = 2026-05-03\npercent_per_day = 110", "percent_per_day must be a number from 0"),
        ("deadline = 2026-05-03\nlast_day = nan", "last_day must be a number"),
        ('counts = "all"', "counts must be one of last, first, best"),
        ("extensions = 2026-05-03", r"extensions must be a table: \[extensions\]"),
        ("[received]\nada = 3", "received, ada must be a date"),
    ],
)
def test_message(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(LabkitError, match=message) as caught:
        read_policy(path)
    assert str(path) in str(caught.value)


def test_unreadable(tmp_path):
    with pytest.raises(LabkitError, match="cannot be read: No such file"):
        read_policy(tmp_path / "none.toml")
    (tmp_path / "late.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabkitError, match="not TOML"):
        read_policy(tmp_path / "late.toml")
    with pytest.raises(LabkitError, match="cannot be read: Is a directory"):
        read_policy(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deadline = " + "[" * 100_000, "not TOML: nested too deeply"),
        ("deadline = " + "{a=" * 5_000, "not TOML: nested too deeply"),
        ("a" + ".a" * 50_000 + " = 1", "not TOML: line 1 has 50000 dots"),
        ("percent_per_day = " + "1" * 5_000, "not TOML: "),
        ("deadline = 0001-01-01", "deadline is in the year 1; it must be in 1971 to 9998"),
        ("deadline = 0001-01-01T00:00:00+23:59", "deadline is in the year 1"),
        ("deadline = 9999-12-31T23:59:59-23:59", "deadline is in the year 9999"),
        ("[extensions]\nada = 9999-12-31", "extensions, ada is in the year 9999"),
        ("[received]\nada = 0001-01-01T00:00:00", "received, ada is in the year 1;"),
    ],
)
def test_what_python_cannot_read_or_convert(tmp_path, text, message):
    """Each of them ended in a traceback, or in all of the memory."""
    with pytest.raises(LabkitError, match=rf"late policy .*late\.toml: {message}"):
        read_policy(write(tmp_path, text))


@pytest.mark.parametrize("year", [1971, 9998])
def test_the_first_and_the_last_year(tmp_path, year):
    policy = read_policy(write(tmp_path, f"deadline = {year}-12-31\ngrace_minutes = 1e6"))
    assert policy.lateness(ADA, DEADLINE, marked=False).kept == 1


def test_a_policy_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "late.toml"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes(TEXT.encode(encoding))
        assert read_policy(path).percent_per_day == 10
