"""Files of vectors: a journal that is written as chunks come, and what becomes of it at the end.

| name ends in | what it holds |
|---|---|
| .jsonl | a JSON object for each chunk, its vector among its fields |
| .npy | a matrix of float32, a row for each chunk; the other fields in NAME.index.jsonl beside it |
| .parquet | a table with a row for each chunk; needs pyarrow |
"""

import base64
import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from rt_embed import Bookmark, Vector
from rt_embed.cli.terminal import CommandFailed, ExitStatus, require_extra
from rt_embed.types import to_vector

FORMATS = (".jsonl", ".npy", ".parquet")


class VectorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk of one source. `start` and `end` are seconds, `vector` is base64 of little-endian float32."""

    source: str
    asset_id: str
    start: float
    end: float
    start_time: str
    end_time: str
    vector: str

    @property
    def values(self) -> Vector:
        """The vector as numbers."""
        return to_vector(self.vector)


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a journal: a chunk, how far its source has come, that it is done, or begins again."""

    source: str
    options: dict[str, Any] = {}
    row: VectorRow | None = None
    asset_id: str = ""
    event_id: str = ""
    done: bool = False
    restart: bool = False


class SourceState:
    """What a journal knows of one source."""

    def __init__(self) -> None:
        self.rows: dict[tuple[float, float], VectorRow] = {}
        self.bookmark: Bookmark | None = None
        self.asset_id = ""
        self.done = False

    def apply(self, entry: JournalEntry) -> None:
        """Take one more line of the journal."""
        if entry.restart:
            self.rows.clear()
            self.bookmark, self.done = None, False
        self.asset_id = entry.asset_id or self.asset_id
        if entry.row:
            self.rows[entry.row.start, entry.row.end] = entry.row
        if entry.event_id:
            self.bookmark = Bookmark(self.asset_id, entry.event_id)
        self.done = self.done or entry.done


class VectorFile:
    """A file of vectors that is being made. Its journal lies beside it until every source is done."""

    def __init__(self, path: Path, options: dict[str, Any], *, overwrite: bool = False) -> None:
        """Go on with the journal of an earlier run, if there is one.

        `options` are what shapes the chunks. Raises CommandFailed for a name of no known format, for a
        finished file unless `overwrite`, and for a journal that was begun with other options.
        """
        require_format(path)
        self.path = path
        self.sources: dict[str, SourceState] = {}
        self._journal = path.with_name(f"{path.name}.partial")
        if overwrite:
            self._journal.unlink(missing_ok=True)
        if self._journal.exists():
            self._read(options)
        elif path.exists() and not overwrite:
            raise CommandFailed(f"{path} exists; --overwrite replaces it", ExitStatus.WRONG_USE)
        self._file = self._journal.open("ab")
        if not self.sources:
            self._write(JournalEntry(source="", options=options))

    def state(self, source: str) -> SourceState:
        """Return what is known of a source."""
        return self.sources.setdefault(source, SourceState())

    def add(self, entry: JournalEntry) -> None:
        """Write a line, and remember it."""
        self.state(entry.source).apply(entry)
        self._write(entry)

    def finish(self) -> int:
        """Write the file; return its number of rows. The journal goes if every source is done."""
        rows = [row for state in self.sources.values() for _, row in sorted(state.rows.items())]
        write_rows(self.path, rows)
        self.close()
        if all(state.done for state in self.sources.values()):
            self._journal.unlink()
        return len(rows)

    def close(self) -> None:
        """Close the journal, and keep it for the next run."""
        self._file.close()

    def _write(self, entry: JournalEntry) -> None:
        self._file.write(msgspec.json.encode(entry) + b"\n")
        self._file.flush()

    def _read(self, options: dict[str, Any]) -> None:
        lines = self._journal.read_bytes().split(b"\n")
        whole = len(self._journal.read_bytes()) - len(lines[-1])
        os.truncate(self._journal, whole)  # a line that was cut off when the process died
        decoder = msgspec.json.Decoder(JournalEntry)
        for line in lines[:-1]:
            entry = decoder.decode(line)
            if entry.options and entry.options != options:
                raise CommandFailed(
                    f"{self._journal} began with {entry.options}, not {options}; --overwrite starts again",
                    ExitStatus.WRONG_USE,
                )
            if entry.source:
                self.state(entry.source).apply(entry)


def record_of(row: VectorRow) -> dict[str, Any]:
    """Return a row's fields, its vector as numbers."""
    return {**msgspec.to_builtins(row), "vector": [float(value) for value in row.values]}


def encode_vector(vector: Vector) -> str:
    """Return a vector as base64 of little-endian float32."""
    return base64.b64encode(vector.tobytes()).decode()


def require_format(path: Path) -> None:
    """Raise CommandFailed unless files of this name can be written and read here."""
    if path.suffix not in FORMATS:
        raise CommandFailed(f"{path}: the name must end in {', '.join(FORMATS)}", ExitStatus.WRONG_USE)
    if path.suffix == ".npy":
        require_extra("worker", "numpy")
    if path.suffix == ".parquet":
        require_extra("parquet", "pyarrow")


def write_rows(path: Path, rows: list[VectorRow]) -> None:
    """Write a whole file of vectors, which appears at its place when it is complete."""
    with _replacing(path) as made:
        match path.suffix:
            case ".jsonl":
                _write_lines(made, rows, with_vectors=True)
            case ".npy":
                import numpy as np  # noqa: PLC0415 - only this format needs it

                with made.open("wb") as file:
                    np.save(file, np.array([row.values for row in rows], np.float32).reshape(len(rows), -1))
                with _replacing(path.with_suffix(".index.jsonl")) as index:
                    _write_lines(index, rows, with_vectors=False)
            case ".parquet":
                import pyarrow as pa  # noqa: PLC0415 - an extra
                import pyarrow.parquet as pq  # noqa: PLC0415

                columns: dict[str, Any] = {
                    name: [getattr(row, name) for row in rows]
                    for name in VectorRow.__struct_fields__
                    if name != "vector"
                }
                columns["vector"] = pa.array([list(row.values) for row in rows], pa.list_(pa.float32()))
                pq.write_table(pa.table(columns), made)


def read_rows(path: Path) -> Iterator[VectorRow]:
    """Yield the rows of a file of vectors. Raises CommandFailed if it is none."""
    require_format(path)
    try:
        match path.suffix:
            case ".jsonl":
                yield from _read_lines(path)
            case ".npy":
                import numpy as np  # noqa: PLC0415

                vectors = np.load(path, mmap_mode="r")
                for record, vector in zip(_objects(path.with_suffix(".index.jsonl")), vectors, strict=True):
                    yield msgspec.convert({**record, "vector": encode_vector(vector)}, VectorRow)
            case ".parquet":
                import pyarrow.parquet as pq  # noqa: PLC0415

                for batch in pq.ParquetFile(path).iter_batches():
                    for record in batch.to_pylist():
                        vector = encode_vector(to_vector(record["vector"]))
                        yield msgspec.convert({**record, "vector": vector}, VectorRow)
    except (ValueError, KeyError) as error:  # msgspec's errors are ValueErrors
        raise CommandFailed(f"{path} is not a file of vectors: {error}") from error


def _read_lines(path: Path) -> Iterator[VectorRow]:
    for record in _objects(path):
        vector = encode_vector(to_vector(record["vector"]))
        yield msgspec.convert({**record, "vector": vector}, VectorRow)


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield msgspec.json.decode(line, type=dict[str, Any])


def _write_lines(path: Path, rows: Iterable[VectorRow], *, with_vectors: bool) -> None:
    with path.open("wb") as file:
        for row in rows:
            record = record_of(row)
            if not with_vectors:
                del record["vector"]
            file.write(msgspec.json.encode(record) + b"\n")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield made
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
