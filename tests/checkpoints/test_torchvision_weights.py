"""torchvision's Mask R-CNN: its names, its order of classes, and the same detections."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

from labkit.checkpoints.model_zoo import find
from labkit.checkpoints.torchvision import CONFIG, NAMES, assign, load
from labkit.datasets.coco.categories import coco_ids_1_to_90, coco_things
from labkit.datasets.shapes import Shapes
from labkit.errors import LabkitError
from labkit.models import PRESETS

CATEGORIES = Shapes("val", num=1).categories
THINGS = len(CATEGORIES.things)

# A torchvision model that was not made from pretrained weights has this epsilon; few detections
# for speed.
EPSILON = replace(
    CONFIG,
    preprocessing=replace(CONFIG.preprocessing, min_size=160, max_size=224),
    backbone=replace(CONFIG.backbone, eps=1e-5),
    roi_heads=replace(CONFIG.roi_heads, detections_per_img=30),
)


@pytest.fixture(scope="module")
def theirs():
    """torchvision's model with random weights that find something, for images of their size."""
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=THINGS + 1,
        min_size=160,
        max_size=224,
        box_detections_per_img=30,
    ).eval()
    for name, value in model.state_dict().items():
        if re.search(r"bn\d|downsample\.1", name) and value.is_floating_point():
            value.uniform_(0.5, 1.0)
        if "layer_blocks" in name and name.endswith("weight"):
            value *= 0.03  # features of about 1, so that rounding stays small
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.2)
    torch.nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.01)
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.1)
    torch.nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.02)
    return model


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("torchvision") / "weights.pth"
    torch.save(theirs.state_dict(), path)
    model = EPSILON.build(CATEGORIES).eval()
    load(path, model)
    return model


def test_every_name_of_the_published_architecture():
    with torch.device("meta"):
        published = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
        state = CONFIG.build(coco_ids_1_to_90()).state_dict()
    names = {NAMES.name(key) for key in state}
    assert len(names) == len(state)
    assert names == {name for name in published if not name.endswith("num_batches_tracked")}
    theirs = {key: published[NAMES.name(key)].shape for key in state}
    assert {key: value.shape for key, value in state.items() if value.shape != theirs[key]} == {
        "roi_heads.bbox_pred.weight": (360, 1024),  # of 364: without the background
        "roi_heads.bbox_pred.bias": (360,),
        "roi_heads.mask_head.predictor.weight": (90, 256, 1, 1),  # of 91
        "roi_heads.mask_head.predictor.bias": (90,),
    }


def test_background_moves_from_the_first_row_to_the_last(theirs, ours):
    a, b = theirs.state_dict(), ours.state_dict()
    score, box = (
        "roi_heads.box_predictor.cls_score.bias",
        "roi_heads.box_predictor.bbox_pred.weight",
    )
    mask = "roi_heads.mask_predictor.mask_fcn_logits.weight"
    assert b["roi_heads.cls_score.bias"].tolist() == [*a[score][1:].tolist(), a[score][0].item()]
    assert torch.equal(b["roi_heads.bbox_pred.weight"], a[box][4:])
    assert torch.equal(b["roi_heads.mask_head.predictor.weight"], a[mask][1:])


def test_the_same_detections(theirs, ours):
    """Boxes, scores, classes and masks of two images of different size, padded together."""
    generator = torch.Generator().manual_seed(1)
    images = [
        torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        for size in ((160, 224), (200, 160))
    ]
    with torch.inference_mode():
        wanted = theirs([image / 255 for image in images])
        found = ours(images)
    for a, b in zip(wanted, found, strict=True):
        assert len(a["boxes"]) == 30
        assert a["scores"].min() < 0.95  # they differ, or their order would say nothing
        torch.testing.assert_close(b.detections.boxes, a["boxes"], atol=1e-4, rtol=0)
        torch.testing.assert_close(b.detections.scores, a["scores"], atol=1e-5, rtol=0)
        assert torch.equal(b.detections.labels, a["labels"] - 1)
        differ = b.detections.masks != (a["masks"][:, 0] > 0.5)
        assert differ.sum() <= 5  # pixels at one half, of 30 masks


def _target(height, width, number, generator):
    """Boxes with ragged masks, for labkit and for torchvision."""
    first = torch.rand(number, 2, generator=generator) * 0.5
    last = first + 0.2 + torch.rand(number, 2, generator=generator) * 0.3
    boxes = (torch.cat([first, last], dim=1) * torch.tensor([width, height] * 2)).round()
    masks = torch.zeros(number, height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = torch.rand(y2 - y1, x2 - x1, generator=generator) > 0.3
    labels = torch.randint(0, THINGS, (number,), generator=generator)
    ours = {"image_id": 0, "boxes": boxes, "labels": labels, "masks": masks}
    return ours, {"boxes": boxes, "labels": labels + 1, "masks": masks.byte()}


# Padded to 96 x 96 pixels, an image has 2307 anchors; where more are asked for than there are, it
# shows what the losses are divided by.
@pytest.mark.parametrize("anchors", [256, 4000])
def test_the_same_losses(theirs, ours, anchors):
    generator = torch.Generator().manual_seed(2)
    sizes = (64, 96), (90, 70)
    images = [torch.randint(0, 256, (3, *s), generator=generator, dtype=torch.uint8) for s in sizes]
    targets = [_target(*size, n, generator) for size, n in zip(sizes, (5, 2), strict=True)]
    theirs, ours = copy.deepcopy(theirs).train(), copy.deepcopy(ours).train()
    theirs.transform._skip_resize = True  # in training it draws the size
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # frozen, as torchvision has it when weights are fine-tuned
    theirs.rpn.fg_bg_sampler.batch_size_per_image = anchors
    ours.rpn.config = replace(ours.rpn.config, batch_size_per_image=anchors)
    torch.manual_seed(0)
    wanted = theirs([image / 255 for image in images], [target for _, target in targets])
    torch.manual_seed(0)  # both draw the same anchors and proposals
    found = ours(images, [target for target, _ in targets])
    names = {
        "loss_rpn_cls": "loss_objectness",
        "loss_rpn_loc": "loss_rpn_box_reg",
        "loss_cls": "loss_classifier",
        "loss_box_reg": "loss_box_reg",
        "loss_mask": "loss_mask",
    }
    assert set(found) == set(names)
    assert set(wanted) == set(names.values())
    for a, b in names.items():
        assert found[a].item() == pytest.approx(wanted[b].item(), rel=1e-5), a


def test_names_of_older_versions(theirs, ours, tmp_path):
    """As torchvision renames them when it reads such a file."""
    old = {}
    for name, value in theirs.state_dict().items():
        name = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name)
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        name = re.sub(
            r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", name
        )
        old[name] = value
    assert len(set(old) - set(theirs.state_dict())) == 26
    copy.deepcopy(theirs).load_state_dict(old)  # torchvision reads these names
    torch.save(old, tmp_path / "old.pth")
    model = EPSILON.build(CATEGORIES)
    load(tmp_path / "old.pth", model)
    state = ours.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_the_advice_of_a_refusal_works(theirs, ours, tmp_path):
    """A whole model is refused, with a line of code; what that writes is read."""
    path = tmp_path / "weights.pth"
    torch.save(theirs, path)
    with pytest.raises(LabkitError, match="refused: it asks for torchvision") as refusal:
        load(path, EPSILON.build(CATEGORIES))
    advice = re.search(r"torch\.save\(.*\)", str(refusal.value))[0]
    names = {"torch": torch, "model": torch.nn.DataParallel(theirs), "PATH": path}
    exec(advice, names)
    model = EPSILON.build(CATEGORIES)
    load(path, model)
    state = ours.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_differences_are_refused(theirs, ours, tmp_path):
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    weights = theirs.state_dict()
    weights["roi_heads.box_predictor.bbox_pred.bias"] = torch.zeros(4 * THINGS)
    weights["rpn.head.more"] = weights.pop("rpn.head.cls_logits.bias")
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(LabkitError) as refusal:
        load(tmp_path / "weights.pth", ours)
    said = str(refusal.value)
    assert "missing from the file (1 of 307):\n  rpn.head.cls_logits.bias\n" in said
    assert "unknown to the model (1):\n  rpn.head.more\n" in said
    assert f"the file has ({4 * THINGS},), the model needs ({4 * THINGS + 4},)" in said
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())


def test_a_model_with_other_conventions_is_refused(tmp_path):
    with torch.device("meta"):
        model = PRESETS["mask_rcnn_r50"].build(coco_things())
    with pytest.raises(LabkitError, match="need a model with torchvision's conventions"):
        assign(tmp_path / "weights.pth", {}, model)


def test_not_a_state_dict(ours, tmp_path):
    torch.save([1], tmp_path / "weights.pth")
    with pytest.raises(LabkitError, match="holds a list, not a state dict"):
        load(tmp_path / "weights.pth", ours)


def test_the_catalogue_says_what_torchvision_says():
    known, published = find("maskrcnn_resnet50_fpn"), MaskRCNN_ResNet50_FPN_Weights.COCO_V1
    assert known.url == published.url
    assert known.hash.split(":")[1] == re.search(r"-(\w+)\.pth", published.url)[1]
    metrics = published.meta["_metrics"]["COCO-val2017"]
    assert known.metrics == {"box AP": metrics["box_map"], "mask AP": metrics["mask_map"]}
    assert ["__background__", *coco_ids_1_to_90().names] == published.meta["categories"]
