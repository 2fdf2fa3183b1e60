"""Deformable convolution written out beside torchvision's operator and the plain convolution."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.ops.deform_conv import deform_conv2d, neighbours, sampling_positions


def test_positions_of_a_plain_convolution():
    """Kernel 2 × 3, stride (2, 1), padding (1, 0), dilation (1, 2): tap (1, 2) of pixel (1, 1)."""
    positions = sampling_positions(torch.zeros(1, 12, 2, 2), (2, 3), (2, 1), (1, 0), (1, 2))
    assert positions.shape == (1, 6, 2, 2, 2)
    # y = 1 · 2 - 1 + 1 · 1, x = 1 · 1 - 0 + 2 · 2
    assert positions[0, 5, :, 1, 1].tolist() == [2, 5]
    assert positions[0, 0, :, 0, 0].tolist() == [-1, 0]


def test_an_offset_moves_one_tap_of_one_pixel():
    offset = torch.zeros(1, 18, 3, 3)
    offset[0, 2 * 4, 1, 1], offset[0, 2 * 4 + 1, 1, 1] = 0.5, -0.25  # the middle tap: y, x
    moved = sampling_positions(offset, (3, 3), padding=(1, 1)) - sampling_positions(
        torch.zeros_like(offset), (3, 3), padding=(1, 1)
    )
    assert moved[0, 4, :, 1, 1].tolist() == [0.5, -0.25]
    assert moved.count_nonzero() == 2


def test_neighbours_by_hand():
    """A map of 2 × 3 cells; the second image's cells come after the first one's six."""
    at = torch.tensor([[0.25, 0.5], [-0.5, 1.0], [1.0, 2.5], [-1.5, 0.0]])  # (y, x)
    positions = at[None, :, :, None, None].expand(2, -1, -1, -1, -1)
    cells, shares = neighbours(positions, (2, 3))
    assert cells.shape == shares.shape == (2, 1, 1, 4, 4)
    assert shares[0, 0, 0].tolist() == [
        [0.375, 0.375, 0.125, 0.125],
        [0, 0, 0.5, 0],  # half of the upper neighbours lies outside
        [0.5, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert cells[0, 0, 0, 0].tolist() == [0, 1, 3, 4]
    assert cells[0, 0, 0, 1, 2] == 1
    assert cells[0, 0, 0, 2, 0] == 5
    assert torch.equal(cells[1], cells[0] + 6)


def test_strips_change_nothing(monkeypatch):
    torch.manual_seed(0)
    inputs = [torch.randn(shape) for shape in ((2, 3, 6, 7), (2, 18, 6, 7), (4, 3, 3, 3))]
    whole = deform_conv2d(*inputs, padding=(1, 1))
    monkeypatch.setattr("labkit.ops.deform_conv.SAMPLES", 100)
    torch.testing.assert_close(deform_conv2d(*inputs, padding=(1, 1)), whole)


def test_a_compiled_graph_samples_the_same(monkeypatch):
    torch.manual_seed(0)
    inputs = [torch.randn(s) for s in ((2, 3, 6, 7), (2, 12, 3, 5), (4, 3, 2, 3), (4,))]
    options = ((2, 1), (1, 0), (2, 1))
    expected = deform_conv2d(*inputs, *options)
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    torch.testing.assert_close(deform_conv2d(*inputs, *options), expected)


def test_without_offsets_it_is_the_plain_convolution():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 7, 9, dtype=torch.float64), torch.randn(4, 3, 3, 3).double()
    plain = F.conv2d(x, weight, padding=1)
    found = deform_conv2d(x, torch.zeros(2, 18, 7, 9).double(), weight, padding=(1, 1))
    torch.testing.assert_close(found, plain)


numbers = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=40, deadline=None)
@given(
    kernel=numbers,
    stride=numbers,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    spread=st.sampled_from([0.3, 2.0, 20.0]),
    seed=st.integers(0, 10_000),
)
def test_it_is_torchvisions(kernel, stride, padding, dilation, size, spread, seed):
    """Values and all gradients; offsets of 20 cells look far outside."""
    torch.manual_seed(seed)
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    shapes = [(2, 3, *size), (2, 2 * kernel[0] * kernel[1], *out), (4, 3, *kernel), (4,)]
    inputs = [torch.randn(s, dtype=torch.float64) for s in shapes]
    inputs[1] *= spread
    mine = [t.clone().requires_grad_() for t in inputs]
    theirs = [t.clone().requires_grad_() for t in inputs]
    a = deform_conv2d(*mine, stride, padding, dilation)
    b = torchvision.ops.deform_conv2d(*theirs, stride, padding, dilation)
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    toward = torch.randn_like(a)
    a.backward(toward)
    b.backward(toward)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("offset", "weight", "message"),
    [
        ((1, 16, 5, 5), (2, 3, 3, 3), r"offset must be \(B, 18, h, w\) for a kernel of 3 × 3"),
        ((1, 18, 4, 5), (2, 3, 3, 3), r"output is 5 × 5 for 1 images, the offset \(1, 18, 4, 5\)"),
        ((2, 18, 5, 5), (2, 3, 3, 3), "for 1 images"),
        ((1, 18, 5, 5), (2, 4, 3, 3), r"is for 4 channels, the input has 3"),
    ],
)
def test_wrong_shapes_are_named(offset, weight, message):
    with pytest.raises(LabkitError, match=message):
        deform_conv2d(
            torch.zeros(1, 3, 5, 5), torch.zeros(offset), torch.zeros(weight), padding=(1, 1)
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_positions_keep_their_precision(dtype):
    """The map and the offsets come from layers in half precision, as torchvision's operator may."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 9, 9), torch.randn(3, 4, 3, 3)
    offset = torch.randn(1, 18, 9, 9).to(dtype)
    exact = deform_conv2d(x, offset.float(), weight, padding=(1, 1))
    with torch.autocast("cpu", dtype):
        for given in (x, x.to(dtype)):
            found = deform_conv2d(given, offset, weight, padding=(1, 1))
            assert found.dtype == given.dtype
            torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.1)
