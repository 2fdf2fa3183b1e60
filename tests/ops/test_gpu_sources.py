"""The GPU sources without a GPU: they compile for each architecture, and their arithmetic is right.

The numbers on a GPU are in test_compiled.py, marked ``cuda``.
"""

import ctypes
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.roi_cases import make_case
from torchvision.ops import roi_align as torchvision_roi_align

from labkit.ops import build_kernels
from labkit.ops.roi_arguments import check_rois
from labkit.system import compiled_library


def _compile_kernels(backend, archs, folder):
    command = build_kernels.gpu_kernel_command(backend, archs, folder / "kernels.o")
    compiled_library.run_compiler(command, folder)
    return (folder / "kernels.o").read_bytes()


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc; install the CUDA toolkit")
def test_compiles_for_nvidia(tmp_path):
    binary = _compile_kernels("cuda", ["8.0", "9.0"], tmp_path)
    assert b"sm_80" in binary
    assert b"sm_90" in binary
    assert b"launch_pool" in binary


@pytest.mark.skipif(
    shutil.which("hipcc") is None, reason="no hipcc; apt-get install hipcc libamdhip64-dev"
)
def test_compiles_for_amd(tmp_path):
    binary = _compile_kernels("hip", ["gfx90a"], tmp_path)
    assert b"gfx90a" in binary
    assert b"launch_pool" in binary


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc; install the CUDA toolkit")
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch was built without CUDA")
def test_the_whole_nvidia_library_links_and_registers(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    cpu, gpu = build_kernels.build_kernels("cpu"), build_kernels.build_kernels("cuda")
    check = f"""
import torch
torch.ops.load_library({str(cpu.path)!r})
torch.ops.load_library({str(gpu.path)!r})
for name in ("labkit::roi_align", "labkit::roi_align_backward"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"), name
"""
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulated")
    source = Path(__file__).with_name("emulated_gpu.cpp")
    library = folder / "emulated.so"
    command = [*compiled_library.host_compiler(), "-O1", "-std=c++17", "-shared", "-fPIC"]
    command += ["-ffp-contract=off", "-I", str(build_kernels.CSRC), str(source), "-o", str(library)]
    compiled_library.run_compiler(command, folder)
    return ctypes.CDLL(str(library))


def _call(function, first, rois, case, result):
    """Both kernels take the same arguments; tensors are channels-last in memory."""
    (height, width), scale, ratio, aligned = case
    batch, rows, columns, channels = result["map"]
    function(
        *(ctypes.c_void_p(t.data_ptr()) for t in (first, rois)),
        ctypes.c_int64(len(rois)), ctypes.c_double(scale),
        height, width, max(ratio, 0), ctypes.c_bool(aligned),
        ctypes.c_int64(batch), channels, rows, columns,
        ctypes.c_void_p(result["to"].data_ptr()),
    )  # fmt: skip
    return result["to"].permute(0, 3, 1, 2)


def test_kernel_arithmetic_equals_torchvision(emulated):
    for seed in range(4000, 4120):
        case = make_case(seed, torch.float64)
        features = case.input.detach().requires_grad_()
        rois, size = check_rois(features, case.boxes, *case.options[:2])
        options = (size, *case.options[1:])
        expected = torchvision_roi_align(features, rois, *options)
        map_ = features.detach().permute(0, 2, 3, 1).contiguous()
        to = torch.empty(len(rois), *size, map_.shape[3], dtype=torch.float64)
        shape = {"map": map_.shape, "to": to}
        found = _call(emulated.pool_double, map_, rois, options, shape)
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12), case.text
        grad = torch.randn_like(expected)
        (expected_grad,) = torch.autograd.grad(expected, features, grad)
        shape = {"map": map_.shape, "to": torch.zeros_like(map_)}
        rows = grad.permute(0, 2, 3, 1).contiguous()
        found_grad = _call(emulated.unpool_double, rows, rois, options, shape)
        assert torch.allclose(found_grad, expected_grad, rtol=1e-12, atol=1e-11), case.text


def test_kernel_gives_nan_for_impossible_boxes(emulated):
    rois = torch.tensor(
        [[2, 0, 0, 4, 4], [-1, 0, 0, 4, 4], [0, 0, 0, math.nan, 4], [0, math.inf, 0, 4, 4],
         [math.nan, 0, 0, 4, 4], [1, 2, 2, 5, 5]],
        dtype=torch.float64,
    )  # fmt: skip
    map_ = torch.ones(2, 8, 8, 3, dtype=torch.float64)
    to = torch.zeros(6, 2, 2, 3, dtype=torch.float64)
    options = ((2, 2), 1.0, 2, False)
    found = _call(emulated.pool_double, map_, rois, options, {"map": map_.shape, "to": to})
    assert found[:5].isnan().all()
    assert torch.equal(found[5], torch.ones_like(found[5]))
    sum_ = torch.zeros_like(map_)
    grad = torch.ones(6, 2, 2, 3, dtype=torch.float64)
    back = _call(emulated.unpool_double, grad, rois, options, {"map": map_.shape, "to": sum_})
    assert back[0].abs().sum() == 0
    assert back[1].sum() == 12
