"""One training loop for every labkit model: CPU, CUDA or ROCm, one process or many.

    history = train(model, Shapes("train"), TrainConfig(steps=600), out=Path("runs/fcn"))

Everything random in step ``t`` is drawn from seeds made of ``(seed, t)``, never from a state that
runs on. So a run that was stopped and resumed walks exactly the steps that an uninterrupted run
would have walked, and no generator state has to be saved.

Data parallel: ``torchrun --nproc-per-node N`` and the same call. ``batch_size`` counts the images
of all processes together, so the learning rate stays right whatever N is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from labkit.checkpoints.weights import save_weights
from labkit.datasets.step_batches import StepBatches, TrainingBatch, mixed_seed
from labkit.engine.precision import autocast, training_precision
from labkit.engine.training_run import History, TrainingRun
from labkit.errors import LabkitError
from labkit.structures import target_to
from labkit.system.distributed import (
    default_device,
    process_group,
    rank,
    sum_over_processes,
    world_size,
)
from labkit.system.interrupts import interruptible
from labkit.system.progress_bars import progress_bar

if TYPE_CHECKING:  # pycocotools and what else measuring needs
    from labkit.engine.validation import Validation


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        steps: optimizer steps in all.
        batch_size: images per step over all processes.
        lr: peak learning rate, reached after ``warmup`` steps.
        optimizer: "adamw", or "sgd" with momentum 0.9.
        schedule: after the warm-up, "cosine" down to zero, or "step": divided by ten at each of
            ``milestones``.
        milestones: step numbers for "step".
        warmup: steps of linear increase from zero.
        weight_decay: on weight matrices and filters; biases and norms are left free.
        backbone_lr_factor: the learning rate of the backbone, pyramid excluded, in multiples of
            ``lr``: below 1 for a pretrained backbone, as in DETR, 0.1.
        clip: largest norm of the whole gradient; None leaves it.
        precision: of the layers: "float32", "bfloat16", or on a GPU "float16" with loss scaling.
            None: what ``LABKIT_PRECISION`` says; else bfloat16 (float16 on older GPUs) where the
            device is a GPU, and float32 on the CPU.
        workers: processes that prepare batches beside this one.
        seed: of the order of the images, of augmentation and of the model's own sampling.
    """

    steps: int = 600
    batch_size: int = 8
    lr: float = 1.5e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[int, ...] = ()
    warmup: int = 30
    weight_decay: float = 1e-4
    backbone_lr_factor: float = 1.0
    clip: float | None = 1.0
    precision: str | None = None
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr", "backbone_lr_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise LabkitError(f"TrainConfig.{name} must be positive, got {getattr(self, name)}")
        for name, allowed in (("optimizer", ("adamw", "sgd")), ("schedule", ("cosine", "step"))):
            if getattr(self, name) not in allowed:
                raise LabkitError(
                    f"TrainConfig.{name}: {getattr(self, name)!r} is not one of {allowed}"
                )

    def lr_at(self, step: int) -> float:
        """The learning rate of step ``step`` (the first is 0)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "step":
            return self.lr * 0.1 ** sum(step >= m for m in self.milestones)
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


def train(
    model: nn.Module,
    dataset: Dataset[Any],
    config: TrainConfig,
    *,
    out: Path | None = None,
    validation: Validation | None = None,
    device: torch.device | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> History:
    """Train ``model`` in place.

    Args:
        model: ``model(images, targets)`` returns a dict of losses in training mode.
        dataset: map-style, items ``(image, target)``; augmentation draws from torch's generator.
        config: see :class:`TrainConfig`.
        out: folder for ``last.pt`` (to resume), ``model.safetensors`` (the result) and the log,
            ``log.csv`` and ``log.png``. If ``last.pt`` of an unfinished run with the same config
            is there, training resumes from it.
        validation: what to measure on the way. None: nothing.
        device: default: this process's GPU, else the CPU.
        on_step: called after each step with its number and its losses.

    Returns:
        The losses of all steps, earlier parts of a resumed run included.

    Raises:
        LabkitError: a loss or its gradient is not finite; ``out`` holds a run with another config
            or another model; the data set is empty.
        KeyboardInterrupt: after Ctrl-C; the running step is finished and saved first.
    """
    with process_group():
        device = device or default_device()
        model.to(device).train()
        optimizer = _optimizer(model, config)
        precision = training_precision(device, config.precision)
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        run = TrainingRun(model, optimizer, scaler, config, out, validation)
        network = _data_parallel(model, device)
        start = run.history.steps
        batches = _loader(dataset, config, start, device)
        bar = progress_bar(
            batches, initial=start, total=config.steps, unit="step", disable=rank() > 0
        )
        with interruptible() as interrupted:
            for step, (images, targets) in enumerate(bar, start):
                for group in optimizer.param_groups:
                    group["lr"] = config.lr_at(step) * group["lr_factor"]
                torch.manual_seed(mixed_seed(config.seed, step, rank(), stream=1))
                images = [image.to(device, non_blocking=True) for image in images]
                targets = [target_to(target, device) for target in targets]

                with autocast(device, precision):
                    losses: dict[str, Tensor] = network(images, targets)
                    total = torch.stack(list(losses.values())).sum()
                values = _averaged({**losses, "total": total})
                run.require_finite(values, targets)

                optimizer.zero_grad(set_to_none=True)
                scaler.scale(total).backward()
                scaler.unscale_(optimizer)
                norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip or math.inf)
                if not scaler.is_enabled():  # the scaler skips such steps by itself
                    # Before the update: weights that are not numbers never reach a checkpoint.
                    run.require_finite({"the gradient's norm": float(norm)}, targets)
                scaler.step(optimizer)
                scaler.update()

                run.history.add(values)
                if on_step:
                    on_step(step, values)
                if not _any_process(interrupted.is_set()):
                    run.validate_if_due()
                bar.set_postfix(run.progress(), refresh=False)
                stop = _any_process(interrupted.is_set())
                run.record(stopping=stop)
                if stop:
                    raise KeyboardInterrupt(f"stopped after step {step + 1} of {config.steps}")
        if out and rank() == 0:
            save_weights(out / "model.safetensors", model)
    return run.history


def _data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model itself in a single process; else with its gradients averaged over all of them."""
    if world_size() == 1:
        return model
    ids = [device.index] if device.type == "cuda" else None
    # A detection head sees no gradient in a batch without objects, hence "unused".
    return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=True)


def _loader(
    dataset: Dataset[Any], config: TrainConfig, start: int, device: torch.device
) -> DataLoader[TrainingBatch]:
    steps = StepBatches(dataset, config.steps, config.batch_size, config.seed, rank(), world_size())
    if steps.size == 0:
        raise LabkitError("the data set is empty; there is nothing to train on")
    if config.batch_size % world_size():
        raise LabkitError(
            f"TrainConfig.batch_size {config.batch_size} does not divide over "
            f"{world_size()} processes"
        )
    return DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, config.steps),
        num_workers=config.workers,
        pin_memory=device.type == "cuda",
    )


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer, with two groups of parameters, decayed or not; of the backbone two more."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    backbone: dict[str, nn.Parameter] = {}
    if config.backbone_lr_factor != 1:
        part = model.get_submodule("backbone")  # of a pyramid the network below it alone
        prefix = "backbone.bottom_up." if hasattr(part, "bottom_up") else "backbone."
        backbone = {name: p for name, p in trained.items() if name.startswith(prefix)}
    others = {name: p for name, p in trained.items() if name not in backbone}
    groups: list[dict[str, Any]] = []
    for parameters, lr_factor in ((others, 1.0), (backbone, config.backbone_lr_factor)):
        if not parameters:
            continue
        weights = [p for p in parameters.values() if p.ndim > 1]
        biases_and_norms = [p for p in parameters.values() if p.ndim <= 1]
        groups += [
            {"params": weights, "weight_decay": config.weight_decay, "lr_factor": lr_factor},
            {"params": biases_and_norms, "weight_decay": 0.0, "lr_factor": lr_factor},
        ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr)


def _averaged(losses: dict[str, Tensor]) -> dict[str, float]:
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    mean = sum_over_processes(values) / world_size()
    return dict(zip(losses, mean.tolist(), strict=True))


def _any_process(flag: bool) -> bool:
    """Whether any process saw Ctrl-C: all must stop after the same step."""
    return bool(sum_over_processes(torch.tensor(int(flag))))
