"""What a browser is told about a file that somebody has sent."""

import pytest

from gateway.store.content_headers import BINARY, content_headers
from shared.assets import Asset


@pytest.mark.parametrize(
    ("filename", "media_type", "codec", "kind"),
    [
        ("a.mp4", "video", "h264", "video/mp4"),
        ("a.MKV", "video", "hevc", "video/x-matroska"),
        ("a.html", "video", "h264", BINARY),
        ("a.svg", "video", "h264", BINARY),
        ("a", "video", "h264", BINARY),
        ("a.png", "image", "png", "image/png"),
        ("a.html", "image", "png", "image/png"),
        ("a.png", "image", "jpeg", "image/jpeg"),
        ("a.svg", "image", "svg", BINARY),
    ],
)
def test_the_type_is_the_one_that_was_found(filename: str, media_type: str, codec: str, kind: str) -> None:
    asset = Asset(id="a", filename=filename, media_type=media_type, codec=codec, probed=True)  # type: ignore[arg-type]
    headers = content_headers(asset)
    assert headers["content-type"] == kind
    assert headers["content-disposition"].startswith("attachment" if kind == BINARY else "inline")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"


def test_what_nobody_has_opened_is_bytes() -> None:
    headers = content_headers(Asset(id="a", filename="a.mp4"))
    assert headers["content-type"] == BINARY
    assert headers["content-disposition"] == 'attachment; filename="a.mp4"'


@pytest.mark.parametrize("name", ['a";x="b.mp4', "a\r\nb: c.mp4", "ü.mp4", "a b.mp4"])
def test_a_name_stays_inside_its_header(name: str) -> None:
    value = content_headers(Asset(id="a", filename=name))["content-disposition"]
    assert value.startswith("attachment; filename*=utf-8''")
    assert value.isascii()
    assert value.isprintable()
    assert value.count(";") == 1
