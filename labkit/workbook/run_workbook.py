"""Running notebooks of the workbook and writing the report, for ``labkit run``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from labkit.errors import LabkitError
from labkit.system.atomic_write import atomic_write
from labkit.system.cpu_cores import available_cores
from labkit.system.folder_lock import LOCK, locked
from labkit.system.paths import runs_folder
from labkit.workbook.claims import PROFILES, load_expected
from labkit.workbook.notebook_processes import Job, run_jobs
from labkit.workbook.notebook_results import NotebookResult, collect_result
from labkit.workbook.notebook_sources import (
    edited,
    find_root,
    load_notebook,
    other_language,
    resolve,
    sources,
)
from labkit.workbook.parameters import coerce, computed, read_parameters
from labkit.workbook.run_progress import RunProgress
from labkit.workbook.run_report import RunReport, write_notebook_page, write_run_report
from labkit.workbook.start_order import longest_first


@dataclass(frozen=True)
class RunRequest:
    """Arguments of `labkit run`.

    ``notebooks`` empty means all; ``profile`` None leaves each notebook's default;
    ``jobs`` None runs as many notebooks at a time as there are cores; ``out`` None is a new folder
    in ``runs/``: see :func:`labkit.system.paths.runs_folder`; ``environment`` is what the kernels
    find in theirs beside labkit's own.
    """

    notebooks: list[str] = field(default_factory=list)
    profile: str | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    jobs: int | None = None
    timeout_minutes: float = 60.0
    out: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    command: str = "labkit run"


def run_workbook(request: RunRequest, console: Console) -> RunReport:
    """Run notebooks, each in its own process, and write the report.

    Raises:
        LabkitError: before anything runs: an unknown notebook or profile, a parameter that a
            notebook does not have or that is not of its type, or an output folder that holds
            something else than a report or that another command is writing to.
    """
    root = find_root()
    paths = chosen_notebooks(request.notebooks, root)
    expected = load_expected(root / "notebooks" / "expected.toml")
    at_once = min(request.jobs or available_cores(), len(paths))
    started = datetime.now().astimezone()
    out = (request.out or runs_folder(root) / f"{started:%Y-%m-%dT%H-%M-%S}").resolve()
    jobs, profiles = [], {}
    for path in paths:
        notebook = load_notebook(path)
        language = other_language(notebook)
        if language:
            raise LabkitError(
                f"{path}: a notebook in {language}; labkit run runs notebooks in Python, whichever "
                "kernel they name"
            )
        values, profile = _values(notebook, path.stem, request)
        profiles[path.stem] = profile
        jobs.append(
            Job(
                name=path.stem,
                path=path,
                parameters=values,
                output=out / f"{path.stem}.ipynb",
                workdir=out / path.stem,
                log=out / "logs" / f"{path.stem}.log",
            )
        )
        if edited(path):
            note = f"note: {path.name} differs from src/{path.stem}.py; the notebook is what is run"
            console.print(note, style="yellow", highlight=False, soft_wrap=True)
    by_name = {job.name: job for job in jobs}
    order = longest_first(profiles, root / "notebooks" / "minutes.toml")
    _require_usable(out)
    with locked(out, "labkit run"):
        _prepare_folder(out, jobs)
        if at_once > 1:
            text = f"{len(jobs)} notebooks, {at_once} at a time, the longest first"
            console.print(text, highlight=False)
        if request.out is None and not out.is_relative_to(root):
            text = f"the report will be in {out}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
        results: dict[str, NotebookResult] = {}

        def end(job: Job) -> None:
            result = collect_result(job, profiles[job.name], expected.get(job.name, {}))
            write_notebook_page(result, out, _folder(job.path))
            results[job.name] = result
            progress.end(result)

        with RunProgress(console, len(jobs)) as progress:
            run_jobs(
                [by_name[name] for name in order],
                at_once=at_once,
                environment=request.environment,
                seconds_each=request.timeout_minutes * 60,
                on_start=progress.start,
                on_event=progress.cell,
                on_end=end,
            )
        for job in jobs:
            if job.name not in results:
                results[job.name] = collect_result(job, profiles[job.name], {})
        report = RunReport(
            folder=out,
            started=started,
            command=request.command,
            jobs=at_once,
            results=[results[job.name] for job in jobs],
        )
        write_run_report(report)
    if request.out is None:
        _point_latest(out)
    return report


def chosen_notebooks(selectors: list[str], root: Path) -> list[Path]:
    """List the notebooks that names, numbers or paths select; all without any.

    Raises:
        LabkitError: a notebook is unknown, or two have the same name.
    """
    selectors = selectors or [source.stem for source in sources(root)]
    if not selectors:
        raise LabkitError(f"{root / 'notebooks' / 'src'} holds no notebook")
    paths = list(dict.fromkeys(resolve(selector, root) for selector in selectors))
    names = [path.stem for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise LabkitError(f"two of the notebooks are called {name}; run them separately")
    return paths


def _values(notebook: Any, name: str, request: RunRequest) -> tuple[dict[str, Any], str | None]:
    """Return the parameter values to inject, and the resulting profile."""
    try:
        declared = read_parameters(notebook, name)
    except LabkitError:
        if request.parameters or request.profile is not None:
            raise
        return {}, None  # no parameters are set; the run itself shows what is wrong in the cell
    values = coerce(request.parameters, declared, name, computed(notebook, name))
    if request.profile is not None:
        if request.profile not in PROFILES:
            raise LabkitError(f"unknown profile {request.profile!r}: {', '.join(PROFILES)}")
        if "profile" not in declared:
            raise LabkitError(f"{name} has no parameter 'profile': run it without --profile")
        return {"profile": request.profile, **values}, request.profile
    default = declared["profile"].default.strip("\"'") if "profile" in declared else None
    return values, default


def _require_usable(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir() or (not _is_report(out) and any(p.name != LOCK for p in out.iterdir())):
        raise LabkitError(
            f"{out} holds something that is not a report of labkit run; choose another --out"
        )


def _prepare_folder(out: Path, jobs: list[Job]) -> None:
    with atomic_write(out / "results.json") as temporary:
        temporary.write_text('{"finished": false}\n', encoding="utf-8")
    # Remove the results of an earlier run, so that they cannot be taken for this one's.
    stale = [path for job in jobs for path in (job.output, job.output.with_suffix(".html"))]
    for path in (out / "index.html", *stale):
        path.unlink(missing_ok=True)
    # The executed notebooks show the drawings that lie beside their originals.
    for drawings in {_folder(job.path) / "diagrams" for job in jobs}:
        if drawings.is_dir():
            shutil.copytree(drawings, out / drawings.name, dirs_exist_ok=True)


def _folder(path: Path) -> Path:
    """Return the folder from which a notebook's text names pictures, also of a source."""
    return path.parents[1] if path.parent.name == "src" else path.parent


def _is_report(folder: Path) -> bool:
    return (folder / "results.json").is_file()


def _point_latest(out: Path) -> None:
    latest, temporary = out.parent / "latest", out.parent / ".latest.tmp"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(out.name, target_is_directory=True)
        temporary.replace(latest)
    except OSError:  # a file system without symbolic links; the folder is printed anyway
        temporary.unlink(missing_ok=True)
