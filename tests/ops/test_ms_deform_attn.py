"""Deformable attention by hand-computed numbers: the definition and the operator."""

import pytest
import torch

from labkit.models.mask2former.deformable_attention import deformable_attention
from labkit.ops.ms_deform_attn import ms_deform_attn

both = pytest.mark.parametrize("attend", [deformable_attention, ms_deform_attn])


@both
def test_a_place_between_two_cells_is_their_mean(attend):
    """Two levels of one head: a row of two cells with the values 2 and 6, and a single cell, 10."""
    value = torch.tensor([2.0, 6, 10]).view(1, 3, 1, 1)
    places = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).view(1, 1, 1, 2, 1, 2)
    weights = torch.tensor([0.5, 0.25]).view(1, 1, 1, 2, 1)
    assert attend(value, [(1, 2), (1, 1)], places, weights).item() == 0.5 * 4 + 2.5


@both
def test_outside_is_zero(attend):
    """Half a cell beyond the border one half is left, a whole one nothing."""
    value = torch.full((1, 1, 1, 1), 8.0)
    places = torch.tensor([[1.0, 0.5], [1.5, 0.5]]).view(1, 2, 1, 1, 1, 2)
    found = attend(value, [(1, 1)], places, torch.ones(1, 2, 1, 1, 1))
    assert found.flatten().tolist() == [4, 0]


@both
def test_far_outside_is_zero_and_has_no_gradient(attend):
    value = torch.full((1, 2, 1, 1), 8.0)
    places = torch.tensor([[-9.0, 0.5], [1e30, 0.5], [0.5, -1e30], [0.5, 9]]).view(1, 4, 1, 1, 1, 2)
    places.requires_grad_()
    found = attend(value, [(1, 2)], places, torch.ones(1, 4, 1, 1, 1))
    found.sum().backward()
    assert found.flatten().tolist() == [0, 0, 0, 0]
    assert places.grad.abs().sum() == 0


@both
def test_places_that_are_no_numbers_give_no_numbers(attend):
    """So that the loss, which names the image, sees them."""
    value = torch.ones(1, 2, 1, 1)
    places = torch.tensor([[torch.nan, 0.5], [0.5, 0.5]]).view(1, 2, 1, 1, 1, 2)
    found = attend(value, [(1, 2)], places, torch.ones(1, 2, 1, 1, 1))
    assert found.flatten().isnan().tolist() == [True, False]


@both
def test_gradients_of_values_places_and_weights(attend):
    """Several places in one cell, in a level that is not the first, and beyond the border."""
    torch.manual_seed(0)
    sizes = [(1, 2), (3, 2)]
    value = torch.randn(2, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    places = (torch.rand(2, 3, 2, 2, 2, 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()
    weights = torch.rand(2, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *inputs: attend(inputs[0], sizes, *inputs[1:]),
        (value, places, weights),
    )


def test_the_operator_equals_the_definition():
    """Two images, three heads, levels of other shapes, places beyond the border too."""
    torch.manual_seed(0)
    sizes = [(2, 3), (4, 1)]
    value, weights = torch.randn(2, 10, 3, 4), torch.rand(2, 5, 3, 2, 2)
    places = torch.rand(2, 5, 3, 2, 2, 2) * 1.4 - 0.2
    expected = deformable_attention(value, sizes, places, weights)
    torch.testing.assert_close(ms_deform_attn(value, sizes, places, weights), expected)
