"""One live session: plays a camera, reconnects to it, embeds and publishes its chunks."""

import asyncio
import secrets
import ssl
import time
from contextlib import suppress
from typing import Literal, cast

import msgspec
import structlog

from shared import live_records
from shared.assets import Asset
from shared.bus.errorbus import ErrorBus, EventType
from shared.chunks import SECOND, Chunk
from shared.errors import DecodeError, InvalidFile, RtEmbedError, SettingsError
from shared.jobs import Claim, LiveJob
from shared.redis.connection import Redis, RedisError
from shared.redis.ending import end
from shared.redis.failures import through_outages
from shared.requests import finish, request_of
from shared.results import Result
from shared.settings import Settings
from worker.batcher import Batcher, milliseconds
from worker.live.backlog import Backlog
from worker.live.camera_description import CameraError, CameraOptions, Habits, Transport
from worker.live.camera_messages import Open, Opened, Primed, Taken, Told
from worker.live.camera_pool import ROOM, CameraProcessDied, Cameras, Feed
from worker.live.chunker import Cut
from worker.live.moves import Departure
from worker.live.tracing import LiveTrace
from worker.media.clip_source import Clip
from worker.media.decoder.media_facts import MediaFacts
from worker.media.decoder_pool import DecoderPool
from worker.models.directory import ModelInfo
from worker.publish.publisher import DONE, Publisher
from worker.worker_metrics import observe_chunk

log = structlog.get_logger(__name__)

BEAT_INTERVAL = 0.5
LEASE_INTERVAL = 10.0
"""Seconds between beats that keep the session from expiring, well below the shortest RTEMBED_REQUEST_TTL; the
others write only what has changed."""
Order = Literal["go on", "stop", "ended", "lost"]
STAND_BY_INTERVAL = 0.2
FORGIVEN_AFTER = 600.0
"""Seconds of playing after which earlier deaths of a camera's processes do not count."""
COMPLAINT_INTERVAL = 10.0
"""Seconds between two error events about chunks that one stream lost to overload."""


class SessionMoved(Exception):
    """Another worker goes on with the session."""


class CameraBreaksWorkers(Exception):
    """Every process that played the camera died, the last one playing no other."""


class LiveSessions:
    """The live sessions of one worker, and what they share."""

    def __init__(
        self,
        *,
        redis: Redis,
        settings: Settings,
        model: ModelInfo,
        decoders: DecoderPool,
        clips: Batcher[Clip],
        publisher: Publisher,
        owner: str,
        errors: ErrorBus | None = None,
    ) -> None:
        self.redis = redis
        self.settings = settings
        self.model = model
        self.decoders = decoders
        self.clips = clips
        self.publisher = publisher
        self.owner = owner
        self.errors = errors
        self.options = camera_options(settings)
        self.cameras = Cameras(settings.camera_memory_mb << 20)
        self._received: dict[str, tuple[LiveSession, asyncio.Task[None]]] = {}
        """Sessions that were handed over to this worker, by their jobs, with their cameras playing."""

    async def run(self, claim: Claim, job: LiveJob) -> None:
        """Run the session until its stream ends or it is stopped. Cancelled, it can be taken over.

        Raises SessionMoved when it was handed over.
        """
        if claim.id in self._received:
            received, playing = self._received.pop(claim.id)
            with received.trace:
                await received.run(playing)
            return
        session = await live_records.next_chunk(self.redis, job)
        if session is None:
            log.info("live session has ended already", stream=job.assets[0].id)
            return
        if session.next:
            log.info("live session goes on", stream=job.assets[0].id, next_chunk=session.next)
        login = await self._login(job.assets[0].id)
        with LiveTrace(job.request, job.assets[0].id, claim.traceparent) as trace:
            await LiveSession(self, claim, job, session, login, trace=trace).run()

    async def stand_by(self, claim: Claim) -> bool:
        """Play the camera of a session that another worker runs, until that hands it over at a chunk's end.

        Returns whether it did: `run` then goes on with it. Raises RedisError.
        """
        job = claim.job
        assert isinstance(job, LiveJob)  # noqa: S101 - for the type checker
        stream, move = job.assets[0].id, live_records.Move(f"{self.owner}/{secrets.token_hex(4)}")
        record = await live_records.next_chunk(self.redis, job)
        if record is None or not await live_records.ask_to_move(self.redis, self.settings, job, move):
            return False
        log.info("live session asked for", stream=stream, owner=record.owner)
        trace = LiveTrace(job.request, stream, claim.traceparent)
        session = LiveSession(self, claim, job, record, await self._login(stream), trace=trace)
        playing = None
        try:
            playing = await session.stand_by(move, record.clock)
        finally:
            if playing is None:
                with suppress(RedisError):
                    await live_records.cancel_move(self.redis, job, move)
        if playing is None:
            log.warning("live session stays where it is", stream=stream, owner=record.owner)
            return False
        self._received[claim.id] = session, playing
        return True

    async def _login(self, asset_id: str) -> live_records.CameraLogin:
        (login,) = await live_records.read_logins(self.redis, [asset_id])
        return live_records.opened(login, self.settings.secret_keys)

    async def probe(self, asset: Asset) -> MediaFacts:
        """Ask a camera for its video. Raises InvalidFile naming what is wrong."""
        login = await self._login(asset.id)
        try:
            codec = await self.cameras.describe(
                Open(
                    camera=0,
                    url=asset.path,
                    username=login.username,
                    password=login.password,
                    options=self.options,
                    duration=SECOND,
                    frames=1,
                )
            )
        except CameraError as error:
            raise InvalidFile(f"Cannot use the stream {asset.path}: {error}") from error
        return MediaFacts(kind="video", codec=codec, width=0, height=0)

    async def aclose(self) -> None:
        """End the processes."""
        await end([playing for _, playing in self._received.values()])
        await self.cameras.close()
        await self.decoders.close()


def camera_options(settings: Settings) -> CameraOptions:
    """Return how cameras are talked to. Raises SettingsError for unreadable certificate authorities."""
    authorities = ""
    if settings.rtsp_ca_file:
        try:
            authorities = settings.rtsp_ca_file.read_text()
            ssl.create_default_context(cadata=authorities)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise SettingsError(f"RTEMBED_RTSP_CA_FILE {settings.rtsp_ca_file}: {error}") from error
    return CameraOptions(
        transport=cast("Transport", settings.rtsp_transport),
        open_timeout=settings.rtsp_open_timeout,
        udp_timeout=settings.rtsp_timeout_ms / 1000,
        read_timeout=settings.rtsp_read_timeout,
        latency=settings.rtsp_latency_ms / 1000,
        networks=[str(network) for network in settings.rtsp_networks],
        authorities=authorities,
        unverified_hosts=[host.lower() for host in settings.rtsp_unverified_hosts],
        clock_tolerance=settings.rtsp_clock_tolerance,
    )


class Outage:
    """Counts the attempts to reach a lost camera: so many, within a window from the first error."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.attempts = 0
        self.error = ""
        self._since: float | None = None

    @property
    def lasts(self) -> bool:
        """Whether the camera is lost."""
        return self._since is not None

    def failed(self, error: str, now: float) -> bool:
        """Note an error at `now` (s); return whether to try again."""
        self.error = error
        if self._since is None:
            self._since = now
        else:
            self.attempts += 1
        within = now - self._since <= self._settings.reconnection_window
        return within and self.attempts < self._settings.reconnection_attempts

    def over(self) -> None:
        """The camera plays again."""
        self._since, self.attempts = None, 0


class LiveSession:
    """The session of one stream, as long as this worker holds it."""

    def __init__(
        self,
        shared: LiveSessions,
        claim: Claim,
        job: LiveJob,
        record: live_records.LiveRecord,
        login: live_records.CameraLogin,
        *,
        trace: LiveTrace,
    ) -> None:
        self._shared = shared
        self.trace = trace
        self._settings = shared.settings
        self._claim = claim
        self._job = job
        self._asset = job.assets[0]
        self._login = login
        self._state: live_records.SessionState = "connecting"
        self._habits = Habits()
        self._detail = ""
        self._clock = ""
        self._last_wall = 0
        self._next = record.next
        self._dropped = record.dropped
        self._failed = record.failed
        self._reconnections = record.reconnections
        self._deaths = 0
        self._waiting = Backlog(shared.settings.live_backlog)
        self._changed = asyncio.Event()
        self._over = False
        self._written: dict[str, str | int] = {}
        """What the session's record says."""
        self._lease_due = 0.0
        self._departure = Departure(job.chunk_duration * SECOND)
        self._moved = False
        self._standing_by = False
        self._begin = 0
        self._primed = ""
        self._feed: Feed | None = None
        self._outage = Outage(shared.settings)
        self._next_complaint = 0.0
        self._complained_of = record.dropped

    async def run(self, playing: "asyncio.Task[None] | None" = None) -> None:
        """Work until the stream has ended or is stopped, then end its request. `playing` plays the camera
        already, if there is one. Raises RedisError, SessionMoved."""
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(_until_done(playing) if playing else self._watch())
                await self._work(group, watching)
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error
        if self._moved:
            log.info("live session handed over", stream=self._asset.id, next_chunk=self._next)
            raise SessionMoved
        state = await through_outages(self._end, "the end of a live session")
        log.info(
            "live session ended", stream=self._asset.id, state=state, chunks=self._next, dropped=self._dropped
        )

    async def _work(self, group: asyncio.TaskGroup, watching: asyncio.Task[None]) -> None:
        embedding = group.create_task(self._embed_all())
        beating = group.create_task(self._beat_until_stopped())
        await asyncio.wait({watching, beating, embedding}, return_when=asyncio.FIRST_COMPLETED)
        if not self._moved:
            await asyncio.wait({watching, beating}, return_when=asyncio.FIRST_COMPLETED)
        if beating.done() and beating.result() == "stop":
            self._waiting.clear()
        watching.cancel()
        self._over = True
        self._changed.set()
        if beating.done() and beating.result() in ("ended", "lost"):
            embedding.cancel()
        await asyncio.wait({embedding, watching})
        if beating.done() and beating.result() == "lost":
            await asyncio.Event().wait()  # the worker's next look at its claims ends this
        beating.cancel()

    async def _end(self) -> str:
        state = await finish(self._shared.redis, self._settings, request_of(self._job), DONE)
        await live_records.write_end(self._shared.redis, self._settings, self._job, self._fields())
        return state

    # The camera ---------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Play the camera, again and again, until its stream ends or it is given up."""
        while True:
            try:
                self._feed = Feed(self._opened, self._taken, self._told, self._note_primed)
                began = time.monotonic()
                await self._shared.cameras.play(self._order(), self._feed, self._deaths)
                log.info("live stream ended by itself", stream=self._asset.id)
                return
            except CameraError as error:
                if self._standing_by:
                    log.warning("camera cannot be played twice", stream=self._asset.id, error=str(error))
                    return
                if isinstance(error, CameraProcessDied):
                    self._count_death(str(error), time.monotonic() - began)
                if not self._outage.failed(str(error), time.monotonic()):
                    self._give_up()
                    return
                self._retry()
            await asyncio.sleep(self._settings.reconnection_interval)

    def _count_death(self, error: str, played: float) -> None:
        """Count a process that died under the camera. Raises CameraBreaksWorkers for the last."""
        self._deaths = self._deaths + 1 if played < FORGIVEN_AFTER else 1
        if self._deaths >= len(ROOM):
            raise CameraBreaksWorkers(f"{self._deaths} processes that played the camera died: {error}")

    def _order(self) -> Open:
        return Open(
            camera=0,
            url=self._asset.path,
            username=self._login.username,
            password=self._login.password,
            options=self._shared.options,
            duration=self._job.chunk_duration * SECOND,
            frames=self._shared.model.frames,
            habits=self._habits,
            after=self._last_wall,
            begin=self._begin,
        )

    def _opened(self, opened: Opened) -> None:
        transport = opened.habits.transport
        log.info("camera plays", stream=self._asset.id, transport=transport, codec=opened.codec)
        self._habits = opened.habits  # what has failed once need not be tried at each reconnection
        if self._outage.lasts:
            self._reconnections += 1
            self._emit(f"Live stream reconnection successful. Error message: {self._outage.error}")
            self._outage.over()
        self._state, self._detail = "running", ""

    def _retry(self) -> None:
        self._state, self._detail = "reconnecting", self._outage.error
        interval, attempt = self._settings.reconnection_interval, self._outage.attempts + 1
        self._emit(
            f"Live stream received error. Retrying after {interval:g} seconds, attempt {attempt}: "
            f"{self._outage.error}"
        )

    def _give_up(self) -> None:
        self.trace.given_up(self._outage.error)
        attempts, window = self._settings.reconnection_attempts, self._settings.reconnection_window
        self._emit(
            f"Live stream received error. Max reconnection attempts {attempts}, timeout {window:g} seconds: "
            f"{self._outage.error}"
        )

    def _emit(self, event: str, kind: EventType = "stream_reconnection") -> None:
        log.warning("camera", stream=self._asset.id, said=event)
        if self._shared.errors:
            self._shared.errors.emit(event, kind, self._asset.id)

    def _told(self, told: Told) -> None:
        self._detail = told.event
        self._emit(f"Live stream {self._asset.path}: {told.event}", "functional")

    # Chunks -------------------------------------------------------------------------------------------

    def _taken(self, taken: Taken) -> None:
        """Queue a chunk. When too many wait, drop the oldest, or stop reading the camera."""
        self.trace.taken()
        self._note_clock(taken.cut)
        self._departure.taken(taken.cut)
        if taken.skipped:
            self._next += taken.skipped
            self._drop(taken.skipped)
        self._waiting.add(self._next, taken.cut)
        self._next += 1
        blocking = self._settings.live_overload == "block"
        if blocking and self._waiting.full:
            self._pause(on=True)
        if dropped := self._waiting.shed(blocking=blocking):
            self._drop(dropped)
        self._changed.set()

    def _note_clock(self, cut: Cut) -> None:
        """Log where the times of day of the chunks come from, at first and when that changes."""
        self._last_wall = max(self._last_wall, cut.wall_end)
        if cut.clock != self._clock:
            self._clock = cut.clock
            log.info("camera's time of day", stream=self._asset.id, source=cut.clock, first_chunk=self._next)

    def _pause(self, *, on: bool) -> None:
        if self._feed:
            self._feed.pause(on=on)

    def _drop(self, number: int) -> None:
        self._dropped += number
        if time.monotonic() < self._next_complaint:
            return
        self._next_complaint = time.monotonic() + COMPLAINT_INTERVAL
        lately, self._complained_of = self._dropped - self._complained_of, self._dropped
        event = (
            f"Live stream is overloaded: {lately} chunks dropped, {self._dropped} since it began; "
            "use fewer streams or longer chunks"
        )
        log.error("live chunks dropped", stream=self._asset.id, lately=lately, dropped=self._dropped)
        if self._shared.errors:
            self._shared.errors.emit(event, "functional", self._asset.id)

    async def _embed_all(self) -> None:
        """Embed chunk after chunk, until the stream is over and none waits."""
        while True:
            while not self._waiting:
                if self._over:
                    return
                self._changed.clear()
                await self._changed.wait()
            index, cut = self._waiting.take()
            if self._settings.live_overload == "block" and self._waiting.has_room:
                self._pause(on=False)
            result = await self._embed(index, cut)
            if await self._beat() in ("ended", "lost"):
                return
            await self._shared.publisher.publish(self._job, [result])
            self.trace.chunk(result)
            log.debug("live chunk done", chunk=index, stream=self._asset.id, error=result.error)
            if await self._departs(index, cut):
                return

    async def _embed(self, index: int, cut: Cut) -> Result:
        chunk = Chunk(index, cut.start, cut.end)
        result = Result(
            chunk=index, start=cut.start, end=cut.end, wall_start=cut.wall_start, wall_end=cut.wall_end
        )
        try:
            if cut.error:
                raise DecodeError(cut.error)
            model = self._shared.model
            clip = await self._shared.decoders.runs(
                *(chunk, cut.codec, cut.runs, model.frames, model.resolution),
                thumbnails=self._job.thumbnails,
            )
            clip.decode_start, clip.asset = cut.began / SECOND, self._asset.id
            try:
                embedded = await self._shared.clips.embed(clip)
            finally:
                clip.release()
        except RtEmbedError as error:
            self._failed += 1
            log.warning("live chunk failed", chunk=index, stream=self._asset.id, error=error.message)
            return msgspec.structs.replace(result, error=error.message)
        observe_chunk(clip, embedded, self._asset.id, model, live=True)
        return msgspec.structs.replace(
            result,
            vector=embedded.vector.tobytes(),
            frame_times=clip.times,
            thumbnail=clip.thumbnail,
            decode_latency_ms=milliseconds(clip.decode_start, clip.decode_end),
            inference_latency_ms=milliseconds(embedded.start, embedded.end),
            chunk_latency_ms=milliseconds(clip.decode_start, embedded.end),
            processing_latency_s=round(max(0.0, embedded.end - clip.decode_start), 3),
        )

    # The lease ----------------------------------------------------------------------------------------

    async def _beat_until_stopped(self) -> Order:
        """Write the session's state regularly; return what to do once it must not go on."""
        while True:
            order = await self._beat()
            if order != "go on":
                return order
            await asyncio.sleep(BEAT_INTERVAL)

    async def _beat(self) -> Order:
        now, fields = time.monotonic(), self._fields()
        lease = now >= self._lease_due
        news = fields if lease or fields != self._written else {}
        try:
            state, stop, token = await live_records.beat(
                self._shared.redis, self._settings, self._claim, self._shared.owner, news, lease=lease
            )
        except RedisError:
            return "go on"
        self._written = fields
        if lease:
            self._lease_due = now + LEASE_INTERVAL
        self._departure.asked(token)
        if state == "lost":
            return "lost"
        if state != "running":
            return "ended"
        return "stop" if stop else "go on"

    def _fields(self) -> dict[str, str | int]:
        return {
            "state": self._state,
            "detail": self._detail,
            "transport": "" if self._habits.transport == "auto" else self._habits.transport,
            "clock": self._clock,
            "next": self._next - len(self._waiting),
            "dropped": self._dropped,
            "failed": self._failed,
            "reconnections": self._reconnections,
            **({"move_at": f"{move.token} {move.at}"} if (move := self._departure.move) else {}),
        }

    # From worker to worker ----------------------------------------------------------------------------

    async def _departs(self, index: int, cut: Cut) -> bool:
        """Hand the session over after this chunk, if its move is due; return whether it has gone."""
        move, due = self._departure.move, self._departure.due(cut)
        if move is None or due == "later":
            return False
        outcome = "stays"
        try:
            if due == "missed":
                await live_records.cancel_move(self._shared.redis, self._job, move)
            else:
                outcome = await live_records.hand_over(
                    self._shared.redis,
                    self._settings,
                    self._claim,
                    self._shared.owner,
                    move=move,
                    next_chunk=index + 1,
                )
        except RedisError as error:  # if it has gone all the same, the next beat says so
            log.warning("live session not handed over", stream=self._asset.id, error=str(error))
        self._departure.decline()
        if outcome == "moved":
            self._moved, self._next = True, index + 1
            self._waiting.clear()
        return self._moved

    async def stand_by(self, move: live_records.Move, clock: str) -> "asyncio.Task[None] | None":
        """Play the camera from where the owner's last chunk ends on, until the session is this worker's.

        Returns what plays it, None if the session stays where it is. `clock` is what the owner's times of day
        come from. Raises RedisError.
        """
        self._standing_by = True
        self._next = self._dropped = self._complained_of = 0
        playing: asyncio.Task[None] | None = None
        arrived = False
        try:
            while playing is None or not playing.done():
                ready = playing is not None and self._primed == clock
                state, told = await live_records.stand_by(self._shared.redis, self._claim, move, ready=ready)
                if state == "yours" and playing:
                    arrived = await self._arrive()
                if state != "wait":
                    break
                if told.at and playing is None:
                    self._begin = told.at
                    playing = asyncio.create_task(self._watch(), name=f"stand by {self._asset.id}")
                await asyncio.sleep(STAND_BY_INTERVAL)
        finally:
            if playing and not arrived:
                await end([playing])
        return playing if arrived else None

    async def _arrive(self) -> bool:
        """Count on from where the owner stopped; return whether the session still runs."""
        record = await live_records.next_chunk(self._shared.redis, self._job)
        if record is None:
            return False
        self._waiting.renumber(record.next)
        self._next += record.next
        self._dropped += record.dropped
        self._failed, self._reconnections = record.failed, record.reconnections
        self._standing_by, self._begin = False, 0
        return True

    def _note_primed(self, primed: Primed) -> None:
        self._primed = primed.source


async def _until_done(task: "asyncio.Task[None]") -> None:
    await task
