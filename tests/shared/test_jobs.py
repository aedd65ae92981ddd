from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.assets import ASSETS, Asset
from shared.chunks import Chunk
from shared.jobs import (
    Claim,
    Job,
    ProbeJob,
    TextJob,
    UnreadableJob,
    VideoJob,
    from_fields,
    read_job,
    to_fields,
)
from shared.records import pairs

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NS = st.integers(0, 2**62)
SOME_ASSETS = st.builds(
    Asset,
    id=TEXT,
    kind=st.sampled_from(["file", "stream"]),
    media_type=st.sampled_from(["video", "image"]),
    path=TEXT,
    filename=TEXT,
    size=NS,
    creation_time=TEXT,
    sensor_name=TEXT,
    description=TEXT,
    duration=NS,
    frame_rate=st.sampled_from(["", "25", "30000/1001"]),
    probed=st.booleans(),
    temporary=st.booleans(),
)
JOBS = st.one_of(
    st.builds(TextJob, request=TEXT, texts=st.lists(TEXT, max_size=4), model=TEXT),
    st.builds(ProbeJob, request=TEXT, asset=SOME_ASSETS),
    st.builds(
        VideoJob,
        request=TEXT,
        assets=st.lists(SOME_ASSETS, max_size=2),
        chunks=st.lists(st.builds(Chunk, index=NS, start=NS, end=NS), max_size=4),
        model=TEXT,
    ),
)


def entry(job: Job, traceparent: str = "") -> dict[bytes, bytes]:
    """The fields as Redis gives them back."""
    raw = [part.encode() if isinstance(part, str) else part for part in to_fields(job, traceparent)]
    return dict(zip(raw[::2], raw[1::2], strict=True))


@given(JOBS)
def test_every_job_reads_back_as_it_was_written(job: Job) -> None:
    assert from_fields(entry(job)) == job


def test_people_see_request_and_kind() -> None:
    fields = entry(TextJob(request="r1", texts=["a"]))
    assert {name: value for name, value in fields.items() if name != b"payload"} == {
        b"request": b"r1",
        b"kind": b"text",
    }
    payload = msgspec.json.decode(fields[b"payload"])
    assert payload == {
        "kind": "text", "request": "r1", "texts": ["a"], "model": "", "query": False, "version": 1,
    }  # fmt: skip


def test_a_trace_goes_with_the_job() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    job = TextJob(request="r1", texts=[])
    assert entry(job, parent)[b"traceparent"] == parent.encode()
    assert from_fields(entry(job, parent)) == job


@pytest.mark.parametrize(
    "job",
    [
        TextJob(request="r", texts=["a"]),
        ProbeJob(request="r", asset=Asset(id="a")),
        VideoJob(request="r", assets=[Asset(id="a")], chunks=[Chunk(0, 1, 2)]),
    ],
)
def test_what_a_newer_replica_adds_is_ignored(job: Job) -> None:
    fields = entry(job)
    payload = msgspec.json.decode(fields[b"payload"])
    payload |= {"priority": 5, "version": 1}
    for part in ("asset", "assets"):
        for record in [payload.get(part)] if part == "asset" else payload.get(part, []):
            if record:
                record["owner"] = {"team": "x"}
    fields |= {b"payload": msgspec.json.encode(payload), b"deadline": b"\xff\x00"}
    assert from_fields(fields) == job


def test_what_an_older_replica_leaves_out_has_its_default() -> None:
    payload = b'{"kind":"probe","request":"r","asset":{"id":"a"}}'
    assert from_fields({b"payload": payload}) == ProbeJob(request="r", asset=Asset(id="a"))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'{"kind":"audio","request":"r"}',
        b'{"kind":"text"}',
        b'{"kind":"text","request":"r","texts":3}',
    ],
)
def test_what_is_no_job_is_told_as_such(payload: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        from_fields({b"payload": payload})
    job = read_job("text", {b"request": b"r" * 100, b"payload": payload})
    assert isinstance(job, UnreadableJob)
    assert (job.lane, job.request) == ("text", "r" * 64)
    assert job.reason
    assert to_fields(job) == [b"request", b"r" * 100, b"payload", payload]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({b"kind": b"text"}, "no payload"),
        ({b"payload": b'{"kind":"text","request":"r","texts":[]}'}, "a text job in the video lane"),
        ({b"payload": b'{"kind":"text","request":"\xff","texts":[]}'}, "UTF-8"),
    ],
)
def test_why_an_entry_is_no_job(fields: dict[bytes, bytes], reason: str) -> None:
    job = read_job("video", fields)
    assert isinstance(job, UnreadableJob)
    assert reason in job.reason or reason.lower() in job.reason
    assert job.request == ""


def test_a_claim_knows_when_its_job_was_added() -> None:
    claim = Claim("text", "1718000000123-7", TextJob(request="r", texts=[]))
    assert (claim.enqueued_ms, claim.deliveries) == (1718000000123, 1)


@given(SOME_ASSETS)
def test_an_asset_reads_back_from_a_hash(asset: Asset) -> None:
    stored = pairs([f if isinstance(f, bytes) else f.encode() for f in ASSETS.fields(asset)])
    assert ASSETS.read(stored) == asset


def test_an_asset_of_a_newer_replica_is_read() -> None:
    stored = {b"id": b"a", b"size": b"5", b"colour": b"red", b"thumbnail": b"\xff\xd8"}
    assert ASSETS.read(stored) == Asset(id="a", size=5)


@pytest.mark.parametrize(("text", "fps"), [("", None), ("25", 25), ("30000/1001", Fraction(30000, 1001))])
def test_the_frame_rate_is_exact(text: str, fps: Fraction | None) -> None:
    assert Asset(id="a", frame_rate=text).fps == fps
