"""What a process says when it starts."""

from pathlib import Path

from structlog.testing import capture_logs

from shared.redis.connection import Redis, connect
from shared.settings import Settings, load
from shared.telemetry.start_summary import log_start, redis_facts


async def test_what_a_process_uses_is_one_line(settings: Settings, redis: Redis) -> None:
    with capture_logs() as logged:
        await log_start(settings, redis, {})
    (line,) = [entry for entry in logged if entry["event"] == "starting"]
    assert line["redis"].startswith("valkey ")
    assert line["persistence"] == "append-only file"
    assert line["eviction"] == "noeviction"
    assert line["keys"] == "off"
    assert line["version"].count(".") == 2
    assert not [entry for entry in logged if entry["log_level"] == "warning"]


async def test_what_endangers_accepted_work_is_said(redis: Redis) -> None:
    await redis.config_set("maxmemory", 2**30)
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    await redis.config_set("appendonly", "no")
    try:
        facts, problems = await redis_facts(redis)
    finally:
        await redis.config_set("appendonly", "yes")
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("maxmemory", 0)
    assert facts["eviction"] == "allkeys-lru"
    assert facts["persistence"] == "none"
    assert problems == [
        "Redis evicts keys when it is full (maxmemory-policy allkeys-lru): set noeviction",
        "Redis keeps no append-only file: accepted work is lost when it restarts; set appendonly yes",
    ]


async def test_a_redis_that_is_away_is_said_and_stops_nothing(tmp_path: Path) -> None:
    client = connect(load({"REDIS_URL": f"unix://{tmp_path}/nobody.sock", "RTEMBED_REDIS_TIMEOUT": "0.2"}))
    facts, problems = await redis_facts(client)
    await client.aclose()
    assert facts["redis"].startswith("away: ")
    assert problems == []


async def test_settings_of_rt_embed_without_effect_are_named(settings: Settings, redis: Redis) -> None:
    with capture_logs() as logged:
        await log_start(settings, redis, {"NUM_VLM_PROCS": "10"})
    (line,) = [entry for entry in logged if entry["event"] == "setting of RT-Embed without effect"]
    assert line["name"] == "NUM_VLM_PROCS"
    assert "NUM_GPUS" in line["instead"]
