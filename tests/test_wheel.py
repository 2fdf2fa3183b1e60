"""The wheel: what is in it, what must not be, and labkit's commands where it alone is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from helpers.paths import CHECKOUT

from labkit.checkpoints.shipped import shipped
from labkit.grading.authoring.assignment import LoadedAssignment, load_assignment
from labkit.grading.authoring.release import write_notebook
from labkit.grading.authoring.source import Role, solution_lines
from labkit.grading.authoring.validate import IMPORT, MIN_TELLING
from labkit.site.hosted import install_cell, standalone
from labkit.workbook.notebook_sources import load_notebook, sources

FOLDERS = ("labkit", "notebooks", "assignments", "data", "docs")
PARTS = (*FOLDERS, "pyproject.toml", "README.md", "LICENSE")
HIDDEN = (".gitignore",)
UV = shutil.which("uv")
CARRIED = "labkit/course/"

pytestmark = pytest.mark.skipif(UV is None, reason="needs uv; run: pip install uv")


def uv(*arguments: str, folder: Path) -> None:
    done = subprocess.run(
        [str(UV), *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def assignments() -> list[LoadedAssignment]:
    return [load_assignment(source.parent) for source in CHECKOUT.glob("assignments/*/source.py")]


@pytest.fixture(scope="module")
def wheel(
    tmp_path_factory: pytest.TempPathFactory, assignments: list[LoadedAssignment]
) -> zipfile.ZipFile:
    """Built by way of the sdist, of a checkout in which somebody has worked."""
    root = tmp_path_factory.mktemp("built") / "checkout"
    root.mkdir()
    ignored = shutil.ignore_patterns("downloads", "__pycache__", ".ipynb_checkpoints")
    for part in (*PARTS, *HIDDEN):
        source = CHECKOUT / part
        if source.is_dir():
            shutil.copytree(source, root / part, ignore=ignored)
        else:
            shutil.copy(source, root)
    for loaded in assignments:
        write_notebook(
            loaded.solution, root / "assignments" / loaded.name / f"{loaded.name}-solution.ipynb"
        )
    for made in ("data/downloads/big.pkl", "notebooks/mine.ipynb", "runs/x/index.html"):
        (root / made).parent.mkdir(parents=True, exist_ok=True)
        (root / made).write_text("mine")
    uv("build", "--quiet", "--out-dir", "dist", folder=root)
    (built,) = (root / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_says_that_it_has_types(wheel: zipfile.ZipFile) -> None:
    assert "labkit/py.typed" in wheel.namelist()


def test_what_the_wheel_carries(wheel: zipfile.ZipFile, assignments) -> None:
    names = {n.removeprefix(CARRIED) for n in wheel.namelist() if n.startswith(CARRIED)}
    lessons = {path.stem for path in CHECKOUT.glob("notebooks/src/[0-9][0-9]_*.py")}
    tables = {path.name for path in CHECKOUT.glob("notebooks/*.toml")}
    drawings = {path.name for path in CHECKOUT.glob("notebooks/diagrams/*.svg")}
    thumbnails = {path.name for path in CHECKOUT.glob("notebooks/thumbnails/*.webp")}
    assert len(drawings) > 5
    assert {name for name in names if not name.startswith("data/")} == {
        *(f"notebooks/{name}.ipynb" for name in lessons),
        *(f"notebooks/src/{name}.py" for name in lessons),
        *(f"notebooks/{name}" for name in tables),
        *(f"notebooks/diagrams/{name}" for name in drawings),
        *(f"notebooks/thumbnails/{name}" for name in thumbnails),
        *(f"assignments/{a.name}/{a.name}.ipynb" for a in assignments),
        "docs/glossary.md",
        "docs/teaching.md",
    }
    assert {name for name in names if name.startswith("data/")} == {
        *(f"data/{name}" for name in ("README.md", "datasets.toml", "zoo.toml")),
        *(f"data/checkpoints/{name}.safetensors" for name in shipped()),
        *(
            f"data/checkpoints/{name}"
            for name in (
                "checkpoints.toml",
                "crowded_study.json",
                "fine_tuning.json",
                "mask_classification.json",
            )
        ),
    }
    package = {p.relative_to(CHECKOUT).as_posix() for p in CHECKOUT.glob("labkit/**/*.*")}
    assert {name for name in package if "__pycache__" not in name} <= set(wheel.namelist())
    assert sum(file.compress_size for file in wheel.infolist()) < 35e6


def _normal(line: str) -> str:
    return " ".join(line.split())


def test_no_solution_is_in_the_wheel(wheel: zipfile.ZipFile, assignments) -> None:
    """Not a line of one in an assignment, not the whole of one anywhere."""
    texts = {
        name: wheel.read(name).decode()
        for name in wheel.namelist()
        if not name.endswith((".safetensors", ".webp", ".woff2", "RECORD"))
    }
    lines = {}  # of each file's cells or of the file, without indentation
    for name, text in texts.items():
        if name.endswith(".ipynb"):
            cells = json.loads(text)["cells"]
            text = "\n".join("".join(cell["source"]) for cell in cells)
        lines[name] = [_normal(line) for line in text.splitlines() if line.strip()]
    joined = {name: "\n".join(found) for name, found in lines.items()}
    looked_for = 0
    for loaded in assignments:
        given = set(lines[f"{CARRIED}assignments/{loaded.name}/{loaded.name}.ipynb"])
        for _, line in solution_lines(list(loaded.cells)):
            text = _normal(line)
            if len(text) >= MIN_TELLING and not IMPORT.match(text):
                assert text not in given
                looked_for += 1
        probes = [cell.source for cell in loaded.cells if cell.role is Role.PROBES]
        solved = {cell.source for cell in loaded.solution.cells}
        for source in (*probes, *(solved - {cell.source for cell in loaded.notebook.cells})):
            whole = "\n".join(map(_normal, filter(str.strip, source.splitlines())))
            assert [name for name, found in joined.items() if whole in found] == []
    assert looked_for > 100


def test_metadata(wheel: zipfile.ZipFile) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = message_from_bytes(wheel.read(name))
    assert metadata["Version"] == project["version"]
    stated = {_requirement(text) for text in metadata.get_all("Requires-Dist")}
    extras = project["optional-dependencies"]
    assert stated == {
        *(_requirement(text) for text in project["dependencies"]),
        *(_requirement(f"{t}; extra == '{e}'") for e, texts in extras.items() for t in texts),
    }


def _requirement(text: str):
    from packaging.requirements import Requirement

    return Requirement(text)


# Installed elsewhere


class Elsewhere:
    """An environment with the wheel, and with the packages of this environment but its labkit."""

    def __init__(self, folder: Path, wheel: str) -> None:
        uv("venv", "--quiet", "--python", sys.executable, "env", folder=folder)
        self.python = folder / "env" / "bin" / "python"
        uv(
            *("pip", "install", "--quiet", "--no-deps", "--python", str(self.python), wheel),
            folder=folder,
        )
        (site,) = folder.glob("env/lib/python*/site-packages")
        # A folder that a .pth file names comes last, and its own .pth files are not read: the
        # checkout that is installed in it stays away.
        (site / "others.pth").write_text(sysconfig.get_path("purelib"))
        self.home, self.work = folder / "home", folder / "work"
        self.home.mkdir()
        self.work.mkdir()

    def environment(self) -> dict[str, str]:
        ours = ("LABKIT_", "PYTHON", "XDG_")
        kept = {name: v for name, v in os.environ.items() if not name.startswith(ours)}
        return {**kept, "HOME": str(self.home), "JUPYTER_PATH": f"{sys.prefix}/share/jupyter"}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.python.with_name("labkit")), *words],
            cwd=self.work,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, wheel: zipfile.ZipFile) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("elsewhere"), str(wheel.filename))


def test_it_is_the_installed_labkit(elsewhere: Elsewhere) -> None:
    code = "from labkit.system import paths; print(paths.CHECKOUT, paths.WORKBOOK)"
    done = subprocess.run(
        [elsewhere.python, "-c", code],
        cwd=elsewhere.work,
        env=elsewhere.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    nowhere, workbook = done.stdout.split()
    assert nowhere == "None"
    assert Path(workbook).is_relative_to(elsewhere.python.parents[1].resolve())


def test_lists(elsewhere: Elsewhere) -> None:
    downloads = elsewhere.home / ".local" / "share" / "labkit" / "downloads"
    for command, expected in {
        "zoo": "mask_rcnn_tiny",
        "data": "penn-fudan",
        "notebooks": "09_your_own_data",
        "assignment": "a5_upsnet",
    }.items():
        done = elsewhere.run(command, "list")
        assert expected in done.stdout, done.stderr
        if command in ("zoo", "data"):
            assert done.stdout.endswith(f"download folder: {downloads}\n")


def test_eval(elsewhere: Elsewhere) -> None:
    data = ("--data", "shapes", "--limit", "20")
    done = elsewhere.run("eval", "mask_rcnn_tiny", *data, "--json", "-")
    assert json.loads(done.stdout)["images"] == 20, done.stderr


def test_run(elsewhere: Elsewhere) -> None:
    done = elsewhere.run("run", "6", "--profile", "smoke")
    (report,) = elsewhere.work.glob("runs/2*/index.html")
    assert done.returncode == 0, done.stdout
    assert f"the report will be in {report.parent}" in done.stdout
    (claims,) = (line for line in done.stdout.splitlines() if line.startswith("claims:"))
    held, of = claims.split()[1:4:2]
    assert held == of != "0"


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_build(elsewhere: Elsewhere) -> None:
    done = elsewhere.run("build")
    library = next(elsewhere.home.glob(".cache/labkit/roi_align-cpu-*/library.so"))
    assert done.stdout.startswith("cpu: ")
    assert f"{library}\n" in done.stdout


def test_lab_opens_a_copy(elsewhere: Elsewhere) -> None:
    process = subprocess.Popen(
        [elsewhere.python.with_name("labkit"), "lab", "a1", "--no-browser", "--allow-root"],
        cwd=elsewhere.work,
        env=elsewhere.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
    finally:
        process.kill()
        process.communicate()
    copy = elsewhere.home / "labkit-workbook"
    assert said == f"opening the copy in {copy}\n"
    assert (copy / "assignments" / "a1_roi_align" / "a1_roi_align.ipynb").is_file()
    assert len(list((copy / "notebooks").glob("*.ipynb"))) == len(sources(CHECKOUT))
    assert (copy / "notebooks" / "diagrams" / "mask_rcnn.svg").is_file()
    assert list(copy.rglob("source.py")) == []


def test_a_copy_for_students(elsewhere: Elsewhere) -> None:
    done = elsewhere.run("notebooks", "copy", "mine")
    copy = elsewhere.work / "mine"
    assert done.stdout == f"the copy is in {copy}\n"
    start = (copy / "start.md").read_text()
    assert "[4. Panoptic FPN](notebooks/04_panoptic_fpn.ipynb)" in start
    assert "to read and solve" in start
    assert "How good is a panoptic segmentation?" in start  # from the README in the metadata
    for link in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", start):
        assert (copy / "".join(link)).is_file()


RUN_CELL = """
import sys, types
if {colab}:
    sys.modules["google.colab"] = types.ModuleType("google.colab")
from IPython.core.interactiveshell import InteractiveShell
assert InteractiveShell.instance().run_cell({source!r}).success
"""


def test_the_first_cell_in_colab_installs_labkit_and_elsewhere_does_nothing(
    elsewhere: Elsewhere, wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    """In an environment that has everything but labkit."""
    uv("venv", "--quiet", "--seed", "--python", sys.executable, "colab", folder=tmp_path)
    (packages,) = tmp_path.glob("colab/lib/python*/site-packages")
    others = tmp_path / "others"
    others.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.match(r"_*(editable.*)?labkit", path.name):
            (others / path.name).symlink_to(path)
    (packages / "others.pth").write_text(str(others))
    cell = install_cell(str(wheel.filename)).source
    # IPython would add the environment that is active here, with labkit.
    environment = {n: v for n, v in elsewhere.environment().items() if n != "VIRTUAL_ENV"}
    for colab in (False, True):
        done = subprocess.run(
            [
                *(tmp_path / "colab" / "bin" / "python", "-c"),
                RUN_CELL.format(colab=colab, source=cell),
            ],
            cwd=elsewhere.work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        installed = (packages / "labkit" / "course" / "notebooks").is_dir()
        assert installed == colab, done.stdout + done.stderr


def test_a_lesson_of_the_site_runs_where_nothing_else_is(elsewhere: Elsewhere) -> None:
    """The notebook that Colab opens: its first cell does nothing here, the rest runs."""
    source = CHECKOUT / "notebooks" / "src" / "06_panoptic_quality.py"
    student = load_notebook(source, student=True)
    alone = standalone(student, CHECKOUT / "notebooks", "https://github.com/someone/labkit")
    (elsewhere.work / "alone.ipynb").write_bytes(alone)
    done = elsewhere.run("run", "alone.ipynb", "--profile", "smoke", "--out", "alone")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("notebooks sync", "run this inside a checkout"),
        ("assignment release a1_roi_align", "a checkout has the source.py"),
        ("assignment check a1_roi_align", "a checkout has the source.py"),
        ("grade . --assignment a1_roi_align", "a checkout has the source.py"),
    ],
)
def test_what_needs_a_checkout_says_so(elsewhere: Elsewhere, words: str, why: str) -> None:
    done = elsewhere.run(*words.split())
    assert done.returncode == 1
    assert why in done.stderr
    assert done.stderr.count("error:") == 1
    assert len(done.stderr.splitlines()) == 1


def test_an_assignment_of_the_instructor_s_own(elsewhere: Elsewhere) -> None:
    assert "wrote assignments/mine/source.py" in elsewhere.run("assignment", "new", "mine").stdout
    done = elsewhere.run("assignment", "release", "mine")
    assert (elsewhere.work / "assignments" / "mine" / "mine.ipynb").is_file(), done.stderr
