"""``labkit data``: fetch, make, check, show and export data sets."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from labkit.cli import completion
from labkit.cli.options import DOWNLOAD_FOLDER, data_name

app = typer.Typer(
    help="Fetch data sets, make them from masks, check, show and export them.",
    no_args_is_help=True,
)


DATA = typer.Argument(help="A folder; or coco:DIR, coco_panoptic:DIR, shapes, ...")
EVERY = typer.Option("--all", help="List all warnings, not only the first.")


class BuiltIn(StrEnum):
    """The data sets that need no download."""

    shapes = "shapes"


class Split(StrEnum):
    train = "train"
    val = "val"
    test = "test"


@app.command()
def export(
    dataset: Annotated[BuiltIn, typer.Argument(help="The built-in data set.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    num: Annotated[int, typer.Option(help="Number of images.")] = 500,
    split: Annotated[Split, typer.Option(help="Split of the data set.")] = Split.val,
    crowded: Annotated[bool, typer.Option("--crowded", help="Write the harder variant.")] = False,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed; each seed gives another data set.")] = 0,
) -> None:
    """Write a data set in COCO's instance and panoptic formats."""
    from labkit.datasets.coco.export import export_coco as write
    from labkit.datasets.shapes import Shapes
    from labkit.system.message_text import counted

    write(Shapes(split.value, num, size, crowded, seed), out, split=split.value)
    typer.echo(f"wrote {counted(num, 'image')} to {out}")


@app.command("list")
def list_(folder: Annotated[Path | None, DOWNLOAD_FOLDER] = None) -> None:
    """List the data sets that can be fetched, and whether they are on this machine."""
    from rich.console import Console
    from rich.table import Table

    from labkit.datasets.fetch.catalog import catalogue, given_folder, is_here
    from labkit.system.paths import download_folder

    where = folder or download_folder()
    table = Table("name", "what", "MB", "licence", "here")
    for dataset in catalogue().values():
        size = "" if dataset.size is None else f"{dataset.size / 1e6:,.0f}"
        given = "LABKIT_DATA" if given_folder(dataset) else ""
        here = given or ("yes" if is_here(dataset, where) else "")
        table.add_row(dataset.name, dataset.title, size, dataset.licence, here)
    Console().print(table)
    typer.echo(f"download folder: {where}")


@app.command()
def get(
    name: Annotated[
        str,
        typer.Argument(help="A name of `labkit data list`.", autocompletion=completion.datasets),
    ],
    folder: Annotated[Path | None, DOWNLOAD_FOLDER] = None,
) -> None:
    """Fetch, verify and unpack a data set; run again to resume."""
    from labkit.datasets.fetch import catalog
    from labkit.system.paths import download_folder
    from labkit.system.unknown_names import unknown_name

    known = catalog.catalogue()
    if name not in known:
        raise unknown_name("data set", name, known)
    home = catalog.fetch_dataset(known[name], folder or download_folder(), typer.echo)
    typer.echo(f"{name} is in {home}")
    given = catalog.given_folder(known[name])
    if given is not None:
        typer.echo(f"note: labkit reads {given} first, from LABKIT_DATA")


@app.command("from-masks")
def from_masks(
    images: Annotated[Path, typer.Argument(help="Folder of images.")],
    masks: Annotated[Path, typer.Argument(help="Folder of masks with the images' names.")],
    categories: Annotated[Path, typer.Option(help="JSON or TOML: name, isthing, value or color.")],
    out: Annotated[Path, typer.Option(help="A new folder, or one with other splits.")],
    split: Annotated[str, typer.Option(help="Name of the split in the files.")] = "train",
    polygons: Annotated[
        bool,
        typer.Option("--polygons", help="Write objects as polygons if these are exact enough."),
    ] = False,
    mask_suffix: Annotated[
        str, typer.Option(help="Suffix of the masks' names after the images', such as _mask.")
    ] = "",
    instances_of: Annotated[
        str | None,
        typer.Option(help="Class whose objects the masks number: each value but 0 is an object."),
    ] = None,
    every: Annotated[bool, EVERY] = False,
) -> None:
    """Make COCO instance and panoptic annotations from masks, and list likely mistakes."""
    from labkit.datasets.coco.export import export_coco as write
    from labkit.datasets.masks.mask_categories import read_mask_categories
    from labkit.datasets.masks.mask_folder import MaskFolder
    from labkit.datasets.sanity_checks import check_annotations as look
    from labkit.errors import LabkitError
    from labkit.system.message_text import counted, listed

    classes = read_mask_categories(categories)
    dataset = MaskFolder(images, masks, classes, suffix=mask_suffix, instances_of=instances_of)
    found = list(look(dataset))
    damaged = [finding.text for finding in found if finding.kind == "damaged"]
    if damaged:
        first = damaged if every else damaged[:10]
        more = [f"and {len(damaged) - len(first)} more; --all shows them"]
        lines = first + (more if len(damaged) > len(first) else [])
        raise LabkitError("\n".join(lines) + "\nnothing was written")
    empty = [finding for finding in found if finding.kind == "empty"]
    if len(empty) == len(dataset):
        known = [f"{c.name} {v}" for c, v in zip(dataset.categories, classes.codes, strict=True)]
        raise LabkitError(
            f"{masks}: no mask has a pixel of a category. {empty[0].image}: {empty[0].text}."
            f" The category file {categories} has {listed(known)}\nnothing was written"
        )
    write(dataset, out, split=split, polygons=polygons)
    _report(found, every)
    typer.echo(
        f"wrote {counted(len(dataset), 'image')} to {out}; {_next_step(dataset, out, split)}"
    )


LARGE = 200
"""Shorter side, in pixels, above which images are photographs: the lite presets resize these to
320, the tiny ones were trained on 128."""


def _next_step(dataset: Any, out: Path, split: str) -> str:
    """Suggest the next command: a training of a suitable model, or a look at a ``val`` split."""
    from statistics import median

    from labkit.datasets.image_files import read_header

    categories = dataset.categories
    data = f"coco_panoptic:{out}" if categories.stuff else f"coco:{out}"
    if split.startswith("train"):
        model = "panoptic_fpn" if categories.stuff else "mask_rcnn"
        if not categories.things:
            model = "fcn8_tiny"
        elif median(min(read_header(pair.image)[0]) for pair in dataset.pairs) > LARGE:
            model = f"{model}_lite --init imagenet"
        else:
            model = f"{model}_tiny --init {model}_tiny"
        return f"train with: labkit train {model} --data {data} --split {split} --out RUN"
    return f"look at them with: labkit data show {data} --split {split} --out {split}.png"


SHOWN_FINDINGS, SHOWN_OF_A_KIND = 20, 5


def _report(found: list[Any], every: bool) -> None:
    from collections import Counter

    seen: Counter[str] = Counter()
    shown: list[Any] = []
    for finding in found:
        seen[finding.kind] += 1
        few = seen[finding.kind] <= SHOWN_OF_A_KIND or len(found) <= SHOWN_FINDINGS
        if every or (few and len(shown) < SHOWN_FINDINGS):
            shown.append(finding)
    for finding in shown:
        typer.echo(f"{finding.image}: {finding.kind}: {finding.text}")
    if len(found) > len(shown):
        typer.echo(f"and {len(found) - len(shown)} more; --all shows them")
    typer.echo(", ".join(f"{n} {kind}" for kind, n in seen.most_common()) or "nothing suspicious")


@app.command()
def check(
    data: Annotated[str, DATA],
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    num: Annotated[int | None, typer.Option(min=1, help="Check the first N images only.")] = None,
    every: Annotated[bool, EVERY] = False,
) -> None:
    """Read every image and annotation of a data set; list damage and likely mistakes."""
    from labkit.datasets.registry import open_dataset
    from labkit.datasets.sanity_checks import check_annotations as look
    from labkit.errors import LabkitError
    from labkit.system.message_text import counted

    name = data_name(data, split)
    images = open_dataset(name, split)
    if not len(images):
        raise LabkitError(f"{name}, {split}: the split has no images")
    found = list(look(images, num))
    _report(found, every)
    typer.echo(
        f"{name}, {split}: {counted(len(images), 'image')},"
        f" {counted(len(images.categories), 'category', 'categories')}"
    )
    if any(finding.kind == "damaged" for finding in found):
        raise typer.Exit(1)


@app.command()
def show(
    data: Annotated[str, DATA],
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    num: Annotated[int, typer.Option(min=1, help="Number of images.")] = 12,
) -> None:
    """Draw a contact sheet: images with their names, each object in another colour."""
    from labkit.datasets.registry import open_dataset
    from labkit.datasets.sanity_checks import name_of
    from labkit.datasets.targets import annotation_of
    from labkit.errors import LabkitError
    from labkit.system.atomic_write import atomic_write
    from labkit.visualize import panels

    name = data_name(data, split)
    images = open_dataset(name, split)
    chosen = range(min(num, len(images)))
    if not chosen:
        raise LabkitError(f"{name}, {split}: the split has no images")
    items = []
    for i in chosen:
        image, target = images[i]
        items.append((name_of(images, i) or str(target["image_id"]), image, annotation_of(target)))
    figure = panels(items, images.categories, by_object=True, scores=False)
    with atomic_write(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    typer.echo(f"wrote {out}")
