import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.results import End, Entry, Facts, Result, from_fields, pack, to_fields, unpack

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NS = st.integers(-(2**62), 2**62)
SECONDS = st.none() | st.floats(0, 1e9)
RESULTS = st.builds(
    Result,
    chunk=st.integers(0, 2**53),
    start=NS,
    end=NS,
    wall_start=st.none() | NS,
    wall_end=st.none() | NS,
    vector=st.binary(max_size=40),
    frame_times=st.lists(NS, max_size=8),
    decode_latency_ms=SECONDS,
    inference_latency_ms=SECONDS,
    chunk_latency_ms=SECONDS,
    queue_time_s=SECONDS,
    processing_latency_s=SECONDS,
    facts=TEXT,
    error=TEXT,
)
ENDS = st.builds(
    End,
    state=st.sampled_from(["running", "done", "failed", "cancelled"]),
    code=TEXT,
    status=st.integers(0, 599),
    error=TEXT,
)


def raw(fields: list[bytes | str]) -> dict[bytes, bytes]:
    """The fields as Redis gives them back."""
    parts = [part.encode() if isinstance(part, str) else part for part in fields]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def notice(entries: list[tuple[str, Entry]]) -> bytes:
    """The notification that the Lua scripts make."""
    packed = [(entry_id, pack(to_fields(entry))) for entry_id, entry in entries]
    return b"".join(f"{entry_id} {len(body)}\n".encode() + body for entry_id, body in packed)


@given(RESULTS | ENDS)
def test_every_entry_reads_back_as_it_was_written(entry: Entry) -> None:
    assert from_fields(raw(to_fields(entry))) == entry


@given(
    st.lists(st.tuples(st.from_regex(r"[0-9]{1,13}-[0-9]{1,4}", fullmatch=True), RESULTS | ENDS), max_size=5)
)
def test_every_notification_reads_back(entries: list[tuple[str, Entry]]) -> None:
    assert unpack(notice(entries)) == entries


def test_a_notification_may_hold_what_looks_like_its_own_headings() -> None:
    entries: list[tuple[str, Entry]] = [
        ("1-0", Result(chunk=0, vector=b"2-0 5\n" * 3, error="1-1 3\nabc")),
        ("1-1", End(state="done")),
    ]
    assert unpack(notice(entries)) == entries


def test_an_empty_result_takes_no_room() -> None:
    assert to_fields(Result(chunk=0)) == ["type", "result", "chunk", "0", "start", "0", "end", "0"]
    assert to_fields(End(state="done")) == ["type", "end", "state", "done", "status", "0"]


def test_zero_is_a_value_and_none_is_not() -> None:
    stored = raw(to_fields(Result(chunk=3, wall_start=0, queue_time_s=0.0)))
    assert (stored[b"wall_start"], stored[b"queue_time_s"]) == (b"0", b"0.0")
    assert b"wall_end" not in stored


def test_a_vector_lies_there_as_little_endian_floats() -> None:
    vector = struct.pack("<3f", 1.0, -0.5, 2.0**-20)
    stored = raw(to_fields(Result(chunk=0, vector=vector)))
    assert stored[b"vector"] == vector
    entry = from_fields(stored)
    assert isinstance(entry, Result)
    assert struct.unpack("<3f", entry.vector) == (1.0, -0.5, 2.0**-20)


@pytest.mark.parametrize(
    "entry", [Result(chunk=1, vector=b"\xff\x00"), End(state="failed", error="x", status=500)]
)
def test_fields_of_a_newer_replica_are_ignored_whatever_they_hold(entry: Entry) -> None:
    newer = {b"patch_vectors": b"\xff\xfe\x00", b"quality": b"0.5", b"mask": b""}
    assert from_fields({**raw(to_fields(entry)), **newer}) == entry


def test_a_result_of_an_older_replica_has_defaults() -> None:
    assert from_fields({b"type": b"result", b"chunk": b"4"}) == Result(chunk=4)


def test_an_entry_without_its_chunk_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="chunk"):
        from_fields({b"type": b"result", b"start": b"4"})


@given(
    st.builds(
        Facts,
        kind=st.sampled_from(["video", "image"]),
        codec=TEXT,
        width=st.integers(0, 2**31),
        height=st.integers(0, 2**31),
        duration=NS,
        frame_rate=TEXT,
    )
)
def test_facts_travel_inside_a_result(facts: Facts) -> None:
    entry = from_fields(raw(to_fields(Result(chunk=0, facts=msgspec.json.encode(facts).decode()))))
    assert isinstance(entry, Result)
    assert msgspec.json.decode(entry.facts, type=Facts) == facts
