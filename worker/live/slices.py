"""What the slices of a picture say: whether they are intra-coded, and which field they are of."""

from collections.abc import Sequence
from typing import NamedTuple

from worker.media.decoder.selection.bits import Bits

FRAME, TOP, BOTTOM = 0, 1, 2
HEAD = 48
"""Bytes of a slice that its head is read from."""
_CHROMA_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


class SliceHead(NamedTuple):
    """The beginning of an H.264 slice header (ITU-T H.264, 7.3.3). `field` is FRAME, TOP or BOTTOM."""

    first: bool
    intra: bool
    frame: int
    field: int


class _Sequence(NamedTuple):
    """What of a sequence parameter set is needed to read a slice header."""

    separate_planes: bool
    frame_bits: int
    interlaced: bool


class H264Slices:
    """Reads slice headers by the parameter sets seen so far."""

    def __init__(self) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, int] = {}

    def learn(self, nal: bytes) -> None:
        """Take a parameter set."""
        bits = Bits(unescaped(nal[1:512]))
        if nal[0] & 31 == 7:
            number, sequence = _read_sequence(bits)
            if number < 32:
                self._sequences[number] = sequence
        elif nal[0] & 31 == 8:
            number, sequence_number = bits.exp_golomb(), bits.exp_golomb()
            if number < 256:
                self._pictures[number] = sequence_number

    @property
    def interlaced(self) -> bool:
        """Whether pictures may be fields."""
        return any(sequence.interlaced for sequence in self._sequences.values())

    def heads(self, nals: Sequence[bytes]) -> list[SliceHead]:
        """Return the heads of a picture's slices."""
        heads = [self._head(nal) for nal in nals if nal[0] & 31 in (1, 2, 5)]
        return [head for head in heads if head is not None]

    def _head(self, nal: bytes) -> SliceHead | None:
        bits = Bits(unescaped(nal[1:HEAD]))
        first, kind, picture = bits.exp_golomb(), bits.exp_golomb(), bits.exp_golomb()
        sequence = self._sequences.get(self._pictures.get(picture, -1))
        if sequence is None:
            return None
        if sequence.separate_planes:
            bits.read(2)
        frame = bits.read(sequence.frame_bits)
        field = FRAME
        if sequence.interlaced and bits.read(1):
            field = BOTTOM if bits.read(1) else TOP
        return SliceHead(first == 0, kind % 5 in (2, 4), frame, field)


def _read_sequence(bits: Bits) -> tuple[int, _Sequence]:
    """Return the number of a sequence parameter set, and what is needed of it (ITU-T H.264, 7.3.2.1.1)."""
    profile = bits.read(8)
    bits.read(16)
    number = bits.exp_golomb()
    separate = False
    if profile in _CHROMA_PROFILES:
        chroma = bits.exp_golomb()
        separate = chroma == 3 and bool(bits.read(1))
        bits.exp_golomb(), bits.exp_golomb(), bits.read(1)
        if bits.read(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    frame_bits = min(16, bits.exp_golomb() + 4)
    order = bits.exp_golomb()
    if order == 0:
        bits.exp_golomb()
    elif order == 1:
        bits.read(1), bits.exp_golomb(), bits.exp_golomb()
        for _ in range(min(255, bits.exp_golomb())):
            bits.exp_golomb()
    bits.exp_golomb(), bits.read(1), bits.exp_golomb(), bits.exp_golomb()
    return number, _Sequence(separate, frame_bits, not bits.read(1))


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.exp_golomb()
            following = (last + ((code + 1) // 2 if code & 1 else -(code // 2))) % 256
        last = following or last


def is_intra_hevc(nals: Sequence[bytes], picture_sets: dict[int, bytes]) -> bool:
    """Whether the first slice of an H.265 picture is intra-coded (ITU-T H.265, 7.3.6.1)."""
    for nal in nals:
        kind = nal[0] >> 1 & 63
        if kind > 31:
            continue
        bits = Bits(unescaped(nal[2:HEAD]))
        if not bits.read(1):
            return False
        if 16 <= kind <= 23:
            bits.read(1)
        pps = picture_sets.get(bits.exp_golomb())
        if pps is None:
            return False
        fields = Bits(pps)
        fields.exp_golomb(), fields.exp_golomb(), fields.read(2)
        bits.read(fields.read(3))
        return bits.exp_golomb() == 2
    return False


def unescaped(data: bytes) -> bytes:
    """Return a NAL unit's payload without its emulation prevention (ITU-T H.264, 7.4.1)."""
    return data.replace(b"\0\0\3", b"\0\0")
