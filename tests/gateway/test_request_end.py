"""One log line when a request ends, whoever ends it and however its client waits."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import httpx
import pytest

from shared.requests import Delivery, publish, request_of
from shared.results import End, Result
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve, StandIn
from tests.support import until

VIDEO = "/generate_video_embeddings"
ASYNC = {"Prefer": "respond-async"}


def ends(lines: list[Any]) -> list[Any]:
    """The lines about requests that ended."""
    return [line for line in lines if line["event"] == "request done"]


async def ended(lines: list[Any]) -> Any:
    """The one line, once it is there."""
    await until(lambda: ends(lines))
    (line,) = ends(lines)
    assert line.pop("seconds") >= 0
    return line


def ask(gateway: Gateway, film: str, **more: Any) -> Any:
    """Ask for the film's vectors as a client behind a proxy."""
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Request-ID": "mine", **more.pop("headers", {})}
    body = {"id": film, "model": "null", "chunk_duration": 1, **more}
    return gateway.client.post(VIDEO, json=body, headers=headers)


@pytest.fixture
def playing(stand_in: StandIn, film: str) -> tuple[StandIn, str]:
    """A worker whose work the test does, and a film for it."""
    return stand_in, film


@pytest.mark.parametrize("how", [{}, {"stream": True}, {"headers": ASYNC}])
async def test_a_request_that_is_done(
    serve: Serve, settings: Settings, playing: tuple[StandIn, str], lines: list[Any], how: Any
) -> None:
    stand_in, film = playing
    settings = replace(settings, trusted_proxies=(ip_network("127.0.0.0/8"),))
    async with serve(settings) as gateway, serve(settings):
        asking = asyncio.create_task(ask(gateway, film, **how))
        jobs = [await stand_in.job() for _ in range(3)]
        for chunk, job in enumerate(jobs):
            assert not ends(lines)
            await stand_in.finish(job, chunk)
        await stand_in.finish(jobs[0], 0)  # a job that ran twice
        assert (await asking).is_success
        assert await ended(lines) == {
            "event": "request done", "log_level": "info", "request_id": jobs[0].request, "kind": "video",
            "state": "done", "chunks": 3, "failed": 0, "client": "192.0.2.7", "x_request_id": "mine",
        }  # fmt: skip


async def test_a_request_with_a_chunk_that_cannot_be_decoded(
    serve: Serve, settings: Settings, playing: tuple[StandIn, str], lines: list[Any]
) -> None:
    stand_in, film = playing
    async with serve(settings) as gateway:
        asking = asyncio.create_task(ask(gateway, film, on_error="skip"))
        jobs = [await stand_in.job() for _ in range(3)]
        await stand_in.finish(jobs[0], 0)
        await stand_in.finish(jobs[1], 1)
        broken = Result(chunk=2, error="Decode error: broken")
        await publish(
            gateway.context.redis, settings, request_of(jobs[2]), End(state="done"), [Delivery(broken)]
        )
        await asking
        line = await ended(lines)
    assert (line["state"], line["chunks"], line["failed"]) == ("done", 3, 1)


async def test_a_request_that_fails(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, lines: list[Any]
) -> None:
    async with serve(settings) as gateway:
        asking = asyncio.create_task(ask(gateway, film))
        job, _, _ = [await stand_in.job() for _ in range(3)]
        await stand_in.finish(job, 0)
        await stand_in.fail(job, "Decode error: broken")
        assert (await asking).status_code == 500
        line = await ended(lines)
    told = {name: line[name] for name in ("state", "chunks", "missing", "code", "error", "log_level")}
    assert told == {
        "state": "failed", "chunks": 3, "missing": 2, "code": "InternalServerError",
        "error": "Decode error: broken", "log_level": "info",
    }  # fmt: skip


async def test_a_client_that_leaves_and_a_request_without_chunks(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, lines: list[Any]
) -> None:
    async with serve(settings) as gateway:
        asking = asyncio.create_task(ask(gateway, film))
        job = await stand_in.job()
        asking.cancel()
        with suppress(asyncio.CancelledError, httpx.HTTPError):
            await asking
        line = await ended(lines)
        await stand_in.finish(job, 0)
        assert (line["request_id"], line["state"], line["missing"]) == (job.request, "cancelled", 3)
        for more in ({}, {"stream": True}, {"headers": ASYNC}):
            lines.clear()
            nothing = {"type": "offset", "start_offset": 100}
            assert (await ask(gateway, film, media_info=nothing, **more)).is_success
            line = await ended(lines)
            assert (line["state"], line["chunks"], line["client"]) == ("done", 0, "127.0.0.1")


async def test_texts_are_logged_for_those_who_look_closely(
    serve: Serve, settings: Settings, stand_in: StandIn, lines: list[Any]
) -> None:
    async with serve(settings) as gateway:
        body = {"text_input": ["a", "b"], "model": "null"}
        asking = asyncio.create_task(gateway.client.post("/generate_text_embeddings", json=body))
        await stand_in.finish(await stand_in.job("text"), 0, 1)
        await asking
        line = await ended(lines)
    assert (line["log_level"], line["kind"], line["chunks"]) == ("debug", "text", 2)


async def test_a_session_that_is_stopped(
    serve: Serve, settings: Settings, stand_in: StandIn, lines: list[Any]
) -> None:
    async with serve(replace(settings, skip_media_verification=True)) as gateway:
        added = {"liveStreamUrl": "rtsp://127.0.0.1:1/nowhere", "description": "gate"}
        answer = await gateway.client.post("/streams/add", json={"streams": [added]})
        stream = answer.json()["results"][0]["id"]
        async with gateway.client.stream(
            "POST", VIDEO, json={"id": stream, "model": "null", "stream": True, "chunk_duration": 1}
        ):
            job = await stand_in.job("live")
            await gateway.client.delete(f"{VIDEO}/{stream}")
            line = await ended(lines)
    assert (line["request_id"], line["kind"], line["chunks"], line["client"]) == (
        job.request, "live", 0, "127.0.0.1",
    )  # fmt: skip
    assert line["log_level"] == "info"
