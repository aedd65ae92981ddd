"""Objects of an S3 service."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from moto.server import ThreadedMotoServer

from shared.errors import (
    InvalidReference,
    RtEmbedError,
)
from tests.gateway.intake.conftest import Fetch
from tests.gateway.outside import page, site

KEYS: dict[str, Any] = {"s3_access_key": "key", "s3_secret_key": "secret"}
LARGE = bytes(range(256)) * (70 << 10)
"""More than two pieces."""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 service with some objects."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with httpx.Client(base_url=endpoint) as client:
        client.put("/films").raise_for_status()
        client.put("/films/deep/a (1).mp4", content=b"video").raise_for_status()
        client.put("/films/large", content=LARGE).raise_for_status()
        client.put("/films/empty", content=b"").raise_for_status()
    yield endpoint
    server.stop()


@pytest.mark.parametrize(("key", "content"), [("deep/a (1).mp4", b"video"), ("large", LARGE), ("empty", b"")])
async def test_an_object_is_fetched(fetch: Fetch, s3: str, key: str, content: bytes) -> None:
    fetched, found = await fetch.file(f"s3://films/{key}", s3_endpoint_url=s3, **KEYS)
    assert found == content
    assert fetched.filename == "input_file.mp4"


async def test_the_first_endpoint_wins(fetch: Fetch, s3: str) -> None:
    url = "s3://films/deep/a (1).mp4"
    assert await fetch(url, aws_endpoint_url_s3=s3, **KEYS) == b"video"
    dead = "http://127.0.0.1:1"
    assert await fetch(url, s3_endpoint_url=s3, aws_endpoint_url_s3=dead, **KEYS) == b"video"


@pytest.mark.parametrize("url", ["s3://films/missing", "s3://nowhere/a"])
async def test_an_object_that_is_missing_is_refused(fetch: Fetch, s3: str, url: str) -> None:
    with pytest.raises(InvalidReference, match="does not exist"):
        await fetch(url, s3_endpoint_url=s3, **KEYS)


@pytest.mark.parametrize("keys", [{}, {"s3_access_key": "key"}, {"s3_secret_key": "secret"}])
async def test_credentials_are_needed(fetch: Fetch, s3: str, keys: dict[str, Any]) -> None:
    with pytest.raises(InvalidReference, match="AWS_ACCESS_KEY_ID"):
        await fetch("s3://films/large", s3_endpoint_url=s3, **keys)


async def test_an_s3_service_that_refuses_is_an_internal_error(fetch: Fetch) -> None:
    async with site() as refusing:
        refusing.pages["/films/a"] = page(status=403)
        with pytest.raises(RtEmbedError, match="could not be read from S3") as failed:
            await fetch("s3://films/a", s3_endpoint_url=f"http://127.0.0.1:{refusing.port}", **KEYS)
    assert type(failed.value) is RtEmbedError
