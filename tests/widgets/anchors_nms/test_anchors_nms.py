"""The anchor and NMS explorer without a browser: what it shows, what it says, and the app."""

from dataclasses import replace

import pytest
import torch
from torchvision.ops import nms

from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError
from labkit.models import build
from labkit.models.preprocess import preprocess
from labkit.models.presets import PRESETS
from labkit.ops.nms import nms_steps
from labkit.widgets import AnchorsNMS
from labkit.widgets.anchors_nms.explorer import draw_anchors_nms
from labkit.widgets.anchors_nms.figure import nearest_box
from labkit.widgets.anchors_nms.pyramid_levels import PyramidLevel, rpn_levels
from labkit.widgets.anchors_nms.scene import describe_scene, fate_text, scene, sentences
from labkit.widgets.app import png
from labkit.widgets.interactive_figure import pixels

IMAGE, TARGET = Shapes("val", num=1)[0]
CATEGORIES = Shapes.categories


def fresh(config):
    """A network with random weights whose boxes move and differ in score."""
    torch.manual_seed(0)
    model = config.build(CATEGORIES).eval()
    torch.nn.init.normal_(model.rpn.objectness.weight, std=0.1)
    torch.nn.init.normal_(model.rpn.deltas.weight, std=0.03)
    return model


TINY = PRESETS["mask_rcnn_tiny"]
OLD = {"legacy_anchors": True, "plus_one": True, "rank_by_probability": True}
CONFIGS = {
    "pyramid": TINY,
    "one level": PRESETS["mask_rcnn_tiny_c4"],
    "conventions of 2018": replace(TINY, rpn=replace(TINY.rpn, **OLD)),
    "torchvision's": replace(
        TINY, rpn=replace(TINY.rpn, round_anchors=True, strides_from_grid=True, min_size=4.0)
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_levels_and_steps_lead_to_the_networks_own_proposals(name):
    model = fresh(CONFIGS[name])
    config = model.rpn.config
    kept, ranks = [], []
    for level in rpn_levels(model, IMAGE):
        # The network counts its candidates before it drops those that are too small.
        order = level.ranks.argsort(descending=True, stable=True)[: config.pre_nms_top_n[1]]
        best = order[level.usable[order]]
        steps = nms_steps(level.boxes[best], level.ranks[best], level.nms)
        stay = best[[step.kept for step in steps]]
        assert torch.equal(level.best(7), best[:7])
        kept.append(level.boxes[stay])
        ranks.append(level.ranks[stay])
    order = torch.cat(ranks).argsort(descending=True, stable=True)[: config.post_nms_top_n[1]]
    with torch.no_grad():
        batch = preprocess([IMAGE], model.config.preprocessing)
        boxes, _ = model.rpn(model.backbone(batch.tensor), batch)
    assert len(boxes[0]) > 20
    torch.testing.assert_close(torch.cat(kept)[order], boxes[0])


def test_look_leaves_the_model_as_it_was():
    model = fresh(TINY).train()
    rpn_levels(model, IMAGE)
    assert model.training


def test_look_at_what_proposes_nothing():
    with pytest.raises(LabkitError, match="FCN has no region proposal network"):
        rpn_levels(build("fcn32_tiny", CATEGORIES), IMAGE)
    with pytest.raises(LabkitError, match="uint8"):
        rpn_levels(fresh(TINY), IMAGE.float())


def grid(shape, boxes, scores, usable=None):
    """A level of stride 10 with one anchor of 8 × 8 a cell and these boxes."""
    y, x = torch.meshgrid(*(torch.arange(n) * 10.0 for n in shape), indexing="ij")
    x, y = x.flatten(), y.flatten()
    anchors = torch.stack([x - 4, y - 4, x + 4, y + 4], dim=1)
    scores = torch.tensor(scores)
    usable = torch.ones(len(scores), dtype=torch.bool) if usable is None else torch.tensor(usable)
    boxes = torch.tensor(boxes)
    return PyramidLevel(
        "p3", 10, shape, (8.0,), (1.0,), anchors, boxes, scores, scores, usable, 0.7
    )


BOXES = [[0.0, 0, 10, 10], [0.0, 0, 10, 8], [20.0, 0, 30, 10], [1.0, 0, 11, 10]]
LEVEL = grid((2, 2), BOXES, [0.6, 0.9, 0.3, 0.8])
# By score: 1 is [0 0 10 8], 2 [1 0 11 10], 3 [0 0 10 10], 4 [20 0 30 10]; IoU of 1 with 2 is
# 72 / 108 = 0.67 and with 3 it is 0.8, of 2 with 3 90 / 110 = 0.82.


def test_steps_by_hand():
    shown = scene([LEVEL], threshold=0.75, done=0)
    assert shown.boxes.tolist() == [BOXES[1], BOXES[3], BOXES[0], BOXES[2]]
    assert [fate_text(shown, i) for i in range(4)] == ["waiting"] * 4
    assert sentences(shown) == ["Before the first step: 4 boxes, numbered by score."]

    shown = scene([LEVEL], threshold=0.75)  # one step
    assert [fate_text(shown, i) for i in range(4)] == [
        "kept in step 1", "waiting", "suppressed by 1, IoU 0.80", "waiting",
    ]  # fmt: skip
    assert sentences(shown) == [
        "Step 1 of 3 keeps the best box left, 1 (score 0.90), and suppresses what overlaps it "
        "with an IoU above 0.75: box 3 (IoU 0.80)."
    ]

    shown = scene([LEVEL], threshold=0.75, done=3, box=3)
    assert [shown.fate(i)[:2] for i in range(4)] == [
        ("kept", 1), ("kept", 2), ("suppressed", 1), ("kept", 3),
    ]  # fmt: skip
    assert sentences(shown) == [
        "Step 3 of 3 keeps the best box left, 4 (score 0.30). No box left overlaps it with an IoU "
        "above 0.75.",
        "Box 3 is suppressed in step 1 by box 1: their intersection (hatched) is 0.80 of their "
        "union, more than 0.75.",
    ]
    assert shown.cell == (0, 0)  # of the anchor of box 3

    def what_of(box):
        return sentences(scene([LEVEL], threshold=0.75, done=3, box=box))[1]

    assert what_of(1) == "Box 1 is kept in step 1, as the best of all."
    assert what_of(2).endswith("of those kept before, box 1 overlaps it most, with an IoU of 0.67.")
    assert what_of(4) == "Box 4 is kept in step 3: no box kept before touches it."


def test_the_kept_are_those_of_torchvision():
    model = fresh(TINY)
    for level in rpn_levels(model, IMAGE):
        for threshold in (0.1, 0.5, 0.7):
            shown = scene([level], count=20, threshold=threshold)
            kept = [step.kept for step in shown.steps]
            assert kept == nms(shown.boxes, shown.scores, threshold).tolist()


def test_boxes_that_are_too_small_are_not_proposed():
    shown = scene([grid((2, 2), BOXES, [0.6, 0.9, 0.3, 0.8], [True, False, True, True])])
    assert shown.boxes.tolist() == [BOXES[3], BOXES[0], BOXES[2]]
    shown = scene([grid((2, 2), BOXES, [0.6, 0.9, 0.3, 0.8], [False] * 4)])
    assert (len(shown.boxes), shown.done) == (0, 0)
    assert sentences(shown) == ["This level proposes no boxes for this image."]
    png(draw_anchors_nms(IMAGE, [shown.level]))


def test_the_text_says_what_the_figure_shows():
    said = describe_scene(scene([LEVEL], cell=(1, 0), threshold=0.75))
    assert "Level p3: 2 × 2 cells of 10 pixels, 1 anchors each. In row 2, column 1:" in said
    assert "size 8, ratio 1, at x -4 to 4, y 6 to 14: score 0.30, moved to x 20 to 30" in said
    assert "Box 3, score 0.60: suppressed by 1, IoU 0.80." in said


def test_nearest_box():
    shown = scene([LEVEL], threshold=0.75)
    assert nearest_box(shown, 25, 1) == 4
    assert nearest_box(shown, 10.8, 5) == 2
    assert nearest_box(shown, 5, 8.2) == 1  # inside others, but near to its edge
    assert nearest_box(scene([LEVEL], threshold=0.75, done=2), 5, 10.4) == 2  # 3 is gone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "p9"}, "level: 'p9' is not one of p3"),
        ({"ratio": 3.0}, "ratio: 3.0 is not one of 1.0"),
        ({"count": 21}, "count: 1 to 20 boxes"),
        ({"cell": (2, 0)}, r"p3 has 2 rows of 2 cells, there is no \(2, 0\)"),
        ({"done": 9}, "done: suppression takes 3 steps here, not 9"),
        ({"box": 5}, "box: the boxes have numbers 1 to 4, not 5"),
        ({"threshold": 1.5}, "between 0 and 1"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(LabkitError, match=message):
        draw_anchors_nms(IMAGE, [LEVEL], **{"threshold": 0.75, **options})


MODEL = fresh(TINY)
LEVELS = rpn_levels(MODEL, IMAGE)


@pytest.fixture
def app():
    return AnchorsNMS(MODEL, IMAGE, level="p4", count=8, threshold=0.5)


def says(app, **options):
    """Whether the app's text is that of its twin's picture."""
    return app.still()[1] == describe_scene(scene(LEVELS, **options))


def happens(app, **event):
    app._canvas._handle_custom_msg(event, [])
    assert not app.error


def click(app, name, x, y):
    axes = next(one for one in app._figure.axes if one.get_label() == name)
    x, y = pixels(axes, x, y)
    happens(app, kind="click", x=x, y=y)


def test_steps(app):
    options = {"level": "p4", "count": 8, "threshold": 0.5, "cell": app._shown.cell}
    total = len(app._shown.steps)
    assert total > 2
    app._buttons[1].click()
    assert says(app, **options, done=2)
    assert app.still()[0] == png(draw_anchors_nms(IMAGE, LEVELS, **options, done=2))
    app._menus["done"].value = total
    assert says(app, **options, done=total)
    assert app._buttons[1].disabled
    happens(app, kind="move", dx=-1, dy=0, resize=True)  # shift and left
    assert says(app, **options, done=total - 1)
    happens(app, kind="move", dx=-99, dy=0, resize=True)
    assert says(app, **options, done=0)
    assert app._buttons[-1].disabled
    app._menus["done"].value = total
    app._menus["threshold"].value = 0.0  # fewer steps
    assert app._shown.done == len(app._shown.steps) == app._menus["done"].max < total


def test_cells_and_ratios(app):
    options = {"level": "p4", "count": 8, "threshold": 0.5}
    click(app, "anchors", 60, 33)  # centres at multiples of 16
    assert says(app, **options, cell=(2, 4))
    happens(app, kind="move", dx=1, dy=-1, resize=False)
    assert says(app, **options, cell=(1, 5))
    happens(app, kind="move", dx=99, dy=-99, resize=False)
    assert says(app, **options, cell=(0, 7))
    app._menus["ratio"].value = 1.4
    assert says(app, **options, cell=(0, 7), ratio=1.4)
    assert app.still()[0] == png(draw_anchors_nms(IMAGE, LEVELS, **options, cell=(0, 7), ratio=1.4))


def test_boxes(app):
    options = {"level": "p4", "count": 8, "threshold": 0.5}
    click(app, "table", 0.5, 3.5)
    assert says(app, **options, box=3)
    assert app._menus["box"].value == 3
    app._menus["box"].value = 5
    assert says(app, **options, box=5)
    x1, y1, x2, _ = app._shown.boxes[0].tolist()
    number = nearest_box(app._shown, (x1 + x2) / 2, y1)
    click(app, "nms", (x1 + x2) / 2, y1)
    assert says(app, **options, box=number)
    click(app, "table", 0.5, 9.5)  # below the last row: nothing
    assert says(app, **options, box=number)
    app._menus["box"].value = 8
    app._menus["count"].value = 4  # box 8 is gone, the cell stays
    assert (app._shown.box, app._menus["box"].value) == (None, 0)
    assert len(app._menus["box"].options) == 5


def test_levels(app):
    app._menus["ratio"].value = 0.7
    app._menus["level"].value = "p2"
    assert says(app, level="p2", count=8, threshold=0.5)
    # An index, or the menu in the page would show nothing and arrow keys would begin elsewhere.
    assert app._menus["ratio"].index == app._menus["box"].index == 0


def test_an_error_is_seen_and_goes_away(app, monkeypatch):
    before = app.still()
    with monkeypatch.context() as patch:
        patch.setattr("labkit.widgets.anchors_nms.app.scene", lambda *a, **k: 1 / 0)
        app._menus["level"].value = "p2"
    assert "ZeroDivisionError" in app.error
    assert app.still() == before
    app._menus["level"].value = "p3"
    assert not app.error
    assert says(app, level="p3", count=8, threshold=0.5)


def test_a_picture_and_a_text_where_no_widget_can_live(app):
    bundle = app._repr_mimebundle_()
    assert bundle["image/png"]
    assert bundle["text/plain"] == app.still()[1]


def test_random_numbers_are_left_alone():
    state = torch.get_rng_state()
    AnchorsNMS(MODEL, IMAGE)
    assert torch.equal(torch.get_rng_state(), state)
