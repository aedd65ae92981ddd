"""Lines that repeat are written once a minute, with a count."""

import logging

from shared.telemetry.seldom import MOST_KINDS, Seldom

now = [0.0]


def line(event: str, level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    return logging.LogRecord("worker.claims", level, "", 0, {"event": event, **fields}, None, None)


def seldom() -> Seldom:
    now[0] = 0.0
    return Seldom(lambda: now[0])


def test_the_first_passes_and_the_next_minute_tells_how_many_did_not() -> None:
    lines = seldom()
    assert lines.filter(line("redis is away"))
    for _ in range(22):
        assert not lines.filter(line("redis is away", error="reset"))
    now[0] = 60.0
    told = line("redis is away")
    assert lines.filter(told)
    assert told.msg == {"event": "redis is away", "repeated": 22}
    now[0] = 121.0
    told = line("redis is away")
    assert lines.filter(told)
    assert "repeated" not in told.msg


def test_other_events_and_lines_about_a_request_pass() -> None:
    lines = seldom()
    assert lines.filter(line("redis is away"))
    assert lines.filter(line("no heartbeat"))
    assert all(lines.filter(line("request failed", request_id="r")) for _ in range(3))
    assert all(lines.filter(line("claimed", logging.INFO)) for _ in range(3))


def test_lines_of_libraries_count_too() -> None:
    lines = seldom()
    records = [
        logging.LogRecord("aiokafka", logging.ERROR, "", 0, "no broker %s", ("a",), None) for _ in range(3)
    ]
    assert [lines.filter(record) for record in records] == [True, False, False]


def test_what_is_remembered_is_bounded() -> None:
    lines = seldom()
    for number in range(3 * MOST_KINDS):
        assert lines.filter(line(f"event {number}"))
    assert len(lines._last) <= MOST_KINDS
