"""GET /v1/metrics of a busy fleet, checked against the requests made."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from shared import keys
from shared.telemetry.instruments import EXPOSED
from tests.e2e.conftest import Stack

FROM_THE_START = [
    "video_file_queries_processed",
    "video_file_queries_pending",
    "active_live_streams",
    "rtvi_decode_retry_total",
    "system_uptime_seconds",
    "e2e_latency_seconds_latest_seconds",
    "vlm_pipeline_latency_seconds_latest_seconds",
    "decode_latency_seconds_latest_seconds",
    "vlm_latency_seconds_latest_seconds",
    "chunk_latency_seconds_latest_seconds",
    "live_stream_chunk_latency_seconds_latest_seconds",
    "live_stream_captions_latency_seconds_latest_seconds",
    "asr_pipeline_latency_seconds_latest_seconds",
    "avg_chunk_latency_seconds",
    "live_stream_avg_chunk_latency_seconds",
    "target_info",
]
"""The gauges and counters of RT-Embed 3.2 and later."""
AFTER_A_FILE = [
    "stream_fps",
    "decode_latency_seconds",
    "vlm_latency_seconds",
    "chunk_latency_seconds",
    "vlm_input_tokens_per_chunk_tokens",
    "vlm_output_tokens_per_chunk_tokens",
]
"""Its histograms, which appear with their first value."""
BOUNDS = {
    "stream_fps": "1 5 10 20 30 50 100 200 300 400 500 750 1000 5000",
    "decode_latency_seconds": "0.001 0.003 0.01 0.03 0.1 0.3 1 3 10",
    "vlm_latency_seconds": "0.1 0.3 1 3 5 10 15 20 25 30 35 40 45 50",
    "chunk_latency_seconds": "0 5 10 25 50 75 100 250 500 750 1000 2500 5000 7500 10000",
    "vlm_input_tokens_per_chunk_tokens": "10 20 50 100 200 500 1000 2000",
    "vlm_output_tokens_per_chunk_tokens": "10 20 50 100 200 500 1000 2000",
}


class Page:
    """A scrape: `value` of a sample, `type` of a family."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, Metric] = {}
        for family in text_string_to_metric_families(text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert name not in self.families, f"{name} twice"
            self.families[name] = family

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name with these labels."""
        found = [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"no {name} {labels}"
        return sum(found)


def scrape(stack: Stack) -> Page:
    answer = stack.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    return Page(answer.text)


def settled(stack: Stack, name: str, expected: float, **labels: str) -> Page:
    """A scrape in which all that was done has arrived: workers publish every two seconds."""
    deadline = time.monotonic() + 20
    while True:
        page = scrape(stack)
        try:
            if page.value(name, **labels) >= expected:
                return page
        except AssertionError:
            pass
        assert time.monotonic() < deadline, f"{name} {labels} never came to {expected}"
        time.sleep(0.2)


def embed(stack: Stack, file: str, **body: object) -> None:
    request = {"model": "null", "id": file, "chunk_duration": 5, **body}
    answer = stack.client.post("/generate_video_embeddings", json=request)
    assert answer.status_code == 200, answer.text


def own_pages(redis_url: str) -> list[str]:
    """Where the workers say that their own pages are."""
    with Redis.from_url(redis_url) as redis:
        found: Any = [
            redis.hget(b"{rtembed}:worker:" + n, "metrics_port") for n in redis.zrange(keys.WORKERS, 0, -1)
        ]
    return [f"http://127.0.0.1:{int(port)}" for port in found]


def test_a_busy_fleet_of_two_workers(stack: Stack, film: Path, redis_url: str) -> None:
    stack.start(2)
    before = scrape(stack)
    assert set(FROM_THE_START) <= set(before.families)
    assert before.value("rtembed_workers", state="ready") == 2

    file = stack.upload(film)
    for _ in range(3):
        embed(stack, file)
    embed(stack, file, stream=True)
    texts = {"model": "null", "text_input": ["a", "b"]}
    assert stack.client.post("/generate_text_embeddings", json=texts).status_code == 200
    page = settled(stack, "vlm_latency_seconds_count", 22)

    assert set(FROM_THE_START) | set(AFTER_A_FILE) <= set(page.families)
    assert page.value("video_file_queries_processed") == 4
    assert page.value("video_file_queries_pending") == 0
    for name, count in (
        ("decode_latency_seconds", 20),
        ("vlm_latency_seconds", 22),
        ("chunk_latency_seconds", 20),
    ):
        assert page.value(f"{name}_count") == count
        assert 0 < page.value(f"{name}_sum") < 60
        assert page.value(f"{name}_latest_seconds") > 0
    assert page.value("chunk_latency_seconds_sum") >= page.value("decode_latency_seconds_sum")
    assert page.value("avg_chunk_latency_seconds") == pytest.approx(
        page.value("chunk_latency_seconds_sum") / 20
    )
    assert page.value("stream_fps_count") == 4 * (5 + 1)
    assert page.value("e2e_latency_seconds_latest_seconds") >= page.value(
        "vlm_pipeline_latency_seconds_latest_seconds"
    )
    assert page.value("rtembed_frames_used_total") == 4 * 5 * 8
    assert page.value("rtembed_frames_decoded_total") >= 4 * 5 * 8
    assert page.value("rtembed_requests_total", lane="video", state="done") == 4
    assert page.value("rtembed_jobs_done_total", lane="text") == 1
    assert page.value("rtembed_batch_size_sum", modality="video") == 20
    assert page.value("rtembed_engine_busy_seconds_total", modality="video") > 0
    assert page.value("rtembed_decode_slots") == page.value("rtembed_decode_slots", state="idle") > 0
    route = "/v1/generate_video_embeddings"
    assert page.value("rtembed_http_requests_total", route=route, method="POST", status="200") == 4
    assert page.value("rtembed_redis_up") == 1
    for name, bounds in BOUNDS.items():
        shown = {s.labels["le"] for s in page.families[name].samples if s.name.endswith("_bucket")}
        assert {float(b) for b in shown} == {*map(float, bounds.split()), float("inf")}
        assert page.value(f"{name}_bucket", le="+Inf") == page.value(f"{name}_count")
    for name, family in page.families.items():
        if name != "target_info":
            assert family.type == EXPOSED[name].kind, name
            assert family.documentation == EXPOSED[name].description

    pages = own_pages(redis_url)
    own_shown = [Page(httpx.get(f"{url}/metrics").text) for url in pages]
    assert len(own_shown) == 2
    decoded = [own for own in own_shown if "decode_latency_seconds" in own.families]
    assert sum(own.value("decode_latency_seconds_count") for own in decoded) == 20
    assert [httpx.get(f"{url}/{path}").text for url in pages for path in ("live", "ready")] == ["ok"] * 4
    assert httpx.get(f"{pages[0]}/elsewhere").status_code == 404


def test_sums_outlive_a_worker_and_gauges_do_not(stack: Stack, film: Path) -> None:
    stack.start(2)
    file = stack.upload(film)
    embed(stack, file)
    settled(stack, "decode_latency_seconds_count", 5)
    stack.workers[0].kill()
    stack.workers[0].wait()
    embed(stack, file)
    page = settled(stack, "decode_latency_seconds_count", 10)
    assert page.value("decode_latency_seconds_count") == 10
    slots = page.value("rtembed_decode_slots")
    deadline = time.monotonic() + 30
    while scrape(stack).value("rtembed_decode_slots") == slots:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert scrape(stack).value("decode_latency_seconds_count") == 10
