"""Thumbnails, drawn in decoder processes and on a GPU: which frame, what size, and how they look."""

import io
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from PIL import Image

from shared.chunks import SECOND, Chunk, plan_chunks
from tests.worker.media.films import FILMS, make, picture, rotated_film, x264
from tests.worker.media.gpu.conftest import live_runs, running
from tests.worker.media.kernel import Kernel
from tests.worker.media.reading import SIZE, setup
from tests.worker.media.recorder import Recorder
from worker.media.clip_source import Clip
from worker.media.decoder.pictures.orientation import CLOCKWISE
from worker.media.decoder.pictures.thumbnail import LARGEST_JPEG, thumbnail_size
from worker.media.decoder.reader import Reader
from worker.media.decoder_pool import DecoderPool

FindFilm = Callable[[str], Path]
Pixels = NDArray[np.int64]
one_loop = pytest.mark.asyncio(loop_scope="module")
CHUNKS = plan_chunks(0, 3 * SECOND, SECOND, 0, None)
OVERLAPPING = plan_chunks(0, 3 * SECOND, SECOND, SECOND // 2, None)
SLOW = x264("mp4", "keyint=30", frames=12, times=[index * 300 for index in range(12)])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[DecoderPool]:
    pool = DecoderPool(1)
    await pool.start()
    yield pool
    await pool.close()


async def clips_of(
    pool: DecoderPool, path: Path, chunks: list[Chunk], *, thumbnails: bool = True
) -> list[tuple[Clip, NDArray[np.uint8]]]:
    """The clips, released, with copies of their frames."""
    found = []
    async with aclosing(pool.clips(path, chunks, 8, SIZE, thumbnails=thumbnails)) as clips:
        async for clip in clips:
            assert isinstance(clip, Clip)
            found.append((clip, np.array(clip.frames)))
            clip.release()
    return found


def opened(jpeg: bytes) -> Image.Image:
    assert 0 < len(jpeg) <= LARGEST_JPEG
    image = Image.open(io.BytesIO(jpeg))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


def pixels(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB")).astype(int)


def frames_of(path: Path) -> dict[int, Image.Image]:
    """Every frame of a film, as FFmpeg's own converter shows it, by its time in ns."""
    with av.open(str(path)) as container:
        return {
            int(frame.pts * frame.time_base * SECOND): Image.fromarray(frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
            if frame.pts is not None and frame.time_base is not None
        }


@one_loop
@pytest.mark.parametrize("chunks", [CHUNKS, OVERLAPPING], ids=["apart", "overlapping"])
@pytest.mark.parametrize("name", ["h264-open", "h264-vfr", "vp9-mp4", "slow"])
async def test_the_frame_is_the_one_in_the_middle_of_its_chunk(
    name: str, chunks: list[Chunk], pool: DecoderPool, film: FindFilm, tmp_path: Path
) -> None:
    path = make(tmp_path / "slow.mp4", SLOW) if name == "slow" else film(name)
    shown = frames_of(path)
    found = await clips_of(pool, path, chunks)
    assert len(found) == len(chunks)
    for clip, _ in found:
        thumbnail = pixels(opened(clip.thumbnail))
        differences = {when: np.abs(thumbnail - pixels(image)).mean() for when, image in shown.items()}
        middle = (clip.chunk.start + clip.chunk.end) // 2
        assert min(differences, key=lambda when: differences[when]) == min(t for t in shown if t >= middle)


@one_loop
async def test_clips_are_the_same_with_and_without(pool: DecoderPool, film: FindFilm) -> None:
    path = film("h264-open")
    plain = await clips_of(pool, path, CHUNKS, thumbnails=False)
    others = await clips_of(pool, path, CHUNKS)
    assert [clip.thumbnail for clip, _ in plain] == [b"", b"", b""]
    assert all(clip.thumbnail for clip, _ in others)
    assert [clip.times for clip, _ in plain] == [clip.times for clip, _ in others]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(plain, others, strict=True))


@one_loop
async def test_a_caller_who_leaves_stops_the_work(pool: DecoderPool, film: FindFilm) -> None:
    path = film("h264-gop250")
    async with aclosing(
        pool.clips(path, plan_chunks(0, 10 * SECOND, SECOND, 0, None), 8, SIZE, thumbnails=True)
    ) as clips:
        first = await anext(clips)
        assert isinstance(first, Clip)
        first.release()
    ((clip, _),) = await clips_of(pool, path, CHUNKS[2:])
    assert clip.chunk.index == 2
    assert clip.thumbnail != first.thumbnail


@one_loop
async def test_a_film_that_is_decoded_whole_has_thumbnails(film: FindFilm) -> None:
    pool = DecoderPool(1, sparse=False)
    try:
        found = await clips_of(pool, film("wmv2"), CHUNKS)
    finally:
        await pool.close()
    for clip, frames in found:
        assert same_look(pixels(opened(clip.thumbnail)), frames[4])


@one_loop
async def test_a_clip_whose_last_frame_comes_early_has_one(pool: DecoderPool, film: FindFilm) -> None:
    """The only frame of 0.1 s at 3 a second comes before their middle, which no frame follows in them."""
    path = film("h264-gop30")
    ((clip, frames),) = await clips_of(pool, path, [Chunk(0, SECOND, SECOND + 30_000_000)])
    assert same_look(pixels(opened(clip.thumbnail)), frames[-1])


def same_look(thumbnail: Pixels, frame: NDArray[np.uint8]) -> bool:
    """Whether the thumbnail shows the frame of a clip: both are shrunk to the same few pixels."""
    square = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
    few = [
        pixels(image.resize((16, 16), Image.Resampling.BOX))
        for image in (square, Image.fromarray(thumbnail.astype(np.uint8)))
    ]
    return bool(np.abs(few[0] - few[1]).mean() < 3)


# Size and place -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "aspect", "degrees", "expected"),
    [
        ((1920, 1080), None, 0, (320, 180)),
        ((1080, 1920), None, 0, (180, 320)),
        ((1920, 1080), None, 90, (180, 320)),
        ((1440, 1080), Fraction(4, 3), 0, (320, 180)),
        ((720, 576), Fraction(16, 15), 0, (320, 240)),
        ((720, 576), Fraction(16, 15), 270, (240, 320)),
        ((704, 480), Fraction(10, 11), 0, (320, 240)),
        ((160, 90), None, 0, (160, 90)),
        ((160, 90), Fraction(2), 0, (160, 45)),
        ((160, 90), Fraction(1, 2), 0, (80, 90)),
        ((320, 320), Fraction(0), 180, (320, 320)),
        ((4096, 2), None, 0, (320, 1)),
        ((64, 64), Fraction(65535), 0, (64, 1)),
    ],
)
def test_sizes(
    stored: tuple[int, int], aspect: Fraction | None, degrees: int, expected: tuple[int, int]
) -> None:
    assert thumbnail_size(*stored, aspect, CLOCKWISE[degrees]) == expected


@pytest.fixture(scope="module")
def anamorphic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """360x360 pixels, each 16:9; red at the top left, blue at the bottom right."""
    path = tmp_path_factory.mktemp("anamorphic") / "film.mp4"
    corners = np.full((360, 360, 3), 128, np.uint8)
    corners[:90, :90], corners[270:, 270:] = [220, 30, 30], [30, 30, 220]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            "libx264", rate=10, options={"preset": "ultrafast", "threads": "1"}
        )
        stream.width, stream.height, stream.pix_fmt = 360, 360, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 9)
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(corners, format="rgb24")))
        container.mux(stream.encode())
    return path


def corners_of(image: Image.Image) -> dict[str, str]:
    """Where red and blue are."""
    across, down = image.size
    levels = pixels(image)
    places = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}
    found = {}
    for name, (x, y) in places.items():
        red, _, blue = levels[down // 10 + y * down * 8 // 10, across // 10 + x * across * 8 // 10]
        if abs(red - blue) > 100:
            found["red" if red > blue else "blue"] = name
    return found


@one_loop
@pytest.mark.parametrize(
    ("degrees", "size", "red", "blue"),
    [
        (0, (320, 180), "top left", "bottom right"),
        (90, (180, 320), "bottom left", "top right"),
        (-90, (180, 320), "top right", "bottom left"),
        (180, (320, 180), "bottom right", "top left"),
    ],
)
@pytest.mark.parametrize("where", ["cpu", "gpu"])
async def test_a_thumbnail_stands_upright_with_its_true_proportions(
    *,
    where: str,
    degrees: int,
    size: tuple[int, int],
    red: str,
    blue: str,
    anamorphic: Path,
    pool: DecoderPool,
    kernel: Kernel,
    tmp_path: Path,
) -> None:
    path = rotated_film(anamorphic, tmp_path / "turned.mp4", degrees) if degrees else anamorphic
    if where == "cpu":
        ((clip, _),) = await clips_of(pool, path, CHUNKS[:1])
    else:
        async with running(Recorder(kernel)) as media:
            ((clip, _),) = await clips_of(media, path, CHUNKS[:1])
            assert not media.fallbacks
        size = (size[0] * SIZE // 320, size[1] * SIZE // 320)
    image = opened(clip.thumbnail)
    assert image.size == size
    assert corners_of(image) == {"red": red, "blue": blue}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return Kernel(tmp_path_factory.mktemp("kernel"))


@one_loop
@pytest.mark.parametrize("name", ["h264-open", "mpeg4"])
async def test_on_a_gpu_the_frame_is_that_of_the_cpu(
    name: str, pool: DecoderPool, kernel: Kernel, film: FindFilm
) -> None:
    expected = await clips_of(pool, film(name), CHUNKS)
    async with running(Recorder(kernel)) as media:
        found = await clips_of(media, film(name), CHUNKS)
        assert not media.fallbacks
    for (ours, _), (theirs, _) in zip(found, expected, strict=True):
        images = [opened(clip.thumbnail) for clip in (ours, theirs)]
        assert [image.size for image in images] == [(128, 96), (128, 96)]
        assert np.abs(pixels(images[0]) - pixels(images[1])).mean() < 8


# Colours --------------------------------------------------------------------------------------------------


@one_loop
@pytest.mark.parametrize(("matrix", "colour_range"), [(1, 1), (1, 2), (5, 1), (5, 2)])
async def test_colours_are_those_that_the_film_states(
    matrix: int, colour_range: int, pool: DecoderPool, tmp_path: Path
) -> None:
    """BT.709 and BT.601, limited and full range: the samples of one colour by ITU-T H.273, 8.3."""
    kr, kb = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}[matrix]
    red, green, blue = 0.8, 0.4, 0.2
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    scale, black, spread = (255, 0, 255) if colour_range == 2 else (219, 16, 224)
    levels = [luma * scale + black, *(part * spread + 128 for part in chroma)]
    path = tmp_path / "colour.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"qp": "0", "threads": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, colour_range
        for index in range(4):
            frame = av.VideoFrame(64, 64, "yuv420p")
            for plane, level in zip(frame.planes, levels, strict=True):
                plane.update(bytes([round(level)]) * plane.buffer_size)
            frame.colorspace, frame.color_range, frame.pts = matrix, colour_range, index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    ((clip, _),) = await clips_of(pool, path, CHUNKS[:1])
    shown = pixels(opened(clip.thumbnail)).reshape(-1, 3)
    assert np.abs(shown - [204, 102, 51]).max() <= 4


# Pictures and live streams --------------------------------------------------------------------------------


@one_loop
async def test_of_several_images_the_one_in_the_middle_is_shown(pool: DecoderPool, tmp_path: Path) -> None:
    paths = []
    for index, colour in enumerate(["white", "black", "red"]):
        paths.append(tmp_path / f"{index}.png")
        Image.new("RGB", (800, 200), colour).save(paths[-1])
    clip = await pool.images(paths, SIZE, thumbnails=True)
    clip.release()
    image = opened(clip.thumbnail)
    assert (image.size, image.getpixel((160, 40))) == ((320, 80), (0, 0, 0))
    plain = await pool.images(paths, SIZE)
    plain.release()
    assert plain.thumbnail == b""


@one_loop
async def test_an_image_is_turned_by_its_exif_block(pool: DecoderPool, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 100), "green").save(tmp_path / "phone.jpg", exif=exif)
    clip = await pool.images([tmp_path / "phone.jpg"], SIZE, thumbnails=True)
    clip.release()
    assert opened(clip.thumbnail).size == (80, 320)


@one_loop
@pytest.mark.parametrize("levels", [256, 2])
async def test_noise_fits_by_its_quality(levels: int, pool: DecoderPool, tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, levels, (320, 320, 3)) * (255 // (levels - 1))
    Image.fromarray(noise.astype(np.uint8)).save(tmp_path / "noise.png")
    clip = await pool.images([tmp_path / "noise.png"], SIZE, thumbnails=True)
    clip.release()
    assert opened(clip.thumbnail).size == (320, 320)


@one_loop
@pytest.mark.parametrize("where", ["cpu", "gpu"])
async def test_a_live_chunk_has_one(where: str, pool: DecoderPool, kernel: Kernel, film: FindFilm) -> None:
    reader = Reader(setup())
    codec, runs = live_runs(reader, film("h264-open"), 8)
    reader.close()
    times = sorted(when for run in runs for when in run.wanted)
    chunk = Chunk(0, 0, 2 * SECOND)
    if where == "cpu":
        clip = await pool.runs(chunk, codec, runs, 8, SIZE, thumbnails=True)
        clip.release()
    else:
        async with running(Recorder(kernel)) as media:
            clip = await media.runs(chunk, codec, runs, 8, SIZE, thumbnails=True)
            clip.release()
    thumbnail = pixels(opened(clip.thumbnail))
    differences = [np.abs(thumbnail - picture(index)).mean() for index in range(FILMS["h264-open"].frames)]
    assert int(np.argmin(differences)) == times[4] * 30 // SECOND


@one_loop
async def test_a_live_chunk_that_lost_its_middle_shows_another_frame(
    pool: DecoderPool, film: FindFilm
) -> None:
    reader = Reader(setup())
    codec, runs = live_runs(reader, film("h264-gop30"), 8)
    reader.close()
    first = runs[0]
    clip = await pool.runs(
        Chunk(0, 0, 2 * SECOND), codec, [first, *_broken(runs[1:])], 8, SIZE, thumbnails=True
    )
    frames = np.array(clip.frames)
    clip.release()
    assert 0 < len(clip.times) < 8
    assert same_look(pixels(opened(clip.thumbnail)), frames[len(frames) // 2])


def _broken(runs: Any) -> list[Any]:
    return [
        type(run)(run.parameters, [(when, b"\0\0\0\1") for when, _ in run.packets], run.wanted)
        for run in runs
    ]
