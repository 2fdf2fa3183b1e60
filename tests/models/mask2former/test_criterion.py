"""The losses of mask classification by hand-computed numbers, and what is refused."""

import math

import pytest
import torch

from labkit.errors import LabkitError
from labkit.models.detr import criterion as detr_criterion
from labkit.models.mask2former.criterion import (
    MASKFORMER_LOSS,
    MaskLossConfig,
    mask_classification_losses,
    mask_costs,
    mask_loss,
    match_segments,
    matched_losses,
    sample_points,
    uncertain_points,
    values_to_match,
    values_to_train,
)
from labkit.models.targets import Segments

CONFIG = MaskLossConfig(num_points=512)
SURE = 20.0  # a logit that is certain


def halves(height=8, width=8):
    """A mask of the left half and one of the right half."""
    left = torch.zeros(height, width, dtype=torch.bool)
    left[:, : width // 2] = True
    return torch.stack([left, ~left])


def logits_of(masks):
    return torch.where(masks, SURE, -SURE)


def two_segments(classes=(0, 1)):
    return Segments("two", torch.tensor(classes), halves())


def test_points_are_interpolated_and_outside_is_zero():
    """The centre of the first of two cells is at 1/4; halfway between both is their mean."""
    row = torch.tensor([[[2.0, 6.0]]])
    points = torch.tensor([[[0.25, 0.5], [0.5, 0.5], [0.75, 0.5], [-0.5, 0.5]]])
    assert sample_points(row, points).tolist() == [[2, 4, 6, 0]]
    both = torch.cat([row, -row])
    assert sample_points(both, points).tolist() == [[2, 4, 6, 0], [-2, -4, -6, 0]]
    assert sample_points(both, points.expand(2, -1, -1)).equal(sample_points(both, points))


def test_no_maps_have_no_points():
    for points in (torch.zeros(0, 5, 2), torch.zeros(1, 5, 2)):
        assert sample_points(torch.zeros(0, 4, 4), points).shape == (0, 5)


def test_the_assignment_follows_masks_and_classes():
    """Queries have the masks in the other order; a third one is nothing like them."""
    masks = torch.cat([logits_of(halves()).flip(0), torch.full((1, 8, 8), -SURE)])
    queries, segments = match_segments(torch.zeros(3, 3), masks, two_segments(), CONFIG)
    assert dict(zip(segments.tolist(), queries.tolist(), strict=True)) == {0: 1, 1: 0}
    # Equal masks: the classes decide.
    classes = torch.tensor([[0.0, 9, 0], [9, 0, 0], [0, 0, 9]])
    equal = torch.zeros(3, 8, 8)
    queries, segments = match_segments(classes, equal, two_segments(), CONFIG)
    assert dict(zip(segments.tolist(), queries.tolist(), strict=True)) == {0: 1, 1: 0}


def test_right_masks_cost_less_than_exchanged_ones():
    masks = logits_of(halves())[None]
    match = (torch.tensor([0, 1]), torch.tensor([0, 1]))
    exchanged = (torch.tensor([0, 1]), torch.tensor([1, 0]))
    right, wrong = (
        matched_losses(torch.zeros(1, 2, 3), masks, [two_segments()], [one], 2.0, CONFIG)
        for one in (match, exchanged)
    )
    # Queries have a cross-entropy of log 3 in both.
    assert right["loss_ce"] == pytest.approx(2 * math.log(3))
    assert right["loss_mask"] < wrong["loss_mask"] / 2
    assert right["loss_dice"] < wrong["loss_dice"] / 2


def test_the_mean_of_the_classes_is_weighted():
    """One query with a segment (weight 1), three without (0.1 each): 1.3 in all."""
    classes = torch.tensor([[[0.0, 0, 0], [0, 0, 5], [0, 0, 5], [0, 0, 5]]])
    target = Segments("one", torch.tensor([0]), torch.ones(1, 8, 8, dtype=torch.bool))
    match = (torch.tensor([0]), torch.tensor([0]))
    losses = matched_losses(classes, torch.zeros(1, 4, 8, 8), [target], [match], 1.0, CONFIG)
    right = -math.log(math.exp(5) / (math.exp(5) + 2))
    assert losses["loss_ce"] == pytest.approx(2 * (math.log(3) + 0.3 * right) / 1.3)


def test_mask_losses_are_divided_by_the_number_of_segments():
    torch.manual_seed(0)
    target = Segments("one", torch.tensor([0]), torch.ones(1, 8, 8, dtype=torch.bool))
    match = (torch.tensor([0]), torch.tensor([0]))
    arguments = (torch.zeros(1, 2, 3), torch.zeros(1, 2, 8, 8), [target], [match])
    # A logit of 0 costs log 2 whatever the target; 4 segments in the batch.
    losses = matched_losses(*arguments, 4.0, CONFIG)
    assert losses["loss_mask"] == pytest.approx(5 * math.log(2) / 4, rel=1e-5)


@pytest.mark.parametrize("config", [CONFIG, MASKFORMER_LOSS], ids=["points", "all pixels"])
def test_costs_are_those_of_the_losses(config):
    """Of every pair, with one matrix product."""
    torch.manual_seed(0)
    x, y = 30 * torch.randn(3, 50), torch.rand(2, 50).round()
    costs = mask_costs(x, y, config)
    pairs = mask_loss(x[:, None].expand(-1, 2, -1), y.expand(3, -1, -1), config).mean(dim=2)
    torch.testing.assert_close(costs, pairs)


def test_most_points_are_where_the_mask_is_undecided():
    """The logit grows from left to right and is 0 in the middle column."""
    torch.manual_seed(0)
    logits = torch.linspace(-8, 8, 33).expand(1, 33, 33)
    points = uncertain_points(logits, 512, CONFIG)
    assert points.shape == (1, 512, 2)
    # Half a cell from the border the zeros outside begin to count.
    inside = ((points[0] > 1 / 66) & (points[0] < 65 / 66)).all(dim=1)
    distance = (points[0, :, 0] - 0.5).abs()
    chosen = torch.arange(512) < 0.75 * 512
    assert distance[chosen & inside].max() < 0.2
    assert distance[~chosen & inside].max() > 0.4


def test_maskformer_matches_on_the_predictions_pixels():
    """The target is downsampled to the nearest pixel: of columns 0 to 3 the columns 0 and 2."""
    gt = torch.tensor([[[1.0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]])
    x, y = values_to_match(torch.arange(4.0).view(1, 2, 2), gt, MASKFORMER_LOSS)
    assert x.tolist() == [[0, 1, 2, 3]]
    assert y.tolist() == [[1, 0, 0, 1]]


def test_maskformer_trains_on_the_targets_pixels():
    """The prediction is upsampled: four pixels of two are 0, 1/4, 3/4 and 1 of the way."""
    x, y = values_to_train(torch.tensor([[[0.0, 4.0]]]), torch.eye(4)[None, :1], MASKFORMER_LOSS)
    assert x.tolist() == [[0, 1, 3, 4]]
    assert y.tolist() == [[1, 0, 0, 0]]


def test_maskformers_losses():
    """Logits of 0 for a mask on a quarter of the pixels: p is 1/2 everywhere."""
    target = Segments("one", torch.tensor([0]), torch.zeros(1, 8, 8, dtype=torch.bool))
    target.masks[:, :4, :4] = True
    match = (torch.tensor([0]), torch.tensor([0]))
    arguments = (torch.zeros(1, 1, 3), torch.zeros(1, 1, 2, 2), [target], [match])
    losses = matched_losses(*arguments, 1.0, MASKFORMER_LOSS)
    assert losses["loss_ce"] == pytest.approx(math.log(3))
    alpha = 0.25 * 0.25 + 0.75 * 0.75
    assert losses["loss_mask"] == pytest.approx(20 * alpha * 0.25 * math.log(2))
    assert losses["loss_dice"] == pytest.approx(1 - (2 * 8 + 1) / (32 + 16 + 1))


def test_maskformer_draws_no_random_numbers():
    masks = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    match_segments(torch.zeros(3, 3), masks, two_segments(), MASKFORMER_LOSS)
    mask_classification_losses(
        torch.zeros(1, 1, 3, 3), masks[None, None], [two_segments()], MASKFORMER_LOSS
    )
    assert torch.equal(torch.get_rng_state(), state)


BOTH = pytest.mark.parametrize("config", [CONFIG, MASKFORMER_LOSS], ids=["points", "all pixels"])


@BOTH
def test_an_image_without_segments_has_class_losses_alone(config):
    empty = Segments("none", torch.zeros(0, dtype=torch.int64), torch.zeros(0, 8, 8).bool())
    logits = torch.zeros(2, 1, 3, 3, requires_grad=True)
    masks = torch.zeros(2, 1, 3, 8, 8, requires_grad=True)
    losses = mask_classification_losses(logits, masks, [empty], config)
    assert losses["loss_ce"].item() == pytest.approx(config.class_weight * math.log(3))
    assert losses["loss_mask"].item() == losses["loss_dice_0"].item() == 0
    sum(losses.values()).backward()


@BOTH
def test_more_segments_than_queries_are_told_of_once(monkeypatch, config):
    monkeypatch.setattr(detr_criterion, "_warned", set())
    target = Segments("five", torch.zeros(5, dtype=torch.int64), torch.ones(5, 8, 8).bool())
    arguments = (torch.zeros(3, 2), torch.zeros(3, 8, 8), target, config)
    with pytest.warns(UserWarning, match="5 segments, the model 3 queries"):
        queries, segments = match_segments(*arguments)
    assert len(queries) == len(segments) == 3
    match_segments(*arguments)  # no second warning: pytest would turn it into an error


@BOTH
def test_predictions_that_are_not_numbers_name_the_image(config):
    masks = torch.full((3, 8, 8), torch.nan)
    with pytest.raises(LabkitError, match="image two: the predictions are not finite"):
        match_segments(torch.zeros(3, 3), masks, two_segments(), config)
