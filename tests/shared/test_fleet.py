import asyncio
from typing import Any

import msgspec
import pytest

from shared import keys
from shared.fleet import RECORD_TTL, Fleet, Worker, announce, read_fleet, withdraw
from shared.redis.connection import Redis
from tests.support import served_model

MODEL = served_model(dimension=3, verified=False, created=7)


@pytest.fixture
def redis_environment(every_redis: dict[str, str]) -> dict[str, str]:
    return every_redis


def worker(name: str = "w1", **values: object) -> Worker:
    return msgspec.convert({"name": name, "state": "ready", **values}, Worker)


async def test_no_worker_and_no_model_are_an_empty_fleet(redis: Redis) -> None:
    assert await read_fleet(redis) == Fleet()


async def test_a_record_is_read_as_it_was_announced(redis: Redis) -> None:
    told = msgspec.structs.replace(
        worker(
            detail='says "hi", ü', backend="cpu", host="h", pid=12, started=9, jobs_running=2, jobs_done=40
        ),
        model=MODEL,
        healthy=False,
    )
    await announce(redis, told)
    assert await read_fleet(redis) == Fleet(workers=[told], model=MODEL)


async def test_texts_that_look_like_numbers_stay_texts(redis: Redis) -> None:
    told = worker(
        "007", detail="null", backend="true", host="1e3", backend_wanted="1", backend_reason="false",
        gpu="3090", driver="580.65", engine="{}",
    )  # fmt: skip
    await announce(redis, told)
    assert (await read_fleet(redis)).workers == [told]


async def test_workers_are_sorted_by_name(redis: Redis) -> None:
    for name in ("c", "a", "b"):
        await announce(redis, worker(name))
    assert [w.name for w in (await read_fleet(redis)).workers] == ["a", "b", "c"]


async def test_people_can_read_a_record(redis: Redis) -> None:
    await announce(redis, msgspec.structs.replace(worker(jobs_done=3), model=MODEL))
    record = await redis.hgetall(keys.worker("w1"))
    assert (record[b"state"], record[b"jobs_done"], record[b"healthy"]) == (b"ready", b"3", b"true")
    assert msgspec.json.decode(record[b"model"])["id"] == "m"


async def test_a_silent_workers_record_expires(redis: Redis) -> None:
    await announce(redis, worker())
    assert 0 < await redis.ttl(keys.worker("w1")) <= RECORD_TTL
    await redis.delete(keys.worker("w1"))
    assert (await read_fleet(redis)).workers == []


async def test_names_of_silent_workers_are_cleared_away(redis: Redis) -> None:
    await announce(redis, worker("gone"))
    await redis.zadd(keys.WORKERS, {"gone": 1})
    await announce(redis, worker("here"))
    assert await redis.zrange(keys.WORKERS, 0, -1) == [b"here"]


async def test_a_withdrawn_worker_is_gone_and_its_model_stays(redis: Redis) -> None:
    await announce(redis, msgspec.structs.replace(worker(), model=MODEL))
    await withdraw(redis, "w1")
    assert await read_fleet(redis) == Fleet(workers=[], model=MODEL)
    assert not await redis.exists(keys.worker("w1"))


async def test_a_model_is_known_only_from_a_ready_worker(redis: Redis) -> None:
    await announce(redis, msgspec.structs.replace(worker(state="starting"), model=MODEL))
    assert (await read_fleet(redis)).model is None


async def test_fields_of_a_newer_worker_are_ignored_whatever_they_hold(redis: Redis) -> None:
    await announce(redis, worker())
    newer: dict[Any, Any] = {"zone": "eu-west", "load": "0.5", "digest": b"\xff\x00"}
    await redis.hset(keys.worker("w1"), mapping=newer)
    assert (await read_fleet(redis)).workers == [worker()]


async def test_a_model_of_a_newer_worker_is_read(redis: Redis) -> None:
    await redis.set(keys.MODEL, msgspec.json.encode({**msgspec.structs.asdict(MODEL), "licence": "x"}))
    assert (await read_fleet(redis)).model == MODEL


async def test_a_record_that_cannot_be_read_hides_no_other(redis: Redis) -> None:
    await announce(redis, worker("a"))
    await announce(redis, worker("b"))
    await redis.hset(keys.worker("a"), "pid", "not a number")
    assert (await read_fleet(redis)).workers == [worker("b")]


@pytest.mark.parametrize(
    ("workers", "ready"),
    [
        ([], False),
        ([worker(state="starting")], False),
        ([worker(state="stopping")], False),
        ([worker(healthy=False)], False),
        ([worker(state="starting"), worker("w2")], True),
    ],
)
def test_a_fleet_is_ready_when_one_healthy_worker_is(workers: list[Worker], ready: bool) -> None:
    assert Fleet(workers=workers).ready is ready


async def test_many_announcements_at_once_all_arrive(redis: Redis) -> None:
    await asyncio.gather(*(announce(redis, worker(f"w{i:02}", jobs_done=i)) for i in range(40)))
    assert [w.jobs_done for w in (await read_fleet(redis)).workers] == list(range(40))
