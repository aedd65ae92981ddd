"""Processes that stand still are ended from outside, and none outlives what started it: real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shared.lifecycle.watchdog import STUCK

ROOT = Path(__file__).parents[3]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(how: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.shared.lifecycle.watched", how, str(tmp_path)]
        started.append(
            subprocess.Popen(
                [*command, *map(str, arguments)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "RTEMBED_LOG_FORMAT": "json"},
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def soon(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def noted(folder: Path, name: str) -> int:
    soon((folder / name).exists)
    return int((folder / name).read_text())


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_process_that_is_well_is_left_alone(start: Start, tmp_path: Path) -> None:
    watchdog = start("slow-start")
    pid = noted(tmp_path, "pid")
    time.sleep(3)  # three times its patience
    assert (watchdog.poll(), gone(pid)) == (None, False)


def test_a_process_that_keeps_pythons_lock_is_shown_and_ended(start: Start, tmp_path: Path) -> None:
    watchdog = start("hold-the-lock")
    pid = noted(tmp_path, "pid")
    _, said = watchdog.communicate(timeout=30)
    assert watchdog.returncode == STUCK
    assert gone(pid)
    assert "process stands still and is killed, to be started again" in said
    assert "watched.py" in said, "nothing tells where it stood"
    assert "in main" in said


def test_a_stopped_process_is_ended(start: Start, tmp_path: Path) -> None:
    watchdog = start("well")
    pid = noted(tmp_path, "pid")
    os.kill(pid, signal.SIGSTOP)
    _, said = watchdog.communicate(timeout=30)
    assert watchdog.returncode == STUCK
    assert gone(pid)
    assert f'"pid": {pid}' in said


def test_a_machine_that_slept_is_no_reason(start: Start, tmp_path: Path) -> None:
    """Both are stopped, for longer than the patience, and go on at about the same time."""
    watchdog = start("well")
    pid = noted(tmp_path, "pid")
    os.kill(pid, signal.SIGSTOP)
    watchdog.send_signal(signal.SIGSTOP)
    time.sleep(4)
    watchdog.send_signal(signal.SIGCONT)
    os.kill(pid, signal.SIGCONT)
    time.sleep(1.5)
    assert (watchdog.poll(), gone(pid)) == (None, False)


@pytest.mark.parametrize("frozen", [(), ("process",), ("watchdog",), ("process", "watchdog")])
def test_nothing_outlives_the_watchdog(start: Start, tmp_path: Path, frozen: tuple[str, ...]) -> None:
    watchdog = start("decoder")
    pids = {"process": noted(tmp_path, "pid"), "watchdog": watchdog.pid}
    child = noted(tmp_path, "child")
    for name in frozen:
        os.kill(pids[name], signal.SIGSTOP)
    watchdog.kill()
    soon(lambda: gone(pids["process"]) and gone(child))


@pytest.mark.parametrize("status", [0, 2, 4, 5])
def test_the_exit_status_is_the_process_own(start: Start, status: int) -> None:
    assert start("exit", status).wait(30) == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_an_end_by_a_signal_is_passed_on(start: Start, number: signal.Signals) -> None:
    assert start("signal", int(number)).wait(30) == -number


def test_signals_reach_the_process(start: Start, tmp_path: Path) -> None:
    watchdog = start("polite")
    noted(tmp_path, "pid")
    watchdog.terminate()
    assert watchdog.wait(30) == 7


def test_a_terminals_interrupt_comes_through_the_watchdog_alone(start: Start, tmp_path: Path) -> None:
    """The process is in a group of its own, which a terminal's Ctrl-C does not reach."""
    watchdog = start("well")
    pid = noted(tmp_path, "pid")
    assert os.getpgid(pid) == pid
    watchdog.send_signal(signal.SIGINT)
    _, said = watchdog.communicate(timeout=30)
    assert watchdog.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in said


def test_both_are_hidden(start: Start, tmp_path: Path) -> None:
    """Linux gives the files of such processes to root."""
    watchdog = start("well")
    pid = noted(tmp_path, "pid")
    assert [Path(f"/proc/{one}/environ").stat().st_uid for one in (watchdog.pid, pid)] == [0, 0]


def test_the_watchdog_loads_nothing() -> None:
    """It lives as long as the service, beside every gateway and worker."""
    program = "import sys, shared.lifecycle.watchdog; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert not {"asyncio", "structlog", "msgspec", "uvloop", "redis"} & set(loaded)


@pytest.mark.skipif(
    subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "true"], check=False, capture_output=True
    ).returncode
    != 0,
    reason="no process namespace of one's own here",
)
def test_as_a_containers_first_process_it_buries_orphans(start: Start, tmp_path: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    watched = [sys.executable, "-m", "tests.shared.lifecycle.watched", "orphan", str(tmp_path)]
    container = subprocess.Popen([*unshare, *watched], cwd=ROOT)
    try:
        noted(tmp_path, "pid")
        (first,) = psutil.Process(container.pid).children()
        soon(lambda: len(first.children()) == 1)
        time.sleep(1)
        assert [child.name() for child in first.children()] == [first.name()]
        first.send_signal(signal.SIGTERM)
        assert container.wait(30) != 0
    finally:
        container.kill()
        container.wait()
