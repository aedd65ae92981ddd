"""Removes credentials from what leaves the service: messages, error events, addresses."""

import dataclasses
import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from shared.settings import Settings
from shared.settings.setting_types import NamedKey

HIDDEN = "***"
LONGEST = 16_384
"""Characters of a text that are looked at, and kept."""

# Texts come from clients, cameras and brokers, so every pattern takes time in proportion to the text: nothing
# that repeats can begin in the middle of what another attempt has just read.
_USERINFO = re.compile(
    r"""(?<=[a-z0-9+.-])://(?:
        # A password may hold "/" and "@", unencoded; digits up to a "/" or the end are a port. It ends at the
        # last "@" of the address or, where there is none, of its query.
        [^\s/@:?\#]*:(?!\d{1,5}(?:["'<>/?\#\s,;)\]]|\Z))
        (?:[^\s:?\#"'<>]*(?::(?!//)[^\s:?\#"'<>]*)*@|[^\s:@"'<>]*(?::(?!//)[^\s:@"'<>]*)*@)
        |[^\s/?\#]*@)""",
    re.IGNORECASE | re.VERBOSE,
)
_ASSIGNMENT = re.compile(
    r"""(?P<name>(?:password|passwd|pwd|secret|token|signature|credential|\bsig
        |api[_-]?key|access[_-]?key(?:[_-]?id)?)["']?\s*[=:]\s*["']?)[^\s&"',;]+""",
    re.IGNORECASE | re.VERBOSE,
)
_AUTHORIZATION = re.compile(
    r"(?P<name>\b(?:authorization[\"']?\s*[:=]\s*[\"']?\w+\s+|bearer\s+))[A-Za-z0-9._~+/=-]{4,}",
    re.IGNORECASE,
)


def without_userinfo(url: str) -> str:
    """Return the address without user name and password."""
    return _USERINFO.sub("://", url)


def without_query(url: str) -> str:
    """Return the address without user name, password, query and fragment: a query may be a signature."""
    return without_userinfo(url).partition("#")[0].partition("?")[0]


def redact(text: str, secrets: tuple[str, ...] = (), longest: int = LONGEST) -> str:
    """Return the text without credentials: those in URLs, secret-looking parameters, and the `secrets`.

    What is longer than `longest` characters is cut, after a look at what the cut might have split.
    """
    shortened = text[: 2 * longest]
    for secret in secrets:
        shortened = shortened.replace(secret, HIDDEN)
    shortened = without_userinfo(shortened)
    for pattern in (_ASSIGNMENT, _AUTHORIZATION):
        shortened = pattern.sub(rf"\g<name>{HIDDEN}", shortened)
    if len(text) <= 2 * longest and len(shortened) <= longest:
        return shortened
    return f"{shortened[:longest]}... (cut)"


def secret_values(settings: Settings) -> tuple[str, ...]:
    """Return the secrets that the settings hold, longest first so that none hides part of another.

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
    elif isinstance(value, NamedKey):
        yield value.key
    elif isinstance(value, tuple):
        for part in value:
            yield from _texts(part)


def _spellings(secret: str) -> set[str]:
    """Return the secret itself, and the password in it where it is a URL."""
    return {secret, unquote(urlsplit(secret).password or "") if "://" in secret else ""}
