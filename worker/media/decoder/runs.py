"""Decodes packets that were read and chosen elsewhere: the chunks of live streams."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import msgspec
import numpy as np
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from shared.chunks import SECOND
from shared.errors import DecodeError
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.pictures.orientation import Turn, orientation, turn
from worker.media.decoder.pictures.swscale import Scaler, is_full_range, matrix_of
from worker.media.decoder.pictures.thumbnail import Thumbnails
from worker.media.decoder.selection.copies import padded
from worker.media.decoder.software import SoftwareDecoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

TIME_BASE = Fraction(1, SECOND)
DECODERS = {"av1": "libdav1d"}  # FFmpeg's own decoder of that name needs hardware


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Packets to decode in order, starting with a key frame: (time in ns, Annex B data), and the times of the
    wanted frames. `parameters` are the parameter sets in force, Annex B."""

    parameters: bytes
    packets: list[tuple[int, bytes]]
    wanted: list[int]

    @property
    def size(self) -> int:
        """Bytes of all packets."""
        return sum(len(data) for _, data in self.packets)


class FrameLook(msgspec.Struct, frozen=True):
    """The format of a stream's frames: FFmpeg's name of their pixel format, size in pixels, one of the
    matrices of `swscale`, range, the turn that puts them upright, and the pixel aspect ratio, None if it is
    not stated."""

    codec: str
    pixels: str
    width: int
    height: int
    matrix: int
    full_range: bool
    turn: Turn
    aspect: Fraction | None = None


def look_at(codec: str, run: Run, limits: MediaLimits) -> FrameLook:
    """Return the format of the frames of `run`, from its key frame. Raises DecodeError if that cannot be
    decoded, Refused if it has more pixels than the limit."""
    decoder = _decoder(codec, run.parameters, limits)
    with closing(decoder.decode(_packets(msgspec.structs.replace(run, packets=run.packets[:1])))) as frames:
        frame = next(frames, None)
        if frame is None:
            raise DecodeError("the key frame cannot be decoded")
        return frame_look(codec, frame, decoder.aspect)


def frame_look(codec: str, frame: VideoFrame, aspect: Fraction | None = None) -> FrameLook:
    """Return the format of `frame`, whose pixels have this `aspect`."""
    return FrameLook(
        codec=codec,
        pixels=frame.format.name,
        width=frame.width,
        height=frame.height,
        matrix=matrix_of(frame),
        full_range=bool(is_full_range(frame)),
        turn=orientation(frame),
        aspect=aspect,
    )


def decode_runs(
    codec: str,
    runs: Sequence[Run],
    limits: MediaLimits,
    out: NDArray[np.uint8],
    thumbnails: Thumbnails | None = None,
) -> list[int]:
    """Decode to `out`, uint8 [frames, 3, size, size]; return the times (ns) of the decoded frames.

    A wanted frame that cannot be decoded, because packets were lost, is left out. Raises DecodeError if
    none is left, Refused for a frame of more pixels than the limit.
    """
    times: list[int] = []
    scaler = Scaler()
    planned = [when for run in runs for when in run.wanted][: len(out)]
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
                        how = orientation(frame)
                        scaler.scale(frame, out[len(times)])
                        turn(out[len(times)], how)
                        if thumbnails:
                            thumbnails.aspect = decoder.aspect
                            is_middle = frame.pts == planned[len(planned) // 2]
                            thumbnails.see(0, frame, scaler, how, is_middle=is_middle)
                        times.append(frame.pts)
                    if not left:
                        break
    finally:
        scaler.close()
    if not times:
        raise DecodeError("decoded 0 frame(s), required at least 1")
    return times


def _decoder(codec: str, parameters: bytes, limits: MediaLimits) -> SoftwareDecoder:
    context = cast("VideoCodecContext", av.CodecContext.create(DECODERS.get(codec, codec), "r"))
    context.extradata = parameters or None
    context.flags |= Flags.output_corrupt  # a stream without key frames would give no frame
    return SoftwareDecoder(context, limits)


def _packets(run: Run) -> Iterator[Packet[VideoStream]]:
    for time, data in run.packets:
        packet = padded(data)
        packet.pts, packet.time_base = time, TIME_BASE
        yield packet
