"""--device, --threads and --precision: what they mean, how they are refused, where they reach."""

import pytest
import torch
from helpers.pretended_gpu import pretended_gpu

from labkit.cli.options import computing, kernel_options
from labkit.engine.precision import autocast, training_precision
from labkit.errors import LabkitError
from labkit.system.cpu_cores import use_threads
from labkit.system.distributed import default_device
from labkit.workbook.notebook_processes import kernel_environment

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_asked(monkeypatch):
    for name in ("LABKIT_DEVICE", "LABKIT_PRECISION", "LABKIT_THREADS", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu(monkeypatch):
    assert default_device() == CPU
    with pytest.raises(LabkitError, match=r"--device cuda needs .* GPU, and torch .* sees none"):
        default_device("cuda")
    for wrong in ("gpu", "cuda:", "cuda:x", "0", "CPU"):
        with pytest.raises(LabkitError, match=f"'{wrong}' is not one of cpu, cuda, cuda:NUMBER"):
            default_device(wrong)
    monkeypatch.setenv("LABKIT_DEVICE", "cuda")
    with pytest.raises(LabkitError, match="--device cuda needs"):
        default_device()
    assert default_device("cpu") == CPU  # an option is stronger than the environment


def test_with_a_gpu(monkeypatch):
    with pretended_gpu():
        assert default_device() == default_device("cuda") == torch.device("cuda", 0)
        assert default_device("cpu") == CPU
        with pytest.raises(LabkitError, match="cuda:3: there is no GPU 3; this machine has 1"):
            default_device("cuda:3")
        monkeypatch.setenv("LABKIT_DEVICE", "cpu")
        assert default_device() == CPU
        monkeypatch.setenv("LABKIT_DEVICE", "cuda")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("LOCAL_RANK", "1")
        with pytest.raises(LabkitError, match="no GPU 1; this machine has 1"):
            default_device()
        with pytest.raises(LabkitError, match="its own GPU; say cuda"):
            default_device("cuda:0")


def test_precision(monkeypatch):
    assert training_precision(CPU, None) == "float32"
    with pretended_gpu() as gpu:
        assert training_precision(gpu, None) == "bfloat16"
        assert training_precision(gpu, "float16") == "float16"
    with pretended_gpu(bfloat16=False) as gpu:
        assert training_precision(gpu, None) == "float16"
        with pytest.raises(LabkitError, match="this GPU has none; take float16"):
            autocast(gpu, "bfloat16")
    with pytest.raises(LabkitError, match="float16 is for GPUs"):
        computing("cpu", None, "float16")
    with pytest.raises(LabkitError, match="'half' is not one of float32, bfloat16, float16"):
        computing("cpu", None, "half")
    monkeypatch.setenv("LABKIT_PRECISION", "bfloat16")
    x = torch.ones(2, 2)
    with autocast(CPU, None):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(CPU, "float32"):
        assert (x @ x).dtype == torch.float32
    assert training_precision(CPU, None) == "bfloat16"


def test_threads(monkeypatch):
    assert computing("cpu", 3, None) == CPU
    assert torch.get_num_threads() == 3
    use_threads(1)
    assert torch.get_num_threads() == 1
    monkeypatch.setenv("LABKIT_THREADS", "2")
    use_threads(1)  # as a lesson does
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("LABKIT_THREADS", "many")
    with pytest.raises(LabkitError, match="LABKIT_THREADS: 'many' is not a number of threads"):
        use_threads(1)


def test_what_is_asked_of_run_reaches_the_kernels(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert kernel_options(None, None, None) == {}
    env = kernel_environment(2, kernel_options("cpu", 3, "bfloat16"))
    assert env["LABKIT_DEVICE"] == "cpu"
    assert env["LABKIT_PRECISION"] == "bfloat16"
    assert env["LABKIT_THREADS"] == env["OMP_NUM_THREADS"] == "3"
    with pytest.raises(LabkitError, match="not one of cpu"):
        kernel_options("tpu", None, None)
