"""Memory of every process over thousands of chunks and texts: its slope, and a plot.

    scripts/bench memory [--chunks 10000] [--texts 10000]

The whole service with the null model. Small films are embedded and texts asked for at the same time, until
both counts are reached. Resident memory is read every half second. After a first third, in which caches and
pools fill, a line through the rest says how much a process has grown by the end.
"""

import argparse
import json
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import httpx
import numpy as np
import psutil

from tests.e2e.conftest import Stack
from tests.support import RedisServer, valkey_binary

FILM_SECONDS = 500
INTERVAL = 0.5
CLIENTS = 8
WARM_UP = 1 / 3
RESULTS_KEPT = "10"
"""Seconds for which Valkey keeps a request's results, so that it reaches its steady state within the run."""
Samples = dict[str, list[tuple[float, float]]]
"""Of each process: seconds and MiB."""


def make_film(path: Path) -> None:
    """Write a film of noise, small and with few pictures."""
    rng = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width = stream.height = 64
        stream.options = {"preset": "ultrafast", "g": "8"}
        for _ in range(FILM_SECONDS * 8):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def processes(stack: Stack, server: RedisServer) -> dict[str, psutil.Process]:
    """Return the service's processes by what they are."""
    assert stack.gateway
    assert server.process
    found = {"valkey": psutil.Process(server.process.pid)}
    for parent in (stack.gateway, stack.workers[0]):
        above = psutil.Process(parent.pid)
        for process in (above, *above.children(recursive=True)):
            words = process.cmdline()
            module = words[words.index("-m") + 1] if "-m" in words else Path(words[0]).name
            names = (f"{module.removesuffix('_process')}{suffix}" for suffix in ("", " 2", " 3", " 4"))
            found[next(name for name in names if name not in found)] = process
    return found


def watch(found: dict[str, psutil.Process], samples: Samples, over: threading.Event) -> None:
    """Read the memory of all of them until it is over."""
    began = time.monotonic()
    while not over.wait(INTERVAL):
        for name, process in found.items():
            mib = process.memory_info().rss / 2**20
            samples.setdefault(name, []).append((time.monotonic() - began, mib))


def embed_films(client: httpx.Client, asset: str, count: int) -> int:
    """Embed the film again and again; return the chunks."""
    done = 0
    while done < count:
        body = {"id": asset, "model": "null", "chunk_duration": 1}
        answer = client.post("/generate_video_embeddings", json=body, timeout=300)
        answer.raise_for_status()
        done += len(answer.json()["chunk_responses"])
    return done


def ask_texts(url: str, count: int) -> int:
    """Ask for texts one by one; return how many."""
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(count):
            body = {"text_input": [f"a forklift number {number}"], "model": "null"}
            client.post("/generate_text_embeddings", json=body).raise_for_status()
    return count


def growth(series: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return MiB after the first third, MiB at the end, and how much a line through them grows."""
    times, sizes = (np.array(column) for column in zip(*series, strict=True))
    late = times >= times[-1] * WARM_UP
    slope = np.polyfit(times[late], sizes[late], 1)[0]
    return float(sizes[late][0]), float(sizes[-1]), float(slope * (times[-1] - times[late][0]))


def plot(samples: Samples, path: Path) -> None:
    """Draw the memory of all processes over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5))
    for name, series in samples.items():
        axes.plot(*zip(*series, strict=True), label=name)
    axes.set(xlabel="seconds", ylabel="resident memory, MiB", ylim=(0, None))
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)


def run(stack: Stack, server: RedisServer, film: Path, chunks: int, texts: int) -> Samples:
    """Embed all of it; return the memory meanwhile."""
    asset = stack.upload(film)
    embed_films(stack.client, asset, 1)
    samples: Samples = {}
    over = threading.Event()
    url = f"{stack.url}/v1"
    with ThreadPoolExecutor() as pool:
        watching = pool.submit(watch, processes(stack, server), samples, over)
        try:
            films = pool.submit(embed_films, stack.client, asset, chunks)
            asked = [pool.submit(ask_texts, url, texts // CLIENTS) for _ in range(CLIENTS)]
            began = time.monotonic()
            print(f"{films.result()} chunks, {sum(a.result() for a in asked)} texts", end=" ")
            print(f"in {time.monotonic() - began:.0f} s")
        finally:
            over.set()
        watching.result()
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    parser.add_argument("--plot", type=Path, help="where to write a picture (PNG)")
    parser.add_argument("--samples", type=Path, help="where to write all samples (JSON)")
    chosen = parser.parse_args()
    share = 10 if chosen.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        make_film(film)
        server = RedisServer(valkey_binary(), Path(folder))
        server.start()
        stack = Stack(Path(folder), server.url)
        stack.environment |= {"LOG_LEVEL": "WARNING", "RTEMBED_RESULT_TTL": RESULTS_KEPT}
        try:
            stack.start()
            samples = run(stack, server, film, chosen.chunks // share, chosen.texts // share)
        finally:
            stack.stop()
            server.stop()
    for name, series in samples.items():
        first, last, grown = growth(series)
        print(f"{name:50} {first:7.1f} MiB after a third, {last:7.1f} at the end, slope {grown:+6.2f} MiB")
    if chosen.plot:
        plot(samples, chosen.plot)
    if chosen.samples:
        chosen.samples.write_text(json.dumps(samples))


if __name__ == "__main__":
    main()
