"""The packages that labkit uses when they are there and that no package index carries."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import LabkitError


@dataclass(frozen=True)
class OptionalPackage:
    """Where a package comes from and how it wants to be built."""

    name: str
    purpose: str
    repository: str
    imports: str  # what must be importable afterwards
    # Packages that its setup.py imports; it is then built in the environment itself.
    build_requirements: tuple[str, ...] = ()


PACKAGES = {
    package.name: package
    for package in (
        OptionalPackage(
            "detectron2",
            "comparing models side by side with Detectron2",
            "https://github.com/facebookresearch/detectron2",
            "detectron2._C",
            # Its build imports torch, and pkg_resources, which setuptools 81 removed.
            build_requirements=("setuptools<81", "wheel"),
        ),
        OptionalPackage(
            "panopticapi",
            "comparing panoptic quality with COCO's own code",
            "https://github.com/cocodataset/panopticapi",
            "panopticapi.evaluation",
        ),
    )
}


def install(name: str, source: Path | None, show: Callable[[str], None]) -> None:
    """Install an optional package into the environment of the running interpreter.

    Args:
        name: a key of `PACKAGES`.
        source: a checkout to install from, instead of the package's repository.
        show: called with each command before it is run.

    Raises:
        LabkitError: unknown name, no such source, a failing installer, or a package that does
            not import afterwards.
    """
    if name not in PACKAGES:
        raise LabkitError(f"labkit installs {' or '.join(PACKAGES)}, not {name!r}")
    package = PACKAGES[name]
    if source is None:
        target = f"git+{package.repository}"
    elif any((source / file).is_file() for file in ("setup.py", "pyproject.toml")):
        target = str(source.resolve())
    else:
        raise LabkitError(f"{source} holds no setup.py: give the folder of a {name} checkout")
    installer = _installer()
    commands = []
    if package.build_requirements:
        commands.append([*installer, *package.build_requirements])
        commands.append([*installer, "--no-build-isolation", target])
    else:
        commands.append([*installer, target])
    for command in commands:
        show(" ".join(command))
        if subprocess.run(command, check=False).returncode != 0:
            raise LabkitError(f"{name} was not installed: the command above failed")
    check = [sys.executable, "-c", f"import {package.imports}"]
    trial = subprocess.run(check, capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        reason = (trial.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabkitError(f"{name} was installed but cannot be imported: {reason}")


def _installer() -> list[str]:
    """Return the installer's command: uv where it is found, else pip."""
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--python", sys.executable]
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install"]
    raise LabkitError("neither uv nor pip is found: install uv, see https://docs.astral.sh/uv/")
