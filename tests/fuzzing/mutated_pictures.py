"""Pictures to other pictures, and to files that are nearly pictures."""

from __future__ import annotations

import io
import struct
import zlib
from random import Random

import numpy as np
from fuzzing.mutated_values import damaged_bytes
from PIL import Image

PNG_BEGIN = b"\x89PNG\r\n\x1a\n"


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, start = [], len(PNG_BEGIN)
    while start + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        found.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + length]))
        start += 12 + length
    return found


def _of_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [PNG_BEGIN]
    for kind, data in chunks:
        checksum = zlib.crc32(kind + data)
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))
    return b"".join(parts)


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


def damaged_png(random: Random, content: bytes) -> bytes:
    """A PNG with a chunk changed and its checksum right, so that the decoder sees it."""
    chunks = _chunks(content) if content.startswith(PNG_BEGIN) else []
    if not chunks or random.random() < 0.2:
        return damaged_bytes(random, content)
    place = random.randrange(len(chunks))
    kind, data = chunks[place]
    change = random.randrange(8)
    if change <= 1 and chunks[0][0] == b"IHDR" and len(chunks[0][1]) == 13:
        header = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        field = random.randrange(7)
        many = (0, 1, 2, header[0] + 1, header[1] * 7, 20_000, 60_000, 2**20, 2**31 - 1, 2**32 - 1)
        header[field] = random.choice(many if field < 2 else (0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *header))
    elif change == 2:
        del chunks[place]
    elif change == 3:
        chunks.insert(random.randrange(len(chunks) + 1), (kind, data))
    elif change == 4:
        more = {
            b"eXIf": random.choice((_exif(random.randrange(10)), random.randbytes(30), b"")),
            b"tRNS": random.randbytes(random.choice((0, 1, 2, 6, 256, 300))),
            b"PLTE": random.randbytes(random.choice((0, 3, 4, 768, 900))),
            b"acTL": struct.pack(">II", random.choice((0, 2, 2**31)), 0),
            b"fcTL": random.randbytes(26),
            b"zTXt": b"a\0\0" + zlib.compress(bytes(random.choice((10, 70_000_000)))),
            b"iCCP": b"a\0\0" + zlib.compress(random.randbytes(200)),
            b"gAMA": struct.pack(">I", random.choice((0, 1, 45455, 2**31))),
            b"ABCD": b"critical and unknown",
            b"IDAT": b"",
        }
        name = random.choice(sorted(more))
        chunks.insert(random.randrange(len(chunks) + 1), (name, more[name]))
    elif change == 5:
        chunks[place] = (kind, damaged_bytes(random, data))
    elif change == 6:
        pixels = b"".join(data for kind, data in chunks if kind == b"IDAT")
        try:
            raw = zlib.decompress(pixels)
        except zlib.error:
            return damaged_bytes(random, content)
        raw = random.choice((damaged_bytes(random, raw), raw * 2, raw[: len(raw) // 2], b""))
        chunks = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
        chunks.insert(-1, (b"IDAT", zlib.compress(raw)))
    else:
        other = random.randrange(len(chunks))
        chunks[place], chunks[other] = chunks[other], chunks[place]
    return _of_chunks(chunks)


def redrawn(random: Random, content: bytes) -> bytes:
    """The same picture as another program might write it: mode, format, size, channels, EXIF."""
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except Exception:  # damaged before, whatever Pillow says
        return damaged_bytes(random, content)
    kind = random.randrange(5)
    form, options = "PNG", {}
    if kind == 0:
        modes = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I")
        mode = random.choice(modes)
        picture = picture.convert("RGB").convert("L" if mode.startswith("I") else mode)
        if mode.startswith("I"):
            picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    elif kind == 1:
        width, height = picture.size
        sizes = ((height, width), (1, 1), (width + 1, height), (width, 3 * height), (5000, 1))
        picture = picture.resize(random.choice(sizes), Image.Resampling.NEAREST)
    elif kind == 2:
        pixels = np.array(picture)
        flat = pixels.reshape(-1)
        change = random.randrange(4)
        if change == 0 and pixels.ndim == 3:
            pixels = np.ascontiguousarray(pixels[..., ::-1])
        elif change == 1:
            flat[random.randrange(flat.size)] = random.choice((0, 1, 7, 200, 255))
        elif change == 2:
            flat[:] = random.choice((0, 1, 255))
        else:
            flat[:] = np.frombuffer(random.randbytes(flat.nbytes), flat.dtype)
        picture = Image.fromarray(pixels)
    elif kind == 3:
        options["exif"] = _exif(random.randrange(10))
    else:
        form = random.choice(
            ("JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "ICO", "JPEG2000", "TGA")
        )
        if form == "TIFF" and random.random() < 0.5:
            picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.float32) / 255)
        elif form not in ("TIFF", "GIF", "ICO"):
            picture = picture.convert("RGB")
    target = io.BytesIO()
    try:
        picture.save(target, form, **options)
    except (OSError, ValueError):  # a mode or a size that the form does not have
        target = io.BytesIO()
        picture.save(target, "TIFF")
    return target.getvalue()


def damaged_picture(random: Random, content: bytes) -> bytes:
    """A picture that is another one, or whose file is damaged."""
    return redrawn(random, content) if random.random() < 0.5 else damaged_png(random, content)
