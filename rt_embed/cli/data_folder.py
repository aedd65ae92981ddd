"""The folder of `rt-embed up`: who uses it, and how other commands find the service that runs there."""

import dataclasses
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rt_embed.cli import embedded_postgres
from shared import settings
from shared.bus.routes import configured_routes
from shared.errors import SettingsError
from shared.settings import Settings

SOCKET_PATH_LIMIT = 100
REDIS_VARIABLES = ("REDIS_URL", "REDIS_HOST", "REDIS_SENTINELS")
"""Each of them names a Redis, so that none is started."""


@dataclasses.dataclass(frozen=True)
class LocalService:
    """Where the service of a data folder listens, and the URL of its Redis ("" if settings name it)."""

    url: str
    redis: str


@contextmanager
def used_alone(folder: Path) -> Iterator[None]:
    """Hold the data folder's lock. Raises SettingsError when another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(
                f"another rt-embed up uses {folder}; set RTEMBED_DATA_DIR to another folder"
            ) from error
        yield


@contextmanager
def announced(folder: Path, service: LocalService) -> Iterator[None]:
    """Tell other commands of the service for as long as the context lasts."""
    record = _record(folder)
    record.touch(mode=0o600)
    record.write_text(json.dumps(dataclasses.asdict(service)))
    try:
        yield
    finally:
        record.unlink(missing_ok=True)


def running_service(folder: Path) -> LocalService | None:
    """Return the service that runs in the folder, or None."""
    try:
        with _lock(folder).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # somebody runs
    except OSError:
        return None
    else:
        return None
    try:
        return LocalService(**json.loads(_record(folder).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def configuration_here(environment: Mapping[str, str]) -> Settings:
    """Return the settings of the service that runs in the data folder, or those of the environment where it
    names a Redis. Raises SettingsError."""
    configuration = settings.load(environment)
    folder = configuration.data_dir
    if names_redis(environment) or not running_service(folder):
        return configuration
    given = {name: value for name, value in environment.items() if value}
    index = {}
    if (postgres_folder(folder) / "postmaster.pid").exists():
        index = search_defaults(folder, configuration)
    return settings.load({**local_defaults(folder), **index, **given})


def with_redis_found(configuration: Settings) -> Settings:
    """Return settings with the Redis of the service that runs here, unless the environment names one."""
    if names_redis(os.environ):
        return configuration
    service = running_service(configuration.data_dir)
    if service is None or not service.redis:
        return configuration
    return dataclasses.replace(configuration, redis_url=service.redis)


def redis_address(configuration: Settings) -> str:
    """Return where settings say that Redis is, without its password."""
    if configuration.redis_sentinels:
        sentinels = ", ".join(configuration.redis_sentinels)
        return f"{configuration.redis_sentinel_master} of the Sentinels {sentinels}"
    if not configuration.redis_url:
        return f"{configuration.redis_host}:{configuration.redis_port}"
    return re.sub(r"//[^@/]*@", "//", configuration.redis_url)


def local_defaults(folder: Path) -> dict[str, str]:
    """Return the variables that the service of a data folder has unless the environment sets them."""
    return {
        "REDIS_URL": f"unix://{valkey_socket(folder)}",
        "ASSET_STORAGE_DIR": str(folder.absolute() / "assets"),
        "MODEL_PATH": "demo",
        "RTEMBED_HOST": "127.0.0.1",
    }


def search_defaults(folder: Path, configuration: Settings) -> dict[str, str]:
    """Return the variables that `rt-embed up --search` adds: its PostgreSQL, and a message bus that the
    indexer reads if none is configured."""
    url = {"RTEMBED_SEARCH_URL": embedded_postgres.database_url(postgres_folder(folder))}
    off = configured_routes(configuration).message_bus == "off"
    return {**url, "MESSAGE_BUS": "redis"} if off else url


def postgres_folder(folder: Path) -> Path:
    """Return the folder of the PostgreSQL of `rt-embed up --search`: absolute, as its clients tell a socket
    from a host name by the first character."""
    return folder.absolute() / "postgres"


def names_redis(environment: Mapping[str, str]) -> bool:
    """Return whether these variables say where Redis is."""
    return any(environment.get(name) for name in REDIS_VARIABLES)


def valkey_socket(folder: Path) -> Path:
    """Return the path of Valkey's socket: in the folder, or in a temporary one where it would be too long."""
    path = folder.absolute() / "valkey.sock"
    if len(str(path)) < SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"rt-embed-{os.getuid()}-{digest}.sock"


def _lock(folder: Path) -> Path:
    return folder / "lock"


def _record(folder: Path) -> Path:
    return folder / "service.json"
