"""Models side by side on one image: the headless functions of the comparison.

    compare(["panoptic_fpn_tiny", "upsnet_tiny"], ("shapes", 3), difference=True)

returns the figure; ``labkit.widgets.Compare`` is the app, which shows the same pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from labkit.errors import LabkitError
from labkit.widgets.compare.image_source import Source, SourceImage, source_image
from labkit.widgets.compare.model_runs import Answer, Cancelled, Memory, Model, Watch
from labkit.widgets.compare.outcomes import COLORS
from labkit.widgets.compare.table import as_text
from labkit.widgets.compare.views import Comparison
from labkit.widgets.viewer.segment_layers import draw_layers

MEMORY = Memory()
"""Cache of models and predictions that figure and app share, so that each model runs once."""

Models = Mapping[str, Model] | Sequence[str]
"""Models by the title of their panel, or names of models."""


def run_models(
    models: Models, source: Source, memory: Memory = MEMORY, watch: Watch | None = None
) -> Comparison:
    """Run each model on an image, or take its cached prediction.

    If a model cannot be loaded or fails, the others run nevertheless.

    Args:
        models: models by title, or names.
        source: the image, see :data:`labkit.widgets.compare.image_source.Source`.
        memory: cache of models and predictions.
        watch: reports progress and cancels.

    Raises:
        LabkitError: the image does not exist.
        Cancelled: if cancellation was requested.
    """
    seen = source_image(source)
    answers = {t: try_to_run(m, seen, memory, watch) for t, m in by_title(models).items()}
    return Comparison(seen, answers)


def by_title(models: Models) -> dict[str, Model]:
    """Models by title; a name is its own title."""
    return dict(models) if isinstance(models, Mapping) else {str(m): m for m in models}


def try_to_run(
    model: Model, seen: SourceImage, memory: Memory = MEMORY, watch: Watch | None = None
) -> Answer | str:
    """Run a model on an image; return its prediction, or the error message.

    Raises:
        Cancelled: if cancellation was requested.
    """
    try:
        return memory.ask(model, seen, watch)
    except Cancelled:
        raise
    except LabkitError as error:
        return str(error)
    except Exception as error:  # the reader's own model may fail in any way
        return f"{type(error).__name__}: {error}"


def compare(
    models: Models,
    source: Source,
    *,
    score: float | None = None,
    difference: bool = False,
    opacity: float = 0.6,
    things: bool = True,
    stuff: bool = True,
) -> Figure:
    """Draw models' predictions side by side, with a table of metrics.

    Args:
        models: models by title, or names.
        source: the image, see :data:`labkit.widgets.compare.image_source.Source`.
        score: score threshold of all models; None for each model's own.
        difference: color segments by TP, FP and FN instead of by class.
        opacity: opacity of the segments over the image.
        things, stuff: whether to draw them.
    """
    comparison = run_models(models, source)
    return draw_comparison(comparison, score, difference, opacity, things, stuff)


def draw_comparison(
    comparison: Comparison,
    score: float | None,
    difference: bool,
    opacity: float,
    things: bool,
    stuff: bool,
) -> Figure:
    """Draw the figure of :func:`compare` from predictions."""
    views = comparison.views(score)
    panels = comparison.layers(views, difference)
    hidden = [
        (k, i)
        for k, layer in enumerate(panels)
        for i, info in layer.info.items()
        if not (things if info.isthing else stuff)
    ]
    figure = draw_layers(comparison.picture.image, panels, opacity, hidden)
    text = as_text(comparison.picture, views)
    figure.supxlabel(text, family="monospace", fontsize=8, x=0.02, ha="left")
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.155 * (text.count("\n") + 2))
    if difference:
        handles = [
            Patch(facecolor=(r / 255, g / 255, b / 255), edgecolor="0.3", label=name)
            for name, (r, g, b) in COLORS.items()
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=5, fontsize=8)
    return figure
