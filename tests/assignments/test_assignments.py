"""Every assignment: the solution earns everything, the untouched notebook nothing, no leaks."""

import pkgutil
from collections import Counter

import pytest
from helpers.played import NAMES, all_points, load, lost, play

from labkit.grading.authoring.source import Role
from labkit.grading.authoring.validate import (
    check_inputs,
    check_mistakes,
    check_no_leaks,
    check_release,
    check_solution,
    check_untouched,
)


# Everything for the solution, nothing for the untouched notebook, by the whole way, trainings
# included: a minute or two for a2_instance and a3_backbones.
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grade", [check_solution, check_untouched])
def test_graded_in_the_sandbox(grade, name):
    finding = grade(load(name))
    assert finding.passed, finding


@pytest.mark.parametrize("name", NAMES)
def test_the_untouched_notebook_earns_nothing(name, tmp_path):
    assert lost(name, play(name, stubs=True), tmp_path) == all_points(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_checks_of_an_untouched_notebook_run_to_their_end(name):
    checks = []
    play(name, stubs=True, checks=checks)  # no exception leaves a check's cell
    assert len(checks) == sum(cell.role is Role.CHECK for cell in load(name).cells)
    for check in checks:
        assert check.failed == check.results  # every one of them needs an answer
        for result in check.failed:
            assert "your code here" in result.problem or "is not defined" in result.problem


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("examine", [check_no_leaks, check_release, check_inputs, check_mistakes])
def test_what_students_get(name, examine):
    finding = examine(load(name))
    assert finding.passed, finding


@pytest.mark.parametrize("name", NAMES)
def test_every_exercise_describes_three_mistakes(name):
    described = Counter()
    for probe in load(name).assignment.probes:
        described[probe.exercise] += len(probe.mistakes)
    assert {exercise: number for exercise, number in described.items() if number < 3} == {}


@pytest.mark.parametrize("name", NAMES)
def test_the_points_and_what_the_notebook_says_about_them(name):
    loaded = load(name)
    warm_up = name.startswith("w")
    computed = sum(all_points(name).values())
    questions = loaded.assignment.points - computed
    assert loaded.assignment.points == (10 if warm_up else 20)
    introduction = " ".join(loaded.notebook.cells[0].source.split())
    assert f"**Points:** {loaded.assignment.points:g}" in introduction
    rows = [line for line in loaded.notebook.cells[0].source.splitlines() if line.startswith("| ")]
    told = [sum(map(int, row.split("|")[2].split("+"))) for row in rows[2:]]
    assert sum(told) == loaded.assignment.points
    if warm_up:  # nothing waits for a person
        assert questions == 0
        assert "all of them computed" in introduction
    else:
        assert f"{computed:g} are computed and {questions:g} are for" in introduction
        assert told[-1] == questions


@pytest.mark.parametrize("name", NAMES)
def test_what_is_forbidden_exists(name):
    for dotted in load(name).assignment.forbidden:
        if dotted.startswith("panopticapi."):  # not everybody has it
            continue
        # By its owner: a package may have a function of a module's name.
        owner, _, name = dotted.rpartition(".")
        assert callable(getattr(pkgutil.resolve_name(owner), name))
