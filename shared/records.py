"""Records in Redis: structs to and from the fields of a hash or a stream entry.

People read these fields, and so do older and newer replicas during an upgrade. Therefore every field stands
under its name as plain text (vectors as bytes, a struct in a field as JSON), an empty one is left out, and a
reader ignores fields that it does not know and takes the default for those that it misses. Fields are added
and never change their meaning: what must change gets a new name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, get_args, get_origin

import msgspec

Struct = TypeVar("Struct", bound=msgspec.Struct)


class RecordCodec(Generic[Struct]):
    """Writes and reads records of one kind. `omitted` are fields that others write, or that the key says."""

    def __init__(self, kind: type[Struct], *omitted: str) -> None:
        self._kind = kind
        found = [field for field in msgspec.structs.fields(kind) if field.name not in omitted]
        self._writers = [(f.name, f.encode_name, f.default is True, _always_told(f)) for f in found]
        self._readers = [(f.encode_name.encode(), f.encode_name, _reader(f.type)) for f in found]

    def fields(self, record: Struct, *, whole: bool = False) -> list[bytes | str]:
        """Return names and values, flat. `whole`: empty values too, to overwrite what was there."""
        flat: list[bytes | str] = []
        for name, encoded, true_by_default, always in self._writers:
            value = _text(getattr(record, name)) or ("false" if true_by_default else "")
            if value or whole or always:
                flat += (encoded, value)
        return flat

    def read(self, fields: Mapping[bytes, bytes], **known: object) -> Struct:
        """Return the record in `fields`; `known` holds the fields that are not in it.

        Raises msgspec.MsgspecError naming a field that is missing or cannot be read.
        """
        values = known
        for raw_name, name, read in self._readers:
            raw = fields.get(raw_name)
            if raw is not None and (value := _read(read, raw, name)) is not None:
                values[name] = value
        return msgspec.convert(values, self._kind, strict=False)


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return alternating names and values as a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def added_ms(entry_id: bytes | str) -> int:
    """Return Redis's time at which the entry was added, in milliseconds since 1970."""
    return entry_position(entry_id)[0]


def entry_position(entry_id: bytes | str) -> tuple[int, int]:
    """Return where the entry stands in its stream: ids are ordered by this, not by their text."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence or 0)


def _always_told(field: msgspec.structs.FieldInfo) -> bool:
    """Return whether a missing field means something else than an empty one."""
    return field.required or (field.default is not msgspec.NODEFAULT and bool(field.default))


def _text(value: object) -> bytes | str:
    match value:
        case str() | bytes():
            return value
        case None:
            return ""
        case bool():
            return "true" if value else ""
        case list() | tuple():
            return ",".join(map(str, value))
        case msgspec.Struct():
            return msgspec.json.encode(value)
    return str(value)


def _reader(kind: Any) -> Callable[[bytes], object]:
    """Return what reads a field of this type; it gives None where the default is meant."""
    if kind is bytes:
        return bytes
    if get_origin(kind) is list:
        return lambda raw: raw.decode().split(",") if raw else None
    choices = get_args(kind) or (kind,)
    if any(isinstance(choice, type) and issubclass(choice, msgspec.Struct) for choice in choices):
        return lambda raw: msgspec.json.decode(raw, type=kind) if raw else None
    if kind is str or all(isinstance(choice, str) for choice in choices):
        return bytes.decode
    return lambda raw: raw.decode() if raw else None


def _read(read: Callable[[bytes], object], raw: bytes, name: str) -> object:
    try:
        return read(raw)
    except UnicodeDecodeError as error:
        raise msgspec.ValidationError(f"{name}: no UTF-8") from error
