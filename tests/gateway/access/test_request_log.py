"""The id of an HTTP request: the client's or a new one, in every answer and every log line."""

import re
import uuid
from typing import Any

import httpx
import pytest
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.app import create_app
from shared.fleet import Worker
from shared.settings import Settings
from tests.gateway.conftest import Serve

UUID = re.compile(r"[0-9a-f-]{36}")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("path", ["/v1/version", "/v1/nothing", "/v1/files", "/docs", "/openapi.json"])
async def test_every_answer_has_an_id(serve: Serve, settings: Settings, path: str) -> None:
    async with serve(settings) as gateway:
        ids = [(await gateway.client.get(gateway.url + path)).headers["x-request-id"] for _ in range(2)]
        assert all(UUID.fullmatch(found) for found in ids)
        assert ids[0] != ids[1]
        answer = await gateway.client.get(gateway.url + path, headers={"X-Request-ID": "job-7/part:3"})
        assert answer.headers.get_list("x-request-id") == ["job-7/part:3"]


@pytest.mark.parametrize("given", ["", "a b", 'a"b', "<b>", "x" * 129, "\u00fc", "a\tb"])
async def test_an_id_that_may_not_be_logged_is_replaced(serve: Serve, settings: Settings, given: str) -> None:
    async with serve(settings) as gateway:
        headers = [(b"x-request-id", given.encode())]
        answer = await gateway.client.get("/version", headers=headers)
        assert str(uuid.UUID(answer.headers["x-request-id"])) == answer.headers["x-request-id"]


async def test_a_stream_of_events_and_a_refusal_have_the_id(
    serve: Serve, settings: Settings, worker: Worker, film: str
) -> None:
    async with serve(settings) as gateway:
        body = {"id": film, "model": "null", "media_info": {"type": "offset", "start_offset": 100}}
        for more, kind in (({"stream": True}, "text/event-stream"), ({"model": "x"}, "application/json")):
            answer = await gateway.client.post(
                "/generate_video_embeddings", json={**body, **more}, headers={"X-Request-Id": "mine"}
            )
            assert answer.headers["content-type"].startswith(kind)
            assert answer.headers["x-request-id"] == "mine"


async def test_an_unexpected_error_is_told_and_logged_with_the_id(
    settings: Settings, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: HttpRequest) -> Response:
        raise RuntimeError("a bug")

    monkeypatch.setattr("gateway.app.routes", lambda: [Route("/fail", fail)])
    transport = httpx.ASGITransport(create_app(settings), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/fail", headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine")
    (line,) = [line for line in lines if line["event"] == "request failed unexpectedly"]
    assert line["x_request_id"] == "mine"


async def test_log_lines_of_a_request_have_its_id_and_no_others(
    settings: Settings, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def speak(request: HttpRequest) -> Response:
        structlog.get_logger("test").info("spoken", n=request.query_params["n"])
        if request.query_params["n"] == "2":
            raise HTTPException(418)
        return JSONResponse({})

    monkeypatch.setattr("gateway.app.routes", lambda: [Route("/speak", speak)])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(settings)), base_url="http://t"
    ) as c:
        for n in "12":
            await c.get(f"/speak?n={n}", headers={"X-Request-Id": f"id-{n}"})
    assert [(line["n"], line["x_request_id"]) for line in lines if line["event"] == "spoken"] == [
        ("1", "id-1"), ("2", "id-2"),
    ]  # fmt: skip
