"""Boxes around masks; offsets of boxes in half precision."""

import pytest
import torch
from torchvision.ops import masks_to_boxes

from labkit.ops.boxes import decode_boxes, encode_boxes, larger_than, masks_to_edge_boxes

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_computed_with_in_float32(dtype):
    boxes = torch.tensor([[2000.0, 3.0, 2040.0, 63.0], [10.0, 10.0, 400.0, 800.0]]).to(dtype)
    references = torch.tensor([[1990.0, 0.0, 2050.0, 60.0], [0.0, 0.0, 512.0, 512.0]]).to(dtype)
    offsets = encode_boxes(boxes, references, WEIGHTS)
    assert offsets.dtype == torch.float32
    assert torch.equal(offsets, encode_boxes(boxes.float(), references.float(), WEIGHTS))
    back = decode_boxes(offsets, references, WEIGHTS)
    assert torch.allclose(back, boxes.float(), atol=1e-3)
    small = decode_boxes(offsets.half(), references, WEIGHTS)
    assert torch.equal(small, decode_boxes(offsets.half().float(), references.float(), WEIGHTS))
    assert larger_than(boxes, 30.0).tolist() == [True, True]


def test_double_precision_stays():
    boxes = torch.rand(3, 4, dtype=torch.float64) + torch.tensor([0, 0, 2, 2])
    assert encode_boxes(boxes, boxes, WEIGHTS).dtype == torch.float64


def test_a_box_ends_at_the_outer_edge_of_its_last_pixel():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 5, 7] = True
    masks[1, 0, 1] = masks[1, 3, 6] = True
    assert masks_to_edge_boxes(masks).tolist() == [[7, 5, 8, 6], [1, 0, 7, 4]]
    assert masks_to_edge_boxes(masks[:0]).shape == (0, 4)


def test_torchvisions_boxes_end_at_the_last_pixels_index():
    masks = torch.rand(20, 9, 7) < 0.1
    masks[:, 4, 3] = True
    far_edge = torch.tensor([0, 0, 1, 1])
    assert torch.equal(masks_to_edge_boxes(masks), masks_to_boxes(masks) + far_edge)
