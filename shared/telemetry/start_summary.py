"""The log lines of a start: what the process uses, and what should be different in production."""

import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import structlog

from shared.redis.connection import Redis, RedisError
from shared.settings import Settings
from shared.settings.names import without_effect

log = structlog.get_logger(__name__)

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


async def log_start(settings: Settings, redis: Redis, environment: Mapping[str, str] = os.environ) -> None:
    """Log what this process uses, and a warning for each thing to change for production."""
    facts, problems = await redis_facts(redis)
    log.info(
        "starting",
        version=version("rt-embed"),
        **facts,
        store=settings.asset_store or str(settings.asset_dir),
        bus=settings.message_bus or ("kafka" if settings.kafka_enabled else "none"),
        keys="on" if settings.api_keys else "off",
        search="on" if settings.search_url else "off",
    )
    for problem in problems:
        log.warning("not for production", problem=problem)
    for name, advice in without_effect(environment).items():
        log.warning("setting of RT-Embed without effect", name=name, instead=advice)


async def redis_facts(redis: Redis) -> tuple[dict[str, str], list[str]]:
    """Return facts about Redis, and which of them endanger accepted work: none of a Redis that hides its
    configuration."""
    try:
        found: Mapping[str, Any] = await redis.info("server")
    except RedisError as error:
        return {"redis": f"away: {error}"}, []
    name = "valkey" if "valkey_version" in found else "redis"
    number = found.get("valkey_version") or found.get("redis_version", "")
    facts, problems = {"redis": f"{name} {number}"}, list[str]()
    try:
        configured: dict[Any, Any] = {}
        for setting in ("maxmemory-policy", "maxmemory", "appendonly", "save"):
            configured |= await redis.config_get(setting)
    except RedisError:
        return facts, problems
    policy, append_only = str(configured.get("maxmemory-policy", "")), configured.get("appendonly") == "yes"
    saves, limit = configured.get("save"), int(configured.get("maxmemory") or 0)
    facts |= {"persistence": "append-only file" if append_only else "snapshots" if saves else "none"}
    facts |= {"eviction": policy}
    if limit and policy != "noeviction":
        problems.append(f"Redis evicts keys when it is full (maxmemory-policy {policy}): set noeviction")
    if not append_only:
        problems.append(
            "Redis keeps no append-only file: accepted work is lost when it restarts; set appendonly yes"
        )
    return facts, problems
