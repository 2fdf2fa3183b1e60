import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from labkit.visualize import draw_box, show_image


def test_box_of_one_pixel_covers_that_pixel():
    """Pixel (r, c) covers [c, c + 1] × [r, r + 1], so a filled box hides exactly its pixels."""
    figure = Figure(figsize=(1, 1), dpi=80)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    show_image(axes, torch.zeros(3, 8, 8, dtype=torch.uint8))
    draw_box(axes, torch.tensor([2, 3, 4, 4]), "red", fill=True, facecolor="red", linewidth=0)
    axes.set_axis_off()
    canvas.draw()
    cells = torch.tensor(np.asarray(canvas.buffer_rgba())[5::10, 5::10, 0])  # (8, 8), the reds
    assert cells.nonzero().tolist() == [[3, 2], [3, 3]]


def test_margin_and_text():
    axes = Figure().subplots()
    show_image(axes, torch.zeros(3, 8, 6, dtype=torch.uint8), margin=2)
    assert axes.get_xlim() == (-2, 8)
    assert axes.get_ylim() == (10, -2)
    draw_box(axes, (1, 2, 3, 4), "blue", "square 0.9")
    assert [t.get_text() for t in axes.texts] == ["square 0.9"]
