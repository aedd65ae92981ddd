"""How a long preparation tells where it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import structlog

log = structlog.get_logger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many bytes of how many (0 of 0 where that is unknown)."""

INTERVAL = 5.0  # seconds


def log_progress() -> Progress:
    """A Progress that logs."""
    return paced(log.info)


def paced(tell: Callable[[str], object]) -> Progress:
    """A Progress that tells each new step at once, and its advance every few seconds."""
    last = ("", 0.0)

    def progress(step: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if step != last[0] or now - last[1] >= INTERVAL:
            last = (step, now)
            tell(describe(step, done, total))

    return progress


def describe(step: str, done: int, total: int) -> str:
    """One line for people."""
    if not total:
        return step
    return f"{step}: {done / 1e9:.2f} of {total / 1e9:.2f} GB ({100 * done // total} %)"


def silent(step: str, done: int, total: int) -> None:
    """A Progress that tells nobody."""


@contextmanager
def watched_folder(folder: Path, step: str, total: int, progress: Progress) -> Iterator[None]:
    """Tell every second how many bytes the folder holds, for a download whose library tells nothing."""
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
    """Bytes of all files in the folder; those that vanish meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
