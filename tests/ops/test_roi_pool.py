"""RoIPool from scratch: numbers worked by hand, and torchvision's operator as the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_pool as reference

from labkit.errors import LabkitError
from labkit.ops.roi_pool import roi_pool, whole_cells

COUNTING = torch.arange(25.0).reshape(1, 1, 5, 5)  # row r, column c holds 5 r + c


def box(*values: float) -> list[Tensor]:
    return [torch.tensor([values], dtype=torch.float32)]


def test_bins_by_hand() -> None:
    # Cells 1..4 in both directions, two bins of two cells: the largest is bottom right of each.
    assert roi_pool(COUNTING, box(1, 1, 4, 4), 2)[0, 0].tolist() == [[12, 14], [22, 24]]


def test_neighbouring_bins_share_a_cell_when_the_cells_do_not_divide() -> None:
    # Three cells, two bins of 1.5: rounded outwards they are cells 0..1 and 1..2.
    pooled = roi_pool(-COUNTING, box(0, 0, 2, 2), 2)
    assert pooled[0, 0].tolist() == [[0, -1], [-5, -6]]


def test_corners_are_rounded_with_halves_away_from_zero() -> None:
    corners = torch.tensor([[0.5, 2.5, 3.49, 4.0], [-0.5, -1.5, 0.0, 7.25]])
    assert whole_cells(corners, 1.0).tolist() == [[1, 3, 3, 4], [-1, -2, 0, 7]]


def test_a_quarter_of_a_pixel_changes_nothing_or_a_whole_cell() -> None:
    before, after = roi_pool(COUNTING, box(1, 1, 3, 3), 1), roi_pool(COUNTING, box(1, 1, 3.4, 3), 1)
    assert before.item() == after.item() == 18
    assert roi_pool(COUNTING, box(1, 1, 3.6, 3), 1).item() == 19


def test_bins_outside_the_map_are_zero() -> None:
    pooled = roi_pool(COUNTING - 100, box(3, 3, 8, 8), 3)
    assert pooled[0, 0].tolist() == [[-76, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_gradient_goes_to_the_cell_that_was_taken() -> None:
    features = COUNTING.clone().requires_grad_()
    roi_pool(features, box(1, 1, 4, 4), 2).backward(torch.tensor([[[[1.0, 2], [3, 4]]]]))
    expected = torch.zeros(5, 5)
    expected[2, 2], expected[2, 4], expected[4, 2], expected[4, 4] = 1, 2, 3, 4
    assert torch.equal(features.grad[0, 0], expected)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_torchvision(data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 2**20), "seed"))
    n, c = draw(st.integers(1, 3), "N"), draw(st.integers(1, 4), "C")
    height, width = draw(st.integers(1, 12), "H"), draw(st.integers(1, 12), "W")
    size = (draw(st.integers(1, 8), "ph"), draw(st.integers(1, 8), "pw"))
    scale = draw(st.sampled_from([1.0, 0.5, 0.25, 0.3]), "scale")
    dtype = draw(st.sampled_from([torch.float32, torch.float64]), "dtype")
    k = draw(st.integers(0, 6), "K")
    side = max(height, width) / scale
    # Corners on quarters of a pixel, so that halves occur; some lie outside, some are swapped.
    corners = (torch.rand(k, 4, dtype=dtype) * 1.4 - 0.2).mul(side * 4).round() / 4
    rois = torch.cat([torch.randint(0, n, (k, 1)).to(dtype), corners], dim=1)
    features = torch.randn(n, c, height, width, dtype=dtype, requires_grad=True)
    twin = features.detach().clone().requires_grad_()

    own, other = roi_pool(features, rois, size, scale), reference(twin, rois, size, scale)
    assert torch.equal(own, other)
    weight = torch.randn_like(own)
    own.backward(weight)
    other.backward(weight)
    torch.testing.assert_close(features.grad, twin.grad)


def test_large_map_and_channels_last() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 8, 40, 60).to(memory_format=torch.channels_last)
    corners = torch.rand(2, 30, 4) * 60 * 8
    boxes = [
        torch.cat([b[:, :2].minimum(b[:, 2:]), b[:, :2].maximum(b[:, 2:])], 1) for b in corners
    ]
    assert torch.equal(roi_pool(features, boxes, 7, 1 / 8), reference(features, boxes, 7, 1 / 8))


def test_of_equal_cells_the_first_gets_the_gradient() -> None:
    gradients = []
    for operator in (roi_pool, reference):
        features = torch.zeros(1, 1, 6, 6, requires_grad=True)
        operator(features, box(0, 0, 5, 5), 2).sum().backward()
        gradients.append(features.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("input", (COUNTING[0], box(0, 0, 1, 1), 2)),
        ("input", (COUNTING.long(), box(0, 0, 1, 1), 2)),
        ("boxes", (COUNTING, torch.zeros(1, 4), 2)),
        ("boxes", (COUNTING, box(0, float("nan"), 1, 1), 2)),
        ("output_size", (COUNTING, box(0, 0, 1, 1), 0)),
    ],
)
def test_bad_arguments_are_named(argument: str, arguments: tuple) -> None:
    with pytest.raises(LabkitError, match=argument):
        roi_pool(*arguments)
