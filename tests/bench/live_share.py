"""Which part of a camera's packets is decoded, by length of GOP and of chunk; eight frames per chunk.

scripts/bench live_share
"""

import json
import time
from typing import Any

from shared.chunks import SECOND
from tests.camera import CLOCK_RATE, Picture, encode
from worker.live.chunker import Chunker
from worker.live.rtp.access_units import AccessUnit
from worker.live.rtp.session_description import START_CODE

STREAMS: dict[str, dict[str, Any]] = {
    "camera: IPPP": {"preset": "ultrafast"},
    "x264 medium: three B-frames": {"preset": "medium", "params": "scenecut=0"},
}


def share(pictures: list[Picture], seconds: int) -> float:
    """The part that is decoded, over all complete chunks."""
    chunker = Chunker("h264", b"", seconds * SECOND, 8)
    began = time.time_ns()
    cuts = []
    for number, picture in enumerate(pictures):
        shown, arrival = picture.pts * SECOND // CLOCK_RATE, number * SECOND // 30
        unit = AccessUnit(shown, None, START_CODE + START_CODE.join(picture.nals), tuple(picture.nals), 1)
        cuts += chunker.push(unit, arrival, began + arrival)
    return sum(cut.kept for cut in cuts) / sum(cut.arrived for cut in cuts)


def main() -> None:
    """Print one line per stream and GOP."""
    for name, options in STREAMS.items():
        for gop in (30, 250):
            pictures = encode(seconds=242, gop=gop, size=64, **options)
            shares = {f"{seconds} s": round(share(pictures, seconds), 3) for seconds in (10, 60)}
            print(json.dumps({"stream": name, "gop": gop, "share decoded": shares}))


if __name__ == "__main__":
    main()
