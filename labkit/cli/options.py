"""Options that several commands share."""

import typer

DOWNLOAD_FOLDER = typer.Option(
    "--dir",
    metavar="FOLDER",
    show_default="$LABKIT_DOWNLOADS, or data/downloads of the checkout",
    help="The download folder.",
)
