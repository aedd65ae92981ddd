"""Missing reference pictures are found, and only those."""

import random
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import pytest

from tests.worker.media.films import FILMS
from worker.media.decoder.selection.bitstream import annex_b, first_units, header, nal_units
from worker.media.decoder.selection.continuity import missing_hevc_reference, missing_reference
from worker.media.decoder.selection.h264_headers import SET_BYTES
from worker.media.decoder.selection.hevc_headers import SET_BYTES as HEVC_SET_BYTES

FindFilm = Callable[[str], Path]
H264 = sorted(name for name in FILMS if name.startswith("h264"))
HEVC = sorted(name for name in FILMS if name.startswith("hevc"))


def units(path: Path, without: int = -1) -> tuple[Iterator[bytes], list[bool]]:
    """The NAL units of a film without packet number `without`, and which packets are references."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        extradata = stream.codec_context.extradata
        packets = [packet for packet in container.demux(stream) if packet.size]
        named = [list(first_units("h264", extradata, packet, SET_BYTES)) for packet in packets]
    references = [any(nal[0] & 31 in (1, 5) and nal[0] & 0x60 for nal in part) for part in named]
    found = [nal for index, part in enumerate(named) if index != without for nal in part]
    return iter([*nal_units(header("h264", extradata)), *found]), references


@pytest.mark.parametrize("name", H264)
def test_nothing_is_missing_from_a_whole_film(name: str, film: FindFilm) -> None:
    assert missing_reference(units(film(name))[0]) == ""


@pytest.mark.parametrize("name", ["h264-no-b", "h264-gop250", "h264-16-b", "h264-slices", "h264-444-10-bit"])
def test_a_missing_reference_is_found(name: str, film: FindFilm) -> None:
    references = units(film(name))[1]
    candidates = [index for index, is_reference in enumerate(references[:-40]) if index and is_reference]
    for index in random.Random(3).sample(candidates, 5):
        found = missing_reference(units(film(name), without=index)[0])
        key_next = name == "h264-gop30" and references[index + 1]
        assert found.startswith("reference pictures are missing: frame_num") or key_next, index


@pytest.mark.parametrize("data", [b"", b"\x67", b"\x67" + b"\xff" * 300, b"\x67" + bytes(300), b"\x41"])
def test_garbage_is_no_trouble(data: bytes) -> None:
    assert missing_reference([nal for nal in (data, b"\x61\x9a\x00", b"\x41\xff" * 20) if nal]) is not None


# HEVC ------------------------------------------------------------------------------------------------------


class Packets(NamedTuple):
    """The packets of a film of HEVC, as the check sees them and as FFmpeg does."""

    header: bytes
    units: list[list[bytes]]
    data: list[bytes]

    @classmethod
    def of(cls, path: Path) -> "Packets":
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            extradata = stream.codec_context.extradata
            packets = [packet for packet in container.demux(stream) if packet.size]
            units = [list(first_units("hevc", extradata, packet, HEVC_SET_BYTES)) for packet in packets]
            data = [annex_b("hevc", extradata, packet) for packet in packets]
        return cls(header("hevc", extradata), units, data)

    def missing(self, without: int) -> str:
        kept = (part for index, part in enumerate(self.units) if index != without)
        return missing_hevc_reference(chain(nal_units(self.header), *kept))

    def missing_by_ffmpeg(self, without: int) -> bool:
        """Whether FFmpeg's decoder misses a reference picture."""
        decoder = av.CodecContext.create("hevc", "r")
        decoder.thread_count = 1
        kept = b"".join(part for index, part in enumerate(self.data) if index != without)
        before = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            with av.logging.Capture() as said:
                for packet in [*decoder.parse(self.header + kept), *decoder.parse(None), None]:
                    decoder.decode(packet)
        finally:
            av.logging.set_level(before)
        return any("Could not find ref" in message for _, _, message in said)


@pytest.mark.parametrize("name", HEVC)
def test_what_is_missing_of_hevc_is_what_ffmpeg_misses(name: str, film: FindFilm) -> None:
    packets = Packets.of(film(name))
    assert packets.missing(-1) == ""
    found = {}
    for without in random.Random(2).sample(range(1, 60), 6):
        found[without] = packets.missing(without)
        assert bool(found[without]) == packets.missing_by_ffmpeg(without), without
    (message, *_) = filter(None, found.values())
    assert re.fullmatch(r"reference pictures are missing: picture \d+ is predicted from \d+", message)


@pytest.mark.parametrize("data", [b"", b"\x42\x01", b"\x42\x01" + b"\xff" * 300, b"\x42\x01" + bytes(300)])
def test_garbage_of_hevc_goes_to_the_cpu(data: bytes) -> None:
    garbage = [nal for nal in (data, b"\x44\x01" + data, b"\x26\x01\xaf" + data) if nal]
    assert missing_hevc_reference(garbage).startswith("headers of HEVC cannot be read: ")
