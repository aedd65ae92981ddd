"""Progress bars for sources that are uploaded and embedded, on standard error, for people only."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from rt_embed.cli.terminal import terminal

LONGEST_NAME = 40


class AmountColumn(ProgressColumn):
    """Done and total: bytes or chunks."""

    def render(self, task: Task) -> Text:
        """Return the cell."""
        whole = "?" if task.total is None else _amount(task, task.total)
        return Text(f"{_amount(task, task.completed)}/{whole}", style="progress.download")


class RateColumn(ProgressColumn):
    """How fast it goes."""

    def render(self, task: Task) -> Text:
        """Return the cell."""
        if not task.speed:
            return Text("")
        rate = _amount(task, task.speed) if task.fields["unit"] == "bytes" else f"{task.speed:.1f}"
        return Text(f"{rate}/s", style="progress.data.speed")


def _amount(task: Task, number: float) -> str:
    return decimal(int(number)) if task.fields["unit"] == "bytes" else str(int(number))


class SourceBar:
    """The line of one source: first its upload, then its chunks."""

    def __init__(self, bars: Progress, name: str) -> None:
        self._bars = bars
        self._name = name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"
        self._task: TaskID | None = None
        self._phase = ""

    def uploaded(self, sent: int, total: int) -> None:
        """So many bytes have been sent."""
        self._show("uploading", "bytes", sent, total)

    def embedded(self, chunks: int, total: int | None) -> None:
        """So many chunks are there."""
        self._show("embedding", "chunks", chunks, total)

    def _show(self, phase: str, unit: str, done: int, total: int | None) -> None:
        if self._task is None or self._phase != phase:
            self.remove()
            self._phase = phase
            self._task = self._bars.add_task(f"{phase} {self._name}", total=total, unit=unit)
        self._bars.update(self._task, completed=done, total=total)

    def remove(self) -> None:
        """Remove the line."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


class EmbedBars:
    """One line for all sources, and one for each that is under way."""

    def __init__(self, sources: int) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), AmountColumn(), RateColumn(),
            TimeRemainingColumn(), console=terminal.err, transient=True, disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._all = self._bars.add_task("sources", total=sources, unit="sources")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def source(self, name: str) -> Iterator[SourceBar]:
        """Show a line for a source until the context ends."""
        bar = SourceBar(self._bars, name)
        try:
            yield bar
        finally:
            bar.remove()
            self._bars.advance(self._all)
