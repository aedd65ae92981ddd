"""Copies of packets, which PyAV does not make by itself."""

from __future__ import annotations

from typing import cast

from av.packet import Packet
from av.video.stream import VideoStream


def padded(data: bytes) -> Packet[VideoStream]:
    """Return a packet with `data`. FFmpeg's decoders read a little beyond a packet's end. Where PyAV makes
    one of bytes there is nothing to read, and MPEG-4 comes out wrong."""
    packet = cast("Packet[VideoStream]", Packet(len(data)))
    packet.update(data)
    return packet


def shown_copy(packet: Packet[VideoStream]) -> Packet[VideoStream]:
    """Return a copy of the packet that gives a frame even if an edit list hides it."""
    copy = padded(bytes(packet))
    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
    copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
    if packet.has_sidedata("new_extradata"):
        copy.set_sidedata(packet.get_sidedata("new_extradata"))
    return copy
