"""``labkit build``: compile what labkit compiles ahead of its first use."""

from __future__ import annotations

import typer


def build() -> None:
    """Compile RoIAlign and the reader of panoptic PNGs for this machine.

    Otherwise they are compiled at first use. RoIAlign is compiled for the CPU,
    and for the GPU if there is one. To compile for a GPU of another machine,
    set its architecture in TORCH_CUDA_ARCH_LIST (such as 9.0) or
    PYTORCH_ROCM_ARCH (such as gfx90a).
    """
    import os

    import torch

    from labkit.datasets.coco import compiled_maps
    from labkit.ops.build_kernels import build_kernels, gpu_backend
    from labkit.system.compiled_library import BuildError

    named = os.environ.get("TORCH_CUDA_ARCH_LIST") or os.environ.get("PYTORCH_ROCM_ARCH")
    with_gpu = bool(named) or torch.cuda.is_available()
    builders = {"cpu": lambda: build_kernels("cpu"), "panoptic PNGs": compiled_maps.build}
    if with_gpu:
        builders[gpu_backend()] = lambda: build_kernels(gpu_backend())
    for name, build_it in builders.items():
        try:
            built = build_it()
        except BuildError as error:
            typer.echo(error.log, err=True)
            raise
        took = f"compiled in {built.seconds:.1f} s" if built.seconds else "already built"
        typer.echo(f"{name}: {took}: {built.path}")
        if built.note:
            typer.echo(f"{name}: {built.note}", err=True)
