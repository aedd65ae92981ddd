"""Results from workers: one entry per finished chunk, then one end entry, in the stream `results:{id}`."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from shared.records import RecordCodec, pairs

State = Literal["running", "done", "failed", "cancelled"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One finished chunk, text or probe.

    `vector` holds little-endian float32; `start`, `end` and `frame_times` are nanoseconds from the start
    of the file, or of the connection for a live chunk, whose `wall_start` and `wall_end` are nanoseconds
    since 1970. `thumbnail` is a JPEG, empty if none was asked for. `decode_started` is seconds since 1970 by
    Redis's clock. Latencies are milliseconds or seconds as their names say. `facts` is the JSON answer of a
    probe. `error` is empty for a success.
    """

    chunk: int
    start: int = 0
    end: int = 0
    wall_start: int | None = None
    wall_end: int | None = None
    vector: bytes = b""
    frame_times: list[int] = []
    thumbnail: bytes = b""
    decode_started: float | None = None
    decode_latency_ms: float | None = None
    inference_latency_ms: float | None = None
    chunk_latency_ms: float | None = None
    queue_time_s: float | None = None
    processing_latency_s: float | None = None
    facts: str = ""
    error: str = ""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How the request ended, and with which error."""

    state: State
    code: str = ""
    status: int = 0
    error: str = ""


Entry = Result | End


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a probe. `duration` in ns; `frame_rate` a fraction, empty where it is unknown;
    `last_frames`: how long (ns) the last two frames are shown, 0 where it is unknown; `joined`: whether the
    file holds several recordings, each with its own clock."""

    kind: Literal["video", "image"]
    codec: str
    width: int
    height: int
    duration: int = 0
    frame_rate: str = ""
    last_frames: int = 0
    joined: bool = False


_results: RecordCodec[Result] = RecordCodec(Result)
_ends: RecordCodec[End] = RecordCodec(End)


def to_fields(entry: Entry) -> list[bytes | str]:
    """Return the names and values of a stream entry, flat."""
    if isinstance(entry, End):
        return ["type", "end", *_ends.fields(entry)]
    return ["type", "result", *_results.fields(entry)]


def from_fields(fields: Mapping[bytes, bytes]) -> Entry:
    """Read a stream entry; fields of a newer version are ignored. Raises msgspec.MsgspecError."""
    return _ends.read(fields) if fields[b"type"] == b"end" else _results.read(fields)


_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(dict[bytes, bytes])


def pack(fields: list[bytes | str]) -> bytes:
    """Return the fields as the body of a notification."""
    return _packer.encode(pairs([f.encode() if isinstance(f, str) else f for f in fields]))


def unpack(notification: bytes) -> list[tuple[str, Entry]]:
    """Return the entries of a notification with their stream ids; of each: id, length, a newline, packed
    fields."""
    entries: list[tuple[str, Entry]] = []
    at = 0
    while at < len(notification):
        body = notification.index(b"\n", at) + 1
        entry_id, length = notification[at:body].split()
        at = body + int(length)
        entries.append((entry_id.decode(), from_fields(_unpacker.decode(notification[body:at]))))
    return entries
