"""The table of times in docs/teaching.md, from the lessons and assignments themselves.

PYTHONPATH=tests python -m helpers.teaching_times
"""

import tomllib

from helpers.lesson_lines import lesson_lines
from helpers.paths import CHECKOUT

from labkit.grading.authoring.assignment import load_assignment
from labkit.workbook.notebook_sources import load_notebook, sources

PAGE = CHECKOUT / "docs" / "teaching.md"
MARKS = ("<!-- begin: written by helpers.teaching_times -->\n\n", "\n<!-- end -->\n")
WORDS_A_MINUTE = 120
MINUTES_AN_EXERCISE = 8
GRADED = {
    "01_semantic_review": ["w1_semantic"],
    "02_roi_align": ["a1_roi_align"],
    "03_mask_rcnn": ["w2_nms_fpn", "a2_instance"],
    "04_panoptic_fpn": ["a3_backbones"],
    "05_upsnet": ["a5_upsnet"],
    "06_panoptic_quality": ["a4_panoptic_quality"],
    "08_detr_panoptic": ["a6_set_prediction"],
}


def rows() -> str:
    """The rows of the table."""
    measured = tomllib.loads((CHECKOUT / "notebooks" / "minutes.toml").read_text())["quick"]
    lines = [
        "| lesson | minutes to read and solve | minutes to run "
        "| assignment | minutes for the assignment |",
        "| --- | --- | --- | --- | --- |",
    ]
    for source in sources(CHECKOUT):
        cells = load_notebook(source).cells
        exercises = sum("solution" in cell.metadata.get("labkit", {}) for cell in cells)
        reading = lesson_lines(source).prose / WORDS_A_MINUTE + exercises * MINUTES_AN_EXERCISE
        graded = [
            (name.partition("_")[0], load_assignment(CHECKOUT / "assignments" / name).assignment)
            for name in GRADED.get(source.stem, [])
        ]
        names = ", ".join(name for name, _ in graded)
        minutes = ", ".join(f"{assignment.minutes}" for _, assignment in graded)
        running = f"{measured[source.stem]:g}"
        lines.append(
            f"| {source.stem} | {5 * round(reading / 5)} | {running} | {names} | {minutes} |"
        )
    return "\n".join(lines) + "\n"


def with_rows(page: str) -> str:
    """The page with the table as it should be."""
    begin, end = MARKS
    before, _, rest = page.partition(begin)
    return before + begin + rows() + end + rest.partition(end)[2]


if __name__ == "__main__":
    PAGE.write_text(with_rows(PAGE.read_text()))
