"""Settings from a file: lines of NAME=value, as Compose's `.env`, or TOML."""

import os
import re
import tomllib
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from shared.errors import SettingsError

MOST_BYTES = 1 << 20
NAME = r"[A-Za-z_][A-Za-z0-9_]*"
LINE = re.compile(rf"(?:export\s+)?({NAME})\s*=\s*(.*)")
origins: dict[str, str] = {}
"""The file from which each variable of this process's environment came, if one did."""


def read_settings_file(path: Path) -> dict[str, str]:
    """Return the variables in a file: TOML if its name ends in `.toml`, else lines of NAME=value.

    Raises SettingsError with the file, the line and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise SettingsError(f"{path}: is longer than {MOST_BYTES} bytes")
        text = content.decode()
        return _of_toml(tomllib.loads(text), str(path)) if path.suffix == ".toml" else _of_lines(text, path)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from error


def apply_settings_file(path: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables of a file that the environment does not have. Raises SettingsError."""
    for name, value in read_settings_file(path).items():
        if name not in environment:
            environment[name] = value
            origins[name] = str(path)


def _of_toml(table: dict[str, Any], where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, dict):  # a heading, for people
            found |= _of_toml(value, where)
        elif isinstance(value, bool):
            found[name] = str(value).lower()
        elif isinstance(value, str | int | float):
            found[name] = str(value)
        else:
            raise SettingsError(f"{where}: {name[:100]} must be a string, a number, true or false")
        if "\0" in found.get(name, "") or not re.fullmatch(NAME, name):
            raise SettingsError(f"{where}: {name[:100]!r} cannot be a variable with this value")
    return found


def _of_lines(text: str, path: Path) -> dict[str, str]:
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (content := line.strip()) or content.startswith("#"):
            continue
        matched = LINE.fullmatch(content)
        if not matched or "\0" in content:
            raise SettingsError(f"{path}, line {number}: must be NAME=value")
        name, value = matched[1], matched[2]
        try:
            found[name] = _value(value)
        except ValueError as error:
            raise SettingsError(f"{path}, line {number}: {name[:100]} {error}") from error
    return found


def _value(text: str) -> str:
    """Return a value without its quotes or the comment after it. Raises ValueError."""
    quote = text[:1]
    if quote in {"'", '"'}:
        end = text.find(quote, 1)
        rest = text[end + 1 :].strip()
        if end < 0 or (rest and not rest.startswith("#")):
            raise ValueError(f"has no closing {quote} at its end")
        value = text[1:end]
    else:
        value = re.split(r"\s#", text, maxsplit=1)[0].rstrip()
    if "${" in value and quote != "'":
        raise ValueError("names another variable: ${...} is not replaced here")
    return value
