"""Files of other projects: arrays come out, and nothing else can."""

import argparse
import os
import pickle
import resource
import struct
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from labkit.checkpoints.safe_unpickle import read_pickle, read_state_dict, read_torch
from labkit.errors import LabkitError


@pytest.fixture
def write(tmp_path):
    def write(content, protocol=2):
        path = tmp_path / "weights.pkl"
        if not isinstance(content, bytes):
            content = pickle.dumps(content, protocol)
        path.write_bytes(content)
        return path

    return write


# What is read


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_a_dictionary_of_arrays(write, protocol):
    weights = OrderedDict(
        matrix=np.arange(6, dtype=np.float32).reshape(2, 3),
        transposed=np.arange(6, dtype=np.float32).reshape(2, 3).T,
        half=np.array([0.5, -2], np.float16),
        big_endian=np.array([1.5, 2.5], ">f4"),
        counts=np.array([1, 2**40]),
        flags=np.array([True, False]),
        nothing=np.zeros((0, 3), np.float32),
        single=np.array(3.0, np.float32),
        scalar=np.float32(0.25),
    )
    content = {"model": weights, "__author__": "Zoë", "steps": [1, 2.5, None, (True,)]}
    read = read_pickle(write(content, protocol))
    assert read["__author__"] == "Zoë"
    assert read["steps"] == [1, 2.5, None, (True,)]
    assert list(read["model"]) == list(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(read["model"][name], array)
        assert read["model"][name].dtype == array.dtype.newbyteorder("=")
    read["model"]["matrix"] += 1  # writable, as torch.from_numpy wants it


PLAIN = st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<i8", "<i4", "|u1", "|b1"])


@given(arrays.arrays(PLAIN, arrays.array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_arrays_as_numpy_reads_them(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("pickle") / "array.pkl"
    path.write_bytes(pickle.dumps([array, array], 2))
    for read in read_pickle(path):
        np.testing.assert_array_equal(read, array)
        assert read.shape == array.shape


def python2(array):
    """An array as Python 2 and NumPy 1 pickled it: bytes are strings, the old module path."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    kind = b"cnumpy\ndtype\n(" + text(b"f4") + b"K\x00K\x01tR(K\x03" + text(b"<") + b"NNN"
    kind += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    shape = b"(" + b"".join(b"K" + bytes([n]) for n in array.shape) + b"t"
    return b"\x80\x02" + start + b"(K\x01" + shape + kind + b"\x89" + text(array.tobytes()) + b"tb."


def test_what_python_2_wrote(write):
    array = np.array([[1.5, -200.25, 3e9]], "<f4")  # bytes beyond 127 among them
    path = write(python2(array))
    np.testing.assert_array_equal(pickle.loads(path.read_bytes(), encoding="latin1"), array)
    np.testing.assert_array_equal(read_pickle(path), array)


def test_tensors(tmp_path):
    for legacy in (False, True):
        path = tmp_path / "weights.pth"
        content = {"model": OrderedDict(a=torch.arange(3.0)), "iteration": 5}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        read = read_torch(path)
        assert read["iteration"] == 5
        assert torch.equal(read["model"]["a"], torch.arange(3.0))


OPTIONS = argparse.Namespace(lr=0.1, sizes=[1, 2], name="a", inner=argparse.Namespace(b=None))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_options_of_a_training_script_are_read(write, tmp_path, protocol):
    found = read_pickle(write({"model": {"a": np.zeros(2)}, "args": OPTIONS}, protocol))
    assert found["args"] == OPTIONS
    path = tmp_path / "weights.pth"
    for legacy in (False, True):
        content = {"model": {"a": torch.zeros(2)}, "args": OPTIONS}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        assert read_torch(path)["args"] == OPTIONS


def test_options_cannot_hide_code(write, tmp_path):
    marker = tmp_path / "marker"
    evil = argparse.Namespace(x=Runs(os.mkdir, str(marker)))
    with pytest.raises(LabkitError, match=rf"refused: it asks for {os.name}\.mkdir"):
        read_pickle(write({"args": evil}))
    torch.save({"args": evil}, tmp_path / "weights.pth")
    with pytest.raises(LabkitError, match=rf"refused: it asks for {os.name}\.mkdir"):
        read_torch(tmp_path / "weights.pth")
    assert not marker.exists()


STATE = {"a.weight": torch.zeros(2), "b": torch.ones(1)}


def prefixed(*words):
    return {"".join(words) + name: value for name, value in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"model": STATE},
        {"state_dict": STATE, "epoch": 3},
        {"model_state_dict": OrderedDict(STATE), "optimizer": {"state": {}}, "args": OPTIONS},
        prefixed("module."),
        {"model": prefixed("module.")},
        prefixed("_orig_mod."),
        prefixed("module.", "_orig_mod."),
        prefixed("_orig_mod.", "module."),
    ],
)
def test_a_state_dict_as_people_save_it(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    found = read_state_dict(tmp_path / "weights.pth")
    assert list(found) == list(STATE)
    assert all(torch.equal(value, STATE[name]) for name, value in found.items())


def test_names_that_only_some_have_are_no_wrapper(tmp_path):
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    torch.save(state, tmp_path / "weights.pth")
    assert list(read_state_dict(tmp_path / "weights.pth")) == ["module.a", "b"]


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"model": {"a": 1}}, {"model": [1]}])
def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(LabkitError, match=r"weights\.pth: holds no state dict.*torch\.save"):
        read_state_dict(tmp_path / "weights.pth")


# What is refused


class Runs:
    """Calls ``function`` when it is unpickled freely."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hidden(evil, array):
    deep = {"a": array, "b": [{"c": (array, evil)}]}
    return {"alone": evil, "deep": deep, "last": {**{f"w{i}": array for i in range(50)}, "x": evil}}


@pytest.mark.parametrize("where", ["alone", "deep", "last"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_and_does_not_run(write, tmp_path, where, protocol):
    marker = tmp_path / "marker"
    path = write(hidden(Runs(os.mkdir, str(marker)), np.zeros(3, np.float32))[where], protocol)
    with pytest.raises(LabkitError, match=rf"weights\.pkl: refused: it asks for {os.name}\.mkdir"):
        read_pickle(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())  # the attack is real
    assert marker.exists()


@pytest.mark.parametrize("where", ["alone", "deep", "last"])
def test_code_among_tensors_is_refused_and_does_not_run(tmp_path, where):
    path, marker = tmp_path / "weights.pth", tmp_path / "marker"
    torch.save(hidden(Runs(os.mkdir, str(marker)), torch.zeros(3))[where], path)
    with pytest.raises(LabkitError, match=rf"weights\.pth: refused: it asks for {os.name}\.mkdir"):
        read_torch(path)
    assert not marker.exists()


def stack_global(module, name):
    """The pickle of a global by protocol 4, where a name may have dots."""
    texts = (b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name))
    return b"\x80\x04" + b"".join(texts) + b"\x93."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "f2py"),
        ("numpy", "fromfile"),
        ("numpy", "load"),
        ("numpy", "dtype.__reduce__"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy._core.multiarray", "_reconstruct.__self__"),
        ("_codecs", "lookup"),
        ("_codecs", "encode.__class__"),
        ("collections", "OrderedDict.__init__"),
        ("collections", "namedtuple"),
        ("collections", "abc.sys"),
        ("labkit.checkpoints.safe_unpickle", "pickle"),
        ("builtins", "getattr"),
        ("", "numpy"),
    ],
)
def test_other_names_of_the_same_modules_are_refused(write, module, name):
    with pytest.raises(LabkitError, match="refused: it asks for ") as refusal:
        read_pickle(write(stack_global(module, name)))
    assert f"{module}.{name}," in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [
        {"w": np.array(["text", None], object)},
        {"w": np.array(["text"])},
        {"w": np.zeros(2, [("a", "f4"), ("b", "O")])},
        {"w": np.array(["2020-01-01"], "datetime64[D]")},
    ],
    ids=["objects", "text", "structure", "dates"],
)
def test_only_numbers(write, content):
    with pytest.raises(LabkitError, match=r"weights\.pkl: .*it holds an array of"):
        read_pickle(write(content))


def test_a_name_in_the_place_of_a_value(write):
    for module, name in (("numpy", "ndarray"), ("_codecs", "encode"), ("numpy", "dtype")):
        with pytest.raises(LabkitError, match="it holds a function in the place of a value"):
            read_pickle(write(stack_global(module, name)))


def test_a_forged_length_is_refused(write):
    content = python2(np.zeros((2, 3), np.float32))
    content = content.replace(b"K\x02K\x03t", b"K\x02K\x04t")
    with pytest.raises(LabkitError, match=r"24 bytes for an array \(2, 4\) of float32"):
        read_pickle(write(content))


def test_a_forged_type_is_refused(write):
    """Of a type that claims to hold objects NumPy would follow the bytes as addresses."""
    kind = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8I00\nI01\ntR"  # a copy, which may be changed
    forged = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    with_objects = b"\x80\x03" + start + b"(K\x01(K\x01t" + kind + forged + b"\x89](K\x01etb."
    with pytest.raises(LabkitError, match="it holds an array of objects"):
        read_pickle(write(with_objects))


def test_other_codecs_are_not_looked_up(write):
    call = b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00bz2tR."
    with pytest.raises(LabkitError, match="bytes encoded as 'bz2'"):
        read_pickle(write(call))


def test_a_reference_to_outside(write):
    with pytest.raises(LabkitError, match="it refers to objects outside itself"):
        read_pickle(write(b"\x80\x02X\x01\x00\x00\x00aQ."))


@pytest.mark.parametrize("read", [read_pickle, read_torch])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; fetch it again"),
        (b"\n<!DOCTYPE html><html>", "this is a web page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "this is a text file"),
        (bytes(range(256)), "damaged or not a "),
    ],
    ids=["empty", "page", "text", "noise"],
)
def test_other_files(write, read, content, message):
    with pytest.raises(LabkitError, match=rf"weights\.pkl: {message}"):
        read(write(content))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_file(write, tmp_path, share):
    whole = write({f"w{i}": np.ones(100, np.float32) for i in range(20)}).read_bytes()
    with pytest.raises(LabkitError, match=r"damaged or not a pickle .*; fetch it again"):
        read_pickle(write(whole[: int(len(whole) * share)]))
    torch.save({"model": {"a": torch.ones(1000)}}, tmp_path / "weights.pth")
    whole = (tmp_path / "weights.pth").read_bytes()
    with pytest.raises(LabkitError, match=r"damaged or not a file of torch\.save"):
        read_torch(write(whole[: int(len(whole) * share)]))


@pytest.mark.parametrize("read", [read_pickle, read_torch])
def test_no_file(tmp_path, read):
    with pytest.raises(LabkitError, match=r"none\.pkl: cannot be read: No such file"):
        read(tmp_path / "none.pkl")
    with pytest.raises(LabkitError, match="cannot be read: Is a directory"):
        read(tmp_path)


# What a small file could make large


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"X\xff\xff\xff\x7f", "damaged or not a pickle"),  # a text of 2 GB
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x00.", "damaged or not a pickle"),
        (b"\x96\x00\x00\x00\x00\x01\x00\x00\x00.", "it holds a byte array"),  # of 4 GB
        (b"]q\x00h\x00a.", "maximum recursion depth exceeded"),  # a list in itself
        (b"]" * 100_000 + b"a" * 99_999 + b".", "maximum recursion depth exceeded"),
    ],
)
def test_a_few_bytes_that_promise_much(write, content, message):
    with pytest.raises(LabkitError, match=rf"weights\.pkl: .*{message}"):
        read_pickle(write(b"\x80\x04" + content))


def test_a_file_of_eight_bytes_takes_no_gigabytes(write):
    """The number 268,435,455 of a remembered object: C's unpickler makes room for as many."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_pickle(write(b"\x80\x04}r\xff\xff\xff\x0f.")) == {}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 2**20  # KiB or, on macOS, bytes: C's took 4 GiB
    assert grown < 100 * 2**10 or sys.platform == "darwin"


def test_lists_that_hold_each_other_twice_are_converted_once(write):
    """Forty lists, and 2^40 ways through them."""
    inner = [np.ones(2, np.float32)]
    for _ in range(40):
        inner = [inner, inner]
    read = read_pickle(write({"model": inner}))["model"]
    assert read[0] is read[1]
