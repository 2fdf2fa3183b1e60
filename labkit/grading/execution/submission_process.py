"""Processes that execute submissions, started with :data:`COMMAND`.

Each line of standard input is a task in JSON:

==================  ===============================================================================
``submission``      the path of the notebook
``name``            the name of the submission; by default the name of the file
``assignment_dir``  the folder of the assignment
``out``             the folder for ``harvest.json`` and ``executed.ipynb``
``isolation``       one of :class:`labkit.grading.sandbox.levels.Level`; by default the strongest
==================  ===============================================================================

Every task runs in its own process, forked from one that has imported the libraries: importing them
takes longer than grading. When a task is done, one JSON line on standard output says
``{"out": ..., "state": ...}``, or ``{"out": ..., "error": ...}`` when there is no harvest.
"""

from __future__ import annotations

import compileall
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import load_assignment
from labkit.system.processes import adopt_orphans, die_with_parent, kill_descendants

# Without -P a folder labkit in the working directory, such as another checkout, would be imported
# in place of the installed package, and the sandbox of the kernel holds only the installed one.
COMMAND = (sys.executable, "-P", "-m", "labkit.grading.execution.submission_process")
"""Starts the process of this module."""

KERNEL_PACKAGES = ("IPython", "debugpy", "ipykernel")
"""What every kernel imports and this process does not. Compiling it takes a kernel longer than all
the rest of its start; installers such as uv leave it to the first import."""


def main() -> None:
    """Fork a process for every task on standard input."""
    die_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is not a reply
    _write_bytecode(KERNEL_PACKAGES)
    prepared = set[str]()
    # Not through sys.stdin, which would read ahead and leave the rest to the fork.
    for line in iter(sys.stdin.readline, ""):
        if line.strip():
            task = json.loads(line)
            if task["assignment_dir"] not in prepared:
                prepared.add(task["assignment_dir"])
                _prepare(Path(task["assignment_dir"]))
            replies.write(json.dumps(_fork(task)) + "\n")
            replies.flush()


def _write_bytecode(packages: tuple[str, ...]) -> None:
    """Compile packages once for all kernels, whose sandbox lets them write nothing."""
    for name in packages:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            compileall.compile_dir(Path(spec.origin).parent, quiet=2)


def _prepare(folder: Path) -> None:
    """Import once, before the forks, what every task needs."""
    import papermill.engines  # noqa: F401

    import labkit.grading.execution.run_submission  # noqa: F401

    try:
        load_assignment(folder)  # with everything that its probes import
    except LabkitError:
        return  # every task reports it
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)  # threads do not survive a fork


def _fork(task: dict[str, Any]) -> dict[str, Any]:
    reading_end, writing_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading_end)
            die_with_parent()
            reply = _perform(task)
            with os.fdopen(writing_end, "w", encoding="utf-8") as pipe:
                pipe.write(json.dumps(reply))
            status = 0
        finally:
            kill_descendants()
            os._exit(status)
    os.close(writing_end)
    with os.fdopen(reading_end, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    reply = json.loads(text) if text else {"error": "the process that executed it died"}
    return {"out": task["out"], **reply}


def _perform(task: dict[str, Any]) -> dict[str, Any]:
    from labkit.grading.execution.run_submission import run_submission

    adopt_orphans()
    try:
        return {"state": run_submission(task).state}
    except LabkitError as error:
        return {"error": str(error)}
    except Exception as error:
        import traceback

        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
