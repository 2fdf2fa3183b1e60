"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import torch

DEVICE = typer.Option(
    "--device",
    metavar="cpu|cuda[:N]",
    show_default="$LABKIT_DEVICE, or the GPU if there is one",
    help="Device to compute on; cuda is a GPU of NVIDIA or AMD.",
)
THREADS = typer.Option(
    "--threads", min=1, show_default="$OMP_NUM_THREADS, or all cores", help="CPU threads."
)
PRECISION = typer.Option(
    "--precision",
    metavar="float32|bfloat16|float16",
    show_default="$LABKIT_PRECISION, or float32; bfloat16 for training on a GPU",
    help="Precision of the network's layers; float16 on a GPU only.",
)

MODEL = (
    "Folder of a run, a name of `labkit zoo list`, or a checkpoint file of Detectron2 (its"
    " config.yaml beside it), torchvision, DETR or UPSNet."
)
CATEGORIES = typer.Option(
    "--categories",
    metavar="FILE",
    help="COCO JSON file with the classes of a checkpoint file that does not name them.",
)

DOWNLOAD_FOLDER = typer.Option(
    "--dir",
    metavar="FOLDER",
    show_default="$LABKIT_DOWNLOADS, or the folder of the checkout or the user",
    help="Download folder.",
)

LARGEST_UPLOAD = 200 * 2**20
"""Limit of the bytes in one message from a browser to an app. Above tornado's limit of 10 MB, the
connection is closed without a message; a photograph of 50 megapixels has about 20 MB."""


def data_name(data: str, split: str) -> str:
    """Resolve ``--data`` to a name of a data set; recognise and print the format of a folder."""
    from labkit.datasets.registry import recognised_formats

    name, *others = recognised_formats(data, split)
    if name != data:
        also = f"; {' or '.join(others)} is also possible" if others else ""
        typer.echo(f"{data} is read as {name}{also}", err=True)
    return name


def computing(device: str | None, threads: int | None, precision: str | None) -> torch.device:
    """Choose the device of the three options, and set the number of threads.

    Raises:
        LabkitError: the device does not exist, or does not support the precision.
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
    """Environment variables that pass the three options to the notebooks' kernels.

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
