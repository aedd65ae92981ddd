"""Clients of buckets: keys, roles, addresses, and what is said when something is wrong."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore
import pytest

from shared import s3
from shared.errors import SettingsError, Unavailable
from shared.settings import load

KEYS = {"AWS_ACCESS_KEY_ID": "ours", "AWS_SECRET_ACCESS_KEY": "secret"}


class Heard:
    """Answers every HEAD as S3 does, and every GET as the credentials service of a container does."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        heard = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                heard.requests.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
                self._answer(b"", **{"Last-Modified": "Mon, 23 Nov 2026 02:09:14 GMT", "ETag": '"a"'})

            def do_GET(self) -> None:
                role = {
                    "AccessKeyId": "roles", "SecretAccessKey": "s", "Token": "t",
                    "Expiration": "2030-01-01T00:00:00Z",
                }  # fmt: skip
                self._answer(json.dumps(role).encode())

            def _answer(self, body: bytes, **headers: str) -> None:
                self.send_response(200)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever).start()


@pytest.fixture
def heard() -> Iterator[Heard]:
    server = Heard()
    yield server
    server.server.shutdown()
    server.server.server_close()


async def ask(heard: Heard, **environment: str) -> dict[str, str]:
    """What a client with these settings sends to find an object."""
    settings = load({"S3_ENDPOINT_URL": heard.url, **environment})
    await obstore.head_async(s3.open_bucket(settings, "media"), "a/b.mp4")
    return heard.requests[-1]


async def test_keys_sign_for_the_region_and_the_bucket_is_in_the_path(heard: Heard) -> None:
    sent = await ask(heard, **KEYS, AWS_SESSION_TOKEN="session", AWS_DEFAULT_REGION="eu-north-1")
    assert sent["path"] == "/media/a/b.mp4"
    assert "Credential=ours/" in sent["authorization"]
    assert "/eu-north-1/s3/" in sent["authorization"]
    assert sent["x-amz-security-token"] == "session"


async def test_aws_region_wins(heard: Heard) -> None:
    sent = await ask(heard, **KEYS, AWS_DEFAULT_REGION="eu-north-1", AWS_REGION="eu-west-2")
    assert "/eu-west-2/s3/" in sent["authorization"]


async def test_without_keys_the_role_of_the_container_signs(
    heard: Heard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of the pod")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{heard.url}/role")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    sent = await ask(heard)
    assert "Credential=roles/" in sent["authorization"]
    assert sent["x-amz-security-token"] == "t"


def test_the_bucket_may_be_in_the_host() -> None:
    settings = load(
        {**KEYS, "S3_ENDPOINT_URL": "https://s3.example:9000", "RTEMBED_S3_ADDRESSING": "virtual"}
    )
    config: Any = s3.open_bucket(settings, "media").config
    assert config["endpoint"] == "https://media.s3.example:9000"
    assert str(config["virtual_hosted_style_request"]).lower() == "true"


@pytest.mark.parametrize(
    "value", ["s3:/bucket", "s3://", "s3://Bucket", "s3://a", "https://bucket", "/folder", "s3://bucket/a b"]
)
def test_what_is_no_bucket_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match=r"RTEMBED_ASSET_STORE=.*must be s3://BUCKET"):
        load({"RTEMBED_ASSET_STORE": value})


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "x 403 Forbidden: <Error><Code>AccessDenied</Code><Message>No</Message></Error>",
            "AccessDenied: No",
        ),
        ("x <Error><Code>SlowDown</Code></Error>", "SlowDown"),
        ("Error performing PUT http://169.254.169.254/latest/api/token", "there are no credentials"),
        ('hyper Connect, "dns error"', "its host name is not known"),
        (
            "Server returned non-2xx status code: 503 Service Unavailable: body",
            "it answers 503 Service Unavailable",
        ),
        ("HttpError { kind: Timeout", "it does not answer in time"),
        ("something else\n\nDebug source:\nlong", "something else"),
    ],
)
def test_causes_are_short(text: str, cause: str) -> None:
    assert s3.cause(OSError(text)).startswith(cause)


def test_what_fails_inside_is_told_with_its_cause() -> None:
    with pytest.raises(Unavailable, match="the asset store cannot be used: SlowDown"), s3.answering():
        raise OSError("<Code>SlowDown</Code>")
