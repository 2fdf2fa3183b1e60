import csv
import io
from dataclasses import replace

import pytest
from helpers.made_assignments import load_tiny
from helpers.made_entries import make_entries

from labkit.errors import LabkitError
from labkit.grading.intake.student import Student
from labkit.grading.reports.questions import pseudonym, read_marks, with_marks, write_questions


@pytest.fixture
def loaded(tmp_path):
    return load_tiny(tmp_path)


@pytest.fixture
def entries(tmp_path, loaded):
    return make_entries(tmp_path, loaded)


QUESTION = "Why is twice more than once?"


def fill(folder, marks, separator=","):
    """Fill in points and comments as a spreadsheet program would."""
    path = folder / "questions.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    for row in rows:
        row["points"], row["comment"] = marks.get(row["student"], ("", ""))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


def marked(entries, loaded, folder):
    marks = read_marks(folder, loaded)
    return [
        replace(entry, score=with_marks(entry.student.key, entry.score, marks))
        if entry.score
        else entry
        for entry in entries
    ]


def test_answers_to_read_are_listed_and_blank(tmp_path, loaded, entries):
    write_questions(entries, loaded, tmp_path)
    rows = list(csv.reader(io.StringIO((tmp_path / "questions.csv").read_text("utf-8-sig"))))
    assert rows[0][:5] == ["student", "question", "points", "out_of", "comment"]
    assert rows[0][5:] == ["identical", "answer_text", "question_text", "answer"]
    assert [row[:8] for row in rows[1:]] == [
        ["ada", "why", "", "1", "", "", entries[0].score.questions[0].answer, QUESTION],
        ["'=EVIL()", "why", "", "1", "", "", "</div><script>alert(2)</script>", QUESTION],
    ]


def test_the_page_shows_answers_as_text(tmp_path, loaded, entries):
    write_questions(entries, loaded, tmp_path)
    page = (tmp_path / "questions.html").read_text("utf-8")
    assert "Since &lt;b&gt;2 &gt; 1&lt;/b&gt;, &amp; so on.\n{{ 7 * 7 }}" in page
    assert "<script" not in page
    assert "RUBRIC-TEXT" in page
    assert "Why is twice more than once?" in page


@pytest.mark.parametrize(("separator", "given"), [(",", "0.5"), (";", "0,5"), ("\t", "0,5")])
def test_points_merge_back_and_stay_filled_in(tmp_path, loaded, entries, separator, given):
    write_questions(entries, loaded, tmp_path)
    fill(tmp_path, {"ada": (given, "Half of it; why?"), "'=EVIL()": ("1", "")}, separator)
    again = marked(entries, loaded, tmp_path)
    assert again[0].score.questions[0].points == 0.5
    assert again[0].score.questions[0].comment == "Half of it; why?"
    assert again[0].points == 9.5
    assert again[0].score.unread == 0
    assert again[2].score.questions[0].points == 1
    write_questions(again, loaded, tmp_path)
    assert marked(entries, loaded, tmp_path) == again


def test_points_are_for_the_answer_that_was_read(tmp_path, loaded, entries):
    write_questions(entries, loaded, tmp_path)
    fill(tmp_path, {"ada": ("1", "")})
    question = replace(entries[0].score.questions[0], answer="another answer")
    newer = replace(entries[0], score=replace(entries[0].score, questions=(question,)))
    assert marked([newer], loaded, tmp_path)[0].score.unread == 1


def answered(entry, key, answer, doubt=""):
    """An entry of another student, with another answer."""
    question = replace(entry.score.questions[0], answer=answer, doubt=doubt, points=None)
    score = replace(entry.score, questions=(question,))
    return replace(entry, student=Student(key, name=f"{key.title()} X"), score=score)


@pytest.fixture
def some(entries):
    texts = {"zoe": "One  thing.", "hugo": "Another.", "kim": "one thing.", "ben": ""}
    return [answered(entries[0], key, text) for key, text in texts.items()]


def read(folder):
    return list(csv.DictReader(io.StringIO((folder / "questions.csv").read_text("utf-8-sig"))))


def test_identical_answers_stand_together(tmp_path, loaded, some):
    write_questions(some, loaded, tmp_path)
    rows = [(row["student"], row["identical"]) for row in read(tmp_path)]
    assert rows == [("zoe", "2 students"), ("kim", "2 students"), ("hugo", "")]
    page = (tmp_path / "questions.html").read_text("utf-8")
    assert page.count("2 identical answers") == 1
    assert page.count('<div class="answer">') == 2
    assert "No answer (1)" in page


def test_an_answer_that_may_be_lost_is_to_be_marked(tmp_path, loaded, entries):
    lost = [answered(entries[0], key, "", "its cell is missing") for key in ("zoe", "hugo")]
    write_questions(lost, loaded, tmp_path)
    assert [row["answer_text"] for row in read(tmp_path)] == [
        "(no answer found, but its cell is missing)"
    ] * 2
    assert "identical" not in (tmp_path / "questions.html").read_text("utf-8")
    fill(tmp_path, {"zoe": ("1", "It stands at the end.")})
    again = marked(lost, loaded, tmp_path)
    assert [entry.score.questions[0].points for entry in again] == [1, None]


def test_marking_without_names(tmp_path, loaded, some):
    write_questions(some, loaded, tmp_path, anonymous=True)
    rows = read(tmp_path)
    assert {row["student"] for row in rows} == {
        pseudonym(key, "tiny") for key in ("zoe", "hugo", "kim")
    }
    for name in ("questions.html", "questions.csv"):
        text = (tmp_path / name).read_text("utf-8-sig").casefold()
        assert not any(key in text for key in ("zoe", "hugo", "kim x", "ben", "ada.ipynb"))
    fill(tmp_path, {pseudonym("hugo", "tiny"): ("0.5", "")})
    keys = [entry.student.key for entry in some]
    marks = read_marks(tmp_path, loaded, keys)
    assert {key[0]: mark.points for key, mark in marks.items()} == {
        "zoe": None,
        "kim": None,
        "hugo": 0.5,
    }
    # With names again, nothing that was filled in is lost.
    named = [replace(e, score=with_marks(e.student.key, e.score, marks)) for e in some]
    write_questions(named, loaded, tmp_path)
    assert {row["student"]: row["points"] for row in read(tmp_path)}["hugo"] == "0.5"


def test_a_file_from_before_the_new_columns_is_read(tmp_path, loaded):
    (tmp_path / "questions.csv").write_text(HEADER + "ada,why,1,1,well done,x\n")
    assert read_marks(tmp_path, loaded)["ada", "why"].points == 1


def test_without_a_file_nothing_is_marked(tmp_path, loaded):
    assert read_marks(tmp_path, loaded) == {}


HEADER = "student,question,points,out_of,comment,answer\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("student,points\nada,1\n", "the column 'question' is missing"),
        ("", "the column 'student' is missing"),
        (
            HEADER + "ada,why,two,1,,x\n",
            "line 2: points 'two' for ada, why: give a number from 0",
        ),
        (HEADER + "ada,why,1.5,1,,x\n", "points '1.5' for ada, why"),
        (HEADER + "ada,why,-1,1,,x\n", "points '-1'"),
        (HEADER + "ada,why,nan,1,,x\n", "points 'nan'"),
        (HEADER + "ada,how,1,1,,x\n", "line 2: there is no question 'how'; there are: why"),
        (HEADER + "ada,why,1,1,,x\nada,why,0,1,,x\n", "line 3: ada, why: two different marks"),
    ],
)
def test_a_file_filled_in_wrongly_is_refused(tmp_path, loaded, content, message):
    (tmp_path / "questions.csv").write_text(content)
    with pytest.raises(LabkitError) as caught:
        read_marks(tmp_path, loaded)
    assert message in str(caught.value)


def test_a_file_in_another_encoding_is_refused(tmp_path, loaded):
    (tmp_path / "questions.csv").write_bytes(
        (HEADER + "ada,why,1,1,Gr\xfc\xdfe,x\n").encode("latin-1")
    )
    with pytest.raises(LabkitError, match="not UTF-8; save it as CSV UTF-8"):
        read_marks(tmp_path, loaded)
