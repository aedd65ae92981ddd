"""The account finds what is wrong: with requests, with what came to clients, with what came to Kafka."""

import base64
import struct
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from tests.brokers import MockCluster
from tests.chaos.account import Account, Losses, VisionLLM, Work
from tests.chaos.clients import finish

TOPIC = "mdx-embed"
VECTORS = {chunk: base64.b64encode(struct.pack("<f", chunk)).decode() for chunk in range(2)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    cluster = MockCluster()
    cluster.create_topic(TOPIC)
    yield cluster
    cluster.close()


@pytest.fixture
def account(cluster: MockCluster) -> Iterator[Account]:
    account = Account(cluster.servers, TOPIC, VECTORS)
    yield account
    account.close()


def message(number: float, version: str = "") -> bytes:
    sent = VisionLLM(version=version)
    sent.llm.visionEmbeddings.add(vector=[number])
    data: bytes = sent.SerializeToString()
    return data


def good(account: Account, request: str) -> Work:
    work = account.open(request, "test")
    for chunk, vector in VECTORS.items():
        work.add(chunk, vector)
    finish(work)
    return work


def judge(account: Account, work: Work, cluster: MockCluster, *messages: tuple[int, bytes]) -> Losses:
    producer = Producer({"bootstrap.servers": cluster.servers, "log_level": 0})
    for chunk, value in messages:
        producer.produce(TOPIC, value, f"{work.request}:{chunk}")
    producer.flush()
    account.await_messages([work], 5 if len({chunk for chunk, _ in messages}) == 2 else 1)
    return account.losses([work])


def test_all_is_well(account: Account, cluster: MockCluster) -> None:
    losses = judge(account, good(account, "a"), cluster, (0, message(0)), (1, message(1)))
    assert losses == Losses()


def test_a_message_that_did_not_come(account: Account, cluster: MockCluster) -> None:
    losses = judge(account, good(account, "b"), cluster, (1, message(1)))
    assert losses == Losses(lost=["test b:0 did not come to the consumer"])


def test_a_message_that_came_with_another_vector(account: Account, cluster: MockCluster) -> None:
    losses = judge(account, good(account, "c"), cluster, (0, message(0)), (1, message(7)))
    assert [text[:32] for text in losses.lost] == ["test c:1 came to the consumer as"]


def test_a_message_that_came_twice(account: Account, cluster: MockCluster) -> None:
    sent = [(0, message(0)), (0, message(0)), (1, message(1))]
    assert judge(account, good(account, "d"), cluster, *sent) == Losses(repeated=1)
    sent[1] = 0, message(0, version="another")
    losses = judge(account, good(account, "e"), cluster, *sent)
    assert losses.doubled == ["test e:0 came to the consumer with different bytes"]


def test_chunks_at_the_client(account: Account, cluster: MockCluster) -> None:
    work = good(account, "f")
    work.add(1, VECTORS[1])
    work.add(2, VECTORS[1])
    del work.chunks[0]
    losses = judge(account, work, cluster, (0, message(0)), (1, message(1)))
    assert losses.lost == ["test f:0 did not come to the client"]
    assert losses.doubled == ["f:1 came twice", "test f:2 is no chunk"]


def test_a_request_that_fails_and_one_without_an_end(account: Account) -> None:
    failed, hanging = account.open("g", "test"), account.open("h", "test")
    finish(failed, "500")
    assert account.losses([failed, hanging]).failed == ["test g: 500", "test h: no end"]
