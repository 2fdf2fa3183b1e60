"""What a name that a reader gives to `labkit lab` opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.errors import LabkitError
from labkit.workbook.find_notebook import find_openable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two lessons and three assignments, of which one shares a title and one is not released."""
    for name in ("02_roi_align", "03_mask_rcnn"):
        source = tmp_path / "notebooks" / "src" / f"{name}.py"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("")
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text("")
    for name in ("a1_roi_align", "a2_instance", "a3_new", "plain"):
        folder = tmp_path / "assignments" / name
        folder.mkdir(parents=True)
        (folder / "source.py").write_text("")
        (folder / f"{name}-solution.ipynb").write_text("")
        if name != "a3_new":
            (folder / f"{name}.ipynb").write_text("")
    return tmp_path


@pytest.mark.parametrize("selector", ["2", "02", "02_roi_align", "3", "mask_rcnn"])
def test_lessons(root: Path, selector: str) -> None:
    number = "03_mask_rcnn" if "3" in selector or "mask" in selector else "02_roi_align"
    assert find_openable(selector, root) == root / "notebooks" / f"{number}.ipynb"


@pytest.mark.parametrize(
    "selector",
    [
        "a2",
        "a2_instance",
        "instance",
        "a2_instance.ipynb",
        "assignments/a2_instance",
        "assignments/a2_instance/",
        "assignments/a2_instance/a2_instance.ipynb",
        "assignments/a2_instance/source.py",
    ],
)
def test_assignments_never_their_source(
    root: Path, selector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    notebook = root / "assignments" / "a2_instance" / "a2_instance.ipynb"
    assert find_openable(selector, root) == notebook


def test_an_assignment_of_one_word(root: Path) -> None:
    notebook = root / "assignments" / "plain" / "plain.ipynb"
    assert find_openable("plain", root) == notebook


def test_a_copy_has_no_sources(root: Path) -> None:
    for source in (root / "assignments").rglob("source.py"):
        source.unlink()
    assert find_openable("a1", root).name == "a1_roi_align.ipynb"


def test_a_lesson_and_an_assignment_of_one_title(root: Path) -> None:
    with pytest.raises(LabkitError, match=r"lesson 02_roi_align and assignment a1_roi_align"):
        find_openable("roi_align", root)


@pytest.mark.parametrize("selector", ["", "99", "a9", "roialign", "_", "02_", "../a2_instance"])
def test_unknown_names_list_both_kinds(root: Path, selector: str) -> None:
    known = (
        r"no lesson and no assignment .* the "
        r"lessons are: 02_roi_align, 03_mask_rcnn; "
        r"the assignments are: a1_roi_align, a2_instance, a3_new, plain"
    )
    with pytest.raises(LabkitError, match=known):
        find_openable(selector, root)


def test_not_released(root: Path) -> None:
    with pytest.raises(LabkitError, match="run: labkit assignment release a3_new"):
        find_openable("a3", root)


def test_a_path_that_is_not_there(root: Path) -> None:
    with pytest.raises(LabkitError, match=r"notebook a9\.ipynb does not exist"):
        find_openable("a9.ipynb", root)
