"""Objects as answers: whole, in ranges, with the headers of RFC 9110."""

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.object_content import PIECE, byte_range
from shared import s3
from shared.assets import Asset
from shared.redis.connection import Redis
from shared.settings import Settings, load
from tests.buckets import Bucket, Buckets
from tests.gateway.conftest import Serve

DATA = bytes(range(251)) * (2 * PIECE // 251 + 1000)
SIZE = len(DATA)
ASSET = Asset(id="123e4567-e89b-12d3-a456-426614174000", filename="a film.mp4", probed=True)


@pytest.fixture
def bucket(buckets: Buckets) -> Bucket:
    return buckets.make()


@pytest.fixture
def on_bucket(buckets: Buckets, bucket: Bucket, redis_url: str) -> Settings:
    return load({**buckets.environment(bucket), "REDIS_URL": redis_url, "BACKEND_PORT": "0"})


@pytest.fixture
async def ask(serve: Serve, on_bucket: Settings, bucket: Bucket, redis: Redis) -> Any:
    """Ask for the content of an object."""
    bucket.write("rt/embed/x/a film.mp4", DATA)
    path = f"s3://{bucket.name}/rt/embed/x/a film.mp4"
    asset = Asset(
        id=ASSET.id,
        filename=ASSET.filename,
        probed=True,
        path=path,
        directory=path.rpartition("/")[0],
        size=SIZE,
    )
    async with serve(on_bucket) as gateway:
        await gateway.context.assets.register(asset)

        async def answer(method: str = "GET", **headers: str) -> httpx.Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await gateway.client.request(method, f"/files/{ASSET.id}/content", headers=named)

        yield answer


async def test_the_whole_comes_in_pieces(ask: Any) -> None:
    answer = await ask()
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-length"] == str(SIZE)
    assert answer.headers["content-disposition"] == "inline; filename*=utf-8''a%20film.mp4"
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=5-", 5, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        (f"bytes=1-{PIECE + 1}", 1, PIECE + 2),
        (f"bytes=3-{SIZE + 99}", 3, SIZE),
    ],
)
async def test_a_range(ask: Any, asked: str, start: int, end: int) -> None:
    answer = await ask(range=asked)
    assert answer.status_code == 206
    assert answer.content == DATA[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=-0"])
async def test_a_range_of_nothing(ask: Any, asked: str) -> None:
    answer = await ask(range=asked)
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{SIZE}")


@pytest.mark.parametrize("asked", ["bytes=1-2,5-6", "lines=1-2", "bytes=9-3", "bytes=", "bytes=-"])
async def test_other_ranges_are_answered_with_the_whole(ask: Any, asked: str) -> None:
    answer = await ask(range=asked)
    assert (answer.status_code, len(answer.content)) == (200, SIZE)


async def test_a_range_of_what_has_changed_is_answered_with_the_whole(ask: Any) -> None:
    known = (await ask("HEAD")).headers
    for validator in (known["etag"], known["last-modified"]):
        assert (await ask(range="bytes=0-9", if_range=validator)).status_code == 206
    assert (await ask(range="bytes=0-9", if_range='"other"')).status_code == 200


async def test_head_sends_no_bytes(ask: Any) -> None:
    answer = await ask("HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(SIZE)


async def test_an_object_that_has_vanished(ask: Any, bucket: Bucket) -> None:
    bucket.remove("rt/embed/x/a film.mp4")
    answer = await ask()
    assert (answer.status_code, answer.json()["code"]) == (500, "InternalServerError")
    assert "vanished" in answer.json()["message"]


async def test_health_shows_the_store(
    serve: Serve, on_bucket: Settings, buckets: Buckets, worker: object
) -> None:
    async with serve(on_bucket) as gateway:
        checks = (await gateway.client.get("/ready?detailed=true")).json()["checks"]
        assert {"healthy": True, "message": "running"}.items() <= _store(checks).items()
        assert (await gateway.client.get("/ready")).status_code == 200
    wrong = load(
        {
            **buckets.environment(Bucket(None, "nowhere")),
            "REDIS_URL": on_bucket.redis_url or "",
            "BACKEND_PORT": "0",
        }
    )
    async with serve(wrong) as gateway:
        answer = await gateway.client.get("/ready?detailed=true")
        assert answer.status_code == 503
        assert (
            "s3://nowhere/rt/embed/ cannot be used: NoSuchBucket"
            in _store(answer.json()["checks"])["message"]
        )
        assert "NoSuchBucket" in (await gateway.client.get("/startup")).text


def _store(checks: list[dict[str, Any]]) -> dict[str, Any]:
    return next(check for check in checks if check["component"] == "asset store")


@given(st.integers(0, 20), st.integers(0, 30), st.integers(0, 30))
def test_a_range_lies_within_the_object(size: int, first: int, last: int) -> None:
    found = byte_range(f"bytes={first}-{last}", size)
    if last < first:
        assert found is None
    else:
        assert found
        start, end = found
        assert bytes(size)[start:end] == bytes(size)[first : last + 1]
        assert start >= end or (start, end) == (first, min(size, last + 1))


def test_causes_are_short() -> None:
    assert s3.cause(OSError("Object at location a not found: 404 Not Found\n\nDebug source: x")) == (
        "Object at location a not found: 404 Not Found"
    )
