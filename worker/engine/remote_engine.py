"""The engine for a model behind an HTTP endpoint: a Cosmos-Embed1 NIM or, for texts only, any server with
OpenAI's `/v1/embeddings`."""

import random
import threading
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec
import numpy as np
import structlog

from shared.errors import EngineError, ModelError, NotSupported, Unavailable
from shared.telemetry.instruments import remote_calls, remote_latency
from shared.telemetry.redaction import redact
from worker.engine.custom.jpeg import jpeg_frames
from worker.models.embedding_engine import Clips, Vectors

log = structlog.get_logger(__name__)

FRAMES, RESOLUTION = 8, 224
"""The input of a Cosmos-Embed1 NIM."""
PATH = "/v1/embeddings"
AGAIN = frozenset({429, 502, 503, 504})
"""HTTP statuses after which the same call may succeed later."""
LONGEST_PAUSE, FIRST_PAUSE = 30.0, 0.25
LONGEST_ANSWER = 64 << 20
LONGEST_REASON = 300
FIRST_TEXT = "a first text"


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Vector]


_decoder = msgspec.json.Decoder(_Answer)


class Away(Exception):
    """The endpoint gave no answer, or asked for a retry, after `pause` seconds if it gave a number."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class RemoteEngine:
    """Sends clips and texts to an endpoint. Its methods block; many threads may call them at once."""

    def __init__(
        self, endpoint: str, model: str, api_key: str, *, timeout: float, patience: float, connections: int
    ) -> None:
        """`timeout` limits one try, `patience` all tries of a call; seconds."""
        self.supports_text = True
        self.dimension = 0
        self.trouble = ""
        """Why the endpoint is unusable at the moment; empty while it works."""
        self._frames_taken = True
        self._model, self._timeout, self._patience = model, timeout, patience
        self._url = endpoint.rstrip("/").removesuffix("/v1") + PATH
        self._closing = threading.Event()
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(timeout=timeout, limits=limits, headers=headers)

    def learn(self) -> None:
        """Embed a first text to find the dimension, and whether the endpoint is a NIM.

        Raises Unavailable if the endpoint is away, ModelError if its answer holds no vector.
        """
        try:
            vectors = self._ask({"input": FIRST_TEXT, "request_type": "query"}, 1)
        except Away as away:
            raise Unavailable(str(away)) from away
        except EngineError as error:
            vectors = self._learn_without_request_type(error)
        self.dimension = vectors.shape[1]

    def _learn_without_request_type(self, refused: EngineError) -> Vectors:
        try:
            vectors = self._ask({"input": FIRST_TEXT}, 1)
        except Away as away:
            raise Unavailable(str(away)) from away
        except EngineError as error:
            raise ModelError(f"the remote model gives no vector for a text: {refused.message}") from error
        self._frames_taken = False
        log.warning(
            "the remote model is not a Cosmos-Embed1 NIM: it embeds texts only", reason=refused.message
        )
        return vectors

    def embed_video(self, clips: Clips) -> Vectors:
        """Embed uint8 [B, 8, 3, 224, 224] -> float32 [B, dimension], one call per clip.

        Raises EngineError if the endpoint refuses a clip, Unavailable if it stays away,
        NotSupported if it takes no frames.
        """
        if not self._frames_taken:
            raise NotSupported("the remote model embeds no video")
        bodies = ({"input": frames_payload(clip), "request_type": "query"} for clip in clips)
        return np.concatenate([self._embed(body, 1) for body in bodies])

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """Return float32 [len(texts), dimension], from one call. Raises EngineError, Unavailable."""
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        kind = {"request_type": "query" if len(texts) == 1 else "bulk_text"} if self._frames_taken else {}
        return self._embed({"input": texts[0] if len(texts) == 1 else list(texts), **kind}, len(texts))

    def ping(self) -> None:
        """Check whether the endpoint works again."""
        try:
            self._ask({"input": FIRST_TEXT, **({"request_type": "query"} if self._frames_taken else {})}, 1)
        except (Away, EngineError) as error:
            self.trouble = str(error)
        else:
            log.info("the remote model is back")
            self.trouble = ""

    def close(self) -> None:
        """Close the connections; calls that wait for a retry give up."""
        self._closing.set()
        self._client.close()

    def _embed(self, body: Mapping[str, object], count: int) -> Vectors:
        """Return the vectors of one call; retry it for `patience` seconds while the endpoint is away."""
        deadline, pause = time.monotonic() + self._patience, FIRST_PAUSE
        while True:
            try:
                vectors = self._ask(body, count)
            except Away as away:
                wait = pause * random.uniform(0.5, 1.5) if away.pause is None else away.pause
                wait = min(LONGEST_PAUSE, wait)
                if time.monotonic() + wait > deadline or self._closing.wait(wait):
                    self.trouble = str(away)
                    raise Unavailable(str(away)) from away
                remote_calls.add(1, {"outcome": "retry"})
                pause *= 2
            else:
                self.trouble = ""
                return vectors

    def _ask(self, body: Mapping[str, object], count: int) -> Vectors:
        """Make one call. Raises Away, EngineError."""
        began = time.monotonic()
        content = msgspec.json.encode({**body, "encoding_format": "float", "model": self._model})
        outcome = "failed"
        try:
            vectors = self._vectors(self._post(content), count)
            outcome = "done"
        except httpx.TransportError as error:
            said = f"{type(error).__name__} {reason_of(str(error))}".rstrip()
            raise Away(f"the remote model does not answer: {said}") from error
        finally:
            remote_calls.add(1, {"outcome": outcome})
            remote_latency.record(time.monotonic() - began)
        return vectors

    def _post(self, content: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        deadline = time.monotonic() + self._timeout
        with self._client.stream("POST", self._url, content=content, headers=headers) as answer:
            data = bytearray()
            for piece in answer.iter_bytes():
                data += piece
                if len(data) > LONGEST_ANSWER:
                    raise EngineError(f"the remote model answers with more than {LONGEST_ANSWER} bytes")
                if time.monotonic() > deadline:
                    raise Away(f"the remote model's answer is not complete after {self._timeout:g} s")
            reason = reason_of(data[: 4 * LONGEST_REASON].decode(errors="replace"))
            said = f"the remote model answers {answer.status_code}: {reason}"
            if answer.status_code in AGAIN:
                raise Away(said, retry_after(answer.headers.get("Retry-After", "")))
            if answer.status_code != httpx.codes.OK:
                raise EngineError(said)
        return bytes(data)

    def _vectors(self, data: bytes, count: int) -> Vectors:
        try:
            answer = _decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise EngineError(f"the remote model's answer cannot be parsed: {error}") from error
        found = {vector.index: vector.embedding for vector in answer.data}
        if sorted(found) != list(range(count)) or len(answer.data) != count:
            raise EngineError(f"the remote model gave {len(answer.data)} vectors for {count} inputs")
        vectors = np.array([found[index] for index in range(count)] if same_length(found) else [], np.float32)
        if vectors.ndim != 2 or not vectors.size or vectors.shape[1] != (self.dimension or vectors.shape[1]):
            raise EngineError(f"the remote model gave vectors of another length than {self.dimension}")
        if not np.isfinite(vectors).all():
            raise EngineError("the remote model gave a vector that is not finite")
        return vectors


def frames_payload(clip: Any) -> str:
    """Encode uint8 [frames, 3, height, width] RGB as a clip in a NIM's `input`."""
    files = jpeg_frames(clip.transpose(0, 2, 3, 1))
    return f"data:video_frames/jpg;base64,{{{','.join(b64encode(file).decode() for file in files)}}}"


def same_length(vectors: dict[int, list[float]]) -> bool:
    """Return whether all vectors have the same length."""
    return len({len(vector) for vector in vectors.values()}) == 1


def retry_after(header: str) -> float | None:
    """Return the seconds in Retry-After; None if it is not a number."""
    try:
        return max(0.0, float(header))
    except ValueError:
        return None


def reason_of(text: str) -> str:
    """Return the endpoint's error text, short enough for a log line, without secrets."""
    return redact(" ".join(text[: 4 * LONGEST_REASON].split())[:LONGEST_REASON])
