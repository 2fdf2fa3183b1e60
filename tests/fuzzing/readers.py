"""The readers of files from outside: valid files for each, and the reading as commands do it.

``make`` writes valid files into an empty folder; ``read`` reads that folder and returns nothing.
What has many files has small ones, so that a damage mostly falls on something that matters.
"""

from __future__ import annotations

import io
import json
import pickle
import tempfile
import zipfile
from argparse import Namespace
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from fuzzing.mutated_values import TOKENS
from fuzzing.reader import Reader
from helpers.made_assignments import SOURCE, make_assignment
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

from labkit.checkpoints import detectron2, run_folder, safe_unpickle, weights
from labkit.checkpoints.key_map import KeyMap
from labkit.datasets.coco import compiled_maps
from labkit.datasets.coco.panoptic import CocoPanoptic
from labkit.datasets.coco.panoptic_png import id_to_rgb, read_png
from labkit.datasets.image_files import read_header, read_image
from labkit.datasets.masks.mask_categories import read_mask_categories
from labkit.datasets.masks.mask_folder import MaskFolder
from labkit.datasets.penn_fudan import PennFudan
from labkit.datasets.registry import open_dataset
from labkit.datasets.sanity_checks import check_annotations
from labkit.errors import LabkitError
from labkit.grading.authoring.assignment import LoadedAssignment, load_assignment
from labkit.grading.execution.extract_answers import extract_answers, is_untouched, with_solutions
from labkit.grading.intake import notebook_reader
from labkit.grading.intake.late_policy import read_policy
from labkit.grading.intake.student import Student
from labkit.grading.intake.submissions import collect
from labkit.metrics.panoptic_quality_files import evaluate_files
from labkit.structures import Categories, Category
from labkit.workbook.notebook_sources import load_notebook, other_language
from labkit.workbook.parameters import (
    coerce,
    computed,
    dependent_lines,
    parse_assignments,
    read_parameters,
)

HEIGHT, WIDTH = 18, 24


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _draw(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def _photograph(number: int) -> Any:
    pixels = np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3)
    return (pixels * (number + 1) % 251).astype(np.uint8)


def _regions() -> Any:
    """Numbers 1 to 4 on a map of zeros."""
    map_ = np.zeros((HEIGHT, WIDTH), np.int32)
    map_[2:8, 2:9], map_[3:9, 12:20], map_[10:, :12], map_[12:, 14:] = 1, 2, 3, 4
    return map_


def _look_at(data: Any) -> None:
    """Read every item, as training does, and whatever `labkit data check` reads."""
    first: LabkitError | None = None
    for index in range(len(data)):
        try:
            data[index]
        except LabkitError as error:
            first = first or error
    list(check_annotations(data))
    if first is not None:
        raise first


# COCO


def _make_coco(root: Path) -> None:
    annotations = []
    for image in range(3):
        _draw(root / "val2017" / f"{image}.png", _photograph(image))
        for number in (1, 2, 3):
            where = np.asfortranarray((_regions() == number).astype(np.uint8))
            code = coco_mask.encode(where)
            x, y, width, height = (float(v) for v in coco_mask.toBbox(code))
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            # A code's uncompressed runs begin with zeros and go down the columns.
            changes = np.flatnonzero(np.diff(where.ravel("F"), prepend=0))
            runs = np.diff([0, *changes, where.size]).tolist()
            size = [HEIGHT, WIDTH]
            segmentation = {
                1: [corners],
                2: {"size": size, "counts": runs},
                3: {"size": size, "counts": code["counts"].decode()},
            }[number]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": number,
                    "iscrowd": int(number == 3 and image == 2),
                    "area": float(coco_mask.area(code)),
                    "bbox": [x, y, width, height],
                    "segmentation": segmentation,
                }
            )
    images = [
        {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(3)
    ]
    categories = [{"id": i, "name": f"class {i}", "supercategory": "x"} for i in (1, 2, 3)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    _write(root / "annotations" / "instances_val2017.json", content)


def _read_coco(root: Path) -> None:
    data = open_dataset(f"coco:{root}", "val2017")
    _ = data.num_objects, data.only_polygons
    _look_at(data)


def _panoptic(root: Path, json_path: str, png_dir: str) -> None:
    annotations = []
    for image in range(3):
        map_ = _regions() * (image * 300 + 1)
        _draw(root / png_dir / f"{image}.png", id_to_rgb(map_))
        segments = [
            {
                "id": int(i),
                "category_id": 1 + n % 3,
                "area": int((map_ == i).sum()),
                "bbox": [1, 1, 5, 5],
                "iscrowd": int(n == 3),
            }
            for n, i in enumerate(np.unique(map_)[1:])
        ]
        annotations.append(
            {"image_id": image, "file_name": f"{image}.png", "segments_info": segments}
        )
    images = [
        {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(3)
    ]
    categories = [
        {"id": i, "name": f"class {i}", "isthing": i % 2, "color": [i, 9, 9]} for i in (1, 2, 3)
    ]
    content = {"images": images, "categories": categories, "annotations": annotations}
    _write(root / json_path, content)


def _make_coco_panoptic(root: Path) -> None:
    _panoptic(root, "annotations/panoptic_val2017.json", "annotations/panoptic_val2017")
    for image in range(3):
        _draw(root / "val2017" / f"{image}.png", _photograph(image))


def _read_coco_panoptic(root: Path) -> None:
    _look_at(CocoPanoptic.from_folder(root))


def _make_panoptic_files(root: Path) -> None:
    _panoptic(root, "truth.json", "truth")
    _panoptic(root, "found.json", "found")


def _read_panoptic_files(root: Path) -> None:
    evaluate_files(root / "truth.json", root / "found.json", workers=1)


def _make_panoptic_png(root: Path) -> None:
    _draw(root / "map.png", id_to_rgb(_regions() * 70_001))


def _read_panoptic_png(root: Path) -> None:
    compiled_maps.load()
    outcomes = []
    for library in (None, compiled_maps._library):
        with patch.object(compiled_maps, "_library", library):
            try:
                outcomes.append(read_png(root / "map.png", (HEIGHT, WIDTH)).tobytes())
            except LabkitError as error:
                outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    if isinstance(outcomes[0], str):
        raise LabkitError(outcomes[0])


def _make_pictures(root: Path) -> None:
    _draw(root / "photograph.png", _photograph(1))
    _draw(root / "photograph.jpg", _photograph(2))


def _read_pictures(root: Path) -> None:
    for name in ("photograph.png", "photograph.jpg"):
        read_header(root / name)
        read_image(root / name)


# Masks


def _classes(values: bool) -> list[dict[str, Any]]:
    codes = [{"value": n} if values else {"color": [n * 60, 0, 255 - n]} for n in range(1, 5)]
    return [{"name": f"class{n}", "isthing": n % 2 == 1, **code} for n, code in enumerate(codes, 1)]


def _make_masks(root: Path) -> None:
    for image in range(3):
        _draw(root / "images" / f"{image}.jpg", _photograph(image))
    regions = _regions()
    colors = np.array([[0, 0, 0], *([n * 60, 0, 255 - n] for n in range(1, 5))], np.uint8)
    instances = (regions * 1000 + (regions > 0)).astype(np.uint16)
    for image, values in enumerate((regions.astype(np.uint8), instances, regions.astype(bool))):
        _draw(root / "values" / f"{image}.png", values)
        _draw(root / "colors" / f"{image}_mask.png", colors[regions])
        _draw(root / "numbers" / f"{image}.png", (regions * 3).astype(np.uint8))
        for n in range(1, 5):
            white = np.where(regions == n, 255, 0).astype(np.uint8)
            _draw(root / "objects" / str(image) / f"class{n}_{image}.png", white)
    _write(root / "values.json", _classes(values=True))
    _write(root / "colors.json", {"categories": _classes(values=False), "void": ["#000000"]})


def _read_masks(root: Path) -> None:
    images = root / "images"
    values, colors = (read_mask_categories(root / f"{n}.json") for n in ("values", "colors"))
    kinds = [
        MaskFolder(images, root / "values", values),
        MaskFolder(images, root / "colors", colors, suffix="_mask"),
        MaskFolder(images, root / "numbers", values, instances_of="class1"),
        MaskFolder(images, root / "objects", values),
    ]
    for kind in kinds:
        _look_at(kind)
        for index in range(len(kind)):
            kind.void_values(index)


def _make_categories(root: Path) -> None:
    _write(root / "list.json", _classes(values=True))
    _write(
        root / "object.json", {"categories": _classes(values=False), "void": [[0, 0, 0], "#ffffff"]}
    )
    tables = [
        f'[[category]]\nname = "class{n}"\nisthing = true\nvalue = {n}\nid = {n * 7}\n'
        for n in range(1, 4)
    ]
    (root / "tables.toml").write_text("\n".join(["void = [255]", *tables]))


def _read_categories(root: Path) -> None:
    for name in ("list.json", "object.json", "tables.toml"):
        read_mask_categories(root / name)


def _make_penn_fudan(root: Path) -> None:
    for image in range(31):
        _draw(root / "PNGImages" / f"{image:02}.png", _photograph(image))
        _draw(root / "PedMasks" / f"{image:02}_mask.png", (_regions() % 4).astype(np.uint8))


def _read_penn_fudan(root: Path) -> None:
    for split in ("train", "val"):
        _look_at(PennFudan(root, split))  # type: ignore[arg-type]


# Submissions


@cache
def _assignment() -> LoadedAssignment:
    return load_assignment(make_assignment(Path(tempfile.mkdtemp()), SOURCE))


def _submission() -> dict[str, Any]:
    """The student's notebook with answers, a helper and an output."""
    notebook: dict[str, Any] = json.loads(json.dumps(_assignment().solution))
    helper = {
        "cell_type": "code",
        "id": "helper",
        "metadata": {},
        "execution_count": 1,
        "source": ["import math\n", "def helper(x):\n", "    return math.floor(x)\n"],
        "outputs": [{"output_type": "stream", "name": "stdout", "text": ["a\n", "b"]}],
    }
    notebook["cells"].insert(2, helper)
    return notebook


def _make_submission(root: Path) -> None:
    _write(root / "answers.ipynb", _submission())


def _read_submission(root: Path) -> None:
    path, loaded = root / "answers.ipynb", _assignment()
    try:
        content = path.read_bytes()
    except OSError:
        return  # who reads it has listed the folder
    is_untouched(content, loaded)
    try:
        parsed = notebook_reader.parse(content)
        cells = notebook_reader.cells_of(parsed, loaded.assignment.limits)
    except notebook_reader.BadNotebook as error:  # harvest writes it into the student's report
        raise LabkitError(f"{path}: {error}") from None
    other_language(parsed)
    extracted = extract_answers(cells, loaded)
    with_solutions(extracted.notebook, loaded.exercises, loaded)
    remarks = [asdict(remark) for remark in extracted.remarks.values()]
    json.dumps([extracted.free_text.answers, remarks], allow_nan=False).encode()


def _make_submissions(root: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("work/answers.ipynb", json.dumps(_submission()))
        archive.writestr("work/picture.png", b"no picture")
    root.mkdir(exist_ok=True)
    with zipfile.ZipFile(root / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Ada L_12_assignsubmission_file/a.ipynb", json.dumps(_submission()))
        archive.writestr("Bob_13_assignsubmission_file/b.zip", inner.getvalue())
        archive.writestr("carolc_LATE_123_4567_c.ipynb", json.dumps(_submission()))
        archive.writestr("readme.txt", "nothing")


def _read_submissions(root: Path) -> None:
    loaded = _assignment()
    with tempfile.TemporaryDirectory() as unpacked:
        for source in (root / "export.zip", root):
            found = collect(
                source,
                Path(unpacked),
                loaded.name,
                untouched=lambda content: is_untouched(content, loaded),
            )
            str(found).encode()


def _make_late(root: Path) -> None:
    (root / "late.toml").write_text(
        "deadline = 2026-05-03T23:59:00+02:00\n"
        "grace_minutes = 15\npercent_per_day = 10\nlast_day = 5\n"
        'counts = "last"\n\n[extensions]\nada = 2026-05-10\n"Ada L" = 2026-05-11T10:00:00\n\n'
        '[received]\n"Bob Builder" = 2026-05-04T08:00:00Z\n'
    )


def _read_late(root: Path) -> None:
    policy = read_policy(root / "late.toml")
    students = [Student("ada"), Student("bob", name="Bob Builder"), Student("eve")]
    policy.unknown_students(students)
    for student in students:
        for received in (None, datetime(2026, 5, 5, tzinfo=UTC)):
            for marked in (False, True):
                policy.lateness(student, received, marked=marked)


# Notebooks that are run

PARAMETERS = """\
profile: str = "quick"
steps: int = 300
rate: float = 1e-3
sizes: list[int] = [64, 128]
fusion: Literal["heuristic", "free"] = "heuristic"
limit: int | None = None
either: Optional[Union[int, "float"]] = None
table: dict[str, int] = {"a": 1}
pair = (1, 2.5)
plain = 3 * 4
names = ["a", "b"]
half = plain / 2
!pip list
"""


def _make_notebook(root: Path) -> None:
    parameters = {
        "cell_type": "code",
        "id": "parameters",
        "metadata": {"tags": ["parameters"]},
        "execution_count": None,
        "outputs": [],
        "source": PARAMETERS,
    }
    notebook = _submission()
    notebook["cells"].insert(1, parameters)
    _write(root / "lesson.ipynb", notebook)
    (root / "lesson.py").write_text(
        f'# %% [markdown]\n# # Lesson\n\n# %% tags=["parameters"]\n{PARAMETERS}\n# %%\nprint(1)\n'
    )


def _read_notebook(root: Path) -> None:
    for name in ("lesson.ipynb", "lesson.py"):
        notebook = load_notebook(root / name)
        other_language(notebook)
        _parameters_of(notebook, name, ["steps=3", "sizes=1,2"])


def _parameters_of(notebook: Any, name: str, assignments: list[str]) -> None:
    declared = read_parameters(notebook, name)
    values = coerce(parse_assignments(assignments), declared, name, computed(notebook, name))
    dependent_lines(notebook, set(values))


def _make_parameters(root: Path) -> None:
    (root / "cell.py").write_text(PARAMETERS)
    names = (
        "steps=3 rate=0.5 sizes=[1,2] fusion=free limit=None either=2.5 table={'b':2} pair=(1,2)"
    )
    (root / "values.txt").write_text("\n".join([*names.split(), "plain=7", "names=a,b"]))


def _read_parameters(root: Path) -> None:
    import nbformat

    source, values = (
        (root / name).read_bytes().decode("utf-8", "replace") if (root / name).is_file() else ""
        for name in ("cell.py", "values.txt")
    )
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    declared = read_parameters(notebook, "cell.py")
    for text in values.split("\n"):
        try:  # each for itself, or the first that is refused would hide the others
            _parameters_of(notebook, "cell.py", [text])
        except LabkitError as error:
            if "cell.py" not in str(error) and "-p " not in str(error):
                raise
    for name in declared:
        for token in TOKENS:
            try:
                coerce({name: token}, declared, "cell.py")
            except LabkitError as error:
                if "cell.py" not in str(error):
                    raise


# Checkpoints


class _Small(nn.Module):
    """Two layers, the first of which is named as Detectron2 names one."""

    def __init__(self) -> None:
        super().__init__()
        self.rpn = nn.ModuleDict({"conv": nn.Conv2d(2, 3, 1)})
        self.norm = nn.GroupNorm(1, 3)


class _Backbone(nn.Module):
    """A layer of a residual network as Detectron2 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {"stem": nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 3, bias=False)})}
        )


def _make_pickles(root: Path) -> None:
    torch.manual_seed(0)
    state = detectron2.to_detectron2(_Small().state_dict())
    arrays = {name: value.numpy() for name, value in state.items()}
    more = {"__author__": "X", "steps": [1, 2.5, None, (True,)], "args": Namespace(lr=0.1)}
    (root / "zoo.pkl").write_bytes(pickle.dumps({"model": arrays, **more}, 2))
    (root / "new.pkl").write_bytes(pickle.dumps({"model": arrays, **more}, 4))
    (root / "text.pkl").write_bytes(pickle.dumps({"model": arrays}, 0))
    blobs = {"conv1_w": np.ones((4, 3, 3, 3), np.float32), "fc_w": np.ones(2, np.float32)}
    (root / "backbone.pkl").write_bytes(pickle.dumps({"blobs": blobs}, 2))


def _read_pickles(root: Path) -> None:
    safe_unpickle.read_pickle(root / "zoo.pkl")
    for name in ("zoo.pkl", "new.pkl", "text.pkl"):
        detectron2.load(root / name, _Small())
    detectron2.load_backbone(root / "backbone.pkl", _Backbone())


def _make_pth(root: Path) -> None:
    torch.manual_seed(0)
    state = _Small().state_dict()
    torch.save(state, root / "plain.pth")
    torch.save({"model": state, "args": Namespace(lr=0.1), "epoch": 3}, root / "entry.pth")
    torch.save(state, root / "old.tar", _use_new_zipfile_serialization=False)
    torch.save({"model": detectron2.to_detectron2(state)}, root / "detectron2.pth")


def _read_pth(root: Path) -> None:
    for name in ("plain.pth", "entry.pth", "old.tar"):
        KeyMap((), dropped="x").load(
            root / name, safe_unpickle.read_state_dict(root / name), _Small()
        )
    detectron2.load(root / "detectron2.pth", _Small())


def _make_safetensors(root: Path) -> None:
    torch.manual_seed(0)
    weights.save_weights(root / "model.safetensors", _Small())


def _read_safetensors(root: Path) -> None:
    weights.load_weights(root / "model.safetensors", _Small())


CATEGORIES = Categories([Category(1, "thing", True), Category(2, "stuff", False)])
CONFIG = {"steps": 10, "rate": 0.1, "data": "shapes"}


def _training() -> tuple[nn.Module, torch.optim.Optimizer, torch.amp.GradScaler]:
    model = _Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.rpn["conv"](torch.ones(1, 2, 4, 4)).sum().backward()
    optimizer.step()
    return model, optimizer, torch.amp.GradScaler("cpu")


def _make_run(root: Path) -> None:
    torch.manual_seed(0)
    run = run_folder.Run("fcn8_tiny", CATEGORIES, "shapes", "train", None, (), {"steps": 3})
    for name in ("done", "begun"):
        run_folder.save_run(root / name, run)
    model = run.build()
    weights.save_weights(root / "done" / run_folder.WEIGHTS, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    weights.save_training_state(
        root / "begun" / run_folder.STATE, model, optimizer, scaler, CONFIG, {"loss": [1.0]}, {}
    )


def _read_run(root: Path) -> None:
    for name in ("done", "begun"):
        run_folder.load_run(root / name)
        run_folder.save_run(root / name, run_folder.read_run(root / name))


def _make_state(root: Path) -> None:
    torch.manual_seed(0)
    state = *_training(), CONFIG, {"loss": [1.0, 0.5]}, {"val": {2: 0.5}}
    weights.save_training_state(root / "last.pt", *state)


def _read_state(root: Path) -> None:
    losses, _ = weights.load_training_state(root / "last.pt", *_training(), CONFIG)
    sum(values[-1] for values in losses.values())


READERS = {
    "coco_instances": Reader(_make_coco, _read_coco),
    "coco_panoptic": Reader(_make_coco_panoptic, _read_coco_panoptic),
    "panoptic_files": Reader(_make_panoptic_files, _read_panoptic_files),
    "panoptic_png": Reader(_make_panoptic_png, _read_panoptic_png),
    "pictures": Reader(_make_pictures, _read_pictures),
    "masks": Reader(_make_masks, _read_masks),
    "mask_categories": Reader(_make_categories, _read_categories),
    "penn_fudan": Reader(_make_penn_fudan, _read_penn_fudan),
    "submission": Reader(_make_submission, _read_submission),
    "submissions": Reader(_make_submissions, _read_submissions),
    "late": Reader(_make_late, _read_late),
    "notebook": Reader(_make_notebook, _read_notebook),
    "parameters": Reader(_make_parameters, _read_parameters),
    "pickles": Reader(_make_pickles, _read_pickles),
    "pth": Reader(_make_pth, _read_pth),
    "safetensors": Reader(_make_safetensors, _read_safetensors),
    "run": Reader(_make_run, _read_run),
    "training_state": Reader(_make_state, _read_state),
}
