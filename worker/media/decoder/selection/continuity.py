"""Whether a reference picture is missing from packets of H.264, which a GPU's decoder conceals without a
word.

Reference pictures are numbered (ITU-T H.264, 7.4.3, frame_num): each has the number after that of the
reference before it, unless the stream says that gaps are allowed. Pictures that are no reference carry the
next number and may be left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from worker.media.decoder.selection.bits import Bits

HEADER_BYTES = 40
"""Enough of a slice for its frame_num."""
SET_BYTES = 400
HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}


class Numbering(NamedTuple):
    """How a sequence parameter set numbers pictures: `bits` of frame_num, and whether numbers may be skipped.
    `planes` says that slices name their colour plane."""

    bits: int
    gaps: bool
    planes: bool


def missing_reference(nals: Iterable[bytes]) -> str:
    """What is missing among these NAL units of consecutive pictures, in decoding order; empty if nothing is
    known to be. Their first `SET_BYTES` bytes are enough."""
    numbering: Numbering | None = None
    last: int | None = None
    for nal in nals:
        kind = nal[0] & 31
        if kind == 7:
            numbering = _numbering(nal[:SET_BYTES])
        elif kind == 5:
            last = 0
        elif kind == 1 and numbering and not numbering.gaps:
            number = _frame_number(nal[:HEADER_BYTES], numbering)
            following = None if last is None else (last + 1) % (1 << numbering.bits)
            if last is not None and number not in (last, following):
                return f"reference pictures are missing: frame_num {number} follows {last}"
            if nal[0] & 0x60:
                last = number
    return ""


def _plain(nal: bytes) -> bytes:
    """The payload without emulation prevention."""
    return nal[1:].replace(b"\0\0\3", b"\0\0")


def _numbering(nal: bytes) -> Numbering:
    """7.3.2.1.1: what a sequence parameter set says of frame_num."""
    data = _plain(nal)
    bits = Bits(data[3:])
    bits.exp_golomb()  # seq_parameter_set_id
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
    return Numbering(min(length, 16), bool(bits.read(1)), planes)


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


def _frame_number(nal: bytes, numbering: Numbering) -> int:
    """7.3.3: the frame_num of a slice."""
    bits = Bits(_plain(nal))
    bits.exp_golomb()  # first_mb_in_slice
    bits.exp_golomb()  # slice_type
    bits.exp_golomb()  # pic_parameter_set_id
    if numbering.planes:
        bits.read(2)
    return bits.read(numbering.bits)
