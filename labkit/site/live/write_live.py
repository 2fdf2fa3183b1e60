"""The folder ``live`` of a site: script, style, runtime, exported graphs and example images.

A page opened from the disk may not read files, but it may load scripts. So every file that is not
a script itself is written as one, compressed and in base64 (``js/assets.js`` reads them).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from labkit.checkpoints.shipped import shipped
from labkit.datasets.shapes import Shapes
from labkit.deploy.exported import DESCRIPTION, read_description
from labkit.engine.export_onnx import export_onnx
from labkit.site.live.runtime import runtime_files
from labkit.structures import Panoptic
from labkit.system.compiled_library import cache_folder
from labkit.widgets.app import png
from labkit.widgets.offline_page import EXPORT, MODEL
from labkit.widgets.viewer.viewer import SCRIPT as VIEWER
from labkit.widgets.viewer.viewer import STYLES

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1]
WIDGETS = PACKAGE / "widgets"

MODELS = ("panoptic_fpn_tiny", "mask2former_tiny")
SCRIPTS = (
    *("assets", "result", "boxes", "images", "resize", "rcnn", "queries", "exported"),
    *("textures", "drawing", "elements", "drawing_board", "image_input", "layers"),
    *("model_panel", "live"),
)
"""Files of ``js``, each after those that it imports."""

EXAMPLES = ((False, 12), (False, 21), (False, 9), (False, 4), (True, 2), (True, 7))
"""Images of Shapes to begin with: whether they are crowded, and their index."""

_IMPORT = re.compile(r"^import .*? from \"\./\w+\.js\";\n", re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export (?=const|let|class|function|async)", re.MULTILINE)


def write_live(folder: Path) -> None:
    """Write the model that answers in a page, into ``folder/live``.

    A page then needs ``live.js`` and ``live.css`` of that folder and an element
    ``<labkit-live models="panoptic_fpn_tiny"></labkit-live>``; with two names of :data:`MODELS` it
    compares them. The other files are loaded by the script.

    Args:
        folder: of the site.

    Raises:
        LabkitError: the runtime cannot be fetched, or packages that export the models are missing.
    """
    live = folder / "live"
    live.mkdir(parents=True, exist_ok=True)
    (live / "live.js").write_text(bundle(), encoding="utf-8")
    (live / "live.css").write_text(style(), encoding="utf-8")
    for name, content in runtime_files().items():
        if name.endswith(".min.js"):
            (live / name).write_bytes(content)
        else:
            write_asset(live, name, content)
    write_asset(live, "examples.json", json.dumps(examples()).encode())
    for model in MODELS:
        exported = exported_model(model)
        files = [DESCRIPTION, *(g["file"] for g in _graphs(exported).values())]
        for file in files:
            write_asset(live, f"{model}/{file}", (exported / file).read_bytes())


def bundle() -> str:
    """All of ``js`` and the segment viewer as one classic script, without imports."""
    viewer = VIEWER.replace(EXPORT, "return render;")
    parts = [f"const renderViewer = (() => {{\n{viewer}\n}})();\n", _text(WIDGETS / MODEL)]
    for name in SCRIPTS:
        text = _EXPORT.sub("", _IMPORT.sub("", _text(HERE / "js" / f"{name}.js")))
        parts.append(f"// {name}.js\n{text}")
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def style() -> str:
    """The style of the model, of the segment viewer in it, and their colours."""
    return "\n".join(map(_text, [*(WIDGETS / name for name in STYLES), HERE / "live.css"]))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def write_asset(live: Path, name: str, content: bytes) -> None:
    """Write a file as a script that hands it over."""
    path = live / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
    path.write_text(f'labkitAsset("{name}", "{packed}");\n', encoding="ascii")


def exported_model(name: str) -> Path:
    """Folder of a shipped model's graphs; they are exported once and kept in the cache."""
    folder = cache_folder() / "site" / f"{name}-{_version(name)}"
    if not (folder / DESCRIPTION).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            made = Path(unfinished) / name
            export_onnx(shipped()[name].load(), made)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return folder


def _version(name: str) -> str:
    """Digest of all that the graphs of a model follow from: weights, code, and PyTorch."""
    digest = hashlib.sha256(torch.__version__.encode())
    digest.update(shipped()[name].path.read_bytes())
    for folder in ("models", "engine", "deploy"):
        for source in sorted((PACKAGE / folder).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _graphs(exported: Path) -> dict[str, Any]:
    graphs: dict[str, Any] = read_description(exported / DESCRIPTION)["graphs"]
    return graphs


def examples() -> list[dict[str, str]]:
    """Example images: what is on them, and a PNG in base64."""
    made = []
    for crowded, index in EXAMPLES:
        data = Shapes("val", num=index + 1, crowded=crowded)
        image, target = data[index]
        content = base64.b64encode(png(image.permute(1, 2, 0).numpy())).decode()
        made.append({"name": _in_words(target["panoptic"], data), "png": content})
    return made


def _in_words(panoptic: Panoptic, data: Shapes) -> str:
    """Objects and ground of an image: "1 circle and 2 triangles on sky and grass"."""
    categories = data.categories
    counts = Counter(segment.label for segment in panoptic.segments)
    things = [
        f"{counts[label]} {categories[label].name}{'s' if counts[label] > 1 else ''}"
        for label in categories.things
        if counts[label]
    ]
    stuff = [categories[label].name for label in categories.stuff if counts[label]]
    return f"{_and(things)} on {_and(stuff)}"


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
