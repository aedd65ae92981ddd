"""RTSP, reconnection and live streams."""

import dataclasses
from pathlib import Path

from shared.settings.setting_types import (
    PATH,
    choice,
    listed,
    number,
    setting,
    whole,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraSettings:
    """Cameras"""

    rtsp_transport: str = setting(
        "RTEMBED_RTSP_TRANSPORT",
        choice("auto", "udp", "tcp", "multicast", "http"),
        "auto",
        "How cameras send their video; auto: UDP first, TCP if nothing arrives; http: TCP within HTTP",
    )
    rtsp_latency_ms: int = setting(
        "RTVI_RTSP_LATENCY", whole(0, 60_000), 2000, "Milliseconds to wait for a late UDP packet"
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
    camera_memory_mb: int = setting(
        "RTEMBED_CAMERA_MEMORY_MB",
        whole(512, 1 << 20),
        2048,
        "Address space of a process that plays up to 32 cameras, in MiB; one that needs more is replaced",
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
    live_moves: int = setting(
        "RTEMBED_LIVE_MOVES",
        whole(0, 10_000),
        4,
        "Live streams of the fleet that move at a time to workers that run fewer, such as a new one; 0: none",
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
        "Seconds that deleting a batch of streams with `blocking` waits for chunks in flight",
    )
