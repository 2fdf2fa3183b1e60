"""``labkit build``: compile the operator ahead of its first use."""

from __future__ import annotations

import typer


def build() -> None:
    """Compile RoIAlign for this machine's CPU, and for its GPU if it has one.

    Otherwise it is compiled at first use. To compile for a GPU of another
    machine, set its architecture in TORCH_CUDA_ARCH_LIST (such as 9.0) or
    PYTORCH_ROCM_ARCH (such as gfx90a).
    """
    import os

    import torch

    from labkit.ops.build_kernels import Backend, BuildError, build_kernels, gpu_backend

    named = os.environ.get("TORCH_CUDA_ARCH_LIST") or os.environ.get("PYTORCH_ROCM_ARCH")
    with_gpu = bool(named) or torch.cuda.is_available()
    backends: list[Backend] = ["cpu", gpu_backend()] if with_gpu else ["cpu"]
    for backend in backends:
        try:
            built = build_kernels(backend)
        except BuildError as error:
            typer.echo(error.log, err=True)
            raise
        took = f"compiled in {built.seconds:.1f} s" if built.seconds else "already built"
        typer.echo(f"{backend}: {took}: {built.path}")
        if built.note:
            typer.echo(f"{backend}: {built.note}", err=True)
