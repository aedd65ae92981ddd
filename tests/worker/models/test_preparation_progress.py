import threading
from pathlib import Path
from typing import Any

import pytest

from worker.models.locks import host_lock
from worker.models.preparation_progress import describe, folder_size, paced, watched_folder


def test_lines_for_people() -> None:
    assert describe("reading", 0, 0) == "reading"
    assert describe("writing", 1_500_000_000, 4_000_000_000) == "writing: 1.50 of 4.00 GB (37 %)"


def test_each_step_is_told_at_once_and_its_advance_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("worker.models.preparation_progress.time.monotonic", lambda: now[0])
    told: list[Any] = []
    progress = paced(told.append)
    for step, seconds in (("a", 0), ("a", 1), ("a", 3.9), ("a", 0.2), ("b", 0.1), ("b", 4.8)):
        now[0] += seconds
        progress(step, 0, 0)
    assert told == ["a", "a", "b"]


def test_a_folder_is_watched_while_something_fills_it(tmp_path: Path) -> None:
    told, seen = [], threading.Event()

    def progress(step: str, done: int, total: int) -> None:
        told.append((step, done, total))
        if done == 500:
            seen.set()

    with watched_folder(tmp_path, "filling", 1000, progress):
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "file").write_bytes(bytes(500))
        assert seen.wait(20)
    assert told[0] == ("filling", 0, 1000)
    assert "download-progress" not in [thread.name for thread in threading.enumerate()]
    assert folder_size(tmp_path) == 500


def test_a_lock_is_for_one_at_a_time(tmp_path: Path) -> None:
    order = []
    entered, release, waiting = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with host_lock(tmp_path / "sub" / ".lock"):
            entered.set()
            release.wait(20)
            order.append("first")

    def second() -> None:
        with host_lock(tmp_path / "sub" / ".lock", waiting.set):
            order.append("second")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert entered.wait(20)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    assert waiting.wait(20)
    release.set()
    for thread in threads:
        thread.join(20)
    assert order == ["first", "second"]


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), host_lock(tmp_path / ".lock"):
        raise ZeroDivisionError
    with host_lock(tmp_path / ".lock", lambda: pytest.fail("still held")):
        pass
