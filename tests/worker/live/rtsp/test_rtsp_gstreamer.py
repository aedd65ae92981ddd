"""The RTSP client against GStreamer's server: another implementation, UDP, digest login, H.264, H.265, MJPEG.

Needs Debian's python3-gi, gir1.2-gst-rtsp-server-1.0 and gstreamer1.0-plugins-{base,good,bad,ugly}.
"""

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.chunks import SECOND
from tests.support import free_port
from worker.live.camera_description import CameraError, CameraOptions, Delivery, address
from worker.live.chunker import Chunker, Cut
from worker.live.rtp.access_units import AccessUnit
from worker.live.rtsp.rtsp_client import Player, probe_camera
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.runs import decode_runs

PYTHON = "/usr/bin/python3"
IMPORTS = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer;"
    "Gst.init(None); find = Gst.ElementFactory.find;"
    "assert all(map(find, ('x264enc', 'x265enc', 'rtph265pay', 'jpegenc', 'rtpjpegpay')))"
)


def is_there() -> bool:
    try:
        return subprocess.run([PYTHON, "-c", IMPORTS], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not is_there(), reason="GStreamer's RTSP server is not installed (apt)")

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server; its address."""
    running: list[subprocess.Popen[str]] = []

    def start(codec: str, *login: str) -> str:
        port = free_port()
        command = [PYTHON, str(Path(__file__).with_name("gst_server.py")), str(port), codec, *login]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout
        assert running[-1].stdout.readline() == "ready\n"
        return f"rtsp://127.0.0.1:{port}/live"

    yield start
    for process in running:
        process.kill()
        process.communicate()


async def chunks(url: str, kind: Delivery, login: tuple[str, str] = ("", "")) -> list[Cut]:
    """The first three chunks of a second."""
    player = Player(address(url, *login), CameraOptions(), kind)
    chunker: list[Chunker] = []
    cuts: list[Cut] = []

    def take(unit: AccessUnit) -> None:
        if chunker:
            cuts.extend(chunker[0].push(unit, time.monotonic_ns(), time.time_ns()))

    def opened() -> None:
        chunker.append(Chunker(player.track.codec, player.track.parameters, SECOND, 8))

    playing = asyncio.create_task(player.play(take, opened))
    while len(cuts) < 3 and not playing.done():
        await asyncio.wait({playing}, timeout=0.05)
    if playing.done():
        await playing
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
    await player.close()
    return cuts


@pytest.mark.parametrize("kind", ["udp", "tcp", "http"])
@pytest.mark.parametrize(("encoder", "codec"), [("x264", "h264"), ("x265", "hevc"), ("jpeg", "mjpeg")])
async def test_chunks_of_another_servers_stream(
    serve: Serve, kind: Delivery, encoder: str, codec: str
) -> None:
    cuts = await chunks(serve(encoder), kind)
    out = np.empty((8, 3, 32, 32), np.uint8)
    for index, cut in enumerate(cuts):
        assert cut.codec == codec
        assert cut.start == cuts[0].start + index * SECOND
        assert len(decode_runs(codec, cut.runs, MediaLimits(), out)) == 8
        assert abs(cut.wall_start - time.time_ns()) < 30 * SECOND


async def test_a_digest_login(serve: Serve) -> None:
    url = serve("x264", "user", "right-one")
    assert len(await chunks(url, "tcp", ("user", "right-one"))) == 3
    assert len(await chunks(url, "http", ("user", "right-one"))) == 3
    with pytest.raises(CameraError, match="401"):
        await probe_camera(address(url, "user", "wrong-one"), CameraOptions())
