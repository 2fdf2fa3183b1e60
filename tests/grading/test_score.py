import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_assignments import (
    SOURCE,
    cases_of,
    load_tiny,
    make_harvest,
    right_answers,
)

from labkit.errors import LabkitError
from labkit.grading.score import score
from labkit.grading.wire import encode


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
        ({"status": "refused"}, "answered with something that cannot be taken out"),
        ({"status": "not-run"}, "was not asked: the notebook did not get that far"),
        ({"status": ["?"]}, "no answer"),
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
        ("a value of type generator", "answered with a value of type generator"),
        ("<script>", "answered with something that cannot be taken out of the notebook"),
        (3, "answered with something that cannot be taken out of the notebook"),
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
        ("float('nan')", 0, "its score function gave nan"),
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
    with pytest.raises(LabkitError, match="inputs of probe 'values' are not those that were sent"):
        score(folder, other)
    newer = load_tiny(tmp_path / "b", SOURCE.replace('"truth", "cl', '"truth2", "cl'))
    with pytest.raises(LabkitError, match="the harvest knows no probe 'truth2'"):
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
        ("[]", "not a harvest: 'submission' is missing"),
        ('{"submission": "a", "content_hash": 3}', "'content_hash' is missing"),
    ],
)
def test_what_is_no_harvest_is_refused(tiny, tmp_path, content, message):
    folder = tmp_path / "h"
    folder.mkdir()
    if content is not None:
        (folder / "harvest.json").write_text(content)
    with pytest.raises(LabkitError, match=message):
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
        (["not text"], "", 0),
    ],
)
def test_a_questions_own_words_are_no_answer(tiny, tmp_path, text, answer, points):
    folder = make_harvest(tmp_path / "h", tiny, questions={"why": text})
    (question,) = score(folder, tiny).questions
    assert (question.answer, question.points) == (answer, points)


def test_a_protocol_violation_is_for_a_person(tiny, tmp_path):
    result = score(make_harvest(tmp_path / "h", tiny, state="protocol-violation"), tiny)
    assert "look at the notebook" in result.flags[0]
