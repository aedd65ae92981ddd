"""What counts as a credential, and what does not, and that looking for it takes little time."""

import time

import pytest

from shared.settings import load
from shared.telemetry.redaction import redact, secret_values, without_query, without_userinfo


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:pass@10.0.0.7:554/live", "rtsp://10.0.0.7:554/live"),
        ("rtsp://user@cam/live", "rtsp://cam/live"),
        ("rtsp://user:p@ss@cam/live", "rtsp://cam/live"),
        ("rtsp://user:pa/ss@cam/live", "rtsp://cam/live"),
        ("RTSP://user:pass@cam/live", "RTSP://cam/live"),
        ("rtsp://admin:p@ss/w0rd@host", "rtsp://host"),
        ("rtsp://admin:pa?ss@host/live", "rtsp://host/live"),
        ("rtsp://admin:12345@host:554/live", "rtsp://host:554/live"),
        ("rtsp://a:b@c/d,rtsp://e:f@g/h", "rtsp://c/d,rtsp://g/h"),
        ("https://user:pass@host/x?to=me@example.com", "https://host/x?to=me@example.com"),
        ("rtsp://cam:554", "rtsp://cam:554"),
        ("rtsp://cam:554/room@2", "rtsp://cam:554/room@2"),
        ("rtsp://cam/room@2", "rtsp://cam/room@2"),
        ("https://example.com/a.mp4?to=me@example.com", "https://example.com/a.mp4?to=me@example.com"),
        ("/videos/a@b.mp4", "/videos/a@b.mp4"),
    ],
)
def test_user_information_is_removed_from_addresses(url: str, shown: str) -> None:
    assert without_userinfo(url) == shown


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        (
            "https://b.s3.amazonaws.com/f.mp4?X-Amz-Signature=ff&X-Amz-Expires=60",
            "https://b.s3.amazonaws.com/f.mp4",
        ),
        ("https://me:secret@host/f.mp4?to=a@b#t=1", "https://host/f.mp4"),
        ("https://host/f.mp4#secret", "https://host/f.mp4"),
        ("s3://bucket/f.mp4", "s3://bucket/f.mp4"),
        ("", ""),
    ],
)
def test_what_is_kept_of_an_address_opens_no_door(url: str, kept: str) -> None:
    assert without_query(url) == kept


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open rtsp://a:b@c/d: refused", "cannot open rtsp://c/d: refused"),
        ("GET https://h/x?token=abc&page=2", "GET https://h/x?token=***&page=2"),
        (
            "https://h/x?X-Amz-Credential=AK%2F1&X-Amz-Signature=ff#t",
            "https://h/x?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("https://h/x?sv=1&sig=a%2Bb", "https://h/x?sv=1&sig=***"),
        ("{'password': 'hunter2', 'user': 'me'}", "{'password': '***', 'user': 'me'}"),
        ("NGC_API_KEY=nvapi-123", "NGC_API_KEY=***"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic YTpi'}", "{'Authorization': 'Basic ***'}"),
        ("Failed to add file tokens.mp4", "Failed to add file tokens.mp4"),
        ("the text has 600 tokens: the limit is 512", "the text has 600 tokens: the limit is 512"),
        ("Basic profile is not supported", "Basic profile is not supported"),
    ],
)
def test_credentials_are_hidden_in_texts(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_secrets_of_the_settings_are_hidden_wherever_they_stand() -> None:
    settings = load(
        {
            "REDIS_URL": "redis://:r%40dis@cache:6379/0",
            "KAFKA_SASL_PASSWORD": "kafkapw-longer",
            "REDIS_PASSWORD": "kafkapw",
        }
    )
    secrets = secret_values(settings)
    assert "r@dis" in secrets
    text = redact("AUTH r@dis failed, kafkapw-longer and kafkapw refused", secrets)
    assert text == "AUTH *** failed, *** and *** refused"


def test_lists_of_secrets_are_hidden_too() -> None:
    keys = load(
        {"RTEMBED_API_KEYS": "first-key,second-key", "ASSET_DOWNLOAD_AUTH_TOKENS": "a.org=Bearer t0ken"}
    )
    assert redact("second-key for Bearer t0ken", secret_values(keys)) == "*** for ***"


def test_a_secret_too_short_to_be_one_is_not_looked_for() -> None:
    assert redact("a banana", secret_values(load({"REDIS_PASSWORD": "a"}))) == "a banana"


@pytest.mark.parametrize(
    "piece",
    ["a.", "://", "a://a:b", "a://a:b@c/", "password", "secret = ", "authorization: a ", "api_", " ", "@:"],
)
def test_the_time_grows_with_the_length_of_the_text(piece: str) -> None:
    """Eight thousand times "a." once took ten seconds, with all threads waiting."""

    def seconds(size: int) -> float:
        text = (piece * size)[:size]
        began = time.thread_time()
        redact(text, longest=size)
        return time.thread_time() - began

    assert seconds(1_000_000) < 4 * 8 * max(seconds(125_000), 0.005)


def test_a_long_text_is_cut_and_the_cut_reveals_nothing() -> None:
    text = redact("x" * 95 + " rtsp://user:" + "p" * 20 + "@cam " + "y" * 1000, longest=100)
    assert text == "x" * 95 + " rtsp... (cut)"
    assert redact("x" * 100, longest=100) == "x" * 100
