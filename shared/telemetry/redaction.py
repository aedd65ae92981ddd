"""Keeping credentials out of what leaves the service: messages, error events, addresses shown to people."""

import dataclasses
import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from shared.settings import Settings

HIDDEN = "***"

# A password may hold "/" or "@" unencoded; a port is digits up to the "/", and so no password here.
_USERINFO = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?:[^\s/?#]*@|[^\s/@:]*:(?!\d{1,5}/)[^\s@]*@)", re.IGNORECASE
)
_NAMES = (
    r"[\w.-]*(?:password|passwd|pwd|secret|token|signature|credential|api[_-]?key|access[_-]?key(?:[_-]?id)?)"
)
_ASSIGNMENT = re.compile(rf"(?P<name>\b(?:{_NAMES}|sig)[\"']?\s*[=:]\s*[\"']?)[^\s&\"',;]+", re.IGNORECASE)
_AUTHORIZATION = re.compile(
    r"(?P<name>\b(?:authorization[\"']?\s*[:=]\s*[\"']?\w+\s+|bearer\s+))[A-Za-z0-9._~+/=-]{4,}",
    re.IGNORECASE,
)


def without_userinfo(url: str) -> str:
    """The address without user name and password."""
    return _USERINFO.sub(r"\g<scheme>", url)


def redact(text: str, secrets: tuple[str, ...] = ()) -> str:
    """The text without credentials: those in URLs, secret-looking parameters, and the given `secrets`."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = without_userinfo(text)
    for pattern in (_ASSIGNMENT, _AUTHORIZATION):
        text = pattern.sub(rf"\g<name>{HIDDEN}", text)
    return text


def secret_values(settings: Settings) -> tuple[str, ...]:
    """The secrets that the settings hold, longest first so that none hides part of another.

    Those of fewer than four characters are left out: hiding them would make every text unreadable.
    """
    values: set[str] = set()
    for field in dataclasses.fields(settings):
        if field.metadata["secret"]:
            values.update(*map(_spellings, _texts(getattr(settings, field.name))))
    return tuple(sorted((v for v in values if len(v) >= 4), key=len, reverse=True))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _texts(part)


def _spellings(secret: str) -> set[str]:
    """The secret itself, and the password in it where it is a URL."""
    return {secret, unquote(urlsplit(secret).password or "") if "://" in secret else ""}
