"""NVDEC through PyNvVideoCodec: what the worker's one GPU can decode, and sessions on it."""

import functools

import cupy
import PyNvVideoCodec as nvc  # noqa: N813 - NVIDIA's own abbreviation

from worker.media.gpu.cuda_errors import device_errors
from worker.media.gpu.nvdec_sessions import CODECS, PIXELS, NvdecSession, SessionKind

ROOM = (1920, 1088)
"""The size that a session is made for, if its first video is no larger."""


def ask() -> None:
    """Ask the driver about the commonest format of each codec; answers are kept. Takes a second or two."""
    for codec in CODECS:
        capabilities(codec, "yuv420p")


def check() -> None:
    """Raise DeviceLost if CUDA is unusable in this process."""
    with device_errors("the GPU that decodes"):
        cupy.cuda.runtime.deviceSynchronize()


@functools.cache
def capabilities(codec: str, pixels: str) -> dict[str, int]:
    """Return what NVDEC can do with videos of a codec and pixel format in `CODECS` and `PIXELS`: `supported`,
    `num_decoder_engines`, `width_max` and others, by NVIDIA's names."""
    chroma, bits = PIXELS[pixels]
    return nvc.GetDecoderCaps(
        gpuid=0,
        codec=nvc.cudaVideoCodec.__members__[CODECS[codec]],
        chromaformat=nvc.cudaVideoChromaFormat.__members__[chroma],
        bitdepth=bits,
    )


def engines() -> int:
    """Return how many NVDEC engines the GPU has; at least 1, as a GPU that has none supports no codec."""
    return max(1, capabilities("h264", "yuv420p")["num_decoder_engines"])


def open_session(kind: SessionKind, *, low_latency: bool) -> NvdecSession:
    """Return a session for videos of this kind. With `low_latency` a frame comes out with its last packet,
    and less memory is taken. Raises what PyNvVideoCodec raises."""
    most = capabilities(kind.codec, kind.pixels)
    room = (
        max(kind.width, min(ROOM[0], most["width_max"])),
        max(kind.height, min(ROOM[1], most["height_max"])),
    )
    stream = cupy.cuda.Stream(non_blocking=True)
    decoder = nvc.CreateDecoder(
        gpuid=0,
        codec=nvc.cudaVideoCodec.__members__[CODECS[kind.codec]],
        cudastream=stream.ptr,
        usedevicememory=True,
        maxwidth=room[0],
        maxheight=room[1],
        latency=nvc.DisplayDecodeLatencyType.LOW if low_latency else nvc.DisplayDecodeLatencyType.NATIVE,
    )
    return NvdecSession(kind, room, decoder, stream, ended_packet if low_latency else packet)


def packet(address: int, size: int, time: int) -> nvc.PacketData:
    """Return the packet of `size` bytes at `address`; of 0 bytes it is the end of the stream."""
    made = nvc.PacketData()
    made.bsl, made.bsl_data, made.pts = size, address, time
    return made


def ended_packet(address: int, size: int, time: int) -> nvc.PacketData:
    """Return a packet that is known to hold a whole picture, so that nothing waits for the next."""
    made = packet(address, size, time)
    if size:
        made.decode_flag = nvc.VideoPacketFlag.ENDOFPICTURE
    return made
