import json

import numpy as np
import pytest
import torch
from helpers.made_assignments import (
    SOURCE,
    cases_of,
    load_tiny,
    make_harvest,
    right_answers,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.errors import LabkitError
from labkit.grading.authoring.probe_inputs import cases_digest
from labkit.grading.execution.codec import encode
from labkit.grading.scoring.score import score


@pytest.fixture
def tiny(tmp_path):
    return load_tiny(tmp_path)


def by_name(result):
    return {probe.name: probe for probe in result.probes}


def test_right_answers_earn_everything(tiny, tmp_path):
    result = score(make_harvest(tmp_path / "h", tiny), tiny)
    assert [probe.points for probe in result.probes] == [4, 2, 3]
    assert all(probe.reasons == () for probe in result.probes)
    assert (by_name(result)["values"].right, by_name(result)["values"].cases) == (4, 4)
    assert by_name(result)["truth"].right is None
    assert result.points == 9
    assert result.out_of == 10
    assert result.unread == 1
    assert result.questions[0].answer == "MORE!"
    assert result.flags == ()
    assert result.seconds == 1.5


def test_no_answers_earn_nothing(tiny, tmp_path):
    result = score(make_harvest(tmp_path / "h", tiny, {}, questions={}), tiny)
    assert result.points == 0
    assert result.unread == 0
    assert [probe.reasons for probe in result.probes] == [("not defined",)] * 3


def test_partial_credit_by_cases_and_all_or_nothing(tiny, tmp_path):
    answers = right_answers(tiny)
    answers["values"][1] = encode(np.zeros((3, 2)))
    answers["values"][2] = {"raised": "ValueError"}
    answers["all-or-nothing"][0] = encode(np.zeros((2, 3)))
    found = by_name(score(make_harvest(tmp_path / "h", tiny, answers), tiny))
    assert found["values"].points == 2
    assert found["values"].right == 2
    assert found["all-or-nothing"].points == 0
    assert found["all-or-nothing"].right == 3
    assert found["all-or-nothing"].reasons == (
        "shape (2, 3) instead of (3, 2)",
        "points are for all cases together",
    )
    reasons = found["values"].reasons
    assert any("raised ValueError" in reason for reason in reasons)
    assert any("1 of 4 cases: largest difference" in reason for reason in reasons)


def test_a_score_function_gets_hidden_entries_and_none_for_what_is_missing(tiny, tmp_path):
    answers = right_answers(tiny)
    answers["truth"][0] = {"raised": "KeyError"}
    found = by_name(score(make_harvest(tmp_path / "h", tiny, answers), tiny))["truth"]
    assert found.points == pytest.approx(2)
    assert found.reasons == ("raised KeyError",)


def test_other_dtypes_are_right(tiny, tmp_path):
    cases = cases_of(tiny, "values")
    answers = right_answers(tiny)
    answers["values"] = [
        encode((2 * cases[0]["x"]).astype(np.float32)),
        encode((2 * cases[1]["x"]).tolist()),
        encode(torch.from_numpy(2 * cases[2]["x"]).to(torch.bfloat16)),
        encode(torch.from_numpy(2 * cases[3]["x"]).half()),
    ]
    assert by_name(score(make_harvest(tmp_path / "h", tiny, answers), tiny))["values"].points == 4


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"status": "raised", "ename": "NameError"}, "raised NameError"),
        ({"status": "raised", "ename": "<script>"}, "raised an exception"),
        ({"status": "raised", "ename": "x" * 5000}, "raised " + "x" * 60),
        ({"status": "timeout", "ename": None}, "took too long"),
        ({"status": "refused"}, "returned something that cannot be transferred out"),
        ({"status": "not-run"}, "not called: the notebook stopped before"),
    ],
)
def test_a_probe_without_answers_says_why(tiny, tmp_path, entry, reason):
    answers = right_answers(tiny) | {"values": {"answers": [], **entry}}
    found = by_name(score(make_harvest(tmp_path / "h", tiny, answers), tiny))["values"]
    assert found.points == 0
    assert reason in found.reasons[0]


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        ("a value of type generator", "returned a value of type generator"),
        ("<script>", "returned something that cannot be transferred out of the notebook"),
        (3, "returned something that cannot be transferred out of the notebook"),
    ],
)
def test_a_refused_answer_says_why(tiny, tmp_path, refused, reason):
    answers = right_answers(tiny) | {"values": [{"refused": refused}] * 4}
    found = by_name(score(make_harvest(tmp_path / "h", tiny, answers), tiny))["values"]
    assert (found.points, found.reasons) == (0, (reason,))


def test_what_is_forbidden_is_for_a_person(tiny, tmp_path):
    result = score(make_harvest(tmp_path / "h", tiny, forbidden=["numpy.multiply"]), tiny)
    assert result.flags == ("uses numpy.multiply, which is forbidden",)


def test_answers_before_a_timeout_count(tiny, tmp_path):
    answers = right_answers(tiny)
    folder = make_harvest(tmp_path / "h", tiny, answers)
    harvest = json.loads((folder / "harvest.json").read_text())
    harvest["probes"]["values"] |= {"status": "timeout", "answers": answers["values"][:3]}
    (folder / "harvest.json").write_text(json.dumps(harvest))
    found = by_name(score(folder, tiny))["values"]
    assert found.points == 3
    assert found.reasons == ("took too long",)


def test_more_answers_than_cases_do_not_help(tiny, tmp_path):
    answers = right_answers(tiny)
    answers["values"] = [{"raised": "X"}] * 4 + answers["values"]
    assert by_name(score(make_harvest(tmp_path / "h", tiny, answers), tiny))["values"].points == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
odd_answers = (
    json_values
    | st.fixed_dictionaries({"value": json_values, "arrays": json_values})
    | st.fixed_dictionaries({"raised": json_values})
    | st.sampled_from(
        [
            encode(value)
            for value in (
                float("nan"),
                np.full((3, 2), np.nan),
                np.zeros((3, 2), np.complex64),
                np.zeros((3, 2), np.uint8),
                [[[]]] * 3,
                {"a": {1: (2, None)}},
                "text",
                10**299,
                -1,
            )
        ]
    )
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(odd_answers, min_size=1, max_size=6), st.lists(odd_answers, min_size=1, max_size=4))
def test_no_answer_whatever_crashes_it_or_earns_points(tiny, tmp_path, values, classes):
    answers = {"values": values, "all-or-nothing": values, "truth": classes}
    result = by_name(score(make_harvest(tmp_path / "h", tiny, answers), tiny))
    assert result["values"].points == 0
    assert result["all-or-nothing"].points == 0
    assert 0 <= result["truth"].points <= 3


@pytest.mark.parametrize(
    ("body", "points", "flag"),
    [
        ("1 / 0", 0, "its score function raised ZeroDivisionError: division by zero"),
        ("float('nan')", 0, "its score function returned nan"),
        ("'x'", 0, "its score function raised ValueError"),
        ("7", 3, None),
        ("-1", 0, None),
        ("0.5", 1.5, None),
    ],
)
def test_a_score_function_that_misbehaves(tmp_path, body, points, flag):
    old = 'sum(a == c["truth"] for c, a in zip(cases, answers)) / len(cases)'
    loaded = load_tiny(tmp_path, SOURCE.replace(old, body))
    result = score(make_harvest(tmp_path / "h", loaded), loaded)
    assert by_name(result)["truth"].points == points
    assert (result.flags == ()) is (flag is None)
    assert flag is None or f"probe truth: {flag}" in result.flags[0]


def test_a_corrected_assignment_scores_the_old_harvest(tmp_path):
    before = load_tiny(tmp_path / "before")
    folder = make_harvest(tmp_path / "h", before)
    corrected = SOURCE.replace('"values", "double", "double", 4', '"values", "double", "double", 8')
    corrected = corrected.replace("lambda x: 2 * x)", "lambda x: 3 * x)", 1)
    after = load_tiny(tmp_path / "after", corrected)
    assert after.hash != before.hash
    found = by_name(score(folder, after))
    assert (found["values"].points, found["values"].out_of) == (0, 8)
    assert found["all-or-nothing"].points == 2


def test_changed_inputs_and_new_probes_ask_for_a_new_grading(tmp_path):
    before = load_tiny(tmp_path / "before")
    folder = make_harvest(tmp_path / "h", before)
    other = load_tiny(tmp_path / "a", SOURCE.replace("range(4)", "range(5)"))
    with pytest.raises(LabkitError, match="generates other inputs for probe 'values' now"):
        score(folder, other)
    newer = load_tiny(tmp_path / "b", SOURCE.replace('"truth", "cl', '"truth2", "cl'))
    with pytest.raises(LabkitError, match="the harvest has no probe 'truth2'"):
        score(folder, newer)


def test_a_failing_reference_is_the_instructors_mistake(tmp_path):
    source = SOURCE.replace("reference=lambda x: 2 * x)", "reference=lambda x: x.nothing)", 1)
    loaded = load_tiny(tmp_path, source)
    with pytest.raises(LabkitError, match="probe 'values': the reference failed: AttributeError"):
        score(make_harvest(tmp_path / "h", loaded), loaded)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no harvest\.json; grade this submission first"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", r"not a harvest: the content must be an object, not \[\]; grade again"),
        ('{"submission": "a"}', "not a harvest: content_hash is missing"),
        ('{"version": 2}', "written by another version of labkit"),
        ('{"submission": "a", "content_hash": 3}', "content_hash must be text, not 3"),
    ],
)
def test_what_is_no_harvest_is_refused(tiny, tmp_path, content, message):
    folder = tmp_path / "h"
    folder.mkdir()
    if content is not None:
        (folder / "harvest.json").write_text(content)
    with pytest.raises(LabkitError, match=message):
        score(folder, tiny)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": "fine"}, "state must be one of ok, cell-error, .*, not 'fine'"),
        ({"cells": [{"status": "done"}]}, r"cells\[0\].status must be one of ok, error"),
        ({"cells": [3]}, r"cells\[0\] must be an object, not 3"),
        ({"cells": [{"failed": [{"line": "1"}]}]}, r"failed\[0\].line must be a whole number"),
        ({"probes": {"values": None}}, "probes.values must be an object, not None"),
        ({"probes": {"values": {"status": ["?"]}}}, "probes.values.status must be one of answered"),
        ({"probes": {"values": {"answers": {}}}}, "probes.values.answers must be a list"),
        ({"remarks": {"double": {"takes": {"double": None}}}}, "takes.double must be an object"),
        ({"remarks": {"double": {"takes": {"double": {"names": 3}}}}}, "names must be a list"),
        ({"seconds": {"total": True}}, "seconds.total must be a number, not True"),
        ({"seconds": {"total": float("nan")}}, "seconds.total must be a number, not nan"),
        ({"questions": {"why": ["no text"]}}, "questions.why must be text, not"),
        ({"surprise": 1}, "surprise is unknown"),
    ],
)
def test_a_damaged_harvest_is_refused_with_its_file_and_field(tiny, tmp_path, changes, message):
    folder = make_harvest(tmp_path / "h", tiny, **changes)
    with pytest.raises(LabkitError, match=rf"h/harvest\.json: not a harvest: .*{message}"):
        score(folder, tiny)


def test_another_assignments_harvest_is_refused(tiny, tmp_path):
    folder = make_harvest(tmp_path / "h", tiny, assignment="other")
    with pytest.raises(LabkitError, match="a harvest of assignment 'other', not of 'tiny'"):
        score(folder, tiny)


@pytest.mark.parametrize(
    ("text", "answer", "points"),
    [
        (None, "", 0),
        ("", "", 0),
        ("Why is twice more than once?\n\n*Your answer here.*", "", 0),
        ("*Your answer here.*", "", 0),
        (" \n\t", "", 0),
        ("Why is twice more than once?\n\n*Your answer here.* Because.", "Because.", None),
        ("Because.", "Because.", None),
    ],
)
def test_a_questions_own_words_are_no_answer(tiny, tmp_path, text, answer, points):
    questions = {} if text is None else {"why": text}
    folder = make_harvest(tmp_path / "h", tiny, questions=questions)
    (question,) = score(folder, tiny).questions
    assert (question.answer, question.points) == (answer, points)


def test_a_protocol_violation_is_for_a_person(tiny, tmp_path):
    result = score(make_harvest(tmp_path / "h", tiny, state="protocol-violation"), tiny)
    assert "check the notebook" in result.flags[0]


def noted(loaded, tmp_path, remarks, answers, **changes):
    folder = make_harvest(tmp_path / "h", loaded, answers, remarks={"double": remarks}, **changes)
    return score(folder, loaded)


def test_a_renamed_function_is_named(tmp_path, tiny):
    result = noted(tiny, tmp_path, {"defines": ["myDouble", "Twice"]}, {})
    words = "your cell defines `myDouble`, `Twice` instead of `double`"
    assert result.probes[0].reasons == (words,)
    flag = "exercise double: the cell defines `myDouble`, `Twice` instead of `double`"
    assert flag in result.flags
    assert result.probes[2].reasons == ("not defined",)


def test_a_mistake_is_named_with_its_line(tmp_path, tiny):
    wrong = {"line": 3, "text": "print 'x'", "message": "Missing parentheses"}
    failed = [{**wrong, "ename": "SyntaxError"}]
    cells = [{"exercise": "double", "status": "error", "ename": "SyntaxError", "failed": failed}]
    result = noted(tiny, tmp_path, {"syntax": wrong, "defines": []}, {}, cells=cells)
    words = "line 3, `print 'x'`, is not Python (Missing parentheses)"
    assert result.probes[0].reasons == (f"not defined: {words}",)
    assert result.flags == (f"exercise double: {words}",)


@pytest.mark.parametrize(
    ("takes", "explained"),
    [
        ({"names": ["b"], "required": ["b"], "any": False}, True),
        ({"names": ["x", "y"], "required": ["x", "y"], "any": False}, True),
        ({"names": ["y"], "required": ["y"], "any": True}, True),
        ({"names": ["x", "y"], "required": ["x"], "any": False}, False),
        ({"names": [], "required": [], "any": True}, False),
    ],
)
def test_renamed_arguments_are_named(tmp_path, tiny, takes, explained):
    answers = right_answers(tiny)
    answers["values"] = [{"raised": "TypeError"}] * 4
    result = noted(tiny, tmp_path, {"takes": {"double": takes}}, answers)
    words = result.probes[0].reasons[0]
    assert ("the names of the arguments matter: the call is `double(x)`" in words) == explained
    assert explained or words == "raised TypeError"
    assert any("the student's function is" in flag for flag in result.flags) == explained
    # Other exceptions have other causes.
    answers["values"] = [{"raised": "ValueError"}] * 4
    result = noted(tiny, tmp_path, {"takes": {"double": takes}}, answers)
    assert result.probes[0].reasons == ("raised ValueError",)


def test_failing_lines_are_flagged_and_cost_nothing(tmp_path, tiny):
    failed = [
        {"line": 1, "text": "import seaborn", "ename": "ModuleNotFoundError"},
        {"line": 9, "text": "raise X", "ename": "NotImplementedError"},
    ]
    cells = [
        {"exercise": "double", "status": "error", "ename": "X", "failed": failed, "ran": 2},
        {"exercise": "", "role": "helper", "status": "error", "failed": failed[:1], "ran": 0},
        {"exercise": "", "role": "setup", "status": "error", "failed": failed[:1], "ran": 0},
    ]
    result = score(make_harvest(tmp_path / "h", tiny, cells=cells, state="cell-error"), tiny)
    assert [probe.points for probe in result.probes] == [4, 2, 3]
    words = "line 1, `import seaborn`, raised ModuleNotFoundError"
    assert result.flags == (
        f"exercise double: {words}; the other lines ran",
        f"outside the exercises: {words}",
    )


def test_the_language_matters_where_points_are_lost(tmp_path, tiny):
    right = score(make_harvest(tmp_path / "a", tiny, language="R"), tiny)
    wrong = score(make_harvest(tmp_path / "b", tiny, {}, language="R"), tiny)
    assert right.flags == ()
    assert wrong.flags == ("the notebook's language is R, but it ran as Python",)


def test_an_answer_that_may_be_lost_leaves_its_points_open(tmp_path, tiny):
    def of(name, **changes):
        return score(make_harvest(tmp_path / name, tiny, **changes), tiny)

    lost = of("a", questions={"why": ""}, doubts={"why": "its cell is missing"})
    assert lost.questions[0].points is None
    assert lost.unread == 1
    assert lost.flags == ("question why: no answer found, but its cell is missing",)
    none = of("b", questions={"why": ""}, doubts={})
    assert none.questions[0].points == 0
    assert none.flags == ()
    found = of("c", questions={"why": "So."}, doubts={"why": "its cell is missing"})
    assert found.questions[0].answer == "So."
    assert found.flags == ()


GIVEN = """
# %% exercise="double"
def double(x):
    # BEGIN SOLUTION
    return 2 * x
    # END SOLUTION

# %% exercise="quadruple"
def quadruple(x):
    # BEGIN SOLUTION
    return double(double(x))
    # END SOLUTION

# %% tags=["probes"]
def numbers(rng):
    return [{"x": int(rng.integers(1, 99))} for _ in range(4)]

ASSIGNMENT = Assignment(
    title="Given", minutes=5,
    probes=[
        Probe("two", "double", "double", 4, numbers, reference=lambda x: 2 * x),
        Probe("four", "quadruple", "quadruple", 4, numbers, reference=lambda x: 4 * x,
              given=("double",), hint="Call double twice."),
    ],
)
"""


@pytest.mark.parametrize(
    ("own", "second", "points", "given"), [(3, 4, 4, ("double",)), (4, 3, 4, ()), (3, 3, 0, ())]
)
def test_the_better_of_own_and_given_counts(tmp_path, own, second, points, given):
    loaded = load_tiny(tmp_path, GIVEN)

    def answers(name, factor):
        return [encode(factor * case["x"]) for case in cases_of(loaded, name)]

    digest = cases_digest(cases_of(loaded, "four"))
    entry = {"status": "answered", "answers": answers("four", second), "inputs": digest}
    harvest = make_harvest(
        tmp_path / "h",
        loaded,
        {"two": answers("two", 5), "four": answers("four", own)},
        questions={},
        with_solutions={"four": entry},
    )
    two, four = score(harvest, loaded).probes
    assert two.points == 0
    assert (four.points, four.given) == (points, given)
    assert four.hint == ("" if points else "Call double twice.")
    assert two.hint == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ('given=("quadruple",)', "given names its own exercise"),
        ('given=("half",)', "given names 'half', which is no exercise before 'quadruple'"),
        ('given="double"', "given must be a tuple of names"),
        ("hint=3", "hint must be a text"),
    ],
)
def test_options_that_make_no_sense(tmp_path, wrong, message):
    part = wrong.partition("=")[0]
    old = 'given=("double",)' if part == "given" else 'hint="Call double twice."'
    with pytest.raises(LabkitError, match=message):
        load_tiny(tmp_path, GIVEN.replace(old, wrong))
