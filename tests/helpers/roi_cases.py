"""Random calls of RoIAlign over all its options, for the tests on the CPU and on a GPU."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@dataclass
class Case:
    input: Tensor
    boxes: Tensor | list[Tensor]
    options: tuple  # output_size, spatial_scale, sampling_ratio, aligned
    text: str


def make_case(seed: int, dtype: torch.dtype, device: str = "cpu") -> Case:
    """A call that torchvision can do as well."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*options):
        return options[int(torch.randint(len(options), (), generator=generator))]

    batch, channels = pick(1, 2, 3), pick(1, 3, 16, 33, 70)
    height, width = pick(1, 2, 7, 23), pick(1, 3, 12, 40)
    layout = pick("contiguous", "channels_last", "sliced", "transposed")
    aligned, ratio = pick(True, False), pick(-1, 0, 1, 2, 3)
    scale = pick(1.0, 0.5, 1 / 16)
    size = pick(1, 2, 7, (3, 5), (14, 2))

    input = torch.randn(batch, channels, height, width, generator=generator, dtype=dtype)
    if layout == "channels_last":
        input = input.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        input = torch.randn(batch, channels + 2, height, 2 * width, generator=generator).to(dtype)
        input = input[:, 1:-1, :, ::2]
    elif layout == "transposed":
        input = input.transpose(2, 3).contiguous().transpose(2, 3)

    per_image = []
    for _ in range(batch):
        count = pick(0, 1, 6)
        extent = torch.tensor([width, height], dtype=dtype) / scale
        low = (torch.rand(count, 2, generator=generator, dtype=dtype) * 1.6 - 0.3) * extent
        side = torch.rand(count, 2, generator=generator, dtype=dtype) * extent * pick(0.1, 1, 3)
        side = side * pick(0, 1, 1, 1)  # zero size
        if ratio > 0 or not aligned:
            side = side * pick(-1, 1, 1)  # torchvision fails on negative adaptive boxes
        per_image.append(torch.cat([low, low + side], dim=1).to(device))
    boxes: Tensor | list[Tensor] = per_image
    if pick(True, False):
        rows = [torch.cat([b.new_full((len(b), 1), i), b], 1) for i, b in enumerate(per_image)]
        boxes = torch.cat(rows)[torch.randperm(sum(map(len, rows)), generator=generator)]
    text = f"seed {seed}: {layout} {tuple(input.shape)} size {size} scale {scale} ratio {ratio}"
    return Case(input.to(device), boxes, (size, scale, ratio, aligned), text)


def assert_equal_to_torchvision(case: Case, function) -> None:
    """Forward and backward agree, relative to the largest sum of magnitudes that was added up."""
    tolerance = TOLERANCE[case.input.dtype]
    ours, theirs = (case.input.detach().requires_grad_() for _ in range(2))
    expected = torchvision_roi_align(theirs, case.boxes, *case.options)
    found = function(ours, case.boxes, *case.options)
    assert found.shape == expected.shape, case.text
    assert found.dtype == expected.dtype, case.text
    if expected.numel() == 0:
        return
    size = case.input.abs().max()
    assert (found - expected).abs().max() <= tolerance * size, case.text
    # A gradient in a layout that no map has: every second case broadcasts one number a bin.
    generator = torch.Generator().manual_seed(expected.numel())
    grad = torch.randn(expected.shape, generator=generator).to(expected)
    if expected.numel() % 2:
        grad = grad[:, :1].expand_as(expected)
    (expected_grad,) = torch.autograd.grad(expected, theirs, grad, retain_graph=True)
    (magnitude,) = torch.autograd.grad(expected, theirs, grad.abs())
    (found_grad,) = torch.autograd.grad(found, ours, grad)
    distance = (found_grad - expected_grad).abs().max()
    assert distance <= tolerance * magnitude.max().clamp(min=1), case.text
