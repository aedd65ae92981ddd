"""From a file to its vectors, against the slower of the two halves: decoding alone, and the engine alone.

The engine takes its time without using the cores, which decoding has to itself: half as long, as long and
twice as long as decoding a clip takes. One request for a 1080p film, through the whole service.
"""

import argparse
import asyncio
import tempfile
import time
from fractions import Fraction
from pathlib import Path

from shared.chunks import SECOND, plan_chunks
from tests.bench.decode import RATE, make_film
from tests.e2e.conftest import Stack
from tests.support import RedisServer, valkey_binary
from worker.media.pool import DecoderPool

CHUNK = 2
FRAMES, SIZE = 8, 32  # what the paced model takes
PACES = (0.5, 1.0, 2.0)


async def decode_alone(film: Path, seconds: int) -> float:
    """Seconds that decoding takes when nothing waits for it."""
    pool = DecoderPool(1)
    await pool.start()
    chunks = plan_chunks(0, seconds * SECOND, CHUNK * SECOND, 0, Fraction(RATE))
    began = time.perf_counter()
    async for clip in pool.clips(film, chunks, FRAMES, SIZE):
        clip.release()
    took = time.perf_counter() - began
    await pool.close()
    return took


def whole(film: Path, pace: float) -> tuple[float, int]:
    """Seconds from the request to the answer, without the upload; and the number of chunks."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        stack = Stack(Path(folder), server.url)
        stack.environment |= {
            "LOG_LEVEL": "WARNING", "MODEL_PATH": f"null?video={pace}", "VLM_BATCH_SIZE": "1",
        }  # fmt: skip
        try:
            stack.start()
            body = {"id": stack.upload(film), "model": "null", "chunk_duration": CHUNK}
            began = time.perf_counter()
            answer = stack.client.post("/generate_video_embeddings", json=body, timeout=600)
            took = time.perf_counter() - began
            answer.raise_for_status()
            return took, len(answer.json()["chunk_responses"])
        finally:
            stack.stop()
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="length of the film")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rt-embed-bench")
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    film = arguments.folder / f"film-medium-30-{arguments.seconds}.mp4"
    if not film.exists():
        make_film(film, 30, arguments.seconds, "medium")
    chunks = arguments.seconds // CHUNK
    for share in PACES:
        decode = asyncio.run(decode_alone(film, arguments.seconds))
        engine = share * decode
        took, found = whole(film, engine / chunks)
        assert found == chunks
        again = asyncio.run(decode_alone(film, arguments.seconds))
        slower = max((decode + again) / 2, engine)
        print(
            f"decoding {decode:.2f} and {again:.2f} s, engine {engine:.2f} s, together {took:.2f} s: "
            f"{took / slower:.2f} of the slower half",
            flush=True,
        )


if __name__ == "__main__":
    main()
