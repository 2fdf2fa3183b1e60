"""labkit's own weights: back as they were, or one message that names the file."""

import json
import struct

import pytest
import torch
from torch import nn

from labkit.checkpoints.weights import (
    load_training_state,
    load_weights,
    save_training_state,
    save_weights,
)
from labkit.errors import LabkitError


def model(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, outputs, 1), nn.BatchNorm2d(outputs))


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(**changes):
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


def test_weights_come_back_as_they_were(tmp_path):
    saved, loaded = model(), model()
    with torch.no_grad():
        for value in saved.parameters():
            value.add_(1)
    save_weights(tmp_path / "a.safetensors", saved)
    load_weights(tmp_path / "a.safetensors", loaded)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\0\0",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        file_of(b"not JSON"),
        file_of(b"\xff\xfe"),
        file_of(b"[" * 100_000),
        file_of([]),
        file_of({"a": None}),
        file_of({"a": tensor(dtype="F31")}, bytes(8)),
        file_of({"a": tensor(shape=[-2])}, bytes(8)),
        file_of({"a": tensor(shape=[2**40, 2**40])}, bytes(8)),
        file_of({"a": tensor(shape=[3])}, bytes(8)),
        file_of({"a": tensor(data_offsets=[8, 0])}, bytes(8)),
        file_of({"a": tensor(data_offsets=[0, 2**62])}, bytes(8)),
        file_of({"a": tensor()}, bytes(7)),
        file_of({"a": tensor()}, bytes(9)),
        file_of({"a": tensor(), "b": tensor()}, bytes(8)),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    with pytest.raises(LabkitError, match=r"damaged\.safetensors: not a complete safetensors file"):
        load_weights(path, model())


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_file_cut_off_is_refused(tmp_path, share):
    path = tmp_path / "half.safetensors"
    save_weights(path, model())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    untouched = model()
    with pytest.raises(LabkitError, match=r"half\.safetensors: .*; copy or download it again"):
        load_weights(path, untouched)
    for name, value in model().state_dict().items():
        assert torch.equal(untouched.state_dict()[name], value)


def test_a_pickle_of_the_same_name_runs_nothing_and_is_refused(tmp_path):
    torch.save(model().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(LabkitError, match=r"a\.safetensors: not a complete safetensors file"):
        load_weights(tmp_path / "a.safetensors", model())


def test_no_file_or_a_folder(tmp_path):
    with pytest.raises(LabkitError, match=r"gone\.safetensors: no such weights file"):
        load_weights(tmp_path / "gone.safetensors", model())
    with pytest.raises(LabkitError, match="not a complete safetensors file"):
        load_weights(tmp_path, model())


def test_weights_of_another_model(tmp_path):
    save_weights(tmp_path / "a.safetensors", model())
    with pytest.raises(LabkitError, match=r"(?s)a\.safetensors: .*another model.*size mismatch"):
        load_weights(tmp_path / "a.safetensors", model(outputs=4))
    with pytest.raises(LabkitError, match=r"(?s)another model.*Missing key"):
        load_weights(tmp_path / "a.safetensors", nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("losses", "right"),
    [
        ({}, True),
        ({"a": [1.0, 2.0], "total": [1.0, 2.0]}, True),
        ({"total": []}, False),
        ({"a": [1.0], "total": [1.0, 2.0]}, False),
        ({"a": [], "total": [1.0]}, False),
    ],
)
def test_losses_are_of_the_same_steps(tmp_path, losses, right):
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    state = network, optimizer, torch.amp.GradScaler("cpu"), {}
    save_training_state(tmp_path / "last.pt", *state, losses, {})
    if right:
        assert load_training_state(tmp_path / "last.pt", *state) == (losses, {})
    else:
        with pytest.raises(LabkitError, match=r"last\.pt: damaged; .*not of the same steps"):
            load_training_state(tmp_path / "last.pt", *state)
