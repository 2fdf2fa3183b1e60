"""Reading pictures of every kind, and what is said of those that cannot be read."""

import cv2
import numpy as np
import pytest
from PIL import Image

from labkit.datasets.image_files import read_header, read_image
from labkit.errors import LabkitError

GREY = np.array([[0, 10, 20], [128, 200, 255]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_modes_of_eight_bits_are_the_same_picture(tmp_path, mode):
    Image.fromarray(GREY).convert(mode).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").tolist() == [GREY.tolist()] * 3


def test_sixteen_bits_keep_the_upper_ones(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 256 + 255).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").tolist() == [GREY.tolist()] * 3


TURNED = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
          6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90}  # fmt: skip


def _photograph(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", TURNED)
def test_a_photograph_is_upright(tmp_path, orientation):
    path = _photograph(tmp_path / "x.png", orientation)
    expected = TURNED[orientation](GREY)
    assert read_image(path)[0].tolist() == expected.tolist()
    assert read_image(path, expected.shape).shape == (3, *expected.shape)
    assert read_header(path) == (expected.shape, orientation)


def test_annotations_of_the_picture_as_stored_are_refused_with_the_orientation(tmp_path):
    with pytest.raises(LabkitError, match=r"is 3 x 2, .* says 2 x 3 .* EXIF orientation is 6"):
        read_image(_photograph(tmp_path / "x.png", 6), (2, 3))
    with pytest.raises(LabkitError, match=r"are height and width exchanged in the annotation\?"):
        read_image(_photograph(tmp_path / "x.png", 3), (3, 2))


def test_an_orientation_without_meaning_turns_nothing(tmp_path):
    assert read_image(_photograph(tmp_path / "x.png", 0))[0].tolist() == GREY.tolist()


def test_a_missing_file_names_the_one_that_is_there(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.PNG")
    for name in ("x.png", "x.jpg", "sub/x.png", "C:\\data\\x.PNG", "https://host/x.PNG?a=b"):
        with pytest.raises(LabkitError, match=r"not found; x\.PNG is in .*: correct the name"):
            read_image(tmp_path / name)
    with pytest.raises(LabkitError, match=r"y\.png: image not found$"):
        read_image(tmp_path / "y.png")
    with pytest.raises(LabkitError, match="there is no such folder"):
        read_image(tmp_path / "z/y.png")


def test_each_unreadable_file_has_its_own_message(tmp_path):
    path = tmp_path / "x.tiff"
    Image.fromarray(GREY / np.float32(255)).save(path)
    with pytest.raises(LabkitError, match=r"fractional numbers.* 8 bits"):
        read_image(path)
    Image.new("1", (20_000, 10_000)).save(path, compression="tiff_deflate")
    with pytest.raises(LabkitError, match=r"too large: 200 million pixels; at most 89"):
        read_image(path)
    path.write_text("hello")
    with pytest.raises(LabkitError, match="not an image file"):
        read_image(path)
    with pytest.raises(LabkitError, match="cannot be read: Is a directory"):
        read_image(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LabkitError, match=r"the image is damaged .*fetch it again"):
        read_image(tmp_path / "x.jpg")


def test_a_photograph_of_100_megapixels_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 10_000)).save(path)
    for read in (read_image, read_header):
        with pytest.raises(LabkitError, match=r"large\.png: too large: 100 million pixels"):
            read(path)


def test_cmyk_is_converted(tmp_path):
    colors = Image.new("RGB", (4, 4), (200, 60, 20))
    colors.convert("CMYK").save(tmp_path / "print.tif")
    found = read_image(tmp_path / "print.tif")[:, 0, 0].tolist()
    assert found == pytest.approx([200, 60, 20], abs=2)


def test_sixteen_bits_of_colour_keep_the_upper_ones(tmp_path):
    pixels = np.stack([GREY, GREY // 2, GREY // 4], axis=2)
    for name in ("x.png", "x.tif"):
        cv2.imwrite(str(tmp_path / name), (pixels.astype(np.uint16) * 256 + 255)[..., ::-1])
        assert read_image(tmp_path / name).permute(1, 2, 0).tolist() == pixels.tolist()


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp"])
def test_of_an_animation_the_first_picture_is_read(tmp_path, name):
    pictures = [Image.new("RGB", (4, 4), color) for color in ((250, 0, 0), (0, 0, 250))]
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], lossless=True)
    assert read_image(tmp_path / name)[:, 1, 1].tolist() == pytest.approx([250, 0, 0], abs=2)
