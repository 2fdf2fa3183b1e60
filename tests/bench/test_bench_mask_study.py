"""``labkit bench mask-study``: each setting changes one thing; trained once, measured once."""

import json

import pytest

from labkit.bench import mask_study as bench
from labkit.bench import training_study
from labkit.cli.bench import mask_study
from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError
from labkit.models.mask2former.mask2former import Mask2Former
from labkit.models.presets import MASK2FORMER_TINY


def test_trained_once(tmp_path, monkeypatch, capsys):
    names = (bench.MASKED, bench.LAST_LOSS)
    monkeypatch.setattr(bench, "CONFIGS", {name: bench.CONFIGS[name] for name in names})
    monkeypatch.setattr(bench, "SYSTEMS", ("panoptic_fpn_tiny",))
    file = tmp_path / "numbers.json"
    settings = {"out": tmp_path, "steps": 1, "more_steps": 1, "seeds": 1, "images": 2}
    mask_study(**settings, json=file)
    numbers = json.loads(file.read_text())
    assert set(numbers["ablations"]) == set(names)
    for (scores,) in numbers["ablations"].values():
        assert set(scores) == {"PQ", "things", "stuff", bench.SECONDS}
        assert scores[bench.SECONDS] > 0
    assert set(numbers["systems"]) == {"shapes", "crowded"}
    assert "crowded, 1 further steps" in capsys.readouterr().out

    monkeypatch.setattr(bench, "train", None)  # would fail if it were called
    monkeypatch.setattr(training_study.subprocess, "run", None)
    mask_study(**settings, json=file)
    assert json.loads(file.read_text()) == numbers
    with pytest.raises(LabkitError, match="was trained for 1 steps"):
        bench.ablations(tmp_path, 2, 1, 2)


def test_one_change_a_setting():
    def changes(name):
        config = bench.CONFIGS[name]
        return {
            part: vars(getattr(config, part)).items()
            - vars(getattr(MASK2FORMER_TINY, part)).items()
            for part in ("decoder", "loss", "pixel_decoder", "backbone")
        }

    nothing = {"pixel_decoder": set(), "backbone": set()}
    assert changes(bench.NOT_MASKED) == {"decoder": {("masked", False)}, "loss": set(), **nothing}
    assert changes(bench.MANY_POINTS)["decoder"] == set()
    points = dict(changes(bench.MANY_POINTS)["loss"])
    image, _ = Shapes("train")[0]
    assert points == {"num_points": image[0].numel(), "oversample": 1, "importance": 0.0}


def test_the_loss_of_the_last_layer_alone():
    data = Shapes("train")
    images, targets = zip(*(data[i] for i in range(2)), strict=True)
    every = Mask2Former(MASK2FORMER_TINY, data.categories)(images, targets)
    last = bench.LastLoss(MASK2FORMER_TINY, data.categories)(images, targets)
    assert set(last) == {"loss_ce", "loss_mask", "loss_dice"}
    assert len(every) == 3 * (MASK2FORMER_TINY.decoder.layers + 1)
