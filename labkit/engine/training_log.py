"""The log of a training in its folder: ``log.csv``, a row a step, and ``log.png``, its curves.

Both follow from the history alone. The table is written anew when a run is resumed, because the
steps after the last checkpoint of a run that was killed are done again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import LabkitError
from labkit.system.atomic_write import atomic_write

if TYPE_CHECKING:
    from labkit.engine.training_run import History

TABLE, PICTURE = "log.csv", "log.png"


class TrainingLog:
    """The files of one run.

    Args:
        out: the run's folder.
        history: what has happened so far; the log reads from it what is added later.
        lr_at: the learning rate of a step, the first being 0.

    Raises:
        LabkitError: the table cannot be written.
    """

    def __init__(self, out: Path, history: History, lr_at: Callable[[int], float]) -> None:
        self.table, self.picture = out / TABLE, out / PICTURE
        self.history, self.lr_at = history, lr_at
        with atomic_write(self.table) as temporary:
            rows = "".join(self._row(step) for step in range(history.steps))
            temporary.write_text(rows, encoding="utf-8")

    def add(self) -> None:
        """Append the row of the last step.

        Raises:
            LabkitError: the table cannot be written.
        """
        try:
            with self.table.open("a", encoding="utf-8", newline="") as file:
                file.write(self._row(self.history.steps - 1))
        except OSError as error:
            raise LabkitError(f"{self.table}: cannot be written: {error.strerror}") from error

    def draw(self) -> None:
        """Draw the curves of all steps so far.

        Raises:
            LabkitError: the picture cannot be written.
        """
        from labkit.visualize import training_curves  # matplotlib takes a second to import

        if not self.history.steps:
            return
        figure = training_curves(self.history.losses, self.history.validation)
        with atomic_write(self.picture) as temporary:
            figure.savefig(temporary, format="png", dpi=110)

    def _row(self, step: int) -> str:
        """A step's line; the first step's comes after the names of the columns."""
        losses, validation = self.history.losses, self.history.validation
        cells = [str(step + 1), f"{self.lr_at(step):.6g}"]
        cells += [repr(values[step]) for values in losses.values()]
        cells += [repr(of[step + 1]) if step + 1 in of else "" for of in validation.values()]
        line = ",".join(cells) + "\n"
        if step > 0:
            return line
        names = ["step", "lr", *losses, *(f"val_{name}".replace(" ", "_") for name in validation)]
        return ",".join(names) + "\n" + line
