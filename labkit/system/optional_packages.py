"""Optional packages that package indexes lack: checking and installing them."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import LabkitError


@dataclass(frozen=True)
class OptionalPackage:
    """Source, purpose and build requirements of a package."""

    name: str
    purpose: str
    repository: str
    imports: tuple[str, ...]  # all that labkit, its notebooks and its tests use
    # Packages that its setup.py imports; it is then built in the environment itself.
    build_requirements: tuple[str, ...] = ()


PACKAGES = {
    package.name: package
    for package in (
        OptionalPackage(
            "detectron2",
            "comparing models side by side with Detectron2",
            "https://github.com/facebookresearch/detectron2",
            (
                "detectron2._C",
                "detectron2.checkpoint",
                "detectron2.config",
                "detectron2.data.datasets",
                "detectron2.data.transforms",
                "detectron2.engine",
                "detectron2.evaluation",
                "detectron2.layers",
                "detectron2.model_zoo",
                "detectron2.modeling.meta_arch.panoptic_fpn",
                "detectron2.structures",
                "detectron2.utils.events",
            ),
            # Its build imports torch. Its model zoo imports pkg_resources, which setuptools 81
            # removed; so that `uv run` leaves it as it is, pyproject.toml has the same range.
            build_requirements=("setuptools<81", "wheel"),
        ),
        OptionalPackage(
            "panopticapi",
            "comparing panoptic quality with COCO's own code",
            "https://github.com/cocodataset/panopticapi",
            ("panopticapi.evaluation", "panopticapi.utils"),
        ),
    )
}


# Options of uv and pip: rebuild this package only.
REBUILD = ("--no-deps", "--force-reinstall", "--no-cache-dir")


def is_installed(name: str) -> bool:
    """Return whether Python finds a package; a mere folder of that name, such as a clone, is none.

    Args:
        name: a key of `PACKAGES`.
    """
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def problem(name: str) -> str | None:
    """Return why a package cannot be used and the command that helps, or None.

    Args:
        name: a key of `PACKAGES`.
    """
    if not is_installed(name):
        return f"{name} is not installed; run: labkit install {name}"
    reason = import_failure(name)
    if reason is None:
        return None
    return f"{name} is installed but cannot be imported: {reason}; run: labkit install {name}"


def require_package(name: str) -> None:
    """Raise an error if a package cannot be used.

    Raises:
        LabkitError: it is not installed, or a module that labkit uses cannot be imported.
    """
    reason = problem(name)
    if reason is not None:
        raise LabkitError(reason)


def import_failure(name: str) -> str | None:
    """Import all modules of a package that labkit uses; return the reason of a failure."""
    try:
        with warnings.catch_warnings(action="ignore"):
            for module in PACKAGES[name].imports:
                importlib.import_module(module)
    except Exception as error:  # what a broken installation raises is not foreseeable
        if isinstance(error, ModuleNotFoundError) and error.name == "pkg_resources":
            return "it needs pkg_resources, which only setuptools<81 has"
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return None


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

    def run(*arguments: str) -> None:
        command = [*installer, *arguments]
        show(" ".join(command))
        if subprocess.run(command, check=False).returncode != 0:
            raise LabkitError(f"{name} was not installed: the command above failed")

    installer = _installer()
    options = []
    if package.build_requirements:
        run(*package.build_requirements)
        options.append("--no-build-isolation")
    run(*options, target)
    reason = _failure_in_new_process(name)
    if reason is not None and package.build_requirements:
        # What is installed or in the installer's cache was built for another torch.
        run(*options, *REBUILD, target)
        reason = _failure_in_new_process(name)
    if reason is not None:
        raise LabkitError(f"{name} was installed but cannot be imported: {reason}")


def _failure_in_new_process(name: str) -> str | None:
    """Run :func:`import_failure` in a new interpreter."""
    program = (
        "import sys; from labkit.system.optional_packages import import_failure;"
        f" sys.exit(import_failure({name!r}))"
    )
    trial = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    if trial.returncode == 0:
        return None
    return (trial.stderr.strip().splitlines() or [f"exit status {trial.returncode}"])[-1]


def _installer() -> list[str]:
    """Return the installer's command: uv where it is found, else pip."""
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--python", sys.executable]
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install"]
    raise LabkitError("neither uv nor pip is found: install uv, see https://docs.astral.sh/uv/")
