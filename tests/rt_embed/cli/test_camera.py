"""`rt-embed camera` as people call it."""

import subprocess
import sys
from pathlib import Path

from tests.camera import Answer, ScriptedCamera, encode


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rt_embed", "camera", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"RTEMBED_RTSP_TRANSPORT": "tcp", "PATH": "/usr/bin:/bin"},
    )


def test_a_camera_that_plays(tmp_path: Path) -> None:
    with ScriptedCamera(encode(seconds=2), login=("me", "s3cr/t")) as camera:
        done = run(tmp_path, camera.url.replace("//", "//me:s3cr/t@"), "--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert "codec      h264, 96x96" in done.stdout
    assert "frames     8 of the first chunk in camera.png" in done.stdout
    assert (tmp_path / "camera.png").read_bytes()[:4] == b"\x89PNG"
    assert "s3cr" not in done.stdout + done.stderr


def test_a_camera_that_does_not_play(tmp_path: Path) -> None:
    with ScriptedCamera([], answer=lambda asked: Answer("404 Not Found")) as camera:
        done = run(tmp_path, camera.url)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("error      the camera answers DESCRIBE rtsp://127.0.0.1:")
    assert run(tmp_path, "http://camera/").returncode == 1
