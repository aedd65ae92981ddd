"""Backups of a service, restored into an empty place, by the command line and with real servers."""

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
from redis import Redis as BlockingRedis

from rt_embed.cli.main import run
from search.schema import migrate
from shared import keys
from shared.assets import NEW_ASSETS, Asset
from shared.chunks import Chunk
from shared.jobs import VideoJob
from shared.redis.connection import Redis
from shared.requests import Request, submit
from shared.search import database
from shared.settings import Settings, load
from tests.support import PostgresServer, RedisServer

LANE = keys.jobs("video", "null")
Call = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Run `rt-embed` with nothing but these variables: its exit status, output and complaints."""

    async def call(*arguments: object, **environment: str) -> tuple[int, str, str]:
        for name in list(os.environ):
            if name.startswith(("REDIS_", "RTEMBED_", "ASSET_")):
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        status = await asyncio.to_thread(run, [str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    root, processors = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield call
    structlog.configure(**processors)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def other_place(valkey: RedisServer) -> Iterator[str]:
    """The address of an empty database of another number."""
    with BlockingRedis(port=valkey.port, db=1) as client:
        client.flushdb()
        yield f"redis://127.0.0.1:{valkey.port}/1"
        client.flushdb()


@pytest.fixture
def servers(redis: Redis, settings: Settings, other_place: str) -> tuple[Redis, Settings, str]:
    """A Redis, its service's settings, and the address of an empty one."""
    return redis, settings, other_place


async def fill(redis: Redis, settings: Settings) -> Asset:
    """A film, a request for it whose job a worker has, and one that waits."""
    folder = settings.asset_dir / "1"
    folder.mkdir(parents=True)
    (folder / "film.mp4").write_bytes(b"film")
    asset = Asset(id="1", path=str(folder / "film.mp4"), directory=str(folder), filename="film.mp4", size=4)
    await redis.hset(keys.asset("1"), mapping=dict(zip(*[iter(NEW_ASSETS.fields(asset))] * 2, strict=True)))
    await redis.zadd(keys.ASSETS, {"1": 1})
    await redis.xgroup_create(LANE, keys.GROUP, "0", mkstream=True)
    for number in range(2):
        request = Request(id=f"r{number}", lane="video", planned=1, model="null", assets=["1"])
        job = VideoJob(request=request.id, assets=[asset], chunks=[Chunk(0, 0, 1)], model="null")
        await submit(redis, settings, request, [job])
    await redis.xreadgroup(keys.GROUP, "a-worker", {LANE: ">"}, count=1)
    await redis.set(keys.PULSE, "of a process")
    return asset


async def index(address: str) -> None:
    async with await database.connect(load({"RTEMBED_SEARCH_URL": address})) as connection:
        await migrate(connection)
        await connection.execute("INSERT INTO models (id, dimension) VALUES ('null', 2)")
        await connection.execute(
            "INSERT INTO assets (id, kind, media_type, name, sensor, description, url, created)"
            " VALUES ('1', 'file', 'video', 'film.mp4', '1', '', '', 1)"
        )
        await connection.execute(
            "INSERT INTO chunks (asset, model, number, start_ns, end_ns, request, embedding)"
            " SELECT 1, 1, n, n, n + 1, 'r0', '[0.5,0.25]' FROM generate_series(0, 99) n"
        )


async def test_a_service_goes_on_in_an_empty_place(
    servers: tuple[Redis, Settings, str],
    postgres: PostgresServer,
    call: Call,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    redis, settings, other_place = servers
    await fill(redis, settings)
    source, target = postgres.database(), postgres.database()
    await index(source)
    capsys.readouterr()
    backup, place = tmp_path / "monday", tmp_path / "place"
    here = {"REDIS_URL": settings.redis_url or "", "ASSET_STORAGE_DIR": str(settings.asset_dir)}
    there = {"REDIS_URL": other_place, "RTEMBED_SEARCH_URL": target, "ASSET_STORAGE_DIR": str(place)}
    status, out, err = await call("backup", backup, "--files", "--json", **here, RTEMBED_SEARCH_URL=source)
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert (told["assets"], told["asset_bytes"], told["files"]) == (1, 4, True)
    assert told["index"].items() >= {"assets": 1, "chunks": 100, "deletions": 0, "models": 1}.items()
    assert backup.stat().st_mode & 0o77 == 0

    status, out, err = await call("restore", backup, "--json", **there, RTEMBED_LOG_FORMAT="json")
    assert (status, json.loads(out)["keys"]) == (0, told["keys"]), err
    with BlockingRedis.from_url(other_place, decode_responses=True) as after:
        assert after.hget(keys.asset("1"), "filename") == "film.mp4"
        (group,) = after.xinfo_groups(LANE)
        assert (group["pending"], group["lag"]) == (1, 1), "a job under way and one that waits"
        assert after.hget(keys.request("r1"), "state") == "running"
        assert 0 < after.ttl(keys.request("r1")) <= settings.request_ttl
        assert not after.exists(keys.PULSE)
    assert (place / "1" / "film.mp4").read_bytes() == b"film"
    with psycopg.connect(target) as connection:
        rows: Any = connection.execute(
            "SELECT count(*), min(embedding::text), max(key) FROM rtembed.chunks"
        ).fetchone()
        assert rows == (100, "[0.5,0.25]", 100)
        added = connection.execute(
            "INSERT INTO rtembed.models (id, dimension) VALUES ('next', 2) RETURNING key"
        ).fetchone()
        assert added == (2,), "new rows get keys of their own"


async def test_what_is_there_is_kept_unless_it_is_to_go(
    redis: Redis, settings: Settings, call: Call, tmp_path: Path
) -> None:
    asset = await fill(redis, settings)
    backup = tmp_path / "monday"
    here = {"REDIS_URL": settings.redis_url or "", "ASSET_STORAGE_DIR": str(settings.asset_dir)}
    assert (await call("backup", backup, **here))[0] == 0
    status, _, err = await call("backup", backup, **here)
    assert (status, err.strip()) == (2, f"rt-embed backup: {backup} exists: name a new folder")
    status, _, err = await call("restore", backup, **here)
    assert status == 1
    assert "keys of a service: name an empty one, or --replace" in " ".join(err.split())
    os.unlink(asset.path)  # noqa: PTH108 - a test may block
    await redis.set(keys.ROUTES, "of another day")
    status, _, err = await call("restore", backup, "--replace", **here)
    assert status == 0
    assert f"1 of 1 files are not there, the first is {asset.path}" in " ".join(err.split())
    assert not await redis.exists(keys.ROUTES)
    await redis.zadd(keys.WORKERS, {"w": 1})
    await redis.hset(keys.worker("w"), mapping={"name": "w", "state": "ready", "host": "h", "pid": 1})
    assert "w is running: stop workers" in (await call("restore", backup, "--replace", **here))[2]


async def test_a_folder_that_is_no_whole_backup(call: Call, tmp_path: Path, redis_url: str) -> None:
    status, _, err = await call("restore", tmp_path, REDIS_URL=redis_url)
    assert status == 1
    assert "holds no whole backup: manifest.json: No such file" in " ".join(err.split())


async def test_an_older_server_and_a_damaged_snapshot_are_named(
    servers: tuple[Redis, Settings, str], redis62: RedisServer, call: Call, tmp_path: Path
) -> None:
    redis, settings, other_place = servers
    await redis.hset(keys.ROUTES, "message_bus", "off")
    backup = tmp_path / "monday"
    assert (await call("backup", backup, REDIS_URL=settings.redis_url or ""))[0] == 0
    with BlockingRedis(port=redis62.port) as client:
        client.flushall()
    status, _, err = await call("restore", backup, REDIS_URL=redis62.url)
    assert status == 1
    assert "the same or a newer version of Redis or Valkey" in " ".join(err.split())
    snapshot = backup / "redis.snapshot"
    snapshot.write_bytes(snapshot.read_bytes()[:-3])
    status, _, err = await call("restore", backup, REDIS_URL=other_place)
    assert status == 1
    assert "redis.snapshot is damaged" in " ".join(err.split())
