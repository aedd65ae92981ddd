"""A decoder process, started by its worker.

    python -m worker.media.decoder.decoder_process SOCKET ARENA FILES NICENESS [BLOCKS]

It runs one job at a time. A thread listens to the worker, so that a job can be cancelled, and so that the
process exits with the worker, even in the middle of a job.
"""

import gc
import importlib
import os
import pkgutil
import queue
import resource
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import av
import av.logging
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from shared.errors import DecodeError, InvalidFile
from worker.isolation.allowed_calls import decoder_calls
from worker.isolation.sandbox import enter
from worker.media.decoder.container.byte_sources import Blocks, ByteSources, StoreAway
from worker.media.decoder.container.demux import Refused, VideoSource
from worker.media.decoder.decoder_messages import (
    FROM_DECODER,
    TO_DECODER,
    Cancel,
    Choose,
    ClipDone,
    Decode,
    DecodeCounts,
    DecodeRuns,
    Failed,
    Finished,
    Found,
    FromDecoder,
    Grant,
    Images,
    Look,
    Looked,
    Probe,
    Ready,
    Request,
    Setup,
    ToDecoder,
    paths,
)
from worker.media.decoder.film_facts import video_facts
from worker.media.decoder.media_facts import MediaFacts
from worker.media.decoder.memory import Arena, Cancelled, ClipMemory
from worker.media.decoder.pictures.images import IMAGE_HEAD, image_facts, image_format, read_image
from worker.media.decoder.pictures.swscale import Scaler
from worker.media.decoder.pictures.thumbnail import Thumbnails, load_jpeg
from worker.media.decoder.reader import Reader
from worker.media.decoder.runs import decode_runs, look_at
from worker.media.decoder.selection.select import Irregular

IDLE_SECONDS = 5.0  # then the file is closed and the memory of its decoders freed

Kind = Literal["invalid", "refused", "decode", "cancelled", "away", "unsuited"]
_KINDS: dict[type[Exception], Kind] = {
    Cancelled: "cancelled",
    InvalidFile: "invalid",
    Irregular: "unsuited",
    Refused: "refused",
    StoreAway: "away",
}


class DecoderProcessState:
    """The state of a decoder process."""

    def __init__(self, connection: socket.socket, arena: Arena, setup: Setup, files: ByteSources) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._arena = arena
        self._limits = setup.limits
        self._files = files
        self._reader = Reader(setup, files)
        self._jobs: queue.SimpleQueue[tuple[Request, ClipMemory]] = queue.SimpleQueue()
        self._running: tuple[Request, ClipMemory] | None = None

    def serve(self) -> None:
        """Run jobs until the process ends."""
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            try:
                request, memory = self._jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                self._reader.close()
                continue
            answer = self._answer(request, memory)
            self._send(answer)
            if isinstance(answer, Failed):
                gc.collect()  # an error and the video frames that it references may form a cycle

    def _listen(self) -> None:
        """Read messages; exit at the end of the connection."""
        try:
            while (message := TO_DECODER.receive(self._connection)) is not None:
                self._dispatch(message)
        finally:
            os._exit(0)

    def _dispatch(self, message: ToDecoder) -> None:
        match message:
            case Grant(arena, offset) if self._running:
                request, memory = self._running
                memory.grant(offset, lambda at: self._region(request, arena, at))
            case Cancel() if self._running:
                self._running[1].cancel()
            case Probe() | Decode() | Choose() | Look() | Images() | DecodeRuns() as request:
                arena = request.arena if isinstance(request, Decode) else 0
                offsets = request.offsets if isinstance(request, Decode) else []
                memory = ClipMemory(lambda at: self._region(request, arena, at), offsets)
                self._running = request, memory
                self._jobs.put(self._running)

    def _answer(self, request: Request, memory: ClipMemory) -> FromDecoder:
        counts = DecodeCounts()
        try:
            self._files.begin(paths(request))
            return self._do(request, memory, counts)
        except Exception as error:  # no file may crash the process
            kinds: list[Kind] = [kind for known, kind in _KINDS.items() if isinstance(error, known)]
            return Failed(kinds[0] if kinds else "decode", self._detail(error), counts)
        finally:
            self._files.end()

    def _detail(self, error: Exception) -> str:
        match error:
            case DecodeError():
                return error.detail
            case InvalidFile():
                return error.message
            case Irregular() | StoreAway():
                return str(error)
            case MemoryError():
                return f"more than {self._limits.memory >> 20} MiB of memory needed"
        return f"{type(error).__name__}: {error}"

    def _do(self, request: Request, memory: ClipMemory, counts: DecodeCounts) -> FromDecoder:
        match request:
            case Probe(path):
                return Found(self._probe(path))
            case Look(codec, run):
                return Looked(look_at(codec, run, self._limits))
            case DecodeRuns():
                return self._decode_runs(request)
            case Decode():
                self._reader.run(request, memory, self._send, counts)
            case Choose():
                self._reader.choose(request, memory, self._send, counts)
            case Images():
                self._read_images(request)
        return Finished(counts)

    def _decode_runs(self, request: DecodeRuns) -> FromDecoder:
        shape = (request.frames, 3, request.size, request.size)
        out = self._arena.region(request.arena, request.offset, shape)
        start = time.monotonic()
        thumbnails = Thumbnails() if request.thumbnails else None
        times = decode_runs(request.codec, request.runs, self._limits, out, thumbnails)
        thumbnail = thumbnails.take(0, out[len(times) // 2]) if thumbnails else b""
        self._send(ClipDone(0, request.offset, times, start, time.monotonic(), thumbnail))
        return Finished(DecodeCounts(frames_decoded=sum(len(run.packets) for run in request.runs)))

    def _probe(self, path: str) -> MediaFacts:
        try:
            kind = image_format(self._files.read(path, IMAGE_HEAD))
        except OSError as error:
            raise InvalidFile(f"cannot read {Path(path).name}: {error.strerror}") from error
        if kind is not None:
            return image_facts(path, kind, self._limits, self._files)
        source = VideoSource(path, self._limits, self._files)
        try:
            return video_facts(source, self._limits)
        finally:
            source.close()

    def _read_images(self, request: Images) -> None:
        shape = (len(request.paths), 3, request.size, request.size)
        out = self._arena.region(request.arena, request.offset, shape)
        start, thumbnail = time.monotonic(), b""
        scaler = Scaler()
        try:
            for index, (path, picture) in enumerate(zip(request.paths, out, strict=True)):
                wanted = request.thumbnails and index == len(out) // 2
                made = read_image(path, scaler, self._limits, picture, self._files, thumbnail=wanted)
                thumbnail = made or thumbnail
        finally:
            scaler.close()
        times = [0] * len(out)
        self._send(ClipDone(0, request.offset, times, start, time.monotonic(), thumbnail))

    def _region(self, request: Request, arena: int, offset: int) -> NDArray[np.uint8]:
        if not isinstance(request, Decode):
            raise TypeError(type(request))
        return self._arena.region(arena, offset, (request.frames, 3, request.size, request.size))

    def _send(self, message: FromDecoder) -> None:
        with self._sending:
            self._connection.sendall(FROM_DECODER.pack(message))


def silence_ffmpeg() -> None:
    """Turn off FFmpeg's logging, and PyAV's log callback, which makes FFmpeg's threads wait for the GIL."""
    av.logging.set_libav_level(av.logging.PANIC)
    av.logging.restore_default_callback()


def load_everything() -> None:
    """Load everything that loads lazily: the sandbox has no file system."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name not in ("av.__main__", "av.datasets"):
            importlib.import_module(module.name)
    scaler = Scaler()
    scaler.scale(VideoFrame(2, 2, "yuv420p"), np.empty((3, 2, 2), np.uint8))
    scaler.close()
    load_jpeg()


def main() -> None:
    """Set up, then serve the worker at the other end of the socket."""
    socket_fd, arena_fd, files_fd, niceness, *blocks_fd = map(int, sys.argv[1:])
    connection, handed = socket.socket(fileno=socket_fd), socket.socket(fileno=files_fd)
    blocks = Blocks(socket.socket(fileno=blocks_fd[0])) if blocks_fd else None
    setup = TO_DECODER.receive(connection)
    if not isinstance(setup, Setup):
        raise SystemExit(f"expected Setup, got {setup!r}")
    silence_ffmpeg()
    load_everything()
    limits = {resource.RLIMIT_AS: setup.limits.memory, resource.RLIMIT_NOFILE: setup.limits.open_files}
    isolation = enter("rt-embed-decode", decoder_calls(), limits, niceness=niceness)
    child = DecoderProcessState(connection, Arena(arena_fd), setup, ByteSources(blocks, handed))
    connection.sendall(FROM_DECODER.pack(Ready(isolation)))
    child.serve()


if __name__ == "__main__":
    main()
