"""``labkit export``."""

import json

import pytest
from helpers.exports import model_of
from PIL import Image
from typer.testing import CliRunner

from labkit.cli.commands import app
from labkit.datasets.shapes import Shapes
from labkit.deploy import load
from labkit.engine import predictor
from labkit.errors import LabkitError


@pytest.fixture
def photograph(tmp_path):
    image, _ = Shapes("val")[0]
    path = tmp_path / "photograph.png"
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.fixture
def quick_model(monkeypatch):
    """A network that is exported in seconds, in place of the named one."""
    model = model_of("eomt_small_640")
    monkeypatch.setattr(predictor, "load_model", lambda name, categories: model)


def call(*arguments):
    return CliRunner().invoke(app, ["export", "any", *map(str, arguments)])


def test_an_export_is_written_and_checked(tmp_path, photograph, quick_model):
    out = tmp_path / "out"
    done = call("--onnx", out, "--check", photograph, "--json", tmp_path / "numbers.json")
    assert done.exit_code == 0, done.output
    assert f"{out / 'network.onnx'}\n{out / 'model.json'}\n" in done.output
    assert "largest differences on 1 image" in done.output
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert (numbers["images"], numbers["beyond"], numbers["unmatched"]) == (1, 0, 0)
    assert numbers["scores"] <= 1e-4
    assert load(out).categories[0]["name"] == Shapes.categories[0].name


def test_a_difference_ends_with_status_1(tmp_path, photograph, quick_model, monkeypatch):
    monkeypatch.setattr("labkit.engine.check_export.TOLERANCE", -1.0)
    done = call("--onnx", tmp_path / "out", "--check", photograph)
    assert done.exit_code == 1
    assert "photograph.png: differs" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check"], "--check and images belong together"),
        (["street.jpg"], "--check and images belong together"),
        (["--json", "numbers.json"], "add --check IMAGE"),
        (["--check", "no*.jpg"], "no file matches this pattern"),
    ],
)
def test_options_that_do_not_belong_together(tmp_path, quick_model, arguments, message):
    done = call("--onnx", tmp_path / "out", *arguments)
    assert isinstance(done.exception, LabkitError)
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()
