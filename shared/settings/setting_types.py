"""How the texts of environment variables become values."""

import dataclasses
import math
import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared.keys import PREFIX

IPNetwork = IPv4Network | IPv6Network

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


@dataclasses.dataclass(frozen=True)
class SettingType:
    """How a variable's text becomes a value; `parse` raises ValueError, `allowed` describes valid values."""

    parse: Callable[[str], Any]
    allowed: str


def setting(
    variable: str, kind: SettingType, default: Any, meaning: str, *, secret: bool = False, empty: bool = False
) -> Any:
    """Return a field of Settings. `default` None means: unset; `empty`: an empty variable is a value too."""
    metadata = {"variable": variable, "kind": kind, "meaning": meaning, "secret": secret, "empty": empty}
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


def between(number: Callable[[str], Any], low: float, high: float) -> Callable[[str], Any]:
    """Return a parser that uses `number` and refuses values outside `low` to `high`."""

    def parse(text: str) -> Any:
        value = number(text)
        if not low <= value <= high or math.isinf(value):
            raise ValueError(text)
        return value

    return parse


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # nobody has that name
        raise ValueError(text) from error


def redis_url(text: str) -> str:
    """Return the URL of a Redis unchanged. Raises ValueError for another URL."""
    if not re.fullmatch(r"(rediss?|unix)://.+", text):
        raise ValueError(text)
    urlsplit(text).port  # noqa: B018 - raises ValueError for what is no port
    return text


def matching(pattern: str) -> Callable[[str], str]:
    """Return a parser that refuses texts that do not match the whole `pattern`."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return parse


BOOLEAN = SettingType(_boolean, "true or false")
TEXT = SettingType(str, "any text")
PATH = SettingType(_path, "a path")


def _existing_file(text: str) -> Path:
    path = _path(text)
    if not path.is_file():
        raise ValueError(text)
    return path


EXISTING_FILE = SettingType(_existing_file, "the path of a file that exists")


def _absolute_folders(text: str) -> tuple[str, ...]:
    folders = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(Path(folder).is_absolute() for folder in folders):
        raise ValueError(text)
    return folders


ABSOLUTE_FOLDERS = SettingType(_absolute_folders, "absolute paths separated by ','")


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(text)
    parts.port  # noqa: B018 - raises ValueError for what is no port
    return text


HTTP_URL = SettingType(_http_url, "an http or https URL")


def at_least_one(kind: SettingType) -> SettingType:
    """Return `kind`, except that an empty list is refused."""

    def parse(text: str) -> Any:
        if not (found := kind.parse(text)):
            raise ValueError(text)
        return found

    return SettingType(parse, f"{kind.allowed}, at least one")


def whole(low: int, high: int) -> SettingType:
    """Return a whole number from `low` to `high`."""
    return SettingType(between(int, low, high), f"a whole number from {low} to {high}")


def number(low: float, high: float = math.inf) -> SettingType:
    """Return a number from `low` to `high`."""
    upper = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
    return SettingType(between(float, low, high), f"a number {upper}")


def choice(*values: str) -> SettingType:
    """One of `values`, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in values:
            raise ValueError(text)
        return text.lower()

    return SettingType(parse, "one of " + ", ".join(v or "(empty)" for v in values))


def lenient(kind: SettingType, default: Any) -> SettingType:
    """Return `kind`, except that a value it refuses means the default."""

    def parse(text: str) -> Any:
        try:
            return kind.parse(text)
        except ValueError:
            return default

    return SettingType(parse, f"{kind.allowed}; anything else means the default")


def listed(separator: str) -> SettingType:
    """Return a list of texts; spaces around them and empty ones are dropped."""

    def parse(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(separator) if part.strip())

    return SettingType(parse, f"texts separated by {separator!r}")


@dataclasses.dataclass(frozen=True)
class NamedKey:
    """An API key and what it is called; an empty name stands for a part of its SHA-256."""

    name: str
    key: str


def named_keys(text: str) -> tuple[NamedKey, ...]:
    """`key` or `name:key` between commas."""
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        name, colon, key = part.partition(":")
        if colon and not (re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) and key):
            raise ValueError(text)
        found.append(NamedKey(name, key) if colon else NamedKey("", part))
    if not found:
        raise ValueError(text)
    return tuple(found)


NAMED_KEYS = SettingType(
    named_keys, "`key` or `name:key`, separated by ','; a name has letters, digits and _.- only"
)


def _origins(text: str) -> tuple[str, ...]:
    found = tuple(part.strip().rstrip("/").lower() for part in text.split(",") if part.strip())
    if not found or any(
        part != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/,\s]+", part) for part in found
    ):
        raise ValueError(text)
    return found


ORIGINS = SettingType(_origins, "origins such as https://app.example.com, separated by ',', or *")


def addresses(separator: str) -> SettingType:
    """Return a list of hosts, with or without a port."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in text.split(separator) if part.strip())
        for part in found:
            address = urlsplit(f"//{part}")
            if not address.hostname or address.port == 0 or address.netloc != part:
                raise ValueError(part)
        return found

    return SettingType(parse, f"host:port, separated by {separator!r}")


def pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`name=value` between semicolons; names in lower case."""
    found = [part.partition("=") for part in text.split(";") if part.strip()]
    if any(not name.strip() or not value.strip() for name, _, value in found):
        raise ValueError(text)
    return tuple((name.strip().lower(), value.strip()) for name, _, value in found)


def networks(text: str) -> tuple[IPNetwork, ...]:
    """IP networks between commas."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _foreign(text: str) -> str:
    if text.startswith(PREFIX):
        raise ValueError(text)
    return text


TOPIC = SettingType(_foreign, f"any text that does not begin with {PREFIX}")


def limit(default: int) -> SettingType:
    """Return a bound on a queue, where every text that is no positive whole number means the default."""

    def parse(text: str) -> int:
        return int(text) if re.fullmatch(r"0*[1-9][0-9]*", text) else default

    return SettingType(parse, "a whole number from 1; anything else means the default")
