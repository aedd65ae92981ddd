"""Bounds of the lanes, and how long results are kept."""

import dataclasses

from shared.settings.setting_types import (
    number,
    setting,
    whole,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueueSettings:
    """Queues and results"""

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
        "Seconds that an upload waits for a worker to open the file, its turn included; then 503. Of these, "
        "`RTEMBED_PROBE_SECONDS` limits the work on the file alone",
    )
