"""Real servers for the tests: Valkey from its wheel, alone and as several; Redis 6.2 from another."""

import functools
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest
from redis import Redis as BlockingRedis

from shared.redis.connection import Redis, connect
from shared.settings import Settings, load
from tests.buckets import Buckets
from tests.redis_servers import NAME, Cluster, SentinelPair, ask
from tests.support import PostgresServer, RedisServer, redis62_binary, valkey_binary

Server = TypeVar("Server", RedisServer, SentinelPair, Cluster, PostgresServer)

hypothesis.settings.register_profile("no deadline", deadline=None)  # no test asserts a time
hypothesis.settings.load_profile("no deadline")


SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text().split())
"""Files and folders of tests that take long, below tests/."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs the whole service as `e2e`, and what slow.txt lists as `slow`."""
    for item in items:
        path = item.path.relative_to(Path(__file__).parent)
        if path.parts[0] == "e2e":
            item.add_marker("e2e")
        if any(str(place) in SLOW for place in (path, *path.parents)):
            item.add_marker("slow")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `gpu` where CuPy sees no GPU."""
    if item.get_closest_marker("gpu") and (why := _no_gpu()):
        pytest.skip(why)


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str) -> None:
    """End the run with a status of its own when a test takes its process with it: pytest-xdist 3.8 would wait
    for ever for the other tests of that process (its issue 1378), or never run them."""
    pytest.exit(f"{crashitem} took its process with it", returncode=3)


@functools.cache
def _no_gpu() -> str:
    try:
        import cupy

        return "" if cupy.cuda.runtime.getDeviceCount() else "there is no NVIDIA GPU"
    except ImportError:
        return "CuPy is not installed"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"there is no NVIDIA GPU: {error}"


def _started(server: Server) -> Iterator[Server]:
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Valkey shared by the tests of one run."""
    yield from _started(RedisServer(valkey_binary(), tmp_path_factory.mktemp("valkey")))


@pytest.fixture(scope="session")
def redis62(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis 6.2 shared by the tests of one run."""
    yield from _started(RedisServer(redis62_binary(), tmp_path_factory.mktemp("redis62")))


@pytest.fixture(scope="session")
def sentinel_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelPair]:
    """A primary, a replica and three Sentinels shared by the tests of one run. They are patient, so that a
    busy machine makes no failover."""
    patient = f"sentinel down-after-milliseconds {NAME} 30000"
    yield from _started(SentinelPair(tmp_path_factory.mktemp("sentinel"), patient))


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Servers in cluster mode shared by the tests of one run."""
    yield from _started(Cluster(tmp_path_factory.mktemp("cluster")))


@pytest.fixture(params=["valkey", "redis62", "sentinel_pair", "redis_cluster"])
def every_redis(request: pytest.FixtureRequest) -> dict[str, str]:
    """The variables that lead to an empty Redis, of each kind that is supported."""
    servers: RedisServer | SentinelPair | Cluster = request.getfixturevalue(request.param)
    match servers:
        case RedisServer():
            primary, environment = servers, {"REDIS_URL": servers.url}
        case SentinelPair():
            primary, environment = servers.primary, servers.environment
        case Cluster():
            primary, environment = servers.owner(), servers.environment
    ask(primary, "FLUSHALL")
    return environment


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL with pgvector shared by the tests of one run."""
    with tempfile.TemporaryDirectory(prefix="rt-embed-") as folder:
        yield from _started(PostgresServer(Path(folder) / "postgres"))


@pytest.fixture
def search_url(postgres: PostgresServer) -> str:
    """The address of an empty database with pgvector at hand."""
    return postgres.database()


@pytest.fixture(scope="session")
def buckets() -> Iterator[Buckets]:
    """A service that speaks S3's protocol."""
    service = Buckets()
    yield service
    service.stop()


@pytest.fixture
def redis_url(valkey: RedisServer) -> str:
    """The address of an empty Valkey."""
    with BlockingRedis(port=valkey.port) as client:
        client.flushdb()
    return valkey.url


@pytest.fixture
def redis_environment(redis_url: str) -> dict[str, str]:
    """The variables that lead to an empty Redis: a Valkey, or `every_redis` where a module says so."""
    return {"REDIS_URL": redis_url}


@pytest.fixture
def settings(redis_environment: dict[str, str], tmp_path: Path) -> Settings:
    """Settings of a service of its own, on the empty Redis."""
    return load({**redis_environment, "ASSET_STORAGE_DIR": str(tmp_path / "assets"), "BACKEND_PORT": "0"})


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    """A client of the empty Redis."""
    client = connect(settings)
    yield client
    await client.aclose()
