"""Safe unpickling: reads other projects' checkpoints without running code from them.

A pickle is a small program: it names functions and has them called. The published ``.pkl`` files
need a few harmless ones, to rebuild NumPy arrays, so those are all that :func:`read_pickle`
knows, and each is a stand-in written here. NumPy's own would not do: they take a file's word for
the layout of an array's memory, which a hostile file can use to corrupt it.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch

from labkit.errors import LabkitError

ENTRIES = ("model", "state_dict", "model_state_dict", "model_state", "net", "weights")
"""Keys under which training scripts store a model's state dict."""
WRAPPERS = ("module.", "_orig_mod.")
PLAIN = frozenset("fiub")
"""NumPy type kinds of numbers and bools; all others are refused."""


def read_pickle(path: Path) -> Any:
    """Read a pickle of dictionaries, lists, numbers, text and numeric arrays.

    Text that Python 2 wrote is read as Latin-1, as the published files ask for.

    Args:
        path: the file.

    Returns:
        The object, arrays as writable ``np.ndarray`` of the type the file has.

    Raises:
        LabkitError: the file is missing, is no pickle, is damaged, or asks for anything beyond
            arrays. Nothing that the file names has been imported or called.
    """
    try:
        with path.open("rb") as file:
            return _with_arrays(_ArrayUnpickler(path, file).load(), {})
    except LabkitError:
        raise
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # damaged bytes fail in as many ways as an unpickler has steps
        raise _damaged(path, "a pickle", error) from None


class _ArrayUnpickler(pickle._Unpickler):
    """Unpickler that allows the globals of arrays only and refuses others before any import.

    The one written in Python: C's makes room for as many remembered objects as a file of a few
    bytes asks for.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        self.path = path
        self.known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): _encode,
            ("__builtin__", "bytes"): _no_bytes,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Type,
            ("argparse", "Namespace"): _Namespace,
        }
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before and since 2.0
            self.known[module, "_reconstruct"] = _reconstruct
            self.known[module, "scalar"] = _scalar

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.known[module, name]
        except KeyError:
            raise LabkitError(
                f"{self.path}: refused: it asks for {module}.{name}, which weights do not need. A"
                " file that names other functions than NumPy's arrays can run code; nothing of it"
                " was run"
            ) from None

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside itself")

    def _refuse_byte_array(self) -> None:
        # It would be allocated with the length in the file before any byte is read.
        raise pickle.UnpicklingError("it holds a byte array; weights are numbers")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: _refuse_byte_array,
    }


class _Type:
    """Replacement of ``np.dtype`` for plain numbers only."""

    __slots__ = ("dtype",)

    def __init__(self, spec: str, align: bool = False, copy: bool = False) -> None:
        dtype = np.dtype(str(spec))
        if dtype.kind not in PLAIN:
            raise pickle.UnpicklingError(f"it holds an array of {dtype}; weights are numbers")
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, then the fields of structured types, which are refused above)
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")

    def read(self, content: bytes | str, shape: tuple[int, ...], fortran: bool) -> np.ndarray:
        # A pickle of Python 2 has bytes as text.
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        if len(raw) != math.prod(shape) * self.dtype.itemsize:
            raise pickle.UnpicklingError(f"{len(raw)} bytes for an array {shape} of {self.dtype}")
        array = np.frombuffer(raw, self.dtype).reshape(shape, order="F" if fortran else "C")
        return array.astype(self.dtype.newbyteorder("="), order="C")


class _Array:
    """Replacement of ``np.ndarray`` while a pickle is read; ``value`` is the finished array."""

    __slots__ = ("value",)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Type, bool, bytes | str]) -> None:
        _version, shape, kind, fortran, content = state
        if not isinstance(content, bytes | bytearray | str):
            raise pickle.UnpicklingError("it holds an array of objects; weights are numbers")
        self.value = kind.read(content, tuple(shape), fortran)


class _Namespace:
    """Replacement of ``argparse.Namespace``, a training script's options: names and values only."""


def _reconstruct(_class: type, _shape: tuple[int, ...], _kind: bytes) -> _Array:
    return _Array()


def _scalar(kind: _Type, content: bytes | str) -> Any:
    return kind.read(content, (), False)[()]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Decode bytes as protocol 2 stores them; other encodings would import a codec module."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Return the bytes of an array without elements, as protocol 2 stores them."""
    return b""


def _with_arrays(value: Any, done: dict[int, Any]) -> Any:
    """Copy containers and put the arrays in the place of their replacements.

    Args:
        value: of the unpickler.
        done: what is converted already, by identity: a few lists that hold each other twice are
            many when each is converted wherever it stands.
    """
    if isinstance(value, _Array):
        return value.value
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _Namespace):
        found: Any = argparse.Namespace(**_with_arrays(vars(value), done))
    elif isinstance(value, dict):
        found = {key: _with_arrays(entry, done) for key, entry in value.items()}
    elif isinstance(value, list | tuple):
        found = type(value)(_with_arrays(entry, done) for entry in value)
    elif isinstance(value, type) or callable(value):
        raise pickle.UnpicklingError("it holds a function in the place of a value")
    else:
        return value
    done[id(value)] = found
    return found


def read_torch(path: Path) -> Any:
    """Read a file of ``torch.save``, with tensors on the CPU.

    Args:
        path: the file.

    Returns:
        The object: containers of tensors, numbers and text.

    Raises:
        LabkitError: the file is missing, damaged, or asks for anything beyond tensors. Nothing
            that the file names has been imported or called.
    """
    try:
        path.open("rb").close()  # torch reports a damaged file as one that cannot be read
    except OSError as error:
        raise LabkitError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        # The options that training scripts put beside the weights: names and values, no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as many ways here
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise LabkitError(
                f"{path}: refused: it asks for {asked[1]}, which weights do not need; nothing of it"
                ' was run. Save the weights alone: torch.save({"model": model.state_dict()}, PATH)'
            ) from None
        raise _damaged(path, "a file of torch.save", error) from None


def read_checkpoint(path: Path) -> Any:
    """Read a checkpoint: a plain pickle, as Detectron2 publishes them, or a file of ``torch.save``.

    Raises:
        LabkitError: as :func:`read_pickle` and :func:`read_torch`.
    """
    pickled = path.suffix == ".pkl" and not zipfile.is_zipfile(path)
    return read_pickle(path) if pickled else read_torch(path)


def read_state_dict(path: Path) -> dict[str, Any]:
    """Read a state dict that ``torch.save`` wrote: tensors by name.

    Raises:
        LabkitError: as :func:`read_torch` and :func:`state_dict_of`.
    """
    return state_dict_of(path, read_torch(path))


def state_dict_of(path: Path, content: Any) -> dict[str, Any]:
    """Return the state dict in the content of a checkpoint.

    Training scripts write the state dict as one entry of several, and what wraps a model puts a
    word before every name; both are taken off.

    Args:
        path: the file, for messages.
        content: of :func:`read_checkpoint`.

    Raises:
        LabkitError: there is no state dict.
    """
    if not isinstance(content, dict):
        raise LabkitError(f"{path}: holds a {type(content).__name__}, not a state dict")
    if not _is_state_dict(content):
        inner = next((content[name] for name in ENTRIES if _is_state_dict(content.get(name))), None)
        if inner is None:
            found = ", ".join(map(name_of, list(content)[:5])) or "nothing"
            raise LabkitError(
                f"{path}: holds no state dict: neither tensors by name nor an entry "
                f"{', '.join(ENTRIES)} with them; it holds {found}. Save it with "
                'torch.save({"model": model.state_dict()}, PATH)'
            )
        content = inner
    return without_wrapper(content)


def without_wrapper(weights: Mapping[Any, Any]) -> dict[str, Any]:
    """Remove the prefix of data-parallel or compiled wrappers from the names of weights.

    ``nn.DataParallel`` and ``DistributedDataParallel`` put ``module.`` before every name,
    ``torch.compile`` puts ``_orig_mod.``.
    """
    plain = {name_of(key): value for key, value in weights.items()}
    for word in WRAPPERS * 2:  # one may be around the other, in either order
        if plain and all(name.startswith(word) for name in plain):
            plain = {name.removeprefix(word): value for name, value in plain.items()}
    return plain


def name_of(key: Any) -> str:
    """Return a key of a file's dictionary as text, whatever it is."""
    try:
        return str(key)
    except ValueError:  # an integer of more digits than Python prints
        return f"a number of {key.bit_length()} bits"


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(value, torch.Tensor | np.ndarray) for value in content.values())
    )


def _damaged(path: Path, expected: str, error: Exception) -> LabkitError:
    """Build the error for an unreadable file; it recognises common wrong files."""
    with path.open("rb") as file:
        start = file.read(256)
    if not start:
        return LabkitError(f"{path}: the file is empty; fetch it again")
    if start.lstrip()[:1] == b"<":
        return LabkitError(
            f"{path}: this is a web page, not a checkpoint (a login or an error page in its"
            " place?); fetch it again"
        )
    if all(0x20 <= byte < 0x7F or byte in b"\t\n\r" for byte in start):
        return LabkitError(f"{path}: this is a text file, not a checkpoint")
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return LabkitError(f"{path}: damaged or not {expected} ({reason}); fetch it again")
