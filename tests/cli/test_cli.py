"""The command line as a whole: quick where it only tells, quiet where it is interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.paths import CHECKOUT

import labkit
from labkit.cli import completion
from labkit.models import PRESETS

# What only lists or helps must not wait for these.
HEAVY = {
    *("torch", "torchvision", "numpy", "scipy", "matplotlib", "cv2", "PIL", "pycocotools"),
    *("requests", "pooch", "nbformat", "jupytext", "jupyterlab", "papermill", "IPython"),
}

FORBIDDING = f"""
import importlib.machinery
import sys

class Forbid:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {HEAVY}:
            return importlib.machinery.ModuleSpec(name, self)  # asking where it is imports nothing

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise AssertionError(f"{{module.__name__}} is imported")

sys.meta_path.insert(0, Forbid())
"""


def python(code: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=100, **options
    )


ALL_HELP = """
import contextlib, io, json, typer
from labkit.cli.commands import app

def pages(command, path=()):
    for flag in ("--help", "-h"):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            root.main([*path, flag], prog_name="labkit", standalone_mode=False)
        yield [*path, flag], out.getvalue()
    for name, inner in getattr(command, "commands", {}).items():
        yield from pages(inner, (*path, name))

root = typer.main.get_command(app)
print(json.dumps(list(pages(root))))
"""


def test_help_of_every_command_without_heavy_imports() -> None:
    done = python(FORBIDDING + ALL_HELP)
    assert done.returncode == 0, done.stderr
    pages = {" ".join(words): text for words, text in json.loads(done.stdout)}
    assert len(pages) > 60
    for words, text in pages.items():
        assert f"Usage: labkit {words.rpartition('-')[0].rstrip(' -')}" in text
        if words.endswith("--help"):
            assert pages[words.removesuffix("--help") + "-h"] == text


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("zoo list", "mask_rcnn_R_50_FPN_3x"),
        ("data list", "coco-val2017"),
        ("notebooks list", "06_panoptic_quality"),
        ("assignment list", "a1_roi_align"),
        ("--version", "labkit "),
    ],
)
def test_lists_without_heavy_imports(command: str, expected: str) -> None:
    run = "sys.argv[0] = 'labkit'\nfrom labkit.cli import main\nmain()"
    done = python(FORBIDDING + run, *command.split())
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_completion_without_heavy_imports() -> None:
    code = "from labkit.cli import main\nmain()"
    words = {
        "zoo get mask_rcnn_R_101": {f"mask_rcnn_R_101_{end}_3x" for end in ("C4", "DC5", "FPN")},
        "eval upsnet_t": {"upsnet_tiny"},
        "run 0": {name for name in completion.notebooks() if name.startswith("0")},
        "lab a": {name for name in completion.assignments() if name.startswith("a")},
        "train detr_": {name for name in PRESETS if name.startswith("detr_")},
        "data get penn": {"penn-fudan"},
    }
    for typed, expected in words.items():
        env = {**os.environ, "_LABKIT_COMPLETE": "complete_bash"}
        env |= {"COMP_WORDS": f"labkit {typed}", "COMP_CWORD": str(len(typed.split()))}
        done = python(FORBIDDING + "sys.argv[0] = 'labkit'\n" + code, env=env)
        assert set(done.stdout.split()) == expected, done.stderr


def test_completion_knows_all_presets() -> None:
    assert completion.presets() == list(PRESETS)


def test_version() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert labkit.__version__ == project["version"]
    with pytest.raises(AttributeError, match="no attribute 'versions'"):
        _ = labkit.versions


# Interruptions

INTERRUPT = """
import importlib.machinery
import signal, sys

WHEN = sys.argv[1]

class Interrupt:
    def find_spec(self, name, *_):
        if name == WHEN:
            return importlib.machinery.ModuleSpec(name, self)  # interrupts the import, not a look

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from labkit.cli import main
sys.argv = ["labkit", *sys.argv[2:]]
main()
"""


@pytest.mark.parametrize(
    "words",
    ["typer zoo list", "rich.table zoo list", "torch eval mask_rcnn_tiny", "labkit.doctor doctor"],
)
def test_ctrl_c_is_no_traceback(words: str) -> None:
    done = python(INTERRUPT, *words.split())
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("command", ["zoo list", "--help", "data list"])
def test_a_reader_that_is_gone(command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "labkit", *command.split()],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=100,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


# --json -


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from labkit.datasets.coco.export import export_coco
    from labkit.datasets.shapes import Shapes

    folder = tmp_path_factory.mktemp("shapes")
    export_coco(Shapes("val", 2), folder, split="val")
    return folder / "annotations" / "panoptic_val.json"


def test_json_to_standard_output(shapes: Path) -> None:
    done = python(
        "from labkit.cli import main; main()",
        *("pq", "--gt", str(shapes), "--pred", str(shapes), "--json", "-"),
    )
    assert json.loads(done.stdout)["all"]["pq"] == 1, done.stderr
    assert "━" in done.stderr  # the table


def test_every_json_option_takes_the_dash() -> None:
    import typer

    from labkit.cli.commands import app
    from labkit.cli.json_output import _leave_standard_output

    def options(command):
        yield from (p for p in command.params if "--json" in p.opts and not p.is_flag)
        for inner in getattr(command, "commands", {}).values():
            yield from options(inner)

    found = list(options(typer.main.get_command(app)))
    assert len(found) > 8
    for option in found:
        assert option.callback.__wrapped__ is _leave_standard_output
