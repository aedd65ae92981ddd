import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gateway import fleet_view as module
from gateway.fleet_view import FleetView
from shared import keys
from shared.errors import BadParameters, Unavailable
from shared.fleet import Worker, announce, withdraw
from shared.redis.connection import Redis, connect
from shared.settings import Settings, load
from tests.support import RedisServer, served_model, until, valkey_binary

MODEL = served_model(dimension=3, created=1)
READY = Worker(name="w1", state="ready", model=MODEL)


@pytest.fixture
def view(redis: Redis) -> FleetView:
    return FleetView(redis)


def test_before_the_first_look_nothing_is_known(view: FleetView) -> None:
    assert view.problem == "redis is away: no answer yet"
    with pytest.raises(Unavailable, match="redis is away"):
        view.model()


async def test_no_worker_ever(view: FleetView) -> None:
    await view.refresh()
    assert (view.redis_problem, view.problem) == ("", "no worker is running")
    with pytest.raises(Unavailable, match="no worker is running"):
        view.model()


async def test_a_ready_worker(view: FleetView, redis: Redis) -> None:
    await announce(redis, READY)
    await view.refresh()
    assert view.problem == ""
    assert view.model() == MODEL
    assert view.require_model("m") == MODEL
    with pytest.raises(BadParameters, match="No such model x; the loaded model is m"):
        view.require_model("x")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"state": "starting", "detail": "downloading 3 of 7"}, "w1 is downloading 3 of 7"),
        ({"state": "starting"}, "w1 is starting"),
        ({"state": "stopping"}, "w1 is stopping"),
        ({"healthy": False, "detail": "the video engine hangs"}, "w1 is the video engine hangs"),
    ],
)
async def test_workers_that_are_not_ready_say_why(
    view: FleetView, redis: Redis, changes: dict[str, object], told: str
) -> None:
    await announce(redis, msgspec.structs.replace(READY, **changes))
    await view.refresh()
    assert view.problem == f"no worker is ready: {told}"


async def test_the_model_outlives_its_workers(view: FleetView, redis: Redis) -> None:
    await announce(redis, READY)
    await withdraw(redis, "w1")
    await view.refresh()
    assert view.problem == "no worker is running"
    assert view.model() == MODEL


async def test_the_view_follows_the_fleet_by_itself(
    view: FleetView, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.02)
    running = asyncio.create_task(view.run())
    await until(lambda: view.problem == "no worker is running")
    await announce(redis, READY)
    await until(lambda: not view.problem)
    await redis.hset(keys.worker("w1"), "state", "a state of the future")
    await until(lambda: view.problem == "no worker is running")
    assert not running.done()
    await withdraw(redis, "w1")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_model_that_cannot_be_read_does_not_end_the_view(view: FleetView, redis: Redis) -> None:
    await announce(redis, READY)
    await view.refresh()
    await redis.set(keys.MODEL, b'{"id": 7}')
    await view.refresh()
    assert view.problem == ""


async def test_redis_that_goes_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALE", 0.3)
    server = RedisServer(valkey_binary(), tmp_path, "--appendfsync", "always")
    server.start()
    redis = connect(load({"REDIS_URL": server.url, "RTEMBED_REDIS_TIMEOUT": "0.2"}))
    view = FleetView(redis)
    try:
        await announce(redis, READY)
        await view.refresh()
        assert view.problem == ""
        server.stop()
        await until(lambda: _problem_after_a_look(view))
        assert view.problem.startswith("redis is away: ")
        assert view.fleet.workers == [READY]
        server.start()
        await view.refresh()
        assert view.redis_problem == ""
    finally:
        await redis.aclose()
        server.stop()


async def test_a_view_that_is_not_refreshed_goes_stale(
    view: FleetView, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await announce(redis, READY)
    await view.refresh()
    monkeypatch.setattr(module, "STALE", 0.0)
    assert view.problem == "redis is away: no answer in time"


async def _problem_after_a_look(view: FleetView) -> str:
    await view.refresh()
    return view.problem


async def test_redis_that_is_full_is_named_as_what_is_wrong(settings: Settings, tmp_path: Path) -> None:
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    redis = connect(replace(settings, redis_url=server.url))
    try:
        view = FleetView(redis)
        await redis.config_set("maxmemory", "1")
        await view.refresh()
        assert view.redis_problem == "it is full: it refuses writes (OOM)"
        assert view.problem == "redis is unusable now: it is full: it refuses writes (OOM)"
        await redis.config_set("maxmemory", "0")
        await view.refresh()
        assert (view.redis_problem, view.problem) == ("", "no worker is running")
    finally:
        await redis.aclose()
        server.stop()
