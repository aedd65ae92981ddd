"""The gateway's address, who may use it, and limits on a request."""

import dataclasses
from pathlib import Path

from shared.settings.setting_types import (
    NAMED_KEYS,
    ORIGINS,
    PATH,
    TEXT,
    IPNetwork,
    NamedKey,
    SettingType,
    at_least_one,
    listed,
    matching,
    networks,
    number,
    setting,
    whole,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Serving"""

    port: int = setting("BACKEND_PORT", whole(0, 65535), 8000, "Port of the gateway; 0 takes a free one")
    host: str = setting("RTEMBED_HOST", TEXT, "0.0.0.0", "Address that the gateway binds to")  # noqa: S104 - a container's default
    root_path: str = setting(
        "RTEMBED_ROOT_PATH",
        SettingType(matching(r"(/[A-Za-z0-9._~-]+)*"), "a path such as /rt-embed"),
        "",
        "Path below which a proxy shows the service, whether or not it takes the path off before it passes a "
        "request on",
    )
    gateway_processes: int = setting(
        "RTEMBED_GATEWAY_PROCESSES", whole(1, 64), 1, "Gateway processes that share the port, on one machine"
    )

    api_keys: tuple[NamedKey, ...] = setting(
        "RTEMBED_API_KEYS",
        NAMED_KEYS,
        (),
        "Keys of which each request must bring one, except to health, metrics and documentation; empty: none "
        "is asked for. A name stands in logs and on records; keys do not separate their users' data",
        secret=True,
    )
    admin_keys: tuple[NamedKey, ...] = setting(
        "RTEMBED_ADMIN_KEYS",
        NAMED_KEYS,
        (),
        "Keys of administrators, which open everything, and alone what changes the service for all "
        "(POST /v1/config, dead letters); empty: every key does",
        secret=True,
    )
    secret_keys: tuple[str, ...] = setting(
        "RTEMBED_SECRET_KEY",
        at_least_one(listed(",")),
        (),
        "Text with which the passwords of cameras are encrypted in Redis and the webhooks of triggers in the "
        "search index, the same for all gateways and workers; after a comma those that were used before",
        secret=True,
    )
    wrong_keys_per_minute: int = setting(
        "RTEMBED_WRONG_KEYS_PER_MINUTE",
        whole(0, 10**6),
        30,
        "Wrong keys per minute from one address before it has to wait; 0: any number",
    )
    allowed_hosts: tuple[str, ...] = setting(
        "RTEMBED_ALLOWED_HOSTS",
        at_least_one(listed(",")),
        (),
        "Host names that requests may use, without ports; *.example.com: all below it; empty: any. Health "
        "and metrics answer under any name",
    )
    cors_origins: tuple[str, ...] = setting(
        "RTEMBED_CORS_ORIGINS",
        ORIGINS,
        (),
        "Origins, such as https://app.example.com, of other sites whose pages may use the API; *: of all",
    )
    rate_limit: float = setting(
        "RTEMBED_RATE_LIMIT",
        number(0, 10**6),
        0.0,
        "Requests per minute for each API key, or for each client address where no keys are set; 0: no limit",
    )
    body_limit_bytes: int = setting(
        "RTEMBED_MAX_BODY_BYTES",
        whole(1024, 2**31),
        16 * 2**20,
        "Largest JSON request body in bytes, not counting the data: URL of a video request",
    )

    header_limit_bytes: int = setting(
        "RTEMBED_MAX_HEADER_BYTES",
        whole(1024, 2**20),
        16 * 2**10,
        "Most bytes of a request's headers; more are answered with 431",
    )
    header_timeout: float = setting(
        "RTEMBED_HEADER_TIMEOUT",
        number(0.1, 3600),
        10.0,
        "Seconds that a new connection, or a request on it, has until its headers are complete",
    )
    least_body_rate: int = setting(
        "RTEMBED_MIN_BODY_RATE",
        whole(0, 10**9),
        500,
        "Least bytes per second of a request's body, over RTEMBED_HEADER_TIMEOUT; slower ones are answered "
        "with 408; 0: any",
    )
    connections_per_address: int = setting(
        "RTEMBED_MAX_CONNECTIONS_PER_ADDRESS",
        whole(0, 10**6),
        0,
        "Most connections from one address to one gateway, trusted proxies aside; 0: no limit",
    )
    trusted_proxies: tuple[IPNetwork, ...] = setting(
        "RTEMBED_TRUSTED_PROXIES",
        SettingType(networks, "networks such as 10.0.0.0/8, separated by ,"),
        (),
        "Networks of proxies whose X-Forwarded-For names the client; empty: the header is ignored",
    )

    data_dir: Path = setting(
        "RTEMBED_DATA_DIR", PATH, Path(".rtembed"), "Folder of `rt-embed up`: Valkey's data, sockets, logs"
    )
