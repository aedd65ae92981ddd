"""What must not be reached, by requests to a running service."""

import http.client
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Stack
from tests.e2e.media import picture
from tests.support import RedisServer

FORM = {"purpose": "vision", "media_type": "video"}
SECRET = b"root:x:0:0:secret of the inner network"


@pytest.fixture(scope="module")
def service(valkey: RedisServer, tmp_path_factory: pytest.TempPathFactory, film: Path) -> Iterator[Stack]:
    """A running service whose clients may name files in one folder: a film, a text, a link to elsewhere."""
    folder = tmp_path_factory.mktemp("fences")
    allowed = folder / "allowed"
    allowed.mkdir()
    (allowed / "film.mp4").write_bytes(film.read_bytes())
    (allowed / "secret.txt").write_bytes(SECRET)
    picture(folder, (9, 8, 7)).rename(folder / "private.png")
    (allowed / "link.png").symlink_to(folder / "private.png")
    stack = Stack(folder, f"redis://127.0.0.1:{valkey.port}/3")
    stack.environment["FILE_URL_ALLOWED_DIRS"] = str(allowed)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def register(service: Stack, path: object, media_type: str = "image") -> Any:
    form = {"purpose": "vision", "media_type": media_type, "filename": str(path)}
    return service.client.post("/files", data=form)


def test_pictures_of_the_machine_cannot_be_registered(service: Stack) -> None:
    answers = [
        register(service, service.folder / "private.png"),
        register(service, service.folder / "none.png"),
        register(service, service.folder / "allowed" / "link.png"),
        register(service, service.folder / "allowed" / ".." / "private.png"),
        register(service, service.folder / "allowed" / "none.png"),
        register(service, "/etc/passwd"),
        register(service, "/dev/zero"),
        register(service, "/proc/self/environ"),
    ]
    told = {(a.status_code, a.json()["code"], a.json()["message"].partition(" is ")[2]) for a in answers}
    assert told == {(400, "InvalidParameters", "not an existing regular file")}


def test_a_film_in_a_listed_folder_can(service: Stack) -> None:
    answer = register(service, service.folder / "allowed" / "film.mp4", "video")
    assert answer.status_code == 200
    content = service.client.get(f"/files/{answer.json()['id']}/content")
    assert content.headers["content-type"] == "video/mp4"


@pytest.fixture
def inside(own_address: str) -> Iterator[str]:
    """A web server of a private network, on an address of this machine that is not its loopback."""

    class Inner(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(SECRET)))
            self.end_headers()
            self.wfile.write(SECRET)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((own_address, 0), Inner)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{own_address}:{server.server_port}/a.mp4"
    server.shutdown()
    thread.join()
    server.server_close()


def camera(service: Stack, url: str) -> Any:
    event = {"camera_id": str(uuid.uuid4()), "change": "camera_add", "camera_type": "file", "camera_url": url}
    return service.client.post(
        "/stream/add",
        json={"alert_type": "camera_status_change", "created_at": "2026-09-04T10:00:00Z", "source": "vios",
              "event": event},
    )  # fmt: skip


def test_a_page_of_the_inner_network_does_not_become_a_film(service: Stack, inside: str) -> None:
    answer = camera(service, inside)
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidFile")
    assert service.client.get("/files?purpose=vision").json()["data"] is not None
    assert not any(SECRET in Path(path).read_bytes() for path in service.stored())


def test_nor_does_a_text_of_a_listed_folder(service: Stack) -> None:
    answer = camera(service, f"file://{service.folder}/allowed/secret.txt")
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidFile")
    listed = service.client.get("/files?purpose=vision").json()["data"]
    assert "secret.txt" not in {file["filename"] for file in listed}


def test_what_is_being_fetched_cannot_be_read_before_it_is_opened(service: Stack, inside: str) -> None:
    """The id is the client's, so it could ask for the content while the file was waiting for a worker."""
    identity = str(uuid.uuid4())
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(service.client.get(f"/files/{identity}/content").content)

    reader = threading.Thread(target=read)
    reader.start()
    body = {"id": identity, "model": "null", "url": inside}
    answer = service.client.post("/generate_video_embeddings", json=body)
    done.set()
    reader.join()
    assert (answer.status_code, answer.json()["code"]) == (400, "FailedRequest")
    assert not any(SECRET in content for content in seen)


@pytest.mark.parametrize("name", ["x.html", "x.svg", "x.xhtml", "x.pdf", "x"])
def test_no_upload_becomes_a_page(service: Stack, film: Path, name: str) -> None:
    film_bytes = film.read_bytes() + b"<script>alert(1)</script>"
    answer = service.client.post("/files", data=FORM, files={"file": (name, film_bytes)})
    assert answer.status_code == 200
    headers = service.client.get(f"/files/{answer.json()['id']}/content").headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"].startswith("attachment")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"


def test_one_endless_header_keeps_nobody_waiting(service: Stack) -> None:
    """59 MiB of it once made /v1/live 16 s late."""
    sock = socket.create_connection(("127.0.0.1", service.port))
    sock.sendall(b"GET /v1/live HTTP/1.1\r\nHost: localhost\r\nX: ")
    sent = 0
    try:
        while sent < 60 << 20:
            sock.sendall(b"x" * 65_536)
            sent += 65_536
    except OSError:
        pass
    finally:
        sock.close()
    assert sent < 60 << 20
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", "/v1/live")
    assert connection.getresponse().status == 200
    connection.close()
    assert time.monotonic() - began < 5
