"""URLs fetched from real servers on this machine, whatever address they name."""

import dataclasses
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.intake.downloads import Downloaded, Downloads
from gateway.intake.http_source import HttpNetwork
from gateway.store.asset_store import AssetStore
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.outside import Names, Site, Wire, site

GOOD, OTHER = "good.example", "other.example"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(GOOD, OTHER).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def dns() -> Iterator[Names]:
    server = Names()
    yield server
    server.close()


@pytest.fixture
def names(dns: Names) -> Names:
    dns.tell(GOOD, ["203.0.113.10"])
    dns.tell(OTHER, ["203.0.113.11"])
    dns.questions.clear()
    return dns


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def http() -> AsyncIterator[Site]:
    async with site() as running:
        yield running


@pytest.fixture
async def https(server_tls: ssl.SSLContext) -> AsyncIterator[Site]:
    async with site(server_tls) as running:
        yield running


class Fetch:
    """Fetches a URL by the given settings, into a folder that is as fresh as an upload's."""

    def __init__(self, settings: Settings, redis: Redis, network: HttpNetwork) -> None:
        self._settings, self._redis, self._network = settings, redis, network

    async def __call__(self, url: str, headers: dict[str, str] | None = None, **settings: Any) -> bytes:
        """The bytes that were written."""
        return (await self.file(url, headers=headers, **settings))[1]

    async def file(
        self, url: str, *, headers: Any = None, media_type: Any = "video", **settings: Any
    ) -> tuple[Downloaded, bytes]:
        """The file and its bytes."""
        changed = dataclasses.replace(self._settings, **settings)
        store = AssetStore(self._redis, changed)
        try:
            async with store.incoming() as folder:
                downloads = Downloads(changed, store, self._network)
                source = await downloads.locate(url)
                fetched = await downloads.fetch(source, folder, headers=headers, media_type=media_type)
                return fetched, await store.in_thread(Path(fetched.path).read_bytes)
        finally:
            store.close()
            assert not list((changed.asset_dir / ".incoming").iterdir())


@pytest.fixture
def fetch(settings: Settings, redis: Redis, names: Names, wire: Wire, client_tls: ssl.SSLContext) -> Fetch:
    return Fetch(settings, redis, HttpNetwork(names.lookup, wire, client_tls))
