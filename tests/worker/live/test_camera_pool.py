"""Camera processes: what comes from them, what they may do, and what becomes of one that dies."""

import asyncio
import os
import re
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import structlog
import trustme
from opentelemetry.metrics import CallbackOptions

from shared.chunks import SECOND
from shared.telemetry.instruments import camera_excess
from tests.camera import Answer, Asked, Picture, ScriptedCamera, encode
from tests.support import until
from worker.isolation.system_calls import this_machine
from worker.live import camera_process
from worker.live.camera_description import CameraError, CameraOptions, Habits, Transport
from worker.live.camera_messages import Bind, Connect, Datagram, Join, NoSocket, Open, Opened, Pulse, Taken
from worker.live.camera_pool import ROOM, CameraProcess, CameraProcessDied, Cameras, Feed
from worker.live.rtp.excess import Excess
from worker.live.rtsp.lent_sockets import MOST_OPENED, Lender

QUICK = CameraOptions(open_timeout=3, udp_timeout=1)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return encode(seconds=0.5, gop=5)


@pytest.fixture
async def cameras() -> AsyncIterator[Cameras]:
    made = Cameras()
    yield made
    await made.close()


def order(url: str, options: CameraOptions = QUICK) -> Open:
    return Open(
        camera=0, url=url, username="", password="", options=options, duration=SECOND // 5, frames=2
    )  # fmt: skip


def feed(taken: Callable[[Taken], None] | None = None) -> Feed:
    return Feed(Mock(), taken or Mock(), Mock(), Mock())


async def test_each_feed_is_called_in_the_context_of_its_session() -> None:
    seen: list[tuple[int, str]] = []
    feeds: dict[int, Feed] = {}

    async def session(number: int) -> None:
        structlog.contextvars.bind_contextvars(request_id=f"request-{number}")

        def opened(message: Opened) -> None:
            bound = structlog.contextvars.get_contextvars()
            seen.append((message.camera, bound["request_id"]))

        feeds[number] = Feed(opened, Mock(), Mock(), Mock())

    await asyncio.gather(session(1), session(2))
    process = object.__new__(CameraProcess)
    process.feeds, process._pulse = feeds, 0.0
    structlog.contextvars.bind_contextvars(request_id="request-1")  # of the session that started the process
    try:
        for number in (1, 2):
            process._dispatch(Opened(number, "h264", Habits()))
    finally:
        structlog.contextvars.clear_contextvars()
    assert seen == [(1, "request-1"), (2, "request-2")]


@pytest.mark.skipif(this_machine() is None, reason="no seccomp filter for this machine")
async def test_each_pulse_counts_what_was_beyond_the_bounds_since_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def counted() -> float:
        return sum(observation.value for observation in camera_excess.observe(CallbackOptions()))

    before, excess = counted(), [Excess(Mock()), Excess(Mock())]
    process = object.__new__(CameraProcess)
    process._pulse = 0.0
    sent: asyncio.Queue[Pulse] = asyncio.Queue()
    send = Mock(side_effect=sent.put_nowait, backlog=0)
    monkeypatch.setattr(camera_process, "PULSE_INTERVAL", 0.01)
    pulsing = asyncio.create_task(camera_process._pulse(send))
    try:
        process._dispatch(await sent.get())
        for camera in 2 * excess:
            camera.note("late packets are dropped")
        for _ in range(3):
            process._dispatch(await sent.get())
    finally:
        pulsing.cancel()
    assert counted() - before == 4


async def test_a_camera_plays_from_inside_the_sandbox(cameras: Cameras, pictures: list[Picture]) -> None:
    """Over every transport and TLS, by its host's name, and after redirections; then the process is looked
    at."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    trusting = CameraOptions(authorities=authority.cert_pem.bytes().decode())
    with ScriptedCamera(pictures) as plain, ScriptedCamera(pictures, tls=tls) as secret:
        by_name = plain.url.replace("127.0.0.1", "localhost")

        def redirect(asked: Asked) -> Answer | None:
            return Answer("302 Found", {"Location": by_name}) if asked.method == "DESCRIBE" else None

        with ScriptedCamera(pictures, answer=redirect) as elsewhere:
            kinds: tuple[Transport, ...] = ("udp", "tcp", "multicast")
            orders = [order(plain.url, CameraOptions(transport=kind, open_timeout=5)) for kind in kinds]
            orders += [order(elsewhere.url), order(secret.url, trusting)]
            await asyncio.gather(*(play_a_chunk(cameras, each) for each in orders))
        assert await cameras.describe(order(by_name)) == "h264"
        with pytest.raises(CameraError, match=r"its certificate is not trusted: .*RTEMBED_RTSP_CA_FILE"):
            await cameras.describe(order(secret.url))
    (process,) = cameras.processes
    assert confined(process.pid)


def confined(pid: int) -> bool:
    """Whether a process has no capabilities, a filter, and its limit; and is nobody's to look into."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = dict(re.findall(r"(NoNewPrivs|Seccomp|CapEff|CapPrm):\s*(\w+)", status))
    none = "0" * 16
    assert found == {"CapPrm": none, "CapEff": none, "NoNewPrivs": "1", "Seccomp": "2"}
    assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
    return f"{2 << 30}" in Path(f"/proc/{pid}/limits").read_text()


async def play_a_chunk(cameras: Cameras, wanted: Open) -> None:
    got = asyncio.Event()
    playing = asyncio.create_task(cameras.play(wanted, feed(lambda taken: got.set())))
    waiting = asyncio.create_task(got.wait())
    await asyncio.wait({playing, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=15)
    for task in (playing, waiting):
        task.cancel()
    results = await asyncio.gather(playing, return_exceptions=True)
    assert got.is_set(), (wanted.url, wanted.options.transport, results)


async def test_the_worker_judges_where_cameras_may_be(cameras: Cameras) -> None:
    for url, networks, error in (
        ("rtsp://169.254.169.254/", [], "its address is not in a network that cameras may be in"),
        ("rtsp://[64:ff9b::169.254.169.254]/", [], "its address is not in a network"),
        ("rtsp://127.0.0.1:9/", ["10.0.0.0/8"], "its address is not in a network"),
        ("rtsp://no-such-host.invalid/", [], "cannot connect: .*(?:known|resolution|No address)"),
    ):
        with pytest.raises(CameraError, match=error):
            await cameras.describe(order(url, CameraOptions(networks=networks, open_timeout=5)))


async def test_a_process_without_memory_is_replaced() -> None:
    """Whatever needs the memory; here, a message that is longer than it."""
    cameras = Cameras(memory=320 << 20)
    try:
        with pytest.raises(CameraProcessDied, match=r"its 320 MiB of memory \(RTEMBED_CAMERA_MEMORY_MB\)"):
            await cameras.play(order("rtsp://" + 120 * (1 << 20) * "a"), feed())
        with pytest.raises(CameraError, match="not a usable RTSP address"):
            await cameras.describe(order("no address"))
    finally:
        await cameras.close()


async def test_cameras_whose_process_died_are_played_by_fewer(cameras: Cameras) -> None:
    """Until one that is alone in its process is known to end it. What another program kills counts not."""
    deaf: list[asyncio.Task[None]] = []
    with ScriptedCamera([], deaf=True) as camera:
        options = CameraOptions(open_timeout=60)
        for deaths, rooms in ((0, [32]), (1, [32, 4, 4]), (2, [32, 4, 4, 1, 1])):
            deaf += [
                asyncio.create_task(cameras.play(order(camera.url, options), feed(), deaths))
                for _ in range(5 if deaths < 2 else 2)
            ]
            await until(lambda rooms=rooms: [p.room for p in cameras.processes] == rooms)
        assert [len(p.feeds) for p in cameras.processes] == [5, 4, 1, 1, 1]
        assert ROOM == (32, 4, 1)
        os.kill(cameras.processes[0].pid, signal.SIGSEGV)
        os.kill(cameras.processes[1].pid, signal.SIGKILL)
        await until(lambda: sum(task.done() for task in deaf) == 9)
        ends = [task.exception() for task in deaf if task.done()]
        assert [type(end) for end in ends] == [CameraProcessDied] * 5 + [CameraError] * 4
        assert str(ends[0]) == "the camera process died (SIGSEGV)"
        for task in deaf:
            task.cancel()
        await asyncio.gather(*deaf, return_exceptions=True)


async def test_a_taken_over_process_gets_what_its_cameras_may_have() -> None:
    """Whatever it asks for."""
    handing, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    refusals: list[NoSocket] = []
    lender = Lender(handing, refusals.append)
    lender.add(1, [])
    asked: list[Any] = [
        Connect(1, 1, "169.254.169.254", 80),
        Connect(1, 2, "no host \x00 at all", 80),
        Connect(1, 3, "127.0.0.1", 1 << 20),
        Join(1, 4, "127.0.0.1", (5000, 5001), "127.0.0.1"),
        Join(1, 5, "239.1.2.3", (22, 23), "127.0.0.1"),
        Join(1, 6, "239.1.2.3", (5000, 1 << 40), "127.0.0.1"),
        Join(1, 7, "239.1.2.3", (5000, 5001), "no interface"),
        *(Connect(1, 8 + number, "169.254.169.254", 80) for number in range(MOST_OPENED)),
    ]
    for message in asked:
        lender.take(message)
    lender.take(Connect(2, 999, "127.0.0.1", 80))  # no camera of its
    await until(lambda: len(refusals) == len(asked))
    await lender.close()
    handed.close()
    reasons = {refused.number: refused.error for refused in refusals}
    assert "not in a network" in reasons[1]
    assert all(reasons[number] for number in range(2, 8))
    assert [number for number in reasons if "more than 64" in reasons[number]] == list(range(65, 72))


async def test_datagrams_go_to_the_camera_only() -> None:
    handing, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lender = Lender(handing, Mock())
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener,
        socket.create_server(("127.0.0.1", 0)) as camera,
    ):
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)
        port = listener.getsockname()[1]
        lender.add(1, [])
        lender.take(Bind(1, 1))
        loop = asyncio.get_running_loop()
        await until(lambda: bool(lender._cameras[1].sockets._pair))
        lender.take(Datagram(1, 0, b"before", "127.0.0.1", port))
        lender.take(Connect(1, 2, "127.0.0.1", camera.getsockname()[1]))
        await until(lambda: bool(lender._cameras[1].sockets._peers))
        for host in ("127.0.0.2", "127.0.0.1"):
            lender.take(Datagram(1, 1, host.encode(), host, port))
        lender.take(Datagram(1, 7, b"no such channel", "127.0.0.1", port))
        assert await loop.sock_recv(listener, 100) == b"127.0.0.1"
        with pytest.raises(BlockingIOError):
            listener.recv(100)
    await lender.close()
    handed.close()
