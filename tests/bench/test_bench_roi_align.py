from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from labkit.bench import roi_align as bench
from labkit.bench import roi_align_gpu as gpu
from labkit.bench import roi_align_sweep as sweeping
from labkit.bench.peer_comparison import PeerComparison, print_comparisons
from labkit.bench.roi_align import (
    C4,
    FPN,
    Case,
    RoIAlignMeasurement,
    headline_cases,
    make_rois,
    measure,
)
from labkit.cli import bench as command
from labkit.errors import LabkitError
from labkit.ops import roi_align
from labkit.ops.roi_align import Implementation

TINY = Case("tiny", 3, 10, 12, 1 / 4, 6, (8.0, 16.0), 2, 2)
TINY_BASE = replace(sweeping.BASE, height=12, width=16, boxes=3)


def test_boxes_are_the_same_every_time_and_of_the_sizes_asked_for() -> None:
    rois = make_rois(FPN)
    assert torch.equal(rois, make_rois(FPN))
    assert not torch.equal(rois, make_rois(FPN, seed=1))
    assert rois.shape == (1000, 5)
    assert (rois[:, 0] == 0).all()
    assert (rois[:, 1:] >= 0).all()
    assert (rois[:, 3] <= 1216.01).all()
    assert (rois[:, 4] <= 800.01).all()
    width, height = (rois[:, 3:] - rois[:, 1:3]).T
    side, shape = (width * height).sqrt(), width / height
    assert 15.9 < side.min() < 17
    assert 110 < side.max() < 112.1
    # Log-uniform: the median is the geometric mean, sqrt(16 * 112) = 42.3.
    assert side.median().item() == pytest.approx(42.3, rel=0.1)
    assert shape.min().item() == pytest.approx(0.5, abs=0.02)
    assert shape.max().item() == pytest.approx(2, abs=0.05)


def test_boxes_larger_than_the_image_are_cut_to_it() -> None:
    rois = make_rois(replace(TINY, sides=(500.0, 500.0)))
    assert rois.tolist() == [[0, 0, 0, 48, 40]] * 6


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_headline_cases_are_all_modes_of_a_pyramid_and_the_one_map_of_c4(device: str) -> None:
    cases = headline_cases(device)
    modes = [(c.ratio, c.channels_last, c.backward) for c in cases if c.name == FPN.name]
    assert set(modes) == set(itertools.product([0, 2], [False, True], [False, True]))
    assert C4.name in {c.name for c in cases}
    assert len({c.describe() for c in cases}) == len(cases)
    for case in cases:  # of one image, 800 x 1216
        assert (case.height / case.scale, case.width / case.scale) == (800, 1216)


def test_the_pyramids_boxes_are_those_that_its_finest_level_gets() -> None:
    levels = torchvision.ops.poolers.initLevelMapper(k_min=2, k_max=5)
    assert (levels([make_rois(FPN)[:, 1:]]) == 0).all()
    assert len(levels([make_rois(C4)[:, 1:]]).unique()) == 4  # of every size


def test_only_the_compiled_operator_has_targets_and_on_a_gpu_only_with_the_gradient() -> None:
    for case in headline_cases("cpu"):
        assert (case.target is not None) == (case.impl == "compiled" and case.boxes > 5)
        assert case.target is None or case.target > 1
    for case in headline_cases("cuda"):
        assert (case.target is not None) == case.backward
        assert case.impl == "compiled"


@pytest.mark.parametrize("impl", ["compiled", "separable"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_both_do_the_same_work(
    impl: Implementation, backward: bool, channels_last: bool, ratio: int
) -> None:
    case = replace(TINY, impl=impl, backward=backward, channels_last=channels_last, ratio=ratio)
    features, rois = bench.make_inputs(case, "cpu")
    ours = bench._call(case, partial(roi_align, impl=impl), features, rois)()
    peer = bench._call(case, torchvision.ops.roi_align, features, rois)()
    assert ours.shape == ((1, 3, 10, 12) if backward else (6, 3, 2, 2))
    torch.testing.assert_close(ours, peer)
    assert ours.abs().max() > 0


def test_measured_threads_result_and_target() -> None:
    before = torch.get_num_threads()
    measured = measure(replace(TINY, target=4), "cpu", 1, seconds=0)
    assert torch.get_num_threads() == before
    row = measured.to_json()
    assert row["ours_result"] == pytest.approx(row["peer_result"], rel=1e-6)
    assert row["ours_result"] > 0
    assert min(row["ours_ms"], row["peer_ms"], row["ratio"]) > 0
    assert row["met"] == (row["ratio"] >= 4)
    assert (row["threads"], row["case"]["sides"], row["case"]["boxes"]) == (1, (8, 16), 6)


def test_threads_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with bench.torch_threads(before + 1):
            raise RuntimeError(f"with {torch.get_num_threads()} threads")

    with pytest.raises(RuntimeError, match=f"with {before + 1} threads"):
        fail()
    assert torch.get_num_threads() == before


def test_a_row_without_target_is_neither_met_nor_missed(capsys: pytest.CaptureFixture[str]) -> None:
    comparison = PeerComparison("t", "p", 1.0, 2.0, 2.0, None, 0.5, 0.5)
    assert comparison.met is None
    print_comparisons("title", "mean", [comparison])
    printed = capsys.readouterr().out
    assert "-" in printed
    assert "met" not in printed
    assert "missed" not in printed
    print_comparisons("title", "mean", [replace(comparison, target=4)])
    assert "missed" in capsys.readouterr().out


def test_sweep_changes_one_factor_at_a_time() -> None:
    places = sweeping.settings(TINY_BASE, 2, cores=6)
    assert [p.value for p in places if p.factor == sweeping.THREADS] == [1] * 3 + [2] * 3 + [4] * 3
    for place in places:
        mode = replace(TINY_BASE, **sweeping.MODES[place.mode])
        changed = [name for name in vars(mode) if vars(mode)[name] != vars(place.case)[name]]
        assert len(changed) + (place.threads != 2) <= 1
    assert sweeping.THREADS not in {p.factor for p in sweeping.settings(TINY_BASE, None, cores=6)}


def test_the_command_writes_numbers_and_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [replace(TINY, target=0.001), replace(TINY, backward=True)]
    monkeypatch.setattr(bench, "headline_cases", lambda device: cases)
    monkeypatch.setattr(bench, "available_cores", lambda: 2)
    monkeypatch.setattr(sweeping, "BASE", TINY_BASE)
    numbers, figure = tmp_path / "new" / "numbers.json", tmp_path / "sweep.png"
    command.roi_align(json=numbers, sweep=True, figure=figure)

    report = json.loads(numbers.read_text())
    assert {"torch", "torchvision", "cores"} <= set(report["environment"])
    rows = report["comparisons"]
    assert [(r["threads"], r["met"]) for r in rows] == [(2, True), (2, None), (1, True), (1, None)]
    assert [r["task"] for r in rows[:2]] == [
        "tiny, ratio 2, forward",
        "tiny, ratio 2, forward + backward",
    ]
    factors = {p["factor"] for p in report["sweep"]}
    assert factors == {sweeping.BOX_SIZE, sweeping.RATIO, sweeping.CHANNELS, sweeping.THREADS}
    assert all(p["ratio"] > 0 and p["mode"] in sweeping.MODES for p in report["sweep"])
    with Image.open(figure) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
    printed = capsys.readouterr().out
    assert "threads 2, against torchvision" in printed
    assert "threads 1, against torchvision" in printed
    assert "adaptive" in printed


def test_figure_without_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="--figure draws the sweep; leave out --no-sweep"):
        command.roi_align(sweep=False, figure=tmp_path / "f.png")


def test_cuda_without_a_gpu_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LabkitError, match=r"--device cuda needs a CUDA or ROCm GPU.*labkit doctor"):
        command.roi_align(device=command.Device.CUDA)


def test_bytes_by_hand() -> None:
    # The map has 256 * 200 * 304 = 15 564 800 cells, the bins are 1000 * 256 * 49 = 12 544 000.
    assert gpu.least_bytes(FPN) == 4 * (15_564_800 + 12_544_000) == 112_435_200
    assert gpu.least_bytes(replace(FPN, backward=True)) == 224_870_400
    # 3 * 10 * 12 = 360 cells and 6 * 3 * 4 = 72 bins.
    assert gpu.least_bytes(TINY) == 4 * 432


def test_share_of_the_bandwidth_by_hand() -> None:
    comparison = PeerComparison("t", "torchvision", 0.001, 0.002, 2.0, None, 1.0, 1.0)
    # 1728 bytes in a microsecond are 1.728 GB/s.
    found = gpu.traffic(RoIAlignMeasurement(TINY, None, comparison), bandwidth=3.456e9)
    assert found["bytes_per_second"] == pytest.approx(1.728e9)
    assert found["bandwidth_share"] == pytest.approx(0.5)


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs a GPU; on one run: pytest tests/bench/test_bench_roi_align.py -m cuda",
)
def test_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "headline_cases", lambda _: [TINY, replace(TINY, backward=True)])
    monkeypatch.setattr(sweeping, "BASE", TINY_BASE)
    numbers = tmp_path / "numbers.json"
    command.roi_align(device=command.Device.CUDA, json=numbers, sweep=True)
    report = json.loads(numbers.read_text())
    for row in report["comparisons"]:
        assert row["ours_result"] == pytest.approx(row["peer_result"], rel=1e-5)
        assert 0 < row["bandwidth_share"] < 1
    assert report["copy_bytes_per_second"] > 1e9
