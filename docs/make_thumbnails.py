"""Cut the lessons' thumbnails from what they draw.

Usage: ``uv run python docs/make_thumbnails.py RUN``, where RUN is a report of ``labkit run`` with
the profile ``quick``. The pictures are committed, so that a start page shows what trained networks
give, whatever the profile of its own run. Only images of Shapes and of our own drawing are cut.
"""

import base64
import io
import sys
from pathlib import Path

from PIL import Image

from labkit.workbook.notebook_sources import load_notebook

FOLDER = Path(__file__).parents[1] / "notebooks" / "thumbnails"
SIZE = (560, 280)
CUTS = {
    "01_semantic_review": ("# Figure: two images with", (0.006, 0.503, 0.664, 0.906)),
    "02_roi_align": ("# Figure: samples of one region", (0.004, 0.076, 0.663, 0.984)),
    "03_mask_rcnn": ("# Figure: three steps of NMS", (0.004, 0.120, 0.661, 0.980)),
    "04_panoptic_fpn": ("# Figure: semantic and panoptic", (0.336, 0.503, 0.994, 0.906)),
    "05_upsnet": ("# Figure: the 81 places", (0.337, 0.044, 0.993, 0.500)),
    "06_panoptic_quality": ("PQMatching(", (0.004, 0.038, 0.996, 0.685)),
    "07_model_zoo": ("# Figure: agreement of every", (0.302, 0.061, 0.905, 0.374)),
    "08_detr_panoptic": ("# Figure: cross-attention", (0.256, 0.540, 0.746, 0.986)),
    "09_your_own_data": ("# Figure: contact sheets", (0.253, 0.072, 0.745, 0.825)),
    "10_mask_classification": ("# Figure: mask features", (0.005, 0.130, 0.394, 0.985)),
    "11_speed_and_export": ("# Table and figure: PyTorch beside", (0.341, 0.082, 0.992, 0.838)),
}
"""The cell of a lesson, and what to cut from its last picture: left, top, right, bottom."""


def main(run: Path) -> None:
    """Write the thumbnail of every lesson that the run has."""
    FOLDER.mkdir(exist_ok=True)
    for name, (begins, (left, top, right, bottom)) in CUTS.items():
        if not (run / f"{name}.ipynb").is_file():
            continue
        cells = load_notebook(run / f"{name}.ipynb").cells
        cell = next(cell for cell in cells if cell.source.startswith(begins))
        pictures = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
        figure = Image.open(io.BytesIO(base64.b64decode(pictures[-1]))).convert("RGB")
        width, height = figure.size
        box = (left * width, top * height, right * width, bottom * height)
        figure.resize(SIZE, Image.Resampling.LANCZOS, box).save(
            FOLDER / f"{name}.webp", quality=82, method=6
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
