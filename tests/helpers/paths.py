"""Folders of this checkout."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
CHECKOUT = TESTS.parent
GOLDEN = TESTS / "golden"
