"""labkit's own files: weights (safetensors), and the state of a training for resuming it.

Neither can run code when it is read: safetensors holds arrays only, and the training state is read
with ``weights_only=True``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from labkit.checkpoints.safe_unpickle import without_wrapper
from labkit.errors import LabkitError
from labkit.system.atomic_write import atomic_write


def save_weights(path: Path, model: nn.Module) -> None:
    """Write all parameters and buffers of ``model`` to a safetensors file, all or none."""
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary)


def load_weights(path: Path, model: nn.Module) -> None:
    """Load a file of :func:`save_weights` into ``model``.

    Raises:
        LabkitError: the file is missing or not safetensors, or its names or shapes are not the
            model's.
    """
    if not path.exists():
        raise LabkitError(f"{path}: no such weights file")
    try:
        state = load_file(path)
    except Exception as error:  # of damaged bytes the library raises whatever it runs into
        raise LabkitError(
            f"{path}: not a complete safetensors file ({error}); copy or download it again"
        ) from None
    try:
        model.load_state_dict(without_wrapper(state))
    except RuntimeError as error:
        raise LabkitError(f"{path}: these weights are of another model. {error}") from None


def save_training_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    config: dict[str, Any],
    losses: dict[str, list[float]],
    validation: dict[str, dict[int, float]],
) -> None:
    """Write everything that is needed to resume a run, completely or not at all."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "config": json.dumps(config),
        "losses": losses,
        "validation": validation,
    }
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def load_training_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    config: dict[str, Any],
) -> tuple[dict[str, list[float]], dict[str, dict[int, float]]]:
    """Load a state of :func:`save_training_state`; return losses and validation metrics so far.

    Raises:
        LabkitError: the file is damaged, or belongs to a run with another config or model.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        then, now = json.loads(state["config"]), json.loads(json.dumps(config))
        changed = [f"{k} was {then.get(k)}, is {now[k]}" for k in now if then.get(k) != now[k]]
        losses = {name: [float(v) for v in values] for name, values in state["losses"].items()}
        steps = {len(values) for values in losses.values()}
        if len(steps) > 1 or 0 in steps:
            raise ValueError("its losses are not of the same steps")
        validation = {  # earlier versions had no validation
            name: {int(step): float(value) for step, value in values.items()}
            for name, values in state.get("validation", {}).items()
        }
    except Exception as error:  # damaged bytes fail in as many ways as an unpickler has steps
        raise LabkitError(f"{path}: damaged; delete it to start again ({error!r})") from None
    if changed:
        raise LabkitError(
            f"{path}: holds a run with other settings ({'; '.join(changed)}). "
            "Train into another folder, or delete this one."
        )
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
    except Exception as error:  # as many ways here
        raise LabkitError(f"{path}: holds a run of another model. {error}") from None
    return losses, validation
