"""Every example of deploy/examples does what its page says, on a real service."""

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psycopg
import pytest

from tests.brokers import MockCluster
from tests.camera import ScriptedCamera, encode
from tests.e2e.conftest import Stack
from tests.e2e.media import colour_film
from tests.models.null.inference import text_vector
from tests.rt_embed.conftest import Wire
from tests.support import RedisServer

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
TOPIC = "mdx-embed"


def needs(package: str) -> pytest.MarkDecorator:
    missing = find_spec(package.partition(".")[0]) is None
    return pytest.mark.skipif(missing, reason=f"extra [examples] is not installed: {package}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    made = MockCluster()
    made.create_topic(TOPIC)
    yield made
    made.close()


@pytest.fixture(scope="module")
def service(
    valkey: RedisServer, cluster: MockCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A service that sends messages."""
    stack = Stack(tmp_path_factory.mktemp("service"), f"redis://127.0.0.1:{valkey.port}/5")
    stack.environment |= {"KAFKA_ENABLED": "true", "KAFKA_BOOTSTRAP_SERVERS": cluster.servers}
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_film(tmp_path_factory.mktemp("films") / "film.mp4")


def run(name: str, *arguments: str, url: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        env={**os.environ, "RTVI_BACKEND": url, **environment},
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def kafka(service: Stack, cluster: MockCluster) -> dict[str, str]:
    """The variables of a consumer, for a topic of the test's own to which messages now go."""
    topic = f"topic-{uuid.uuid4()}"
    cluster.create_topic(topic)
    metadata = {"messagingbus": "kafka", "topic-prefix": topic}
    event = {"change": "config", "metadata": metadata}
    body = {"alert_type": "config", "created_at": "now", "txn_id": "1", "source": "test", "event": event}
    answer = service.client.post("/config", json=body)
    assert answer.json()["topic"] == topic
    return {"KAFKA_BOOTSTRAP_SERVERS": cluster.servers, "KAFKA_TOPIC": topic}


def test_the_page_names_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+\.py)", page, re.MULTILINE)) == {p.name for p in EXAMPLES.glob("*.py")}


def test_first_steps(service: Stack, film: Path) -> None:
    lines = run("first_steps", str(film), "a cat", "a dog", url=service.url).stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["a cat", "a dog"]
    assert re.fullmatch(r"a cat: \d+\.0 s to \d+\.0 s, score -?\d\.\d\d", lines[0])


def test_a_folder(service: Stack, film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    said = run("folder", str(film.parent), str(out), url=service.url).stdout
    assert said == f"1 of 1 films in {out}\n"
    assert out.read_text().count('"vector"') == 3


def test_a_camera(service: Stack) -> None:
    with ScriptedCamera(encode(gop=30, size=96)) as camera:
        said = run("live_alert", camera.url, "a cat", "-1", "1", url=service.url).stdout
    assert re.fullmatch(r"ALERT \S+Z to \S+Z: a cat \(-?\d\.\d\d\)\n", said)
    assert service.client.get("/streams/get-stream-info").json() == []


def test_events_over_broken_connections(service: Stack, film: Path) -> None:
    file_id = service.upload(film)
    wire = Wire(service.port)
    wire.cuts = [2_000_000, 5_000, 5_000]  # the first connection asks for the model
    try:
        done = run("events", file_id, url=wire.url)
    finally:
        wire.close()
    starts = [float(line.split()[0]) for line in done.stdout.splitlines()]
    assert sorted(starts) == [0.0, 5.0, 10.0, 15.0, 20.0]
    assert "connection lost" in done.stderr
    assert wire.cuts == []


def test_messages_into_pgvector(service: Stack, film: Path, kafka: dict[str, str], search_url: str) -> None:
    file_id = service.upload(film)
    body = {"id": file_id, "model": "null", "chunk_duration": 5}
    answers = [service.client.post("/generate_video_embeddings", json=body).json() for _ in range(2)]
    run("kafka_to_pgvector", "10", **kafka, DATABASE_URL=search_url)
    with psycopg.connect(search_url) as connection:
        rows = connection.execute(
            "SELECT extract(epoch FROM starts), embedding::text, model FROM chunks WHERE asset = %s "
            "ORDER BY starts",
            [file_id],
        ).fetchall()
    assert [float(start) for start, _, _ in rows] == [0, 5, 10, 15, 20]  # embedded twice, stored once
    assert {model for _, _, model in rows} == {"null"}
    vector = np.array(rows[0][1].strip("[]").split(","), np.float32)
    assert np.allclose(vector, answers[0]["chunk_responses"][0]["embeddings"], atol=1e-6)


@needs("qdrant_client")
def test_messages_into_qdrant(service: Stack, film: Path, kafka: dict[str, str], tmp_path: Path) -> None:
    from qdrant_client import QdrantClient

    file_id = service.upload(film)
    body = {"id": file_id, "model": "null", "chunk_duration": 5}
    answer = service.client.post("/generate_video_embeddings", json=body).json()
    run("kafka_to_qdrant", "5", **kafka, QDRANT=str(tmp_path / "qdrant"))
    qdrant = QdrantClient(path=str(tmp_path / "qdrant"))
    wanted = answer["chunk_responses"][2]
    best = qdrant.query_points("chunks", query=wanted["embeddings"], limit=1).points[0]
    qdrant.close()
    assert best.score == pytest.approx(1, abs=1e-5)
    assert best.payload
    assert best.payload["start"] == "1970-01-01T00:00:10Z"


def nearest(question: str, sentences: list[str]) -> str:
    """By plain arithmetic."""
    wanted = text_vector(question)
    scores = [wanted @ text_vector(s) / np.linalg.norm(text_vector(s)) for s in sentences]
    return sentences[int(np.argmax(scores))]


SENTENCES = [f"sentence {number}" for number in range(8)]


@needs("langchain_openai")
def test_langchain(service: Stack) -> None:
    lines = run("langchain_search", "a cat", *SENTENCES, url=service.url).stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].partition("  ")[2] == nearest("a cat", SENTENCES)


@needs("llama_index")
def test_llamaindex(service: Stack) -> None:
    lines = run("llamaindex_search", "a cat", *SENTENCES, url=service.url).stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].partition("  ")[2] == nearest("a cat", SENTENCES)
