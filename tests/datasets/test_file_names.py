"""Names in annotations that no file can have."""

import pytest

from labkit.datasets.coco.panoptic_png import read_png
from labkit.datasets.file_names import file_in, near
from labkit.datasets.image_files import read_image
from labkit.errors import LabkitError


@pytest.mark.parametrize("name", ["a\\" + "x" * 300, "a/" + "x" * 300 + ".png", "x" * 70_000])
def test_names_that_are_too_long(tmp_path, name):
    path = file_in(tmp_path, name)
    assert isinstance(near(path), str)
    for read in (read_image, read_png):
        with pytest.raises(LabkitError, match="xxx"):
            read(path)
