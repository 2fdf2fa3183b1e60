"""A GPU that is not there: the CPU computes what says ``cuda:0``, and may not meet it.

    with pretended_gpu():
        model.to(default_device())  # cuda:0
        model(images_left_on_the_cpu)  # DevicesMeet

Tensors that were left on the wrong device, and calls that a GPU's tensors do not have, are found so
on any machine. Speed, memory, kernels and their rounding are not: tests marked ``cuda`` look at
those. Autocast does nothing here. Its tensors stay readable after the block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from labkit.ops import roi_align_compiled

GPU = torch.device("cuda", 0)
META = torch.device("meta")
# C++ sees our tensors on "meta", and makes others like them there: x.to(ours).
MADE_LIKE = {"aten::_to_copy", "aten::scalar_tensor"}
BETWEEN_DEVICES = {"aten::_to_copy", "aten::copy_"}
# x[i] and x[i] = value: where in the arguments that value is.
INDEXING = {"aten::index": None, "aten::_unsafe_index": None, "aten::index_fill_": None}
INDEXING |= dict.fromkeys(("aten::index_put", "aten::index_put_", "aten::_index_put_impl_"), 2)


class DevicesMeet(RuntimeError):
    """A GPU would have refused: one of the tensors is on the CPU."""


class OnGPU(torch.Tensor):
    """A tensor of the pretended GPU; ``inner`` has its numbers, on the CPU."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGPU:
        # Shape and strides without numbers; autograd and autocast take it for the GPU's.
        outer = torch.empty_strided(
            inner.shape, inner.stride(), dtype=inner.dtype, layout=inner.layout, device="meta"
        )
        self: OnGPU = torch.Tensor._make_subclass(
            cls, outer, inner.requires_grad, device_for_backend_keys=GPU
        )
        self.inner = inner
        return self

    @property
    def device(self) -> torch.device:
        return GPU

    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return _run(operator, args, kwargs or {})

    def __repr__(self, **_):
        return f"OnGPU({self.inner!r})"

    def numpy(self, *, force=False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    def __format__(self, spec):
        return format(self.inner.detach(), spec)

    def __array__(self, *_, **__):
        return self.numpy()

    def tolist(self):
        return self.inner.tolist()

    def __getitem__(self, index):
        return torch.Tensor.__getitem__(self, _without_lists(index))

    def __setitem__(self, index, value):
        torch.Tensor.__setitem__(self, _without_lists(index), value)

    def new_tensor(self, data, *, dtype=None, device=GPU, requires_grad=False):
        return torch.tensor(data, dtype=dtype or self.dtype, device=device).requires_grad_(
            requires_grad
        )

    def __deepcopy__(self, memo):
        copied = OnGPU(self.inner.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    def __reduce_ex__(self, protocol):  # torch.save: a file knows the device that it was on
        return torch.Tensor.__reduce_ex__(self.inner, protocol)


def _without_lists(index):
    """C++ would make a tensor of a list where it believes ours to be, without numbers."""
    if isinstance(index, tuple):
        return tuple(_without_lists(part) for part in index)
    return torch.tensor(index) if isinstance(index, list) else index


def _run(operator, args, kwargs):
    """Run an operator on the inner tensors, if a GPU would."""
    name = operator._schema.name
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    theirs = [x for x in tensors if isinstance(x, OnGPU)]
    if theirs and name not in BETWEEN_DEVICES:
        _refuse_mixture(name, args, tensors)
    device = kwargs.get("device")
    if name == "aten::copy_":
        stays = isinstance(args[0], OnGPU)
    else:
        stays = bool(theirs) if device is None else device.type == "cuda"
        stays |= device == META and (bool(theirs) or name in MADE_LIKE)
    if name == "aten::is_pinned":
        return False
    if name == "aten::_pin_memory":
        return args[0].clone()
    inner_kwargs = tree_map(_inner, kwargs)
    if stays and device is not None:
        inner_kwargs["device"] = torch.device("cpu")
    inner_kwargs.pop("pin_memory", None)
    result = operator(*tree_map(_inner, args), **inner_kwargs)
    if not stays or name == "aten::_local_scalar_dense":
        return result
    if operator._schema.name.endswith("_") and isinstance(result, torch.Tensor):
        return args[0]  # in place
    outputs = {id(x.inner): x for x in theirs}

    def outer(x):
        if not isinstance(x, torch.Tensor):
            return x
        return outputs[id(x)] if id(x) in outputs else OnGPU(x)

    return tree_map(outer, result)


def _refuse_mixture(name, args, tensors) -> None:
    """A GPU's kernels take CPU tensors of one number, and CPU tensors as an index."""
    if name in INDEXING:
        if not isinstance(args[0], OnGPU):
            raise DevicesMeet(f"{name}: a tensor on the CPU is indexed by one on the GPU")
        value = INDEXING[name]
        tensors = [] if value is None else [args[value]]
    joined = name in {"aten::cat", "aten::stack"}
    for x in tensors:
        if not isinstance(x, OnGPU) and (x.ndim > 0 or joined):
            raise DevicesMeet(f"{name}: a tensor {tuple(x.shape)} {x.dtype} is on the CPU")


def _inner(x):
    if isinstance(x, OnGPU):
        return x.inner
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == "cuda" else x


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return _run(operator, args, kwargs or {})


@contextlib.contextmanager
def pretended_gpu(bfloat16: bool = True) -> Iterator[torch.device]:
    """Inside, torch has one GPU.

    Args:
        bfloat16: whether it computes in bfloat16, as GPUs since 2020 do.
    """
    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: "pretended GPU",
        "is_bf16_supported": lambda including_emulation=True: bfloat16,
        "synchronize": lambda device=None: None,
        "_lazy_init": lambda: None,
    }
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    lift = torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        # Compiled for the CPU, on which everything is computed.
        here = roi_align_compiled.operator_available("cpu")
        stack.enter_context(
            mock.patch.object(roi_align_compiled, "operator_available", return_value=here)
        )
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        # torch.tensor(..., device="cuda") makes a CPU tensor and moves it where the mode sees it.
        stack.callback(torch._C._set_only_lift_cpu_tensors, lift)
        torch._C._set_only_lift_cpu_tensors(True)
        torch._C._ensureCUDADeviceGuardSet()
        stack.enter_context(_Mode())
        yield GPU
