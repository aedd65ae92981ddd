"""What was accepted, and what came of it: at the clients, and at a consumer that knows nothing of them."""

import base64
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.brokers import Reader
from tests.proto import schema

VisionLLM: Any = schema.classes()["VisionLLM"]
Chunks = dict[int, str]
"""Vectors in base64, by chunk."""


@dataclass
class Work:
    """One accepted request. Times are of the monotonic clock; `ended` is None while a client waits for it."""

    request: str
    kind: str
    accepted: float = field(default_factory=time.monotonic)
    ended: float | None = None
    error: str = ""
    """Why it ended without all its chunks, as the client was told."""
    chunks: Chunks = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)

    def add(self, chunk: int, vector: str) -> None:
        """Note a chunk that came to the client."""
        if chunk in self.chunks:
            self.doubled.append(f"{self.request}:{chunk} came twice")
        self.chunks[chunk] = vector


@dataclass
class Losses:
    """What is wrong with some requests; each entry says what. `repeated` counts messages that Kafka has twice
    with the same key and the same bytes, which its consumers are told to expect."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    repeated: int = 0


class Account:
    """Every accepted request, and every message that the consumer has read.

    `expected` are the vectors of the film that all requests embed. The consumer reads in a thread of its own.
    """

    def __init__(self, servers: str, topic: str, expected: Chunks) -> None:
        self.expected = expected
        self.refusals = 0
        """Requests that were not accepted; the clients asked again."""
        self._works: list[Work] = []
        self._messages: dict[str, list[bytes]] = {}
        self._servers, self._topic = servers, topic
        self._stopped = threading.Event()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def open(self, request: str, kind: str) -> Work:
        """Note that a request was accepted."""
        work = Work(request, kind)
        self._works.append(work)
        return work

    def withdraw(self, work: Work) -> None:
        """Note that a request was refused after all."""
        self._works.remove(work)

    def works(self) -> list[Work]:
        """All accepted requests."""
        return list(self._works)

    def _read(self) -> None:
        with Reader(self._servers, self._topic) as reader:
            while not self._stopped.is_set():
                reader.poll()
                for key, value, _ in reader.records:
                    self._messages.setdefault((key or b"").decode(), []).append(value)
                reader.records.clear()

    def close(self) -> None:
        """End the consumer."""
        self._stopped.set()
        self._reading.join()

    def await_messages(self, works: Iterable[Work], timeout: float) -> None:
        """Wait until the consumer has all messages of these requests, or give up."""
        deadline = time.monotonic() + timeout
        missing = {f"{work.request}:{chunk}" for work in works if not work.error for chunk in self.expected}
        while missing and time.monotonic() < deadline:
            missing = {key for key in missing if key not in self._messages}
            time.sleep(0.05)

    def losses(self, works: Iterable[Work]) -> Losses:
        """Compare what came of these requests with what was due."""
        losses = Losses()
        for work in works:
            losses.doubled += work.doubled
            if work.error or work.ended is None:
                losses.failed.append(f"{work.kind} {work.request}: {work.error or 'no end'}")
                continue
            self._compare(work, losses)
        return losses

    def _compare(self, work: Work, losses: Losses) -> None:
        for chunk, vector in self.expected.items():
            key = f"{work.request}:{chunk}"
            if chunk not in work.chunks:
                losses.lost.append(f"{work.kind} {key} did not come to the client")
            elif work.chunks[chunk] != vector:
                losses.lost.append(f"{work.kind} {key} came with another vector")
            messages = self._messages.get(key, [])
            if not messages:
                losses.lost.append(f"{work.kind} {key} did not come to the consumer")
            elif wrong := [message for message in messages if vector_of(message) != vector]:
                losses.lost.append(f"{work.kind} {key} came to the consumer as {wrong[0][:80]!r}")
            if len(set(messages)) > 1:
                losses.doubled.append(f"{work.kind} {key} came to the consumer with different bytes")
            losses.repeated += max(0, len(messages) - 1)
        unknown = work.chunks.keys() - self.expected.keys()
        losses.doubled += [f"{work.kind} {work.request}:{chunk} is no chunk" for chunk in unknown]


def vector_of(message: bytes) -> str:
    """The vector in a message, as clients that ask for base64 get it."""
    vectors = [sent.vector for sent in VisionLLM.FromString(message).llm.visionEmbeddings]
    return " ".join(base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() for v in vectors)
