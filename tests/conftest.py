"""What several tests use."""

import contextlib
import os
import re
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from helpers import sharing_out

from labkit.system import optional_packages
from labkit.system.cpu_cores import available_cores

# The tests start some hundred interpreters. Without bytecode on disk, which containers often
# forbid, each of them would compile what it imports: of torch, as long as the import itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A run in the background of a shell begins with Ctrl-C ignored, and its children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Several workers share the cores: each has its part, also in the programs that it starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    part = available_cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, part)))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    return sharing_out.workers(config.option.file_or_dir)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> sharing_out.Files | None:
    return sharing_out.Files(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        sharing_out.longest_first(items)


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``cut`` closes that many connections after a third of the rest."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.etag, self.ranges, self.cut, self.asked = {}, '"one"', True, 0, []

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        content = server.files.get(self.path[1:])
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if content is None:
            self.send_error(404)
            return
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        if server.cut:
            server.cut -= 1
            body = body[: len(body) // 3]
        with contextlib.suppress(ConnectionError):  # the client may hang up
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def detectron2():
    """For tests that need the package: skips them with what to run."""
    if problem := optional_packages.problem("detectron2"):
        pytest.skip(problem)


@pytest.fixture(scope="session")
def panopticapi():
    """For tests that need the package: skips them with what to run."""
    if problem := optional_packages.problem("panopticapi"):
        pytest.skip(problem)


@pytest.fixture
def file_server(monkeypatch):
    """A server on this machine that can misbehave; it has no files yet."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
