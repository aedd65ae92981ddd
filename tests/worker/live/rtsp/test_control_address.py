"""Under which addresses a track may be asked for."""

import pytest

from worker.live.rtsp.control_address import base_address, control_addresses

DAHUA = "rtsp://cam/cam/realmonitor?channel=1&subtype=0"


@pytest.mark.parametrize(
    ("base", "url", "control", "expected"),
    [
        ("rtsp://h/a/", "rtsp://h/a", "trackID=0", ["rtsp://h/a/trackID=0"]),
        ("rtsp://h/a", "rtsp://h/a", "trackID=0", ["rtsp://h/a/trackID=0"]),
        ("rtsp://h/a", "rtsp://h/a", "*", ["rtsp://h/a"]),
        ("rtsp://h/b/", "rtsp://h/a", "", ["rtsp://h/b/", "rtsp://h/a"]),
        ("rtsp://h/a", "rtsp://h/a", "rtsp://h/a/t?x=y", ["rtsp://h/a/t?x=y"]),
        ("rtsp://h/a", "rtsp://h/a", "rtsp://10.0.0.9/a/t", ["rtsp://10.0.0.9/a/t", "rtsp://h/a/t"]),
        ("rtsp://h/a", "rtsp://h/a", "?ctype=video", ["rtsp://h/a?ctype=video", "rtsp://h/a/?ctype=video"]),
        ("rtsp://h/a/b/", "rtsp://h/a/b", "/track1", ["rtsp://h/a/b/track1", "rtsp://h/track1"]),
        (
            DAHUA,
            DAHUA,
            "trackID=0",
            [f"{DAHUA}/trackID=0", "rtsp://cam/cam/realmonitor/trackID=0?channel=1&subtype=0"],
        ),
        (
            f"{DAHUA}/",
            DAHUA,
            "trackID=0",
            [f"{DAHUA}/trackID=0", "rtsp://cam/cam/realmonitor/trackID=0?channel=1&subtype=0"],
        ),
        (
            "rtsp://cam/live/",
            "rtsp://cam/live?token=abc",
            "trackID=0",
            [
                "rtsp://cam/live/trackID=0",
                "rtsp://cam/live/trackID=0?token=abc",
                "rtsp://cam/live?token=abc/trackID=0",
            ],
        ),
    ],
)
def test_the_likeliest_comes_first(base: str, url: str, control: str, expected: list[str]) -> None:
    assert control_addresses(base, url, control) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("rtsp://h/b/", "rtsp://h/c"), "rtsp://h/b/"),
        (("", "rtsp://h/c"), "rtsp://h/c"),
        (("", ""), "rtsp://h:1/a"),
        (("/b/", ""), "rtsp://h:1/b/"),
        (("live", ""), "rtsp://h:1/a"),
    ],
)
def test_the_base_is_that_of_the_headers_in_their_order(given: tuple[str, str], expected: str) -> None:
    assert base_address("rtsp://h:1/a", *given) == expected
