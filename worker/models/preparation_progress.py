"""Progress reports of a long preparation."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import structlog

log = structlog.get_logger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the current step, the bytes done, and their total (both 0 if unknown)."""

INTERVAL = 5.0  # seconds


def log_progress() -> Progress:
    """Log the progress. A Progress."""
    return paced(log.info)


def paced(tell: Callable[[str], object]) -> Progress:
    """Return a Progress that reports each new step at once, and its bytes every few seconds."""
    last = ("", 0.0)

    def progress(step: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if step != last[0] or now - last[1] >= INTERVAL:
            last = (step, now)
            tell(describe(step, done, total))

    return progress


def describe(step: str, done: int, total: int) -> str:
    """Return one line for people."""
    if not total:
        return step
    return f"{step}: {done / 1e9:.2f} of {total / 1e9:.2f} GB ({100 * done // total} %)"


def silent(step: str, done: int, total: int) -> None:
    """Report nothing. A Progress."""


@contextmanager
def watched_folder(folder: Path, step: str, total: int, progress: Progress) -> Iterator[None]:
    """Report the bytes in the folder every second, for a download library that reports no progress."""
    done = Event()

    def watch() -> None:
        while not done.wait(1.0):
            progress(step, min(folder_size(folder), total), total)

    progress(step, min(folder_size(folder), total), total)
    thread = Thread(target=watch, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in the folder; files that vanish meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
