"""The compiled operator as PyTorch sees it: autograd, shapes, torch.compile, autocast, safety."""

import math

import pytest
import torch
from helpers.roi_cases import assert_equal_to_torchvision, make_case
from torchvision.ops import roi_align as torchvision_roi_align

from labkit.ops import roi_align, roi_align_compiled

ROIS = torch.tensor([[0, 0.2, 0.7, 5.1, 4.9], [1, 1, 2, 9, 4], [0, -3, -3, 30, 30]])
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="no GPU; on a machine with one: labkit build && pytest -m cuda",
)


@pytest.fixture(autouse=True, scope="module")
def operator():
    roi_align_compiled.load_operator("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_opcheck(dtype, memory_format):
    rois = ROIS.double() if dtype == torch.float64 else ROIS
    features = torch.randn(2, 3, 6, 7).to(dtype, memory_format=memory_format).requires_grad_()
    torch.library.opcheck(torch.ops.labkit.roi_align, (features, rois, 0.5, 3, 2, 2, True))
    grad = torch.randn(3, 3, 3, 2).to(dtype, memory_format=memory_format).requires_grad_()
    channels_last = memory_format == torch.channels_last
    torch.library.opcheck(
        torch.ops.labkit.roi_align_backward,
        (grad, rois, 0.5, 2, 3, 6, 7, 2, True, channels_last),
    )


@pytest.mark.parametrize("impl", ["separable", "compiled"])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_gradients_of_both_orders(impl, ratio):
    features = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    boxes = ROIS.double()

    def pool(features):
        return roi_align(features, boxes, (2, 3), 0.5, ratio, True, impl=impl)

    assert torch.autograd.gradcheck(pool, features)
    assert torch.autograd.gradgradcheck(pool, features)


def test_backward_does_not_depend_on_threads():
    features = torch.randn(1, 200, 40, 50, requires_grad=True)
    boxes = [torch.rand(300, 4) * 20 + torch.tensor([0, 0, 20, 20])]
    grads = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            pooled = roi_align(features, boxes, 7, impl="compiled")
            grads.append(torch.autograd.grad(pooled.square().sum(), features)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(grads[0], grad) for grad in grads[1:])


def test_torch_compile_without_a_graph_break():
    def head(features, boxes):
        return roi_align(features.relu(), boxes, 4, 0.5, aligned=True).tanh()

    fast = torch.compile(head, fullgraph=True, backend="aot_eager")
    for shape in ((2, 3, 9, 8), (2, 3, 12, 11)):  # the second shape is traced as dynamic
        features = torch.randn(shape, requires_grad=True)
        boxes = [torch.rand(5, 2).repeat(1, 2) * 8 + torch.tensor([0, 0, 6.0, 6]) for _ in "ab"]
        found, expected = fast(features, boxes), head(features, boxes)
        assert torch.allclose(found, expected, atol=1e-6)
        (grad,) = torch.autograd.grad(found.sum(), features)
        (expected_grad,) = torch.autograd.grad(expected.sum(), features)
        assert torch.allclose(grad, expected_grad, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_keeps_the_maps_type_and_the_boxes_precision(dtype):
    features = torch.randn(2, 4, 30, 30).to(dtype)
    # 300.5 and 2.25 pixels are not bfloat16 numbers; rounding them would move the samples.
    rois = torch.tensor([[0, 2.25, 1.0, 300.5, 250.25], [1, 100.5, 9.0, 301.0, 17.25]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        direct = torch.ops.labkit.roi_align(features, rois.double(), 0.1, 3, 3, 2, True)
        found = roi_align(features, rois, 3, 0.1, 2, True)
        theirs = torchvision_roi_align(features, rois, 3, 0.1, 2, True)
    assert direct.dtype == found.dtype == theirs.dtype == dtype
    assert torch.equal(direct, found)
    assert torch.allclose(found, theirs, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(3, 6, 7)}, "input must have 4 dimensions"),
        ({0: torch.zeros(2, 3, 6, 7, dtype=torch.int64)}, "input must be float16"),
        ({0: torch.zeros(2, 3, 0, 7)}, "input has no cells"),
        ({1: torch.zeros(3, 4)}, r"rois must be \(K, 5\)"),
        ({1: ROIS.double()}, "rois must be float32"),
        ({1: torch.tensor([[2.0, 0, 0, 1, 1]])}, "rois row 0 has a batch index"),
        ({1: torch.tensor([[-0.5, 0, 0, 1, 1]])}, "rois row 0 has a batch index"),
        ({1: torch.tensor([[math.nan, 0, 0, 1, 1]])}, "rois row 0 has a batch index"),
        ({1: torch.tensor([[0.0, 0, 0, 1, 1], [0, 0, math.nan, 1, 1]])}, "rois row 1 .*finite"),
        ({3: 0}, "pooled_height and pooled_width"),
        ({4: -1}, "pooled_height and pooled_width"),
        ({5: 100_000}, "sampling_ratio is above"),
    ],
)
def test_direct_calls_are_checked_too(change, message):
    arguments = [torch.zeros(2, 3, 6, 7), ROIS, 1.0, 2, 2, 2, True]
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.labkit.roi_align(*arguments)


def test_backward_checks_its_arguments():
    rest = (1.0, 2, 3, 6, 7, 2, True, False)
    backward = torch.ops.labkit.roi_align_backward
    with pytest.raises(RuntimeError, match="grad must have 4"):
        backward(torch.zeros(3), ROIS, *rest)
    with pytest.raises(RuntimeError, match="grad does not fit"):
        backward(torch.zeros(2, 3, 2, 2), ROIS, *rest)
    with pytest.raises(RuntimeError, match="no cells"):
        backward(torch.zeros(3, 3, 2, 2), ROIS, 1.0, 2, 3, 0, 7, 2, True, False)


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gpu_equals_torchvision(dtype):
    for seed in range(3000, 3300):
        case = make_case(seed, dtype, "cuda")
        assert_equal_to_torchvision(case, lambda *a: roi_align(*a, impl="compiled"))


@pytest.mark.cuda
@needs_gpu
def test_gpu_gives_nan_for_impossible_boxes():
    features = torch.ones(2, 70, 8, 8, device="cuda", requires_grad=True)
    rois = torch.tensor([[2.0, 0, 0, 4, 4], [0, 0, 0, math.nan, 4], [1, 2, 2, 5, 5]], device="cuda")
    pooled = roi_align(features, rois, 2, impl="compiled")
    assert pooled[:2].isnan().all()
    assert torch.equal(pooled[2], torch.ones_like(pooled[2]))
    (grad,) = torch.autograd.grad(pooled[2].sum(), features)
    assert grad.isfinite().all()


@pytest.mark.cuda
@needs_gpu
def test_gpu_half_precision_and_layouts():
    rois = ROIS.cuda()
    for dtype in (torch.float16, torch.bfloat16):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            features = torch.randn(2, 70, 9, 11, device="cuda").to(dtype)
            features = features.contiguous(memory_format=memory_format).requires_grad_()
            pooled = roi_align(features, rois, 3, 0.5, -1, True, impl="compiled")
            exact = torchvision_roi_align(features.float(), rois, 3, 0.5, -1, True)
            assert pooled.dtype == dtype
            assert pooled.is_contiguous(memory_format=memory_format)
            unit = torch.finfo(dtype).eps
            assert torch.allclose(pooled.float(), exact, rtol=unit, atol=1e-3)
            (grad,) = torch.autograd.grad(pooled.float().sum(), features)
            assert grad.is_contiguous(memory_format=memory_format)
