"""A student, as the names of the submitted files identify him or her."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Student:
    """A student.

    Attributes:
        key: the name in the submissions; unique within a grading.
        name: the full name where it is known.
        canvas_id: Canvas's number of the student, from the name of a downloaded file.
        moodle_id: Moodle's participant number, likewise.
    """

    key: str
    name: str = ""
    canvas_id: str = ""
    moodle_id: str = ""

    @property
    def shown(self) -> str:
        """The name, or the key where no name is known."""
        return self.name or self.key
