"""Whether a reference picture is missing from packets of H.264, which a GPU's decoder conceals without a
word.

Reference pictures are numbered (ITU-T H.264, 7.4.3, frame_num): each has the number after that of the
reference before it, unless the stream says that gaps are allowed. Pictures that are no reference carry the
next number and may be left out."""

from __future__ import annotations

from collections.abc import Iterable

from worker.media.decoder.selection.h264_headers import SequenceHead, sequence_head, slice_head


def missing_reference(nals: Iterable[bytes]) -> str:
    """What is missing among these NAL units of consecutive pictures, in decoding order; empty if nothing is
    known to be. Their first `SET_BYTES` bytes are enough."""
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
