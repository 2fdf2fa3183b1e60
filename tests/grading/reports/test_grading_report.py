import re
from urllib.parse import unquote

import pytest
from helpers.made_assignments import load_tiny
from helpers.made_entries import ANSWER, executed, make_entries

from labkit.grading.reports.feedback import write_feedback
from labkit.grading.reports.instructor_report import (
    histogram,
    review_notes,
    summarise_probes,
    write_report,
)
from labkit.grading.scoring.similarity import identical_answers


@pytest.fixture
def loaded(tmp_path):
    return load_tiny(tmp_path)


@pytest.fixture
def entries(tmp_path, loaded):
    return make_entries(tmp_path, loaded)


def keys(groups):
    return [(name, [entry.student.key for entry in group]) for name, group in groups]


def test_equal_answers_are_found_through_comments_and_layout(loaded, entries):
    assert keys(identical_answers(entries, loaded)) == [("double", ["ada", "bob"])]


@pytest.mark.parametrize(
    "source",
    [
        'def double(x):\n    """Twice x."""\n    raise NotImplementedError("your code here")',
        "def double(x):\n    return x",
        "def double(x:",
        "(" * 100_000,
        "x" * 300_000,
        "def double(x):\n    return '\\ud800' + [[x, 1, 2, 3], 4, 5, 6, 7]\n\0",
    ],
    ids=["as handed out", "too short", "no Python", "too deep", "too long", "odd characters"],
)
def test_what_says_nothing_is_left_out(loaded, entries, source):
    for entry in entries[:3]:
        executed(entry.harvest, source)
    assert identical_answers(entries, loaded) == []


def test_a_docstring_does_not_make_an_answer_another(loaded, entries):
    executed(entries[2].harvest, ANSWER.replace("(x):\n", '(x):\n    "Mine!"\n', 1))
    assert keys(identical_answers(entries, loaded)) == [("double", ["ada", "bob", "=EVIL()"])]


def test_what_to_look_at(entries):
    assert review_notes(entries[0]) == ()
    assert review_notes(entries[1]) == ("an earlier one of 3 May",)
    assert review_notes(entries[2])[0] == "protocol-violation: an answer that nobody asked for"
    assert review_notes(entries[4]) == ("not graded: the zip file is damaged",)


def test_probes_are_summarised(loaded, entries):
    values, _, truth = summarise_probes(entries[:4], loaded)
    assert (values.mean, values.right, values.nothing, values.graded) == (1.5, 1, 2, 4)
    assert truth.mean == 1.5
    assert truth.share == 0.5
    assert "(1×)" in values.reason


def test_the_histogram_counts_everybody_once():
    bars = histogram([0, 0.5, 1, 9.99, 10, 10, 12], 10)
    assert [bar["count"] for bar in bars] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 4]
    assert [bar["height"] for bar in bars][:2] == [50, 25]
    assert (bars[0]["label"], bars[9]["label"]) == ("0–1", "9–10")
    assert [bar["count"] for bar in histogram([], 7)] == [0] * 10
    assert [bar["count"] for bar in histogram([0.3], 1)][3] == 1


def test_the_page_links_to_what_exists(tmp_path, loaded, entries):
    out = tmp_path / "out"
    write_feedback(entries, loaded, out)
    path = write_report(entries, loaded, out, command="labkit grade x", problems=["a <broken> zip"])
    page = path.read_text("utf-8")
    links = {unquote(link) for link in re.findall(r'href="([^"#]+)"', page)}
    assert links >= {"feedback/ada.html", "harvest/a1/executed.ipynb"}
    assert all((out / link).is_file() for link in links - {"questions.html"})
    assert "<script" not in page
    assert "a &lt;broken&gt; zip" in page
    assert "4 of 5" in page
    assert "ran with the isolation level “landlock”" in page


def test_an_empty_grading_has_a_page(tmp_path, loaded):
    assert "0 of 0" in write_report([], loaded, tmp_path).read_text("utf-8")
