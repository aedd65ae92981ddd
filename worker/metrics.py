"""What one worker measures: per chunk and text, and between two heartbeats."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable

import msgspec
from opentelemetry.metrics import Counter

from shared import metrics
from shared.figures import Figures
from shared.keys import LANES, Lane
from shared.metrics import decode_slots
from shared.telemetry import record_span
from worker.batcher import Embedded
from worker.media.base import Clip
from worker.media.pool import DecoderPool
from worker.publish.results import Publisher


class _Followed(msgspec.Struct):
    """A count that somebody else keeps, as a counter."""

    read: Callable[[], int]
    counter: Counter
    labels: dict[str, str]
    seen: int = 0

    def catch_up(self) -> None:
        now = self.read()
        self.counter.add(now - self.seen, self.labels)
        self.seen = now


class Measured:
    """The figures of one worker on their way to the fleet's."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._followed: list[_Followed] = []
        self._decoders: DecoderPool | None = None

    def follow(self, read: Callable[[], int], counter: Counter, **labels: str) -> None:
        """Count what `read` counts, from now on."""
        self._followed.append(_Followed(read, counter, labels, read()))

    def follow_decoders(self, decoders: DecoderPool) -> None:
        """Measure these decoders."""
        self._decoders = decoders
        counts = decoders.counts
        self.follow(lambda: counts.retries, metrics.decode_retries, reason="first_attempt_error")
        self.follow(lambda: counts.frames_decoded, metrics.frames_decoded)
        self.follow(lambda: counts.frames_used, metrics.frames_used)
        self.follow(lambda: counts.restarts, metrics.decoder_restarts)

    def follow_publisher(self, publisher: Publisher) -> None:
        """Measure what becomes of messages."""
        counts = publisher.counts
        self.follow(lambda: counts.messages_dropped, metrics.dropped, cause="outbox_full")
        self.follow(lambda: counts.messages_not_built, metrics.dropped, cause="message_not_built")

    async def publish(self, running: Iterable[Lane]) -> None:
        """Measure what is now, with the lanes of the running jobs, and publish it. Raises RedisError."""
        for followed in self._followed:
            followed.catch_up()
        jobs = Tally(running)
        for lane in LANES:
            metrics.jobs_running.set(jobs[lane], {"lane": lane})
        if self._decoders:
            decode_slots.set(self._decoders.busy, {"state": "busy"})
            decode_slots.set(self._decoders.slots - self._decoders.busy, {"state": "idle"})
        await self._figures.publish()


def observe_text(embedded: Embedded) -> None:
    """One embedded text."""
    seconds = embedded.end - embedded.start
    metrics.inference_latency.record(seconds)
    metrics.inference_latency_latest.set(seconds)


def observe_chunk(clip: Clip, embedded: Embedded, stream: str, model: str, *, live: bool = False) -> None:
    """One embedded chunk of the file or camera `stream`, also as spans under the current one."""
    decoding = clip.decode_end - clip.decode_start
    inference = embedded.end - embedded.start
    whole = embedded.end - clip.decode_start
    metrics.decode_latency.record(decoding)
    metrics.decode_latency_latest.set(decoding)
    metrics.inference_latency.record(inference)
    metrics.inference_latency_latest.set(inference)
    metrics.chunk_latency.record(whole)
    metrics.chunk_latency_latest.set(whole)
    metrics.input_tokens.record(0)
    metrics.output_tokens.record(0)
    if live:
        metrics.live_chunk_latency.record(whole)
        metrics.live_chunk_latency_latest.set(whole)
    _trace_chunk(clip, embedded, stream, model)


def _trace_chunk(clip: Clip, embedded: Embedded, stream: str, model: str) -> None:
    index = clip.chunk.index
    common: dict[str, str | int] = {"chunk_idx": index, "stream_id": stream}
    record_span(
        f"Decode - Chunk {index}", clip.decode_start, clip.decode_end, "decode_latency_ms",
        **common, operation="decode",
    )  # fmt: skip
    record_span(
        f"VLM Inference - Chunk {index}", embedded.start, embedded.end, "vlm_latency_ms",
        **common, operation="vlm_inference", model_id=model, model_api_type="custom", vlm_response_length=0,
    )  # fmt: skip
    record_span(
        f"VLM Chunk Inference - Chunk {index}", clip.decode_start, embedded.end, "chunk_latency_ms",
        **common, operation="chunk",
    )  # fmt: skip
