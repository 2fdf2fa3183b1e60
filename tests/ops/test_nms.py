"""Non-maximum suppression step by step."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given, settings
from torchvision.ops import box_iou, nms

from labkit.errors import LabkitError
from labkit.ops.nms import NMSStep, Suppression, iou_with, nms_steps


def test_by_hand():
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 10],
            [20.0, 0, 30, 10],
            [0.0, 0, 10, 8],  # 80 of 100 shared with the first
            [0.0, 4, 10, 14],  # 60 of 140 shared with the first, 40 of 140 with the third
        ]
    )
    scores = torch.tensor([0.9, 0.5, 0.95, 0.4])
    assert nms_steps(boxes, scores, 0.4) == [
        NMSStep(2, (Suppression(0, pytest.approx(0.8)),)),
        NMSStep(1, ()),
        NMSStep(3, ()),
    ]
    # 60 / 140 = 0.4286: now the first, were it kept, would take the last; the third does not.
    assert [step.kept for step in nms_steps(boxes, scores, 0.85)] == [2, 0, 1, 3]


def test_nothing_to_do():
    assert nms_steps(torch.zeros(0, 4), torch.zeros(0), 0.5) == []


SIDE = st.integers(0, 12)  # whole coordinates: touching, equal and empty boxes come up often
BOXES = st.lists(
    st.tuples(SIDE, SIDE, SIDE, SIDE, st.integers(0, 5)), min_size=0, max_size=25
)  # equal scores too


@settings(max_examples=200, deadline=None)
@given(BOXES, st.sampled_from([0.0, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.7, 1.0]), st.booleans())
@example([(0, 0, 10, 10, 1), (0, 0, 10, 3, 0)], 0.3, False)  # float32(0.3) is more than 0.3
@example([(0, 0, 10, 10, 1), (0, 0, 10, 7, 0)], 0.7, False)  # float32(0.7) is less than 0.7
def test_keeps_what_torchvision_keeps_and_names_who_removed_the_rest(rows, threshold, double):
    dtype = torch.float64 if double else torch.float32
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in rows], dtype=dtype)
    corners = corners.reshape(-1, 4)
    scores = torch.tensor([s for *_, s in rows], dtype=dtype)
    steps = nms_steps(corners, scores, threshold)
    assert [step.kept for step in steps] == nms(corners, scores, threshold).tolist()
    seen = [step.kept for step in steps] + [s.index for step in steps for s in step.suppressed]
    assert sorted(seen) == list(range(len(rows)))  # every box once
    overlap = box_iou(corners, corners).double()
    for step in steps:
        for gone in step.suppressed:
            assert gone.iou == overlap[step.kept, gone.index] > threshold
            assert scores[step.kept] >= scores[gone.index]


def test_iou_against_torchvision():
    corner = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 10
    boxes = torch.cat([corner, corner + 3], dim=1)
    assert torch.equal(iou_with(boxes[0], boxes), box_iou(boxes[:1], boxes)[0])


@pytest.mark.parametrize(
    ("boxes", "scores", "threshold", "message"),
    [
        (torch.zeros(2, 5), torch.zeros(2), 0.5, r"boxes must be \(N, 4\)"),
        (torch.zeros(2, 4), torch.zeros(3), 0.5, r"scores \(N,\), got \(2, 4\) and \(3,\)"),
        (torch.zeros(2, 4), torch.tensor([0, float("nan")]), 0.5, "score 1 is not a number"),
        (torch.zeros(2, 4), torch.zeros(2), 70, "between 0 and 1, not 70"),
    ],
)
def test_bad_input(boxes, scores, threshold, message):
    with pytest.raises(LabkitError, match=message):
        nms_steps(boxes, scores, threshold)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_with_in_float32(dtype):
    """Areas beyond 65504 are infinite in half precision: nothing would overlap anything."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 600
    sides = 300 + torch.rand(60, 2, generator=generator) * 300
    boxes = torch.cat([corners, corners + sides], dim=1).to(dtype)
    scores = torch.rand(60, generator=generator).to(dtype)
    steps = nms_steps(boxes, scores, 0.5)
    assert steps == nms_steps(boxes.float(), scores.float(), 0.5)
    assert [step.kept for step in steps] == nms(boxes.float(), scores.float(), 0.5).tolist()
    assert len(steps) < 60
    assert iou_with(boxes[0], boxes).dtype == torch.float32
    assert torch.equal(iou_with(boxes[0], boxes), iou_with(boxes[0].float(), boxes.float()))


def test_whole_numbers_are_boxes_too():
    boxes = torch.tensor([[0, 0, 300, 300], [0, 0, 300, 290]])
    assert iou_with(boxes[0], boxes).tolist() == pytest.approx([1, 290 / 300])
