"""Every setting of the service: one frozen object, read once from the environment at start.

Each field names its variable, its default, what is allowed and what it means; `deploy/settings.md` is
generated from this file (`python -m shared.settings`).
"""

import dataclasses
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import SettingsError
from shared.settings.names import unknown_names
from shared.settings.setting_types import (
    ABSOLUTE_FOLDERS,
    BOOLEAN,
    EXISTING_FILE,
    HTTP_URL,
    NAMED_KEYS,
    ORIGINS,
    PATH,
    TEXT,
    TOPIC,
    IPNetwork,
    NamedKey,
    SettingType,
    addresses,
    at_least_one,
    between,
    choice,
    lenient,
    limit,
    listed,
    matching,
    networks,
    number,
    pairs,
    redis_url,
    whole,
)


def setting(
    variable: str, kind: SettingType, default: Any, meaning: str, *, secret: bool = False, empty: bool = False
) -> Any:
    """A field of Settings. `default` None means: unset; `empty`: an empty variable is a value too."""
    metadata = {"variable": variable, "kind": kind, "meaning": meaning, "secret": secret, "empty": empty}
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole configuration. Sizes are bytes, times seconds, unless the name says otherwise."""

    # Serving
    port: int = setting("BACKEND_PORT", whole(0, 65535), 8000, "Port of the gateway; 0 takes a free one")
    host: str = setting("RTEMBED_HOST", TEXT, "0.0.0.0", "Address that the gateway binds to")  # noqa: S104 - a container's default
    gateway_processes: int = setting(
        "RTEMBED_GATEWAY_PROCESSES", whole(1, 64), 1, "Gateway processes that share the port, on one machine"
    )
    log_level: str = setting(
        "LOG_LEVEL",
        choice("debug", "perf", "status", "info", "warning", "warn", "error"),
        "info",
        "Least severe level that is logged; PERF and STATUS lie between DEBUG and INFO",
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

    # Telemetry
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
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", HTTP_URL, None, "Whole URL for traces, if it is another"
    )
    otlp_metrics_endpoint: str | None = setting(
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", HTTP_URL, None, "Whole URL for metrics, if it is another"
    )
    metric_export_interval: int = setting(
        "OTEL_METRIC_EXPORT_INTERVAL",
        whole(100, 3_600_000),
        60_000,
        "Milliseconds between two metric exports",
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
        "Folder of those files; those of the last 500 requests are kept",
    )

    # Redis
    redis_url: str | None = setting(
        "REDIS_URL",
        SettingType(redis_url, "redis://, rediss:// or unix:// URL"),
        None,
        "Whole address of Redis, TLS and credentials included; wins over the four variables below",
        secret=True,
    )
    redis_host: str = setting(
        "REDIS_HOST",
        TEXT,
        "localhost",
        "Host of Redis or Valkey; with REDIS_CLUSTER any nodes, host or host:port, separated by commas",
    )
    redis_port: int = setting("REDIS_PORT", whole(1, 65535), 6379, "Port of Redis or Valkey")
    redis_db: int = setting("REDIS_DB", whole(0, 1023), 0, "Database number")
    redis_password: str | None = setting("REDIS_PASSWORD", TEXT, None, "Password of Redis", secret=True)
    redis_timeout: float = setting(
        "RTEMBED_REDIS_TIMEOUT", number(0.1, 60), 5.0, "Seconds to connect to Redis and for an answer"
    )
    redis_connections: int = setting(
        "RTEMBED_REDIS_CONNECTIONS", whole(2, 1000), 32, "Most Redis connections in the pool of one process"
    )

    redis_sentinels: tuple[str, ...] = setting(
        "REDIS_SENTINELS",
        addresses(","),
        (),
        "Sentinels that say where the primary is, host:port separated by commas. Of the variables above, "
        "database, user, password and TLS count then; host and port do not",
    )
    redis_sentinel_master: str = setting(
        "REDIS_SENTINEL_MASTER", TEXT, "mymaster", "Name of the primary among the Sentinels"
    )
    redis_sentinel_username: str | None = setting(
        "REDIS_SENTINEL_USERNAME", TEXT, None, "User of the Sentinels"
    )
    redis_sentinel_password: str | None = setting(
        "REDIS_SENTINEL_PASSWORD", TEXT, None, "Password of the Sentinels", secret=True
    )
    redis_cluster: bool = setting(
        "REDIS_CLUSTER",
        BOOLEAN,
        False,
        "Redis runs in cluster mode: ask its nodes which of them owns the slot of {rtembed}",
    )

    # Assets
    asset_dir: Path = setting(
        "ASSET_STORAGE_DIR",
        PATH,
        Path("/tmp/assets"),  # noqa: S108 - the original's default
        "Folder of uploaded files, shared by gateways and workers",
    )
    asset_store: str = setting(
        "RTEMBED_ASSET_STORE",
        SettingType(
            matching(r"s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/[A-Za-z0-9_.\-/]*)?"),
            "s3://BUCKET or s3://BUCKET/PREFIX, the prefix of letters, digits and _.-/",
        ),
        "",
        "Bucket in which uploaded files lie instead of the folder, with the AWS_ variables below",
    )
    skip_media_verification: bool = setting(
        "VSS_SKIP_INPUT_MEDIA_VERIFICATION",
        SettingType(bool, "any text"),
        False,
        "Any non-empty value, even 0 or false: an upload is not opened before it is accepted",
    )
    upload_limit_bytes: int = setting(
        "RTEMBED_MAX_UPLOAD_BYTES", whole(1, 100 * 10**9), 100 * 10**9, "Largest upload in bytes"
    )
    storage_limit_gb: int = setting(
        "MAX_ASSET_STORAGE_SIZE_GB",
        whole(0, 10**6),
        0,
        "Most GiB of uploaded files; above nine tenths of it the oldest unused ones go; 0: no cap",
    )
    asset_max_age_hours: float = setting(
        "ASSET_MAX_AGE_HOURS",
        number(0, 10**6),
        0.0,
        "Hours after which an unused uploaded file goes; 0: never",
    )
    max_file_minutes: int = setting(
        "RTEMBED_MAX_FILE_DURATION", whole(0, 10**6), 0, "Longest video that is embedded, minutes; 0: any"
    )

    # Access
    api_keys: tuple[NamedKey, ...] = setting(
        "RTEMBED_API_KEYS",
        NAMED_KEYS,
        (),
        "Keys of which each request must bring one, except to health, metrics and documentation; empty: none "
        "is asked for. A name stands in logs and on records; keys do not separate their users' data",
        secret=True,
    )
    admin_keys: tuple[NamedKey, ...] = setting(
        "RTEMBED_ADMIN_KEYS",
        NAMED_KEYS,
        (),
        "Keys of administrators, which open everything, and alone what changes the service for all "
        "(POST /v1/config); empty: every key does",
        secret=True,
    )
    secret_keys: tuple[str, ...] = setting(
        "RTEMBED_SECRET_KEY",
        at_least_one(listed(",")),
        (),
        "Text with which the passwords of cameras are encrypted in Redis, the same for all gateways and "
        "workers; after a comma those that were used before",
        secret=True,
    )
    wrong_keys_per_minute: int = setting(
        "RTEMBED_WRONG_KEYS_PER_MINUTE",
        whole(0, 10**6),
        30,
        "Wrong keys that an address may try a minute before it has to wait; 0: any number",
    )
    allowed_hosts: tuple[str, ...] = setting(
        "RTEMBED_ALLOWED_HOSTS",
        at_least_one(listed(",")),
        (),
        "Host names under which the service may be asked, without ports; *.example.com: all below it; empty: "
        "any. Health and metrics answer under any name",
    )
    cors_origins: tuple[str, ...] = setting(
        "RTEMBED_CORS_ORIGINS",
        ORIGINS,
        (),
        "Origins, such as https://app.example.com, of other sites whose pages may use the API; *: of all",
    )
    rate_limit: float = setting(
        "RTEMBED_RATE_LIMIT",
        number(0, 10**6),
        0.0,
        "Requests per minute for each API key, or for each client address where no keys are set; 0: no limit",
    )
    body_limit_bytes: int = setting(
        "RTEMBED_MAX_BODY_BYTES",
        whole(1024, 2**31),
        16 * 2**20,
        "Largest JSON request body in bytes, not counting the data: URL of a video request",
    )

    header_limit_bytes: int = setting(
        "RTEMBED_MAX_HEADER_BYTES",
        whole(1024, 2**20),
        16 * 2**10,
        "Most bytes of a request's headers; more are answered with 431",
    )
    header_timeout: float = setting(
        "RTEMBED_HEADER_TIMEOUT",
        number(0.1, 3600),
        10.0,
        "Seconds that a new connection, or a request on it, has until its headers are complete",
    )
    least_body_rate: int = setting(
        "RTEMBED_MIN_BODY_RATE",
        whole(0, 10**9),
        500,
        "Least bytes per second of a request's body, over RTEMBED_HEADER_TIMEOUT; slower ones are answered "
        "with 408; 0: any",
    )
    connections_per_address: int = setting(
        "RTEMBED_MAX_CONNECTIONS_PER_ADDRESS",
        whole(0, 10**6),
        0,
        "Most connections from one address to one gateway, trusted proxies aside; 0: no limit",
    )
    trusted_proxies: tuple[IPNetwork, ...] = setting(
        "RTEMBED_TRUSTED_PROXIES",
        SettingType(networks, "networks such as 10.0.0.0/8, separated by ,"),
        (),
        "Networks of the proxies whose X-Forwarded-For names the client; empty: nobody is believed",
    )

    # Fetching URLs
    download_timeout: int = setting(
        "ASSET_DOWNLOAD_TOTAL_TIMEOUT",
        lenient(whole(1, 86_400), 300),
        300,
        "Seconds that fetching a URL may take",
    )
    download_connect_timeout: int = setting(
        "ASSET_DOWNLOAD_CONNECT_TIMEOUT",
        lenient(whole(1, 86_400), 10),
        10,
        "Seconds to reach the host of a URL",
    )
    download_limit_gb: float = setting(
        "ASSET_DOWNLOAD_MAX_FILE_SIZE_GB",
        number(1e-9, 100),
        8.0,
        "Largest file fetched over http(s) or given as a data URL, in GiB",
    )
    download_redirects: int = setting(
        "ASSET_DOWNLOAD_MAX_REDIRECTS",
        lenient(SettingType(lambda text: min(max(int(text), 0), 10), "a whole number, taken as 0 to 10"), 0),
        0,
        "Redirects that are followed",
    )
    download_tokens: tuple[tuple[str, str], ...] = setting(
        "ASSET_DOWNLOAD_AUTH_TOKENS",
        SettingType(pairs, "domain=value, separated by ;"),
        (),
        "Authorization header per host, sent over https only",
        secret=True,
    )
    download_unverified_hosts: tuple[str, ...] = setting(
        "ASSET_DOWNLOAD_SSL_SKIP_VERIFY_DOMAINS",
        listed(","),
        (),
        "Hosts whose TLS certificate is not verified",
    )
    block_private_networks: bool = setting(
        "RTEMBED_BLOCK_PRIVATE_NETWORKS",
        BOOLEAN,
        False,
        "Refuse to fetch URLs from private networks, too",
    )
    rtsp_networks: tuple[IPNetwork, ...] = setting(
        "RTEMBED_RTSP_ALLOWED_NETWORKS",
        SettingType(networks, "networks such as 10.0.0.0/8, separated by ,"),
        (),
        "Networks that cameras may be in; empty: any but link-local ones and metadata services",
    )
    file_url_dirs: tuple[str, ...] = setting(
        "FILE_URL_ALLOWED_DIRS",
        ABSOLUTE_FOLDERS,
        (),
        "Folders in which file:// URLs and server paths (`filename` of POST /v1/files) may lie, symbolic "
        "links resolved; empty: none",
    )
    any_server_path: bool = setting(
        "RTEMBED_ANY_SERVER_PATH",
        BOOLEAN,
        False,
        "Let clients register any file that a gateway can read, as RT-Embed does; /content then serves every "
        "video and image of the machine",
    )
    s3_access_key: str | None = setting(
        "AWS_ACCESS_KEY_ID",
        TEXT,
        None,
        "Access key for s3:// URLs and the asset store, which without one takes the role of its container or "
        "instance",
    )
    s3_secret_key: str | None = setting("AWS_SECRET_ACCESS_KEY", TEXT, None, "Its secret", secret=True)
    s3_session_token: str | None = setting(
        "AWS_SESSION_TOKEN", TEXT, None, "Session token of temporary credentials", secret=True
    )
    aws_region: str | None = setting("AWS_REGION", TEXT, None, "Region of the buckets; wins over the next")
    s3_region: str = setting("AWS_DEFAULT_REGION", TEXT, "us-east-1", "Region of the buckets")
    s3_endpoint_url: str | None = setting(
        "S3_ENDPOINT_URL", HTTP_URL, None, "S3 service other than Amazon's; wins over AWS_ENDPOINT_URL_S3"
    )
    aws_endpoint_url_s3: str | None = setting(
        "AWS_ENDPOINT_URL_S3", HTTP_URL, None, "S3 service other than Amazon's"
    )

    s3_addressing: str = setting(
        "RTEMBED_S3_ADDRESSING",
        choice("path", "virtual"),
        "path",
        "Where an S3 request names its bucket: in the path, as MinIO and most others want it, or in the host",
    )

    # Queues and results
    text_queue_limit: int = setting(
        "RTEMBED_TEXT_QUEUE_LIMIT",
        whole(1, 10**6),
        2000,
        "Text jobs waiting or running before 503 ServerBusy",
    )
    probe_queue_limit: int = setting(
        "RTEMBED_PROBE_QUEUE_LIMIT",
        whole(1, 10**6),
        1000,
        "Probe jobs waiting or running before 503 ServerBusy",
    )
    video_queue_limit: int = setting(
        "RTEMBED_VIDEO_QUEUE_LIMIT",
        whole(1, 10**6),
        10_000,
        "Video jobs waiting or running before 503 ServerBusy",
    )
    result_ttl: int = setting(
        "RTEMBED_RESULT_TTL",
        whole(10, 7 * 86_400),
        3600,
        "Seconds that results are kept after their request ended",
    )
    request_ttl: int = setting(
        "RTEMBED_REQUEST_TTL",
        whole(60, 7 * 86_400),
        86_400,
        "Seconds without a result after which an unfinished request is forgotten and its assets are free",
    )
    max_live_streams: int = setting(
        "RTEMBED_MAX_LIVE_STREAMS",
        whole(1, 10**6),
        256,
        "Live streams of the whole fleet that are embedded at a time before 503 ServerBusy",
    )
    live_results: int = setting(
        "RTEMBED_LIVE_RESULTS",
        whole(1, 10**6),
        360,
        "About how many results of a live stream are kept for a client that comes back",
    )
    claim_timeout: float = setting(
        "RTEMBED_CLAIM_TIMEOUT",
        number(1, 3600),
        6.0,
        "Seconds without a sign of life after which a worker's jobs go to another",
    )
    max_deliveries: int = setting(
        "RTEMBED_MAX_DELIVERIES", whole(1, 100), 3, "Deliveries of a job before it goes to the dead letters"
    )
    probe_timeout: float = setting(
        "RTEMBED_PROBE_TIMEOUT",
        number(1, 3600),
        60.0,
        "Seconds that an upload waits for a worker to open the file",
    )

    # Worker
    worker_name: str = setting(
        "RTEMBED_WORKER_NAME",
        SettingType(
            matching(r"[A-Za-z0-9_.\-]{1,128}"), "1 to 128 letters, digits, dots, hyphens, underscores"
        ),
        "",
        "Name of the worker or indexer in Redis; empty: host name and process id",
    )
    text_slots: int = setting(
        "RTEMBED_TEXT_SLOTS", whole(1, 1024), 32, "Text jobs that one worker holds at a time"
    )
    probe_slots: int = setting(
        "RTEMBED_PROBE_SLOTS", whole(1, 64), 2, "Probe jobs that one worker holds at a time"
    )
    live_slots: int = setting(
        "RTEMBED_LIVE_SLOTS", whole(0, 10_000), 64, "Live streams that one worker holds at a time; 0: none"
    )
    decode_slots: int = setting(
        "RTEMBED_DECODE_SLOTS", whole(0, 256), 0, "Files that one worker decodes at a time; 0: one per core"
    )
    decode_attempts: int = setting(
        "RTVI_DECODE_MAX_ATTEMPTS", whole(1, 100), 2, "Attempts to decode a chunk, each by a rebuilt decoder"
    )
    sparse_decoding: bool = setting(
        "RTVI_ENABLE_GOP_DECODE_OPT",
        BOOLEAN,
        True,
        "Decode only what the wanted frames depend on; the frames are the same either way",
    )
    decoder_reuse_disabled: bool = setting(
        "DISABLE_DECODER_REUSE", BOOLEAN, False, "Open a new decoder for every job"
    )
    software_av1: bool = setting(
        "FORCE_SW_AV1_DECODER", BOOLEAN, False, "Decode AV1 on the CPU, even if there is a GPU for it"
    )
    max_frame_pixels: int = setting(
        "RTEMBED_MAX_FRAME_PIXELS", whole(1, 10**9), 8192 * 4352, "Most pixels of a video frame"
    )
    max_image_pixels: int = setting(
        "RTEMBED_MAX_IMAGE_PIXELS", whole(1, 10**9), 120_000_000, "Most pixels of an image"
    )
    max_duration: int = setting(
        "RTEMBED_MAX_DURATION", whole(0, 10**7), 0, "Longest video in seconds; 0: any"
    )
    decoder_memory_mb: int = setting(
        "RTEMBED_DECODER_MEMORY_MB",
        whole(256, 1 << 20),
        4096,
        "Address space of a decoder process, in MiB; a file that needs more fails",
    )
    decode_timeout: float = setting(
        "RTEMBED_DECODE_TIMEOUT",
        number(1, 86_400),
        30.0,
        "Seconds that a probe, a set of images or the next clip may take; a clip 4 more per second of video",
    )
    batch_size: int | None = setting(
        "VLM_BATCH_SIZE",
        whole(1, 1024),
        None,
        "Largest batch of clips; unset: 2 on a CPU, by memory on a GPU",
    )
    text_batch_size: int | None = setting(
        "RTEMBED_TEXT_BATCH_SIZE",
        whole(1, 1024),
        None,
        "Largest batch of texts; unset: 32 on a CPU, 64 on a GPU",
    )
    engine_timeout: float = setting(
        "RTEMBED_ENGINE_TIMEOUT",
        number(1, 86_400),
        600.0,
        "Seconds after which a batch counts as hung, and its worker ends to be replaced",
    )
    stall_timeout: float = setting(
        "RTEMBED_STALL_TIMEOUT",
        number(1, 86_400),
        30.0,
        "Seconds that the event loop of a gateway or worker may stand still; then its watchdog replaces it",
    )
    shutdown_timeout: float = setting(
        "RTEMBED_SHUTDOWN_TIMEOUT",
        number(0, 3600),
        20.0,
        "Seconds that a worker finishes its jobs after SIGTERM before it hands them back",
    )

    # Cameras
    rtsp_transport: str = setting(
        "RTEMBED_RTSP_TRANSPORT",
        choice("auto", "udp", "tcp", "multicast", "http"),
        "auto",
        "How cameras send their video; auto: UDP first, TCP if nothing arrives; http: TCP within HTTP",
    )
    rtsp_latency_ms: int = setting(
        "RTVI_RTSP_LATENCY", whole(0, 60_000), 2000, "Milliseconds that a late UDP packet is waited for"
    )
    rtsp_timeout_ms: int = setting(
        "RTVI_RTSP_TIMEOUT",
        whole(1, 600_000),
        2000,
        "Milliseconds without video over UDP after which a camera is asked to send it over TCP",
    )
    rtsp_open_timeout: float = setting(
        "RTEMBED_RTSP_OPEN_TIMEOUT",
        number(0.1, 600),
        10.0,
        "Seconds that a camera has from the connection to the first video",
    )
    rtsp_read_timeout: float = setting(
        "RTEMBED_RTSP_READ_TIMEOUT",
        number(0.1, 3600),
        10.0,
        "Seconds without video after which a camera counts as lost",
    )
    rtsp_ca_file: Path | None = setting(
        "RTEMBED_RTSP_CA_FILE",
        PATH,
        None,
        "Certificate authorities of rtsps:// cameras, PEM; unset: the public ones",
    )
    rtsp_unverified_hosts: tuple[str, ...] = setting(
        "RTEMBED_RTSP_UNVERIFIED_HOSTS",
        listed(","),
        (),
        "Hosts of rtsps:// cameras whose certificate is not verified: encrypted, but open to impostors",
    )
    rtsp_clock_tolerance: float = setting(
        "RTEMBED_RTSP_CLOCK_TOLERANCE",
        number(1, 10**9),
        86_400.0,
        "Seconds by which a camera's clock may differ from ours; beyond, chunks get their times on arrival",
    )
    reconnection_interval: float = setting(
        "RTVI_RTSP_RECONNECTION_INTERVAL",
        number(0, 3600),
        5.0,
        "Seconds before each attempt to reach a lost camera again",
    )
    reconnection_window: float = setting(
        "RTVI_RTSP_RECONNECTION_WINDOW",
        number(0, 10**7),
        60.0,
        "Seconds after which a lost camera is given up",
    )
    reconnection_attempts: int = setting(
        "RTVI_RTSP_RECONNECTION_MAX_ATTEMPTS",
        whole(0, 10**7),
        10,
        "Attempts after which a lost camera is given up",
    )
    live_overload: str = setting(
        "RTEMBED_LIVE_OVERLOAD",
        choice("drop", "block"),
        "drop",
        "When chunks cannot keep up with a camera: drop the oldest that waits, or block the camera",
    )
    live_backlog: int = setting(
        "RTEMBED_LIVE_BACKLOG", whole(1, 1000), 2, "Chunks of one live stream that may wait to be embedded"
    )
    drain_timeout: float = setting(
        "RTVI_STREAM_DELETE_DRAIN_TIMEOUT_SEC",
        number(0, 3600),
        30.0,
        "Seconds that stopping a live stream waits for chunks in flight",
    )
    blocking_drain_timeout: float = setting(
        "RTVI_STREAM_DELETE_BLOCKING_TIMEOUT_SEC",
        number(0, 3600),
        300.0,
        "The same for a batch of streams that is deleted with `blocking`",
    )

    # Messages
    message_bus: str | None = setting(
        "MESSAGE_BUS",
        choice("kafka", "redis", "off", ""),
        None,
        "Where embedding messages go, empty: nowhere; unset: Kafka if KAFKA_ENABLED, else nowhere",
        empty=True,
    )
    message_topic: str | None = setting(
        "MESSAGE_BUS_TOPIC",
        TOPIC,
        None,
        "Kafka topic or Redis stream of embedding messages; unset: KAFKA_TOPIC on Kafka, mdx-embed on Redis",
    )
    error_bus: str | None = setting(
        "ERROR_BUS",
        choice("kafka", "redis", "off", ""),
        None,
        "Where error events go, empty: nowhere; unset: Redis if ENABLE_REDIS_ERROR_MESSAGES, else Kafka if "
        "the messages go there, else nowhere",
        empty=True,
    )
    error_topic: str = setting(
        "ERROR_MESSAGE_TOPIC", TOPIC, "mdx-embed-errors", "Kafka topic or Redis channel of error events"
    )
    kafka_enabled: bool = setting("KAFKA_ENABLED", BOOLEAN, False, "Send messages to Kafka")
    kafka_topic: str = setting(
        "KAFKA_TOPIC", TEXT, "mdx-embed", "Kafka topic of embedding messages, if MESSAGE_BUS_TOPIC is unset"
    )
    redis_errors: bool = setting(
        "ENABLE_REDIS_ERROR_MESSAGES", BOOLEAN, False, "Send error events to Redis instead of Kafka"
    )
    text_messages: bool = setting(
        "ENABLE_KAFKA_MESSAGES_FOR_TEXT_INPUT", BOOLEAN, False, "Send a message for each text, too"
    )
    outbox_limit: int = setting(
        "KAFKA_ASYNC_SEND_QUEUE_MAXSIZE",
        limit(100_000),
        100_000,
        "Messages of the whole fleet that wait for the bus, in Redis; beyond it new ones are dropped",
    )
    error_queue_limit: int = setting(
        "REDIS_ASYNC_PUBLISH_QUEUE_MAXSIZE",
        limit(1024),
        1024,
        "Error events of one process that wait to be sent; beyond it new ones are dropped",
    )
    redis_payload_key: str = setting(
        "REDIS_PAYLOAD_KEY", TEXT, "metadata", "Field of a Redis stream entry that holds the message"
    )
    redis_stream_maxlen: int = setting(
        "REDIS_STREAM_MAXLEN",
        whole(-(2**31), 2**31),
        10_000,
        "About how many messages the Redis stream keeps; 0 or less: all",
    )

    # Search
    search_url: str | None = setting(
        "RTEMBED_SEARCH_URL",
        SettingType(matching(r"postgres(ql)?://.+"), "a postgresql:// URL"),
        None,
        "PostgreSQL with pgvector 0.8 or newer that holds the search index, for gateways and indexers; "
        "unset: no search",
        secret=True,
    )
    search_connections: int = setting(
        "RTEMBED_SEARCH_CONNECTIONS", whole(1, 200), 8, "Most connections of one gateway to the search index"
    )
    search_timeout: float = setting(
        "RTEMBED_SEARCH_TIMEOUT", number(0.1, 300), 5.0, "Seconds that one search in the index may take"
    )
    search_candidates: int = setting(
        "RTEMBED_SEARCH_CANDIDATES",
        whole(10, 1000),
        100,
        "Chunks that a search looks at in the HNSW index (hnsw.ef_search): more of them find more of the "
        "true neighbours and take longer",
    )
    search_batch: int = setting(
        "RTEMBED_SEARCH_BATCH", whole(1, 10_000), 500, "Most messages that an indexer writes in one step"
    )
    search_index_rows: int = setting(
        "RTEMBED_SEARCH_INDEX_ROWS",
        whole(0, 10**9),
        20_000,
        "Chunks of one model from which on it gets an HNSW index, once no messages wait; below, every search "
        "compares all chunks",
    )
    search_build_memory_mb: int = setting(
        "RTEMBED_SEARCH_BUILD_MEMORY_MB",
        whole(16, 1 << 20),
        512,
        "Memory of the database for building an HNSW index, in MiB (maintenance_work_mem): an index that "
        "outgrows it is built much more slowly",
    )
    search_max_age_hours: float = setting(
        "RTEMBED_SEARCH_MAX_AGE_HOURS",
        number(0, 10**6),
        0.0,
        "Hours after which a chunk leaves the search index; 0: never",
    )
    search_max_rows: int = setting(
        "RTEMBED_SEARCH_MAX_ROWS",
        whole(0, 10**12),
        0,
        "Most chunks in the search index; beyond it the oldest go; 0: no bound",
    )

    # Kafka
    kafka_servers: str = setting(
        "KAFKA_BOOTSTRAP_SERVERS", TEXT, "", "Brokers, host:port, separated by commas; empty: no Kafka"
    )
    kafka_compression: str = setting(
        "KAFKA_COMPRESSION_TYPE",
        choice("none", "gzip", "snappy", "lz4", "zstd"),
        "none",
        "Compression of batches; vectors hardly get smaller",
    )
    kafka_linger_ms: int = setting(
        "KAFKA_LINGER_MS", whole(0, 60_000), 5, "Milliseconds that a batch waits for more messages"
    )
    kafka_batch_size: int = setting(
        "KAFKA_BATCH_SIZE", whole(1, 100 * 2**20), 256 * 2**10, "Largest batch for one partition in bytes"
    )
    kafka_max_request_size: int = setting(
        "KAFKA_MAX_REQUEST_SIZE",
        whole(1000, 10**9),
        2**20,
        "Largest message in bytes; keep it at or below the broker's message.max.bytes",
    )
    kafka_request_timeout: float = setting(
        "KAFKA_REQUEST_TIMEOUT", number(1, 600), 60.0, "Seconds that a broker has to answer"
    )
    kafka_security: str = setting(
        "KAFKA_SECURITY_PROTOCOL",
        choice("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
        "plaintext",
        "How to connect to the brokers",
    )
    kafka_sasl_mechanism: str = setting(
        "KAFKA_SASL_MECHANISM",
        choice("plain", "scram-sha-256", "scram-sha-512"),
        "plain",
        "How to log in, with a SASL protocol",
    )
    kafka_username: str | None = setting("KAFKA_SASL_USERNAME", TEXT, None, "User of Kafka")
    kafka_password: str | None = setting("KAFKA_SASL_PASSWORD", TEXT, None, "Its password", secret=True)
    kafka_ca_file: Path | None = setting(
        "KAFKA_SSL_CAFILE",
        EXISTING_FILE,
        None,
        "Certificate authorities of the brokers, PEM; unset: the system's",
    )
    kafka_certificate: Path | None = setting(
        "KAFKA_SSL_CERTFILE", EXISTING_FILE, None, "Certificate of this client, PEM, for mutual TLS"
    )
    kafka_key: Path | None = setting("KAFKA_SSL_KEYFILE", EXISTING_FILE, None, "Its private key, PEM")
    kafka_key_password: str | None = setting(
        "KAFKA_SSL_PASSWORD", TEXT, None, "Password of the private key", secret=True
    )
    kafka_check_hostname: bool = setting(
        "KAFKA_SSL_CHECK_HOSTNAME", BOOLEAN, True, "Whether the broker's certificate must name its host"
    )

    # Model
    model_path: str = setting(
        "MODEL_PATH",
        TEXT,
        "git:https://huggingface.co/nvidia/Cosmos-Embed1-448p",
        "Model: git:URL, ngc:ORG/TEAM/MODEL:VERSION, a folder, or demo (the small demonstration model)",
    )
    model_aliases: tuple[str, ...] = setting(
        "RTEMBED_MODEL_ALIASES",
        listed(","),
        (),
        "Names, separated by commas, by which requests may name the loaded model beside its id, for example "
        "cosmos-embed1-448p",
    )
    remote_endpoint: str | None = setting(
        "REMOTE_EMBED_ENDPOINT",
        HTTP_URL,
        None,
        "Base address of a Cosmos-Embed1 NIM that runs the model instead of the workers; or, for texts "
        "alone, of any server of OpenAI's /v1/embeddings",
    )
    remote_model: str = setting(
        "REMOTE_EMBED_ENDPOINT_MODEL_NAME",
        TEXT,
        "nvidia/cosmos-embed1",
        "Name of the remote model, as it is sent and as /v1/models shows it",
    )
    remote_api_key: str = setting(
        "REMOTE_EMBED_ENDPOINT_API_KEY", TEXT, "", "Bearer token for the remote model", secret=True
    )
    remote_timeout: float = setting(
        "REMOTE_EMBED_ENDPOINT_TIMEOUT_SEC",
        number(0.1, 3600),
        300.0,
        "Seconds for one call to the remote model",
    )
    remote_batch_size: int = setting(
        "REMOTE_EMBED_ENDPOINT_BATCH_SIZE", whole(1, 2048), 64, "Most texts in one call to the remote model"
    )
    remote_calls: int = setting(
        "RTEMBED_REMOTE_CALLS",
        whole(1, 256),
        8,
        "Calls to the remote model that run at a time in one worker, each of clips and of texts",
    )
    remote_patience: float = setting(
        "RTEMBED_REMOTE_PATIENCE",
        number(0, 3600),
        60.0,
        "Seconds for which a call is repeated while the remote model does not answer, or answers 429, 502, "
        "503 or 504; then the request ends with 503",
    )
    model_implementation: Path | None = setting(
        "MODEL_IMPLEMENTATION_PATH", PATH, None, "Folder with an inference.py that brings its own model"
    )
    model_repository_script: Path | None = setting(
        "MODEL_REPOSITORY_SCRIPT_PATH",
        PATH,
        None,
        "Python script that is run before a model in Python is made, with --model_path, --triton_repo_path "
        "and --max_batch_size",
    )
    script_timeout: float = setting(
        "RTEMBED_SCRIPT_TIMEOUT",
        number(1, 86_400),
        600.0,
        "Seconds that MODEL_REPOSITORY_SCRIPT_PATH and a model's install_prerequisites.sh may each take",
    )
    skip_warmup: bool = setting(
        "SKIP_PIPELINE_WARMUP", BOOLEAN, False, "Do not call the warmup() of a model in Python"
    )
    precision: str = setting(
        "COSMOS_EMBED1_TRT_PRECISION",
        choice("fp32", "fp16", "bf16", "int8", "fp8", "best"),
        "fp16",
        "Precision of the converted model on a GPU: fp32, fp16 or bf16; a CPU always takes fp32. "
        "int8, fp8 and best are refused when the model is converted",
    )
    allow_unverified_model: bool = setting(
        "RTEMBED_ALLOW_UNVERIFIED_MODEL",
        BOOLEAN,
        False,
        "Serve a converted checkpoint although its vectors were not compared with those of its own code",
    )
    hf_token: str | None = setting(
        "HF_TOKEN",
        TEXT,
        None,
        "Token of the Hugging Face hub, for private models and rate limits",
        secret=True,
    )
    hf_endpoint: str = setting(
        "HF_ENDPOINT",
        SettingType(matching(r"https?://.+"), "an http or https URL"),
        "https://huggingface.co",
        "Address of the Hugging Face hub or of a mirror",
    )
    ngc_api_key: str | None = setting("NGC_API_KEY", TEXT, None, "Key for models on NVIDIA NGC", secret=True)
    model_cache: Path = setting(
        "NGC_MODEL_CACHE",
        PATH,
        Path("~/.cache/rt-embed/models").expanduser(),
        "Folder where downloaded and converted models are kept",
    )
    engine_threads: int = setting(
        "RTEMBED_ENGINE_THREADS", whole(0, 1024), 0, "Threads of the CPU engine; 0: one per core"
    )

    # GPUs
    backend: str = setting(
        "RTEMBED_BACKEND",
        choice("auto", "cpu", "cuda"),
        "auto",
        "auto: NVIDIA GPUs where there are any and the extra [gpu] is installed, else the CPU; cuda: no "
        "start without a GPU",
    )
    nvidia_devices: str = setting(
        "NVIDIA_VISIBLE_DEVICES",
        TEXT,
        "all",
        "all, none, or the numbers or UUIDs of the GPUs that workers of this host may use; separated by ,",
    )
    cuda_devices: str = setting(
        "CUDA_VISIBLE_DEVICES",
        TEXT,
        "all",
        "As NVIDIA_VISIBLE_DEVICES; both must allow a GPU. Empty: none",
        empty=True,
    )
    gpus: int | None = setting(
        "NUM_GPUS", whole(1, 1024), None, "GPUs to use, the first of those allowed; unset: all of them"
    )
    gpus_per_worker: int = setting(
        "NUM_GPUS_PER_VLM_PROC",
        whole(1, 64),
        1,
        "GPUs that each worker process sees. TensorRT uses the first; a model in Python may use them all",
    )
    tensorrt: str = setting(
        "RTEMBED_TENSORRT",
        choice("auto", "tensorrt", "tensorrt_rtx"),
        "auto",
        "Which TensorRT builds and runs engines; auto: tensorrt, or tensorrt_rtx (TensorRT for RTX) if that "
        "alone is installed",
    )
    builder_arguments: str = setting(
        "COSMOS_EMBED1_TRT_EXTRA_ARGS",
        TEXT,
        "",
        "Arguments of TensorRT's builder in the manner of trtexec, quoted as in a shell; see deploy/gpu.md",
    )

    # One machine
    data_dir: Path = setting(
        "RTEMBED_DATA_DIR", PATH, Path(".rtembed"), "Folder of `rt-embed up`: Valkey's data, sockets, logs"
    )


VARIABLES = frozenset(field.metadata["variable"] for field in dataclasses.fields(Settings))


def load(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from `environment` (the process's own by default); an empty variable counts as unset,
    except where its emptiness has a meaning.

    Raises SettingsError with every bad variable, its value and what is allowed, and every variable of ours
    that does not exist, with the nearest that does.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    problems = unknown_names(source, VARIABLES)
    for field in dataclasses.fields(Settings):
        variable = field.metadata["variable"]
        text = source.get(variable, "").strip()
        if not text and not (field.metadata["empty"] and variable in source):
            continue
        kind: SettingType = field.metadata["kind"]
        try:
            values[field.name] = kind.parse(text)
        except ValueError:
            shown = "(hidden)" if field.metadata["secret"] else repr(text)
            problems.append(f"{variable}={shown}: must be {kind.allowed}")
    settings = Settings(**{**values, **overrides})
    if problems := problems or contradictions(settings):
        raise SettingsError("; ".join(problems))
    return settings


def contradictions(settings: Settings) -> list[str]:
    """Return which settings exclude each other."""
    problems = []
    if settings.redis_cluster and settings.redis_sentinels:
        problems.append("REDIS_CLUSTER and REDIS_SENTINELS exclude each other: set one of them")
    if settings.redis_cluster and settings.redis_db:
        problems.append(f"REDIS_DB={settings.redis_db}: a cluster has database 0 only")
    if (settings.redis_url or "").startswith("unix:") and (
        settings.redis_cluster or settings.redis_sentinels
    ):
        problems.append("REDIS_URL names a socket, which REDIS_CLUSTER and REDIS_SENTINELS cannot use")
    return problems


def worker_name(settings: Settings) -> str:
    """The name under which this worker or indexer works."""
    return settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"


def table() -> str:
    """Every setting as a Markdown table."""
    rows = ["| variable | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(Settings):
        default = "" if field.default is None else str(field.default).replace(str(Path.home()), "~")
        kind: SettingType = field.metadata["kind"]
        cells = (f"`{field.metadata['variable']}`", default, kind.allowed, field.metadata["meaning"])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)
