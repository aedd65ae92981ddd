"""A live session as spans: from when a worker took it until it ended or was handed over."""

import time
from types import TracebackType
from typing import Self

from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from shared.results import Result
from shared.telemetry import export
from shared.telemetry.export import Names


class LiveTrace:
    """`Pipeline End-to-End`, and below it `VLM Pipeline Latency`, which is current inside, so that chunks
    become its children. A context manager.

    `chunk_count` are the chunks that the camera gave, `total_chunks_processed` those that were embedded. A
    session that another worker goes on with has a trace for each.
    """

    def __init__(self, request_id: str, stream_id: str, parent: str) -> None:
        names: Names = {"request_id": request_id, "stream_id": stream_id, "is_live": True}
        self._began = time.monotonic()
        self._root = export.start_span("Pipeline End-to-End", parent, SpanKind.CONSUMER, names)
        with export.current(self._root):
            self._pipeline: Span = export.start_span("VLM Pipeline Latency", "", SpanKind.INTERNAL, names)
        self._current = export.current(self._pipeline)
        self._totals = {"Decode": 0.0, "VLM": 0.0, "Chunk": 0.0}
        self._taken = self._embedded = 0
        self._error = ""

    def __enter__(self) -> Self:
        self._current.__enter__()
        return self

    def taken(self) -> None:
        """The camera gave a chunk."""
        self._taken += 1

    def chunk(self, result: Result) -> None:
        """A chunk has been published."""
        if result.error:
            return
        self._embedded += 1
        self._totals["Decode"] += result.decode_latency_ms or 0
        self._totals["VLM"] += result.inference_latency_ms or 0
        self._totals["Chunk"] += result.chunk_latency_ms or 0
        self._pipeline.add_event(f"chunk {result.chunk} processed", {"chunk_idx": result.chunk})

    def given_up(self, error: str) -> None:
        """The camera was given up. Before its first chunk that is a set-up that failed."""
        self._error = error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ended = time.monotonic()
        for name, milliseconds in self._totals.items():
            export.record_span(
                f"Total {name} Latency", self._began, ended,
                {"operation": name.lower(), "execution_time_ms": round(milliseconds, 3)},
            )  # fmt: skip
        self._current.__exit__(None, None, None)
        for span in (self._pipeline, self._root):
            if self._error:
                span.set_attribute("setup_failed", not self._taken)
                span.set_status(Status(StatusCode.ERROR))
        if self._error:
            self._root.set_attribute("error_message", self._error)
        self._pipeline.end()
        self._root.set_attributes(
            {
                "e2e_latency_ms": round((ended - self._began) * 1000, 3),
                "chunk_count": self._taken,
                "total_chunks_processed": self._embedded,
            }
        )
        self._root.end()
