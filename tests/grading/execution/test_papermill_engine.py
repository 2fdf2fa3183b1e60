"""The papermill engine in the sandbox: what becomes of cells, and of what they show."""

from __future__ import annotations

from importlib.metadata import entry_points

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from labkit.grading.authoring.probes import Limits
from labkit.grading.execution.cell_outputs import ProtocolError, output_from
from labkit.grading.execution.papermill_engine import NotebookRun, SandboxEngine, joined
from labkit.grading.sandbox.isolation import probe
from labkit.grading.sandbox.levels import STRONG
from labkit.grading.sandbox.provisioner import SandboxProvisioner

pytestmark = pytest.mark.skipif(
    probe().works[0] not in STRONG, reason="no sandbox; enable with: apt-get install bubblewrap"
)
LIMITS = Limits(cell_seconds=3, total_seconds=60, memory_mb=800, output_mb=1, answer_mb=1)
CELLS = [
    "import sys\nprint('one')\nprint('two')\nprint('careful', file=sys.stderr)",
    "1 / 0",
    "'after' + ' it'",
    "import time\nwhile True:\n    time.sleep(0.1)",
    "from IPython.display import HTML, display\n"
    "display(HTML('<script>alert(1)</script>'))\n"
    "handle = display({'text/plain': 'shown', 'text/html': '<b>'}, raw=True, display_id=True)\n"
    "handle.update({'text/plain': 'changed'}, raw=True)",
    "for n in range(10**6):\n    print('x' * 1000)\n    if n % 500 == 0: time.sleep(0.2)",
    "import base64\ndisplay({'image/png': base64.encodebytes(bytes(200)).decode()}, raw=True)",
    "input()",
    "%time x = 1",
    "",
    "import math\nmath.sqrt(4)",
]


def make(cells, **metadata):
    code = [nbformat.v4.new_code_cell(source) for source in cells]
    return nbformat.v4.new_notebook(cells=code, metadata={"papermill": {}, **metadata})


@pytest.fixture(scope="module")
def executed():
    run, notebook = NotebookRun(), make(CELLS)
    for number, cell in enumerate(notebook.cells):
        cell.metadata["labkit"] = {"exercise": f"e{number}"}
    asked = []
    SandboxEngine.execute_notebook(
        notebook,
        "python3",
        progress_bar=False,
        limits=LIMITS,
        forbidden=("math.sqrt", "not.there", "json.tool"),
        run=run,
        skip=frozenset({"e8"}),
        afterwards=lambda kernel: asked.append(kernel.execute("x", 3).ename),
    )
    return notebook, run, asked


def test_cells_go_on_after_errors(executed):
    _, run, asked = executed
    assert [(cell.exercise, cell.status, cell.ename) for cell in run.cells] == [
        ("e0", "ok", None),
        ("e1", "error", "ZeroDivisionError"),
        ("e2", "ok", None),
        ("e3", "timeout", None),
        ("e4", "ok", None),
        ("e5", "flood", None),
        ("e6", "ok", None),
        ("e7", "error", "StdinNotImplementedError"),
        ("e10", "error", "ForbiddenFunction"),
    ]
    assert run.state == "flood"
    assert run.message == "exercise e5: too much output"
    assert run.culprit is None
    assert asked == ["NameError"]  # e8 was skipped


def test_what_is_shown_is_kept_plain(executed):
    cells = executed[0].cells
    assert [(o["name"], o["text"]) for o in cells[0].outputs] == [
        ("stdout", "one\ntwo\n"),
        ("stderr", "careful\n"),
    ]
    assert cells[2].outputs[0]["data"] == {"text/plain": "'after it'"}
    shown = [output["data"] for output in cells[4].outputs]
    assert shown == [{"text/plain": "<IPython.core.display.HTML object>"}, {"text/plain": "shown"}]
    assert len(str(cells[5].outputs)) < 2_000_000
    assert "image/png" in cells[6].outputs[-1]["data"]
    nbformat.validate(executed[0])


def test_statuses_for_papermill(executed):
    statuses = [cell.metadata.papermill["status"] for cell in executed[0].cells[:4]]
    assert statuses == ["completed", "failed", "completed", "failed"]


def test_streams_are_joined():
    def stream(name, text):
        return {"output_type": "stream", "name": name, "text": text}

    picture = {"output_type": "display_data", "data": {}, "metadata": {}}
    texts = [stream("stdout", str(n)) for n in range(1000)]
    found = joined([*texts, picture, stream("stdout", "a"), stream("stderr", "b")])
    assert found == [
        stream("stdout", "".join(map(str, range(1000)))),
        picture,
        stream("stdout", "a"),
        stream("stderr", "b"),
    ]
    assert joined([]) == []


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("stream", {}),
        ("stream", {"name": "stdin", "text": ""}),
        ("stream", {"name": "stdout", "text": ["a"]}),
        ("display_data", {"data": []}),
        ("display_data", {"data": {"text/plain": {}}}),
        ("display_data", {"data": {"image/png": "<script>"}}),
        ("error", {"ename": "A", "evalue": "b", "traceback": "c"}),
        ("error", {"ename": "A", "evalue": 3, "traceback": []}),
        ("error", {"ename": None, "evalue": "", "traceback": []}),
    ],
)
def test_outputs_that_no_honest_kernel_sends(kind, content):
    with pytest.raises(ProtocolError):
        output_from(kind, content)


def test_outputs_that_are_dropped():
    assert output_from("comm_open", {"data": {}}) is None
    assert output_from("update_display_data", {"data": {"text/plain": "x"}}) is None
    assert output_from("display_data", {"data": {"application/javascript": "x"}}) is None
    assert output_from("stream", {"name": "stdout", "text": "\ud800"})["text"] == "?"


def test_papermill_finds_the_engine_and_jupyter_the_provisioner(tmp_path):
    found = {
        group: [point.load() for point in entry_points(group=group) if point.name == name]
        for group, name in (
            ("papermill.engine", "labkit-sandbox"),
            ("jupyter_client.kernel_provisioners", "labkit-sandbox"),
        )
    }
    assert found == {
        "papermill.engine": [SandboxEngine],
        "jupyter_client.kernel_provisioners": [SandboxProvisioner],
    }
    nbformat.write(make(["import os\nprint(os.getcwd())", "1 / 0"]), tmp_path / "in.ipynb")
    with pytest.raises(PapermillExecutionError, match="division by zero"):
        papermill.execute_notebook(
            tmp_path / "in.ipynb",
            tmp_path / "out.ipynb",
            engine_name="labkit-sandbox",
            kernel_name="python3",
            progress_bar=False,
        )
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert "/scratch\n" in [o.get("text") for cell in cells for o in cell.get("outputs", [])]


def test_any_client_of_jupyter_can_use_the_provisioner(tmp_path, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient

    folder = tmp_path / "kernels" / "shut-in"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(
        '{"argv": ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],'
        ' "display_name": "S", "language": "python", "interrupt_mode": "message",'
        ' "metadata": {"kernel_provisioner": {"provisioner_name": "labkit-sandbox",'
        ' "config": {"memory_mb": 500}}}}'
    )
    notebook = make(["import os\nprint(os.getcwd(), os.path.exists('/etc/passwd'))"])
    client = NotebookClient(notebook, kernel_name="shut-in", timeout=60)
    client.create_kernel_manager()
    client.km.kernel_spec_manager = KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")])
    client.execute()
    assert notebook.cells[0].outputs[0]["text"] == "/scratch False\n"
