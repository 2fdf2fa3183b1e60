"""Files, folders and patterns on the command line of `labkit predict`."""

import pytest

from labkit.engine.image_paths import find_images
from labkit.errors import LabkitError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "deep/c.webp", "deep/.d/e.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "[x].png").touch()
    return folder


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["photos"], ["photos/a.png", "photos/b.JPG"]),
        (["photos/*.png"], ["photos/a.png"]),
        (["photos/*.*"], ["photos/a.png", "photos/b.JPG", "photos/notes.txt"]),
        (["photos/**/*.[pw]*"], ["photos/a.png", "photos/deep/c.webp"]),
        (["photo?"], ["photos/a.png", "photos/b.JPG"]),
        (["photos/b.JPG", "photos", "photos/deep/../b.JPG"], ["photos/b.JPG", "photos/a.png"]),
        (["photos/.hidden.png"], ["photos/.hidden.png"]),
        (["[x].png"], ["[x].png"]),  # a file's name, whatever it looks like
        (["missing.png"], ["missing.png"]),
        ([], []),
    ],
)
def test_what_is_found(photos, names, found):
    assert [path.as_posix() for path in find_images(names)] == found


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["empty"], r"empty: no image in this folder .*say 'empty/\*\*/\*\.jpg'"),
        (["photos/*.gif"], r"photos/\*\.gif: no file matches this pattern"),
    ],
)
def test_what_is_refused(photos, names, message):
    with pytest.raises(LabkitError, match=message):
        find_images(names)
