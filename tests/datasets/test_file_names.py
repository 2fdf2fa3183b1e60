"""Names in annotations that no file can have."""

import pytest

from labkit.datasets.coco.panoptic_png import read_png
from labkit.datasets.file_names import missing_file_hint, resolve_file_name
from labkit.datasets.image_files import read_image
from labkit.errors import LabkitError


@pytest.mark.parametrize("name", ["a\\" + "x" * 300, "a/" + "x" * 300 + ".png", "x" * 70_000])
def test_names_that_are_too_long(tmp_path, name):
    path = resolve_file_name(tmp_path, name)
    assert isinstance(missing_file_hint(path), str)
    for read in (read_image, read_png):
        with pytest.raises(LabkitError, match="xxx"):
            read(path)
