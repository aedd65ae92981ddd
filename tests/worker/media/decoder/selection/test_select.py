"""Choosing frames and packets, against the rules written out the long way."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.chunks import Chunk, frame_targets
from worker.media.decoder.selection.bitstream import ALONE, Coding
from worker.media.decoder.selection.select import Coded, Irregular, Sampler, Splitter, Unit

KEY = Coding(entry=True, closed=True)
OPEN_KEY = Coding(entry=True)
P, B = Coding(), Coding(reference=False)


def packets(*described: tuple[int | None, Coding]) -> list[Coded[str]]:
    """Packets named by their times."""
    return [Coded(time, coding, f"{time}", 10) for time, coding in described]


def split(coded: Sequence[Coded[str]], held: int = 10**6) -> list[Unit[str]]:
    """All units of a stream that starts and ends with these packets."""
    splitter: Splitter[str] = Splitter(held)
    return [unit for one in coded for unit in splitter.push(one)] + splitter.finish()


# Frames of a chunk ----------------------------------------------------------------------------------------


def chosen(times: Sequence[int], chunk: Chunk, count: int) -> list[int]:
    sampler = Sampler(chunk, count)
    return [time for time in times if sampler.take(time)]


def test_each_target_gets_the_first_frame_at_or_after_it() -> None:
    assert chosen(range(0, 1000, 30), Chunk(0, 0, 800), 8) == [0, 120, 210, 300, 420, 510, 600, 720]


def test_a_frame_serves_all_targets_before_it() -> None:
    assert chosen([0, 350, 700], Chunk(0, 0, 800), 8) == [0, 350, 700]


def test_a_frame_at_the_end_is_taken_if_a_target_is_left() -> None:
    assert chosen([0, 800], Chunk(0, 0, 800), 2) == [0, 800]
    assert chosen([0, 400, 800], Chunk(0, 0, 800), 2) == [0, 400]


def test_a_frame_beyond_the_end_ends_the_chunk() -> None:
    assert chosen([0, 801, 790], Chunk(0, 0, 800), 2) == [0]


def test_a_chunk_may_have_no_frame() -> None:
    assert chosen([900, 1000], Chunk(0, 0, 800), 8) == []


def test_an_empty_chunk_takes_the_frame_at_its_instant() -> None:
    assert chosen([50, 100, 150], Chunk(0, 100, 100), 4) == [100]


@given(
    st.lists(st.integers(0, 10**10), max_size=60, unique=True),
    st.integers(0, 10**10),
    st.integers(0, 10**10),
    st.integers(1, 16),
)
def test_chosen_frames_follow_from_the_targets(times: list[int], start: int, length: int, count: int) -> None:
    """Every target that has a frame between itself and the chunk's end is served by the first such frame."""
    chunk = Chunk(0, start, start + length)
    firsts = [
        min((time for time in times if target <= time), default=None)
        for target in frame_targets(chunk.start, chunk.end, count)
    ]
    expected = sorted({time for time in firsts if time is not None and time <= chunk.end})
    assert chosen(sorted(times), chunk, count) == expected


# Packets of a unit ----------------------------------------------------------------------------------------


def test_what_follows_the_last_wanted_frame_is_left_out() -> None:
    (unit,) = split(packets((0, KEY), (10, P), (20, P), (30, P)))
    assert unit.needed([10]) == ["0", "10"]


def test_pictures_that_are_no_references_are_left_out() -> None:
    (unit,) = split(packets((0, KEY), (30, P), (10, B), (20, B), (60, P), (40, B), (50, B)))
    assert unit.needed([20]) == ["0", "30", "20"]
    assert unit.needed([0, 50]) == ["0", "30", "60", "50"]


def test_nothing_is_needed_for_no_frame() -> None:
    (unit,) = split(packets((0, KEY), (10, P)))
    assert unit.needed([]) == []


def test_a_reference_of_a_higher_layer_is_left_out_of_lower_ones() -> None:
    high = Coding(layer=1)
    (unit,) = split(packets((0, KEY), (40, P), (20, high), (10, B), (30, B), (80, P)))
    assert unit.needed([80]) == ["0", "40", "80"]
    assert unit.needed([20]) == ["0", "40", "20"]


def test_a_non_reference_may_be_needed_by_a_higher_layer() -> None:
    """ITU-T H.265: a sub-layer non-reference picture may be a reference for higher sub-layers."""
    (unit,) = split(packets((0, KEY), (20, B), (10, Coding(layer=1, reference=False))))
    assert unit.needed([10]) == ["0", "20", "10"]


def test_a_picture_that_stands_alone_is_only_there_for_itself() -> None:
    alone = Coding(reference=False, layer=ALONE)
    (unit,) = split(packets((0, KEY), (10, alone), (20, P)))
    assert unit.needed([20]) == ["0", "20"]
    assert unit.needed([10]) == ["0", "10"]


@st.composite
def gops(draw: st.DrawFn) -> tuple[list[Coded[int]], dict[int, set[int]]]:
    """A GOP with real dependencies, and what its packets say of themselves, which is true of those."""
    count = draw(st.integers(1, 30))
    times = draw(st.permutations(range(1, count + 1)))
    coded, needs = [Coded(0, KEY, 0, 1)], {0: set[int]()}
    for index, time in enumerate(times, start=1):
        layer = draw(st.integers(0, 2))
        usable = [
            earlier.packet
            for earlier in coded
            if earlier.coding.layer < layer or (earlier.coding.layer == layer and earlier.coding.reference)
        ]
        needs[index] = set(draw(st.lists(st.sampled_from(usable), max_size=3))) if usable else set()
        coded.append(Coded(time, Coding(reference=draw(st.booleans()), layer=layer), index, 1))
    return coded, needs


@given(gops(), st.data())
def test_everything_that_a_kept_packet_depends_on_is_kept(
    gop: tuple[list[Coded[int]], dict[int, set[int]]], data: st.DataObject
) -> None:
    coded, needs = gop
    wanted = data.draw(st.sets(st.sampled_from([one.time for one in coded if one.time is not None])))
    needed = Unit(coded, []).needed(wanted)
    assert needed == sorted(needed)
    assert {one.packet for one in coded if one.time in wanted} <= set(needed)
    assert all(needs[packet] <= set(needed) for packet in needed)


# Units of a stream ----------------------------------------------------------------------------------------


def test_a_closed_entry_ends_a_unit() -> None:
    first, second = split(packets((0, KEY), (10, P), (20, KEY), (30, P)))
    assert (first.times(), second.times()) == ([0, 10], [20, 30])


def test_leading_pictures_belong_to_the_unit_before_them() -> None:
    first, second = split(packets((0, OPEN_KEY), (10, P), (40, OPEN_KEY), (20, P), (30, B), (50, P)))
    assert (first.times(), second.times()) == ([0, 10, 20, 30], [40, 50])
    assert first.needed([30]) == ["0", "10", "40", "20", "30"]
    assert first.needed([10]) == ["0", "10"]


def test_leading_references_are_decoded_when_decoding_begins_at_their_entry() -> None:
    """H.264 numbers its references, and a decoder that misses one takes the next for another."""
    second = split(packets((0, OPEN_KEY), (40, OPEN_KEY), (20, P), (30, B), (50, P)))[1]
    assert second.needed([50]) == ["40", "20", "50"]


def test_skipped_leading_pictures_are_not_decoded_when_decoding_begins_at_their_entry() -> None:
    """HEVC's RASL pictures: a decoder that begins at their entry does not take them."""
    rasl, trailing = Coding(leading=True), Coding(leading=False)
    second = split(packets((0, OPEN_KEY), (40, OPEN_KEY), (20, rasl), (30, rasl), (50, trailing)))[1]
    assert second.times() == [40, 50]
    assert second.needed([50]) == ["40", "50"]


def test_two_entries_in_a_row_are_two_units() -> None:
    units = split(packets((0, OPEN_KEY), (10, OPEN_KEY), (20, KEY), (30, OPEN_KEY)))
    assert [unit.times() for unit in units] == [[0], [10], [20], [30]]


def test_packets_before_the_first_entry_are_dropped() -> None:
    (unit,) = split(packets((0, P), (10, B), (20, KEY)))
    assert unit.times() == [20]


def test_hidden_frames_are_decoded_but_not_offered() -> None:
    hidden = Coding(shown=False)
    (unit,) = split(packets((0, KEY), (5, hidden), (10, P)))
    assert unit.times() == [0, 10]
    assert unit.needed([10]) == ["0", "5", "10"]


def test_units_of_any_stream_hold_every_frame_once_and_in_order() -> None:
    stream = [(time * 100 + at, coding) for time in range(5) for at, coding in ((0, KEY), (30, P), (10, B))]
    units = split(packets(*stream))
    times = [time for unit in units for time in unit.times()]
    assert times == sorted(time for time, _ in stream)


@pytest.mark.parametrize(
    "stream",
    [
        packets((0, KEY), (None, P)),
        packets((0, KEY), (10, P), (10, B)),
        packets((0, KEY), (100, P), (50, KEY)),
        packets((0, OPEN_KEY), (10, OPEN_KEY), (None, P)),
    ],
    ids=["no time", "the same time twice", "backwards", "no time after an open entry"],
)
def test_irregular_times_are_noticed(stream: list[Coded[str]]) -> None:
    with pytest.raises(Irregular):
        split(stream)


def test_a_unit_that_does_not_end_is_noticed() -> None:
    endless = packets((0, KEY), *((10 * i, P) for i in range(1, 50)))
    with pytest.raises(Irregular, match="more than 300 bytes"):
        split(endless, held=300)
    assert len(split(endless, held=500)) == 1


def test_finished_units_are_not_held() -> None:
    assert len(split(packets(*((10 * i, KEY) for i in range(100))), held=30)) == 100
