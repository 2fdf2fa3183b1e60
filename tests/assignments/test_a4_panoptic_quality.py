"""Panoptic quality from tables: what the usual mistakes cost, and which hint they get."""

import numpy as np
import pytest
import torch
from helpers.played import failed, load, lost, play, scored

from labkit.grading.authoring.probe_inputs import case_generator
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.structures import Categories, Category, Panoptic, Segment

NAME = "a4_panoptic_quality"
COUNTS = {"plain": 2, "void": 2, "crowd": 2}


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert lost(NAME, play(NAME, checks=checks), tmp_path) == {}
    assert failed(checks) == []


MIN_OF_IOUS = "ious[m, n] = min(ious[m, n], (own & other).sum() / (own | other).sum())"
SUBTLE = {
    "undecided": {'shared(overlap, overlap["prediction"], g_ids)': 'shared(overlap, [i for i in overlap["prediction"] if i != VOID], g_ids)'},  # noqa: E501
    "crowd left out": {"of_p - shared(overlap, p_ids, [VOID]) + of_g - both": 'np.maximum(of_p - shared(overlap, p_ids, [VOID, *(g["id"] for g in truth_segments if g.get("iscrowd"))]).sum(axis=1, keepdims=True) + of_g - both, 1)'},  # noqa: E501
    "not together": {'2 * shared(overlap, [p["id"]], unknown).sum() <= area': '2 * max(shared(overlap, [p["id"]], [i]).sum() for i in unknown) <= area'},  # noqa: E501
    "half of the known pixels": {'area = shared(overlap, [p["id"]], overlap["truth"]).sum()': 'area = shared(overlap, [p["id"]], [i for i in overlap["truth"] if i != VOID]).sum()'},  # noqa: E501
    "SQ of matches alone": {"iou / tp if tp else 0.0": "iou / tp if tp else np.nan", "np.mean(values": "np.nanmean(values"},  # noqa: E501
    "sum of boundary IoU": {MIN_OF_IOUS: "edge = (own & other).sum() / (own | other).sum(); ious[m, n] = edge * (min(ious[m, n], edge) > 0.5)"},  # noqa: E501
    "sum of IoU": {MIN_OF_IOUS: "ious[m, n] *= (own & other).sum() / (own | other).sum() > 0.5"},
    "IoU alone": {MIN_OF_IOUS: "pass"},
    "no FN if not drawn": {"fn / 2 + len(objects) / 2": "fn / 2"},
    "drawn alone counts": {"fn / 2 + len(objects) / 2": "fn / 2", "(size + k / 2)": "(size + k)"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("mistake", "check"),
    [
        ("undecided", "leaves undecided"),
        ("crowd left out", "a crowd stays in the union"),
        ("not together", "together more than half"),
        ("SQ of matches alone", "an invented sea"),
        ("sum of boundary IoU", "a ring"),
        ("sum of IoU", "18/34"),
        ("IoU alone", "18/34"),
        ("no FN if not drawn", "beside ten objects"),
        ("drawn alone counts", "beside ten objects"),
    ],
)
def test_a_public_check_sees_it(mistake, check):
    checks = []
    play(NAME, SUBTLE[mistake], checks=checks)
    assert any(check in title for title in failed(checks)), failed(checks)


# Each mistake is made in the solution: what it costs (None: some of the points), and words of the
# hint of a probe.
@pytest.mark.parametrize(
    ("edits", "expected", "probe", "hint"),
    [
        ({"np.zeros((len(p_ids), len(g_ids)), np.int64)": "np.zeros((len(p_ids), len(g_ids)), np.int32)"}, {"overlaps-small": 0, "overlaps-large": 2}, "overlaps-large", "How large may a number"),  # noqa: E501
        ({"np.diff(ends, prepend=0))": "1)"}, {"overlaps-small": 1, "overlaps-large": 2}, "overlaps-small", "between two ends"),  # noqa: E501
        ({"ends = np.union1d(ends_p, ends_g)": "ends = ends_p"}, {"overlaps-small": 1}, "overlaps-small", ""),  # noqa: E501
        # The matching.
        ({"ious[m, n] > 0.5": "ious[m, n] >= 0.5"}, COUNTS, "plain", "exactly one half"),
        ({"+ of_g - both)": "+ of_g)"}, COUNTS, "plain", "counted twice"),
        ({'if p["label"] == g["label"]]\n        hits': "]\n        hits"}, COUNTS, "plain", "of different classes"),  # noqa: E501
        # Void.
        ({"of_p - shared(overlap, p_ids, [VOID]) + of_g": "of_p + of_g"}, {"plain": 0, "void": 2}, "void", "when it reaches into void"),  # noqa: E501
        ({"else [VOID]": "else []"}, {"plain": 0, "void": 2}, "void", "that lies on void"),
        ({"<= area": "< area"}, {"plain": 0, "void": 2, "crowd": 2}, "void", "exactly half of its pixels on void"),  # noqa: E501
        # Crowds.
        (
            {'if g.get("iscrowd", False):\n            continue': 'if g.get("iscrowd", False):\n            counts[g["label"], 3] += 1\n            continue'},  # noqa: E501
            {"plain": 0, "void": 0, "crowd": 2}, "crowd", "Can a crowd be missed?",
        ),
        (
            {'[VOID, crowd_of[p["label"]]] if p["label"] in crowd_of else [VOID]': "[VOID, *crowd_of.values()]"},  # noqa: E501
            {"void": 0, "crowd": 2}, "crowd", "excuse a car",
        ),
        (SUBTLE["not together"], {"void": 0, "crowd": 2}, "crowd", "a third of its pixels on void"),
        ({'if p["label"] in crowd_of else': "if False else"}, {"void": 0, "crowd": 2}, "crowd", "that lies on a crowd of its class"),  # noqa: E501
        (SUBTLE["undecided"], COUNTS, "plain", "undecided in the prediction"),
        (SUBTLE["crowd left out"], {"plain": 0, "void": 0, "crowd": 2}, "crowd", "reaches into a crowd"),  # noqa: E501
        (SUBTLE["half of the known pixels"], {"plain": 0, "void": 2}, "void", "of which pixels"),
        # Tiles, images, classes.
        (
            {'count(joined(one), one["prediction_segments"], one["truth_segments"], num_classes)\n        for one in images': 'count(overlaps(tile["prediction"], tile["truth"]), *([s for s in one[f"{k}_segments"] if s["id"] in tile[k][:, 0]] for k in ("prediction", "truth")), num_classes) for one in images for tile in one["tiles"]'},  # noqa: E501
            {"images": 2}, "images", "lies in two tiles",
        ),
        ({"if size > 0:": "if size := size or 1:"}, {"images": 2}, "images", "Which classes take part"),  # noqa: E501
        (SUBTLE["SQ of matches alone"], {"images": None}, "images", "without any match"),
        # Stuff.
        ({"sums[g[\"label\"]] += ious[m, n]": "sums[g[\"label\"]] += ious[m, n] * (ious[m, n] > 0.5)"}, {"stuff": None}, "stuff", "an IoU of 0.4"),  # noqa: E501
        (
            {'numbers[g["label"]] += not isthing[g["label"]]': "pass", 'sums[g["label"]] += ious[m, n]': 'sums[g["label"]] += ious[m, n]\n                    numbers[g["label"]] += 1'},  # noqa: E501
            {"stuff": None}, "stuff", "in the truth alone",
        ),
        # Boundaries.
        ({"inner = mask.copy()": "inner = padded[distance:-distance, distance:-distance] | True", "return mask & ~inner": "return ~inner & (np.lib.stride_tricks.sliding_window_view(padded, (2 * distance + 1,) * 2).any(axis=(2, 3)))"}, {"region": 1}, "region", "not in the segment"),  # noqa: E501
        ({"padded = np.pad(mask, distance)": 'padded = np.pad(mask, distance, mode="edge")'}, {"region": None}, "region", "beyond the edge"),  # noqa: E501
        ({"ious[m, n] = min(ious[m, n], (own & other).sum() / (own | other).sum())": "ious[m, n] = (own & other).sum() / (own | other).sum()"}, {"boundary-counts": None}, "boundary-counts", "larger than the IoU"),  # noqa: E501
        ({"distance) & (truth != VOID)": "distance)"}, {"boundary-counts": None}, "boundary-counts", "into void"),  # noqa: E501
        (SUBTLE["sum of boundary IoU"], {"boundary-counts": 2}, "boundary-counts", "goes into the sum of a match"),  # noqa: E501
        (SUBTLE["sum of IoU"], {"boundary-counts": 2}, "boundary-counts", "is the smaller one"),
        (SUBTLE["IoU alone"], {"boundary-counts": 2}, "boundary-counts", "count for anything"),
        # Drawing.
        (SUBTLE["no FN if not drawn"], {"draw": 2}, "draw", "What are the objects"),
        (SUBTLE["drawn alone counts"], {"draw": 2}, "draw", "What is an object"),
        ({"[n in order[:best] for n": "[2 * objects[n][0] * objects[n][1] > iou / size for n"}, {"draw": 2}, "draw", "still the same"),  # noqa: E501
        ({"[n in order[:best] for n": "[objects[n][0] > 0.5 for n"}, {"draw": 2}, "draw", "one half"),  # noqa: E501
    ],
)  # fmt: skip
def test_mistakes(edits, expected, probe, hint, tmp_path):
    found = scored(NAME, play(NAME, edits), tmp_path, only=expected)
    lost = {part.name: part.out_of - part.points for part in found.probes if part.name in expected}
    for name, points in expected.items():
        assert lost[name] == points or (points is None and lost[name] > 0), lost
    assert hint in next(part.hint for part in found.probes if part.name == probe)


@pytest.mark.parametrize("name", COUNTS)
def test_the_reference_is_labkits_panoptic_quality(name):
    """On the same maps, with every pixel counted once."""
    loaded = load(NAME)
    probe = next(one for one in loaded.assignment.probes if one.name == name)
    for case in probe.cases(case_generator(loaded.hash, "labkit", name)):
        prediction, truth, _ = case["maps"]
        metric = PanopticQuality(Categories(Category(i + 1, f"{i}", i < 4) for i in range(8)))
        metric.update(
            panoptic(prediction, case["prediction_segments"]),
            panoptic(truth, case["truth_segments"]),
        )
        once = [prediction, truth, np.ones(truth.shape, np.int64)]
        assert np.allclose(probe.reference(**case | {"maps": once}), metric.counts, atol=1e-12)


def panoptic(ids, segments):
    listed = [Segment(s["id"], s["label"], iscrowd=s.get("iscrowd", False)) for s in segments]
    return Panoptic(torch.from_numpy(ids.astype(np.int32)), listed)


def test_the_large_maps_cannot_be_unpacked():
    loaded = load(NAME)
    probe = next(one for one in loaded.assignment.probes if one.name == "overlaps-large")
    for case in probe.cases(case_generator(loaded.hash, "large", probe.name)):
        assert case["prediction"][:, 1].sum() > 10**12
        assert case["prediction"][:, 1].sum() == case["truth"][:, 1].sum()
        # And there is no smaller map with the same shares.
        assert np.gcd.reduce(case["prediction"][:, 1]) < 10
