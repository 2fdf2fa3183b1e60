from __future__ import annotations

from pathlib import Path

import pytest

from labkit.errors import LabkitError
from labkit.workbook.claims import Claim, check_claims, load_expected


@pytest.mark.parametrize(
    ("expected", "value", "holds"),
    [
        ([0.5, 1.0], 0.5, True),
        ([0.5, 1.0], 1.0, True),
        ([0.5, 1.0], 1.01, False),
        ([0, float("inf")], 10**9, True),
        ([0.5, 1.0], "0.7", False),
        ([0.5, 1.0], None, False),
        (3, 3, True),
        (3, 4, False),
        ("tiny", "tiny", True),
        ("tiny", None, False),
    ],
)
def test_claim(expected: object, value: object, holds: bool) -> None:
    assert Claim("x", expected, value).holds is holds  # type: ignore[arg-type]


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text('[06_panoptic_quality.smoke]\n"PQ, all" = [0.8, 1]\nimages = 4\n')
    claims = check_claims(load_expected(path)["06_panoptic_quality"]["smoke"], {"PQ, all": 0.9})
    assert [(claim.name, claim.recorded, claim.holds, claim.text) for claim in claims] == [
        ("PQ, all", 0.9, True, "0.8 to 1"),
        ("images", None, False, "4"),
    ]


def test_no_file_claims_nothing(tmp_path: Path) -> None:
    assert load_expected(tmp_path / "expected.toml") == {}


@pytest.mark.parametrize(
    "text",
    [
        "[06_x.smoke",
        "06_x = 3",
        "[06_x.fast]\na = 1",
        "[06_x.smoke]\na = [1]",
        "[06_x.smoke]\na = [2, 1]",
        '[06_x.smoke]\na = ["a", "b"]',
        "[06_x.smoke]\na = {b = 1}",
    ],
)
def test_malformed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(text)
    with pytest.raises(LabkitError, match=r"expected\.toml"):
        load_expected(path)
