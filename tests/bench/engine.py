"""The CPU engine with the demonstration model: how long clips and texts take, alone and together.

    python -m tests.bench.engine [--rounds N]

Alternatives take turns within each round, so that a busy machine burdens all of them alike.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from worker.engine import onnx
from worker.engine.onnx import OnnxEngine
from worker.models.conse.conse_recipe import cached

TEXT = ["a dog playing in the snow by the river"]
CLIPS = np.random.default_rng(0).integers(0, 256, (8, 8, 3, 224, 224), dtype=np.uint8)
Times = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/rt-embed/models").expanduser())
    options = parser.parse_args()
    model = cached(options.cache)

    for threads in (1, 2):
        engine = OnnxEngine(model, threads)
        show(f"{threads} threads, alone", rounds(options.rounds, alone(engine)))
        engine.close()
    for threads in (1, 2):
        show(
            f"clips per run, {threads} threads, 8 clips",
            rounds(options.rounds, clips_per_run(model, threads)),
        )
    for threads in (1, 2):
        show(
            f"1 text beside video without end, {threads} threads",
            beside_video(model, threads, options.rounds),
        )


def alone(engine: OnnxEngine) -> dict[str, Callable[[], Any]]:
    return {
        "1 text": lambda: engine.embed_text(TEXT),
        "8 texts": lambda: engine.embed_text(TEXT * 8),
        "1 clip": lambda: engine.embed_video(CLIPS[:1]),
        "4 clips": lambda: engine.embed_video(CLIPS[:4]),
        "8 clips": lambda: engine.embed_video(CLIPS),
    }


def clips_per_run(model: Any, threads: int) -> dict[str, Callable[[], Any]]:
    engine = OnnxEngine(model, threads)

    def run(clips: int) -> None:
        with patched("CLIPS_PER_RUN", clips):
            engine.embed_video(CLIPS)

    return {f"{clips} a run": lambda clips=clips: run(clips) for clips in (1, 2, 4, 8)}  # type: ignore[misc]


def beside_video(model: Any, threads: int, count: int) -> Times:
    times: Times = {}
    for _ in range(count):
        for niceness in (0, onnx.VIDEO_NICENESS, 19):
            with patched("VIDEO_NICENESS", niceness):
                engine = OnnxEngine(model, threads)
            texts, clip = text_and_clip_times(engine)
            engine.close()
            times.setdefault(f"niceness {niceness}", []).extend(texts)
            times.setdefault(f"niceness {niceness}: a clip meanwhile", []).append(clip)
    return times


def text_and_clip_times(engine: OnnxEngine) -> tuple[list[float], float]:
    """The times of 20 texts, and the mean time of a clip meanwhile."""
    engine.embed_text(TEXT)
    texts = []
    with video_without_end(engine) as clips:
        began = time.perf_counter()
        for _ in range(20):
            texts.append(timed(lambda: engine.embed_text(TEXT)))
            time.sleep(0.02)
        return texts, (time.perf_counter() - began) / max(len(clips), 1)


@contextmanager
def video_without_end(engine: OnnxEngine) -> Iterator[list[float]]:
    """Embed clips in another thread; what is yielded grows by one with each."""
    done: list[float] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            engine.embed_video(CLIPS[:1])
            done.append(time.perf_counter())

    thread = threading.Thread(target=work)
    thread.start()
    while not done:
        time.sleep(0.01)
    done.clear()
    yield done
    stop.set()
    thread.join()


@contextmanager
def patched(name: str, value: int) -> Iterator[None]:
    before = getattr(onnx, name)
    setattr(onnx, name, value)
    try:
        yield
    finally:
        setattr(onnx, name, before)


def rounds(count: int, alternatives: dict[str, Callable[[], Any]]) -> Times:
    for run in alternatives.values():
        run()
    times: Times = {name: [] for name in alternatives}
    for _ in range(count):
        for name, run in alternatives.items():
            times[name].append(timed(run))
    return times


def timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def show(title: str, times: Times) -> None:
    print(f"\n{title} (ms)\n{'':38}{'median':>9}{'p95':>9}{'n':>6}")
    for name, values in times.items():
        p95 = sorted(values)[max(0, round(len(values) * 0.95) - 1)]
        print(f"{name:38}{statistics.median(values) * 1e3:9.2f}{p95 * 1e3:9.2f}{len(values):6}")


if __name__ == "__main__":
    main()
