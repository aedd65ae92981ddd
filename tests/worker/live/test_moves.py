"""When a session goes to another worker: at the end of a chunk that is not too soon."""

import time

import pytest

from shared.chunks import SECOND
from shared.live_records import Move, read_move
from worker.live.chunker import Cut
from worker.live.moves import LEAD, Departure

BEGAN = 1_800_000_000 * SECOND
DURATION = 4 * SECOND


def cut(number: int) -> Cut:
    start = number * DURATION
    end = start + DURATION - SECOND // 30
    return Cut(start, end, BEGAN + start, BEGAN + end, "h264", 0, 0, 120, 120, [])


@pytest.fixture
def departure() -> Departure:
    made = Departure(DURATION)
    made.taken(cut(0))
    return made


def test_the_moment_is_the_end_of_a_chunk_that_is_not_too_soon(departure: Departure) -> None:
    departure.asked("w/1")
    move = departure.move
    assert move
    assert move.token == "w/1"
    assert (move.at - BEGAN) % DURATION == 0
    last = cut(0).wall_end
    assert last + LEAD <= move.at <= last + LEAD + DURATION + SECOND


def test_the_moment_is_counted_from_now(departure: Departure, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.monotonic_ns() + 100 * SECOND
    monkeypatch.setattr(time, "monotonic_ns", lambda: later)
    departure.asked("w/1")
    assert departure.move
    assert 0 <= departure.move.at - (cut(0).wall_end + 100 * SECOND + LEAD) < DURATION + SECOND


def test_the_chunk_before_it_is_the_last_one(departure: Departure) -> None:
    assert departure.due(cut(5)) == "later", "nobody asks"
    departure.move = Move("w/1", BEGAN + 3 * DURATION)
    assert [departure.due(cut(number)) for number in range(4)] == ["later", "later", "now", "missed"]


def test_before_the_first_chunk_no_moment_is_known() -> None:
    departure = Departure(DURATION)
    departure.asked("w/1")
    assert departure.move is None


def test_a_plan_stands_until_it_is_declined_or_withdrawn(departure: Departure) -> None:
    departure.asked("w/1")
    planned = departure.move
    departure.taken(cut(1))
    departure.asked("w/1")
    assert departure.move == planned
    departure.decline()
    departure.asked("w/1")
    assert departure.move is None, "the same is not planned again"
    departure.asked("v/2")
    assert departure.move
    assert (departure.move.token, departure.move.mover) == ("v/2", "v")
    departure.asked("")
    assert departure.move is None


def test_a_time_that_was_told_of_another_move_is_none() -> None:
    assert read_move("w/1 77", "w/1") == Move("w/1", 77)
    assert read_move("w/0 77", "w/1") == read_move("", "w/1") == read_move("w/1 x", "w/1") == Move("w/1")
