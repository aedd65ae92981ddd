import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.chunks import SECOND
from shared.timestamps import format_offset, format_timestamp, parse_timestamp


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (10 * SECOND, "1970-01-01T00:00:10.000Z"),
        (1_717_957_931_123_999_999, "2024-06-09T18:32:11.123Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
    ],
)
def test_milliseconds_are_truncated(ns: int, text: str) -> None:
    assert format_timestamp(ns) == text


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_round_trip(milliseconds: int) -> None:
    ns = milliseconds * 1_000_000
    text = format_timestamp(ns)
    assert len(text) == 24
    assert parse_timestamp(text) == ns


@pytest.mark.parametrize("text", ["2024-02-30T00:00:00.000Z", "2024-01-01", "2024-01-01T25:00:00.000Z", ""])
def test_an_impossible_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_timestamp(text)


def test_times_after_the_year_9999_do_not_fit() -> None:
    with pytest.raises(OverflowError):
        format_timestamp(10**21)


@pytest.mark.parametrize(
    ("ns", "text"), [(0, "0.0"), (10 * SECOND, "10.0"), (20_100_000_000, "20.1"), (12_345_000_000, "12.345")]
)
def test_offsets(ns: int, text: str) -> None:
    assert format_offset(ns) == text
