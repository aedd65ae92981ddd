"""Structured logs: one event per line, JSON or coloured, for our code and the libraries alike.

No credential and no `data:` payload gets into a line, ours or a library's.
"""

import logging
import re
import sys
import time
from collections.abc import Mapping
from itertools import islice
from logging.handlers import TimedRotatingFileHandler
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.settings import Settings
from shared.telemetry.redaction import LONGEST, redact, secret_values
from shared.telemetry.seldom import Seldom

PERF, STATUS = 15, 16
DAYS_KEPT = 7
FILE_NAME = "rtvi.log"

_LEVELS = {"perf": PERF, "status": STATUS, "warn": logging.WARNING}
MOST_PARTS, DEEPEST = 64, 8
"""Of a list or mapping: parts that are logged, and levels."""
_DATA_URL = re.compile(r"(data:[\w.+-]{0,64}+/[^,\s]{0,200}+,)[\w+/=%.~-]{16,}", re.IGNORECASE)


def configure(settings: Settings, **bound: Any) -> None:
    """Send every log line to standard error, and to a file if one is set, with `bound` on each line."""
    logging.addLevelName(PERF, "PERF")
    logging.addLevelName(STATUS, "STATUS")
    level = _LEVELS.get(settings.log_level) or logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared = _processors(settings, bound)
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(_formatter(shared, console=console))
    seldom = Seldom()
    terminal.addFilter(seldom)
    root = logging.getLogger()
    root.handlers[:] = [terminal]
    root.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    name = bound.get("worker") or bound.get("process", "")
    if path := log_file(settings, "" if name == "gateway" else name):
        try:
            file = _rotating(path)
        except OSError as error:
            structlog.get_logger(__name__).warning("no log file", path=str(path), error=str(error))
            return
        file.setFormatter(_formatter(shared, console=False))
        root.addHandler(file)


def x_request_id() -> str:
    """Return the id of the HTTP request that is being served; "" outside of one."""
    return _of_context("x_request_id")


def client_logged() -> str:
    """Return the address of the client whose HTTP request is being served; "" outside of one."""
    return _of_context("client")


def _of_context(name: str) -> str:
    found: str = structlog.contextvars.get_contextvars().get(name, "")
    return found


def log_file(settings: Settings, process: str = "") -> Path | None:
    """Return where this process logs to. Only one process may rotate a file, so each has its own."""
    path = settings.log_file or (settings.log_dir / FILE_NAME if settings.log_dir else None)
    return path.with_name(f"{path.stem}-{process}{path.suffix}") if path and process else path


def _processors(settings: Settings, bound: Mapping[str, Any]) -> list[Processor]:
    def bind(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**bound, **event}

    return [
        structlog.contextvars.merge_contextvars,
        bind,
        _without_colours,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.UnicodeDecoder(),
        structlog.processors.format_exc_info,
        _Clean(secret_values(settings)),
    ]


def _without_colours(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Drop Uvicorn's second, coloured copy of each line."""
    event.pop("color_message", None)
    return event


def _formatter(shared: list[Processor], *, console: bool) -> logging.Formatter:
    renderer: Processor = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )


class _Clean:
    """Removes credentials and payloads from an event, at any depth."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._secrets = secrets

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        for name, value in event.items():
            if not name.startswith("_"):
                event[name] = self._clean(value)
        return event

    def _clean(self, value: Any, level: int = 0) -> Any:
        if isinstance(value, str):
            return redact(_DATA_URL.sub(r"\1...", value[: 4 * LONGEST]), self._secrets)
        if isinstance(value, Mapping) and level < DEEPEST:
            parts = islice(value.items(), MOST_PARTS)
            return {self._clean(str(name)): self._clean(part, level + 1) for name, part in parts}
        if isinstance(value, list | tuple | set | frozenset) and level < DEEPEST:
            return [self._clean(part, level + 1) for part in islice(value, MOST_PARTS)]
        if value is None or isinstance(value, float):
            return value
        if isinstance(value, int):
            return value if -(1 << 64) < value < 1 << 64 else "(a very large number)"
        return self._clean(str(value))


def _rotating(path: Path) -> TimedRotatingFileHandler:
    """A new file every midnight. Those of workers that are gone are deleted after DAYS_KEPT days."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.stem.partition("-")[0]
    for old in path.parent.glob(f"{stem}-*.log*"):
        if old.stat().st_mtime < time.time() - DAYS_KEPT * 86_400:
            old.unlink(missing_ok=True)
    return TimedRotatingFileHandler(path, when="midnight", backupCount=DAYS_KEPT, encoding="utf-8", utc=True)
