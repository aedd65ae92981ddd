"""Logs, metrics, traces and request profiles."""

import dataclasses
from pathlib import Path

from shared.settings.setting_types import (
    BOOLEAN,
    HTTP_URL,
    PATH,
    TEXT,
    SettingType,
    between,
    choice,
    matching,
    setting,
    whole,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TelemetrySettings:
    """Logs, metrics and traces"""

    log_level: str = setting(
        "LOG_LEVEL",
        choice("debug", "perf", "status", "info", "warning", "warn", "error"),
        "info",
        "Lowest level that is logged; PERF and STATUS are between DEBUG and INFO",
    )
    log_format: str = setting(
        "RTEMBED_LOG_FORMAT",
        choice("auto", "json", "console"),
        "auto",
        "auto: console on a terminal, else JSON",
    )

    log_file: Path | None = setting(
        "LOG_FILE_PATH",
        PATH,
        None,
        "Log file of the gateway, kept for a week of days; workers write beside it, with their name; unset: "
        "rtvi.log in RTVI_LOG_DIR",
    )
    log_dir: Path | None = setting(
        "RTVI_LOG_DIR", PATH, None, "Folder of log files, if LOG_FILE_PATH is unset; both unset: no file"
    )

    metrics_port: int | None = setting(
        "RTEMBED_METRICS_PORT",
        SettingType(lambda text: None if text == "off" else between(int, 0, 65535)(text), "a port, 0 or off"),
        0,
        "Port on which a worker or indexer serves /metrics, /live and /ready; 0: a free one, told in its "
        "record",
    )
    otel: bool = setting("ENABLE_OTEL_MONITORING", BOOLEAN, False, "Export traces and metrics")
    otel_service_name: str = setting(
        "OTEL_SERVICE_NAME", TEXT, "rtvi-embed", "Name of the service in metrics and traces"
    )
    traces_exporter: str = setting(
        "OTEL_TRACES_EXPORTER",
        TEXT,
        "otlp",
        "otlp or console; anything else switches all telemetry off, GET /v1/metrics included",
    )
    metrics_exporter: str = setting(
        "OTEL_METRICS_EXPORTER",
        choice("otlp", "console", "none"),
        "otlp",
        "Where metrics go besides GET /v1/metrics, if ENABLE_OTEL_MONITORING",
    )
    otlp_endpoint: str = setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        SettingType(matching(r"https?://.+"), "an http or https URL"),
        "http://localhost:4318",
        "Collector of traces and metrics, OTLP over HTTP",
    )
    otlp_traces_endpoint: str | None = setting(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", HTTP_URL, None, "Whole URL for traces, if it differs"
    )
    otlp_metrics_endpoint: str | None = setting(
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", HTTP_URL, None, "Whole URL for metrics, if it differs"
    )
    metric_export_interval: int = setting(
        "OTEL_METRIC_EXPORT_INTERVAL",
        whole(100, 3_600_000),
        60_000,
        "Milliseconds between exports of metrics",
    )
    profiling: bool = setting(
        "ENABLE_REQUEST_PROFILING",
        BOOLEAN,
        False,
        "Write files about each video request: gateways write them, workers sample their GPUs for them",
    )
    profile_dir: Path = setting(
        "RTEMBED_PROFILE_DIR",
        PATH,
        Path("/tmp/rtvi-logs"),  # noqa: S108 - the original's folder
        "Folder of the files that ENABLE_REQUEST_PROFILING writes; those of the last 500 requests are kept",
    )
