"""``labkit bench fine-tuning``: both settings are trained and measured; sums over the seeds."""

import json
from functools import partial

import pytest
from helpers.photographs import write_photographs

from labkit.bench import fine_tuning as bench
from labkit.bench.training_study import StudyRow, differences
from labkit.checkpoints.run_folder import load_run, read_run
from labkit.cli.bench import fine_tuning
from labkit.datasets.penn_fudan import HELD_OUT
from labkit.errors import LabkitError


def test_both_settings(tmp_path, monkeypatch, capsys):
    write_photographs(tmp_path, HELD_OUT + 2)
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setattr(bench, "evaluate", partial(bench.evaluate, limit=2))
    out, file = tmp_path / "out", tmp_path / "numbers.json"
    fine_tuning(out, steps=1, seeds=1, json=file)
    scores = json.loads(file.read_text())["scores"]
    assert list(scores) == ["fine-tuned", "from random weights"]
    for name, (found,) in scores.items():
        folder = out / f"{name.replace(' ', '-')}-0"
        assert found[bench.SECONDS] > 0
        assert {k: v for k, v in found.items() if k != bench.SECONDS} == bench.measure(folder)
        assert read_run(folder).init == (("imagenet",) if name == "fine-tuned" else ())
    # Frozen norms have ImageNet's statistics; trained ones have moved from 0 by the first step.
    means = [
        load_run(out / n).backbone.bottom_up.stem.norm.running_mean
        for n in ("fine-tuned-0", "from-random-weights-0")
    ]
    assert means[0].abs().max() > 1
    assert 0 < means[1].abs().max() < 1
    assert "mask AP, difference: " in capsys.readouterr().out


def test_missing_photographs_are_named_before_a_training(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setenv("LABKIT_DOWNLOADS", str(tmp_path))
    with pytest.raises(LabkitError, match="labkit data get penn-fudan"):
        bench.study(tmp_path / "out", 1, 1)
    assert not (tmp_path / "out").exists()


def test_sums_over_the_seeds():
    rows = [
        StudyRow("a", ({"PQ": 10.0}, {"PQ": 14.0}, {"PQ": 12.0})),
        StudyRow("b", ({"PQ": 11.0}, {"PQ": 12.0}, {"PQ": 12.5})),
    ]
    assert rows[0].mean("PQ") == 12
    assert rows[0].spread("PQ") == 2
    assert rows[0].show("PQ") == "12.0 ± 2.0"
    assert differences(rows, "a", "b", "PQ") == [-1, 2, -0.5]
    assert StudyRow("c", ({"PQ": 1.0},)).spread("PQ") == 0
    assert StudyRow("c", ({"PQ": 1.0},)).show("PQ") == "1.0"
    assert StudyRow("c", ({"PQ": 1.0}, {"PQ": 2.0})).show("PQ") == "1.0, 2.0", "two have no spread"
