"""`rt-embed backup` and `rt-embed restore`: what the service keeps, as a folder, and back."""

import asyncio
import dataclasses
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from rt_embed.cli.data_folder import configuration_here, redis_address
from rt_embed.cli.settings_command import effective
from rt_embed.cli.terminal import CommandFailed, ExitStatus, command_group, facts, require_extra, terminal
from shared import keys
from shared.assets import ASSETS, Asset
from shared.errors import RtEmbedError
from shared.fleet import read_fleet
from shared.redis import snapshot
from shared.redis.connection import Redis, RedisError, connect
from shared.search.index_tables import IndexTable
from shared.settings import Settings
from shared.telemetry import logs

INDEX = "search.index_copy"
MANIFEST, REDIS, ASSET_LIST, FILES = "manifest.json", "redis.snapshot", "assets.jsonl", "files"
PATIENCE = 300.0
"""Seconds that one command of Redis may take: the snapshot is one."""

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the backup.")]
app = command_group()


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds. Written last: a folder without it is no backup."""

    version: str
    taken: str
    redis: str
    keys: int
    assets: int
    asset_bytes: int
    asset_store: str
    files: bool
    model_path: str
    model_cache: str
    index: list[IndexTable] | None = None
    """Its tables; None: there is no index."""
    settings: list[dict[str, Any]] = []
    """As `rt-embed settings --json` prints them, without secrets."""


@app.command("backup")
def backup(
    folder: Folder,
    *,
    files: Annotated[bool, typer.Option("--files", help="Copy the folder of uploaded files, too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write what the service keeps into a new folder: Redis, the list of its files, the search index.

    The service may run meanwhile. The folder holds what Redis holds, passwords of cameras too: keep it safe.
    """
    configuration = configuration_here(os.environ)
    if files and configuration.asset_store:
        raise CommandFailed(
            f"--files copies a folder; {configuration.asset_store} has versions of its own",
            ExitStatus.WRONG_USE,
        )
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise CommandFailed(f"{folder} exists: name a new folder", ExitStatus.WRONG_USE) from error
    began = time.monotonic()
    manifest = _with_redis(configuration, lambda redis: _take(configuration, redis, folder, files=files))
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    _tell(manifest, folder, began, json=json)


@app.command("restore")
def restore(
    folder: Folder,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Delete existing data first.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put a backup into an empty Redis, asset folder and database, while nothing of the service runs.

    Settings say where, as for a gateway. Work that was under way goes on when workers start.
    """
    configuration = configuration_here(os.environ)
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=BackupManifest)
    except OSError as error:
        raise CommandFailed(f"{folder} holds no whole backup: {MANIFEST}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise CommandFailed(f"{folder / MANIFEST} cannot be read: {error}") from error
    began = time.monotonic()
    _with_redis(configuration, lambda redis: _put(configuration, redis, folder, manifest, replace=replace))
    _tell(manifest, folder, began, json=json)
    missing = [a for a in _listed(folder) if a.path.startswith("/") and not Path(a.path).exists()]
    if missing:
        terminal.note(
            f"{len(missing)} of {manifest.assets} files are not there, the first is {missing[0].path}"
        )
    if manifest.index is not None and not configuration.search_url:
        terminal.note("the search index was left out: RTEMBED_SEARCH_URL is unset")


async def _take(configuration: Settings, redis: Redis, folder: Path, *, files: bool) -> BackupManifest:
    entries = await snapshot.take_snapshot(redis)
    snapshot.write_snapshot(folder / REDIS, entries)
    index = None
    if configuration.search_url:  # after Redis, whose messages change nothing when they are indexed again
        index = await _index().export_index(configuration, folder)
    assets = await _assets(redis, [entry.key for entry in entries])
    with (folder / ASSET_LIST).open("xb") as file:
        file.writelines(msgspec.json.encode(asset) + b"\n" for asset in assets)
    if files:
        hidden = shutil.ignore_patterns(".*")
        await asyncio.to_thread(shutil.copytree, configuration.asset_dir, folder / FILES, ignore=hidden)
    info: Any = await redis.info("server")
    return BackupManifest(
        version=version("rt-embed"),
        taken=datetime.now(UTC).isoformat(timespec="seconds"),
        redis=str(info.get("valkey_version") or info.get("redis_version", "")),
        keys=len(entries),
        assets=len(assets),
        asset_bytes=sum(asset.size for asset in assets),
        asset_store=configuration.asset_store or str(configuration.asset_dir),
        files=files,
        model_path=configuration.model_path,
        model_cache=str(configuration.model_cache),
        index=index,
        settings=[{"group": g, **row} for g, rows in effective(os.environ).items() for row in rows],
    )


async def _assets(redis: Redis, names: list[bytes]) -> list[Asset]:
    """Return the records of files; cameras have none."""
    first, ours = keys.asset("").encode(), []
    for name in names:
        if name.startswith(first) and b":" not in name.removeprefix(first):
            fields: Any = await redis.hgetall(name)
            if fields and (asset := ASSETS.read(fields)).kind == "file":
                ours.append(asset)
    return ours


def _listed(folder: Path) -> list[Asset]:
    return [msgspec.json.decode(line, type=Asset) for line in (folder / ASSET_LIST).read_bytes().splitlines()]


async def _put(
    configuration: Settings, redis: Redis, folder: Path, manifest: BackupManifest, *, replace: bool
) -> None:
    if running := [worker.name for worker in (await read_fleet(redis)).workers if not worker.gave_up]:
        raise CommandFailed(f"{running[0]} is running: stop workers, gateways and indexers first")
    if replace:
        await snapshot.clear(redis)
    elif found := await snapshot.our_keys(redis):
        raise CommandFailed(
            f"Redis at {redis_address(configuration)} has {len(found)} keys of a service: name an empty one, "
            "or --replace"
        )
    if manifest.files and configuration.asset_store:
        raise CommandFailed(
            f"the backup's files are a folder's: copy {folder / FILES} into the bucket yourself"
        )
    if manifest.index is not None and configuration.search_url:
        await _index().import_index(configuration, folder, manifest.index, replace=replace)
    if manifest.files:
        copy = shutil.copytree
        await asyncio.to_thread(copy, folder / FILES, configuration.asset_dir, dirs_exist_ok=True)
    await snapshot.put_snapshot(redis, snapshot.read_snapshot(folder / REDIS))


def _index() -> Any:
    """Return the module that copies the index, whose packages an installation may lack."""
    require_extra("search", "psycopg", "pgvector")
    return import_module(INDEX)


def _with_redis(configuration: Settings, work: Callable[[Redis], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        redis = connect(dataclasses.replace(configuration, redis_timeout=PATIENCE))
        try:
            return await work(redis)
        finally:
            await redis.aclose()

    logs.configure(configuration)  # to standard error
    try:
        return asyncio.run(run())
    except RedisError as error:
        raise CommandFailed(
            f"Redis at {redis_address(configuration)}: {error}", ExitStatus.UNREACHABLE
        ) from error
    except OSError as error:
        raise CommandFailed(f"{error.filename or 'a file'}: {error.strerror or error}") from error
    except RtEmbedError:
        raise
    except Exception as error:  # the database's, whose package may be missing
        if type(error).__module__.partition(".")[0] != "psycopg":
            raise
        raise CommandFailed(f"RTEMBED_SEARCH_URL: {error}", ExitStatus.UNREACHABLE) from error


def _tell(manifest: BackupManifest, folder: Path, began: float, *, json: bool) -> None:
    rows = None if manifest.index is None else {table.name: table.rows for table in manifest.index}
    told = {
        "folder": str(folder), "taken": manifest.taken, "keys": manifest.keys, "assets": manifest.assets,
        "asset_bytes": manifest.asset_bytes, "files": manifest.files, "index": rows,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    if json:
        terminal.json(told)
    else:
        terminal.out.print(facts(told))
