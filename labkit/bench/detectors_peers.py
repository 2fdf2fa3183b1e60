"""The same Mask R-CNN R50-FPN in labkit and in another library: weights, image, targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from labkit.checkpoints.detectron2 import to_detectron2
from labkit.checkpoints.torchvision import CONFIG, NAMES
from labkit.datasets.coco.categories import coco_things
from labkit.datasets.shapes import Shapes
from labkit.models.presets import PRESETS
from labkit.models.rcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig
from labkit.structures import Detections, Target
from labkit.system import optional_packages


@dataclass(frozen=True)
class InputSizes:
    """Sizes of the inputs in pixels.

    Attributes:
        image: (height, width) of the image to predict.
        short, long: the sides that it is resized to, see ``Preprocessing``.
        side: of the two square training images, which are not resized.
    """

    image: tuple[int, int] = (480, 640)
    short: int = 800
    long: int = 1333
    side: int = 512


@dataclass(frozen=True)
class ModelPair:
    """One network in two libraries.

    Attributes:
        peer: the other library's name.
        ours: labkit's model.
        theirs: the other library's.
        predict: what the other library offers from RGB images ``(3, H, W)`` to its answers.
        detections: such an answer as labkit's type.
        losses: its training losses for images ``(3, h, w)`` uint8 RGB and labkit's targets.
    """

    peer: str
    ours: MaskRCNN
    theirs: nn.Module
    predict: Callable[[Sequence[Tensor]], list[Any]]
    detections: Callable[[Any], Detections]
    losses: Callable[[Sequence[Tensor], Sequence[Target]], dict[str, Tensor]]


def test_image(setting: InputSizes) -> Tensor:
    """Image of Shapes for inference, ``(3, H, W)`` uint8 RGB."""
    height, width = setting.image
    return Shapes("val", num=1, size=max(height, width))[0][0][:, :height, :width]


def training_batch(setting: InputSizes) -> tuple[list[Tensor], list[Target]]:
    """Two images of Shapes and their targets."""
    data = Shapes("train", num=2, size=setting.side)
    pairs = [data[i] for i in range(len(data))]
    return [image for image, _ in pairs], [target for _, target in pairs]


def torchvision_pair(setting: InputSizes) -> ModelPair:
    """torchvision's ``maskrcnn_resnet50_fpn`` and labkit's model with its choices."""
    theirs = _random_torchvision(setting)
    preprocessing = replace(CONFIG.preprocessing, min_size=setting.short, max_size=setting.long)
    # Only the published weights have norms without epsilon.
    backbone = replace(CONFIG.backbone, eps=1e-5)
    ours = replace(CONFIG, preprocessing=preprocessing, backbone=backbone).build(coco_things())
    _copy_from_torchvision(theirs, ours)

    def losses(images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = theirs(
            [image / 255 for image in images],
            # Class 0 is the background.
            [
                {"boxes": t["boxes"], "labels": t["labels"] + 1, "masks": t["masks"].byte()}
                for t in targets
            ],
        )
        return found

    def detections(answer: Any) -> Detections:
        masks = answer["masks"][:, 0] > 0.5
        return Detections(answer["boxes"], answer["scores"], answer["labels"] - 1, masks)

    def predict(images: Sequence[Tensor]) -> list[Any]:
        device = next(theirs.parameters()).device
        answers: list[Any] = theirs([image.to(device) / 255 for image in images])
        return answers

    return ModelPair("torchvision", ours, theirs, predict, detections, losses)


def detectron2_pair(setting: InputSizes) -> ModelPair:
    """Detectron2's ``mask_rcnn_R_50_FPN_3x`` and labkit's ``mask_rcnn_r50``.

    Raises:
        LabkitError: Detectron2 cannot be used.
    """
    optional_packages.require_package("detectron2")
    from detectron2 import model_zoo
    from detectron2.data.transforms import ResizeShortestEdge
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    config = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    config.MODEL.DEVICE = "cpu"
    theirs = build_model(config)
    ours = _detectron2_config(setting).build(coco_things())
    _copy_from_torchvision(_random_torchvision(setting), ours)
    with torch.no_grad():  # here the network sees grey levels, there divided by about 57
        ours.backbone.get_parameter("bottom_up.stem.conv1.weight").div_(57)
    theirs.load_state_dict(to_detectron2(ours.state_dict()))
    resize = ResizeShortestEdge([setting.short, setting.short], setting.long)

    def predict(images: Sequence[Tensor]) -> list[Any]:
        """What ``DefaultPredictor`` does, for several images at once."""
        inputs = []
        for image in images:
            bgr = image.flip(0).permute(1, 2, 0).numpy()
            resized = resize.get_transform(bgr).apply_image(bgr)
            values = torch.as_tensor(resized.astype(np.float32).transpose(2, 0, 1))
            inputs.append({"image": values, "height": bgr.shape[0], "width": bgr.shape[1]})
        return [answer["instances"] for answer in theirs(inputs)]

    def losses(images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        inputs = []
        for image, target in zip(images, targets, strict=True):
            instances = Instances(tuple(image.shape[1:]))
            instances.gt_boxes = Boxes(target["boxes"])
            instances.gt_classes = target["labels"]
            instances.gt_masks = BitMasks(target["masks"])
            inputs.append({"image": image.flip(0), "instances": instances})
        with EventStorage():
            found: dict[str, Tensor] = theirs(inputs)
        return found

    def detections(answer: Any) -> Detections:
        boxes = answer.pred_boxes.tensor
        return Detections(boxes, answer.scores, answer.pred_classes, answer.pred_masks)

    return ModelPair("Detectron2", ours, theirs, predict, detections, losses)


def _detectron2_config(setting: InputSizes) -> MaskRCNNConfig:
    base = PRESETS["mask_rcnn_r50"]
    assert isinstance(base, MaskRCNNConfig)
    preprocessing = replace(base.preprocessing, min_size=setting.short, max_size=setting.long)
    return replace(base, preprocessing=preprocessing)


def _copy_from_torchvision(theirs: nn.Module, ours: MaskRCNN) -> None:
    NAMES.load(Path("random weights"), theirs.state_dict(), ours)


def _random_torchvision(setting: InputSizes) -> nn.Module:
    """``maskrcnn_resnet50_fpn`` with random weights that give 100 detections.

    Fresh weights find nothing: all scores are 1/81.
    """
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    model = TorchvisionMaskRCNN(
        backbone,
        num_classes=81,
        min_size=setting.short,
        max_size=setting.long,
        _skip_resize=True,  # in training, where it would also draw a random number
    )
    for name, value in model.state_dict().items():
        if re.search(r"bn\d|downsample\.1", name):
            value.uniform_(0.5, 1.0)
        if "layer_blocks" in name and name.endswith("weight"):
            value *= 0.03  # features of about 1, so that rounding stays small
    for layer, std in (
        (model.roi_heads.box_predictor.cls_score, 1.0),
        (model.roi_heads.box_predictor.bbox_pred, 0.01),
        (model.rpn.head.cls_logits, 0.1),
        (model.rpn.head.bbox_pred, 0.02),
    ):
        nn.init.normal_(layer.weight, std=std)
    return model
