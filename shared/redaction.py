"""Keeping credentials out of what leaves the service: messages, error events, addresses shown to people."""

import dataclasses
import re

from shared.settings import Settings

HIDDEN = "***"

# A password may hold "/" or "@" unencoded; a port is digits up to the "/", and so no password here.
_USERINFO = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?:[^\s/?#]*@|[^\s/@:]*:(?!\d{1,5}/)[^\s@]*@)", re.I)
_SECRET_NAMES = (
    r"[\w.-]*(?:password|passwd|pwd|secret|token|signature|credential|api[_-]?key|access[_-]?key(?:[_-]?id)?)|sig"
)
_PARAMETER = re.compile(rf"(?P<name>[?&;](?:{_SECRET_NAMES})=)[^&#\s\"']*", re.I)
_ASSIGNMENT = re.compile(rf"(?P<name>\b(?:{_SECRET_NAMES})[\"']?\s*[=:]\s*[\"']?)[^\s&\"',;]+", re.I)
_AUTHORIZATION = re.compile(r"(?P<name>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}", re.I)


def without_userinfo(url: str) -> str:
    """The address without user name and password."""
    return _USERINFO.sub(r"\g<scheme>", url)


def redact(text: str, secrets: tuple[str, ...] = ()) -> str:
    """The text without credentials: those in URLs, secret-looking parameters, and the given `secrets`."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = without_userinfo(text)
    for pattern in (_PARAMETER, _ASSIGNMENT, _AUTHORIZATION):
        text = pattern.sub(rf"\g<name>{HIDDEN}", text)
    return text


def secret_values(settings: Settings) -> tuple[str, ...]:
    """The secrets that the settings hold, longest first so that none hides part of another."""
    values = [
        getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.metadata["secret"] and getattr(settings, field.name)
    ]
    return tuple(sorted(values, key=len, reverse=True))
