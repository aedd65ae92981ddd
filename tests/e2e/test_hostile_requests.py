"""Requests that nobody means well with, to every route: each is answered with a 4xx or served, at once.

No answer is a 5xx, the gateway grows by no more than its buffers, and it says that it lives all the while.
"""

import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from gateway.all_endpoints import ENDPOINTS
from gateway.api.endpoint import Endpoint
from tests.e2e.conftest import Stack
from tests.support import RedisServer

MOST_GROWTH = 256 << 20
LATEST = 3.0
"""Seconds for /v1/live on a machine that runs other tests, too; alone it is below 0.1."""
FORM = {"purpose": "vision", "media_type": "video", "id": "00000000-0000-4000-8000-000000000000"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"

VALUES = [
    "null", "true", "-1", "0", "1e400", "NaN", "1" * 5000, "-" + "9" * 20, "1.5", "[]", "{}", '""', '"a"',
    r'"\u0000"', r'"\ud800"', r'"\u001b[2J"', '"' + "x" * 100_000 + '"', '"' + r"\"" * 50_000 + '"',
    '"' + "a." * 50_000 + '"', "[" * 5_000 + "]" * 5_000, '{"a":' * 5_000 + "1" + "}" * 5_000,
    "[" + "[]," * 50_000 + "[]]", "[" + "1," * 200_000 + "1]", '"rtsp://a:b@[::1"', '"http://[", "x": "]"',
    '"rtsp://h/\\u0000"', '"file:///etc/passwd"', '"data:video/mp4;base64,' + "!" * 300_000 + '"',
    '"data:,' + "%" * 300_000 + '"', '"s3://' + "a." * 200 + '/"', "[null]", '["a", 1]', '{"": ""}',
    "{" + ",".join(f'"{number}": "a"' for number in range(4000)) + "}",
]  # fmt: skip
"""Instead of each field of a good body, as JSON."""
BODIES = [
    b"", b"null", b"{", b"[]", b'"x"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"\x00", b"[" * 300_000,
    b'{"a":' * 100_000, b"1" * 300_000, b'{"a":1' + b"1" * 5_000 + b"}", b'{"x":"' + b"\\\\" * 300_000,
    b'{"id":"' + b'\\"' * 300_000 + b'"}', b"{" + b'"a":1,' * 200_000 + b'"a":1}', b" " * 1_000_000,
    b"{}" * 1000, b'{"__proto__":1}', b'{"a":"\xed\xa0\x80"}', b"-", b"\x1f\x8b\x08\x00",
]  # fmt: skip
"""Instead of a good body."""
TEXTS = ["", "%00", "%ff%fe", "%ud800", "..%2f..%2fetc%2fpasswd", "a" * 5_000, "1" * 5_000, "%0d%0aX:%20y",
         "%1b%5b2J", "true&" * 500, "%22%27%3c", UNKNOWN, UNKNOWN.replace("-", "")]  # fmt: skip
"""Instead of parameters in the path and in the query, percent-encoded."""
HEADERS: list[dict[str, Any]] = [
    {"Range": "bytes=" + "1" * 5_000 + "-"},
    {"Range": "bytes=-" + "9" * 5_000},
    {"Range": "bytes=" + ",".join(f"{n}-{n}" for n in range(1_000))},
    {"Range": "bytes=5-1"},
    {"Range": "lines=1-2"},
    {"If-Range": "x" * 5_000, "Range": "bytes=0-1"},
    {"Last-Event-ID": "x" * 5_000},
    {"Last-Event-ID": f"{UNKNOWN}/{'9' * 19}-{'9' * 19}"},
    {"Prefer": ", ;" * 1_000 + "respond-async"},
    {"traceparent": "00-" + "f" * 32 + "-" + "g" * 16 + "-01"},
    {"X-Request-Id": "\x7f" * 500},
    {"X-Forwarded-For": "1.1.1.1," * 900},
    {"Authorization": b"Bearer \xff\xfe"},
    {"Cookie": "a=b; " * 1_000 + "c"},
    {"Accept": "*/*;q=" + "9" * 3_000},
    {"Content-Type": "application/json; charset=" + "x" * 3_000},
    {"Content-Encoding": "gzip"},
    {"Expect": "100-continue"},
]
DISPOSITION = b"Content-Disposition: form-data"
MULTIPART = [
    b"--x\r\n" + b"A: b\r\n" * 10_000,
    b"--x\r\nContent-Disposition: " + b"a" * 300_000,
    b"--x\r\n" + b"a" * 300_000 + b": b\r\n\r\n",
    b"--x\r\n" + DISPOSITION + b'; name="file"; filename="\x00"\r\n\r\n',
    b"--x\r\n" + DISPOSITION + b'; name="file"; filename=".."\r\n\r\na\r\n--x--\r\n',
    b"--x\r\n" + DISPOSITION + b'; name="\xff"\r\n\r\n\xff\r\n--x--\r\n',
    b"--x\r\n" + DISPOSITION + b"\r\n\r\na\r\n" * 1_500 + b"--x--\r\n",
    (b"--x\r\n" + DISPOSITION + b'; name="a"\r\n\r\na\r\n') * 1_500 + b"--x--\r\n",
    b"\r\n" * 100_000,
    b"--x" * 100_000,
]
URLENCODED = [
    b"filename=%00&purpose=vision&media_type=video",
    b"filename=/proc/self/mem&purpose=vision&media_type=video",
    b"a=1&" * 100_000,
    b"=" * 300_000,
    b"%" * 300_000,
]
FORMS = [
    ("multipart/form-data; boundary=" + "b" * 300, b"--" + b"b" * 300 + b"--\r\n"),
    ("multipart/form-data; boundary=" + "b" * 5000, b""),
    ("multipart/form-data; boundary=", b"----\r\n"),
    ("multipart/form-data; boundary*=utf-8''%ff", b"--x\r\n"),
    ("multipart/form-data", b"--x\r\n"),
    *(("multipart/form-data; boundary=x", body) for body in MULTIPART),
    *(("application/x-www-form-urlencoded", body) for body in URLENCODED),
    ("application/json", b"{}"),
    ("", b"{}"),
]


class Watch:
    """How late /v1/live was at worst, asked all the time, and how large the gateway has become."""

    def __init__(self, service: Stack) -> None:
        assert service.gateway
        self._url = f"{service.url}/v1/live"
        self._family = [psutil.Process(service.gateway.pid)]
        self._family += self._family[0].children(recursive=True)
        self._before = self._size()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.worst, self.failures = 0.0, 0

    def _size(self) -> int:
        return sum(process.memory_info().rss for process in self._family)

    def _run(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._ended.wait(0.05):
                began = time.monotonic()
                try:
                    self.failures += client.get(self._url).status_code != 200
                except httpx.TransportError:
                    self.failures += 1
                self.worst = max(self.worst, time.monotonic() - began)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.growth = self._size() - self._before
        print(f"/v1/live {self.worst:.3f} s at worst, growth {self.growth >> 20} MiB")


@pytest.fixture(scope="module")
def service(valkey: RedisServer, tmp_path_factory: pytest.TempPathFactory, film: Path) -> Iterator[Stack]:
    """A service that registers cameras without connecting to them: made-up ones never answer."""
    stack = Stack(tmp_path_factory.mktemp("hostile"), f"redis://127.0.0.1:{valkey.port}/5")
    stack.environment |= {"VSS_SKIP_INPUT_MEDIA_VERIFICATION": "1", "LOG_LEVEL": "INFO"}
    try:
        stack.start()
        stack.upload(film, id=UNKNOWN)
        yield stack
    finally:
        stack.stop()


def send(service: Stack, method: str, target: str, body: bytes = b"", **headers: Any) -> int:
    """The status of the answer, which is read for a moment only: streams never end."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = service.client.build_request(
        method, f"{service.url}/", content=body, headers=named, extensions={"target": target.encode()}
    )
    answer = service.client.send(request, stream=True)
    try:
        if answer.status_code >= 500:
            answer.read()
            assert (answer.status_code, answer.json().get("code")) in ALLOWED, (
                f"{method} {target[:200]} {body[:200]!r} {str(named)[:300]}: "
                f"{answer.status_code} {answer.text[:300]}"
            )
        return answer.status_code
    finally:
        answer.close()


ALLOWED = {(501, "NotImplemented"), (503, "ServerBusy"), (502, "DownloadFailed")}
"""What a request may be told that is right in itself."""


def path_of(endpoint: Endpoint, value: str = UNKNOWN) -> str:
    head, brace, tail = endpoint.path.partition("{")
    return f"{head}{value}{tail.partition('}')[2]}" if brace else endpoint.path


def example(endpoint: Endpoint) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(msgspec.json.encode(endpoint.body_example))
    return {name: value for name, value in body.items() if value is not None}


def mutations(body: dict[str, Any]) -> Iterator[bytes]:
    """The body with one field after the other replaced by each value, also deeper down."""
    for name, inner in body.items():
        others = json.dumps({other: value for other, value in body.items() if other != name})[:-1]
        before = f"{others}{', ' if len(body) > 1 else ''}{json.dumps(name)}: ".encode()
        yield from (before + value.encode() + b"}" for value in VALUES)
        if isinstance(inner, dict):
            deeper = mutations({field: value for field, value in inner.items() if value is not None})
            yield from (before + value + b"}" for value in deeper)


def fields_of(query: type[msgspec.Struct] | None) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(query)] if query else ["x"]


POSTED = [endpoint for endpoint in ENDPOINTS if endpoint.body]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("endpoint", POSTED, ids=lambda endpoint: endpoint.name)
def test_bodies(service: Stack, endpoint: Endpoint) -> None:
    target = path_of(endpoint)
    bodies = [*mutations(example(endpoint)), *BODIES] if endpoint.body_example else BODIES
    random.Random(1).shuffle(bodies)
    with Watch(service) as watch:
        statuses = {
            send(service, endpoint.method, target, b, Content_Type="application/json") for b in bodies
        }
    assert statuses & {400, 422}
    assert (watch.failures, watch.worst < LATEST, watch.growth < MOST_GROWTH) == (0, True, True), vars(watch)


@pytest.mark.timeout(300)
def test_paths_queries_and_headers(service: Stack, film: Path) -> None:
    with Watch(service) as watch:
        for endpoint in ENDPOINTS:
            for text in TEXTS:
                send(service, endpoint.method, path_of(endpoint, text))
                names = (
                    [field.encode_name for field in msgspec.structs.fields(endpoint.query)]
                    if endpoint.query
                    else ["x"]
                )
                for name in names:
                    send(service, endpoint.method, f"{path_of(endpoint)}?{name}={text}")
            for headers in HEADERS:
                send(service, endpoint.method, path_of(endpoint), b"{}", **headers)
            for method, path in endpoint.aliases:
                for body in BODIES:
                    send(service, method, path, body, Content_Type="application/json")
            service.client.post("/files", data=FORM, files={"file": ("film.mp4", film.read_bytes())})
    assert (watch.failures, watch.worst < LATEST, watch.growth < MOST_GROWTH) == (0, True, True), vars(watch)


def test_forms(service: Stack) -> None:
    with Watch(service) as watch:
        statuses = [
            send(service, "POST", "/v1/files", body, **({"Content_Type": kind} if kind else {}))
            for kind, body in FORMS
        ]
    assert set(statuses) <= {400, 413, 422}, dict(zip([kind for kind, _ in FORMS], statuses, strict=True))
    assert (watch.failures, watch.worst < LATEST, watch.growth < MOST_GROWTH) == (0, True, True), vars(watch)
    assert not list((service.folder / "assets" / ".incoming").glob("*"))
