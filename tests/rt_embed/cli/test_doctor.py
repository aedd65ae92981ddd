"""`rt-embed doctor` on what works, and on what does not."""

import asyncio
import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from rt_embed.cli import doctor
from rt_embed.cli.doctor import examine
from rt_embed.cli.main import run
from shared.findings import Finding
from shared.fleet import Worker, announce
from shared.redis.connection import Redis
from shared.settings import load
from tests.brokers import MockCluster
from tests.buckets import Buckets
from tests.e2e.conftest import Stack
from tests.rt_embed.conftest import serve
from tests.support import RedisServer, free_port


@pytest.fixture
def environment(redis_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        "REDIS_URL": redis_url, "ASSET_STORAGE_DIR": str(tmp_path / "assets"), "MODEL_PATH": "demo",
        "NGC_MODEL_CACHE": str(tmp_path / "models"), "RTEMBED_DATA_DIR": str(tmp_path / "data"),
        "BACKEND_PORT": str(free_port()),
    }  # fmt: skip


async def found(environment: dict[str, str]) -> dict[str, Finding]:
    """Findings by subject; the worst of those that have the same."""
    order = {"ok": 0, "warning": 1, "wrong": 2}
    return {f.subject: f for f in sorted(await examine(environment), key=lambda f: order[f.state])}


async def test_what_works_is_said(environment: dict[str, str], redis: Redis) -> None:
    await announce(redis, Worker(name="w", state="ready", detail="running", backend="cpu"))
    look = await found(environment)
    assert {subject for subject, finding in look.items() if finding.state == "wrong"} == set()
    assert look["Redis"].found.startswith("valkey 9.")
    assert "persistence: append-only file" in look["Redis"].found
    assert look["clock"].state == "ok"
    assert look["worker w"].found == "ready: running"
    assert look["uploaded files"].found.endswith("GiB free")
    assert look["model demo"].found == "the demonstration model; its packages are installed"
    assert look["messages"].found == "embeddings go to off, errors to off"
    assert look["gateway"].state == "warning"
    assert look["GPU"].found.startswith("not used: ")
    assert "extras: worker" in look["installation"].found


async def test_settings_that_cannot_be_read_are_the_only_finding() -> None:
    (finding,) = await examine({"BACKEND_PORT": "x"})
    assert (finding.subject, finding.state) == ("settings", "wrong")
    assert "BACKEND_PORT='x'" in finding.found


async def test_settings_of_the_original_that_do_nothing_are_named(environment: dict[str, str]) -> None:
    look = await found({**environment, "NUM_VLM_PROCS": "10"})
    assert look["settings"].found == "NUM_VLM_PROCS of RT-Embed has no effect"


async def test_no_redis(environment: dict[str, str]) -> None:
    look = await found({**environment, "REDIS_URL": f"redis://u:secret@127.0.0.1:{free_port()}"})
    assert look["Redis"].state == "wrong"
    assert "secret" not in look["Redis"].found
    assert "rt-embed up brings its own" in look["Redis"].advice


async def test_a_redis_that_forgets_and_evicts(environment: dict[str, str], redis62: RedisServer) -> None:
    from redis import Redis as BlockingRedis

    with BlockingRedis(port=redis62.port) as client:
        before = client.config_get("*")
        try:
            client.config_set("appendonly", "no")
            client.config_set("maxmemory", "100mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
            findings = await examine({**environment, "REDIS_URL": redis62.url})
        finally:
            for name in ("appendonly", "maxmemory", "maxmemory-policy"):
                client.config_set(name, before[name])
    advice = {finding.advice for finding in findings if finding.state == "warning"}
    assert {"set noeviction", "accepted work is lost when it restarts; set appendonly yes"} & advice
    (version,) = [
        finding.found for finding in findings if finding.subject == "Redis" and finding.state == "ok"
    ]
    assert version.startswith("redis 6.2")


def test_a_redis_that_is_too_old() -> None:
    assert doctor._version("here", {"redis": "redis 6.0.16"}).state == "wrong"
    assert doctor._version("here", {"redis": "redis 10.1"}).state == "ok"
    assert doctor._version("here", {"redis": "valkey 7.2.5"}).state == "ok"


def test_a_clock_that_is_off() -> None:
    assert doctor._clock(100.0, 99.5, 100.5) == Finding("clock", "ok", "0.0 s from Redis's")
    assert doctor._clock(100.0, 103.0, 103.5).found == "3.0 s from Redis's"
    assert doctor._clock(110.0, 103.0, 103.5).state == "warning"


async def test_a_worker_that_is_not_well(environment: dict[str, str], redis: Redis) -> None:
    await announce(redis, Worker(name="w", state="ready", detail="its engine hangs", healthy=False))
    look = await found(environment)
    assert (look["worker w"].state, look["worker w"].found) == ("wrong", "ready: its engine hangs")


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load({"ASSET_STORAGE_DIR": str(tmp_path / "a" / "b"), "MAX_ASSET_STORAGE_SIZE_GB": "1000000"})
    assert doctor._space("uploaded files", settings.asset_dir, settings).advice.startswith("lower MAX_ASSET")
    assert doctor._space("model cache", settings.asset_dir, settings).state == "ok"
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 1 << 60)
    assert doctor._space("model cache", tmp_path, settings).advice == "free some space before it is full"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert doctor._space("model cache", tmp_path, settings).state == "wrong"


async def test_buckets(environment: dict[str, str], buckets: Buckets) -> None:
    bucket = buckets.make()
    there = await found({**environment, **buckets.environment(bucket)})
    assert there["asset store"].state == "ok"
    assert "uploaded files" not in there
    gone = await found(
        {**environment, **buckets.environment(bucket), "RTEMBED_ASSET_STORE": "s3://no-such-one"}
    )
    assert gone["asset store"].state == "wrong"
    assert "NoSuchBucket" in gone["asset store"].found


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    made = MockCluster()
    yield made
    made.close()


async def test_kafka(environment: dict[str, str], cluster: MockCluster) -> None:
    kafka = {"KAFKA_ENABLED": "true", "KAFKA_BOOTSTRAP_SERVERS": cluster.servers, "KAFKA_TOPIC": "vectors"}
    look = await found({**environment, **kafka})
    assert look["Kafka"].found.endswith("has no topic mdx-embed-errors, vectors")
    for topic in ("mdx-embed-errors", "vectors"):
        cluster.create_topic(topic)
    look = await found({**environment, **kafka})
    assert (look["Kafka"].state, look["Kafka"].found[-31:]) == (
        "ok",
        "topics mdx-embed-errors, vectors"[-31:],
    )
    nobody = {**kafka, "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}
    assert "advertised listeners" in (await found({**environment, **nobody}))["Kafka"].advice
    unnamed = {**environment, "KAFKA_ENABLED": "true"}
    assert (await found(unnamed))["Kafka"].found.endswith("KAFKA_BOOTSTRAP_SERVERS is empty")


async def test_the_search_index(environment: dict[str, str], search_url: str) -> None:
    look = await found({**environment, "RTEMBED_SEARCH_URL": search_url})
    assert look["search"].found.startswith("PostgreSQL ")
    nobody = f"postgresql://127.0.0.1:{free_port()}/x"
    look = await found({**environment, "RTEMBED_SEARCH_URL": nobody})
    assert (look["search"].state, look["search"].advice) == ("wrong", "check RTEMBED_SEARCH_URL")
    look = await found({**environment, "RTEMBED_SEARCH_URL": f"postgresql://{'a' * 64}.example/x"})
    assert (look["search"].state, look["search"].advice) == ("wrong", "check RTEMBED_SEARCH_URL")


async def test_a_gateway(environment: dict[str, str], service: Stack) -> None:
    look = await found({**environment, "BACKEND_PORT": str(service.port)})
    assert look["gateway"].found == f"http://127.0.0.1:{service.port} is ready"


class Other(BaseHTTPRequestHandler):
    """Some other service."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        pass


async def test_something_else_at_the_gateways_port(environment: dict[str, str]) -> None:
    with serve(Other) as url:
        look = await found({**environment, "BACKEND_PORT": url.rpartition(":")[2]})
    assert look["gateway"].found == f"something else than rt-embed answers at {url}"


async def test_a_check_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 0.01)

    async def hang() -> doctor.Findings:
        yield Finding("first", "ok", "there")
        await asyncio.Event().wait()

    assert await doctor._bounded(hang()) == [
        Finding("first", "ok", "there"),
        Finding("first", "wrong", "no answer within 0 s", "is its network reachable?"),
    ]


async def test_without_the_extra_no_worker_can_run(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "WORKER_CHECKS", "no_such_package.checks")
    look = await found(environment)
    assert look["worker"].found == "no worker can run here: no_such_package is not installed"


def test_the_command(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok    installation: rt-embed 3.2.0")
    assert any(line.startswith("note  workers: none is running") for line in lines)
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    assert run(["doctor", "--json"]) == 1
    shown: Any = json.loads(capsys.readouterr().out)
    assert [finding["subject"] for finding in shown if finding["state"] == "wrong"] == ["Redis"]
