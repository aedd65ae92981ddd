"""The one text form of a time: UTC, milliseconds truncated, `2024-06-09T18:32:11.123Z`."""

from datetime import UTC, datetime, timedelta

from shared.chunks import SECOND

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_timestamp(ns: int) -> str:
    """Nanoseconds since 1970 as `YYYY-MM-DDTHH:MM:SS.mmmZ`, milliseconds truncated.

    Raises OverflowError beyond the year 9999.
    """
    moment = _EPOCH + timedelta(milliseconds=ns // 1_000_000)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z".rjust(24, "0")


def parse_timestamp(text: str) -> int:
    """Nanoseconds since 1970 of a time written as `format_timestamp` does. Raises ValueError."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds * 1000


def format_offset(ns: int) -> str:
    """Nanoseconds from the start of a file as decimal seconds: `0.0`, `10.0`, `20.1`."""
    return str(ns / SECOND)
