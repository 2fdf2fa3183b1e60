"""What the comparison of models says, without a browser: the figure's side and the app's."""

from __future__ import annotations

import datetime
import io
import itertools
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image
from torch import nn

from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor, load_model
from labkit.errors import LabkitError
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.models import build
from labkit.structures import Categories, Category, Detections, Panoptic, Prediction, Segment
from labkit.widgets.app import png
from labkit.widgets.compare.app import Compare
from labkit.widgets.compare.compare import compare, run_models
from labkit.widgets.compare.image_source import MOST_PIXELS, SourceImage, from_upload, source_image
from labkit.widgets.compare.model_runs import Cancelled, Memory, Watch
from labkit.widgets.compare.outcomes import (
    BOTH,
    FALSE,
    MISSED,
    RIGHT,
    gt_layer,
    outcome_layer,
    segment_outcomes,
    with_outcomes,
)
from labkit.widgets.compare.table import as_html, as_text
from labkit.widgets.viewer.segment_layers import layer_of

SAMPLE = Path(os.environ.get("LABKIT_DATA", "")) / "coco_panoptic_sample"
PLACE = ("shapes", 3)
FPN, UPSNET, DETECTOR = "panoptic_fpn_tiny", "upsnet_tiny", "mask_rcnn_tiny"
MASKS = "mask2former_tiny"
CLASSES = Categories(
    [Category(1, "cat", True), Category(2, "dog", True), Category(3, "sky", False)]
)


def encoded(size: tuple[int, int], kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (90, 120, 200)).save(buffer, kind)
    return buffer.getvalue()


# Pictures


def test_an_entry_of_a_data_set_comes_with_its_truth() -> None:
    seen = source_image(PLACE)
    image, target = Shapes("val", num=4)[3]
    assert torch.equal(seen.image, image)
    assert seen.target is not None
    assert torch.equal(seen.target["panoptic"].ids, target["panoptic"].ids)
    assert seen.note == ""


def test_an_index_that_is_not_there() -> None:
    with pytest.raises(LabkitError, match="crowded has no image 500: its val split has 0 to 499"):
        source_image(("crowded", 500))


def test_an_upload_that_is_no_image_is_named_as_the_reader_called_it() -> None:
    with pytest.raises(LabkitError) as caught:
        from_upload("../notes.txt", b"hello")
    assert str(caught.value) == "notes.txt: not an image file that can be read"


def test_a_damaged_upload() -> None:
    with pytest.raises(LabkitError, match=r"^street.png: the image is damaged"):
        from_upload("street.png", encoded((60, 40))[:-30])


def test_fifty_megapixels_are_scaled_down_and_it_is_said() -> None:
    seen = from_upload("big.jpg", encoded((10_000, 5_000), "jpeg"))
    height, width = seen.image.shape[1:]
    assert height * width <= MOST_PIXELS
    assert width / height == pytest.approx(2, rel=0.01)
    assert "big.jpg: 10000 × 5000 pixels are 50.0 megapixels" in seen.note
    assert f"scaled down to {width} × {height}" in seen.note
    assert tuple(seen.image[:, 5, 5].tolist()) == pytest.approx((90, 120, 200), abs=2)


def test_the_largest_picture_that_stays_as_it_is() -> None:
    seen = from_upload("a.png", encoded((2048, 1024)))
    assert seen.image.shape == (3, 1024, 2048)
    assert seen.note == ""


@pytest.mark.skipif(
    not SAMPLE.is_dir(),
    reason="needs coco_panoptic_sample in FOLDER: LABKIT_DATA=FOLDER uv run pytest",
)
def test_an_entry_of_cocos_panoptic_data(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "panoptic_val2017.json").symlink_to(
        f"{SAMPLE}/panoptic_examples.json"
    )
    (tmp_path / "annotations" / "panoptic_val2017").symlink_to(SAMPLE / "panoptic_examples")
    (tmp_path / "val2017").symlink_to(SAMPLE / "input_images")
    app = Compare([FPN], PLACE)
    app.source.kind.value = "dataset"
    assert "coco_panoptic:FOLDER" in app.status
    app.source.folder.value = f"coco_panoptic:{tmp_path}"
    assert "has no image 3: its val split has 0 to 1" in app.error
    app.source.index.value = 1
    app.wait()
    assert app.error == ""
    seen = app.comparison.picture
    assert seen.categories is not None
    assert len(seen.categories) == 133
    # The truth against itself: everything is found.
    outcome = segment_outcomes(seen.target["panoptic"], seen, seen.categories)
    assert not outcome.wrong
    assert not outcome.missed
    assert {iou for _, iou in outcome.right.values()} == {1.0}


# Thresholds: nothing but the threshold differs from a model that was built with it.


@pytest.mark.parametrize("score", [0.2, 0.5, 0.8])
def test_panoptic_fpn_merges_again(score: float) -> None:
    seen, model = source_image(("crowded", 2)), load_model(FPN)
    answer = Memory().ask(FPN, seen)
    model.config = replace(model.config, score_thresh=score)
    expected = Predictor(model)(seen.image).panoptic
    assert expected is not None
    shown = answer.at(score)
    assert torch.equal(shown.ids, expected.ids)
    assert shown.segments == expected.segments


@pytest.mark.parametrize("score", [0.2, 0.6, 0.9])
def test_upsnet_fuses_again(score: float) -> None:
    seen, model = source_image(("crowded", 2)), load_model(UPSNET)
    answer = Memory().ask(UPSNET, seen)
    model.config = replace(
        model.config, panoptic=replace(model.config.panoptic, score_thresh=score)
    )
    expected = Predictor(model)(seen.image).panoptic
    assert expected is not None
    shown = answer.at(score)
    assert (shown.ids == expected.ids).float().mean() > 0.999  # other batches round differently
    assert [(s.id, s.label) for s in shown.segments] == [(s.id, s.label) for s in expected.segments]


@pytest.mark.parametrize("score", [0.2, 0.6, 0.95])
def test_masks_are_read_out_again(score: float) -> None:
    seen, model = source_image(("crowded", 2)), load_model(MASKS)
    answer = Memory().ask(MASKS, seen)
    model.config = replace(
        model.config, inference=replace(model.config.inference, score_thresh=score)
    )
    expected = Predictor(model)(seen.image).panoptic
    assert expected is not None
    shown = answer.at(score)
    assert torch.equal(shown.ids, expected.ids)
    assert shown.segments == expected.segments


def test_fewer_segments_pass_a_higher_threshold() -> None:
    answer = Memory().ask(MASKS, source_image(("crowded", 2)))
    counts = [len(answer.at(score).segments) for score in (0.2, 0.6, 0.999)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@pytest.mark.parametrize("preset", ["maskformer_tiny", "mask2former_tiny"])
def test_fresh_networks_have_a_threshold(preset: str) -> None:
    """Also those that come without weights."""
    answer = Memory().ask(build(preset, Shapes.categories).eval(), source_image(PLACE))
    assert answer.threshold.own == 0.5
    assert answer.at(0.9).segments == []


def test_the_own_threshold_is_what_the_model_says() -> None:
    seen = source_image(PLACE)
    for name, own in ((FPN, 0.5), (UPSNET, 0.6), (MASKS, 0.5)):
        answer, expected = Memory().ask(name, seen), Predictor(name)(seen.image)
        assert answer.threshold.own == own
        assert expected.panoptic is not None
        assert torch.equal(answer.at().ids, expected.panoptic.ids)
        assert torch.equal(answer.at(own).ids, expected.panoptic.ids)


def test_objects_from_the_threshold_on() -> None:
    answer = Memory().ask(DETECTOR, source_image(("crowded", 2)))
    scores = answer.prediction.detections.scores
    assert (scores < 0.5).any()
    assert (scores > 0.9).any()
    for score in (0.1, 0.5, 0.9):
        assert torch.equal(answer.at(score).scores, scores[scores >= score])
    assert torch.equal(answer.at().scores, scores[scores >= 0.5])


# Memory


def test_a_model_runs_once_whatever_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    raw = Predictor.raw
    monkeypatch.setattr(Predictor, "raw", lambda s, i: (runs.append(1), raw(s, i))[1])
    memory = Memory()
    comparison = run_models([FPN, UPSNET, DETECTOR], PLACE, memory)
    first = len(runs)
    for score in (None, 0.1, 0.9):
        for outcomes in (False, True):
            comparison.layers(comparison.views(score), outcomes)
    run_models([FPN, UPSNET], PLACE, memory)
    assert len(runs) == first


def test_a_model_in_memory_that_was_trained_further_is_asked_again() -> None:
    memory, seen, model = Memory(), source_image(PLACE), load_model(FPN)
    before = memory.ask(model, seen)
    assert memory.known(model, seen) is before
    with torch.no_grad():
        model.roi_heads.cls_score.bias[-1] += 20.0  # everything is background
    assert memory.known(model, seen) is None
    assert len(memory.ask(model, seen).prediction.detections) == 0


def test_older_pictures_are_forgotten_before_memory_runs_out(monkeypatch) -> None:
    memory = Memory()
    memory.ask(DETECTOR, source_image(("shapes", 1)))
    monkeypatch.setattr("labkit.widgets.compare.model_runs.KEPT_BYTES", 1)
    memory.ask(DETECTOR, source_image(PLACE))
    memory.ask(FPN, source_image(PLACE))
    assert memory.known(DETECTOR, source_image(("shapes", 1))) is None
    assert memory.known(DETECTOR, source_image(PLACE)) is not None  # the present one stays whole


# Right, wrong, missed


def hand_made() -> tuple[SourceImage, Panoptic]:
    """Truth: cat 1 (8 pixels), cat 2 (4), sky 3 (20). Found: cat 1 on 6 of cat 1's pixels, dog 2
    on cat 2's, sky 3 on the rest."""
    true = torch.full((4, 8), 3, dtype=torch.int32)
    true[0] = 1
    true[1, :4] = 2
    found = torch.full((4, 8), 3, dtype=torch.int32)
    found[0, :6] = 1
    found[1, :4] = 2
    segments = [Segment(1, 0), Segment(2, 0), Segment(3, 2)]
    masks = torch.stack([true == 1, true == 2])
    target = {
        "image_id": 1,
        "boxes": torch.tensor([[0.0, 0, 8, 1], [0, 1, 4, 2]]),
        "labels": torch.tensor([0, 0]),
        "masks": masks,
        "panoptic": Panoptic(true, segments),
    }
    seen = SourceImage("p", torch.zeros(3, 4, 8, dtype=torch.uint8), "p", target, CLASSES)
    return seen, Panoptic(found, [Segment(1, 0, 0.9), Segment(2, 1, 0.8), Segment(3, 2)])


def test_outcomes_of_a_panoptic_map_by_hand() -> None:
    seen, found = hand_made()
    outcome = segment_outcomes(found, seen, CLASSES)
    assert outcome.right == {1: (1, pytest.approx(6 / 8)), 3: (3, pytest.approx(20 / 22))}
    assert outcome.wrong == {2}
    assert outcome.missed == {2}
    assert str(outcome) == "2 TP, 1 FP, 1 FN"


def test_the_difference_layer_by_hand() -> None:
    seen, found = hand_made()
    truth = gt_layer(seen)
    outcome = segment_outcomes(found, seen, CLASSES)
    layer = with_outcomes(layer_of(found, CLASSES, "model"), outcome, truth)
    assert layer.describe(0, 0) == "cat 1 · score 0.90 · TP, IoU 0.75 with cat 1"
    drawn = outcome_layer(layer, outcome, truth)
    assert drawn.title == "model: 2 TP, 1 FP, 1 FN"
    colors = {y: drawn.info[int(drawn.ids[y, 0])].color for y in range(4)}
    assert colors == {0: RIGHT, 1: BOTH, 2: RIGHT, 3: RIGHT}
    assert "FP, where cat 2 is missed (FN)" in drawn.describe(0, 1)
    assert drawn.info[int(drawn.ids[0, 0])].match == 1  # outlined with the true cat 1


def test_something_missed_shows_where_something_else_is_right() -> None:
    seen, found = hand_made()
    found.ids[1, :4] = 3
    found.segments.pop(1)
    truth = gt_layer(seen)
    outcome = segment_outcomes(found, seen, CLASSES)
    drawn = outcome_layer(
        with_outcomes(layer_of(found, CLASSES, "m"), outcome, truth), outcome, truth
    )
    entry = drawn.info[int(drawn.ids[1, 0])]
    assert entry.color == MISSED
    assert entry.text == "cat 2"
    assert entry.note == "FN, missed; predicted here: sky · TP, IoU 0.77 with sky"


def test_outcomes_of_objects_by_hand() -> None:
    seen, _ = hand_made()
    masks = torch.zeros(3, 4, 8, dtype=torch.bool)
    masks[0, 0, :6] = True  # cat 1, IoU 6 / 8
    masks[1, 0, 2:] = True  # cat 1 again: taken
    masks[2, 3] = True  # a dog where there is none
    found = Detections(
        torch.zeros(3, 4), torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1]), masks
    )
    outcome = segment_outcomes(found, seen, CLASSES)
    assert outcome.right == {1: (1, pytest.approx(0.75))}
    assert outcome.wrong == {2, 3}
    assert outcome.missed == {2}
    truth = gt_layer(seen)
    drawn = outcome_layer(layer_of(found, CLASSES, "m"), outcome, truth)
    assert drawn.info[int(drawn.ids[3, 0])].color == FALSE


def test_an_object_on_a_crowd_of_its_class_does_not_count() -> None:
    seen, _ = hand_made()
    target = seen.target
    target["panoptic"].segments[1] = Segment(2, 0, iscrowd=True)
    target.update(boxes=target["boxes"][:1], labels=target["labels"][:1], masks=target["masks"][:1])
    mask = torch.zeros(1, 4, 8, dtype=torch.bool)
    mask[0, 1, 1:6] = True  # three of five pixels on the crowd
    found = Detections(torch.zeros(1, 4), torch.ones(1), torch.tensor([0]), mask)
    outcome = segment_outcomes(found, seen, CLASSES)
    assert (outcome.right, outcome.wrong, outcome.missed) == ({}, frozenset(), {1})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_outcomes_count_what_panoptic_quality_counts(
    index: int, right: int, down: int, crowded: bool
) -> None:
    seen = source_image(("crowded" if crowded else "shapes", index))
    true = seen.target["panoptic"]
    ids = true.ids.roll((down, right), (0, 1))
    moved = Panoptic(
        ids, [replace(s, label=(s.label + (s.id % 3 == 0)) % 7) for s in true.segments]
    )
    outcome = segment_outcomes(moved, seen, Shapes.categories)
    quality = PanopticQuality(Shapes.categories)
    quality.update(moved, true)
    counts = quality.counts.sum(axis=0)
    assert sum(iou for _, iou in outcome.right.values()) == pytest.approx(counts[0])
    assert (len(outcome.right), len(outcome.wrong), len(outcome.missed)) == tuple(counts[1:])


def test_classes_that_differ_are_said_and_nothing_is_measured() -> None:
    class Other(nn.Module):
        categories = CLASSES

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, images: list[torch.Tensor]) -> list[Prediction]:
            return [
                Prediction(semantic=torch.zeros(i.shape[1:], dtype=torch.int64)) for i in images
            ]

    comparison = run_models({"other": Other(), "fpn": FPN}, PLACE, Memory())
    views = comparison.views()
    assert views[0].quality is None
    assert views[1].quality is not None
    text = as_text(comparison.picture, views)
    assert "other is not measured: the model was trained on other classes" in text
    titles = [layer.title for layer in comparison.layers(views, True)]
    assert titles[0] == "ground truth"
    assert titles[1] == "other: no difference, see below"


# Models that fail, models that take long


def test_a_model_that_fails_gets_a_panel_that_says_why(tmp_path: Path) -> None:
    class Broken(nn.Module):
        categories = Shapes.categories

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, images: list[torch.Tensor]) -> list[Prediction]:
            raise IndexError("out of tea")

    empty = tmp_path / "run"
    empty.mkdir()
    models = {"good": FPN, "no name": "mask_rcn_tiny", "no run": empty, "broken": Broken()}
    comparison = run_models(models, PLACE, Memory())
    good, unknown, no_run, broken = comparison.layers(comparison.views())[1:]
    assert good.message is None
    assert good.ids.any()
    assert "did you mean mask_rcnn_tiny" in unknown.message
    assert "not from `labkit train`" in no_run.message
    assert broken.message == "IndexError: out of tea"
    table = as_html(comparison.picture, comparison.views())
    assert "IndexError: out of tea" in table
    figure = compare(models, PLACE, difference=True)
    assert figure.get_figwidth() <= 10  # a page's width: wider figures have small type
    assert len(figure.axes) >= 5


def test_titles_and_remarks_of_many_models_stay_in_the_figure() -> None:
    models = {f"panoptic_fpn_tiny, copy {k}": FPN for k in range(7)}
    figure = compare(models, PLACE, difference=True)
    figure.canvas.draw()
    (remarks,) = [text for text in figure.findobj(Text) if "The score of" in text.get_text()]
    assert "copy 6: objects" in " ".join(remarks.get_text().split())
    assert remarks.get_window_extent().x1 <= figure.bbox.x1
    titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 8  # with the ground truth: two rows of four
    for row in (titles[:4], titles[4:]):
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(row))


RUNNING, GO_ON = threading.Event(), threading.Event()


class Pause(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        RUNNING.set()
        GO_ON.wait(30)
        return x


class Slow(nn.Module):
    """Waits in its second layer until it is told to go on."""

    categories = Shapes.categories

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 7, 1), Pause(), nn.Identity())

    def forward(self, images: list[torch.Tensor]) -> list[Prediction]:
        return [Prediction(semantic=self.layers(i.float()).argmax(0)) for i in images]


@pytest.fixture
def slow() -> Slow:
    RUNNING.clear()
    GO_ON.clear()
    return Slow()


def test_a_run_is_followed_layer_by_layer_and_stops(slow: Slow) -> None:
    GO_ON.set()
    shares: list[float] = []
    Memory().ask(slow, source_image(PLACE), Watch(shares.append))
    assert shares[:3] == [pytest.approx(k / 3) for k in (1, 2, 3)]
    with pytest.raises(Cancelled):
        Memory().ask(slow, source_image(PLACE), Watch(cancelled=lambda: len(shares) > 0))


def test_cancelling_a_long_model_in_the_app(slow: Slow) -> None:
    run_models([FPN], PLACE)
    app = Compare({"fpn": FPN, "slow": slow}, PLACE)
    assert RUNNING.wait(30)
    assert app.progress.layout.display is None  # visible
    assert app.comparison.answers["slow"] == "not finished yet"
    app.score.value = 0.7  # the others answer meanwhile
    assert [round(view.score, 2) for view in app.comparison.views(0.7)[:1]] == [0.7]
    app.progress.button.click()
    GO_ON.set()
    app.wait()
    assert app.error == ""
    assert app.progress.layout.display == "none"
    assert "cancelled" in app.viewer.layers[2].message
    assert app.viewer.layers[1].ids.any()
    # It stays cancelled until it is asked for again.
    app.difference.value = True
    box = app.models.boxes.children[1]
    box.value = False
    box.value = True
    app.wait()
    assert app.viewer.layers[2].message is None


def test_another_picture_replaces_a_run(slow: Slow) -> None:
    run_models([FPN], ("shapes", 4))
    app = Compare({"slow": slow}, PLACE)
    assert RUNNING.wait(30)
    first = app._job.thread
    app.source.index.value = 4
    GO_ON.set()
    app.wait()
    first.join(30)
    assert app.comparison.picture.title == "shapes, image 4"
    assert app.viewer.layers[1].ids.any()
    assert app._job is None


# The app


def test_the_app_is_the_twin_of_the_figure() -> None:
    app = Compare([FPN, DETECTOR], PLACE)
    app.wait()
    app.score.value = 0.75
    app.difference.value = True
    app.viewer.opacity, app.viewer.show_stuff = 0.4, False
    data, text = app.still()
    figure = compare([FPN, DETECTOR], PLACE, score=0.75, difference=True, opacity=0.4, stuff=False)
    assert data == png(figure)
    assert text.splitlines()[1].startswith(FPN)
    comparison = run_models([FPN, DETECTOR], PLACE)
    layers = comparison.layers(comparison.views(0.75), True)
    for mine, expected in zip(app.viewer.layers, layers, strict=True):
        assert mine.info == expected.info
        assert np.array_equal(mine.ids, expected.ids)
    app.own_score.value = True
    assert app.viewer.layers[1].title == comparison.layers(comparison.views(), True)[1].title


def upload(app: Compare, name: str, content: bytes) -> None:
    app.source.upload.value = (
        {
            "name": name,
            "type": "image/png",
            "size": len(content),
            "content": memoryview(content),
            "last_modified": datetime.datetime.now(tz=datetime.UTC),
        },
    )
    app.wait()


def test_uploads_good_and_bad() -> None:
    app = Compare([FPN], PLACE)
    app.wait()
    app.source.kind.value = "upload"
    assert app.status == "Choose an image file to upload."
    upload(app, "notes.txt", b"hello")
    assert app.error == "notes.txt: not an image file that can be read"
    assert app.comparison.picture.title == "shapes, image 3"  # what was there stays
    upload(app, "mine.png", encoded((90, 60)))
    assert app.error == ""
    assert app.comparison.picture.title == "mine.png"
    assert app.viewer.image.shape == (3, 60, 90)
    assert app.difference.disabled  # nobody knows the truth
    upload(app, "big.jpg", encoded((2500, 2000), "jpeg"))
    assert "5.0 megapixels; it was scaled down" in app.status


def test_a_model_is_added_by_name_and_a_wrong_name_is_said() -> None:
    app = Compare([FPN], PLACE)
    app.models.name.value = "mask_rcnn_tinny"
    app.models.button.click()
    assert "did you mean mask_rcnn_tiny" in app.error
    app.models.name.value = DETECTOR
    app.models.button.click()
    app.wait()
    assert app.error == ""
    assert list(app.comparison.answers) == [FPN, DETECTOR]


def test_an_index_that_is_not_there_in_the_app() -> None:
    app = Compare([FPN], PLACE)
    app.source.index.value = 9999
    assert app.error == "shapes has no image 9999: its val split has 0 to 499"
