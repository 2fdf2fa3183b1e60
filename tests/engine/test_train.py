"""The loop: schedules, resuming to the same weights, data parallel, and its refusals."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch
import torch.distributed as dist
from helpers.distributed_worker import CONFIG as CONFIG_OF_WORKER
from helpers.distributed_worker import run
from helpers.paths import TESTS
from helpers.pretended_gpu import pretended_gpu
from torch import nn

from labkit.checkpoints.weights import load_weights
from labkit.datasets.shapes import Shapes
from labkit.engine.evaluate import evaluate
from labkit.engine.train import TrainConfig, _optimizer, train
from labkit.errors import LabkitError
from labkit.models import build
from labkit.models.detr.criterion import SetTargets, mean_count
from labkit.models.presets import PRESETS
from labkit.structures import Panoptic
from labkit.system.distributed import sum_over_processes


class Ramps(torch.utils.data.Dataset):
    """A toy task with random augmentation: the target is the mean of a randomly mirrored image."""

    def __init__(self, size=24):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        image = (torch.arange(48).reshape(3, 4, 4) * (index + 1) % 256).to(torch.uint8)
        if torch.rand(()) < 0.5:
            image = image.flip(-1) + 1
        return image, {"image_id": index, "y": image.float().mean() / 255}


class Regressor(nn.Module):
    """Mean-squared error of a small network with dropout, which draws random numbers itself."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(48, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, images, targets):
        x = torch.stack([i.float().flatten() / 255 for i in images])
        y = torch.stack([t["y"] for t in targets])
        return {"loss_mse": (self.net(x)[:, 0] - y).square().mean()}


def _model():
    torch.manual_seed(3)
    return Regressor()


def _same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


CONFIG = TrainConfig(steps=30, batch_size=4, lr=1e-2, warmup=5)


def test_schedules_by_hand():
    cosine = TrainConfig(steps=110, lr=1.0, warmup=10)
    assert [cosine.lr_at(t) for t in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert cosine.lr_at(60) == pytest.approx(0.5)
    assert cosine.lr_at(109) < 0.001
    step = TrainConfig(steps=100, lr=1.0, warmup=0, schedule="step", milestones=(60, 80))
    assert [step.lr_at(t) for t in (59, 60, 79, 80)] == pytest.approx([1.0, 0.1, 0.1, 0.01])


def test_training_learns_and_repeats_exactly():
    first, second = _model(), _model()
    history = train(first, Ramps(), CONFIG)
    train(second, Ramps(), CONFIG)
    assert _same(first, second)
    losses = history.losses["loss_mse"]
    assert len(losses) == 30
    assert sum(losses[-5:]) < sum(losses[:5])
    other = _model()
    train(other, Ramps(), TrainConfig(**{**CONFIG.__dict__, "seed": 1}))
    assert not _same(first, other)


def test_workers_do_not_change_the_result():
    alone, helped = _model(), _model()
    train(alone, Ramps(), CONFIG)
    train(helped, Ramps(), TrainConfig(**{**CONFIG.__dict__, "workers": 2}))
    # Only the settings differ, not the batches: same images, same augmentation, same dropout.
    assert _same(alone, helped)


def test_ctrl_c_finishes_the_step_and_the_resumed_run_ends_with_the_same_weights(tmp_path):
    whole, stopped = _model(), _model()
    full = train(whole, Ramps(), CONFIG)

    def interrupt(step, losses):
        if step == 12:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 13 of 30"):
        train(stopped, Ramps(), CONFIG, out=tmp_path, on_step=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = Regressor()  # a new process starts from other weights
    history = train(resumed, Ramps(), CONFIG, out=tmp_path)
    assert _same(whole, resumed)
    assert history.losses == full.losses
    loaded = Regressor()
    load_weights(tmp_path / "model.safetensors", loaded)
    assert _same(whole, loaded)


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("labkit.engine.training_run.CHECKPOINT_EVERY", 10)
    whole, killed = _model(), _model()
    train(whole, Ramps(), CONFIG)

    def crash(step, losses):
        if step == 25:
            raise RuntimeError("the machine went down")

    with pytest.raises(RuntimeError):
        train(killed, Ramps(), CONFIG, out=tmp_path, on_step=crash)
    resumed = Regressor()
    steps = []
    train(resumed, Ramps(), CONFIG, out=tmp_path, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(20, 30))
    assert _same(whole, resumed)


def test_training_works_outside_the_main_thread():
    model = _model()
    thread = threading.Thread(target=train, args=(model, Ramps(), CONFIG))
    thread.start()
    thread.join()
    reference = _model()
    train(reference, Ramps(), CONFIG)
    assert _same(model, reference)


def test_other_settings_or_another_model_do_not_resume(tmp_path):
    train(_model(), Ramps(), CONFIG, out=tmp_path)
    with pytest.raises(LabkitError, match=r"other settings \(lr was 0.01, is 0.1\)"):
        train(_model(), Ramps(), TrainConfig(**{**CONFIG.__dict__, "lr": 0.1}), out=tmp_path)

    class Other(Regressor):
        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(2, 2)

    with pytest.raises(LabkitError, match="another model"):
        train(Other(), Ramps(), CONFIG, out=tmp_path)
    (tmp_path / "last.pt").write_bytes(b"half a checkpoint")
    with pytest.raises(LabkitError, match=r"last\.pt: damaged"):
        train(_model(), Ramps(), CONFIG, out=tmp_path)


def test_wrong_settings_data_and_losses_are_refused():
    with pytest.raises(LabkitError, match=r"TrainConfig\.lr must be positive, got nan"):
        TrainConfig(lr=float("nan"))
    with pytest.raises(LabkitError, match=r"TrainConfig\.steps must be positive, got 0"):
        TrainConfig(steps=0)
    with pytest.raises(LabkitError, match=r"TrainConfig\.optimizer: 'adam' is not one of"):
        TrainConfig(optimizer="adam")
    with pytest.raises(LabkitError, match="data set is empty"):
        train(_model(), Ramps(0), CONFIG)
    model = _model()
    model.net[0].weight.data[0] = float("nan")
    with pytest.raises(
        LabkitError, match="step 0: loss_mse is nan on the images 0, 0, 0, 0"
    ) as nan:
        train(model, Ramps(1), CONFIG)
    assert "stays" not in str(nan.value)  # there is no checkpoint yet


class Flat(Regressor):
    """From call 14 on its loss is 0 with an infinite slope, as a norm of nothing would have."""

    calls = 0

    def forward(self, images, targets):
        self.calls += 1
        loss = super().forward(images, targets)["loss_mse"]
        return {"loss_mse": (0 * loss).sqrt() if self.calls > 13 else loss}


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_gradient_that_is_no_number_stops_before_the_update(tmp_path, monkeypatch, clip):
    monkeypatch.setattr("labkit.engine.training_run.CHECKPOINT_EVERY", 10)
    torch.manual_seed(3)
    model = Flat()
    config = TrainConfig(**{**CONFIG.__dict__, "clip": clip})
    with pytest.raises(LabkitError, match=r"step 13: the gradient's norm is nan on") as refusal:
        train(model, Ramps(), config, out=tmp_path)
    assert str(refusal.value).endswith("last.pt is of an earlier step and stays.")
    assert all(p.isfinite().all() for p in model.parameters())
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert len(state["losses"]["total"]) == 10
    resumed = _model()
    assert train(resumed, Ramps(), config, out=tmp_path).steps == 30


def test_weight_decay_spares_biases():
    model = _model()
    model.requires_grad_(True)
    decayed, free = _optimizer(model, TrainConfig(weight_decay=0.1)).param_groups
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in free["params"]} == {1}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


SCRIPT = TESTS / "helpers" / "distributed_worker.py"


def test_torchrun_trains_and_its_reduced_metrics_equal_the_single_process_ones(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(29500 + os.getpid() % 400), str(SCRIPT), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, timeout=300, env=environment)
    single = run(tmp_path / "single")
    several = torch.load(tmp_path / "result.pt", weights_only=True)
    assert (single["world"], several["world"]) == (1, 2)
    # The mean of the processes' gradients is the gradient of the whole batch, up to rounding.
    assert several["losses"] == pytest.approx(single["losses"], rel=1e-3)
    assert list(several["validation"]) == list(single["validation"]) == [4, 6]
    for folder, result in ((tmp_path, several), (tmp_path / "single", single)):
        model = CONFIG_OF_WORKER.build(Shapes.categories)
        load_weights(folder / "model.safetensors", model)
        measured = evaluate(model, Shapes("val", num=5, size=64), progress=False).semantic.miou
        assert result["validation"][6] == pytest.approx(measured, abs=1e-12)
        assert len((folder / "log.csv").read_text().splitlines()) == 7
    for name in ("miou", "pq", "images", "box_ap", "mask_ap"):
        assert single[name] > 0
        assert several[name] == pytest.approx(single[name], abs=1e-12), name


@pytest.mark.parametrize("preset", [name for name in PRESETS if "tiny" in name])
def test_a_batch_without_anything_has_losses_and_gradients(preset):
    """Of several processes one may get such images: it must neither stop nor say 0 / 0."""
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    nothing = {
        "image_id": 1,
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 64, 64, dtype=torch.bool),
        "semantic": torch.full((64, 64), 255),
        "panoptic": Panoptic(torch.zeros(64, 64, dtype=torch.int32), []),
    }
    model = build(preset, Shapes.categories).train()
    losses = model([image, image], [nothing, nothing])
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_sums_go_over_the_gpu_where_its_backend_wants_it(monkeypatch):
    """NCCL adds up on GPUs alone; what it is given may lie anywhere."""
    given = []

    def all_reduce(total):
        given.append(total.device.type)
        total *= 3  # as if each of three processes had the same

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    with pretended_gpu():
        for counts in (torch.tensor([1, 2]), torch.tensor([1, 2], device="cuda")):
            assert sum_over_processes(counts).tolist() == [3, 6]
            assert counts.tolist() == [1, 2]
        assert mean_count([]) == 1  # a process without images
        two = SetTargets(torch.zeros(2), torch.zeros(2, 4), torch.zeros(2, 1, 1))
        assert mean_count([two]) == 2
    assert given == ["cuda"] * 4
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    assert sum_over_processes(torch.tensor(2)).tolist() == 6
    assert given[-1] == "cpu"


def test_backbone_has_a_learning_rate_of_its_own():
    """The network below the pyramid moves by a tenth; the pyramid and the heads are not slowed."""
    torch.manual_seed(0)
    model = build("mask_rcnn_tiny", Shapes.categories)
    config = TrainConfig(steps=10, lr=1e-3, backbone_lr_factor=0.1)
    optimizer = _optimizer(model, config)
    factors = {
        id(p): group["lr_factor"] for group in optimizer.param_groups for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        expected = 0.1 if name.startswith("backbone.bottom_up.") else 1.0
        assert factors[id(parameter)] == expected, name
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {decays[id(p)] > 0 for p in model.parameters() if p.ndim > 1} == {True}
    assert {decays[id(p)] > 0 for p in model.parameters() if p.ndim <= 1} == {False}

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    one = TrainConfig(steps=1, batch_size=2, lr=1e-3, warmup=0, weight_decay=0.0, clip=None,
                      backbone_lr_factor=0.1)  # fmt: skip
    train(model, Shapes("train", 2), one)
    moved = {n: (p.detach() - before[n]).abs().max().item() for n, p in model.named_parameters()}
    # The first step of AdamW is the learning rate for every weight with a gradient.
    assert moved["backbone.bottom_up.stem.0.weight"] == pytest.approx(1e-4, rel=0.05)
    assert moved["backbone.lateral2.0.weight"] == pytest.approx(1e-3, rel=0.05)


def test_backbone_of_a_detector_without_a_pyramid_is_the_whole_backbone():
    model = build("mask_rcnn_tiny_c4", Shapes.categories)
    groups = _optimizer(model, TrainConfig(backbone_lr_factor=0.5)).param_groups
    slow = {id(p) for group in groups if group["lr_factor"] == 0.5 for p in group["params"]}
    assert slow == {id(p) for p in model.backbone.parameters()}
