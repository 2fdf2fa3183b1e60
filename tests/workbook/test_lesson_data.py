"""`labkit run --fetch`: what lessons can use is listed, asked for once, and fetched."""

import hashlib
import re

import pytest
from helpers.paths import CHECKOUT

from labkit.cli import data as data_command
from labkit.cli import run as run_command
from labkit.datasets.fetch import catalog
from labkit.datasets.fetch.catalog import RemoteDataset, RemoteFile, catalogue, given_folder
from labkit.errors import LabkitError
from labkit.workbook import lesson_data
from labkit.workbook.lesson_data import fetch_for_lessons, missing_datasets
from labkit.workbook.notebook_sources import sources

PICTURE = b"picture"


@pytest.fixture
def lesson(tmp_path, file_server, monkeypatch):
    """A notebook that names two data sets: one on a server, one that no server has."""
    file_server.files["a.jpg"] = PICTURE
    digest = hashlib.sha256(PICTURE).hexdigest()
    sets = [
        RemoteDataset(
            name,
            f"Photographs {name}",
            f"licence of {name}",
            "https://example.org",
            name,
            [RemoteFile(file_server.url(f"{name}.jpg"), 1_500_000, digest, to="a.jpg")],
        )
        for name in ("a", "b")
    ]
    sets[0].files[0] = RemoteFile(file_server.url("a.jpg"), len(PICTURE), digest, to="a.jpg")
    monkeypatch.setattr(lesson_data, "catalogue", lambda: {one.name: one for one in sets})
    monkeypatch.setenv("LABKIT_DOWNLOADS", str(tmp_path / "downloads"))
    monkeypatch.delenv("LABKIT_DATA", raising=False)
    path = tmp_path / "lesson.py"
    path.write_text("# %% [markdown]\n# `labkit data get a`\n\n# %%\nprint('labkit data get b')\n")
    return path


def test_asked_once_and_fetched(lesson, tmp_path):
    asked, shown = [], []
    fetch_for_lessons([lesson], lambda question: not asked.append(question), shown.append)
    (question,) = asked
    assert question == f"Fetch 1.5 MB into {tmp_path / 'downloads'}?"
    text = "\n".join(shown)
    assert "a, 0.0 MB: Photographs a\n    licence: licence of a" in text
    assert text.index("licence of b") < text.index("a: fetched"), "shown before anything is fetched"
    assert (tmp_path / "downloads" / "a" / "a.jpg").read_bytes() == PICTURE
    # One that cannot be had leaves the other, and the run, as they are.
    assert "b: not fetched, the lessons run without it: http" in text
    assert [dataset.name for dataset in missing_datasets([lesson])] == ["b"]


def test_without_a_network_one_message_each(lesson, file_server, monkeypatch):
    monkeypatch.setattr(catalog, "_fetch", lambda *_: (_ for _ in ()).throw(LabkitError("offline")))
    shown = []
    fetch_for_lessons([lesson], lambda _: True, shown.append)
    assert [line for line in shown if "offline" in line] == [
        f"{name}: not fetched, the lessons run without it: offline" for name in ("a", "b")
    ]


def test_no_is_an_answer(lesson, file_server):
    shown = []
    fetch_for_lessons([lesson], lambda _: False, shown.append)
    assert shown[-1] == "nothing fetched; the lessons run without it"
    assert not file_server.asked


def test_data_of_ones_own_folder_is_not_fetched_again(lesson, tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.jpg").write_bytes(PICTURE)
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "data"))
    shown = []
    fetch_for_lessons([lesson], pytest.fail, shown.append)
    assert shown == [
        "nothing to fetch: the data sets that these lessons can use are on this machine"
    ]
    monkeypatch.setattr(catalog, "catalogue", lesson_data.catalogue)
    data_command.list_(tmp_path)
    assert capsys.readouterr().out.count("LABKIT_DATA") == 2
    data_command.get("a", tmp_path / "other")
    assert f"labkit reads {tmp_path / 'data' / 'a'} first" in capsys.readouterr().out


def test_penn_fudan_is_recognised_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    people = catalogue()["penn-fudan"]
    assert given_folder(people) is None
    (tmp_path / "PennFudanPed").mkdir()
    assert given_folder(people) == tmp_path / "PennFudanPed"
    (tmp_path / "coco").mkdir()
    assert given_folder(catalogue()["coco-val2017"]) is None


def test_where_nobody_answers_nothing_is_fetched_unasked(lesson, file_server):
    with pytest.raises(LabkitError, match="--fetch asks before it downloads; add --yes"):
        run_command._fetch([str(lesson)], yes=False)
    assert not file_server.asked
    run_command._fetch([str(lesson)], yes=True)
    assert file_server.asked


def test_the_lessons_name_data_sets_that_exist():
    named = set()
    for source in sources(CHECKOUT):
        named |= set(re.findall(lesson_data.COMMAND, source.read_text(encoding="utf-8")))
    assert {"penn-fudan", "coco-panoptic-sample"} <= named <= set(catalogue())
