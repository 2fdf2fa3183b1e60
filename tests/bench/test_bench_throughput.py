"""Images a second: what is timed, beside whom, and the command. Tiny sizes, on the CPU."""

import json
import time
from dataclasses import replace

import pytest
import torch
from helpers.pretended_gpu import pretended_gpu
from helpers.small_mask_models import built
from rich.console import Console
from typer.testing import CliRunner

from labkit.bench import throughput as bench
from labkit.bench.detectors_peers import torchvision_pair
from labkit.bench.throughput_report import draw_throughput, print_throughput
from labkit.cli.commands import app
from labkit.errors import LabkitError

CPU = torch.device("cpu")
SIZES = bench.sizes_of(64)


def setting(**changes):
    values = {"device": CPU, "precision": "float32", "batch": 2, "compiled": False, "sizes": SIZES}
    return bench.Setting(**(values | changes))


def test_sizes_keep_the_proportions_of_the_published_ones():
    of_coco = bench.sizes_of(800)
    assert (of_coco.image, of_coco.short, of_coco.long, of_coco.side) == (
        (480, 640),
        800,
        1333,
        512,
    )
    assert [bench.sizes_of(side).side for side in (64, 640, 700, 1000)] == [64, 416, 448, 640]


def sleeper(calls, seconds, name="slow", result=1.0):
    """A subject whose first call takes 0.2 seconds more than the others."""

    def start(task, of):
        def run():
            time.sleep(seconds + (0.2 if name not in calls else 0))
            calls.append(name)
            return result

        return run

    return bench.Subject("sleep", name, bench.TENSORS, start)


def test_the_first_calls_are_not_counted_and_rounds_alternate():
    calls = []
    group = [sleeper(calls, 0.03, "slow"), sleeper(calls, 0.01, "quick")]
    slow, quick = bench.measure(group, "inference", setting(batch=3), 4, pytest.fail)
    assert slow.first_ms > 200
    assert min(slow.milliseconds) >= 30
    assert max(slow.milliseconds) < 200
    assert 50 < slow.images_per_second <= 3 / 0.03
    assert quick.images_per_second > slow.images_per_second
    assert calls[:4] == ["slow"] * bench.WARM_UP + ["quick"] * bench.WARM_UP
    assert calls[4:] == ["slow", "quick", "quick", "slow"] * 2


def test_what_fails_is_left_out_with_its_reason():
    def start(task, of):
        def run():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

        return run

    reasons = []
    group = [bench.Subject("large", "labkit", bench.TENSORS, start), sleeper([], 0.0)]
    (row,) = bench.measure(group, "training", setting(), 1, reasons.append)
    assert row.library == "slow"
    assert reasons == ["large, labkit, training: CUDA out of memory. Tried to allocate 2 GiB"]


def test_the_clock_waits_for_the_device(monkeypatch):
    finished = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: finished.append(device))
    gpu = torch.device("cuda", 0)
    bench.seconds_of(lambda: finished.append("call"), gpu)
    assert finished == [gpu, "call", gpu]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_of_labkit_alone(precision):
    rows = list(
        bench.measure_all(["mask_rcnn_tiny"], [setting(precision=precision)], 1, pytest.fail)
    )
    assert [(row.library, row.task, row.batch) for (row,) in rows] == [
        ("labkit", "inference", 2),
        ("labkit", "training", 2),
    ]
    assert rows[0][0].result > 2  # objects of two images
    assert rows[1][0].result > 0  # loss
    assert rows[0][0].peak_mb is None


def test_networks_reach_the_device(monkeypatch):
    memory = iter((10e6, 5e6, 45e6))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: next(memory))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 50e6)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    with pretended_gpu():
        of_gpu = setting(device=torch.device("cuda", 0))
        rows = list(bench.measure_all(["mask_rcnn_tiny"], [of_gpu], 1, pytest.fail))
    assert [row.peak_mb for (row,) in rows] == [40, 45]


def test_mask_rcnn_beside_torchvision(monkeypatch):
    def missing(sizes):
        raise LabkitError("detectron2 is not installed; run: labkit install detectron2")

    def small(sizes):
        """With few proposals and detections, for speed."""
        pair = torchvision_pair(sizes)
        theirs, ours = pair.theirs.roi_heads, pair.ours.roi_heads
        theirs.fg_bg_sampler.batch_size_per_image, theirs.detections_per_img = 16, 10
        ours.config = replace(ours.config, batch_size_per_image=16, detections_per_img=10)
        return pair

    monkeypatch.setattr(bench, "detectron2_pair", missing)
    monkeypatch.setattr(bench, "torchvision_pair", small)
    reasons = []
    (group,) = bench.beside_peers("mask_rcnn_r50", SIZES, reasons.append)
    assert reasons == ["detectron2 is not installed; run: labkit install detectron2"]
    for task in bench.TASKS:
        ours, theirs = bench.measure(group, task, setting(), 1, pytest.fail)
        assert (ours.library, theirs.library) == ("labkit", "torchvision")
        assert ours.result == pytest.approx(theirs.result, rel=1e-4)
        assert ours.result > 0


def test_mask_rcnn_beside_detectron2():
    from labkit.system import optional_packages

    if problem := optional_packages.problem("detectron2"):
        pytest.skip(problem)
    group, _ = bench.beside_peers("mask_rcnn_r50", SIZES, pytest.fail)
    for task in bench.TASKS:
        ours, theirs = bench.measure(group, task, setting(), 1, pytest.fail)
        assert ours.result == pytest.approx(theirs.result, rel=1e-4)


@pytest.mark.parametrize("model", ["mask2former_r50", "eomt_small_640"])
def test_mask_classification_beside_transformers(model, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed; run: uv sync")
    kind = model.split("_")[0]
    monkeypatch.setattr(bench, "build", lambda preset, categories: built(kind))
    (group,) = bench.beside_peers(model, SIZES, pytest.fail)
    for task in bench.TASKS:
        ours, theirs = bench.measure(group, task, setting(batch=1), 1, pytest.fail)
        assert theirs.library == "transformers"
        assert ours.result == pytest.approx(theirs.result, rel=1e-3)


def test_compiled_is_the_backbone(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    ((inference,), (training,)) = bench.measure_all(
        ["mask_rcnn_tiny"], [setting(compiled=True)], 1, pytest.fail
    )
    assert inference.compiled
    assert training.compiled
    assert [type(module).__name__ for module in compiled] == ["FPN", "FPN"]


def test_the_command_writes_numbers_a_table_and_a_figure(tmp_path):
    numbers, figure = tmp_path / "numbers.json", tmp_path / "bars.png"
    options = ["--models", "fcn8_tiny_is_none"]
    assert isinstance(command(*options).exception, LabkitError)
    done = command(
        *("--models", "panoptic_fpn_tiny", "--batch", "1,2", "--side", "64", "--rounds", "1"),
        *("--json", str(numbers), "--figure", str(figure)),
    )
    assert done.exit_code == 0, done.output
    report = json.loads(numbers.read_text())
    assert "torchvision" in report["environment"]
    assert [(row["task"], row["batch"]) for row in report["rows"]] == [
        ("inference", 1),
        ("inference", 2),
        ("training", 1),
        ("training", 2),
    ]
    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = [bench.Throughput(**row) for row in report["rows"]]
    console = Console(record=True, width=140)
    print_throughput(rows, console)
    assert "panoptic_fpn_tiny" in console.export_text()
    panels = draw_throughput(rows).axes
    assert [len(axes.patches) for axes in panels] == [2, 2]


def command(*arguments):
    return CliRunner().invoke(app, ["bench", "throughput", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "1,x"), "--batch: 'x' is no number of images, as in 1,8"),
        (("--batch", "0"), "--batch: '0' is no number"),
        (("--dtype", "fp32,int8"), "--dtype: 'int8' is not one of fp32, bf16, fp16"),
        (("--dtype", "fp16"), "float16 is for GPUs"),
        (("--models", "mask_rcnn_r5"), "mask_rcnn_r5"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    failure = command(*arguments).exception
    assert isinstance(failure, LabkitError)
    assert message in str(failure)
