"""Headers of HEVC, as encoders other than x265 write them; FFmpeg reads what is written here."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import pytest
from av.bitstream import BitStreamFilterContext

from worker.media.decoder.selection.continuity import missing_hevc_reference
from worker.media.decoder.selection.hevc_headers import Unreadable, hevc_sequence

RANDOM_ACCESS: list[tuple[int, list[int], list[int]]] = [
    (0, [], [-8, -10, -12, -16]),
    (4, [1, 1, 0, 0, 1], [-4, -6, 4]),
    (2, [1, 1, 1, 1], [-2, -4, 2, 6]),
    (1, [1, 0, 1, 1, 1], [-1, 1, 3, 7]),
    (-2, [1, 1, 1, 1, 0], [-1, -3, 1, 5]),
    (-3, [1, 1, 1, 1, 0], [-2, -4, -6, 2]),
    (1, [1, 0, 1, 1, 1], [-1, -5, 1, 3]),
    (-2, [1, 1, 1, 1, 0], [-1, -3, -7, 1]),
]
"""The reference pictures of the reference encoder's random access configuration: the difference to the set
before and what is kept of that, and the pictures themselves."""


class Writer:
    """Writes bits."""

    def __init__(self) -> None:
        self.bits = ""

    def u(self, count: int, value: int = 0) -> "Writer":
        self.bits += f"{value:0{count}b}" if count else ""
        return self

    def ue(self, *values: int) -> "Writer":
        for value in values:
            code = f"{value + 1:b}"
            self.bits += "0" * (len(code) - 1) + code
        return self

    def nal(self, kind: int, layer: int = 1) -> bytes:
        bits = self.bits + "1"
        bits += "0" * (-len(bits) % 8)
        payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
        escaped, zeros = bytearray(), 0
        for byte in payload:
            if zeros >= 2 and byte <= 3:
                escaped.append(3)
                zeros = 0
            escaped.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes([kind << 1, layer]) + bytes(escaped)


def sequence(
    *, layers: int = 0, scaling: bool = False, pcm: bool = False, long_term: bool = False, sets: int = 8
) -> bytes:
    """A sequence parameter set with the sets of RANDOM_ACCESS; order counts have 8 bits."""
    out = Writer().u(4).u(3, layers).u(1, 1)
    write_profile(out, layers)
    out.ue(0, 1, 128, 96).u(1).ue(0, 0, 4)
    out.u(1, 1)
    for _ in range(layers + 1):
        out.ue(4, 2, 0)
    out.ue(0, 1, 0, 1, 0, 0)
    out.u(1, scaling)
    if scaling:
        write_scaling(out)
    out.u(2).u(1, pcm)
    if pcm:
        out.u(8, 0x77).ue(0, 0).u(1)
    out.ue(sets)
    write_sets(out)
    out.u(1, long_term)
    if long_term:
        out.ue(2).u(8, 0).u(1, 1).u(8, 200).u(1, 0)
    return out.u(2).u(1).u(1).nal(33)


def write_profile(out: Writer, layers: int) -> None:
    out.u(8, 1).u(32, 0x60000000).u(48).u(8, 93)  # Main profile, level 3.1
    for _ in range(layers):
        out.u(2, 0b11)
    out.u(2 * (8 - layers) if layers else 0)
    for _ in range(layers):
        out.u(8, 1).u(32, 0x60000000).u(48).u(8, 93)


def video_set(layers: int) -> bytes:
    """The video parameter set, which only FFmpeg reads."""
    out = Writer().u(4).u(2, 3).u(6).u(3, layers).u(1, 1).u(16, 0xFFFF)
    write_profile(out, layers)
    out.u(1, 1)
    for _ in range(layers + 1):
        out.ue(4, 2, 0)
    return out.u(6).ue(0).u(2).nal(32)


def write_scaling(out: Writer) -> None:
    out.u(1, 1)
    for size in range(4):
        for matrix in range(2 if size == 3 else 6):
            if matrix:
                out.u(1).ue(1)  # as the matrix before
            else:
                out.u(1, 1)
                out.ue(*[0] * (min(64, 1 << (4 + 2 * size)) + (size > 1)))


def write_sets(out: Writer) -> None:
    for index, (difference, kept, pictures) in enumerate(RANDOM_ACCESS):
        if not index:
            out.ue(len(pictures), 0)
            for step in (8, 2, 2, 4):
                out.ue(step - 1).u(1, 1)
            continue
        out.u(1, 1).u(1, difference < 0).ue(abs(difference) - 1)
        for flag in kept:
            out.u(1, flag)
            if not flag:
                out.u(1, 0)


PICTURE_SET = Writer().ue(0, 0).u(1).u(1, 1).u(3, 2).u(2).ue(0, 0, 0).u(3).ue(0, 0).u(10).ue(0).u(2).nal(34)


VARIANTS: list[dict[str, int]] = [
    {}, {"layers": 2}, {"scaling": True}, {"pcm": True}, {"long_term": True},
    {"layers": 1, "scaling": True, "pcm": True, "long_term": True},
]  # fmt: skip


def said_by_ffmpeg(nals: Sequence[bytes], path: Path) -> str:
    """What FFmpeg's `trace_headers` says of them; `path` is any film of HEVC with start codes."""
    before = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.open(str(path)) as container, av.logging.Capture() as said:
            trace = BitStreamFilterContext("trace_headers", container.streams.video[0])
            trace.filter(av.Packet(b"".join(b"\0\0\0\1" + nal for nal in nals)))
    finally:
        av.logging.set_level(before)
    return "".join(re.sub(" +", " ", line) for _, _, line in said)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sets_of_reference_pictures_are_read(variant: dict[str, int], film: Callable[[str], Path]) -> None:
    written = sequence(**variant)  # type: ignore[arg-type] # flags are numbers here
    said = said_by_ffmpeg([video_set(variant.get("layers", 0)), written, PICTURE_SET], film("hevc-open-ts"))
    assert "num_short_term_ref_pic_sets 0001001 = 8" in said
    assert said.partition("Packet:")[2].count("rbsp_stop_one_bit 1 = 1") == 3
    number, read = hevc_sequence(written)
    assert (number, read.bits, read.planes) == (0, 8, False)
    assert [list(pictures) for pictures in read.sets] == [
        [(picture, True) for picture in pictures] for _, _, pictures in RANDOM_ACCESS
    ]
    assert read.long_term == (((0, True), (200, False)) if variant.get("long_term") else None)


def test_a_set_with_too_many_pictures_cannot_be_read() -> None:
    with pytest.raises(Unreadable, match="is 65, where 64 is the largest"):
        hevc_sequence(sequence(sets=65))


def slice_of(count: int, before: Sequence[int], *long_term: tuple[int, int | None]) -> bytes:
    """The first slice of picture `count`, predicted from those that lie so far before it, and from long-term
    pictures: low bits of their counts, and how many times 256 they lie back if that is said."""
    out = Writer().u(1, 1).ue(0).u(2).ue(1).u(1, 1).u(8, count % 256).u(1).u(1).ue(len(before), 0)
    for index, distance in enumerate(before):
        out.ue(distance - (before[index - 1] if index else 0) - 1).u(1, 1)
    known = [each for each in long_term if each == (0, None)]
    others = [each for each in long_term if each not in known]
    out.ue(len(known), len(others))
    for _ in known:
        out.u(1, 0).u(1)
    for low, cycles in others:
        out.u(8, low).u(1, 1).u(1, cycles is not None)
        if cycles is not None:
            out.ue(cycles)
    return out.u(20).nal(1)


def film_of(*pictures: bytes) -> list[bytes]:
    """What a film begins with: parameter sets, an IDR picture, and `pictures`."""
    idr = Writer().u(1, 1).u(1).ue(0).u(2).ue(2).u(1, 1).u(20).nal(19)
    return [sequence(long_term=True), PICTURE_SET, idr, *pictures]


def test_long_term_pictures_are_kept_as_long_as_they_are_named() -> None:
    named = [slice_of(1, [1]), slice_of(2, [1, 2]), slice_of(3, [1], (0, None)), slice_of(4, [1], (0, 0))]
    assert missing_hevc_reference(film_of(*named)) == ""
    forgotten = [*named, slice_of(5, [1]), slice_of(6, [1], (0, None))]
    assert missing_hevc_reference(film_of(*forgotten)) == (
        "reference pictures are missing: picture 6 is predicted from 0"
    )


def test_order_counts_go_on_when_their_low_bits_begin_anew() -> None:
    pictures = [slice_of(count, [1], (0, count // 256)) for count in range(2, 600)]
    whole = film_of(slice_of(1, [1]), *pictures)
    assert missing_hevc_reference(whole) == ""
    del whole[3 + 400]
    assert (
        missing_hevc_reference(whole) == "reference pictures are missing: picture 402 is predicted from 401"
    )
