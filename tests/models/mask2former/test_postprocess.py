"""Panoptic, instance and semantic inference of the same masks, by hand."""

import pytest
import torch

from labkit.models.mask2former.postprocess import (
    InferenceConfig,
    MaskOutput,
    instance_inference,
    mask_predictions,
    panoptic_inference,
    semantic_inference,
)
from labkit.models.preprocess import LABKIT_PREPROCESSING, preprocess
from labkit.structures import Categories, Category

# Labels 0 and 1 are things, 2 is stuff, 3 is "no object".
CATEGORIES = Categories(Category(i + 1, f"c{i}", isthing=i < 2) for i in range(3))
CONFIG = InferenceConfig()
NUM_THINGS = 2


def classes(*pairs):
    """Logits whose softmax gives each query's label the wanted score."""
    rows = []
    for label, score in pairs:
        probability = torch.full((4,), (1 - score) / 3)
        probability[label] = score
        rows.append(probability.log())
    return torch.stack(rows)


def mask(text):
    """Mask logits of a row of pixels: + is 3, - is -3, and a digit n is n / 10."""
    values = {"+": 3.0, "-": -3.0}
    return torch.tensor([[values.get(c, int(c) / 10 if c.isdigit() else 0.0) for c in text]])


def masks(*texts):
    return torch.stack([mask(text) for text in texts])


def ids_and_labels(class_logits, mask_logits, config=CONFIG):
    found = panoptic_inference(class_logits, mask_logits, NUM_THINGS, config)
    return found.ids[0].tolist(), [(s.id, s.label) for s in found.segments]


def test_two_objects_and_void_between_them():
    found = ids_and_labels(classes((0, 0.95), (1, 0.9)), masks("++---", "---++"))
    assert found == ([1, 1, 0, 2, 2], [(1, 0), (2, 1)])


@pytest.mark.parametrize(("score", "kept"), [(0.79, False), (0.81, True)])
def test_the_score_must_be_above_its_threshold(score, kept):
    ids, segments = ids_and_labels(classes((0, score)), masks("+++"))
    assert (ids == [1, 1, 1]) == kept
    assert bool(segments) == kept


def test_no_object_is_never_a_segment():
    assert ids_and_labels(classes((3, 0.99)), masks("+++")) == ([0, 0, 0], [])


def test_the_product_of_score_and_probability_wins():
    """The second mask is as sure, its class less so; it keeps 2 of 4 pixels: too little."""
    found = ids_and_labels(classes((0, 0.95), (1, 0.85)), masks("++--", "++++"))
    assert found == ([1, 1, 0, 0], [(1, 0)])


@pytest.mark.parametrize(("length", "kept"), [(4, False), (5, True)])
def test_a_segment_that_keeps_four_fifths_stays(length, kept):
    """One pixel is lost: of 4 pixels 3 are left (0.75), of 5 four, exactly the threshold."""
    first = "+" + "-" * (length - 1)
    _, segments = ids_and_labels(classes((0, 0.95), (1, 0.9)), masks(first, "+" * length))
    assert [label for _, label in segments] == ([0, 1] if kept else [0])


MASKFORMER = InferenceConfig(inside_mask=False)


def test_maskformers_segments_are_all_pixels_that_they_win():
    """Mask2Former leaves improbable pixels void, here the third and the fourth."""
    arguments = (classes((0, 0.95), (1, 0.9)), masks("++---", "----+"))
    assert ids_and_labels(*arguments)[0] == [1, 1, 0, 0, 2]
    assert ids_and_labels(*arguments, MASKFORMER)[0] == [1, 1, 1, 1, 2]


def test_void_of_maskformer_is_where_a_dropped_segment_wins():
    """The second wins one of the three pixels of its mask, which is too little."""
    arguments = (classes((0, 0.95), (1, 0.9)), masks("+++-", "-++2"))
    assert ids_and_labels(*arguments, MASKFORMER) == ([1, 1, 1, 0], [(1, 0)])


@pytest.mark.parametrize("config", [CONFIG, MASKFORMER])
def test_a_mask_that_is_probable_nowhere_is_no_segment(config):
    """Its query wins every pixel, none of them with a probability of 0.5."""
    assert ids_and_labels(classes((0, 0.95)), masks("---"), config) == ([0, 0, 0], [])


def test_stuff_of_one_class_is_one_segment_with_the_first_id():
    found = ids_and_labels(
        classes((2, 0.95), (0, 0.95), (2, 0.9)), masks("++------", "---++---", "------++")
    )
    assert found == ([1, 1, 0, 2, 2, 0, 1, 1], [(1, 2), (2, 0)])


def test_instances_are_pairs_of_query_and_class():
    """One query may be two classes; stuff takes its place among the best pairs and is left out."""
    logits = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.05, 0.05, 0.8, 0.1]]).log()
    config = InferenceConfig(detections_per_image=3)
    found = instance_inference(logits, masks("++--", "--++"), NUM_THINGS, config)
    sure = 1 / (1 + torch.tensor(-3.0).exp())
    assert found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.5, 0.3]) * sure)
    assert found.masks[0].tolist() == [[True, True, False, False]]
    assert found.boxes.tolist() == [[0, 0, 2, 1]] * 2


def test_the_score_is_the_mean_inside_of_the_mask():
    found = instance_inference(classes((0, 0.97)), masks("+5--"), NUM_THINGS, CONFIG)
    inside = torch.tensor([3.0, 0.5]).sigmoid().mean()
    assert found.scores[0] == pytest.approx(0.97 * float(inside), rel=1e-5)


def test_an_empty_mask_has_a_box_of_zeros():
    found = instance_inference(classes((0, 0.97)), masks("----"), NUM_THINGS, CONFIG)
    assert found.boxes[0].tolist() == [0, 0, 0, 0]
    assert found.scores[0] == 0


def test_the_semantic_map_sums_over_queries():
    """Two weak queries of class 1 outweigh one stronger of class 0."""
    logits = torch.tensor([[0.6, 0, 0, 0.4], [0, 0.4, 0, 0.6], [0, 0.4, 0, 0.6]]).log()
    assert semantic_inference(logits, masks("++", "++", "+-")).tolist() == [[1, 0]]


def test_masks_are_resized_as_logits_after_cropping_the_padding():
    """An image of 48 × 40 pixels is padded to 64 × 64; its mask is the left half of its own."""
    batch = preprocess([torch.zeros(3, 48, 40, dtype=torch.uint8)], LABKIT_PREPROCESSING)
    assert batch.padded_size == (64, 64)
    logits = torch.full((1, 1, 16, 16), -9.0)
    logits[..., :5] = 9.0  # 20 of 64 columns
    output = MaskOutput(classes((0, 0.97))[None], logits)
    (prediction,) = mask_predictions(output, batch, CATEGORIES, CONFIG)
    assert prediction.panoptic.ids.shape == (48, 40)
    assert prediction.panoptic.ids.sum(dim=0).tolist() == [48] * 20 + [0] * 20
    assert prediction.detections.boxes.tolist() == [[0, 0, 20, 48]] * len(
        prediction.detections.boxes
    )
    (strict,) = mask_predictions(output, batch, CATEGORIES, CONFIG, score_thresh=0.98)
    assert strict.panoptic.segments == []


def test_a_model_of_things_alone_has_no_maps():
    batch = preprocess([torch.zeros(3, 32, 32, dtype=torch.uint8)], LABKIT_PREPROCESSING)
    output = MaskOutput(classes((0, 0.97))[None], torch.zeros(1, 1, 8, 8))
    (prediction,) = mask_predictions(output, batch, CATEGORIES, CONFIG, panoptic=False)
    assert prediction.panoptic is None
    assert prediction.semantic is None
