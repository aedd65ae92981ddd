"""REDIS_PASSWORD protects the servers that Compose and Kubernetes start: their commands are run."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisAway

from tests.support import free_port, valkey_binary

DEPLOY = Path(__file__).parents[2] / "deploy"
PASSWORD = r'a "b" \c $d'


def compose_command() -> list[str]:
    """What Compose runs: two dollars are one."""
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["redis"]
    assert service["environment"] == {"REDIS_PASSWORD": "${REDIS_PASSWORD:-}"}
    return [part.replace("$$", "$") for part in service["command"]]


def kubernetes_command() -> list[str]:
    """What the StatefulSet runs."""
    documents = yaml.safe_load_all((DEPLOY / "k8s" / "base" / "valkey.yaml").read_text())
    (stateful_set,) = (d for d in documents if d["kind"] == "StatefulSet")
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    reference = container["env"][0]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "rt-embed-secrets", "key": "REDIS_PASSWORD", "optional": True}
    command: list[str] = container["command"]
    return command


@contextmanager
def running(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[int]:
    """The port of the server that `command` starts, where the image's programs are stood in for."""
    port = free_port()
    programs = {
        "docker-entrypoint.sh": 'exec "$@"',
        "valkey-server": f'exec {valkey_binary()} "$@" --port {port} --dir {folder}',
    }
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    process = subprocess.Popen(command, env={"PATH": path, **environment}, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with suppress(RedisAway), Redis(port=port, password=PASSWORD) as client:
                with suppress(AuthenticationError):
                    client.ping()
                break
            time.sleep(0.02)
        yield port
        process.terminate()
        assert process.wait(20) == 0, "the server itself gets the signal"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("command", [compose_command(), kubernetes_command()], ids=["compose", "kubernetes"])
def test_a_password_is_asked_for_where_one_is_set(command: list[str], tmp_path: Path) -> None:
    expected: dict[str, Any] = {"appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""}
    with running(command, tmp_path, {"REDIS_PASSWORD": PASSWORD}) as port:
        with Redis(port=port) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        with Redis(port=port, password=PASSWORD, decode_responses=True) as client:
            assert client.config_get(*expected) == expected


@pytest.mark.parametrize("command", [compose_command(), kubernetes_command()], ids=["compose", "kubernetes"])
@pytest.mark.parametrize("environment", [{}, {"REDIS_PASSWORD": ""}], ids=["unset", "empty"])
def test_none_is_asked_for_where_none_is_set(
    command: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    with running(command, tmp_path, environment) as port, Redis(port=port) as client:
        assert client.ping()
