"""Pictures: overlays with names and ids, panels side by side, feature maps, loss curves.

Every function takes arrays and returns an array or a matplotlib ``Figure``; none keeps state or
shows anything by itself. Regions never differ by colour alone: segments of a class differ in shade,
every region has an outline, and names stand on the picture. So the pictures can be read without
colour vision, and with more classes than the ten distinct colours of :mod:`labkit.colors`.
"""

from labkit.visualize.box_drawing import draw_box, show_image
from labkit.visualize.curves import loss_curves, training_curves
from labkit.visualize.feature_colors import feature_colors
from labkit.visualize.overlay import annotated, draw, overlay
from labkit.visualize.panels import add_legend, panels
from labkit.visualize.regions import Annotation, regions

__all__ = [
    "Annotation",
    "add_legend",
    "annotated",
    "draw",
    "draw_box",
    "feature_colors",
    "loss_curves",
    "overlay",
    "panels",
    "regions",
    "show_image",
    "training_curves",
]
