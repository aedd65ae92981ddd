"""One camera in a camera process: played over the transport that works, and cut into chunks."""

import contextlib
import time
from typing import Protocol

import msgspec

from shared.addresses import CameraAddress
from shared.chunks import SECOND
from worker.live.camera_description import CameraError, Delivery, TransportRefused, address
from worker.live.camera_messages import Described, Ended, FromCameras, Open, Opened, Primed, Taken, Told
from worker.live.chunker import Chunker, Cut
from worker.live.rtp.access_units import AccessUnit
from worker.live.rtp.excess import Excess
from worker.live.rtsp.camera_sockets import CameraSockets
from worker.live.rtsp.rtsp_client import Player, probe_camera
from worker.live.rtsp.rtsp_conversation import follow
from worker.live.stream_clock import WallSource

BACKLOG = 64 << 20
"""Bytes that may wait for a worker that does not read; beyond, chunks are dropped."""


class Send(Protocol):
    """Sends messages to the worker; `backlog` bytes of them wait."""

    @property
    def backlog(self) -> int:
        """Bytes that the worker has not read."""

    def __call__(self, message: FromCameras) -> None:
        """Send one."""


class PlayedCamera:
    """One camera that is being played."""

    def __init__(self, order: Open, send: Send, sockets: CameraSockets | None = None) -> None:
        self._order = order
        self._sockets = sockets
        self._send = send
        self._chunker: Chunker | None = None
        self._player: Player | None = None
        self._excess = Excess(lambda event: send(Told(order.camera, event)))
        self._skipped = 0
        self._primed: WallSource | None = None
        self._paused = False
        self._unread_since: int | None = None

    async def run(self) -> None:
        """Play until the stream ends, by itself or by an error, and send Ended."""
        error = ""
        order = self._order
        try:
            where = address(order.url, order.username, order.password)
            await (self._describe(where) if order.describe else follow(where, self._play_any))
        except CameraError as problem:
            error = str(problem)
        except MemoryError:  # whose camera took it, nobody knows
            raise
        except Exception as problem:  # whatever one camera provokes, the others go on
            error = f"{type(problem).__name__}: {problem}"
        self._finish(error)
        self._send(Ended(order.camera, error))

    def pause(self, *, on: bool) -> None:
        """Stop or resume reading. What UDP loses meanwhile counts as chunks skipped."""
        if on and not self._paused:
            self._unread_since = time.monotonic_ns()
        self._paused = on
        if self._player:
            self._player.pause(on=on)
        if not on:
            self._unread_since = None

    def _interrupted(self) -> None:
        """Pictures were not read."""
        if self._chunker:
            self._chunker.interrupt()
        if self._unread_since is not None:
            self._skipped += (time.monotonic_ns() - self._unread_since) // self._order.duration

    async def _describe(self, where: CameraAddress) -> None:
        track = await probe_camera(where, self._order.options, self._sockets)
        self._send(Described(self._order.camera, track.codec))

    async def _play_any(self, where: CameraAddress) -> None:
        """UDP first, then TCP, unless a transport is asked for or has worked before. TLS is for TCP only."""
        wanted = self._order.options.transport
        if wanted != "auto":
            await self._play(where, wanted)
            return
        if self._order.habits.transport != "tcp" and not where.secure:
            with contextlib.suppress(TransportRefused):
                await self._play(where, "udp")
                return
        await self._play(where, "tcp")

    async def _play(self, where: CameraAddress, transport: Delivery) -> None:
        order = self._order
        self._player = player = Player(
            where, order.options, transport, order.habits, note=self._excess.note, sockets=self._sockets
        )

        def opened() -> None:
            self._finish("")  # what another address or transport gave
            track = player.track
            self._chunker = Chunker(
                track.codec,
                track.parameters,
                order.duration,
                order.frames,
                after=order.after,
                begin=order.begin,
                tolerance=round(order.options.clock_tolerance * SECOND),
                note=self._excess.note,
            )
            self._send(Opened(order.camera, track.codec, player.habits))
            player.pause(on=self._paused)

        try:
            await player.play(self._take, opened, self._interrupted)
        finally:
            await player.close()

    def _take(self, unit: AccessUnit) -> None:
        if self._chunker is None:
            return
        for cut in self._chunker.push(unit, time.monotonic_ns(), time.time_ns()):
            self._hand_over(cut)
        if self._order.begin and self._chunker.primed != self._primed:
            self._primed = self._chunker.primed
            if self._primed:
                self._send(Primed(self._order.camera, self._primed))
        while self._chunker.events:
            self._send(Told(self._order.camera, self._chunker.events.pop(0)))

    def _finish(self, error: str) -> None:
        """Hand over the chunk under way; cut off by an `error` it is told without its pictures."""
        for cut in self._chunker.finish() if self._chunker else ():
            self._hand_over(msgspec.structs.replace(cut, runs=[], error=error) if error else cut)
        self._chunker = None

    def _hand_over(self, cut: Cut) -> None:
        if self._send.backlog > BACKLOG:
            self._skipped += 1
            return
        self._send(Taken(self._order.camera, cut, self._skipped))
        self._skipped = 0
