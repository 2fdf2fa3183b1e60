import math
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labkit.grading.authoring.probes import Tolerance
from labkit.grading.scoring.comparison import describe_type, find_mismatch

EXACT = Tolerance()
HALF = np.array([[0.5, 0.25], [1.0, 2.0]])


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (1, 1.0),
        (1.0, 1),
        (True, 1),
        (1, True),
        (np.float64(2), 2),
        (np.array([2.0]), 2.0),
        (np.array([[2]]), 2),
        (HALF.astype(np.float32), HALF),
        (HALF.astype(np.float16), torch.from_numpy(HALF)),
        (HALF.tolist(), HALF),
        (tuple(map(tuple, HALF.tolist())), HALF),
        (HALF, torch.from_numpy(HALF).to(torch.bfloat16)),
        (HALF, torch.from_numpy(HALF).requires_grad_()),
        (HALF, HALF.tolist()),
        (np.array([1, 0, 1], np.uint8), np.array([True, False, True])),
        (np.array([1.0, 0.0]), np.array([True, False])),
        (np.array([True, False]), np.array([1, 0])),
        (np.array([3.0, 4.0]), np.array([3, 4], np.int32)),
        (np.array([3, 4], np.int16), np.array([3, 4])),
        (np.array([np.nan, np.inf, -np.inf]), np.array([np.nan, np.inf, -np.inf])),
        (np.zeros((0, 4)), np.zeros((0, 4), np.float32)),
        ([], np.zeros(0)),
        ("text", "text"),
        (None, None),
        ([1, [2.0, None]], (1, (2, None))),
        ({"a": 1, "b": [HALF]}, {"b": (HALF,), "a": 1.0}),
        ({1: 2, (2 == 2): 2}, {1: 2}),
    ],
)
def test_right_whatever_the_type(answer, reference):
    assert find_mismatch(answer, reference, EXACT) is None


def test_the_tolerance_is_relative_to_the_reference():
    assert find_mismatch(1.05, 1.0, Tolerance(rtol=0.1, atol=0.0)) is None
    assert find_mismatch(1.15, 1.0, Tolerance(rtol=0.1, atol=0.0)) is not None


@pytest.mark.parametrize(
    ("answer", "reference", "reason"),
    [
        (2.0, 1.0, "largest difference 1 to 10, allowed 1e-6 + 1e-5 × |value|"),
        (3, 4, "a different value"),
        (0.999999, 1, "a different value"),
        (False, True, "a different value"),
        (float("nan"), 1.0, "NaN"),
        (float("inf"), 1.0, "infinite or undefined"),
        (1.0, float("inf"), "infinite or undefined"),
        (-float("inf"), float("inf"), "infinite or undefined"),
        (1.0, float("nan"), "infinite or undefined"),
        ("1", 1, "a text instead of a number"),
        (None, 1, "None instead of a number"),
        (1, None, "a number instead of None"),
        (1, "x", "a number instead of a text"),
        ("y", "x", "a different text"),
        (np.zeros((3, 7)), np.zeros((3, 7, 7)), "shape (3, 7) instead of (3, 7, 7)"),
        (np.zeros(2), 0.0, "shape (2,) instead of ()"),
        (0.0, np.zeros(1), "shape () instead of (1,)"),
        ([[1], [1, 2]], np.zeros((2, 2)), "a list of length 2 instead of an array of shape (2, 2)"),
        (1 + 2j, 1.0, "a value of type complex instead of a number"),
        (np.array([1j]), np.zeros(1), "type complex128 instead of an array of shape (1,)"),
        (10**400, 1.0, "a whole number beyond 64 bits instead of a number"),
        (
            np.array([1.0, 2.0, 9.5]),
            np.array([1.0, 2.0, 3.0]),
            "allowed 1e-6 + 1e-5 × |value| (different in 1 of 3 places)",
        ),
        (np.array([1, 0]), np.array([1, 2]), "different in 1 of 2 places"),
        (np.array([255, 0]), np.array([True, False]), "different in 1 of 2 places"),
        (np.array([np.nan, 0.0]), np.array([1.0, np.nan]), "NaN in 1 of 2 places"),
        (np.array([np.inf, 0.0]), np.zeros(2), "infinite or undefined in 1 of 2 places"),
        ([1], [1, 2], "length 1 instead of 2"),
        (7, [1, 2], "a number instead of a list"),
        ([1, [2, 4]], [1, [2, 3]], "entry 2: entry 2: a different value"),
        (3, {"a": 1}, "a number instead of a dictionary"),
        ({"b": 1}, {"a": 1}, "the entry 'a' is missing"),
        ({}, {7: 1, 8: 2}, "entries are missing"),
        ({"a": 1, "b": 2}, {"a": 1}, "2 entries instead of 1"),
        ({"a": 2}, {"a": 1}, "entry 'a': a different value"),
        ({7: 2}, {7: 1}, "an entry: a different value"),
        (object(), 1.0, "a value of type object instead of a number"),
        (iter([1.0]), np.zeros(1), "a value of type list_iterator instead of an array"),
    ],
)
def test_wrong_with_a_reason(answer, reference, reason):
    found = find_mismatch(answer, reference, EXACT)
    assert found is not None
    assert reason in found


def test_a_number_of_the_answer_or_the_reference_is_never_told():
    reference = np.array([1234.5, 77.25])
    for answer in (reference * 0, reference[:1], reference * 3, reference.astype(str), "x"):
        found = find_mismatch(answer, reference, EXACT)
        assert found
        assert not any(secret in found for secret in ("12", "77", "37", "25", "24"))


def test_half_precision_is_judged_by_its_own_rounding():
    reference = np.linspace(0.1, 10, 50)
    assert find_mismatch(reference.astype(np.float16), reference, EXACT) is None
    assert find_mismatch((reference * 1.01).astype(np.float16), reference, EXACT)
    assert find_mismatch((reference * 1.001).astype(np.float32), reference, EXACT)


@given(
    hnp.arrays(np.float64, hnp.array_shapes(max_side=4), elements=st.floats(-1e6, 1e6)),
    st.floats(1e-9, 1e-3),
    st.floats(1e-12, 1e-3),
)
def test_tolerance_is_the_documented_sum(reference, rtol, atol):
    tolerance = Tolerance(rtol, atol)
    allowed = atol + rtol * np.abs(reference)
    assert find_mismatch(reference + 0.99 * allowed, reference, tolerance) is None
    off = reference + 1.01 * allowed + 1e-6
    assert find_mismatch(off, reference, tolerance) is not None


Pair = namedtuple("Pair", "a b")


class Liar:
    """Says yes to everything, as in an attack that once worked."""

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no array")

    def __len__(self):
        raise RuntimeError("no length")


class Odd(dict):
    def __contains__(self, key):
        return True

    def __getitem__(self, key):
        raise KeyError(key)


def recursive():
    loop = []
    loop.append(loop)
    return loop


def deep():
    value = 1.0
    for _ in range(5000):
        value = [value]
    return value


ODD = [
    Liar(),
    Odd(a=1),
    recursive(),
    deep(),
    Pair(1, 2),
    (number for number in range(3)),
    np.array([{}, None], dtype=object),
    np.array(["a", "b"]),
    np.array([(1, 2.0)], dtype=[("x", int), ("y", float)]),
    np.datetime64("2020-01-01"),
    np.array(["NaT"], dtype="timedelta64[s]"),
    np.broadcast_to(np.float32(0), (10_000, 10_000, 100)),
    np.ma.masked_array([1.0, 2.0], mask=[True, False]),
    range(10**12),
    b"bytes",
    {1, 2},
    type,
    lambda: 1,
    10**5000,
    math.nan,
    complex("nan"),
    "\ud800",
    "x" * 100_000,
    {Liar(): 1},
]
REFERENCES = [
    0.0,
    1,
    True,
    None,
    "text",
    HALF,
    np.zeros((0, 3)),
    np.array([True, False]),
    torch.arange(6).reshape(2, 3),
    [1.0, 2.0],
    (1, "a", None),
    {"a": 1},
    {1: HALF, "b": {}},
    [[[[1.0]]]],
]


@pytest.mark.parametrize("reference", REFERENCES, ids=describe_type)
@pytest.mark.parametrize("answer", ODD, ids=lambda value: type(value).__name__)
def test_odd_answers_are_wrong_and_never_crash(answer, reference):
    found = find_mismatch(answer, reference, EXACT)
    assert isinstance(found, str)
    assert 0 < len(found) < 400


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | hnp.arrays(
        hnp.scalar_dtypes(),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    )
    | st.integers(0, len(ODD) - 1).map(lambda index: ODD[index]),  # some cannot be shown
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(plain, st.sampled_from(REFERENCES))
def test_no_answer_whatever_crashes_it(answer, reference):
    found = find_mismatch(answer, reference, EXACT)
    assert found is None or (isinstance(found, str) and found)


@pytest.mark.parametrize("reference", REFERENCES, ids=describe_type)
def test_every_reference_equals_itself(reference):
    assert find_mismatch(reference, reference, EXACT) is None or isinstance(reference, torch.Tensor)


def test_a_reference_that_cannot_be_compared_is_the_instructors_mistake():
    for reference in (object(), 1j, {(1, 2): 3}, [{"a": {1, 2}}]):
        with pytest.raises(TypeError):
            find_mismatch(1.0, reference, EXACT)
