"""Child processes: what they inherit, what they say, and how their end is told."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.worker.echo_child import FROM_ECHO, TO_ECHO, Die, Garbage, Say, Seen
from worker.children import ChildDied, ChildProcess, network_environment, spawn
from worker.framing import HEADER, LONGEST

Echo = ChildProcess[Say | Die | Garbage, Seen]
MODULE = "tests.worker.echo_child"


def open_files(pid: int) -> list[str]:
    return [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]


@pytest.fixture
async def echo(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Echo]:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for children")
    child: Echo = ChildProcess("echo", await spawn(MODULE, (7, "b c")), TO_ECHO, FROM_ECHO)
    yield child
    await child.close()


async def test_messages_come_back_in_order(echo: Echo) -> None:
    for text in ("", "ä", "x" * 300_000):
        echo.send(Say(text))
    answers = [await echo.receive() for _ in range(3)]
    assert [answer.text for answer in answers] == ["", "ä", "x" * 300_000]
    assert answers[0].arguments == ["7", "b c"]


async def test_a_child_gets_no_secret_of_the_environment(echo: Echo) -> None:
    echo.send(Say(""))
    environment = (await echo.receive()).environment
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["MALLOC_ARENA_MAX"] == "2"
    assert "AWS_SECRET_ACCESS_KEY" not in environment


def test_what_fetches_for_us_gets_no_secret_either(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "NGC_API_KEY": "secret",
        "REDIS_PASSWORD": "secret",
        "HF_TOKEN": "secret",
        "PYTHONPATH": "/tmp",
        "https_proxy": "http://p:1",
        "PIP_INDEX_URL": "https://i",
        "GIT_SSL_CAINFO": "/ca",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environment = network_environment("PIP_")
    assert environment["PATH"] == os.environ["PATH"]
    assert given.keys() & environment.keys() == {"https_proxy", "PIP_INDEX_URL"}
    assert given.keys() & network_environment().keys() == {"https_proxy"}


@pytest.mark.parametrize(
    ("status", "number", "reason"), [(-11, signal.SIGSEGV, "SIGSEGV"), (3, 0, "exit status 3")]
)
async def test_the_end_of_a_child_is_told_with_its_reason(
    echo: Echo, status: int, number: int, reason: str
) -> None:
    echo.send(Die(status))
    with pytest.raises(ChildDied, match=rf"the echo process died \({reason}\)") as caught:
        await echo.receive()
    assert caught.value.signal == number
    assert not echo.alive
    echo.send(Say("nobody hears it"))


@pytest.mark.parametrize(
    "data", [HEADER.pack(3) + b"\xc1xx", HEADER.pack(LONGEST + 1)], ids=["unreadable", "too long"]
)
async def test_a_child_that_sends_no_messages_is_ended(echo: Echo, data: bytes) -> None:
    echo.send(Garbage(data))
    with pytest.raises(ChildDied, match="SIGKILL"):
        await echo.receive()


async def test_a_child_inherits_only_the_descriptors_that_it_is_given() -> None:
    shared, kept = os.memfd_create("given"), os.memfd_create("kept", 0)
    child: Echo = ChildProcess("echo", await spawn(MODULE, (), (shared,)), TO_ECHO, FROM_ECHO)
    try:
        child.send(Say(""))
        await child.receive()
        opened = open_files(child.pid)
        assert any("memfd:given" in name for name in opened)
        assert not any("memfd:kept" in name for name in opened)
    finally:
        await child.close()
        os.close(shared)
        os.close(kept)
    assert not psutil.pid_exists(child.pid)


async def test_a_child_ends_when_its_start_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    started = asyncio.Event()

    async def connect(**_: object) -> None:
        started.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_unix_connection", connect)
    before = set(psutil.Process().children())
    starting = asyncio.create_task(spawn(MODULE))
    await started.wait()
    (child,) = set(psutil.Process().children()) - before
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await asyncio.to_thread(psutil.wait_procs, [child])
    assert not child.is_running()
