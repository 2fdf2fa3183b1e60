"""From a publisher's server to a prediction: files in the published formats, over HTTP.

The server is on this machine. The files are what a publisher would write, with random weights and,
where the names allow it, smaller networks than the published ones.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import socket
import sys
import types
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import jupytext
import matplotlib
import pytest
import torch
from helpers.paths import CHECKOUT
from helpers.photographs import write_photographs
from PIL import Image

from labkit.checkpoints import model_zoo
from labkit.checkpoints.detectron2 import to_detectron2
from labkit.checkpoints.run_folder import load_run
from labkit.checkpoints.upsnet import upsnet_key_map as upsnet_names
from labkit.cli import main, zoo
from labkit.cli.train import train as train_command
from labkit.datasets.fetch import catalog
from labkit.datasets.penn_fudan import HELD_OUT
from labkit.datasets.shapes import Shapes
from labkit.engine.predictor import Predictor
from labkit.errors import LabkitError
from labkit.models import PRESETS
from labkit.system.paths import download_folder

SMALLER = {
    "panoptic_fpn_R_101_3x": "panoptic_fpn_tiny",
    "panoptic_fpn_R_50_3x": "panoptic_fpn_tiny",
    "mask_rcnn_R_101_C4_3x": "mask_rcnn_tiny_c4",
    "mask_rcnn_R_101_DC5_3x": "mask_rcnn_tiny_dc5",
    "mask_rcnn_R_101_FPN_3x": "mask_rcnn_tiny",
}
"""The notebook's line-up but UPSNet, whose names know no network smaller than its own."""


def random_model(preset, categories, seed):
    """A network that finds something: fresh ones give every class the same score."""
    torch.manual_seed(seed)
    model = PRESETS[preset].build(categories).eval()
    with torch.no_grad():
        model.roi_heads.cls_score.weight *= 200
    return model


def detectron2_file(model):
    """As in Detectron2's zoo: a pickle of NumPy arrays by Detectron2's names."""
    arrays = {name: value.numpy() for name, value in to_detectron2(model.state_dict()).items()}
    return pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol=2)


def upsnet_file(model):
    """As UPSNet's authors published: the background first, stuff before things, and wrapped."""
    key_map, stuff = upsnet_names(len(model.categories.stuff)), len(model.categories.stuff)
    content = {}
    for key, value in model.state_dict().items():
        if key.startswith("roi_heads.cls_score"):
            value = torch.cat([value[-1:], value[:-1]])
        elif key.startswith("roi_heads.bbox_pred"):
            value = torch.cat([torch.zeros_like(value[:4]), value])
        elif key.startswith("roi_heads.mask_head.predictor"):
            value = torch.cat([torch.zeros_like(value[:1]), value])
        elif key.startswith("sem_seg_head.score"):
            value = torch.cat([value[-stuff:], value[:-stuff]])
        content[f"module.{key_map.name(key)}"] = value
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class Zoo:
    """A server with published files, and the catalogue that names them."""

    def __init__(self, server):
        self.server, self.entries, self.models = server, {}, {}

    def publish(self, name, preset, to_bytes):
        entry = replace(model_zoo.find(name), preset=preset)
        model = random_model(preset, entry.list_categories(), len(self.models))
        content = to_bytes(model)
        digits = hashlib.md5(content).hexdigest()[:6]
        file = f"{name}/model_final_{digits}{Path(entry.url).suffix}"
        self.server.files[file] = content
        known = entry.hash if entry.hash == model_zoo.NO_HASH else f"md5:{digits}"
        self.models[name] = model
        self.entries[name] = replace(entry, url=self.server.url(file), hash=known)
        return self.entries[name]


@pytest.fixture
def published(file_server, tmp_path, monkeypatch):
    """A zoo without entries yet, and an empty download folder."""
    monkeypatch.setenv("LABKIT_DOWNLOADS", str(tmp_path / "downloads"))
    made = Zoo(file_server)
    original = model_zoo.published_weights()
    monkeypatch.setattr(model_zoo, "published_weights", lambda: {**original, **made.entries})
    return made


@pytest.fixture
def image():
    return Shapes("val")[0][0]


def same(found, expected):
    """The same objects, and the same map where there is one; folded norms round otherwise."""
    a, b = found.detections, expected.detections
    assert len(a) == len(b) > 0
    assert torch.equal(a.labels, b.labels)
    assert (a.scores - b.scores).abs().max() < 1e-4
    assert (a.boxes - b.boxes).abs().max() < 1e-2
    if expected.panoptic is not None:
        assert (found.panoptic.ids != expected.panoptic.ids).float().mean() < 1e-3


@pytest.mark.parametrize("name", ["panoptic_fpn_R_101_3x", "mask_rcnn_R_101_C4_3x"])
def test_detectron2_s_files(published, name, image, tmp_path, capsys):
    entry = published.publish(name, SMALLER[name], detectron2_file)
    zoo.get([name])
    said = capsys.readouterr().out
    assert f"Licence: {entry.licence}" in said
    assert f"Its hash must begin with {entry.hash}" in said
    assert f"{name} is in {entry.path(tmp_path / 'downloads')}" in said
    with torch.no_grad():
        same(Predictor(name)(image), Predictor(published.models[name])(image))


def test_fine_tuning_from_published_weights(published, tmp_path, capsys):
    """The lecture's homework: COCO's detector on photographs of pedestrians, with new heads."""
    write_photographs(tmp_path, HELD_OUT + 2)
    name = "mask_rcnn_R_50_FPN_3x"
    published.publish(name, "mask_rcnn_tiny", detectron2_file)
    options = {"data": f"penn_fudan:{tmp_path / 'PennFudanPed'}", "steps": 1, "batch_size": 2}
    with pytest.raises(LabkitError, match=f"not fetched yet; run: labkit zoo get {name}"):
        train_command("mask_rcnn_tiny", out=tmp_path / "run", init=[name], lr=1e-6, **options)
    zoo.get([name])
    train_command("mask_rcnn_tiny", out=tmp_path / "run", init=[name], lr=1e-6, **options)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("fresh weights")]
    heads = ("cls_score", "bbox_pred", "mask_head.predictor")
    assert line == f"fresh weights, not in {name}: {', '.join(f'roi_heads.{x}' for x in heads)}"
    trained, before = load_run(tmp_path / "run").state_dict(), published.models[name].state_dict()
    for key, value in before.items():
        if not key.startswith(tuple(f"roi_heads.{x}" for x in heads)):
            assert torch.allclose(trained[key], value, atol=1e-6, rtol=0), key
    assert trained["roi_heads.cls_score.weight"].shape[0] == 2, "pedestrian and background"


def test_upsnet_s_file(published, image, monkeypatch, capsys):
    """At its own size of network, but on a small picture."""
    config = PRESETS["upsnet_r50"]
    preprocessing = replace(config.preprocessing, min_size=64, max_size=107)
    monkeypatch.setitem(PRESETS, "upsnet_small", replace(config, preprocessing=preprocessing))
    published.publish("upsnet_R_50", "upsnet_small", upsnet_file)
    zoo.get(["upsnet_R_50"])
    said = capsys.readouterr().out
    assert "Uber Non-Commercial License" in said
    assert "No hash is published" in said
    predictor = Predictor("upsnet_R_50")
    with torch.no_grad():
        same(predictor(image), Predictor(published.models["upsnet_R_50"])(image))
    assert "Uber Non-Commercial License" in capsys.readouterr().err


def test_an_interrupted_download_goes_on_to_the_same_network(published, image):
    name = "mask_rcnn_R_101_FPN_3x"
    entry = published.publish(name, SMALLER[name], detectron2_file)
    published.server.cut = 3
    with pytest.raises(LabkitError, match=r"connection broke after .* run the command again"):
        zoo.get([name])
    with pytest.raises(LabkitError, match=f"not fetched yet; run: labkit zoo get {name}"):
        Predictor(name)
    published.server.asked.clear()
    zoo.get([name])
    (wanted,) = published.server.asked
    assert re.fullmatch(r"bytes=[1-9]\d*-", wanted)
    assert entry.path(download_folder()).is_file()
    with torch.no_grad():
        same(Predictor(name)(image), Predictor(published.models[name])(image))


def test_a_file_with_another_hash_never_becomes_a_network(published, tmp_path):
    """It would load: the file is of the same architecture, with other weights."""
    name, other = "panoptic_fpn_R_101_3x", "panoptic_fpn_R_50_3x"
    entry = published.publish(name, SMALLER[name], detectron2_file)
    wrong = published.publish(other, SMALLER[other], detectron2_file)
    files = {Path(e.url).name: e.url.split("/", 3)[3] for e in (entry, wrong)}
    served = published.server.files
    served[files[Path(entry.url).name]] = served[files[Path(wrong.url).name]]
    with pytest.raises(LabkitError, match=f"does not begin with {entry.hash}; it was removed"):
        zoo.get([name])
    assert not [path for path in (tmp_path / "downloads").rglob("*") if path.is_file()]
    with pytest.raises(LabkitError, match="not fetched yet"):
        Predictor(name)


def unreachable(entry):
    """The same entry at a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return replace(entry, url=f"http://127.0.0.1:{port}/{entry.url.rpartition('/')[2]}")


def test_a_server_that_is_gone_is_one_message(published, monkeypatch, capsys):
    name = "mask_rcnn_R_101_FPN_3x"
    entry = published.publish(name, SMALLER[name], detectron2_file)
    published.entries[name] = unreachable(entry)
    monkeypatch.setattr(sys, "argv", ["labkit", "zoo", "get", name])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "cannot reach 127.0.0.1; check the network" in said
    assert said.count("error:") == 1
    assert "Traceback" not in said


def test_a_wrong_name_among_several_fetches_nothing(published):
    name = "mask_rcnn_R_101_FPN_3x"
    published.publish(name, SMALLER[name], detectron2_file)
    with pytest.raises(LabkitError, match="no folder and no weights are called 'yolo'"):
        zoo.get([name, "yolo"])
    assert published.server.asked == []


# Notebook 07


class Notebook:
    """Notebook 07 run cell by cell in this process, where the stand-in is the catalogue."""

    def __init__(self, monkeypatch, **parameters):
        notebook = jupytext.read(CHECKOUT / "notebooks" / "src" / "07_model_zoo.py")
        self.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert "parameters" in self.cells[0].metadata["tags"]
        self.parameters, self.records, self.monkeypatch = parameters, {}, monkeypatch
        matplotlib.use("agg")
        monkeypatch.setattr("labkit.record", self.records.__setitem__)
        monkeypatch.setattr("IPython.display.display", lambda _: None)

    def run(self, until):
        """All cells before the one that holds a text; returns what they printed."""
        printed, module = io.StringIO(), types.ModuleType("notebook_07")
        self.monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look
        names = module.__dict__
        with redirect_stdout(printed):
            for cell in self.cells:
                if until in cell.source:
                    return printed.getvalue()
                lines = [line for line in cell.source.splitlines() if not line.startswith("%")]
                exec("\n".join(lines), names)
                if cell is self.cells[0]:
                    names.update(self.parameters)
        raise AssertionError(f"no cell of notebook 07 holds {until!r}")


NOT_PUBLISHED = ("upsnet_R_50", "detr_panoptic_R_50")
"""Of the notebook's line-up, what the stand-in does not have."""


@pytest.fixture
def article(published, monkeypatch):
    """The article's picture on the server: drawn, and small."""
    image = Shapes("test", size=96)[0][0].permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="jpeg")
    published.server.files["000000000016.jpg"] = file.getvalue()
    original = catalog.catalogue()
    dataset = original["coco-test-image"]
    here = replace(dataset.files[0], url=published.server.url("000000000016.jpg"))
    changed = {**original, "coco-test-image": replace(dataset, files=[here])}
    monkeypatch.setattr(catalog, "catalogue", lambda: changed)


def test_notebook_07_fetches_and_repeats_the_experiment(published, article, monkeypatch):
    for name, preset in SMALLER.items():
        published.publish(name, preset, detectron2_file)
    for name in NOT_PUBLISHED:
        published.entries[name] = unreachable(model_zoo.find(name))
    notebook = Notebook(monkeypatch, profile="smoke", fetch=True)
    threads = torch.get_num_threads()
    try:
        said = notebook.run(until="Compare(last")
    finally:
        torch.set_num_threads(threads)
    for name in SMALLER:
        assert f"Its hash must begin with {published.entries[name].hash}" in said
        assert f"article_instances_{name}" in notebook.records
    assert said.count("NOT DOWNLOADED") == 1  # once a host
    assert notebook.records["ran_on"] == "published weights"
    assert notebook.records["published_networks"] == len(SMALLER)
    assert notebook.records["article_segments_panoptic_fpn_R_101_3x"] >= 0


def test_notebook_07_without_the_server_says_so_once(published, article, monkeypatch):
    for name, preset in SMALLER.items():
        published.entries[name] = unreachable(published.publish(name, preset, detectron2_file))
    for other in NOT_PUBLISHED:
        published.entries[other] = unreachable(published.entries[name])
    published.server.files.clear()
    notebook = Notebook(monkeypatch, profile="smoke", fetch=True)
    said = notebook.run(until="class Setting")
    assert said.count("NOT DOWNLOADED") == 2  # once for seven networks, and for the photograph
    assert "NO PUBLISHED NETWORK IS HERE" in said
    assert notebook.records["ran_on"] == "small networks"
