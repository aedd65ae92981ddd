"""Traces as a collector receives them."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.brokers import Reader, Tansu
from tests.camera import ScriptedCamera, encode
from tests.e2e.collector import Collector, attributes
from tests.e2e.conftest import Stack

KINDS = ("Decode", "VLM Inference", "VLM Chunk Inference")
TOPIC = "traced"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def tansu() -> Iterator[Tansu]:
    broker = Tansu(TOPIC)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def traced(stack: Stack, collector: Collector) -> Stack:
    stack.environment |= {
        "ENABLE_OTEL_MONITORING": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    return stack


def ask(stack: Stack, film: Path, **body: object) -> str:
    """Embed the film and stop everything, so that all spans are exported; the request's id."""
    stack.start()
    file = stack.upload(film)
    answer = stack.client.post(
        "/generate_video_embeddings",
        json={"model": "null", "id": file, "chunk_duration": 10, **body},
        headers={"traceparent": PARENT},
    )
    assert answer.status_code == 200, answer.text
    request = answer.text.split('"id":"')[1].split('"')[0]
    stack.stop()
    return request


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_request_is_one_tree_of_spans_from_http_to_kafka(
    traced: Stack, collector: Collector, film: Path, tansu: Tansu, stream: bool
) -> None:
    traced.environment |= {
        "KAFKA_ENABLED": "true",
        "KAFKA_TOPIC": TOPIC,
        "KAFKA_BOOTSTRAP_SERVERS": tansu.servers,
        "ERROR_BUS": "off",
    }
    request = ask(traced, film, stream=stream)
    assert collector.services == {"rtvi-embed"}
    sent = [span for span in collector.spans if span.name == "Kafka Publish"]
    spans = {span.name: span for span in collector.spans if span not in sent}
    assert len(collector.spans) == len(spans) + 3 == 17, sorted(span.name for span in collector.spans)
    assert {span.trace_id.hex() for span in collector.spans} == {PARENT.split("-")[1]}
    root, pipeline = spans["Pipeline End-to-End"], spans["VLM Pipeline Latency"]
    assert root.parent_span_id.hex() == PARENT.split("-")[2]
    assert pipeline.parent_span_id == root.span_id
    below = [span for span in collector.spans if span not in (root, pipeline)]
    assert all(span.parent_span_id == pipeline.span_id for span in below)
    assert {span.name for span in below} == {
        "Kafka Publish",
        *(f"{kind} - Chunk {i}" for kind in KINDS for i in range(3)),
        *(f"Total {kind} Latency" for kind in ("Decode", "VLM", "Chunk")),
    }  # fmt: skip

    told = attributes(root)
    assert told["request_id"] == request
    assert (told["is_live"], told["chunk_count"], told["total_chunks_processed"]) == (False, 3, 3)
    assert told["e2e_latency_ms"] == pytest.approx(
        (root.end_time_unix_nano - root.start_time_unix_nano) / 1e6, abs=50
    )
    assert sorted(event.name for event in pipeline.events) == [f"chunk {i} processed" for i in range(3)]
    chunk = attributes(spans["VLM Inference - Chunk 2"])
    assert chunk["chunk_idx"] == 2
    assert (chunk["model_id"], chunk["model_api_type"], chunk["operation"]) == (
        "null",
        "custom",
        "vlm_inference",
    )
    assert chunk["execution_time_ms"] == chunk["vlm_latency_ms"] >= 0
    decoded, embedded = spans["Decode - Chunk 1"], spans["VLM Inference - Chunk 1"]
    assert decoded.end_time_unix_nano <= embedded.start_time_unix_nano + 1_000_000
    total = attributes(spans["Total Decode Latency"])
    parts = [attributes(spans[f"Decode - Chunk {i}"])["decode_latency_ms"] for i in range(3)]
    assert total["execution_time_ms"] == pytest.approx(sum(parts), abs=0.01)

    assert attributes(sent[0])["messaging.destination.name"] == TOPIC
    with Reader(tansu.servers, TOPIC) as reader:
        records = reader.until(lambda found: len(found) >= 3)
    assert {(key or b"").decode().partition(":")[0] for key, _, _ in records} == {request}
    for _, _, headers in records:
        named = dict(headers)
        assert named["message_type"] == b"vision_llm"
        _, trace, parent, sampled = named["traceparent"].decode().split("-")
        assert (trace, parent, sampled) == (PARENT.split("-")[1], pipeline.span_id.hex(), "01")


def watch(stack: Stack, url: str, events: int) -> str:
    """Embed a camera, read so many events, stop it and then everything; the stream's id."""
    stack.start()
    added = stack.client.post("/streams/add", json={"streams": [{"liveStreamUrl": url, "description": "d"}]})
    stream: str = added.json()["results"][0]["id"]
    body = {"id": stream, "model": "null", "stream": True, "chunk_duration": 1}
    with stack.client.stream("POST", "/generate_video_embeddings", json=body) as answer:
        told = []
        for line in answer.iter_lines():
            told.append(line)
            if sum(line.startswith("data: {") for line in told) == events:
                break
        else:
            pytest.fail(f"{answer.status_code}: {told}\n{stack.logs()}")
    stopped = stack.client.delete(f"/generate_video_embeddings/{stream}")
    assert stopped.status_code in (200, 400), stopped.text
    stack.stop()
    return stream


def test_a_live_session_is_one_tree_of_spans(traced: Stack, collector: Collector) -> None:
    with ScriptedCamera(encode(seconds=2), transports=("tcp",)) as camera:
        traced.environment["RTEMBED_RTSP_TRANSPORT"] = "tcp"
        stream = watch(traced, camera.url, 2)
    live = [s for s in collector.spans if s.name == "Pipeline End-to-End" and attributes(s).get("is_live")]
    (root,) = live
    told = attributes(root)
    assert told["stream_id"] == stream
    assert told["chunk_count"] >= told["total_chunks_processed"] >= 2
    assert told["e2e_latency_ms"] == pytest.approx(
        (root.end_time_unix_nano - root.start_time_unix_nano) / 1e6, abs=50
    )
    (pipeline,) = [s for s in collector.spans if s.parent_span_id == root.span_id]
    assert (pipeline.name, attributes(pipeline)["is_live"]) == ("VLM Pipeline Latency", True)
    assert {"chunk 0 processed", "chunk 1 processed"} <= {event.name for event in pipeline.events}
    below = {s.name for s in collector.spans if s.parent_span_id == pipeline.span_id}
    assert below >= {f"{kind} - Chunk {i}" for kind in KINDS for i in range(2)}
    assert below >= {"Total Decode Latency", "Total VLM Latency", "Total Chunk Latency"}
    assert "setup_failed" not in told


def test_a_camera_that_never_plays_is_a_set_up_that_failed(traced: Stack, collector: Collector) -> None:
    traced.environment |= {
        "RTVI_RTSP_RECONNECTION_INTERVAL": "0.1",
        "RTVI_RTSP_RECONNECTION_MAX_ATTEMPTS": "1",
    }
    traced.start()
    with ScriptedCamera(encode(seconds=1), transports=("tcp",)) as camera:
        streams = {"streams": [{"liveStreamUrl": camera.url, "description": "d"}]}
        stream = traced.client.post("/streams/add", json=streams).json()["results"][0]["id"]
    body = {"id": stream, "model": "null", "stream": True, "chunk_duration": 1}
    answer: httpx.Response = traced.client.post("/generate_video_embeddings", json=body)
    assert "[DONE]" in answer.text
    traced.stop()
    roots = [s for s in collector.spans if s.name == "Pipeline End-to-End"]
    (root,) = [s for s in roots if attributes(s).get("is_live")]
    told = attributes(root)
    assert told["setup_failed"]
    assert told["chunk_count"] == told["total_chunks_processed"] == 0
    assert told["error_message"]
    assert root.status.code == 2


def test_metrics_are_exported_under_their_instruments_names_also_where_no_span_is_sampled(
    traced: Stack, collector: Collector, film: Path
) -> None:
    traced.environment["OTEL_TRACES_SAMPLER"] = "always_off"
    ask(traced, film)
    assert collector.spans == []
    names = {metric.name for metric in collector.metrics}
    assert {
        "e2e_latency_seconds_latest", "vlm_input_tokens_per_chunk", "stream_fps",
        "decode_latency_seconds", "rtvi_decode_retry_total", "video_file_queries_processed",
    } <= names  # fmt: skip
    decoding = [m for m in collector.metrics if m.name == "decode_latency_seconds"][-1]
    assert decoding.unit == "s"
    assert decoding.histogram.data_points[0].count == 3


def test_a_failed_request_says_so_in_its_root(traced: Stack, collector: Collector) -> None:
    traced.start()
    body = {"model": "null", "id": "12345678-1234-4123-8123-123456789012"}
    assert traced.client.post("/generate_video_embeddings", json=body).status_code == 400
    traced.stop()
    (root,) = collector.spans
    assert root.name == "Pipeline End-to-End"
    assert root.status.code == 2
    assert "12345678" in attributes(root)["error_message"]


def test_spans_on_the_console(traced: Stack, film: Path, capfd: pytest.CaptureFixture[str]) -> None:
    traced.environment |= {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none"}
    ask(traced, film)
    printed = capfd.readouterr().out
    assert '"name": "Pipeline End-to-End"' in printed
    assert PARENT.split("-")[1] in printed


def test_any_other_exporter_switches_telemetry_off(traced: Stack, collector: Collector, film: Path) -> None:
    traced.environment["OTEL_TRACES_EXPORTER"] = "none"
    traced.start()
    traced.upload(film)
    answer = traced.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.text.startswith("# ")
    assert len(answer.text.splitlines()) == 1
    traced.stop()
    assert (collector.spans, collector.metrics) == ([], [])
