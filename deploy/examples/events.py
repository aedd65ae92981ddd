"""Read a film's events over plain HTTP, and go on after a broken connection: python events.py FILE_ID

This is what `rt_embed.Client.embed_video` does; take it as a pattern for other languages.
"""

import json
import os
import sys
import time
from collections.abc import Iterator

import httpx

URL = os.environ.get("RTVI_BACKEND", "http://localhost:8000")
SILENCE = 30  # seconds; the service sends a comment every second


def chunks(file_id: str, model: str) -> Iterator[dict[str, object]]:
    """Yield the chunks of a film, each once, over as many connections as it takes."""
    body = {"id": file_id, "model": model, "stream": True, "chunk_duration": 5}
    last_event, attempts = "", 0
    while True:
        headers = {"Last-Event-ID": last_event} if last_event else {}
        try:
            with httpx.stream(
                "POST", f"{URL}/v1/generate_video_embeddings", json=body, headers=headers, timeout=SILENCE
            ) as answer:
                if answer.status_code not in {
                    409,
                    429,
                    503,
                }:  # 409: our broken connection still counts as a reader
                    answer.raise_for_status()
                    data = ""
                    for line in answer.iter_lines():
                        if line.startswith("data: "):
                            data = line.removeprefix("data: ")
                        elif line.startswith("id: "):
                            last_event = line.removeprefix("id: ")
                        elif not line and data:  # an empty line ends the event
                            if data == "[DONE]":
                                return
                            attempts = 0
                            yield from json.loads(data).get("chunk_responses", [])
                            data = ""
        except httpx.TransportError as error:
            print(f"connection lost: {error or type(error).__name__}", file=sys.stderr)
        attempts += 1
        if attempts > 8:
            raise SystemExit("the service does not come back")
        time.sleep(min(10, 0.2 * 2**attempts))


def main(file_id: str) -> None:
    model = httpx.get(f"{URL}/v1/models").raise_for_status().json()["data"][0]["id"]
    for chunk in chunks(file_id, model):
        print(chunk["start_time"], chunk["end_time"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
