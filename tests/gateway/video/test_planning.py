from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.embedding_schemas import MediaRange, VideoRequest
from gateway.video.planning import plan_video
from shared.assets import Asset
from shared.chunks import SECOND, Chunk
from shared.errors import BadParameter, BadParameters
from shared.jobs import VideoJob
from tests.support import served_model

MODEL = served_model(dimension=3, created=1)
FILM = Asset(id="a1", duration=25 * SECOND, frame_rate="30")


def asked(**fields: object) -> VideoRequest:
    return msgspec.convert(
        {"id": "00000000-0000-0000-0000-000000000001", "model": "m", **fields}, VideoRequest
    )


def offsets(start: int = 0, end: int | None = None) -> MediaRange:
    return MediaRange(type="offset", start_offset=start, end_offset=end)


def planned_chunks(jobs: Iterable[object]) -> list[Chunk]:
    return [chunk for job in jobs if isinstance(job, VideoJob) for chunk in job.chunks]


def test_a_film_is_cut_into_chunks_spread_over_jobs() -> None:
    plan = plan_video("r1", asked(chunk_duration=10), [FILM], MODEL)
    assert plan.jobs == [
        VideoJob(request="r1", assets=[FILM], chunks=[Chunk(i, 10 * i * SECOND, end * SECOND)], model="m")
        for i, end in enumerate((10, 20, 25))
    ]
    assert plan.planned == 3
    assert (plan.request.id, plan.request.lane, plan.request.assets) == ("r1", "video", ["a1"])
    assert (plan.outline.start, plan.outline.end) == (0, 25 * SECOND)


def test_without_a_duration_the_film_is_one_chunk() -> None:
    plan = plan_video("r1", asked(), [FILM], MODEL)
    assert planned_chunks(plan.jobs) == [Chunk(0, 0, 25 * SECOND)]


@pytest.mark.parametrize(
    ("wanted", "reported", "chunks"),
    [
        (offsets(5, 15), (5, 15), [(5, 15)]),
        (offsets(20), (20, 25), [(20, 25)]),
        (offsets(end=8), (0, 8), [(0, 8)]),
        (offsets(0, 0), (0, 0), []),
        (offsets(20, 100), (20, 100), [(20, 25)]),
        (offsets(30, 100), (30, 100), []),
        (offsets(15, 5), (15, 5), []),
    ],
)
def test_the_range_asked_for_is_reported_and_what_exists_of_it_embedded(
    wanted: MediaRange, reported: tuple[int, int], chunks: list[tuple[int, int]]
) -> None:
    body = msgspec.structs.replace(asked(chunk_duration=10), media_info=wanted)
    plan = plan_video("r1", body, [FILM], MODEL)
    assert (plan.outline.start // SECOND, plan.outline.end // SECOND) == reported
    assert [(c.start // SECOND, c.end // SECOND) for c in planned_chunks(plan.jobs)] == chunks
    assert plan.planned == len(chunks)


@pytest.mark.parametrize("media_type", ["video", "image"])
def test_an_overlap_as_long_as_the_chunk_is_refused(media_type: str) -> None:
    asset = msgspec.structs.replace(FILM, media_type=media_type)
    with pytest.raises(BadParameter, match="chunk_overlap_duration must be less than chunk_duration"):
        plan_video("r1", asked(chunk_duration=5, chunk_overlap_duration=5), [asset], MODEL)


def test_images_are_one_clip() -> None:
    pictures = [Asset(id=f"p{i}", media_type="image") for i in range(8)]
    plan = plan_video("r1", asked(chunk_duration=3), pictures, MODEL)
    assert plan.jobs == [VideoJob(request="r1", assets=pictures, chunks=[Chunk(0, 0, 0)], model="m")]
    assert plan.request.assets == [f"p{i}" for i in range(8)]


def test_more_images_than_the_model_takes_are_refused() -> None:
    pictures = [Asset(id=f"p{i}", media_type="image") for i in range(9)]
    with pytest.raises(BadParameters, match="9 images given; the model takes at most 8"):
        plan_video("r1", asked(), pictures, MODEL)


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_jobs_know_what_becomes_of_chunks_that_cannot_be_decoded(on_error: str) -> None:
    jobs = plan_video("r1", asked(on_error=on_error), [FILM], MODEL).jobs
    assert {job.on_error for job in jobs if isinstance(job, VideoJob)} == {on_error}


def test_the_last_part_of_a_slide_show_is_a_chunk() -> None:
    slides = msgspec.structs.replace(FILM, duration=16 * SECOND, frame_rate="1/4", last_frames=8 * SECOND)
    assert plan_video("r1", asked(chunk_duration=10), [slides], MODEL).planned == 2


def test_what_was_asked_for_can_be_read_later() -> None:
    body = asked(stream=True, chunk_duration=7, chunk_overlap_duration=-2, media_info={"type": "offset"})
    options = msgspec.json.decode(plan_video("r1", body, [FILM], MODEL).request.options)
    assert (options["stream"], options["chunk_duration"], options["chunk_overlap_duration"]) == (True, 7, -2)
    assert options["media_info"]["type"] == "offset"


@given(st.integers(1, 2000), st.integers(1, 60), st.integers(-30, 30))
def test_jobs_hold_all_chunks_once_in_order(duration: int, chunk: int, overlap: int) -> None:
    film = msgspec.structs.replace(FILM, duration=duration * SECOND)
    body = asked(chunk_duration=chunk, chunk_overlap_duration=min(overlap, chunk - 1))
    plan = plan_video("r1", body, [film], MODEL)
    chunks = planned_chunks(plan.jobs)
    assert [c.index for c in chunks] == list(range(plan.planned))
    assert all(0 <= c.start < c.end <= film.duration for c in chunks)
    assert all(isinstance(job, VideoJob) and 1 <= len(job.chunks) <= 16 for job in plan.jobs)


@pytest.mark.parametrize(("longest", "refused"), [(0, False), (24, True), (25, False), (26, False)])
def test_a_film_may_be_too_long(longest: int, refused: bool) -> None:
    film = msgspec.structs.replace(FILM, filename="film.mp4")
    if refused:
        with pytest.raises(BadParameter, match=r"film.mp4 lasts 25 s; at most 24 s are embedded"):
            plan_video("r1", asked(), [film], MODEL, longest * SECOND)
    else:
        assert plan_video("r1", asked(), [film], MODEL, longest * SECOND).planned == 1


def test_any_gateway_can_answer_from_what_the_plan_outlines() -> None:
    film = msgspec.structs.replace(FILM, creation_time="2024-06-09T18:32:11.123Z")
    outline = plan_video("r1", asked(), [film], MODEL).outline
    assert (outline.request, outline.model, outline.media_type) == ("r1", "m", "video")
    assert outline.creation_time == "2024-06-09T18:32:11.123Z"
    assert not outline.live


def test_times_after_the_year_9999_are_refused_before_any_work() -> None:
    last = msgspec.structs.replace(FILM, creation_time="9999-12-31T23:59:30.000Z")
    assert plan_video("r1", asked(), [last], MODEL).planned == 1
    body = msgspec.structs.replace(asked(), media_info=offsets(0, 31))
    with pytest.raises(BadParameter, match=r"31 s after 9999-12-31T23:59:30.000Z is beyond the year 9999"):
        plan_video("r1", body, [last], MODEL)
