"""Where embedding messages and error events go: as configured, or as the fleet was switched at run time.

The switch is a hash in Redis, so it outlives restarts. It is not announced: each sender
reads it first.
"""

import re
from typing import Any, Literal

import msgspec
import structlog

from shared import keys
from shared.bus.kafka import create_topic
from shared.errors import BadRequest, BusError, SettingsError
from shared.fleet import read_lanes
from shared.redis.connection import Redis, RedisError
from shared.settings import Settings

log = structlog.get_logger(__name__)

Bus = Literal["kafka", "redis", "off"]
DEFAULT_TOPIC = "mdx-embed"


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    """A topic is one of Kafka, a Redis stream (messages) or a Redis channel (events)."""

    message_bus: Bus = "off"
    message_topic: str = ""
    error_bus: Bus = "off"
    error_topic: str = ""


def configured_routes(settings: Settings) -> Routes:
    """Return the routes that the settings give, in both of their spellings; Kafka without brokers is off.

    Raises SettingsError for a Redis stream that a cluster would keep on another node.
    """
    wanted = settings.message_bus
    if wanted is None:
        wanted = "kafka" if settings.kafka_enabled else "off"
    errors = settings.error_bus
    if errors is None:
        errors = "redis" if settings.redis_errors else "kafka" if wanted == "kafka" else "off"
    fallback = settings.kafka_topic if wanted == "kafka" else default_stream(settings)
    if wanted == "redis" and (problem := misplaced(settings, settings.message_topic or fallback)):
        raise SettingsError(f"MESSAGE_BUS_TOPIC={problem}")
    return Routes(
        message_bus=_usable(settings, wanted or "off"),
        message_topic=settings.message_topic or fallback,
        error_bus=_usable(settings, errors or "off"),
        error_topic=settings.error_topic,
    )


def default_stream(settings: Settings) -> str:
    """Return the Redis stream of messages if none is named."""
    return f"{DEFAULT_TOPIC}-{keys.TAG}" if settings.redis_cluster else DEFAULT_TOPIC


def misplaced(settings: Settings, stream: str) -> str:
    """Return why messages cannot go to a Redis stream because of the cluster; empty if they can."""
    if not settings.redis_cluster or keys.TAG in stream:
        return ""
    return f"{stream}: with REDIS_CLUSTER the name must contain {keys.TAG}, for example {stream}-{keys.TAG}"


def _usable(settings: Settings, bus: str) -> Bus:
    if bus == "kafka":
        return "kafka" if settings.kafka_servers else "off"
    return "redis" if bus == "redis" else "off"


def warn_of_unusable_routes(settings: Settings) -> None:
    """Warn at start of routes that are configured but cannot work."""
    if settings.kafka_servers:
        return
    if settings.kafka_enabled or "kafka" in {settings.message_bus, settings.error_bus}:
        log.warning("kafka is off: KAFKA_BOOTSTRAP_SERVERS is empty")


async def read_routes(redis: Redis, settings: Settings) -> Routes:
    """Return the routes in force. Raises RedisError."""
    changed: Any = await redis.hgetall(keys.ROUTES)
    configured = msgspec.structs.asdict(configured_routes(settings))
    return msgspec.convert(configured | {k.decode(): v.decode() for k, v in changed.items()}, Routes)


class RouteReader:
    """Reads the routes; while Redis is away, returns those last seen."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._last = configured_routes(settings)

    async def current(self) -> Routes:
        """Return the routes as they are now."""
        try:
            self._last = await read_routes(self._redis, self._settings)
        except RedisError as error:
            log.warning("routes not readable now", error=str(error))
        return self._last


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the routes: the messages' always, the events' where given. `partitions` are those of a
    topic that is to be created."""

    message_bus: Bus
    message_topic: str
    error_bus: Bus | None = None
    error_topic: str | None = None
    create_topic: bool = False
    partitions: int = 1


async def switch_routes(redis: Redis, settings: Settings, switch: Switch) -> tuple[Routes, list[str]]:
    """Switch the whole fleet, from the next message and event on, including those that wait in the outbox.

    Returns the routes afterwards and warnings. Raises BadRequest if a bus or a topic cannot be used,
    RedisError if nothing was changed.
    """
    _check(settings, switch.message_bus, switch.message_topic)
    if switch.message_bus == "redis" and (problem := misplaced(settings, switch.message_topic)):
        raise BadRequest(problem)
    before = await read_routes(redis, settings)
    _check(settings, switch.error_bus or before.error_bus, switch.error_topic or before.error_topic)
    changes: dict[Any, Any] = {
        "message_bus": switch.message_bus,
        "message_topic": switch.message_topic,
        **({"error_bus": switch.error_bus} if switch.error_bus else {}),
        **({"error_topic": switch.error_topic} if switch.error_topic else {}),
    }
    warnings = await _create(settings, switch) if switch.create_topic else []
    await redis.hset(keys.ROUTES, mapping=changes)
    routes = await read_routes(redis, settings)
    log.info("routes switched", **msgspec.structs.asdict(routes))
    if (busy := await _jobs_running(redis)) and routes != before:
        warnings.append(f"the route changed while {busy} jobs were waiting or running")
    return routes, warnings


def _check(settings: Settings, bus: Bus, topic: str) -> None:
    if bus == "off":
        return
    if not topic.strip():
        raise BadRequest("the topic is empty")
    if bus == "kafka" and not settings.kafka_servers:
        raise BadRequest("Kafka is not available: KAFKA_BOOTSTRAP_SERVERS is empty")
    if bus == "kafka" and not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic):
        raise BadRequest(f"{topic!r} is not a Kafka topic: letters, digits, '.', '_' and '-', at most 249")
    if bus == "redis" and topic.startswith(keys.PREFIX):
        raise BadRequest(f"{topic!r} is not usable: {keys.PREFIX} is the service's own part of Redis")


async def _create(settings: Settings, switch: Switch) -> list[str]:
    """Create the named Kafka topics; a failure becomes a warning."""
    named = [(switch.message_bus, switch.message_topic), (switch.error_bus, switch.error_topic)]
    warnings = []
    for topic in [topic for bus, topic in named if bus == "kafka" and topic]:
        try:
            await create_topic(settings, topic, switch.partitions)
        except BusError as error:
            warnings.append(f"topic {topic} was not created: {error.message}")
    return warnings


async def _jobs_running(redis: Redis) -> int:
    return sum([await redis.xlen(lane.stream) for lane in await read_lanes(redis)])
