"""MPEG-4 in AVI as DivX and Xvid pack it: one packet holds a picture and the B picture shown before it; an
empty packet follows later."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.stream import VideoStream

LOOKED_AT = 20
"""Packets from the start of a file that tell whether its pictures are packed."""
MOST_WAITING = 64
"""B pictures in a row; encoders write a few."""
PICTURE, B_PICTURE = b"\0\0\1\xb6", 2
_PACKED = re.compile(rb"\x00\x00\x01\xb2DivX\d{1,4}(?:b|Build)\d{1,6}p")
"""What encoders write into a stream whose pictures are packed."""


def is_packed(extradata: bytes | None, packets: Iterable[Packet[VideoStream]]) -> bool:
    """Return whether these packets, the first of a stream of MPEG-4, hold more than one picture."""
    if _PACKED.search(extradata or b""):
        return True
    return any(
        (data := bytes(packet)).count(PICTURE) > 1 or _PACKED.search(data[:1024])
        for _, packet in zip(range(LOOKED_AT), packets, strict=False)
    )


def unpacked(packets: Iterable[Packet[VideoStream]], stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield the pictures one by one, with the times at which a decoder gives them.

    AVI has no such times, and FFmpeg's guesses go wrong here. A decoder gives a B picture at once, and every
    other picture when the next one that is not a B picture is decoded.
    """
    waiting: list[Packet[VideoStream]] = []
    for packet in _single(packets, stream):
        if waiting and (not _is_b(packet) or len(waiting) == MOST_WAITING):
            waiting[0].pts = packet.dts
            yield from waiting
            waiting = []
        packet.pts = packet.dts
        waiting.append(packet)
    if waiting and waiting[-1].dts is not None:
        waiting[0].pts = waiting[-1].dts + (waiting[-1].duration or 1)
    yield from waiting


def _single(packets: Iterable[Packet[VideoStream]], stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    split = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    for packet in packets:
        yield from split.filter(packet)
    yield from split.filter(None)


def _is_b(packet: Packet[VideoStream]) -> bool:
    """ISO/IEC 14496-2, 6.3.5: vop_coding_type."""
    data = bytes(packet)
    at = data.find(PICTURE) + len(PICTURE)
    return at >= len(PICTURE) and at < len(data) and data[at] >> 6 == B_PICTURE
