"""Check of this machine: which parts labkit can use, and how to install missing ones."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from labkit.system import optional_packages
from labkit.system.compiled_library import HOST_COMPILERS
from labkit.system.cpu_cores import available_cores

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
MAC_BROWSER = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


@dataclass(frozen=True)
class PartStatus:
    """Status of one part: presence, version or problem, purpose, and how to install it."""

    name: str
    present: bool
    found: str
    purpose: str
    fix: str = ""


def describe_environment() -> dict[str, str]:
    """Describe what numbers and times depend on: versions, device, cores."""
    return {
        "labkit": version("labkit"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "device": _device()[1],
        "cores": str(available_cores()),
        "system": f"{platform.system()} {platform.machine()}",
    }


def check_environment() -> list[PartStatus]:
    """Check every part that labkit can use."""
    # Here, because it takes torch along.
    from labkit.ops.build_kernels import find_gpu_compiler

    has_gpu, device = _device()
    return [
        PartStatus(
            "Python", True, f"{platform.python_version()} ({sys.executable})", "runs everything"
        ),
        PartStatus("torch", True, version("torch"), "tensors, training, models"),
        _torchvision(),
        PartStatus(
            "GPU",
            has_gpu,
            device,
            "the full profile; smoke and quick are meant for a CPU",
            "an NVIDIA or AMD GPU with its driver, and the torch build for it: "
            "https://pytorch.org/get-started/locally/",
        ),
        _program(
            "C++ compiler",
            next(filter(None, map(shutil.which, HOST_COMPILERS)), None),
            "the compiled RoIAlign and reading of panoptic PNGs; without it slower versions serve",
            _system_install(apt="g++", dnf="gcc-c++", brew="gcc"),
        ),
        _program(
            "nvcc",
            find_gpu_compiler("nvcc"),
            "compiling RoIAlign for NVIDIA GPUs",
            "install the CUDA toolkit: https://developer.nvidia.com/cuda-downloads",
        ),
        _program(
            "hipcc",
            find_gpu_compiler("hipcc"),
            "compiling RoIAlign for AMD GPUs",
            "install ROCm: https://rocm.docs.amd.com/projects/install-on-linux/",
        ),
        _browser(),
        _sandbox(),
        *(_package(name) for name in optional_packages.PACKAGES),
        _real_data(),
    ]


def _device() -> tuple[bool, str]:
    import torch

    if torch.cuda.is_available():
        kind = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        return True, f"{torch.cuda.get_device_name()} ({kind})"
    return False, "CPU"


def _torchvision() -> PartStatus:
    """Status of torchvision: its operators must run where torch computes.

    A torchvision built for another torch (from another index, CPU or CUDA beside ROCm) installs
    without complaint; its operators are missing, or missing on the GPU only.
    """
    purpose = "NMS, the transforms, deformable convolution, RoIAlign where it is not compiled"
    fix = (
        "reinstall torchvision from the index where torch came from: "
        "https://pytorch.org/get-started/locally/"
    )
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        return PartStatus("torchvision", False, "not installed", purpose, fix)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        _run_operators(device)
    except (ImportError, AttributeError, RuntimeError) as error:
        reason = f"{error}".strip().split("\n")[0]
        found = f"{found}, its operators fail on {device}: {reason}"
        return PartStatus("torchvision", False, found, purpose, fix)
    return PartStatus("torchvision", True, f"{found}, operators run on {device}", purpose, fix)


def _run_operators(device: str) -> None:
    """Run each compiled operator of torchvision that labkit uses, on one box of one small map."""
    import torch
    from torchvision.ops import deform_conv2d, nms, roi_align

    features = torch.zeros(1, 1, 4, 4, device=device)
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0]], device=device)
    nms(box, box[:, 0], 0.5)
    roi_align(features, [box], 2)
    deform_conv2d(features, torch.zeros(1, 2, 4, 4, device=device), features[:, :, :1, :1])


def _program(name: str, path: str | None, purpose: str, fix: str) -> PartStatus:
    if path is None:
        return PartStatus(name, False, "not found", purpose, fix)
    return PartStatus(name, True, f"{_version_line(path)} ({path})", purpose, fix)


def _browser() -> PartStatus:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None and MAC_BROWSER.is_file():
        path = str(MAC_BROWSER)
    return PartStatus(
        "Chromium",
        path is not None,
        path or "not found",
        "the tests of widgets in a real browser",
        _system_install(apt="chromium", dnf="chromium", brew="--cask google-chrome"),
    )


def _sandbox() -> PartStatus:
    purpose = "grading submissions apart from the rest of the machine"
    path = shutil.which("bwrap")
    if path is None:
        fix = _system_install(apt="bubblewrap", dnf="bubblewrap", brew=None)
        return PartStatus("bubblewrap", False, "not found", purpose, fix)
    trial = _run([path, "--unshare-all", "--ro-bind", "/", "/", "true"])
    if trial is None or trial.returncode != 0:
        message = "" if trial is None else trial.stderr.strip()
        return PartStatus(
            "bubblewrap",
            False,
            f"{path} cannot make a sandbox: {message}",
            purpose,
            "allow unprivileged user namespaces; on Ubuntu: "
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        )
    return PartStatus("bubblewrap", True, f"{_version_line(path)} ({path})", purpose)


def _package(name: str) -> PartStatus:
    purpose, fix = optional_packages.PACKAGES[name].purpose, f"labkit install {name}"
    if not optional_packages.is_installed(name):
        return PartStatus(name, False, "not installed", purpose, fix)
    try:
        found = version(name)
    except PackageNotFoundError:
        found = "found, not installed as a package"
    reason = optional_packages.import_failure(name)
    if reason is not None:
        return PartStatus(name, False, f"{found}, cannot be imported: {reason}", purpose, fix)
    return PartStatus(name, True, found, purpose, fix)


def _real_data() -> PartStatus:
    folder = os.environ.get("LABKIT_DATA")
    present = folder is not None and Path(folder).is_dir()
    found = "not set" if folder is None else folder if present else f"{folder} is not a folder"
    return PartStatus(
        "LABKIT_DATA",
        present,
        found,
        "real images for the notebooks and tests that can use them",
        "export LABKIT_DATA=FOLDER",
    )


def _system_install(*, apt: str, dnf: str, brew: str | None) -> str:
    if shutil.which("apt-get"):
        return f"sudo apt-get install {apt}"
    if shutil.which("dnf"):
        return f"sudo dnf install {dnf}"
    if brew is None:
        return "needs Linux"
    return f"brew install {brew}" if sys.platform == "darwin" else f"install {apt}"


def _version_line(path: str) -> str:
    """Return the line of ``--version`` that holds the version; nvcc puts it after its licence."""
    result = _run([path, "--version"])
    lines = result.stdout.splitlines() if result is not None else []
    numbered = [line for line in lines if re.search(r"\d\.\d", line)]
    return numbered[0].strip() if numbered else "version unknown"


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
