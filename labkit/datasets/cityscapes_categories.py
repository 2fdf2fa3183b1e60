"""Cityscapes' categories, for pretrained weights without the data set's annotations.

The 19 classes that Cityscapes evaluates (M. Cordts et al., "The Cityscapes Dataset for Semantic
Urban Scene Understanding", CVPR 2016, table 2), with the label ids, names and colours of its
annotations: https://www.cityscapes-dataset.com/dataset-overview/#class-definitions. Ids between
them belong to classes that are ignored, such as 9, parking.
"""

from __future__ import annotations

from labkit.datasets.coco.categories import read_table
from labkit.structures import Categories

# id, colour, name; in the order of Cityscapes' train ids, in which models number their classes
_STUFF = """
7 804080 road
8 f423e8 sidewalk
11 464646 building
12 66669c wall
13 be9999 fence
17 999999 pole
19 faaa1e traffic light
20 dcdc00 traffic sign
21 6b8e23 vegetation
22 98fb98 terrain
23 4682b4 sky
"""

_THINGS = """
24 dc143c person
25 ff0000 rider
26 00008e car
27 000046 truck
28 003c64 bus
31 005064 train
32 0000e6 motorcycle
33 770b20 bicycle
"""


def cityscapes_panoptic() -> Categories:
    """The 8 thing classes, labels 0 to 7, and the 11 stuff classes, labels 8 to 18.

    Things and stuff each keep the order of the train ids: road to sky are train ids 0 to 10,
    person to bicycle 11 to 18.
    """
    return Categories(read_table(_THINGS, isthing=True) + read_table(_STUFF, isthing=False))
