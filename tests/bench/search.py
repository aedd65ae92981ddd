"""Search at scale: building the HNSW index, its memory, and searches' speed and recall.

scripts/bench search --rows 200000,1000000

The vectors are made in three levels: subjects are random directions; a film (of 200 chunks) is one of them
plus noise, so that their cosine is about 0.8; a chunk is its film plus noise, again about 0.8. Questions are
chunks of films that are in the index, made in the same way and not in it. Searches are those that a gateway
sends; the exact answer is NumPy's over the vectors in half precision.
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg
from numpy.typing import NDArray
from pgvector.psycopg import register_vector

from gateway.search import search_queries
from gateway.search.search_filters import SearchFilters
from rt_embed.cli import embedded_postgres
from search.neighbour_index import build_missing
from search.schema import migrate
from shared.search import database
from shared.settings import load
from tests.support import PostgresServer

DIMENSION = 768
FILM = 200
SUBJECTS = 1000
QUESTIONS = 300
TOP = 10
BLOCK = 20_000
CANDIDATES = (40, 100, 200, 400)
CLIENTS = (1, 4, 8)
LASTING = 10.0
"""Seconds of each measurement of speed."""
Vectors = NDArray[np.float32]
SECOND = 1_000_000_000

ROW = np.dtype(
    [
        ("fields", ">i2"), ("l0", ">i4"), ("asset", ">i8"), ("l1", ">i4"), ("model", ">i2"), ("l2", ">i4"),
        ("number", ">i4"), ("l3", ">i4"), ("start", ">i8"), ("l4", ">i4"), ("end", ">i8"), ("l5", ">i4"),
        ("request", "S1"), ("l6", ">i4"), ("dimension", ">i2"), ("unused", ">i2"),
        ("embedding", ">f2", (DIMENSION,)),
    ]
)  # fmt: skip
"""A row of `chunks` in the binary form of PostgreSQL's COPY."""


def near(centres: Vectors, random: np.random.Generator) -> Vectors:
    """Unit vectors whose cosine with their centre is about 0.8."""
    noise = random.standard_normal(centres.shape, dtype=np.float32) * (0.75 / DIMENSION**0.5)
    vectors = centres + noise
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def subjects() -> Vectors:
    """The random directions that films are about."""
    directions = np.random.default_rng(1).standard_normal((SUBJECTS, DIMENSION), dtype=np.float32)
    return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True))


def films(first: int, count: int) -> Vectors:
    """The centres of films, the same in every run."""
    random = np.random.default_rng([2, first])
    return near(subjects()[random.integers(0, SUBJECTS, count)], random)


def block(first: int) -> NDArray[np.float16]:
    """The vectors of the rows from `first` on, as the index keeps them."""
    centres = np.repeat(films(first // FILM, BLOCK // FILM), FILM, axis=0)
    return near(centres, np.random.default_rng([3, first])).astype(np.float16)


def questions(rows: int) -> Vectors:
    """What is searched for: chunks that are not in the index, of films that are."""
    random = np.random.default_rng(4)
    blocks = random.integers(0, rows // BLOCK, QUESTIONS) * BLOCK
    centres = [films(at // FILM, BLOCK // FILM)[random.integers(0, BLOCK // FILM)] for at in blocks]
    return near(np.stack(centres), random)


def exact(wanted: Vectors, rows: int) -> list[set[int]]:
    """The keys of the nearest rows of each question; keys begin at 1."""
    scores = np.full((len(wanted), TOP), -2.0, np.float32)
    found = np.zeros((len(wanted), TOP), np.int64)
    for first in range(0, rows, BLOCK):
        vectors = block(first).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        both = np.hstack([scores, wanted @ vectors.T])
        keys = np.hstack(
            [found, np.broadcast_to(np.arange(first + 1, first + 1 + BLOCK), (len(wanted), BLOCK))]
        )
        best = np.argpartition(-both, TOP, axis=1)[:, :TOP]
        scores, found = np.take_along_axis(both, best, 1), np.take_along_axis(keys, best, 1)
    return [set(row.tolist()) for row in found]


def copied(first: int) -> bytes:
    """A block of rows for COPY."""
    numbers = np.arange(first, first + BLOCK)
    table = np.zeros(BLOCK, ROW)
    table["fields"] = 7
    for name, size in (("l0", 8), ("l1", 2), ("l2", 4), ("l3", 8), ("l4", 8), ("l5", 1)):
        table[name] = size
    table["l6"] = 4 + 2 * DIMENSION
    table["asset"], table["model"], table["number"] = numbers // FILM + 1, 1, numbers % FILM
    table["start"], table["end"] = numbers % FILM * 5 * SECOND, (numbers % FILM + 1) * 5 * SECOND
    table["request"], table["dimension"], table["embedding"] = b"r", DIMENSION, block(first)
    return table.tobytes()


def fill(url: str, first: int, last: int) -> float:
    """Copy rows into the index; return the seconds that it took."""
    began = time.monotonic()
    with psycopg.connect(url, autocommit=True, options="-c search_path=rtembed,public") as connection:
        connection.execute(
            "INSERT INTO models (id, dimension) VALUES ('m', %s) ON CONFLICT DO NOTHING", [DIMENSION]
        )
        connection.execute(
            "INSERT INTO assets (id, kind, media_type, name, sensor, description, url, created) "
            "SELECT 'film' || n, 'file', 'video', 'film' || n, 'film' || n, '', '', 0 "
            "FROM generate_series(%s::int, %s::int) AS n",
            [first // FILM + 1, last // FILM],
        )
        for at in range(first, last, BLOCK):
            with connection.cursor().copy(
                "COPY chunks (asset, model, number, start_ns, end_ns, request, embedding) FROM STDIN BINARY"
            ) as copy:
                copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + copied(at) + b"\xff\xff")
        connection.execute("VACUUM ANALYZE chunks")
    return time.monotonic() - began


@contextlib.contextmanager
def watched(server: psutil.Process) -> Iterator[list[float]]:
    """The most memory that the server's processes took meanwhile, in GiB, shared pages counted once."""
    most, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            used = 0
            for process in (server, *server.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    used += process.memory_full_info().pss
            most[0] = max(most[0], used / 2**30)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        ended.set()
        watching.join()


async def build(url: str, memory_mb: int, server: psutil.Process) -> tuple[float, float]:
    """Build the HNSW index as an indexer does; return the seconds and the server's most memory in GiB."""
    settings = replace(load({}), search_url=url, search_build_memory_mb=memory_mb)
    connection = await database.connect(settings)
    await connection.execute("DROP INDEX IF EXISTS chunks_neighbours_1")
    with watched(server) as most:
        began = time.monotonic()
        await build_missing(connection, settings)
        seconds = time.monotonic() - began
    await connection.close()
    return seconds, most[0]


class Client:
    """One connection that searches as a gateway does."""

    def __init__(self, url: str, candidates: int) -> None:
        self._connection = psycopg.connect(url, autocommit=True, options="-c search_path=rtembed,public")
        register_vector(self._connection)
        for name, value in (
            ("hnsw.ef_search", str(candidates)), ("hnsw.iterative_scan", "strict_order"),
            ("plan_cache_mode", "force_custom_plan"),
        ):  # fmt: skip
            self._connection.execute("SELECT set_config(%s, %s, false)", [name, value])

    def search(self, vector: Vectors) -> list[int]:
        """The keys of the nearest rows."""
        query, parameters = search_queries.nearest(
            1, DIMENSION, vector.tolist(), TOP, SearchFilters(), thumbnails=True
        )
        return [row[0] for row in self._connection.execute(query, parameters).fetchall()]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def recall(url: str, candidates: int, wanted: Vectors, truth: list[set[int]]) -> tuple[float, list[float]]:
    """The share of the true neighbours that were found, and the seconds of each search by one client."""
    client = Client(url, candidates)
    for vector in wanted:
        client.search(vector)  # into the cache
    hits, seconds = 0, []
    for vector, best in zip(wanted, truth, strict=True):
        began = time.perf_counter()
        found = client.search(vector)
        seconds.append(time.perf_counter() - began)
        hits += len(best & set(found))
    client.close()
    return hits / (TOP * len(wanted)), seconds


def throughput(url: str, candidates: int, wanted: Vectors, clients: int, lasting: float) -> float:
    """Searches per second of several clients at once."""
    done = [0] * clients
    began = time.monotonic()

    def ask(number: int) -> None:
        client = Client(url, candidates)
        while time.monotonic() - began < lasting:
            client.search(wanted[(number * 37 + done[number]) % len(wanted)])
            done[number] += 1
        client.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - began)


def measure(url: str, rows: int, *, quick: bool) -> None:
    """Print recall and speed for each number of candidates."""
    lasting = LASTING / 10 if quick else LASTING
    wanted = questions(rows)
    truth = exact(wanted, rows)
    print(
        "ef_search  recall@10  ms median  ms p95 " + "".join(f"  {n} clients/s" for n in CLIENTS), flush=True
    )
    for candidates in CANDIDATES:
        share, seconds = recall(url, candidates, wanted, truth)
        speeds = "".join(f"{throughput(url, candidates, wanted, n, lasting):>13.0f}" for n in CLIENTS)
        median, late = statistics.median(seconds) * 1000, sorted(seconds)[int(len(seconds) * 0.95)] * 1000
        print(f"{candidates:>9}  {share:>9.3f}  {median:>9.1f}  {late:>6.1f}{speeds}", flush=True)


@contextlib.contextmanager
def database_server(folder: str, cache_mb: int) -> Iterator[PostgresServer]:
    """A PostgreSQL with so much cache."""
    Path(folder).chmod(0o711)
    server = PostgresServer(Path(folder) / "postgres")
    embedded_postgres.prepare(server.folder)
    with (server.folder / "postgresql.auto.conf").open("a") as file:
        file.write(f"shared_buffers = '{cache_mb}MB'\nmax_wal_size = '8GB'\n")
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def run(server: PostgresServer, steps: list[int], build_mb: int, *, quick: bool) -> None:
    """Fill the index step by step, build and measure at each."""
    assert server.process
    connection = await database.connect(replace(load({}), search_url=server.url))
    await migrate(connection)
    filled = 0
    for rows in steps:
        await connection.execute("DROP INDEX IF EXISTS chunks_neighbours_1")
        seconds, filled = fill(server.url, filled, rows), rows
        print(f"\n{rows} rows: copied in {seconds:.0f} s; load {psutil.getloadavg()[0]:.1f}", flush=True)
        took, memory = await build(server.url, build_mb, psutil.Process(server.process.pid))
        sizes: Any = await connection.execute(
            "SELECT pg_table_size('chunks'), pg_relation_size('chunks_neighbours_1')"
        )
        table, index = (size / 2**30 for size in await sizes.fetchone())
        print(f"built in {took:.0f} s, at most {memory:.1f} GiB; table {table:.2f}, index {index:.2f} GiB")
        measure(server.url, rows, quick=quick)
    await connection.close()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help=f"{BLOCK} rows and a second of each speed")
    parser.add_argument("--rows", default="200000,1000000", help=f"multiples of {BLOCK}, ascending")
    parser.add_argument("--cache-mb", type=int, default=4096, help="PostgreSQL's shared_buffers")
    parser.add_argument("--build-mb", type=int, default=4096, help="RTEMBED_SEARCH_BUILD_MEMORY_MB")
    parser.add_argument("--folder", help="where the database lies")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="rt-embed-bench-", dir=arguments.folder) as folder,
        database_server(folder, arguments.cache_mb) as server,
    ):
        steps = [BLOCK] if arguments.quick else [int(rows) for rows in arguments.rows.split(",")]
        asyncio.run(run(server, steps, arguments.build_mb, quick=arguments.quick))


if __name__ == "__main__":
    main()
