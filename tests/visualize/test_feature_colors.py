import torch

from labkit.visualize import feature_colors


def test_equal_features_have_equal_colours_and_others_do_not():
    a, b, c = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    cells = torch.stack([a, a, b, b, c, c], dim=1).reshape(8, 2, 3)
    (colors,) = feature_colors(cells)
    assert colors.shape == (2, 3, 3)
    rows = colors.reshape(6, 3)
    torch.testing.assert_close(rows[::2], rows[1::2])
    assert torch.cdist(rows[::2], rows[::2]).fill_diagonal_(1).min() > 0.3


def test_the_first_component_varies_most_and_fills_the_range():
    direction = torch.tensor([0.0, 3.0, 4.0])
    along = torch.linspace(-1, 1, 101)
    noise = torch.randn(3, 101, generator=torch.Generator().manual_seed(0))
    features = (direction[:, None] * along + 0.01 * noise)[:, None]  # (3, 1, 101)
    red = feature_colors(features)[0][0, :, 0]
    red = red if red[-1] > red[0] else 1 - red  # an eigenvector has no sign
    expected = ((along + 0.96) / 1.92).clamp(0, 1).double()
    torch.testing.assert_close(red, expected, atol=0.02, rtol=0)


def test_a_second_map_is_shown_in_the_colours_of_the_first():
    features = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0))
    colors, part = feature_colors(features, features[:, 2:4, 1:3])
    torch.testing.assert_close(part, colors[2:4, 1:3])


def test_a_constant_map_has_one_colour():
    (colors,) = feature_colors(torch.ones(4, 3, 3))
    assert colors.isfinite().all()
    assert (colors == colors[0, 0]).all()
