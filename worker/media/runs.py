"""Runs of packets that somebody else has read and chosen: what a live stream's chunk is decoded from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import msgspec
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from shared.chunks import SECOND
from shared.errors import DecodeError
from worker.media.limits import MediaLimits
from worker.media.orientation import orientation, turn
from worker.media.software import SoftwareDecoder
from worker.media.swscale import Scaler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.video.stream import VideoStream

TIME_BASE = Fraction(1, SECOND)


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Packets to decode one after the other, from a key frame on: (time in ns, Annex B data), and the times
    of the frames that are wanted of them. `parameters` are the parameter sets in force, Annex B."""

    parameters: bytes
    packets: list[tuple[int, bytes]]
    wanted: list[int]

    @property
    def size(self) -> int:
        """Bytes of all packets."""
        return sum(len(data) for _, data in self.packets)


def decode_runs(
    codec: str, runs: Sequence[Run], limits: MediaLimits, size: int, out: NDArray[np.uint8]
) -> list[int]:
    """Decode to `out`, uint8 [frames, 3, size, size]; returns the times (ns) of the frames that came out.

    A wanted frame that cannot be decoded, because packets were lost on the way, is left out. Raises
    DecodeError where none is left, Refused for a frame of more pixels than the limit.
    """
    times: list[int] = []
    scaler = Scaler(size)
    try:
        decoder, parameters = _decoder(codec, runs[0].parameters, limits), runs[0].parameters
        for run in runs:
            if run.parameters != parameters:
                decoder, parameters = _decoder(codec, run.parameters, limits), run.parameters
            left = set(run.wanted)
            with closing(decoder.decode(_packets(run))) as frames:
                for frame in frames:
                    if frame.pts in left and len(times) < len(out):
                        left.discard(frame.pts)
                        scaler.scale(frame, out[len(times)])
                        turn(out[len(times)], orientation(frame))
                        times.append(frame.pts)
                    if not left:
                        break
    finally:
        scaler.close()
    if not times:
        raise DecodeError("decoded 0 frame(s), required at least 1")
    return times


def _decoder(codec: str, parameters: bytes, limits: MediaLimits) -> SoftwareDecoder:
    context = cast("VideoCodecContext", av.CodecContext.create(codec, "r"))
    context.extradata = parameters or None
    return SoftwareDecoder(context, limits)


def _packets(run: Run) -> Iterator[Packet[VideoStream]]:
    for time, data in run.packets:
        packet = cast("Packet[VideoStream]", Packet(data))
        packet.pts, packet.time_base = time, TIME_BASE
        yield packet
