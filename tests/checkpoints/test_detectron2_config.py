"""Detectron2's configurations: the zoo's are labkit's presets, and nothing unknown passes."""

import pytest
import yaml
from helpers.checkpoint_files import FPN, write_config

from labkit.checkpoints.detectron2_config import read_config, to_settings
from labkit.checkpoints.detectron2_settings import DEFAULTS, FIXED, INPUT_LEVELS
from labkit.errors import LabkitError
from labkit.models.presets import PRESETS

DC5 = (
    ("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
    ("MODEL.RESNETS.OUT_FEATURES", ["res5"]),
    ("MODEL.RESNETS.RES5_DILATION", 2),
    ("MODEL.RPN.IN_FEATURES", ["res5"]),
    ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 12000),
    ("MODEL.RPN.PRE_NMS_TOPK_TEST", 6000),
    ("MODEL.RPN.POST_NMS_TOPK_TRAIN", 2000),
    ("MODEL.ROI_HEADS.IN_FEATURES", ["res5"]),
    ("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64, 128, 256, 512]]),
)
C4 = {"MODEL": {"MASK_ON": True, "RESNETS": {"DEPTH": 101}}}
PANOPTIC = (
    ("MODEL.META_ARCHITECTURE", "PanopticFPN"),
    ("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 0.5),
)


@pytest.mark.parametrize(
    ("preset", "base", "changes"),
    [
        ("mask_rcnn_r50", FPN, ()),
        ("mask_rcnn_r101", FPN, [("MODEL.RESNETS.DEPTH", 101)]),
        ("mask_rcnn_r50_dc5", FPN, DC5),
        ("mask_rcnn_r101_c4", C4, ()),
        ("panoptic_fpn_r50", FPN, PANOPTIC),
    ],
)
def test_configuration_of_the_zoo_is_the_preset(tmp_path, preset, base, changes):
    described = read_config(write_config(tmp_path, *changes, base=base))
    assert described.config == PRESETS[preset]
    assert described.num_things == 80
    assert described.num_stuff == (53 if preset.startswith("panoptic") else 0)


@pytest.mark.parametrize(
    "preset", [n for n in PRESETS if n.startswith(("mask_rcnn_r", "panoptic_fpn_r"))]
)
def test_settings_that_are_written_are_read_again(tmp_path, preset):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_settings(PRESETS[preset], 7, 5)))
    described = read_config(path)
    assert described.config == PRESETS[preset]
    assert described.num_things == 7
    assert described.num_stuff == (5 if preset.startswith("panoptic") else 0)


def test_settings_of_ones_own_are_read(tmp_path):
    described = read_config(
        write_config(
            tmp_path,
            ("MODEL.ROI_HEADS.NUM_CLASSES", 3),
            ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.3),
            ("INPUT.MIN_SIZE_TEST", 480),
            ("INPUT.FORMAT", "RGB"),
            ("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0]),
            ("MODEL.RESNETS.STRIDE_IN_1X1", False),
            ("DATASETS.TRAIN", ["my_photos"]),
            ("SOLVER.BASE_LR", 0.001),
        )
    )
    assert described.num_things == 3
    assert described.datasets == ("my_photos",)
    assert described.config.roi_heads.score_thresh == 0.3
    assert described.config.preprocessing.min_size == 480
    assert not described.config.preprocessing.bgr
    assert described.config.preprocessing.mean == (1.0, 2.0, 3.0)
    assert not described.config.backbone.stride_in_1x1


def test_base_files_are_read_first(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(FPN))
    path = tmp_path / "config.yaml"
    path.write_text("_BASE_: base.yaml\nMODEL:\n  RESNETS:\n    DEPTH: 101\n")
    assert read_config(path).config == PRESETS["mask_rcnn_r101"]
    path.write_text("_BASE_: config.yaml\n")
    with pytest.raises(LabkitError, match="in a circle"):
        read_config(path)
    path.write_text("_BASE_: detectron2://base.yaml\n")
    with pytest.raises(LabkitError, match=r"_BASE_: 'detectron2://base\.yaml' is no file"):
        read_config(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODEL.META_ARCHITECTURE", "MyRCNN"),
        ("MODEL.BACKBONE.NAME", "build_swint_fpn_backbone"),
        ("MODEL.RESNETS.DEPTH", 152),
        ("MODEL.RESNETS.NORM", "SyncBN"),
        ("MODEL.RESNETS.NUM_GROUPS", 32),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"),
        ("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 2),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64]]),
        ("MODEL.KEYPOINT_ON", True),
    ],
)
def test_what_labkit_cannot_reproduce_is_refused_by_name(tmp_path, name, value):
    path = write_config(tmp_path, (name, value))
    with pytest.raises(LabkitError, match=rf"config\.yaml: {name} is .*other numbers"):
        read_config(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MODEL.ROI_HEADS.NUM_CLASSES", "three", "is 'three'; it must be a whole number"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", [3], r"is \[3\]; it must be a whole number"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 0, "is 0; it must be 1 or more"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", None, "is None; it must be a whole number"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 1, "is 1; it must be 2 or more"),
        ("MODEL.MASK_ON", "yes", "is 'yes'; it must be true or false"),
        ("MODEL.RPN.NMS_THRESH", "0.7", "is '0.7'; it must be a number"),
        ("MODEL.ROI_HEADS.IN_FEATURES", "p2", "is 'p2'; it must be a list"),
        ("MODEL.PIXEL_MEAN", [1.0], "MODEL.PIXEL_MEAN or _STD is .*three values"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [["a"]], "a list has a value of another type"),
        ("DATASETS.TRAIN", 5, "is 5; it must be a list"),
    ],
)
def test_values_of_another_type_are_refused(tmp_path, name, value, message):
    path = write_config(tmp_path, *PANOPTIC, (name, value))
    with pytest.raises(LabkitError, match=rf"config\.yaml: .*{message}"):
        read_config(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- list\n", "holds no settings"),
        ("MODEL: [1, {\n", "not a Detectron2 configuration"),
        ("!!python/object/apply:os.system ['touch X']\n", "not a Detectron2 configuration"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(LabkitError, match=message):
        read_config(path)
    with pytest.raises(LabkitError, match=r"nothing\.yaml: cannot be read"):
        read_config(tmp_path / "nothing.yaml")


def test_defaults_are_detectron2s(detectron2):
    from detectron2.config import get_cfg

    cfg = get_cfg()
    for name, value in {**DEFAULTS, **FIXED, **{key: [] for key in INPUT_LEVELS}}.items():
        if name == "DATASETS.TRAIN":
            continue
        part = cfg
        for key in name.split("."):
            part = part[key]
        plain = list(part) if isinstance(part, tuple) else part
        if plain and isinstance(plain, list) and isinstance(plain[0], tuple):
            plain = [list(item) for item in plain]
        assert plain == value, name
