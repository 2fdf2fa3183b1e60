"""RoIWarp: numbers worked by hand, and a plain loop over samples as the reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from labkit.errors import LabkitError
from labkit.ops.roi_warp import roi_warp

CELLS = torch.tensor(
    [[1.0, 3, 2, 0, 4], [5, 9, 6, 2, 1], [2, 7, 8, 4, 0], [0, 4, 5, 3, 2], [3, 1, 0, 6, 8]]
)[None, None]
BOX = [torch.tensor([[0.75, 1.25, 2.75, 3.25]])]


def point(cells: Tensor, y: float, x: float) -> Tensor:
    """Bilinear value at a point measured from the centre of cell (0, 0); the border is extended."""
    height, width = cells.shape
    total = 0 * cells.sum()  # zero, and part of the graph
    # On the end of the extended border, rounding decides between its value and nothing.
    assume(all(abs(v - end) > 1e-9 for v, n in ((y, height), (x, width)) for end in (-1, n)))
    if not (-1 <= y <= height and -1 <= x <= width):
        return total
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    for r in {math.floor(y), math.ceil(y)}:
        for c in {math.floor(x), math.ceil(x)}:
            total = total + (1 - abs(y - r)) * (1 - abs(x - c)) * cells[r, c]
    return total


def by_definition(cells: Tensor, box: list[float], ph: int, pw: int, s: int, reduce: str) -> Tensor:
    x1, y1, x2, y2 = (math.floor(abs(v) + 0.5) * (1 if v >= 0 else -1) for v in box)
    x2, y2 = max(x1, x2) + 1, max(y1, y2) + 1
    rows = []
    for i in range(ph):
        for j in range(pw):
            samples = torch.stack(
                [
                    point(
                        cells,
                        y1 + (i + (a + 0.5) / s) * (y2 - y1) / ph - 0.5,
                        x1 + (j + (b + 0.5) / s) * (x2 - x1) / pw - 0.5,
                    )
                    for a in range(s)
                    for b in range(s)
                ]
            )
            rows.append(samples.mean() if reduce == "mean" else samples.amax())
    return torch.stack(rows).reshape(ph, pw)


def test_one_sample_by_hand() -> None:
    # Cells 1..3 both ways, so [1, 4] x [1, 4]; bins 1.5 wide, samples at 1.25 and 2.75.
    assert roi_warp(CELLS, BOX, 2, sampling_ratio=1)[0, 0].tolist() == [[8, 3.5], [5, 3.875]]


def test_mean_and_max_of_a_bin_by_hand() -> None:
    # One bin over cells 1..2, samples at 1 and 2: the four cells themselves.
    box = [torch.tensor([[1.0, 1.0, 2.0, 2.0]])]
    assert roi_warp(CELLS, box, 1, reduce="mean").item() == pytest.approx((9 + 6 + 7 + 8) / 4)
    assert roi_warp(CELLS, box, 1, reduce="max").item() == 9


def test_boxes_that_round_to_the_same_cells_get_the_same_values() -> None:
    moved = [BOX[0] + torch.tensor([0.25, -0.25, 0.25, 0.0])]
    jumped = [BOX[0] + torch.tensor([0.0, 0.0, 0.75, 0.0])]
    assert torch.equal(roi_warp(CELLS, moved, 3), roi_warp(CELLS, BOX, 3))
    assert not torch.equal(roi_warp(CELLS, jumped, 3), roi_warp(CELLS, BOX, 3))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_definition(data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 2**20), "seed"))
    height, width = draw(st.integers(1, 8), "H"), draw(st.integers(1, 8), "W")
    ph, pw = draw(st.integers(1, 3), "ph"), draw(st.integers(1, 3), "pw")
    s, reduce = draw(st.integers(1, 3), "s"), draw(st.sampled_from(["mean", "max"]), "reduce")
    k, scale = draw(st.integers(0, 3), "K"), draw(st.sampled_from([1.0, 0.5, 0.25]), "scale")
    corners = torch.rand(k, 4, dtype=torch.float64).mul(1.4).sub(0.2) * max(height, width) / scale
    image = torch.randint(0, 2, (k, 1)).double()
    features = torch.randn(2, 2, height, width, dtype=torch.float64, requires_grad=True)
    twin = features.detach().clone().requires_grad_()

    own = roi_warp(features, torch.cat([image, corners], 1), (ph, pw), scale, s, reduce)
    assert own.shape == (k, 2, ph, pw)
    for roi, index, box in zip(own, image[:, 0].int().tolist(), corners.tolist(), strict=True):
        for channel in range(2):
            box_on_map = [v * scale for v in box]
            expected = by_definition(twin[index, channel], box_on_map, ph, pw, s, reduce)
            torch.testing.assert_close(roi[channel], expected)
            (expected * (1 + torch.arange(ph * pw).reshape(ph, pw))).sum().backward()
    (own * (1 + torch.arange(ph * pw).reshape(ph, pw))).sum().backward()
    if k and reduce == "mean":  # samples beyond the border can be equal, and max then has a choice
        torch.testing.assert_close(features.grad, twin.grad)


def test_gradient_of_the_maximum_by_hand() -> None:
    features = CELLS.clone().requires_grad_()
    box = [torch.tensor([[1.0, 1.0, 2.0, 2.0]])]
    roi_warp(features, box, 1, reduce="max").backward()
    expected = torch.zeros_like(CELLS)
    expected[0, 0, 1, 1] = 1  # the 9
    torch.testing.assert_close(features.grad, expected)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("reduce", {"reduce": "min"}),
        ("sampling_ratio", {"sampling_ratio": 0}),
        ("output_size", {"output_size": 0}),
        ("boxes", {"boxes": torch.zeros(1, 4)}),
        ("input", {"input": CELLS.long()}),
    ],
)
def test_bad_arguments_are_named(argument: str, change: dict) -> None:
    arguments = {"input": CELLS, "boxes": BOX, "output_size": 2, **change}
    with pytest.raises(LabkitError, match=argument):
        roi_warp(**arguments)
