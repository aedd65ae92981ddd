"""What one worker holds at a time, decoding, and its deadlines."""

import dataclasses

from shared.settings.setting_types import (
    BOOLEAN,
    SettingType,
    matching,
    number,
    setting,
    whole,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Workers"""

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
        "RTEMBED_PROBE_SLOTS", whole(1, 64), 2, "Files that one worker probes at a time, each in a process"
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
        "Seconds that a set of images or the next clip may take; a clip 4 more per second of video",
    )
    probe_seconds: float = setting(
        "RTEMBED_PROBE_SECONDS",
        number(1, 86_400),
        15.0,
        "Seconds in which a worker must find out what one file is, else 400. How long an upload waits is "
        "`RTEMBED_PROBE_TIMEOUT`",
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
