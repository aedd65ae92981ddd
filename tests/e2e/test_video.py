"""Video and image embeddings through the whole service, for real files that the tests make."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.e2e.conftest import Stack
from tests.e2e.media import COLOURS, picture

STORES = ["folder", "bucket"]
URL = "/generate_video_embeddings"


@pytest.fixture(scope="module")
def film_id(shared_stack: Stack, film: Path) -> str:
    return shared_stack.upload(film)


def colours(embedding: list[float]) -> np.ndarray[Any, Any]:
    """The mean colours (8, 3) that the null model saw, 0..255."""
    return np.array(embedding[:24], np.float32).reshape(8, 3) * 255


def events(stack: Stack, **body: object) -> list[Any]:
    """The data of every event, parsed, with the terminator as text."""
    found: list[Any] = []
    with stack.client.stream("POST", URL, json={"model": "null", "stream": True, **body}) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        for line in answer.iter_lines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                found.append(data if data == "[DONE]" else json.loads(data))
    return found


def test_each_chunk_is_embedded_from_its_own_frames(shared_stack: Stack, film_id: str) -> None:
    answer = shared_stack.embed(id=film_id, chunk_duration=5).json()
    chunks = answer["chunk_responses"]
    assert [(c["start_time"], c["end_time"]) for c in chunks] == [
        ("0.0", "5.0"), ("5.0", "10.0"), ("10.0", "15.0"), ("15.0", "20.0"), ("20.0", "25.0")
    ]  # fmt: skip
    for chunk, colour in zip(chunks, COLOURS, strict=True):
        assert len(chunk["embeddings"]) == 768
        assert chunk["frame_count"] == 8
        np.testing.assert_allclose(colours(chunk["embeddings"]), [colour] * 8, atol=6)


def test_the_answer_has_every_field(shared_stack: Stack, film_id: str) -> None:
    answer = shared_stack.embed(id=[film_id], chunk_duration=10).json()
    assert list(answer) == ["id", "created", "model", "media_info", "usage", "chunk_responses"]
    assert answer["media_info"] == {"type": "offset", "start_offset": 0, "end_offset": 25}
    assert answer["usage"]["total_chunks_processed"] == 3
    assert answer["usage"]["prompt_tokens"] is None
    chunk = answer["chunk_responses"][0]
    assert list(chunk) == [
        "start_time", "end_time", "embeddings", "decode_latency_ms", "inference_latency_ms",
        "chunk_latency_ms", "queue_time_s", "processing_latency_s", "frame_count",
    ]  # fmt: skip
    assert chunk["chunk_latency_ms"] >= chunk["decode_latency_ms"] > 0
    assert chunk["queue_time_s"] >= 0


def test_frames_are_taken_at_the_left_edges(shared_stack: Stack, film_id: str) -> None:
    """One chunk of the whole film: targets every 25/8 s, each in a scene that can be told."""
    chunk = shared_stack.embed(id=film_id).json()["chunk_responses"][0]
    expected = [COLOURS[int(i * 25 / 8 / 5)] for i in range(8)]
    np.testing.assert_allclose(colours(chunk["embeddings"]), expected, atol=6)
    assert (chunk["start_time"], chunk["end_time"]) == ("0.0", "25.0")


def test_a_range_and_an_overlap(shared_stack: Stack, film_id: str) -> None:
    media_info = {"type": "offset", "start_offset": 5, "end_offset": 400}
    answer = shared_stack.embed(
        id=film_id, chunk_duration=10, chunk_overlap_duration=5, media_info=media_info
    ).json()
    assert [c["start_time"] for c in answer["chunk_responses"]] == ["5.0", "10.0", "15.0"]
    assert answer["media_info"]["end_offset"] == 400


def test_a_range_beyond_the_end_has_no_chunks(shared_stack: Stack, film_id: str) -> None:
    media_info = {"type": "offset", "start_offset": 100}
    answer = shared_stack.embed(id=film_id, media_info=media_info)
    assert answer.status_code == 200
    assert answer.json()["chunk_responses"] == []
    assert answer.json()["usage"]["total_chunks_processed"] == 0
    assert events(shared_stack, id=film_id, media_info=media_info) == ["[DONE]"]


def test_a_creation_time_makes_times_absolute(shared_stack: Stack, film: Path) -> None:
    film_id = shared_stack.upload(film, creation_time="2024-06-09T18:32:11.123Z")
    answer = shared_stack.embed(id=film_id, chunk_duration=10).json()
    assert answer["chunk_responses"][1]["start_time"] == "2024-06-09T18:32:21.123Z"
    assert answer["media_info"] == {
        "type": "timestamp",
        "start_timestamp": "2024-06-09T18:32:11.123Z",
        "end_timestamp": "2024-06-09T18:32:36.123Z",
    }


def test_events_carry_one_chunk_each(shared_stack: Stack, film_id: str) -> None:
    found = events(shared_stack, id=film_id, chunk_duration=5)
    *chunks, done = found
    assert done == "[DONE]"
    assert len(chunks) == 5
    assert {c["chunk_responses"][0]["start_time"] for c in chunks} == {"0.0", "5.0", "10.0", "15.0", "20.0"}
    for chunk in chunks:
        assert list(chunk) == ["id", "model", "created", "media_info", "chunk_responses", "usage"]
        assert chunk["usage"] is None
        assert len({chunk["id"] for chunk in chunks}) == 1


def test_usage_comes_with_the_events_when_asked_for(shared_stack: Stack, film_id: str) -> None:
    *chunks, usage, done = events(
        shared_stack, id=film_id, chunk_duration=10, stream_options={"include_usage": True}
    )
    assert done == "[DONE]"
    assert [c["usage"]["total_chunks_processed"] for c in chunks] == [1, 2, 3]
    assert usage["media_info"] is None
    assert usage["usage"]["total_chunks_processed"] == 3
    assert "chunk_responses" not in usage


def test_event_bytes(shared_stack: Stack, film_id: str) -> None:
    body = {"id": film_id, "model": "null", "stream": True}
    answer = shared_stack.client.post(URL, json=body)
    assert answer.content.endswith(b"\r\n\r\ndata: [DONE]\r\n\r\n")
    assert answer.content.startswith(b"data: {")
    assert b"\n" not in answer.content.replace(b"\r\n", b"")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"


def test_images_make_one_clip(shared_stack: Stack, tmp_path: Path) -> None:
    ids = [shared_stack.upload(picture(tmp_path, colour), "image") for colour in COLOURS[:3]]
    answer = shared_stack.embed(id=ids).json()
    (chunk,) = answer["chunk_responses"]
    assert (chunk["start_time"], chunk["end_time"], chunk["frame_count"]) == ("0.0", "0.0", 3)
    np.testing.assert_allclose(colours(chunk["embeddings"]), COLOURS[:3] + [COLOURS[2]] * 5, atol=2)
    assert answer["media_info"] == {"type": "offset", "start_offset": 0, "end_offset": 0}


def test_more_images_than_the_model_takes_are_refused(shared_stack: Stack, tmp_path: Path) -> None:
    ids = [shared_stack.upload(picture(tmp_path, (i, i, i)), "image") for i in range(9)]
    answer = shared_stack.embed(id=ids)
    assert (answer.status_code, answer.json()["code"]) == (400, "BadParameters")
    assert "9 images given; the model takes at most 8" in answer.json()["message"]


def test_several_ids_must_be_images(shared_stack: Stack, film_id: str) -> None:
    answer = shared_stack.embed(id=[film_id, film_id])
    assert (answer.status_code, answer.json()["code"]) == (400, "BadParameters")


def test_an_unknown_id_is_refused(shared_stack: Stack) -> None:
    answer = shared_stack.embed(id="123e4567-e89b-12d3-a456-426614174000")
    assert (answer.status_code, answer.json()["code"]) == (400, "BadParameter")


def test_no_ids_are_refused(shared_stack: Stack) -> None:
    answer = shared_stack.embed(id=[])
    assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")


def test_an_overlap_as_long_as_the_chunk_is_refused(shared_stack: Stack, film_id: str) -> None:
    answer = shared_stack.embed(id=film_id, chunk_duration=5, chunk_overlap_duration=5)
    assert (answer.status_code, answer.json()["code"]) == (400, "BadParameter")


def test_a_file_that_breaks_fails_its_request_alone(shared_stack: Stack, film: Path) -> None:
    """Damaged after it was accepted: JSON answers 500, events end without an error text."""
    broken_id = shared_stack.upload(film)
    path = shared_stack.path_of(broken_id)
    shared_stack.overwrite(path, shared_stack.read_stored(path)[: film.stat().st_size * 2 // 3])
    answer = shared_stack.embed(id=broken_id, chunk_duration=5)
    assert (answer.status_code, answer.json()["code"]) == (500, "InternalServerError")
    assert "Decode error" in answer.json()["message"]
    *_, failure, done = events(shared_stack, id=broken_id, chunk_duration=5)
    assert done == "[DONE]"
    assert list(failure) == ["id", "model", "created", "usage"]
    assert shared_stack.client.delete(f"/files/{broken_id}").status_code == 200


def test_a_film_that_was_cut_short_is_embedded_as_far_as_it_goes(
    shared_stack: Stack, film: Path, tmp_path: Path
) -> None:
    """Its header promises 25 s, its bytes end before: that is seen when it is accepted."""
    short = tmp_path / "short.mp4"
    with av.open(str(film)) as source, av.open(str(short), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = short.read_bytes()
    short.write_bytes(data[: len(data) - len(data) // 3])
    answer = shared_stack.embed(id=shared_stack.upload(short), chunk_duration=5)
    assert answer.status_code == 200, answer.text
    chunks = answer.json()["chunk_responses"]
    assert 1 <= len(chunks) < 5
    np.testing.assert_allclose(colours(chunks[0]["embeddings"]), [COLOURS[0]] * 8, atol=6)


def test_the_file_of_a_finished_request_can_be_deleted(shared_stack: Stack, film: Path) -> None:
    film_id = shared_stack.upload(film)
    assert shared_stack.embed(id=film_id, chunk_duration=5).status_code == 200
    assert shared_stack.client.delete(f"/files/{film_id}").json() == {
        "id": film_id, "object": "file", "deleted": True
    }  # fmt: skip
    assert shared_stack.embed(id=film_id).json()["code"] == "BadParameter"
