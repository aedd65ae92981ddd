"""Diagnosis of a camera: the conversation, the properties of its stream, the first chunk."""

import asyncio
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from shared.addresses import CameraAddress
from shared.chunks import SECOND
from worker.live.camera_description import (
    CameraError,
    CameraOptions,
    Delivery,
    TransportRefused,
    shown,
)
from worker.live.chunker import Chunker, Cut
from worker.live.pictures import picture_reader
from worker.live.rtp.access_units import AccessUnit
from worker.live.rtp.excess import Excess
from worker.live.rtsp.rtsp_client import Player
from worker.live.rtsp.rtsp_connection import Exchange
from worker.live.rtsp.rtsp_conversation import follow
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.runs import decode_runs, look_at

FRAMES = 8
COLUMNS = 4
TILE = 224
MOST_EXCHANGES = 200
MOST_TIMES = 10_000
"""Pictures from which the rate is computed: those of five minutes at 30 a second."""


@dataclass
class Diagnosis:
    """What was seen of a camera. `error` says why it does not play; empty if it does."""

    said: list[Exchange] = field(default_factory=list)
    error: str = ""
    transport: str = ""
    server: str = ""
    codec: str = ""
    size: str = ""
    pictures: int = 0
    rate: float = 0
    kilobits: float = 0
    gop: str = ""
    packets: int = 0
    lost: int = 0
    clock: str = ""
    events: list[str] = field(default_factory=list)
    cut: Cut | None = None

    def lines(self) -> Iterator[str]:
        """Yield the report for people, without credentials."""
        for exchange in self.said:
            yield from _spoken(exchange)
        if self.codec:
            yield f"transport  {self.transport}" + (f", server {shown(self.server)}" if self.server else "")
            yield f"codec      {self.codec}, {self.size or 'size unknown: no chunk was decoded'}"
            yield f"rate       {self.rate:.1f} pictures/s, {self.kilobits:.0f} kbit/s"
            yield f"GOP        {self.gop}"
            yield f"clock      {self.clock}"
            yield f"loss       {self.lost} of {self.packets + self.lost} packets"
        for event in self.events:
            yield f"note       {event}"
        if self.error:
            yield f"error      {self.error}"


def _spoken(exchange: Exchange) -> Iterator[str]:
    yield f"> {exchange.method} {exchange.url}"
    yield from (f">   {name}: {value}" for name, value in exchange.headers.items() if name != "Session")
    reply = exchange.reply
    if reply is None:
        yield "< no answer"
        return
    yield f"< {reply.status} {reply.reason} ({exchange.seconds * 1000:.0f} ms)"
    for name in ("server", "public", "content-base", "location", "transport", "www-authenticate"):
        if value := reply.header(name):
            yield f"<   {name}: {shown(value)}"
    yield from (f"<   {shown(line)}" for line in reply.body.splitlines()[:60] if line.strip())


async def diagnose(where: CameraAddress, options: CameraOptions, seconds: float) -> Diagnosis:
    """Play a camera for some `seconds`, or until it has ended, over the transport that works."""
    found = Diagnosis()

    async def attempt(there: CameraAddress) -> None:
        wanted = options.transport
        kinds: tuple[Delivery, ...] = ("udp", "tcp") if wanted == "auto" else (wanted,)
        for kind in ("tcp",) if there.secure and wanted == "auto" else kinds:
            try:
                await _watch(found, there, options, kind, seconds)
                return
            except TransportRefused as refused:
                if kind == kinds[-1]:
                    raise
                found.events.append(f"{kind}: {refused}")

    try:
        await follow(where, attempt)
    except CameraError as error:
        found.error = str(error)
    return found


async def _watch(
    found: Diagnosis, where: CameraAddress, options: CameraOptions, kind: Delivery, seconds: float
) -> None:
    def say(exchange: Exchange) -> None:
        if len(found.said) < MOST_EXCHANGES:
            found.said.append(exchange)

    excess = Excess(found.events.append)
    player = Player(where, options, kind, log=say, note=excess.note)
    seen = _Seen(found, player, seconds)
    playing = asyncio.create_task(player.play(seen.take, seen.begin))
    try:
        deadline = time.monotonic() + options.open_timeout + 2 * seconds
        while not playing.done() and not seen.enough and time.monotonic() < deadline:
            await asyncio.wait({playing}, timeout=0.1)
        if playing.done():
            await playing
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        await player.close()
        seen.conclude(kind)


class _Seen:
    """Gathers what a player hands over."""

    def __init__(self, found: Diagnosis, player: Player, seconds: float) -> None:
        self.enough = False
        self._found, self._player, self._seconds = found, player, seconds
        self._chunker: Chunker | None = None
        self._shortest, self._longest = math.inf, 0.0
        self._entry: int | None = None
        self._times: list[int] = []
        self._bytes = 0
        self._began = 0.0

    def begin(self) -> None:
        """The first packet is there."""
        track = self._player.track
        self._began = time.monotonic()
        self._chunker = Chunker(track.codec, track.parameters, round(self._seconds * SECOND), FRAMES)
        self._reader = picture_reader(track.codec, track.parameters)

    def take(self, unit: AccessUnit) -> None:
        """Add a picture."""
        if self._chunker is None:
            return
        if self._reader.read(unit).coding.entry:
            if self._entry is not None:
                length = self._found.pictures - self._entry
                self._shortest, self._longest = min(self._shortest, length), max(self._longest, length)
            self._entry = self._found.pictures
        self._found.pictures += 1
        if len(self._times) < MOST_TIMES:
            self._times.append(unit.time)
        self._bytes += len(unit.data)
        cuts = self._chunker.push(unit, time.monotonic_ns(), time.time_ns())
        if cuts and self._found.cut is None:
            self._found.cut = cuts[0]
        late = time.monotonic() - self._began > self._seconds
        self.enough = late and self._found.cut is not None

    def conclude(self, kind: Delivery) -> None:
        """Fill in the diagnosis."""
        found = self._found
        if self._chunker is None:
            return
        cuts = self._chunker.finish()
        found.cut = found.cut or (cuts[0] if cuts else None)
        found.events += self._chunker.events
        found.transport, found.server = kind, self._player.server
        found.codec = self._player.track.codec
        steps = [b - a for a, b in pairwise(sorted(self._times)) if b > a]
        found.rate = SECOND / statistics.median(steps) if steps else 0
        elapsed = max(0.001, time.monotonic() - self._began)
        found.kilobits = self._bytes * 8 / 1000 / elapsed
        gops = f"{self._shortest:g} to {self._longest:g} pictures"
        found.gop = gops if self._longest else "no two key frames were seen"
        found.packets, found.lost = self._player.reception.received, self._player.reception.lost
        names = {"camera": "the camera's, by its sender reports", "picture": "the camera's, within pictures"}
        clock = found.cut.clock if found.cut else "arrival"
        found.clock = names.get(clock, "ours: the camera sends no usable sender reports")


def contact_sheet(found: Diagnosis, path: Path) -> int:
    """Write the frames of the first chunk as a PNG; return how many. Raises DecodeError, OSError."""
    if found.cut is None:
        return 0
    look = look_at(found.codec, found.cut.runs[0], MediaLimits())
    found.size = f"{look.width}x{look.height}"
    out = np.zeros((FRAMES, 3, TILE, TILE), np.uint8)
    times = decode_runs(found.codec, found.cut.runs, MediaLimits(), out)
    rows = -(-len(times) // COLUMNS)
    sheet: NDArray[np.uint8] = np.zeros((rows * TILE, COLUMNS * TILE, 3), np.uint8)
    for index in range(len(times)):
        top, left = index // COLUMNS * TILE, index % COLUMNS * TILE
        sheet[top : top + TILE, left : left + TILE] = out[index].transpose(1, 2, 0)
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = sheet.shape[1], sheet.shape[0], "rgb24"
    encoder.time_base = Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(sheet, format="rgb24")
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    path.write_bytes(b"".join(bytes(packet) for packet in packets))
    return len(times)
