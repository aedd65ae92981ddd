"""Engines are really built, for GPUs that this machine need not have."""

import threading
import time
from pathlib import Path

import msgspec
import onnx
import pytest
from onnx import TensorProto

from shared.errors import ModelError
from tests.worker.engine.suite import INFO, text_graph, video_graph, write_tiny_model
from worker.engine.arguments import BuilderArguments, parse_arguments
from worker.engine.gpus import Gpu
from worker.engine.library import provide_tensorrt
from worker.models.directory import ModelDirectory

try:
    provide_tensorrt("tensorrt_rtx")
except ModelError as error:
    pytest.skip(error.message, allow_module_level=True)

import tensorrt as trt

from worker.engine import build as building
from worker.engine.build import Phases, Tower, build, text_tower, video_tower
from worker.engine.cache import EngineCache, graph_mark, plain

L40S = Gpu(0, "GPU-1", "NVIDIA L40S", 48 << 30, (8, 9), "580")
BLACKWELL = Gpu(0, "GPU-2", "NVIDIA RTX PRO 6000 (Server Edition)", 96 << 30, (12, 0), "580")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    return write_tiny_model(tmp_path_factory.mktemp("engines") / "tiny")


def towers(model: ModelDirectory, batch: int = 8) -> list[Tower]:
    assert model.text
    return [video_tower(model, batch), text_tower(model.info, model.text, batch)]


@pytest.mark.parametrize("sm", ["SM89", "SM120"])
def test_engines_for_gpus_that_are_not_here(model: ModelDirectory, sm: str) -> None:
    for tower in towers(model):
        told: list[float] = []
        built = build(tower, BuilderArguments(), sm=sm, advance=told.append)
        engine = bytes(built.engine)
        # TensorRT reads an engine back on its own GPU only; the names of its tensors stand in the file.
        for tensor in (*tower.inputs, tower.output):
            assert tensor.name.encode() in engine
        assert built.timing_cache is None
        assert told == sorted(told)
        assert 0 < told[0] < told[-1] <= 1


def test_what_the_profile_and_the_network_hold(
    model: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back from TensorRT's own objects, at the moment when the engine is built."""
    seen: list[list[tuple[int, ...]]] = []
    original = trt.IBuilderConfig.add_optimization_profile

    def add(config: trt.IBuilderConfig, profile: trt.IOptimizationProfile) -> int:
        seen.append([tuple(shape) for shape in profile.get_shape(tower.inputs[0].name)])
        return original(config, profile)

    monkeypatch.setattr(trt.IBuilderConfig, "add_optimization_profile", add)
    for tower in towers(model):
        build(tower, BuilderArguments(), sm="SM89")
    assert seen == [
        [(1, 2, 3, 4, 4), (4, 2, 3, 4, 4), (8, 2, 3, 4, 4)],
        [(1, 1), (8, 8), (8, 16)],
    ]


def test_open_frames_are_fixed_by_the_profile(model: ModelDirectory, tmp_path: Path) -> None:
    graph = video_graph()
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "frames"
    onnx.save(graph, tmp_path / "open.onnx")
    tower = msgspec.structs.replace(video_tower(model, 1), graph=tmp_path / "open.onnx")
    assert tower.profile["videos"] == ((1, 2, 3, 4, 4),) * 3
    assert bytes(build(tower, BuilderArguments(), sm="SM89").engine)


def test_arguments_reach_the_builder() -> None:
    builder = trt.Builder(building.Log())
    config = builder.create_builder_config()
    assert config.get_flag(trt.BuilderFlag.TF32)
    building.apply(
        parse_arguments(
            "--builderOptimizationLevel=1 --memPoolSize=workspace:64,tacticSharedMem:1 --maxAuxStreams=2 "
            "--avgTiming=4 --maxTactics=9 --tilingOptimizationLevel=1 --l2LimitForTiling=4096 --noTF32 "
            "--sparsity=enable --profilingVerbosity=none"
        ),
        config,
    )
    assert config.builder_optimization_level == 1
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
    assert config.get_memory_pool_limit(trt.MemoryPoolType.TACTIC_SHARED_MEMORY) == 1 << 20
    assert (config.max_aux_streams, config.avg_timing_iterations, config.max_num_tactics) == (2, 4, 9)
    assert config.tiling_optimization_level == trt.TilingOptimizationLevel.FAST
    assert config.l2_limit_for_tiling == 4096
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.NONE


def test_no_arguments_leave_the_builder_as_it_is() -> None:
    builder = trt.Builder(building.Log())
    plain_config, config = builder.create_builder_config(), builder.create_builder_config()
    building.apply(BuilderArguments(), config)
    for name in (
        "builder_optimization_level",
        "flags",
        "max_aux_streams",
        "max_num_tactics",
        "l2_limit_for_tiling",
    ):
        assert getattr(config, name) == getattr(plain_config, name)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (video_graph(name="pixels"), r"has the inputs pixels, expected videos"),
        (video_graph(output="vectors"), r"has the outputs vectors, expected video_embeddings"),
        (video_graph(type_=TensorProto.FLOAT), r"input videos is a DataType\.FLOAT, not UINT8"),
        (video_graph(frames=8), r"input videos has the shape \(-1, 8, 3, 4, 4\), not \(-1, 2, 3, 4, 4\)"),
        (video_graph(batch=1), r"input videos has the shape \(1, 2, 3, 4, 4\)"),
        (text_graph(), r"has the inputs attention_mask, input_ids, expected videos"),
    ],
)
def test_graph_that_breaks_the_promise_of_model_json(
    model: ModelDirectory, tmp_path: Path, graph: onnx.ModelProto, message: str
) -> None:
    onnx.save(graph, tmp_path / "video.onnx")
    tower = msgspec.structs.replace(video_tower(model, 2), graph=tmp_path / "video.onnx")
    with pytest.raises(ModelError, match=message):
        build(tower, BuilderArguments(), sm="SM89")


def test_file_that_is_no_graph(model: ModelDirectory, tmp_path: Path) -> None:
    (tmp_path / "video.onnx").write_bytes(b"not a graph")
    tower = msgspec.structs.replace(video_tower(model, 2), graph=tmp_path / "video.onnx")
    with pytest.raises(ModelError, match=r"TensorRT cannot read .*video\.onnx: .*parse"):
        build(tower, BuilderArguments(), sm="SM89")


def test_a_gpu_that_tensorrt_for_rtx_does_not_know(model: ModelDirectory) -> None:
    with pytest.raises(ModelError, match=r"builds for SM75, .*SM121, not for SM90: install tensorrt"):
        build(video_tower(model, 2), BuilderArguments(), sm="SM90")


def test_other_threads_run_while_an_engine_is_built(model: ModelDirectory) -> None:
    """The event loop and its watch would not survive minutes of the interpreter's lock."""
    over = threading.Event()
    longest = 0.0

    def tick() -> None:
        nonlocal longest
        last = time.monotonic()
        while not over.wait(0.001):
            now = time.monotonic()
            longest, last = max(longest, now - last), now

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    began = time.monotonic()
    for _ in range(5):
        for tower in towers(model):
            build(tower, BuilderArguments(), sm="SM89")
    took = time.monotonic() - began
    over.set()
    thread.join()
    assert longest < took / 2


# The cache ---------------------------------------------------------------------------------------------


def cache(
    model: ModelDirectory, gpu: Gpu = L40S, arguments: str = "", folder: Path = Path("/none")
) -> EngineCache:
    return EngineCache(model, gpu, parse_arguments(arguments), folder)


def test_a_name_tells_what_an_engine_is(model: ModelDirectory) -> None:
    path = cache(model).path(video_tower(model, 8))
    assert path.parent == model.path
    assert path.name.startswith(f"video_NVIDIA-L40S_sm89_tensorrt_rtx-{trt.__version__}_fp32_8_")
    assert plain(BLACKWELL.name) == "NVIDIA-RTX-PRO-6000-Server-Edition"
    assert plain("()") == "unknown"


def test_whatever_changes_an_engine_changes_its_name(model: ModelDirectory, tmp_path: Path) -> None:
    tower = video_tower(model, 8)
    other_graph = msgspec.structs.replace(tower, graph=tmp_path / "video.onnx")
    onnx.save(video_graph(output="video_embeddings"), tmp_path / "video.onnx")
    same = cache(model).path(other_graph)
    extended = video_graph()
    extended.graph.node[0].name = "another"
    onnx.save(extended, tmp_path / "video.onnx")
    names = {
        cache(model).path(tower),
        cache(model, BLACKWELL).path(tower),
        cache(model, arguments="--noTF32").path(tower),
        cache(model).path(video_tower(model, 4)),
        cache(model).path(towers(model)[1]),
        cache(model).path(other_graph),
    }
    assert len(names) == 6
    assert same == cache(model).path(tower)


def test_weights_in_files_of_their_own_count(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    onnx.save_model(text_graph(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = graph_mark(path)
    assert graph_mark(path) == before
    weights = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(weights + b"\0")
    assert graph_mark(path) != before


def test_an_engine_is_built_once(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    tower = video_tower(model, 4)
    told: list[str] = []
    path = cache(model).obtain(tower, lambda step, done, total: told.append(step))
    assert told[0] == "building the video engine for NVIDIA L40S"
    assert told[-1].startswith("building the video engine for NVIDIA L40S: ")
    built = path.stat()
    assert list(tmp_path.glob("**/*.part")) == []
    told.clear()
    assert cache(model).obtain(tower, lambda step, done, total: told.append(step)) == path
    assert (path.stat().st_mtime_ns, told) == (built.st_mtime_ns, [])


def test_workers_of_a_host_build_once_and_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    tower = video_tower(model, 4)
    builds: list[str] = []
    told: list[str] = []

    def slow(*args: object, **more: object) -> building.Built:
        builds.append("built")
        time.sleep(0.5)
        return build(*args, **more)  # type: ignore[arg-type] # passed on as it is

    monkeypatch.setattr("worker.engine.cache.build", slow)
    threads = [
        threading.Thread(target=lambda: cache(model).obtain(tower, lambda s, d, t: told.append(s)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert builds == ["built"]
    assert "waiting for another process to build the video engine" in told


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    onnx.save(text_graph(), model.video)
    with pytest.raises(ModelError):
        cache(model).obtain(video_tower(model, 4), lambda *_: None)
    assert list(model.path.glob("*.engine")) == []


def test_a_model_that_cannot_be_written_to_has_its_engines_elsewhere(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    model.path.chmod(0o500)
    monkey = EngineCache(model, L40S, BuilderArguments(), tmp_path / "elsewhere")
    writable = model.path.stat().st_uid == 0  # root may write anywhere
    expected = model.path if writable else tmp_path / "elsewhere"
    assert monkey.path(video_tower(model, 1)).parent == expected
    model.path.chmod(0o700)


# Progress ----------------------------------------------------------------------------------------------


def test_the_share_of_nested_phases() -> None:
    phases = Phases()
    phases.start("all", None, 4)
    phases.step("all", 0)
    assert phases.share == pytest.approx(0.25)
    phases.start("tactics", "all", 10)
    phases.step("tactics", 4)
    assert phases.share == pytest.approx(0.25 + 0.5 / 4)
    phases.finish("tactics")
    phases.step("all", 1)
    assert phases.share == pytest.approx(0.5)
    phases.step("all", 9)  # never more than all
    assert phases.share == 1
    phases.finish("all")


def test_a_later_root_phase_does_not_take_the_share_back() -> None:
    phases = Phases()
    phases.start("first", None, 2)
    phases.step("first", 0)
    phases.finish("first")
    phases.start("second", None, 100)
    phases.step("second", 0)
    phases.step("unknown", 3)
    assert phases.share == pytest.approx(0.5)


def test_the_tiny_model_is_the_suites(model: ModelDirectory) -> None:
    assert model.info == INFO
