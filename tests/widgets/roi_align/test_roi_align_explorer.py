"""The RoIAlign explorer without a browser: what it reads, what it draws, and the app."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings

from labkit.errors import LabkitError
from labkit.ops import roi_align, roi_pool, roi_warp
from labkit.widgets import RoIAlignExplorer
from labkit.widgets.app import png
from labkit.widgets.interactive_figure import pixel_box, pixels
from labkit.widgets.roi_align.explorer import describe_operators, draw_roi_align
from labkit.widgets.roi_align.operator_samples import OPERATORS, sample_operators

MAP = torch.tensor(
    [[1.0, 3, 2, 0, 4], [5, 9, 6, 2, 1], [2, 7, 8, 4, 0], [0, 4, 5, 3, 2], [3, 1, 0, 6, 8]]
)
REGION = (0.75, 1.25, 2.75, 3.25)
"""The example that notebook 2 works out by hand."""


def test_by_hand():
    readings = sample_operators(MAP, REGION, bins=2, samples=1)
    assert list(readings) == list(OPERATORS)
    assert readings["RoIPool"].output.tolist() == [[9, 8], [8, 8]]
    assert readings["RoIWarp"].output.tolist() == [[8, 3.5], [5, 3.875]]
    assert readings["RoIAlign"].output.tolist() == [[7.4375, 7], [5.0625, 7]]

    pool = readings["RoIPool"]
    assert pool.region == readings["RoIWarp"].region == (1, 1, 4, 4)
    assert pool.bin == (1, 1, 3, 3)  # rounded outwards
    assert pool.weights.nonzero()[0].tolist() == [1]  # the 9, and nothing else
    assert pool.weights[1, 1] == 1

    (sample,) = readings["RoIAlign"].samples
    assert (sample.x, sample.y, sample.value) == (1.25, 1.75, 7.4375)
    assert [(t.row, t.column, t.weight, t.value) for t in sample.taps] == [
        (1, 0, 3 / 16, 5),
        (1, 1, 9 / 16, 9),
        (2, 0, 1 / 16, 2),
        (2, 1, 3 / 16, 7),
    ]
    assert readings["RoIAlign"].bin == (0.75, 1.25, 1.75, 2.25)


COORDINATE = st.floats(-4, 12).map(lambda v: round(v, 3))
SIDE = st.floats(0.05, 9).map(lambda v: round(v, 3))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_is_what_the_operators_return(data):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    x, y = data.draw(COORDINATE), data.draw(COORDINATE)
    box = (x, y, x + data.draw(SIDE), y + data.draw(SIDE))
    bins, samples = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    selected = (data.draw(st.integers(0, bins - 1)), data.draw(st.integers(0, bins - 1)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    features = torch.randn(shape, generator=generator, dtype=torch.float64)
    readings = sample_operators(features, box, bins=bins, samples=samples, selected=selected)

    batch, rois = features[None, None], [torch.tensor([box], dtype=torch.float64)]
    expected = {
        "RoIPool": roi_pool(batch, rois, bins),
        "RoIWarp": roi_warp(batch, rois, bins, 1.0, samples),
        "RoIAlign": torchvision.ops.roi_align(batch, rois, bins, 1.0, samples, aligned=True),
    }
    ours = roi_align(batch, rois, bins, 1.0, samples, aligned=True, impl="loop")
    assert np.array_equal(readings["RoIAlign"].output, ours[0, 0])  # to the last bit
    for name, reading in readings.items():
        np.testing.assert_allclose(reading.output, expected[name][0, 0], atol=1e-12)
        # The value is what its cells say, ...
        assert reading.value == pytest.approx((reading.weights * features.numpy()).sum(), abs=1e-12)
        if name == "RoIPool":
            x1, y1, x2, y2 = map(int, reading.bin)
            inside = features[y1:y2, x1:x2]
            assert reading.value == (inside.max() if inside.numel() else 0)
            continue
        # ... and the mean of its samples, which are what theirs say.
        assert len(reading.samples) == samples**2
        mean = sum(s.value for s in reading.samples) / samples**2
        assert reading.value == pytest.approx(mean, abs=1e-12)
        for sample in reading.samples:
            total = sum(tap.weight * tap.value for tap in sample.taps)
            assert sample.value == pytest.approx(total, abs=1e-12)
            assert sum(tap.weight for tap in sample.taps) in (pytest.approx(1), 0)
            assert reading.bin[0] <= sample.x <= reading.bin[2]
            assert reading.bin[1] <= sample.y <= reading.bin[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": MAP[None]}, r"one channel \(H, W\) is needed, got \(1, 5, 5\)"),
        ({"features": MAP / 0}, "not finite"),
        ({"box": (1, 2, 3)}, "four finite numbers"),
        ({"box": (3, 2, 1, 4)}, "x1 < x2"),
        ({"bins": 0}, "bins: must be 1 to 8, got 0"),
        ({"samples": 5}, "samples: must be 1 to 4, got 5"),
        ({"selected": (2, 4)}, r"row and column must be 0 to 3 with 4 × 4 bins, got \(2, 4\)"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(LabkitError, match=message):
        draw_roi_align(**{"features": MAP, "box": REGION, **arguments})
    with pytest.raises(LabkitError, match=message):
        RoIAlignExplorer(**{"features": MAP, "box": REGION, **arguments})


def test_the_figure_says_the_numbers():
    figure = draw_roi_align(MAP, REGION, bins=2, samples=1)
    texts = "\n".join(
        text.get_text()
        for part in (figure, *figure.axes)
        for text in part.findobj(lambda a: True)
        if hasattr(text, "get_text")
    )
    assert "0.19·5.00 + 0.56·9.00 + 0.06·2.00 + 0.19·7.00 = 7.44" in texts
    assert "Largest of 4 cells: 9.00." in texts
    labels = [axes.get_label() for axes in figure.axes]
    assert labels == [f"{name} {part}" for name in OPERATORS for part in ("map", "output", "bin")]
    assert png(figure) == png(draw_roi_align(MAP, REGION, bins=2, samples=1))


def test_the_text_says_them_too():
    said = describe_operators(REGION, sample_operators(MAP, REGION, bins=2, samples=1))
    assert said.splitlines()[0] == (
        "Box x 0.75 to 2.75, y 1.25 to 3.25. Bin in row 1, column 1: "
        "RoIPool 9.00, RoIWarp 8.00, RoIAlign 7.44."
    )
    point = "Point 1 at (1.25, 1.75): 0.19·5.00 + 0.56·9.00 + 0.06·2.00 + 0.19·7.00 = 7.44"
    assert point in said
    far = describe_operators(
        (-9, -9, -6, -6), sample_operators(MAP, (-9, -9, -6, -6), bins=1, samples=1)
    )
    assert "off the map = 0.00" in far
    assert "No cell: 0." in far


IMAGE = torch.arange(3 * 40 * 40, dtype=torch.uint8).reshape(3, 40, 40)


@pytest.fixture
def app():
    return RoIAlignExplorer(MAP, REGION, image=IMAGE, bins=2, samples=1)


def happens(app, **event):
    app._canvas._handle_custom_msg(event, [])


def shows(app, box, **options):
    """Whether the app shows what its twin draws."""
    return says(app, box, **options) and (
        app.still()[0] == png(draw_roi_align(MAP, box, image=IMAGE, **options))
    )


def says(app, box, **options):
    """Whether the app's text is that of the picture; drawing it takes longer."""
    return app.still()[1] == describe_operators(box, sample_operators(MAP, box, **options))


def test_a_click_on_a_bin(app):
    assert shows(app, REGION, bins=2, samples=1)
    axes = {one.get_label(): one for one in app._figure.axes}
    x, y = pixels(axes["RoIWarp output"], 1, 0)
    happens(app, kind="click", x=x, y=y)
    assert shows(app, REGION, bins=2, samples=1, selected=(0, 1))
    assert "row 1, column 2" in app.status
    # In the map of RoIAlign: the lower left quarter of the box.
    x, y = pixels(axes["RoIAlign map"], 1.0, 3.0)
    happens(app, kind="click", x=x, y=y)
    assert shows(app, REGION, bins=2, samples=1, selected=(1, 0))
    assert app._menus["selected"].value == (1, 0)
    assert not app.error


def test_a_click_elsewhere_says_where_to_click(app):
    before = app.still()
    happens(app, kind="click", x=1, y=1)
    assert "Click on a bin" in app.status
    axes = next(one for one in app._figure.axes if one.get_label() == "image")
    x, y = pixels(axes, 4.5, 0.5)
    happens(app, kind="click", x=x, y=y)
    assert "Click inside the box" in app.status
    assert app.still() == before


def test_arrows_move_and_resize(app):
    happens(app, kind="move", dx=1, dy=-2, resize=False)
    assert says(app, (1, 0.75, 3, 2.75), bins=2, samples=1)
    happens(app, kind="move", dx=-3, dy=2, resize=True)
    assert says(app, (1, 0.75, 2.25, 3.25), bins=2, samples=1)
    happens(app, kind="move", dx=-99, dy=99, resize=True)  # not beyond the map, not to nothing
    assert says(app, (1, 0.75, 1.25, 5), bins=2, samples=1)
    happens(app, kind="move", dx=99, dy=99, resize=False)
    assert shows(app, (4.75, 0.75, 5, 5), bins=2, samples=1)


def test_a_dragged_box_lands_where_it_was_dropped(app):
    names = ["image", *(f"{name} map" for name in OPERATORS)]
    axes = {one.get_label(): one for one in app._figure.axes}
    assert app._canvas.boxes == [list(pixel_box(axes[name], REGION)) for name in names]
    for area, name in ((0, "image"), (3, "RoIAlign map")):
        happens(app, kind="box", area=area, box=pixel_box(axes[name], (0.5, 1, 1.5, 4)))
        assert says(app, (0.5, 1, 1.5, 4), bins=2, samples=1)
        happens(app, kind="box", area=area, box=pixel_box(axes[name], (-2, 3, 1, 6)))
        assert says(app, (0, 2, 3, 5), bins=2, samples=1)


def test_menus(app):
    app._menus["selected"].value = (1, 1)
    app._menus["samples"].value = 3
    assert says(app, REGION, bins=2, samples=3, selected=(1, 1))
    app._menus["bins"].value = 4
    assert len(app._menus["selected"].options) == 16
    assert says(app, REGION, bins=4, samples=3, selected=(1, 1))
    app._menus["selected"].value = (3, 3)
    app._menus["bins"].value = 3  # the bin is gone: the nearest one
    assert shows(app, REGION, bins=3, samples=3, selected=(2, 2))
    assert app._menus["selected"].value == (2, 2)


def test_an_error_is_seen_and_goes_away(app, monkeypatch):
    before, ready = app.still(), app._frame.ready
    with monkeypatch.context() as patch:
        patch.setattr("labkit.widgets.roi_align.app.sample_operators", lambda *a, **k: 1 / 0)
        happens(app, kind="move", dx=1, dy=0, resize=False)
    assert "ZeroDivisionError" in app.error
    assert app._frame.ready > ready
    assert app.still() == before
    happens(app, kind="move", dx=1, dy=0, resize=False)  # one step from where it still was
    assert not app.error
    assert shows(app, (1, 1.25, 3, 3.25), bins=2, samples=1)


def test_without_a_live_widget_there_is_a_picture_and_a_text(app):
    bundle = app._repr_mimebundle_()
    assert bundle["image/png"]
    assert "RoIAlign 7.44" in bundle["text/plain"]


def test_random_numbers_are_left_alone():
    state = torch.get_rng_state()
    RoIAlignExplorer(MAP, REGION)
    draw_roi_align(MAP, REGION)
    assert torch.equal(torch.get_rng_state(), state)
