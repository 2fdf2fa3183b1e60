"""JupyterLab in a real browser: `lab` opens notebooks, runs them and takes pictures.

def test_slider(lab):
    page = lab.open(["from labkit.widgets import PQMatching", "PQMatching(...)"], "pq")
    seen = lab.changes(page, "pq-matching")
    page.locator(".labkit-pq-matching .noUi-handle").press("ArrowRight")
    lab.wait_for_change(page, "pq-matching", seen)
    assert lab.picture(page.locator(".labkit-pq-matching img")) == png(explore(...))
    lab.screenshot(page.locator(".labkit-pq-matching"), "pq_matching")
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib
import nbformat
import platformdirs
import pytest
from helpers.paths import CHECKOUT

from labkit.cli.lab import SETTINGS
from labkit.doctor import BROWSERS

PICTURES = CHECKOUT / "runs" / "browser"
SECONDS = 120
"""How long anything may take: kernels import torch, on machines that do other things as well."""

QUIET = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# The page's indicator reads "idle" before there is a kernel, and a run that is asked for then is
# dropped without a word: hence first the session, then an answer of the kernel itself.
HAS_SESSION = """(path) => {
    const notebook = window.jupyterapp?.shell?.currentWidget;
    return notebook?.context?.path === path && notebook.sessionContext.isReady;
}"""
KERNEL_ANSWERS = """() => {
    window.labkitKernel = null;
    const session = window.jupyterapp.shell.currentWidget.sessionContext;
    session.ready
        .then(() => session.session.kernel.info)
        .then((info) => { window.labkitKernel = info; });
}"""

RUN_ALL = """() => {
    window.labkitRun = null;
    window.jupyterapp.commands.execute("notebook:run-all-cells").then(
        (succeeded) => { window.labkitRun = { succeeded: Boolean(succeeded) }; },
        (error) => { window.labkitRun = { succeeded: false, error: String(error) }; },
    );
}"""

ERRORS = """() => Array.from(window.jupyterapp.shell.currentWidget.content.model.cells)
    .filter((cell) => cell.type === "code")
    .flatMap((cell) => cell.outputs.toJSON())
    .filter((output) => output.output_type === "error")
    .map((output) => [`${output.ename}: ${output.evalue}`, ...(output.traceback || [])].join("\\n"))
"""


# A kernel that another test has used is as good as new, and has imported torch already.
FORGET = """async () => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const code = "import ipywidgets\\nipywidgets.Widget.close_all()\\n%reset -f";
    const reply = await kernel.requestExecute({ code }).done;
    return reply.content.status;
}"""


@dataclass(frozen=True)
class Server:
    """A running JupyterLab; ``folder`` is what it shows."""

    folder: Path
    url: str
    token: str

    def ask(self, method: str, path: str) -> Any:
        """Ask its REST interface."""
        request = urllib.request.Request(
            f"{self.url}/{path}", method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            content = reply.read()
        return json.loads(content) if content else None

    def end_kernels(self, but: str | None = None) -> bool:
        """Close all notebooks but one, with their kernels; tell whether that one is open."""
        left = False
        for session in self.ask("GET", "api/sessions"):
            if session["path"] == but:
                left = True
            else:
                self.ask("DELETE", f"api/sessions/{session['id']}")
        return left


class Lab:
    """A running JupyterLab and a browser."""

    def __init__(self, browser: Any, server: Server) -> None:
        self.browser, self.server = browser, server
        self.folder, self.url = server.folder, server.url
        # One for all pages: what JupyterLab consists of is fetched and compiled once.
        self.context = browser.new_context(viewport={"width": 1400, "height": 1000})
        self.context.set_default_timeout(SECONDS * 1000)

    def open(self, cells: Sequence[str], name: str, run: bool = True) -> Any:
        """Write a notebook of code cells, open it in a fresh page, and run all of it.

        Returns:
            The page. No cell failed.
        """
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        path = f"{name}.ipynb"
        self.close_pages()  # before the file is another than theirs
        nbformat.write(notebook, self.folder / path)
        page = self.visit(path)
        if run:
            self.run_all(page)
        return page

    def visit(self, path: str, address: str | None = None) -> Any:
        """Open a notebook of the folder in a fresh page, and wait for its kernel.

        `address`: what to open at the server instead of the notebook alone. Pages that were open
        before are closed, and the kernels of other notebooks: each has torch in its memory. The
        kernel of this one stays if there is one, emptied: importing torch takes long.
        """
        self.close_pages()
        used = self.server.end_kernels(but=path)
        page = self.context.new_page()
        address = f"doc/tree/{quote(path)}" if address is None else address
        page.goto(f"{self.url}/{address}?token={self.server.token}")
        self.wait_for_kernel(page, path)
        if used:
            assert page.evaluate(FORGET) == "ok"
        return page

    def close_pages(self) -> None:
        """Close all pages that this Lab has opened."""
        for page in self.context.pages:
            page.close()

    def wait_for_kernel(self, page: Any, path: str) -> None:
        """Wait until the notebook of a page has a kernel that answers."""
        page.wait_for_function(HAS_SESSION, arg=path)
        page.evaluate(KERNEL_ANSWERS)
        page.wait_for_function("() => window.labkitKernel !== null")

    def run_all(self, page: Any, seconds: float = SECONDS) -> None:
        """Run all cells and wait for the last; a cell that fails fails the test."""
        page.evaluate(RUN_ALL)
        page.wait_for_function("() => window.labkitRun !== null", timeout=seconds * 1000)
        result = page.evaluate("() => window.labkitRun")
        errors = [re.sub(r"\x1b\[[0-9;]*m", "", error) for error in page.evaluate(ERRORS)]
        assert not errors, "\n\n".join(errors)
        assert result["succeeded"], result

    def changes(self, page: Any, app: str) -> int:
        """How many changes the app of that name has finished (its attribute data-ready)."""
        element = page.locator(f".labkit-{app}[data-ready]").first
        element.wait_for(state="attached")
        return int(element.get_attribute("data-ready"))

    def wait_for_change(self, page: Any, app: str, seen: int) -> int:
        """Wait until the app has finished a change after `seen`; returns the new number."""
        page.wait_for_function(
            "([app, seen]) => Number(document.querySelector(`.labkit-${app}[data-ready]`)"
            "?.dataset.ready ?? -1) > seen",
            arg=[app, seen],
        )
        return self.changes(page, app)

    def picture(self, image: Any) -> bytes:
        """The file behind an <img src="data:...">."""
        source = image.get_attribute("src")
        assert source.startswith("data:image/png;base64,"), source[:60]
        return base64.b64decode(source.partition(",")[2])

    def screenshot(self, what: Any, name: str) -> Path:
        """A picture of a page or of a part of it (locator), in runs/browser."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"{name}.png"
        what.screenshot(path=path)
        return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")  # not longer: while it is there, nothing else can use asyncio
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright."""
    reason = "Playwright is not installed; to enable: uv sync"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium here; to enable: sudo apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Root, as in a container, has no browser sandbox; the pages are the tests' own.
        arguments = [*QUIET, "--no-sandbox"] if os.geteuid() == 0 else QUIET
        chromium = driver.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def start_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Sequence[str], Path], Server]]:
    """Starts JupyterLab: `start_server(command, folder)`, the command without port and token.

    Home and all of Jupyter's folders are fresh ones, so that neither the tests read settings of the
    user nor write any; what labkit and matplotlib have cached stays in use.
    """
    running: list[subprocess.Popen[bytes]] = []

    def start(command: Sequence[str], folder: Path) -> Server:
        home = tmp_path_factory.mktemp("home")
        port, token = free_port(), secrets.token_hex(16)
        config = {
            "ServerApp": {"ip": "127.0.0.1", "port_retries": 0, "terminals_enabled": False},
            "IdentityProvider": {"token": token},
            "LabApp": {"expose_app_in_browser": True},
        }
        (home / "config").mkdir()
        for name in ("jupyter_server_config.json", "jupyter_lab_config.json"):
            (home / "config" / name).write_text(json.dumps(config))
        folders = ("CONFIG", "DATA", "RUNTIME")
        environment = {
            **os.environ,
            "HOME": str(home),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            **{f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in folders},
            "MPLCONFIGDIR": matplotlib.get_cachedir(),
            "LABKIT_CACHE": os.environ.get("LABKIT_CACHE")
            or str(platformdirs.user_cache_path("labkit", appauthor=False)),
            "NO_PROXY": "127.0.0.1",
        }
        log = home / "server.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [*command, "--port", str(port)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running.append(server)
        started = Server(folder, f"http://127.0.0.1:{port}", token)
        last = time.monotonic() + SECONDS
        while True:
            try:
                started.ask("GET", "api/status")
                return started
            except OSError:
                over = server.poll() is not None or time.monotonic() > last
                assert not over, f"JupyterLab did not start:\n{log.read_text(errors='replace')}"
                time.sleep(0.1)

    yield start
    for server in running:
        server.send_signal(signal.SIGTERM)
    for server in running:
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="session")
def server(
    start_server: Callable[[Sequence[str], Path], Server],
    tmp_path_factory: pytest.TempPathFactory,
) -> Server:
    """JupyterLab on an empty folder."""
    folder = tmp_path_factory.mktemp("lab")
    command = [
        *("env", f"JUPYTER_CONFIG_PATH={SETTINGS}"),  # a question about news would lie on the page
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        f"--ServerApp.root_dir={folder}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    return start_server(command, folder)


@pytest.fixture(scope="module")
def lab(browser: Any, server: Server) -> Iterator[Lab]:
    """The JupyterLab that the tests share, and a browser."""
    yield Lab(browser, server)
    for context in browser.contexts:
        context.close()
    server.end_kernels()


@pytest.fixture(scope="module")
def start_lab(
    browser: Any, start_server: Callable[[Sequence[str], Path], Server]
) -> Iterator[Callable[[Sequence[str], Path], Lab]]:
    """Starts a JupyterLab of one's own: `start_lab(command, folder)`."""
    yield lambda command, folder: Lab(browser, start_server(command, folder))
    for context in browser.contexts:
        context.close()
