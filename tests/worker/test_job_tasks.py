"""Jobs carried out on a real Valkey, with media and an engine whose every step the test decides."""

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import keys
from shared.assets import Asset
from shared.chunks import SECOND, Chunk
from shared.errors import DecodeError, EngineError, InvalidFile, NotSupported
from shared.jobs import Claim, ProbeJob, TextJob, VideoJob
from shared.redis.connection import Redis
from shared.redis.redis_clock import RedisClock
from shared.requests import CANCELLED, Request, finish, submit
from shared.results import End, Entry, Facts, Result, from_fields
from shared.settings import Settings
from tests.support import stream_entries, until
from worker.batcher import Batcher
from worker.job_tasks import Tasks, stack_clips
from worker.media.clip_source import Clip, LeftOut
from worker.media.decoder.media_facts import MediaFacts
from worker.models.directory import ModelInfo
from worker.models.embedding_engine import Clips, Vectors
from worker.publish.publisher import Publisher

MODEL = ModelInfo(id="m", architecture="test", dimension=2, frames=4, resolution=2, max_text_tokens=0)
FILM = Asset(id="a1", path="/films/a.mp4")
AHEAD = 3


class CountedClip(Clip):
    """Knows whether its memory was given back."""

    released = False

    def release(self) -> None:
        self.released = True


class Films:
    """Media without files: chunk i has frames of the value i."""

    def __init__(self) -> None:
        self.made: list[CountedClip] = []
        self.asked: list[list[int]] = []
        self.broken: int | None = None
        self.empty: set[int] = set()
        self.short = False
        self.facts: MediaFacts | InvalidFile = InvalidFile("no film")
        self.open = 0

    async def probe(self, path: str | Path) -> MediaFacts:
        if isinstance(self.facts, InvalidFile):
            raise self.facts
        return self.facts

    async def clips(
        self,
        path: str | Path,
        chunks: Sequence[Chunk],
        frames: int,
        size: int,
        *,
        joined: bool = False,
        skip: bool = False,
        thumbnails: bool = False,
    ) -> AsyncGenerator[Clip | LeftOut, None]:
        assert path == FILM.path
        self.asked.append([chunk.index for chunk in chunks])
        self.open += 1
        try:
            for chunk in chunks:
                await asyncio.sleep(0)
                if chunk.index in self.empty:
                    yield LeftOut(chunk, "nothing to show")
                elif chunk.index != self.broken:
                    yield self._clip(chunk, 1 if self.short else frames, size, thumbnails=thumbnails)
                elif skip:
                    yield LeftOut(chunk, "bad slice")
                else:
                    raise DecodeError("bad slice")
        finally:
            self.open -= 1

    async def images(self, paths: Sequence[str | Path], size: int, *, thumbnails: bool = False) -> Clip:
        if self.broken is not None:
            raise DecodeError("bad picture")
        return self._clip(Chunk(0, 0, 0), len(paths), size, thumbnails=thumbnails)

    async def close(self) -> None:
        """Nothing to stop."""

    def _clip(self, chunk: Chunk, frames: int, size: int, *, thumbnails: bool) -> Clip:
        pixels = np.full((frames, 3, size, size), chunk.index % 256, np.uint8)
        times = [chunk.start + (0 if chunk.start == chunk.end else index) for index in range(frames)]
        self.made.append(CountedClip(chunk, pixels, times, 1.0, 1.5))
        self.made[-1].thumbnail = b"JPEG" if thumbnails else b""
        return self.made[-1]


class Engine:
    """Vectors that say what went in; batches wait while the gate is closed, and take `pause` seconds."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.pause = 0.0
        self.clips: list[Clips] = []
        self.error: Exception | None = None

    def embed_video(self, clips: Clips) -> Vectors:
        self.clips.append(clips)
        assert self.gate.wait(20)
        time.sleep(self.pause)
        if self.error:
            raise self.error
        return np.array([[clip.mean(), 1] for clip in clips], np.float32)

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        if self.error:
            raise self.error
        return np.array([[len(text), 2] for text in texts], np.float32)


@pytest.fixture
def films() -> Films:
    return Films()


@pytest.fixture
async def engine() -> Engine:
    return Engine()


@pytest.fixture
async def tasks(redis: Redis, settings: Settings, films: Films, engine: Engine) -> AsyncIterator[Tasks]:
    clock = RedisClock()
    await clock.measure(redis)
    with ThreadPoolExecutor(1) as text_thread, ThreadPoolExecutor(1) as video_thread:
        texts = Batcher(engine.embed_text, 2, text_thread)
        clips: Batcher[Clip] = Batcher(
            lambda batch: engine.embed_video(stack_clips(batch, MODEL.frames)), 2, video_thread
        )
        running = [asyncio.create_task(texts.run()), asyncio.create_task(clips.run())]
        parts: dict[str, Any] = {
            "media": films, "model": MODEL, "texts": texts, "clips": clips, "clock": clock,
            "publisher": Publisher(redis, settings), "clips_ahead": AHEAD,
        }  # fmt: skip
        others = set(inspect.signature(Tasks).parameters) - set(parts)
        missing: dict[str, Any] = dict.fromkeys(others)
        yield Tasks(**parts, **missing)
        engine.gate.set()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def video_job(count: int, **values: Any) -> VideoJob:
    chunks = [Chunk(i, i * SECOND, (i + 1) * SECOND) for i in range(count)]
    return VideoJob(**{"request": "r1", "assets": [FILM], "chunks": chunks, **values})


async def accepted(redis: Redis, settings: Settings, job: Any, planned: int, deliveries: int = 1) -> Claim:
    """Submit a request of one job and claim that."""
    await submit(redis, settings, Request(id="r1", lane=job.lane, planned=planned), [job])
    ((entry_id, _),) = await stream_entries(redis, keys.jobs(job.lane))
    return Claim(job.lane, entry_id.decode(), job, deliveries)


async def stored(redis: Redis) -> list[Entry]:
    return [from_fields(fields) for _, fields in await stream_entries(redis, keys.results("r1"))]


async def results(redis: Redis) -> list[Result]:
    return sorted((e for e in await stored(redis) if isinstance(e, Result)), key=lambda r: r.chunk)


async def end(redis: Redis) -> End | None:
    return next((e for e in await stored(redis) if isinstance(e, End)), None)


def values(result: Result) -> list[float]:
    found: list[float] = np.frombuffer(result.vector, "<f4").tolist()
    return found


# Video ------------------------------------------------------------------------------------------------


async def test_every_chunk_gets_its_vector_times_and_latencies(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films
) -> None:
    await tasks.run(await accepted(redis, settings, video_job(7), 7))
    found = await results(redis)
    assert [values(result) for result in found] == [[i, 1] for i in range(7)]
    assert [(r.start, r.end, r.frame_times) for r in found] == [
        (i * SECOND, (i + 1) * SECOND, [i * SECOND + frame for frame in range(4)]) for i in range(7)
    ]
    assert all(r.decode_latency_ms == 500 and r.queue_time_s is not None and not r.error for r in found)
    assert all(r.inference_latency_ms is not None and r.processing_latency_s is not None for r in found)
    assert await end(redis) == End(state="done")
    assert all(clip.released for clip in films.made)
    assert films.open == 0


async def test_images_are_one_clip(redis: Redis, settings: Settings, tasks: Tasks, engine: Engine) -> None:
    pictures = [Asset(id=f"p{i}", path=f"/p{i}.png", media_type="image") for i in range(3)]
    job = video_job(0, assets=pictures, chunks=[Chunk(0, 0, 0)])
    await tasks.run(await accepted(redis, settings, job, 1))
    (found,) = await results(redis)
    assert (found.frame_times, await end(redis)) == ([0, 0, 0], End(state="done"))
    assert engine.clips[0].shape == (1, 4, 3, 2, 2)


@pytest.mark.parametrize(("wanted", "told"), [(True, b"JPEG"), (False, b"")])
async def test_the_result_holds_a_thumbnail_if_one_is_wanted(
    redis: Redis, settings: Settings, tasks: Tasks, *, wanted: bool, told: bytes
) -> None:
    await tasks.run(await accepted(redis, settings, video_job(2, thumbnails=wanted), 2))
    assert [result.thumbnail for result in await results(redis)] == [told, told]


async def test_a_clip_of_fewer_frames_is_padded_with_its_last(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films, engine: Engine
) -> None:
    films.short = True
    await tasks.run(await accepted(redis, settings, video_job(5), 5))
    assert [values(result) for result in await results(redis)] == [[i, 1] for i in range(5)]
    assert all(batch.shape[1:] == (4, 3, 2, 2) for batch in engine.clips)


async def test_decoding_stays_within_its_bound_while_the_engine_is_slow(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films, engine: Engine
) -> None:
    engine.gate.clear()
    working = asyncio.create_task(tasks.run(await accepted(redis, settings, video_job(12), 12)))
    await until(lambda: len(engine.clips) == 1)
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert AHEAD <= len(films.made) <= AHEAD + 1
    assert not any(clip.released for clip in films.made)
    engine.gate.set()
    await working
    assert len(await results(redis)) == 12


async def test_a_chunk_that_cannot_be_decoded_ends_the_request_and_names_itself(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films
) -> None:
    films.broken = 3
    await tasks.run(await accepted(redis, settings, video_job(6), 6))
    last = await end(redis)
    assert last
    assert last.state == "failed"
    assert last.error == "Failed to generate video embeddings: chunk 3: Decode error: bad slice"
    failures = [(r.chunk, r.start, r.error) for r in await results(redis) if r.error]
    assert failures == [(3, 3 * SECOND, "Decode error: bad slice")]
    assert {r.chunk for r in await results(redis) if not r.error} <= {0, 1, 2}
    assert all(clip.released for clip in films.made)


async def test_chunks_without_a_clip_are_left_out_and_reported(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films
) -> None:
    films.empty = {0, 5}
    await tasks.run(await accepted(redis, settings, video_job(6), 6))
    assert await end(redis) == End(state="done")
    found = await results(redis)
    assert [result.chunk for result in found if result.vector] == [1, 2, 3, 4]
    assert [(r.chunk, r.start, r.end, r.error) for r in found if r.error] == [
        (0, 0, SECOND, "Chunk 0 (0 s to 1 s) left out: nothing to show"),
        (5, 5 * SECOND, 6 * SECOND, "Chunk 5 (5 s to 6 s) left out: nothing to show"),
    ]


async def test_a_request_may_skip_what_cannot_be_decoded(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films
) -> None:
    films.broken = 3
    await tasks.run(await accepted(redis, settings, video_job(6, on_error="skip"), 6))
    assert await end(redis) == End(state="done")
    found = await results(redis)
    assert [result.chunk for result in found if result.vector] == [0, 1, 2, 4, 5]
    assert found[3].error == "Chunk 3 (3 s to 4 s) left out: bad slice"


async def test_a_request_cancelled_before_a_chunk_is_left_out_stops_the_job(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films
) -> None:
    films.empty = {0}
    claim = await accepted(redis, settings, video_job(6), 6)
    running = asyncio.create_task(tasks.run(claim))
    await until(lambda: bool(films.asked))
    await finish(redis, settings, Request(id="r1", lane="video", planned=6), CANCELLED)
    await running
    assert films.open == 0


async def test_images_that_cannot_be_decoded_end_the_request(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films
) -> None:
    films.broken = 0
    picture = Asset(id="p", path="/p.png", media_type="image")
    job = video_job(0, assets=[picture], chunks=[Chunk(0, 0, 0)])
    await tasks.run(await accepted(redis, settings, job, 1))
    last = await end(redis)
    assert last
    assert "chunk 0: Decode error: bad picture" in last.error


async def test_an_engine_that_fails_ends_the_request_and_frees_every_clip(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films, engine: Engine
) -> None:
    engine.error = EngineError("out of memory")
    await tasks.run(await accepted(redis, settings, video_job(8), 8))
    last = await end(redis)
    assert last
    (bad,) = await results(redis)
    assert (bad.error, bad.vector) == ("out of memory", b"")
    reason = f"Failed to generate video embeddings: chunk {bad.chunk}: out of memory"
    assert (last.state, last.error) == ("failed", reason)
    assert all(clip.released for clip in films.made)
    assert films.open == 0


async def test_a_request_cancelled_in_the_middle_stops_the_job(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films, engine: Engine
) -> None:
    engine.gate.clear()
    engine.pause = 0.02  # so that Redis answers long before all are embedded
    claim = await accepted(redis, settings, video_job(100), 100)
    working = asyncio.create_task(tasks.run(claim))
    await until(lambda: len(engine.clips) == 1)
    await finish(redis, settings, Request(id="r1", lane="video", planned=100), CANCELLED)
    engine.gate.set()
    await asyncio.wait_for(working, 20)
    assert await stored(redis) == [CANCELLED]
    assert len(films.made) < 100
    assert all(clip.released for clip in films.made)
    assert films.open == 0


@pytest.mark.parametrize("decoded", [1, AHEAD, AHEAD + 1])
async def test_a_cancelled_job_gives_every_clip_back(  # noqa: PLR0917 - fixtures and cases
    redis: Redis, settings: Settings, tasks: Tasks, films: Films, engine: Engine, decoded: int
) -> None:
    engine.gate.clear()
    working = asyncio.create_task(tasks.run(await accepted(redis, settings, video_job(16), 16)))
    await until(lambda: len(films.made) >= decoded)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert working.cancelled()
    assert [clip.released for clip in films.made] == [True] * len(films.made)
    assert films.open == 0
    assert await stored(redis) == []


async def test_a_request_that_has_ended_is_not_decoded_at_all(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films
) -> None:
    claim = await accepted(redis, settings, video_job(3), 3)
    await finish(redis, settings, Request(id="r1", lane="video", planned=3), CANCELLED)
    await tasks.run(claim)
    assert films.asked == []
    await redis.delete(keys.request("r1"))
    await tasks.run(claim)
    assert films.asked == []


async def test_a_second_delivery_does_only_what_is_left(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films
) -> None:
    job = video_job(5)
    claim = await accepted(redis, settings, job, 5, deliveries=2)
    await Publisher(redis, settings).publish(job, [Result(chunk=i, vector=b"12345678") for i in (0, 2, 3)])
    await tasks.run(claim)
    assert films.asked == [[1, 4]]
    assert [r.chunk for r in await results(redis)] == [0, 1, 2, 3, 4]
    assert await end(redis) == End(state="done")


async def test_a_delivery_after_the_last_chunk_changes_nothing(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films
) -> None:
    claim = await accepted(redis, settings, video_job(2), 2, deliveries=1)
    await tasks.run(claim)
    before = await stored(redis)
    await tasks.run(msgspec.structs.replace(claim, deliveries=2))
    assert await stored(redis) == before
    assert films.asked == [[0, 1]]


# Texts and probes -------------------------------------------------------------------------------------


async def test_texts_are_embedded_in_their_order(redis: Redis, settings: Settings, tasks: Tasks) -> None:
    job = TextJob(request="r1", texts=["abc", "", "a", "ab"])
    await tasks.run(await accepted(redis, settings, job, 4))
    assert [values(result) for result in await results(redis)] == [[3, 2], [0, 2], [1, 2], [2, 2]]
    assert await end(redis) == End(state="done")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EngineError("broken"), ("TextEmbeddingsError", 500)),
        (NotSupported("no texts here"), ("NotImplemented", 501)),
    ],
)
async def test_texts_fail_together(  # noqa: PLR0917 - fixtures and cases
    redis: Redis,
    settings: Settings,
    tasks: Tasks,
    engine: Engine,
    error: Exception,
    expected: tuple[str, int],
) -> None:
    engine.error = error
    await tasks.run(await accepted(redis, settings, TextJob(request="r1", texts=["a", "b", "c"]), 3))
    (only,) = await stored(redis)
    assert isinstance(only, End)
    assert (only.code, only.status) == expected
    assert only.error == f"Failed to generate text embeddings: {error}"


async def test_a_probe_answers_what_the_file_is(
    redis: Redis, settings: Settings, tasks: Tasks, films: Films
) -> None:
    films.facts = MediaFacts("video", "h264", 640, 360, 25 * SECOND, Fraction(30000, 1001))
    await tasks.run(await accepted(redis, settings, ProbeJob(request="r1", asset=FILM), 1))
    (found,) = await results(redis)
    assert msgspec.json.decode(found.facts, type=Facts) == Facts(
        kind="video", codec="h264", width=640, height=360, duration=25 * SECOND, frame_rate="30000/1001"
    )


async def test_a_file_that_is_none_is_refused_as_the_clients_mistake(
    redis: Redis, settings: Settings, tasks: Tasks
) -> None:
    await tasks.run(await accepted(redis, settings, ProbeJob(request="r1", asset=FILM), 1))
    assert await stored(redis) == [End(state="failed", code="InvalidFile", status=400, error="no film")]


# Batches ----------------------------------------------------------------------------------------------


def clip_of(frames: np.ndarray[Any, np.dtype[np.uint8]]) -> Clip:
    return Clip(Chunk(0, 0, 1), frames, [0] * len(frames), 0, 0)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_clips_are_stacked_and_padded_with_their_last_frame(counts: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    clips = [clip_of(random.integers(0, 256, (n, 3, 2, 2), np.uint8)) for n in counts]
    batch = stack_clips(clips, 6)
    assert batch.shape == (len(counts), 6, 3, 2, 2)
    assert batch.dtype == np.uint8
    for slot, clip, count in zip(batch, clips, counts, strict=True):
        assert np.array_equal(slot[:count], clip.frames)
        assert all(np.array_equal(frame, clip.frames[-1]) for frame in slot[count:])


def test_a_lone_full_clip_is_not_copied() -> None:
    clip = clip_of(np.zeros((4, 3, 2, 2), np.uint8))
    assert np.shares_memory(stack_clips([clip], 4), clip.frames)
    assert not np.shares_memory(stack_clips([clip], 5), clip.frames)
    assert not np.shares_memory(stack_clips([clip, clip], 4), clip.frames)
