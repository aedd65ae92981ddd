"""Small films of every kind that the decoder must understand, made when a test first asks for them."""

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import msgspec
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

WIDTH, HEIGHT, RATE = 128, 96, 30
BROKEN = b"\0\0\0\3\x01\xff\xff"
"""A packet of MP4 in which no decoder finds a picture."""

VideoPacket: TypeAlias = "Packet[VideoStream]"  # no class takes [] when the program runs
Rewrite = Callable[[int, VideoPacket], bytes]
"""What a packet, by its number in the film, becomes."""


class Film(msgspec.Struct, frozen=True):
    """How a film is encoded. `times` are milliseconds; without them frames follow at 30 a second. Of VP8,
    every packet whose number is a multiple of `hidden` is made a reference that is not shown."""

    codec: str
    suffix: str
    options: dict[str, str] = {}
    frames: int = 150
    pixels: str = "yuv420p"
    gop: int = 0
    b_frames: int = 0
    times: Sequence[int] = ()
    start: int = 0
    hidden: int = 0
    muxing: dict[str, str] = {}


def x264(suffix: str, settings: str, **others: Any) -> Film:
    """A film by libx264; `settings` as in x264 --fullhelp."""
    return Film("libx264", suffix, {"preset": "veryfast", "x264-params": settings}, **others)


def x265(suffix: str, settings: str, **others: Any) -> Film:
    """A film by libx265."""
    quiet = f"{settings}:log-level=none:pools=1"
    return Film("libx265", suffix, {"preset": "ultrafast", "x265-params": quiet}, frames=100, **others)


def uneven(count: int) -> list[int]:
    """Frame times (ms) of a camera that cannot keep its rate."""
    rng, times = random.Random(7), [0]
    for _ in range(count - 1):
        times.append(times[-1] + rng.choice([10, 33, 34, 40, 100, 250]))
    return times


OPEN = "keyint=24:min-keyint=24:scenecut=0:open-gop=1:bframes=3:b-pyramid=normal"
GOP30 = "keyint=30:min-keyint=30:scenecut=0:bframes=3"
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
LAGGING = {"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16"}

FILMS: dict[str, Film] = {
    "h264-gop1": x264("mp4", "keyint=1"),
    "h264-gop30": x264("mp4", GOP30),
    "h264-gop250": x264("mp4", "keyint=250:scenecut=0:bframes=3:b-pyramid=normal", frames=300),
    "h264-no-b": x264("mp4", "keyint=48:min-keyint=48:scenecut=0:bframes=0"),
    "h264-1-b": x264("mp4", "keyint=48:bframes=1:b-adapt=0"),
    "h264-2-b-strict": x264("mp4", "keyint=48:bframes=2:b-adapt=0:b-pyramid=strict"),
    "h264-16-b": x264("mp4", "keyint=96:bframes=16:b-adapt=0:b-pyramid=normal:ref=8"),
    "h264-open": x264("mp4", OPEN),
    "h264-open-mkv": x264("mkv", OPEN),
    "h264-open-ts": x264("ts", OPEN),
    "h264-intra-refresh": x264("mp4", "keyint=40:intra-refresh=1:bframes=0:scenecut=0"),
    "h264-interlaced": x264("mp4", f"{GOP30}:interlaced=1:tff=1"),
    "h264-slices": x264("mp4", f"{GOP30}:slices=4:cabac=0"),
    "h264-444-10-bit": x264("mp4", GOP30, pixels="yuv444p10le"),
    "h264-fragmented": x264("mp4", GOP30, muxing=FRAGMENTS),
    "h264-fragments-in-gop": x264("mp4", GOP30, muxing={**FRAGMENTS, "frag_duration": "400000"}),
    "h264-vfr": x264("mp4", "keyint=30:bframes=3", times=uneven(150)),
    "h264-vfr-mkv": x264("mkv", "keyint=30:bframes=3", times=uneven(150)),
    "h264-late-start": x264("mkv", GOP30, start=77),
    "h264-mov": x264("mov", GOP30),
    "h264-flv": x264("flv", GOP30),
    "h264-ts": x264("ts", GOP30),
    "h264-avi": x264("avi", "keyint=30:bframes=0"),
    "h264-b-avi": x264("avi", GOP30),
    "hevc-gop30": x265("mp4", "keyint=30:min-keyint=30:bframes=3:open-gop=0"),
    "hevc-open": x265("mp4", "keyint=24:min-keyint=24:scenecut=0:bframes=4:b-pyramid=1:open-gop=1"),
    "hevc-open-ts": x265("ts", "keyint=24:min-keyint=24:scenecut=0:bframes=4:b-pyramid=1:open-gop=1"),
    "hevc-layers": x265("mkv", "keyint=60:bframes=4:b-pyramid=1:temporal-layers=1"),
    "hevc-radl": x265("mp4", "keyint=24:min-keyint=24:scenecut=0:bframes=4:open-gop=0:radl=2"),
    "hevc-10-bit": x265("mp4", "keyint=30:bframes=3", pixels="yuv420p10le"),
    "vp8": Film("libvpx", "webm", {"deadline": "realtime", "cpu-used": "8"}, frames=90, gop=40),
    "vp8-hidden-frames": Film("libvpx", "webm", {**LAGGING, "cpu-used": "8"}, frames=90, gop=40, hidden=7),
    "vp9": Film("libvpx-vp9", "webm", {**LAGGING, "cpu-used": "8"}, gop=40),
    "vp9-mp4": Film("libvpx-vp9", "mp4", {"deadline": "realtime", "cpu-used": "8"}, gop=40),
    "av1": Film("libsvtav1", "mp4", {"preset": "12", "svtav1-params": "lp=1"}, frames=80, gop=32),
    "mpeg4": Film("mpeg4", "mp4", gop=30, b_frames=2),
    "mpeg4-avi": Film("mpeg4", "avi", gop=30, b_frames=2),
    "mpeg2-ts": Film("mpeg2video", "ts", gop=15, b_frames=2),
    "mpeg2-ps": Film("mpeg2video", "mpg", gop=15, b_frames=2),
    "mjpeg": Film("mjpeg", "mov", pixels="yuvj422p", frames=60),
    "prores": Film("prores_ks", "mov", pixels="yuv422p10le", frames=60),
    "wmv2": Film("wmv2", "asf", gop=30),
    "flv1": Film("flv", "flv", gop=30),
}  # fmt: skip


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Frame `index` of every film, uint8 [height, width, 3]: things move, flicker and change, so that no two
    frames are alike."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([x * 2 + index * 3, y * 3 + index * 5, x + y + index * 2], axis=-1) % 256
    noise = np.random.default_rng(index).integers(0, 60, (height // 4 + 1, width // 4 + 1, 1))
    shown = waves // 2 + noise.repeat(4, 0).repeat(4, 1)[:height, :width]
    left, top = index * 5 % width, index * 3 % height
    shown[top : top + 20, left : left + 24] = [255, index * 11 % 256, 0]
    return shown.clip(0, 255).astype(np.uint8)


def make(path: Path, film: Film, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """Encode the film to `path`."""
    base = Fraction(1, 1000) if film.times else Fraction(1, RATE)
    with av.open(str(path), "w", options=dict(film.muxing)) as container:
        stream: Any = container.add_stream(film.codec, rate=RATE)
        stream.width, stream.height = size
        stream.pix_fmt = film.pixels
        stream.codec_context.time_base = stream.time_base = base
        if film.codec.startswith("libvpx"):
            stream.codec_context.thread_count = 1  # its threads wait by spinning
        stream.options = dict(film.options)
        if film.gop:
            stream.gop_size, stream.max_b_frames = film.gop, film.b_frames
        packets: list[VideoPacket] = []
        for index in range(film.frames):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame = frame.reformat(*size, film.pixels)
            frame.pts = film.times[index] if film.times else film.start + index
            frame.time_base = base
            packets += stream.encode(frame)
        packets += stream.encode()
        for index, packet in enumerate(packets):
            hidden = film.hidden and index % film.hidden == 0 and not packet.is_keyframe
            container.mux(_hide(packet) if hidden else packet)
    return path


def _hide(packet: VideoPacket) -> VideoPacket:
    """The VP8 packet with its bit show_frame cleared (RFC 6386, 9.1)."""
    data = bytearray(packet)
    data[0] &= ~0x10
    hidden: Any = Packet(bytes(data))
    hidden.pts, hidden.dts, hidden.time_base, hidden.stream = (
        packet.pts, packet.dts, packet.time_base, packet.stream
    )  # fmt: skip
    shown: VideoPacket = hidden
    return shown


def copy(source: Path, target: Path, first: int = 0, **muxing: str) -> Path:
    """The same packets in another container. Frames before number `first` are hidden by an edit list: the
    copy starts with the key frame before it, at a negative time."""
    with av.open(str(source)) as reading, av.open(str(target), "w", options=muxing) as writing:
        stream = reading.streams.video[0]
        packets = [packet for packet in reading.demux(stream) if packet.size]
        zero = sorted(packet.pts or 0 for packet in packets)[first]
        begin = max(i for i, packet in enumerate(packets) if packet.is_keyframe and (packet.pts or 0) <= zero)
        copied = writing.add_stream_from_template(stream)
        for packet in packets[begin:]:
            packet.pts, packet.dts = (packet.pts or 0) - zero, (packet.dts or 0) - zero
            packet.stream = copied
            writing.mux(packet)
    return target


def rewritten(source: Path, target: Path, rewrite: Rewrite) -> Path:
    """The film with other bytes in its packets."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        packets = [packet for packet in reading.demux(stream) if packet.size]
        for index, packet in enumerate(packets):
            changed = Packet(rewrite(index, packet))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.is_keyframe, changed.stream = packet.is_keyframe, copied
            writing.mux(changed)
    return target


def rotated_film(source: Path, target: Path, degrees: int) -> Path:
    """Copy the packets of a film, with a note that its frames are turned by so many `degrees`, which FFmpeg
    counts against the clock."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        copied.set_display_rotation(degrees)
        for packet in reading.demux(stream):
            if packet.size:
                packet.stream = copied
                writing.mux(packet)
    return target
