import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from gateway.handling.uploads import MAX_FIELD_BYTES, MAX_FIELDS, WRITE_BYTES, Form, TooManyFields, read_form
from gateway.store.asset_store import AssetStore
from shared.errors import BadParameters, FileTooLarge, InvalidParameters
from shared.redis.connection import connect
from shared.settings import load

BOUNDARY = "xYzZY"
LIMIT = 4 * WRITE_BYTES


def part(name: str, value: bytes, *more: str, filename: str | None = None) -> bytes:
    """One part as browsers write it, with further header lines."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    head = "\r\n".join([f"--{BOUNDARY}", disposition, *more])
    return head.encode() + b"\r\n\r\n" + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def sent(pieces: Sequence[bytes], content_type: str, *, cut_off: bool = False) -> Request:
    """A request whose body arrives in these pieces."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    end = (
        {"type": "http.disconnect"} if cut_off else {"type": "http.request", "body": b"", "more_body": False}
    )
    coming = iter([*messages, end])

    async def receive() -> Any:
        return next(coming)

    headers = [(b"content-type", content_type.encode())]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
URLENCODED = "application/x-www-form-urlencoded"


async def read(
    pieces: Sequence[bytes], folder: Path, content_type: str = MULTIPART, *, cut_off: bool = False
) -> Form:
    settings = load({"ASSET_STORAGE_DIR": str(folder / "assets")})
    redis = connect(settings)
    store = AssetStore(redis, settings)
    try:
        return await read_form(sent(pieces, content_type, cut_off=cut_off), store, str(folder), LIMIT)
    finally:
        store.close()
        await redis.aclose()


def in_folder(call: Callable[[Path], Awaitable[None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:

        async def run() -> None:
            await call(Path(folder))

        asyncio.run(run())


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


NAMES = st.text("abcdefgh_é", min_size=1, max_size=8).filter(lambda name: name != "file")
VALUES = st.binary(max_size=60) | st.sampled_from(
    [b"", b"\r\n", b"--", b"\r\n--xYzZ", b"--xYzZY", b"\r\n-", b"-" * 50, "№ü".encode(), b"\xff\x00"]
)
BODIES = st.lists(st.tuples(NAMES, VALUES), max_size=5)


@given(BODIES, VALUES, st.lists(st.integers(0, 2000), max_size=12))
@example([("a", b"\r\n--xYzZ")], b"\r\n--xYzZ\r\n", list(range(400)))
def test_however_a_body_is_cut_into_pieces_the_form_is_the_same(
    fields: list[tuple[str, bytes]], content: bytes, cuts: list[int]
) -> None:
    body = form(
        *(part(name, value) for name, value in fields),
        part("file", content, "Content-Type: video/mp4", filename="a b-1.mp4"),
    )
    edges = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    pieces = [body[a:b] for a, b in pairwise(edges)]

    async def check(folder: Path) -> None:
        found = await read(pieces, folder)
        expected = {name: value.decode("utf-8", "replace") for name, value in fields}
        assert found.fields == {**expected, "file": "a b-1.mp4"}
        assert found.size == len(content)
        assert (folder / "a b-1.mp4").read_bytes() == content

    in_folder(check)


async def test_a_body_may_come_byte_by_byte(tmp_path: Path) -> None:
    body = form(part("purpose", b"vision"), part("file", b"\r\n--xYzZ\r\n--", filename="a.mp4"))
    found = await read([body[i : i + 1] for i in range(len(body))], tmp_path)
    assert found == Form({"purpose": "vision", "file": "a.mp4"}, 12, f"{tmp_path}/a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == b"\r\n--xYzZ\r\n--"


async def test_a_large_file_is_written_in_large_pieces(tmp_path: Path) -> None:
    content = bytes(range(256)) * (3 * WRITE_BYTES // 256) + b"end"
    body = form(part("file", content, filename="a.mp4"), part("after", b"1"))
    found = await read([body[i : i + 65_536] for i in range(0, len(body), 65_536)], tmp_path)
    assert found == Form({"file": "a.mp4", "after": "1"}, len(content), f"{tmp_path}/a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == content


@pytest.mark.parametrize(("size", "allowed"), [(LIMIT, True), (LIMIT + 1, False)])
async def test_a_file_may_be_as_large_as_the_limit(tmp_path: Path, size: int, allowed: bool) -> None:
    pieces = [form(part("file", b"x" * size, filename="a.mp4"))]
    if allowed:
        assert (await read(pieces, tmp_path)).size == LIMIT
    else:
        with pytest.raises(FileTooLarge, match=str(LIMIT)):
            await read(pieces, tmp_path)


async def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    found = await read([form(part("file", b"", filename="a.mp4"))], tmp_path)
    assert found == Form({"file": "a.mp4"}, 0, f"{tmp_path}/a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == b""


@pytest.mark.parametrize("value", [b"", b"a.mp4", b"../../etc/passwd", b"/etc/passwd"])
@pytest.mark.parametrize("filename", [None, ""])
async def test_a_file_without_a_name_is_no_file(tmp_path: Path, value: bytes, filename: str | None) -> None:
    """Neither may the part's text pass for the name of a file that was uploaded."""
    with pytest.raises(InvalidParameters, match=r"\('body', 'file'\)"):
        await read([form(part("file", value, filename=filename))], tmp_path)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_text_cannot_rename_an_uploaded_file(tmp_path: Path, order: tuple[int, int]) -> None:
    parts = [part("file", b"data", filename="a.mp4"), part("file", b"/etc/passwd")]
    with pytest.raises(InvalidParameters, match=r"\('body', 'file'\)"):
        await read([form(*(parts[i] for i in order))], tmp_path)


async def test_a_second_file_is_refused(tmp_path: Path) -> None:
    parts = [part("file", b"1", filename="a.mp4"), part("file", b"2", filename="b.mp4")]
    with pytest.raises(BadParameters, match="only one file"):
        await read([form(*parts)], tmp_path)


@pytest.mark.parametrize(
    "name", ["../a.mp4", "a/b.mp4", "..", ".", "x" * 256, "a\\b.mp4", "a\tb", "a\x85b", "a\u2028b"]
)
async def test_a_name_that_is_not_allowed_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadParameters, match="file name"):
        await read([form(part("file", b"data", filename=name))], tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "kept_as"),
    [
        ("video (1).mp4", "video _1_.mp4"), ("it's.mp4", "it_s.mp4"), ("Фильм.mp4", "_____.mp4"),
        ("a b-c_d.MP4", "a b-c_d.MP4"), ("é" * 251 + ".mp4", "_" * 96 + ".mp4"), ("x" * 255, "x" * 100),
    ],
)  # fmt: skip
async def test_a_file_is_kept_under_a_safe_name(tmp_path: Path, name: str, kept_as: str) -> None:
    assert (await read([form(part("file", b"data", filename=name))], tmp_path)).fields == {"file": name}
    assert [path.name for path in files(tmp_path)] == [kept_as]


async def test_a_name_in_the_extended_form_of_headers(tmp_path: Path) -> None:
    named = part("file", b"data", filename="x").replace(
        b'filename="x"', b"filename*=UTF-8''%D0%A4%20%281%29.mp4"
    )
    assert (await read([form(named)], tmp_path)).fields == {"file": "Ф (1).mp4"}


async def test_a_file_under_another_name_is_a_field(tmp_path: Path) -> None:
    assert await read([form(part("poster", b"png", filename="p.png"))], tmp_path) == Form({"poster": "png"})


async def test_of_fields_with_one_name_the_last_counts(tmp_path: Path) -> None:
    assert (await read([form(part("a", b"1"), part("a", b"2"))], tmp_path)).fields == {"a": "2"}


async def test_the_fields_have_a_largest_size_together(tmp_path: Path) -> None:
    assert (await read([form(part("a", b"x" * MAX_FIELD_BYTES))], tmp_path)).fields["a"]
    with pytest.raises(
        InvalidParameters, match=rf"\('body', 'b'\): The fields are longer than {MAX_FIELD_BYTES}"
    ):
        await read([form(part("a", b"x" * MAX_FIELD_BYTES), part("b", b"x"))], tmp_path)


async def test_a_form_has_a_largest_number_of_fields(tmp_path: Path) -> None:
    fields = [part(f"f{i}", b"") for i in range(MAX_FIELDS + 1)]
    assert len((await read([form(*fields[:-1])], tmp_path)).fields) == MAX_FIELDS
    with pytest.raises(TooManyFields):
        await read([form(*fields)], tmp_path)


@pytest.mark.parametrize(
    "body",
    [b"", b"--", part("a", b"1"), form(part("a", b"1"))[:-6], part("file", b"data", filename="a.mp4")],
)
async def test_a_form_that_ends_in_the_middle(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(InvalidParameters, match="ends in the middle"):
        await read([body], tmp_path)


@pytest.mark.parametrize(
    "body",
    [b"no form at all", f"--{BOUNDARY}\r\nBad Header\r\n\r\n".encode(), part("a", b"1", "x" * 9000 + ": 1")],
)
async def test_what_is_no_form_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(InvalidParameters, match="cannot be read"):
        await read([body], tmp_path)


async def test_a_client_that_goes_leaves_a_closed_file(tmp_path: Path) -> None:
    with pytest.raises(ClientDisconnect):
        await read([part("file", b"x" * 100, filename="a.mp4")[:-20]], tmp_path, cut_off=True)


async def test_a_plain_form(tmp_path: Path) -> None:
    found = await read([b"purpose=vision&filename=%2Fdata", b"%2Fa+b.mp4&empty="], tmp_path, URLENCODED)
    assert found == Form({"purpose": "vision", "filename": "/data/a b.mp4"})


async def test_a_plain_form_holds_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameters, match=r"\('body', 'file'\)"):
        await read([b"purpose=vision&file=%2Fetc%2Fpasswd"], tmp_path, URLENCODED)


async def test_a_plain_form_has_a_largest_size(tmp_path: Path) -> None:
    with pytest.raises(FileTooLarge):
        await read([b"a=" + b"x" * MAX_FIELD_BYTES], tmp_path, URLENCODED)


@pytest.mark.parametrize(
    "content_type", ["application/json", "", "multipart/form-data", "text/plain; boundary=x"]
)
async def test_other_bodies_are_refused(tmp_path: Path, content_type: str) -> None:
    with pytest.raises(InvalidParameters, match="Send multipart/form-data"):
        await read([b"{}"], tmp_path, content_type)
