"""Photographs that scikit-image carries in its wheel; nothing is downloaded.

``labkit[pretrained]`` installs scikit-image. By the docstrings of ``skimage.data``, camera, chelsea
and coffee are CC0, astronaut and rocket in the public domain, and coins without known restrictions.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from labkit.datasets.image_files import read_image
from labkit.system.unknown_names import unknown_name

FILES = {
    "astronaut": "astronaut.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "rocket": "rocket.jpg",
}
"""File of each photograph, by the name that it has in ``skimage.data``."""

INSTALL = "`uv sync --extra pretrained`, or `pip install 'labkit[pretrained]'`"


def photograph(name: str) -> Tensor | None:
    """Read a photograph of scikit-image.

    Args:
        name: a key of ``FILES``: an astronaut in a studio, a man with a camera, a cat (chelsea), a
            cup of coffee, coins, a rocket on its launch pad.

    Returns:
        ``(3, H, W)`` uint8 RGB, or None without scikit-image (:data:`INSTALL` brings it).

    Raises:
        LabkitError: there is no photograph of this name, or its file is missing.
    """
    if name not in FILES:
        raise unknown_name("photograph", name, FILES)
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        return None
    return read_image(Path(spec.origin).parent / "data" / FILES[name])
