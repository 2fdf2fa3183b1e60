"""Values that cross the sandbox's wall, and what is refused."""

import base64
import json
import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from labkit.grading.execution.codec import CodecError, decode, dumps, encode, loads

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=20,
)


def crossed(value, **options):
    return decode(loads(dumps(encode(value)), 10**9), **options)


@given(PLAIN)
def test_plain_values_arrive_as_they_were(value):
    arrived = crossed(value)
    assert arrived == value
    assert repr(arrived) == repr(value)  # 1 is not 1.0, nor True; a tuple is not a list


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_lacks(value):
    assert repr(crossed([value])) == repr([value])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_and_tensors_keep_shape_and_dtype(dtype, shape):
    array = (np.arange(math.prod(shape)) % 2).reshape(shape).astype(dtype)
    tensor = torch.from_numpy(array.copy())
    for value in (array, tensor):
        arrived = crossed(value)
        assert type(arrived) is np.ndarray
        assert arrived.dtype == array.dtype
        np.testing.assert_array_equal(arrived, array)


def test_tensors_become_tensors_where_they_are_wanted():
    def tensor(array, dtype):
        return torch.from_numpy(array.copy()).to(getattr(torch, dtype))

    case = {"x": torch.tensor([1.5], dtype=torch.bfloat16), "y": np.float32(2), "z": [(1, "a")]}
    arrived = crossed(case, tensor=tensor)
    assert arrived["x"].dtype == torch.bfloat16
    assert arrived["x"].item() == 1.5
    assert arrived["y"].shape == ()
    assert arrived["z"] == [(1, "a")]


def test_awkward_tensors_arrive_as_their_values():
    base = torch.arange(6.0).reshape(2, 3)
    weight = torch.nn.Parameter(base)
    views = [base.T, base[:, ::2], weight * 1, base.to_sparse(), base.expand(2, 2, 3)]
    for view in views:
        np.testing.assert_array_equal(crossed(view), view.detach().to_dense().numpy())
    np.testing.assert_array_equal(crossed(np.arange(3, dtype=">i4")), [0, 1, 2])
    np.testing.assert_array_equal(
        crossed(np.arange(6).reshape(2, 3)[:, ::-1]), [[2, 1, 0], [5, 4, 3]]
    )


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"bytes",
        (n for n in range(3)),
        range(3),
        np.array([None]),
        np.array(["a"]),
        np.zeros(2, dtype="datetime64[s]"),
        {(1, 2): 3},
        {math.nan: 1},
        10**400,
        [0] * 300_001,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_cross(value):
    with pytest.raises(CodecError):
        encode(value)


def test_what_contains_itself_does_not_cross():
    inner = []
    inner.append(inner)
    with pytest.raises(CodecError, match="nested too deeply"):
        encode(inner)


def test_size_is_known_before_anything_is_copied():
    giants = [
        np.broadcast_to(0.0, 10**12),
        torch.zeros(1).expand(10**12),
        torch.sparse_coo_tensor(torch.zeros((1, 1), dtype=torch.long), [1.0], (10**12,)),
        torch.empty(10**12, device="meta"),
    ]
    for giant in giants:
        with pytest.raises(CodecError, match="larger than 64 MB"):
            encode(giant)
    with pytest.raises(CodecError, match="larger than"):
        encode([np.zeros(60), np.zeros(60)], budget=500)


def packed(arrays):
    return base64.b64encode(save(arrays)).decode()


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        {"value": 1},
        {"value": 1, "arrays": "", "more": 1},
        {"value": 1, "arrays": 3},
        {"value": 1, "arrays": "%%%"},
        {"value": 1, "arrays": base64.b64encode(b"PK\x03\x04").decode()},
        {"value": 1, "arrays": base64.b64encode(struct.pack("<Q", 2**60)).decode()},
        {"value": {"unknown": []}, "arrays": ""},
        {"value": {"float": "1e5"}, "arrays": ""},
        {"value": {"float": "nan", "tuple": []}, "arrays": ""},
        {"value": {"dict": [[1]]}, "arrays": ""},
        {"value": {"dict": [[[1], 2]]}, "arrays": ""},
        {"value": {"dict": [[1, 2], [1, 3]]}, "arrays": ""},
        {"value": {"ndarray": [0, "float64"]}, "arrays": ""},
        {"value": {"ndarray": [0, "int64"]}, "arrays": packed({"0": np.zeros(2)})},
        {"value": {"ndarray": ["0", "float64"]}, "arrays": packed({"0": np.zeros(2)})},
        {"value": [{"ndarray": [0, "float64"]}] * 2, "arrays": packed({"0": np.zeros(2)})},
        {"value": float("nan"), "arrays": ""},
        {"value": 10**400, "arrays": ""},
        {"value": [0] * 300_001, "arrays": ""},
        {"value": "x" * 1001, "arrays": ""},
        {"value": 1, "arrays": "A" * 2_000_000},
    ],
)
def test_payloads_that_are_none(payload):
    with pytest.raises(CodecError):
        decode(payload, budget=1000)


def test_deep_payloads():
    deep = 0
    for _ in range(40):
        deep = [deep]
    with pytest.raises(CodecError, match="nested too deeply"):
        decode({"value": deep, "arrays": ""})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "[Infinity]",
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        "1" * 10_000,
        "x" * 20_001,
        b"1",
        None,
        {"a": 1},
    ],
    ids=range(11),
)
def test_texts_that_are_no_json(text):
    with pytest.raises(CodecError):
        loads(text, 20_000)


def test_an_encoding_is_one_line_of_plain_json():
    text = dumps(encode({"a": torch.ones(2), "b": [1, 2.0]}))
    assert "\n" not in text
    assert json.loads(text)["value"] == {
        "dict": [["a", {"tensor": [0, "float32"]}], ["b", [1, 2.0]]]
    }
