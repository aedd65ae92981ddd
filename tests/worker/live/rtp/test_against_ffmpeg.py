"""Packets that FFmpeg makes, read by us: every picture comes out as it went in."""

import re
import socket
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from worker.live.rtp.access_units import AccessUnit, Assembler
from worker.live.rtp.reordering import Reorder
from worker.live.rtp.rtp_packets import parse_rtp
from worker.live.rtp.session_description import Track

FRAMES = 12
ENCODERS = {
    "h264": ("libx264", "yuv420p", {"preset": "ultrafast", "tune": "zerolatency", "slices": "3"}),
    "hevc": ("libx265", "yuv420p", {"x265-params": "log-level=none:bframes=0", "preset": "ultrafast"}),
    "mjpeg": ("mjpeg", "yuvj420p", {"huffman": "default", "threads": "1"}),
    "mpeg4": ("mpeg4", "yuv420p", {"g": "6"}),
}


@pytest.fixture
def port() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(0.5)
        yield listening


def send(codec: str, listening: socket.socket) -> list[bytes]:
    """Let FFmpeg send noise; the packets that it was given."""
    encoder, pixels, options = ENCODERS[codec]
    number = listening.getsockname()[1]
    sent = []
    address = f"rtp://127.0.0.1:{number}?rtcpport={number}"
    with av.open(address, "w", format="rtp") as container:
        stream: Any = container.add_stream(encoder, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 320, 240, pixels
        stream.time_base = Fraction(1, 30)
        for index in range(FRAMES):
            noise = np.random.default_rng(index).integers(0, 255, (240, 320, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(noise, format="rgb24")
            frame.pts = index
            for packet in stream.encode(frame):
                sent.append(bytes(packet))
                container.mux(packet)
        for packet in stream.encode(None):
            sent.append(bytes(packet))
            container.mux(packet)
    return sent


def receive(codec: str, listening: socket.socket) -> list[AccessUnit]:
    units: list[AccessUnit] = []
    assembler = Assembler(Track(codec, 0), units.append)
    reorder = Reorder(assembler.push, 0)
    try:
        while True:
            data = listening.recv(65_536)
            kind = data[1] & 0x7F
            if not 72 <= kind <= 76 and (packet := parse_rtp(data, kind)):
                reorder.push(packet, 0)
    except TimeoutError:
        reorder.flush()
        assembler.flush()
    return units


def nals(data: bytes) -> list[bytes]:
    return [nal for nal in re.split(rb"\x00\x00\x00?\x01", data) if nal]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_nal_units(codec: str, port: socket.socket) -> None:
    sent = send(codec, port)
    units = receive(codec, port)
    assert max(map(len, sent)) > 10_000, "fragmented"
    assert [list(unit.nals) for unit in units] == [nals(data) for data in sent]


def test_mpeg4(port: socket.socket) -> None:
    sent = send("mpeg4", port)
    assert [unit.data for unit in receive("mpeg4", port)] == sent


def test_jpeg(port: socket.socket) -> None:
    sent = send("mjpeg", port)
    units = receive("mjpeg", port)
    assert len(units) == FRAMES
    decoder: Any = av.CodecContext.create("mjpeg", "r")
    for ours, theirs in zip(units, sent, strict=True):
        ((mine,), (right,)) = (decoder.decode(av.Packet(data)) for data in (ours.data, theirs))
        assert np.array_equal(mine.to_ndarray(format="rgb24"), right.to_ndarray(format="rgb24"))
