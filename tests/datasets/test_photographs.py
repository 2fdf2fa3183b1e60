"""Photographs of scikit-image, read without importing it."""

import numpy as np
import pytest
from skimage import data

from labkit.datasets import photographs
from labkit.datasets.photographs import FILES, photograph
from labkit.errors import LabkitError


@pytest.mark.parametrize("name", FILES)
def test_equal_to_skimages_own(name):
    expected = getattr(data, name)()
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=2)
    assert np.array_equal(photograph(name).permute(1, 2, 0).numpy(), expected)


def test_none_without_scikit_image(monkeypatch):
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    assert photograph("coffee") is None


def test_an_unknown_name_is_told_with_the_known_ones():
    with pytest.raises(LabkitError, match=r"no photograph 'cofee': did you mean coffee\?"):
        photograph("cofee")
