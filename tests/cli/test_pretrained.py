"""`labkit train --init imagenet`, and models that come from checkpoint files."""

import json

import pytest
import torch
from helpers.checkpoint_files import write_detectron2

from labkit.checkpoints.efficientnet_lite import imagenet_weights, load
from labkit.checkpoints.run_folder import load_run, read_run
from labkit.checkpoints.shipped import shipped
from labkit.cli.eval import evaluate as eval_command
from labkit.cli.train import train as train_command
from labkit.engine.predictor import load_model
from labkit.errors import LabkitError
from labkit.models.backbones.efficientnet_lite import EfficientNetLite

ONE_STEP = {"data": "shapes", "steps": 1, "batch_size": 2, "lr": 1e-4}


def test_training_begins_with_the_imagenet_weights(tmp_path, capsys):
    factor = {"backbone_lr_factor": 0.1}
    train_command("mask_rcnn_lite", out=tmp_path, init=["imagenet"], **ONE_STEP, **factor)
    printed = capsys.readouterr().out
    assert "random" not in printed
    (line,) = [x for x in printed.splitlines() if x.startswith("fresh weights, not in imagenet: ")]
    assert line.endswith(", rpn, roi_heads")
    assert "bottom_up" not in line
    assert read_run(tmp_path).init == ("imagenet",)
    published = EfficientNetLite()
    load(imagenet_weights(), published)
    trained = load_run(tmp_path).backbone.bottom_up.state_dict()
    for name, value in published.state_dict().items():
        # The first of 30 warm-up steps, and a tenth of it: AdamW moves a weight by no more.
        assert torch.allclose(trained[name], value, atol=1.1e-4 / 30 / 10, rtol=0), name
    assert any(not torch.equal(trained[n], v) for n, v in published.state_dict().items())


def test_norms_are_trained_only_where_the_backbone_begins_with_random_weights(tmp_path):
    for init, frozen in (
        (None, False),
        (["pedestrians_lite:rpn"], False),
        (["pedestrians_lite"], True),
        (["pedestrians_lite:rpn", "pedestrians_lite:backbone"], True),
    ):
        out = tmp_path / "-".join(init or ["nothing"]).replace(":", "-")
        train_command("mask_rcnn_lite", out=out, init=init, **ONE_STEP)
        mean = load_run(out).backbone.bottom_up.stem.norm.running_mean
        start = shipped()["pedestrians_lite"].load().backbone.bottom_up.stem.norm.running_mean
        assert torch.equal(mean, start) == frozen
        assert frozen or 0 < mean.abs().max() < 1, "moved from 0 by the batch's mean"


def test_a_second_init_replaces_a_part(tmp_path, capsys):
    init = ["mask_rcnn_tiny", "panoptic_fpn_tiny:backbone"]
    train_command("panoptic_fpn_tiny", out=tmp_path / "run", init=init, **ONE_STEP)
    assert "fresh weights, not in mask_rcnn_tiny or panoptic_fpn_tiny:backbone: sem_seg_head\n" in (
        capsys.readouterr().out
    )
    trained, first, second = (
        load_model(name).state_dict() for name in (tmp_path / "run", "mask_rcnn_tiny", init[1][:-9])
    )
    for name in first:
        source = second if name.startswith("backbone.") else first
        assert torch.allclose(trained[name], source[name], atol=1e-5, rtol=0), name
    differ = {n.split(".")[0] for n, v in first.items() if (v - second[n]).abs().max() > 1e-3}
    assert differ == {"backbone", "rpn", "roi_heads"}
    # The same command again: the run is complete, and nothing is copied or announced once more.
    train_command("panoptic_fpn_tiny", out=tmp_path / "run", init=init, **ONE_STEP)
    assert "fresh weights" not in capsys.readouterr().out
    with pytest.raises(LabkitError, match=r"init was \['mask_rcnn_tiny', .*'\], is \['mask"):
        train_command("panoptic_fpn_tiny", out=tmp_path / "run", init=init[:1], **ONE_STEP)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("mask_rcnn_tiny:rpm", "--init mask_rcnn_tiny:rpm: .* no part 'rpm'; they have backbone,"),
        ("panoptic_fpn_tiny", "--init panoptic_fpn_tiny: .* of another architecture"),
        ("imagenet:rpn", "no folder and no weights are called 'imagenet'"),
    ],
)
def test_a_wrong_init_is_named(tmp_path, wrong, message):
    init = ["mask_rcnn_tiny:backbone", wrong]
    with pytest.raises(LabkitError, match=message):
        train_command("mask_rcnn_tiny", out=tmp_path / "run", init=init, **ONE_STEP)
    assert not (tmp_path / "run" / "run.json").exists()


def test_without_it_one_line_tells_what_there_is(tmp_path, capsys):
    train_command("mask_rcnn_lite", out=tmp_path, **ONE_STEP)
    assert capsys.readouterr().out.count("--init imagenet begins with pretrained ones\n") == 1


def test_other_backbones_have_no_imagenet_weights(tmp_path):
    with pytest.raises(LabkitError, match="imagenet: there are ImageNet weights for the presets"):
        train_command("mask_rcnn_tiny", out=tmp_path / "run", init=["imagenet"], **ONE_STEP)
    assert not (tmp_path / "run" / "run.json").exists()


def test_fine_tuning_from_a_detectron2_file_says_what_is_fresh(tmp_path, capsys):
    """Of another number of classes: the three layers that know the classes begin anew."""
    source = write_detectron2(tmp_path, num_classes=5)
    train_command(
        "mask_rcnn_r50", out=tmp_path / "run", init=[str(source)], short_side=64, **ONE_STEP
    )
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("fresh weights")]
    assert line.endswith("roi_heads.cls_score, roi_heads.bbox_pred, roi_heads.mask_head.predictor")


def test_a_file_is_measured_with_its_classes_by_name(tmp_path, capsys):
    """Detectron2's classes 0, 1, 2 are the ids 1, 2, 3 in their order, whatever the file's."""
    source = write_detectron2(tmp_path, num_classes=3)
    with pytest.raises(LabkitError, match="name the data set with --data"):
        eval_command(str(source))
    names = [{"id": i, "name": n} for i, n in ((3, "triangle"), (1, "square"), (2, "circle"))]
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps({"categories": names}))
    eval_command(str(source), data="shapes", limit=1, categories=classes)
    assert "shapes, val: 1 image" in capsys.readouterr().out
    names[0]["name"] = "star"
    classes.write_text(json.dumps({"categories": names}))
    with pytest.raises(LabkitError, match="star"):
        eval_command(str(source), data="shapes", limit=1, categories=classes)
