"""What TLS to Redis, or indexing into search, adds to a chunk and to a text, in each process.

    scripts/bench added_cost tls --server /usr/bin/redis-server    # one that was built with TLS
    scripts/bench added_cost search [--index-rows 1]

Two whole services with the null model run side by side, one with it and one without, and take turns. Chunks
are those of small films, each uploaded anew; a film's chunks count as done when they are in the index, where
there is one. Processor time says what it costs, also on a machine that others use.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psutil
import psycopg
import trustme

from tests.bench.http_load import load
from tests.bench.memory import make_film
from tests.bench.text_cost import used
from tests.bench.texts import PATH, TEXT
from tests.e2e.conftest import Stack
from tests.support import PostgresServer, RedisServer, free_port, valkey_binary, wait_for

BODY = msgspec.json.encode({"text_input": [TEXT], "model": "null"})
DECODERS, ALL = "decoders", "all but decoders"
Costs = dict[str, float]
"""Microseconds of processor time of each process, or of the clock, for one chunk or text."""


@dataclass
class Service:
    """One running service and the processes that work for it."""

    stack: Stack
    roots: dict[str, int]
    """Processes by what they are; their children belong to them."""
    indexed: Callable[[], int] | None = None
    """How many chunks are in the index, if there is one."""
    chunks: list[Costs] = field(default_factory=list)
    texts: list[Costs] = field(default_factory=list)

    def used(self) -> dict[tuple[str, int], float]:
        """Milliseconds of processor time of each process until now."""
        found = {}
        for name, root in self.roots.items():
            parent = psutil.Process(root)
            for process in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    decodes = any("decoder_process" in word for word in process.cmdline())
                    found[DECODERS if decodes else name, process.pid] = used(process.pid)
        return found

    def cost(self, work: Callable[[], int]) -> Costs:
        """Do some work; return what one of the things that it did cost."""
        before, began = self.used(), time.perf_counter()
        count = work()
        took = time.perf_counter() - began
        costs: Costs = {}
        for (name, pid), spent in self.used().items():
            costs[name] = costs.get(name, 0) + 1000 * (spent - before.get((name, pid), 0)) / count
        total = sum(spent for name, spent in costs.items() if name != DECODERS)
        return {**costs, ALL: total, "on the clock": 1e6 * took / count}

    def embed(self, asset: str) -> int:
        """Embed a film, and wait until it is indexed, if it will be; return its chunks."""
        already = self.indexed() if self.indexed else 0
        body = {"id": asset, "model": "null", "chunk_duration": 1}
        answer = self.stack.client.post("/generate_video_embeddings", json=body, timeout=300)
        answer.raise_for_status()
        chunks = len(answer.json()["chunk_responses"])
        if indexed := self.indexed:
            wait_for(lambda: indexed() >= already + chunks, timeout=120)
        return chunks

    def ask(self, clients: int, seconds: float) -> int:
        """Ask for texts; return how many."""
        return round(seconds * load(self.port, PATH, [BODY], clients, seconds).rate)

    @property
    def port(self) -> int:
        """Where the gateway listens."""
        return urlsplit(self.stack.url).port or 0


@contextlib.contextmanager
def running(
    folder: Path, server: RedisServer, url: str, postgres: PostgresServer | None = None, **variables: str
) -> Iterator[Service]:
    """Start a service on that Redis, which is reached by `url`, with search in `postgres` if there is one."""
    folder.mkdir()
    server.start()
    stack = Stack(folder, server.url)
    stack.environment |= {"LOG_LEVEL": "WARNING", "REDIS_URL": url, **variables}
    try:
        database = postgres.database() if postgres else ""
        if database:
            stack.start_indexer(database)
        stack.start()
        assert server.process
        assert stack.gateway
        roots = {"gateway": stack.gateway.pid, "worker": stack.workers[0].pid, "Redis": server.process.pid}
        if not postgres:
            yield Service(stack, roots)
            return
        assert postgres.process
        roots |= {"indexer": stack.indexers[0].pid, "PostgreSQL": postgres.process.pid}
        options = "-c search_path=rtembed,public"
        with psycopg.connect(database, autocommit=True, options=options) as connection:

            def indexed() -> int:
                row = connection.execute("SELECT count(*) FROM chunks").fetchone()
                return int(row[0]) if row else 0

            yield Service(stack, roots, indexed)
    finally:
        stack.stop()
        server.stop()


@contextlib.contextmanager
def with_tls(folder: Path, binary: Path) -> Iterator[tuple[Service, Service]]:
    """Two services on servers alike, one of which is reached over TLS."""
    authority, port = trustme.CA(), free_port()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for part in certificate.cert_chain_pems:
        part.write_to_path(folder / "certificate.pem", append=True)
    files = {"cert": "certificate.pem", "key": "key.pem", "ca-cert": "ca.pem"}
    options = [word for name, file in files.items() for word in (f"--tls-{name}-file", str(folder / file))]
    options += ["--tls-port", str(port), "--tls-auth-clients", "no"]
    for name in ("data", "data-tls"):
        (folder / name).mkdir()
    plain = RedisServer(binary, folder / "data")
    secured = RedisServer(binary, folder / "data-tls", *options)
    url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={folder / 'ca.pem'}"
    with (
        running(folder / "without", plain, plain.url) as without,
        running(folder / "with", secured, url) as service,
    ):
        yield without, service


@contextlib.contextmanager
def with_search(folder: Path, index_rows: int) -> Iterator[tuple[Service, Service]]:
    """Two services, one of which indexes what it embeds."""
    for name in ("data", "data-search"):
        (folder / name).mkdir()
    plain, other = (RedisServer(valkey_binary(), folder / name) for name in ("data", "data-search"))
    postgres = PostgresServer(folder / "postgres")
    postgres.start()
    try:
        with (
            running(folder / "without", plain, plain.url) as without,
            running(
                folder / "with", other, other.url, postgres, RTEMBED_SEARCH_INDEX_ROWS=str(index_rows)
            ) as service,
        ):
            yield without, service
    finally:
        postgres.stop()


def measure(pair: tuple[Service, Service], film: Path, arguments: argparse.Namespace) -> None:
    """Let the two take turns; print the medians."""
    for number in range(arguments.rounds + 1):
        for service in pair if number % 2 else pair[::-1]:
            chunks = service.cost(partial(service.embed, service.stack.upload(film)))
            texts = service.cost(partial(service.ask, arguments.clients, arguments.seconds))
            if number:  # the first round warms up
                service.chunks.append(chunks)
                service.texts.append(texts)
    for what in ("chunks", "texts"):
        print(f"{what}: µs of processor time each, medians of {arguments.rounds} rounds, and quartiles")
        without, with_it = (getattr(service, what) for service in pair)
        for name in with_it[0]:
            show(name, *([costs.get(name, 0.0) for costs in rounds] for rounds in (without, with_it)))
    chunk, text = (
        statistics.median(b[ALL] - a[ALL] for a, b in zip(*rounds, strict=True))
        for rounds in ((pair[0].chunks, pair[1].chunks), (pair[0].texts, pair[1].texts))
    )
    print(f"{arguments.what} adds {chunk:+.0f} µs to a chunk, {text:+.0f} µs to a text")


def show(name: str, before: list[float], after: list[float]) -> None:
    """Print the medians of both, and of what was added in each round with its quartiles."""
    added = [b - a for a, b in zip(before, after, strict=True)]
    low, middle, high = statistics.quantiles(added, n=4) if len(added) > 1 else added * 3
    print(
        f"  {name:18} without {statistics.median(before):7.1f}   with {statistics.median(after):7.1f}   "
        f"added {middle:+7.1f} ({low:+.1f} to {high:+.1f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("tls", "search"), default="search")
    parser.add_argument("--server", type=Path, default=Path("/usr/bin/redis-server"), help="with TLS")
    parser.add_argument(
        "--index-rows", type=int, default=20_000, help="chunks from which on there is an HNSW index"
    )
    parser.add_argument("--clients", type=int, default=8, help="that ask for texts")
    parser.add_argument("--seconds", type=float, default=1, help="of texts in each round")
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = folder / "film.mp4"
        make_film(film)
        pairs = (
            with_tls(folder, arguments.server)
            if arguments.what == "tls"
            else with_search(folder, arguments.index_rows)
        )
        with pairs as pair:
            measure(pair, film, arguments)


if __name__ == "__main__":
    main()
