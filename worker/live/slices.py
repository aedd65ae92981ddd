"""What the slices of a picture say: whether they are intra-coded, and which field they are of."""

from collections.abc import Sequence

from worker.media.decoder.selection.bits import Bits
from worker.media.decoder.selection.h264_headers import (
    SLICE_BYTES,
    SequenceHead,
    SliceHead,
    picture_set_numbers,
    picture_set_of,
    plain,
    sequence_head,
    slice_head,
)

MOST_SETS = 256


class H264Slices:
    """Reads slice headers by the parameter sets seen so far."""

    def __init__(self) -> None:
        self.interlaced = False
        """Whether pictures may be fields."""
        self._sequences: dict[int, SequenceHead] = {}
        self._pictures: dict[int, int] = {}

    def learn(self, nal: bytes) -> None:
        """Take a parameter set."""
        if nal[0] & 31 == 7:
            number, head = sequence_head(nal)
            if number < MOST_SETS:
                self._sequences[number] = head
            self.interlaced = any(sequence.interlaced for sequence in self._sequences.values())
        elif nal[0] & 31 == 8:
            number, sequence = picture_set_numbers(nal)
            if number < MOST_SETS:
                self._pictures[number] = sequence

    def heads(self, nals: Sequence[bytes]) -> list[SliceHead]:
        """Return the heads of a picture's slices, without those whose parameter sets are not known."""
        found = []
        for nal in nals:
            if nal[0] & 31 in (1, 2, 5):
                sequence = self._sequences.get(self._pictures.get(picture_set_of(nal), -1))
                if sequence is not None:
                    found.append(slice_head(nal, sequence))
        return found


def is_intra_hevc(nals: Sequence[bytes], picture_sets: dict[int, bytes]) -> bool:
    """Whether the first slice of an H.265 picture is intra-coded (ITU-T H.265, 7.3.6.1)."""
    for nal in nals:
        kind = nal[0] >> 1 & 63
        if kind > 31:
            continue
        bits = Bits(plain(nal[1:SLICE_BYTES]))
        if not bits.read(1):
            return False
        if 16 <= kind <= 23:
            bits.read(1)
        picture_set = picture_sets.get(bits.exp_golomb())
        if picture_set is None:
            return False
        fields = Bits(plain(picture_set[1:SLICE_BYTES]))
        fields.exp_golomb()  # pps_pic_parameter_set_id
        fields.exp_golomb()  # pps_seq_parameter_set_id
        fields.read(2)
        bits.read(fields.read(3))  # num_extra_slice_header_bits
        return bits.exp_golomb() == 2
    return False
