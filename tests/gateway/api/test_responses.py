import msgspec
import pytest

from gateway.api.responses import error_response, json_response
from shared.errors import NotFound, RtEmbedError, ServerBusy, TooManyRequests, Unauthorized, Unavailable


def test_json_is_what_it_says() -> None:
    class Thing(msgspec.Struct):
        text: str

    answer = json_response(Thing("ü"), 202)
    assert (answer.status_code, answer.body) == (202, '{"text":"ü"}'.encode())
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (ServerBusy("full"), 503, "5"),
        (Unavailable("away"), 503, "5"),
        (TooManyRequests("slow down", 7), 429, "7"),
        (NotFound("no such thing"), 404, None),
    ],
)
def test_an_error_says_when_to_try_again(error: RtEmbedError, status: int, retry_after: str | None) -> None:
    answer = error_response(error)
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
    assert msgspec.json.decode(answer.body) == {"code": error.code, "message": error.message}


def test_an_errors_message_is_cut() -> None:
    answer = msgspec.json.decode(error_response(NotFound("x" * 5000)).body)
    assert answer["message"] == "x" * 1024


def test_a_missing_key_is_asked_for() -> None:
    assert error_response(Unauthorized("no key")).headers["www-authenticate"] == "Bearer"
