"""What is read of HEVC's parameter sets and slice headers: which pictures a picture is predicted from."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from worker.media.decoder.selection.bits import Bits

SLICE_BYTES = 200
"""Enough of a slice for the part of its head that is read."""
SET_BYTES = 4000
MOST_SETS, MOST_PICTURES, MOST_LONG_TERM, MOST_SUB_LAYERS = 64, 16, 33, 7
"""ITU-T H.265, 7.4.3.2, 7.4.8 and 7.4.7.1."""
IDR = (19, 20)

ShortTermSet: TypeAlias = tuple[tuple[int, bool], ...]
"""Pictures by the difference of their order count from the current one's, first those before it, the nearest
first; and whether the current picture, not only later ones, is predicted from them."""


class Unreadable(ValueError):
    """A header that says what the standard does not allow, or ends too early."""


class HevcSequence(NamedTuple):
    """A sequence parameter set: low `bits` of the order count in slices, the sets of pictures that slices
    name by number, and the long-term pictures (low bits, whether used), None where there can be none.
    `planes` says that slices name their colour plane."""

    bits: int
    planes: bool
    sets: tuple[ShortTermSet, ...]
    long_term: tuple[tuple[int, bool], ...] | None


class HevcPictureSet(NamedTuple):
    """A picture parameter set: its sequence parameter set, and what slice headers hold because of it."""

    sequence: int
    has_output_flag: bool
    extra_bits: int


class LongTerm(NamedTuple):
    """A long-term picture: the low bits of its order count, how many times their range it lies back (None: it
    does not say), and whether the current picture is predicted from it."""

    low: int
    cycles: int | None
    used: bool


class HevcReferences(NamedTuple):
    """What a slice header says of the pictures that are kept for prediction; `low` are the low `bits` of this
    picture's order count."""

    bits: int
    low: int
    short_term: ShortTermSet
    long_term: tuple[LongTerm, ...]


def hevc_sequence(nal: bytes) -> tuple[int, HevcSequence]:
    """Return a sequence parameter set's number, and the set (ITU-T H.265, 7.3.2.2.1). Raises Unreadable."""
    bits = Bits(_payload(nal[:SET_BYTES]))
    bits.read(4)
    layers = bits.read(3)
    bits.read(1)
    _skip_profile(bits, layers)
    number, chroma = bits.exp_golomb(), bits.exp_golomb()
    planes = chroma == 3 and bool(bits.read(1))
    _skip(bits, 2)
    _skip(bits, 4 if bits.read(1) else 0)
    _skip(bits, 2)
    order = _at_most(12, bits.exp_golomb()) + 4
    _skip(bits, 3 * (layers + 1 if bits.read(1) else 1))
    _skip(bits, 6)
    if bits.read(1) and bits.read(1):
        _skip_scaling_lists(bits)
    bits.read(2)
    if bits.read(1):
        bits.read(8)
        _skip(bits, 2)
        bits.read(1)
    sets: list[ShortTermSet] = []
    for _ in range(_at_most(MOST_SETS, bits.exp_golomb())):
        sets.append(_short_term_set(bits, sets, last=False))
    long_term = None
    if bits.read(1):
        count = _at_most(MOST_LONG_TERM, bits.exp_golomb())
        long_term = tuple((bits.read(order), bool(bits.read(1))) for _ in range(count))
    return number, HevcSequence(order, planes, tuple(sets), long_term)


def hevc_picture_set(nal: bytes) -> tuple[int, HevcPictureSet]:
    """Return a picture parameter set's number, and the set (7.3.2.3.1)."""
    bits = Bits(_payload(nal[:SLICE_BYTES]))
    number, sequence = bits.exp_golomb(), bits.exp_golomb()
    bits.read(1)
    return number, HevcPictureSet(sequence, bool(bits.read(1)), bits.read(3))


def hevc_references(
    nal: bytes, picture_sets: dict[int, HevcPictureSet], sequences: dict[int, HevcSequence]
) -> HevcReferences:
    """Return what the first slice of a picture says of references (7.3.6.1). Raises Unreadable."""
    kind = nal[0] >> 1 & 63
    bits = Bits(_payload(nal[:SLICE_BYTES]))
    if not bits.read(1):
        raise Unreadable("a picture does not begin with its first slice")
    bits.read(1 if 16 <= kind <= 23 else 0)
    try:
        picture_set = picture_sets[bits.exp_golomb()]
        sequence = sequences[picture_set.sequence]
    except KeyError:
        raise Unreadable("a slice names a parameter set that is not there") from None
    bits.read(picture_set.extra_bits)
    bits.exp_golomb()  # slice_type
    bits.read(picture_set.has_output_flag + 2 * sequence.planes)
    if kind in IDR:
        return HevcReferences(sequence.bits, 0, (), ())
    low = bits.read(sequence.bits)
    if not bits.read(1):
        short_term = _short_term_set(bits, list(sequence.sets), last=True)
    else:
        chosen = bits.read(max(0, len(sequence.sets) - 1).bit_length())
        short_term = sequence.sets[_at_most(len(sequence.sets) - 1, chosen)]
    return HevcReferences(sequence.bits, low, short_term, _long_term(bits, sequence))


def _payload(nal: bytes) -> bytes:
    """Return what follows the NAL unit's head, without emulation prevention."""
    return nal[2:].replace(b"\0\0\3", b"\0\0")


def _at_most(most: int, value: int) -> int:
    if not 0 <= value <= most:
        raise Unreadable(f"a number in a header is {value}, where {most} is the largest")
    return value


def _skip(bits: Bits, count: int) -> None:
    for _ in range(count):
        bits.exp_golomb()


def _skip_profile(bits: Bits, layers: int) -> None:
    """7.3.3, with `layers` sub-layers below the highest."""
    bits.read(96)
    present = [(bits.read(1), bits.read(1)) for _ in range(_at_most(MOST_SUB_LAYERS - 1, layers))]
    if layers:
        bits.read(2 * (8 - layers))
    for profile, level in present:
        bits.read(88 * profile + 8 * level)


def _skip_scaling_lists(bits: Bits) -> None:
    """7.3.4."""
    for size in range(4):
        for _ in range(2 if size == 3 else 6):
            if bits.read(1):
                _skip(bits, min(64, 1 << (4 + 2 * size)) + (size > 1))
            else:
                bits.exp_golomb()


def _short_term_set(bits: Bits, sets: list[ShortTermSet], *, last: bool) -> ShortTermSet:
    """7.3.7 and 7.4.8: the set after `sets`; `last` in a slice header."""
    if sets and bits.read(1):
        back = bits.exp_golomb() + 1 if last else 1
        predicted = sets[len(sets) - 1 - _at_most(len(sets) - 1, back - 1)]
        backwards = bits.read(1)
        shift = (1 - 2 * backwards) * (bits.exp_golomb() + 1)
        found = []
        for difference, _ in (*predicted, (0, False)):
            used = bool(bits.read(1))
            if used or bits.read(1):
                found.append((difference + shift, used))
    else:
        before, after = (_at_most(MOST_PICTURES, bits.exp_golomb()) for _ in range(2))
        found = [*_listed(bits, before, -1), *_listed(bits, after, 1)]
    _at_most(MOST_PICTURES, len(found))
    earlier = sorted((entry for entry in found if entry[0] < 0), reverse=True)
    return (*earlier, *sorted(entry for entry in found if entry[0] > 0))


def _listed(bits: Bits, count: int, sign: int) -> list[tuple[int, bool]]:
    found, difference = [], 0
    for _ in range(count):
        difference += sign * (bits.exp_golomb() + 1)
        found.append((difference, bool(bits.read(1))))
    return found


def _long_term(bits: Bits, sequence: HevcSequence) -> tuple[LongTerm, ...]:
    if sequence.long_term is None:
        return ()
    known = sequence.long_term
    named = _at_most(MOST_LONG_TERM, bits.exp_golomb()) if known else 0
    count = named + _at_most(MOST_LONG_TERM, bits.exp_golomb())
    found: list[LongTerm] = []
    cycles = 0
    for index in range(count):
        if index < named:
            low, used = known[_at_most(len(known) - 1, bits.read((len(known) - 1).bit_length()))]
        else:
            low, used = bits.read(sequence.bits), bool(bits.read(1))
        if index in (0, named):
            cycles = 0
        has_cycles = bits.read(1)
        cycles += bits.exp_golomb() if has_cycles else 0
        found.append(LongTerm(low, cycles if has_cycles else None, used))
    return tuple(found)
