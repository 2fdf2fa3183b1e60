"""Options that several commands share."""

import typer

DOWNLOAD_FOLDER = typer.Option(
    "--dir",
    metavar="FOLDER",
    show_default="$LABKIT_DOWNLOADS, or that of the checkout or the user",
    help="The download folder.",
)

LARGEST_UPLOAD = 200 * 2**20
"""Bytes that a browser may send to an app at once; tornado's own limit is 10 MB, above which the
connection is closed without a word. A photograph of 50 megapixels has some 20 MB."""


def data_name(data: str, split: str) -> str:
    """The data set that ``--data`` means; the format of a folder is recognised, and said."""
    from labkit.datasets.named import recognised

    name, *others = recognised(data, split)
    if name != data:
        also = f"; {' or '.join(others)} is there, too" if others else ""
        typer.echo(f"{data} is read as {name}{also}", err=True)
    return name
