"""RoIAlign: by hand, against torchvision, by properties, and what it refuses."""

import math

import pytest
import torch
from helpers.roi_cases import assert_equal_to_torchvision, make_case
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align as torchvision_roi_align

from labkit.errors import LabkitError
from labkit.ops import roi_align
from labkit.ops.roi_align import bilinear
from labkit.ops.roi_align_separable import sampling_matrix

IMPLEMENTATIONS = ["loop", "separable", "compiled", "torchvision"]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_by_hand(impl):
    # F[i, j] = 10 i + j is linear, so a sample is the value at its place and a bin's average is the
    # value at its centre. The box from (1, 1) to (4, 3) has bins of 1.5 x 1 cells.
    features = (10.0 * torch.arange(5)[:, None] + torch.arange(6.0))[None, None]
    box = [torch.tensor([[1.0, 1.0, 4.0, 3.0]])]
    found = roi_align(features, box, (2, 2), sampling_ratio=2, impl=impl)
    assert found[0, 0].tolist() == [[16.75, 18.25], [26.75, 28.25]]
    # With aligned, all samples move up and left by half a cell: 10 * 0.5 + 0.5 less.
    found = roi_align(features, box, (2, 2), sampling_ratio=2, aligned=True, impl=impl)
    assert found[0, 0].tolist() == [[11.25, 12.75], [21.25, 22.75]]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_off_the_map_by_hand(impl):
    # One sample a bin at -2, -1, 0 and 3 along x, y = 0: more than a cell off counts as 0, within a
    # cell the border's value holds.
    features = torch.tensor([[[[5.0, 6.0, 7.0]]]])
    for x, value in [(-2, 0), (-1, 5), (0, 5), (2.5, 7), (3, 7), (3.25, 0)]:
        box = [torch.tensor([[x - 0.5, -0.5, x + 0.5, 0.5]])]
        found = roi_align(features, box, 1, sampling_ratio=1, impl=impl)
        assert found.item() == value, (x, impl)


def test_sampling_matrix_by_hand():
    # A box from 0.5 to 2.5 in two bins of one sample: samples at 1 and 2 exactly.
    low, high = torch.tensor([0.5]), torch.tensor([2.5])
    assert sampling_matrix(low, high, 2, 4, ratio=1)[0].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    # Two samples a bin: at 0.75 and 1.25, at 1.75 and 2.25.
    expected = [[0.125, 0.75, 0.125, 0], [0, 0.125, 0.75, 0.125]]
    assert sampling_matrix(low, high, 2, 4, ratio=2)[0].tolist() == expected


def test_bilinear_by_hand():
    features = torch.tensor([[[0.0, 1.0], [2.0, 4.0]]])
    assert bilinear(features, 0.5, 0.25).item() == 0.75 * 1.0 + 0.25 * 2.5
    assert bilinear(features, 5.0, 0.0).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("block", range(6))
def test_compiled_equals_torchvision(dtype, block):
    for seed in range(50 * block, 50 * block + 50):
        assert_equal_to_torchvision(
            make_case(seed, dtype), lambda *a: roi_align(*a, impl="compiled")
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_separable_equals_torchvision(dtype):
    for seed in range(1000, 1100):
        assert_equal_to_torchvision(
            make_case(seed, dtype), lambda *a: roi_align(*a, impl="separable")
        )


def test_loop_equals_torchvision():
    for seed in range(2000, 2015):
        case = make_case(seed, torch.float64)
        case.input = case.input[:, :3]
        # Where all samples lie off the map the loop touches no cell: autograd needs some path.
        assert_equal_to_torchvision(
            case, lambda x, *rest: roi_align(x, *rest, impl="loop") + 0 * x.sum()
        )


@pytest.mark.usefixtures("detectron2")
def test_detectron2_roi_align():
    from detectron2 import layers

    features = torch.randn(2, 8, 25, 30, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0, 3.0, 5.5, 90.2, 71.0], [1, -4.0, 8.0, 30.0, 200.0]])
    for ratio in (0, 2):
        for aligned in (True, False):
            theirs = layers.ROIAlign((7, 5), 0.25, ratio, aligned)(features, boxes)
            ours = roi_align(features, boxes, (7, 5), 0.25, ratio, aligned)
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("impl", ["separable", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_accumulates_in_float32(impl, dtype):
    # torchvision's CPU operator sums in the half type itself; the reference here is float32.
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 40, 30, 41, generator=generator).to(dtype)
    boxes = torch.tensor([[0, 1.3, 2.7, 200.9, 150.1], [1, 33.0, 20.0, 60.0, 77.0]])
    exact = features.float().requires_grad_()
    expected = roi_align(exact, boxes, 7, 0.2, -1, True, impl="torchvision")
    half = features.clone().requires_grad_()
    found = roi_align(half, boxes, 7, 0.2, -1, True, impl=impl)
    assert found.dtype == dtype
    grad = torch.randn(expected.shape, generator=generator).to(dtype)
    (expected_grad,) = torch.autograd.grad(expected, exact, grad.float())
    (found_grad,) = torch.autograd.grad(found, half, grad)
    # One rounding to the type at the end: half a unit in the last place.
    unit = torch.finfo(dtype).eps
    assert torch.allclose(found.float(), expected, rtol=unit, atol=1e-5)
    assert torch.allclose(found_grad.float(), expected_grad, rtol=unit, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 64])
def test_memory_format_of_the_input_decides(channels):
    boxes = [torch.tensor([[0.0, 0.0, 9.0, 9.0], [3.0, 3.0, 5.0, 5.0]])]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        features = torch.randn(1, channels, 12, 12).contiguous(memory_format=memory_format)
        features.requires_grad_()
        found = roi_align(features, boxes, 3, impl="compiled")
        assert found.is_contiguous(memory_format=memory_format)
        (grad,) = torch.autograd.grad(found.sum(), features)
        assert grad.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_empty(impl):
    features = torch.randn(2, 3, 8, 8, requires_grad=True)
    for boxes in (torch.zeros(0, 5), [torch.zeros(0, 4), torch.zeros(0, 4)]):
        found = roi_align(features, boxes, (2, 3), impl=impl)
        assert found.shape == (0, 3, 2, 3)
    assert roi_align(torch.zeros(0, 3, 8, 8), [], 2, impl=impl).shape == (0, 3, 2, 2)
    # An image without boxes gets a gradient of zeros.
    found = roi_align(features, [torch.zeros(0, 4), torch.tensor([[0.0, 0, 8, 8]])], 2, impl=impl)
    (grad,) = torch.autograd.grad(found.sum(), features)
    assert grad[0].abs().sum() == 0
    assert grad[1].abs().sum() > 0


@pytest.mark.parametrize("impl", ["loop", "separable", "compiled"])
def test_negative_adaptive_box_is_zero(impl):
    boxes = [torch.tensor([[5.0, 5.0, 2.0, 2.0], [5.0, 2.0, 2.0, 5.0]])]
    found = roi_align(torch.ones(1, 1, 8, 8), boxes, 2, aligned=True, impl=impl)
    assert found.tolist() == torch.zeros(2, 1, 2, 2).tolist()


def test_absurdly_large_boxes_finish():
    # Sample by sample this box would take hours; of the samples of a bin 1e8 cells long only those
    # on the map are visited.
    features = torch.ones(1, 1, 8, 8)
    for size in (1e6, 1e9, 1e30):
        box = [torch.tensor([[-size, -size, size, size]])]
        found = roi_align(features, box, 3, impl="compiled")
        assert found.isfinite().all()
        assert 0 <= found.sum() <= 1
    # 2000 samples a bin, one a cell, in the middle bin: 9 cells of -1 .. 8 count along each axis.
    box = [torch.tensor([[-2996.5, -2996.5, 3003.5, 3003.5]])]
    found = roi_align(features, box, 3, impl="compiled")
    reference = torchvision_roi_align(features, box, 3)
    assert torch.allclose(found, reference, rtol=1e-5, atol=1e-9)
    assert found[0, 0, 1, 1] > 0


@given(
    x=st.floats(-3, 10), y=st.floats(-3, 10), w=st.floats(0.1, 9), h=st.floats(0.1, 9),
    ratio=st.integers(0, 4), aligned=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_linear_maps_are_sampled_exactly(x, y, w, h, ratio, aligned):
    # On a linear map far from its border every bin is the value at the bin's centre, whatever the
    # number of samples.
    ramp = torch.arange(40, dtype=torch.float64)
    features = (3 * ramp[:, None] - 2 * ramp)[None, None]
    x, y = x + 12, y + 12
    box = [torch.tensor([[x, y, x + w, y + h]], dtype=torch.float64)]
    found = roi_align(features, box, 3, 1.0, ratio, aligned, impl="compiled")[0, 0]
    if not aligned:
        w, h = max(w, 1), max(h, 1)
    shift = 0.5 if aligned else 0.0
    centre = torch.tensor([1 / 6, 3 / 6, 5 / 6], dtype=torch.float64)
    expected = 3 * (y - shift + centre[:, None] * h) - 2 * (x - shift + centre * w)
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_backward_is_the_transpose(seed):
    # <A F, G> = <F, A^T G> for every map F and every gradient G.
    case = make_case(seed, torch.float64)
    features = case.input.detach().requires_grad_()
    pooled = roi_align(features, case.boxes, *case.options, impl="compiled")
    grad = torch.randn(pooled.shape, dtype=torch.float64)
    (back,) = torch.autograd.grad(pooled, features, grad)
    forward_product, backward_product = (pooled * grad).sum().item(), (features * back).sum().item()
    assert math.isclose(forward_product, backward_product, rel_tol=1e-9, abs_tol=1e-9)


GOOD = {
    "input": torch.zeros(2, 3, 8, 8),
    "boxes": [torch.zeros(1, 4), torch.zeros(1, 4)],
    "output_size": 2,
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(3, 8, 8)}, r"input must be \(N, C, H, W\).*\(3, 8, 8\)"),
        ({"input": "map"}, r"input must be .* got str"),
        ({"input": torch.zeros(2, 3, 8, 8, dtype=torch.int32)}, "input must be floating.*int32"),
        ({"input": torch.zeros(2, 3, 0, 8)}, "input .* has no cells"),
        ({"boxes": torch.zeros(4, 4)}, r"boxes as one tensor must be \(K, 5\).*\(4, 4\)"),
        ({"boxes": [torch.zeros(1, 4)]}, "boxes has 1 tensor for a batch of 2"),
        ({"boxes": [torch.zeros(1, 4), torch.zeros(4)]}, r"boxes\[1\] must be \(K, 4\)"),
        ({"boxes": torch.tensor([[0, 0, 0, math.nan, 1]])}, "boxes row 0 is not finite"),
        ({"boxes": torch.tensor([[0, 0, 0, 1, math.inf]])}, "boxes row 0 is not finite"),
        ({"boxes": torch.tensor([[0.0, 0, 0, 1, 1], [2, 0, 0, 1, 1]])}, "row 1 names image 2"),
        ({"boxes": torch.tensor([[-1.0, 0, 0, 1, 1]])}, "row 0 names image -1"),
        ({"boxes": torch.zeros(1, 5, device="meta")}, "boxes are on meta, input is on cpu"),
        ({"output_size": 0}, "output_size must be .* got 0"),
        ({"output_size": (2, -1)}, r"output_size must be .* got \(2, -1\)"),
        ({"output_size": (2, 2, 2)}, "output_size"),
        ({"output_size": 2.5}, "output_size"),
        ({"spatial_scale": 0.0}, "spatial_scale must be a positive"),
        ({"spatial_scale": math.nan}, "spatial_scale"),
        ({"sampling_ratio": 100_000}, "sampling_ratio must be at most 65535"),
    ],
)
def test_bad_input_is_named(impl, change, message):
    with pytest.raises(LabkitError, match=message):
        roi_align(**(GOOD | change), impl=impl)


def test_unknown_implementation():
    with pytest.raises(LabkitError, match=r"impl must be one of .*'compiled'.* got 'fast'"):
        roi_align(**GOOD, impl="fast")
