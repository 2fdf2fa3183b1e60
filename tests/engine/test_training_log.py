"""The log of a training and validation on the way: right after an interruption, and harmless."""

import csv
import signal

import pytest
import torch
from PIL import Image
from torch import nn

from labkit.datasets.shapes import Shapes
from labkit.engine.evaluate import evaluate
from labkit.engine.train import TrainConfig, train
from labkit.engine.validation import Validation, main_metric
from labkit.errors import LabkitError
from labkit.models.semantic.fcn import FCNConfig
from labkit.structures import Categories, Category, Detections, Prediction

CONFIG = TrainConfig(steps=7, batch_size=2, warmup=2)
DATA = Shapes("train", num=8, size=32)
VALIDATION = Validation(Shapes("val", num=3, size=32), every=3, limit=2)
FILES = ("log.csv", "log.png")


class Stopped(Validation):
    """Ctrl-C while the model is measured for the second time."""

    calls = 0

    def measure(self, model):
        Stopped.calls += 1
        if Stopped.calls == 2:
            signal.raise_signal(signal.SIGINT)
        return super().measure(model)


def model_of(seed=0):
    torch.manual_seed(seed)
    return FCNConfig(widths=(16, 16, 16, 16), blocks=(1, 1, 1, 1), stride=8).build(DATA.categories)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in one go: its folder, model and history."""
    out, model = tmp_path_factory.mktemp("whole"), model_of()
    return out, model, train(model, DATA, CONFIG, out=out, validation=VALIDATION)


def test_a_row_a_step_with_every_loss_and_what_was_measured(whole):
    out, model, history = whole
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "lr", "loss_sem_seg", "total", "val_mIoU"]
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    rates = [CONFIG.lr_at(step) for step in range(7)]
    assert [float(row["lr"]) for row in rows] == pytest.approx(rates, rel=1e-5)
    assert all(len(row["lr"]) <= 11 for row in rows)  # no digits that only binary floats have
    for name in ("loss_sem_seg", "total"):
        assert [float(row[name]) for row in rows] == history.losses[name]
    assert [bool(row["val_mIoU"]) for row in rows] == [False, False, True, False, False, True, True]
    measured = evaluate(model, VALIDATION.dataset, 2, progress=False).semantic.miou
    assert float(rows[-1]["val_mIoU"]) == measured == history.validation["mIoU"][7]
    with Image.open(out / "log.png") as picture:
        assert picture.size[0] > 600


def test_validation_changes_neither_weights_nor_random_numbers(whole):
    _, measured, _ = whole
    alone = model_of()
    history = train(alone, DATA, CONFIG)
    assert history.validation == {}
    assert same(measured, alone)


@pytest.mark.parametrize("moment", [1, 3, 4, "validation"])
def test_an_interrupted_run_ends_with_the_same_files(whole, tmp_path, moment):
    out, model, history = whole
    validation = VALIDATION
    if moment == "validation":
        Stopped.calls = 0
        validation = Stopped(VALIDATION.dataset, 3, 2)

    def interrupt(step, losses):
        if step + 1 == moment:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(model_of(), DATA, CONFIG, out=tmp_path, validation=validation, on_step=interrupt)
    done = 6 if moment == "validation" else moment
    assert len((tmp_path / "log.csv").read_text().splitlines()) == done + 1
    assert (tmp_path / "log.png").is_file()
    resumed = model_of(1)
    again = train(resumed, DATA, CONFIG, out=tmp_path, validation=VALIDATION)
    assert same(model, resumed)
    assert again == history
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_steps_that_a_killed_run_did_after_its_checkpoint_are_not_in_the_log_twice(
    whole, tmp_path, monkeypatch
):
    monkeypatch.setattr("labkit.engine.training_run.CHECKPOINT_EVERY", 2)

    def crash(step, losses):
        if step == 5:
            raise RuntimeError("the machine went down")

    with pytest.raises(RuntimeError):
        train(model_of(), DATA, CONFIG, out=tmp_path, validation=VALIDATION, on_step=crash)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 6
    with (tmp_path / "log.csv").open("a") as file:
        file.write("half a li")
    train(model_of(1), DATA, CONFIG, out=tmp_path, validation=VALIDATION)
    assert (tmp_path / "log.csv").read_bytes() == (whole[0] / "log.csv").read_bytes()
    train(model_of(1), DATA, CONFIG, out=tmp_path, validation=VALIDATION)  # of a finished run
    assert (tmp_path / "log.csv").read_bytes() == (whole[0] / "log.csv").read_bytes()


def test_data_that_do_not_fit_are_refused_before_the_first_step(tmp_path):
    other = Shapes("val", num=1, size=32)
    other.categories = Categories([Category(1, "cat", True)])
    steps = []
    with pytest.raises(LabkitError, match="no images to measure on"):
        train(
            model_of(), DATA, CONFIG, out=tmp_path, validation=Validation(Shapes("val", 0), 3),
            on_step=lambda step, _: steps.append(step),
        )  # fmt: skip
    model = model_of()
    model.categories = DATA.categories
    with pytest.raises(LabkitError, match="the model knows"):
        train(model, DATA, CONFIG, out=tmp_path, validation=Validation(other, 3))
    assert not steps
    assert not list(tmp_path.iterdir())
    with pytest.raises(LabkitError, match=r"Validation\.every must be positive, got 0"):
        Validation(other, 0)


def test_a_log_that_cannot_be_written(tmp_path):
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(LabkitError, match=r"log\.csv: cannot be written"):
        train(model_of(), DATA, CONFIG, out=tmp_path)


class Answers(nn.Module):
    """The ground truth, or parts of it."""

    def __init__(self, dataset, *parts):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.categories, self.dataset, self.parts = dataset.categories, dataset, parts

    def forward(self, images):
        target = self.dataset[0][1]
        masks = target["masks"] if "masks" in self.parts else None
        scores = torch.ones(len(target["boxes"]))
        found = Detections(target["boxes"], scores, target["labels"], masks)
        return [
            Prediction(
                found if "boxes" in self.parts else None,
                target["semantic"] if "semantic" in self.parts else None,
                target["panoptic"] if "panoptic" in self.parts else None,
            )
            for _ in images
        ]


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("boxes", "masks", "semantic", "panoptic"), "PQ"),
        (("boxes", "masks", "semantic"), "mask AP"),
        (("boxes",), "box AP"),
        (("semantic",), "mIoU"),
    ],
)
def test_the_main_metric(parts, name):
    data = Shapes("val", num=1, size=64)
    result = evaluate(Answers(data, *parts), data, progress=False)
    assert main_metric(result) == (name, pytest.approx(1))
    assert Validation(data, 1).metric(Answers(data, *parts)) == name
