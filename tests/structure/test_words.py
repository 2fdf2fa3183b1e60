"""Words and phrases that were replaced by the field's do not come back."""

from __future__ import annotations

import re

from helpers.paths import CHECKOUT

# A pattern, and what to write instead.
RETIRED = {
    r"held against": "checked against, compared with",
    r"\bgo(es)? on where\b|\bgone on with\b": "resume",
    r"\bwhose a file is\b": "the first matching rule determines the owner",
    r"\bso it is\.": "say what was requested",
    r"\bnumbers and these\b": "configuration plus ...",
    r"\bthe dearest\b": "the highest-cost",
    r"\bturning a knob\b": "moving the threshold",
    r"\bwho wants to\b|\bwhoever\b": "to ..., use ...",
    r"\bhow much of the distance\b": "these numbers cannot separate ... from ...",
    r"\bwindows of features\b": "RoI features",
    r"\bcut_masks\b": "crop_masks",
    r"\bthings_as_one\b": "merge_things",
    r"\bheld_back\b": "unknown_ratio",
    r"\b(before|after)_nms\b": "pre_nms_top_n, post_nms_top_n",
    r"\b(semantic|panoptic)_truth\b": "semantic_targets, panoptic_targets",
    r"\bbatch_predict\b": "Predictor",
}
FILES = sorted(
    path
    for pattern in ("labkit/**/*.py", "notebooks/src/*.py", "assignments/*/source.py", "**/*.md")
    for path in CHECKOUT.glob(pattern)
    if ".venv" not in path.parts
)


def found(text: str) -> list[str]:
    """The retired words of a text, with what to write instead."""
    # A comment's or a lesson's sentence goes on over the end of a line.
    words = " ".join(re.sub(r"^\s*#+(?!:)", "", line) for line in text.splitlines())
    words = " ".join(words.split())
    return [
        f"{match[0]!r}: write {instead}"
        for pattern, instead in RETIRED.items()
        for match in re.finditer(pattern, words, re.IGNORECASE)
    ]


def test_they_are_found_across_lines_and_in_any_case():
    assert found("# Its numbers are held\n# against the record; who Wants to\nknow") == [
        "'held against': write checked against, compared with",
        "'who Wants to': write to ..., use ...",
    ]
    assert found("# Its numbers are checked against the record.") == []


def test_no_retired_words():
    lines = [
        f"{path.relative_to(CHECKOUT)}: {word}"
        for path in FILES
        for word in found(path.read_text())
    ]
    assert not lines, "\n".join(lines)
