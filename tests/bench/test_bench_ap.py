from __future__ import annotations

import pytest
import torch

from labkit.bench import ap


def test_detections_are_the_same_every_time() -> None:
    found, target = ap.make_detections(3)
    again, _ = ap.make_detections(3)
    torch.testing.assert_close(found.scores, again.scores, rtol=0, atol=0)
    assert 5 <= len(found) <= 14
    assert target["masks"].flatten(1).any(1).all()
    assert set(target["labels"].tolist()) <= set(ap.COCO.things)


def test_the_three_have_the_same_ap(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hotcoco", reason="needs hotcoco: uv sync (development group)")
    monkeypatch.setattr(ap, "REPEATS", 1)
    comparisons = ap.compare_ap(4, list(ap.PEERS))
    assert [c.peer for c in comparisons] == 2 * ["pycocotools", "hotcoco"]
    for c in comparisons:
        assert 0.05 < c.peer_result < 0.95
        assert c.ours_result == pytest.approx(c.peer_result, rel=0, abs=1e-12)
