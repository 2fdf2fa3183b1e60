"""Widgets in pages without a kernel or a network: state, scripts and style in one piece of HTML.

In ``labkit run`` every widget puts such a piece beside its picture into the output of its cell; the
site shows it there.
"""

from __future__ import annotations

import base64
import html
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MIME = "application/vnd.labkit.offline+html"
"""Type of an output that is such a piece."""

HERE = Path(__file__).parent
MODEL = "offline_model.js"
"""Stands in for the kernel's model; relative to the folder of the widgets, like all scripts."""

EXPORT = "export default { render };"
"""Last line of a widget's module, which a page without modules leaves out."""

# The scripts define start(el, state); bytes in the state become DataViews.
PIECE = """<div class="labkit-offline"></div>
<style>
{style}
</style>
<script>
(() => {{
"use strict";
const el = document.currentScript.previousElementSibling.previousElementSibling;
{scripts}
const decoded = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
const bytes = (_, value) =>
  value && value.base64 !== undefined ? new DataView(decoded(value.base64).buffer) : value;
const state = new Blob([decoded("{state}")]).stream();
new Response(state.pipeThrough(new DecompressionStream("deflate")))
  .text()
  .then((text) => start(el, JSON.parse(text, bytes)));
}})();
</script>
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ margin: 16px; font-family: system-ui, sans-serif; }}
</style>
</head>
<body>
{piece}
<noscript>This page draws its pictures with JavaScript, which is turned off.</noscript>
</body>
</html>
"""


def offline_piece(state: Mapping[str, Any], scripts: Iterable[str], styles: Iterable[str]) -> str:
    """HTML of a widget that needs no kernel.

    Args:
        state: what its scripts need; bytes are encoded as base64.
        scripts: files that define ``start(el, state)`` together.
        styles: files of CSS.
    """
    # Compressed, and so that names in the state never meet the script's syntax.
    packed = base64.b64encode(zlib.compress(json.dumps(state, default=_in_base64).encode(), 9))
    script = "\n".join(map(_read, scripts)).replace(EXPORT, "")
    return PIECE.format(style="\n".join(map(_read, styles)), scripts=script, state=packed.decode())


def offline_page(title: str, piece: str) -> str:
    """A whole page of one piece."""
    return PAGE.format(title=html.escape(title), piece=piece)


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _in_base64(value: Any) -> dict[str, str]:
    """Encode bytes for JSON."""
    return {"base64": base64.b64encode(value).decode()}
