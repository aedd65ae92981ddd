"""URLs fetched from real servers: what is written, what is sent, what is refused, and what is left behind."""

import asyncio
import base64
import dataclasses
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from gateway.intake import data_source
from gateway.intake.downloads import Downloaded, Downloads, Location
from gateway.intake.http_source import HttpNetwork
from gateway.store.asset_store import AssetStore
from shared.errors import (
    DownloadFailed,
    FileTooLarge,
    Forbidden,
    InvalidDataUrl,
    InvalidParameters,
    InvalidReference,
    MissingFile,
    RedirectNotAllowed,
    RtEmbedError,
)
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.outside import Names, Site, Wire, page, redirect, site

GOOD, OTHER = "good.example", "other.example"
MEBI = 1 << 20


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


# http and https ---------------------------------------------------------------------------------------


async def test_a_file_is_fetched(fetch: Fetch, http: Site, wire: Wire, names: Names) -> None:
    http.pages["/films/a.mp4?x=1"] = page(b"video")
    assert await fetch(f"http://{GOOD}:{http.port}/films/a.mp4?x=1") == b"video"
    ((path, headers),) = http.requests
    assert path == "/films/a.mp4?x=1"
    assert headers == {
        "Host": f"{GOOD}:{http.port}",
        "User-Agent": "NVIDIA-RTVI/1.0",
        "Accept-Encoding": "identity",
    }
    assert wire.connected == ["203.0.113.10"]
    assert names.questions == [GOOD]


async def test_a_file_is_fetched_over_tls(fetch: Fetch, https: Site) -> None:
    https.pages["/a.mp4"] = page(b"video")
    assert await fetch(f"https://{GOOD}:{https.port}/a.mp4") == b"video"


async def test_the_certificate_must_name_the_host_and_not_the_address(
    fetch: Fetch, https: Site, names: Names
) -> None:
    https.pages["/a.mp4"] = page(b"video")
    names.tell("third.example", ["203.0.113.10"])
    with pytest.raises(DownloadFailed):
        await fetch(f"https://third.example:{https.port}/a.mp4")
    assert not https.requests


async def test_the_certificate_must_be_trusted(
    settings: Settings, redis: Redis, names: Names, wire: Wire, https: Site
) -> None:
    https.pages["/a.mp4"] = page(b"video")
    stranger = Fetch(settings, redis, HttpNetwork(names.lookup, wire))
    url = f"https://{GOOD}:{https.port}/a.mp4"
    with pytest.raises(DownloadFailed):
        await stranger(url)
    with pytest.raises(DownloadFailed):
        await stranger(url, download_unverified_hosts=("example", OTHER))
    assert await stranger(url, download_unverified_hosts=("Good.Example",)) == b"video"


@pytest.mark.parametrize(
    ("path", "filename"),
    [
        ("/a.mp4", "a.mp4"),
        ("/deep/My-film_2.final.MOV", "My-film_2.final.MOV"),
        ("/a.jpeg?name=b.mp4", "a.jpeg"),
        ("/a.webm", "a.webm"),
        ("/a.mkv", "input_file.mp4"),
        ("/a", "input_file.mp4"),
        ("/", "input_file.mp4"),
        ("/.mp4", "input_file.mp4"),
        ("/a%20b.mp4", "input_file.mp4"),
        ("/" + "a" * 300 + ".mp4", "input_file.mp4"),
    ],
)
async def test_the_file_is_named_after_the_url(fetch: Fetch, http: Site, path: str, filename: str) -> None:
    http.pages[path] = page(b"video")
    fetched, _ = await fetch.file(f"http://{GOOD}:{http.port}{path}")
    assert fetched.filename == filename
    assert (fetched.size, fetched.ours) == (5, True)


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 500, 503])
async def test_any_other_status_fails(fetch: Fetch, http: Site, status: int) -> None:
    http.pages["/a.mp4"] = page(status=status)
    with pytest.raises(DownloadFailed, match=f"answered with status {status}"):
        await fetch(f"http://{GOOD}:{http.port}/a.mp4")


async def test_an_encoded_answer_fails(fetch: Fetch, http: Site) -> None:
    http.pages["/a.mp4"] = page(b"x", Content_Encoding="gzip")
    with pytest.raises(DownloadFailed, match="encoding"):
        await fetch(f"http://{GOOD}:{http.port}/a.mp4")


async def test_a_host_that_hangs_up_fails(fetch: Fetch, http: Site) -> None:
    http.pages["/cut"] = page(b"x" * 10, Content_Length="20")
    http.pages["/silent"] = b""
    http.pages["/garbage"] = b"SSH-2.0-OpenSSH\r\n\r\n"
    for path in ("/cut", "/silent", "/garbage"):
        with pytest.raises(DownloadFailed, match="could not be fetched"):
            await fetch(f"http://{GOOD}:{http.port}{path}")


async def test_a_host_that_cannot_be_reached_fails(fetch: Fetch, http: Site, wire: Wire) -> None:
    wire.dead = {"203.0.113.10"}
    with pytest.raises(DownloadFailed, match="could not be fetched"):
        await fetch(f"http://{GOOD}:{http.port}/a.mp4")


async def test_a_name_server_that_is_silent(settings: Settings, redis: Redis, wire: Wire) -> None:
    async def silent(_host: str, _port: int) -> list[str]:
        await asyncio.sleep(3600)
        return []

    fetch = Fetch(settings, redis, HttpNetwork(silent, wire))
    with pytest.raises(InvalidParameters, match="does not resolve in time"):
        await fetch(f"http://{GOOD}/a.mp4", download_connect_timeout=1)


async def test_the_next_address_is_tried(fetch: Fetch, http: Site, wire: Wire, names: Names) -> None:
    names.tell(GOOD, ["203.0.113.10", "203.0.113.11"])
    wire.dead = {"203.0.113.10"}
    http.pages["/a.mp4"] = page(b"video")
    assert await fetch(f"http://{GOOD}:{http.port}/a.mp4") == b"video"
    assert wire.connected == ["203.0.113.10", "203.0.113.11"]


async def test_a_host_that_dawdles_fails(fetch: Fetch, http: Site) -> None:
    async def dawdle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.1)

    http.pages["/a.mp4"] = dawdle
    with pytest.raises(DownloadFailed, match="was not fetched within 1 s"):
        await fetch(f"http://{GOOD}:{http.port}/a.mp4", download_timeout=1)
    await asyncio.wait_for(http.closed.wait(), 10)


async def test_a_cancelled_fetch_hangs_up_and_leaves_nothing(fetch: Fetch, http: Site) -> None:
    begun = asyncio.Event()

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * MEBI)
            await writer.drain()
            begun.set()

    http.pages["/a.mp4"] = endless
    fetching = asyncio.create_task(fetch(f"http://{GOOD}:{http.port}/a.mp4"))
    await begun.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await asyncio.wait_for(http.closed.wait(), 10)


async def test_a_large_file_goes_through_little_memory(fetch: Fetch, http: Site) -> None:
    async def large(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(96):
            writer.write(bytes(MEBI))
            await writer.drain()

    http.pages["/a.mp4"] = large
    tracemalloc.start()
    try:
        with pytest.raises(FileTooLarge):
            await fetch(f"http://{GOOD}:{http.port}/a.mp4", download_limit_gb=95 / 1024)
        assert tracemalloc.get_traced_memory()[1] < 16 * MEBI
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("declared", ["", "1025"])
async def test_a_file_beyond_the_limit_is_refused(fetch: Fetch, http: Site, declared: str) -> None:
    limit: dict[str, Any] = {"download_limit_gb": 1024 / (1 << 30)}
    http.pages["/full"] = page(bytes(1024))
    http.pages["/over"] = page(bytes(1025), Content_Length=declared)
    assert len(await fetch(f"http://{GOOD}:{http.port}/full", **limit)) == 1024
    with pytest.raises(FileTooLarge):
        await fetch(f"http://{GOOD}:{http.port}/over", **limit)


# Redirects --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_refused_by_default(fetch: Fetch, http: Site, names: Names, status: int) -> None:
    http.pages["/a.mp4"] = redirect("http://unknown.example/b.mp4", status)
    with pytest.raises(RedirectNotAllowed):
        await fetch(f"http://{GOOD}:{http.port}/a.mp4")
    assert names.questions == [GOOD]


@pytest.mark.parametrize("location", ["/b.mp4", "b.mp4", "../b.mp4", "//{}:{}/b.mp4", "http://{}:{}/b.mp4"])
async def test_a_redirect_is_followed(fetch: Fetch, http: Site, location: str) -> None:
    http.pages["/x/a.mp4"] = redirect(location.format(OTHER, http.port))
    http.pages["/b.mp4"] = http.pages["/x/b.mp4"] = page(b"video")
    url = f"http://{GOOD}:{http.port}/x/a.mp4"
    assert await fetch(url, download_redirects=1) == b"video"


async def test_redirects_are_followed_up_to_the_limit(fetch: Fetch, http: Site) -> None:
    for hop in range(3):
        http.pages[f"/{hop}"] = redirect(f"/{hop + 1}")
    http.pages["/3"] = page(b"video")
    url = f"http://{GOOD}:{http.port}/0"
    assert await fetch(url, download_redirects=3) == b"video"
    with pytest.raises(RedirectNotAllowed):
        await fetch(url, download_redirects=2)


async def test_a_redirect_to_itself_ends(fetch: Fetch, http: Site) -> None:
    http.pages["/a"] = redirect("/a")
    with pytest.raises(RedirectNotAllowed):
        await fetch(f"http://{GOOD}:{http.port}/a", download_redirects=10)
    assert len(http.requests) == 11


async def test_a_redirect_must_say_where(fetch: Fetch, http: Site) -> None:
    http.pages["/a"] = page(status=302)
    with pytest.raises(DownloadFailed, match="redirects nowhere"):
        await fetch(f"http://{GOOD}:{http.port}/a", download_redirects=1)


async def test_a_redirect_may_have_any_characters(fetch: Fetch, http: Site) -> None:
    http.pages["/a"] = redirect("/caf\u00e9 [1].mp4?q=\u00fc&r=%20".encode().decode("latin-1"))
    http.pages["/caf%C3%A9%20[1].mp4?q=%C3%BC&r=%20"] = page(b"video")
    assert await fetch(f"http://{GOOD}:{http.port}/a", download_redirects=1) == b"video"


INSIDE = [
    "http://127.0.0.1:{}/secret",
    "http://127.1:{}/secret",
    "http://0x7f000001:{}/secret",
    "http://2130706433:{}/secret",
    "http://0177.0.0.1:{}/secret",
    "http://0:{}/secret",
    "http://[::1]:{}/secret",
    "http://[::ffff:127.0.0.1]:{}/secret",
    "http://[::ffff:7f00:1]:{}/secret",
    "http://[64:ff9b::7f00:1]:{}/secret",
    "http://[2002:7f00:1::]:{}/secret",
    "http://[fe80::1%25eth0]:{}/secret",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://localhost:{}/secret",
    "http://LOCALHOST:{}/secret",
    "http://good.example@127.0.0.1:{}/secret",
    "http://good.example:80@127.0.0.1:{}/secret",
    "http://127.0.0.1:{}#@good.example/secret",
    "//127.0.0.1:{}/secret",
    "http://inside.example:{}/secret",
    "http://mixed.example:{}/secret",
    "https://inside.example:{}/secret",
    "http://[::1/secret",
    "http://good.example:99999/secret",
    "file:///etc/passwd",
    "ftp://good.example/secret",
    "gopher://127.0.0.1:{}/_secret",
    "data:text/plain,secret",
    "s3://bucket/secret",
    "unix:///run/docker.sock",
]


@pytest.mark.parametrize("location", INSIDE)
async def test_a_redirect_cannot_lead_inside(
    fetch: Fetch, http: Site, names: Names, wire: Wire, location: str
) -> None:
    names.tell("inside.example", ["127.0.0.1"])
    names.tell("mixed.example", ["203.0.113.10", "10.0.0.1", "::1"])
    http.pages["/a.mp4"] = redirect(location.format(http.port))
    http.pages["/secret"] = page(b"secret")
    with pytest.raises((InvalidParameters, DownloadFailed)) as refused:
        await fetch(f"http://{GOOD}:{http.port}/a.mp4", download_redirects=5)
    assert wire.connected == ["203.0.113.10"]
    assert [path for path, _ in http.requests] == ["/a.mp4"]
    assert refused.value.status in {422, 502}


@pytest.mark.parametrize(
    "url",
    [url for url in INSIDE if url.startswith("http:")]
    + [
        "http:///secret",
        "http:\\\\127.0.0.1:{}/secret",
        "http:/127.0.0.1:{}/secret",
        "HTTP://127.0.0.1:{}/secret",
    ],
)
async def test_a_url_cannot_lead_inside(fetch: Fetch, http: Site, names: Names, wire: Wire, url: str) -> None:
    names.tell("inside.example", ["127.0.0.1"])
    names.tell("mixed.example", ["203.0.113.10", "10.0.0.1", "::1"])
    with pytest.raises(InvalidParameters, match=r"^\('body', 'url'\): "):
        await fetch(url.format(http.port))
    assert not wire.connected


async def test_a_name_that_changes_its_mind_gains_nothing(
    fetch: Fetch, http: Site, names: Names, wire: Wire
) -> None:
    """DNS rebinding: the address that was judged is the address that is connected to."""
    names.tell(GOOD, ["203.0.113.10"], ["127.0.0.1"])
    http.pages["/a.mp4"] = page(b"video")
    assert await fetch(f"http://{GOOD}:{http.port}/a.mp4") == b"video"
    assert names.questions == [GOOD]
    assert wire.connected == ["203.0.113.10"]


async def test_a_name_that_changes_its_mind_at_a_redirect_is_refused(
    fetch: Fetch, http: Site, names: Names, wire: Wire
) -> None:
    names.tell(GOOD, ["203.0.113.10"], ["127.0.0.1"])
    http.pages["/a.mp4"] = redirect("/secret")
    http.pages["/secret"] = page(b"secret")
    with pytest.raises(InvalidParameters, match="has an address that is not allowed"):
        await fetch(f"http://{GOOD}:{http.port}/a.mp4", download_redirects=1)
    assert wire.connected == ["203.0.113.10"]


async def test_private_networks_are_refused_on_demand(
    fetch: Fetch, http: Site, names: Names, wire: Wire
) -> None:
    with pytest.raises(InvalidParameters):
        await fetch(f"http://{GOOD}:{http.port}/a.mp4", block_private_networks=True)
    assert not wire.connected
    names.tell("global.example", ["93.184.216.34"])
    http.pages["/a.mp4"] = page(b"video")
    url = f"http://global.example:{http.port}/a.mp4"
    assert await fetch(url, block_private_networks=True) == b"video"


async def test_a_proxy_of_the_environment_is_not_used(
    fetch: Fetch, http: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    http.pages["/a.mp4"] = page(b"video")
    assert await fetch(f"http://{GOOD}:{http.port}/a.mp4") == b"video"


# Credentials ------------------------------------------------------------------------------------------

OURS = {"Host", "User-Agent", "Accept-Encoding"}
TOKENS: dict[str, Any] = {
    "download_tokens": ((GOOD, "Bearer good"), (OTHER, "Bearer other"), (GOOD, "Bearer late"))
}


def sent(request: tuple[str, dict[str, str]]) -> dict[str, str]:
    """The headers of a request beyond those that every request has."""
    return {name: value for name, value in request[1].items() if name not in OURS}


async def test_only_known_headers_pass(fetch: Fetch, https: Site) -> None:
    https.pages["/a.mp4"] = page(b"video")
    given = {
        "Authorization": "Bearer client", "X-API-Key": "k", "x-jfrog-art-api": "j", "COOKIE": "a=b",
        "Accept": "video/*", "Accept-Language": "de", "User-Agent": "curl", "Host": "inside",
        "Range": "bytes=0-", "X-Forwarded-For": "127.0.0.1", "Metadata-Flavor": "Google",
    }  # fmt: skip
    await fetch(f"https://{GOOD}:{https.port}/a.mp4", given, **TOKENS)
    assert sent(https.requests[0]) == {
        "authorization": "Bearer client", "x-api-key": "k", "x-jfrog-art-api": "j", "cookie": "a=b",
        "accept": "video/*", "accept-language": "de",
    }  # fmt: skip
    assert https.requests[0][1]["User-Agent"] == "NVIDIA-RTVI/1.0"


async def test_a_token_is_sent_to_its_host(fetch: Fetch, https: Site) -> None:
    https.pages["/a.mp4"] = page(b"video")
    await fetch(f"https://{GOOD}:{https.port}/a.mp4", **TOKENS)
    await fetch(f"https://{GOOD}:{https.port}/a.mp4", {}, **TOKENS)
    await fetch(f"https://{GOOD}:{https.port}/a.mp4", download_tokens=(("example", "Bearer no"),))
    assert [sent(request) for request in https.requests] == [
        {"Authorization": "Bearer good"},
        {"Authorization": "Bearer good"},
        {},
    ]


async def test_headers_of_the_client_replace_the_token_even_when_none_passes(
    fetch: Fetch, https: Site
) -> None:
    https.pages["/a.mp4"] = page(b"video")
    await fetch(f"https://{GOOD}:{https.port}/a.mp4", {"X-Other": "1"}, **TOKENS)
    assert sent(https.requests[0]) == {}


async def test_no_credentials_are_sent_in_the_clear(fetch: Fetch, http: Site, https: Site) -> None:
    http.pages["/a.mp4"] = page(b"video")
    https.pages["/down"] = redirect(f"http://{GOOD}:{http.port}/a.mp4")
    await fetch(f"http://{GOOD}:{http.port}/a.mp4", {"Authorization": "Bearer client"}, **TOKENS)
    url = f"https://{GOOD}:{https.port}/down"
    await fetch(url, {"Authorization": "Bearer client"}, download_redirects=1, **TOKENS)
    assert sent(https.requests[0]) == {"authorization": "Bearer client"}
    assert [sent(request) for request in http.requests] == [{}, {}]


async def test_another_host_gets_its_own_token_only(fetch: Fetch, https: Site) -> None:
    https.pages["/away"] = redirect(f"https://{OTHER}:{https.port}/back")
    https.pages["/back"] = redirect(f"https://{GOOD}:{https.port}/a.mp4")
    https.pages["/a.mp4"] = page(b"video")
    url = f"https://{GOOD}:{https.port}/away"
    await fetch(url, {"Authorization": "Bearer client"}, download_redirects=2, **TOKENS)
    assert [sent(request) for request in https.requests] == [
        {"authorization": "Bearer client"},
        {"Authorization": "Bearer other"},
        {"authorization": "Bearer client"},
    ]


@pytest.mark.parametrize("value", ["a\x00b", "a\x7fb", "caf\u00e9", "\u4e2d"])
async def test_a_header_that_cannot_be_sent_is_refused(fetch: Fetch, https: Site, value: str) -> None:
    with pytest.raises(InvalidParameters, match=r"^\('body', 'url_headers', 'cookie'\): ") as refused:
        await fetch(f"https://{GOOD}:{https.port}/a.mp4", {"Cookie": value})
    assert value not in refused.value.message
    assert not https.requests


async def test_a_message_does_not_repeat_the_query(fetch: Fetch, http: Site) -> None:
    http.pages["/a.mp4?signature=s3cret"] = page(status=403)
    with pytest.raises(DownloadFailed) as refused:
        await fetch(f"http://{GOOD}:{http.port}/a.mp4?signature=s3cret")
    assert "s3cret" not in refused.value.message


# data: ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("data:video/mp4;base64,aGVsbG8=", b"hello"),
        ("data:video/mp4;base64,aGVsbG8", b"hello"),
        ("data:video/mp4;base64,aGVsbA==", b"hell"),
        ("data:video/mp4;base64,aGVsbA=", b"hell"),
        ("data:video/mp4;base64,aGVsbA", b"hell"),
        ("data:video/mp4;base64,", b""),
        ("data:video/mp4;a=b;base64,+/+/", b"\xfb\xff\xbf"),
        ("data:video/mp4,a%00b%ff%41", b"a\x00b\xffA"),
        ("data:video/mp4,100%25,%zz%", b"100%,%zz%"),
        ("data:video/mp4,", b""),
    ],
)
async def test_a_data_url_is_decoded(fetch: Fetch, url: str, expected: bytes) -> None:
    assert await fetch(url) == expected


@pytest.mark.parametrize(
    "payload", ["a", "aGVsbG8aa", "aGVs=bG8", "=", "====", "aGVsbA===", "aGVsbG8=aGVs", "a==="]
)
async def test_a_bad_payload_is_refused(fetch: Fetch, payload: str) -> None:
    with pytest.raises(InvalidDataUrl):
        await fetch(f"data:video/mp4;base64,{payload}")


@pytest.mark.parametrize(
    ("kind", "media_type", "filename"),
    [
        ("video/mp4", "video", "base64_media.mp4"),
        ("video/quicktime", "video", "base64_media.mov"),
        ("video/mov", "video", "base64_media.mov"),
        ("video/x-msvideo", "video", "base64_media.avi"),
        ("video/avi", "video", "base64_media.avi"),
        ("video/webm", "video", "base64_media.webm"),
        ("video/mkv", "video", "base64_media.mkv"),
        ("video/x-matroska", "video", "base64_media.mkv"),
        ("image/jpeg", "image", "base64_media.jpg"),
        ("image/jpg", "image", "base64_media.jpg"),
        ("IMAGE/PNG", "image", "base64_media.png"),
        ("image/gif", "image", "base64_media.gif"),
        ("image/webp", "image", "base64_media.webp"),
        ("image/bmp", "image", "base64_media.jpg"),
        ("application/octet-stream", "video", "base64_media.mp4"),
    ],
)
async def test_a_data_url_names_its_file(fetch: Fetch, kind: str, media_type: str, filename: str) -> None:
    fetched, _ = await fetch.file(f"data:{kind};base64,AAAA", media_type=media_type)
    assert fetched.filename == filename


@pytest.mark.parametrize("form", ["base64", "percent"])
async def test_a_data_url_beyond_the_limit_is_refused(fetch: Fetch, form: str) -> None:
    def url(size: int) -> str:
        payload = base64.b64encode(bytes(size)).decode() if form == "base64" else "a" * size
        return f"data:video/mp4{';base64' if form == 'base64' else ''},{payload}"

    limit: dict[str, Any] = {"download_limit_gb": 1024 / (1 << 30)}
    assert len(await fetch(url(1024), **limit)) == 1024
    with pytest.raises(FileTooLarge):
        await fetch(url(1025), **limit)


async def decoded(url: str) -> bytes:
    written = bytearray()

    async def write(piece: bytes) -> None:
        written.extend(piece)

    await data_source.copy(url, 1 << 40, write)
    return bytes(written)


@given(st.binary(max_size=200), st.integers(1, 8), st.booleans())
async def test_any_bytes_survive_whatever_the_pieces(content: bytes, quads: int, padded: bool) -> None:
    text = base64.b64encode(content).decode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_source, "PIECE", 4 * quads)
        assert await decoded(f"data:a/b;base64,{text if padded else text.rstrip('=')}") == content
        assert await decoded(f"data:a/b,{quote(content)}") == content


# file: ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Allowed: `allowed`, which holds a film, a folder, and links in and out."""
    allowed = tmp_path / "allowed"
    (allowed / "deep").mkdir(parents=True)
    (allowed / "deep" / "a b.mp4").write_bytes(b"video")
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "secret").write_bytes(b"secret")
    (allowed / "out").symlink_to(tmp_path / "allowed-not" / "secret")
    (allowed / "away").symlink_to(tmp_path / "allowed-not")
    (allowed / "in").symlink_to(allowed / "deep" / "a b.mp4")
    return allowed


@pytest.mark.parametrize("name", ["deep/a b.mp4", "in", "deep/../deep/a b.mp4"])
async def test_a_file_in_an_allowed_folder_is_used_where_it_is(fetch: Fetch, folder: Path, name: str) -> None:
    fetched, content = await fetch.file(f"file://{folder}/{name}", file_url_dirs=(str(folder),))
    assert fetched == Downloaded(str(folder / "deep" / "a b.mp4"), "a b.mp4", 5, ours=False)
    assert content == b"video"


async def test_the_allowed_folder_may_be_a_link(fetch: Fetch, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    url = f"file://{tmp_path}/link/deep/a b.mp4"
    assert await fetch(url, file_url_dirs=("/nowhere", str(tmp_path / "link"))) == b"video"


@pytest.mark.parametrize(
    "name", ["out", "away/secret", "../allowed-not/secret", "deep/../../allowed-not/secret", "../missing"]
)
async def test_a_file_outside_is_forbidden(fetch: Fetch, folder: Path, name: str) -> None:
    with pytest.raises(Forbidden):
        await fetch(f"file://{folder}/{name}", file_url_dirs=(str(folder),))


async def test_files_are_forbidden_by_default(fetch: Fetch, folder: Path) -> None:
    with pytest.raises(Forbidden):
        await fetch(f"file://{folder}/deep/a b.mp4")


async def test_a_relative_file_is_forbidden(
    fetch: Fetch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(Forbidden):
        await fetch("file://in", file_url_dirs=(str(folder),))


@pytest.mark.parametrize("name", ["missing.mp4", "deep", ""])
async def test_a_file_that_is_none_is_missing(fetch: Fetch, folder: Path, name: str) -> None:
    with pytest.raises(MissingFile):
        await fetch(f"file://{folder}/{name}", file_url_dirs=(str(folder),))


# s3: --------------------------------------------------------------------------------------------------

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


async def test_only_http_is_resolved(settings: Settings, redis: Redis, names: Names, wire: Wire) -> None:
    store = AssetStore(redis, settings)
    downloads = Downloads(settings, store, HttpNetwork(names.lookup, wire))
    for url in ("file:///a", "data:a/b,", "s3://localhost/metadata"):
        assert await downloads.locate(url) == Location(url)
    store.close()
