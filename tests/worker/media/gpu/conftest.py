"""Media on a GPU, with FFmpeg in the place of NVDEC and the kernel compiled for the CPU."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.chunks import SECOND, Chunk, plan_chunks
from tests.worker.media.decoder.test_handover import choose
from tests.worker.media.kernel import Kernel
from tests.worker.media.reading import SIZE, Frames, setup, whole
from tests.worker.media.recorder import Packet, Recorder
from worker.media.clip_source import Clip
from worker.media.decoder.decoder_messages import Chosen
from worker.media.decoder.reader import Reader
from worker.media.decoder.runs import Run
from worker.media.gpu.gpu_media import GpuMedia

FindFilm = Callable[[str], Path]
CHUNKS = plan_chunks(0, 3 * SECOND, SECOND, 0, None)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return Kernel(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader(setup())
    yield reader
    reader.close()


@asynccontextmanager
async def running(recorder: Recorder, slots: int = 1, **options: Any) -> AsyncIterator[GpuMedia]:
    media = GpuMedia(recorder.device, slots, ahead=options.pop("ahead", 4), **options)
    try:
        yield media
    finally:
        await media.close()


async def collect(media: GpuMedia, path: Path, chunks: list[Chunk], frames: int = 8) -> list[Frames]:
    """The chunks' frames, copied, each clip released at once."""
    clips = []
    async with aclosing(whole(media.clips(path, chunks, frames, SIZE))) as decoding:
        async for clip in decoding:
            assert isinstance(clip, Clip)
            assert clip.decode_start <= clip.decode_end
            clips.append(list(zip(clip.times, clip.frames.copy(), strict=True)))
            clip.release()
    return clips


def assert_close(ours: list[Frames], theirs: list[Frames]) -> None:
    """The same times, and the same pictures but for rounding."""
    assert [[when for when, _ in clip] for clip in ours] == [[when for when, _ in clip] for clip in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for (_, here), (_, there) in zip(mine, other, strict=True):
            difference = np.abs(here.astype(int) - there)
            assert difference.max() <= 2  # sharp edges of made-up pictures; real ones stay within 1
            assert (difference <= 1).mean() > 0.999


def told(run: Run) -> list[tuple[int, bytes]]:
    """What a decoder is to be told of a run: parameter sets come with the first packet."""
    (time, data), *others = run.packets
    return [(time, run.parameters + data), *others]


def assert_ended(recorder: Recorder) -> None:
    """Every decoder was waited for, then closed, and nothing happened to it afterwards."""
    for session in recorder.sessions:
        happened = [event.what for event in recorder.events if event.decoder == session.number]
        assert happened[0] == "create"
        assert happened[-2:] == ["wait", "close"]
        assert happened.count("close") == 1
        assert "packet" not in happened or happened[-3] == "end"


def live_runs(reader: Reader, path: Path, count: int) -> tuple[str, list[Run]]:
    messages, _ = choose(reader, path, [Chunk(0, 0, 2 * SECOND)], count)
    chosen = [message for message in messages if isinstance(message, Chosen)]
    return chosen[0].look.codec, [message.run for message in chosen]


def after(count: int, recorder: Recorder, then: Callable[[], None]) -> Callable[[Packet], Any]:
    """A decoder's `Decode` that does `then` at packet number `count`."""
    decoder = recorder.sessions[-1].decoder
    plain, seen = decoder.Decode, 0

    def decode(told: Packet) -> Any:
        nonlocal seen
        seen += 1
        if seen == count:
            then()
        return plain(told)

    return decode
