"""The metrics of one worker: per chunk and text, and between two heartbeats."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec
from opentelemetry.util.types import AttributeValue

from shared.fleet import HEARTBEAT
from shared.keys import LANES, Lane
from shared.telemetry import instruments
from shared.telemetry.export import record_span
from shared.telemetry.fleet_metrics import Figures
from shared.telemetry.instruments import Total, decode_slots
from worker.batcher import Embedded
from worker.engine.gpus import Condition, Gpu
from worker.media.clip_source import Clip
from worker.media.decoder_pool import DecoderPool
from worker.models.directory import ModelInfo
from worker.publish.publisher import Publisher
from worker.watch import Watch


class _Followed(msgspec.Struct):
    """A counter that follows a count kept elsewhere."""

    read: Callable[[], int]
    counter: Total
    labels: dict[str, str]
    seen: int = 0

    def catch_up(self) -> None:
        now = self.read()
        self.counter.add(now - self.seen, self.labels)
        self.seen = now


class WorkerMetrics:
    """Collects one worker's metrics and publishes them to the fleet's."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._followed: list[_Followed] = []
        self._decoders: DecoderPool | None = None

    def follow(self, read: Callable[[], int], counter: Total, **labels: str) -> None:
        """Follow the count that `read` returns, from now on."""
        self._followed.append(_Followed(read, counter, labels, read()))

    def follow_decoders(self, decoders: DecoderPool) -> None:
        """Follow the counts of these decoders."""
        self._decoders = decoders
        counts = decoders.counts
        self.follow(lambda: counts.retries, instruments.decode_retries, reason="first_attempt_error")
        self.follow(lambda: counts.frames_decoded, instruments.frames_decoded)
        self.follow(lambda: counts.frames_used, instruments.frames_used)
        self.follow(lambda: counts.restarts, instruments.decoder_restarts)
        self.follow(lambda: counts.fallbacks, instruments.gpu_fallbacks)
        self.follow(lambda: counts.bytes_fetched, instruments.bytes_fetched)

    def follow_publisher(self, publisher: Publisher) -> None:
        """Follow the counts of messages."""
        counts = publisher.counts
        self.follow(lambda: counts.messages_dropped, instruments.dropped, cause="outbox_full")
        self.follow(lambda: counts.messages_not_built, instruments.dropped, cause="message_not_built")

    async def publish(self, running: Iterable[Lane]) -> None:
        """Measure the current state, with the lanes of running jobs, and publish it. Raises RedisError."""
        for followed in self._followed:
            followed.catch_up()
        jobs = Counter(running)
        for lane in LANES:
            instruments.jobs_running.set(jobs[lane], {"lane": lane})
        if self._decoders:
            decode_slots.set(self._decoders.busy, {"state": "busy"})
            decode_slots.set(self._decoders.slots - self._decoders.busy, {"state": "idle"})
        await self._figures.publish()


async def measure_gpus(gpus: Sequence[Gpu], host: str, watch: Watch) -> None:
    """Measure a worker's GPUs, and have `watch` check that they still work, until cancelled. Raises
    ModelError if one cannot be reached."""
    if not gpus:
        return
    from worker.engine.nvml import GpuMeter  # noqa: PLC0415 - nvidia-ml-py is part of [gpu]

    meters = [GpuMeter(gpu) for gpu in gpus]
    watch.ask(lambda: next((meter.trouble for meter in meters if meter.trouble), ""))
    while True:
        for meter in meters:
            observe_gpu(host, meter.gpu, await asyncio.to_thread(meter.read))
        await asyncio.sleep(HEARTBEAT)


def observe_gpu(host: str, gpu: Gpu, condition: Condition) -> None:
    """Record the condition of a GPU; skip values that it does not report."""
    labels = {"host": host, "gpu": str(gpu.index), "name": gpu.name}
    if condition.utilization is not None:
        instruments.gpu_utilization.set(condition.utilization, labels)
    if condition.decoder_utilization is not None:
        instruments.gpu_decoder_utilization.set(condition.decoder_utilization, labels)
    if condition.temperature is not None:
        instruments.gpu_temperature.set(condition.temperature, labels)
    if condition.memory_used is not None and condition.memory_total is not None:
        instruments.gpu_memory.set(condition.memory_used, {**labels, "state": "used"})
        instruments.gpu_memory.set(
            condition.memory_total - condition.memory_used, {**labels, "state": "free"}
        )


def observe_texts(embedded: Sequence[Embedded], model: ModelInfo) -> None:
    """Record the embedded texts of one request."""
    instruments.embedded_items.add(len(embedded), {"model": model.id, "modality": "text"})
    for text in embedded:
        seconds = text.end - text.start
        instruments.inference_latency.record(seconds)
        instruments.inference_latency_latest.set(seconds)


def observe_chunk(
    clip: Clip, embedded: Embedded, stream: str, model: ModelInfo, *, live: bool = False
) -> None:
    """Record one embedded chunk of the file or camera `stream`, also as child spans of the current one."""
    decoding = clip.decode_end - clip.decode_start
    inference = embedded.end - embedded.start
    whole = embedded.end - clip.decode_start
    instruments.embedded_items.add(1, {"model": model.id, "modality": "video"})
    instruments.decode_latency.record(decoding)
    instruments.decode_latency_latest.set(decoding)
    instruments.inference_latency.record(inference)
    instruments.inference_latency_latest.set(inference)
    instruments.chunk_latency.record(whole)
    instruments.chunk_latency_latest.set(whole)
    instruments.input_tokens.record(0)
    instruments.output_tokens.record(0)
    if live:
        instruments.live_chunk_latency.record(whole)
        instruments.live_chunk_latency_latest.set(whole)
    _trace_chunk(clip, embedded, stream, model)


def _trace_chunk(clip: Clip, embedded: Embedded, stream: str, model: ModelInfo) -> None:
    def record(
        name: str, latency: str, operation: str, start: float, end: float, **more: AttributeValue
    ) -> None:
        milliseconds = round((end - start) * 1000, 3)
        attributes: dict[str, AttributeValue] = {
            "chunk_idx": clip.chunk.index, "stream_id": stream, "operation": operation,
            latency: milliseconds, "execution_time_ms": milliseconds, **more,
        }  # fmt: skip
        record_span(f"{name} - Chunk {clip.chunk.index}", start, end, attributes)

    start, decoded = clip.decode_start, clip.decode_end
    record("Decode", "decode_latency_ms", "decode", start, decoded)
    record(
        "VLM Inference", "vlm_latency_ms", "vlm_inference", embedded.start, embedded.end,
        model_id=model.id, model_api_type=model.api_type, vlm_response_length=0,
    )  # fmt: skip
    record("VLM Chunk Inference", "chunk_latency_ms", "chunk", start, embedded.end)
