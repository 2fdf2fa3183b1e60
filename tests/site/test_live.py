"""The live model's files, without a browser: the bundle, the runtime's package, its places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.paths import CHECKOUT

from labkit.errors import LabkitError
from labkit.site.live import runtime, write_live
from labkit.site.live.placement import IN_LESSONS, with_live, with_scripts
from labkit.workbook.notebook_sources import load_notebook


def test_the_bundle_has_every_script_after_those_that_it_imports() -> None:
    folder = write_live.HERE / "js"
    assert sorted(write_live.SCRIPTS) == sorted(path.stem for path in folder.glob("*.js"))
    for number, name in enumerate(write_live.SCRIPTS):
        imported = re.findall(r'from "\./(\w+)\.js"', (folder / f"{name}.js").read_text())
        assert set(imported) <= set(write_live.SCRIPTS[:number]), name
    assert not re.search(r"^(import|export) ", write_live.bundle(), re.MULTILINE)


def test_names_of_the_bundle_do_not_collide() -> None:
    declared = re.findall(
        r"^(?:const|let|class|function|async function) (\w+)", write_live.bundle(), re.MULTILINE
    )
    assert len(declared) == len(set(declared))


def test_a_damaged_package_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    package = tmp_path / "site" / f"{runtime.NAME}-{runtime.VERSION}.tgz"
    package.parent.mkdir()
    package.write_bytes(b"something else")
    with pytest.raises(LabkitError, match="its sha512 differs from npm's; remove it"):
        runtime.runtime_files()


def test_without_npm_and_network_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(runtime, "ADDRESS", "http://127.0.0.1:9/package.tgz")
    with pytest.raises(LabkitError) as caught:
        runtime.runtime_files()
    message = str(caught.value)
    assert "npm is not installed" in message
    assert f"`npm pack onnxruntime-web@{runtime.VERSION}`" in message
    assert str(tmp_path / "site") in message


@pytest.mark.parametrize("lesson", sorted(IN_LESSONS))
def test_the_model_stands_at_the_end_of_its_section(lesson: str) -> None:
    cells = load_notebook(CHECKOUT / "notebooks" / f"{lesson}.ipynb").cells
    page = with_live(cells, lesson, "../")
    (place,) = [i for i, cell in enumerate(page) if "<labkit-live " in cell.source]
    text = "".join("".join(cell.source.split()) for cell in [*page[:place], *page[place + 1 :]])
    assert text == "".join("".join(cell.source.split()) for cell in cells)
    before = "\n".join(cell.source for cell in page[:place] if cell.cell_type == "markdown")
    headings = re.findall(r"^## (\S+)", before, re.MULTILINE)
    assert headings[-1] == IN_LESSONS[lesson][0]
    assert page[place + 1].source.startswith("## ")
    assert page[place].source.count('<script src="../live/live.js"></script>') == 1


def test_the_scripts_stand_once_in_a_page() -> None:
    text = 'a\n\n<labkit-live models="x"></labkit-live>\n\n<labkit-live models="y"></labkit-live>\n'
    page = with_scripts(text, "")
    assert page.count("<script") == 1
    assert page.index("<script") < page.index("<labkit-live")
    assert with_scripts("nothing here", "") == "nothing here"
