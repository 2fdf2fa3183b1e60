"""Put a trained run among the weights that come with labkit: float16, measured, recorded.

    python data/checkpoints/pack.py RUN SECONDS [--name NAME]

RUN is a folder that `labkit train` wrote, on Shapes or Penn-Fudan, and SECONDS what it took. The
weights are rounded to float16 and measured as rounded. A run that began (`--init`) from weights
that come with labkit is recorded with their commands and seconds before its own. NAME is for a
second training of a preset; the first one has the preset's name.
"""

import argparse
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from labkit.checkpoints.run_folder import Run, load_run, read_run
from labkit.checkpoints.shipped import FOLDER, Shipped, shipped
from labkit.datasets.registry import open_dataset
from labkit.datasets.shapes import Shapes
from labkit.datasets.targets import SegmentationDataset
from labkit.engine.evaluate import evaluate
from labkit.engine.train import TrainConfig

RECORD = FOLDER / "checkpoints.toml"
README = FOLDER.parent / "README.md"
MARKS = ("<!-- begin: written by checkpoints/pack.py -->\n", "<!-- end -->\n")
LIMIT = {"shapes": 4_000_000, "penn_fudan": 10_000_000}  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("seconds", type=int)
    parser.add_argument("--name")
    arguments = parser.parse_args()
    record = tomllib.loads(RECORD.read_text()) if RECORD.exists() else {}
    run = read_run(arguments.run)
    half = {name: value.half() for name, value in load_run(arguments.run).state_dict().items()}
    name = arguments.name or run.preset
    path = FOLDER / f"{name}.safetensors"
    save_file(half, path)
    path.chmod(0o644)  # a grader's sandbox reads it as another user
    if path.stat().st_size > LIMIT[run.data]:
        raise SystemExit(f"{path}: {path.stat().st_size} bytes, more than {LIMIT[run.data]}")
    commands, seconds = begun(run, record)
    if commands[-1:] != [command(run)]:  # it was not packed before
        commands, seconds = [*commands, command(run)], seconds + arguments.seconds
    model = Shipped(name, run.preset, run.data, [], 0, {}, {}, {}).load()
    on_shapes = run.data == "shapes"
    entry = Shipped(
        name,
        run.preset,
        run.data,
        commands,
        seconds,
        measured(model, Shapes("val", 500) if on_shapes else open_dataset(run.data, "val")),
        measured(model, Shapes("val", 200, crowded=True)) if on_shapes else {},
        measured(model, Shapes("val", 100)) if on_shapes else {},
    )
    table = asdict(entry)
    record[table.pop("name")] = table
    RECORD.write_text("\n".join(written(name, record[name]) for name in sorted(record)))
    before_mark, rest = README.read_text(encoding="utf-8").split(MARKS[0])
    after_mark = rest.split(MARKS[1])[1]
    content = MARKS[0].join([before_mark, described(shipped())]) + MARKS[1] + after_mark
    README.write_text(content, encoding="utf-8")
    print(entry)


def described(weights: dict[str, Shipped]) -> str:
    """The record for people, in Markdown."""
    columns = ["box AP", "mask AP", "PQ", "PQ things", "PQ stuff", "mIoU"]
    lines = [f"| {' | '.join(['name', *columns, 'crowded: mask AP', 'PQ', 'seconds'])} |"]
    lines.append("| --- |" + " ---: |" * (len(columns) + 3))
    for each in weights.values():
        cells = [each.metrics.get(column, "") for column in columns]
        cells += [each.crowded.get("mask AP", ""), each.crowded.get("PQ", ""), each.seconds]
        lines.append(f"| {' | '.join(map(str, [f'`{each.name}`', *cells]))} |")
    commands = dict.fromkeys(c for each in weights.values() for c in each.commands)
    return "\n".join([*lines, "", "```", *commands, "```"]) + "\n"


def begun(run: Run, record: dict[str, Any]) -> tuple[list[str], int]:
    """Commands and seconds of the weights that a run began from, each command once."""
    seconds_of = {tuple(row["commands"]): row["seconds"] for row in record.values()} | {(): 0}
    commands: list[str] = []
    seconds = 0
    for weights in run.init:
        name = weights.partition(":")[0]  # NAME:backbone is a part of NAME
        before = record[name]["commands"] if name in record else []
        shared = [c for c in before if c in commands]
        seconds += seconds_of[tuple(before)] - seconds_of[tuple(shared)]
        commands += [c for c in before if c not in shared]
    return commands, seconds


def command(run: Run) -> str:
    """What to type to make it again; settings that are the defaults are left out."""
    words = ["labkit", "train", run.preset, "--data", run.data]
    for weights in run.init:
        words += ["--init", weights]
    default = {field.name: field.default for field in fields(TrainConfig)}
    for name in ("steps", "batch_size", "lr", "backbone_lr_factor", "seed"):
        if run.train.get(name, default[name]) != default[name]:
            words += [f"--{name.replace('_', '-')}", f"{run.train[name]:g}"]
    for name in ("scale_jitter", "crop", "color_jitter"):
        value = run.train.get(name)
        if value is not None:
            numbers = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *(f"{number:g}" for number in numbers)]
    return " ".join([*words, "--out", "RUN"])


def measured(model: nn.Module, images: SegmentationDataset) -> dict[str, float]:
    """Everything in percent, to a tenth."""
    result = evaluate(model, images)
    numbers = {}
    if result.detection is not None:
        numbers["box AP"] = result.detection.bbox.ap
        if result.detection.segm is not None:
            numbers["mask AP"] = result.detection.segm.ap
    if result.panoptic is not None and result.semantic is not None:
        numbers |= {
            "PQ": result.panoptic.all.pq,
            "PQ things": result.panoptic.things.pq,
            "PQ stuff": result.panoptic.stuff.pq,
            "mIoU": result.semantic.miou,
        }
    return {name: round(100 * value, 1) for name, value in numbers.items()}


def written(name: str, table: dict[str, object]) -> str:
    """One table of the record."""
    lines = [f"[{name}]"]
    for key, value in table.items():
        if isinstance(value, dict):
            value = "{ " + ", ".join(f'"{k}" = {v}' for k, v in value.items()) + " }"
        elif isinstance(value, str):
            value = f'"{value}"'
        elif isinstance(value, list):
            value = "[\n" + "".join(f'    "{line}",\n' for line in value) + "]"
        lines.append(f"{key} = {value}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
