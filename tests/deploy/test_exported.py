"""labkit.deploy alone: without PyTorch, as a copy, and with what is not an export."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.exports import write_export
from helpers.paths import CHECKOUT
from PIL import Image

from labkit.deploy import load
from labkit.errors import LabkitError

GREEN = np.zeros((20, 30, 3), np.uint8)
GREEN[..., 1] = 200

# Runs an export where PyTorch cannot be imported, and prints what of labkit was imported.
PROGRAM = """
import sys
sys.modules.update(torch=None, torchvision=None)
from labkit.deploy import load
print(int(load(sys.argv[1])(sys.argv[2]).semantic.sum()))
print(*sorted(name for name in sys.modules if name.startswith("labkit")))
"""


def test_an_image_of_any_size_has_a_label_for_each_pixel(tmp_path):
    write_export(tmp_path)
    result = load(tmp_path)(GREEN)
    assert result.semantic.shape == (20, 30)
    assert (result.semantic == 1).all()
    assert result.boxes is None
    assert result.panoptic is None


def run_alone(folder, **options):
    Image.fromarray(GREEN).save(folder / "green.png")
    arguments = [sys.executable, "-c", PROGRAM, str(folder), str(folder / "green.png")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, **options)
    total, modules = done.stdout.splitlines()
    assert int(total) == 600
    return modules.split()


def test_neither_pytorch_nor_the_models_are_imported(tmp_path):
    write_export(tmp_path)
    imported = run_alone(tmp_path)
    assert "labkit.deploy" in imported
    for part in ("models", "engine", "structures", "ops", "datasets", "checkpoints"):
        assert not [name for name in imported if name.startswith(f"labkit.{part}")]


def test_a_copy_of_the_folder_and_the_errors_is_enough(tmp_path):
    write_export(tmp_path)
    package = tmp_path / "labkit"
    shutil.copytree(CHECKOUT / "labkit" / "deploy", package / "deploy")
    shutil.copy(CHECKOUT / "labkit" / "errors.py", package)
    (package / "__init__.py").touch()
    imported = run_alone(tmp_path, cwd=tmp_path)
    others = [name for name in imported if not name.startswith("labkit.deploy")]
    assert others == ["labkit", "labkit.errors"]


def test_an_edited_graph_is_refused(tmp_path):
    write_export(tmp_path)
    path = tmp_path / "network.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(
        LabkitError, match=r"network\.onnx: not the file that model\.json describes"
    ):
        load(tmp_path)


def test_a_missing_graph_is_named(tmp_path):
    write_export(tmp_path)
    (tmp_path / "network.onnx").unlink()
    with pytest.raises(LabkitError, match=r"network\.onnx: cannot be read"):
        load(tmp_path)


def test_another_opset_is_refused(tmp_path):
    write_export(tmp_path, opset=21)
    with pytest.raises(LabkitError, match="opset 21; this labkit runs opset 18: export again"):
        load(tmp_path)


def test_another_number_of_categories_is_refused(tmp_path):
    write_export(tmp_path)
    path = tmp_path / "model.json"
    description = json.loads(path.read_text())
    description["categories"].append({"id": 9, "name": "other", "isthing": 0})
    path.write_text(json.dumps(description))
    with pytest.raises(LabkitError, match="4 categories, but the network has outputs for 3"):
        load(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"opset": 18}', "\udcff"])
def test_a_description_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "model.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(LabkitError, match=r"model\.json: cannot be read"):
        load(tmp_path)


def test_a_folder_without_an_export_is_refused(tmp_path):
    with pytest.raises(LabkitError, match=r"model\.json: not found; name a folder that"):
        load(tmp_path / "nothing")


def test_an_image_of_another_size_than_a_fixed_export_is_refused(tmp_path):
    write_export(tmp_path, size=(32, 32))
    exported = load(tmp_path)
    assert exported(GREEN).semantic.shape == (20, 30)  # padded to 32 x 32
    with pytest.raises(LabkitError, match=r"image of 40 x 30 pixels: .* is for 32 x 32 alone"):
        exported(np.zeros((40, 30, 3), np.uint8))


@pytest.mark.parametrize(
    "image", [GREEN[..., 0], GREEN.astype(float), GREEN[:0], GREEN.transpose(2, 0, 1)]
)
def test_an_array_that_is_no_image_is_refused(tmp_path, image):
    write_export(tmp_path)
    with pytest.raises(LabkitError, match=r"image: expected RGB \(H, W, 3\) uint8"):
        load(tmp_path)(image)


def test_a_file_that_is_no_image_is_refused(tmp_path):
    write_export(tmp_path)
    with pytest.raises(LabkitError, match=r"model\.json: not an image"):
        load(tmp_path)(tmp_path / "model.json")


def test_missing_onnxruntime_names_the_extra(tmp_path, monkeypatch):
    write_export(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        LabkitError, match=r"onnxruntime is not installed; run: pip install 'labkit"
    ):
        load(tmp_path)
