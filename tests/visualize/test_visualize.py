"""Pictures are checked pixel by pixel where a rule says what a pixel must be."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from labkit.colors import NATURAL, PETROFF_10, class_colors, distinct_colors
from labkit.structures import (
    IGNORE,
    Categories,
    Category,
    Detections,
    Panoptic,
    Segment,
)
from labkit.visualize import add_legend, draw, loss_curves, overlay, panels, regions

CATEGORIES = Categories(
    [Category(1, "square", True), Category(2, "disc", True), Category(3, "sky", False)]
)


def _scene():
    image = torch.full((3, 20, 30), 100, dtype=torch.uint8)
    ids = torch.full((20, 30), 7, dtype=torch.int32)
    ids[4:14, 4:14] = 1
    ids[4:14, 18:28] = 2
    ids[18:] = 0
    return image, Panoptic(ids, [Segment(7, 2), Segment(1, 0), Segment(2, 0, iscrowd=True)])


def test_overlay_blends_the_class_colour_and_leaves_void_alone():
    image, panoptic = _scene()
    picture = overlay(image, panoptic, CATEGORIES, alpha=0.5)
    assert picture.shape == (20, 30, 3)
    assert picture.dtype == np.uint8
    assert (picture[19] == 100).all()
    expected = np.round(0.5 * 100 + 0.5 * np.array(CATEGORIES[0].color))
    assert abs(picture[8, 8] - expected).max() <= 1
    assert (picture[4, 8] == 255).all(), "regions have a white outline"


def test_a_picture_under_an_annotation_is_grey():
    """A class has one colour wherever it lies: the image beneath gives brightness alone."""
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[0], image[1] = 200, 40  # red; as grey 0.299 * 200 + 0.587 * 40 = 83
    _, panoptic = _scene()
    picture = overlay(image, panoptic, CATEGORIES)
    assert (picture[19] == 83).all()
    expected = 0.25 * 83 + 0.75 * np.array(CATEGORIES[0].color)
    assert abs(picture[8, 8] - expected).max() <= 1
    assert (overlay(image, None, CATEGORIES) == image.permute(1, 2, 0).numpy()).all()


def test_stuff_has_the_colours_that_its_names_suggest():
    colors = class_colors(["square", "circle"], ["Sky", "grass", "carpet"])
    assert colors[2:4] == [NATURAL["sky"], NATURAL["grass"]]
    assert len(set(colors)) == 5
    assert PETROFF_10[0] not in colors, "a blue like the sky's"
    assert class_colors(["a", "b"], []) == list(PETROFF_10[:2])
    assert class_colors([], ["water", "sea"])[1] != NATURAL["water"], "one colour, one class"


def test_a_building_site_has_brown_soil_and_grey_concrete():
    soil, concrete, puddle = class_colors(["pipe"], ["soil", "concrete", "puddle"])[1:]
    assert soil[0] > soil[1] > soil[2]
    assert max(concrete) - min(concrete) < 20
    assert puddle == NATURAL["water"]


def test_two_objects_of_a_class_differ_in_shade():
    image, panoptic = _scene()
    picture = overlay(image, panoptic, CATEGORIES)
    assert (picture[8, 8] != picture[8, 22]).any()


def test_names_carry_ids_and_crowds():
    _, panoptic = _scene()
    assert [r.text for r in regions(panoptic, CATEGORIES)] == [
        "sky",
        "square 1",
        "square 2 (crowd)",
    ]


def test_semantic_maps_and_detections_are_drawn_too():
    image, panoptic = _scene()
    semantic = panoptic.semantic()
    assert (semantic == IGNORE).any()
    assert [r.text for r in regions(semantic, CATEGORIES)] == ["square", "sky"]
    masks = torch.stack([panoptic.ids == 1, panoptic.ids == 2])
    boxes = torch.tensor([[4.0, 4, 14, 14], [18, 4, 28, 14]])
    found = Detections(boxes, torch.tensor([0.9, 0.4]), torch.tensor([0, 1]), masks)
    assert [r.text for r in regions(found, CATEGORIES)] == ["disc 0.40", "square 0.90"]
    figure = panels([("found", image, found)], CATEGORIES)
    assert len(figure.axes[0].lines) == 2, "each object has its box"


def test_panels_have_titles_one_legend_of_present_classes_and_no_empty_axes():
    image, panoptic = _scene()
    items = [("image", image, None), ("truth", image, panoptic), ("again", image, panoptic)]
    figure = panels(items, CATEGORIES, columns=2)
    assert [a.get_title() for a in figure.axes][:3] == ["image", "truth", "again"]
    assert not figure.axes[3].axison
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["square", "sky (stuff)"]
    FigureCanvasAgg(figure).draw()


def test_names_stand_inside_their_region():
    image, panoptic = _scene()
    figure = panels([("", image, panoptic)], CATEGORIES)
    for text, region in zip(figure.axes[0].texts, regions(panoptic, CATEGORIES), strict=True):
        x, y = text.get_position()
        assert region.mask[round(y), round(x)]


def test_small_regions_stay_without_a_name():
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    ids = torch.full((100, 100), 1, dtype=torch.int32)
    ids[:3, :3] = 2
    figure = panels([("", image, Panoptic(ids, [Segment(1, 2), Segment(2, 0)]))], CATEGORIES)
    assert [t.get_text() for t in figure.axes[0].texts] == ["sky"]
    bare = panels([("", image, None)], CATEGORIES)
    draw(bare.axes[0], image, Panoptic(ids, [Segment(1, 2)]), CATEGORIES, names=False)
    assert not bare.axes[0].texts


def test_loss_curves_show_each_run_and_its_running_mean():
    figure = loss_curves({"a": [4.0, 2.0, 3.0, 1.0], "b": [1.0]}, smooth=2)
    (axes,) = figure.axes
    raw, mean = axes.lines[:2]
    assert list(raw.get_ydata()) == [4, 2, 3, 1]
    assert list(mean.get_ydata()) == [3, 2.5, 2]
    assert list(mean.get_xdata()) == [1, 2, 3]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", "b"]


@pytest.mark.parametrize("n", [1, 10, 133])
def test_colours_are_distinct(n):
    assert len(set(distinct_colors(n))) == n


def test_a_colour_for_each_object():
    """Objects of one class differ, stuff keeps its class's colour, and the legend knows it."""
    image, panoptic = _scene()
    picture = overlay(image, panoptic, CATEGORIES, alpha=1, by_object=True)
    first, second, sky = picture[8, 8], picture[8, 22], picture[1, 1]
    assert len({tuple(c) for c in (first, second, sky)}) == 3
    assert tuple(sky) == CATEGORIES[2].color
    masks = torch.stack([panoptic.ids == 1, panoptic.ids == 2])
    boxes = torch.tensor([[4.0, 4, 14, 14], [18, 4, 28, 14]])
    truth = Detections(boxes, torch.ones(2), torch.tensor([0, 0]), masks)
    texts = [r.text for r in regions(truth, CATEGORIES, scores=False)]
    assert texts == ["square 2", "square 1"]
    figure = panels([("truth", image, truth)], CATEGORIES, by_object=True, scores=False)
    drawn = [line.get_color() for line in figure.axes[0].lines]
    picture = overlay(image, truth, CATEGORIES, alpha=1, by_object=True)
    assert drawn[0] == tuple(picture[8, 8] / 255)
    assert drawn[1] == tuple(picture[8, 22] / 255)


def test_with_a_colour_for_each_object_the_legend_has_patches_of_stuff_and_names_of_things():
    image, panoptic = _scene()
    (legend,) = panels([("map", image, panoptic)], CATEGORIES, by_object=True).legends
    assert legend.get_title().get_text() == "a colour for each object: square"
    assert [t.get_text() for t in legend.get_texts()] == ["sky (stuff)"]
    (patch,) = legend.get_patches()
    assert patch.get_facecolor()[:3] == tuple(c / 255 for c in CATEGORIES[2].color)
    (legend,) = panels([("map", image, panoptic)], CATEGORIES).legends
    assert not legend.get_title().get_visible()


def test_a_semantic_map_has_no_objects_and_keeps_the_colours_of_its_classes():
    image, semantic = torch.zeros(3, 4, 6, dtype=torch.uint8), torch.tensor([0, 1, 2])
    semantic = semantic.repeat_interleave(2).repeat(4, 1)
    plain = overlay(image, semantic, CATEGORIES, alpha=1)
    assert (overlay(image, semantic, CATEGORIES, alpha=1, by_object=True) == plain).all()
    (legend,) = panels([("map", image, semantic)], CATEGORIES, by_object=True).legends
    assert not legend.get_title().get_visible()
    assert len(legend.get_patches()) == 3


@pytest.mark.parametrize("by_object", [False, True])
@pytest.mark.parametrize("width", [2.8, 6.4, 11.2])
def test_the_legend_of_many_classes_stays_within_the_figure(width, by_object):
    names = [f"{'rather ' * (i % 3)}long name {i}" for i in range(40)]
    categories = Categories([Category(i + 1, n, i >= 20) for i, n in enumerate(names)])
    figure = Figure(figsize=(width, 12), layout="constrained")
    add_legend(figure, categories, range(40), range(20, 40) if by_object else ())
    FigureCanvasAgg(figure).draw()
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 <= box.x1 <= figure.bbox.width
    assert 0 <= box.y0 <= box.y1 <= figure.bbox.height


@pytest.mark.parametrize("classes", [3, 30])
def test_panels_leave_room_for_titles_and_legend(classes):
    categories = Categories([Category(i + 1, f"class {i}", i < 3) for i in range(classes)])
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    semantic = (torch.arange(60) % classes).repeat(40, 1)
    figure = panels([(f"picture {i}", image, semantic) for i in range(3)], categories, columns=2)
    FigureCanvasAgg(figure).draw()
    legend = figure.legends[0].get_window_extent()
    for axes in figure.axes[:3]:
        title, picture = axes.title.get_window_extent(), axes.get_window_extent()
        assert title.y1 <= figure.bbox.height
        assert legend.y1 <= picture.y0 < picture.y1 <= title.y0
        assert picture.width > 200  # of 2.8 inches at 100 dots
