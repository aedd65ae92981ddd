"""The GPU engine's own part - batches, shapes, memory, errors - on a simulated GPU."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from opentelemetry.metrics import CallbackOptions
from structlog.testing import capture_logs

import worker.engine as ours
from shared.errors import DeviceLost, EngineError, ModelError
from shared.settings import load
from shared.telemetry.instruments import text_graphs
from tests.worker.engine.simulated import Device, make_cupy, make_cupyx, make_tensorrt
from tests.worker.engine.suite import (
    EngineSuite,
    random_clips,
    reference_text,
    reference_video,
    write_tiny_model,
)
from worker.engine.batches import PATIENCE, graph_shapes
from worker.engine.gpus import Gpu
from worker.models.directory import ModelDirectory, load_model_directory, write_model_json
from worker.models.embedding_engine import Engine
from worker.models.reference_vectors import ReferenceVectors, write_reference_vectors

L40S = Gpu(0, "GPU-1", "NVIDIA L40S", 48 << 30, (8, 9), "580")
OURS = ("build", "cache", "tensorrt", "tower_session")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """The simulated GPU; the modules that use one are imported anew over it."""
    device = Device()
    packages = {"cupy": make_cupy(device), "cupyx": make_cupyx(), "tensorrt": make_tensorrt(device)}
    for name, package in packages.items():
        monkeypatch.setitem(sys.modules, name, package)
    for name in OURS:
        # So that what is there now comes back after the test.
        monkeypatch.setitem(sys.modules, f"worker.engine.{name}", sys)
        monkeypatch.setattr(ours, name, None, raising=False)
        del sys.modules[f"worker.engine.{name}"]
    importlib.import_module("worker.engine.tensorrt")

    def build(tower: Any, arguments: Any, **more: Any) -> Any:
        batch = next(iter(tower.profile.values()))[-1][0]
        return SimpleNamespace(engine=f"{tower.graph}\n{batch}".encode(), timing_cache=b"learnt")

    monkeypatch.setattr("worker.engine.cache.build", build)
    return device


@pytest.fixture
def model(tmp_path: Path) -> ModelDirectory:
    return write_tiny_model(tmp_path / "tiny")


def open_engine(
    model: ModelDirectory, batch_size: int = 8, told: list[str] | None = None, *, graphs: bool = True
) -> Any:
    settings = load({"NGC_MODEL_CACHE": str(model.path.parent), "RTEMBED_TEXT_GRAPHS": str(graphs)})
    steps = [] if told is None else told
    return sys.modules["worker.engine.tensorrt"].open_engine(
        model, L40S, batch_size, settings, lambda step, done, total: steps.append(step)
    )


class TestSimulatedEngine(EngineSuite):
    @pytest.fixture(params=[1, 8], ids=["batches of one", "batches of eight"])
    def engine(
        self, device: Device, tiny_model: ModelDirectory, request: pytest.FixtureRequest
    ) -> Iterator[Engine]:
        engine = open_engine(tiny_model, request.param)
        yield engine
        engine.close()


def test_the_largest_batches_are_run_once_at_the_start(device: Device, model: ModelDirectory) -> None:
    told: list[str] = []
    engine = open_engine(model, told=told, graphs=False)
    assert [(tower, count) for tower, count, _ in device.ran] == [("video", 8), ("text", 8)]
    assert told == [
        "building the video engine for NVIDIA L40S",
        "building the text engine for NVIDIA L40S",
        "warming the engine up",
    ]
    assert [name.split("_")[0] for name in engine.files] == ["video", "text"]
    assert (model.path / "timing_NVIDIA-L40S_tensorrt-11.4.0.cache").read_bytes() == b"learnt"


def test_texts_have_the_higher_priority(device: Device, model: ModelDirectory) -> None:
    engine = open_engine(model)
    device.ran.clear()
    engine.embed_video(random_clips(1))
    engine.embed_text(["cat"])
    assert device.ran == [("video", 1, 0), ("text", 1, -5)]


def test_clips_on_the_gpu_are_not_copied_where_they_are_aligned(
    device: Device, model: ModelDirectory
) -> None:
    engine = open_engine(model, 8)
    clips = random_clips(20)
    lying_there = sys.modules["cupy"].asarray(clips)
    before, device.uploads = len(device.memory), 0
    np.testing.assert_allclose(engine.embed_video(lying_there), reference_video(clips), atol=1e-6)
    assert device.uploads == 0
    # A clip has 96 bytes, so the second and third batch begin at 768 and 1536: aligned, like the first.
    assert [count for tower, count, _ in device.ran[-3:]] == [8, 8, 4]
    assert len(device.memory) - before <= 3 + 3
    odd = open_engine(model, 3)
    np.testing.assert_allclose(odd.embed_video(lying_there), reference_video(clips), atol=1e-6)


def test_scratch_memory_grows_and_is_kept(device: Device, model: ModelDirectory) -> None:
    engine = open_engine(model)
    before = sum(array.nbytes >= 8 * 3000 for array in device.memory.values())
    engine.embed_video(random_clips(3))
    engine.embed_video(random_clips(8))
    assert sum(array.nbytes >= 8 * 3000 for array in device.memory.values()) == before


def test_short_memory_makes_batches_smaller(device: Device, model: ModelDirectory) -> None:
    device.room = 2 * 3000
    engine = open_engine(model)
    clips = random_clips(7)
    device.ran.clear()
    np.testing.assert_allclose(engine.embed_video(clips), reference_video(clips), atol=1e-6)
    assert max(count for _, count, _ in device.ran) == 2


def test_no_memory_for_one_clip_stops_the_start(device: Device, model: ModelDirectory) -> None:
    device.room = 100
    with pytest.raises(
        ModelError, match=r"the engine of tiny does not run on NVIDIA L40S: a batch of one fails"
    ):
        open_engine(model)


def test_memory_that_runs_out_later_fails_the_batch_only(device: Device, model: ModelDirectory) -> None:
    engine = open_engine(model)
    device.room = 10
    with pytest.raises(EngineError, match=r"a batch of one fails: NVIDIA L40S \(GPU-1\) has no memory left"):
        engine.embed_video(random_clips(2))
    device.room = 1 << 30
    clips = random_clips(2)
    np.testing.assert_allclose(engine.embed_video(clips), reference_video(clips), atol=1e-6)
    device.error = 2  # of pinned memory
    with pytest.raises(EngineError, match=r"NVIDIA L40S \(GPU-1\) has no memory left: error 2"):
        engine.embed_text(["cat"])
    device.error = 0
    assert engine.embed_text(["cat"]).shape == (1, 3)


def test_an_error_of_cuda_is_the_end_of_the_gpu(device: Device, model: ModelDirectory) -> None:
    engine = open_engine(model)
    device.error = 700
    with pytest.raises(DeviceLost, match=r"NVIDIA L40S \(GPU-1\) is lost to this process: error 700"):
        engine.embed_video(random_clips(2))
    device.error = 0
    with pytest.raises(DeviceLost, match="error 700"):
        engine.embed_text(["cat"])
    engine.close()


def test_a_batch_that_tensorrt_does_not_run_is_only_that(device: Device, model: ModelDirectory) -> None:
    engine = open_engine(model)
    device.does = False
    with pytest.raises(EngineError, match="TensorRT does not run the video engine: TensorRT gives no reason"):
        engine.embed_video(random_clips(2))
    device.does = True
    assert engine.embed_video(random_clips(2)).shape == (2, 3)


def test_an_engine_that_cannot_be_loaded_is_named(device: Device, model: ModelDirectory) -> None:
    engine = open_engine(model)
    broken = model.path / engine.files[1]
    broken.write_bytes(b"broken")
    with pytest.raises(ModelError, match=rf"TensorRT cannot load {broken}: the engine is broken"):
        open_engine(model)


def test_an_engine_must_give_the_models_vectors(device: Device, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "verified")
    info = msgspec.structs.replace(model.info, verified=True)
    write_model_json(model.path, info)
    model = load_model_directory(model.path)
    write_reference_vectors(model.path, ReferenceVectors([[1, 0, 0]] * 2, [[0, 1, 0]] * 4))
    with pytest.raises(ModelError, match="does not give the model's vectors"):
        open_engine(model)


# CUDA graphs -----------------------------------------------------------------------------------------------

TEXTS = ["a cat", "the dog sat on the mat", "mats", "a dog", "on the cat"]
"""Up to 8 tokens each."""


def counted() -> dict[str, float]:
    """How often each outcome was counted."""
    return {
        str((observation.attributes or {})["outcome"]): observation.value
        for observation in text_graphs.observe(CallbackOptions())
    }


def test_a_graph_is_captured_once_and_replayed(device: Device, model: ModelDirectory) -> None:
    engine = open_engine(model)
    assert device.captures == len(graph_shapes(8, 16)) == 8
    plain = open_engine(model, graphs=False)
    device.graphs.clear()
    memory, before = device.next, counted()
    for count in (1, 3, 5, 3):
        vectors = engine.embed_text(TEXTS[:count])
        np.testing.assert_allclose(vectors, reference_text(model, TEXTS[:count]), atol=1e-6)
        np.testing.assert_array_equal(vectors, engine.embed_text(TEXTS[:count]))
    assert device.graphs == [(1, 8)] * 2 + [(4, 8)] * 2 + [(8, 8)] * 2 + [(4, 8)] * 2
    assert counted()["replayed"] - before["replayed"] == 8
    assert device.captures == 8
    assert device.next == memory  # nothing was allocated
    np.testing.assert_allclose(plain.embed_text(TEXTS), engine.embed_text(TEXTS), atol=1e-6)
    assert len(device.graphs) == 9


def test_larger_batches_have_no_graph(device: Device, model: ModelDirectory) -> None:
    engine = open_engine(model, 16)
    device.graphs.clear()
    texts = TEXTS[:3] * 3
    np.testing.assert_allclose(engine.embed_text(texts), reference_text(model, texts), atol=1e-6)
    assert device.graphs == []
    assert device.ran[-1] == ("text", 9, -5)


def test_what_cannot_be_captured_runs_without(device: Device, model: ModelDirectory) -> None:
    device.capture_error = 901
    before = counted()["failed"]
    with capture_logs() as told:
        engine = open_engine(model)
    (warning,) = [entry for entry in told if entry["log_level"] == "warning"]
    assert warning == {
        "event": "batches of texts run without a CUDA graph",
        "batches": "8x16, 8x8, 4x16, 4x8, 2x16, 2x8, 1x16, 1x8",
        "error": "NVIDIA L40S (GPU-1) captures no CUDA graph of it: error 901 of CUDA",
        "log_level": "warning",
    }
    assert counted()["failed"] - before == 8
    np.testing.assert_allclose(engine.embed_text(TEXTS), reference_text(model, TEXTS), atol=1e-6)
    assert (device.captures, device.graphs) == (8, [])  # not tried again


def test_a_graph_that_gives_other_vectors_is_not_used(device: Device, model: ModelDirectory) -> None:
    device.drifts = 0.1
    with capture_logs() as told:
        engine = open_engine(model)
    (warning,) = [entry for entry in told if entry["log_level"] == "warning"]
    assert warning["error"].startswith("its CUDA graph gives other vectors than a plain run: cosine 0.9")
    device.graphs.clear()
    np.testing.assert_allclose(engine.embed_text(TEXTS), reference_text(model, TEXTS), atol=1e-6)
    assert device.graphs == []


def test_a_gpu_that_is_lost_by_a_capture_says_how_to_start_without(
    device: Device, model: ModelDirectory
) -> None:
    device.capture_error = 719
    with pytest.raises(ModelError, match=r"error 719 .* captured; RTEMBED_TEXT_GRAPHS=false starts without"):
        open_engine(model)


def test_a_gpu_that_is_lost_in_a_replay_is_lost(device: Device, model: ModelDirectory) -> None:
    engine = open_engine(model)
    device.error = 719
    with pytest.raises(DeviceLost, match="is lost to this process: error 719"):
        engine.embed_text(["cat"])
    device.error = 0
    with pytest.raises(DeviceLost, match="error 719"):
        engine.embed_video(random_clips(1))


def test_graphs_keep_their_memory_when_a_larger_batch_needs_more(
    device: Device, model: ModelDirectory
) -> None:
    device.room = 4 * 3000
    engine = open_engine(model)
    assert device.captures == len(graph_shapes(4, 16))
    device.room = 1 << 30
    for _ in range(PATIENCE):
        engine.embed_text(["cat"])
    device.graphs.clear()
    np.testing.assert_allclose(engine.embed_text(TEXTS), reference_text(model, TEXTS), atol=1e-6)
    assert device.graphs == []
    np.testing.assert_allclose(engine.embed_text(TEXTS[:4]), reference_text(model, TEXTS[:4]), atol=1e-6)
    assert device.graphs == [(4, 8)]


def test_tensorrt_for_rtx_has_no_graphs(
    device: Device, model: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["worker.engine.tensorrt"], "LIBRARY", "tensorrt_rtx")
    assert open_engine(model).embed_text(["cat"]).shape == (1, 3)
    assert device.captures == 0
