"""`labkit predict` on videos and a camera: frame for frame, and what cannot be read."""

from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import typer
from torchvision.ops import masks_to_boxes

from labkit.cli.predict import predict
from labkit.engine import video as video_module
from labkit.engine.video import VideoReader, VideoWriter
from labkit.errors import LabkitError
from labkit.structures import Categories, Category, Detections, Prediction
from labkit.visualize import annotated

H, W, FPS, FRAMES = 64, 96, 12.0, 15
CLASSES = Categories([Category(1, "square", True)])


def frames():
    """A bright square that moves over a dark ramp, 4 pixels a frame."""
    ramp = np.linspace(0, 90, W, dtype=np.uint8)
    for i in range(FRAMES):
        pixels = np.broadcast_to(ramp[None, :, None], (H, W, 3)).copy()
        pixels[20:44, 4 * i + 8 : 4 * i + 32] = (250, 200, 30)
        yield pixels


class Bright(torch.nn.Module):
    """Finds what is bright in red: one object, and one of a low score. Ctrl-C where told."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.categories, self.calls, self.stop_at = CLASSES, 0, stop_at

    def forward(self, images):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        mask = (images[0][0] > 170)[None].expand(2, -1, -1)
        scores, labels = torch.tensor([0.9, 0.3]), torch.zeros(2, dtype=torch.int64)
        return [Prediction(Detections(masks_to_boxes(mask), scores, labels, mask))]


@pytest.fixture
def clip(tmp_path, monkeypatch):
    monkeypatch.setattr("labkit.engine.predictor.load_model", lambda *_: Bright())
    with VideoWriter(tmp_path / "moving.mp4", (H, W), FPS) as written:
        for pixels in frames():
            written.write(pixels)
    return tmp_path / "moving.mp4"


def read(path):
    with VideoReader(path) as video:
        return video.fps, list(video)


def test_a_video_is_read_as_it_was_written(clip):
    fps, found = read(clip)
    assert (fps, len(found)) == (FPS, FRAMES)
    for frame, pixels in zip(found, frames(), strict=True):
        difference = frame.permute(1, 2, 0).numpy().astype(float) - pixels
        assert np.abs(difference).mean() < 3, "of 255: what the codec loses"


def test_frame_for_frame(clip, tmp_path, capsys):
    predict([str(clip)], model="m", out=tmp_path / "out")
    target = tmp_path / "out" / "moving.mp4"
    assert f"15 frames drawn: {target}" in capsys.readouterr().out
    fps, found = read(target)
    assert (fps, len(found), tuple(found[0].shape)) == (FPS, FRAMES, (3, H, W))
    model = Bright()
    for i, (frame, source) in enumerate(zip(found, read(clip)[1], strict=True)):
        shown = model([source])[0].detections
        parts = (shown.boxes, shown.scores, shown.labels, shown.masks)
        best = Detections(*(part[:1] for part in parts))  # from score 0.5 on
        expected = annotated(source, best, CLASSES, by_object=True)
        difference = np.abs(frame.permute(1, 2, 0).numpy().astype(float) - expected)
        assert difference.mean() < 6, i
        color = frame[:, 24, 4 * i + 12].int()
        assert color.max() - color.min() > 40, "the object is coloured where it is in this frame"
        assert (frame[:, 55, 90].int() - 90).abs().max() < 15, "the rest is grey"
    assert sorted(path.name for path in target.parent.iterdir()) == [".lock", "moving.mp4"]


def test_results_are_replaced_on_request_only(clip, tmp_path):
    predict([str(clip)], model="m", out=tmp_path / "out", limit=3)
    assert len(read(tmp_path / "out" / "moving.mp4")[1]) == 3
    with pytest.raises(LabkitError, match=r"moving\.mp4: there already. Replace with --overwrite"):
        predict([str(clip)], model="m", out=tmp_path / "out")
    predict([str(clip)], model="m", out=tmp_path / "out", limit=4, overwrite=True)
    assert len(read(tmp_path / "out" / "moving.mp4")[1]) == 4
    with pytest.raises(LabkitError, match="the result would replace the video"):
        predict([str(clip)], model="m", out=tmp_path, overwrite=True)


def test_ctrl_c_keeps_the_frames_so_far(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("labkit.engine.predictor.load_model", lambda *_: Bright(stop_at=6))
    with pytest.raises(typer.Exit) as stopped:
        predict([str(clip)], model="m", out=tmp_path / "out")
    assert stopped.value.exit_code == 130
    assert "stopped after 5 of 15 frames" in capsys.readouterr().err
    assert len(read(tmp_path / "out" / "moving.mp4")[1]) == 5


def test_damaged_videos(clip, tmp_path, capfd):
    content = clip.read_bytes()
    for name, changed in (("cut", content[: len(content) // 2]), ("text", b"no video" * 99)):
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(changed)
        with pytest.raises(LabkitError, match=rf"{name}\.mp4: damaged, or not a video"):
            predict([str(path)], model="m", out=tmp_path / "out")
    with pytest.raises(LabkitError, match=r"none\.mp4: video not found"):
        predict([str(tmp_path / "none.mp4")], model="m", out=tmp_path / "out")
    assert "moov" not in capfd.readouterr().err, "one message, and none of FFmpeg's beside it"
    assert not list((tmp_path / "out").glob("*.mp4"))


def test_a_video_that_ends_early_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("labkit.engine.predictor.load_model", lambda *_: Bright())
    path = tmp_path / "camera.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (W, H))
    for pixels in frames():
        writer.write(pixels)
    writer.release()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    predict([str(path)], model="m", out=tmp_path / "out")
    drawn = len(read(tmp_path / "out" / "camera.mp4")[1])
    assert 0 < drawn < FRAMES
    assert "announces 15 frames; the others cannot be decoded" in capsys.readouterr().err


def test_no_camera(clip, tmp_path, monkeypatch, capfd):
    real = cv2.VideoCapture
    monkeypatch.setattr(video_module.cv2, "VideoCapture", lambda source: real("/none"))
    with pytest.raises(LabkitError, match="camera 0: not found, or another program uses it"):
        predict(model="m", out=tmp_path / "out", webcam=True)
    assert capfd.readouterr().err == ""


def test_a_camera_is_recorded_at_its_speed(clip, tmp_path, monkeypatch):
    """Predictions that take three frames' time each: every frame is shown so long."""
    real = cv2.VideoCapture
    monkeypatch.setattr(video_module.cv2, "VideoCapture", lambda source: real(source or str(clip)))
    clock = iter(np.arange(0, 1000, 3 / FPS))
    time = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("labkit.cli.predict_video.time", time)
    predict(model="m", out=tmp_path / "out", webcam=True, limit=4)
    found = read(tmp_path / "out" / "webcam.mp4")[1]
    assert len(found) == 4 * 3
    moves = [float((a.int() - b.int()).abs().float().mean()) for a, b in pairwise(found)]
    assert [i for i, move in enumerate(moves, 1) if move > 2] == [3, 6, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"panoptic": True}, "--panoptic is for images; a video is written as a video"),
        ({"data": "shapes"}, "--data is for images"),
        ({"images": ["a.mp4", "b.png"]}, r"b\.png: a video and images need a call each"),
        ({"images": ["a.png"], "webcam": True}, r"a\.png: the webcam and images need a call each"),
        ({"images": ["a/b.mp4", "c/b.avi"]}, r"c/b\.avi: its result and another video's would"),
    ],
)
def test_what_does_not_go_together(tmp_path, options, message):
    with pytest.raises(LabkitError, match=message):
        predict(**{"images": ["a.mp4"], "model": "m", "out": tmp_path / "out", **options})


def test_a_folder_of_videos_says_how_to_name_them(clip, tmp_path):
    with pytest.raises(LabkitError, match=r"no image in this folder.*named themselves: '.*mp4'"):
        predict([str(tmp_path)], model="m", out=tmp_path / "out")
