"""One batch for all tests: every attack and ten honest submissions, in two streams."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
from attacks import ANSWERS, ATTACKS, RIGHT, TOTAL, escape_code

from labkit.grading.authoring.assignment import load_assignment
from labkit.grading.execution.submission_process import COMMAND
from labkit.grading.sandbox.isolation import probe
from labkit.grading.sandbox.levels import STRONG
from labkit.grading.scoring.score import score

SETUP = '# %% tags=["setup"]\nimport numpy as np\n'
EXERCISE = """
# %% exercise="{name}"
def {name}(x):
    # BEGIN SOLUTION
    twice_the_secret = 2 * x
    return twice_the_secret
    # END SOLUTION
"""
PROBES = """
# %% tags=["probes"]
def vectors(rng):
    return [{{"x": rng.normal(size=3), "truth": 1}} for _ in range(3)]

ASSIGNMENT = Assignment(
    title="Attacked", minutes=5,
    probes=[{probes}],
    forbidden=("numpy.multiply",),
    limits=Limits(cell_seconds=3, total_seconds=60, memory_mb=500, output_mb=2, answer_mb=2,
                  cells=100),
)
"""
PROBE = (
    'Probe("{name}", "{name}", "{name}", {points}, vectors, hidden=("truth",), seconds=3,'
    " reference=lambda x, truth: {right}),"
)
HONEST = (
    RIGHT,
    "def double(x):\n    return x + x\n",
    "double = lambda x: x * 2.0\n",
    "import math\ndef double(x):\n    return [math.ldexp(float(v), 1) for v in x]\n",
    "def double(x):\n    x *= 2\n    return x\n",
    "def one(v):\n    return v * 2\ndef double(x):\n    return np.array([one(v) for v in x])\n",
    "import warnings\nwarnings.warn('old', DeprecationWarning)\n" + RIGHT,
    "import sys\nprint('debug', file=sys.stderr)\n" + RIGHT,
    "def double(x):\n    print('called')\n    return (2 * x).astype('float32')\n",
    "double = 2\ndef double(x):\n    return np.stack([x, x]).sum(0)\n",
)


@dataclass(frozen=True)
class Course:
    """What the batch gives back about one submission."""

    harvest: dict
    points: dict[str, float]
    reasons: dict[str, tuple[str, ...]]
    seconds: float
    shown: str


@dataclass(frozen=True)
class Batch:
    """All of it; ``sleepers`` are processes of submissions that are still there."""

    courses: dict[str, Course]
    grader_output: str
    connections: int
    canary: str
    folders_left: list[str]
    sleepers: list[int]


def make_batch(tmp_path_factory) -> Batch:
    """Grade everything, once."""
    if probe().works[0] not in STRONG:
        reason = next(iter(probe().reasons.values()), "")
        pytest.skip(f"no sandbox here: {reason}; enable with: apt-get install bubblewrap")
    root = tmp_path_factory.mktemp("attacked")
    temporary = Path("/tmp") / f"lk{os.getpid()}"  # short: sockets go there
    temporary.mkdir(mode=0o755)
    canary = root / "canary"
    canary.write_text("alive")
    attacked = make_assignment(root, "attacked", {"double": ("2 * x", 4), "total": ("x.sum()", 2)})
    answered = make_assignment(root, "answered", dict.fromkeys(ANSWERS, ("2 * x", 1)))
    with Listeners(temporary) as listeners:
        places = {
            "assignment": str(attacked),
            "source": str(attacked / "source.py"),
            "canary": str(canary),
            "home": str(Path.home()),
            **listeners.places,
        }
        submissions = {
            "escapes": notebook({"double": escape_code(**places), "total": TOTAL}),
            "answers": notebook(
                {name: re.sub(r"\bf\b", name, code) for name, code in ANSWERS.items()}
            ),
            **{
                f"attack: {n}": notebook(
                    {"double": a.code.replace("{unix!r}", repr(places["unix"])), "total": TOTAL}
                )
                for n, a in ATTACKS.items()
            },
            **{
                f"honest: {number}": notebook({"double": code, "total": TOTAL})
                for number, code in enumerate(HONEST)
            },
            **files(),
        }
        courses, output = run(root, submissions, attacked, answered, temporary)
        connections = listeners.connections
    sleepers = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "31536001" in (process.info["cmdline"] or [])
    ]
    left = sorted(path.name for path in temporary.glob("labkit-*"))
    shutil.rmtree(temporary)
    return Batch(courses, output, connections, canary.read_text(), left, sleepers)


def make_assignment(root: Path, name: str, functions: dict[str, tuple[str, float]]) -> Path:
    folder = root / "assignments" / name
    folder.mkdir(parents=True)
    probes = " ".join(
        PROBE.format(name=name, right=right, points=points)
        for name, (right, points) in functions.items()
    )
    cells = [EXERCISE.format(name=name) for name in functions]
    text = SETUP + "".join(cells) + PROBES.format(probes=probes)
    (folder / "source.py").write_text(text)
    return folder


def notebook(answers: dict[str, str], *, tags=(), extra=()) -> bytes:
    cells = [
        nbformat.v4.new_code_cell(code, metadata={"labkit": {"exercise": name}, "tags": list(tags)})
        for name, code in answers.items()
    ]
    return nbformat.writes(nbformat.v4.new_notebook(cells=[*extra, *cells])).encode()


def files() -> dict[str, bytes]:
    """Files that are strange, some of them honest."""
    good = {"double": RIGHT, "total": TOTAL}
    plain = notebook(good)
    many = [nbformat.v4.new_code_cell("1") for _ in range(3000)]
    poisoned = nbformat.v4.new_code_cell(
        "double = None", metadata={"tags": ["injected-parameters"]}
    )
    kernel = json.loads(plain)
    kernel["metadata"]["kernelspec"] = {"name": "julia-1.0", "display_name": "J"}
    old = {
        "nbformat": 3,
        "nbformat_minor": 0,
        "metadata": {},
        "worksheets": [{"cells": [{"cell_type": "code", "input": [RIGHT, TOTAL], "outputs": []}]}],
    }
    deep = "(" * 5000 + ")" * 5000
    return {
        "file: honest with a byte order mark": b"\xef\xbb\xbf" + plain,
        "file: honest of an unknown kernel": json.dumps(kernel).encode(),
        "file: honest of version 3": json.dumps(old).encode(),
        "file: honest with tags of papermill's": notebook(
            good, tags=["skip-execution", "raises-exception"], extra=[poisoned]
        ),
        "file: honest beside bombs of syntax": notebook(
            good,
            extra=[
                nbformat.v4.new_code_cell(code)
                for code in (
                    deep,
                    "-" * 100_000 + "1",
                    "x" + ".x" * 60_000,
                    "%%bash\n:(){ :|:& };:",
                )
            ],
        ),
        "file: empty": b"",
        "file: cut off": plain[:-40],
        "file: not UTF-8": plain.replace(b"2 * x", b"2 * \xff"),
        "file: deep JSON": b"[" * 1_000_000,
        "file: not a notebook": b'{"a": 1}',
        "file: a list": b"[]",
        "file: malformed cells": b'{"cells": [3]}',
        "file: malformed source": b'{"cells": [{"cell_type": "code", "source": {"a": 1}}]}',
        "file: 3000 cells": notebook(good, extra=many),
        "file: 100000 cells": b'{"cells": [' + b",".join([b"{}"] * 100_000) + b"]}",
        "file: zip": b"PK\x03\x04" + bytes(1000),
    }


def run(
    root: Path, submissions: dict[str, bytes], attacked: Path, answered: Path, temporary: Path
) -> tuple[dict[str, Course], str]:
    """Harvest in two streams, as two workers of the grader would, and score."""
    waiting: queue.Queue[tuple[int, str]] = queue.Queue()
    for number, (name, content) in enumerate(submissions.items()):
        (root / f"{number}.ipynb").write_bytes(content)
        waiting.put((number, name))
    seconds: dict[str, float] = {}
    output = list[str]()

    def stream() -> None:
        server = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "LABKIT_CANARY": "secret"},
        )
        assert server.stdin is not None
        assert server.stdout is not None
        replies = list[str]()
        with contextlib.suppress(queue.Empty):
            while True:
                number, name = waiting.get_nowait()
                task = {
                    "submission": str(root / f"{number}.ipynb"),
                    "name": name,
                    "assignment_dir": str(answered if name == "answers" else attacked),
                    "out": str(root / "out" / str(number)),
                }
                began = time.monotonic()
                server.stdin.write(json.dumps(task) + "\n")
                server.stdin.flush()
                replies.append(server.stdout.readline())
                seconds[name] = time.monotonic() - began
        rest, errors = server.communicate()
        output.append(rest + errors)

    streams = [threading.Thread(target=stream) for _ in range(2)]
    for thread in streams:
        thread.start()
    for thread in streams:
        thread.join()
    loaded = {folder: load_assignment(folder) for folder in (attacked, answered)}
    courses = {}
    for number, name in enumerate(submissions):
        folder = root / "out" / str(number)
        result = score(folder, loaded[answered if name == "answers" else attacked])
        executed = folder / "executed.ipynb"
        courses[name] = Course(
            json.loads((folder / "harvest.json").read_text()),
            {entry.name: entry.points for entry in result.probes},
            {entry.name: entry.reasons for entry in result.probes},
            seconds[name],
            executed.read_text() if executed.exists() else "",
        )
    return courses, "".join(output)


class Listeners:
    """Sockets of this machine that a submission must not reach."""

    def __init__(self, folder: Path) -> None:
        self.connections = 0
        name = f"labkit-attacked-{os.getpid()}"
        self.sockets = [socket.create_server(("127.0.0.1", 0))]
        for address in (str(folder / "s"), f"\0{name}"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address)
            listener.listen()
            self.sockets.append(listener)
        (folder / "s").chmod(0o777)
        port = self.sockets[0].getsockname()[1]
        self.places = {"port": port, "unix": str(folder / "s"), "abstract": name}

    def __enter__(self) -> Listeners:
        for listener in self.sockets:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self.sockets:
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()
                self.connections += 1
