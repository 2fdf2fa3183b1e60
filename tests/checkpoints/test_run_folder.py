"""The folder of a run whose files were changed, cut off, or are somebody else's."""

import json

import pytest
import torch
from torch import nn

from labkit.checkpoints import torchvision
from labkit.checkpoints.key_map import KeyMap
from labkit.checkpoints.run_folder import (
    STATE,
    WEIGHTS,
    Run,
    load_run,
    modules_of,
    read_run,
    save_run,
    start_from,
)
from labkit.checkpoints.weights import (
    load_training_state,
    save_training_state,
    save_weights,
)
from labkit.errors import LabkitError
from labkit.models.presets import PRESETS
from labkit.structures import Categories, Category

CATEGORIES = Categories([Category(1, "thing", True), Category(2, "stuff", False)])
RUN = Run("fcn8_tiny", CATEGORIES, "shapes", "train", None, (), {"steps": 3})


@pytest.fixture
def run(tmp_path):
    save_run(tmp_path, RUN)
    save_weights(tmp_path / WEIGHTS, RUN.build())
    return tmp_path


def change(run, **fields):
    path = run / "run.json"
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


DAMAGED = "damaged, or of another version of labkit: "


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": 1}, f'{DAMAGED}"preset" is 1; it must be a text'),
        ({"data": ...}, f'{DAMAGED}"data" is missing'),
        ({"split": []}, rf'{DAMAGED}"split" is \[\]'),
        ({"short_side": True}, f'{DAMAGED}"short_side" is true; it must be a whole number or null'),
        ({"short_side": 2.5}, f'{DAMAGED}"short_side" is 2.5'),
        ({"init": 3}, f'{DAMAGED}"init" is 3; it must be a list'),
        # As before several --init were possible.
        (
            {"init": None},
            rf'{DAMAGED}"init" is null; it must be a list.* or \[\] for random weights\. Correct',
        ),
        (
            {"init": "imagenet"},
            rf'{DAMAGED}"init" is the text "imagenet"; it must be a list, such as \["imag',
        ),
        ({"train": None}, f'{DAMAGED}"train" is null; it must be an object'),
        ({"categories": 3}, f'{DAMAGED}"categories" is 3; it must be a list'),
        ({"categories": [3]}, r"categories\[0\]: is 3, it must be an object"),
        ({"categories": [{"id": "a/b", "name": "x", "isthing": 1}]}, '"id" is the text "a/b"'),
        ({"categories": [{"id": 1, "name": "x"}]}, '"isthing" is missing'),
        ({"categories": [{"id": 1, "name": None, "isthing": 1}]}, '"name" is null'),
        ({"categories": [{"id": 1e400, "name": "x", "isthing": 1}]}, '"id" is Infinity'),
        ({"more": 1}, 'written by another version of labkit: it has "more"'),
    ],
)
def test_a_wrong_field_is_named(run, fields, message):
    change(run, **fields)
    for read in (read_run, load_run):
        with pytest.raises(LabkitError, match=rf"run\.json.*{message}"):
            read(run)
    with pytest.raises(LabkitError, match=r"run\.json"):  # and the run does not go on into it
        save_run(run, RUN)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "fcn9_tiny"}, "there is no preset 'fcn9_tiny'"),
        ({"short_side": 64}, "takes images as they are"),
    ],
)
def test_a_model_that_cannot_be_built_is_told_of_the_file(run, fields, message):
    change(run, **fields)
    with pytest.raises(LabkitError, match=rf"{run}: run\.json: .*{message}"):
        load_run(run)


@pytest.mark.parametrize("content", [b"[]", b"3", b"{", b"[" * 100_000, b"\xff", b"9" * 5000])
def test_what_is_no_object(run, content):
    (run / "run.json").write_bytes(content)
    with pytest.raises(LabkitError, match=r"run\.json: "):
        load_run(run)


# The state to go on from

CONFIG = {"steps": 3}


def training():
    model = nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer, torch.amp.GradScaler("cpu")


@pytest.mark.parametrize(
    "fields",
    [
        {"config": ...},
        {"config": 3},
        {"config": "["},
        {"config": "[]"},
        {"losses": ...},
        {"losses": None},
        {"losses": {"total": [None]}},
        {"losses": {"total": 3}},
        {"validation": {"val": [1.0]}},
        {"model": ...},
        {"model": {"weight": 3}},
        {"optimizer": None},
        {"optimizer": {"state": {}, "param_groups": 3}},
        {"scaler": 3},
    ],
)
def test_a_damaged_state_is_named(tmp_path, fields):
    path = tmp_path / STATE
    save_training_state(path, *training(), CONFIG, {"total": [1.0]}, {"val": {2: 0.5}})
    losses, validation = load_training_state(path, *training(), CONFIG)
    assert (losses, validation) == ({"total": [1.0]}, {"val": {2: 0.5}})
    state = {**torch.load(path, weights_only=True), **fields}
    torch.save({key: value for key, value in state.items() if value is not ...}, path)
    with pytest.raises(LabkitError, match=r"last\.pt: (damaged|holds a run of another model)"):
        load_training_state(path, *training(), CONFIG)


@pytest.mark.parametrize("content", [[1], None, "text"])
def test_a_state_that_is_no_dictionary(tmp_path, content):
    torch.save(content, tmp_path / STATE)
    with pytest.raises(LabkitError, match=r"last\.pt: damaged"):
        load_training_state(tmp_path / STATE, *training(), CONFIG)


# Weights


@pytest.mark.parametrize(
    "strange",
    [
        lambda value: value.to_sparse(),
        lambda value: value.to("meta"),
        lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    ],
    ids=["sparse", "meta", "quantized"],
)
def test_tensors_without_plain_values_are_refused(tmp_path, strange):
    """torch cannot copy them into a model, which it says with an exception of its own."""
    model = nn.Linear(2, 3)
    weights = {name: strange(value.detach()) for name, value in model.state_dict().items()}
    with pytest.raises(LabkitError, match=r"w\.pth: .*\n.*\n .*weight: the file has a tensor"):
        KeyMap((), dropped="x").load(tmp_path / "w.pth", weights, model)


def test_weights_for_images_in_other_numbers_are_refused():
    """torchvision's networks have the same names as Detectron2's, and see RGB divided by std."""
    with torch.device("meta"):
        model = PRESETS["mask_rcnn_r50"].build(CATEGORIES)
        theirs = torchvision.CONFIG.build(CATEGORIES)
    with pytest.raises(LabkitError, match=r"order RGB, mean .* this model has BGR.*R_50_FPN_3x"):
        start_from(model, theirs)


def test_modules_are_named_in_short():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.BatchNorm1d(2))
    names = list(model.state_dict())
    assert modules_of(names, model) == [""]
    assert modules_of([name for name in names if name.startswith("0.")], model) == ["0"]
    assert modules_of(["0.1.weight", "0.1.bias"], model) == ["0.1"]
    assert modules_of(["1.bias", "1.running_mean"], model) == ["1.bias", "1.running_mean"]
    assert modules_of([], model) == []
