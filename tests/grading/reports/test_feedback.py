import re

import numpy as np
import pytest
from helpers.made_assignments import cases_of, load_tiny, make_harvest, right_answers
from helpers.made_entries import make_entries

from labkit.grading.execution.codec import encode
from labkit.grading.intake.student import Student
from labkit.grading.reports.feedback import NOTICES, feedback_page, page_name, write_feedback
from labkit.grading.reports.gradebook import Entry
from labkit.grading.scoring.score import score


@pytest.fixture
def loaded(tmp_path):
    return load_tiny(tmp_path)


def words(page):
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<style>.*?</style>", "", page)).split())


def test_a_page_says_what_was_right_and_what_went_wrong(tmp_path, loaded):
    bob = words(feedback_page(make_entries(tmp_path, loaded)[1], loaded))
    assert "4 of 10 points" in bob
    assert "2 days late, 20 % off: 5 points before, 4 after." in bob
    assert "2 of 4 cases right" in bob
    assert "1 of 4 cases: shape (2, 3) instead of (3, 2)" in bob
    assert re.search(r"1 of 4 cases: largest difference [\d.]+ to [\d.]+, allowed", bob)
    assert "raised IndexError" in bob
    assert "No answer." in bob


def test_a_page_says_how_the_run_ended(tmp_path, loaded):
    entries = make_entries(tmp_path, loaded)
    dan = words(feedback_page(entries[3], loaded))
    assert "Python stopped while your notebook ran." in dan
    assert "Your cell raised NameError when it ran." in dan
    assert "A person will check it before the points count." in words(
        feedback_page(entries[2], loaded)
    )
    assert "Not graded yet" in feedback_page(entries[4], loaded)
    assert "the zip file is damaged" not in feedback_page(entries[4], loaded)


def test_points_to_come_are_announced(tmp_path, loaded):
    ada = words(feedback_page(make_entries(tmp_path, loaded)[0], loaded))
    assert "Up to 1 point more are possible for the answer that a person has not read yet." in ada


def test_nothing_of_a_student_becomes_html(tmp_path, loaded):
    page = feedback_page(make_entries(tmp_path, loaded)[2], loaded)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;/div&gt;&lt;script&gt;alert(2)" in page


def spellings(value):
    """The ways in which a number could stand in a page."""
    for digits in range(3, 17):
        yield f"{value:.{digits}g}"
        yield f"{value:.{digits}f}"


@pytest.mark.parametrize("wrong", [np.zeros((3, 2)), np.ones(7), "text", None, [1, 2], {"a": 1}])
def test_a_page_never_holds_hidden_inputs_answers_or_rubrics(tmp_path, loaded, wrong):
    answers = right_answers(loaded)
    answers["values"] = [encode(wrong)] * 4
    answers["all-or-nothing"][1] = encode(wrong)
    answers["truth"] = [encode(-1)] * 3
    folder = make_harvest(tmp_path / "h", loaded, answers)
    page = words(feedback_page(Entry(Student("ada"), score(folder, loaded)), loaded))
    numbers = {
        float(number)
        for name in ("values", "all-or-nothing", "truth")
        for case in cases_of(loaded, name)
        for key, entry in case.items()
        if key != "truth"
        for number in np.ravel(entry)
    }
    assert len(numbers) == 4 * 6 + 4 * 6 + 3 * 4
    held = set(re.findall(r"[\d.]+", page))
    for number in numbers:
        for secret in (number, 2 * number):
            assert not held & {spelling.lstrip("-") for spelling in spellings(secret)}
    assert "truth = " not in page
    for secret in (
        "RUBRIC",
        "positive difference",
        "twice_the_secret",
        "lambda",
        "rng",
        "numbers(",
    ):
        assert secret not in page


def test_every_state_has_words():
    states = {
        "cell-error", "cell-timeout", "over-limit", "flood", "dead-kernel", "protocol-violation",
        "bad-notebook", "infrastructure-error",
    }  # fmt: skip
    assert set(NOTICES) == states


def test_page_names_are_safe_and_differ():
    assert page_name("ada") == "ada.html"
    names = [
        "ada",
        "../ada",
        "..",
        "",
        "a/b",
        "a\\b",
        "a:b",
        "con\0",
        "ü {x}",
        "x" * 300,
        ".ada",
        "ada ",
    ]
    pages = [page_name(name) for name in names]
    assert len(set(pages)) == len(names)
    for page in pages:
        assert re.fullmatch(r"[\w@-][\w.@ -]*\.html|-[0-9a-f]{8}\.html", page)
        assert len(page) < 120


def test_every_student_gets_a_page(tmp_path, loaded):
    entries = make_entries(tmp_path, loaded)
    pages = write_feedback(entries, loaded, tmp_path / "out")
    assert len({page.name for page in pages}) == len(entries)
    assert all(page.parent == tmp_path / "out" / "feedback" and page.is_file() for page in pages)
