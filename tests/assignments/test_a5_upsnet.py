"""UPSNet's head: what a mistake in one of its parts costs."""

import pytest
from helpers.played import failed, lost, play

NAME = "a5_upsnet"


def test_the_solution_passes_its_public_checks_and_earns_everything(tmp_path):
    checks = []
    assert lost(NAME, play(NAME, checks=checks), tmp_path) == {}
    assert failed(checks) == []


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        # The masks take part in unknown; without objects, a quarter of the cases, it is right.
        ({"unknown - of_classes.amax(dim=0)": "unknown - objects.amax(dim=0)"}, {"unknown": 1.5}),
        ({"align_corners=False)": "align_corners=True)"}, {"masks": 1.5, "stuff-and-objects": 1.5}),
        # Exactly the allowed share is too much.
        ({"<= overlap * area": "< overlap * area"}, {"pruning": 2}),
        ({"max(stuff_area, 1)": "1"}, {"map": 2}),
        ({"stuff + k, label, 1)": "stuff + k, label, 0)"}, {"map": 1.5}),
        ({"ids // 65536]": "ids // 65536][::-1]"}, {"file": 1}),
    ],
)  # fmt: skip
def test_mistakes(edits, expected, tmp_path):
    found = lost(NAME, play(NAME, edits), tmp_path)
    found.pop("pictures", None)  # scored by PQ: some mistakes hardly show
    assert found == expected


@pytest.mark.parametrize(
    "edits",
    [
        {"objects = of_classes + mask_logits": "objects = of_classes - mask_logits"},
        {"kept = prune(": "kept = list(range(len(labels))) or prune("},
        {"return torch.cat([scores[things:], objects,": "return torch.cat([scores[things:] + 9, objects,"},  # noqa: E501
    ],
)  # fmt: skip
def test_whole_pictures_notice_what_matters(edits, tmp_path):
    found = lost(NAME, play(NAME, edits), tmp_path, only=("pictures",))
    assert found["pictures"] > 0
