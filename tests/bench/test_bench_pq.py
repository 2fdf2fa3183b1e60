from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from labkit.bench import pq
from labkit.bench.panoptic_pairs import categories, make_pair, write_pairs
from labkit.bench.peer_comparison import compare_with_peer, problem
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.panoptic_quality_files import evaluate_files
from labkit.structures import Categories


def test_pairs_are_the_same_every_time_and_like_coco() -> None:
    (target, infos), (prediction, _) = make_pair(3)
    np.testing.assert_array_equal(target, make_pair(3)[0][0])
    assert not np.array_equal(target, make_pair(4)[0][0])
    assert target.shape == prediction.shape == (480, 640)
    assert {info["id"]: info["area"] for info in infos} == {
        id: n for id, n in zip(*np.unique(target, return_counts=True), strict=True) if id
    }
    assert (prediction > 0).all()  # on void in a prediction implementations differ
    assert 10 <= len(infos) <= 25


def test_files_and_tensors_have_the_same_quality(tmp_path: Path) -> None:
    files = evaluate_files(*write_pairs(tmp_path / "set", 2))
    coco = Categories.from_coco(categories())
    metric = PanopticQuality(coco)
    for index in range(2):
        target, prediction = pq._panoptic_pair(index, coco)
        metric.update(prediction, target)
    assert metric.compute().all.pq == pytest.approx(files.all.pq, abs=1e-12)


def test_files_equal_hotcoco(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side in a process of its own, as the command runs them."""
    pytest.importorskip("hotcoco", reason="needs hotcoco: uv sync (development group)")
    monkeypatch.setattr(pq, "REPEATS", 1)
    monkeypatch.setattr(pq, "_core_counts", lambda: [1])
    peers = [peer for peer in pq.FILE_PEERS if peer.name == "hotcoco"]
    (comparison,) = pq.compare_files(3, peers)
    assert comparison.task == "files, 3 images, 1 core"
    assert comparison.ours_result == pytest.approx(comparison.peer_result, rel=0, abs=1e-12)


def test_a_missing_peer_is_named_with_its_command() -> None:
    assert problem("no_such_package") == (
        "no_such_package is not installed; run: pip install no_such_package"
    )
    assert problem("numpy") is None


def test_equals_torchmetrics() -> None:
    detection = pytest.importorskip(
        "torchmetrics.detection", reason="needs torchmetrics: uv sync (development group)"
    )
    coco = Categories.from_coco(categories())
    target, prediction = pq._panoptic_pair(0, coco)
    ours = PanopticQuality(coco)
    ours.update(prediction, target)
    peer = detection.PanopticQuality(
        things=set(coco.things), stuffs=set(coco.stuff), allow_unknown_preds_category=True
    )
    peer.update(pq._two_channels(prediction), pq._two_channels(target))
    # torchmetrics divides in single precision.
    assert ours.compute().all.pq == pytest.approx(float(peer.compute()), abs=1e-6)
    counts = torch.from_numpy(ours.counts)
    for column, state in ((1, peer.true_positives), (2, peer.false_positives)):
        assert counts[:, column].tolist() == state.tolist()
    assert counts[:, 3].tolist() == peer.false_negatives.tolist()


def test_ratio_is_the_median_over_rounds() -> None:
    ours = iter([(1.0, 5.0), (2.0, 5.0), (4.0, 5.0)])
    peer = iter([(3.0, 6.0), (4.0, 6.0), (20.0, 6.0)])
    c = compare_with_peer(
        "t", "p", lambda: next(ours), lambda: next(peer), items=10, target=4, repeats=3
    )
    assert (c.ours_ms, c.peer_ms, c.ratio) == (200, 400, 3)
    assert (c.ours_result, c.peer_result, c.met) == (5, 6, False)
    assert c.to_json()["met"] is False


def test_peak_memory_covers_the_evaluation() -> None:
    assert 20e6 < pq.measure_peak_memory(images=3, workers=1) < 600e6
