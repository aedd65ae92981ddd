"""Reads the pictures of a live stream for selection: how each is coded, and which two fields are a frame."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

from worker.live.rtp.access_units import AccessUnit
from worker.live.rtp.sei import SaidTime, read_time, recovery_count, sei_nals
from worker.media.decoder.selection.bits import Bits
from worker.media.decoder.selection.bitstream import START_CODE, Coding, nal_parser, parser
from worker.media.decoder.selection.h264_headers import (
    FRAME,
    SLICE_BYTES,
    SequenceHead,
    SliceHead,
    picture_set_numbers,
    picture_set_of,
    plain,
    sequence_head,
    slice_head,
)

MOST_PARAMETER_SETS = 16
LARGEST_PARAMETER_SET = 4096
MOST_SETS = 256
"""Numbers that parameter sets of H.264 may have."""
_LARGEST_HEADER = 4096


class LivePicture(NamedTuple):
    """One picture. `recovery`: after how many frames everything comes out right when decoding begins here, -1
    if the camera does not say. `head`: the slice head of a picture that is a single field. `said`: the time
    that the camera wrote beside the picture."""

    unit: AccessUnit
    coding: Coding
    recovery: int = -1
    head: SliceHead | None = None
    said: SaidTime | None = None


class PictureReader(Protocol):
    """Reads the pictures of one codec. `parameters` is what a decoder must know before the next one."""

    parameters: bytes

    @property
    def missing(self) -> str:
        """The parameter sets that a decoder needs and that have not come yet; empty if it has all."""

    def read(self, unit: AccessUnit) -> LivePicture:
        """Return the picture."""

    def is_intra(self, picture: LivePicture) -> bool:
        """Return whether a picture is coded without any other, though nothing promises that those after it
        are."""


def picture_reader(codec: str, parameters: bytes) -> PictureReader:
    """Return the reader for a codec by its name in FFmpeg. Raises ValueError for one that is not played."""
    match codec:
        case "h264" | "hevc":
            return NalPictures(codec, parameters)
        case "mpeg4":
            return Mpeg4Pictures(parameters)
        case "mjpeg":
            return JpegPictures()
    raise ValueError(codec)


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


class NalPictures:
    """H.264 and H.265. Remembers the parameter sets in force: a key frame does not always repeat them."""

    def __init__(self, codec: str, parameters: bytes) -> None:
        self.parameters = b""
        self._codec = codec
        self._parse = nal_parser(codec)
        self._sets: dict[tuple[int, int], bytes] = {}
        self._slices = H264Slices()
        self._keep(tuple(nal for nal in parameters.split(START_CODE) if nal))

    def read(self, unit: AccessUnit) -> LivePicture:
        """Return the picture."""
        coding = self._parse(unit.nals)
        if coding.parameters:
            self._keep(coding.parameters)
            coding = coding._replace(parameters=())  # no need to hold them as long as the picture
        sei = sei_nals(unit.nals, self._codec)
        said = read_time(sei, self._codec) if sei else None
        recovery = recovery_count(sei, self._codec) if sei else -1
        head = self._field(unit) if self._codec == "h264" and self._slices.interlaced else None
        return LivePicture(unit, coding, recovery, head, said)

    def _keep(self, sets: tuple[bytes, ...]) -> None:
        before = dict(self._sets)
        for nal in sets:
            if len(nal) > LARGEST_PARAMETER_SET:
                continue
            self._sets[self._name(nal)] = nal
            if self._codec == "h264":
                self._slices.learn(nal)
        while len(self._sets) > MOST_PARAMETER_SETS:
            del self._sets[next(iter(self._sets))]
        if self._sets != before:
            self.parameters = b"".join(START_CODE + nal for _, nal in sorted(self._sets.items()))

    def _name(self, nal: bytes) -> tuple[int, int]:
        """Return what a parameter set replaces: those of its kind and its number."""
        if self._codec == "h264":
            kind, at = nal[0] & 31, 4 if nal[0] & 31 == 7 else 1
            return kind, _exp_golomb_at(nal, at)
        kind = nal[0] >> 1 & 63
        if kind == 32:
            return kind, nal[2] >> 4 if len(nal) > 2 else 0
        return kind, _exp_golomb_at(nal, 2) if kind == 34 else 0

    @property
    def missing(self) -> str:
        """The kinds of parameter sets that have not come yet."""
        needed = {7: "SPS", 8: "PPS"} if self._codec == "h264" else {32: "VPS", 33: "SPS", 34: "PPS"}
        there = {kind for kind, _ in self._sets}
        return " and ".join(name for kind, name in needed.items() if kind not in there)

    def _field(self, unit: AccessUnit) -> SliceHead | None:
        """Return the slice head of a picture that is one field; None of a frame, and where both are there."""
        fields = {head.field: head for head in self._slices.heads(unit.nals)}
        return next(iter(fields.values())) if len(fields) == 1 and FRAME not in fields else None

    def is_intra(self, picture: LivePicture) -> bool:
        """Return whether all its slices are intra-coded; of H.265, the first."""
        nals = picture.unit.nals
        if self._codec == "h264":
            heads = self._slices.heads(nals)
            return bool(heads) and all(head.intra for head in heads)
        sets = {number: nal for (kind, number), nal in self._sets.items() if kind == 34}
        return _is_intra_hevc(nals, sets)


class Mpeg4Pictures:
    """MPEG-4 part 2 (ISO/IEC 14496-2, 6.2)."""

    missing = ""

    def __init__(self, parameters: bytes) -> None:
        self.parameters = parameters
        self._parse = cast("Any", parser("mpeg4", None))  # takes anything with the buffer protocol

    def read(self, unit: AccessUnit) -> LivePicture:
        """Return the picture; its headers are remembered."""
        coding = self._parse(unit.data)
        start = unit.data.find(b"\0\0\1\xb6")
        if 0 < start <= _LARGEST_HEADER and _has_layer(unit.data[:start]):
            self.parameters = unit.data[:start]
        return LivePicture(unit, coding)

    def is_intra(self, picture: LivePicture) -> bool:  # such a picture is an entry already
        """Return whether it is coded without any other."""
        return picture.coding.entry


class JpegPictures:
    """Motion JPEG: every picture is coded without any other."""

    missing = ""
    parameters = b""

    def read(self, unit: AccessUnit) -> LivePicture:
        """Return the picture."""
        return LivePicture(unit, Coding(entry=True, closed=True, reference=False))

    def is_intra(self, picture: LivePicture) -> bool:
        """Return whether it is coded without any other."""
        return picture.coding.entry


class FieldPairs:
    """Puts the two fields of a frame together where they come as two pictures."""

    def __init__(self) -> None:
        self._first: LivePicture | None = None

    def push(self, picture: LivePicture) -> list[LivePicture]:
        """Return the pictures that are whole now."""
        first, self._first = self._first, None
        if first is not None and first.head and picture.head and _is_second(first.head, picture.head):
            return [_joined(first, picture)]
        whole = [first] if first is not None else []
        if picture.head is None:
            return [*whole, picture]
        self._first = picture
        return whole

    def flush(self) -> list[LivePicture]:
        """Return the field that is left when the stream ends."""
        first, self._first = self._first, None
        return [first] if first is not None else []


def _is_second(first: SliceHead, second: SliceHead) -> bool:
    return first.frame == second.frame and first.field != second.field


def _joined(first: LivePicture, second: LivePicture) -> LivePicture:
    unit = first.unit._replace(
        data=first.unit.data + second.unit.data, nals=(*first.unit.nals, *second.unit.nals)
    )
    reference = first.coding.reference or second.coding.reference
    return first._replace(unit=unit, coding=first.coding._replace(reference=reference))


def _is_intra_hevc(nals: Sequence[bytes], picture_sets: dict[int, bytes]) -> bool:
    """Return whether the first slice of an H.265 picture is intra-coded (ITU-T H.265, 7.3.6.1)."""
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


def _exp_golomb_at(nal: bytes, at: int) -> int:
    return Bits(nal[at : at + 8]).exp_golomb()


def _has_layer(data: bytes) -> bool:
    """Return whether headers hold a video object layer, which a decoder needs."""
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        if 0x20 <= data[at + 3] <= 0x2F:
            return True
        at = data.find(b"\0\0\1", at + 3)
    return False
