"""Motion JPEG: pictures whose headers are made anew, against pictures made by others."""

import io
import struct
from collections.abc import Iterator

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from worker.live.rtp.jpeg_payload import JpegPayload
from worker.live.rtp.rtp_packets import RtpPacket

PIECE = 1000


def picture(width: int = 320, height: int = 240) -> NDArray[np.uint8]:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)


def jpeg(
    quality: int, subsampling: str = "4:2:0", size: tuple[int, int] = (320, 240), **options: int
) -> bytes:
    """A JPEG with the tables of the standard, scaled by libjpeg as RFC 2435 has it."""
    out = io.BytesIO()
    Image.fromarray(picture(*size)).save(out, "JPEG", quality=quality, subsampling=subsampling, **options)
    return out.getvalue()


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment; the scan with its data last."""
    at = 2
    while at < len(data):
        marker, size = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if marker == 0xDA:
            yield marker, data[at + 2 + size :]
            return
        yield marker, data[at + 4 : at + 2 + size]
        at += 2 + size


def packets(
    data: bytes,
    quality: int,
    kind: int = 1,
    size: tuple[int, int] = (320, 240),
    *,
    tables: bool = True,
    timestamp: int = 0,
    extension: bytes = b"",
) -> list[RtpPacket]:
    """The packets of a picture (RFC 2435, 3.1)."""
    parts = list(segments(data))
    scan = dict(parts)[0xDA].removesuffix(b"\xff\xd9")
    interval = dict(parts).get(0xDD, b"")
    dqt = b"".join(body[1:] for marker, body in parts if marker == 0xDB)
    sent = dqt if tables else b""
    made: list[RtpPacket] = []
    for at in range(0, len(scan), PIECE):
        head = struct.pack(">B", 0) + at.to_bytes(3, "big")
        head += bytes([kind | (64 if interval else 0), quality, size[0] // 8 & 255, size[1] // 8 & 255])
        head += interval + b"\xff\xff" if interval else b""
        if quality > 127 and at == 0:
            head += struct.pack(">BBH", 0, 0, len(sent)) + sent
        last = at + PIECE >= len(scan)
        made.append(
            RtpPacket(
                len(made), timestamp, 1, head + scan[at : at + PIECE], last, extension if at == 0 else b""
            )
        )
    return made


def received(sent: list[RtpPacket], size: tuple[int, int] = (0, 0), missing: int = -1) -> list[bytes]:
    found: list[bytes] = []
    payload = JpegPayload(lambda timestamp, data: found.append(data), size)
    for number, packet in enumerate(sent):
        if number != missing:
            payload.push(packet, lost=number == missing + 1 > 0)
    payload.flush()
    return found


def pixels(data: bytes) -> NDArray[np.uint8]:
    decoder = av.CodecContext.create("mjpeg", "r")
    (frame,) = decoder.decode(av.Packet(data))
    return np.asarray(frame.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("quality", [1, 25, 49, 50, 75, 99])
def test_pictures_with_tables_of_a_quality(quality: int) -> None:
    data = jpeg(quality)
    (found,) = received(packets(data, quality))
    assert np.array_equal(pixels(found), pixels(data))


@pytest.mark.parametrize(("subsampling", "kind"), [("4:2:0", 1), ("4:2:2", 0)])
def test_both_samplings_with_tables_of_their_own(subsampling: str, kind: int) -> None:
    data = jpeg(83, subsampling)
    (found,) = received(packets(data, 255, kind))
    assert np.array_equal(pixels(found), pixels(data))


def test_restart_markers() -> None:
    data = jpeg(60, restart_marker_blocks=20)
    assert dict(segments(data))[0xDD] == struct.pack(">H", 20)
    (found,) = received(packets(data, 255))
    assert np.array_equal(pixels(found), pixels(data))


def test_tables_sent_once_serve_for_later_pictures() -> None:
    data = jpeg(83)
    sent = packets(data, 200) + packets(data, 200, tables=False, timestamp=3000)
    first, second = received(sent)
    assert first == second
    assert received(packets(data, 201, tables=False)) == []


def test_large_pictures_by_the_description() -> None:
    """The width of more than 2040 pixels does not fit into the packets."""
    data = jpeg(40, size=(2560, 64))
    (found,) = received(packets(data, 40, size=(0, 64)), size=(2560, 64))
    assert pixels(found).shape == (64, 2560, 3)
    assert received(packets(data, 40, size=(0, 64))) == [], "nobody knows how wide it is"


def test_large_pictures_by_the_header_extension() -> None:
    """ONVIF: the extension holds the segments of the original."""
    data = jpeg(40, size=(2560, 64))
    own = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
        for marker, body in segments(data)
        if marker in (0xDB, 0xC0)
    )
    (found,) = received(packets(data, 5, size=(0, 64), extension=b"\xff\xd8" + own + b"\xff\xff\xff"))
    assert np.array_equal(pixels(found), pixels(data))


@pytest.mark.parametrize("missing", [0, 1, -2])
def test_a_picture_that_lost_a_fragment_is_dropped(missing: int) -> None:
    data = jpeg(90)
    sent = packets(data, 90) + packets(data, 90, timestamp=3000)
    half = len(sent) // 2
    (found,) = received(sent, missing=missing % half)
    assert np.array_equal(pixels(found), pixels(data))


def test_a_picture_without_a_marker_ends_where_the_next_begins() -> None:
    data = jpeg(90)
    sent = [packet._replace(marker=False) for packet in packets(data, 90) + packets(data, 90, timestamp=3000)]
    assert len(received(sent)) == 2
