"""Resource limits for media files."""

import msgspec

GIB = 1 << 30


class MediaLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on one file and on one decoder process. Beyond a limit the file is refused or the job fails.

    `pixels` per video frame, `image_pixels` per image (known before anything is decoded); `duration` of a
    video in seconds, 0 for no bound; `tracks` of any kind in one file; `memory` is the address space of
    a decoder process in bytes and `open_files` its file descriptors. A job may take `seconds`, plus `pace`
    seconds for every second of video that its next clip spans, until that clip is there; a set of images may
    take `seconds`, a probe `probe_seconds`. `held` bytes of packets wait for a GOP to end; a longer GOP is
    decoded whole.
    """

    pixels: int = 8192 * 4352
    image_pixels: int = 120_000_000
    duration: int = 0
    tracks: int = 64
    memory: int = 4 * GIB
    open_files: int = 128
    seconds: float = 30.0
    probe_seconds: float = 15.0
    pace: float = 4.0
    held: int = 128 << 20
