"""What `rt-embed camera` tells of a camera that plays, and of one that does not."""

from pathlib import Path

import pytest
from PIL import Image

from tests.camera import Answer, Picture, ScriptedCamera, encode
from worker.live import diagnosis
from worker.live.camera_description import CameraOptions, address
from worker.live.diagnosis import contact_sheet, diagnose

OPTIONS = CameraOptions(open_timeout=3, udp_timeout=0.5, read_timeout=2, latency=0.2)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return encode(seconds=2, gop=15)


async def test_a_camera_that_plays(
    pictures: list[Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate is that of the first pictures."""
    monkeypatch.setattr(diagnosis, "MOST_TIMES", 20)
    with ScriptedCamera(pictures, login=("me", "s3cret"), transports=("tcp",)) as camera:
        found = await diagnose(address(camera.url, "me", "s3cret"), OPTIONS, 1)
    assert contact_sheet(found, tmp_path / "sheet.png") == 8
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 224, 2 * 224)
    assert (found.error, found.transport, found.codec, found.size) == ("", "tcp", "h264", "96x96")
    assert abs(found.rate - 30) < 0.5
    assert found.pictures > 20
    assert found.gop == "15 to 15 pictures"
    assert (found.lost, found.clock) == (0, "the camera's, by its sender reports")
    text = "\n".join(found.lines())
    assert "> DESCRIBE rtsp://127.0.0.1" in text
    assert "note       udp: the camera answers SETUP" in text
    assert "s3cret" not in text


async def test_a_camera_that_does_not_play(pictures: list[Picture], tmp_path: Path) -> None:
    with ScriptedCamera(pictures) as camera:
        camera.answer = lambda asked: Answer("404 Not Found") if asked.method == "DESCRIBE" else None
        found = await diagnose(address(camera.url), OPTIONS, 1)
    assert contact_sheet(found, tmp_path / "sheet.png") == 0
    assert found.error.startswith("the camera answers DESCRIBE rtsp://")
    assert list(found.lines())[-1] == f"error      {found.error}"
