"""environment.yml gives conda users what pyproject.toml gives everybody else."""

import re
import tomllib

import yaml
from helpers.paths import CHECKOUT as ROOT

from labkit.system.optional_packages import PACKAGES

CONDA_NAME = {
    "torch": "pytorch",
    "opencv-python-headless": "py-opencv",
    "matplotlib": "matplotlib-base",
    "playwright": "playwright-python",
}
ONLY_PIP = ("axe-playwright-python", "deflate", "efficientnet", "hotcoco", "sphinx-revealjs")
ONLY_CONDA = {"python", "pip", "detectron2"}
CONSTRAINED = {"setuptools"}


def _split(requirement: str) -> tuple[str, str]:
    # Extras in brackets: conda has no such thing, its package "dask" is the whole one.
    pattern = r"([A-Za-z0-9_.-]+?)(?:\[.*\])?((?:[<>=~!].*)?)"
    name, rest = re.fullmatch(pattern, requirement).groups()
    return name, rest


def test_conda_environment_has_the_packages_and_ranges_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = dict(
        _split(r) for r in project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    )
    wanted = {CONDA_NAME.get(name, name): spec for name, spec in wanted.items()}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    packages = dict(_split(d) for d in environment["dependencies"] if isinstance(d, str))
    (by_pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    packages |= dict(_split(d) for d in by_pip if d.startswith(ONLY_PIP))
    assert packages.pop("python") == project["project"]["requires-python"]
    assert {n: s for n, s in packages.items() if n not in ONLY_CONDA | CONSTRAINED} == wanted
    constraints = dict(_split(r) for r in project["tool"]["uv"]["constraint-dependencies"])
    assert {n: s for n, s in packages.items() if n in CONSTRAINED} == constraints
    # uv brings back what its constraints say; what `labkit install` asks for must not differ.
    asked = dict(_split(r) for r in PACKAGES["detectron2"].build_requirements)
    assert asked["setuptools"] == constraints["setuptools"]


def test_conda_environment_installs_what_the_index_lacks():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert any(line.startswith("panopticapi @ git+https://github.com/cocodataset") for line in pip)
    assert any(str(d).startswith("detectron2") for d in environment["dependencies"])
    assert environment["channels"][0] == "conda-forge"
