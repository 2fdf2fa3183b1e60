"""Zip files and checkpoints with something wrong inside, and right checksums and lengths around."""

from __future__ import annotations

import copy
import io
import pickle
import pickletools
import re
import struct
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from fuzzing.mutated_values import damaged_bytes, damaged_json, damaged_tree


def damaged_zip(
    random: Random, content: bytes, damaged_file: Callable[[Random, str, bytes], bytes]
) -> bytes:
    """A zip file with a member changed, renamed, doubled or packed otherwise, or bytes changed."""
    if random.random() < 0.3:
        return damaged_bytes(random, content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
    except Exception:  # damaged before
        return damaged_bytes(random, content)
    if not members:
        return damaged_bytes(random, content)
    place = random.randrange(len(members))
    info, data = members[place]
    change = random.randrange(9)
    if change <= 2:
        members[place] = (info, damaged_file(random, info.filename, data))
    elif change == 3:
        names = ("../x.ipynb", "/x.ipynb", "a\\b.ipynb", "C:x.ipynb", ".ipynb", "", "x" * 60_000)
        more = ("a/" * 3000 + "x.ipynb", "é.ipynb", "a\nb.ipynb", "x.zip", "__MACOSX/x.ipynb", "a/")
        named = copy.copy(info)
        named.filename = random.choice((*names, *more))
        members[place] = (named, data)
    elif change == 4:
        del members[place]
    elif change == 5:
        members.append((copy.copy(info), random.choice((data, damaged_bytes(random, data)))))
    elif change == 6:
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner.zip" if random.random() < 0.3 else "inner.ipynb", content)
            archive.writestr("big.ipynb", bytes(random.choice((10, 3_000_000))))
        members.append((zipfile.ZipInfo("nested/pack.zip"), inner.getvalue()))
    elif change == 7:
        changed = copy.copy(info)
        changed.external_attr = random.choice((0, 0xA1FF0000, 0x10, 2**32 - 1))
        changed.date_time = random.choice(((1980, 1, 1, 0, 0, 0), (2107, 15, 31, 31, 63, 62)))
        members[place] = (changed, data)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for info, data in members:
            packing = random.choice((0, 8, 8, 12, 14)) if change == 8 else info.compress_type
            archive.writestr(info, data, compress_type=packing)
    packed = bytearray(target.getvalue())
    if random.random() < 0.3:  # what the archive says of its members: flags, packing, sizes, names
        starts = [match.start() for match in re.finditer(rb"PK\x01\x02|PK\x03\x04", bytes(packed))]
        at = random.choice(starts or [0]) + random.randrange(4, 46)
        packed[at : at + 1] = bytes([random.randrange(256)])
    return bytes(packed)


def damaged_safetensors(random: Random, content: bytes) -> bytes:
    """A safetensors file with its header's tree changed and its length right, or bytes changed."""
    if random.random() < 0.3 or len(content) < 8:
        return damaged_bytes(random, content)
    (length,) = struct.unpack_from("<Q", content)
    header = damaged_json(random, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


OPCODES = (
    *(
        b"N",
        b"K\x00",
        b"J\xff\xff\xff\x7f",
        b"I0\n",
        b"(",
        b"}",
        b"]",
        b")",
        b"\x88",
        b"0",
        b"1",
        b"2",
    ),
    *(
        b"(lp0\n",
        b"X\0\0\0\0",
        b"\x8c\x01a",
        b"T\xff\xff\xff\xff",
        b"B\xff\xff\xff\x7f",
        b"a",
        b"s",
    ),
    *(b"cos\nsystem\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cargparse\nNamespace\n", b"u"),
    *(
        b"R",
        b"b",
        b"\x81",
        b"\x93",
        b"Q",
        b"h\x00",
        b"r\xff\xff\xff\x7f",
        b"j\xff\xff\xff\x7f",
        b"t",
    ),
    *(b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8e\xff\xff\xff\xff\xff\xff\x00\x00", b"."),
    *(
        b"\x8b\xff\xff\xff\x7f",
        b"L" + b"9" * 5000 + b"L\n",
        b"G\x7f\xf8\0\0\0\0\0\0",
        b"\x94",
        b"P1\n",
    ),
)
"""Single steps of a pickle, and the beginnings of some that promise much."""


class _Plain(pickle.Unpickler):
    """Reads the valid files of the readers, and nothing that a damage could make of them."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in ("numpy", "argparse", "collections", "_codecs", "torch"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(name)


def damaged_pickle(random: Random, content: bytes) -> bytes:
    """A pickle with a value or a step of it changed, or with bytes changed."""
    kind = random.random()
    if kind < 0.2:
        return damaged_bytes(random, content)
    if kind < 0.6:
        try:
            tree = _Plain(io.BytesIO(content), encoding="latin1").load()
            return pickle.dumps(_with_arrays(random, tree), random.randrange(5))
        except Exception:  # damaged before, or what cannot be pickled
            return damaged_bytes(random, content)
    try:
        starts = [place for _, _, place in pickletools.genops(content) if place is not None]
    except Exception:  # damaged before
        return damaged_bytes(random, content)
    steps = [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]
    place, other = random.randrange(len(steps)), random.randrange(len(steps))
    change = random.randrange(5)
    if change == 0:
        del steps[place]
    elif change == 1:
        steps[place] = random.choice(OPCODES)
    elif change == 2:
        steps.insert(place, random.choice(OPCODES))
    elif change == 3:
        steps[place] = steps[other]
    else:
        steps[place] = damaged_bytes(random, steps[place])
    return b"".join(steps)


def damaged_torch(
    random: Random, content: bytes, damaged_file: Callable[[Random, str, bytes], bytes]
) -> bytes:
    """A file of torch.save with a value changed, or the file itself."""
    import torch  # here: most processes damage other files

    if random.random() < 0.5:
        return damaged_zip(random, content, damaged_file)
    target = io.BytesIO()
    try:
        with torch.serialization.safe_globals([Namespace]):
            tree = torch.load(io.BytesIO(content), weights_only=True)
        torch.save(_with_arrays(random, tree), target)
    except Exception:  # damaged before, or what cannot be saved
        return damaged_bytes(random, content)
    return target.getvalue()


def _with_arrays(random: Random, tree: Any) -> Any:
    """A tree with one place changed; in half of the cases that is an array."""
    import torch

    owners = [tree, *(v for v in tree.values() if isinstance(v, dict))] if tree else []
    owners = [
        o for o in owners if any(isinstance(v, np.ndarray | torch.Tensor) for v in o.values())
    ]
    if not owners or random.random() < 0.5:
        return damaged_tree(random, tree)
    tree = copy.deepcopy(tree)
    owners = [tree, *(v for v in tree.values() if isinstance(v, dict))]
    places = [
        (o, k) for o in owners for k, v in o.items() if isinstance(v, np.ndarray | torch.Tensor)
    ]
    owner, key = random.choice(places)
    value = torch.as_tensor(owner[key])
    array = isinstance(owner[key], np.ndarray)
    changed = random.choice(
        (
            lambda: value.double(),
            lambda: value.half(),
            lambda: value.long(),
            lambda: value.bool(),
            lambda: value.to(torch.complex64),
            lambda: value.reshape(-1),
            lambda: value[..., None],
            lambda: value[:0],
            lambda: value.reshape(-1)[0],
            lambda: value * float("nan"),
            lambda: value.t() if value.ndim == 2 else value.flip(0),
            lambda: value[:1].expand(value.shape),
            lambda: torch.zeros(0),
            lambda: value if array else value.to_sparse(),
            lambda: value if array else value.bfloat16(),
            lambda: value if array else value.to("meta"),
            lambda: value if array else torch.nn.Parameter(value.float()),
            lambda: (
                value if array else torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8)
            ),
        )
    )()
    owner[key] = changed.numpy() if array else changed
    if array and random.random() < 0.3:
        odd = (np.array(["a", "b"]), np.array([None]), np.zeros(2, "f4,i4"), np.zeros(2, "M8[s]"))
        owner[key] = random.choice(
            (*odd, owner[key].astype(">f8"), np.float32(1), OrderedDict(a=1))
        )
    return tree
