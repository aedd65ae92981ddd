"""A model that computes next to nothing, so that tests and benchmarks see the service around it.

MODEL_PATH is its name, and may set a pace: `null?video=0.2&text=0.01` sleeps so many seconds per batch.
A clip's vector begins with the mean of each channel of each frame; a text's vector depends on its letters.
"""

import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

DIMENSION = 768
NUMBERS = np.arange(1, DIMENSION + 1)


class Answer:
    """What the service reads of one output."""

    def __init__(self, embeddings: np.ndarray) -> None:
        self.output = ""
        self.embeddings = embeddings
        self.input_tokens = 0
        self.output_tokens = 0


class Model:
    """Null, or paced."""

    model_name = "null"
    embed_dim = DIMENSION

    def __init__(self, model_path: str, max_batch_size: int | None = None, **kwargs: Any) -> None:
        pace = parse_qs(urlsplit(model_path).query)
        self.video_seconds = float(pace.get("video", ["0"])[0])
        self.text_seconds = float(pace.get("text", ["0"])[0])
        self.video_thread, self.text_thread = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    @staticmethod
    def get_model_info(model_path: str, model_type: str) -> Any:
        return urlsplit(model_path).path, "custom", "tests"

    @staticmethod
    def get_input_config(model_path: str, model_type: str) -> Any:
        return {"num_frames": 8, "width": 32, "height": 32}

    def generate(
        self,
        query: Any,
        chunks: Any,
        video_frames: Any,
        video_frames_times: Any,
        generation_config: Any,
        **kwargs: Any,
    ) -> Any:
        if chunks[0].chunk_type == "text":
            answers = [Answer(text_vector(chunk.text_input)) for chunk in chunks]
            return paced(answers, self.text_seconds, self.text_thread)
        answers = [Answer(clip_vector(frames)) for frames in video_frames]
        return paced(answers, self.video_seconds, self.video_thread)

    def can_batch(self, one: Any, other: Any) -> Any:
        return one.chunk_type == other.chunk_type


def paced(answers: Any, seconds: float, thread: ThreadPoolExecutor) -> Any:
    """The answers at once, or after so many seconds in which the caller may ask for the other kind."""

    def wait() -> Any:
        time.sleep(seconds)
        return answers

    return thread.submit(wait) if seconds else answers


def text_vector(text: str) -> Any:
    """768 numbers that only this text has."""
    if text.startswith("fail"):
        raise RuntimeError(f"asked to fail on {text!r}")
    seed = zlib.crc32(text.encode())
    return ((NUMBERS * seed % 1999 - 999) / 999).astype(np.float32)


def clip_vector(frames: np.ndarray) -> Any:
    """The mean of each channel of each frame, in 0..1, then zeros."""
    vector = np.zeros(DIMENSION, np.float32)
    means = frames.mean(axis=(1, 2)).reshape(-1) / 255
    vector[: len(means)] = means
    return vector
