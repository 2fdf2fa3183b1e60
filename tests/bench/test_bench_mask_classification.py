"""Mask2Former against transformers: both compute the same."""

import pytest

from labkit.bench.mask_classification import measure_all


def test_both_do_the_same_work():
    pytest.importorskip("transformers", reason="transformers is not installed; run: uv sync")
    inference, training, attention = measure_all(side=64, repeats=1)
    for comparison in (inference, training, attention):
        assert comparison.peer == "transformers"
        assert comparison.target == 1.3
        assert comparison.ours_result == pytest.approx(comparison.peer_result, rel=1e-3)
        assert min(comparison.ours_ms, comparison.peer_ms) > 0
