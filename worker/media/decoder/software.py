"""Decodes on the CPU with FFmpeg."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from fractions import Fraction

import av
from av.codec.context import ThreadType
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from worker.media.decoder.container.demux import Refused
from worker.media.decoder.limits import MediaLimits


class LostFrames(Exception):
    """A packet could not be decoded, and PyAV gave no frame of those that came from other threads with it."""


class SoftwareDecoder:
    """Decodes runs of packets one by one, each from a point where decoding may begin.

    With several `threads` it decodes that many frames at a time, which only pays off in long runs: at the end
    of each the threads wait for the last. `errors` counts the packets of the last run that FFmpeg could not
    decode; with several threads the first one raises LostFrames.
    """

    def __init__(self, context: VideoCodecContext, limits: MediaLimits, threads: int = 1) -> None:
        context.thread_count = threads
        context.thread_type = ThreadType.FRAME
        context.options = {"max_pixels": str(limits.pixels)}
        self.errors = 0
        self._context = context
        self._limits = limits
        self._threads = threads
        self._reorder_depth = context.reorder_depth

    @property
    def aspect(self) -> Fraction | None:
        """The aspect ratio of a pixel, as the stream states it; None where it does not."""
        return self._context.sample_aspect_ratio

    def decode(self, packets: Iterable[Packet[VideoStream]]) -> Generator[VideoFrame]:
        """Yield the frames of `packets`, in presentation order. A packet that cannot be decoded is left out.

        Close the iterator: FFmpeg's threads may still be at work, and PyAV frees a decoder while it holds the
        interpreter's lock, for which those threads wait where they log or free a packet. Raises Refused for a
        frame of more pixels than the limit.
        """
        self.errors = 0
        self._context.reorder_depth = max(self._reorder_depth, self._context.reorder_depth)
        try:
            for packet in packets:
                yield from self._send(packet)
            yield from self._send(None)
        finally:
            self._context.flush_buffers()

    def _send(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        try:
            frames = self._context.decode(packet)
        except MemoryError:  # FFmpeg's ENOMEM: not this packet's fault alone
            raise
        except av.error.FFmpegError as error:
            self.errors += 1
            if self._threads > 1:
                raise LostFrames(str(error)) from error
            return []
        for frame in frames:
            if frame.width * frame.height > self._limits.pixels:
                size = f"{frame.width}x{frame.height}"
                raise Refused(f"a frame is {size}, more than the allowed {self._limits.pixels} pixels")
        return frames
