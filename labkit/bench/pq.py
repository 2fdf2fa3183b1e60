"""Times of panoptic quality against panopticapi (from files) and torchmetrics (from tensors)."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.bench.panoptic_pairs import (
    categories,
    make_pair,
    write_pairs,
)
from labkit.bench.peer_comparison import PeerComparison, compare_with_peer
from labkit.errors import LabkitError
from labkit.system import optional_packages

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.structures import Categories, Panoptic

FILES_TARGET, TENSORS_TARGET = 2.5, 10.0
TENSOR_IMAGES = 10
REPEATS = 3
MEMORY_TARGET_MB = 600


def compare_files(images: int) -> PeerComparison:
    """``labkit pq`` against panopticapi on the same files, each with all cores.

    Every run is a process of its own; timed is the evaluation, starting its workers included.

    Raises:
        LabkitError: panopticapi cannot be used.
    """
    optional_packages.require_package("panopticapi")
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as folder:
        gt, pred = write_pairs(Path(folder), images)
        return compare_with_peer(
            f"files, {images} images, {multiprocessing.cpu_count()} processes",
            "panopticapi",
            lambda: _in_new_process(_time_files_labkit, gt, pred),
            lambda: _in_new_process(_time_files_panopticapi, gt, pred),
            items=images,
            target=FILES_TARGET,
            repeats=REPEATS,
        )


def _in_new_process(
    function: Callable[[Path, Path], tuple[float, float]], gt: Path, pred: Path
) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, gt, pred).result()


def _time_files_labkit(gt: Path, pred: Path) -> tuple[float, float]:
    from labkit.metrics.panoptic_quality_files import evaluate_files

    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        start = time.perf_counter()
        result = evaluate_files(gt, pred, workers=multiprocessing.cpu_count())
        return time.perf_counter() - start, result.all.pq


def _time_files_panopticapi(gt: Path, pred: Path) -> tuple[float, float]:
    from panopticapi.evaluation import pq_compute

    # This process was spawned and would spawn in turn; panopticapi runs best as it is by itself.
    multiprocessing.set_start_method(None, force=True)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports from every process
        start = time.perf_counter()
        result = pq_compute(str(gt), str(pred))  # always as many processes as there are cores
        return time.perf_counter() - start, result["All"]["pq"]


def compare_tensors() -> PeerComparison:
    """``PanopticQuality`` against torchmetrics' on the same maps in memory, with one core.

    Raises:
        LabkitError: torchmetrics is not installed.
    """
    if importlib.util.find_spec("torchmetrics") is None:
        raise LabkitError("torchmetrics is not installed; run: pip install torchmetrics")
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
    """Peak memory in bytes of ``labkit pq`` on ``images`` pairs, summed over its processes.

    Raises:
        LabkitError: the evaluation failed.
    """
    import psutil

    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as folder:
        gt, pred = write_pairs(Path(folder), images)
        command = [sys.executable, "-m", "labkit", "pq", "--gt", str(gt), "--pred", str(pred)]
        process = subprocess.Popen([*command, "--workers", str(workers)])
        root, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            used = 0
            with contextlib.suppress(psutil.NoSuchProcess):
                for member in [root, *root.children(recursive=True)]:
                    used += member.memory_info().rss
            peak = max(peak, used)
            time.sleep(0.05)
        if process.returncode:
            raise LabkitError(f"labkit pq ended with status {process.returncode}")
        return peak
