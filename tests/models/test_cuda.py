"""Models on a real GPU: the CPU's numbers, training, checkpoints, and the lessons' full set-up."""

import copy
import signal

import pytest
import torch
from helpers.small_models import made
from IPython.core.interactiveshell import InteractiveShell

from labkit.datasets.shapes import Shapes
from labkit.engine.evaluate import evaluate
from labkit.engine.predictor import Predictor, load_model
from labkit.engine.train import TrainConfig, train
from labkit.models.presets import PRESETS
from labkit.workbook.notebook_sources import find_root, load_notebook, sources

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="no GPU; on a machine with one: pytest -m cuda tests/models/test_cuda.py",
    ),
]
DATA = Shapes("train", num=4, size=64)
STEPS = TrainConfig(steps=2, batch_size=2, warmup=0, precision="float32")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", PRESETS)
def test_predicts_and_learns(preset, precision):
    model = made(preset, DATA.categories).cuda()
    found = Predictor(model, precision=precision)(DATA[0][0])
    if found.detections is not None:
        assert found.detections.scores.dtype == torch.float32
    before = copy.deepcopy(model)
    config = TrainConfig(steps=2, batch_size=2, warmup=0, precision=precision)
    history = train(model, DATA, config)
    assert history.steps == 2
    pairs = zip(before.parameters(), model.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "preset", ["panoptic_fpn_tiny", "upsnet_tiny", "detr_panoptic_tiny", "mask2former_tiny"]
)
def test_evaluation_is_the_cpus(preset):
    data = Shapes("val", num=8)
    cpu = evaluate(load_model(preset), data, progress=False, device=torch.device("cpu"))
    gpu = evaluate(load_model(preset), data, progress=False)
    assert cpu.panoptic.all.pq > 0.3
    assert gpu.panoptic.all.pq == pytest.approx(cpu.panoptic.all.pq, abs=0.01)


def test_a_run_goes_on_from_its_checkpoint_here_or_there(tmp_path):
    def interrupt(step, losses):
        if step == 0:
            signal.raise_signal(signal.SIGINT)

    whole, stopped, resumed = (made("fcn8_tiny", DATA.categories) for _ in range(3))
    losses = train(whole, DATA, STEPS).losses["total"]
    with pytest.raises(KeyboardInterrupt):
        train(stopped, DATA, STEPS, out=tmp_path, on_step=interrupt)
    cpu = torch.device("cpu")
    assert train(resumed, DATA, STEPS, out=tmp_path, device=cpu).losses["total"] == pytest.approx(
        losses, rel=1e-3
    )


@pytest.mark.parametrize("lesson", [source.stem for source in sources(find_root())])
def test_full_set_up_of_a_lesson(lesson, tmp_path, monkeypatch):
    """The cells up to the first heading that follows the parameters."""
    monkeypatch.chdir(tmp_path)
    notebook = load_notebook(find_root() / "notebooks" / f"{lesson}.ipynb")
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shell = InteractiveShell.instance()
    for code in (codes[0].source, 'profile = "full"', codes[1].source):
        shell.run_cell(code).raise_error()
