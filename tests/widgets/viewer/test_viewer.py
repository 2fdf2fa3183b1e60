"""Layers as pixels against loops written out, and the viewer's state against what was given."""

import io
import zlib

import numpy as np
import pytest
import torch
from helpers.seen import offline_state
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labkit.errors import LabkitError
from labkit.structures import Categories, Category, Detections, Panoptic, Segment
from labkit.widgets.viewer.segment_layers import (
    Layer,
    SegmentInfo,
    draw_layer,
    layer_of,
    name_places,
)
from labkit.widgets.viewer.viewer import SegmentViewer

CATEGORIES = Categories([Category(1, "cat", True), Category(9, "sky", False)])
RED, BLUE = (200, 0, 0), (0, 0, 100)


def small_layer(rows="11200 11200", **more):
    ids = np.array([[int(digit) for digit in row] for row in rows.split()], np.int32)
    info = {1: SegmentInfo("cat 1", RED, True, **more), 2: SegmentInfo("sky", BLUE, False)}
    return Layer("a", ids, info)


def grey(height, width, value=100):
    return np.full((3, height, width), value, np.uint8)


def test_pixels_by_hand():
    pixels = draw_layer(grey(2, 5), small_layer(), opacity=0.5)
    # Column 0 is inside segment 1, the others touch another segment or nothing.
    assert pixels[0, 0].tolist() == [150, 50, 50]  # halfway between 100 and the colour
    assert (pixels[:, 1:3] == 255).all()
    assert (pixels[:, 3:] == 100).all()


def test_the_image_is_grey_below_segments_and_keeps_its_colours_elsewhere():
    image = np.zeros((3, 2, 5), np.uint8)
    image[0] = 200  # red
    layer = small_layer()
    for opacity, expected in ((0.0, [60, 60, 60]), (0.5, [130, 30, 30])):  # 200 * 77 / 256 = 60
        pixels = draw_layer(image, layer, opacity)
        assert pixels[0, 0].tolist() == expected
        assert (pixels[:, 3:] == (200, 0, 0)).all()
    assert draw_layer(image, layer, 0.5, shown={2})[0, 0].tolist() == [200, 0, 0]


def test_a_hidden_segment_has_neither_colour_nor_outline():
    pixels = draw_layer(grey(2, 5), small_layer(), 1.0, shown={2})
    assert (pixels[:, :2] == 100).all()
    assert (pixels[:, 2] == 255).all()


def test_outlines_stay_one_pixel_wide_when_enlarged():
    pixels = draw_layer(grey(2, 5), small_layer(), 0.0, scale=4)
    assert pixels.shape == (8, 20, 3)
    white = (pixels == 255).all(axis=2)
    assert white[0].nonzero()[0].tolist() == [7, 8, 11]


@given(seed=st.integers(0, 1000), opacity=st.floats(0, 1), scale=st.integers(1, 3))
def test_pixels_equal_a_loop(seed, opacity, scale):
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 6, 2)
    image = random.integers(0, 256, (3, height, width), dtype=np.uint8)
    ids = random.choice(np.array([0, 3, 70_000, 2**31 - 1], np.int32), (height, width))
    colors = {int(i): tuple(map(int, random.integers(0, 256, 3))) for i in np.unique(ids) if i}
    layer = Layer("a", ids, {i: SegmentInfo(str(i), c, True) for i, c in colors.items()})
    shown = {i for i in colors if random.random() < 0.7}

    alpha = int(256 * opacity + 0.5)
    expected = np.zeros((scale * height, scale * width, 3), np.uint8)
    for y in range(scale * height):
        for x in range(scale * width):
            own = ids[y // scale, x // scale]
            base = image[:, y // scale, x // scale].astype(int)
            around = {
                ids[v // scale, u // scale]
                for v in range(max(0, y - 1), min(scale * height, y + 2))
                for u in range(max(0, x - 1), min(scale * width, x + 2))
            }
            if own not in shown:
                expected[y, x] = base
            elif around != {own}:
                expected[y, x] = 255
            else:
                below = (256 - alpha) * ((int(base @ [77, 150, 29]) + 128) >> 8)
                expected[y, x] = (below + np.array(colors[own]) * alpha + 128) >> 8
    np.testing.assert_array_equal(draw_layer(image, layer, opacity, shown, scale=scale), expected)


def test_layer_of_a_panoptic_map():
    ids = torch.tensor([[7, 7, 0], [9, 9, 9]], dtype=torch.int32)
    layer = layer_of(Panoptic(ids, [Segment(7, 0, 0.875), Segment(9, 1)]), CATEGORIES, "map")
    assert layer.describe(0, 0) == "cat 7 · score 0.88"
    assert layer.describe(2, 0) == "nothing"
    assert layer.describe(1, 1) == "sky"
    assert layer.info[7].color == CATEGORIES[0].color


def test_layer_of_detections_has_the_best_on_top():
    masks = torch.zeros(2, 1, 3, dtype=torch.bool)
    masks[0, 0, :2] = True
    masks[1, 0, 1:] = True
    boxes, labels = torch.zeros(2, 4), torch.tensor([0, 0])
    found = Detections(boxes, torch.tensor([0.9, 0.4]), labels, masks)
    layer = layer_of(found, CATEGORIES, "found")
    assert layer.ids.tolist() == [[1, 1, 2]]
    assert layer.info[2].score == pytest.approx(0.4)
    with pytest.raises(LabkitError, match="boxes only"):
        layer_of(Detections(boxes, found.scores, labels), CATEGORIES, "found")


def test_an_id_that_nobody_describes_is_refused():
    with pytest.raises(LabkitError, match='layer "x": id 5 occurs'):
        Layer("x", np.array([[0, 5]], np.int32), {})


def test_a_name_stands_inside_its_segment_and_small_ones_have_none():
    ids = np.zeros((100, 100), np.int32)
    ids[10:50, 20:80] = 1
    ids[90:92, 90:92] = 2
    info = {i: SegmentInfo(str(i), RED, True) for i in (1, 2)}
    places = name_places(Layer("a", ids, info))
    assert places.keys() == {1}
    x, y = places[1]
    assert ids[int(y), int(x)] == 1
    assert 28 < y < 32  # halfway between top and bottom


def test_what_the_browser_gets_holds_the_picture_and_the_map():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    ids = random.choice(np.array([0, 12, 70_000], np.int32), (4, 5))
    info = {i: SegmentInfo(str(i), RED, True) for i in (70_000, 12)}
    viewer = SegmentViewer(image, [Layer("a", ids, info)])
    sent = np.frombuffer(zlib.decompress(viewer._image["data"]), np.uint8).reshape(4, 5, 3)
    back = np.cumsum(sent, axis=1, dtype=np.uint8)
    np.testing.assert_array_equal(back.transpose(2, 0, 1), image)
    layer = viewer._layers[0]
    numbers = np.frombuffer(zlib.decompress(layer["data"]), "<u2").reshape(4, 5)
    known = np.array([0, *(segment["id"] for segment in layer["segments"])])
    np.testing.assert_array_equal(known[numbers], ids)


def test_more_segments_than_16_bits_tell_apart():
    ids = np.arange(65_537, dtype=np.int32)[None]
    info = dict.fromkeys(range(1, 65_537), SegmentInfo("dot", RED, True))
    image = grey(1, 65_537)
    with pytest.raises(LabkitError, match=r'"dots" has 65,536 segments.* at most 65,535'):
        SegmentViewer(image, [Layer("dots", ids, info)])
    ids[0, -1] = 0
    del info[65_536]
    SegmentViewer(image, [Layer("dots", ids, info)])


def test_sizes_that_differ_are_refused_and_change_nothing():
    viewer = SegmentViewer(grey(2, 5), [small_layer()])
    before = viewer._layers
    with pytest.raises(LabkitError, match=r"is 1 x 3 pixels .* the image 2 x 5"):
        viewer.layers = [small_layer("000")]
    assert viewer._layers is before
    assert len(viewer.layers) == 1


def test_filters_and_the_still_picture():
    viewer = SegmentViewer(grey(2, 5), [small_layer(note="TP"), small_layer()])
    viewer.show_stuff = False
    viewer.hidden = [[1, 1]]
    assert viewer.visible(0) == {1}
    assert viewer.visible(1) == set()
    assert (viewer.pixels(1) == 100).all()
    assert viewer.describe(0, 0) == ["cat 1 · TP", "cat 1"]
    bundle, _ = viewer._repr_mimebundle_()
    assert bundle["text/plain"] == "a: cat 1; sky\na: cat 1; sky"
    assert Image.open(io.BytesIO(viewer.still()[0])).size[0] > 300


def test_a_message_takes_the_place_of_a_picture():
    failed = Layer("model", np.zeros((1, 1), np.int32), {}, "this model failed: no such file")
    viewer = SegmentViewer(grey(2, 5), [small_layer(), failed])
    assert viewer.describe(0, 0)[1] == "this model failed: no such file"
    assert "model: this model failed" in viewer.still()[1]


def test_a_selection_that_no_longer_exists_is_forgotten():
    viewer = SegmentViewer(grey(2, 5), [small_layer()])
    viewer.selected = [0, 2]
    viewer.layers = [small_layer()]
    assert viewer.selected == [0, 2]
    viewer.layers = [Layer("a", np.zeros((2, 5), np.int32), {})]
    assert viewer.selected is None


def test_moves_reach_the_callback_and_are_acknowledged_even_if_it_fails():
    viewer = SegmentViewer(grey(2, 5), [small_layer()], movable=[0])
    moved = []
    viewer.on_move(lambda *move: moved.append(move))
    content = {"kind": "move", "layer": 0, "id": 1, "dx": 2, "dy": -1}
    viewer._message(viewer, content, [])
    assert moved == [(0, 1, 2, -1)]
    assert viewer._moves == 1
    viewer.on_move(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        viewer._message(viewer, content, [])
    assert viewer._moves == 2


def test_the_offline_page_is_one_file_whose_names_stay_text(tmp_path):
    layer = small_layer()
    hostile = Layer('</script><script>alert("1")</script>', layer.ids, layer.info)
    SegmentViewer(grey(2, 5), [hostile]).to_html(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 1
    assert "http" not in page
    assert list(tmp_path.iterdir()) == [tmp_path / "a.html"]
    assert offline_state(page)["_layers"][0]["title"] == hostile.title
