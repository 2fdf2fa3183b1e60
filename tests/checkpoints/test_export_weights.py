"""What is refused; tests/models/test_beside_detectron2.py loads exported files in Detectron2."""

import pytest

from labkit.checkpoints.export_weights import export_detectron2_weights
from labkit.checkpoints.own_files import load_file
from labkit.errors import LabkitError
from labkit.models.presets import PRESETS
from labkit.structures import Categories, Category

CLASSES = Categories([Category(1, "cup", True), Category(2, "table", False)])


def test_there_and_back(tmp_path):
    model = PRESETS["panoptic_fpn_r50"].build(CLASSES).eval()
    path = export_detectron2_weights(model, tmp_path)
    back = load_file(path, CLASSES)
    assert back.config == model.config
    assert all((v == model.state_dict()[k]).all() for k, v in back.state_dict().items())
    with pytest.raises(LabkitError, match=r"model_final\.pth: there already"):
        export_detectron2_weights(model, tmp_path)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("mask_rcnn_tiny", "no model with the backbone tiny_resnet"),
        ("panoptic_fpn_tiny", "one class for all things, this one more"),
        ("detr_tiny", "Detectron2 has no DETR"),
        ("fcn8_tiny", "Detectron2 has no FCN"),
    ],
)
def test_what_detectron2_does_not_have_is_refused(tmp_path, preset, message):
    with pytest.raises(LabkitError, match=message):
        export_detectron2_weights(PRESETS[preset].build(CLASSES), tmp_path / "out")
    assert not (tmp_path / "out").exists()
