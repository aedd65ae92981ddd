"""Where Redis or Valkey is, and how to connect to it."""

import dataclasses

from shared.settings.setting_types import (
    BOOLEAN,
    TEXT,
    SettingType,
    addresses,
    number,
    redis_url,
    setting,
    whole,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """Redis"""

    redis_url: str | None = setting(
        "REDIS_URL",
        SettingType(redis_url, "redis://, rediss:// or unix:// URL"),
        None,
        "Whole address of Redis, TLS and credentials included; wins over the four variables below",
        secret=True,
    )
    redis_host: str = setting(
        "REDIS_HOST",
        TEXT,
        "localhost",
        "Host of Redis or Valkey; with REDIS_CLUSTER any nodes, host or host:port, separated by commas",
    )
    redis_port: int = setting("REDIS_PORT", whole(1, 65535), 6379, "Port of Redis or Valkey")
    redis_db: int = setting("REDIS_DB", whole(0, 1023), 0, "Database number")
    redis_password: str | None = setting("REDIS_PASSWORD", TEXT, None, "Password of Redis", secret=True)
    redis_timeout: float = setting(
        "RTEMBED_REDIS_TIMEOUT",
        number(0.1, 60),
        5.0,
        "Seconds to connect to Redis, and to wait for an answer",
    )
    redis_connections: int = setting(
        "RTEMBED_REDIS_CONNECTIONS", whole(2, 1000), 32, "Most Redis connections in the pool of one process"
    )

    redis_sentinels: tuple[str, ...] = setting(
        "REDIS_SENTINELS",
        addresses(","),
        (),
        "Sentinels that say where the primary is, host:port separated by commas. Of the variables above, "
        "database, user, password and TLS count then; host and port do not",
    )
    redis_sentinel_master: str = setting(
        "REDIS_SENTINEL_MASTER", TEXT, "mymaster", "Name of the primary among the Sentinels"
    )
    redis_sentinel_username: str | None = setting(
        "REDIS_SENTINEL_USERNAME", TEXT, None, "User of the Sentinels"
    )
    redis_sentinel_password: str | None = setting(
        "REDIS_SENTINEL_PASSWORD", TEXT, None, "Password of the Sentinels", secret=True
    )
    redis_replicas: int = setting(
        "RTEMBED_REDIS_REPLICAS",
        whole(0, 100),
        0,
        "Replicas that must have an accepted request, a file's record, a result or a moved camera before "
        "anybody is told; if they do not within a second: 503, or another try",
    )
    redis_cluster: bool = setting(
        "REDIS_CLUSTER",
        BOOLEAN,
        False,
        "Redis runs in cluster mode: ask its nodes which of them owns the slot of {rtembed}",
    )
