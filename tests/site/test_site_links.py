"""Links between files of the repository, as links between pages of the site."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.paths import CHECKOUT

from labkit.site.site_links import SiteLinks

LESSON = "notebooks/06_panoptic_quality.ipynb"


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> SiteLinks:
    return SiteLinks(CHECKOUT, tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        (LESSON, "[g](../docs/glossary.md)", "[g](/glossary.md)"),
        (LESSON, "[one](01_semantic_review.ipynb)", "[one](/lessons/01_semantic_review.ipynb)"),
        (
            "notebooks/04_panoptic_fpn.ipynb",
            "[6.3](06_panoptic_quality.ipynb#6.3-PQ-=-SQ-×-RQ)",
            "[6.3](#section-6.3)",
        ),
        (
            "docs/glossary.md",
            "[9.10](../notebooks/09_your_own_data.ipynb)",
            "[9.10](#section-9.10)",
        ),
        ("docs/teaching.md", "[g](gpu.md#a-machine)", "[g](/gpu.md#a-machine)"),
        (
            "README.md",
            "[a1](assignments/a1_roi_align/a1_roi_align.ipynb)",
            "[a1](/assignments/a1_roi_align.ipynb)",
        ),
        ("README.md", "[licence](LICENSE), [web](https://x.org)", "licence, [web](https://x.org)"),
        ("README.md", "`a[i](b)` and\n```\n[x](y)\n```", "`a[i](b)` and\n```\n[x](y)\n```"),
    ],
)
def test_links(links: SiteLinks, path: str, text: str, expected: str) -> None:
    assert links.rewrite(text, path) == expected


def test_a_file_without_a_page_is_linked_in_the_repository(tmp_path: Path) -> None:
    links = SiteLinks(CHECKOUT, tmp_path, "https://github.com/someone/labkit")
    linked = "[licence](https://github.com/someone/labkit/blob/main/LICENSE)"
    assert links.rewrite("[licence](LICENSE)", "README.md") == linked


def test_a_picture_is_copied(tmp_path: Path) -> None:
    links = SiteLinks(CHECKOUT, tmp_path)
    assert (
        links.rewrite("![the pyramid](diagrams/fpn.svg)", LESSON)
        == "![the pyramid](/pictures/fpn.svg)"
    )
    assert (tmp_path / "pictures" / "fpn.svg").is_file()


def test_labels_of_headings(links: SiteLinks) -> None:
    text = links.with_labels("Text\n\n## 6.3 PQ = SQ × RQ\n\n## References", LESSON)
    assert text == "Text\n\n(section-6.3)=\n## 6.3 PQ = SQ × RQ\n\n(06-references)=\n## References"
