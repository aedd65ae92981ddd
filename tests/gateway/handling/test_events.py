"""Event streams: from the first event or after the last one seen, one client at a time, nothing left."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.results import follow, sse
from gateway.results.reader_lease import start_reading
from shared import keys
from shared.assets import Asset
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve, StandIn
from tests.support import until

URL = "/generate_video_embeddings"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


class Events:
    """What one client reads: (id, data) of each event; the terminator is data, too."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, Any]:
        data, last = "", ""
        async with asyncio.timeout(20):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if name == "data":
                    data = value
                elif name == "id":
                    last = value
                elif not line and data:
                    return last, data if data == "[DONE]" else json.loads(data)
        raise EOFError

    async def rest(self) -> list[tuple[str, Any]]:
        found = []
        try:
            while True:
                found.append(await self.next())
        except EOFError:
            return found


@asynccontextmanager
async def reading(gateway: Gateway, film: str, after: str = "", **body: Any) -> AsyncIterator[Events]:
    body = {"id": film, "model": "null", "stream": True, "chunk_duration": 1, **body}
    headers = {"Last-Event-ID": after} if after else {}
    async with gateway.client.stream("POST", URL, json=body, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Events(response)


def chunks(events: list[tuple[str, Any]]) -> list[str]:
    return [e["chunk_responses"][0]["start_time"] for _, e in events if "chunk_responses" in e]


async def test_every_event_but_the_terminator_has_an_id(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str
) -> None:
    async with serve(settings) as gateway:
        async with reading(gateway, film, stream_options={"include_usage": True}) as events:
            for number in range(3):
                await stand_in.finish(await stand_in.job(), number)
            found = await events.rest()
        ids = [event_id for event_id, _ in found]
        assert len(set(ids[:-1])) == 4
        assert all(event_id.startswith(f"{found[0][1]['id']}/") for event_id in ids[:-1])
        assert found[-1] == ("", "[DONE]")


async def test_a_client_goes_on_at_another_gateway(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str
) -> None:
    usage = {"include_usage": True}
    async with serve(settings) as one, serve(settings) as other:
        async with reading(one, film) as events:
            first = await stand_in.job()
            await stand_in.finish(first, 0)
            last, _ = await events.next()
            await stand_in.finish(await stand_in.job(), 1)
            async with reading(other, film, last, stream_options=usage) as again:
                missed = await again.next()
                assert chunks([missed]) == ["1.0"]
                assert missed[1]["usage"]["total_chunks_processed"] == 2
                await stand_in.finish(await stand_in.job(), 2)
                rest = await again.rest()
        assert chunks(rest) == ["2.0"]
        assert rest[-2][1]["usage"]["total_chunks_processed"] == 3
        assert rest[-1][1] == "[DONE]"
        assert {event["id"] for _, event in [missed, *rest[:-1]]} == {first.request}


async def test_the_number_of_chunks_is_told_first_to_clients_that_ask(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str
) -> None:
    progress = {"include_progress": True}
    async with serve(settings) as gateway:
        async with reading(gateway, film, stream_options=progress) as events:
            begun, told = await events.next()
            job = await stand_in.job()
            assert told["progress"] == {"chunks_planned": 3, "chunks_done": 0}
            assert (begun, list(told)) == (f"{job.request}/0-0", ["id", "model", "created", "progress"])
            await stand_in.finish(job, 0)
            last, chunk = await events.next()
            assert chunk["usage"] is None
        async with reading(gateway, film, last, stream_options=progress) as again:
            same, told = await again.next()
            assert (same, told["progress"]) == (last, {"chunks_planned": 3, "chunks_done": 1})
        async with reading(gateway, film, begun) as again:
            for number in (1, 2):
                await stand_in.finish(await stand_in.job(), number)
            assert chunks(await again.rest()) == ["0.0", "1.0", "2.0"]


async def test_the_stream_that_was_replaced_ends(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str
) -> None:
    async with serve(settings) as gateway, reading(gateway, film) as old:
        await stand_in.finish(await stand_in.job(), 0)
        last, _ = await old.next()
        async with reading(gateway, film, last) as new:
            with suppress(httpx.RemoteProtocolError):  # without its terminator: it is not complete
                assert await old.rest() == []
            for number in (1, 2):
                await stand_in.finish(await stand_in.job(), number)
            assert chunks(await new.rest()) == ["1.0", "2.0"]


async def test_what_ended_meanwhile_is_told(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str
) -> None:
    async with serve(settings) as gateway:
        async with reading(gateway, film) as events:
            await stand_in.finish(await stand_in.job(), 0)
            last, _ = await events.next()
        job = await stand_in.job()
        await stand_in.finish(job, 1)
        await stand_in.fail(job, "Decode error: broken")
        async with reading(gateway, film, last) as again:
            found = await again.rest()
        assert chunks(found) == ["1.0"]
        assert list(found[1][1]) == ["id", "model", "created", "usage"]
        async with reading(gateway, film, found[1][0]) as again:
            assert await again.rest() == [("", "[DONE]")]


async def test_a_live_stream_has_no_number_of_chunks(
    serve: Serve, settings: Settings, stand_in: StandIn, redis: Redis
) -> None:
    async with serve(settings) as gateway:
        camera = await gateway.context.assets.register(Asset(id="cam", kind="stream", path="rtsp://c/x"))
        async with reading(gateway, camera.id, stream_options={"include_progress": True}) as events:
            await stand_in.finish(await stand_in.job("live"), 0)
            assert "chunk_responses" in (await events.next())[1]


async def test_a_client_of_a_live_stream_goes_on_where_it_was(
    serve: Serve, settings: Settings, stand_in: StandIn, redis: Redis
) -> None:
    async with serve(settings) as one, serve(settings) as other:
        camera = await one.context.assets.register(Asset(id=UNKNOWN, kind="stream", path="rtsp://camera/x"))
        async with reading(one, camera.id) as events:
            job = await stand_in.job("live")
            await stand_in.finish(job, 0)
            last, _ = await events.next()
            assert last.startswith(f"{job.request}/")
            await stand_in.finish(job, 1)
            await events.next()
        await until(lambda: gone(redis, camera.id))
        await stand_in.finish(job, 2)
        async with reading(other, camera.id, last) as again:
            found = [await again.next(), await again.next()]
            assert chunks(found) == ["1.0", "2.0"]
            await until(lambda: remembers(redis, camera.id, found[-1][0]))
        await until(lambda: gone(redis, camera.id))
        await stand_in.finish(job, 3)
        async with reading(one, camera.id) as anyone:
            assert chunks([await anyone.next()]) == ["3.0"], "what was read is not told again"
            stopped = await one.client.delete(f"/streams/delete/{camera.id}")
            assert stopped.status_code == 200
            assert (await anyone.rest())[-1] == ("", "[DONE]")


async def test_a_client_comes_back_at_once_after_its_gateway_died(
    serve: Serve, settings: Settings, stand_in: StandIn, redis: Redis
) -> None:
    async with serve(settings) as gateway:
        camera = await gateway.context.assets.register(Asset(id="cam", kind="stream", path="rtsp://c/x"))
        await start_reading(redis, camera.id, "a client of a gateway that has died")
        async with reading(gateway, camera.id) as events:
            await stand_in.finish(await stand_in.job("live"), 0)
            assert chunks([await events.next()]) == ["0.0"]
            body = {"id": camera.id, "model": "null", "stream": True, "chunk_duration": 1}
            assert (await gateway.client.post(URL, json=body)).status_code == 409, "a gateway that lives"


@pytest.mark.usefixtures("lost_soon")
@pytest.mark.parametrize("answer", ["events", "json"])
async def test_a_request_that_redis_has_lost_ends(  # noqa: PLR0917 - fixtures and cases
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis, answer: str
) -> None:
    async with serve(settings) as gateway:
        body = {"id": film, "model": "null", "chunk_duration": 1}
        if answer == "json":
            asking = asyncio.create_task(gateway.client.post(URL, json=body))
            await redis.delete(keys.request((await stand_in.job()).request))
            refused = await asking
            assert (refused.status_code, refused.json()["code"]) == (503, "ServiceUnavailable")
            assert "is not known any more" in refused.json()["message"]
            assert refused.headers["retry-after"] == "5"
            return
        async with reading(gateway, film) as events:
            job = await stand_in.job()
            await stand_in.finish(job, 0)
            await redis.delete(keys.request(job.request))
            (_, chunk), (_, failure), last = await events.rest()
        assert chunk["chunk_responses"]
        assert failure == {"id": job.request, "model": "null", "created": chunk["created"], "usage": None}
        assert last == ("", "[DONE]")


@pytest.fixture
def lost_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Followers look for themselves after a moment."""
    monkeypatch.setattr(follow, "READ_AGAIN", 0.2)


@pytest.mark.usefixtures("lost_soon")
async def test_a_request_without_its_end_is_lost_too(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis
) -> None:
    """As after a failover to a server whose clock is behind: new entries come before those that were read."""
    async with serve(settings) as gateway, reading(gateway, film) as events:
        job = await stand_in.job()
        await redis.hset(keys.request(job.request), "state", "done")
        (_, failure), _ = await events.rest()
        assert failure["id"] == job.request


@pytest.mark.parametrize(
    ("after", "status", "code"),
    [
        ("x", 422, "InvalidParameters"),
        (f"{UNKNOWN}/", 422, "InvalidParameters"),
        (f"{UNKNOWN}/1-0", 404, "NotFound"),
    ],
)
async def test_an_id_that_leads_nowhere(  # noqa: PLR0917 - fixtures and cases
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, after: str, status: int, code: str
) -> None:
    async with serve(settings) as gateway:
        body = {"id": film, "model": "null", "stream": True}
        answer = await gateway.client.post(URL, json=body, headers={"Last-Event-ID": after})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        await until(lambda: not gateway.context.listener._queues)


async def test_an_id_of_another_assets_request_is_refused(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str
) -> None:
    async with serve(settings) as gateway:
        async with reading(gateway, film) as events:
            await stand_in.finish(await stand_in.job(), 0)
            last, _ = await events.next()
        body = {"id": UNKNOWN, "model": "null", "stream": True}
        answer = await gateway.client.post(URL, json=body, headers={"Last-Event-ID": last})
        assert (answer.status_code, answer.json()["code"]) == (400, "BadParameters")


async def test_a_second_client_is_refused_before_anything_is_started(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis
) -> None:
    async with serve(settings) as one, serve(settings) as other, reading(one, film):
        jobs = await redis.xlen(keys.jobs("video", "null"))
        answer = await other.client.post(URL, json={"id": film, "model": "null", "stream": True})
        assert (answer.status_code, answer.json()["code"]) == (409, "Conflict")
        assert await redis.xlen(keys.jobs("video", "null")) == jobs == 3


async def test_a_start_that_is_refused_is_no_stream_and_frees_the_reader(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis
) -> None:
    async with serve(replace(settings, video_queue_limit=2)) as gateway:
        body = {"id": film, "model": "null", "stream": True, "chunk_duration": 1}
        answer = await gateway.client.post(URL, json=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "ServerBusy")
        assert answer.headers["retry-after"] == "5"
        assert not await redis.exists(keys.reader(film))
        async with reading(gateway, film, chunk_duration=2):
            assert await redis.exists(keys.reader(film))


async def test_clients_that_leave_leave_nothing_behind(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis
) -> None:
    async with serve(settings) as gateway:
        await gateway.client.get("/metadata")
        idle = asyncio.all_tasks()
        body = json.dumps({"id": film, "model": "null", "stream": True, "chunk_duration": 1}).encode()
        head = f"POST /v1{URL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        for turn in range(12):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(head + body)
            await writer.drain()
            await asyncio.sleep(0.005 * turn)
            writer.transport.abort()
        for _ in range(5):
            await until(lambda: gone(redis, film))
            await redis.delete(keys.jobs("video", "null"))
            async with reading(gateway, film) as events:
                await stand_in.finish(await stand_in.job(), 0)
                await events.next()
            await until(lambda: gone(redis, film))
        listener = gateway.context.listener
        await until(lambda: not listener._queues)
        await until(lambda: len(asyncio.all_tasks() - idle) <= 1, timeout=10)


async def remembers(redis: Redis, camera: str, event: str) -> bool:
    """Whether it is kept that a client has read so far."""
    read: Any = await redis.hget(keys.live(camera), "read")
    return bool(read) and event.endswith(f"/{read.decode()}")


async def gone(redis: Redis, film: str) -> bool:
    return not await redis.exists(keys.reader(film))


async def test_a_reader_that_is_too_slow_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "SEND_TIMEOUT", 0.05)
    left: list[str] = []
    sent: list[Any] = []

    async def events() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: x\r\n\r\n"
        finally:
            left.append("events")

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 3:
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    held = AsyncExitStack()
    held.callback(left.append, "held")
    stream: Any = events()
    await sse.EventStream(stream, held)({"type": "http"}, receive, send)
    assert left == ["events", "held"]
    assert len(sent) == 3
