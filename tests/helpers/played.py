"""An assignment's cells run plainly, and its probes asked of what they define, without a sandbox.

What goes in and comes out crosses the wire as in grading, and the points are those of
:func:`labkit.grading.scoring.score.score`.
"""

import json
import types
from functools import cache, partial

import torch

from labkit.grading.authoring.assignment import find_assignment, load_assignment
from labkit.grading.authoring.probe_inputs import case_generator, cases_digest
from labkit.grading.authoring.source import Role
from labkit.grading.execution import codec
from labkit.grading.scoring.score import score

NAMES = (
    "a1_roi_align",
    "a2_instance",
    "a3_backbones",
    "a4_panoptic_quality",
    "a5_upsnet",
    "a6_set_prediction",
    "w1_semantic",
    "w2_nms_fpn",
)
CONTENT = "c0ffee"


@cache
def load(name):
    return load_assignment(find_assignment(name))


def play(name, edits=(), *, instead=None, stubs=False, checks=None):
    """Run setup and answer cells; return the names that they define.

    Args:
        name: the assignment.
        edits: pairs (old, new) of text in the answers; each must occur.
        instead: by exercise: a function of the namespace that is called instead of the cell.
        stubs: the students' cells instead of the solution; what they raise is passed over.
        checks: a list: also run the public checks, and put the reports of their cells there.
    """
    namespace = {"__name__": "played"}
    edits = dict(edits)
    for cell in load(name).cells:
        if cell.role is Role.SETUP or (checks is not None and cell.role is Role.CHECK):
            exec(compile(cell.source, f"{name}, cell {cell.number}", "exec"), namespace)
            if cell.role is Role.CHECK:
                checks.append(namespace.pop("check"))
        elif cell.role is Role.EXERCISE and cell.name in (instead or {}):
            instead[cell.name](namespace)
        elif cell.role is Role.EXERCISE:
            source = cell.stub if stubs else cell.solved
            for old in [old for old in edits if old in source]:
                source = source.replace(old, edits.pop(old))
            try:
                exec(compile(source, f"{name}, {cell.name}", "exec"), namespace)
            except NotImplementedError:
                assert stubs
    assert not edits, f"not in any answer: {', '.join(edits)}"
    return namespace


def failed(checks):
    """What the public checks of all exercises say is wrong."""
    return [f"{c.title}: {r.name}: {r.problem}" for c in checks for r in c.failed]


def lost(name, namespace, folder, only=None):
    """Points lost by probe, those without loss left out."""
    result = scored(name, namespace, folder, only)
    gaps = {p.name: round(p.out_of - p.points, 9) for p in result.probes}
    return {n: gap for n, gap in gaps.items() if gap and (only is None or n in only)}


def hints(name, namespace, folder, only=None):
    """The hints that the feedback page shows, by probe."""
    result = scored(name, namespace, folder, only)
    return {p.name: p.hint for p in result.probes if p.hint and (only is None or p.name in only)}


def scored(name, namespace, folder, only=None):
    """The score of what a namespace's functions answer, hints included."""
    loaded, probes = load(name), {}
    for probe in loaded.assignment.probes:
        if only is not None and probe.name not in only:
            probes[probe.name] = {"status": "not-run", "answers": []}
            continue
        cases = probe.cases(case_generator(loaded.hash, CONTENT, probe.name))
        probes[probe.name] = {
            "status": "answered" if probe.function in namespace else "missing",
            "ename": None,
            "answers": [answer(probe, namespace, case) for case in cases],
            "inputs": cases_digest(cases),
        }
    harvest = {
        "version": 1,
        "assignment": loaded.name,
        "assignment_hash": loaded.hash,
        "submission": "ada.ipynb",
        "content_hash": CONTENT,
        "state": "ok",
        "cells": [],
        "probes": probes,
        "questions": {},
    }
    (folder / "harvest.json").write_text(json.dumps(harvest), encoding="utf-8")
    result = score(folder, loaded)
    assert not result.flags
    return result


def answer(probe, namespace, case):
    """A case's answer as it leaves the sandbox."""
    if probe.function not in namespace:
        return {"raised": "NameError"}
    sent = codec.decode(json.loads(codec.dumps(codec.encode(probe.sent(case)))), tensor=as_tensor)
    call, driver = namespace[probe.function], {}
    if probe.driver:
        exec(probe.driver, driver)
        call = partial(driver["drive"], call)
    try:
        return json.loads(codec.dumps(codec.encode(call(**sent))))
    except Exception as error:
        return {"raised": type(error).__name__}


def as_tensor(array, dtype):
    return torch.from_numpy(array.copy()).to(getattr(torch, dtype))


def all_points(name):
    return {probe.name: probe.points for probe in load(name).assignment.probes}


def own(namespace, **names):
    """The namespace's functions with other values of some of the names that they use."""
    other = {**namespace, **names}
    for key, value in namespace.items():
        if isinstance(value, types.FunctionType) and value.__globals__ is namespace:
            other[key] = types.FunctionType(value.__code__, other, key, value.__defaults__)
    return other
