"""Records in Redis: what people and older replicas read, and what comes back."""

from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.assets import ASSETS, Asset
from shared.fleet import Worker
from shared.live_records import LiveRecord
from shared.records import RecordCodec, added_ms, entry_position, pairs
from shared.requests import RequestRecord
from shared.results import End, Result
from tests.support import served_model

MODEL = served_model(verified=False, created=7)


class Inner(msgspec.Struct, frozen=True):
    """A struct in a field."""

    a: int


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One field of every type that records have."""

    text: str
    choice: Literal["x", "y"] = "x"
    number: int = 0
    share: float | None = None
    off: bool = False
    on: bool = True
    raw: bytes = b""
    numbers: list[int] = []
    names: list[str] = []
    inner: Inner | None = None
    renamed: str = msgspec.field(name="other", default="")
    position: str = "0-0"


CODEC: RecordCodec[Sample] = RecordCodec(Sample)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
SAMPLES = st.builds(
    Sample,
    text=TEXT,
    choice=st.sampled_from(["x", "y"]),
    number=st.integers(-(2**62), 2**62),
    share=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    off=st.booleans(),
    on=st.booleans(),
    raw=st.binary(max_size=9),
    numbers=st.lists(st.integers(-(2**62), 2**62), max_size=4),
    names=st.lists(st.text("ab-", min_size=1), max_size=4),
    inner=st.none() | st.builds(Inner, st.integers(0, 9)),
    renamed=TEXT,
    position=TEXT,
)


def stored(flat: list[bytes | str]) -> dict[bytes, bytes]:
    """The fields as Redis gives them back."""
    return pairs([part.encode() if isinstance(part, str) else part for part in flat])


@given(SAMPLES, st.booleans())
def test_a_record_reads_back_as_it_was_written(sample: Sample, whole: bool) -> None:
    assert CODEC.read(stored(CODEC.fields(sample, whole=whole))) == sample


def test_fields_are_plain_text_for_people_and_empty_ones_are_left_out() -> None:
    sample = Sample(text="a", share=0.5, off=True, on=False, numbers=[1, 2], inner=Inner(3), renamed="r")
    assert CODEC.fields(sample) == [
        "text", "a", "choice", "x", "number", "0", "share", "0.5", "off", "true", "on", "false",
        "numbers", "1,2", "inner", b'{"a":3}', "other", "r", "position", "0-0",
    ]  # fmt: skip
    assert stored(CODEC.fields(Sample(text="a"), whole=True))[b"off"] == b""


def test_what_is_unknown_is_ignored_and_what_is_missing_is_the_default() -> None:
    assert CODEC.read({b"text": b"a", b"of a newer version": b"\xff"}) == Sample(text="a")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "missing required field `text`"),
        ({b"text": b"\xff"}, "text: no UTF-8"),
        ({b"text": b"a", b"number": b"one"}, "number"),
        ({b"text": b"a", b"choice": b"z"}, "choice"),
        ({b"text": b"a", b"inner": b"{"}, "truncated"),
    ],
)
def test_what_cannot_be_read_is_named(fields: dict[bytes, bytes], problem: str) -> None:
    with pytest.raises(msgspec.MsgspecError, match=problem):
        CODEC.read(fields)


def test_what_others_write_is_left_out_and_may_be_given() -> None:
    codec: RecordCodec[Asset] = RecordCodec(Asset, "id", "created")
    fields = stored(codec.fields(Asset(id="a", size=3, created=9)))
    assert not {b"id", b"created"} & set(fields)
    assert codec.read(fields, id="b") == Asset(id="b", size=3)


# What the release before wrote, which a replica of it still writes and reads ----------------------------


def test_a_replica_of_the_release_before_is_understood() -> None:
    asset = {b"id": b"a", b"size": b"5", b"probed": b"1", b"temporary": b"", b"frame_rate": b""}
    assert ASSETS.read(asset) == Asset(id="a", size=5, probed=True)
    worker: RecordCodec[Worker] = RecordCodec(Worker)
    record = {b"name": b"w", b"state": b"ready", b"healthy": b"false", b"pid": b"7", b"model": b"null"}
    assert worker.read(record) == Worker(name="w", state="ready", healthy=False, pid=7)
    served = worker.read({**record, b"model": msgspec.json.encode(MODEL)})
    assert served.model == MODEL
    live: RecordCodec[LiveRecord] = RecordCodec(LiveRecord)
    assert live.read({b"request": b"r", b"owner": b"", b"next": b"4", b"stop": b"1"}) == LiveRecord(
        request="r", next=4
    )
    requests: RecordCodec[RequestRecord] = RecordCodec(RequestRecord, "id")
    fields = {b"kind": b"video", b"planned": b"2", b"assets": b"a,b", b"state": b"running", b"done": b"1"}
    assert requests.read(fields, id="r").assets == ["a", "b"]


def read_as_before(kind: str, fields: dict[bytes, bytes]) -> Any:
    """How the release before reads: booleans of assets by whether they are empty, workers' values as JSON."""
    unknown = {b"vector", b"joined", b"last_frames"}
    texts = {name.decode(): value.decode() for name, value in fields.items() if name not in unknown}
    if kind == "asset":
        values: dict[str, object] = {**texts, **{n: bool(texts.get(n)) for n in ("probed", "temporary")}}
        return msgspec.convert(values, Asset, strict=False)
    plain = {"name", "state", "detail", "host", "backend", "gpu"}
    return msgspec.convert({n: v if n in plain else msgspec.json.decode(v) for n, v in texts.items()}, Worker)


def test_a_replica_of_the_release_before_understands() -> None:
    asset = Asset(id="a", size=5, probed=True, temporary=False, width=3)
    for whole in (False, True):
        assert read_as_before("asset", stored(ASSETS.fields(asset, whole=whole))) == asset
    workers: RecordCodec[Worker] = RecordCodec(Worker)
    for worker in (
        Worker(name="w", state="ready", healthy=False, model=MODEL, jobs_running=2),
        Worker(name="w", state="starting", detail="loading"),
    ):
        assert read_as_before("worker", stored(workers.fields(worker))) == worker
    results: RecordCodec[Result] = RecordCodec(Result)
    assert stored(results.fields(Result(chunk=1, frame_times=[3, 4])))[b"frame_times"] == b"3,4"
    ends: RecordCodec[End] = RecordCodec(End)
    assert stored(ends.fields(End(state="failed", status=500))) == {b"state": b"failed", b"status": b"500"}


# Ids of entries -----------------------------------------------------------------------------------------


def test_an_entry_id_tells_when_and_in_which_order_entries_were_added() -> None:
    assert added_ms(b"1718000000123-7") == added_ms("1718000000123-7") == 1718000000123
    ids = ["10-0", "9-10", "9-9", "9"]
    assert sorted(ids, key=entry_position) == ["9", "9-9", "9-10", "10-0"]
