"""The interface between the worker and media readers, on the CPU or on a GPU."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.chunks import Chunk
from worker.media.decoder.media_facts import MediaFacts

BEFORE_THE_VIDEO = "the chunk ends before the first frame of the video"
"""Why a chunk without a frame is left out."""


class Clip:
    """The frames of one chunk: uint8 [frames, 3, size, size] RGB, 1 <= frames <= the model's number.

    `asset` is the id of the file or camera and `path` the file's path, where the embedding job has set them.
    `times` are presentation times in ns from the start of the file, one per frame. `thumbnail` is a JPEG of
    the middle frame, if requested. `decode_start` and `decode_end` are `time.monotonic()` seconds. `frames`
    may be in shared memory or on a GPU: call `release` after copying or using it, and do not touch it
    afterwards.
    """

    def __init__(
        self,
        chunk: Chunk,
        frames: NDArray[np.uint8],
        times: list[int],
        decode_start: float,
        decode_end: float,
    ) -> None:
        self.chunk = chunk
        self.frames = frames
        self.times = times
        self.decode_start = decode_start
        self.decode_end = decode_end
        self.thumbnail = b""
        self.asset = ""
        self.path = ""

    def release(self) -> None:
        """Give the frames' memory back. May be called twice."""


class LeftOut(msgspec.Struct, frozen=True):
    """A chunk that has no clip, and why; later chunks may have one."""

    chunk: Chunk
    reason: str


class Media(Protocol):
    """Reads media for the worker: local files, and objects by their s3:// URLs. Cancelling a call stops its
    work and frees its resources."""

    async def probe(self, path: str | Path) -> MediaFacts:
        """Open the file and return its facts. Raises InvalidFile saying what is wrong with it, and
        Unavailable if its bucket cannot be reached."""

    def clips(
        self,
        path: str | Path,
        chunks: Sequence[Chunk],
        frames: int,
        size: int,
        *,
        joined: bool = False,
        skip: bool = False,
        thumbnails: bool = False,
    ) -> AsyncGenerator[Clip | LeftOut, None]:
        """Decode consecutive chunks of one video file, in order, up to `frames` frames each, scaled to
        `size` x `size`; `joined` as in MediaFacts. A chunk that ends before the first frame of the video is
        left out. Raises DecodeError at the first chunk that cannot be decoded; with `skip`, that chunk is
        left out, too."""

    async def images(self, paths: Sequence[str | Path], size: int, *, thumbnails: bool = False) -> Clip:
        """Return a clip with one frame per image, in order, times 0, chunk (0, 0, 0). Raises DecodeError."""

    async def close(self) -> None:
        """Stop every decoder."""
