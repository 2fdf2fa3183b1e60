"""Where labkit reads and where it writes: in a checkout, in one that is protected, without one."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest
from helpers.paths import CHECKOUT
from rich.console import Console

from labkit.errors import LabkitError
from labkit.system import paths
from labkit.workbook.run_workbook import RunRequest, run_workbook


@pytest.fixture
def protected(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that cannot be written; permissions would not stop root."""
    folders: list[Path] = []
    original = paths.writable
    monkeypatch.setattr(
        paths,
        "writable",
        lambda folder: original(folder) and not any(folder.is_relative_to(p) for p in folders),
    )
    return folders


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LABKIT_DOWNLOADS", raising=False)
    root = tmp_path / "checkout"
    (root / "data").mkdir(parents=True)
    monkeypatch.setattr(paths, "CHECKOUT", root)
    return root


USERS = platformdirs.user_data_path("labkit", appauthor=False) / "downloads"


def test_this_checkout() -> None:
    assert paths.WORKBOOK == paths.CHECKOUT == CHECKOUT
    assert paths.PACKAGE == CHECKOUT / "labkit"
    assert (paths.DATA / "zoo.toml").is_file()


def test_download_folder(checkout, protected, monkeypatch) -> None:
    inside = checkout / "data" / "downloads"
    assert paths.download_folder() == inside
    protected.append(checkout)
    assert paths.download_folder() == USERS
    inside.mkdir()  # downloaded by a user who may write there, for all
    assert paths.download_folder() == inside
    monkeypatch.setattr(paths, "CHECKOUT", None)
    assert paths.download_folder() == USERS
    monkeypatch.setenv("LABKIT_DOWNLOADS", "elsewhere")
    assert paths.download_folder() == Path("elsewhere")


def test_data_is_found_in_the_named_folder_and_then_among_the_downloads(
    tmp_path, monkeypatch
) -> None:
    named, downloads = tmp_path / "named", tmp_path / "downloads"
    monkeypatch.setenv("LABKIT_DOWNLOADS", str(downloads))
    monkeypatch.delenv("LABKIT_DATA", raising=False)
    assert paths.find_data("PennFudanPed") is None
    (downloads / "PennFudanPed").mkdir(parents=True)
    assert paths.find_data("PennFudanPed") == downloads / "PennFudanPed"
    monkeypatch.setenv("LABKIT_DATA", str(named))
    assert paths.find_data("PennFudanPed") == downloads / "PennFudanPed"
    (named / "PennFudanPed").mkdir(parents=True)
    assert paths.find_data("PennFudanPed") == named / "PennFudanPed"


def test_downloads_that_cannot_be_written(checkout, protected, tmp_path) -> None:
    paths.prepare_downloads(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    protected.append(checkout)
    (tmp_path / "file").write_text("")
    for folder in (checkout, tmp_path / "file" / "within"):
        with pytest.raises(LabkitError, match=r"cannot be written.*--dir or .* LABKIT_DOWNLOADS"):
            paths.prepare_downloads(folder)


def test_where_reports_go(checkout, protected, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.runs_folder(checkout) == checkout / "runs"
    protected.append(checkout)
    assert paths.runs_folder(checkout) == tmp_path / "runs"
    protected.clear()
    monkeypatch.setattr(paths, "CARRIED", checkout)  # installed where the user may write
    assert paths.runs_folder(checkout) == tmp_path / "runs"


def test_a_report_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    request = RunRequest(notebooks=["1"], out=tmp_path / "file" / "runs" / "x")
    with pytest.raises(LabkitError, match=r"file/runs/x: cannot be written .* with --out"):
        run_workbook(request, Console(quiet=True))
