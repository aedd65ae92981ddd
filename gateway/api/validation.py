"""Validating requests: convert them to their types, and name the first problem as the API promises.

A message reads `('body', 'media_info', 'start_offset'): Must be at least 0`: the place as a tuple, then a
sentence. Fields are checked in the order in which their type declares them, unknown fields last. Values
are converted as leniently as clients of this API are used to: `"10"` and `10.0` for an integer, `"on"` for
a boolean, a UUID in any of its forms; but never a number for a string.

The rules are those of the msgspec types themselves, plus three marks in `Meta.extra`:

* `form="uuid"`: the string is a UUID and is normalised; `form="asset"`: or a stream's id;
* `check=f`: `f(value)` raises ValueError with the sentence to report;
* `secret=True`: the value is not repeated in the message.

A type may also have a method `problems()` that yields `(field, sentence)` for rules spanning fields.
"""

import json
import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import msgspec
from msgspec import inspect

from shared.errors import InvalidParameters, UndecodableBody

Location = tuple[str | int, ...]
Convert = Callable[[Any, Location], Any]
Check = Callable[[Any], None]
T = TypeVar("T", bound=msgspec.Struct)

REQUIRED = "Field required"
_SHOWN = 256  # characters of a refused input, or of an unknown field's name, that a message repeats
_ABSENT: Any = object()
MOST_VALUES = 100_000
"""Values in a body. To make millions of them out of 16 MiB would keep the event loop for seconds."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)  # the second for strings that are not UTF-8
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)

_BOM = b"\xef\xbb\xbf"
_HYPHENATED = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_UUID = re.compile(
    rf"[0-9a-f]{{32}}|{_HYPHENATED}|\{{{_HYPHENATED}\}}|urn:uuid:{_HYPHENATED}", re.IGNORECASE | re.ASCII
)
_STREAM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,255}")
_LONGEST_UUID = len("urn:uuid:") + 36
_INTEGER = re.compile(r"\s*([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0+)?\s*")
_BYTE = re.compile(r"\(byte (\d{1,18})\)")
_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "off", "f", "false", "n", "no"})


@runtime_checkable
class _Ruled(Protocol):
    def problems(self) -> Iterator[tuple[str, str]]: ...


class _MismatchError(Exception):
    """A value failed validation; holds what the message needs."""

    def __init__(self, location: Location, reason: str, value: Any = _ABSENT) -> None:
        self.location, self.reason, self.value = location, reason, value


def validate_json(body: bytes, type_: type[T]) -> T:
    """Convert a JSON request body to `type_`.

    Raises InvalidParameters for the first problem, UndecodableBody for a body that is not UTF-8.
    """
    body = body.removeprefix(_BOM)
    require_few_values(body)
    strict = _strict_decoder(type_)
    if strict is not None:
        try:
            value: T = strict.decode(body)
        except (*_UNREADABLE, RecursionError):
            pass  # not in strict form: the converter converts it or names the problem
        else:
            return _obey(value, ("body",))
    return validate(type_, _parse(body), ("body",))


def validate_query(params: Mapping[str, str], type_: type[T]) -> T:
    """Convert a query string to `type_`. Raises InvalidParameters for the first problem."""
    return validate(type_, dict(params), ("query",))


def validate_form(fields: Mapping[str, str], type_: type[T]) -> T:
    """Convert the text fields of a form to `type_`. An empty field counts as absent, as browsers send it.

    Raises InvalidParameters for the first problem.
    """
    return validate(type_, {name: text for name, text in fields.items() if text}, ("body",))


def validate_uuid(text: str, location: Location) -> str:
    """Return a UUID as 36 lower-case characters with hyphens. Raises InvalidParameters."""
    try:
        return _uuid(text, location)
    except _MismatchError as mismatch:
        raise problem(mismatch.location, mismatch.reason, mismatch.value) from None


def validate_stream_id(text: str, location: Location) -> str:
    """Return the id of a live stream, a UUID as `validate_uuid` does. Raises InvalidParameters."""
    try:
        return _asset_id(text, location)
    except _MismatchError as mismatch:
        raise problem(mismatch.location, mismatch.reason, mismatch.value) from None


def as_uuid(text: str) -> str | None:
    """Return a UUID as 36 lower-case characters with hyphens; None if `text` is not one."""
    return str(uuid.UUID(text.lower())) if len(text) <= _LONGEST_UUID and _UUID.fullmatch(text) else None


def as_stream_id(text: str) -> str | None:
    """Return the id of a live stream, a UUID as `as_uuid` does; None if it cannot be one."""
    return as_uuid(text) or (text if _STREAM_ID.fullmatch(text) else None)


def validate(type_: type[T], raw: Any, location: Location) -> T:
    """Convert parsed JSON to `type_`. Raises InvalidParameters for the first problem."""
    try:
        result: T = _converter(type_)(raw, location)
    except _MismatchError as mismatch:
        raise problem(mismatch.location, mismatch.reason, mismatch.value) from None
    return result


def problem(location: Location, reason: str, value: Any = _ABSENT) -> InvalidParameters:
    """Return the error for one place in a request; the message repeats `value`, if given, shortened."""
    shown = tuple(part[:_SHOWN] if isinstance(part, str) else part for part in location)
    if value is _ABSENT:
        return InvalidParameters(f"{shown}: {reason}")
    if isinstance(value, str):
        value = value[: _SHOWN + 1]
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = "..."
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return InvalidParameters(f"{shown}: {reason} (input: {text})")


def _parse(body: bytes) -> Any:
    if not body.strip():
        raise problem(("body",), REQUIRED)
    try:
        value = msgspec.json.decode(body)
    except _UNREADABLE as error:
        _require_utf8(body)
        raise problem(("body", _offset(body, str(error))), "Malformed JSON") from None
    except RecursionError:
        raise problem(("body", 0), "Malformed JSON: nested too deeply") from None
    if value is None:
        raise problem(("body",), REQUIRED)
    return value


def _require_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise UndecodableBody(f"The body is not UTF-8: byte {error.start}") from None


def require_few_values(body: bytes) -> None:
    """Raises InvalidParameters if parsing `body` would make more than about MOST_VALUES values."""
    if _marks(body) <= MOST_VALUES:
        return
    # Texts may hold as many commas as they like, so the strings go before the marks are counted again.
    strings = (body.count(b'"') - body.count(rb"\"")) // 2
    if strings > MOST_VALUES or _marks(_STRING.sub(b"", body)) > MOST_VALUES:
        raise problem(("body",), f"Must have at most {MOST_VALUES} values")


def _marks(body: bytes) -> int:
    return sum(body.count(mark) for mark in (b",", b"[", b"{")) if len(body) > MOST_VALUES else 0


def _offset(body: bytes, message: str) -> int:
    """Return where `body` stops being JSON, in characters, as the standard library counts them."""
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        return error.pos
    except RecursionError:
        return 0
    except ValueError:  # an integer of more digits than Python reads
        pass
    # The standard library accepts more: NaN, lone surrogates, numbers beyond a double.
    found = _BYTE.search(message)
    return int(found[1]) if found else 0


# One converter per type, made once -------------------------------------------------------------------


def _struct_type(type_: type[msgspec.Struct]) -> inspect.StructType:
    return cast("inspect.StructType", inspect.type_info(type_))


@cache
def _strict_decoder(type_: type[T]) -> "msgspec.json.Decoder[T] | None":
    """Return msgspec's own decoder if it accepts only what the converter accepts, else None."""
    struct = _struct_type(type_)
    nested_rules = any(_has_rules(field.type, nested=False) for field in struct.fields)
    return None if nested_rules or not struct.forbid_unknown_fields else msgspec.json.Decoder(type_)


def _has_rules(node: inspect.Type, *, nested: bool) -> bool:
    """Return whether types below the outermost one have checks or rules that msgspec does not know."""
    match node:
        case inspect.Metadata():
            return (nested and "check" in _extra(node)) or _has_rules(node.type, nested=nested)
        case inspect.StructType():
            ruled = _is_ruled(node.cls) or not node.forbid_unknown_fields
            return ruled or any(_has_rules(field.type, nested=True) for field in node.fields)
        case inspect.UnionType():
            return any(_has_rules(member, nested=nested) for member in node.types)
        case inspect.ListType():
            return _has_rules(node.item_type, nested=True)
        case inspect.DictType():
            return _has_rules(node.value_type, nested=True)
    return False


@cache
def _field_checks(type_: type[msgspec.Struct]) -> tuple[tuple[inspect.Field, Check], ...]:
    checks = ((field, _extra(field.type).get("check")) for field in _struct_type(type_).fields)
    return tuple((field, check) for field, check in checks if check is not None)


def _extra(node: inspect.Type) -> Mapping[str, Any]:
    return (node.extra or {}) if isinstance(node, inspect.Metadata) else {}


def _obey(value: T, location: Location) -> T:
    """Return `value`, which has the right types, after applying the rules that msgspec does not know."""
    try:
        for field, check in _field_checks(type(value)):
            given = getattr(value, field.name)
            if given is not None:
                _run_check(check, given, (*location, field.encode_name))
        _span(value, location)
    except _MismatchError as mismatch:
        raise problem(mismatch.location, mismatch.reason, mismatch.value) from None
    return value


def _run_check(check: Check, value: Any, location: Location) -> None:
    try:
        check(value)
    except ValueError as error:
        raise _MismatchError(location, str(error), value) from None


def _span(value: msgspec.Struct, location: Location) -> None:
    if _is_ruled(type(value)):
        for field, reason in cast("_Ruled", value).problems():
            raise _MismatchError((*location, field), reason)


@cache
def _is_ruled(type_: type[msgspec.Struct]) -> bool:
    return issubclass(type_, _Ruled)


@cache
def _converter(type_: type[msgspec.Struct]) -> Convert:
    return _compile(inspect.type_info(type_))


def _compile(node: inspect.Type, extra: Mapping[str, Any] | None = None) -> Convert:
    if isinstance(node, inspect.Metadata):
        return _checked(_compile(node.type, _extra(node)), _extra(node).get("check"))
    if isinstance(node, inspect.StrType | inspect.UnionType):
        return _COMPILERS[type(node)](node, extra or {})
    return _COMPILERS[type(node)](node)


def _checked(convert: Convert, check: Check | None) -> Convert:
    if check is None:
        return convert

    def checked(value: Any, location: Location) -> Any:
        result = convert(value, location)
        if result is not None:
            _run_check(check, result, location)
        return result

    return checked


def _struct(node: inspect.StructType) -> Convert:
    fields = [(field, _compile(field.type)) for field in node.fields]
    known = {field.encode_name for field in node.fields}

    def struct(value: Any, location: Location) -> Any:
        if not isinstance(value, dict):
            raise _MismatchError(location, "Must be an object")
        values: dict[str, Any] = {}
        for field, convert in fields:
            if field.encode_name in value:
                values[field.name] = convert(value[field.encode_name], (*location, field.encode_name))
            elif field.required:
                raise _MismatchError((*location, field.encode_name), REQUIRED)
        if node.forbid_unknown_fields:
            for name in value:
                if name not in known:
                    raise _MismatchError((*location, name), "No such field")
        result = node.cls(**values)
        _span(result, location)
        return result

    return struct


def _union(node: inspect.UnionType, extra: Mapping[str, Any]) -> Convert:
    """Accept what any member accepts; messages name the first member's place, as clients expect."""
    members = [member for member in node.types if not isinstance(member, inspect.NoneType)]
    converts = [_compile(member, extra) for member in members]
    nullable = node.includes_none
    sequences = [_is_list(member) for member in members]

    def union(value: Any, location: Location) -> Any:
        if value is None and nullable:
            return None
        if len(members) == 1:
            return converts[0](value, location)
        reasons: list[str] = []
        for convert in converts:
            try:
                return convert(value, location)
            except _MismatchError as mismatch:
                at = mismatch.location[len(location) :]
                reasons.append(f"{mismatch.reason} (item {at[0]})" if at else mismatch.reason)
        likely = sequences.index(isinstance(value, list)) if isinstance(value, list) in sequences else 0
        raise _MismatchError((*location, _member_name(members[0])), reasons[likely], value)

    return union


def _is_list(node: inspect.Type) -> bool:
    return isinstance(node.type if isinstance(node, inspect.Metadata) else node, inspect.ListType)


def _member_name(node: inspect.Type) -> str:
    match node:
        case inspect.Metadata():
            return "uuid" if "form" in _extra(node) else _member_name(node.type)
        case inspect.StrType():
            return "str" if node.max_length is None and node.pattern is None else "constrained-str"
        case inspect.ListType():
            return f"list[{_member_name(node.item_type)}]"
        case inspect.StructType():
            return node.cls.__name__
    return type(node).__name__.removesuffix("Type").lower()


def _list(node: inspect.ListType) -> Convert:
    convert = _compile(node.item_type)

    def sequence(value: Any, location: Location) -> list[Any]:
        if not isinstance(value, list):
            raise _MismatchError(location, "Must be a list")
        if node.max_length is not None and len(value) > node.max_length:
            raise _MismatchError(location, f"Must have at most {node.max_length} items, not {len(value)}")
        if node.min_length is not None and len(value) < node.min_length:
            raise _MismatchError(location, f"Must have at least {node.min_length} items, not {len(value)}")
        return [convert(item, (*location, index)) for index, item in enumerate(value)]

    return sequence


def _dict(node: inspect.DictType) -> Convert:
    convert = _compile(node.value_type)

    def mapping(value: Any, location: Location) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _MismatchError(location, "Must be an object")
        return {name: convert(item, (*location, name)) for name, item in value.items()}

    return mapping


def _string(node: inspect.StrType, extra: Mapping[str, Any]) -> Convert:
    if form := extra.get("form"):
        return {"uuid": _uuid, "asset": _asset_id}[form]
    secret = "secret" in extra
    pattern = re.compile(node.pattern) if node.pattern else None
    published = (node.pattern or "").replace(r"\Z", "$")
    least, most = node.min_length or 0, node.max_length or math.inf

    def string(value: Any, location: Location) -> str:
        if not isinstance(value, str):
            raise _MismatchError(location, "Must be a string")
        if len(value) > most:
            raise _MismatchError(location, f"Must have at most {most} characters, not {len(value)}")
        if len(value) < least:
            raise _MismatchError(location, f"Must have at least {least} characters, not {len(value)}")
        if pattern and not pattern.search(value):
            raise _MismatchError(location, f"Must match {published}", _ABSENT if secret else value)
        return value

    return string


def _literal(node: inspect.LiteralType) -> Convert:
    allowed = " or ".join(repr(value) for value in node.values)

    def literal(value: Any, location: Location) -> Any:
        if not isinstance(value, str | int) or value not in node.values:
            raise _MismatchError(location, f"Must be {allowed}")
        return value

    return literal


def _number(node: inspect.IntType | inspect.FloatType) -> Convert:
    parse = _integer if isinstance(node, inspect.IntType) else _real
    least = -math.inf if node.ge is None else node.ge
    most = math.inf if node.le is None else node.le

    def number(value: Any, location: Location) -> float:
        result = parse(value, location)
        if result < least:
            raise _MismatchError(location, f"Must be at least {least}")
        if result > most:
            raise _MismatchError(location, f"Must be at most {most}")
        return result

    return number


def _integer(value: Any, location: Location) -> int:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    # A longer text is not a number that any field accepts, and would only keep the processor busy.
    if isinstance(value, str) and len(value) < 100 and (match := _INTEGER.fullmatch(value)):
        return int(match[1])
    raise _MismatchError(location, "Must be a whole number")


def _real(value: Any, location: Location) -> float:
    text = isinstance(value, str) and value.isascii() and len(value) < 100
    if text or isinstance(value, int | float):
        try:
            result = float(value)
        except (ValueError, OverflowError):
            result = math.nan
        if math.isfinite(result):
            return result
    raise _MismatchError(location, "Must be a number")


def _boolean(value: Any, location: Location) -> bool:
    if isinstance(value, str):
        if value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
    elif isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise _MismatchError(location, "Must be true or false")


def _uuid(value: Any, location: Location) -> str:
    if isinstance(value, str) and (found := as_uuid(value)):
        return found
    raise _MismatchError(location, "Must be a UUID", value)


def _asset_id(value: Any, location: Location) -> str:
    if isinstance(value, str) and (found := as_stream_id(value)):
        return found
    reason = "Must be a UUID or, for a live stream, up to 256 letters, digits and ._-"
    raise _MismatchError(location, reason, value)


_COMPILERS: dict[type[inspect.Type], Callable[..., Convert]] = {
    inspect.StructType: _struct,
    inspect.UnionType: _union,
    inspect.ListType: _list,
    inspect.DictType: _dict,
    inspect.StrType: _string,
    inspect.LiteralType: _literal,
    inspect.IntType: _number,
    inspect.FloatType: _number,
    inspect.BoolType: lambda _: _boolean,
    inspect.AnyType: lambda _: lambda value, _: value,
}
