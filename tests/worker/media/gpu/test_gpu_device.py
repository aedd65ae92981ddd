"""The same on a real GPU: NVDEC against FFmpeg, the kernel against libswscale, batches without copies.

H.264, HEVC, VP8, VP9 and AV1 define every bit of a decoded frame, so that only rounding in the kernel is
left: 2 levels at the sharp edges of made-up pictures. MPEG-4 leaves its transform to the decoder, and NVDEC
takes the combs out of interlaced video, which the CPU leaves in.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from shared.chunks import SECOND, Chunk, plan_chunks
from tests.worker.media.decoder.test_handover import UNSUITED
from tests.worker.media.films import FILMS, make, x264
from tests.worker.media.gpu.conftest import CHUNKS, live_runs
from tests.worker.media.reading import SIZE, Frames, read, whole
from worker.job_tasks import stack_clips
from worker.media.decoder.reader import Reader
from worker.media.gpu.clip_slots import DeviceClip
from worker.media.gpu.gpu_media import GpuMedia, open_device

pytestmark = pytest.mark.gpu
FindFilm = Callable[[str], Path]
HIDDEN = "vp8-hidden-frames"
"""NVDEC leaves out frames after ones that are not shown: the CPU takes over."""
APPROXIMATE = {"mpeg4": 3.0, "mpeg4-avi": 3.0, "h264-interlaced": 12.0}
"""Mean difference in levels that is allowed."""


SIZE_OF_FILMS = (256, 192)
"""Large enough for every codec: NVDEC takes HEVC from 144 pixels on, and VP9 from 128."""


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> FindFilm:
    """The path of a film by its name, in a size that NVDEC takes; each is made once."""
    folder = tmp_path_factory.mktemp("larger-films")

    def find(name: str) -> Path:
        path = folder / f"{name}.{FILMS[name].suffix}"
        return path if path.exists() else make(path, FILMS[name], SIZE_OF_FILMS)

    return find


@pytest.fixture
async def media() -> AsyncIterator[GpuMedia]:
    media = GpuMedia(await asyncio.to_thread(open_device, 32, 8, SIZE), 2, ahead=8)
    yield media
    await media.close()


async def collect(media: GpuMedia, path: Path, chunks: list[Chunk]) -> list[Frames]:
    """The chunks' frames, copied from the GPU."""
    clips = []
    async with aclosing(whole(media.clips(path, chunks, 8, SIZE))) as decoding:
        async for clip in decoding:
            clips.append(list(zip(clip.times, frames_of(media, clip), strict=True)))
            clip.release()
    return clips


def frames_of(media: GpuMedia, clip: object) -> np.ndarray:
    assert isinstance(clip, DeviceClip), dict(media.fallbacks)
    batch: Any = stack_clips([clip], 8)
    pixels: np.ndarray = batch.get()[0, : len(clip.times)]
    return pixels


def assert_close(ours: list[Frames], theirs: list[Frames], mean: float = 0.0) -> None:
    assert [[when for when, _ in clip] for clip in ours] == [[when for when, _ in clip] for clip in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for (when, here), (_, there) in zip(mine, other, strict=True):
            difference = np.abs(here.astype(int) - there)
            if mean:
                assert difference.mean() <= mean, when
            else:
                assert difference.max() <= 2, when
                assert (difference <= 1).mean() > 0.999, when


@pytest.mark.parametrize("name", sorted(FILMS.keys() - UNSUITED))
async def test_nvdec_gives_the_frames_of_ffmpeg(
    name: str, film: FindFilm, reader: Reader, media: GpuMedia
) -> None:
    """A codec or format that this GPU does not know is skipped, and says so."""
    path = film(name)
    async with aclosing(whole(media.clips(path, CHUNKS, 8, SIZE))) as decoding:
        clips = [clip async for clip in decoding]
    if any(cause.startswith("this GPU decodes") for cause in media.fallbacks):
        for clip in clips:
            clip.release()
        pytest.skip(str(dict(media.fallbacks)))
    ours = [list(zip(clip.times, frames_of(media, clip), strict=True)) for clip in clips]
    for clip in clips:
        clip.release()
    assert_close(ours, read(reader, path, CHUNKS, 8)[0], APPROXIMATE.get(name, 0.0))


async def test_a_reconfigured_decoder_gives_the_same_frames(
    media: GpuMedia, reader: Reader, tmp_path: Path
) -> None:
    sizes = [(320, 240), (640, 272), (1280, 720), (1920, 1080), (1920, 1072), (320, 240)]
    for number, size in enumerate(sizes):
        path = make(tmp_path / f"{number}.mp4", FILMS["h264-gop30"], size)
        assert_close(await collect(media, path, CHUNKS[:2]), read(reader, path, CHUNKS[:2], 8)[0])
    assert not media.fallbacks


@pytest.mark.parametrize("second", [(640, 352), (1280, 720)])
async def test_a_stream_with_more_reference_pictures_after_one_with_few(
    media: GpuMedia, reader: Reader, tmp_path: Path, second: tuple[int, int]
) -> None:
    """A session of the first must not decode the second: it would overwrite pictures that are needed."""
    few = make(tmp_path / "few.mp4", x264("mp4", "keyint=30:ref=1:bframes=0:scenecut=0"), (640, 352))
    settings = "keyint=90:ref=16:bframes=8:b-adapt=0:b-pyramid=normal:scenecut=0"
    many = make(tmp_path / "many.mp4", x264("mp4", settings), second)
    for path in (few, many, few, many):
        assert_close(await collect(media, path, CHUNKS[:2]), read(reader, path, CHUNKS[:2], 8)[0])
    assert not media.fallbacks


async def test_a_cropped_film(media: GpuMedia, reader: Reader, tmp_path: Path) -> None:
    """By NVDEC, or by the CPU where the library does not crop: right in both cases."""
    crop = "keyint=30:bframes=0:crop-rect=0,16,0,0:scenecut=0"
    path = make(tmp_path / "cropped.mp4", x264("mp4", crop), (640, 352))
    async with aclosing(whole(media.clips(path, CHUNKS[:1], 8, SIZE))) as decoding:
        (clip,) = [clip async for clip in decoding]
    frames: Any = stack_clips([clip], 8)
    ours = frames.get()[0] if isinstance(clip, DeviceClip) else frames[0]
    print("cropped:", dict(media.fallbacks))
    assert_close([list(zip(clip.times, ours, strict=True))], read(reader, path, CHUNKS[:1], 8)[0])
    clip.release()


async def test_a_damaged_picture_is_noticed(media: GpuMedia, tmp_path: Path) -> None:
    """The library prints so, and gives a concealed picture out."""
    undamaged = make(tmp_path / "whole.mp4", x264("mp4", "keyint=30:bframes=0:scenecut=0"), (640, 352))
    damaged = tmp_path / "damaged.mp4"
    with av.open(str(undamaged)) as reading, av.open(str(damaged), "w") as writing:
        copied = writing.add_stream_from_template(reading.streams.video[0])
        for number, packet in enumerate(reading.demux(video=0)):
            if not packet.size:
                continue
            if number == 5:
                data = bytearray(packet)
                data[60 : len(data) - 20] = np.random.default_rng(1).bytes(len(data) - 80)
                packet.update(bytes(data))
            packet.stream = copied
            writing.mux(packet)
    async with aclosing(whole(media.clips(damaged, CHUNKS[:1], 8, SIZE))) as decoding:
        async for clip in decoding:
            clip.release()
    assert media.fallbacks == {"NVDEC reported a damaged picture of h264": 1}


async def test_many_files_at_once_do_not_disturb_each_other(
    film: FindFilm, media: GpuMedia, reader: Reader
) -> None:
    names = ["h264-gop30", "hevc-gop30", "h264-open", "vp9", "h264-16-b"]
    decoded = await asyncio.gather(*(collect(media, film(name), CHUNKS) for name in names))
    for name, clips in zip(names, decoded, strict=True):
        assert_close(clips, read(reader, film(name), CHUNKS, 8)[0])


async def test_live_chunks_come_out_with_low_latency(film: FindFilm, reader: Reader) -> None:
    device = await asyncio.to_thread(open_device, 4, 8, SIZE, low_latency=True)
    media = GpuMedia(device, 1, ahead=1)
    try:
        for name in ("h264-no-b", "h264-gop30", "hevc-gop30", "h264-open"):
            codec, runs = live_runs(reader, film(name), 8)
            clip = await media.runs(Chunk(0, 0, 2 * SECOND), codec, runs, 8, SIZE)
            ours = [list(zip(clip.times, frames_of(media, clip), strict=True))]
            clip.release()
            assert_close(ours, read(reader, film(name), [Chunk(0, 0, 2 * SECOND)], 8)[0])
        assert not media.fallbacks
    finally:
        await media.close()


async def test_batches_are_slots_or_gathered_on_the_gpu(film: FindFilm, media: GpuMedia) -> None:
    import cupy

    async with aclosing(
        whole(media.clips(film("h264-gop30"), plan_chunks(0, 4 * SECOND, SECOND, 0, None), 8, SIZE))
    ) as decoding:
        clips = [clip async for clip in decoding]
    slots = media._device.slots.array
    together = stack_clips(clips, 8)
    assert isinstance(together, cupy.ndarray)
    first = clips[0]
    assert isinstance(first, DeviceClip)
    assert together.data.ptr == slots[first.slot].data.ptr
    apart = stack_clips(clips[::-1], 8)
    assert np.array_equal(apart.get(), together.get()[::-1])
    image = await media.images([_picture(film)], SIZE)
    mixed = stack_clips([clips[2], image], 8).get()
    assert np.array_equal(mixed[0], together.get()[2])
    assert all(np.array_equal(frame, image.frames[0]) for frame in mixed[1])
    for clip in (*clips, image):
        clip.release()


def _picture(film: FindFilm) -> Path:
    from PIL import Image

    path = film("h264-gop30").with_suffix(".png")
    Image.new("RGB", (64, 48), (200, 100, 50)).save(path)
    return path


async def test_a_gpu_can_be_closed_and_opened_again(film: FindFilm, reader: Reader) -> None:
    for _ in range(3):
        media = GpuMedia(await asyncio.to_thread(open_device, 8, 8, SIZE), 1, ahead=4)
        clips = await collect(media, film("h264-gop30"), CHUNKS[:1])
        await media.close()
        assert_close(clips, read(reader, film("h264-gop30"), CHUNKS[:1], 8)[0])


def test_engines_and_capabilities_are_found() -> None:
    from worker.media.gpu.nvdec import capabilities, engines

    assert 1 <= engines() <= 16
    found = capabilities("h264", "yuv420p")
    assert found["supported"] == 1
    assert found["width_max"] >= 4096
    assert {"width_min", "height_min", "height_max", "mb_num_max"} <= found.keys()
