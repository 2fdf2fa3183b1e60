import pytest
import torch

from labkit.colors import class_colors
from labkit.errors import LabkitError
from labkit.structures import (
    IGNORE,
    Categories,
    Category,
    Panoptic,
    Segment,
)

SKY, SQUARE, DISC = (
    Category(4, "sky", False),
    Category(7, "square", True),
    Category(9, "disc", True),
)


def test_things_come_first_and_ids_translate_both_ways():
    categories = Categories([SKY, SQUARE, DISC])
    assert categories.names == ["square", "disc", "sky"]
    assert list(categories.things) == [0, 1]
    assert list(categories.stuff) == [2]
    assert [categories.label(c.id) for c in categories] == [0, 1, 2]
    assert categories.has_id(7)
    assert not categories.has_id(1)
    assert categories[0] in categories


def many_categories():
    """Twenty, more than the palette has, each with its own colour; things last."""
    return [Category(3 * i, f"class {i}", i > 12, (i, 2 * i, 255 - i)) for i in range(1, 21)]


def test_coco_round_trip_keeps_ids_names_kinds_and_colours():
    given = many_categories()
    read = Categories.from_coco(Categories(given).to_coco())
    assert list(read) == given[12:] + given[:12]


def test_coco_entries_have_the_fields_of_the_panoptic_format():
    entry = Categories(many_categories()).to_coco()[0]
    assert entry == {
        "id": 39,
        "name": "class 13",
        "supercategory": "class 13",
        "isthing": 1,
        "color": [13, 26, 242],
    }


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ([138, 109, 59], (138, 109, 59)),
        ("#8a6d3b", (138, 109, 59)),
        ("brown", None),
        ([138, 109, 256], None),
        ([138, 109], None),
        (None, None),
    ],
)
def test_a_colour_is_read_as_a_list_or_in_hexadecimal_and_otherwise_chosen(written, read):
    entries = Categories(many_categories()).to_coco()
    entries[19]["color"] = written
    categories = Categories.from_coco(entries)
    things, stuff = categories.things, categories.stuff
    chosen = class_colors(
        [categories[i].name for i in things], [categories[i].name for i in stuff]
    )[19]
    assert categories[19].color == (read or chosen)
    assert categories[18].color == (11, 22, 244)


def test_a_coco_category_without_isthing_is_a_thing():
    assert Categories.from_coco([{"id": 3, "name": "car"}])[0].isthing


def test_up_to_ten_classes_use_the_safe_palette_and_more_keep_the_files_colours():
    red = (255, 0, 0)
    few = Categories([Category(1, "a", True, red)])
    many = Categories([Category(i, str(i), True, red if i == 5 else None) for i in range(20)])
    assert few[0].color == (63, 144, 218)
    assert many[5].color == red
    assert len({c.color for c in many}) == 20


def test_wrong_categories_are_refused():
    with pytest.raises(LabkitError, match="id 4 is used more than once"):
        Categories([SKY, SKY])
    with pytest.raises(LabkitError, match="256 given, at most 255"):
        Categories([Category(i, str(i), True) for i in range(256)])
    with pytest.raises(LabkitError, match="unknown category id 5; known: 7, 4"):
        Categories([SKY, SQUARE]).label(5)


def test_semantic_map_of_a_panoptic_one():
    ids = torch.tensor([[0, 5], [9, 5]], dtype=torch.int32)
    panoptic = Panoptic(ids, [Segment(5, 2), Segment(9, 0)])
    assert panoptic.semantic().tolist() == [[IGNORE, 2], [0, 2]]


@pytest.mark.parametrize(
    ("ids", "segments", "message"),
    [
        (torch.zeros(2, 2), [], "must be \\(H, W\\) int32"),
        (torch.zeros(1, 2, 2, dtype=torch.int32), [], "must be \\(H, W\\) int32"),
        (torch.zeros(2, 2, dtype=torch.int32), [Segment(0, 1)], "segment id 0"),
        (torch.zeros(2, 2, dtype=torch.int32), [Segment(1, 1), Segment(1, 2)], "listed twice"),
    ],
)
def test_wrong_panoptic_maps_are_refused(ids, segments, message):
    with pytest.raises(LabkitError, match=message):
        Panoptic(ids, segments)
