"""What a GPU cannot decode, or decodes wrong, goes to the CPU; live streams on a GPU."""

import asyncio
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from shared.chunks import SECOND, Chunk
from shared.errors import DecodeError, DeviceLost
from tests.support import until
from tests.worker.media.decoder.test_handover import choose
from tests.worker.media.films import FILMS, make, x264
from tests.worker.media.gpu.conftest import (
    CHUNKS,
    FindFilm,
    after,
    assert_close,
    assert_ended,
    collect,
    live_runs,
    running,
    told,
)
from tests.worker.media.kernel import HostSurface, Kernel
from tests.worker.media.reading import SIZE, read, whole
from tests.worker.media.recorder import Packet, Recorder, RecordingDecoder, planes_of
from worker.media.decoder.decoder_messages import Chosen
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.reader import Reader
from worker.media.decoder.runs import Run
from worker.media.decoder_job import SharedClip
from worker.media.gpu.clip_slots import DeviceClip
from worker.media.gpu.gpu_media import Unsuited
from worker.media.gpu.nvdec_sessions import NvdecSession, SessionKind


@pytest.mark.parametrize(
    "case",
    [
        ("h264-gop30", {"supported": 0}, "this GPU decodes no h264 with yuv420p pixels"),
        ("h264-gop30", {"width_max": 100}, "this GPU decodes h264 from 48x16 to 100x4096, not 128x96"),
        ("h264-gop30", {"height_min": 200}, "this GPU decodes h264 from 48x200 to 4096x4096, not 128x96"),
        ("h264-gop30", {"mb_num_max": 47}, "this GPU decodes h264 from 48x16 to 4096x4096, not 128x96"),
        ("mpeg2-ts", {}, "packets of mpeg2video are not handed over"),
        ("h264-b-avi", {}, "no frames can be chosen from the packets of this h264 file"),
    ],
)
async def test_what_the_gpu_cannot_decode_goes_to_the_cpu(
    case: tuple[str, dict[str, Any], str], film: FindFilm, kernel: Kernel, reader: Reader
) -> None:
    name, can, cause = case
    recorder, path = Recorder(kernel, **can), film(name)
    async with running(recorder) as media:
        for _ in range(2):
            async with aclosing(whole(media.clips(path, CHUNKS, 8, SIZE))) as decoding:
                clips = [clip async for clip in decoding]
            assert all(isinstance(clip, SharedClip) for clip in clips)
            ours = [list(zip(clip.times, clip.frames.copy(), strict=True)) for clip in clips]
            for clip in clips:
                clip.release()
            assert all(
                np.array_equal(a[1], b[1])
                for mine, theirs in zip(ours, read(reader, path, CHUNKS, 8)[0], strict=True)
                for a, b in zip(mine, theirs, strict=True)
            )
        assert media.fallbacks == {cause: 2}
        assert media.counts.fallbacks == 2
    assert not recorder.events


async def test_av1_goes_to_the_cpu_where_that_is_wished(film: FindFilm, kernel: Kernel) -> None:
    recorder = Recorder(kernel)
    recorder.device = recorder.device._replace(software_av1=True)
    async with running(recorder) as media:
        await collect(media, film("av1"), CHUNKS[:1])
        assert media.fallbacks == {"FORCE_SW_AV1_DECODER": 1}
        await collect(media, film("vp9"), CHUNKS[:1])
    assert {session.kind.codec for session in recorder.sessions} == {"vp9"}


async def test_a_video_of_odd_size_goes_to_the_cpu(kernel: Kernel, tmp_path: Path) -> None:
    path = make(tmp_path / "odd.webm", FILMS["vp8"], (127, 95))
    recorder = Recorder(kernel)
    async with running(recorder) as media:
        assert len(await collect(media, path, CHUNKS[:1])) == 1
        assert media.fallbacks == {"127x95 is odd, where PyNvVideoCodec cuts chroma off": 1}


async def test_a_decoder_that_fails_is_ended_and_the_cpu_goes_on(
    film: FindFilm, kernel: Kernel, reader: Reader
) -> None:
    recorder, path = Recorder(kernel), film("h264-gop30")
    recorder.failure = RuntimeError("HandleVideoSequence : CUDA_ERROR_OUT_OF_MEMORY")
    async with running(recorder) as media:
        clips = await collect(media, path, CHUNKS)
        cause = "NVDEC failed: RuntimeError: HandleVideoSequence : CUDA_ERROR_OUT_OF_MEMORY"
        assert media.fallbacks == {cause: 1}
        await until(lambda: media._stock.free == 16)
        assert not media._device.sessions._idle
    assert_close(clips, read(reader, path, CHUNKS, 8)[0])
    assert_ended(recorder)


async def test_frames_that_do_not_come_out_are_had_from_the_cpu(
    film: FindFilm, kernel: Kernel, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first clip on that lacks one; those before it are not decoded again."""
    recorder, path = Recorder(kernel), film("h264-gop30")
    monkeypatch.setattr(
        "tests.worker.media.kernel.HostSurface.getPTS",
        lambda surface: -5 if surface._time > SECOND else surface._time,
    )
    async with running(recorder) as media:
        clips, kinds = [], []
        async with aclosing(whole(media.clips(path, CHUNKS, 8, SIZE))) as decoding:
            async for clip in decoding:
                kinds.append(type(clip))
                clips.append(list(zip(clip.times, clip.frames.copy(), strict=True)))
                clip.release()
        assert media.fallbacks == {"NVDEC left out frames of h264 that were asked for": 1}
    assert kinds == [DeviceClip, SharedClip, SharedClip]
    assert_close(clips, read(reader, path, CHUNKS, 8)[0])


async def test_a_decoder_that_hangs_is_told_of(
    film: FindFilm, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can end its thread, so that the worker must be replaced."""
    hangs, go_on = threading.Event(), threading.Event()
    decode = RecordingDecoder.Decode

    def hang(decoder: RecordingDecoder, told: Packet, /) -> Any:
        hangs.set()
        assert go_on.wait(10)
        return decode(decoder, told)

    monkeypatch.setattr(RecordingDecoder, "Decode", hang)
    async with running(Recorder(kernel), limits=MediaLimits(seconds=0.05)) as media:
        assert media.trouble == ""
        job = asyncio.create_task(collect(media, film("h264-gop30"), CHUNKS[:1]))
        await asyncio.to_thread(hangs.wait, 10)
        await until(lambda: media.trouble)
        assert media.trouble.startswith("NVDEC has not answered for ")
        go_on.set()
        await job
        await until(lambda: not media.trouble)


async def test_a_broken_file_fails_as_on_the_cpu(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"\0" * 5000)
    async with running(Recorder(kernel)) as media:
        with pytest.raises(DecodeError, match=r"not a readable video file|supported kind"):
            await collect(media, path, CHUNKS)
        assert not media.fallbacks


async def test_images_are_read_by_the_cpu(kernel: Kernel, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "grey.png"
    Image.new("RGB", (50, 40), (10, 200, 30)).save(path)
    async with running(Recorder(kernel)) as media:
        clip = await media.images([path], SIZE)
        assert isinstance(clip, SharedClip)
        assert np.abs(clip.frames[0].mean((1, 2)) - [10, 200, 30]).max() < 1
        clip.release()


@pytest.mark.parametrize("name", ["h264-gop30", "hevc-open", "vp8", "h264-444-10-bit"])
async def test_live_chunks_are_decoded_from_their_runs(
    name: str, film: FindFilm, kernel: Kernel, reader: Reader
) -> None:
    recorder, path, chunk = Recorder(kernel), film(name), Chunk(7, 0, 2 * SECOND)
    codec, runs = live_runs(reader, path, 8)
    async with running(recorder) as media:
        for _ in range(2):
            clip = await media.runs(chunk, codec, runs, 8, SIZE)
            assert clip.chunk is chunk
            ours = [list(zip(clip.times, clip.frames.copy(), strict=True))]
            assert_close(ours, read(reader, path, [Chunk(0, 0, 2 * SECOND)], 8)[0])
            clip.release()
        assert media.counts.frames_decoded == 2 * sum(len(run.packets) for run in runs)
        assert media.counts.frames_used == 16
        await until(lambda: media._stock.free == 16)
    assert sorted(map(told, runs * 2)) == sorted([(e.time, e.data) for e in run] for run in recorder.runs())
    assert len(recorder.sessions) <= 2
    assert_ended(recorder)


async def test_a_live_chunk_with_packets_missing_is_left_to_the_cpu_which_does_without_the_frame(
    film: FindFilm, kernel: Kernel, reader: Reader
) -> None:
    codec, runs = live_runs(reader, film("h264-gop1"), 8)
    lost = Run(runs[3].parameters, [(when, b"\0\0\0\1\x09\x10") for when in runs[3].wanted], runs[3].wanted)
    async with running(Recorder(kernel)) as media:
        clip = await media.runs(Chunk(0, 0, 2 * SECOND), codec, [*runs[:3], lost, *runs[4:]], 8, SIZE)
        assert clip.times == [when for run in (*runs[:3], *runs[4:]) for when in run.wanted]
        assert len(clip.times) == len(clip.frames) == 7
        clip.release()
        assert media.fallbacks == {"NVDEC left out 1 of 8 frames of a live chunk": 1}


async def test_a_live_chunk_that_gives_nothing_is_tried_by_the_cpu(
    film: FindFilm, kernel: Kernel, reader: Reader
) -> None:
    codec, runs = live_runs(reader, film("h264-gop30"), 4)
    recorder = Recorder(kernel)
    recorder.failure = RuntimeError("no")
    async with running(recorder) as media:
        clip = await media.runs(Chunk(0, 0, 2 * SECOND), codec, runs, 4, SIZE)
        assert isinstance(clip, SharedClip)
        assert len(clip.times) == 4
        clip.release()
        assert media.fallbacks == {"NVDEC failed: RuntimeError: no": 1}
        garbage = [Run(b"", [(0, b"\0\0\0\1\x65 nothing")], [0])]
        with pytest.raises(DecodeError):
            await media.runs(Chunk(1, 0, SECOND), codec, garbage, 4, SIZE)
        assert len(media.fallbacks) == 2
        await until(lambda: media._stock.free == 16)


async def test_a_cancelled_live_chunk_gives_its_slot_back_when_it_is_drawn(
    film: FindFilm, kernel: Kernel, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, runs = live_runs(reader, film("h264-gop30"), 4)
    recorder, drawing, go_on = Recorder(kernel), threading.Event(), threading.Event()
    draw = recorder.slots._draw

    def slow(*arguments: Any) -> None:
        drawing.set()
        assert go_on.wait(10)
        draw(*arguments)

    monkeypatch.setattr(recorder.slots, "_draw", slow)
    async with running(recorder) as media:
        job = asyncio.create_task(media.runs(Chunk(0, 0, 2 * SECOND), codec, runs, 4, SIZE))
        await asyncio.to_thread(drawing.wait, 10)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert media._stock.free == 15
        go_on.set()
        await until(lambda: media._stock.free == 16)


async def test_a_camera_is_looked_at_once(
    film: FindFilm, kernel: Kernel, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(kernel)
    asked: list[Any] = []
    async with running(recorder) as media:
        lease = media._lease

        def noting(*path: Any) -> Any:
            asked.append(path)
            return lease(*path)

        monkeypatch.setattr(media, "_lease", noting)
        for name in ("h264-gop30", "vp8"):
            codec, runs = live_runs(reader, film(name), 4)
            for index in range(3):
                (await media.runs(Chunk(index, 0, 2 * SECOND), codec, runs, 4, SIZE)).release()
            if name == "h264-gop30":
                assert len(asked) == 1
    assert len(asked) > 3  # VP8 tells its size in its pictures only


async def test_a_size_that_changes_unannounced_is_noticed(
    kernel: Kernel, tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VP8 and VP9 may change it at any key frame, and have no parameter sets that tell."""
    told = []
    for width in (128, 160):
        path = make(tmp_path / f"{width}.webm", FILMS["vp8"], (width, 96))
        message = choose(reader, path, CHUNKS[:1], 2)[0][0]
        assert isinstance(message, Chosen)
        told.append(message)
    monkeypatch.setattr(
        RecordingDecoder,
        "_surface",
        lambda _, frame: HostSurface("NV12", planes_of(frame), frame.pts),
    )
    async with running(Recorder(kernel)) as media:
        with pytest.raises(Unsuited, match="vp8 frames of 160x96, where 128x96 was stated"):
            list(media._frames(told[0].look, told[1].run))
        assert not media._device.sessions._idle


async def test_a_session_is_not_used_again_for_a_stream_that_keeps_more_pictures(
    kernel: Kernel, tmp_path: Path, reader: Reader
) -> None:
    """The library's parser keeps the room of the first stream of a size, and decodes the next one wrong."""
    recorder = Recorder(kernel, engines=1)
    few = make(tmp_path / "few.mp4", x264("mp4", "keyint=30:ref=1:bframes=0:scenecut=0"))
    many = make(tmp_path / "many.mp4", x264("mp4", "keyint=90:ref=16:bframes=8:b-pyramid=normal:scenecut=0"))
    async with running(recorder) as media:
        for path in (few, few, many):
            assert_close(await collect(media, path, CHUNKS[:1]), read(reader, path, CHUNKS[:1], 8)[0])
        assert not media.fallbacks
    created = [event for event in recorder.events if event.what == "create"]
    assert len(created) == 2  # one for both rounds of the first film
    assert_ended(recorder)


async def test_a_picture_that_the_decoder_reports_as_damaged_does_not_become_a_vector(
    film: FindFilm, kernel: Kernel, reader: Reader
) -> None:
    recorder, path = Recorder(kernel, engines=1), film("h264-gop30")
    create = recorder._create

    def damaging(kind: SessionKind) -> NvdecSession:
        session = create(kind)

        def report() -> None:
            recorder.damaged += 1

        recorder.sessions[-1].decoder.Decode = after(5, recorder, report)  # type: ignore[method-assign]
        return session

    recorder.device.sessions._create = damaging
    async with running(recorder) as media:
        clips = await collect(media, path, CHUNKS[:2])
        assert media.fallbacks == {"NVDEC reported a damaged picture of h264": 1}
    assert_close(clips, read(reader, path, CHUNKS[:2], 8)[0])


@pytest.mark.parametrize(
    ("name", "left_out", "missing"),
    [("h264-no-b", 10, "frame_num 11 follows 9"), ("hevc-gop30", 8, "picture 9 is predicted from 10")],
)
async def test_a_film_with_a_reference_picture_missing_is_left_to_the_cpu(
    name: str, left_out: int, missing: str, *, film: FindFilm, kernel: Kernel, tmp_path: Path
) -> None:
    whole, cut = film(name), tmp_path / "cut.mp4"
    with av.open(str(whole)) as reading, av.open(str(cut), "w") as writing:
        copied = writing.add_stream_from_template(reading.streams.video[0])
        for number, packet in enumerate(reading.demux(video=0)):
            if packet.size and number != left_out:
                packet.stream = copied
                writing.mux(packet)
    async with running(Recorder(kernel)) as media:
        await collect(media, cut, CHUNKS[:1])
        assert list(media.fallbacks) == [f"reference pictures are missing: {missing}"]


async def test_a_gpu_that_is_lost_while_it_decodes_is_no_fault_of_the_film(
    film: FindFilm, kernel: Kernel
) -> None:
    recorder = Recorder(kernel)
    recorder.failure, recorder.lost = (
        RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS"),
        DeviceLost("the GPU is lost"),
    )
    async with running(recorder) as media:
        with pytest.raises(DeviceLost, match="the GPU is lost"):
            await collect(media, film("h264-gop30"), CHUNKS[:1])
        assert not media.fallbacks


async def test_live_frames_are_put_in_order_however_they_come_out(
    film: FindFilm, kernel: Kernel, reader: Reader
) -> None:
    """Without a delay NVIDIA's parser gives B-frames in the order of decoding."""
    recorder = Recorder(kernel, engines=1)
    codec, runs = live_runs(reader, film("h264-gop30"), 8)
    create = recorder._create

    def backwards(kind: SessionKind) -> NvdecSession:
        session = create(kind)
        decoder = recorder.sessions[-1].decoder
        plain = decoder.Decode
        decoder.Decode = lambda told: list(plain(told))[::-1]  # type: ignore[method-assign]
        return session

    recorder.device.sessions._create = backwards
    async with running(recorder) as media:
        clip = await media.runs(Chunk(0, 0, 2 * SECOND), codec, runs, 8, SIZE)
        assert clip.times == sorted(clip.times)
        frames = list(zip(clip.times, clip.frames.copy(), strict=True))
        clip.release()
    assert_close([frames], read(reader, film("h264-gop30"), [Chunk(0, 0, 2 * SECOND)], 8)[0])
