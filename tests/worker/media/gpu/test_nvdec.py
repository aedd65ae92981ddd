"""The modules that call CuPy and PyNvVideoCodec, over simulated ones: what they ask for, what comes out."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import worker.media.gpu as ours
from shared.chunks import SECOND, Chunk, plan_chunks
from tests.worker.media.gpu.conftest import assert_close, live_runs
from tests.worker.media.kernel import Kernel
from tests.worker.media.reading import SIZE, read, setup, whole
from tests.worker.media.simulated import Array, Cuda, Library, make_cupy
from worker.job_tasks import stack_clips
from worker.media.clip_source import Clip
from worker.media.decoder.reader import Reader
from worker.media.gpu.gpu_media import GpuMedia, open_device
from worker.media.gpu.nvdec_sessions import CODECS

FindFilm = Callable[[str], Path]
CHUNKS = plan_chunks(0, 2 * SECOND, SECOND, 0, None)


@pytest.fixture
def cuda() -> Cuda:
    return Cuda()


@pytest.fixture
def library(cuda: Cuda, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The simulated library; the modules that use it are imported anew over it."""
    library = Library()
    monkeypatch.setitem(sys.modules, "cupy", make_cupy(cuda, kernel))
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", library.module())
    for name in ("nvdec", "pixels"):
        # So that what is there now comes back after the test.
        monkeypatch.setitem(sys.modules, f"worker.media.gpu.{name}", sys)
        monkeypatch.setattr(ours, name, None, raising=False)
        del sys.modules[f"worker.media.gpu.{name}"]
        importlib.import_module(f"worker.media.gpu.{name}")
    return library


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader(setup())
    yield reader
    reader.close()


def frames_of(clip: Clip) -> list[tuple[int, Any]]:
    batch = stack_clips([clip], 8)
    assert isinstance(batch, Array)
    return list(zip(clip.times, batch.get()[0], strict=False))


@pytest.mark.parametrize("name", ["h264-gop30", "hevc-10-bit", "h264-444-10-bit", "vp9"])
async def test_a_film_is_decoded_through_the_library(
    name: str, film: FindFilm, library: Library, cuda: Cuda, reader: Reader
) -> None:
    media = GpuMedia(open_device(8, 8, SIZE), 1, ahead=4)
    clips = []
    async with aclosing(whole(media.clips(film(name), CHUNKS, 8, SIZE))) as decoding:
        async for clip in decoding:
            clips.append(frames_of(clip))
            clip.release()
    assert not media.fallbacks
    await media.close()
    assert_close(clips, read(reader, film(name), CHUNKS, 8)[0])
    drawn_on = {stream for what, stream in cuda.happened if what == "draw"}
    decoded_on = {asked["cudastream"] for what, asked in library.asked if what == "CreateDecoder"}
    assert drawn_on <= decoded_on
    assert {stream for what, stream in cuda.happened if what == "synchronize"} == decoded_on
    assert set(library.flags) == {None}


async def test_sessions_are_made_for_the_codec_with_room_for_others(film: FindFilm, library: Library) -> None:
    device = open_device(8, 8, SIZE)
    assert device.sessions.most == 3
    media = GpuMedia(device, 1, ahead=4)
    async with aclosing(whole(media.clips(film("hevc-10-bit"), CHUNKS[:1], 8, SIZE))) as decoding:
        async for clip in decoding:
            clip.release()
    await media.close()
    created = [asked for what, asked in library.asked if what == "CreateDecoder"]
    for asked in created:
        assert (asked["codec"], asked["maxwidth"], asked["maxheight"]) == ("HEVC", 1920, 1088)
        assert asked["latency"].name == "NATIVE"
    capabilities = [asked for what, asked in library.asked if what == "GetDecoderCaps"]
    assert capabilities == [
        *({"codec": codec, "chromaformat": "420", "bitdepth": 8} for codec in CODECS.values()),
        {"codec": "HEVC", "chromaformat": "420", "bitdepth": 10},
    ]  # each is asked once, the commonest before the first film


async def test_live_streams_have_low_latency(film: FindFilm, library: Library, reader: Reader) -> None:
    media = GpuMedia(open_device(2, 8, SIZE, low_latency=True), 1, ahead=1)
    codec, runs = live_runs(reader, film("h264-gop30"), 8)
    clip = await media.runs(Chunk(0, 0, 2 * SECOND), codec, runs, 8, SIZE)
    frames = frames_of(clip)
    clip.release()
    await media.close()
    assert_close([frames], read(reader, film("h264-gop30"), [Chunk(0, 0, 2 * SECOND)], 8)[0])
    (created,) = [asked for what, asked in library.asked if what == "CreateDecoder"]
    assert created["latency"].name == "LOW"
    whole = [flag for flag in library.flags if flag is not None]
    assert {flag.name for flag in whole} == {"ENDOFPICTURE"}
    assert len(library.flags) - len(whole) == len(runs)  # the ends


async def test_batches_on_the_gpu(film: FindFilm, library: Library, tmp_path: Path) -> None:
    """In slots, gathered, padded, and with a clip from the host's memory."""
    from PIL import Image

    assert library
    Image.new("RGB", (64, 48), (200, 100, 50)).save(tmp_path / "a.png")
    media = GpuMedia(open_device(8, 8, SIZE), 1, ahead=4)
    async with aclosing(whole(media.clips(film("h264-gop30"), CHUNKS, 8, SIZE))) as decoding:
        first, second = [clip async for clip in decoding]
    image = await media.images([tmp_path / "a.png"], SIZE)
    together: Any = stack_clips([first, second], 8)
    assert together.data.ptr == media._device.slots.array.data.ptr
    gathered: Any = stack_clips([second, image, first], 8)
    mixed = gathered.get()
    assert np.array_equal(mixed[[0, 2]], together.get()[::-1])
    assert all(np.array_equal(frame, image.frames[0]) for frame in mixed[1])
    for clip in (first, second, image):
        clip.release()
    await media.close()
