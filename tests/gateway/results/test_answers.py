import struct

import msgspec
import pytest

from gateway.api.embedding_schemas import ChunkEmbedding, EventChunk, OffsetRange, TimestampRange
from gateway.results.answers import (
    Outline,
    chunk_embedding,
    chunk_event,
    chunk_range,
    chunk_time,
    media_range,
    usage,
    video_response,
)
from shared.chunks import SECOND
from shared.results import Result

BEGAN = "2024-06-09T18:32:11.123Z"
ID = "00000000-0000-0000-0000-000000000001"
FILM = Outline(request=ID, model="m", end=20 * SECOND)
DATED = msgspec.structs.replace(FILM, creation_time=BEGAN)
PICTURE = msgspec.structs.replace(DATED, media_type="image")


def result(chunk: int, **values: object) -> Result:
    fields = {"chunk": chunk, "start": 10 * chunk * SECOND, "end": 10 * (chunk + 1) * SECOND}
    return Result(**{**fields, "vector": struct.pack("<2f", chunk, 0.5), **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outline", "ns", "text"),
    [
        (FILM, 0, "0.0"),
        (FILM, 20_100_000_000, "20.1"),
        (DATED, 0, "2024-06-09T18:32:11.123Z"),
        (DATED, 10 * SECOND, "2024-06-09T18:32:21.123Z"),
        (DATED, 876_999_999, "2024-06-09T18:32:11.999Z"),
        (DATED, 86_400 * SECOND, "2024-06-10T18:32:11.123Z"),
        (PICTURE, 0, "0.0"),
    ],
)
def test_the_time_of_a_chunk(outline: Outline, ns: int, text: str) -> None:
    assert chunk_time(outline, ns) == text


@pytest.mark.parametrize(
    ("outline", "expected"),
    [
        (FILM, OffsetRange(start_offset=1, end_offset=2)),
        (
            DATED,
            TimestampRange(
                start_timestamp="2024-06-09T18:32:13.022Z", end_timestamp="2024-06-09T18:32:14.022Z"
            ),
        ),
    ],
)
def test_the_range_of_an_answer(outline: Outline, expected: object) -> None:
    assert media_range(outline, 1_899_999_999, 2_899_999_999) == expected


def test_the_whole_answer_is_sorted_by_time() -> None:
    results = [result(2), result(0), result(1, start=0, end=5)]
    answer = video_response(FILM, 1718000000, 2.9, results)
    assert [c.embeddings[0] for c in answer.chunk_responses] == [0, 1, 2]
    assert answer.usage == usage(3, 2.0)
    assert answer.usage
    assert (answer.usage.query_processing_time, answer.usage.total_chunks_processed) == (2, 3)
    assert (answer.id[-1], answer.created, answer.model) == ("1", 1718000000, "m")
    assert answer.media_info == OffsetRange(start_offset=0, end_offset=20)


def test_chunks_that_were_left_out_are_not_in_the_answer() -> None:
    results = [result(0), result(1, error="Chunk 1 left out"), result(2)]
    answer = video_response(FILM, 1718000000, 2.9, results)
    assert [c.embeddings[0] for c in answer.chunk_responses] == [0, 2]
    assert answer.usage == usage(2, 2.0)


def test_an_answer_without_chunks() -> None:
    answer = video_response(msgspec.structs.replace(FILM, start=30 * SECOND, end=40 * SECOND), 1, 0, [])
    assert answer.chunk_responses == []
    assert answer.media_info == OffsetRange(start_offset=30, end_offset=40)


def test_a_chunk_of_an_answer_names_every_figure_and_an_event_only_the_known() -> None:
    known = {"decode_latency_ms": 1.5, "queue_time_s": 0.0}
    told = result(1, frame_times=[1, 2, 3], **known)
    whole = msgspec.to_builtins(chunk_embedding(ChunkEmbedding, FILM, told))
    assert whole == {
        "start_time": "10.0", "end_time": "20.0", "embeddings": [1.0, 0.5], "decode_latency_ms": 1.5,
        "inference_latency_ms": None, "chunk_latency_ms": None, "queue_time_s": 0.0,
        "processing_latency_s": None, "frame_count": 3,
    }  # fmt: skip
    event = msgspec.to_builtins(chunk_embedding(EventChunk, FILM, told))
    assert event == {name: value for name, value in whole.items() if value is not None}


@pytest.mark.parametrize(
    ("outline", "info"),
    [
        (FILM, {"type": "offset", "start_offset": 10, "end_offset": 20}),
        (
            DATED,
            {
                "type": "timestamp",
                "start_timestamp": "2024-06-09T18:32:21.123Z",
                "end_timestamp": "2024-06-09T18:32:31.123Z",
            },
        ),
    ],
)
def test_an_event_has_the_range_of_its_own_chunk(outline: Outline, info: dict[str, object]) -> None:
    event = msgspec.to_builtins(chunk_event(outline, 7, result(1), None))
    assert event["media_info"] == info
    assert len(event["chunk_responses"]) == 1
    assert (event["usage"], event["created"]) == (None, 7)


def test_a_cameras_time_wins_over_the_streams() -> None:
    began = 1_717_957_931_123_456_789
    told = result(3, wall_start=began, wall_end=began + SECOND)
    assert chunk_time(FILM, told.start, told.wall_start) == "2024-06-09T18:32:11.123Z"
    assert chunk_range(FILM, told) == TimestampRange(
        start_timestamp="2024-06-09T18:32:11.123Z", end_timestamp="2024-06-09T18:32:12.123Z"
    )
    embedding = chunk_embedding(ChunkEmbedding, FILM, told)
    assert (embedding.start_time, embedding.end_time) == (
        "2024-06-09T18:32:11.123Z",
        "2024-06-09T18:32:12.123Z",
    )


def test_half_a_cameras_time_is_none() -> None:
    assert chunk_range(FILM, result(1, wall_start=5)) == OffsetRange(start_offset=10, end_offset=20)


@pytest.mark.parametrize(("wanted", "told"), [(True, "/9g="), (False, msgspec.UNSET)])
def test_a_thumbnail_is_told_to_those_who_asked_for_it(*, wanted: bool, told: object) -> None:
    """A running live stream may make them for somebody else."""
    outline = msgspec.structs.replace(FILM, thumbnails=wanted)
    event = chunk_event(outline, 1, result(0, thumbnail=b"\xff\xd8"), None)
    assert event.chunk_responses[0].thumbnail == told
    assert (b"thumbnail" in msgspec.json.encode(event)) is wanted
    assert b"thumbnail" not in msgspec.json.encode(chunk_embedding(ChunkEmbedding, outline, result(0)))
