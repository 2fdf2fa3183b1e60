"""Times of panoptic quality against panopticapi and hotcoco (files) and torchmetrics (tensors)."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.bench.panoptic_pairs import (
    categories,
    make_pair,
    write_pairs,
)
from labkit.bench.peer_comparison import PeerComparison, compare_with_peer, problem
from labkit.datasets.coco import compiled_maps
from labkit.errors import LabkitError
from labkit.system.cpu_cores import available_cores
from labkit.system.message_text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.structures import Categories, Panoptic

TENSORS_TARGET = 10.0
TENSOR_IMAGES = 10
REPEATS = 3
MEMORY_TARGET_MB = 600


def compare_files(images: int, peers: Sequence[FilePeer]) -> list[PeerComparison]:
    """``labkit pq`` against other programs on the same files, with one core and with two.

    Every run is a process of its own; timed is the evaluation, starting its workers included.

    Args:
        images: pairs to make.
        peers: of ``FILE_PEERS``, those that are installed.
    """
    compiled_maps.load()  # a first compilation belongs to no run
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as folder:
        gt, pred = write_pairs(Path(folder), images)
        return [
            compare_with_peer(
                f"files, {images} images, {counted(cores, 'core')}",
                peer.name,
                partial(_in_new_process, _time_files_labkit, gt, pred, cores),
                partial(_in_new_process, peer.measure, gt, pred, cores),
                items=images,
                target=peer.target,
                repeats=REPEATS,
            )
            for cores in _core_counts()
            for peer in peers
        ]


def _core_counts() -> list[int]:
    """One and two cores; all of them where a process cannot be bound to some."""
    cores = available_cores()
    return sorted({1, min(2, cores)}) if hasattr(os, "sched_setaffinity") else [cores]


def _in_new_process(
    measure: Callable[[Path, Path], tuple[float, float]], gt: Path, pred: Path, cores: int
) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_use_cores, initargs=(cores,)) as p:
        return p.submit(measure, gt, pred).result()


def _use_cores(cores: int) -> None:
    """Bind this process, and all that it starts, to so many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def _time_files_labkit(gt: Path, pred: Path) -> tuple[float, float]:
    from labkit.metrics.panoptic_quality_files import evaluate_files

    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        start = time.perf_counter()
        result = evaluate_files(gt, pred)
        return time.perf_counter() - start, result.all.pq


def _time_files_hotcoco(gt: Path, pred: Path) -> tuple[float, float]:
    from hotcoco.panoptic import PanopticEval

    start = time.perf_counter()
    evaluation = PanopticEval(gt, pred)
    evaluation.evaluate()
    return time.perf_counter() - start, evaluation.results()["All"]["pq"]


def _time_files_panopticapi(gt: Path, pred: Path) -> tuple[float, float]:
    from panopticapi.evaluation import pq_compute

    # This process was spawned and would spawn in turn; panopticapi runs best as it is by itself.
    multiprocessing.set_start_method(None, force=True)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports from every process
        start = time.perf_counter()
        result = pq_compute(str(gt), str(pred))  # as many processes as the machine has cores
        return time.perf_counter() - start, result["All"]["pq"]


@dataclass(frozen=True)
class FilePeer:
    """Another program for panoptic quality of files.

    Attributes:
        name: its package.
        target: ratio to reach.
        measure: returns seconds and PQ.
    """

    name: str
    target: float
    measure: Callable[[Path, Path], tuple[float, float]]


FILE_PEERS = (
    FilePeer("panopticapi", 2.5, _time_files_panopticapi),
    FilePeer("hotcoco", 1.5, _time_files_hotcoco),
)


def compare_tensors() -> PeerComparison:
    """``PanopticQuality`` against torchmetrics' on the same maps in memory, with one core.

    Raises:
        LabkitError: torchmetrics is not installed.
    """
    if reason := problem("torchmetrics"):
        raise LabkitError(reason)
    import torch
    from torchmetrics.detection import PanopticQuality as Peer

    from labkit.metrics.panoptic_quality import PanopticQuality
    from labkit.structures import Categories

    coco = Categories.from_coco(categories())
    pairs = [_panoptic_pair(index, coco) for index in range(TENSOR_IMAGES)]
    channels = [(_two_channels(pred), _two_channels(target)) for target, pred in pairs]

    def ours() -> tuple[float, float]:
        start = time.perf_counter()
        metric = PanopticQuality(coco)
        for target, pred in pairs:
            metric.update(pred, target)
        result = metric.compute().all.pq
        return time.perf_counter() - start, result

    def peer() -> tuple[float, float]:
        start = time.perf_counter()
        metric = Peer(
            things=set(coco.things), stuffs=set(coco.stuff), allow_unknown_preds_category=True
        )
        for pred, target in channels:
            metric.update(pred, target)
        result = float(metric.compute())
        return time.perf_counter() - start, result

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compare_with_peer(
            f"tensors, {TENSOR_IMAGES} images, 1 thread",
            "torchmetrics",
            ours,
            peer,
            items=TENSOR_IMAGES,
            target=TENSORS_TARGET,
            repeats=REPEATS,
        )
    finally:
        torch.set_num_threads(threads)


def _panoptic_pair(index: int, coco: Categories) -> tuple[Panoptic, Panoptic]:
    import torch

    from labkit.structures import Panoptic, Segment

    target, pred = (
        Panoptic(
            torch.from_numpy(ids), [Segment(s["id"], coco.label(s["category_id"])) for s in infos]
        )
        for ids, infos in make_pair(index)
    )
    return target, pred


def _two_channels(panoptic: Panoptic) -> Tensor:
    """torchmetrics' input ``(1, H, W, 2)``: label and segment id of each pixel, void is 255."""
    import torch

    return torch.stack([panoptic.semantic(), panoptic.ids.long()], dim=-1)[None]


def measure_peak_memory(images: int, workers: int) -> int:
    """Peak memory in bytes of ``labkit pq`` on ``images`` pairs.

    Raises:
        LabkitError: the evaluation failed.
    """
    import psutil

    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as folder:
        gt, pred = write_pairs(Path(folder), images)
        command = [sys.executable, "-m", "labkit", "pq", "--gt", str(gt), "--pred", str(pred)]
        process = subprocess.Popen([*command, "--workers", str(workers)])
        peak = 0
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.05)
        if process.returncode:
            raise LabkitError(f"labkit pq ended with status {process.returncode}")
        return peak
