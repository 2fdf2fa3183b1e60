"""Expected ranges of the notebooks' recorded numbers: ``notebooks/expected.toml``.

One table a notebook and profile; a claim is a range ``[lowest, highest]`` or an exact value::

    [06_panoptic_quality.smoke]
    "PQ of the ground truth against itself" = 1.0
    "PQ, perturbed" = [0.4, 0.9]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.system.text_files import read_toml
from labkit.workbook.records import Recorded, format_value

PROFILES = ("smoke", "quick", "full")


@dataclass(frozen=True)
class Claim:
    """An expected value or range, and the number that the notebook recorded; None if it did not."""

    name: str
    expected: Recorded
    recorded: Recorded | None

    @property
    def holds(self) -> bool:
        """Whether the recorded number is in the range."""
        if isinstance(self.expected, list):
            low, high = self.expected
            value = self.recorded
            return (
                isinstance(value, (int, float))
                and isinstance(low, (int, float))
                and isinstance(high, (int, float))
                and low <= value <= high
            )
        return self.recorded == self.expected

    @property
    def text(self) -> str:
        """Text of the expectation."""
        if isinstance(self.expected, list):
            low, high = (format_value(bound) for bound in self.expected)
            return f"{low} to {high}"
        return format_value(self.expected)


def load_expected(path: Path) -> dict[str, dict[str, dict[str, Recorded]]]:
    """Read the claims by notebook, profile and record name; none if the file is missing.

    Raises:
        LabkitError: the file is not TOML of this form.
    """
    if not path.is_file():
        return {}
    tables = read_toml(path)
    for notebook, profiles in tables.items():
        if not isinstance(profiles, dict):
            raise LabkitError(f"{path}: {notebook} must be a table of profiles")
        for profile, claims in profiles.items():
            if profile not in PROFILES or not isinstance(claims, dict):
                raise LabkitError(
                    f"{path}: [{notebook}.{profile}] must be a table named after a profile "
                    f"({', '.join(PROFILES)})"
                )
            for name, expected in claims.items():
                _check_form(expected, f"{path}: [{notebook}.{profile}] {name!r}")
    return tables


def check_claims(expected: dict[str, Recorded], records: dict[str, Recorded]) -> list[Claim]:
    """Compare recorded numbers with their expected values."""
    return [Claim(name, value, records.get(name)) for name, value in expected.items()]


def _check_form(expected: Any, where: str) -> None:
    if isinstance(expected, list):
        bounds = [value for value in expected if type(value) in (int, float)]
        if len(expected) != 2 or len(bounds) != 2 or bounds[0] > bounds[1]:
            raise LabkitError(f"{where} must be [lowest, highest], two numbers, or an exact value")
    elif not isinstance(expected, (bool, int, float, str)):
        raise LabkitError(f"{where} must be a range, a number or a text")
