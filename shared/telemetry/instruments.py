"""The metrics of the service: instruments of the OpenTelemetry API, which cost almost nothing until
`shared.telemetry.export.configure` connects them.

Those without the prefix `rtembed_` have the names, units and buckets of RT-Embed's own; `EXPOSED` says under
which names and types Prometheus sees them all.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from opentelemetry.metrics import CallbackOptions, Histogram, Observation, get_meter
from opentelemetry.metrics import _Gauge as Gauge

Whole = Literal["sum", "latest", "fact"]


class Exposed(msgspec.Struct, frozen=True):
    """A family as Prometheus sees it, and what it is for the whole fleet: the sum over all processes, the
    latest value of any, or a fact of the fleet that every gateway knows."""

    kind: str
    description: str
    whole: Whole = "sum"


EXPOSED: dict[str, Exposed] = {}
_meter = get_meter("rtvi-embed")
_NO_LABELS: Mapping[str, str] = {}
_SUFFIXES = {"s": "_seconds", "tokens": "_tokens", "fps": "_fps", "By": "_bytes", "1": ""}
SEEDED: list[tuple[Any, dict[str, str]]] = []
"""Counters and gauges with the labels under which they are 0 from the start."""


def _expose(name: str, unit: str, kind: str, description: str, whole: Whole = "sum") -> None:
    suffix = _SUFFIXES[unit]
    exposed = name if name.endswith(suffix) else name + suffix
    if kind == "counter" and not name.endswith("_total"):
        exposed += "_total"
    EXPOSED[exposed] = Exposed(kind, description, whole)


class Total:
    """A counter that adds up here and is read when metrics are: OpenTelemetry's own takes 20 times as long
    to add, several times per request."""

    def __init__(self, name: str, unit: str, description: str) -> None:
        self._sums: dict[frozenset[tuple[str, str]], float] = {}
        self._lock = threading.Lock()
        _meter.create_observable_counter(name, [self.observe], unit, description)

    def add(self, amount: float, labels: Mapping[str, str] = _NO_LABELS) -> None:
        """Add to the sum of what has these labels. Threads may do so at the same time."""
        key = frozenset(labels.items())
        with self._lock:
            self._sums[key] = self._sums.get(key, 0) + amount

    def observe(self, _: CallbackOptions) -> Iterator[Observation]:
        """Yield the sums so far."""
        with self._lock:
            sums = list(self._sums.items())
        yield from (Observation(total, dict(labels)) for labels, total in sums)


def _counter(
    name: str,
    description: str,
    unit: str = "1",
    *,
    whole: Whole = "sum",
    seeds: Sequence[dict[str, str]] = (),
) -> Total:
    _expose(name, unit, "counter", description, whole)
    # The exporter takes the unit 1 for a ratio and would say so in the name.
    counter = Total(name, "" if unit == "1" else unit, description)
    SEEDED.extend((counter.add, seed) for seed in seeds)
    return counter


def _gauge(
    name: str,
    description: str,
    unit: str = "1",
    *,
    whole: Whole = "sum",
    seeds: Sequence[dict[str, str]] = (),
) -> Gauge:
    _expose(name, unit, "gauge", description, whole)
    gauge = _meter.create_gauge(name, "" if unit == "1" else unit, description)
    SEEDED.extend((gauge.set, seed) for seed in seeds)
    return gauge


def _fact(name: str, description: str, unit: str = "1") -> Gauge:
    return _gauge(name, description, unit, whole="fact")


def _latest(name: str, description: str) -> Gauge:
    return _gauge(f"{name}_latest", description, "s", whole="latest", seeds=[{}])


def _histogram(name: str, description: str, unit: str, buckets: Sequence[float]) -> Histogram:
    _expose(name, unit, "histogram", description)
    unit = "" if unit == "1" else unit
    return _meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=buckets)


_TOKENS = (10, 20, 50, 100, 200, 500, 1000, 2000)
_LIVE = (0.1, 0.3, 0.5, 1, 2, 3, 5, 10, 15, 20, 30, 40, 50, 70, 100, 200, 300, 500, 1000)
_DELETE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
_DOWNLOAD = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)
_SDK = (0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000)
_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

# RT-Embed's ---------------------------------------------------------------------------------------------

decode_retries = _counter(
    "rtvi_decode_retry_total", "Chunks decoded again", seeds=[{"reason": "first_attempt_error"}]
)
stream_fps = _histogram(
    "stream_fps",
    "Frames of video per second of processing, per file request",
    "fps",
    (1, 5, 10, 20, 30, 50, 100, 200, 300, 400, 500, 750, 1000, 5000),
)
decode_latency = _histogram(
    "decode_latency_seconds",
    "Decoding of one chunk",
    "s",
    (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
inference_latency = _histogram(
    "vlm_latency_seconds",
    "Inference of one chunk or text",
    "s",
    (0.1, 0.3, 1, 3, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50),
)
chunk_latency = _histogram(
    "chunk_latency_seconds", "From the start of a chunk's decoding to the end of its inference", "s", _SDK
)
input_tokens = _histogram(
    "vlm_input_tokens_per_chunk",
    "Text tokens into the model per chunk; a video chunk has none",
    "tokens",
    _TOKENS,
)
output_tokens = _histogram(
    "vlm_output_tokens_per_chunk",
    "Text tokens out of the model per chunk; an embedding has none",
    "tokens",
    _TOKENS,
)
live_chunk_latency = _histogram(
    "live_stream_chunk_latency_seconds",
    "From the start of a live chunk's decoding to the end of its inference",
    "s",
    _LIVE,
)
live_captions_latency = _histogram(
    "live_stream_captions_latency_seconds",
    "From the end of a live chunk, on the camera's clock, to its event",
    "s",
    _LIVE,
)
stream_delete_latency = _histogram(
    "rtvi_stream_delete_latency_seconds", "Deleting a live stream", "s", _DELETE
)
stream_delete_drain_latency = _histogram(
    "rtvi_stream_delete_drain_latency_seconds", "Waiting for a deleted stream's work to end", "s", _DELETE
)
asset_download_duration = _histogram(
    "asset_download_duration_seconds", "Fetching a URL, by source and status", "s", _DOWNLOAD
)
asset_download_bytes = _counter("asset_download_bytes_total", "Bytes fetched from URLs")
asset_download_requests = _counter("asset_download_requests_total", "URLs fetched, by source and status")

e2e_latency_latest = _latest("e2e_latency_seconds", "Last video request, from its arrival to its answer")
pipeline_latency_latest = _latest(
    "vlm_pipeline_latency_seconds", "Last video request, from its acceptance to its end"
)
decode_latency_latest = _latest("decode_latency_seconds", "Decoding of the last chunk")
inference_latency_latest = _latest("vlm_latency_seconds", "Inference of the last chunk or text")
chunk_latency_latest = _latest("chunk_latency_seconds", "Decoding and inference of the last chunk")
live_chunk_latency_latest = _latest(
    "live_stream_chunk_latency_seconds", "Decoding and inference of the last live chunk"
)
live_captions_latency_latest = _latest(
    "live_stream_captions_latency_seconds", "Lateness of the last live event"
)
asr_latency_latest = _latest("asr_pipeline_latency_seconds", "Always 0: there is no speech recognition")

# Ours: workers ------------------------------------------------------------------------------------------

claims_reclaimed = _counter(
    "rtembed_claims_reclaimed_total", "Jobs taken over from a silent worker", seeds=[{}]
)
jobs_done = _counter("rtembed_jobs_done_total", "Jobs finished, by lane")
jobs_running = _gauge("rtembed_jobs_running", "Jobs that workers work on now, by lane")
batch_size = _histogram(
    "rtembed_batch_size", "Items per inference batch, by modality", "1", (1, 2, 4, 8, 16, 32, 64, 128)
)
engine_busy = _counter("rtembed_engine_busy_seconds", "Seconds that engines computed, by modality", "s")
decode_slots = _gauge("rtembed_decode_slots", "Decoders, by state: busy or idle")
frames_decoded = _counter("rtembed_frames_decoded_total", "Frames that went through a decoder", seeds=[{}])
frames_used = _counter("rtembed_frames_used_total", "Frames that became part of a clip", seeds=[{}])
decoder_restarts = _counter("rtembed_decoder_restarts_total", "Decoder processes replaced", seeds=[{}])
gpu_fallbacks = _counter(
    "rtembed_gpu_fallbacks_total", "Jobs whose video the CPU decoded because the GPU could not", seeds=[{}]
)
text_graphs = _counter(
    "rtembed_text_graphs_total",
    "CUDA graphs of small batches of texts, by outcome: captured, failed (they run without) and replayed",
    seeds=[{"outcome": "captured"}, {"outcome": "failed"}, {"outcome": "replayed"}],
)
camera_excess = _counter(
    "rtembed_camera_excess_total",
    "Parts of cameras' streams beyond their bounds, dropped or delayed",
    seeds=[{}],
)
embedded_items = _counter("rtembed_embedded_total", "Chunks and texts embedded, by model and modality")
remote_calls = _counter(
    "rtembed_remote_calls_total",
    "Calls to the remote model, by outcome; a retry is a call that was made again",
    seeds=[{"outcome": "done"}, {"outcome": "failed"}, {"outcome": "retry"}],
)
remote_latency = _histogram("rtembed_remote_call_seconds", "One call to the remote model", "s", _SHORT)
bytes_fetched = _counter(
    "rtembed_asset_bytes_fetched_total", "Bytes of assets that workers read from a bucket", seeds=[{}]
)
dropped = _counter(
    "rtembed_dropped_total",
    "What was given up, by cause",
    seeds=[{"cause": "outbox_full"}, {"cause": "message_refused"}, {"cause": "message_not_built"}],
)
bus_failures = _counter("rtembed_bus_failures_total", "Times that the message bus failed", seeds=[{}])
kafka_acknowledgement = _histogram(
    "rtembed_kafka_acknowledgement_seconds", "From sending a message to Kafka's acknowledgement", "s", _SHORT
)

gpu_utilization = _gauge(
    "rtembed_gpu_utilization_ratio", "Share of the last second in which a GPU computed, by host and GPU"
)
gpu_decoder_utilization = _gauge(
    "rtembed_gpu_decoder_utilization_ratio", "Share of time in which a GPU's decoders worked, by host and GPU"
)
gpu_memory = _gauge("rtembed_gpu_memory_bytes", "Memory of a GPU, by host, GPU and state: used or free", "By")
gpu_temperature = _gauge(
    "rtembed_gpu_temperature_celsius", "Temperature of a GPU in degrees Celsius, by host and GPU"
)

# Ours: indexers -----------------------------------------------------------------------------------------

chunks_indexed = _counter("rtembed_index_chunks_total", "Chunks added to the search index", seeds=[{}])
index_messages = _counter(
    "rtembed_index_messages_total",
    "Messages that indexers have finished, by outcome",
    seeds=[{"outcome": "indexed"}, {"outcome": "ignored"}, {"outcome": "refused"}],
)
index_write = _histogram(
    "rtembed_index_write_seconds", "Writing one batch of messages into the search index", "s", _SHORT
)
index_failures = _counter(
    "rtembed_index_failures_total", "Times that the search index's database failed an indexer", seeds=[{}]
)

trigger_matches = _counter(
    "rtembed_trigger_matches_total", "Chunks that matched a trigger, cool-down counted off", seeds=[{}]
)

# Ours: all ---------------------------------------------------------------------------------------------

redis_round_trip = _histogram(
    "rtembed_redis_round_trip_seconds", "One question to Redis and its answer", "s", _SHORT
)

# Ours: gateways -----------------------------------------------------------------------------------------

http_requests = _counter("rtembed_http_requests_total", "Answers, by route, method and status")
http_duration = _histogram(
    "rtembed_http_request_duration_seconds",
    "From a request's arrival to the end of its answer, by route",
    "s",
    _SHORT,
)
search_duration = _histogram(
    "rtembed_search_seconds", "One question to the search index, waiting included", "s", _SHORT
)

webhooks = _counter(
    "rtembed_trigger_webhooks_total",
    "Calls of triggers' webhooks, by outcome: delivered, failed (and repeated), given_up",
    seeds=[{"outcome": "delivered"}, {"outcome": "failed"}, {"outcome": "given_up"}],
)

# Facts of the fleet, which each gateway reads in Redis --------------------------------------------------

uptime = _fact("system_uptime_seconds", "Since this gateway started", "s")
files_processed = _fact("video_file_queries_processed", "File and image requests that have ended")
files_pending = _fact("video_file_queries_pending", "File and image requests accepted and not ended")
live_streams = _fact("active_live_streams", "Live requests being processed")
average_chunk_latency = _fact("avg_chunk_latency_seconds", "Mean decoding and inference of a chunk", "s")
average_live_chunk_latency = _fact(
    "live_stream_avg_chunk_latency_seconds", "Mean decoding and inference of a live chunk", "s"
)
redis_up = _fact("rtembed_redis_up", "1 while Redis answers this gateway")
workers = _fact("rtembed_workers", "Workers, by state: starting, ready, stopping or unhealthy")
model_verified = _fact(
    "rtembed_model_verified",
    "1 if the model's vectors were compared with those of another implementation, by model",
)
lane_jobs = _fact("rtembed_lane_jobs", "Jobs, by lane, model and state: waiting or running")
lane_oldest = _fact("rtembed_lane_oldest_seconds", "Age of the oldest waiting job, by lane and model", "s")
dead_jobs = _fact("rtembed_dead_jobs", "Jobs in the dead letters")
outbox_messages = _fact("rtembed_outbox_messages", "Messages that wait for their bus")
indexers = _fact("rtembed_indexers", "Indexers that are running")
index_lag = _fact("rtembed_index_lag_messages", "Messages that wait to be indexed")
index_lag_seconds = _fact(
    "rtembed_index_lag_seconds", "Age of the oldest message that waits to be indexed", "s"
)
outbox_oldest = _fact("rtembed_outbox_oldest_seconds", "Age of the oldest message that waits", "s")
requests_ended = _counter("rtembed_requests_total", "Requests that ended, by lane and state", whole="fact")


def seed() -> None:
    """Make counters and gauges appear with 0."""
    for record, labels in SEEDED:
        record(0, labels)
