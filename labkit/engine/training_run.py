"""What surrounds the training loop: resuming, validation, checkpoints and the log of one run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from labkit.checkpoints.weights import load_training_state, save_training_state
from labkit.engine.training_log import TrainingLog
from labkit.errors import LabkitError
from labkit.structures import Target
from labkit.system.distributed import rank

if TYPE_CHECKING:  # pycocotools and what else measuring needs
    from labkit.engine.train import TrainConfig
    from labkit.engine.validation import Validation

CHECKPOINT_EVERY = 200  # steps; a crash costs at most this much work


@dataclass
class History:
    """What training saw: one value per step, averaged over the processes.

    Attributes:
        losses: name of each loss the model returns, and "total", to its values.
        validation: name of the metric that was measured on the way to its values in 0..1, by the
            number of steps done.
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    validation: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self.losses.get("total", []))

    def add(self, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            self.losses.setdefault(name, []).append(value)


class TrainingRun:
    """The history of one run, resumed from its folder if there is one, and the files written there.

    Args:
        model, optimizer, scaler: what is trained; the state of a checkpoint is loaded into them.
        config: of the run.
        out: folder of the run; None writes nothing.
        validation: what to measure on the way; None measures nothing.

    Raises:
        LabkitError: ``out`` holds a run with another config or another model; the data of the
            validation do not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        config: TrainConfig,
        out: Path | None,
        validation: Validation | None,
    ) -> None:
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.config, self.validation = config, validation
        self.history = History()
        self.checkpoint = out / "last.pt" if out else None
        if self.checkpoint and self.checkpoint.exists():
            self.history.losses, self.history.validation = load_training_state(
                self.checkpoint, model, optimizer, scaler, asdict(config)
            )
        self.metric = ""
        if validation:
            self.metric = validation.metric(model)  # data that do not fit are refused before a step
            self.history.validation.setdefault(self.metric, {})
        # A run that was stopped between a step and its validation makes up for it.
        late = self.validate_if_due()
        self.log = TrainingLog(out, self.history, config.lr_at) if out and rank() == 0 else None
        if late:
            self.save()

    @property
    def measured(self) -> dict[int, float]:
        """The metric in 0..1 by the number of steps done."""
        return self.history.validation.get(self.metric, {})

    def validate_if_due(self) -> bool:
        """Measure the model if it is time to and it has not been measured; whether it was."""
        steps = self.history.steps
        if not self.validation or not self.validation.is_due(steps, self.config.steps):
            return False
        if steps in self.measured:
            return False
        self.measured[steps] = self.validation.measure(self.model)
        return True

    def record(self, *, stopping: bool) -> None:
        """Log the last step; save a checkpoint if it is time to or the run is stopping."""
        steps = self.history.steps
        if self.log:
            self.log.add()
        if stopping or steps % CHECKPOINT_EVERY == 0 or steps == self.config.steps:
            self.save()

    def save(self) -> None:
        """Write the checkpoint and draw the log; only the first process has them."""
        if self.log and self.checkpoint:
            save_training_state(
                self.checkpoint,
                self.model,
                self.optimizer,
                self.scaler,
                asdict(self.config),
                self.history.losses,
                self.history.validation,
            )
            self.log.draw()

    def progress(self) -> dict[str, str]:
        """Loss and learning rate of the last step, and the last validation, for a progress bar."""
        shown = {
            "loss": f"{self.history.losses['total'][-1]:.3f}",
            "lr": f"{self.config.lr_at(self.history.steps - 1):.1e}",
        }
        if self.measured:
            shown[self.metric] = f"{100 * list(self.measured.values())[-1]:.1f}"
        return shown

    def require_finite(self, values: Mapping[str, float], targets: list[Target]) -> None:
        """Refuse a step whose losses or gradient are not numbers.

        Raises:
            LabkitError: a value is not finite.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                ids = ", ".join(str(target.get("image_id")) for target in targets)
                last = self.checkpoint
                raise LabkitError(
                    f"step {self.history.steps}: {name} is {value} on the images {ids}. Lower the "
                    "learning rate, lengthen the warm-up or check the targets of these images "
                    "(empty boxes, labels out of range)."
                    + (
                        f" {last} is of an earlier step and stays."
                        if last and last.exists()
                        else ""
                    )
                )
