"""Draw the README's picture: ``uv run python docs/make_pictures.py``."""

from pathlib import Path

from labkit.datasets.shapes import Shapes
from labkit.visualize import panels

shapes, crowded = Shapes("train"), Shapes("train", crowded=True)
items = []
for image, target in (shapes[7], shapes[4], crowded[0]):
    items += [("", image, None), ("", image, target["panoptic"])]
figure = panels(items, shapes.categories, columns=6, size=2.0)
figure.savefig(Path(__file__).with_name("shapes.png"), dpi=110)
