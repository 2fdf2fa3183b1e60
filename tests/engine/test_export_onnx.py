"""Exported models give in onnxruntime what they give in PyTorch.

These are the graphs of all kinds. The tiny presets on many images:
``PYTHONPATH=tests python -m helpers.check_exports --images 50``.
"""

import json
import sys

import onnx
import pytest
import torch
from helpers.exports import SIZES, as_array, model_of, sized_image
from torchvision.models.detection import maskrcnn_resnet50_fpn

from labkit.deploy import load
from labkit.engine.check_export import compare
from labkit.engine.export_onnx import export_onnx
from labkit.engine.predictor import Predictor
from labkit.errors import LabkitError

PRESETS = (
    "deeplab_tiny",
    "panoptic_fpn_tiny",
    "panoptic_fpn_tiny_c4",
    "upsnet_tiny",
    "detr_panoptic_tiny",
    "mask2former_r50",
    "eomt_small_640",
)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A function: the model of a preset and the folder of its export, made at the first use."""
    made = {}

    def of_preset(preset):
        if preset not in made:
            model, folder = model_of(preset), tmp_path_factory.mktemp(preset) / "out"
            export_onnx(model, folder)
            made[preset] = (model, folder)
        return made[preset]

    return of_preset


@pytest.mark.parametrize("preset", PRESETS)
def test_onnxruntime_gives_what_pytorch_gives(export, preset):
    model, folder = export(preset)
    predictor, exported = Predictor(model, torch.device("cpu")), load(folder, threads=1)
    beyond = []
    for index in range(len(SIZES)):
        image = sized_image(index, preset)
        result = exported(as_array(image))
        found = compare(predictor(image), result, image.shape[1:])
        if not found.within_tolerance:
            beyond.append(found)
    # Rounding may decide a cell of one of Mask2Former's attention masks, and all after it.
    assert len(beyond) <= preset.startswith("mask2former"), beyond
    assert (result.boxes is not None and len(result.boxes)) or preset == "deeplab_tiny"


@pytest.mark.parametrize("preset", ["panoptic_fpn_tiny", "panoptic_fpn_tiny_c4", "upsnet_tiny"])
def test_every_roi_align_says_how_it_samples(export, preset):
    model, folder = export(preset)
    pooler = model.config.roi_heads.pooler
    modes = {True: b"half_pixel", False: b"output_half_pixel"}
    for name in ("boxes", "masks"):
        nodes = onnx.load(folder / f"{name}.onnx").graph.node
        found = [node for node in nodes if node.op_type == "RoiAlign"]
        assert len(found) == len(pooler.levels)
        for node in found:
            values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert values["coordinate_transformation_mode"] == modes[pooler.aligned]
            assert values["sampling_ratio"] == pooler.sampling_ratio


@pytest.mark.parametrize("preset", ["panoptic_fpn_tiny", "detr_panoptic_tiny", "eomt_small_640"])
def test_sizes_vary_unless_positions_are_learnt(export, preset):
    _, folder = export(preset)
    for path in folder.glob("*.onnx"):
        proto = onnx.load(path)
        assert [o.version for o in proto.opset_import if o.domain == ""] == [18]
        for value in proto.graph.input:
            named = [bool(dim.dim_param) for dim in value.type.tensor_type.shape.dim]
            assert any(named) != preset.startswith("eomt"), value.name


def test_a_graph_does_not_tell_where_it_was_made(export):
    _, folder = export("panoptic_fpn_tiny")
    content = b"".join(path.read_bytes() for path in folder.glob("*.onnx"))
    assert b"labkit/" not in content
    assert b"site-packages" not in content


def test_the_description_has_what_the_steps_between_need(export):
    model, folder = export("panoptic_fpn_tiny")
    description = json.loads((folder / "model.json").read_text())
    assert [c["name"] for c in description["categories"]] == model.categories.names
    assert description["opset"] == 18
    assert set(description["graphs"]) == {"features", "boxes", "masks"}
    cell = torch.tensor(description["config"]["rpn"]["anchors"][0])
    assert torch.equal(cell, model.rpn.p2_anchors)


def test_an_export_is_not_overwritten(export):
    model, folder = export("eomt_small_640")
    with pytest.raises(LabkitError, match=r"model\.json: there already; name another folder"):
        export_onnx(model, folder)


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LabkitError, match=r"cannot be made: .*; name another"):
        export_onnx(torch.nn.Identity(), tmp_path / "file" / "out")


def test_exporting_leaves_the_model_as_it_was(export):
    model, _ = export("panoptic_fpn_tiny")
    state, before = model.state_dict(), model_of("panoptic_fpn_tiny").state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(value, state[name]) for name, value in before.items())
    assert "pool" not in vars(model.roi_heads)


def test_torchvisions_mask_rcnn_cannot_be_exported_whole():
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    with (
        pytest.raises(Exception, match="Could not guard on data-dependent expression"),
        torch.no_grad(),
    ):
        torch.export.export(model, ([torch.rand(3, 64, 96)],))


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(LabkitError, match=r"onnxscript is not installed; run: pip install 'labkit"):
        export_onnx(model_of("fcn32_tiny"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
