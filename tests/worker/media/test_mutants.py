"""No file hurts a worker. (`python -m tests.bench.mutants` tries many more of them.)"""

from collections.abc import Callable
from pathlib import Path

from shared.chunks import SECOND, Chunk
from shared.errors import DecodeError, InvalidFile
from tests.worker.media.films import FILMS
from tests.worker.media.mutants import mutant
from worker.media.clip_source import LeftOut
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder_pool import DecoderPool

FindFilm = Callable[[str], Path]
MUTANTS = 2 * len(FILMS)


async def read_all(pool: DecoderPool, path: Path) -> str:
    """Do with the file what a worker does, and say how it ended."""
    try:
        facts = await pool.probe(path)
    except InvalidFile:
        return "refused"
    try:
        if facts.kind == "image":
            (await pool.images([path], 32)).release()
            return "read"
        assert facts.duration > 0
        step = max(1, min(facts.duration, 20 * SECOND) // 3)
        chunks = [Chunk(index, index * step, (index + 1) * step) for index in range(3)]
        async for clip in pool.clips(path, chunks, 8, 32):
            if isinstance(clip, LeftOut):
                continue
            assert 1 <= len(clip.frames) <= 8
            assert clip.times == sorted(clip.times)
            clip.release()
    except DecodeError:
        return "failed"
    return "read"


async def test_damaged_files_are_answered_for(film: FindFilm, tmp_path: Path) -> None:
    sources = [film(name).read_bytes() for name in FILMS]
    pool = DecoderPool(1, limits=MediaLimits(seconds=20, pace=0.5, memory=1 << 30))
    await pool.start()
    endings = {"refused": 0, "failed": 0, "read": 0}
    for seed in range(MUTANTS):
        path = tmp_path / f"{seed}.bin"
        path.write_bytes(mutant(sources, seed))
        endings[await read_all(pool, path)] += 1
        path.unlink()
    assert endings["refused"] > 0
    assert endings["read"] > 0
    assert endings["failed"] == 0, "what a probe accepts can be embedded"
    assert await read_all(pool, film("h264-open")) == "read"
    await pool.close()
