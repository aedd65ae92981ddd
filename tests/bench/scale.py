"""How a long file's throughput grows with workers, and what stopping one costs a request in flight.

    scripts/bench scale [--quick]

The engine is paced, so that it and not this machine's two cores is the limit.
"""

import argparse
import json
import signal
import tempfile
import threading
import time
from pathlib import Path

from tests.e2e.conftest import Stack
from tests.e2e.media import colour_film
from tests.support import RedisServer, valkey_binary

PACE = 0.5
CHUNK = 2
SECONDS, QUICK_SECONDS = 160, 40
"""Of film; 80 chunks, and 20."""


def embed(stack: Stack, file: str, seconds: int) -> float:
    """Seconds that the whole film takes."""
    began = time.monotonic()
    body = {"model": "null", "id": file, "chunk_duration": CHUNK}
    answer = stack.client.post("/generate_video_embeddings", json=body, timeout=600)
    answer.raise_for_status()
    assert len(answer.json()["chunk_responses"]) == seconds // CHUNK
    return time.monotonic() - began


def fleet(folder: Path, workers: int, seconds: int) -> tuple[Stack, RedisServer, str]:
    """A running service on a Valkey of its own, with the film in it."""
    for part in ("valkey", "stack"):
        (folder / part).mkdir(parents=True)
    server = RedisServer(valkey_binary(), folder / "valkey")
    server.start()
    stack = Stack(folder / "stack", server.url)
    stack.environment |= {
        "MODEL_PATH": f"null?video={PACE}", "VLM_BATCH_SIZE": "1", "RTEMBED_DECODE_SLOTS": "1",
    }  # fmt: skip
    stack.start(workers)
    return stack, server, stack.upload(colour_film(folder / "film.mp4", seconds))


def measure(folder: Path, workers: int, seconds: int = SECONDS, *, stop_one: bool = False) -> float:
    """Seconds for the film; with `stop_one` a worker gets SIGTERM five seconds after the start."""
    stack, server, file = fleet(folder, workers, seconds)
    timer = threading.Timer(5, lambda: stack.workers[0].send_signal(signal.SIGTERM))
    try:
        if stop_one:
            timer.start()
        return embed(stack, file, seconds)
    finally:
        timer.cancel()
        stack.stop()
        server.stop()


def main() -> None:
    """Print one JSON object per measurement, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a quarter of the film, and no worker is stopped"
    )
    quick = parser.parse_args().quick
    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 4) if quick else (1, 2, 4):
            film = QUICK_SECONDS if quick else SECONDS
            took[str(workers)] = measure(Path(folder) / str(workers), workers, film)
            print(json.dumps({"workers": workers, "seconds": round(took[str(workers)], 2)}), flush=True)
        print(json.dumps({"speedup": {n: round(took["1"] / seconds, 2) for n, seconds in took.items()}}))
        if quick:
            return
        stopped = measure(Path(folder) / "stopped", 4, stop_one=True)
    print(json.dumps({"workers": "4, one stopped after 5 s", "seconds": round(stopped, 2)}))
    done = 5 * 4 / PACE
    ideal = 5 + (SECONDS / CHUNK - done) / 3 * PACE
    added = round(stopped - max(ideal, took["4"]), 2)
    print(json.dumps({"added_by_the_stop_beyond_losing_a_worker_s": added}))


if __name__ == "__main__":
    main()
