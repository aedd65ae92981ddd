"""What is read of H.264's sequence parameter sets and slice headers: the numbers of pictures, and fields."""

from __future__ import annotations

from typing import NamedTuple

from worker.media.decoder.selection.bits import Bits

SLICE_BYTES = 40
"""Enough of a slice for its head."""
SET_BYTES = 400
HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}
FRAME, TOP, BOTTOM = 0, 1, 2


class SequenceHead(NamedTuple):
    """How a sequence parameter set numbers pictures: `bits` of frame_num, and whether numbers may be skipped.
    `planes` says that slices name their colour plane, `interlaced` that pictures may be fields."""

    bits: int
    gaps: bool
    planes: bool
    interlaced: bool


class SliceHead(NamedTuple):
    """The beginning of a slice header. `frame` is frame_num, `field` FRAME, TOP or BOTTOM."""

    intra: bool
    picture_set: int
    frame: int
    field: int


def plain(nal: bytes) -> bytes:
    """Return a NAL unit's payload without emulation prevention."""
    return nal[1:].replace(b"\0\0\3", b"\0\0")


def sequence_head(nal: bytes) -> tuple[int, SequenceHead]:
    """Return a sequence parameter set's number, and what it says of pictures (ITU-T H.264, 7.3.2.1.1)."""
    data = plain(nal[:SET_BYTES])
    bits = Bits(data[3:])
    number = bits.exp_golomb()
    planes = False
    if data[:1] and data[0] in HIGH_PROFILES:
        chroma = bits.exp_golomb()
        if chroma == 3:
            planes = bool(bits.read(1))
        bits.exp_golomb()
        bits.exp_golomb()
        bits.read(1)
        if bits.read(1):
            _skip_matrices(bits, 12 if chroma == 3 else 8)
    length = bits.exp_golomb() + 4
    order = bits.exp_golomb()
    if order == 0:
        bits.exp_golomb()
    elif order == 1:
        bits.read(1)
        bits.exp_golomb()
        bits.exp_golomb()
        for _ in range(min(bits.exp_golomb(), 255)):
            bits.exp_golomb()
    bits.exp_golomb()  # max_num_ref_frames
    gaps = bool(bits.read(1))
    bits.exp_golomb()  # pic_width_in_mbs_minus1
    bits.exp_golomb()  # pic_height_in_map_units_minus1
    return number, SequenceHead(min(length, 16), gaps, planes, not bits.read(1))


def _skip_matrices(bits: Bits, count: int) -> None:
    """7.3.2.1.1.1: scaling lists."""
    for index in range(count):
        if not bits.read(1):
            continue
        last = following = 8
        for _ in range(16 if index < 6 else 64):
            if following:
                following = (last + _signed(bits) + 256) % 256
            last = following or last


def _signed(bits: Bits) -> int:
    """9.1.1."""
    value = bits.exp_golomb()
    return (value + 1) // 2 if value & 1 else -(value // 2)


def picture_set_numbers(nal: bytes) -> tuple[int, int]:
    """Return a picture parameter set's number, and that of its sequence parameter set (7.3.2.2)."""
    bits = Bits(plain(nal[:SLICE_BYTES]))
    return bits.exp_golomb(), bits.exp_golomb()


def picture_set_of(nal: bytes) -> int:
    """Return the number of the picture parameter set that a slice names."""
    bits = Bits(plain(nal[:SLICE_BYTES]))
    bits.exp_golomb()  # first_mb_in_slice
    bits.exp_golomb()  # slice_type
    return bits.exp_golomb()


def slice_head(nal: bytes, sequence: SequenceHead) -> SliceHead:
    """Return the head of a slice of this sequence (7.3.3)."""
    bits = Bits(plain(nal[:SLICE_BYTES]))
    bits.exp_golomb()  # first_mb_in_slice
    kind, picture_set = bits.exp_golomb(), bits.exp_golomb()
    if sequence.planes:
        bits.read(2)
    frame = bits.read(sequence.bits)
    field = FRAME
    if sequence.interlaced and bits.read(1):
        field = BOTTOM if bits.read(1) else TOP
    return SliceHead(kind % 5 in (2, 4), picture_set, frame, field)
