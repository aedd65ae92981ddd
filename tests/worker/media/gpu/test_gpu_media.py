"""Films on a GPU, with FFmpeg in the place of NVDEC: packets, ends of streams, decoders, lifetimes."""

import asyncio
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.chunks import SECOND, plan_chunks
from tests.support import until
from tests.worker.media.decoder.test_handover import UNSUITED, choose
from tests.worker.media.films import FILMS, make, x264
from tests.worker.media.gpu.conftest import (
    CHUNKS,
    FindFilm,
    assert_close,
    assert_ended,
    collect,
    running,
    told,
)
from tests.worker.media.kernel import Kernel
from tests.worker.media.reading import SIZE, Frames, read, whole
from tests.worker.media.recorder import Recorder
from tests.worker.media.test_pauses import late_video
from worker.media.clip_source import Clip, LeftOut
from worker.media.decoder.decoder_messages import Chosen
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.reader import Reader
from worker.media.decoder_job import Job
from worker.media.gpu.clip_slots import DeviceClip

ON_GPU = sorted(FILMS.keys() - UNSUITED)


@pytest.mark.parametrize("name", ON_GPU)
async def test_clips_are_those_of_the_cpu(name: str, film: FindFilm, reader: Reader, kernel: Kernel) -> None:
    recorder, path = Recorder(kernel), film(name)
    async with running(recorder) as media:
        clips = await collect(media, path, CHUNKS)
        assert not media.fallbacks
    assert_close(clips, read(reader, path, CHUNKS, 8)[0])
    messages, counts = choose(reader, path, CHUNKS, 8)
    sent = [message.run for message in messages if isinstance(message, Chosen)]
    decoded = recorder.runs()
    assert len(decoded) == len(sent)
    assert sorted(map(told, sent)) == sorted([(event.time, event.data) for event in run] for run in decoded)
    assert media.counts.frames_decoded == counts.frames_decoded
    assert media.counts.frames_used == counts.frames_used
    created = [event for event in recorder.events if event.what == "create"]
    assert 1 <= len(created) <= 2
    assert_ended(recorder)


async def test_pauses_and_chunks_before_the_video_are_those_of_the_cpu(
    reader: Reader, kernel: Kernel, tmp_path: Path
) -> None:
    recorder, path = Recorder(kernel), late_video(tmp_path / "late.mkv")
    chunks = plan_chunks(0, 7 * SECOND, SECOND, 0, None)
    found: list[Frames] = []
    async with running(recorder) as media, aclosing(media.clips(path, chunks, 8, SIZE)) as clips:
        async for clip in clips:
            if isinstance(clip, LeftOut):
                assert clip.reason == "the chunk ends before the first frame of the video"
                found.append([])
            else:
                found.append(list(zip(clip.times, clip.frames.copy(), strict=True)))
                clip.release()
        assert not media.fallbacks
    assert [len(clip) for clip in found[:4]] == [0, 0, 0, 0]
    assert_close(found, read(reader, path, chunks, 8)[0])


async def test_a_frame_may_go_into_more_clips_than_there_are_slots(
    reader: Reader, kernel: Kernel, tmp_path: Path
) -> None:
    burst = [index * 33 for index in range(30)]
    film = x264("mp4", "keyint=30", frames=60, times=[*burst, *(40_000 + when for when in burst)])
    path, chunks = make(tmp_path / "pause.mp4", film), plan_chunks(0, 41 * SECOND, 2 * SECOND, 0, None)
    async with running(Recorder(kernel), ahead=3) as media:
        clips = await collect(media, path, chunks)
        assert not media.fallbacks
    assert_close(clips, read(reader, path, chunks, 8)[0])


async def test_decoders_are_used_again_and_reconfigured_for_another_size(
    kernel: Kernel, tmp_path: Path, reader: Reader
) -> None:
    recorder = Recorder(kernel, engines=1)
    small, middle, large = (
        make(tmp_path / f"{size[0]}.mp4", FILMS["h264-gop30"], size)
        for size in [(128, 96), (192, 160), (320, 240)]
    )
    async with running(recorder) as media:
        for path in (small, middle, large, small):
            assert_close(await collect(media, path, CHUNKS[:2]), read(reader, path, CHUNKS[:2], 8)[0])
        assert not media.fallbacks
    assert [e.size for e in recorder.events if e.what == "create"] == [(128, 96)]
    sizes = [e.size for e in recorder.events if e.what == "reconfigure"]
    assert sizes == [(192, 160), (320, 240), (128, 96)]
    assert_ended(recorder)


@pytest.mark.parametrize(
    "second",
    [("hevc-gop30", (128, 96)), ("h264-444-10-bit", (128, 96)), ("h264-gop30", (128, 90))],
    ids=["another codec", "another format", "the same coded size"],
)
async def test_what_cannot_be_reconfigured_gets_a_new_decoder(
    second: tuple[str, tuple[int, int]], film: FindFilm, kernel: Kernel, tmp_path: Path, reader: Reader
) -> None:
    """With one engine the old decoder has gone before the new one comes."""
    recorder = Recorder(kernel, engines=1)
    name, size = second
    path = make(tmp_path / "second.mp4", FILMS[name], size)
    async with running(recorder) as media:
        await collect(media, film("h264-gop30"), CHUNKS[:1])
        assert_close(await collect(media, path, CHUNKS[:1]), read(reader, path, CHUNKS[:1], 8)[0])
    happened = [(e.decoder, e.what) for e in recorder.events if e.what in ("create", "reconfigure", "close")]
    assert happened == [(0, "create"), (0, "close"), (1, "create"), (1, "close")]


async def test_a_larger_video_than_a_decoder_was_made_for_gets_a_new_one(
    film: FindFilm, kernel: Kernel, tmp_path: Path
) -> None:
    recorder = Recorder(kernel, engines=1, room=(160, 128))
    large = make(tmp_path / "large.mp4", FILMS["h264-gop30"], (320, 240))
    async with running(recorder) as media:
        for path in (film("h264-gop30"), large, film("h264-gop30")):
            await collect(media, path, CHUNKS[:1])
    happened = [(e.what, e.size) for e in recorder.events if e.what in ("create", "reconfigure", "close")]
    assert happened == [
        ("create", (128, 96)),
        ("close", (0, 0)),
        ("create", (320, 240)),
        ("reconfigure", (128, 96)),
        ("close", (0, 0)),
    ]


async def test_without_reuse_each_run_has_a_decoder_of_its_own(film: FindFilm, kernel: Kernel) -> None:
    recorder = Recorder(kernel, reuse=False)
    async with running(recorder) as media:
        await collect(media, film("h264-gop30"), CHUNKS)
    assert len(recorder.sessions) == len(recorder.runs()) > 1
    assert_ended(recorder)


async def test_the_gpu_is_used_even_if_the_cpu_is_to_decode_everything(
    film: FindFilm, kernel: Kernel
) -> None:
    async with running(Recorder(kernel), sparse=False) as media:
        await collect(media, film("h264-gop30"), CHUNKS)
        assert not media.fallbacks


async def test_no_more_decoders_than_engines(film: FindFilm, kernel: Kernel) -> None:
    recorder = Recorder(kernel, engines=2, slots=40)
    names = ["h264-gop30", "hevc-gop30", "vp9", "mpeg4", "av1"]
    async with running(recorder, slots=3) as media:
        await asyncio.gather(*(collect(media, film(name), CHUNKS) for name in names))
        assert not media.fallbacks
    alive = most = 0
    for event in recorder.events:
        alive += (event.what == "create") - (event.what == "close")
        most = max(most, alive)
    assert most == 2
    assert_ended(recorder)


async def test_frames_for_two_clips_are_decoded_once(film: FindFilm, kernel: Kernel, reader: Reader) -> None:
    recorder, path = Recorder(kernel), film("h264-gop250")
    chunks = plan_chunks(0, 6 * SECOND, 2 * SECOND, SECOND, None)
    async with running(recorder) as media:
        clips = await collect(media, path, chunks)
    assert_close(clips, read(reader, path, chunks, 8)[0])
    assert len(recorder.runs()) == 1


async def test_a_gop_may_fill_more_clips_than_are_free(
    film: FindFilm, kernel: Kernel, reader: Reader
) -> None:
    """Decoding waits in the middle of a run until clips are released, and then goes on."""
    recorder, path = Recorder(kernel, slots=4), film("h264-gop250")
    chunks = plan_chunks(0, 8 * SECOND, SECOND // 2, 0, None)
    async with running(recorder, ahead=3) as media:
        held: list[Clip] = []
        taken = []
        async with aclosing(whole(media.clips(path, chunks, 8, SIZE))) as decoding:
            async for clip in decoding:
                taken.append(list(zip(clip.times, clip.frames.copy(), strict=True)))
                held.append(clip)
                if len(held) == 3:
                    held.pop(0).release()
        for clip in held:
            clip.release()
        await until(lambda: media._stock.free == 4)
    assert_close(taken, read(reader, path, chunks, 8)[0])
    assert len(recorder.runs()) == 1


async def test_a_process_that_leaves_a_clip_out_holds_nobody_up(
    film: FindFilm, kernel: Kernel, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a decoder process says is not to be trusted: a file may have taken it over."""
    receive = Job.receive

    async def lie(job: Job) -> Any:
        message = await receive(job)
        if isinstance(message, Chosen):
            return msgspec.structs.replace(message, places=[[(2, 0)] for _ in message.places])
        return message

    monkeypatch.setattr(Job, "receive", lie)
    async with running(Recorder(kernel), limits=MediaLimits(seconds=0.5)) as media:
        clips = await collect(media, film("h264-gop30"), CHUNKS)
        await until(lambda: media._stock.free == 16)
    assert_close(clips, read(reader, film("h264-gop30"), CHUNKS, 8)[0])


async def test_slots_come_back_when_a_caller_goes_away(film: FindFilm, kernel: Kernel) -> None:
    recorder = Recorder(kernel, slots=6)
    async with running(recorder, ahead=3) as media:
        decoding = whole(
            media.clips(film("h264-gop250"), plan_chunks(0, 8 * SECOND, SECOND // 2, 0, None), 8, SIZE)
        )
        kept = await anext(decoding)
        await decoding.aclose()
        await until(lambda: media._stock.free == 5)
        assert isinstance(kept, DeviceClip)
        kept.release()
        kept.release()
        await until(lambda: media._stock.free == 6)
        assert len(await collect(media, film("h264-gop30"), CHUNKS)) == 3
    assert_ended(recorder)


async def test_a_cancelled_job_leaves_nothing_behind(film: FindFilm, kernel: Kernel) -> None:
    recorder = Recorder(kernel, slots=6)
    async with running(recorder, ahead=3) as media:
        waiting = asyncio.Event()

        async def take() -> None:
            async with aclosing(whole(media.clips(film("h264-gop250"), CHUNKS, 8, SIZE))) as decoding:
                async for _ in decoding:
                    waiting.set()
                    await asyncio.Event().wait()

        job = asyncio.create_task(take())
        await waiting.wait()
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        del job
        assert media.busy == 0
        assert len(await collect(media, film("h264-gop30"), CHUNKS)) == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nvdec")]
    assert_ended(recorder)
