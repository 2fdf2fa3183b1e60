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
