"""Films and images in a bucket, read through a decoder process that has no network."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
from av.packet import Packet
from PIL import Image

from shared.chunks import SECOND, Chunk, plan_chunks
from shared.errors import DecodeError, InvalidFile, Unavailable
from shared.settings import Settings, load
from tests.buckets import Bucket, Buckets
from tests.worker.media.films import picture
from tests.worker.media.reading import SIZE, whole
from worker.media.decoder.container.byte_sources import BLOCK, REQUEST, Blocks, ObjectFile, StoreAway
from worker.media.decoder.decoder_messages import DecodeCounts
from worker.media.decoder_pool import DecoderPool
from worker.media.fetching import Buckets as Clients
from worker.media.fetching import Fetching

FindFilm = Callable[[str], Path]
BEFORE = msgspec.msgpack.encode({"path": "s3://a/b", "block": -1})
NOISE = np.random.default_rng(7).integers(0, 256, 5 * BLOCK + 1234, np.uint8).tobytes()


@pytest.fixture(scope="module")
def bucket(buckets: Buckets) -> Bucket:
    return buckets.make()


@pytest.fixture
def settings(buckets: Buckets, bucket: Bucket) -> Settings:
    return load(buckets.environment(bucket))


@asynccontextmanager
async def running(settings: Settings, **options: Any) -> AsyncIterator[DecoderPool]:
    pool = DecoderPool(1, buckets=Clients(settings), **options)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def frames(pool: DecoderPool, path: str | Path, chunks: list[Chunk]) -> list[np.ndarray[Any, Any]]:
    found = []
    async for clip in whole(pool.clips(path, chunks, 8, SIZE)):
        found.append(clip.frames.copy())
        clip.release()
    return found


def put(bucket: Bucket, file: Path) -> str:
    """The URL of the file's copy in the bucket."""
    bucket.write(f"x/{file.name}", file.read_bytes())
    return f"s3://{bucket.name}/x/{file.name}"


@pytest.mark.parametrize("name", ["h264-open", "h264-fragmented", "hevc-open-ts", "vp9", "h264-b-avi"])
async def test_a_film_in_a_bucket_is_read_as_a_local_one(
    film: FindFilm, bucket: Bucket, settings: Settings, name: str
) -> None:
    local = film(name)
    async with running(settings) as pool:
        url = put(bucket, local)
        facts = await pool.probe(local)
        assert await pool.probe(url) == facts
        chunks = plan_chunks(0, facts.duration, SECOND, 0, facts.frame_rate)
        ours, theirs = await frames(pool, url, chunks), await frames(pool, local, chunks)
    assert len(ours) == len(theirs) >= 4
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


async def test_images_in_a_bucket(tmp_path: Path, bucket: Bucket, settings: Settings) -> None:
    local = tmp_path / "a.png"
    Image.fromarray(picture(3)).save(local)
    async with running(settings) as pool:
        url = put(bucket, local)
        assert await pool.probe(url) == await pool.probe(local)
        ours, theirs = await pool.images([url, url], SIZE), await pool.images([local, local], SIZE)
        assert np.array_equal(ours.frames, theirs.frames)


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes, about 70 MB, its index at the end as recorders write it."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    noise = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=2)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuvj420p"
        images = [noise.integers(0, 256, (480, 640, 3), np.uint8) for _ in range(8)]
        shown = [av.VideoFrame.from_ndarray(image, format="rgb24") for image in images]
        coded = [bytes(p) for frame in shown for p in stream.encode(frame.reformat(format="yuvj420p"))]
        for number in range(1200):
            packet = Packet(coded[number % len(coded)])
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 2), True
            packet.pts = packet.dts = number
            container.mux(packet)
    return path


async def test_a_chunk_in_the_middle_costs_its_part_of_the_file(
    long_film: Path, bucket: Bucket, settings: Settings
) -> None:
    size = len(long_film.read_bytes())  # noqa: ASYNC240 - nothing else runs
    assert size > 60 * BLOCK
    async with running(settings) as pool:
        url = put(bucket, long_film)
        await pool.probe(url)
        probed = pool.counts.bytes_fetched
        assert probed <= 6 * BLOCK
        (clip,) = await frames(pool, url, [Chunk(30, 300 * SECOND, 310 * SECOND)])
        assert len(clip) == 8
        assert pool.counts.bytes_fetched - probed <= 8 * BLOCK
        assert pool.counts.bytes_fetched < size // 4


async def test_a_bucket_that_is_away_is_no_bad_file(
    bucket: Bucket, settings: Settings, film: FindFilm
) -> None:
    away = load({**_keys(settings), "S3_ENDPOINT_URL": "http://127.0.0.1:9"})
    url = put(bucket, film("h264-gop30"))
    async with running(away) as pool:
        with pytest.raises(Unavailable, match="the asset store cannot be used: it cannot be connected to"):
            await pool.probe(url)
        with pytest.raises(DecodeError, match="it cannot be connected to"):
            await frames(pool, url, [Chunk(0, 0, SECOND)])
        assert pool.counts.retries == 1
        with pytest.raises(DecodeError, match="it cannot be connected to"):
            await pool.images([url], SIZE)


def _keys(settings: Settings) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": settings.s3_access_key or "",
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key or "",
    }


async def test_an_object_that_has_vanished_is_no_file(bucket: Bucket, settings: Settings) -> None:
    async with running(settings) as pool:
        with pytest.raises(InvalidFile, match=r"no such file: gone\.mp4"):
            await pool.probe(f"s3://{bucket.name}/x/gone.mp4")


async def test_a_pool_without_buckets_reads_no_objects(bucket: Bucket, film: FindFilm) -> None:
    pool = DecoderPool(1)
    await pool.start()
    try:
        with pytest.raises(InvalidFile, match="not read here"):
            await pool.probe(put(bucket, film("h264-gop30")))
    finally:
        await pool.close()


# Blocks -----------------------------------------------------------------------------------------------


class Served:
    """Blocks of objects, with the worker's side running in a thread of its own."""

    def __init__(self, settings: Settings, allowed: list[str]) -> None:
        ours, theirs = socket.socketpair()
        self.blocks = Blocks(theirs)
        self.counts = DecodeCounts()
        self._theirs = theirs
        fetching = Fetching(Clients(settings), self.counts)
        fetching.allow(allowed)

        async def serve() -> None:
            await fetching.serve(*await asyncio.open_unix_connection(sock=ours))

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self._thread.start()

    def end(self) -> None:
        self._theirs.close()
        self._thread.join()


@pytest.fixture
def served(settings: Settings, bucket: Bucket) -> Iterator[Served]:
    bucket.write("x/noise", NOISE)
    bucket.write("x/empty", b"")
    found = Served(settings, [f"s3://{bucket.name}/x/noise", f"s3://{bucket.name}/x/empty"])
    yield found
    found.end()


def test_reading_and_seeking(served: Served, bucket: Bucket) -> None:
    file = ObjectFile(served.blocks, f"s3://{bucket.name}/x/noise")
    assert file.seek(0, 2) == file.tell() == len(NOISE)
    assert file.read(10) == b""
    assert file.seek(BLOCK - 3) == BLOCK - 3
    assert file.read(10) == NOISE[BLOCK - 3 : BLOCK]
    assert file.read(10) == NOISE[BLOCK : BLOCK + 10]
    file.seek(-5, 2)
    assert file.read(100) == NOISE[-5:]
    file.seek(-15, 1)
    assert file.read(5) == NOISE[-15:-10]


def test_reading_on_fetches_each_block_once(served: Served, bucket: Bucket) -> None:
    file = ObjectFile(served.blocks, f"s3://{bucket.name}/x/noise")
    data = b""
    while piece := file.read(40_000):
        data += piece
    assert data == NOISE
    assert served.counts.bytes_fetched == len(NOISE)


def test_reading_two_objects_in_turns(served: Served, bucket: Bucket) -> None:
    for _ in range(2):
        for name, data in (("noise", NOISE), ("empty", b"")):
            file = ObjectFile(served.blocks, f"s3://{bucket.name}/x/{name}")
            assert file.seek(0, 2) == len(data)
            file.seek(-9, 2)
            assert file.read(100) == data[-9:]


def test_an_empty_object(served: Served, bucket: Bucket) -> None:
    assert ObjectFile(served.blocks, f"s3://{bucket.name}/x/empty").read(1) == b""


def test_what_no_job_names_is_not_given(served: Served, bucket: Bucket) -> None:
    bucket.write("x/secret", b"secret")
    with pytest.raises(InvalidFile, match="no such file: secret"):
        ObjectFile(served.blocks, f"s3://{bucket.name}/x/secret")
    assert ObjectFile(served.blocks, f"s3://{bucket.name}/x/noise").read(3) == NOISE[:3]


@pytest.mark.parametrize(
    "sent",
    [
        REQUEST.pack(1 << 31),
        REQUEST.pack(3) + b"abc",
        REQUEST.pack(len(BEFORE)) + BEFORE,
    ],
)
def test_a_process_that_sends_nonsense_is_not_served_any_more(served: Served, sent: bytes) -> None:
    served._theirs.sendall(sent)
    served._theirs.settimeout(20)
    assert served._theirs.recv(1) == b""


def test_a_worker_that_goes_is_no_end_of_a_file(settings: Settings) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with pytest.raises((StoreAway, BrokenPipeError)):
        Blocks(theirs).block("s3://a/b", 0)
    theirs.close()
