"""Worker process that executes one notebook: ``python -m labkit.workbook.worker``.

The first line of standard input is the job (JSON: ``notebook``, ``output``, ``parameters``).
Every later happening is reported as one JSON line on standard output. When standard input
closes (the runner asks to stop, or died), the notebook is interrupted, its kernel shut down and
what was computed so far is saved.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets import default

from labkit.workbook.notebook_sources import load_notebook
from labkit.workbook.output_limits import BoundedEngine
from labkit.workbook.parameters import dependent_lines
from labkit.workbook.records import RECORDING

KERNEL = "python3"


class OwnPython(AsyncKernelManager):
    """Kernel manager that starts the kernel with the interpreter that runs labkit.

    A kernel specification named ``python3`` in the user's folder may belong to another
    environment; with no folders to search only the running interpreter's own remains.
    """

    @default("kernel_spec_manager")
    def _own_kernels_only(self) -> KernelSpecManager:
        return KernelSpecManager(parent=self, kernel_dirs=[])


class Events:
    """Writes the events of the cells, from which the runner determines the outcome."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.stopping = False

    def send(self, event: str, **fields: Any) -> None:
        self.stream.write(json.dumps({"event": event, **fields}) + "\n")
        self.stream.flush()

    def on_cell_execute(self, cell: Any, cell_index: int) -> None:
        if not self.stopping:
            self.send("execute", cell=cell_index)

    def on_cell_executed(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        # While stopping, the interrupt that labkit itself sent comes back as an error.
        if self.stopping:
            return
        content = execute_reply["content"]
        payloads = [payload.get("source") for payload in content.get("payload") or []]
        self.send(
            "executed",
            cell=cell_index,
            error=content.get("ename") if content["status"] != "ok" else None,
            message=content.get("evalue", ""),
            asked_to_exit="ask_exit" in payloads or content.get("ename") == "SystemExit",
        )


def main() -> None:
    """Run the job on standard input."""
    # The kernel inherits descriptor 1: give it the log, and keep the real one for events only.
    events = Events(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    os.environ[RECORDING] = "1"  # the kernel inherits it
    os.environ["TQDM_DISABLE"] = "1"  # nobody sees a bar there, and its redraws fill the file
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_interrupt_at_end_of_input, args=(events,), daemon=True).start()
    try:
        _execute(job, events)
    except KeyboardInterrupt:
        events.send("end", error="KeyboardInterrupt", message="")
    except Exception as error:
        events.send("end", error=type(error).__name__, message=str(error))
    else:
        events.send("end", error=None, message="")


def _execute(job: dict[str, Any], events: Events) -> None:
    output = Path(job["output"])
    notebook = write_prepared_notebook(
        load_notebook(Path(job["notebook"])), output, job["parameters"]
    )
    runnable, skipped = cells_to_run(notebook)
    events.send("plan", cells=runnable, skipped=skipped)
    # An engine of papermill without papermill's `execute_notebook`: that one raises again for cells
    # tagged raises-exception, moves cell positions by inserting its error banners, and formats
    # braces in paths.
    BoundedEngine.execute_notebook(
        notebook,
        KERNEL,
        output_path=str(output),
        progress_bar=False,
        startup_timeout=120,
        kernel_manager_class=OwnPython,
        on_cell_execute=events.on_cell_execute,
        on_cell_executed=events.on_cell_executed,
        on_flood=lambda cell: events.send("flood", cell=cell),
    )
    for name, message in errors_in_output_widgets(notebook):
        events.send("hidden-error", error=name, message=message)


def write_prepared_notebook(notebook: Any, output: Path, parameters: dict[str, Any]) -> Any:
    """Write the notebook with its injected parameters to `output`, and return it.

    Parameter cells injected by an earlier run are dropped: papermill would put the new one in
    their place, wherever that is.
    """
    import nbformat

    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, output)
    notebook = load_notebook_node(str(output))
    if parameters:
        # Values that the notebook computes from a parameter are computed again from the new value.
        again = dependent_lines(notebook, set(parameters))
        notebook = parameterize_notebook(
            notebook, parameters, kernel_name=KERNEL, language="python"
        )
        for cell in notebook.cells:
            if again and "injected-parameters" in cell.metadata.get("tags", []):
                cell.source += "\n" + "\n".join(again)
        nbformat.write(notebook, output)
    return notebook


def cells_to_run(notebook: Any) -> tuple[list[int], list[int]]:
    """Return the positions of the code cells to execute, and of those tagged to be skipped."""
    code = [
        index
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and cell.source.strip()
    ]
    skipped = [i for i in code if "skip-execution" in notebook.cells[i].metadata.get("tags", [])]
    return [index for index in code if index not in skipped], skipped


def errors_in_output_widgets(notebook: Any) -> list[tuple[str, str]]:
    """Find errors that an ``Output`` widget caught, so that the cell itself succeeded."""
    widgets = notebook.metadata.get("widgets", {})
    models = widgets.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    return [
        (output["ename"], output["evalue"])
        for model in models.values()
        if model.get("model_name") == "OutputModel"
        for output in model["state"].get("outputs", [])
        if output["output_type"] == "error"
    ]


def _interrupt_at_end_of_input(events: Events) -> None:
    # Not through sys.stdin: its lock, held by a waiting thread, is fatal at interpreter shutdown.
    while os.read(0, 1):
        pass
    events.stopping = True
    # To the main thread itself, so that its wait for the kernel ends at once.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


if __name__ == "__main__":
    main()
