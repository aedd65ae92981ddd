"""Files fetched over HTTP: what is written, what is sent, what is refused, and what is left behind."""

import asyncio
import tracemalloc
from typing import Any

import pytest

from gateway.intake.http_source import HttpNetwork
from shared.errors import (
    DownloadFailed,
    FileTooLarge,
    InvalidParameters,
    RedirectNotAllowed,
)
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.intake.conftest import GOOD, OTHER, Fetch
from tests.gateway.outside import Names, Site, Wire, page, redirect

MEBI = 1 << 20


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
    with pytest.raises(DownloadFailed, match="redirects without a Location"):
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
