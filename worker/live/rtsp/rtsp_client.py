"""An RTSP client for live video: RTSP 1.0 (RFC 2326) over TCP, its media over UDP or interleaved.

Made of asyncio alone, so that hundreds of cameras share one thread, every wait has a deadline, and no native
code reads what comes from the network. Audio is not set up.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

from shared.addresses import CameraAddress
from worker.live.camera_description import (
    CameraError,
    CameraOptions,
    Delivery,
    Habits,
    Redirected,
    RequestRefused,
    TransportRefused,
)
from worker.live.rtp.access_units import AccessUnit, Assembler
from worker.live.rtp.excess import Note, ignore
from worker.live.rtp.reordering import Reorder
from worker.live.rtp.rtcp import Reception, parse_rtcp
from worker.live.rtp.rtp_packets import RtpPacket, parse_rtp
from worker.live.rtp.session_description import Track, parse_sdp
from worker.live.rtsp.camera_sockets import CameraSockets, OwnSockets
from worker.live.rtsp.control_address import base_address, control_addresses
from worker.live.rtsp.http_tunnel import open_tunnel
from worker.live.rtsp.media_sockets import MediaSockets
from worker.live.rtsp.reading_budget import TOO_MUCH, ReadingBudget
from worker.live.rtsp.rtsp_connection import Connection, Exchange
from worker.live.rtsp.rtsp_conversation import Conversation, connect, follow
from worker.live.rtsp.session_keep_alive import SessionKeepAlive

REPORT_INTERVAL = 5.0
WATCH_INTERVAL = 0.25
GOODBYE_GRACE = 0.1
"""Seconds in which the last packets may arrive after the goodbye, which over UDP goes to another port."""
SESSION_TIMEOUT = 60
SHORTEST_RENEWAL = 1.0
"""Seconds between two renewals of a session, however short its timeout is."""
INVALID_RANGE = 457
LEAVE_TIMEOUT = 0.5
LONGEST_SESSION = 256
_TIMEOUT = re.compile(r"timeout ?= ?([0-9]{1,6})", re.IGNORECASE)
_CHANNELS = re.compile(r"interleaved=([0-9]{1,3})(?:-([0-9]{1,3}))?")
_PORTS = re.compile(r"server_port=([0-9]{1,5})(?:-([0-9]{1,5}))?")
_DESTINATION = re.compile(r"destination=([0-9A-Fa-f.:]{2,45})")
_GROUP_PORTS = re.compile(r"\bport=([0-9]{1,5})(?:-([0-9]{1,5}))?")
_SOURCE = re.compile(r"source=([0-9A-Fa-f.:]{2,45})")
SETTLED = 10.0
"""Seconds of playing after which redirections are counted anew."""


class Player:
    """Plays one camera over one transport.

    `play` hands every access unit to `take`. Before, at the first packet, it calls `opened`, when `track` is
    known. `habits` says what to try first, and is what has worked once the camera plays. `log` gets what is
    said, `note` what is too much. `sockets` opens what it needs; by default, in this process.
    """

    def __init__(
        self,
        where: CameraAddress,
        options: CameraOptions,
        transport: Delivery,
        habits: Habits | None = None,
        log: Callable[[Exchange], None] | None = None,
        *,
        note: Note = ignore,
        sockets: CameraSockets | None = None,
    ) -> None:
        self.track: Track
        self.reception: Reception
        self.habits = habits or Habits()
        self.server = ""
        self._where = where
        self._options = options
        self._kind = transport
        self._log = log
        self._note = note
        self._opening = sockets or OwnSockets(options.networks)
        self._base = where.url
        self._control = where.url
        self._conversation: Conversation | None = None
        self._keep_alive = SessionKeepAlive("")
        self._sockets: MediaSockets | None = None
        self._channels = (0, 1)
        self._interval = SESSION_TIMEOUT / 2
        self._assembler: Assembler
        self._reorder: Reorder | None = None
        self._opened: Callable[[], None] = lambda: None
        self._interrupted: Callable[[], None] = lambda: None
        self._foreign: int | None = None
        self._source = 0
        self._heard = time.monotonic()
        self._paused = self._resting = self._missed = False
        self._budget = ReadingBudget(self._heard)
        self._goodbye = False
        self._moved: str | None = None
        self._playing = asyncio.Event()
        self._ended = asyncio.Event()

    async def describe(self) -> Track:
        """Connect and ask what there is. Raises CameraError."""
        try:
            async with asyncio.timeout(self._options.open_timeout):
                return await self._describe()
        except TimeoutError as error:
            raise CameraError(self._late()) from error

    async def play(
        self,
        take: Callable[[AccessUnit], None],
        opened: Callable[[], None],
        interrupted: Callable[[], None] = lambda: None,
    ) -> None:
        """Play until the camera says that the stream has ended. Raises CameraError for any other end.

        `interrupted` says that what comes next does not follow what came: it was not read, over UDP.
        """
        started = time.monotonic()
        track = await self.describe()
        self._opened, self._interrupted = opened, interrupted
        self.reception = Reception(track.clock_rate)
        self._assembler = Assembler(track, take, self._note)
        self._reorder = self._new_order()
        try:
            async with asyncio.timeout(max(0.1, self._options.open_timeout - (time.monotonic() - started))):
                await self._setup()
                await self._start()
                await self._first_packet()
        except TimeoutError as error:
            raise CameraError(self._late()) from error
        except RequestRefused as refused:
            if self._kind == "udp":
                raise TransportRefused(str(refused)) from refused
            raise
        await self._watch()
        self._reorder.flush()
        self._reorder = None  # what still comes is not wanted
        self._assembler.flush()
        if self._moved is not None:
            raise Redirected(self._moved, settled=time.monotonic() - started > SETTLED)

    async def close(self) -> None:
        """End the RTSP session and close the connections."""
        self._budget.close()
        if self._conversation:
            connection = self._conversation.connection
            if self._conversation.session and not connection.closed.done():
                with contextlib.suppress(CameraError, TimeoutError):
                    async with asyncio.timeout(LEAVE_TIMEOUT):
                        await self._conversation.ask("TEARDOWN", self._base)
            connection.close()
            await connection.gone.wait()
        if self._sockets:
            await self._sockets.close()

    def pause(self, *, on: bool) -> None:
        """Stop or resume reading from the camera. What it sends meanwhile waits there; UDP loses it."""
        self._paused = on
        self._hold_or_not()

    def _new_order(self) -> Reorder:
        return Reorder(self._assembler.push, self._options.latency if self._kind == "udp" else 0)

    @property
    def _held(self) -> bool:
        return self._paused or self._resting

    def _hold_or_not(self) -> None:
        if not self._sockets:
            if self._conversation:
                self._conversation.connection.pause(on=self._held)
        elif self._missed and not self._held and self._reorder:
            self._missed = False
            self._reorder.flush()
            self._assembler.flush()
            self._reorder = self._new_order()
            self._interrupted()

    def _spent(self, seconds: float) -> None:
        """Reading took so long; let the camera rest if that is more than its share."""
        now = time.monotonic()
        if (rest := self._budget.spend(seconds, now)) and not self._resting:
            self._resting = True
            self._note(TOO_MUCH)
            self._hold_or_not()
            asyncio.get_running_loop().call_later(rest, self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._hold_or_not()

    # Asking -------------------------------------------------------------------------------------------

    @property
    def _talk(self) -> Conversation:
        if self._conversation is None:
            raise CameraError("not connected")
        return self._conversation

    def _late(self) -> str:
        """Return what did not come in time."""
        limit = f"within {self._options.open_timeout:g} s"
        if self._conversation is None:
            return f"cannot connect {limit}"
        if self._conversation.asking:
            return f"no answer to {self._conversation.asking} {limit}"
        if self._foreign is None:
            return f"no video {limit}"
        announced = self.track.payload_type
        return f"no video {limit}: packets of payload type {self._foreign} came, {announced} was announced"

    async def _describe(self) -> Track:
        url = self._where.url
        reach = open_tunnel if self._kind == "http" else connect
        connection = await reach(
            self._where,
            self._options,
            self._opening,
            lambda: Connection(self._media, self._request, self._log, self._spent),
        )
        self._conversation = Conversation(self._where, connection)
        with contextlib.suppress(RequestRefused):  # a camera that knows no OPTIONS may play all the same
            self._keep_alive = SessionKeepAlive((await self._talk.ask("OPTIONS", url)).header("public"))
        reply = await self._talk.ask("DESCRIBE", url, {"Accept": "application/sdp"})
        self.server = reply.header("server")
        self._base = base_address(url, reply.header("content-base"), reply.header("content-location"))
        self.track = parse_sdp(reply.body)
        return self.track

    async def _setup(self) -> None:
        """Ask for the track."""
        if self._kind in ("tcp", "http"):
            wanted = "RTP/AVP/TCP;unicast;interleaved=0-1"
        else:
            self._sockets = MediaSockets(self._talk.connection.peer, self._media, self._opening, self._spent)
            wanted = "RTP/AVP;multicast"
            if self._kind == "udp":
                port = await self._sockets.bind()
                wanted = f"RTP/AVP;unicast;client_port={port}-{port + 1}"
        urls = control_addresses(self._base, self._where.url, self.track.control)
        reply, form = await self._talk.ask_any("SETUP", urls, {"Transport": wanted}, self.habits.control)
        self._control = urls[form]
        self.habits = Habits(transport=self._kind, control=form)
        self._take_session(reply.header("session"))
        await self._take_transport(reply.header("transport"))

    def _take_session(self, text: str) -> None:
        name, _, parameters = text.partition(";")
        if name.strip():
            self._talk.session = {"Session": name.strip()[:LONGEST_SESSION]}
        if timeout := _TIMEOUT.search(parameters):
            self._interval = max(SHORTEST_RENEWAL, int(timeout[1]) / 2)

    async def _take_transport(self, text: str) -> None:
        """Read where media will come from (RFC 2326, 12.39)."""
        if channels := _pair(_CHANNELS.search(text), 0xFF):
            if self._sockets:
                raise TransportRefused("the camera answers SETUP for UDP with TCP")
            self._channels = channels
        if self._sockets:
            if source := _SOURCE.search(text):
                self._sockets.hosts.add(source[1])
            if self._kind == "multicast":
                group, ports = _DESTINATION.search(text), _pair(_GROUP_PORTS.search(text), 0xFFFF)
                await self._sockets.join(
                    group[1] if group else "", ports or (0, 0), self._talk.connection.local
                )
            elif ports := _pair(_PORTS.search(text), 0xFFFF):
                self._sockets.aim(ports)

    async def _start(self) -> None:
        """Ask for play: of the session, or of the track where the camera knows no session."""
        urls = control_addresses(self._base, self._where.url, self.track.session)
        urls = list(dict.fromkeys([*urls, self._control]))
        try:
            _, form = await self._talk.ask_any("PLAY", urls, {"Range": "npt=0.000-"})
        except RequestRefused as refused:
            if refused.status != INVALID_RANGE:
                raise
            _, form = await self._talk.ask_any("PLAY", urls, {})
        self._base = urls[form]

    async def _first_packet(self) -> None:
        """Wait for the first packet of video, over UDP not for long."""
        waits: set[asyncio.Future[Any]] = {
            asyncio.ensure_future(event.wait()) for event in (self._playing, self._ended)
        }
        timeout = self._options.udp_timeout if self._sockets else None
        try:
            done, _ = await asyncio.wait(
                {*waits, self._talk.connection.closed}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        if not done:
            raise TransportRefused(f"no video over UDP within {self._options.udp_timeout:g} s")
        if self._talk.connection.closed.done():
            raise CameraError(self._talk.connection.closed.result())

    # Listening ----------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Wait for the end; stay alive for the camera meanwhile."""
        next_report = time.monotonic()
        renewing = asyncio.create_task(self._renew())
        ending = asyncio.create_task(self._ended.wait())
        try:
            while not self._ended.is_set():
                now = time.monotonic()
                if self._talk.connection.closed.done():
                    if self._goodbye:
                        return
                    raise CameraError(self._talk.connection.closed.result())
                if renewing.done():
                    renewing.result()
                if self._held:
                    self._heard = now
                if now - self._heard > self._options.read_timeout:
                    raise CameraError(f"no video for {self._options.read_timeout:g} s")
                if now >= next_report:
                    next_report = now + REPORT_INTERVAL
                    self._report(now)
                await asyncio.wait({ending}, timeout=WATCH_INTERVAL)
        finally:
            renewing.cancel()
            ending.cancel()
            await asyncio.gather(renewing, ending, return_exceptions=True)

    async def _renew(self) -> None:
        """Renew the session at half its timeout. A camera that does not answer may play on."""
        while True:
            await asyncio.sleep(self._interval)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._keep_alive.send(self._talk, self._base)

    def _report(self, now: float) -> None:
        report = self.reception.receiver_report(now)
        if self._sockets:
            self._sockets.report(report)
        else:
            self._talk.connection.send_media(self._channels[1], report)

    def _request(self, method: str, headers: dict[str, list[str]]) -> None:
        """The camera asks of its own accord: to go elsewhere, or to go."""
        if method == "REDIRECT":
            self._moved = headers.get("location", [""])[0] or self._where.url
            self._ended.set()
        elif method == "TEARDOWN":
            self._talk.connection.close("the camera ends the session")

    def _media(self, channel: int, data: bytes) -> None:
        """A media packet, from wherever. RTCP is told by its type: some cameras mix up the channels."""
        if self._reorder is None or len(data) < 8:
            return
        media, control = self._channels
        is_ours = data[1] & 0x7F == self.track.payload_type
        if 192 <= data[1] <= 223 and (channel == control or not is_ours):
            self._control_packet(data)
        elif self._held and self._sockets:
            self._missed = True
        elif packet := parse_rtp(data, self.track.payload_type):
            if not self._playing.is_set():
                self._channels = media, control = channel, control if channel == media else channel ^ 1
            if channel == media:
                self._take(packet, self._reorder)
        elif channel == media:
            self._foreign = data[1] & 0x7F

    def _control_packet(self, data: bytes) -> None:
        told = parse_rtcp(data)
        if told.report and told.report.source == (self._source or told.report.source):
            self._assembler.clock.report(told.report)
            self.reception.reported(told.report.ntp, time.monotonic())
        if told.bye and not self._goodbye and (not self._playing.is_set() or self._source in told.bye):
            self._goodbye = True
            asyncio.get_running_loop().call_later(GOODBYE_GRACE, self._ended.set)

    def _take(self, packet: RtpPacket, reorder: Reorder) -> None:
        self._heard = now = time.monotonic()
        self._source = packet.source
        self.reception.take(packet, now)
        if not self._playing.is_set():
            self._playing.set()
            self._opened()
        reorder.push(packet, now)


def _pair(match: re.Match[str] | None, most: int) -> tuple[int, int] | None:
    """Return two numbers of a transport header, the second perhaps unsaid; None if one is above `most`."""
    if match is None:
        return None
    first = int(match[1])
    second = int(match[2] or first + 1)
    return (first, second) if max(first, second) <= most else None


async def probe_camera(
    where: CameraAddress, options: CameraOptions, sockets: CameraSockets | None = None
) -> Track:
    """Return the camera's video track. Raises CameraError if it cannot be reached or has none."""

    async def attempt(there: CameraAddress) -> Track:
        player = Player(there, options, "http" if options.transport == "http" else "tcp", sockets=sockets)
        try:
            return await player.describe()
        finally:
            await player.close()

    return await follow(where, attempt)
