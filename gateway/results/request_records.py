"""Requests as Redis stores them: their state, and answers made of their stored results."""

from typing import Any

import msgspec

from gateway.api.embedding_schemas import RequestStatus, TextResponse, VideoResponse
from gateway.api.schemas import Error
from gateway.results.answers import Outline, TextOptions, text_response, video_response
from shared import keys, results
from shared.errors import NotFound
from shared.records import RecordCodec
from shared.redis.connection import Redis
from shared.requests import RequestRecord
from shared.results import End, Result

PAGE = 500


class _VideoOptions(msgspec.Struct, frozen=True):
    outline: Outline | None = None


class KnownRequest(RequestRecord, frozen=True, kw_only=True):
    """What Redis knows of a request. `age` is the seconds since it was accepted."""

    age: int = 0

    @property
    def outline(self) -> Outline | None:
        """What answers repeat of a video request; None for other requests."""
        if self.lane == "text" or not self.options:
            return None
        return msgspec.json.decode(self.options, type=_VideoOptions).outline


_KNOWN_REQUESTS: RecordCodec[KnownRequest] = RecordCodec(KnownRequest, "id", "age")


async def find_record(redis: Redis, request_id: str) -> KnownRequest | None:
    """Return what Redis knows of a request, or None."""
    fields: Any = await redis.hgetall(keys.request(request_id))
    if b"state" not in fields:
        return None
    now, _ = await redis.time()
    record = _KNOWN_REQUESTS.read(fields, id=request_id)
    return msgspec.structs.replace(record, age=now - record.created)


async def read_status(redis: Redis, request_id: str) -> RequestStatus:
    """Return the state of a request. Raises NotFound for one that is unknown or has expired."""
    record = await find_record(redis, request_id)
    if record is None or record.lane == "probe":
        raise NotFound(f"No such request {request_id}, or it has expired")
    end = await read_end(redis, request_id) if record.state == "failed" else None
    kind: Any = record.lane
    status: Any = record.state
    return RequestStatus(
        id=request_id,
        kind=kind,
        status=status,
        model=record.model,
        created=record.created,
        finished=record.finished,
        chunks_planned=record.planned,
        chunks_done=record.done,
        error=Error(code=end.code or "InternalServerError", message=end.error) if end else None,
    )


async def read_end(redis: Redis, request_id: str) -> End | None:
    """Return how a request ended; None if it has not, or if its record has expired."""
    last: Any = await redis.xrevrange(keys.results(request_id), count=1)
    entry = results.from_fields(last[0][1]) if last else None
    return entry if isinstance(entry, End) else None


async def read_results(redis: Redis, request_id: str) -> tuple[list[Result], End | None]:
    """Return the stored results of a request that has ended, in order of chunks, and its end.

    Returns no results and no end if they have expired.
    """
    found: dict[int, Result] = {}
    start = "-"
    while True:
        page: Any = await redis.xrange(keys.results(request_id), start, count=PAGE)
        for entry in (results.from_fields(fields) for _, fields in page):
            if isinstance(entry, End):
                return [found[chunk] for chunk in sorted(found)], entry
            found[entry.chunk] = entry
        if not page:
            return [], None
        start = f"({page[-1][0].decode()}"


def stored_answer(request_id: str, record: KnownRequest, found: list[Result]) -> VideoResponse | TextResponse:
    """Return the answer that the request would have had at once.

    Raises NotFound for a request that was answered directly, whose options were not kept.
    """
    if record.lane == "text" and record.options:
        texts = msgspec.json.decode(record.options, type=TextOptions)
        return text_response(request_id, record.created, record.model, texts, found)
    if record.outline is None:
        raise NotFound(f"The request {request_id} was answered directly")
    seconds = (record.finished or record.created) - record.created
    return video_response(record.outline, record.created, seconds, found)
