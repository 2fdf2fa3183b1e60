"""Reading pictures of every kind, and what is said of those that cannot be read."""

import numpy as np
import pytest
from PIL import Image

from labkit.datasets.image_files import read_image
from labkit.errors import LabkitError

GREY = np.array([[0, 10, 20], [128, 200, 255]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_modes_of_eight_bits_are_the_same_picture(tmp_path, mode):
    Image.fromarray(GREY).convert(mode).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").tolist() == [GREY.tolist()] * 3


def test_sixteen_bits_keep_the_upper_ones(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 256 + 255).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").tolist() == [GREY.tolist()] * 3


def test_a_photograph_is_turned_where_asked(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side
    Image.fromarray(GREY).save(tmp_path / "x.png", exif=exif)
    assert read_image(tmp_path / "x.png").shape == (3, 2, 3)
    turned = read_image(tmp_path / "x.png", upright=True)
    assert turned[0].tolist() == np.rot90(GREY, -1).tolist()


def test_each_unreadable_file_has_its_own_message(tmp_path):
    path = tmp_path / "x.tiff"
    Image.fromarray(GREY / np.float32(255)).save(path)
    with pytest.raises(LabkitError, match=r"fractional numbers.* 8 bits"):
        read_image(path)
    Image.new("1", (20_000, 10_000)).save(path, compression="tiff_deflate")
    with pytest.raises(LabkitError, match=r"too large \(.*200000000 pixels.*make it smaller"):
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
