"""Long data: URLs leave the body for the disk before it is parsed."""

import base64
import json
import random
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_from_bytes

import pytest

from gateway.context import Context
from gateway.handling.inline_media import THRESHOLD, read_video_request
from shared.errors import FileTooLarge, InvalidDataUrl, InvalidParameters, RtEmbedError
from shared.settings import Settings

HEADER = "data:video/mp4;base64,"
MEDIA = random.Random(7).randbytes(1_000_003)


@pytest.fixture
async def ctx(settings: Settings) -> AsyncIterator[Context]:
    limits = replace(settings, body_limit_bytes=2 * THRESHOLD, download_limit_gb=4e6 / (1 << 30))
    made = Context(limits)
    yield made
    made.assets.close()
    await made.redis.aclose()


async def read(ctx: Context, body: bytes, size: int = 65_536) -> tuple[Any, bytes | None]:
    """The request, and the payload that was taken out; the body comes in pieces of `size`."""

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    request: Any = SimpleNamespace(stream=stream, headers={"content-type": "application/json"})
    async with AsyncExitStack() as held:
        read, inline = await read_video_request(ctx, request, held)
        payload = await ctx.assets.in_thread(Path(inline.path).read_bytes) if inline else None
        assert inline is None or inline.size == len(payload or b"")
    assert not list((ctx.settings.asset_dir / ".incoming").glob("*"))
    return read, payload


def body(url: str, **fields: Any) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "model": 'a "model" \\', "url": url, **fields}


@pytest.mark.parametrize("size", [1_000, 65_537, 10_000_000])
@pytest.mark.parametrize("padding", [b"", b"1", b"12"])
async def test_base64_is_decoded_as_it_comes(ctx: Context, size: int, padding: bytes) -> None:
    data = MEDIA + padding
    text = json.dumps(body(HEADER + base64.b64encode(data).decode(), media_type="video", stream=True))
    request, payload = await read(ctx, text.encode(), size)
    assert payload == data
    assert request.model == 'a "model" \\'
    assert request.url.startswith(HEADER)
    assert len(request.url) < 100
    assert (request.media_type, request.stream) == ("video", True)


async def test_padding_may_be_missing_and_slashes_escaped(ctx: Context) -> None:
    url = (HEADER + base64.b64encode(MEDIA).decode()).rstrip("=")
    _, payload = await read(ctx, json.dumps(body(url)).replace("/", "\\/").encode(), 10_001)
    assert payload == MEDIA


@pytest.mark.parametrize("size", [9_999, 65_536])
async def test_escapes_are_decoded_over_the_ends_of_pieces(ctx: Context, size: int) -> None:
    text = json.dumps(body("data:video/mp4," + quote_from_bytes(MEDIA, safe="")))
    _, payload = await read(ctx, text.encode(), size)
    assert payload == MEDIA


async def test_a_short_url_stays_where_it_is(ctx: Context) -> None:
    url = HEADER + base64.b64encode(MEDIA[:1000]).decode()
    request, payload = await read(ctx, json.dumps(body(url)).encode())
    assert (request.url, payload) == (url, None)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (json.dumps(body(HEADER + "A" * 1_000_000 + "!")), InvalidDataUrl),
        (json.dumps(body(HEADER + "A" * 999_997)), InvalidDataUrl),
        (json.dumps(body(HEADER + "A" * 500_000 + "=" + "A" * 2_000_000)), InvalidDataUrl),
        (json.dumps(body("data:video/mp4," + "a" * 600_000 + " ")), InvalidDataUrl),
        (json.dumps(body(HEADER + "A" * 500_000 + "\n")), InvalidParameters),
        (json.dumps(body("data:video;base64," + "A" * 1_000_000)), FileTooLarge),
        (json.dumps(body(HEADER + "A" * 8_000_000)), FileTooLarge),
        (json.dumps(body("https://a.org", model=HEADER + "A" * 500_000)), FileTooLarge),
        (json.dumps(body("https://a.org", model="x" * 1_000_000)), FileTooLarge),
        (json.dumps(body("https://a.org")) + " " * 1_000_000, FileTooLarge),
        (json.dumps(body(HEADER + "A" * 1_000_000))[:-30], InvalidParameters),
        (json.dumps(body(HEADER + "A" * 1_000_000, colour="red")), InvalidParameters),
    ],
    ids=["character", "length", "padding", "space", "escape", "header", "payload", "other field", "long",
         "blanks", "cut off", "unknown field"],
)  # fmt: skip
async def test_what_is_refused_leaves_nothing(ctx: Context, text: str, error: type[RtEmbedError]) -> None:
    with pytest.raises(error):
        await read(ctx, text.encode())
    assert not list((ctx.settings.asset_dir / ".incoming").glob("*"))


async def test_escapes_cost_no_more_than_other_letters(ctx: Context) -> None:
    """Half a megabyte of escaped quotes once took seconds of the event loop."""

    async def seconds(text: bytes) -> float:
        began = time.process_time()
        with pytest.raises((InvalidParameters, FileTooLarge)):
            await read(ctx, text)
        return time.process_time() - began

    plain, escaped = b"x" * 500_000, b'\\"' * 250_000
    for before, after in ((b'{"id":"', b'"}'), (b'{"url":"https://a.org","url_headers":{"a":"', b'"}}')):
        base = await seconds(before + plain + after)
        assert await seconds(before + escaped + after) < 20 * base + 0.3
        assert await seconds(before + b'\\"data:' * 70_000 + after) < 20 * base + 0.3
        assert await seconds(b'{"id":[' + b'"data:",' * 60_000 + b'""]}') < 20 * base + 0.2


async def test_a_text_that_looks_like_a_payload_stays_where_it_is(ctx: Context) -> None:
    text = '"data:video/mp4;base64,' + "A" * 300_000
    with pytest.raises(InvalidParameters, match="model") as caught:
        await read(ctx, json.dumps(body("https://a.org/x", model=text)).encode())
    assert "300023" in str(caught.value)
