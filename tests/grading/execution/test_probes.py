import math

import numpy as np
import pytest
import torch

from labkit.errors import LabkitError
from labkit.grading.authoring.probe_inputs import case_generator, cases_digest
from labkit.grading.authoring.probes import Assignment, Limits, Probe, Question, Tolerance


def probe(**changes):
    given = {
        "name": "values",
        "exercise": "double",
        "function": "double",
        "points": 2,
        "inputs": lambda rng: [{"x": rng.random()}],
        "reference": lambda x: 2 * x,
    }
    return Probe(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "the name 'a b' must start with a letter"),
        ({"name": "../x"}, "must start with a letter"),
        ({"exercise": ""}, "exercise must name an exercise"),
        ({"function": "a.b"}, "function must be one name"),
        ({"points": 0}, "points must be a positive number, not 0"),
        ({"points": math.nan}, "points must be a positive number"),
        ({"points": True}, "points must be a positive number"),
        ({"seconds": -1}, "seconds must be a positive number"),
        ({"inputs": [1]}, "inputs must be a function"),
        ({"reference": None}, "either reference or score"),
        ({"score": lambda cases, answers: 1}, "either reference or score"),
        ({"reference": 3}, "reference and score must be functions"),
        ({"hidden": "truth"}, "hidden must be a tuple of names, not 'truth'"),
        ({"driver": "def drive("}, "driver is not Python source"),
        ({"driver": "def run(f): ..."}, "driver must define drive"),
        ({"tolerance": None}, "tolerance must be Tolerance"),
    ],
)
def test_a_senseless_probe_is_refused_with_its_reason(changes, message):
    with pytest.raises(LabkitError, match=message.replace("(", r"\(")):
        probe(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": " "}, "title must be a non-empty text"),
        ({"minutes": 0}, "minutes must be a positive number"),
        ({"probes": [1]}, "probes must be a list of Probe"),
        ({"probes": []}, "give at least one probe or question"),
        (
            {"questions": [Question("values", 1, "r")]},
            "have the name 'values'",
        ),
        ({"forbidden": "numpy"}, "forbidden must be a tuple of strings"),
        ({"forbidden": ("numpy.",)}, "'numpy.' is not a dotted name"),
        ({"limits": 3}, "limits must be Limits"),
    ],
)
def test_a_senseless_assignment_is_refused_with_its_reason(changes, message):
    given = {"title": "T", "minutes": 1, "probes": [probe()]} | changes
    with pytest.raises(LabkitError, match=message):
        Assignment(**given)


def test_points_add_up():
    assignment = Assignment("T", 1, [probe(), probe(name="b", points=1.5)], [Question("q", 3, "r")])
    assert assignment.points == 6.5


@pytest.mark.parametrize("values", [{"rtol": -1}, {"atol": math.inf}])
def test_a_senseless_tolerance_is_refused(values):
    with pytest.raises(LabkitError, match="finite"):
        Tolerance(**values)


def test_a_limit_must_be_positive():
    with pytest.raises(LabkitError, match="memory_mb must be a positive number"):
        Limits(memory_mb=0)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (lambda rng: [], "no case"),
        (lambda rng: 1 / 0, "inputs raised ZeroDivisionError"),
        (lambda rng: None, "inputs raised TypeError"),
        (lambda rng: [3], "case 1 must be a dictionary"),
        (lambda rng: [{"x": 1}, {"not a name": 1}], "case 2 must be a dictionary"),
    ],
)
def test_bad_inputs_are_the_instructors_mistake(inputs, message):
    with pytest.raises(LabkitError, match=message):
        probe(inputs=inputs).cases(np.random.default_rng(0))


def test_hidden_entries_are_not_sent():
    hiding = probe(inputs=lambda rng: [{"x": 1, "truth": 2}], hidden=("truth",))
    (case,) = hiding.cases(np.random.default_rng(0))
    assert case == {"x": 1, "truth": 2}
    assert hiding.sent(case) == {"x": 1}


def test_hiding_what_is_not_there_is_refused():
    with pytest.raises(LabkitError, match="case 1 has no entry 'truth' to hide"):
        probe(hidden=("truth",)).cases(np.random.default_rng(0))


def test_cases_follow_from_assignment_submission_and_probe():
    def draw(*names):
        return case_generator(*names).random()

    assert draw("a", "s", "p") == draw("a", "s", "p")
    others = {draw("a", "s", "p"), draw("b", "s", "p"), draw("a", "t", "p"), draw("a", "s", "q")}
    assert len(others) == 4


def test_the_digest_tells_values_types_and_shapes_apart():
    values = [
        1, 1.0, True, "1", None, [1], {"x": 1}, {"y": 1}, {1: 1}, np.ones(1), np.ones((1, 1)),
        np.ones(1, np.float32), [[1]], [1, 1], np.zeros(1), float("nan"),
    ]  # fmt: skip
    digests = [cases_digest([{"x": value}]) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [cases_digest([{"x": value}]) for value in values]


def test_the_digest_of_a_tensor_is_that_of_its_values():
    base = torch.arange(6.0, dtype=torch.bfloat16).reshape(2, 3)
    assert cases_digest([{"x": base.t().contiguous()}]) == cases_digest([{"x": base.t()}])
    assert cases_digest([{"x": base}]) != cases_digest([{"x": base + 1}])


def test_the_digest_refuses_what_cannot_be_sent():
    with pytest.raises(LabkitError, match="a value of type object cannot be sent"):
        cases_digest([{"x": object()}])
