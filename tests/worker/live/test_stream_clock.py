"""The time of day of chunks: the camera's while that is sane, else that of arrival, and never backwards."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shared.chunks import SECOND
from worker.live.stream_clock import WallClock

NOW = 1_800_000_000 * SECOND
HOUR, DAY = 3600 * SECOND, 86_400 * SECOND


def clock(**options: int) -> WallClock:
    """A clock that has seen a picture of time 0 arrive at NOW."""
    made = WallClock(**options)
    made.arrived(0, NOW)
    return made


def test_without_reports_it_is_that_of_arrival() -> None:
    wall = clock()
    assert wall.span(0, SECOND) == (NOW, NOW + SECOND)
    assert wall.source == "arrival"


def test_with_reports_it_is_the_cameras() -> None:
    wall = clock()
    wall.reported(0, NOW + HOUR, 1)
    assert wall.span(0, SECOND) == (NOW + HOUR, NOW + HOUR + SECOND)
    assert wall.source == "camera"


def test_a_camera_that_is_wrong_by_years_is_not_believed() -> None:
    for years in (-16, 10):
        wall = clock()
        wall.reported(0, NOW + years * 365 * DAY, 1)
        assert wall.span(0, SECOND) == (NOW, NOW + SECOND)
        assert wall.source == "arrival"


def test_how_wrong_a_camera_may_be_is_a_setting() -> None:
    wall = clock(tolerance=60 * SECOND)
    wall.reported(0, NOW + HOUR, 1)
    assert wall.span(0, 1)[0] == NOW
    wall.reported(SECOND, NOW + 31 * SECOND, 2)
    assert wall.span(SECOND, SECOND)[0] == NOW + 31 * SECOND


def test_what_is_written_into_pictures_wins() -> None:
    wall = clock()
    wall.reported(0, NOW + HOUR, 1)
    wall.said(0, NOW - HOUR)
    wall.said(SECOND, NOW + DAY)
    assert wall.span(0, SECOND)[0] == NOW - HOUR
    assert wall.source == "picture"


def test_late_reports_count_from_then_on() -> None:
    wall = clock()
    assert wall.span(0, SECOND)[0] == NOW
    wall.reported(2 * SECOND, NOW + 7 * SECOND, 1)
    assert wall.span(2 * SECOND, 3 * SECOND)[0] == NOW + 7 * SECOND
    assert wall.source == "camera"


def test_late_reports_of_a_slow_clock_do_not_put_chunks_back() -> None:
    """The chunks before had the times of their arrival."""
    wall = clock()
    wall.span(0, 2 * SECOND)
    wall.reported(2 * SECOND, NOW - 3 * SECOND, 1)
    assert wall.span(2 * SECOND, 4 * SECOND) == (NOW + 2 * SECOND, NOW + 4 * SECOND)
    before = wall.source
    assert wall.span(10 * SECOND, 12 * SECOND)[0] == NOW + 5 * SECOND
    assert [before, wall.source] == ["arrival", "camera"]


def test_a_jump_is_believed_when_another_report_confirms_it() -> None:
    wall = clock()
    wall.reported(0, NOW, 1)
    wall.reported(SECOND, NOW + HOUR, 2)
    wall.reported(2 * SECOND, NOW + HOUR + SECOND, 2)
    assert wall.span(2 * SECOND, 3 * SECOND)[0] == NOW + 2 * SECOND
    wall.reported(4 * SECOND, NOW + HOUR + 3 * SECOND, 3)
    assert wall.span(4 * SECOND, 5 * SECOND)[0] == NOW + HOUR + 3 * SECOND


def test_a_report_that_is_wrong_once_changes_nothing() -> None:
    wall = clock()
    wall.reported(0, NOW, 1)
    wall.reported(SECOND, NOW - HOUR, 2)
    wall.reported(2 * SECOND, NOW + 2 * SECOND, 3)
    wall.reported(3 * SECOND, NOW - HOUR, 4)
    assert wall.span(3 * SECOND, 4 * SECOND)[0] == NOW + 3 * SECOND


def test_a_clock_that_is_set_back_does_not_put_chunks_back() -> None:
    wall = clock()
    wall.reported(0, NOW, 1)
    wall.span(0, SECOND)
    for report in (2, 3, 4):
        wall.reported(report * SECOND, NOW - HOUR + report * SECOND, report)
    assert wall.span(5 * SECOND, 6 * SECOND) == (NOW + 5 * SECOND, NOW + 6 * SECOND)


def test_drift_is_followed() -> None:
    wall = clock()
    for second in range(100):
        wall.reported(second * SECOND, NOW + second * SECOND * 1001 // 1000, second + 1)
    assert wall.span(99 * SECOND, 100 * SECOND)[0] == NOW + 99 * SECOND * 1001 // 1000


def test_chunks_go_on_after_those_of_the_connection_before() -> None:
    wall = clock(after=NOW + 5 * SECOND)
    wall.reported(0, NOW - HOUR, 1)
    assert wall.span(0, SECOND) == (NOW + 5 * SECOND, NOW + 6 * SECOND)


@given(
    events=st.lists(
        st.tuples(st.integers(-(10**15), 10**15), st.integers(-(10**12), 10**12), st.integers(0, 3)),
        max_size=30,
    )
)
def test_whatever_reports_say_chunks_keep_order_and_length(events: list[tuple[int, int, int]]) -> None:
    wall = clock()
    spans = []
    for number, (reported, late, reports) in enumerate(events):
        start = number * SECOND
        wall.arrived(start, NOW + start + late)
        wall.reported(start, NOW + start + reported, reports)
        spans.append(wall.span(start, start + SECOND * 7 // 8))
    assert all(end - start == SECOND * 7 // 8 for start, end in spans)
    assert all(after[0] >= before[1] for before, after in pairwise(spans))
