"""Missing reference pictures of H.264 are found, and only those."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from tests.worker.media.films import FILMS
from worker.media.decoder.selection.bitstream import first_units, header, nal_units
from worker.media.decoder.selection.continuity import missing_reference
from worker.media.decoder.selection.h264_headers import SET_BYTES

FindFilm = Callable[[str], Path]
H264 = sorted(name for name in FILMS if name.startswith("h264"))


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
