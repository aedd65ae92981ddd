"""Media read in processes: what comes back, and what happens when one dies, hangs, swells or is unwanted."""

import asyncio
import contextlib
import gc
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from shared.chunks import SECOND, Chunk, plan_chunks
from shared.errors import DecodeError, InvalidFile
from tests.support import until
from tests.worker.media.films import BROKEN, Film, make, picture, rewritten, x264
from tests.worker.media.reading import SIZE, Frames, decode_everything, pick, same, whole
from worker.children import ChildDied
from worker.isolation.system_calls import this_machine
from worker.media import decoder_pool
from worker.media.clip_source import Clip, LeftOut
from worker.media.decoder.decoder_messages import Finished, FromDecoder
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.media_facts import MediaFacts
from worker.media.decoder_job import Job
from worker.media.decoder_pool import DecoderPool

FindFilm = Callable[[str], Path]
needs_seccomp = pytest.mark.skipif(this_machine() is None, reason="no seccomp filter for this machine")
CHUNKS = plan_chunks(0, 5 * SECOND, SECOND // 2, 0, None)


@asynccontextmanager
async def running(slots: int = 1, **options: Any) -> AsyncIterator[DecoderPool]:
    """A pool that has been started and will be closed."""
    pool = DecoderPool(slots, **options)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def process_of(pool: DecoderPool) -> psutil.Process:
    """The decoder process of the pool's first slot."""
    process = pool._slots[0].process
    assert process is not None
    return psutil.Process(process.pid)


async def collect(pool: DecoderPool, path: Path, chunks: list[Chunk], frames: int = 8) -> list[Frames]:
    """The chunks' frames, copied, each clip released at once."""
    clips = []
    async with aclosing(whole(pool.clips(path, chunks, frames, SIZE))) as decoding:
        async for clip in decoding:
            assert isinstance(clip, Clip)
            assert clip.frames.shape == (len(clip.times), 3, SIZE, SIZE)
            assert clip.decode_start <= clip.decode_end <= time.monotonic()
            clips.append(list(zip(clip.times, clip.frames.copy(), strict=True)))
            clip.release()
    return clips


@pytest.fixture(scope="module")
def expected(film: FindFilm) -> list[Frames]:
    """The clips of CHUNKS, by decoding everything."""
    frames = decode_everything(film("h264-open"))
    return [pick(frames, chunk, 8) for chunk in CHUNKS]


# What comes back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"sparse": False}, {"reuse": False}, {"lanes": 1}, {"lanes": 3}])
async def test_clips_hold_the_frames_of_their_chunks(
    options: dict[str, Any], film: FindFilm, expected: list[Frames]
) -> None:
    async with running(**options) as pool:
        assert same(await collect(pool, film("h264-open"), CHUNKS), expected)
        assert same(await collect(pool, film("h264-open"), CHUNKS[3:5]), expected[3:5])
        assert pool.counts.frames_used == 12 * 8
        assert (pool.counts.retries, pool.counts.restarts) == (0, 0)


async def test_overlapping_chunks_share_frames(film: FindFilm) -> None:
    frames = decode_everything(film("h264-open"))
    chunks = plan_chunks(0, 5 * SECOND, 2 * SECOND, SECOND * 7 // 4, None)
    async with running() as pool:
        clips = await collect(pool, film("h264-open"), chunks)
        assert same(clips, [pick(frames, chunk, 8) for chunk in chunks])


async def test_images_make_one_clip(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        Image.fromarray(picture(index, SIZE, SIZE)).save(path)
    async with running() as pool:
        clip = await pool.images(paths, SIZE)
        assert clip.chunk == Chunk(0, 0, 0)
        assert clip.times == [0, 0, 0]
        shown = np.stack([picture(index, SIZE, SIZE).transpose(2, 0, 1) for index in range(3)])
        assert np.abs(clip.frames.astype(int) - shown).max() <= 2
        clip.release()
        with pytest.raises(DecodeError, match=r"Decode error: cannot read gone\.png: No such file"):
            await pool.images([paths[0], tmp_path / "gone.png"], SIZE)


async def test_every_kind_of_picture_is_read_by_an_isolated_process(tmp_path: Path) -> None:
    register_heif_opener()
    kinds = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIF"]
    paths = [tmp_path / f"picture.{kind}" for kind in kinds] + [tmp_path / "animated.WEBP"]
    first, second = (Image.fromarray(picture(index, SIZE, SIZE)) for index in (0, 1))
    for kind, path in zip(kinds, paths, strict=False):
        first.save(path, kind, quality=90)
    first.save(paths[-1], "WEBP", save_all=True, append_images=[second], quality=90)
    async with running() as pool:
        facts = [await pool.probe(path) for path in paths]
        assert [fact.codec for fact in facts] == ["jpeg", "png", "webp", "gif", "bmp", "avif", "heic", "webp"]
        clip = await pool.images(paths, SIZE)
        shown = picture(0, SIZE, SIZE).transpose(2, 0, 1).astype(int)
        assert max(np.abs(frame.astype(int) - shown).mean() for frame in clip.frames) < 10
        clip.release()


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def open_files(pid: int) -> list[str]:
    return [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]


@needs_seccomp
async def test_decoder_processes_are_isolated() -> None:
    """What stands in the way of a file that takes one over; what it may try is in isolation/attempts.py."""
    async with running() as pool:
        process = await pool._slots[0].ready()
        status, opened = status_of(process.pid), open_files(process.pid)
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
        assert (status["Uid"].split()[0] == "65534") == (os.geteuid() == 0)
        assert {name.partition(":")[0] for name in opened} == {"/dev/null", "socket", "/memfd"}
        assert process.sandbox.endswith("seccomp")


async def test_probing_tells_videos_from_images(film: FindFilm, tmp_path: Path) -> None:
    Image.fromarray(picture(0, 40, 30)).save(tmp_path / "image.jpg")
    (tmp_path / "text.mp4").write_text("hello")
    async with running() as pool:
        assert (await pool.probe(film("h264-open"))).duration == 5 * SECOND
        assert (await pool.probe(tmp_path / "image.jpg")).kind == "image"
        with pytest.raises(InvalidFile, match="not a readable video file"):
            await pool.probe(tmp_path / "text.mp4")
        with pytest.raises(InvalidFile, match=r"cannot read gone\.mp4: No such file"):
            await pool.probe(tmp_path / "gone.mp4")


async def test_probing_does_not_wait_for_decoding(film: FindFilm) -> None:
    async with running() as pool, aclosing(whole(pool.clips(film("h264-open"), CHUNKS, 8, SIZE))) as clips:
        await anext(clips)
        assert pool.busy == 1
        assert (await pool.probe(film("vp9"))).codec == "vp9"


async def test_more_files_than_slots_wait_their_turn(film: FindFilm, expected: list[Frames]) -> None:
    async with running(2) as pool:
        results = await asyncio.gather(*(collect(pool, film("h264-open"), CHUNKS[:4]) for _ in range(7)))
        assert all(same(clips, expected[:4]) for clips in results)
        assert pool.busy == 0


async def test_jobs_of_one_file_begin_in_turn(film: FindFilm, expected: list[Frames]) -> None:
    async with running(3, lanes=2, ahead=1) as pool:
        first = whole(pool.clips(film("h264-open"), CHUNKS, 8, SIZE))
        clip: Clip | None = await anext(first)  # with nine to come, which wait for this one to be released
        second = asyncio.create_task(collect(pool, film("h264-open"), CHUNKS[3:5]))
        assert len(await collect(pool, film("vp9"), CHUNKS[:2])) == 2
        assert pool.busy == 1
        assert not second.done()
        while clip is not None:
            clip.release()
            clip = await anext(first, None)
        assert same(await second, expected[3:5])


async def test_a_job_that_leaves_lanes_idle_lets_the_next_begin(film: FindFilm) -> None:
    async def hold() -> None:
        async for _ in whole(pool.clips(film("h264-open"), CHUNKS, 8, SIZE)):
            pass  # unreleased, so that the job does not end

    async with running(2, lanes=8) as pool:
        holding = asyncio.create_task(hold())
        await until(lambda: pool.busy == 1)
        assert len(await collect(pool, film("h264-open"), CHUNKS[3:5])) == 2
        assert not holding.done()
        holding.cancel()
        await asyncio.wait([holding])
        assert pool.busy == 0


@pytest.fixture(scope="module")
def damaged(film: FindFilm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of which chunks 4 and 5 of CHUNKS cannot be decoded."""
    path = tmp_path_factory.mktemp("damaged") / "hole.mp4"
    return rewritten(film("h264-gop1"), path, lambda i, p: BROKEN if 60 <= i < 90 else bytes(p))


async def test_a_failed_job_gives_its_turn_up(damaged: Path) -> None:
    frames = decode_everything(damaged)
    async with running(2) as pool:
        jobs = [collect(pool, damaged, chunks) for chunks in (CHUNKS[4:6], CHUNKS[:2])]
        failed, clips = await asyncio.gather(*jobs, return_exceptions=True)
        assert isinstance(failed, DecodeError)
        assert not isinstance(clips, BaseException)
        assert same(clips, [pick(frames, chunk, 8) for chunk in CHUNKS[:2]])


async def test_a_chunk_without_frames_fails_after_all_attempts(damaged: Path, film: FindFilm) -> None:
    async with running(attempts=3) as pool:
        clips = whole(pool.clips(damaged, CHUNKS[3:5], 8, SIZE))
        clip = await anext(clips)
        assert isinstance(clip, Clip)
        clip.release()
        with pytest.raises(DecodeError) as caught:
            await anext(clips)
        assert caught.value.message == (
            "Decode error: decoded 0 frame(s), required at least 1: 15 picture(s) are damaged"
        )
        assert pool.counts.retries == 2
        assert len(await collect(pool, film("h264-open"), CHUNKS)) == 10


@pytest.mark.parametrize("sparse", [True, False])
async def test_a_frame_may_go_into_more_clips_than_there_is_room_for(sparse: bool, tmp_path: Path) -> None:
    """A pause of 100 s in chunks of 2 s, of which four have room at a time."""
    burst = [index * 33 for index in range(30)]
    film = x264("mp4", "keyint=30", frames=60, times=[*burst, *(100_000 + when for when in burst)])
    path = make(tmp_path / "pause.mp4", film)
    chunks = plan_chunks(0, 101 * SECOND, 2 * SECOND, 0, None)
    async with running(ahead=4, sparse=sparse) as pool:
        clips = await collect(pool, path, chunks)
    assert [{when for when, _ in clip} for clip in clips[1:50]] == [{957_000_000}] * 49
    assert all(np.array_equal(clip[0][1], clips[1][0][1]) for clip in clips[1:50])


async def test_chunks_that_cannot_be_decoded_are_skipped(damaged: Path) -> None:
    frames = decode_everything(damaged)
    found: dict[int, Frames | str] = {}
    async with (
        running(attempts=2) as pool,
        aclosing(pool.clips(damaged, CHUNKS, 8, SIZE, skip=True)) as clips,
    ):
        async for clip in clips:
            if isinstance(clip, LeftOut):
                found[clip.chunk.index] = clip.reason
            else:
                found[clip.chunk.index] = list(zip(clip.times, clip.frames.copy(), strict=True))
                clip.release()
        assert pool.counts.retries == 2
    assert list(found) == list(range(10))
    assert {index for index, clip in found.items() if isinstance(clip, str)} == {4, 5}
    clips_of = [clip for clip in found.values() if not isinstance(clip, str)]
    assert same(clips_of, [pick(frames, chunk, 8) for chunk in [*CHUNKS[:4], *CHUNKS[6:]]])


async def test_nothing_is_tried_again_of_a_file_that_is_refused(film: FindFilm) -> None:
    async with running(limits=MediaLimits(pixels=12_000)) as pool:
        left_out = [clip async for clip in pool.clips(film("h264-open"), CHUNKS, 8, SIZE, skip=True)]
        assert [item.chunk for item in left_out] == CHUNKS
        assert all(isinstance(item, LeftOut) and "12000 pixels" in item.reason for item in left_out)
        assert pool.counts.retries == 0


async def test_what_a_limit_forbids_is_not_tried_again(film: FindFilm) -> None:
    async with running(limits=MediaLimits(pixels=12_000)) as pool:
        with pytest.raises(DecodeError, match="128x96, more than the allowed 12000 pixels"):
            await collect(pool, film("h264-open"), CHUNKS)
        assert pool.counts.retries == 0


# Memory ---------------------------------------------------------------------------------------------------


async def test_only_so_many_clips_are_unreleased(film: FindFilm) -> None:
    async with (
        running(ahead=2) as pool,
        aclosing(whole(pool.clips(film("h264-open"), CHUNKS, 8, SIZE))) as clips,
    ):
        held = [await anext(clips), await anext(clips)]
        waiting = asyncio.ensure_future(anext(clips))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        before = held[1].frames.copy()
        threading.Thread(target=held[0].release).start()  # an engine releases from its own thread
        third = await waiting
        assert third.chunk.index == 2
        assert np.array_equal(held[1].frames, before)
        held[1].release()
        held[1].release()
        third.release()
        assert [clip.chunk.index async for clip in _releasing(clips)] == list(range(3, 10))


async def _releasing(clips: AsyncIterator[Clip]) -> AsyncIterator[Clip]:
    async for clip in clips:
        yield clip
        clip.release()


async def test_waiting_for_a_release_is_no_hang(film: FindFilm) -> None:
    limits = MediaLimits(seconds=0.3, pace=0)
    async with running(ahead=1, limits=limits) as pool:
        async with aclosing(whole(pool.clips(film("h264-open"), CHUNKS, 8, SIZE))) as clips:
            async for clip in clips:
                await asyncio.sleep(0.4 if clip.chunk.index < 2 else 0)
                clip.release()
        assert pool.counts.restarts == 0


async def test_clips_outlive_their_process(film: FindFilm, expected: list[Frames]) -> None:
    async with running(ahead=10) as pool:
        clips = [clip async for clip in whole(pool.clips(film("h264-open"), CHUNKS, 8, SIZE))]
    assert same([list(zip(clip.times, clip.frames, strict=True)) for clip in clips], expected)
    for clip in clips:
        clip.release()


async def test_memory_is_used_again(film: FindFilm) -> None:
    async with running(ahead=2) as pool:
        for _ in range(3):
            await collect(pool, film("h264-open"), CHUNKS)
            await asyncio.sleep(0)  # the last clip's memory is given back by the event loop
        process = pool._slots[0].process
        assert process is not None
        assert process.memory.size == 2 * 8 * 3 * SIZE * SIZE


async def test_decoders_killed_at_random_during_200_chunks_lose_nothing(film: FindFilm) -> None:
    rng, loop = random.Random(3), asyncio.get_running_loop()
    path, kills = film("h264-gop250"), 0
    chunks = plan_chunks(0, 8 * SECOND, SECOND // 25, 0, None)
    clips: list[Frames] = []

    def kill(pool: DecoderPool) -> None:
        nonlocal kills
        for slot in pool._slots:
            if slot.process and slot.process.alive:
                os.kill(slot.process.pid, signal.SIGKILL)
                kills += 1

    async with running(2) as pool, aclosing(whole(pool.clips(path, chunks, 8, SIZE))) as decoding:
        async for clip in decoding:
            clips.append(list(zip(clip.times, clip.frames.copy(), strict=True)))
            clip.release()
            if rng.random() < 0.06:
                loop.call_later(rng.uniform(0, 0.02), kill, pool)
                await asyncio.sleep(rng.uniform(0, 0.02))
        assert pool.counts.restarts >= 5
    assert (len(chunks), kills > 5) == (200, True)
    frames = decode_everything(path)
    assert same(clips, [pick(frames, chunk, 8) for chunk in chunks])


async def test_nothing_is_left_open(film: FindFilm) -> None:
    this = psutil.Process()
    others = this.children()

    async def use() -> None:
        async with running(2) as pool:
            await collect(pool, film("h264-open"), CHUNKS[:2])
            os.kill(process_of(pool).pid, signal.SIGKILL)
            await collect(pool, film("h264-open"), CHUNKS[:2])

    await use()
    gc.collect()
    before = this.num_fds()
    await use()
    gc.collect()
    assert this.num_fds() <= before
    assert this.children() == others


# Cancelling -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seconds of decoding: large, and nothing but one GOP of references."""
    described = Film("mpeg4", "mp4", gop=600, frames=200)
    return make(tmp_path_factory.mktemp("long") / "long.mp4", described, (1280, 720))


async def test_leaving_early_frees_the_process(
    long_film: Path, film: FindFilm, expected: list[Frames]
) -> None:
    async with running() as pool:
        pid = process_of(pool).pid
        async with aclosing(whole(pool.clips(long_film, [Chunk(0, 0, 6 * SECOND)], 8, SIZE))) as clips:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(clips), 0.05)
        assert pool.busy == 0
        assert same(await collect(pool, film("h264-open"), CHUNKS), expected)
        assert process_of(pool).pid == pid


async def test_a_cancelled_caller_frees_the_process(film: FindFilm, expected: list[Frames]) -> None:
    async with running(ahead=1) as pool:
        tasks = [asyncio.create_task(collect(pool, film("h264-open"), CHUNKS)) for _ in range(3)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert pool.busy == 0
        assert same(await collect(pool, film("h264-open"), CHUNKS), expected)
        assert pool.counts.restarts == 0


async def test_a_process_that_does_not_stop_when_asked_is_ended(long_film: Path, film: FindFilm) -> None:
    async with running() as pool:
        clips = whole(pool.clips(long_film, [Chunk(0, 0, 6 * SECOND)], 8, SIZE))
        waiting = asyncio.ensure_future(anext(clips))
        await asyncio.sleep(0.1)
        process = process_of(pool)
        process.suspend()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await clips.aclose()
        await until(lambda: not process.is_running())
        assert len(await collect(pool, film("h264-open"), CHUNKS)) == 10


# Processes that fail --------------------------------------------------------------------------------------


async def test_a_killed_process_loses_nothing(film: FindFilm, expected: list[Frames]) -> None:
    async with running(ahead=2) as pool:
        clips = []
        async with aclosing(whole(pool.clips(film("h264-open"), CHUNKS, 8, SIZE))) as decoding:
            async for clip in decoding:
                clips.append(list(zip(clip.times, clip.frames.copy(), strict=True)))
                if clip.chunk.index in (1, 4):
                    process_of(pool).kill()
                clip.release()
        assert same(clips, expected)
        assert (pool.counts.retries, pool.counts.restarts) == (2, 2)


async def test_a_process_that_is_killed_after_its_last_clip_loses_nothing(
    film: FindFilm, expected: list[Frames], monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = Job.receive

    async def dies(job: Job) -> FromDecoder:
        message = await receive(job)
        if isinstance(message, Finished):
            raise ChildDied("decoder", -signal.SIGKILL)
        return message

    monkeypatch.setattr(Job, "receive", dies)
    async with running() as pool:
        assert same(await collect(pool, film("h264-open"), CHUNKS), expected)
        assert pool.counts.retries == 0


async def test_a_process_that_always_crashes_fails_its_chunk_and_no_other(
    film: FindFilm, expected: list[Frames], long_film: Path
) -> None:
    async with running(2, attempts=2) as pool:
        clips = whole(pool.clips(long_film, [Chunk(0, 0, 6 * SECOND)], 8, SIZE))
        waiting = asyncio.ensure_future(anext(clips))
        neighbour = asyncio.create_task(collect(pool, film("h264-open"), CHUNKS))
        crashed: set[int] = set()
        while not waiting.done():
            await asyncio.sleep(0.05)
            slot = next(slot for slot in pool._slots if slot.path == str(long_film))
            if slot.process and slot.process.pid not in crashed and slot.process.sandbox:
                crashed.add(slot.process.pid)
                os.kill(slot.process.pid, signal.SIGSEGV)
        with pytest.raises(DecodeError, match=r"Decode error: the decoder process died \(SIGSEGV\)"):
            await waiting
        assert len(crashed) == 2
        assert same(await neighbour, expected)
        assert len(await collect(pool, film("h264-open"), CHUNKS)) == 10


async def test_a_hanging_process_is_replaced(long_film: Path, film: FindFilm) -> None:
    async with running(limits=MediaLimits(seconds=1, pace=0)) as pool:
        process_of(pool).suspend()
        with pytest.raises(DecodeError, match="Decode error: the decoder did not answer in time"):
            await collect(pool, long_film, [Chunk(0, 0, 6 * SECOND)])
        assert len(await collect(pool, film("h264-open"), CHUNKS)) == 10
        assert pool.counts.restarts == 1


async def test_a_probe_that_hangs_is_given_up(film: FindFilm) -> None:
    """Within its own time, and without the others having to wait for it."""
    async with running(limits=MediaLimits(probe_seconds=1.5), probers=2) as pool:
        process = pool._probers[0].process
        assert process is not None
        psutil.Process(process.pid).suspend()
        hanging = asyncio.create_task(pool.probe(film("h264-open")))
        await asyncio.sleep(0)
        assert (await pool.probe(film("vp9"))).codec == "vp9"
        assert not hanging.done()
        with pytest.raises(InvalidFile, match=r"the file could not be read within 1\.5 s"):
            await hanging
        assert (await pool.probe(film("h264-open"))).codec == "h264"


async def test_a_prober_that_another_program_kills_is_not_the_files_fault(
    film: FindFilm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: what is killed every time is refused, as is a file by which the process dies."""

    async def probe_and_send(pool: DecoderPool, number: signal.Signals) -> MediaFacts:
        await pool.probe(film("h264-open"))
        process = pool._probers[0].process
        assert process is not None
        psutil.Process(process.pid).suspend()
        probing = asyncio.create_task(pool.probe(film("vp9")))
        await asyncio.sleep(0)
        os.kill(process.pid, number)
        psutil.Process(process.pid).resume()
        return await probing

    async with running() as pool:
        assert (await probe_and_send(pool, signal.SIGKILL)).codec == "vp9"
        assert (pool.counts.retries, pool.counts.restarts) == (1, 1)
        with pytest.raises(InvalidFile, match=r"cannot be read: the decoder process died \(SIGABRT\)"):
            await probe_and_send(pool, signal.SIGABRT)
        monkeypatch.setattr(decoder_pool, "PROBE_KILLS", 0)
        with pytest.raises(InvalidFile, match="SIGKILL"):
            await probe_and_send(pool, signal.SIGKILL)


async def test_a_process_that_swells_fails_its_own_file(tmp_path: Path, film: FindFilm) -> None:
    large = make(tmp_path / "large.mp4", Film("mjpeg", "mp4", pixels="yuvj444p", frames=2), (8000, 4400))
    async with running(limits=MediaLimits(memory=380 << 20)) as pool:
        with pytest.raises(DecodeError, match="Decode error: more than 380 MiB of memory needed"):
            await collect(pool, large, [Chunk(0, 0, SECOND // 15)])
        assert len(await collect(pool, film("h264-open"), CHUNKS)) == 10


async def test_a_pool_that_is_closed_says_so(film: FindFilm) -> None:
    async with running() as pool:
        pass
    with pytest.raises(DecodeError, match="the decoders are closed"):
        await collect(pool, film("h264-open"), CHUNKS)


# Around the process ---------------------------------------------------------------------------------------


async def test_a_decoder_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "very secret")
    async with running() as pool:
        assert "very secret" not in process_of(pool).environ().values()
        assert process_of(pool).nice() >= min(19, os.nice(0) + 5)


async def test_an_idle_decoder_lets_go_of_its_file(
    film: FindFilm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(film("h264-open").read_bytes())
    async with running() as pool:
        await collect(pool, path, CHUNKS)
        assert str(path) in [file.path for file in process_of(pool).open_files()]
        await until(lambda: not process_of(pool).open_files())
