"""All GPU checks in one call, which continues after a failing part.

Every part is a process with a time budget. Its output is in ``NAME.log``; its results are in
``gpu.json`` as soon as it ends, so that they are not lost with the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labkit.bench.gpu_models import NETWORKS, SMALL_NETWORKS
from labkit.datasets.coco.panoptic_json import write_json
from labkit.system.paths import CHECKOUT
from labkit.system.processes import kill_tree

TOTAL = 8 * 60.0
"""Seconds for everything."""


@dataclass(frozen=True)
class GPUPart:
    """A part to run as a process.

    Attributes:
        name: of its log, and in the table.
        command: its program and arguments.
        seconds: its budget; afterwards it is killed.
        figures: the JSON that it writes, if it writes one.
    """

    name: str
    command: list[str]
    seconds: float
    figures: Path | None = None


@dataclass(frozen=True)
class PartResult:
    """Result of a part.

    Attributes:
        name, budget: of the part.
        result: "ok", "failed", "timeout", or "no time left".
        seconds: that it took.
        last: the last line that it printed.
        figures: what it measured.
    """

    name: str
    budget: float
    result: str
    seconds: float
    last: str
    figures: Any = None


def plan(out: Path, device: str, small: bool) -> list[GPUPart]:
    """List the parts, the most important first; ``small`` is for testing the plan."""

    def labkit(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "labkit", *arguments]

    parts = [GPUPart("operator", labkit("build"), 60)]
    for name in SMALL_NETWORKS if small else NETWORKS:
        figures = out / f"{name}.json"
        arguments = [name, "--device", device, "--out", str(figures)]
        command = [sys.executable, "-m", "labkit.bench.gpu_models", *arguments]
        parts.append(GPUPart(name, [*command, "--small"] if small else command, 40, figures))
    figures = out / "throughput.json"
    bars = ["--json", str(figures), "--figure", str(out / "throughput.png")]
    of = ["--models", "mask_rcnn_tiny"] if small else ["--batch", "8", "--dtype", "fp32,bf16"]
    command = labkit("bench", "throughput", "--device", device, *of, *bars)
    parts.append(GPUPart("throughput", command, 120, figures))
    figures = out / "roi-align.json"
    align = ["--device", device, "--no-sweep", "--json", str(figures)]
    if not small:  # its shapes are those of a whole image
        parts.append(GPUPart("roi-align", labkit("bench", "roi-align", *align), 45, figures))
    if CHECKOUT is not None:
        tests = CHECKOUT / "tests" / "ops" if small else CHECKOUT / "tests"
        marked = ["-m", "cuda", "-q", "-n0", "-p", "no:cacheprovider", str(tests)]
        parts.append(GPUPart("tests", [sys.executable, "-m", "pytest", *marked], 120))
    lessons = ["1"] if small else []
    run = ["run", *lessons, "--profile", "smoke", "--device", device, "--out", str(out / "lessons")]
    parts.append(GPUPart("lessons", labkit(*run), 120))
    return parts


def carry_out(
    parts: Sequence[GPUPart],
    out: Path,
    environment: dict[str, str],
    total: float = TOTAL,
    on_end: Callable[[PartResult], None] = lambda outcome: None,
) -> list[PartResult]:
    """Run the parts one after another and write ``out/gpu.json`` after each.

    Args:
        parts: what to run.
        out: a folder.
        environment: what the figures depend on.
        total: seconds for all of them together.
        on_end: called after each.
    """
    out.mkdir(parents=True, exist_ok=True)
    end, outcomes = time.monotonic() + total, list[PartResult]()
    for part in parts:
        outcomes.append(_carry_out(part, out, min(part.seconds, end - time.monotonic())))
        write_json(
            out / "gpu.json",
            {"environment": environment, "parts": [asdict(outcome) for outcome in outcomes]},
        )
        on_end(outcomes[-1])
    return outcomes


def _carry_out(part: GPUPart, out: Path, limit: float) -> PartResult:
    if limit < 1:
        return PartResult(part.name, part.seconds, "no time left", 0.0, "")
    log = out / f"{part.name}.log"
    start = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            part.command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=CHECKOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the part
        )
        try:
            result = "ok" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            result = "timeout"
        finally:
            kill_tree(process)
    lines = log.read_text(errors="replace").split("\n")
    figures = None
    if part.figures is not None and part.figures.is_file():
        figures = json.loads(part.figures.read_text())
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return PartResult(
        part.name, part.seconds, result, round(time.monotonic() - start, 1), last, figures
    )
