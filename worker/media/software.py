"""Decoding on the CPU with FFmpeg."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream


class SoftwareDecoder:
    """Decodes one run of packets after the other, each from a point where decoding may begin.

    `errors` counts packets of the last run that FFmpeg could not decode, `decoded` all frames so far.
    """

    def __init__(self, context: VideoCodecContext) -> None:
        self._context = context
        self._reorder_depth = context.reorder_depth
        self._fresh = True
        self.errors = 0
        self.decoded = 0

    def decode(self, packets: Iterable[Packet[VideoStream]]) -> Iterator[VideoFrame]:
        """The frames of `packets`, in presentation order. A packet that cannot be decoded is left out."""
        self._reset()
        for packet in packets:
            yield from self._send(packet)
        yield from self._send(None)

    def _reset(self) -> None:
        self.errors = 0
        if not self._fresh:
            self._context.flush_buffers()
            self._context.reorder_depth = max(self._reorder_depth, self._context.reorder_depth)
        self._fresh = False

    def _send(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        try:
            frames = self._context.decode(packet)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            self.errors += 1
            return []
        self.decoded += len(frames)
        return frames
