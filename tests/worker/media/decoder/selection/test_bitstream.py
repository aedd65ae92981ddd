"""What packets say about themselves, in bytes made by hand and in packets of real encoders."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from av.packet import Packet

from tests.worker.media.films import VideoPacket
from worker.media.decoder.selection.bits import Bits
from worker.media.decoder.selection.bitstream import ALONE, Coding, parameter_sets, parser

FindFilm = Callable[[str], Path]


def codings(path: Path) -> Iterator[tuple[VideoPacket, Coding]]:
    """Every packet of a film with what it says."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        parse = parser(context.codec.canonical_name, context.extradata)
        assert parse is not None
        for packet in container.demux(stream):
            if packet.size:
                yield packet, parse(packet)


def h264(*nals: bytes) -> Coding:
    """What an H.264 packet of these NAL units says, in both of its forms."""
    parse_annex_b, parse_lengths = parser("h264", None), parser("h264", b"\x01\x64\x00\x1f\xff")
    assert parse_annex_b
    assert parse_lengths
    annex_b: Any = Packet(b"".join(b"\0\0\0\1" + nal for nal in nals))
    lengths: Any = Packet(b"".join(len(nal).to_bytes(4, "big") + nal for nal in nals))
    coding = parse_annex_b(annex_b)
    assert parse_lengths(lengths) == coding
    return coding


def hevc(kind: int, layer: int = 0) -> Coding:
    """What an HEVC packet of one slice of this type says."""
    parse = parser("hevc", None)
    assert parse
    packet: Any = Packet(b"\0\0\1" + bytes([kind << 1, layer + 1]) + b"\x80\x10")
    return parse(packet)


# Below, 88 begins the header of an I slice (first_mb_in_slice 0, slice_type 7), 9a that of a P slice (0, 5).
RECOVERY_NOW, RECOVERY_LATER = b"\x06\x06\x01\xc4\x80", b"\x06\x06\x01\x44\x80"


def test_exp_golomb_numbers_are_read() -> None:
    bits = Bits(bytes([0b10100110, 0b01000010, 0b10000000]))
    assert [bits.exp_golomb() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_bits_beyond_the_end_are_zero() -> None:
    assert Bits(b"\xff").read(12) == 0xFF0


@pytest.mark.parametrize(("ref_idc", "reference"), [(0, False), (1, True), (2, True), (3, True)])
def test_h264_says_which_pictures_are_references(ref_idc: int, reference: bool) -> None:
    coding = h264(b"\x09\x10", bytes([ref_idc << 5 | 1]) + b"\x9a\x00\x00")
    assert coding.reference == reference
    assert not coding.entry


def test_a_second_field_may_be_a_reference_when_the_first_is_not() -> None:
    assert h264(b"\x01\x9a", b"\x21\x9a").reference


def test_an_idr_picture_is_a_closed_entry() -> None:
    coding = h264(b"\x67\x64\x00\x1f", b"\x68\xee\x3c\x80", b"\x65\x88\x84")
    assert (coding.entry, coding.closed) == (True, True)
    assert coding.parameters == (b"\x67\x64\x00\x1f", b"\x68\xee\x3c\x80")


def test_an_intra_picture_that_recovers_at_once_is_an_open_entry() -> None:
    coding = h264(RECOVERY_NOW, b"\x61\x88\x84")
    assert (coding.entry, coding.closed, coding.reference) == (True, False, True)


def test_a_picture_that_recovers_later_is_no_entry() -> None:
    assert not h264(RECOVERY_LATER, b"\x61\x88\x84").entry


def test_an_inter_picture_is_no_entry_whatever_its_recovery_point_says() -> None:
    assert not h264(RECOVERY_NOW, b"\x61\x9a\x00").entry


def test_an_intra_picture_without_recovery_point_is_no_entry() -> None:
    assert not h264(b"\x61\x88\x84").entry


def test_a_recovery_point_is_found_behind_other_messages() -> None:
    other = b"\x05\x03abc"
    assert h264(b"\x06" + other + b"\x06\x01\xc4\x80", b"\x61\x88\x84").entry


def test_a_packet_without_a_picture_shows_nothing() -> None:
    assert not h264(b"\x06\x05\x01a\x80").shown


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\1", b"\0\0\0\xff\x65", b"\xff" * 9, b"\0\0\1\x06\x06"])
@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "mpeg2video"])
@pytest.mark.parametrize("extradata", [None, b"\x01" + b"\xff" * 30])
def test_broken_packets_are_read_without_harm(codec: str, extradata: bytes | None, data: bytes) -> None:
    parse = parser(codec, extradata)
    assert parse
    packet: Any = Packet(data or b"\0")
    coding = parse(packet)
    assert not coding.entry or codec in ("h264", "hevc")
    parameter_sets(codec, data)
    parameter_sets(codec, b"\x01" + data)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (0, Coding(reference=False, leading=False)),
        (1, Coding(leading=False)),
        (6, Coding(reference=False, leading=False)),
        (8, Coding(reference=False, leading=True)),
        (9, Coding(leading=True)),
        (16, Coding(entry=True, leading=False)),
        (19, Coding(entry=True, closed=True, leading=False)),
        (20, Coding(entry=True, closed=True, leading=False)),
        (21, Coding(entry=True, leading=False)),
    ],
    ids=["TRAIL_N", "TRAIL_R", "RADL_N", "RASL_N", "RASL_R", "BLA", "IDR_W_RADL", "IDR_N_LP", "CRA"],
)
def test_hevc_types(kind: int, expected: Coding) -> None:
    assert hevc(kind) == expected
    assert hevc(kind, layer=2) == expected._replace(layer=2)


def test_vp8_says_whether_a_frame_is_shown(film: FindFilm) -> None:
    shown = [coding.shown for _, coding in codings(film("vp8-hidden-frames"))]
    with av.open(str(film("vp8-hidden-frames"))) as container:
        assert sum(shown) == sum(1 for _ in container.decode(video=0)) < len(shown)


@pytest.mark.parametrize("name", ["mpeg4", "mpeg2-ts"])
def test_b_pictures_of_mpeg_stand_alone(name: str, film: FindFilm) -> None:
    said = {packet.pts: coding for packet, coding in codings(film(name))}
    with av.open(str(film(name))) as container:
        frames = list(container.decode(video=0))
    alone = {frame.pts for frame in frames if frame.pict_type == av.video.frame.PictureType.B}
    assert alone
    assert {time for time, coding in said.items() if coding.layer == ALONE} == alone


@pytest.mark.parametrize("name", ["h264-gop250", "h264-open-ts", "h264-16-b"])
def test_b_pictures_of_x264_are_partly_references(name: str, film: FindFilm) -> None:
    kinds = {packet.pts: coding.reference for packet, coding in codings(film(name))}
    with av.open(str(film(name))) as container:
        pictures = {frame.pts: frame.pict_type for frame in container.decode(video=0)}
    b = av.video.frame.PictureType.B
    assert {pictures[time] for time, reference in kinds.items() if not reference} == {b}
    assert any(reference for time, reference in kinds.items() if pictures[time] == b)


def test_intra_refresh_has_one_entry(film: FindFilm) -> None:
    assert sum(coding.entry for _, coding in codings(film("h264-intra-refresh"))) == 1


def test_open_gops_have_open_entries(film: FindFilm) -> None:
    entries = [coding for _, coding in codings(film("h264-open")) if coding.entry]
    assert len(entries) > 4
    assert [coding.closed for coding in entries] == [True] + [False] * (len(entries) - 1)


@pytest.mark.parametrize("name", ["h264-gop30", "h264-ts", "hevc-gop30", "hevc-open-ts"])
def test_parameter_sets_beside_and_inside_the_stream_are_the_same(name: str, film: FindFilm) -> None:
    with av.open(str(film(name))) as container:
        context = container.streams.video[0].codec_context
        known = parameter_sets(context.codec.canonical_name, context.extradata)
    assert len(known) == (3 if name.startswith("hevc") else 2)
    inside = {nal for _, coding in codings(film(name)) for nal in coding.parameters}
    assert inside <= known
    assert bool(inside) == name.endswith("ts")


def test_unknown_codecs_are_not_trusted() -> None:
    assert parser("vc1", b"") is None
