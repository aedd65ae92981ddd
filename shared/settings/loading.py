"""Every setting of the service: one frozen object, read once from the environment at start.

A setting is a field in the module of its subject (`camera_settings.py`, `model_settings.py`, ...) that names
its variable, its default, what is allowed and what it means. `deploy/settings.md` is generated from them
(`python -m shared.settings`).
"""

import dataclasses
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import SettingsError
from shared.settings.asset_settings import AssetSettings
from shared.settings.camera_settings import CameraSettings
from shared.settings.message_settings import MessageSettings
from shared.settings.model_settings import ModelSettings
from shared.settings.names import unknown_names
from shared.settings.queue_settings import QueueSettings
from shared.settings.redis_settings import RedisSettings
from shared.settings.search_settings import SearchSettings
from shared.settings.serving_settings import ServingSettings
from shared.settings.setting_types import SettingType
from shared.settings.telemetry_settings import TelemetrySettings
from shared.settings.worker_settings import WorkerSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(
    ServingSettings,
    TelemetrySettings,
    RedisSettings,
    AssetSettings,
    QueueSettings,
    WorkerSettings,
    CameraSettings,
    MessageSettings,
    SearchSettings,
    ModelSettings,
):
    """The whole configuration. Sizes are bytes, times seconds, unless the name says otherwise."""


GROUPS: tuple[Any, ...] = Settings.__bases__
"""The classes that hold the fields, in the order of the documentation; their docstrings are its headings."""
FIELDS = tuple(field for group in GROUPS for field in dataclasses.fields(group))
VARIABLES = frozenset(field.metadata["variable"] for field in FIELDS)


def load(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Return the settings of `environment` (by default the process's own). An empty variable counts as unset,
    except where emptiness has a meaning.

    Raises SettingsError with every bad variable, its value and what is allowed, and every variable of ours
    that does not exist, with the nearest that does.
    """
    settings, problems = read(os.environ if environment is None else environment, **overrides)
    if problems := problems or contradictions(settings):
        raise SettingsError("; ".join(problems))
    return settings


def read(source: Mapping[str, str], **overrides: Any) -> tuple[Settings, list[str]]:
    """Return the settings of `source`, those with a bad value at their defaults, and what is wrong."""
    values: dict[str, Any] = {}
    problems = unknown_names(source, VARIABLES)
    for field in FIELDS:
        variable = field.metadata["variable"]
        text = source.get(variable, "").strip()
        if not text and not (field.metadata["empty"] and variable in source):
            continue
        kind: SettingType = field.metadata["kind"]
        try:
            values[field.name] = kind.parse(text)
        except ValueError:
            shown = "(hidden)" if field.metadata["secret"] else repr(text)
            problems.append(f"{variable}={shown}: must be {kind.allowed}")
    return Settings(**{**values, **overrides}), problems


def contradictions(settings: Settings) -> list[str]:
    """Return which settings exclude each other."""
    problems = []
    if settings.redis_cluster and settings.redis_sentinels:
        problems.append("REDIS_CLUSTER and REDIS_SENTINELS exclude each other: set one of them")
    if settings.redis_cluster and settings.redis_db:
        problems.append(f"REDIS_DB={settings.redis_db}: a cluster has database 0 only")
    if (settings.redis_url or "").startswith("unix:") and (
        settings.redis_cluster or settings.redis_sentinels
    ):
        problems.append("REDIS_URL names a socket, which REDIS_CLUSTER and REDIS_SENTINELS cannot use")
    return problems


def worker_name(settings: Settings) -> str:
    """Return the name of this worker or indexer in Redis."""
    return settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"


def table() -> str:
    """Return every setting as Markdown: a heading and a table for each group."""
    return "\n\n".join(f"## {group.__doc__}\n\n{_rows(group)}" for group in GROUPS)


def _rows(group: Any) -> str:
    rows = ["| variable | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(group):
        default = "" if field.default is None else str(field.default).replace(str(Path.home()), "~")
        kind: SettingType = field.metadata["kind"]
        cells = (f"`{field.metadata['variable']}`", default, kind.allowed, field.metadata["meaning"])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)
