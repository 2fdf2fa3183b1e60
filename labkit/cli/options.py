"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import torch

DEVICE = typer.Option(
    "--device",
    metavar="cpu|cuda[:N]",
    show_default="$LABKIT_DEVICE, or the GPU where there is one",
    help="Where to compute; cuda is a GPU of NVIDIA or AMD.",
)
THREADS = typer.Option(
    "--threads", min=1, show_default="$OMP_NUM_THREADS, or all cores", help="Threads on the CPU."
)
PRECISION = typer.Option(
    "--precision",
    metavar="float32|bfloat16|float16",
    show_default="$LABKIT_PRECISION, or float32; training on a GPU bfloat16",
    help="Of the network's layers; float16 on a GPU only.",
)

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
    from labkit.datasets.registry import recognised_formats

    name, *others = recognised_formats(data, split)
    if name != data:
        also = f"; {' or '.join(others)} is there, too" if others else ""
        typer.echo(f"{data} is read as {name}{also}", err=True)
    return name


def computing(device: str | None, threads: int | None, precision: str | None) -> torch.device:
    """The device that the three options choose; the threads are in force from here on.

    Raises:
        LabkitError: there is no such device, or it does not have the precision.
    """
    import torch

    from labkit.engine.precision import check_precision
    from labkit.system.distributed import default_device

    chosen = default_device(device)
    if precision is not None:
        check_precision(precision, chosen)
    if threads is not None:
        torch.set_num_threads(threads)
    return chosen


def kernel_options(
    device: str | None, threads: int | None, precision: str | None
) -> dict[str, str]:
    """The environment that carries the three options into the notebooks' kernels.

    Raises:
        LabkitError: as :func:`computing`.
    """
    from labkit.engine import precision as precisions
    from labkit.system import cpu_cores, distributed

    computing(device, None, precision)
    wanted = {distributed.VARIABLE: device, precisions.VARIABLE: precision}
    if threads is not None:
        wanted |= dict.fromkeys((cpu_cores.VARIABLE, *cpu_cores.LIBRARIES), str(threads))
    return {name: value for name, value in wanted.items() if value is not None}
