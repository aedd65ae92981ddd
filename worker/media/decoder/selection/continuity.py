"""Detects missing reference pictures in packets of H.264 or HEVC: a GPU's decoder conceals them without an
error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from worker.media.decoder.selection.h264_headers import SequenceHead, sequence_head, slice_head
from worker.media.decoder.selection.hevc_headers import (
    IDR,
    HevcPictureSet,
    HevcReferences,
    HevcSequence,
    Unreadable,
    hevc_picture_set,
    hevc_references,
    hevc_sequence,
)

RESETS = (*IDR, 16, 17, 18)
"""Types of NAL units that reset prediction: IDR and BLA pictures."""
LEADING = range(6, 10)
"""RADL and RASL pictures."""


def missing_reference(nals: Iterable[bytes]) -> str:
    """Return what is missing among these NAL units of consecutive H.264 pictures, in decoding order; empty if
    nothing is known to be missing. Their first `h264_headers.SET_BYTES` bytes are enough.

    Reference pictures are numbered (ITU-T H.264, 7.4.3, frame_num): each has the number after that of the
    reference before it, unless the stream says that gaps are allowed. Pictures that are no reference carry
    the next number and may be left out.
    """
    sequence: SequenceHead | None = None
    last: int | None = None
    for nal in nals:
        kind = nal[0] & 31
        if kind == 7:
            _, sequence = sequence_head(nal)
        elif kind == 5:
            last = 0
        elif kind == 1 and sequence and not sequence.gaps:
            number = slice_head(nal, sequence).frame
            following = None if last is None else (last + 1) % (1 << sequence.bits)
            if last is not None and number not in (last, following):
                return f"reference pictures are missing: frame_num {number} follows {last}"
            if nal[0] & 0x60:
                last = number
    return ""


def missing_hevc_reference(nals: Iterable[bytes]) -> str:
    """Return what is missing among these NAL units of the pictures of HEVC that are decoded, in that order,
    from an entry on; empty if nothing is. Of each picture the first slice counts. Their first
    `hevc_headers.SET_BYTES` bytes are enough.

    Each picture names all pictures that it is predicted from (ITU-T H.265, 8.3.2).
    """
    sequences: dict[int, HevcSequence] = {}
    picture_sets: dict[int, HevcPictureSet] = {}
    pictures = _KeptPictures()
    try:
        for nal in nals:
            if len(nal) < 3 or nal[0] & 1 or nal[1] >> 3:
                continue  # empty, or not of the base layer
            kind = nal[0] >> 1 & 63
            if kind == 33:
                number, sequence = hevc_sequence(nal)
                sequences[number] = sequence
            elif kind == 34:
                number, picture_set = hevc_picture_set(nal)
                picture_sets[number] = picture_set
            elif kind < 32 and (missing := pictures.add(nal, hevc_references(nal, picture_sets, sequences))):
                return missing
    except Unreadable as error:
        return f"headers of HEVC cannot be read: {error}"
    return ""


class _KeptPictures:
    """The decoded pictures from which later ones may be predicted, by their order counts."""

    def __init__(self) -> None:
        self._kept: set[int] | None = None
        self._anchor = 0
        """The order count from which the next one is told (8.3.1)."""

    def add(self, nal: bytes, named: HevcReferences) -> str:
        """Decode a picture, of which `nal` is the first slice. Returns what is missing for it."""
        kind, layer = nal[0] >> 1 & 63, nal[1] & 7
        span = 1 << named.bits
        if self._kept is None or kind in RESETS:
            self._kept = set()
            count = named.low
        else:
            count = self._anchor + (named.low - self._anchor + span // 2) % span - span // 2
        kept = {count}
        for order, used in _order_counts(named, count, self._kept):
            if order in self._kept:
                kept.add(order)
            elif used:
                return f"reference pictures are missing: picture {count} is predicted from {order}"
        self._kept = kept
        if layer == 1 and kind not in LEADING and (kind & 1 or kind >= 16):
            self._anchor = count
        return ""


def _order_counts(named: HevcReferences, count: int, kept: set[int]) -> Iterator[tuple[int, bool]]:
    """Yield the order counts of the pictures that picture `count` names, and whether it uses them (8.3.2)."""
    for difference, used in named.short_term:
        yield count + difference, used
    span = 1 << named.bits
    for picture in named.long_term:
        if picture.cycles is None:
            yield next((order for order in kept if order % span == picture.low), picture.low), picture.used
        else:
            yield count - count % span - picture.cycles * span + picture.low, picture.used
