"""From a file to its vectors, against the slower of the two halves: decoding alone, and the engine alone.

The engine takes its time without using the cores, which decoding has to itself: half as long, as long and
twice as long as decoding a clip takes. One request for a 1080p film, through the whole service. Decoders and
service have done a part of it before they are measured. (Making five minutes of film takes eight, once.)

The floor is what would be left to the engine if it began with each clip in the moment in which decoding alone
gave it: the first clip takes its time, and the film is not equally hard to decode everywhere.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from shared.chunks import SECOND, plan_chunks
from tests.bench.decode import RATE, make_film
from tests.e2e.conftest import NULL_MODEL, Stack
from tests.support import RedisServer, valkey_binary
from worker.engine.custom.load_custom import load_python_model
from worker.media.clip_source import Clip
from worker.media.decoder_pool import DecoderPool

CHUNK = 2
FRAMES, SIZE = 8, 32  # what the paced model takes
PACES = (0.5, 1.0, 2.0)
WARM_UP = 20  # seconds of film that are done before the measurement
SETTLE = 2.0  # seconds for an upload to reach the disk


async def decode_alone(film: Path, seconds: int) -> list[float]:
    """Seconds after which each clip is there, and in the end all, when nothing waits for them."""
    pool = DecoderPool(1)
    await pool.start()

    async def decode(seconds: int) -> list[float]:
        chunks = plan_chunks(0, seconds * SECOND, CHUNK * SECOND, 0, Fraction(RATE))
        began, times = time.perf_counter(), []
        async for clip in pool.clips(film, chunks, FRAMES, SIZE):
            assert isinstance(clip, Clip)
            clip.release()
            times.append(time.perf_counter() - began)
        return [*times, time.perf_counter() - began]

    await decode(WARM_UP)
    times = await decode(seconds)
    await pool.close()
    return times


def embedded_after(clips: list[float], pace: float) -> float:
    """Seconds after which an engine is done that takes `pace` for each of the clips that come at these
    times."""
    done = 0.0
    for there in clips:
        done = max(done, there) + pace
    return done


def engine_alone(pace: float, clips: int) -> float:
    """Seconds that the paced engine takes for so many clips when they are all there."""
    _, engine = load_python_model(NULL_MODEL, f"null?video={pace}", 1)
    clip = np.zeros((1, FRAMES, 3, SIZE, SIZE), np.uint8)
    began = time.perf_counter()
    for _ in range(clips):
        engine.embed_video(clip)
    took = time.perf_counter() - began
    engine.close()
    return took


def whole(film: Path, pace: float, chunks: int) -> tuple[float, float]:
    """Seconds from the request to its first event, and to its last, without the upload."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        stack = Stack(Path(folder), server.url)
        stack.environment |= {
            "LOG_LEVEL": "WARNING", "MODEL_PATH": f"null?video={pace}", "VLM_BATCH_SIZE": "1",
        }  # fmt: skip
        try:
            stack.start()
            body = {"id": stack.upload(film), "model": "null", "chunk_duration": CHUNK, "stream": True}
            for end in (WARM_UP, chunks * CHUNK):
                body["media_info"] = {"type": "offset", "start_offset": 0, "end_offset": end}
                time.sleep(SETTLE)
                began = time.perf_counter()
                with stack.client.stream(
                    "POST", "/generate_video_embeddings", json=body, timeout=600
                ) as events:
                    events.raise_for_status()
                    times = [
                        time.perf_counter() - began for line in events.iter_lines() if '"embeddings"' in line
                    ]
                assert len(times) == end // CHUNK
            return times[0], times[-1]
        finally:
            stack.stop()
            server.stop()


def compare(film: Path, seconds: int, share: float) -> float:
    """Run both halves, all of it, and decoding again; print the times. Return all of it to the slower half,
    whose decoding is the mean of before and after."""
    chunks = seconds // CHUNK
    *clips, before = asyncio.run(decode_alone(film, seconds))
    pace = share * before / chunks
    engine = engine_alone(pace, chunks)
    first, took = whole(film, pace, chunks)
    *later, after = asyncio.run(decode_alone(film, seconds))
    slower = max((before + after) / 2, engine)
    floor = (embedded_after(clips, pace) + embedded_after(later, pace)) / 2
    print(
        f"decoding {before:.2f} and {after:.2f} s, engine {engine:.2f} s, first vector after {first:.2f} s, "
        f"all after {took:.2f} s: {took / slower:.2f} of the slower half (floor {floor / slower:.2f})",
        flush=True,
    )
    return took / slower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=300, help="length of the film")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--engines", type=float, nargs="+", default=PACES, help="the engine's time, decoding's being 1"
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rt-embed-bench")
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    film = arguments.folder / f"film-medium-30-{arguments.seconds}.mp4"
    if not film.exists():
        make_film(film, 30, arguments.seconds, "medium")
    for share in arguments.engines:
        ratios = [compare(film, arguments.seconds, share) for _ in range(arguments.rounds)]
        print(f"median {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
