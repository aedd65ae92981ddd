"""Connects instruments and spans to the OpenTelemetry SDK: Prometheus always, OTLP or the console if asked.

Spans cost nothing while ENABLE_OTEL_MONITORING is off. A trace goes from the HTTP request through the jobs,
as the W3C trace context, to the workers and on in the headers of Kafka messages. The SDK's own variables
(OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, ...) are read by the SDK.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

import structlog
from opentelemetry import context, metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from prometheus_client import CollectorRegistry

from shared.settings import Settings
from shared.telemetry.instruments import seed

log = structlog.get_logger(__name__)

SCOPE = "rtvi-embed"
EXPORTERS = {"otlp", "console"}

Names = Mapping[str, AttributeValue]
"""Attributes of a span."""

_propagator = TraceContextTextMapPropagator()
_tracer: Tracer = trace.get_tracer(SCOPE)


class Telemetry:
    """The SDK of this process. `registry` is what Prometheus sees; None if telemetry is switched off."""

    def __init__(
        self, registry: CollectorRegistry | None, meters: MeterProvider | None, tracers: TracerProvider | None
    ) -> None:
        self.registry = registry
        self._meters = meters
        self._tracers = tracers

    def close(self) -> None:
        """Export what waits. Blocks for a few seconds if the collector does not answer."""
        if self._tracers:
            self._tracers.shutdown()
        if self._meters:
            self._meters.shutdown(timeout_millis=2000)


SWITCHED_OFF = Telemetry(None, None, None)


def configure(settings: Settings) -> Telemetry:
    """Connect this process; once, before it measures anything."""
    if settings.traces_exporter not in EXPORTERS:
        log.warning("telemetry is switched off", OTEL_TRACES_EXPORTER=settings.traces_exporter)
        return SWITCHED_OFF
    # What is given here wins over OTEL_RESOURCE_ATTRIBUTES.
    resource = Resource.create(
        {"service.name": settings.otel_service_name, "service.version": version("rt-embed")}
    )
    registry = CollectorRegistry()
    meters = MeterProvider(_readers(settings, registry), resource=resource, shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    seed()
    tracers = None
    if settings.otel:
        tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(_span_exporter(settings)))
        trace.set_tracer_provider(tracers)
    return Telemetry(registry, meters, tracers)


def _readers(settings: Settings, registry: CollectorRegistry) -> list[MetricReader]:
    readers: list[MetricReader] = [PrometheusMetricReader(scope_info_enabled=False, registry=registry)]
    if settings.otel and settings.metrics_exporter != "none":
        exporter: MetricExporter
        if settings.metrics_exporter == "console":
            exporter = ConsoleMetricExporter()
        else:
            endpoint = settings.otlp_metrics_endpoint or f"{settings.otlp_endpoint.rstrip('/')}/v1/metrics"
            exporter = OTLPMetricExporter(endpoint=endpoint)
        readers.append(PeriodicExportingMetricReader(exporter, settings.metric_export_interval))
    return readers


def _span_exporter(settings: Settings) -> SpanExporter:
    if settings.traces_exporter == "console":
        return ConsoleSpanExporter()
    endpoint = settings.otlp_traces_endpoint or f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
    return OTLPSpanExporter(endpoint=endpoint)


# Spans --------------------------------------------------------------------------------------------------


def traceparent(span: Span | None = None) -> str:
    """Return the span, or the current one, as a W3C `traceparent`; empty without one."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span) if span else None)
    return carrier.get("traceparent", "")


@contextmanager
def current(span: Span) -> Iterator[None]:
    """Inside, `span` is the current one."""
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        yield


@contextmanager
def continued(parent: str) -> Iterator[None]:
    """Inside, the span that `parent` names is the current one; an empty or bad one changes nothing."""
    if not parent:
        yield
        return
    token = context.attach(_propagator.extract({"traceparent": parent}))
    try:
        yield
    finally:
        context.detach(token)


def start_span(name: str, parent: str, kind: SpanKind, attributes: Names) -> Span:
    """Return a span that the caller ends; it does not become the current one. Child of `parent` if that is
    given."""
    with continued(parent):
        return _tracer.start_span(name, kind=kind, attributes=attributes)


def record_span(name: str, start: float, end: float, attributes: Names) -> None:
    """A span of the past, between two `time.monotonic()` seconds, child of the current one."""
    if not trace.get_current_span().get_span_context().trace_flags.sampled:
        return
    offset = time.time() - time.monotonic()
    past = _tracer.start_span(name, attributes=attributes, start_time=int((start + offset) * 1e9))
    past.end(int((end + offset) * 1e9))
