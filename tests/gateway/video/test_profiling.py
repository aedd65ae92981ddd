"""The files about a request: their names, columns and numbers."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gateway.video import profiling
from gateway.video.charts import read
from gateway.video.profiling import Profile, ProfileFiles, Timing, timing_of, usage_tables
from shared import keys
from shared.redis.connection import Redis
from shared.results import Result
from shared.settings import Settings
from shared.telemetry import gpu_samples
from shared.telemetry.gpu_samples import Sample
from tests.gateway.conftest import Serve, StandIn
from tests.support import stream_entries, until

RESULT = Result(
    chunk=3, decode_started=100.5, decode_latency_ms=250, inference_latency_ms=100, chunk_latency_ms=500
)


def gpu(index: int, time: float, **figures: Any) -> Sample:
    return Sample(host="h", index=index, name=f"GPU {index}", time=time, **figures)


def test_a_chunk_tells_when_it_was_decoded_and_embedded() -> None:
    assert timing_of(RESULT) == Timing(
        chunk_id=3, decode_start_time=100.5, decode_end_time=100.75, vlm_start_time=100.9, vlm_end_time=101.0,
        chunk_start_time=100.5, chunk_end_time=101.0,
    )  # fmt: skip
    assert timing_of(Result(chunk=3, decode_latency_ms=250)) is None


def test_samples_become_rows_of_a_fifth_of_a_second() -> None:
    seen = [
        gpu(1, 50.21, usage=10.0, memory=20.0, decoder=30.0),
        gpu(4, 50.19, usage=11.0, memory=21.0, decoder=31.0),
        gpu(1, 50.61, usage=12.0, memory=None, decoder=0.0),
    ]
    decoders, usage = usage_tables(seen, 50.0)
    assert decoders == [
        ["elapsed_time", "GPU0_AvgNVDEC", "GPU1_AvgNVDEC"],
        [0.2, 30.0, 31.0],
        [0.6, 0.0, None],
    ]
    assert usage == [
        ["elapsed_time", "GPU0_Usage", "GPU1_Usage", "GPU0_MemUsage", "GPU1_MemUsage"],
        [0.2, 10.0, 11.0, 20.0, 21.0],
        [0.6, 12.0, None, None, None],
    ]


def test_without_gpus_there_are_only_headers() -> None:
    assert usage_tables([], 0.0) == ([["elapsed_time"]], [["elapsed_time"]])


async def test_samples_go_through_redis(redis: Redis) -> None:
    sent = [gpu(0, 0.0, usage=1.5), gpu(1, 0.0, memory=99.0)]
    await gpu_samples.publish(redis, sent)
    ((entry_id, fields),) = await stream_entries(redis, keys.GPU_SAMPLES)
    read = gpu_samples.from_fields(entry_id, fields)
    assert [replace_time(sample) for sample in read] == sent
    seconds, _ = await redis.time()
    assert abs(read[0].time - seconds) < 60
    assert await redis.ttl(keys.GPU_SAMPLES) > 0


def replace_time(sample: Sample) -> Sample:
    return Sample(**{name: getattr(sample, name) for name in sample.__struct_fields__ if name != "time"})


async def test_a_request_leaves_its_files(  # noqa: PLR0917 - fixtures
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, redis: Redis, tmp_path: Path
) -> None:
    """With a worker that the test plays, and one GPU."""
    folder = tmp_path / "profiles"
    async with serve(replace(settings, profiling=True, profile_dir=folder)) as gateway:
        body = {"id": film, "model": "null", "chunk_duration": 2, "stream": True}
        async with gateway.client.stream("POST", "/generate_video_embeddings", json=body) as answer:
            job = await stand_in.job()
            await gpu_samples.publish(
                redis, [Sample(host="h", index=0, name="L40S", usage=50.0, decoder=7.0)]
            )
            await stand_in.finish(job, *[chunk.index for chunk in job.chunks])
            second = await stand_in.job()
            await stand_in.finish(second, *[chunk.index for chunk in second.chunks])
            async for _ in answer.aiter_lines():
                pass
        await until(lambda: list(folder.glob("request_metrics_*.json")))
    files = ProfileFiles(folder, job.request)
    written = json.loads(files.metrics.read_text())
    assert written["gpu_names"] == ["L40S"]
    assert (written["num_gpus"], written["vlm_model_name"]) == (1, "null")
    assert (written["chunk_size"], written["num_chunks"], written["input_video_duration"]) == (2, 1.5, 3.0)
    assert written["e2e_latency"] >= written["vlm_pipeline_latency"] > 0
    assert read(files.usage[1], "_Usage")["GPU0_Usage"][0][1] == 50.0
    assert read(files.usage[0], "_AvgNVDEC")["GPU0_AvgNVDEC"][0][1] == 7.0
    assert files.answers.read_text() == 'Chunk_ID,Answer\n0,""\n1,""\n'
    assert written["resource_usage_graph_plot_paths"] == [str(path) for path in files.plots]


async def test_nothing_is_written_unless_asked_for(
    serve: Serve, settings: Settings, stand_in: StandIn, film: str, tmp_path: Path
) -> None:
    async with serve(replace(settings, profile_dir=tmp_path / "profiles")) as gateway:
        body = {"id": film, "model": "null", "stream": True}
        async with gateway.client.stream("POST", "/generate_video_embeddings", json=body) as answer:
            await stand_in.finish(await stand_in.job(), 0)
            async for _ in answer.aiter_lines():
                pass
        assert gateway.context.profiler._waiting == type(gateway.context.profiler._waiting)()
    assert not (tmp_path / "profiles").exists()


def test_a_missing_matplotlib_is_named(tmp_path: Path) -> None:
    """In a process where it cannot be imported."""
    program = """
import asyncio, sys
from types import SimpleNamespace
sys.modules["matplotlib"] = None
from gateway.video.profiling import Profiler
from shared.settings import load
async def main():
    profiler = Profiler(None, None, load({"ENABLE_REQUEST_PROFILING": "1"}))
    task = asyncio.create_task(profiler.run())
    await asyncio.sleep(0.05)
    task.cancel()
    assert await profiler._draw(None) == []
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'rt-embed[profiling]'" in done.stdout


def test_charts_are_drawn(tmp_path: Path) -> None:
    files = ProfileFiles(tmp_path, "r")
    files.usage[0].write_text("elapsed_time,GPU0_AvgNVDEC\n0.0,5\n0.2,\n0.4,90\n")
    files.usage[1].write_text("elapsed_time,GPU0_Usage,GPU0_MemUsage\n0.0,5,6\n0.2,7,8\n")
    subprocess.run(
        [sys.executable, "-m", "gateway.video.charts", *map(str, [*files.usage, *files.plots])], check=True
    )
    for path in files.plots:
        with Image.open(path) as picture:
            assert picture.width > 100
            assert len(set(picture.convert("RGB").tobytes()[::97])) > 1


def test_the_oldest_requests_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "KEPT", 2)
    for number in range(4):
        old = ProfileFiles(tmp_path, f"r{number}")
        old.answers.write_text("x")
        old.metrics.write_text("{}")
        os.utime(old.metrics, (number, number))
    ProfileFiles(tmp_path, "new")._remove_oldest()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "request_metrics_r3.json",
        "vlm_testdata_r3.txt",
    ]


def test_notes_are_taken_of_every_chunk_once() -> None:
    plan: Any = None
    notes = Profile(plan=plan, began=0, accepted=0)
    notes.chunk(RESULT)
    notes.chunk(RESULT)
    assert list(notes.timings) == [3]
    assert Profile(plan=plan, began=0, accepted=0).timings == {}
