"""A tiny assignment without torch, and harvests of it as the sandbox would leave them."""

import json
import textwrap

from labkit.grading.authoring.assignment import load_assignment
from labkit.grading.authoring.probe_inputs import case_generator, cases_digest
from labkit.grading.execution.codec import encode

SOURCE = '''\
# %% [markdown]
# # Tiny

# %% tags=["setup"]
import numpy as np

# %% exercise="double"
def double(x):
    """Twice x."""
    # BEGIN SOLUTION
    twice_the_secret = x + x
    return twice_the_secret
    # END SOLUTION

# %% tags=["check"]
assert double(2) == 4

# %% exercise="classify"
SIDES = 4

def classify(image):
    # BEGIN SOLUTION
    return int(image.sum() > SIDES * 1000)
    # END SOLUTION

# %% [markdown] question="why"
# Why is twice more than once?
#
# <!-- BEGIN SOLUTION -->
# Because of the positive difference.
# <!-- END SOLUTION -->

# %% tags=["solution"]
print("this is only in the solution")

# %% tags=["probes"]
import numpy as np

def numbers(rng):
    return [{"x": rng.normal(size=(3, 2))} for _ in range(4)]

def images(rng):
    return [{"image": rng.random((2, 2)), "truth": int(rng.integers(10))} for _ in range(3)]

def accuracy(cases, answers):
    return sum(a == c["truth"] for c, a in zip(cases, answers)) / len(cases)

ASSIGNMENT = Assignment(
    title="Tiny & small",
    minutes=5,
    probes=[
        Probe("values", "double", "double", 4, numbers, reference=lambda x: 2 * x),
        Probe("all-or-nothing", "double", "double", 2, numbers, reference=lambda x: 2 * x,
              partial=False),
        Probe("truth", "classify", "classify", 3, images, score=accuracy, hidden=("truth",)),
    ],
    questions=[Question("why", 1, "RUBRIC-TEXT: mentions the difference")],
    forbidden=("numpy.multiply",),
)
'''


def make_assignment(folder, source=SOURCE, name="tiny"):
    """Write an assignment and return its folder."""
    folder = folder / name
    folder.mkdir(parents=True)
    (folder / "source.py").write_text(textwrap.dedent(source), encoding="utf-8")
    return folder


def load_tiny(folder, source=SOURCE):
    return load_assignment(make_assignment(folder, source))


def cases_of(loaded, probe_name, content="c0ffee", digest=None):
    """The cases that a submission's probe is asked, hidden entries included."""
    probe = next(p for p in loaded.assignment.probes if p.name == probe_name)
    return probe.cases(case_generator(digest or loaded.hash, content, probe_name))


def right_answers(loaded, content="c0ffee"):
    """Every probe's right answers, wire values."""
    return {
        "values": [encode(2 * case["x"]) for case in cases_of(loaded, "values", content)],
        "all-or-nothing": [
            encode(2 * case["x"]) for case in cases_of(loaded, "all-or-nothing", content)
        ],
        "truth": [encode(case["truth"]) for case in cases_of(loaded, "truth", content)],
    }


def make_harvest(folder, loaded, answers=None, *, content="c0ffee", questions=None, **changes):
    """Write a harvest's folder and return it.

    Args:
        answers: by probe: wire values, or a dictionary that replaces the probe's whole entry.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answers = right_answers(loaded, content) if answers is None else answers
    probes = {}
    for probe in loaded.assignment.probes:
        given = answers.get(probe.name, {"status": "missing", "answers": []})
        if isinstance(given, list):
            digest = cases_digest(cases_of(loaded, probe.name, content))
            given = {"status": "answered", "ename": None, "answers": given, "inputs": digest}
        probes[probe.name] = given
    harvest = {
        "version": 1,
        "assignment": loaded.name,
        "assignment_hash": loaded.hash,
        "submission": "ada.ipynb",
        "content_hash": content,
        "state": "ok",
        "isolation": "namespaces",
        "message": "",
        "cells": [{"exercise": "double", "status": "ok", "ename": None, "seconds": 0.1}],
        "probes": probes,
        "questions": {"why": "Why is twice more than once?\n\nMORE!"}
        if questions is None
        else questions,
        "seconds": {"total": 1.5},
        "environment": {},
    }
    (folder / "harvest.json").write_text(json.dumps(harvest | changes), encoding="utf-8")
    return folder
