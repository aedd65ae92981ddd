"""Films as people have them, through the whole service: what stands still, begins late or is damaged."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.e2e.conftest import Stack
from tests.e2e.test_video import colours, events
from tests.worker.media.films import BROKEN, make, rewritten, x264
from tests.worker.media.test_pauses import late_video


def times(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(chunk["start_time"], chunk["end_time"]) for chunk in answer["chunk_responses"]]


def logged(stack: Stack, event: str) -> list[dict[str, Any]]:
    """The entries of the log whose event is this."""
    lines = [json.loads(line) for line in stack.logs().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == event]


def test_a_pause_does_not_fail_a_film(shared_stack: Stack, tmp_path: Path) -> None:
    """A second of film, nothing for twenty, a second of film."""
    frames = [index * 33 for index in range(30)]
    film = x264("mp4", "keyint=30", frames=60, times=[*frames, *(21_000 + when for when in frames)])
    path = make(tmp_path / "pause.mp4", film)
    answer = shared_stack.embed(id=shared_stack.upload(path), chunk_duration=5)
    assert answer.status_code == 200, answer.text
    assert [start for start, _ in times(answer.json())] == ["0.0", "5.0", "10.0", "15.0", "20.0"]
    chunks = answer.json()["chunk_responses"]
    assert [chunk["frame_count"] for chunk in chunks[1:4]] == [1, 1, 1]
    still = [colours(chunk["embeddings"]) for chunk in chunks[1:4]]
    np.testing.assert_array_equal(still[0], still[1])
    np.testing.assert_array_equal(still[0][0], still[0][7])
    np.testing.assert_array_equal(colours(chunks[4]["embeddings"])[0], still[0][0])


def test_chunks_before_the_video_are_left_out_and_reported(shared_stack: Stack, tmp_path: Path) -> None:
    late_id = shared_stack.upload(late_video(tmp_path / "late.mp4"))
    answer = shared_stack.embed(id=late_id, chunk_duration=2)
    assert answer.status_code == 200, answer.text
    assert times(answer.json()) == [("4.0", "6.0"), ("6.0", "7.0")]
    assert answer.json()["usage"]["total_chunks_processed"] == 2
    *told, done = events(shared_stack, id=late_id, chunk_duration=2)
    assert done == "[DONE]"
    assert sorted(event["chunk_responses"][0]["start_time"] for event in told) == ["4.0", "6.0"]
    reported = [line for line in logged(shared_stack, "chunk left out") if line["asset"] == late_id]
    assert {(line["chunk"], line["reason"]) for line in reported} == {
        (chunk, "the chunk ends before the first frame of the video") for chunk in (0, 1)
    }


def test_a_damaged_part_fails_the_request_or_is_skipped(shared_stack: Stack, tmp_path: Path) -> None:
    whole = make(tmp_path / "whole.mp4", x264("mp4", "keyint=1"))
    path = rewritten(
        whole, tmp_path / "hole.mp4", lambda i, packet: BROKEN if 60 <= i < 90 else bytes(packet)
    )
    broken_id = shared_stack.upload(path)
    failed = shared_stack.embed(id=broken_id, chunk_duration=1)
    assert failed.status_code == 500
    assert "chunk 2: Decode error: decoded 0 frame(s), required at least 1" in failed.json()["message"]
    skipped = shared_stack.embed(id=broken_id, chunk_duration=1, on_error="skip")
    assert skipped.status_code == 200, skipped.text
    assert [start for start, _ in times(skipped.json())] == ["0.0", "1.0", "3.0", "4.0"]
    assert list(skipped.json()) == ["id", "created", "model", "media_info", "usage", "chunk_responses"]
    *told, done = events(shared_stack, id=broken_id, chunk_duration=1, on_error="skip")
    assert (len(told), done) == (4, "[DONE]")
    wrong = shared_stack.embed(id=broken_id, on_error="ignore")
    assert (wrong.status_code, wrong.json()["code"]) == (422, "InvalidParameters")


def test_a_skipped_chunk_is_missing_from_an_answer_that_is_fetched_later(
    shared_stack: Stack, tmp_path: Path
) -> None:
    late_id = shared_stack.upload(late_video(tmp_path / "late.mp4"))
    body = {"model": "null", "id": late_id, "chunk_duration": 2}
    accepted = shared_stack.client.post(
        "/generate_video_embeddings", json=body, headers={"prefer": "respond-async"}
    )
    results = f"/requests/{accepted.json()['id']}/results"
    while (answer := shared_stack.client.get(results)).status_code == 202:
        pass
    assert times(answer.json()) == [("4.0", "6.0"), ("6.0", "7.0")]


def test_the_last_part_of_a_slide_show_is_embedded(shared_stack: Stack, tmp_path: Path) -> None:
    film = x264("mp4", "keyint=1", frames=4, times=[0, 4000, 8000, 12_000])
    answer = shared_stack.embed(id=shared_stack.upload(make(tmp_path / "s.mp4", film)), chunk_duration=10)
    assert times(answer.json())[0] == ("0.0", "10.0")
    assert times(answer.json())[1][0] == "10.0"
