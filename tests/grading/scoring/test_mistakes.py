"""Hints for common mistakes: recognised in the wrong answers, and proved by the check."""

import re

import numpy as np
import pytest
from helpers.made_assignments import cases_of, load_tiny, make_harvest

from labkit.errors import LabkitError
from labkit.grading.authoring.validate import check_mistakes
from labkit.grading.execution.codec import encode
from labkit.grading.intake.student import Student
from labkit.grading.reports.feedback import feedback_page
from labkit.grading.reports.gradebook import Entry
from labkit.grading.scoring.score import score

ABSOLUTE = """
# %% exercise="absolute"
def absolute(x):
    # BEGIN SOLUTION
    return abs(x)
    # END SOLUTION

# %% exercise="count"
def count(x):
    # BEGIN SOLUTION
    return int((x > 0).sum())
    # END SOLUTION

# %% tags=["probes"]
import numpy as np

def numbers(rng):
    sizes = rng.uniform(1, 9, 4)
    return [{"x": float(x)} for x in (*sizes[:2], *-sizes[2:])]

def vectors(rng):
    return [{"x": rng.normal(size=50), "secret": 7} for _ in range(3)]

def absolute_of(x):
    return abs(x)

def near(cases, answers):
    return sum(a == (c["x"] > 0).sum() for c, a in zip(cases, answers)) / len(cases)

def counts_zero(x, secret):
    x.clip(-1, 0, out=x)  # in place
    return int((x == 0).sum()) + secret - 6

def all_below_zero(cases, answers):
    cases[0]["x"][:] = 0  # in place
    return max(answers) < 0 and {c["secret"] for c in cases} == {7}

def breaks(x):
    raise ValueError("not written")

ASSIGNMENT = Assignment(
    title="Mistakes", minutes=5,
    probes=[
        Probe("sizes", "absolute", "absolute", 4, numbers, reference=absolute_of, hint="General.",
              mistakes=(
                  Mistake("Broken.", breaks),
                  Mistake("Sign?", lambda x: x),
                  Mistake("Square?", lambda x: x * x),
              )),
        Probe("positive", "count", "count", 2, vectors, score=near, hidden=("secret",),
              mistakes=[
                  Mistake("One too many?", counts_zero),
                  Mistake("Negative?", lambda x, secret: -3, all_below_zero),
              ]),
    ],
)
"""


@pytest.fixture
def loaded(tmp_path):
    return load_tiny(tmp_path, ABSOLUTE)


def scored(loaded, folder, sizes=abs, positive=lambda x: int((x > 0).sum())):
    """The scores of both probes for the answers of two functions."""
    answers = {
        "sizes": [wire(sizes, case["x"]) for case in cases_of(loaded, "sizes")],
        "positive": [wire(positive, case["x"]) for case in cases_of(loaded, "positive")],
    }
    return score(make_harvest(folder / "h", loaded, answers, questions={}), loaded)


def wire(function, x):
    try:
        return encode(function(x))
    except Exception as error:
        return {"raised": type(error).__name__}


@pytest.mark.parametrize(
    ("sizes", "points", "hint"),
    [
        (abs, 4, ""),
        (lambda x: x, 2, "Sign?"),  # right in two cases
        (lambda x: x * (1 + 1e-7), 2, "Sign?"),  # within the tolerance
        (lambda x: x * x, 0, "Square?"),
        (lambda x: x if x > 0 else x * x, 2, "Square?"),  # in the wrong cases
        (lambda x: x if x < 0 else x * x, 0, "General."),  # two mistakes at once
        (lambda x: -x, 2, "General."),
        (lambda x: 1 / 0 if x > 0 else x, 0, "General."),  # an exception is not that answer
        (lambda x: None, 0, "General."),
        (lambda x: "text", 0, "General."),
    ],
)
def test_wrong_answers_get_the_hint_of_the_mistake_that_gives_them(
    loaded, tmp_path, sizes, points, hint
):
    part, other = scored(loaded, tmp_path, sizes).probes
    assert (part.points, part.hint) == (points, hint)
    assert (other.points, other.hint) == (2, "")


@pytest.mark.parametrize(
    ("positive", "hint"),
    [
        (lambda x: int((x > 0).sum()) + 1, "One too many?"),  # by the same names, hidden ones too
        (lambda x: int((x > 0).sum()) + 2, ""),
        (lambda x: int((x > 0).sum()), ""),
        (lambda x: -int((x > 0).sum()) - 1, "Negative?"),  # whatever the numbers are
        (lambda x: "text", ""),  # `fits` raises an exception
    ],
)
def test_where_all_answers_are_scored_together_all_must_be_those_of_the_mistake_or_fit(
    loaded, tmp_path, positive, hint
):
    part = scored(loaded, tmp_path, positive=positive).probes[1]
    assert part.hint == hint


def test_the_page_shows_the_hint_and_no_number(loaded, tmp_path):
    result = scored(loaded, tmp_path, lambda x: x)
    page = feedback_page(Entry(Student("ada"), result), loaded)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Hint: Sign?" in text
    assert "General." not in text
    for case in cases_of(loaded, "sizes"):
        assert f"{case['x']:.3g}" not in text


def test_the_check_reports_a_mistake_that_raises(loaded):
    found = check_mistakes(loaded)
    assert not found.passed
    (detail,) = found.details
    assert detail.startswith("probe sizes, mistake 1 (Broken.")
    assert "raised ValueError: not written" in detail


@pytest.mark.parametrize(
    ("instead", "problem"),
    [
        ("absolute_of", "it gives right answers only; add a case in which it matters"),
        ("lambda x: x if x < 0 else x + 1e-9", "and gets the hint: Sign?"),
        ("lambda x: object()", "raised CodecError"),
    ],
)
def test_the_check_reports_a_mistake_without_effect_or_hint(tmp_path, instead, problem):
    source = ABSOLUTE.replace("lambda x: x * x", instead)
    source = source.replace('Mistake("Broken.", breaks),', "")
    (detail,) = check_mistakes(load_tiny(tmp_path, source)).details
    assert detail.startswith("probe sizes, mistake 2 (Square?")
    assert problem in detail


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("-3, all_below_zero", "-3, lambda c, a: False", "it is not recognised"),
        ("-3, all_below_zero", "-3, lambda c, a: max(a) < unknown", "raised NameError"),
    ],
)
def test_the_check_reports_a_mistake_that_does_not_fit(tmp_path, old, new, problem):
    source = ABSOLUTE.replace(old, new).replace('Mistake("Broken.", breaks),', "")
    (detail,) = check_mistakes(load_tiny(tmp_path, source)).details
    assert detail.startswith("probe positive, mistake 2 (Negative?")
    assert problem in detail


def test_the_check_proves_the_others(tmp_path):
    source = ABSOLUTE.replace('Mistake("Broken.", breaks),', "")
    found = check_mistakes(load_tiny(tmp_path, source))
    assert found.passed
    assert found.text == "4 mistakes of the probes: each loses points and gets its hint"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('Mistake("Sign?", lambda x: x)', '"Sign?"', r"probe 'sizes': mistakes must be a tuple"),
        ('Mistake("Sign?", lambda x: x)', 'Mistake("", abs)', "hint must be a non-empty text"),
        ('Mistake("Sign?", lambda x: x)', 'Mistake("Sign?", 3)', "answer must be a function"),
        ('Mistake("Sign?", lambda x: x)', 'Mistake("Sign?", abs, 3)', "fits must be a function"),
        (
            'Mistake("Sign?", lambda x: x)',
            'Mistake("Sign?", abs, abs)',
            "'sizes': a mistake has `fits`",
        ),
        ("mistakes=[", "mistakes=[3, ", "'positive': mistakes"),
    ],
)
def test_definitions_that_make_no_sense(tmp_path, old, new, message):
    assert old in ABSOLUTE
    with pytest.raises(LabkitError, match=message):
        load_tiny(tmp_path, ABSOLUTE.replace(old, new))


def test_answers_are_compared_with_the_tolerance_of_the_probe(tmp_path):
    source = ABSOLUTE.replace(
        "reference=absolute_of", "reference=absolute_of, tolerance=Tolerance(0, 0.5)"
    )
    loaded = load_tiny(tmp_path, source)
    part = scored(loaded, tmp_path, lambda x: np.float32(x + 0.4)).probes[0]
    assert (part.points, part.hint) == (2, "Sign?")
