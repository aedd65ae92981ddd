"""The demonstration film: that it is real video, and that its scenes are found by their sentences."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import ModelError
from worker.engine.onnx import OnnxEngine
from worker.models.conse import film
from worker.models.conse.film import FRAME_RATE, SCENES, make_film
from worker.models.embedding_engine import Clips

SECONDS = 2


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    make_film(path, SECONDS)
    return path


@pytest.fixture(scope="module")
def frames(path: Path) -> NDArray[np.uint8]:
    """Every frame as uint8 [N, 3, 224, 224]."""
    with av.open(str(path)) as container:
        pictures = [f.reformat(224, 224, "rgb24").to_ndarray() for f in container.decode(video=0)]
    return np.stack(pictures).transpose(0, 3, 1, 2).astype(np.uint8, copy=False)


@pytest.fixture(scope="module")
def chunks(frames: NDArray[np.uint8]) -> Clips:
    """Eight frames of every scene."""
    length = SECONDS * FRAME_RATE
    wanted = np.linspace(0, length - 1, 8).astype(int)
    return np.stack([frames[i * length + wanted] for i in range(len(SCENES))])


def test_is_h264_with_b_frames_of_the_expected_length(path: Path, frames: NDArray[np.uint8]) -> None:
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        assert len(container.streams) == 1
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.format.name) == (640, 360, "yuv420p")
        assert stream.average_rate == FRAME_RATE
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == SECONDS * len(SCENES)
        assert any(packet.dts != packet.pts for packet in container.demux() if packet.size)
    assert len(frames) == SECONDS * FRAME_RATE * len(SCENES)


def test_scenes_change_where_they_should(frames: NDArray[np.uint8]) -> None:
    small = frames[:, :, ::8, ::8].astype(np.float32)
    change = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3))
    cuts = set(np.argsort(change)[-(len(SCENES) - 1) :] + 1)
    assert cuts == {i * SECONDS * FRAME_RATE for i in range(1, len(SCENES))}


def test_everything_moves(chunks: Clips) -> None:
    first, last = chunks[:, 0].astype(np.float32), chunks[:, -1].astype(np.float32)
    assert (np.abs(first - last).mean(axis=(1, 2, 3)) > 3).all()


def test_sentences_find_their_scenes(demo_engine: OnnxEngine, chunks: Clips) -> None:
    texts = demo_engine.embed_text([scene.sentence for scene in SCENES])
    similarity = texts @ demo_engine.embed_video(chunks).T
    found = similarity.argmax(axis=1) == np.arange(len(SCENES))
    missed = [scene.name for scene, first in zip(SCENES, found, strict=True) if not first]
    print(f"{found.sum()} of {len(SCENES)} scenes are ranked first; not: {missed}")
    assert len(SCENES) >= 8
    assert len(missed) <= 1


def test_same_film_every_time(path: Path, tmp_path: Path) -> None:
    make_film(tmp_path / "again.mp4", SECONDS)
    assert (tmp_path / "again.mp4").read_bytes() == path.read_bytes()


def test_missing_picture_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "SCENES", [film.Scene("none", "nothing", "nothing.png", "", "")])
    with pytest.raises(ModelError, match=r"no data/nothing\.png"):
        make_film(tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_command_line_explains_itself() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "worker.models.conse.film", "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "python -m worker.models.conse.film" in shown
    assert "the MP4 file to write" in shown


def test_scenes_say_where_they_come_from() -> None:
    assert len({scene.name for scene in SCENES}) == len(SCENES)
    for scene in SCENES:
        assert scene.source
        assert scene.licence in ("CC0 1.0", "public domain")
