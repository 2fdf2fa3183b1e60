"""The diagrams: what they show is what the models do, and every drawing can be read.

A description names modules, functions, losses and numbers of a preset's configuration. Here the
preset's network runs on an image of 128 × 128, and each of them is looked up.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import itertools
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
import torch
from helpers.paths import CHECKOUT
from PIL import ImageFont
from torch import Tensor, nn

from labkit.checkpoints.shipped import shipped
from labkit.datasets.shapes import Shapes
from labkit.models import PRESETS, build
from labkit.ops.roi_align import bilinear, roi_align


def _script() -> ModuleType:
    path = CHECKOUT / "docs" / "make_diagrams.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()
DIAGRAMS = {path.stem: SCRIPT.read(path) for path in sorted(SCRIPT.DESCRIPTIONS.glob("*.toml"))}
each_diagram = pytest.mark.parametrize("name", DIAGRAMS)
SVG = "{http://www.w3.org/2000/svg}"


# What a network does

Shape = tuple[int, ...]


@dataclasses.dataclass
class Seen:
    """Shapes by module or function, and losses, of one network."""

    model: nn.Module
    outputs: dict[str, list[Shape]]
    inputs: dict[str, list[Shape]]
    results: dict[str, list[Shape]]
    losses: set[str]


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, dictionaries and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(tensors, value.values()))
    elif isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(map(tensors, value))
    elif dataclasses.is_dataclass(value):
        yield from tensors(vars(value))


def shapes(value: Any) -> list[Shape]:
    return [tuple(tensor.shape) for tensor in tensors(value)]


def function(dotted: str) -> Callable[..., Any]:
    module, _, name = dotted.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert callable(found)
    return found


def presets_of(diagram: Any) -> set[str]:
    return {node.preset or diagram.preset for node in diagram.nodes.values()}


FUNCTIONS = {
    node.function
    for diagram in DIAGRAMS.values()
    for node in diagram.nodes.values()
    if node.function and node.shape
}


@functools.cache
def seen(preset: str) -> Seen:
    """Run a preset on an image: a prediction, then a step of training."""
    torch.manual_seed(0)
    weights = shipped()
    # Weights that find objects, where there are some.
    model = weights[preset].load() if preset in weights else build(preset, Shapes.categories)
    found = Seen(model, defaultdict(list), defaultdict(list), defaultdict(list), set())

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: Any, output: Any) -> None:
            found.outputs[name] += shapes(output)
            found.inputs[name] += shapes(given)[:1]

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in model.named_modules()]
    image, target = Shapes("val")[0]
    with pytest.MonkeyPatch.context() as patch:
        for dotted in FUNCTIONS:
            _watch(function(dotted), found.results[dotted], patch)
        with torch.no_grad():
            model.eval()([image])
        found.losses |= set(model.train()([image], [target]))
    for handle in handles:
        handle.remove()
    model.eval()
    return found


def _watch(watched: Callable[..., Any], results: list[Shape], patch: pytest.MonkeyPatch) -> None:
    """Note the shapes of a function's results, wherever labkit's models call it."""

    @functools.wraps(watched)
    def watching(*args: Any, **options: Any) -> Any:
        result = watched(*args, **options)
        results.extend(shapes(result))
        return result

    for name, module in list(sys.modules.items()):
        if name.startswith(("labkit.models", "torch.nn.functional")):
            for attribute, value in list(vars(module).items()):
                if value is watched:
                    patch.setattr(module, attribute, watching)


def bound(shape: tuple[int | str, ...], size: Shape, letters: dict[str, int]) -> dict | None:
    """The letters with those of a shape that has this size, or None if it cannot have it."""
    if len(shape) != len(size):
        return None
    letters = dict(letters)
    for wanted, number in zip(shape, size, strict=True):
        if (letters.setdefault(wanted, number) if isinstance(wanted, str) else wanted) != number:
            return None
    return letters


# What a diagram shows is so


def test_there_are_diagrams() -> None:
    lessons = {"mask_rcnn", "panoptic_fpn", "upsnet", "detr", "detr_decoder", "detr_masks"}
    assert lessons <= DIAGRAMS.keys()
    assert {diagram.preset for diagram in DIAGRAMS.values()} <= PRESETS.keys()


def test_letters_of_a_shape_are_bound_once() -> None:
    assert bound(("B", 64, "K"), (1, 64, 9), {"B": 1}) == {"B": 1, "K": 9}
    assert bound(("B", 64, "K"), (1, 32, 9), {}) is None
    assert bound(("K", 4), (9, 4), {"K": 8}) is None
    assert bound(("K", 4), (9, 4, 1), {}) is None


@each_diagram
def test_shapes(name: str) -> None:
    """Every node has the shape that it shows; a letter means the same number everywhere."""
    diagram = DIAGRAMS[name]
    letters: dict[str, int] = {"B": 1}
    for key, node in diagram.nodes.items():
        if not node.shape:
            continue
        network = seen(node.preset or diagram.preset)
        if node.module:
            sizes = network.outputs[node.module]
        elif node.input_of:
            sizes = network.inputs[node.input_of]
        else:
            sizes = network.results[node.function]
        matching = [b for size in sizes if (b := bound(tuple(node.shape), size, letters))]
        assert matching, f"{key}: {node.shape} with {letters} is none of {sorted(set(sizes))}"
        letters = matching[0]
    for key, node in diagram.nodes.items():
        for line in node.text:
            if equation := re.fullmatch(r"([A-Za-z]) = ([A-Za-z0-9 +]+)", line):
                terms = equation[2].split(" + ")
                total = sum(int(t) if t.isdigit() else letters[t] for t in terms)
                assert letters.setdefault(equation[1], total) == total, f"{key}: {line}"


@each_diagram
def test_modules_and_functions_exist(name: str) -> None:
    diagram = DIAGRAMS[name]
    for node in diagram.nodes.values():
        model = seen(node.preset or diagram.preset).model
        for path in filter(None, (node.module, node.input_of)):
            assert model.get_submodule(path)
        if node.function:
            assert function(node.function)


@each_diagram
def test_code_in_the_text_exists(name: str) -> None:
    """What stands between backticks is a part of a module's path, a function or a loss."""
    diagram = DIAGRAMS[name]
    networks = [seen(preset) for preset in presets_of(diagram)]
    known = {*PRESETS, *dir(torch)}
    for network in networks:
        known |= network.losses
        for path, _ in network.model.named_modules():
            parts = path.split(".")
            known |= {".".join(parts[i:]) for i in range(len(parts))}
    for node in diagram.nodes.values():
        known |= {node.function.rpartition(".")[0], node.function.rpartition(".")[2]}
    texts = [diagram.caption, *(line for node in diagram.nodes.values() for line in node.text)]
    assert [code for code in re.findall("`([^`]+)`", " ".join(texts)) if code not in known] == []


BESIDE = {"detr_masks": "detr_tiny"}
"""Diagrams of what a network has beside another one, whose losses are in that one's diagram."""


@each_diagram
def test_losses(name: str) -> None:
    """A diagram with losses has all of its networks'; those of DETR's layers stand once."""
    diagram = DIAGRAMS[name]
    shown = defaultdict(set)
    for node in diagram.nodes.values():
        if node.role == "loss":
            assert set(re.findall(r"`(loss_\w+)`", " ".join(node.text))) == set(node.losses)
            shown[node.preset or diagram.preset] |= set(node.losses)
    elsewhere = seen(BESIDE[name]).losses if name in BESIDE else set()
    for preset, losses in shown.items():
        expected = seen(preset).losses - elsewhere
        assert losses == {re.sub(r"_\d+$", "", loss) for loss in expected}


@each_diagram
def test_numbers_of_the_configuration(name: str) -> None:
    diagram = DIAGRAMS[name]
    arrows = " ".join(arrow.text for arrow in diagram.arrows)
    for node in diagram.nodes.values():
        for path, shown in node.config.items():
            value: Any = seen(node.preset or diagram.preset).model.config
            for part in path.split("."):
                value = value[int(part)] if part.isdigit() else getattr(value, part)
            assert value == shown, path
            text = " ".join(node.text) + (arrows if node.role == "loss" else "")
            assert re.search(rf"(?<![\d.]){re.escape(f'{shown:g}')}(?![\d.]\d)", text), path


def test_samples_and_weights_of_roi_align() -> None:
    """The drawn samples are RoIAlign's, and the weights those of bilinear interpolation."""
    nodes = DIAGRAMS["roi_align"].nodes
    left, top, side, _ = nodes["map"].at
    cell = side / nodes["map"].cells[0]

    def place(node: Any) -> tuple[float, float]:
        x, y, width, height = node.at
        return (x + width / 2 - left) / cell, (y + height / 2 - top) / cell

    points = [place(node) for key, node in nodes.items() if key.startswith("point")]
    x, y, width, height = nodes["bins"].at
    box = [0, (x - left) / cell, (y - top) / cell]
    box += [box[1] + width / cell, box[2] + height / cell]
    features = torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    pooled = roi_align(features, torch.tensor([box]), nodes["bins"].cells[0], 1.0, 2, True)
    values = torch.stack([bilinear(features[0], b - 0.5, a - 0.5)[0] for a, b in points])
    means = values.view(2, 2, 2, 2).mean(dim=(1, 3))  # rows of bins, samples, columns, samples
    assert torch.allclose(pooled[0, 0], means, atol=1e-5)

    a, b = points[0]
    corners = {"a": (1, 1), "b": (1, 2), "c": (2, 1), "d": (2, 2)}
    zoomed = nodes["area_a"].at[2] + nodes["area_b"].at[2]
    for letter, (row, column) in corners.items():
        one = torch.zeros((1, 8, 8))
        one[0, row, column] = 1
        weight = float(bilinear(one, b - 0.5, a - 0.5))
        area = nodes[f"area_{letter}"]
        assert area.text == [letter, f"{weight:.2f}"]
        assert area.at[2] * area.at[3] / zoomed**2 == pytest.approx(weight, abs=1e-6)
        assert f"{weight:.2f} {letter}" in nodes["formula"].text[0]


# The drawings


@each_diagram
def test_the_drawing_is_of_its_description(name: str) -> None:
    drawing = (SCRIPT.DRAWINGS / f"{name}.svg").read_text(encoding="utf-8")
    assert drawing == DIAGRAMS[name].svg(), "run: uv run python docs/make_diagrams.py"


def test_every_drawing_has_a_description() -> None:
    assert {path.stem for path in SCRIPT.DRAWINGS.iterdir()} == DIAGRAMS.keys()


@each_diagram
def test_a_drawing_is_complete_in_itself(name: str) -> None:
    """Valid XML with title and description; no script, font or picture from elsewhere."""
    text = (SCRIPT.DRAWINGS / f"{name}.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    labels = {element.get("id"): element for element in root if element.get("id")}
    title, description = (labels[key] for key in root.attrib["aria-labelledby"].split())
    assert (title.tag, description.tag) == (f"{SVG}title", f"{SVG}desc")
    assert len(title.text or "") > 20
    assert len(description.text or "") > 200
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert not tags & {"script", "image", "foreignObject", "use", "a"}
    assert not re.search(r"@import|@font-face|url\((?!#)|href", text)
    assert re.findall(r"font[^;]*?(\d+)px", SCRIPT.STYLE)
    assert min(map(int, re.findall(r"font[^;]*?(\d+)px", SCRIPT.STYLE))) >= 13


# Places


@functools.cache
def font(bold: bool, code: bool, size: int) -> ImageFont.FreeTypeFont:
    """DejaVu, which is wider than the fonts that the drawings name first."""
    family = "DejaVuSansMono" if code else "DejaVuSans"
    file = f"{family}{'-Bold' if bold else ''}.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / file
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclasses.dataclass
class Text:
    """A line of a drawing and the place that it takes with a wide font."""

    line: str
    style: str
    place: Rectangle


def texts(name: str) -> list[Text]:
    found = []
    for element in ElementTree.fromstring(DIAGRAMS[name].svg()).iter(f"{SVG}text"):
        style = element.attrib["class"]
        size = {"title": 21, "heading": SCRIPT.HEADING}.get(style, 13)
        bold = style in ("title", "heading", "badge")
        plain = font(bold, False, size)
        width = plain.getlength(element.text or "")
        for span in element:
            heading, code = (span.get("class") == word for word in ("heading", "code"))
            of_span = font(bold or heading, code, SCRIPT.HEADING if heading else size)
            width += of_span.getlength(span.text or "") + plain.getlength(span.tail or "")
        x, y = float(element.attrib["x"]), float(element.attrib["y"])
        left = x - width / 2 if element.attrib["text-anchor"] == "middle" else x
        found.append(
            Text("".join(element.itertext()), style, (left, y - size * 0.8, left + width, y + 3))
        )
    return found


def rectangle(node: Any) -> Rectangle:
    """The place of a node, with the sheets of a map."""
    x, y, width, height = node.at
    sheets = 2 * SCRIPT.SHEET if node.kind == "map" else 0
    return x, y - sheets, x + width + sheets, y + height


def overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def within(a: Rectangle, b: Rectangle, margin: float = 2.0) -> bool:
    return (
        a[0] >= b[0] + margin
        and a[1] >= b[1] + margin
        and a[2] <= b[2] - margin
        and a[3] <= b[3] - margin
    )


def solid(diagram: Any) -> dict[str, Any]:
    """The nodes that nothing may cover."""
    return {
        key: node
        for key, node in diagram.nodes.items()
        if node.kind in ("box", "map", "circle", "picture")
    }


def test_places_that_overlap() -> None:
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3))
    assert not overlap((0, 0, 2, 2), (2, 0, 3, 3))
    assert within((3, 3, 4, 4), (0, 0, 9, 9))
    assert not within((1, 3, 4, 4), (0, 0, 9, 9))


@each_diagram
def test_text_is_inside_its_box_or_free(name: str) -> None:
    diagram, lines = DIAGRAMS[name], texts(name)
    card = (0, 0, SCRIPT.WIDTH, diagram.height)
    wrong = [text.line for text in lines if not within(text.place, card, 8)]
    for text in lines:
        if text.style == "badge":  # stands on a corner
            continue
        left, top, right, bottom = text.place
        x, y = (left + right) / 2, (top + bottom) / 2
        for key, node in diagram.nodes.items():
            place = node.side("left")[0], node.at[1], node.side("right")[0], node.side("bottom")[1]
            contained = place[0] < x < place[2] and place[1] < y < place[3]
            if key in solid(diagram):
                bad = not within(text.place, place) if contained else overlap(text.place, place)
            else:
                bad = node.kind == "group" and contained and not within(text.place, place)
            if bad:
                wrong.append(f"{text.line!r} and {key}")
    wrong += [
        f"{a.line!r} and {b.line!r}"
        for a, b in itertools.combinations(lines, 2)
        if overlap(a.place, b.place) and "badge" not in (a.style, b.style)
    ]
    assert wrong == []


@each_diagram
def test_boxes_are_apart(name: str) -> None:
    nodes = {key: rectangle(node) for key, node in solid(DIAGRAMS[name]).items()}
    wrong = [(a, b) for a, b in itertools.combinations(nodes, 2) if overlap(nodes[a], nodes[b])]
    assert wrong == []


def ends(arrow: Any) -> set[str]:
    parts = arrow.path.split(" -> ")
    return {parts[0].split()[0], parts[-1].split()[0]}


def segments(diagram: Any, arrow: Any) -> list[Rectangle]:
    """The lines of an arrow as thin rectangles."""
    return [
        (min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]) + 1e-3, max(a[1], b[1]) + 1e-3)
        for a, b in itertools.pairwise(diagram.points(arrow))
    ]


@each_diagram
def test_arrows_lead_around_boxes_and_text(name: str) -> None:
    diagram, lines = DIAGRAMS[name], texts(name)
    wrong = []
    for arrow in diagram.arrows:
        for line in segments(diagram, arrow):
            wrong += [
                f"{arrow.path} through {key}"
                for key, node in solid(diagram).items()
                if key not in ends(arrow) and overlap(line, rectangle(node))
            ]
            wrong += [
                f"{arrow.path} through {text.line!r}" for text in lines if overlap(line, text.place)
            ]
    assert wrong == []


@each_diagram
def test_arrows_do_not_cross(name: str) -> None:
    """Arrows that begin or end together may share a part of their way."""
    diagram = DIAGRAMS[name]
    wrong = [
        (a.path, b.path)
        for a, b in itertools.combinations(diagram.arrows, 2)
        if not ends(a) & ends(b)
        and any(overlap(s, t) for s in segments(diagram, a) for t in segments(diagram, b))
    ]
    assert wrong == []


@each_diagram
def test_arrows_are_horizontal_or_vertical_and_have_a_length(name: str) -> None:
    diagram = DIAGRAMS[name]
    for arrow in diagram.arrows:
        points = diagram.points(arrow)
        for a, b in itertools.pairwise(points):
            assert a[0] == pytest.approx(b[0]) or a[1] == pytest.approx(b[1]), arrow.path
        assert sum(abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in itertools.pairwise(points)) > 9
