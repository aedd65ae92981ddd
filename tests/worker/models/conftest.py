"""Hubs on localhost, spoken to by the real clients."""

import hashlib
import json
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

COMMIT = "5b3d0f0c2a1e4b6c8d9e0f1a2b3c4d5e6f708192"


@dataclass
class FakeHub:
    """What a fake hub serves, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """By path: after how many bytes of the body the connection breaks, attempt by attempt."""
    corrupt: set[str] = field(default_factory=set)
    listing_status: int = 200
    listing_code: str = ""
    listing_override: bytes = b""
    token: str = ""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def gets(self, path: str) -> list[str]:
        """(Range or "") of every GET of a file."""
        return [
            headers.get("range", "")
            for method, at, headers in self.requests
            if method == "GET" and at == path
        ]

    def listing(self) -> bytes:
        """What the hub says of the repository."""
        siblings = []
        for name, content in self.files.items():
            entry = {"rfilename": name, "size": len(content)}
            entry["blobId"] = git_digest(content)
            if is_large(name):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return json.dumps({"id": "x/y", "modelId": "x/y", "sha": COMMIT, "siblings": siblings}).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeHub

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def note(self) -> dict[str, str]:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.state.requests.append((self.command, urlsplit(self.path).path, headers))
        return headers

    def storage(self, name: str) -> str:
        """Where a large file is, on what is another host to the clients."""
        return f"http://localhost:{self.state.url.rpartition(':')[2]}/storage/{name}"

    def send_file(self, path: str, headers: dict[str, str]) -> None:
        content = self.state.files[path]
        if path in self.state.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        asked = headers.get("range", "").removeprefix("bytes=").partition("-")[0]
        start = int(asked or 0)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cuts = self.state.cut_after.get(path)
        if cuts:
            self.wfile.write(content[start : start + cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
        else:
            self.wfile.write(content[start:])


class HubHandler(Handler):
    """The routes that huggingface_hub uses: large files are redirected to a storage host."""

    def do_GET(self) -> None:  # noqa: PLR0911 - one return per route
        headers = self.note()
        path = urlsplit(self.path).path
        state = self.state
        if path.startswith("/storage/"):
            return self.send_file(path.removeprefix("/storage/"), headers)
        if state.token and headers.get("authorization") != f"Bearer {state.token}":
            return self.answer(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        if path.startswith("/api/models/"):
            if state.listing_status != 200:
                return self.answer(state.listing_status, b"{}", {"X-Error-Code": state.listing_code})
            return self.answer(
                200, state.listing_override or state.listing(), {"Content-Type": "application/json"}
            )
        name = path.split("/", 5)[5]
        if name not in state.files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = state.files[name]
        common = {"X-Repo-Commit": COMMIT}
        if is_large(name):
            common |= {
                "X-Linked-Size": str(len(content)),
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "Location": self.storage(name),
            }
            return self.answer(302, b"", common)
        etag = git_digest(content)
        if self.command == "HEAD":
            self.send_response(200)
            for key, value in {**common, "ETag": f'"{etag}"', "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            return None
        return self.answer(200, content, {**common, "ETag": f'"{etag}"'})

    do_HEAD = do_GET  # noqa: N815 - the server's own naming


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


class NgcHandler(Handler):
    """The routes of NGC's REST API, with the storage behind redirects to another host name."""

    def do_GET(self) -> None:  # noqa: PLR0911 - one return per route
        headers = self.note()
        parts = urlsplit(self.path)
        state = self.state
        if parts.path.startswith("/storage/"):
            return self.send_file(parts.path.removeprefix("/storage/"), headers)
        if parts.path == "/token":
            expected = "Basic " + b64encode(b"$oauthtoken:old-key").decode()
            if headers.get("authorization") != expected:
                return self.answer(401)
            return self.answer(200, json.dumps({"token": state.token}).encode())
        if state.token and headers.get("authorization") != f"Bearer {state.token}":
            return self.answer(401)
        if state.listing_status != 200:
            return self.answer(state.listing_status)
        _, _, name = parts.path.partition("/files/")
        if not name:
            return self.answer(200, self.listing(parse_qs(parts.query)))
        return self.answer(302, b"", {"Location": self.storage(name)})

    def listing(self, query: dict[str, list[str]]) -> bytes:
        names = sorted(self.state.files)
        page = int(query["page-number"][0])
        files = [
            {
                "path": name,
                "sizeInBytes": len(self.state.files[name]),
                "sha256_base64": b64encode(hashlib.sha256(self.state.files[name]).digest()).decode(),
            }
            for name in names[2 * page : 2 * page + 2]  # two a page, whatever was asked for
        ]
        pages = -(-len(names) // 2)
        return json.dumps({"modelFiles": files, "paginationInfo": {"totalPages": pages}}).encode()


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up in these tests."""


def serving(kind: type[Handler]) -> Iterator[FakeHub]:
    state = FakeHub()
    server = Server(("127.0.0.1", 0), type("Bound", (kind,), {"state": state}))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A fake Hugging Face hub."""
    yield from serving(HubHandler)


@pytest.fixture
def ngc() -> Iterator[FakeHub]:
    """A fake NGC."""
    yield from serving(NgcHandler)
