"""Images a second: labkit beside Detectron2, torchvision and transformers.

The libraries have the same weights, images, batch and precision, and their results are compared.
Two habits make the numbers comparable: the first calls are not counted, because memory, kernels and
compiled code are made in them; and the clock stops after the device has finished, because a GPU
computes while the program goes on. Notebook 11, section 11.2.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from labkit.bench.detectors import training_step
from labkit.bench.detectors_peers import InputSizes, ModelPair, detectron2_pair, torchvision_pair
from labkit.bench.mask_classification import inference, training
from labkit.bench.transformers_models import eomt_twin, mask2former_twin, randomize
from labkit.datasets.coco.categories import coco_panoptic
from labkit.datasets.shapes import Shapes
from labkit.engine.precision import autocast
from labkit.engine.predictor import Predictor, load_model
from labkit.errors import LabkitError
from labkit.models import build
from labkit.models.mask2former.eomt import EoMT
from labkit.structures import Prediction, Target, target_to

Task = Literal["inference", "training"]
Run = Callable[[], float]
"""One call: its result, a number that shows that two libraries do the same."""

TASKS: tuple[Task, ...] = ("inference", "training")
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
PEERS = ("mask_rcnn_r50", "mask2former_r50", "eomt_small_640")
"""Models that other libraries have too."""

WARM_UP, ROUNDS = 2, 5
IMAGES, TENSORS = "whole images", "network alone"
"""From files' pixels to the result in them; from a normalised batch to logits."""


@dataclass(frozen=True)
class Setting:
    """How to run a network.

    Attributes:
        device: where.
        precision: of its layers.
        batch: images of a call.
        compiled: its backbone is compiled with ``torch.compile``.
        sizes: of the images.
    """

    device: torch.device
    precision: str
    batch: int
    compiled: bool
    sizes: InputSizes


@dataclass(frozen=True)
class Subject:
    """A network in a library, not yet on the device.

    Attributes:
        model: what the network is, with its conventions.
        library: whose code runs it.
        span: from where to where a prediction goes.
        start: makes the call of a task in a setting.
    """

    model: str
    library: str
    span: str
    start: Callable[[Task, Setting], Run]


@dataclass(frozen=True)
class Throughput:
    """A measurement.

    Attributes:
        model, library, span: of the subject.
        task, batch, precision, compiled: what was run.
        images_per_second: from the median call.
        milliseconds: of the calls after the warm-up, sorted.
        first_ms: of the first call.
        peak_mb: memory of the GPU, the network's included; None on a CPU.
        result: number of detections, mean mask logit, or loss.
    """

    model: str
    library: str
    span: str
    task: Task
    batch: int
    precision: str
    compiled: bool
    images_per_second: float
    milliseconds: list[float]
    first_ms: float
    peak_mb: float | None
    result: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def sizes_of(side: int) -> InputSizes:
    """Sizes of the images for networks that see images with this shorter side.

    800 gives the published ones, and squares of 512 pixels to learn from, always a multiple of 32.
    """
    square = -(-side * 16 // 25 // 32) * 32
    return InputSizes((side * 3 // 5, side * 4 // 5), side, side * 5 // 3, square)


def measure_all(
    models: Sequence[str],
    settings: Sequence[Setting],
    rounds: int,
    left_out: Callable[[str], None],
) -> Iterator[list[Throughput]]:
    """Measure models in every setting: for each model, task and setting the libraries' rows.

    Args:
        models: names of :data:`PEERS`, of ``labkit zoo list``, or folders of runs.
        settings: how to run them; the sizes are the same in all.
        rounds: calls after the warm-up.
        left_out: called with a reason for what cannot be measured; the rest still is.

    Raises:
        LabkitError: there is no such model; before anything is measured.
    """
    own = {model: load_model(model) for model in models if model not in PEERS}
    for model in models:
        if model in own:
            groups = [[_alone(model, own[model])]]
        else:
            groups = beside_peers(model, settings[0].sizes, left_out)
        for task, setting, group in itertools.product(TASKS, settings, groups):
            rows = measure(group, task, setting, rounds, left_out)
            if rows:
                yield rows


def measure(
    group: Sequence[Subject],
    task: Task,
    setting: Setting,
    rounds: int,
    left_out: Callable[[str], None],
) -> list[Throughput]:
    """Time subjects in alternation, so that a machine that slows down slows all of them.

    Args:
        group: with the same work to do.
        task: what it is.
        setting: how to run them.
        rounds: calls of each after the warm-up.
        left_out: called with a reason for a subject that cannot be measured.
    """
    ready: list[tuple[Subject, Run, float, float | None, float]] = []
    for subject in group:
        before = _memory(setting.device)
        try:
            run = subject.start(task, setting)
            first = seconds_of(run, setting.device)
            results = [run() for _ in range(WARM_UP - 1)]
        except (LabkitError, RuntimeError) as error:  # out of memory, or an operator is missing
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            left_out(f"{subject.model}, {subject.library}, {task}: {reason}")
            continue
        peak = None if before is None else (torch.cuda.max_memory_allocated() - before) / 1e6
        ready.append((subject, run, first, peak, results[-1]))
    seconds: list[list[float]] = [[] for _ in ready]
    for number in range(rounds):
        order = range(len(ready)) if number % 2 == 0 else reversed(range(len(ready)))
        for i in order:
            seconds[i].append(seconds_of(ready[i][1], setting.device))
    return [
        Throughput(
            subject.model,
            subject.library,
            subject.span,
            task,
            setting.batch,
            setting.precision,
            setting.compiled,
            setting.batch / statistics.median(of_subject),
            [1000 * value for value in sorted(of_subject)],
            1000 * first,
            peak,
            result,
        )
        for (subject, _, first, peak, result), of_subject in zip(ready, seconds, strict=True)
    ]


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call until the device has finished what the call asked for."""
    _synchronize(device)
    begin = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - begin


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(device: torch.device) -> float | None:
    """Bytes in use on a GPU; from now on its peak is counted."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def beside_peers(
    model: str, sizes: InputSizes, left_out: Callable[[str], None]
) -> list[list[Subject]]:
    """A model of :data:`PEERS` in the libraries that are here.

    Args:
        model: its name.
        sizes: of the images.
        left_out: called with a reason for each library that is missing.

    Returns:
        Groups with the same weights and conventions.
    """
    makers = [partial(_of_twins, model)]
    if model == "mask_rcnn_r50":
        makers = [
            partial(_of_pair, detectron2_pair, sizes),
            partial(_of_pair, torchvision_pair, sizes),
        ]
    groups = []
    for make in makers:
        try:
            groups.append(make())
        except LabkitError as error:  # one missing peer leaves the other comparison possible
            left_out(str(error))
    return groups


def _of_pair(make: Callable[[InputSizes], ModelPair], sizes: InputSizes) -> list[Subject]:
    """Mask R-CNN in labkit and in another library, with that one's conventions."""
    pair = make(sizes)
    model = f"mask_rcnn_r50, as {pair.peer}"

    def start(task: Task, setting: Setting) -> Run:
        network, inputs = _placed(pair.theirs, setting), _images(setting, sizes.image)
        if task == "training":
            images, targets = _training_batch(setting, sizes.side)
            return training_step(network, _cast(lambda: pair.losses(images, targets), setting))
        network.eval()

        @torch.no_grad()
        def run() -> float:
            answers = pair.predict(inputs)
            return float(sum(len(pair.detections(answer).to("cpu")) for answer in answers))

        return _cast(run, setting)

    return [_alone(model, pair.ours), Subject(model, pair.peer, IMAGES, start)]


def _alone(name: str, model: Any) -> Subject:
    """A model in labkit."""
    unresized = model.config.preprocessing.resize is None  # the tiny ones: as in their training

    def start(task: Task, setting: Setting) -> Run:
        if task == "training":
            network = _placed(model, setting)
            images, targets = _training_batch(setting, 128 if unresized else setting.sizes.side)
            return training_step(network, _cast(lambda: network(images, targets), setting))
        inputs: list[Any] = [*_images(setting, (128, 128) if unresized else setting.sizes.image)]
        predictor = Predictor(model, setting.device, setting.precision)
        _placed(predictor.model, setting)

        def run() -> float:
            return float(sum(_count(prediction) for prediction in predictor(inputs)))

        return run

    return Subject(name, "labkit", IMAGES, start)


def _of_twins(model: str) -> list[Subject]:
    """Mask2Former or EoMT in labkit and in transformers: the networks alone."""
    torch.manual_seed(0)
    ours: Any = build(model, coco_panoptic())
    randomize(ours)
    twin = eomt_twin(ours) if isinstance(ours, EoMT) else mask2former_twin(ours)

    def start(which: int, task: Task, setting: Setting) -> Run:
        side = ours.config.vit.image_size if isinstance(ours, EoMT) else setting.sizes.side
        _placed((ours, twin)[which], setting)
        if isinstance(ours, EoMT):  # transformers masks the attention in prediction as well, if 1
            twin.get_buffer("attn_mask_probs").fill_(float(task == "training"))
        torch.manual_seed(1)
        images = torch.randn(setting.batch, 3, side, side).to(setting.device)
        pair = (training if task == "training" else inference)(ours, twin, images)
        return _cast(pair[which], setting)

    return [
        Subject(model, library, TENSORS, partial(start, which))
        for which, library in enumerate(("labkit", "transformers"))
    ]


def _placed(network: nn.Module, setting: Setting) -> nn.Module:
    """The network on the device, its backbone compiled if wanted."""
    network.to(setting.device)
    if setting.compiled:
        for part in _backbone(network):
            part.compile()
    return network


def _backbone(network: nn.Module) -> list[nn.Module]:
    parts = dict(network.named_modules())
    for name in ("backbone", "model.pixel_level_module.encoder"):
        if name in parts:
            return [parts[name]]
    config: Any = network.config  # transformers' EoMT: the blocks without queries
    return list(parts["layers"].children())[: -config.num_blocks]


def _cast(run: Callable[[], Any], setting: Setting) -> Callable[[], Any]:
    """A call whose layers compute in the setting's precision."""

    def call() -> Any:
        with autocast(setting.device, setting.precision):
            return run()

    return call


def _count(prediction: Prediction) -> int:
    """The objects of a prediction, else its segments."""
    if prediction.detections is not None:
        return len(prediction.detections)
    return 0 if prediction.panoptic is None else len(prediction.panoptic.segments)


def _images(setting: Setting, size: tuple[int, int]) -> list[Tensor]:
    data = Shapes("val", num=setting.batch, size=max(size))
    return [data[i][0][:, : size[0], : size[1]] for i in range(setting.batch)]


def _training_batch(setting: Setting, side: int) -> tuple[list[Tensor], list[Target]]:
    """Squares to learn from and their targets, on the device."""
    data = Shapes("train", num=setting.batch, size=side)
    pairs = [data[i] for i in range(setting.batch)]
    device = setting.device
    return [image.to(device) for image, _ in pairs], [target_to(t, device) for _, t in pairs]
