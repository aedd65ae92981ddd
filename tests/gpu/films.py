"""Films for the throughput benchmark, without a network.

python -m tests.gpu.films SOURCES FOLDER SECONDS
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av

from tests.bench import decode


def make(sources: Path, target: Path, gop: int, seconds: int) -> None:
    """Encode what lies in `sources` again and again until the film is long enough."""

    def footage() -> list[av.VideoFrame]:
        frames: list[av.VideoFrame] = []
        for path in sorted(sources.glob("*.mp4")):
            with av.open(str(path)) as container:
                frames += container.decode(video=0)
        return frames

    decode._footage = footage
    decode.make_film(target, gop, seconds, "medium")


def main() -> None:
    sources, folder, seconds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2) as pool:
        waiting = [
            pool.submit(make, sources, folder / f"film-medium-{gop}-{seconds}.mp4", gop, seconds)
            for gop in (30, 250)
        ]
        for each in waiting:
            each.result()


if __name__ == "__main__":
    main()
