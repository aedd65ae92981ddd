"""`rt-embed trigger`: what it sends and shows."""

import json
from pathlib import Path
from typing import Any

import pytest

from rt_embed.calls import Retries, Wait
from rt_embed.cli.main import run
from tests.rt_embed.cli.client.test_original_commands import ID, Recorder, backend

__all__ = ["backend"]
TRIGGER = {
    "id": ID, "name": "A dog", "question": "text", "text": "a dog", "model": "m", "threshold": 0.5,
    "cameras": None, "files": False, "cooldown": 60.0, "created": 1, "matches": 2, "last_match": None,
    "webhook": None,
}  # fmt: skip
PATH = "/v1/triggers"
BODY = {"name": "a dog", "threshold": 0.5, "files": False, "cooldown": 60.0, "text": "a dog"}


def event(number: int) -> bytes:
    data = {
        "id": str(number),
        "start_time": None,
        "start": 5.0,
        "score": 0.75,
        "name": "gate",
        "asset": "a",
        "chunk": number,
    }
    return b"data: " + json.dumps(data).encode() + f"\r\nid: {number}\r\n\r\n: ping\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("arguments", "request_line", "body"),
    [
        (["add", "a dog", "--threshold", "0.5"], f"POST {PATH}", BODY),
        (
            [
                "add", "a dog", "--threshold", "0.5", "--name", "Dog", "--camera", "a", "--camera", "b",
                "--files", "--cooldown", "5", "--webhook", "https://h/", "--webhook-secret", "s",
            ],
            f"POST {PATH}",
            {
                **BODY, "name": "Dog", "cameras": ["a", "b"], "files": True, "cooldown": 5.0,
                "webhook": "https://h/", "webhook_secret": "s",
            },
        ),
        (["list"], f"GET {PATH}", None),
        (["show", ID], f"GET {PATH}/{ID}", None),
        (["delete", ID], f"DELETE {PATH}/{ID}", None),
    ],
)  # fmt: skip
def test_what_is_sent(
    backend: str,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    request_line: str,
    body: Any,
) -> None:
    answer = {"triggers": [TRIGGER]} if arguments == ["list"] else TRIGGER
    Recorder.answer = (200, json.dumps(answer).encode())
    assert run(["trigger", *arguments, "--backend", backend]) == 0
    ((sent, where, _, content),) = Recorder.seen
    assert f"{sent} {where}" == request_line
    given = json.loads(content) if content else None
    assert (given and {name: value for name, value in given.items() if value is not None}) == body
    assert ID[:8] in capsys.readouterr().out


def test_a_picture_is_sent_inside(backend: str, tmp_path: Path) -> None:
    (tmp_path / "dog.png").write_bytes(b"abc")
    Recorder.answer = (200, json.dumps(TRIGGER).encode())
    picture = str(tmp_path / "dog.png")
    assert run(["trigger", "add", "--image", picture, "--threshold", "0", "--backend", backend]) == 0
    sent = json.loads(Recorder.seen[0][3])
    assert (sent["image"], sent["name"], "text" in sent) == ("data:image/png;base64,YWJj", "dog.png", False)
    assert run(["trigger", "add", "--threshold", "0", "--backend", backend]) == 2


def test_matches_are_shown_and_a_broken_stream_goes_on(
    backend: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Retries, "pause", lambda *_: Wait(0))
    Recorder.answer = (200, event(7) + event(8))
    assert run(["trigger", "watch", ID, "--last", "2", "--count", "3", "--backend", backend]) == 0
    assert [path for _, path, _, _ in Recorder.seen] == [f"/v1/triggers/{ID}/events?last=2"] * 2
    assert [headers.get("last-event-id") for _, _, headers, _ in Recorder.seen] == [None, "8"]
    assert capsys.readouterr().out.splitlines()[:2] == [
        "5.0 s  0.750  gate  chunk 7",
        "5.0 s  0.750  gate  chunk 8",
    ]
    Recorder.answer = (200, event(9) + b"data: [DONE]\r\n\r\n")
    assert run(["trigger", "watch", ID, "--json", "--backend", backend]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "9"
