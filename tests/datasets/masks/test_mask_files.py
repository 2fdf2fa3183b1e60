"""Every way in which programs keep a mask gives the same mask, or a refusal that names it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFilter

from labkit.datasets.masks.mask_files import TRANSPARENT, packed, read_codes, read_object
from labkit.errors import LabkitError

CODES = np.zeros((24, 32), np.uint8)
CODES[3:12, 4:14], CODES[8:20, 18:30] = 1, 2
WHERE = CODES == 1
SIZE = CODES.shape
COLORS = {1: (220, 60, 40), 2: (40, 90, 220)}


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def _read(path, image, colors=False):
    labels = {packed(COLORS[k]) for k in COLORS} if colors else {1, 2}
    return read_codes(path, SIZE, image, colors, frozenset(labels), frozenset({0, 255}))


def _palette(numbers, colors):
    picture = Image.fromarray(numbers, "L")
    picture = picture.convert("P")
    picture.putdata(numbers.ravel().tolist())
    picture.putpalette([v for color in colors for v in color])
    return picture


def _few_bits(path, codes, bits):
    """A grey PNG of so many bits, which Pillow reads and does not write."""
    per_byte = 8 // bits
    rows = codes.reshape(len(codes), -1, per_byte).astype(np.uint16)
    shifts = bits * np.arange(per_byte - 1, -1, -1)
    packed_rows = (rows << shifts).sum(axis=2).astype(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in packed_rows)
    header = struct.pack(">IIBBBBB", codes.shape[1], codes.shape[0], bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "I", "P"])
def test_values_of_every_mode(tmp_path, image, mode):
    picture = Image.fromarray(CODES)
    if mode == "I;16":
        picture = Image.fromarray(CODES.astype(np.uint16))
    elif mode == "I":
        picture = Image.fromarray(CODES.astype(np.int32))
    elif mode == "P":
        picture = _palette(CODES, [(0, 0, 0), *COLORS.values()])
    else:
        picture = picture.convert(mode)
    name = "x.tif" if mode == "I" else "x.png"
    picture.save(tmp_path / name)
    assert np.array_equal(_read(tmp_path / name, image), CODES)


@pytest.mark.parametrize("bits", [2, 4])
def test_values_of_few_bits_are_not_spread(tmp_path, image, bits):
    _few_bits(tmp_path / "x.png", CODES, bits)
    assert np.array_equal(_read(tmp_path / "x.png", image), CODES)


def test_a_palette_that_packs_greys_is_read_by_its_greys(tmp_path, image):
    order = np.array([2, 0, 1], np.uint8)  # number of each value
    _palette(order[CODES], [(1, 1, 1), (2, 2, 2), (0, 0, 0)]).save(tmp_path / "x.png")
    assert np.array_equal(_read(tmp_path / "x.png", image), CODES)
    # Greys to look at, which are no classes: the numbers count.
    _palette(CODES, [(0, 0, 0), (120, 120, 120), (255, 255, 255)]).save(tmp_path / "x.png")
    assert np.array_equal(_read(tmp_path / "x.png", image), CODES)
    _palette(CODES // 2, [(0, 0, 0), (255, 255, 255)]).save(tmp_path / "x.png")
    assert np.array_equal(_read(tmp_path / "x.png", image), CODES // 2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_every_mode(tmp_path, image, mode):
    table = np.array([(0, 0, 0), *COLORS.values()], np.uint8)
    picture = Image.fromarray(table[CODES]).convert(mode if mode != "P" else "RGB")
    if mode == "P":
        picture = _palette((CODES + 1) % 3, [COLORS[2], (0, 0, 0), COLORS[1]])
    picture.save(tmp_path / "x.png")
    wanted = np.array([0, *map(packed, COLORS.values())])[CODES]
    assert np.array_equal(_read(tmp_path / "x.png", image, colors=True), wanted)


def test_what_is_transparent_is_not_there(tmp_path, image):
    rgba = np.zeros((*SIZE, 4), np.uint8)
    rgba[..., :3], rgba[WHERE, 3] = COLORS[1], 255
    Image.fromarray(rgba).save(tmp_path / "x.png")
    codes = _read(tmp_path / "x.png", image, colors=True)
    assert np.array_equal(codes, np.where(WHERE, packed(COLORS[1]), TRANSPARENT))
    rgba[0, 0, 3] = 100
    Image.fromarray(rgba).save(tmp_path / "x.png")
    with pytest.raises(LabkitError, match=r"x\.png: has half transparent pixels"):
        _read(tmp_path / "x.png", image, colors=True)


def _object(tmp_path, image, picture, name="x.png", **options):
    picture.save(tmp_path / name, **options)
    return read_object(tmp_path / name, SIZE, image)


@pytest.mark.parametrize("white", [1, 9, 255])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1", "I;16", "P"])
def test_an_object_is_what_is_not_black(tmp_path, image, mode, white):
    grey = WHERE * np.uint8(white)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "1":
        picture = Image.fromarray(WHERE)
    elif mode == "P":
        picture = _palette(1 - WHERE.astype(np.uint8), [(128, 0, 0), (0, 0, 0)])
    else:
        picture = Image.fromarray(grey).convert(mode)
    assert np.array_equal(_object(tmp_path, image, picture), WHERE)


def test_alpha_is_the_object(tmp_path, image):
    for color in (0, 255):
        rgba = np.full((*SIZE, 4), color, np.uint8)
        rgba[..., 3] = WHERE * 255
        assert np.array_equal(_object(tmp_path, image, Image.fromarray(rgba)), WHERE)
        grey = Image.fromarray(rgba).convert("LA")
        assert np.array_equal(_object(tmp_path, image, grey), WHERE)


def test_lossy_and_smooth_edges_are_cut_at_half(tmp_path, image):
    white = Image.fromarray(WHERE * np.uint8(255))
    for quality in (60, 80, 95):
        found = _object(tmp_path, image, white, "x.jpg", quality=quality)
        assert np.array_equal(found, WHERE)
        found = _object(tmp_path, image, white.convert("RGB"), "x.jpg", quality=quality)
        assert np.array_equal(found, WHERE)
    found = _object(tmp_path, image, white.filter(ImageFilter.BoxBlur(1)))
    wrong = found != WHERE
    assert wrong.sum() == 4  # the corners are rounded


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.fromarray(CODES), "has 3 values up to 2; a file of one object is black and white"),
        (Image.fromarray(np.array([[0, 0, 0], [200, 9, 9], [9, 9, 200]], np.uint8)[CODES]),
         "is in 3 colours; a file of one object is black and white"),
    ],
)  # fmt: skip
def test_several_objects_in_one_file_are_refused(tmp_path, image, picture, message):
    with pytest.raises(LabkitError, match=rf"x\.png: {message}"):
        _object(tmp_path, image, picture)


def test_fractions_and_other_models_of_colour_are_refused(tmp_path, image):
    Image.fromarray(CODES / np.float32(2)).save(tmp_path / "x.tif")
    for read in (_read, lambda path, image: read_object(path, SIZE, image)):
        with pytest.raises(LabkitError, match=r"x\.tif: the pixels are fractional numbers"):
            read(tmp_path / "x.tif", image)
    Image.new("CMYK", SIZE[::-1]).save(tmp_path / "x.jpg")
    with pytest.raises(LabkitError, match=r"x\.jpg: is in CMYK; save the mask as a PNG"):
        _read(tmp_path / "x.jpg", image)


def test_a_mask_belongs_to_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = tmp_path / "image.jpg"
    Image.new("RGB", SIZE).save(image, exif=exif)  # upright it is as large as the mask
    Image.fromarray(CODES).save(tmp_path / "x.png")
    assert np.array_equal(_read(tmp_path / "x.png", image), CODES)
    Image.fromarray(CODES.T.copy()).save(tmp_path / "x.png")
    with pytest.raises(LabkitError, match=r"the mask is 32 x 24, .* EXIF orientation is 6"):
        _read(tmp_path / "x.png", image)


def test_every_damaged_file_is_named(tmp_path, image):
    """Bytes changed and cut at random: an array or one message, never another exception."""
    buffer = io.BytesIO()
    Image.fromarray(CODES).save(buffer, "PNG")
    whole = buffer.getvalue()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        data = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for _ in range(random.integers(0, 4)):
            data[random.integers(len(data))] = random.integers(256)
        (tmp_path / "x.png").write_bytes(bytes(data))
        try:
            _read(tmp_path / "x.png", image)
        except LabkitError as error:
            assert "x.png" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 100
