"""App of the comparison: models side by side on one image, run in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import ipywidgets

from labkit.checkpoints.model_zoo import published_weights
from labkit.checkpoints.shipped import shipped
from labkit.system.paths import download_folder
from labkit.widgets.app import App, message_of, png
from labkit.widgets.compare.compare import MEMORY, Models, by_title, draw_comparison, try_to_run
from labkit.widgets.compare.controls import (
    FITTING,
    ImageChoice,
    ModelList,
    Progress,
    heading,
)
from labkit.widgets.compare.image_source import Source
from labkit.widgets.compare.model_runs import Answer, Cancelled, Model, Watch
from labkit.widgets.compare.table import as_html, as_text, colors_html
from labkit.widgets.compare.thresholds import LOWEST
from labkit.widgets.compare.views import Comparison
from labkit.widgets.offline_page import MODEL, offline_piece
from labkit.widgets.viewer.image_encoding import encode_image, encode_layer
from labkit.widgets.viewer.viewer import SCRIPTS, STYLES, SegmentViewer

WAITING = "not finished yet"
CANCELLED = "cancelled; tick it again to run it"
OFFLINE_SCORES = tuple(tenth / 10 for tenth in range(1, 10))
"""Thresholds of a page without a kernel."""

REDRAWN = 0.1
"""Seconds between two updates of the progress of a model."""


@dataclass(eq=False)
class _Job:
    """Models that run in a thread, and the request to stop."""

    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    reported: float = 0.0


class Compare(App):
    """Compare models side by side on one image, with its ground truth if it has one.

    A model runs once for an image; threshold, difference, filters and opacity use the stored
    prediction. Models run in the background, with a progress bar and a button to cancel. The figure
    of the same state is :func:`labkit.widgets.compare.compare.compare`.

    Args:
        models: models by title, or names. None: those that come with labkit, and the fetched ones.
        image: the first image, see :data:`labkit.widgets.compare.image_source.Source`.
        chosen: titles of the ticked models. None: all that are given, or the panoptic ones that
            come with labkit.

    Attributes:
        comparison: the image and the models' predictions.
        viewer: the panels.

    Raises:
        LabkitError: the image does not exist.
    """

    def __init__(
        self,
        models: Models | None = None,
        image: Source = ("shapes", 0),
        chosen: Collection[str] | None = None,
    ) -> None:
        if models is None:
            models = available_models()
            whole = {"mask AP", "PQ"}  # not the filled boxes of detr_tiny
            chosen = chosen or [k for k, own in shipped().items() if whole <= own.metrics.keys()]
        self._job: _Job | None = None
        self._drawing = threading.RLock()
        self._cancelled: set[str] = set()
        self.models = ModelList(by_title(models), chosen, self._model_changed, self.guarded)
        self.source = ImageChoice(image, self.guarded(self._image_changed))
        self.score = ipywidgets.FloatSlider(
            0.5,
            min=LOWEST,
            max=0.95,
            step=0.05,
            description="score for all",
            continuous_update=False,
            layout={"width": "20em"},
            style=FITTING,
        )
        self.own_score = ipywidgets.Checkbox(
            True, description="each method's own score", indent=False, layout={"width": "auto"}
        )
        self.difference = ipywidgets.Checkbox(
            False,
            description="difference to the ground truth",
            indent=False,
            layout={"width": "auto"},
        )
        self.progress = Progress(self.guarded(lambda _: self.cancel()))
        self.colors, self.table = ipywidgets.HTML(), ipywidgets.HTML()
        looks = ipywidgets.HBox([heading("Threshold"), self.own_score, self.score, self.difference])
        controls = ipywidgets.VBox([self.models, self.source, looks])
        controls.add_class("labkit-controls")
        self.comparison = Comparison(self.source.picture(), {})
        self.viewer = SegmentViewer(self.comparison.picture.image, [])
        super().__init__("compare", [controls, self.progress, self.colors, self.viewer, self.table])
        self.score.observe(self.guarded(self._score_moved), "value")
        for control in (self.own_score, self.difference):
            control.observe(self.guarded(self._look_changed), "value")
        self.run()

    def run(self) -> None:
        """Show the ticked models on the chosen image; run those without a stored prediction."""
        if self.source.wanted:
            self.status = self.source.wanted
            self.ready()
            return
        seen, chosen = self.source.picture(), self.models.chosen()
        answers: dict[str, Answer | str] = {}
        for title, model in chosen.items():
            otherwise = CANCELLED if title in self._cancelled else WAITING
            answers[title] = MEMORY.known(model, seen) or otherwise
        missing = {t: chosen[t] for t, answer in answers.items() if answer is WAITING}
        with self._drawing:
            if self._job is not None:
                self._job.stop.set()  # its results are no longer needed
            self._job = job = _Job() if missing else None
            self.comparison = Comparison(seen, answers)
            self._show()
        if job is None:
            self.progress.hide()
            self.ready()
            return
        arguments = (job, self.comparison, missing)
        job.thread = threading.Thread(target=self._work, args=arguments, daemon=True)
        job.thread.start()

    def cancel(self) -> None:
        """Stop the running models; keep finished predictions."""
        with self._drawing:
            if self._job is not None:
                self._job.stop.set()
                self.progress.say("stopping at the next layer", self.progress.bar.value)

    def wait(self) -> None:
        """Wait until the ticked models have run."""
        job = self._job
        if job is not None and job.thread is not None:
            job.thread.join()

    def still(self) -> tuple[bytes, str]:
        score, viewer = self._score(), self.viewer
        with self._drawing:
            kinds = (viewer.show_things, viewer.show_stuff)
            figure = draw_comparison(
                self.comparison, score, self._outcomes(), viewer.opacity, *kinds
            )
            views = self.comparison.views(score)
        return png(figure), as_text(self.comparison.picture, views)

    def offline(self) -> str:
        """HTML with the results at some thresholds, which are computed now."""
        self.wait()
        comparison = self.comparison
        kinds = (False, True) if comparison.picture.target is not None else (False,)
        states = []
        for score in (None, *OFFLINE_SCORES):
            views = comparison.views(score)
            table = as_html(comparison.picture, views)
            of_kinds = [[*map(encode_layer, comparison.layers(views, k))] for k in kinds]
            states.append([{"layers": layers, "html": table} for layers in of_kinds])
        own = {"name": "each method's own", "meaning": "Every method has its own threshold."}
        given = [
            {
                "name": f"{step:.2f} for all",
                "meaning": f"All methods have the threshold {step:.2f}.",
            }
            for step in OFFLINE_SCORES
        ]
        state = {
            "image": encode_image(comparison.picture.image.numpy(force=True)),
            "thresholds": [own, *given],
            "states": states,
            "colors": colors_html(),
        }
        return offline_piece(state, [MODEL, *SCRIPTS, "compare/offline.js"], STYLES)

    def _work(self, job: _Job, comparison: Comparison, missing: dict[str, Model]) -> None:
        """Run the models one after the other, in a thread; a replaced job updates nothing."""
        try:
            for number, (title, model) in enumerate(missing.items(), start=1):
                watch = self._watch(job, f"{title} ({number} of {len(missing)})")
                watch.progress(0.0)
                answer = try_to_run(model, comparison.picture, watch=watch)
                with self._drawing:
                    comparison.answers[title] = answer
                    if self._job is job:
                        self._show()
        except Cancelled:
            with self._drawing:
                left = {t for t in missing if comparison.answers[t] is WAITING}
                comparison.answers |= dict.fromkeys(left, CANCELLED)
                if self._job is job:
                    self._cancelled |= left
        except Exception as error:
            self.error = message_of(error)
        with self._drawing:
            if self._job is job:
                self._job = None
                self.progress.hide()
                self._show()
                self.ready()

    def _watch(self, job: _Job, what: str) -> Watch:
        def progress(share: float) -> None:
            now = time.monotonic()
            if now - job.reported < REDRAWN and share > 0:
                return
            job.reported = now
            with self._drawing:
                if self._job is job and not job.stop.is_set():
                    self.progress.say(f"{what}: {'running' if share else 'loading'}", share)

        return Watch(progress, job.stop.is_set)

    def _show(self) -> None:
        """Draw the available predictions with the current threshold and colours."""
        with self._drawing:
            comparison, outcomes = self.comparison, self._outcomes()
            views, seen = comparison.views(self._score()), comparison.picture
            self.difference.disabled = seen.target is None
            self.viewer.show(seen.image, comparison.layers(views, outcomes))
            self.table.value = as_html(seen, views)
            self.colors.value = colors_html() if outcomes else ""
            count = f"{len(views)} model{'' if len(views) == 1 else 's'}"
            self.status = f"{count} on {seen.title}" + (f". {seen.note}" if seen.note else "")

    def _score(self) -> float | None:
        return None if self.own_score.value else self.score.value

    def _outcomes(self) -> bool:
        return bool(self.difference.value) and self.comparison.picture.target is not None

    def _score_moved(self, _: Any) -> None:
        if self.own_score.value:
            self.own_score.value = False  # which draws
        else:
            self._look_changed(_)

    def _look_changed(self, _: Any) -> None:
        self._show()
        if self._job is None:
            self.ready()

    def _model_changed(self, title: str) -> None:
        self._cancelled.discard(title)
        self.run()

    def _image_changed(self, _: Any) -> None:
        self._cancelled.clear()
        self.run()


def available_models() -> list[str]:
    """Names of the models on this machine: labkit's own, and the fetched ones."""
    folder = download_folder()
    fetched = [c.name for c in published_weights().values() if c.path(folder).is_file()]
    return [*shipped(), *fetched]
