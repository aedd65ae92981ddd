"""data: URLs."""

import base64
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.intake import data_source
from shared.errors import (
    FileTooLarge,
    InvalidDataUrl,
)
from tests.gateway.intake.conftest import Fetch


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
