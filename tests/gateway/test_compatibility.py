"""What clients of RT-Embed can see: accepted forms of requests, exact fields of answers, ids of streams."""

import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared import keys, live_records
from shared.fleet import Worker
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.conftest import MODEL, Gateway, Serve

FILM = "123e4567-e89b-12d3-a456-426614174000"
URL = "rtsp://camera.example:554/live"
VIDEO, TEXT = "/generate_video_embeddings", "/generate_text_embeddings"


@pytest.fixture
async def gateway(serve: Serve, settings: Settings, worker: Worker) -> AsyncIterator[Gateway]:
    settings = dataclasses.replace(
        settings, skip_media_verification=True, model_aliases=("cosmos-embed1-448p", "old-name")
    )
    async with serve(settings) as running:
        yield running


async def post(gateway: Gateway, path: str, body: bytes | dict[str, Any]) -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    answer = await gateway.client.post(path, content=content, headers=headers)
    return answer.status_code, answer.json()


async def add_camera(gateway: Gateway, camera_id: str, **more: Any) -> tuple[int, dict[str, Any]]:
    value = {"camera_id": camera_id, "camera_url": URL, "change": "camera_add", **more}
    return await post(gateway, "/stream/add", {"key": "sensor", "value": value})


async def add_stream(gateway: Gateway, **fields: Any) -> dict[str, Any]:
    body = {"streams": [{"liveStreamUrl": URL, "description": "a", **fields}]}
    return (await post(gateway, "/streams/add", body))[1]


# Forms of requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "status"), [(999, 422), (1001, 400)])
async def test_a_form_has_at_most_a_thousand_fields(gateway: Gateway, fields: int, status: int) -> None:
    answer = await gateway.client.post("/files", data={f"f{n}": "x" for n in range(fields)})
    assert answer.status_code == status
    assert ("detail" in answer.json()) == (status == 400)


async def test_what_is_not_base64_is_told_by_the_decoder(gateway: Gateway) -> None:
    body = {"id": FILM, "model": "null", "url": "data:video/mp4;base64,@@@"}
    status, error = await post(gateway, VIDEO, body)
    assert (status, error["code"]) == (400, "InvalidDataUrl")


async def test_json_may_begin_with_a_byte_order_mark(gateway: Gateway) -> None:
    status, error = await post(gateway, TEXT, b'\xef\xbb\xbf{"text_input": "", "model": "null"}')
    assert (status, error["message"]) == (400, "text_input is empty")


async def test_a_body_that_is_not_utf8_is_a_bad_request(gateway: Gateway) -> None:
    status, error = await post(gateway, TEXT, b'{"text_input": "\xff", "model": "null"}')
    assert (status, error["code"]) == (400, "BadRequest")


@pytest.mark.parametrize("form", ["{}", "{{{}}}", "urn:uuid:{}"])
async def test_a_uuid_may_be_written_in_all_its_forms(gateway: Gateway, film: str, form: str) -> None:
    answer = await gateway.client.get(f"/files/{form.format(film.upper())}")
    assert (answer.status_code, answer.json()["id"]) == (200, film)


async def test_a_range_has_no_null_start(gateway: Gateway, film: str) -> None:
    for field, status in (("start_offset", 422), ("end_offset", 400)):
        body = {"id": film, "model": "other", "media_info": {"type": "offset", field: None}}
        assert (await post(gateway, VIDEO, body))[0] == status


async def test_head_is_answered_where_get_is(gateway: Gateway) -> None:
    answer = await gateway.client.head("/version")
    assert (answer.status_code, answer.content) == (200, b"")


# Exact fields of answers ------------------------------------------------------------------------------


async def test_models_have_the_fields_of_the_original(gateway: Gateway) -> None:
    entry = {
        "id": "null",
        "created": MODEL.created,
        "object": "model",
        "owned_by": "tests",
        "api_type": "custom",
    }
    listed = (await gateway.client.get("/models")).json()
    assert listed == {"object": "list", "data": [entry], "audio_support": False}
    more = {"dimension": 4, "frames": 8, "supports_text": True, "verified": True, "verification": ""}
    aliases = ["cosmos-embed1-448p", "old-name"]
    for name in ("null", *aliases):
        described = (await gateway.client.get(f"/models/{name}")).json()
        assert described == {**entry, **more, "aliases": aliases}
    answer = await gateway.client.get("/models/another")
    assert (answer.status_code, answer.json()["code"]) == (404, "NotFound")


async def test_streams_have_the_fields_of_the_original(gateway: Gateway) -> None:
    await add_stream(gateway, id="door")
    places = ("place_name", "place_type", "place_lat", "place_lon", "place_alt")
    coordinates = ("place_coordinate_x", "place_coordinate_y")
    (listed,) = (await gateway.client.get("/streams/get-stream-info")).json()
    assert set(listed) == {
        "id", "liveStreamUrl", "description", "chunk_duration", "chunk_overlap_duration", *places,
        *coordinates,
    }  # fmt: skip


async def test_what_a_stream_is_doing_is_told_elsewhere(
    gateway: Gateway, redis: Redis, settings: Settings
) -> None:
    await add_stream(gateway, id="door")
    idle = (await gateway.client.get("/streams/door/status")).json()
    assert (idle["id"], idle["state"], idle["request"], idle["chunks"]) == ("door", "idle", None, 0)
    asset = await gateway.context.assets.get("door")
    record = live_records.LiveRecord(request=FILM, model="null", chunk_duration=5, created=1767000000)
    await live_records.start(redis, settings, FILM, asset, record)
    state: Any = {"state": "reconnecting", "detail": "no route", "next": 7, "dropped": 2, "failed": 1}
    await redis.hset(keys.live("door"), mapping={**state, "reconnections": 3, "owner": "w"})
    told = (await gateway.client.get("/streams/door/status")).json()
    assert told == {
        "id": "door", "state": "reconnecting", "detail": "no route", "request": FILM, "model": "null",
        "worker": "w", "created": 1767000000, "chunk_duration": 5, "chunk_overlap_duration": 0, "chunks": 7,
        "chunks_dropped": 2, "chunks_failed": 1, "reconnections": 3, "transport": "", "clock": "",
    }  # fmt: skip
    answer = await gateway.client.get("/streams/window/status")
    assert (answer.status_code, answer.json()["code"]) == (400, "BadParameter")


async def test_cameras_have_a_number_as_source(gateway: Gateway) -> None:
    await add_camera(gateway, "cam")
    (camera,) = (await gateway.client.get("/stream/get-stream-info")).json()["stream_list"]
    assert camera["source_id"] is None
    document = (await gateway.client.get(f"{gateway.url}/openapi.json")).json()
    source = document["components"]["schemas"]["CameraInfo"]["properties"]["source_id"]
    assert {"type": "integer"} in source["anyOf"]


# Ids of streams ---------------------------------------------------------------------------------------


async def test_a_stream_may_have_any_name_as_id(gateway: Gateway) -> None:
    stream = (await add_stream(gateway, id="Front.Door_2"))["results"][0]["id"]
    assert stream == "Front.Door_2"
    body = {"id": [stream], "model": "null", "chunk_duration": 5}
    status, error = await post(gateway, VIDEO, body)
    assert (status, error["message"]) == (400, "Front.Door_2 is a live stream; set stream to true")
    assert (await gateway.client.delete(f"{VIDEO}/{stream}")).status_code == 200
    assert (await gateway.client.delete(f"/streams/delete/{stream}")).status_code == 200
    assert (await gateway.client.get("/streams/get-stream-info")).json() == []


async def test_streams_of_any_name_are_deleted_together(gateway: Gateway) -> None:
    for stream in ("one", "two"):
        await add_stream(gateway, id=stream)
    body = {"stream_ids": ["two", "three", "one"]}
    answer = await gateway.client.request("DELETE", "/streams/delete-batch", json=body)
    assert answer.json()["deleted"] == ["two", "one"]
    assert [error["stream_id"] for error in answer.json()["errors"]] == ["three"]


async def test_a_camera_id_is_the_id_of_its_asset(gateway: Gateway) -> None:
    assert (await add_camera(gateway, "cam-7"))[1]["asset_id"] == "cam-7"
    assert (await add_camera(gateway, FILM.upper()))[1]["asset_id"] == FILM
    odd = (await add_camera(gateway, "hall 3, north"))[1]["asset_id"]
    assert len(odd) == 36
    listed = (await gateway.client.get("/streams/get-stream-info")).json()
    assert {stream["id"] for stream in listed} == {"cam-7", FILM, odd}
    assert (await gateway.client.delete("/streams/delete/cam-7")).status_code == 200
    assert (await add_camera(gateway, "cam-7"))[0] == 200


async def test_a_camera_does_not_take_the_id_of_another_asset(gateway: Gateway) -> None:
    await add_stream(gateway, id="cam-7")
    status, error = await add_camera(gateway, "cam-7")
    assert (status, error["code"]) == (409, "DuplicateStreamId")
    assert (await gateway.client.delete("/streams/delete/cam-7")).status_code == 200
    assert (await add_camera(gateway, "cam-7"))[0] == 200


async def test_files_have_uuids(gateway: Gateway) -> None:
    form = {"purpose": "vision", "media_type": "video", "filename": "/x.mp4", "id": "film"}
    answer = await gateway.client.post("/files", data=form)
    assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")
    assert (await gateway.client.get("/files/film")).status_code == 422
    body = {"id": "film", "model": "null", "url": "https://example.com/film.mp4"}
    status, error = await post(gateway, VIDEO, body)
    assert (status, error["message"]) == (422, "('body', 'id'): Must be a UUID when url is given")


# Names of the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["null", "cosmos-embed1-448p", "old-name"])
async def test_the_model_may_be_named_by_an_alias(gateway: Gateway, film: str, name: str) -> None:
    body = {"id": film, "model": name, "media_info": {"type": "offset", "start_offset": 100}}
    status, answer = await post(gateway, VIDEO, body)
    assert (status, answer["model"], answer["chunk_responses"]) == (200, "null", [])


async def test_any_other_name_is_refused(gateway: Gateway, film: str) -> None:
    for path, body in ((VIDEO, {"id": film}), (TEXT, {"text_input": "a"}), ("/embeddings", {"input": "a"})):
        status, error = await post(gateway, path, {**body, "model": "another"})
        assert (status, error["code"]) == (400, "BadParameters")
        assert error["message"] == "No such model another; the loaded model is null"
