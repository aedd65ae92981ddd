"""Live sessions: the record of the embedding of one camera, and how it is started and stopped.

The job on the lane `live` is the lease: the worker that holds it runs the session, and if it dies another
takes the job over. The record beside it tells the successor where to continue, and shows everyone the
session's state.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from shared import keys
from shared.assets import Asset
from shared.jobs import Claim, LiveJob
from shared.records import RecordCodec
from shared.redis.connection import Redis, script
from shared.requests import Request, submit_session
from shared.secret_box import seal, unseal
from shared.settings import Settings

MOVE_PATIENCE = 30
"""Seconds, besides three chunks, after which a move is given up."""
SessionState = Literal["waiting", "connecting", "running", "reconnecting", "ended"]


class LiveRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One stream's session. `next` is the index of the next chunk, `dropped` how many were not embedded
    because the service was too slow, `failed` how many could not be, `read` the entry that a client read
    last."""

    request: str
    model: str = ""
    chunk_duration: int = 0
    """Seconds."""
    chunk_overlap_duration: int = 0
    """As asked for; live chunks never overlap."""
    created: int = 0
    state: SessionState = "waiting"
    owner: str = ""
    detail: str = ""
    transport: str = ""
    clock: str = ""
    """What the chunks' times of day come from: picture, camera (its sender reports) or arrival."""
    next: int = 0
    dropped: int = 0
    failed: int = 0
    reconnections: int = 0
    read: str = "0-0"


class CameraLogin(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of a camera beside its asset: credentials, which only workers read, and its place,
    a JSON object as the client gave it."""

    username: str = ""
    password: str = ""
    sealed: str = ""
    """The encrypted password, where RTEMBED_SECRET_KEY is set."""
    place: str = "{}"

    def __repr__(self) -> str:
        return "Login(...)"


def opened(login: CameraLogin, secret_keys: tuple[str, ...]) -> CameraLogin:
    """Return the login with its password readable. Raises SealedSecret if none of the keys opens it."""
    if not login.sealed:
        return login
    return msgspec.structs.replace(login, password=unseal(login.sealed, secret_keys), sealed="")


_sessions: RecordCodec[LiveRecord] = RecordCodec(LiveRecord)
_logins: RecordCodec[CameraLogin] = RecordCodec(CameraLogin)


async def write_login(
    redis: Redis,
    asset_id: str,
    login: CameraLogin,
    expires: int | None = None,
    secret_keys: tuple[str, ...] = (),
) -> None:
    """Keep a camera's login, for `expires` seconds or until it is removed; with `secret_keys`, its password
    encrypted."""
    if secret_keys and login.password:
        login = msgspec.structs.replace(login, password="", sealed=seal(login.password, secret_keys))
    fields: Any = _logins.fields(login, whole=True)
    async with redis.pipeline() as pipe:
        pipe.hset(keys.camera(asset_id), items=fields)
        if expires is None:
            pipe.persist(keys.camera(asset_id))
        else:
            pipe.expire(keys.camera(asset_id), expires)
        await pipe.execute()


async def read_logins(redis: Redis, asset_ids: Sequence[str]) -> list[CameraLogin]:
    """Return the logins of cameras, in order; an empty one where there is none."""
    async with redis.pipeline(transaction=False) as pipe:
        for asset_id in asset_ids:
            pipe.hgetall(keys.camera(asset_id))
        records = await pipe.execute()
    return [_logins.read(record) for record in records]


async def start(
    redis: Redis,
    settings: Settings,
    request_id: str,
    asset: Asset,
    session: LiveRecord,
    *,
    caller: str = "",
    thumbnails: bool = False,
) -> str:
    """Start a session, or join the running one, which does not change; returns the request that embeds the
    stream.

    Raises ServerBusy when the limit of sessions is reached, DependencyError when the stream
    was deleted meanwhile.
    """
    request = Request(
        id=request_id,
        lane="live",
        planned=0,
        model=session.model,
        assets=[asset.id],
        options=msgspec.json.encode({"chunk_duration": session.chunk_duration}).decode(),
        caller=caller,
        kept=settings.live_results,
    )
    job = LiveJob(
        request=request_id,
        assets=[asset],
        chunk_duration=session.chunk_duration,
        model=session.model,
        thumbnails=thumbnails,
    )
    return await submit_session(
        redis, settings, request, job, session=keys.live(asset.id), first=_sessions.fields(session)
    )


async def read_sessions(redis: Redis, asset_ids: Sequence[str]) -> list[LiveRecord | None]:
    """Return the running sessions of streams, in order; None for one that is not embedded now."""
    async with redis.pipeline(transaction=False) as pipe:
        for asset_id in asset_ids:
            pipe.hgetall(keys.live(asset_id))
        records = await pipe.execute()
    found = [_sessions.read(record) if record else None for record in records]
    async with redis.pipeline(transaction=False) as pipe:
        for session in found:
            pipe.hget(keys.request(session.request if session else ""), "state")
        states = await pipe.execute()
    return [s if state == b"running" else None for s, state in zip(found, states, strict=True)]


async def ask_to_stop(redis: Redis, asset_id: str) -> None:
    """Let the worker that runs the session finish what is in flight, and end it."""
    await script(redis, "stop_live")(keys=[keys.live(asset_id)])


async def note_read(redis: Redis, asset_id: str, request_id: str, entry_id: str) -> None:
    """Remember the entry that a client read last, while the stream's session is that of the request."""
    await script(redis, "note_read")(keys=[keys.live(asset_id)], args=[request_id, entry_id])


async def beat(
    redis: Redis, settings: Settings, claim: Claim, owner: str, fields: dict[str, Any], *, lease: bool = True
) -> tuple[str, bool, str]:
    """Write the state of the session, and with `lease` keep it from expiring; return its request's state,
    whether it is to stop, and the token of the move that another worker asks for, empty if none does.

    The state is `lost` where the worker `owner` holds the session's job no longer.
    """
    job = claim.job
    assert isinstance(job, LiveJob)  # noqa: S101 - for the type checker
    asset = job.assets[0].id
    told = [part for pair in fields.items() for part in pair]
    answer = await script(redis, "beat_live")(
        keys=[
            keys.request(job.request),
            keys.live(asset),
            keys.results(job.request),
            keys.running("live"),
            keys.asset_users(asset),
            keys.jobs("live", job.model),
        ],
        args=[job.request, settings.request_ttl, keys.GROUP, owner, claim.id, int(lease), *told],
    )
    return answer[0].decode(), bool(answer[1]), answer[2].decode()


async def write_end(redis: Redis, settings: Settings, job: LiveJob, fields: Mapping[str, Any]) -> None:
    """Leave the record of a session that has ended as it is for people, with `fields`, for a while."""
    key = keys.live(job.assets[0].id)
    if await redis.hget(key, "request") == job.request.encode():
        ended: Any = {**fields, "state": "ended"}
        await redis.hset(key, mapping=ended)
        await redis.expire(key, settings.result_ttl)


async def next_chunk(redis: Redis, job: LiveJob) -> LiveRecord | None:
    """Return the session as its last worker left it, its `next` after every chunk that has a result; None if
    it has ended or is another request's."""
    (session,) = await read_sessions(redis, [job.assets[0].id])
    if session is None or session.request != job.request:
        return None
    last: Any = await redis.hget(keys.request(job.request), "last")
    return msgspec.structs.replace(session, next=max(session.next, int(last if last is not None else -1) + 1))


# From worker to worker ----------------------------------------------------------------------------------


class Move(msgspec.Struct, frozen=True):
    """A move of a running session to the worker whose name begins `token`. Its chunks begin at `at`, ns since
    1970 on the stream's clock, where a chunk of the present owner ends."""

    token: str
    at: int = 0

    @property
    def mover(self) -> str:
        """The worker that asks for the session."""
        return self.token.rpartition("/")[0]


def read_move(text: str, token: str) -> Move:
    """Read what the owner of a session says of the move `token`: no time yet, or that of another move."""
    told, _, at = text.partition(" ")
    return Move(token, int(at) if told == token and at.isdecimal() else 0)


async def ask_to_move(redis: Redis, settings: Settings, job: LiveJob, move: Move) -> bool:
    """Ask for a session that another worker runs; returns whether it may move."""
    stream, patience = job.assets[0].id, MOVE_PATIENCE + 3 * job.chunk_duration
    asked: int = await script(redis, "ask_to_move")(
        keys=[keys.live(stream), keys.request(job.request), keys.LIVE_MOVES],
        args=[job.request, stream, move.token, patience, settings.live_moves],
    )
    return bool(asked)


async def stand_by(redis: Redis, claim: Claim, move: Move, *, ready: bool) -> tuple[str, Move]:
    """Tell whether the worker is ready; returns `wait`, `yours` or `over`, and the move as planned."""
    job = claim.job
    assert isinstance(job, LiveJob)  # noqa: S101 - for the type checker
    state, at = await script(redis, "stand_by")(
        keys=[keys.live(job.assets[0].id), keys.jobs("live", job.model)],
        args=[keys.GROUP, move.mover, claim.id, move.token, int(ready)],
    )
    return state.decode(), read_move(at.decode(), move.token)


async def hand_over(
    redis: Redis, settings: Settings, claim: Claim, owner: str, *, move: Move, next_chunk: int
) -> str:
    """Give the session to the worker that asked for it; returns `moved`, `stays` or `lost`."""
    job = claim.job
    assert isinstance(job, LiveJob)  # noqa: S101 - for the type checker
    stream, timeout = job.assets[0].id, int(settings.claim_timeout * 1000)
    outcome: bytes = await script(redis, "hand_over_live").durably(
        keys=[keys.live(stream), keys.jobs("live", job.model), keys.LIVE_MOVES],
        args=[keys.GROUP, owner, move.mover, claim.id, move.token, stream, next_chunk, timeout],
    )
    return outcome.decode()


async def cancel_move(redis: Redis, job: LiveJob, move: Move) -> None:
    """Cancel the move: the session stays where it is."""
    stream = job.assets[0].id
    await script(redis, "cancel_move")(keys=[keys.live(stream), keys.LIVE_MOVES], args=[move.token, stream])
