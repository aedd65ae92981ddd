"""Watch a camera for a sentence: python live_alert.py RTSP_URL SENTENCE [THRESHOLD] [CHUNKS]

Prints a line for each chunk that is more like the sentence than the threshold (0.25). What threshold is right
depends on the model and the scene: run it with -1 first, and look at the scores. Ends after CHUNKS chunks.
"""

import sys
from itertools import islice

import numpy as np

from rt_embed import Client


def main(url: str, sentence: str, threshold: float = 0.25, count: int | None = None) -> None:
    with Client() as client:
        (wanted,) = client.embed_texts([sentence])
        wanted /= np.linalg.norm(wanted)
        with client.live(
            url, chunk_duration=5
        ) as chunks:  # reconnects by itself; the end unregisters the camera
            for chunk in islice(chunks, count):
                if not len(chunk.vector):
                    continue  # this chunk could not be decoded
                score = float(chunk.vector @ wanted) / float(np.linalg.norm(chunk.vector))
                if score >= threshold:
                    print(
                        f"ALERT {chunk.start_time} to {chunk.end_time}: {sentence} ({score:.2f})", flush=True
                    )


if __name__ == "__main__":
    _, url, sentence, *rest = sys.argv
    main(url, sentence, float(rest[0]) if rest else 0.25, int(rest[1]) if len(rest) > 1 else None)
