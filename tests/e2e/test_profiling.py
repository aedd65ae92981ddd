"""Request profiling through the whole service, on the CPU."""

import json
from pathlib import Path

from tests.e2e.conftest import Stack
from tests.support import until

KEYS = [
    "num_gpus", "gpu_names", "vlm_model_name", "vlm_batch_size", "input_video_duration", "chunk_size",
    "chunk_overlap_duration", "num_chunks", "req_start_time", "e2e_latency", "vlm_pipeline_latency",
    "decode_latency", "vlm_latency", "total_vlm_input_tokens", "total_vlm_output_tokens",
    "resource_usage_graph_paths", "resource_usage_graph_plot_paths", "all_times",
]  # fmt: skip
TIMES = [
    "chunk_id", "decode_start_time", "decode_end_time", "vlm_start_time", "vlm_end_time", "chunk_start_time",
    "chunk_end_time", "vlm_input_tokens", "vlm_output_tokens",
]  # fmt: skip


async def test_a_request_is_profiled(stack: Stack, film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    stack.environment |= {"ENABLE_REQUEST_PROFILING": "true", "RTEMBED_PROFILE_DIR": str(folder)}
    stack.start()
    body = {"id": stack.upload(film), "model": "null", "chunk_duration": 10, "chunk_overlap_duration": 2}
    answer = stack.client.post("/generate_video_embeddings", json=body).json()
    stack.client.post("/generate_text_embeddings", json={"model": "null", "text_input": ["a"]})
    await until(lambda: list(folder.glob("request_metrics_*.json")))
    request = answer["id"]
    assert {path.name for path in folder.iterdir()} == {
        f"vlm_testdata_{request}.txt", f"nvdec_usage_{request}.csv", f"gpu_usage_{request}.csv",
        f"plot_nvdec_{request}.png", f"plot_gpu_{request}.png", f"plot_gpu_mem_{request}.png",
        f"request_metrics_{request}.json",
    }  # fmt: skip
    chunks = answer["chunk_responses"]
    expected = "".join(f'{index},""\n' for index in range(len(chunks)))
    assert (folder / f"vlm_testdata_{request}.txt").read_text() == "Chunk_ID,Answer\n" + expected
    assert (folder / f"gpu_usage_{request}.csv").read_text() == "elapsed_time\n"
    written = json.loads((folder / f"request_metrics_{request}.json").read_text())
    assert list(written) == KEYS
    assert (written["num_gpus"], written["vlm_model_name"], written["vlm_batch_size"]) == (0, "null", 2)
    assert (written["input_video_duration"], written["num_chunks"]) == (25.0, 2.5)
    assert (written["chunk_size"], written["chunk_overlap_duration"]) == (10, 2)
    times = written["all_times"]
    assert [list(entry) for entry in times] == [TIMES] * len(chunks)
    for entry, chunk in zip(times, chunks, strict=True):
        assert written["req_start_time"] <= entry["decode_start_time"] <= entry["decode_end_time"]
        assert entry["decode_end_time"] <= entry["vlm_end_time"] == entry["chunk_end_time"]
        decoding = entry["decode_end_time"] - entry["decode_start_time"]
        assert abs(decoding * 1000 - chunk["decode_latency_ms"]) < 0.01
    end = max(entry["chunk_end_time"] for entry in times)
    assert end <= written["req_start_time"] + written["e2e_latency"] + 0.1
