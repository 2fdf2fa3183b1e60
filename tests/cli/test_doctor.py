from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import torchvision
from helpers.paths import CHECKOUT

from labkit import doctor
from labkit.errors import LabkitError
from labkit.system import optional_packages as optional


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
    assert {
        "Python",
        "torch",
        "torchvision",
        "GPU",
        "C++ compiler",
        "nvcc",
        "hipcc",
        "Chromium",
    } <= set(checks)
    assert {"bubblewrap", "detectron2", "panopticapi", "LABKIT_DATA"} <= set(checks)
    assert checks["Python"]["present"]
    for check in checks.values():
        assert check["purpose"]
        assert check["present"] or check["fix"], check
    assert checks["detectron2"]["fix"] == "labkit install detectron2"


def test_programs(programs: Path) -> None:
    missing = {check.name: check for check in doctor.check_environment()}
    assert not missing["C++ compiler"].present
    assert not missing["bubblewrap"].present

    put(programs, "apt-get", "")
    put(programs, "clang++", "echo clang version 17.0.1")
    put(programs, "nvcc", "echo Copyright; echo release 13.0, V13.0.88")
    put(programs, "bwrap", 'test "$1" = --version && echo bubblewrap 0.8.0')
    found = {check.name: check for check in doctor.check_environment()}
    assert found["C++ compiler"].found == f"clang version 17.0.1 ({programs / 'clang++'})"
    assert found["nvcc"].found.startswith("release 13.0, V13.0.88")
    assert found["Chromium"].fix == "sudo apt-get install chromium"
    # Present is not enough: the trial sandbox failed.
    assert not found["bubblewrap"].present
    assert "namespaces" in found["bubblewrap"].fix


@pytest.mark.parametrize(("name", "home"), [("nvcc", "CUDA_HOME"), ("hipcc", "ROCM_HOME")])
def test_gpu_compiler_is_the_one_that_the_build_takes(
    name: str, home: str, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "toolkit" / "bin"
    folder.mkdir(parents=True)
    put(folder, name, "echo version 7.1")
    assert not checked(name).present  # not on PATH
    monkeypatch.setenv(home, str(folder.parent))
    assert checked(name).found == f"version 7.1 ({folder / name})"
    put(programs, name, "echo version 6.4")
    assert checked(name).found == f"version 7.1 ({folder / name})"


def test_real_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> tuple[bool, str]:
        check = next(check for check in doctor.check_environment() if check.name == "LABKIT_DATA")
        return check.present, check.found

    monkeypatch.delenv("LABKIT_DATA", raising=False)
    assert found() == (False, "not set")
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    assert found() == (True, str(tmp_path))
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "none"))
    assert found() == (False, f"{tmp_path / 'none'} is not a folder")


def test_torchvision_of_this_torch_runs() -> None:
    status = checked("torchvision")
    assert status.present
    assert status.found.startswith(f"{version('torchvision')}, operators run on c")


@pytest.mark.parametrize("operator", ["nms", "roi_align", "deform_conv2d"])
def test_torchvision_without_an_operator(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As beside a torch that it was not built for; each operator may be the missing one."""

    def missing(*_: object) -> None:
        raise RuntimeError(f"operator torchvision::{operator} does not exist\nin two lines")

    monkeypatch.setattr(torchvision.ops, operator, missing)
    status = checked("torchvision")
    assert not status.present
    assert status.found.endswith(f": operator torchvision::{operator} does not exist")
    assert "from the index where torch came from" in status.fix


def test_torchvision_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doctor has to survive it: this is what a user runs to find out."""
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    status = checked("torchvision")
    assert not status.present
    assert "operators fail on" in status.found


def test_torchvision_on_a_gpu_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU build beside a torch for a GPU: only a tensor on the GPU shows it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    tried: list[str] = []

    def refuse(device: str) -> None:
        tried.append(device)
        raise NotImplementedError("Could not run 'torchvision::nms' with the 'CUDA' backend")

    monkeypatch.setattr(doctor, "_run_operators", refuse)
    assert "fail on cuda: Could not run" in checked("torchvision").found
    assert tried == ["cuda"]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder before all others on the path, for a detectron2 and a panopticapi of the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    for name in [n for n in sys.modules if n.partition(".")[0] in optional.PACKAGES]:
        monkeypatch.delitem(sys.modules, name)
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] in optional.PACKAGES]:
        del sys.modules[name]


def write_package(folder: Path, name: str, broken: str = "", statement: str = "") -> None:
    """A package with all modules that labkit imports; ``broken`` fails at ``statement``."""
    for module in optional.PACKAGES[name].imports:
        path = folder.joinpath(*module.split("."))
        path.mkdir(parents=True, exist_ok=True)
        # Without its own file a folder gives way to an installed package of the same name.
        for parent in path.relative_to(folder).parents[:-1]:
            (folder / parent / "__init__.py").touch()
        (path / "__init__.py").write_text(statement if module == broken else "")


def checked(name: str) -> doctor.PartStatus:
    return next(check for check in doctor.check_environment() if check.name == name)


@pytest.mark.parametrize("name", optional.PACKAGES)
def test_every_module_of_a_package_must_import(packages: Path, name: str) -> None:
    write_package(packages, name)
    assert optional.problem(name) is None
    assert checked(name).present
    optional.require_package(name)
    for module in optional.PACKAGES[name].imports:
        for loaded in [n for n in sys.modules if n.partition(".")[0] == name]:
            del sys.modules[loaded]
        write_package(packages, name, module, "raise OSError('first line\\nundefined symbol')")
        with pytest.raises(
            LabkitError, match=f"cannot be imported: undefined symbol; run: .*{name}"
        ):
            optional.require_package(name)
    check = checked(name)
    assert not check.present
    assert check.found.endswith("cannot be imported: undefined symbol")
    assert check.fix == f"labkit install {name}"


def test_detectron2_with_new_setuptools(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkg_resources", None)  # as where there is none
    missing = "raise ModuleNotFoundError('No module named x', name='pkg_resources')"
    write_package(packages, "detectron2", "detectron2.model_zoo", missing)
    found = checked("detectron2")
    assert not found.present
    assert "setuptools<81" in found.found
    assert "setuptools<81" in (optional.problem("detectron2") or "")


def test_a_package_that_is_not_there(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda n, *a: None if n in optional.PACKAGES else find(n, *a),
    )
    for name in optional.PACKAGES:
        assert optional.problem(name) == f"{name} is not installed; run: labkit install {name}"
        assert checked(name).found == "not installed"


def test_a_clone_is_no_package(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(packages)])
    for name in optional.PACKAGES:
        (packages / name / "docs").mkdir(parents=True)
        assert importlib.util.find_spec(name) is not None
        assert optional.problem(name) == f"{name} is not installed; run: labkit install {name}"


def test_all_that_is_used_is_checked() -> None:
    """What labkit, the notebooks, the assignments and the tests import of the two packages."""
    root = CHECKOUT
    for folder in ("labkit", "notebooks/src", "tests", "assignments"):
        for path in root.joinpath(folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    used = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    used = [node.module or ""]
                    if used == ["detectron2"]:
                        used = [f"detectron2.{alias.name}" for alias in node.names]
                else:
                    continue
                for module in used:
                    package = optional.PACKAGES.get(module.partition(".")[0])
                    if package is not None:
                        covered = any(f"{m}.".startswith(f"{module}.") for m in package.imports)
                        assert covered, (
                            f"{path}: {module} is not in labkit.system.optional_packages.PACKAGES"
                        )


def fake_installer(programs: Path, tmp_path: Path, script: str = "") -> None:
    """A uv that notes how it is called and does no more than ``script``; and a checkout."""
    put(programs, "uv", f'echo "$@" >> {tmp_path}/called; {script}')
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "setup.py").touch()


def calls(tmp_path: Path) -> list[str]:
    into = f"pip install --python {sys.executable} "
    lines = (tmp_path / "called").read_text().splitlines()
    assert all(line.startswith(into) for line in lines)
    return [line.removeprefix(into) for line in lines]


def test_install_builds_detectron2_in_the_environment(
    programs: Path, packages: Path, tmp_path: Path
) -> None:
    fake_installer(programs, tmp_path)
    write_package(packages, "detectron2")
    shown: list[str] = []
    optional.install("detectron2", tmp_path / "checkout", shown.append)
    assert calls(tmp_path) == [
        "setuptools<81 wheel",
        f"--no-build-isolation {tmp_path / 'checkout'}",
    ]
    assert len(shown) == 2


def test_install_builds_again_what_was_built_for_another_torch(
    programs: Path, packages: Path, tmp_path: Path
) -> None:
    broken = packages / "detectron2" / "_C" / "__init__.py"
    fake_installer(programs, tmp_path, f'case "$*" in *--force-reinstall*) : > {broken};; esac')
    write_package(packages, "detectron2", "detectron2._C", "raise ImportError('undefined symbol')")
    optional.install("detectron2", tmp_path / "checkout", print)
    assert calls(tmp_path) == [
        "setuptools<81 wheel",
        f"--no-build-isolation {tmp_path / 'checkout'}",
        f"--no-build-isolation --no-deps --force-reinstall --no-cache-dir {tmp_path / 'checkout'}",
    ]


@pytest.mark.parametrize("name", optional.PACKAGES)
def test_install_says_what_cannot_be_imported(
    programs: Path, packages: Path, tmp_path: Path, name: str
) -> None:
    fake_installer(programs, tmp_path)
    write_package(packages, name, optional.PACKAGES[name].imports[-1], "import no_such_module")
    with pytest.raises(LabkitError, match="cannot be imported: No module named 'no_such_module'"):
        optional.install(name, tmp_path / "checkout", print)


def test_install_from_the_repository_and_a_failing_installer(
    programs: Path, tmp_path: Path
) -> None:
    fake_installer(programs, tmp_path, "exit 3")
    with pytest.raises(LabkitError, match="panopticapi was not installed"):
        optional.install("panopticapi", None, print)
    assert calls(tmp_path) == ["git+https://github.com/cocodataset/panopticapi"]


def test_install_refuses(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match=r"detectron2 or panopticapi, not 'pytorch'"):
        optional.install("pytorch", None, print)
    with pytest.raises(LabkitError, match=r"holds no setup\.py"):
        optional.install("panopticapi", tmp_path, print)
