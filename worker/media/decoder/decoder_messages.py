"""Messages between a worker and its decoder processes."""

from typing import Annotated, Literal

import msgspec

from shared.chunks import Chunk
from worker.framing import Framing
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.media_facts import MediaFacts
from worker.media.decoder.pictures.thumbnail import LARGEST_JPEG
from worker.media.decoder.runs import FrameLook, Run


class DecodeCounts(msgspec.Struct):
    """What one job, or a whole pool, has read and decoded.

    `packets` were demuxed, of which `packets_dropped` never reached a decoder; `frames_decoded` did, of which
    `frames_used` are in clips and `decode_errors` could not be decoded. `dense_chunks` were decoded whole,
    because selection was not possible or not wanted; `bytes_fetched` came from a bucket; `retries` and
    `restarts` count second attempts and replaced decoder processes. `fallbacks` are files and live chunks
    that the CPU decoded because the GPU could not.
    """

    packets: int = 0
    packets_dropped: int = 0
    frames_decoded: int = 0
    frames_used: int = 0
    decode_errors: int = 0
    bytes_read: int = 0
    bytes_fetched: int = 0
    dense_chunks: int = 0
    retries: int = 0
    restarts: int = 0
    fallbacks: int = 0

    def add(self, other: "DecodeCounts") -> None:
        """Add the other's counts to these."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


# From the worker ----------------------------------------------------------------------------------------


class Setup(msgspec.Struct, tag=True, frozen=True):
    """The first message to a decoder process."""

    limits: MediaLimits
    lanes: int
    sparse: bool
    reuse: bool


class Probe(msgspec.Struct, tag=True, frozen=True):
    """Return the file's facts."""

    path: str


class Decode(msgspec.Struct, tag=True, frozen=True):
    """Decode `chunks` of one file: up to `lanes` GOPs at a time, and on up to `threads` threads each where
    nothing else is left to do. `joined` as in MediaFacts.

    `arena` is the size of the shared memory now, `offsets` the regions of it that may be written, one per
    clip; more come with Grant. Clips come with thumbnails if these are wanted."""

    path: str
    chunks: list[Chunk]
    frames: int
    size: int
    lanes: int
    threads: int
    arena: int
    offsets: list[int]
    joined: bool = False
    thumbnails: bool = False


class Choose(msgspec.Struct, tag=True, frozen=True):
    """Decode nothing: send the packets that make up `chunks` of one file to a decoder elsewhere."""

    path: str
    chunks: list[Chunk]
    frames: int
    joined: bool = False


class Look(msgspec.Struct, tag=True, frozen=True):
    """Return the format of the frames of these packets, from the first one."""

    codec: str
    run: Run


class Images(msgspec.Struct, tag=True, frozen=True):
    """Decode images into the region at `offset`."""

    paths: list[str]
    size: int
    arena: int
    offset: int
    thumbnails: bool = False


class DecodeRuns(msgspec.Struct, tag=True, frozen=True):
    """Decode packets that the worker has, into the region at `offset`, up to `frames` frames."""

    codec: str
    runs: list[Run]
    frames: int
    size: int
    arena: int
    offset: int
    thumbnails: bool = False


class Grant(msgspec.Struct, tag=True, frozen=True):
    """One more region for a clip of the running job."""

    arena: int
    offset: int


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """Stop the running job, and confirm it."""


Request = Probe | Decode | Choose | Look | Images | DecodeRuns
ToDecoder = Setup | Request | Grant | Cancel


def paths(request: Request) -> list[str]:
    """Return the files that the job reads."""
    match request:
        case Probe() | Decode() | Choose():
            return [request.path]
        case Images():
            return request.paths
    return []


# From a decoder process ---------------------------------------------------------------------------------


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The process is set up. `sandbox` says what isolates it."""

    sandbox: str


class Found(msgspec.Struct, tag=True, frozen=True):
    """The answer to Probe."""

    facts: MediaFacts


class ClipDone(msgspec.Struct, tag=True, frozen=True):
    """The frames of `chunks[position]` lie at `offset`. Times and thumbnail as in Clip."""

    position: int
    offset: int
    times: list[int]
    start: float
    end: float
    thumbnail: Annotated[bytes, msgspec.Meta(max_length=LARGEST_JPEG)] = b""


class Empty(msgspec.Struct, tag=True, frozen=True):
    """`chunks[position]` has no clip: it ends before the first frame of the video."""

    position: int


class Spare(msgspec.Struct, tag=True, frozen=True):
    """The job has no work for all of its lanes, or no work left."""


class Chosen(msgspec.Struct, tag=True, frozen=True):
    """Packets to decode one after the other. The frame at `run.wanted[i]` goes into the clips `places[i]`:
    (position of the chunk in the job, index in the clip)."""

    look: FrameLook
    run: Run
    places: list[list[tuple[int, int]]]


class Planned(msgspec.Struct, tag=True, frozen=True):
    """The clip of `chunks[position]` has frames at these times (ns), all of which are chosen. `start` as in
    Clip."""

    position: int
    times: list[int]
    start: float


class Looked(msgspec.Struct, tag=True, frozen=True):
    """The answer to Look."""

    look: FrameLook


class Finished(msgspec.Struct, tag=True, frozen=True):
    """The job is done, after its last ClipDone."""

    counts: DecodeCounts


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The job ended here. `invalid`: the file is no usable media; `refused`: a limit forbids it; `decode`:
    decoding went wrong and may be tried again; `away`: the file's bytes could not be fetched; `cancelled`: as
    asked; `unsuited`: its packets cannot be chosen from or handed over, but they can be decoded here."""

    kind: Literal["invalid", "refused", "decode", "cancelled", "away", "unsuited"]
    detail: str
    counts: DecodeCounts


FromDecoder = Ready | Found | ClipDone | Empty | Spare | Chosen | Planned | Looked | Finished | Failed

TO_DECODER: Framing[ToDecoder] = Framing(ToDecoder)
FROM_DECODER: Framing[FromDecoder] = Framing(FromDecoder)
