"""Hundreds of cameras on one core: how late are chunks, what does a camera cost, with three bad ones, too?

python -m tests.bench.live_cameras --cameras 200 --seconds 30
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import statistics
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any

import psutil
import uvloop

from shared.chunks import SECOND
from tests.camera import CLOCK_RATE, NTP_EPOCH, describe, encode, packetize
from tests.support import free_port
from worker.live.camera_description import CameraError, CameraOptions
from worker.live.camera_messages import Open, Opened, Taken, Told
from worker.live.camera_pool import Cameras, Feed

RATE = 30
FILM_SECONDS = 10
SOURCE = 0x1234
FLAPS_EVERY, SERVERS = 3.0, 2
OPTIONS = CameraOptions(transport="tcp", open_timeout=10, read_timeout=10)


@dataclass
class Load:
    """What was seen; lateness in ms, processor time in ms per camera and second. `opened` counts how often a
    bad camera has begun to play."""

    cameras: int
    bad: int
    seconds: float
    processes: int = 0
    megabits_per_camera: float = 0
    machine_load: tuple[float, float, float] = (0, 0, 0)
    chunks: int = 0
    expected: int = 0
    failed: int = 0
    late_p50: float = 0
    late_p95: float = 0
    late_max: float = 0
    cpu_per_camera: float = 0
    core_used: float = 0
    opened: dict[str, int] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)


# The cameras, in processes of their own ---------------------------------------------------------------------


def film(size: int, seconds: float) -> list[bytes]:
    """Interleaved RTP packets of each picture, numbered as long as anybody plays."""
    pictures = encode(seconds=FILM_SECONDS, size=size, rate=RATE)
    made: list[bytes] = []
    sequence = itertools.count()
    for number in range(round(seconds * RATE)):
        picture = pictures[number % len(pictures)]
        payloads = [part for nal in picture.nals for part in packetize(nal, "h264")]
        stamp = number * CLOCK_RATE // RATE
        whole = b""
        for index, payload in enumerate(payloads):
            marker = 0x80 if index == len(payloads) - 1 else 0
            head = struct.pack(">BBHII", 0x80, marker | 96, next(sequence) & 0xFFFF, stamp, SOURCE)
            whole += b"$\0" + struct.pack(">H", len(head) + len(payload)) + head + payload
        made.append(whole)
    return made


def serve(pipe: Pipe, core: int, size: int, seconds: float) -> None:
    """Serve cameras on one port until killed: /good, /flapping, /flooding, /silent."""
    os.sched_setaffinity(0, {core})
    pictures = film(size, seconds)
    port = free_port()

    async def run() -> None:
        server = await asyncio.start_server(lambda r, w: _answer(r, w, pictures), "127.0.0.1", port)
        pipe.send((port, sum(map(len, pictures[: FILM_SECONDS * RATE])) * 8 / FILM_SECONDS / 1e6))
        await server.serve_forever()

    uvloop.run(run())


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pictures: list[bytes]) -> None:
    sending: asyncio.Task[None] | None = None
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            first = await reader.readexactly(1)
            if first == b"$":
                await reader.readexactly(int.from_bytes((await reader.readexactly(3))[1:], "big"))
                continue
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
            method, url, _ = head.split(" ", 2)
            number = head.partition("CSeq: ")[2].partition("\r\n")[0]
            body = describe("h264") if method == "DESCRIBE" else ""
            more = (
                "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 7\r\n"
                if method == "SETUP"
                else ""
            )
            lines = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
            writer.write((lines + body).encode())
            if method == "PLAY" and sending is None:
                sending = asyncio.create_task(_send(url, writer, pictures))
    if sending:
        sending.cancel()
    writer.close()


async def _send(url: str, writer: asyncio.StreamWriter, pictures: list[bytes]) -> None:
    began = time.time()
    if "silent" in url:
        return
    while "flooding" in url:
        for picture in pictures:
            writer.write(picture)
            await writer.drain()
    for number, picture in enumerate(pictures):
        due = began + number / RATE
        await asyncio.sleep(due - time.time())
        if number % RATE == 0:
            writer.write(b"$\1\0\x1c" + _report(due, number * CLOCK_RATE // RATE))
        writer.write(picture)
        if "flapping" in url and number > FLAPS_EVERY * RATE:
            writer.transport.abort()


def _report(wall: float, stamp: int) -> bytes:
    ntp = int((wall + NTP_EPOCH) * (1 << 32))
    return struct.pack(">BBHIQIII", 0x80, 200, 6, SOURCE, ntp, stamp, 0, 0)


# The worker's side ------------------------------------------------------------------------------------------


class Session:
    """Plays one camera again and again, as a worker does, and notes how late its chunks are (ms)."""

    def __init__(self, url: str, duration: float) -> None:
        self.name = url.rpartition("/")[2]
        self.late: list[float] = []
        self.opened = self.failed = 0
        self.events: list[str] = []
        self._order = Open(
            camera=0, url=url, username="", password="", options=OPTIONS,
            duration=round(duration * SECOND), frames=8,
        )  # fmt: skip

    async def run(self, cameras: Cameras) -> None:
        while True:
            try:
                await cameras.play(
                    self._order, Feed(self._opened, self._taken, self._told, lambda primed: None)
                )
            except CameraError as error:
                self.events.append(str(error))
            await asyncio.sleep(0.3)

    def _opened(self, opened: Opened) -> None:
        self.opened += 1

    def _told(self, told: Told) -> None:
        self.events.append(told.event)

    def _taken(self, taken: Taken) -> None:
        if taken.cut.error:
            self.failed += 1
        elif taken.cut.clock == "camera":
            self.late.append((time.time_ns() - taken.cut.wall_end) / 1e6)


async def measure(load: Load, urls: list[str], bad: list[str], duration: float, core: int) -> None:
    """Play all cameras, in camera processes that share one core, and fill in `load`."""
    cameras = Cameras()
    sessions = [Session(url, duration) for url in urls]
    others = [Session(url, duration) for url in bad]
    tasks = []
    for session in [*sessions, *others]:
        tasks.append(asyncio.create_task(session.run(cameras)))
        await asyncio.sleep(0.03)
    for process in cameras.processes:
        os.sched_setaffinity(process.pid, {core})
    await asyncio.sleep(duration)
    for session in sessions:
        session.late.clear()
        session.failed = 0
    spent = _cpu(cameras)
    began = time.monotonic()
    await asyncio.sleep(load.seconds)
    passed = time.monotonic() - began
    spent = _cpu(cameras) - spent
    late = sorted(ms for session in sessions for ms in session.late)
    load.processes = len(cameras.processes)
    load.machine_load = os.getloadavg()
    load.chunks, load.expected = len(late), round(len(sessions) * passed / duration)
    load.failed = sum(session.failed for session in sessions)
    load.late_p50, load.late_p95, load.late_max = (
        round(value, 1) for value in (statistics.median(late), late[int(len(late) * 0.95)], late[-1])
    )
    load.core_used = round(spent / passed, 3)
    load.cpu_per_camera = round(spent / passed / len(sessions) * 1000, 2)
    load.opened = {session.name: session.opened for session in others}
    load.events = sorted({event for session in [*sessions, *others] for event in session.events})
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await cameras.close()


def _cpu(cameras: Cameras) -> float:
    times = [psutil.Process(process.pid).cpu_times() for process in cameras.processes]
    return sum(each.user + each.system for each in times)


def run(options: argparse.Namespace, *, bad: bool) -> Load:
    """Start the cameras, measure, end them."""
    reading, sending = options.cores
    names = ["flapping", "flooding", "silent"] if bad else []
    load = Load(options.cameras, len(names), options.seconds)
    length = options.seconds + 2 * options.chunk_duration + options.cameras * 0.03 + 20
    context = multiprocessing.get_context("spawn")
    servers: list[Any] = []
    ports = []
    for _ in range(SERVERS):
        ours, theirs = context.Pipe()
        servers.append(
            context.Process(target=serve, args=(theirs, sending, options.size, length), daemon=True)
        )
        servers[-1].start()
        port, load.megabits_per_camera = ours.recv()
        ports.append(port)
    load.megabits_per_camera = round(load.megabits_per_camera, 2)
    os.sched_setaffinity(0, {sending})
    urls = [f"rtsp://127.0.0.1:{ports[n % SERVERS]}/good" for n in range(options.cameras - len(names))]
    others = [f"rtsp://127.0.0.1:{ports[n % SERVERS]}/{name}" for n, name in enumerate(names)]
    try:
        uvloop.run(measure(load, urls, others, options.chunk_duration, reading))
    finally:
        for server in servers:
            server.kill()
            server.join()
    return load


def main() -> None:
    """Print what was seen as JSON, without bad cameras and with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--chunk-duration", type=float, default=5)
    parser.add_argument("--size", type=int, default=368, help="pixels of a side")
    parser.add_argument(
        "--cores", type=int, nargs=2, default=[0, 1], help="of the camera processes; of the rest"
    )
    options = parser.parse_args()
    for bad in (False, True):
        print(json.dumps(vars(run(options, bad=bad))), flush=True)


if __name__ == "__main__":
    main()
