"""Papers are linked by their titles."""

from __future__ import annotations

import re

from helpers.paths import CHECKOUT

from labkit.site.papers import PAPERS, link_quoted_titles, link_references
from labkit.workbook.notebook_sources import load_notebook, sources


def test_a_title_over_two_lines_in_a_list_of_references() -> None:
    text = "## References\n\n- A. Kirillov et al. Panoptic Feature\n  Pyramid Networks. CVPR 2019."
    linked = "[Panoptic Feature\n  Pyramid Networks](https://arxiv.org/abs/1901.02446). CVPR 2019."
    assert link_references(text).endswith(linked)
    assert link_references("Mask R-CNN. ICCV 2017.") == "Mask R-CNN. ICCV 2017."


def test_a_quoted_title_in_a_docstring() -> None:
    linked = "`Mask R-CNN <https://arxiv.org/abs/1703.06870>`__"
    assert (
        link_quoted_titles('K. He et al., "Mask\nR-CNN", 2017') == f"K. He et al., {linked}, 2017"
    )


def test_every_paper_is_named_somewhere() -> None:
    package = "\n".join(path.read_text() for path in (CHECKOUT / "labkit").rglob("*.py"))
    lessons = "\n".join(
        cell.source for source in sources(CHECKOUT) for cell in load_notebook(source).cells
    )
    words = " ".join(re.sub(r"[^\w]+", " ", package + lessons).split())
    for title in PAPERS:
        assert " ".join(re.sub(r"[^\w]+", " ", title).split()) in words, title
