"""``labkit data``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from labkit.cli import completion
from labkit.cli.options import DOWNLOAD_FOLDER

app = typer.Typer(
    help="Data sets: fetch, make from masks, check, show, write.", no_args_is_help=True
)


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
    num: Annotated[int, typer.Option(help="How many images.")] = 500,
    split: Annotated[Split, typer.Option(help="Which part of the data set.")] = Split.val,
    crowded: Annotated[bool, typer.Option("--crowded", help="The harder variant.")] = False,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="Another seed is another data set.")] = 0,
) -> None:
    """Write a data set in COCO's instance and panoptic formats."""
    from labkit.datasets.export import export as write
    from labkit.datasets.shapes import Shapes

    write(Shapes(split.value, num, size, crowded, seed), out, split=split.value)
    typer.echo(f"wrote {num} images to {out}")


@app.command("list")
def list_(folder: Annotated[Path | None, DOWNLOAD_FOLDER] = None) -> None:
    """List the data sets that can be fetched, and which of them are here."""
    from rich.console import Console
    from rich.table import Table

    from labkit.datasets.download import catalogue, is_here
    from labkit.places import download_folder

    where = folder or download_folder()
    table = Table("name", "what", "MB", "licence", "here")
    for dataset in catalogue().values():
        size = "" if dataset.size is None else f"{dataset.size / 1e6:,.0f}"
        here = "yes" if is_here(dataset, where) else ""
        table.add_row(dataset.name, dataset.title, size, dataset.licence, here)
    Console().print(table)
    typer.echo(f"download folder: {where}")


@app.command()
def get(
    name: Annotated[
        str,
        typer.Argument(
            help="A name that `labkit data list` shows.", autocompletion=completion.datasets
        ),
    ],
    folder: Annotated[Path | None, DOWNLOAD_FOLDER] = None,
) -> None:
    """Fetch a data set: resumes, verifies, unpacks."""
    from labkit.datasets import download
    from labkit.places import download_folder
    from labkit.unknown_names import unknown_name

    known = download.catalogue()
    if name not in known:
        raise unknown_name("data set", name, known)
    home = download.get(known[name], folder or download_folder(), typer.echo)
    typer.echo(f"{name} is in {home}")


@app.command("from-masks")
def from_masks(
    images: Annotated[Path, typer.Argument(help="Folder of images.")],
    masks: Annotated[Path, typer.Argument(help="Folder of masks with the images' names.")],
    categories: Annotated[Path, typer.Option(help="JSON or TOML: name, isthing, value or color.")],
    out: Annotated[Path, typer.Option(help="A new folder, or one that holds other splits.")],
    split: Annotated[str, typer.Option(help="Its name in the files.")] = "train",
    polygons: Annotated[
        bool, typer.Option("--polygons", help="Objects as polygons where these are exact enough.")
    ] = False,
) -> None:
    """Make COCO instance and panoptic annotations of masks, and say which look like mistakes."""
    from labkit.datasets.export import export as write
    from labkit.datasets.mask_categories import read_mask_categories
    from labkit.datasets.mask_folder import MaskFolder
    from labkit.datasets.suspicious import check as look
    from labkit.errors import LabkitError

    dataset = MaskFolder(images, masks, read_mask_categories(categories))
    found = list(look(dataset))
    damaged = [finding.text for finding in found if finding.kind == "damaged"]
    if damaged:
        more = f"\nand {len(damaged) - 10} more" if len(damaged) > 10 else ""
        raise LabkitError("\n".join(damaged[:10]) + more + "\nnothing was written")
    write(dataset, out, split=split, polygons=polygons)
    _report(found)
    typer.echo(
        f"wrote {len(dataset)} images to {out}; train with: labkit train panoptic_fpn_tiny"
        f" --data coco_panoptic:{out} --split {split} --out RUN"
    )


SHOWN_FINDINGS = 20


def _report(found: list[Any]) -> None:
    from collections import Counter

    for finding in found[:SHOWN_FINDINGS]:
        typer.echo(f"{finding.image}: {finding.kind}: {finding.text}")
    if len(found) > SHOWN_FINDINGS:
        typer.echo(f"and {len(found) - SHOWN_FINDINGS} more")
    counts = Counter(finding.kind for finding in found)
    typer.echo(", ".join(f"{n} {kind}" for kind, n in counts.most_common()) or "nothing suspicious")


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="coco:DIR, coco_panoptic:DIR, shapes, ...")],
    split: Annotated[str, typer.Option(help="Which part of the data.")] = "train",
    num: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
) -> None:
    """Read every image and annotation of a data set; say what is damaged or looks wrong."""
    from labkit.datasets.named import dataset
    from labkit.datasets.suspicious import check as look

    images = dataset(data, split)
    found = list(look(images, min(num or len(images), len(images))))
    _report(found)
    typer.echo(f"{data}, {split}: {len(images)} images, {len(images.categories)} categories")
    if any(finding.kind == "damaged" for finding in found):
        raise typer.Exit(1)


@app.command()
def show(
    data: Annotated[str, typer.Argument(help="coco:DIR, coco_panoptic:DIR, shapes, ...")],
    out: Annotated[Path, typer.Option(help="The picture, a PNG.")],
    split: Annotated[str, typer.Option(help="Which part of the data.")] = "train",
    num: Annotated[int, typer.Option(help="How many images.")] = 12,
) -> None:
    """Draw a contact sheet: images with their annotations, names and outlines."""
    from labkit.datasets.named import dataset
    from labkit.datasets.targets import annotation_of
    from labkit.errors import LabkitError
    from labkit.visualize import panels

    images = dataset(data, split)
    items = [images[i] for i in range(min(num, len(images)))]
    if not items:
        raise LabkitError(f"{data}, {split}: there are no images")
    figure = panels(
        [(str(target["image_id"]), image, annotation_of(target)) for image, target in items],
        images.categories,
    )
    figure.savefig(out, dpi=110)
    typer.echo(f"wrote {out}")
