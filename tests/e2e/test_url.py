"""Media named by a URL: embedded, and gone again when the request has ended, however it ended."""

import base64
import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from pillow_heif import from_pillow

from tests.buckets import Buckets
from tests.e2e.conftest import Stack
from tests.support import RedisServer, until

left = threading.Event()
"""Set when the service has hung up on the endless film."""


@pytest.fixture(scope="module", params=["folder", "bucket"])
def service(
    request: pytest.FixtureRequest,
    valkey: RedisServer,
    buckets: Buckets,
    tmp_path_factory: pytest.TempPathFactory,
    film: Path,
) -> Iterator[Stack]:
    """A running service that may read the film's folder."""
    bucket = buckets.make() if request.param == "bucket" else None
    stack = Stack(tmp_path_factory.mktemp("url"), f"redis://127.0.0.1:{valkey.port}/2", bucket)
    if bucket:
        stack.environment |= buckets.environment(bucket)
    stack.environment |= {"FILE_URL_ALLOWED_DIRS": str(film.parent), "ASSET_DOWNLOAD_MAX_REDIRECTS": "1"}
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def site(film: Path, own_address: str) -> Iterator[str]:
    """A web site with the film, on an address of this machine that is not its loopback."""

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(film.parent))

        def do_GET(self) -> None:
            if self.path != "/endless.mp4":
                super().do_GET()
                return
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                while True:
                    self.wfile.write(bytes(1 << 16))
                    time.sleep(0.01)
            left.set()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((own_address, 0), Files)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://{own_address}:{server.server_port}"
    server.shutdown()
    server.server_close()


def picture(folder: Path) -> str:
    Image.new("RGB", (64, 48), (200, 30, 30)).save(folder / "red.png")
    return "data:image/png;base64," + base64.b64encode((folder / "red.png").read_bytes()).decode()


def ask(service: Stack, **fields: Any) -> httpx.Response:
    return service.embed(**{"id": str(uuid.uuid4()), **fields})


def assets(service: Stack) -> list[str]:
    """What the asset store holds: files of assets and of arrivals."""
    return service.stored()


def size(path: Path) -> int:
    return path.stat().st_size


def listed(service: Stack) -> list[str]:
    return [file["id"] for file in service.client.get("/files?purpose=vision").json()["data"]]


async def test_a_film_from_a_site(service: Stack, site: str) -> None:
    answer = ask(service, url=f"{site}/film.mp4", chunk_duration=5, creation_time="2024-06-09T18:32:11.123Z")
    assert answer.status_code == 200, answer.text
    chunks = answer.json()["chunk_responses"]
    assert [chunk["start_time"] for chunk in chunks][:2] == [
        "2024-06-09T18:32:11.123Z",
        "2024-06-09T18:32:16.123Z",
    ]
    assert len(chunks) == 5
    await until(lambda: not listed(service) and not assets(service))


async def test_a_film_that_lies_on_the_server(service: Stack, film: Path) -> None:
    answer = ask(service, url=f"file://{film}", chunk_duration=5)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["chunk_responses"]) == 5
    await until(lambda: not listed(service))
    assert size(film)


@pytest.mark.parametrize("media_type", ["image", "video"])
async def test_a_phones_picture_is_read_whatever_it_is_called(
    service: Stack, tmp_path: Path, media_type: str
) -> None:
    buffer = BytesIO()
    from_pillow(Image.new("RGB", (256, 192), (200, 30, 30))).save(buffer, tile_size=128)
    url = f"data:{media_type}/heic;base64," + base64.b64encode(buffer.getvalue()).decode()
    answer = ask(service, url=url, media_type=media_type)
    assert answer.status_code == 200, answer.text
    (chunk,) = answer.json()["chunk_responses"]
    assert chunk["embeddings"][:3] == pytest.approx([200 / 255, 30 / 255, 30 / 255], abs=0.03)
    await until(lambda: not assets(service))


async def test_a_picture_inside_the_request(service: Stack, tmp_path: Path) -> None:
    answer = ask(service, url=picture(tmp_path), media_type="image")
    assert answer.status_code == 200, answer.text
    (chunk,) = answer.json()["chunk_responses"]
    assert (chunk["start_time"], chunk["end_time"]) == ("0.0", "0.0")
    await until(lambda: not listed(service) and not assets(service))


async def test_a_film_inside_the_request(service: Stack, film: Path) -> None:
    """Long enough to go to the store as it comes."""
    data = film.read_bytes()  # noqa: ASYNC240 - nothing else runs
    padded = data + (300_008).to_bytes(4, "big") + b"free" + bytes(300_000)
    answer = ask(service, url="data:video/mp4;base64," + base64.b64encode(padded).decode(), chunk_duration=5)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["chunk_responses"]) == 5
    await until(lambda: not listed(service) and not assets(service))


async def test_the_id_is_free_again(service: Stack, film: Path) -> None:
    identity = str(uuid.uuid4())
    for _ in range(2):
        assert ask(service, id=[identity], url=f"file://{film}").status_code == 200


async def test_events(service: Stack, film: Path) -> None:
    body = {
        "id": str(uuid.uuid4()),
        "model": "null",
        "url": f"file://{film}",
        "chunk_duration": 5,
        "stream": True,
    }
    with service.client.stream("POST", "/generate_video_embeddings", json=body) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    assert len([json.loads(line[6:])["chunk_responses"] for line in lines[:-1]]) == 5
    await until(lambda: not listed(service))


async def test_a_client_that_leaves_its_events(service: Stack, tmp_path: Path) -> None:
    body = {
        "id": str(uuid.uuid4()), "model": "null", "stream": True,
        "url": picture(tmp_path), "media_type": "image",
    }  # fmt: skip
    with service.client.stream("POST", "/generate_video_embeddings", json=body):
        pass
    await until(lambda: not listed(service) and not assets(service), timeout=30)


async def test_a_client_that_leaves_while_its_url_is_fetched(service: Stack, site: str) -> None:
    left.clear()
    with pytest.raises(httpx.ReadTimeout):
        service.client.post(
            "/generate_video_embeddings",
            json={"id": str(uuid.uuid4()), "model": "null", "url": f"{site}/endless.mp4"},
            timeout=0.5,
        )
    await until(left.is_set)
    await until(lambda: not assets(service))
    assert not listed(service)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"url": "ftp://a/b"}, 422, "InvalidParameters"),
        ({"url": "http://127.0.0.1:1/a.mp4"}, 422, "InvalidParameters"),
        ({"url": "http://localhost/a.mp4"}, 422, "InvalidParameters"),
        ({"url": "http://169.254.169.254/latest"}, 422, "InvalidParameters"),
        ({"url": "http://2130706433/a.mp4", "id": []}, 422, "InvalidParameters"),
        ({"url": "data:a/b,", "id": []}, 400, "BadParameters"),
        ({"url": "data:a/b,", "id": [str(uuid.uuid4()), str(uuid.uuid4())]}, 400, "BadParameters"),
        ({"url": "data:a/b,", "model": "other"}, 400, "BadParameters"),
        ({"url": "data:video/mp4;base64,AAA=A"}, 400, "InvalidDataUrl"),
        ({"url": "data:video/mp4;base64,AAAA"}, 400, "FailedRequest"),
        ({"url": "file:///etc/passwd"}, 403, "Forbidden"),
        ({"url": "s3://bucket/key"}, 400, "InvalidParameters"),
    ],
)
async def test_what_cannot_be_fetched_leaves_nothing(
    service: Stack, fields: dict[str, Any], status: int, code: str
) -> None:
    answer = ask(service, **fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert not assets(service)
    assert not listed(service)


async def test_a_missing_file(service: Stack, film: Path) -> None:
    answer = ask(service, url=f"file://{film.parent}/missing.mp4")
    assert (answer.status_code, answer.json()["code"]) == (400, "FileNotFound")


async def test_a_missing_page(service: Stack, site: str) -> None:
    answer = ask(service, url=f"{site}/missing.mp4")
    assert (answer.status_code, answer.json()["code"]) == (502, "DownloadFailed")
    assert not assets(service)


async def test_a_page_that_is_no_media(service: Stack, site: str, film: Path) -> None:
    (film.parent / "deep").mkdir(exist_ok=True)
    answer = ask(service, url=f"{site}/deep")  # to /deep/, which is a listing and no media
    assert (answer.status_code, answer.json()["code"]) == (400, "FailedRequest")
    assert not assets(service)


async def test_an_id_in_use(service: Stack, film: Path) -> None:
    identity = service.upload(film)
    answer = ask(service, id=identity, url=f"file://{film}")
    assert (answer.status_code, answer.json()["code"]) == (400, "AssetAlreadyExists")
    assert listed(service) == [identity]
    assert service.client.delete(f"/files/{identity}").status_code == 200
