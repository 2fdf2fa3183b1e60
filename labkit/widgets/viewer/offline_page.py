"""Offline page of a widget, without a kernel or a network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from typing import Any

EXPORT = "export default { render };"
"""Last line of the script, which an offline page removes because it has no modules."""

# The page's model stores values and notifies listeners, as the script expects of Jupyter's.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ margin: 16px; font-family: system-ui, sans-serif; }}
{style}
</style>
</head>
<body>
<div id="viewer"></div>
<noscript>This page draws its pictures with JavaScript, which is turned off.</noscript>
<script type="module">
{script}
const bytes = (_, value) =>
  value && value.base64 !== undefined
    ? new DataView(Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0)).buffer)
    : value;
const state = JSON.parse({values}, bytes);
const listeners = {{}};
render({{
  el: document.getElementById("viewer"),
  model: {{
    get: (name) => state[name] ?? null,
    set(name, value) {{
      state[name] = value;
      for (const listener of listeners[`change:${{name}}`] ?? []) listener();
    }},
    on: (event, listener) => (listeners[event] ??= []).push(listener),
    off() {{}},
    save_changes() {{}},
    send() {{}},
  }},
}});
</script>
</body>
</html>
"""


def offline_page(title: str, state: Mapping[str, Any], script: str, style: str) -> str:
    """Build one HTML file with state, script and style.

    Args:
        title: title of the page.
        state: values of the widget's traits; bytes are encoded as base64.
        script: the widget's module; its last line is :data:`EXPORT`.
        style: the widget's CSS.
    """
    assert script.count(EXPORT) == 1
    # A string in a string, so that names in the state never meet the script's syntax; "<" could
    # still end the script element.
    values = json.dumps(json.dumps(state, default=_in_base64)).replace("<", "\\u003c")
    return PAGE.format(
        title=html.escape(title), style=style, values=values, script=script.replace(EXPORT, "")
    )


def _in_base64(value: Any) -> dict[str, str]:
    """Encode bytes for JSON."""
    return {"base64": base64.b64encode(value).decode()}
