"""Streams and cameras as a gateway alone sees them: what is checked, stored, listed and refused."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.endpoints.streams import split_login
from shared import keys, live_records
from shared.errors import InvalidFile, SealedSecret
from shared.fleet import Worker
from shared.jobs import LiveJob, ProbeJob
from shared.live_records import CameraLogin
from shared.redis.connection import Redis
from shared.requests import failed, finish, request_of
from shared.results import End
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve, StandIn
from tests.support import until

URL = "rtsp://camera.example:554/live"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def gateway(serve: Serve, settings: Settings, worker: Worker) -> AsyncIterator[Gateway]:
    """A gateway that believes what it is told of cameras."""
    async with serve(dataclasses.replace(settings, skip_media_verification=True)) as running:
        yield running


async def add(gateway: Gateway, **fields: Any) -> dict[str, Any]:
    body = {"streams": [{"liveStreamUrl": URL, "description": "Front door", **fields}]}
    answer = (await gateway.client.post("/streams/add", json=body)).json()
    assert not answer["errors"], answer
    result: dict[str, Any] = answer["results"][0]
    return result


async def refused(gateway: Gateway, method: str, path: str, **request: Any) -> tuple[int, str]:
    answer = await gateway.client.request(method, path, **request)
    return answer.status_code, answer.json()["code"]


async def test_a_stream_is_listed_as_it_was_added(gateway: Gateway) -> None:
    place = {"place_name": "Hall 3", "place_lat": 48.1, "place_lon": None, "place_coordinate_x": 2.5}
    added = await add(gateway, **place, sensor_name="s")
    (listed,) = (await gateway.client.get("/streams/get-stream-info")).json()
    assert listed == {
        "id": added["id"], "liveStreamUrl": URL, "description": "Front door", "chunk_duration": 0,
        "chunk_overlap_duration": 0, **place,
        "place_type": "", "place_alt": None, "place_coordinate_y": None,
    }  # fmt: skip


async def test_a_stream_is_no_file(gateway: Gateway, film: str) -> None:
    stream = (await add(gateway))["id"]
    assert (await gateway.client.get("/files?purpose=vision")).json()["data"] == [
        file
        for file in (await gateway.client.get("/files?purpose=vision")).json()["data"]
        if file["id"] == film
    ]
    assert await refused(gateway, "GET", f"/files/{stream}") == (400, "BadParameter")
    assert await refused(gateway, "DELETE", f"/files/{stream}") == (400, "BadParameter")
    for path in ("/streams/delete", "/generate_video_embeddings"):
        assert await refused(gateway, "DELETE", f"{path}/{film}") == (400, "InvalidParameter")
        assert await refused(gateway, "DELETE", f"{path}/{UNKNOWN}") == (400, "BadParameter")
        assert await refused(gateway, "DELETE", f"{path}/no.n$ense") == (422, "InvalidParameters")
    body = {"stream_ids": [film, UNKNOWN, stream]}
    answer = (await gateway.client.request("DELETE", "/streams/delete-batch", json=body)).json()
    assert answer["deleted"] == [stream]
    assert [(e["stream_id"], e["error_code"]) for e in answer["errors"]] == [
        (film, "InvalidParameter"), (UNKNOWN, "BadParameter"),
    ]  # fmt: skip


async def test_stopping_what_does_not_run(gateway: Gateway) -> None:
    stream = (await add(gateway))["id"]
    answer = await gateway.client.delete(f"/generate_video_embeddings/{stream}")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_bad_item_refuses_the_whole_request(gateway: Gateway) -> None:
    good = {"liveStreamUrl": URL, "description": "a"}
    for bad in ({"liveStreamUrl": "http://h/"}, {"description": "<b>"}, {"place_lat": 91}, {"more": 1}):
        body = {"streams": [good, {**good, **bad}]}
        assert await refused(gateway, "POST", "/streams/add", json=body) == (422, "InvalidParameters")
    assert (await gateway.client.get("/streams/get-stream-info")).json() == []


async def test_an_id_may_be_chosen_once(gateway: Gateway) -> None:
    assert (await add(gateway, id=UNKNOWN.upper()))["id"] == UNKNOWN
    body = {"streams": [{"liveStreamUrl": URL, "description": "b", "id": UNKNOWN}]}
    (error,) = (await gateway.client.post("/streams/add", json=body)).json()["errors"]
    assert (error["index"], error["error_code"], error["status_code"]) == (0, "DuplicateStreamId", 409)


async def test_cameras_may_speak_tls(gateway: Gateway) -> None:
    stream = await add(gateway, liveStreamUrl="rtsps://me:s3cret@h/x")
    (listed,) = (await gateway.client.get("/streams/get-stream-info")).json()
    assert (listed["id"], listed["liveStreamUrl"]) == (stream["id"], "rtsps://h/x")


async def test_passwords_are_encrypted_where_there_is_a_key(
    serve: Serve, settings: Settings, redis: Redis
) -> None:
    secret = dataclasses.replace(settings, skip_media_verification=True, secret_keys=("one long text",))
    async with serve(secret) as encrypting:
        stream = (await add(encrypting, liveStreamUrl="rtsp://me:s3cret-word@h/x"))["id"]
    stored: Any = await redis.hgetall(keys.camera(stream))
    assert b"s3cret-word" not in b"".join(stored.values())
    (login,) = await live_records.read_logins(redis, [stream])
    assert live_records.opened(login, ("a newer one", "one long text")).password == "s3cret-word"
    for wrong in ((), ("another text",)):
        with pytest.raises(SealedSecret, match="RTEMBED_SECRET_KEY"):
            live_records.opened(login, wrong)
    plain = CameraLogin(username="me", password="x")
    assert live_records.opened(plain, ("one long text",)) == plain, "added before there was a key"


async def test_credentials_are_kept_apart(gateway: Gateway, redis: Redis) -> None:
    stream = (await add(gateway, liveStreamUrl="rtsp://me:p%40ss@h/x"))["id"]
    (login,) = await live_records.read_logins(redis, [stream])
    assert (login.username, login.password) == ("me", "p@ss")
    stored: Any = await redis.hgetall(keys.asset(stream))
    assert b"p@ss" not in b"".join(stored.values())
    assert "p@ss" not in (await gateway.client.get("/stream/get-stream-info")).text
    await gateway.client.delete(f"/streams/delete/{stream}")
    assert not await redis.exists(keys.camera(stream), keys.asset(stream))


@pytest.mark.parametrize(
    ("url", "plain", "login"),
    [
        ("rtsp://h:1/a", "rtsp://h:1/a", ("", "")),
        ("rtsp://u@h/a", "rtsp://h/a", ("u", "")),
        ("rtsp://u:p:q@h/a", "rtsp://h/a", ("u", "p:q")),
        ("rtsp://u%3A:%2Fp@h/a", "rtsp://h/a", ("u:", "/p")),
        ("rtsps://admin:p@ss/w0rd@h/a?b=c", "rtsps://h/a?b=c", ("admin", "p@ss/w0rd")),
    ],
)
def test_splitting_addresses(url: str, plain: str, login: tuple[str, str]) -> None:
    assert split_login(url) == (plain, CameraLogin(username=login[0], password=login[1]))


async def test_a_worker_looks_at_the_camera_first(
    serve: Serve, settings: Settings, stand_in: StandIn, redis: Redis
) -> None:
    async with serve(settings) as gateway:
        body = {"streams": [{"liveStreamUrl": URL, "description": "a", "username": "u", "password": "p"}]}
        adding = asyncio.create_task(gateway.client.post("/streams/add", json=body))
        job = await stand_in.job("probe")
        assert isinstance(job, ProbeJob)
        assert (job.asset.kind, job.asset.path) == ("stream", URL)
        (login,) = await live_records.read_logins(redis, [job.asset.id])
        assert login.password == "p"
        end = failed("Cannot use the stream: nobody there", InvalidFile.code, InvalidFile.status)
        await finish(redis, settings, request_of(job), end)
        (error,) = (await adding).json()["errors"]
        assert (error["error_code"], error["status_code"]) == ("InvalidFile", 400)
        assert not await redis.exists(keys.camera(job.asset.id), keys.asset(job.asset.id))


async def test_a_drain_that_takes_too_long_is_cut_short(
    serve: Serve, settings: Settings, stand_in: StandIn, redis: Redis
) -> None:
    settings = dataclasses.replace(settings, skip_media_verification=True)
    async with serve(settings) as gateway:
        value = {
            "camera_id": "c", "camera_url": URL, "change": "add", "metadata": {"model": "null"},
        }  # fmt: skip
        added = (await gateway.client.post("/stream/add", json={"key": "sensor", "value": value})).json()
        assert added["status"] == "processing"
        job = await stand_in.job("live")
        assert isinstance(job, LiveJob)
        assert job.chunk_duration == 10
        await redis.hset(keys.live(added["asset_id"]), "state", "running")
        body = {"stream_ids": [added["asset_id"]], "drain_timeout_seconds": 0.2}
        answer = await gateway.client.request("DELETE", "/streams/delete-batch", json=body)
        assert answer.json() == {"deleted": [added["asset_id"]], "errors": []}
        assert await redis.hget(keys.request(job.request), "state") == b"done"
        assert await redis.hget(keys.CAMERAS, "c") is None


async def test_the_drain_ends_with_the_session(
    gateway: Gateway, stand_in: StandIn, redis: Redis, settings: Settings
) -> None:
    stream = (await add(gateway))["id"]
    asset = await gateway.context.assets.get(stream)
    session = live_records.LiveRecord(request=UNKNOWN, model="null", chunk_duration=1)
    await live_records.start(redis, settings, UNKNOWN, asset, session)
    job = await stand_in.job("live")
    await redis.hset(keys.live(stream), "state", "running")
    deleting = asyncio.create_task(gateway.client.delete(f"/streams/delete/{stream}"))
    await until(lambda: redis.hget(keys.live(stream), "stop"))
    assert not deleting.done()
    await finish(redis, settings, request_of(job), End(state="done"))
    assert (await deleting).status_code == 200
