"""Comparisons of trainings with several seeds: each training runs once, and its scores are kept.

Runs of one setting differ in the seed only. A difference between settings is meaningful only if it
clearly exceeds this spread.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.checkpoints.run_folder import read_run
from labkit.datasets.coco.panoptic_json import write_json
from labkit.errors import LabkitError
from labkit.metrics.panoptic_matching import PanopticResult

Scores = dict[str, float]
"""Values by name, in percent unless the name says otherwise."""


@dataclass(frozen=True)
class StudyRow:
    """Scores of one setting for all seeds.

    Attributes:
        name: of the setting.
        seeds: the scores of each.
    """

    name: str
    seeds: tuple[Scores, ...]

    def mean(self, what: str) -> float:
        return statistics.mean(scores[what] for scores in self.seeds)

    def spread(self, what: str) -> float:
        """Sample standard deviation over the seeds; 0 for one seed."""
        values = [scores[what] for scores in self.seeds]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def show(self, what: str) -> str:
        """``mean ± spread`` with one decimal; of one or two seeds the numbers themselves."""
        if len(self.seeds) < 3:
            return ", ".join(f"{scores[what]:.1f}" for scores in self.seeds)
        return f"{self.mean(what):.1f} ± {self.spread(what):.1f}"


def differences(rows: Sequence[StudyRow], first: str, second: str, what: str) -> list[float]:
    """Difference ``first`` minus ``second`` for each seed."""
    by_name = {row.name: row.seeds for row in rows}
    pairs = zip(by_name[first], by_name[second], strict=True)
    return [a[what] - b[what] for a, b in pairs]


def panoptic_scores(result: PanopticResult) -> Scores:
    """PQ of all classes, of things and of stuff, in percent."""
    return {
        "PQ": 100 * result.all.pq,
        "things": 100 * result.things.pq,
        "stuff": 100 * result.stuff.pq,
    }


def scores_of_training(
    folder: Path, arguments: Sequence[str], steps: int, record: str, measure: Callable[[], Any]
) -> Mapping[str, Any]:
    """Train and measure, unless the folder already has the scores.

    Args:
        folder: of the run; an unfinished one is resumed.
        arguments: of ``labkit train``, without ``--steps`` and ``--out``.
        steps: of the training.
        record: name of the file of the scores in the folder.
        measure: returns the scores of the trained model.

    Raises:
        LabkitError: the training failed, or the folder holds a run of other length.
    """
    file = folder / record
    if not file.exists():
        command = [sys.executable, "-m", "labkit", "train", *arguments]
        command += ["--steps", str(steps), "--out", str(folder)]
        status = subprocess.run(command, check=False).returncode
        if status:
            raise LabkitError(f"{folder}: the training ended with status {status}")
        write_json(file, measure())
    elif (before := read_run(folder).train["steps"]) != steps:
        raise LabkitError(f"{folder}: was trained for {before} steps; choose another folder")
    scores: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return scores
