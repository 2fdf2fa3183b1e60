from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import doctor, optional
from labkit.errors import LabkitError


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but what the test puts there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def put(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_command_says_how_to_get_what_is_missing() -> None:
    command = [sys.executable, "-m", "labkit", "doctor", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    checks = {check["name"]: check for check in json.loads(ran.stdout)}
    assert {"Python", "torch", "GPU", "C++ compiler", "nvcc", "hipcc", "Chromium"} <= set(checks)
    assert {"bubblewrap", "detectron2", "panopticapi", "LABKIT_DATA"} <= set(checks)
    assert checks["Python"]["present"]
    for check in checks.values():
        assert check["purpose"]
        assert check["present"] or check["fix"], check
    assert checks["detectron2"]["fix"] == "labkit install detectron2"


def test_programs(programs: Path) -> None:
    missing = {check.name: check for check in doctor.examine()}
    assert not missing["C++ compiler"].present
    assert not missing["bubblewrap"].present

    put(programs, "apt-get", "")
    put(programs, "clang++", "echo clang version 17.0.1")
    put(programs, "nvcc", "echo Copyright; echo release 13.0, V13.0.88")
    put(programs, "bwrap", 'test "$1" = --version && echo bubblewrap 0.8.0')
    found = {check.name: check for check in doctor.examine()}
    assert found["C++ compiler"].found == f"clang version 17.0.1 ({programs / 'clang++'})"
    assert found["nvcc"].found.startswith("release 13.0, V13.0.88")
    assert found["Chromium"].fix == "sudo apt-get install chromium"
    # Present is not enough: the trial sandbox failed.
    assert not found["bubblewrap"].present
    assert "namespaces" in found["bubblewrap"].fix


def test_real_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> tuple[bool, str]:
        check = next(check for check in doctor.examine() if check.name == "LABKIT_DATA")
        return check.present, check.found

    monkeypatch.delenv("LABKIT_DATA", raising=False)
    assert found() == (False, "not set")
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    assert found() == (True, str(tmp_path))
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "none"))
    assert found() == (False, f"{tmp_path / 'none'} is not a folder")


def test_install_builds_detectron2_in_the_environment(programs: Path, tmp_path: Path) -> None:
    source = tmp_path / "checkout"
    source.mkdir()
    (source / "setup.py").touch()
    put(programs, "uv", f'echo "$@" >> {tmp_path}/called')
    shown: list[str] = []
    # The stand-in installs nothing, so the import that follows must be what fails.
    with pytest.raises(LabkitError, match="was installed but cannot be imported"):
        optional.install("detectron2", source, shown.append)
    into = f"pip install --python {sys.executable}"
    assert (tmp_path / "called").read_text().splitlines() == [
        f"{into} setuptools<81 wheel",
        f"{into} --no-build-isolation {source}",
    ]
    assert len(shown) == 2


def test_install_from_the_repository_and_a_failing_installer(
    programs: Path, tmp_path: Path
) -> None:
    put(programs, "uv", f'echo "$@" >> {tmp_path}/called; exit 3')
    with pytest.raises(LabkitError, match="panopticapi was not installed"):
        optional.install("panopticapi", None, print)
    called = (tmp_path / "called").read_text()
    assert called.endswith(" git+https://github.com/cocodataset/panopticapi\n")


def test_install_refuses(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match=r"detectron2 or panopticapi, not 'pytorch'"):
        optional.install("pytorch", None, print)
    with pytest.raises(LabkitError, match=r"holds no setup\.py"):
        optional.install("panopticapi", tmp_path, print)
