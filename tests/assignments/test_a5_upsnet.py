"""UPSNet's head: what a mistake in one of its parts costs, and the hint that it gets."""

import pytest
from helpers.played import failed, hints, lost, play

NAME = "a5_upsnet"


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert lost(NAME, play(NAME, checks=checks), tmp_path) == {}
    assert failed(checks) == []


@pytest.mark.parametrize(
    ("probe", "edits", "gap", "hint"),
    [
        (
            "place",
            {"torch.arange(length) + 0.5": "torch.arange(length) + 0.0"},
            1.5,
            "centre of the pixel",
        ),
        ("place", {"at = at.clamp(0, len(cells) - 1)": "pass"}, 1.5, "the border of a mask"),
        (
            "place",
            {"in_columns[:, None, :]), -torch.inf)": "in_columns[:, None, :]), 0.0)"},
            1.5,
            "logit 0 outside",
        ),
        (
            "stuff-and-objects",
            {
                "boxes = torch.where(labels[..., None] < 0, torch.tensor([0.0, 0, 1, 1]), boxes)": "pass",  # noqa: E501
                "Y = Y.masked_fill(labels[..., None, None] < 0, -torch.inf)": "pass",
            },
            1.333333333,
            "index -1",
        ),
        ("stuff-and-objects", {"X + Y, -torch.inf)": "Y, -torch.inf)"}, 1.333333333, "two terms"),
        (
            "stuff-and-objects",
            {"X + Y, -torch.inf)": "X + Y, 0.0)"},
            1.333333333,
            "outside of its box",
        ),
        (
            "unknown",
            {"torch.where(Y > 0, X": "torch.where(Y.isfinite(), X"},
            2,
            "does the object explain it",
        ),
        (
            "unknown",
            {"torch.where(explained.isfinite(), explained, 0.0)": "explained.clamp(min=0)"},
            2,
            "semantic logit is negative",
        ),
        (
            "unknown",
            {
                "explained = torch.where(Y > 0, X, -torch.inf).amax(dim=1, keepdim=True)": "best = torch.where(Y > 0, X + Y, -torch.inf).argmax(dim=1, keepdim=True)\n"  # noqa: E501
                "        explained = torch.where(Y > 0, X, -torch.inf).gather(1, best)",
            },
            2,
            "two masks overlap",
        ),
        ("pruning", {"if smallest >= least": "if smallest > least"}, 2, "equals `least`"),
        (
            "pruning",
            {
                "kept.remove(worst)": "below = [i for i, v in zip(kept, yields) if v < least]\n"
                "        kept = [i for i in kept if i not in below]",
                "logits[num_stuff + worst] = -torch.inf": "logits[[num_stuff + i for i in below]] = -torch.inf",  # noqa: E501
            },
            None,
            "How many objects are removed",
        ),
        (
            "pruning",
            {"(masks[i] & (winners == num_stuff + i)).sum()": "(winners == num_stuff + i).sum()"},
            None,
            "count for its yield",
        ),
        (
            "known",
            {"torch.nonzero(~crowd)[:, 0]": "torch.arange(len(crowd))"},
            None,
            "Of which objects",
        ),
        ("known", {"max(len(objects) - 1, 0)": "len(objects)"}, 0.166666667, "ratio of 1"),
        (
            "known",
            {
                "min(int(ratio * len(objects) + 0.5), max(len(objects) - 1, 0))": "len(objects) - max(int((1 - ratio) * len(objects)), min(len(objects), 1))"  # noqa: E501
            },
            None,
            "rounded",
        ),
        ("targets", {"reversed(range(len(masks)))": "range(len(masks))"}, 1.666666667, "in front"),
        ("targets", {"255 if crowd[i] else unknown": "unknown"}, 1.666666667, "pixels of a crowd"),
        ("targets", {"known.index(i)": "i"}, None, "object 2 if object 1"),
        ("map", {"again[:stuff][small] = -torch.inf": "pass"}, 1, "too small"),
        (
            "map",
            {
                "candidates = [(stuff + k": "objects = [(stuff + k",
                "candidates += [(s, num_things + s) for s in range(stuff) if not small[s]]": "candidates = [(s, num_things + s) for s in range(stuff) if not small[s]] + objects",  # noqa: E501
            },
            0.75,
            "the first numbers",
        ),
        ("map", {"if won.any():": "if won.any() or channel >= stuff:"}, 0.75, "without a pixel"),
        (
            "file",
            {
                "x.max() - x.min() + 1, y.max() - y.min() + 1": "x.max() - x.min(), y.max() - y.min()"  # noqa: E501
            },
            1,
            "one column",
        ),
        ("file", {"count.get(label, 0) + 1": "count.get(label, -1) + 1"}, 1, "first thing"),
        (
            "file",
            {"rgb.astype(np.uint8)": "rgb[..., ::-1].astype(np.uint8)"},
            1,
            "lowest eight bits",
        ),
        ("miss", {"(iou if iou > 0.5 else 0.0)": "iou"}, 0.5, "two segments match"),
        ("miss", {"else 0.0) / 2": "else 0.0)"}, 1, "how many classes"),
        ("miss", {"mean_pq((sky - lost) / sky)": "mean_pq(1.0)"}, 1, "out of the union"),
        (
            "parts",
            {"(rq_a + rq_b) / 2": "rq_a", "(sq_a + sq_b) / 2": "sq_b"},
            1,
            "Exchange a and b",
        ),
        ("parts", {"* (rq_a + rq_b) / 2": "", "* (sq_a + sq_b) / 2": ""}, 1, "add up"),
        ("parts", {"tp + fp / 2 + fn / 2": "tp + fp + fn"}, 1, "weight"),
    ],
)
def test_mistakes(probe, edits, gap, hint, tmp_path):
    namespace = play(NAME, edits)
    found = lost(NAME, namespace, tmp_path, only=(probe,))
    assert found[probe] > 0 if gap is None else found == {probe: gap}
    assert hint in hints(NAME, namespace, tmp_path, only=(probe,))[probe]


@pytest.mark.parametrize(
    ("edits", "hint"),
    [
        (
            {
                "kept = prune(of_objects(labels, boxes, masks), stuff, covers, least)": "kept = list(range(len(labels)))"  # noqa: E501
            },
            "detected twice",
        ),
        (
            {
                "covers = place(masks, boxes, semantic.shape[1:]) > 0": "covers = place(masks, boxes, semantic.shape[1:]).isfinite()"  # noqa: E501
            },
            "belong to the mask",
        ),
    ],
)
def test_mistakes_of_whole_images(edits, hint, tmp_path):
    namespace = play(NAME, edits)
    assert lost(NAME, namespace, tmp_path, only=("images",))["images"] > 0.3
    assert hint in hints(NAME, namespace, tmp_path, only=("images",))["images"]


@pytest.mark.parametrize(
    "edits",
    [
        {"return kept": "return list(range(len(masks)))"},
        {"return torch.cat([semantic[:, num_things:],": "return torch.cat([semantic[:, num_things:] + 9,"},  # noqa: E501
        {"torch.arange(length) + 0.5": "torch.arange(length) + 1.0"},
    ],
)  # fmt: skip
def test_whole_images_notice_what_matters(edits, tmp_path):
    found = lost(NAME, play(NAME, edits), tmp_path, only=("images",))
    assert found["images"] > 0.3


def test_the_head_of_the_paper_earns_nothing_on_whole_images(tmp_path):
    namespace = play(NAME)
    paper = next(p for p in _probes() if p.name == "images").mistakes[0].answer
    namespace["fuse"] = lambda **case: paper(**case)
    assert lost(NAME, namespace, tmp_path, only=("images",)) == {"images": 2}
    assert "maps of the paper's head" in hints(NAME, namespace, tmp_path, ("images",))["images"]


def _probes():
    from helpers.played import load

    return load(NAME).assignment.probes
