"""Every model on a GPU that is not there: no tensor stays on the CPU; see ``pretended_gpu.py``."""

import copy
import signal
from dataclasses import replace

import pytest
import torch
from helpers.pretended_gpu import GPU, DevicesMeet, OnGPU, pretended_gpu
from helpers.small_models import STRUCTURES, made

from labkit.checkpoints.weights import load_weights
from labkit.datasets.shapes import Shapes
from labkit.engine.evaluate import evaluate
from labkit.engine.predictor import Predictor, load_model
from labkit.engine.train import TrainConfig, train
from labkit.metrics.average_precision import average_precision
from labkit.metrics.coco_ap import COCOAP
from labkit.metrics.panoptic_quality import PanopticQuality
from labkit.metrics.semantic import ConfusionMatrix
from labkit.structures import Detections, Prediction, target_to
from labkit.system.distributed import default_device
from labkit.visualize import panels
from labkit.widgets.anchors_nms.pyramid_levels import rpn_levels
from labkit.widgets.compare.compare import compare
from labkit.widgets.roi_align.explorer import draw_roi_align
from labkit.widgets.viewer.segment_layers import layer_of
from labkit.widgets.viewer.viewer import SegmentViewer

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a real GPU"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.autograd"),
]
DATA = Shapes("train", num=4, size=64)
IMAGE, TARGET = DATA[0]
ONE_STEP = TrainConfig(steps=1, batch_size=1, warmup=0)


# The pretended GPU itself


def test_devices_meet():
    cpu = torch.ones(2)
    with pretended_gpu():
        gpu = cpu.cuda()
        assert gpu.device == GPU
        assert gpu.is_cuda
        for mixture in (
            lambda: gpu + cpu,
            lambda: torch.cat([gpu, cpu]),
            lambda: torch.stack([gpu[0], cpu[0]]),
            lambda: cpu[gpu.long()],
            lambda: torch.nn.functional.linear(gpu, torch.ones(1, 2)),
            lambda: gpu.__setitem__(slice(None), gpu) or gpu.index_put_((gpu.long(),), cpu),
        ):
            with pytest.raises(DevicesMeet, match="CPU"):
                mixture()
        with pytest.raises(TypeError, match="cuda:0"):
            gpu.numpy()


def test_what_a_gpu_allows():
    with pretended_gpu():
        x = torch.tensor([1.0, 2.0, 3.0], device="cuda")
        assert (x + torch.tensor(1.0)).tolist() == [2, 3, 4]  # a single number may be on the CPU
        assert x[torch.tensor([2, 0])].tolist() == [3, 1]  # so may an index
        x[[0, 1]] = 5
        assert x.tolist() == [5, 5, 3]
        x[:2] = torch.zeros(2)  # copies go between devices
        assert x.cpu().numpy().tolist() == [0, 0, 3]
        assert x.new_tensor([7]).device == torch.ones(1).to(x).device == GPU
        assert torch.where(x > 1, 1.0, x).tolist() == [0, 0, 1]
        twin = copy.deepcopy(x)
        twin += 1
        assert x.tolist() == [0, 0, 3]
        leaf = x.clone().requires_grad_()
        (leaf.square().sum().cpu() * 2).backward()  # a gradient finds its way back
        assert isinstance(leaf.grad, OnGPU)
        assert leaf.grad.tolist() == [0, 0, 12]
    assert not torch.cuda.is_available()
    assert default_device().type == "cpu"


# Models


@pytest.mark.parametrize("preset", STRUCTURES)
def test_predicts_and_learns(preset):
    """With the numbers of the CPU, which computes both."""
    model = made(preset, DATA.categories)
    twin = copy.deepcopy(model)
    expected = Predictor(twin)(IMAGE)
    losses = train(twin, DATA, ONE_STEP).losses
    with pretended_gpu():
        found = Predictor(model)(IMAGE)
        history = train(model, DATA, ONE_STEP)
        assert {x.device for x in model.state_dict().values()} == {GPU}
    assert losses == {name: pytest.approx(x, rel=1e-3) for name, x in history.losses.items()}
    for part in ("detections", "semantic", "panoptic"):
        assert (getattr(found, part) is None) == (getattr(expected, part) is None)
    if expected.detections is not None:
        torch.testing.assert_close(
            found.detections.boxes, expected.detections.boxes, rtol=1e-3, atol=0.05
        )
    if expected.semantic is not None:
        assert (found.semantic == expected.semantic).float().mean() > 0.999
    if expected.panoptic is not None:
        assert (found.panoptic.ids == expected.panoptic.ids).float().mean() > 0.999


@pytest.mark.parametrize("resize", ["opencv", "float", "pillow_floor", "pillow"])
def test_pictures_are_resized_before_they_travel(resize):
    model = made("mask_rcnn_tiny", DATA.categories)
    preprocessing = replace(model.config.preprocessing, resize=resize, min_size=80)
    model.config = replace(model.config, preprocessing=preprocessing)
    with pretended_gpu():
        assert Predictor(model)(IMAGE).detections.boxes.device.type == "cpu"


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    config = TrainConfig(steps=3, batch_size=2, warmup=0)

    def interrupt(step, losses):
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    with pretended_gpu():
        whole, stopped, resumed = (made("fcn8_tiny", DATA.categories) for _ in range(3))
        losses = train(whole, DATA, config).losses
        with pytest.raises(KeyboardInterrupt):
            train(stopped, DATA, config, out=tmp_path, on_step=interrupt)
        assert train(resumed, DATA, config, out=tmp_path).losses == losses
    loaded = made("fcn8_tiny", DATA.categories)  # on the CPU, from files that a GPU wrote
    load_weights(tmp_path / "model.safetensors", loaded)
    assert all(
        torch.equal(a, b.cpu())
        for a, b in zip(loaded.parameters(), whole.parameters(), strict=True)
    )
    # And the other way round: what was begun on the GPU goes on on the CPU.
    assert train(loaded, DATA, config, out=tmp_path).losses == losses


# Evaluation and metrics


@pytest.mark.parametrize("preset", ["panoptic_fpn_tiny", "detr_panoptic_tiny", "mask2former_tiny"])
def test_evaluation_is_the_cpus(preset):
    data = Shapes("val", num=2)
    expected = evaluate(load_model(preset), data, progress=False)
    with pretended_gpu():
        found = evaluate(load_model(preset), data, progress=False)
        assert len(
            list(Predictor(made(preset, DATA.categories)).predict_dataset(DATA, 2, progress=False))
        ) == len(DATA)
    assert found.panoptic.all.pq == pytest.approx(expected.panoptic.all.pq)
    assert found.panoptic.all.pq > 0.2  # something was found
    assert found.detection.segm.ap == pytest.approx(expected.detection.segm.ap, nan_ok=True)


@pytest.mark.parametrize("truth_on", ["cpu", "cuda"])
@pytest.mark.parametrize("answer_on", ["cpu", "cuda"])
def test_metrics_take_tensors_from_where_they_are(answer_on, truth_on):
    """A reader's own loop may leave answers or truth on the GPU, or both."""
    answer = perfect(TARGET)
    categories = DATA.categories
    with pretended_gpu():
        answer, target = answer.to(answer_on), target_to(TARGET, truth_on)
        confusion, quality = ConfusionMatrix(categories), PanopticQuality(categories)
        detections = COCOAP(categories)
        confusion.update(answer.semantic, target["semantic"])
        quality.update(answer.panoptic, target["panoptic"])
        detections.update(answer, target)
        for metric in (confusion, quality, detections):
            metric.all_reduce()
        assert confusion.compute().miou == quality.compute().all.pq == 1
        assert detections.compute().segm.ap == 1
        for kind in ("boxes", "masks"):
            assert average_precision([(answer.detections, target)], categories, kind).ap == 1


def test_pictures_and_widgets_of_what_is_on_the_gpu():
    model = load_model("panoptic_fpn_tiny")
    with pretended_gpu():
        answer, target = perfect(TARGET).to("cuda"), target_to(TARGET, "cuda")
        image = IMAGE.to("cuda")
        shown = (answer.detections, answer.semantic, answer.panoptic, target["panoptic"])
        panels([("", image, one) for one in shown], DATA.categories)
        draw_roi_align(image[0].float(), (4.0, 4.0, 20.0, 20.0), image=image)
        assert Predictor(model)(image).panoptic is not None
        compare({"one": model, "two": "upsnet_tiny"}, ("shapes", 3))
        assert all(
            level.boxes.device.type == "cpu" for level in rpn_levels(model.to("cuda"), IMAGE)
        )
        layers = [layer_of(one, DATA.categories, "") for one in (shown[0], shown[2])]
        SegmentViewer(image, layers)


def perfect(target):
    """The prediction that a model without mistakes would make."""
    found = Detections(
        target["boxes"], torch.ones(len(target["boxes"])), target["labels"], target["masks"]
    )
    return Prediction(found, target["semantic"], target["panoptic"])
