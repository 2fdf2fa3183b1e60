"""``labkit bench``: timings of labkit and of other libraries, measured in the same run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from labkit.cli.json_output import Json, write_numbers

app = typer.Typer(help="Measure labkit against other libraries.", no_args_is_help=True)


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


@app.command("pq")
def pq(
    images: Annotated[int, typer.Option(min=1, help="Number of generated image pairs.")] = 1000,
    json: Json = None,
) -> None:
    """Time panoptic quality: files (panopticapi, hotcoco), tensors (torchmetrics)."""
    from labkit.bench.peer_comparison import print_comparisons, print_left_out, problem
    from labkit.bench.pq import FILE_PEERS, compare_files, compare_tensors
    from labkit.errors import LabkitError

    # One missing peer leaves the other comparisons possible.
    reasons = {peer: problem(peer.name) for peer in FILE_PEERS}
    left_out = [reason for reason in reasons.values() if reason]
    comparisons = compare_files(images, [peer for peer in FILE_PEERS if not reasons[peer]])
    try:
        comparisons.append(compare_tensors())
    except LabkitError as error:
        left_out.append(str(error))
    for reason in left_out:
        print_left_out(reason)
    if json is not None:
        write_numbers(json, [c.to_json() for c in comparisons])
    print_comparisons("Panoptic quality, time per image", "PQ", comparisons)


@app.command("ap")
def ap(
    images: Annotated[int, typer.Option(min=1, help="Number of generated images.")] = 200,
    json: Json = None,
) -> None:
    """Time average precision against pycocotools and hotcoco, with the same detections."""
    from labkit.bench.ap import PEERS, compare_ap
    from labkit.bench.peer_comparison import print_comparisons, print_left_out, problem

    reasons = {peer: problem(peer) for peer in PEERS}
    for reason in filter(None, reasons.values()):
        print_left_out(reason)
    comparisons = compare_ap(images, [peer for peer in PEERS if not reasons[peer]])
    if json is not None:
        write_numbers(json, [c.to_json() for c in comparisons])
    print_comparisons("Average precision, time per image", "AP", comparisons)


@app.command("mask-classification")
def mask_classification(
    side: Annotated[int, typer.Option(min=64, help="Side of the square images.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    json: Json = None,
) -> None:
    """Time Mask2Former R50 against transformers, with the same weights and images."""
    from labkit.bench.mask_classification import measure_all
    from labkit.bench.peer_comparison import print_comparisons

    comparisons = measure_all(side, repeats)
    if json is not None:
        write_numbers(json, [c.to_json() for c in comparisons])
    print_comparisons("Mask classification, time per call", "result", comparisons)


@app.command("pq-memory")
def pq_memory(
    images: Annotated[int, typer.Option(min=1, help="Number of generated image pairs.")] = 5000,
    workers: Annotated[int, typer.Option(min=1, help="Threads of labkit pq.")] = 2,
    json: Json = None,
) -> None:
    """Measure the peak memory of `labkit pq` (target: 600 MB, 2 workers)."""
    from labkit.bench.pq import MEMORY_TARGET_MB, measure_peak_memory

    peak = measure_peak_memory(images, workers) / 1e6
    met = peak < MEMORY_TARGET_MB
    if json is not None:
        values = {"images": images, "workers": workers, "peak_mb": peak, "met": met}
        write_numbers(json, {**values, "target_mb": MEMORY_TARGET_MB})
    typer.echo(
        f"peak memory of labkit pq, {images} image pairs, {workers} workers: {peak:.0f} MB"
        f" (target below {MEMORY_TARGET_MB} MB: {'met' if met else 'missed'})"
    )


@app.command("roi-align")
def roi_align(
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.CPU,
    json: Json = None,
    sweep: Annotated[bool, typer.Option(help="Also vary one factor at a time.")] = True,
    figure: Annotated[Path | None, typer.Option(help="Draw the sweep into this PNG file.")] = None,
) -> None:
    """Time RoIAlign against torchvision's (2 to 3 minutes on otherwise idle cores)."""
    import torchvision

    from labkit.bench import roi_align as bench
    from labkit.bench import roi_align_gpu as gpu
    from labkit.bench import roi_align_sweep as sweeping
    from labkit.bench.peer_comparison import print_comparisons
    from labkit.doctor import describe_environment
    from labkit.errors import LabkitError
    from labkit.system.atomic_write import atomic_write
    from labkit.system.cpu_cores import available_cores

    if figure is not None and not sweep:
        raise LabkitError("--figure draws the sweep; leave out --no-sweep")
    if device == Device.CUDA:
        gpu.require_gpu()
    threads = bench.thread_counts(device)
    measured = bench.measure_all(bench.headline_cases(device), device, threads)
    rows = [m.to_json() for m in measured]
    report: dict[str, Any] = {
        "environment": {**describe_environment(), "torchvision": torchvision.__version__},
        "comparisons": rows,
    }
    for count in threads:
        title = "RoIAlign, time per call" + (f", torch threads {count}" if count else "")
        print_comparisons(title, "mean", [m.comparison for m in measured if m.threads == count])
    if device == Device.CUDA:
        report["copy_bytes_per_second"] = bandwidth = gpu.copy_bandwidth()
        for row, m in zip(rows, measured, strict=True):
            row.update(gpu.traffic(m, bandwidth))
        gpu.print_traffic(measured, bandwidth)
    if sweep:
        places = sweeping.settings(sweeping.BASE, threads[0], available_cores())
        points = sweeping.sweep(places, device)
        report["sweep"] = [point.to_json() for point in points]
        sweeping.print_sweep(points)
        if figure is not None:
            with atomic_write(figure) as part:
                sweeping.draw_sweep(points).savefig(part, format="png", dpi=120)
    if json is not None:
        write_numbers(json, report)


@app.command("detectors")
def detectors(
    json: Json = None,
    profile: Annotated[bool, typer.Option(help="Also print a profile of labkit.")] = True,
) -> None:
    """Time Mask R-CNN R50-FPN against Detectron2 and torchvision: inference, training step.

    Takes some minutes on otherwise idle CPU cores. On shared cores set
    OMP_WAIT_POLICY=passive.
    """
    import torchvision

    from labkit.bench import detectors as bench
    from labkit.bench.detectors_peers import InputSizes, detectron2_pair, torchvision_pair
    from labkit.bench.detectors_profile import print_profile
    from labkit.bench.peer_comparison import print_comparisons, print_left_out
    from labkit.doctor import describe_environment
    from labkit.errors import LabkitError

    tasks: dict[str, list[bench.DetectorMeasurement]] = {"inference": [], "training": []}
    for make in (detectron2_pair, torchvision_pair):
        try:
            pair = make(InputSizes())
        except LabkitError as error:  # one missing peer leaves the other comparison possible
            print_left_out(str(error))
            continue
        tasks["inference"].append(bench.measure_inference(pair, InputSizes(), profile))
        tasks["training"].append(bench.measure_training(pair, InputSizes(), profile))
    if json is not None:
        report: dict[str, Any] = {
            "environment": {**describe_environment(), "torchvision": torchvision.__version__},
            **{name: [m.to_json() for m in measured] for name, measured in tasks.items()},
        }
        write_numbers(json, report)
    for name, measured in tasks.items():
        result = "mean score" if name == "inference" else "loss"
        print_comparisons(f"Mask R-CNN R50-FPN, {name}", result, [m.comparison for m in measured])
        for m in measured:
            if m.agreement is not None:
                typer.echo(f"labkit and {m.comparison.peer}: {m.agreement}")
            if m.parts is not None:
                print_profile(f"{name}, as {m.comparison.peer} has it", m.parts)


@app.command("throughput")
def throughput(
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.CPU,
    models: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="mask_rcnn_r50, mask2former_r50, eomt_small_640: beside other libraries; a name of"
            " `labkit zoo list` or the folder of a run: labkit alone.",
        ),
    ] = "mask_rcnn_r50,mask2former_r50,eomt_small_640",
    batch: Annotated[str, typer.Option(metavar="N,...", help="Images of a call.")] = "1",
    dtype: Annotated[
        str, typer.Option(metavar="fp32,bf16,fp16", help="Precision of the layers.")
    ] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the backbones with torch.compile.")
    ] = False,
    side: Annotated[int, typer.Option(min=64, help="Shorter side of the images.")] = 800,
    rounds: Annotated[int, typer.Option(min=1, help="Calls that are timed, of each.")] = 5,
    json: Json = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the bars into this PNG file.")] = None,
) -> None:
    """Images a second of inference and training, beside Detectron2, torchvision and transformers.

    The libraries have the same weights and images. Libraries that are not
    installed are left out. In inference labkit folds its frozen batch norms and
    uses channels-last maps, as its predictor does; the others run as they are.
    """
    import torch
    import torchvision
    from rich.console import Console

    from labkit.bench import throughput as bench
    from labkit.bench.peer_comparison import print_left_out
    from labkit.bench.roi_align_gpu import require_gpu
    from labkit.bench.throughput_report import draw_throughput, print_throughput
    from labkit.cli.json_output import STANDARD_OUTPUT
    from labkit.doctor import describe_environment
    from labkit.engine.precision import check_precision
    from labkit.errors import LabkitError
    from labkit.system.atomic_write import atomic_write

    if device == Device.CUDA:
        require_gpu()
    where, console = torch.device(device.value), Console()
    batches, precisions = batch.split(","), dtype.split(",")
    for count in batches:
        if not (count.isdecimal() and int(count)):
            raise LabkitError(f"--batch: {count!r} is no number of images, as in 1,8")
    for name in precisions:
        if name not in bench.PRECISIONS:
            raise LabkitError(f"--dtype: {name!r} is not one of {', '.join(bench.PRECISIONS)}")
        check_precision(bench.PRECISIONS[name], where)
    settings = [
        bench.Setting(where, bench.PRECISIONS[name], int(count), compiled, bench.sizes_of(side))
        for name in precisions
        for count in batches
    ]

    rows: list[bench.Throughput] = []
    report = {"environment": {**describe_environment(), "torchvision": torchvision.__version__}}
    for group in bench.measure_all(models.split(","), settings, rounds, print_left_out):
        rows += group
        # After each group, so that a killed run keeps what it has measured.
        if json is not None and json != STANDARD_OUTPUT:
            write_numbers(json, {**report, "rows": [row.to_json() for row in rows]})
    if json == STANDARD_OUTPUT:
        write_numbers(json, {**report, "rows": [row.to_json() for row in rows]})
    print_throughput(rows, console)
    if figure is not None and rows:
        with atomic_write(figure) as part:
            draw_throughput(rows).savefig(part, format="png", dpi=120)


@app.command("panoptic")
def panoptic(json: Json = None) -> None:
    """Time each step from branch outputs to panoptic map, and the merge against Detectron2's."""
    from rich.console import Console
    from rich.table import Table

    from labkit.bench import panoptic as bench
    from labkit.bench.peer_comparison import print_comparisons, print_left_out
    from labkit.doctor import describe_environment
    from labkit.errors import LabkitError

    given = bench.branch_outputs()
    steps = bench.steps(given)
    table = Table("step", title=f"{bench.OBJECTS} objects, 480 x 640")
    table.add_column("ms", justify="right")
    for name, milliseconds in steps.items():
        table.add_row(name, f"{milliseconds:.1f}")
    Console().print(table)
    comparisons = []
    try:
        comparisons.append(bench.compare_merge(given))
    except LabkitError as error:  # without the peer the steps are still of use
        print_left_out(str(error))
    if json is not None:
        write_numbers(
            json,
            {
                "environment": describe_environment(),
                "steps_ms": steps,
                "merge": [c.to_json() for c in comparisons],
            },
        )
    if comparisons:
        print_comparisons("Merge", "covered", comparisons)


@app.command("crowded")
def crowded(
    out: Annotated[Path, typer.Option(help="Folder of the trainings; use it again to resume.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 200,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each model.")] = 3,
    images: Annotated[int, typer.Option(min=1, help="Number of evaluation images.")] = 200,
    json: Json = None,
) -> None:
    """Fine-tune backbones and fusions on crowded images, with several seeds (15 trainings)."""
    from rich.console import Console
    from rich.table import Table

    from labkit.bench import crowded_scenes as bench
    from labkit.bench.training_study import differences as differences_of
    from labkit.system.message_text import counted

    rows = bench.study(out, steps, seeds, images)
    scores = ("PQ", "things", "stuff")
    table = Table(
        "model", *scores, title=f"{steps} steps, {counted(seeds, 'seed')}, {images} images"
    )
    for row in rows:
        table.add_row(row.name, *map(row.show, scores))
    Console().print(table)
    differences = {f"{a} - {b}": differences_of(rows, a, b, "PQ") for a, b in bench.COMPARISONS}
    for name, values in differences.items():
        typer.echo(f"PQ, {name}: {', '.join(f'{value:+.1f}' for value in values)}")
    if json is not None:
        found = {row.name: row.seeds for row in rows}
        write_numbers(json, {"steps": steps, "scores": found, "differences": differences})


@app.command("mask-study")
def mask_study(
    out: Annotated[Path, typer.Option(help="Folder of the trainings; use it again to resume.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of each ablation.")] = 400,
    more_steps: Annotated[
        int, typer.Option(min=1, help="Steps by which each panoptic system is trained on.")
    ] = 120,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each setting.")] = 3,
    images: Annotated[int, typer.Option(min=1, help="Number of evaluation images.")] = 150,
    json: Json = None,
) -> None:
    """Mask2Former with one part changed at a time, and beside three other panoptic systems."""
    from rich.console import Console
    from rich.table import Table

    from labkit.bench import mask_study as bench
    from labkit.system.message_text import counted

    ablations = bench.ablations(out, steps, seeds, images)
    systems = bench.systems(out, more_steps, seeds, images)
    titles = {
        f"ablations, {steps} steps, {counted(seeds, 'seed')}": ablations,
        **{f"{data}, {more_steps} further steps": rows for data, rows in systems.items()},
    }
    for title, rows in titles.items():
        scores = [name for name in rows[0].seeds[0] if name != bench.SECONDS]
        table = Table("", *scores, title=title)
        for row in rows:
            table.add_row(row.name, *map(row.show, scores))
        Console().print(table)
    if json is not None:
        by_name = {data: {row.name: row.seeds for row in rows} for data, rows in systems.items()}
        write_numbers(
            json,
            {
                "steps": steps,
                "ablations": {row.name: row.seeds for row in ablations},
                "more steps": more_steps,
                "systems": by_name,
            },
        )


@app.command("fine-tuning")
def fine_tuning(
    out: Annotated[Path, typer.Option(help="Folder of the trainings; use it again to resume.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 900,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each setting.")] = 3,
    json: Json = None,
) -> None:
    """Fine-tune from ImageNet and train from random weights, on Penn-Fudan (6 trainings).

    Needs the photographs (`labkit data get penn-fudan`) and labkit[pretrained].
    """
    from rich.console import Console
    from rich.table import Table

    from labkit.bench import fine_tuning as bench
    from labkit.bench.training_study import differences
    from labkit.system.message_text import counted

    rows = bench.study(out, steps, seeds)
    table = Table("", "", *bench.METRICS, title=f"{steps} steps, {counted(seeds, 'seed')}")
    for row in rows:
        for kind in ("box", "mask"):
            scores = (f"{kind} {metric}" for metric in bench.METRICS)
            table.add_row(
                row.name, f"{kind}es" if kind == "box" else "masks", *map(row.show, scores)
            )
    Console().print(table)
    gains = differences(rows, bench.FINE_TUNED, bench.FROM_RANDOM, "mask AP")
    typer.echo(f"mask AP, difference: {', '.join(f'{gain:+.1f}' for gain in gains)}")
    for row in rows:
        typer.echo(f"{row.name}: {row.mean(bench.SECONDS):.0f} CPU seconds a training")
    if json is not None:
        write_numbers(json, {"steps": steps, "scores": {row.name: row.seeds for row in rows}})


@app.command("widgets")
def widgets(json: Json = None) -> None:
    """Measure the response times of the widgets in Chromium (on otherwise idle cores)."""
    from rich.console import Console
    from rich.table import Table

    from labkit.bench import widgets as bench
    from labkit.doctor import describe_environment

    responses = bench.measure()
    table = Table("task", title="Response times of the widgets, milliseconds")
    for column in ("median", "95th percentile", "target"):
        table.add_column(column, justify="right")
    for r in responses:
        verdict = "[green]met[/]" if r.met else "[red]missed[/]"
        numbers = (f"{r.median_ms:.1f}", f"{r.p95_ms:.1f}", f"< {r.target_ms:g} {verdict}")
        table.add_row(r.task, *numbers)
    Console().print(table)
    if json is not None:
        rows = [r.to_json() for r in responses]
        write_numbers(json, {"environment": describe_environment(), "responses": rows})


@app.command("grading")
def grading(
    submissions: Annotated[int, typer.Option(min=1, help="Submissions of the large run.")] = 300,
    sample: Annotated[
        int,
        typer.Option(min=18, help="Submissions of the other runs; the kill is after a third."),
    ] = 100,
    json: Json = None,
) -> None:
    """Measure grading: overhead, two workers against one, many submissions, kill -9."""
    import tempfile
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from labkit.bench import grading as bench
    from labkit.doctor import describe_environment

    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as name:
        course = bench.SyntheticCourse(Path(name, "sample"), sample)
        one, two = course.run(1), course.run(2)
        few = bench.SyntheticCourse(Path(name, "few"), sample // 3)
        survivals = [bench.survive_killed_grader(few), bench.survive_killed_dask_worker(few)]
        many = bench.SyntheticCourse(Path(name, "many"), submissions).run(2)
    speedup = one.seconds / two.seconds
    table = Table("what", "result", "target", title="labkit grade")

    def row(what: str, result: str, target: str, met: bool) -> None:
        verdict = "[green]met[/]" if met else "[red]missed[/]"
        table.add_row(what, result, f"{target} {verdict}")

    overhead = f"{one.overhead:.2f} s a submission"
    row("overhead, 1 worker", overhead, "≤ 2 s", one.overhead <= bench.MOST_OVERHEAD)
    row(
        f"2 workers against 1, {sample} submissions",
        f"{speedup:.2f}x",
        "≥ 1.8x",
        speedup >= bench.LEAST_SPEEDUP,
    )
    done = f"{many.right} right, {many.seconds:.0f} s"
    row(f"{submissions} at once", done, "all right", many.right == submissions)
    for survival in survivals:
        result = (
            f"{survival.done} of {survival.submissions} done; then {survival.lost} lost, "
            f"{survival.repeated} repeated, {survival.left} processes left"
        )
        row(f"kill -9 of {survival.killed}", result, "none", survival.unharmed)
    Console().print(table)
    if json is not None:
        report: dict[str, Any] = {
            "environment": describe_environment(),
            "runs": [bench.to_json(run) for run in (one, two, many)],
            "speedup": speedup,
            "survivals": [bench.to_json(survival) for survival in survivals],
        }
        write_numbers(json, report)


@app.command("gpu")
def gpu(
    out: Annotated[Path, typer.Option(help="Folder of the results and of each part's log.")],
    minutes: Annotated[float, typer.Option(min=0.1, help="Limit of the total time.")] = 8.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run small parts on the CPU, to test the plan.")
    ] = False,
) -> None:
    """Run all GPU checks in one call: operator, networks, throughput, RoIAlign, tests, lessons.

    A part that fails or takes too long does not stop the others; then the exit
    status is 1.
    """
    from rich.console import Console

    from labkit.bench import gpu as bench
    from labkit.bench.gpu_report import print_report
    from labkit.doctor import describe_environment
    from labkit.system.distributed import default_device

    device = default_device("cpu" if dry_run else "cuda").type
    console = Console()

    def tell(outcome: bench.PartResult) -> None:
        line = f"{outcome.name}: {outcome.result}, {outcome.seconds:.0f} of {outcome.budget:.0f} s"
        console.print(line, highlight=False)

    parts = bench.plan(out.absolute(), device, small=dry_run)
    budget = f"{len(parts)} parts, {minutes:g} minutes at most: "
    budget += ", ".join(f"{part.name} {part.seconds:g} s" for part in parts)
    console.print(budget, highlight=False)
    outcomes = bench.carry_out(
        parts, out.absolute(), describe_environment(), total=60 * minutes, on_end=tell
    )
    print_report(outcomes, console)
    console.print(f"figures: {out / 'gpu.json'}", soft_wrap=True, highlight=False)
    if any(outcome.result != "ok" for outcome in outcomes):
        raise typer.Exit(1)
