"""The progress of one video request, as metrics, spans and a profile."""

import time
from types import TracebackType
from typing import Self

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.requests import Request as HttpRequest

from gateway.context import context
from gateway.video.planning import Plan
from gateway.video.profiling import Profile
from shared.chunks import SECOND
from shared.results import Result
from shared.telemetry import export, instruments
from shared.telemetry.export import Names


class Progress:
    """Measures from the request's arrival to the end of its answer.

    It is a context manager that may be exited in another task than it was entered in, as streams do.
    Its spans belong to one trace, which continues the client's `traceparent` if it sent one:
    `Pipeline End-to-End`, and below it `VLM Pipeline Latency`, to which the workers add their chunks.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._began = time.monotonic()
        self._root = export.start_span(
            "Pipeline End-to-End", request.headers.get("traceparent", ""), SpanKind.SERVER, {}
        )
        self._pipeline: Span | None = None
        self._accepted = 0.0
        self._frames = self._chunks = 0
        self._totals = {"Decode": 0.0, "VLM": 0.0, "Chunk": 0.0}
        self._plan: Plan | None = None
        self._profiler = context(request).profiler
        self._profile: Profile | None = None

    def __enter__(self) -> Self:
        return self

    def planned(self, plan: Plan) -> str:
        """Record that the request is about to be submitted, and return the `traceparent` for its jobs."""
        self._plan = plan
        self._accepted = time.monotonic()
        self._profile = self._profiler.begin(plan, self._began, self._accepted)
        names: Names = {"request_id": plan.request.id, "stream_id": plan.assets[0].id, "is_live": False}
        self._root.set_attributes(names)
        with export.current(self._root):
            self._pipeline = export.start_span("VLM Pipeline Latency", "", SpanKind.INTERNAL, names)
        return export.traceparent(self._pipeline)

    def chunk(self, result: Result) -> None:
        """Record a result."""
        if result.error or self._pipeline is None:
            return
        self._chunks += 1
        if self._profile:
            self._profile.chunk(result)
        self._frames += self._frames_of(result)
        instruments.stream_fps.record(self._frames / max(1e-9, time.monotonic() - self._began))
        self._totals["Decode"] += result.decode_latency_ms or 0
        self._totals["VLM"] += result.inference_latency_ms or 0
        self._totals["Chunk"] += result.chunk_latency_ms or 0
        self._pipeline.add_event(f"chunk {result.chunk} processed", {"chunk_idx": result.chunk})

    def _frames_of(self, result: Result) -> int:
        """Return the frames in the chunk's duration, or the sampled ones if the frame rate is unknown."""
        assert self._plan is not None  # noqa: S101 - for the type checker
        asset = self._plan.assets[0]
        if asset.media_type == "image" or not asset.fps:
            return len(result.frame_times)
        return int((result.end - result.start) * asset.fps / SECOND)

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        ended = time.monotonic()
        seconds = ended - self._began
        if self._pipeline is not None:
            instruments.e2e_latency_latest.set(seconds)
            instruments.pipeline_latency_latest.set(ended - self._accepted)
            if self._chunks:
                instruments.stream_fps.record(self._frames / max(1e-9, seconds))
            self._trace_totals(ended)
            self._pipeline.end()
        if self._profile:
            self._profile.ended = ended
            self._profiler.hand_in(self._profile)
        self._root.set_attributes(
            {
                "e2e_latency_ms": round(seconds * 1000, 3),
                "chunk_count": self._plan.planned if self._plan else 0,
                "total_chunks_processed": self._chunks,
            }
        )
        if error is not None:
            self._root.set_attribute("error_message", str(error))
            self._root.set_status(Status(StatusCode.ERROR))
        self._root.end()

    def _trace_totals(self, ended: float) -> None:
        assert self._pipeline is not None  # noqa: S101 - for the type checker
        with export.current(self._pipeline):
            for name, milliseconds in self._totals.items():
                export.record_span(
                    f"Total {name} Latency", self._accepted, ended,
                    {"operation": name.lower(), "execution_time_ms": round(milliseconds, 3)},
                )  # fmt: skip
