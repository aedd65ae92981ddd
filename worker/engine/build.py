"""Builds TensorRT engines from graphs. TensorRT needs a GPU for it, TensorRT for RTX does not."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog
import tensorrt as trt

from shared.errors import ModelError
from worker.engine.arguments import BuilderArguments
from worker.models.directory import ModelDirectory, ModelInfo

log = structlog.get_logger(__name__)

ERRORS_KEPT = 10
TEXT_TYPICAL = 2
"""The length of the longest text, divided by that of a typical one."""

LIBRARY = "tensorrt_rtx" if trt.__name__.startswith("tensorrt_rtx") else "tensorrt"
"""Which library's builder this is."""

Shape = tuple[int, ...]


class TowerValue(msgspec.Struct, frozen=True):
    """An input or output of a tower. -1 in `shape` is a dynamic dimension."""

    name: str
    dtype: str
    shape: Shape


class Tower(msgspec.Struct, frozen=True):
    """One graph of a model and its engine's shapes: per input the smallest, the typical and the largest."""

    name: str
    graph: Path
    inputs: tuple[TowerValue, ...]
    output: TowerValue
    profile: Mapping[str, tuple[Shape, Shape, Shape]]


def video_tower(model: ModelDirectory, batch: int) -> Tower:
    """Return the tower for 1 to `batch` clips, tuned for half of that."""
    info = model.info
    clip = (info.frames, 3, info.resolution, info.resolution)
    return Tower(
        "video",
        model.video,
        # The graph may leave the number of frames dynamic; the engine fixes it.
        (TowerValue("videos", "UINT8", (-1, *clip)),),
        TowerValue("video_embeddings", "FLOAT", (-1, info.dimension)),
        {"videos": ((1, *clip), (max(1, batch // 2), *clip), (batch, *clip))},
    )


def text_tower(info: ModelInfo, graph: Path, batch: int) -> Tower:
    """Return the tower for 1 to `batch` texts of any length that the model takes."""
    longest = info.max_text_tokens
    shapes = ((1, 1), (batch, max(1, longest // TEXT_TYPICAL)), (batch, longest))
    names = ("input_ids", "attention_mask")
    return Tower(
        "text",
        graph,
        tuple(TowerValue(name, "INT64", (-1, -1)) for name in names),
        TowerValue("text_embeddings", "FLOAT", (-1, info.dimension)),
        dict.fromkeys(names, shapes),
    )


class Built(msgspec.Struct, frozen=True):
    """A serialized engine, and TensorRT's timing cache (None with TensorRT for RTX, which times none)."""

    engine: trt.IHostMemory
    timing_cache: trt.IHostMemory | None


def build(
    tower: Tower,
    arguments: BuilderArguments,
    *,
    sm: str | None = None,
    timing_cache: bytes = b"",
    advance: Callable[[float], None] = lambda share: None,
) -> Built:
    """Build the tower's engine; takes minutes for a large model. `advance` gets the share that is done, on
    any thread.

    `sm` is the compute capability to build for (TensorRT for RTX only); None builds for the GPU of this
    machine. Raises ModelError with TensorRT's errors.
    """
    logger = Log()
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(tower.graph)):
        raise ModelError(f"TensorRT cannot read {tower.graph}: {logger.errors()}")
    check_tensors(tower, network)
    config = builder.create_builder_config()
    apply(arguments, config)
    if sm:
        set_target(config, sm)
    # Allocate scratch memory for the actual batch, not for the largest.
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    if LIBRARY == "tensorrt":  # TensorRT for RTX ignores it and warns
        config.set_timing_cache(config.create_timing_cache(timing_cache), ignore_mismatch=False)
    monitor = Monitor(advance)
    config.progress_monitor = monitor
    profile = builder.create_optimization_profile()
    for name, shapes in tower.profile.items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ModelError(f"TensorRT cannot build an engine from {tower.graph}: {logger.errors()}")
    learnt = config.get_timing_cache() if LIBRARY == "tensorrt" else None
    return Built(engine, learnt.serialize() if learnt else None)


def check_tensors(tower: Tower, network: trt.INetworkDefinition) -> None:
    """Raise ModelError if the graph's inputs or outputs are not what model.json promises."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    for role, found, wanted in (("input", inputs, tower.inputs), ("output", outputs, (tower.output,))):
        named = {tensor.name: tensor for tensor in found}
        if named.keys() != {tensor.name for tensor in wanted}:
            expected = ", ".join(tensor.name for tensor in wanted)
            raise ModelError(f"{tower.graph} has the {role}s {', '.join(sorted(named))}, expected {expected}")
        for tensor in wanted:
            is_type, shape = named[tensor.name].dtype, tuple(named[tensor.name].shape)
            if is_type != DTYPES[tensor.dtype]:
                raise ModelError(f"{tower.graph}: {role} {tensor.name} is a {is_type}, not {tensor.dtype}")
            if not fits(shape, tensor.shape):
                raise ModelError(
                    f"{tower.graph}: {role} {tensor.name} has the shape {shape}, not {tensor.shape}"
                )


DTYPES = {"UINT8": trt.DataType.UINT8, "INT64": trt.DataType.INT64, "FLOAT": trt.DataType.FLOAT}


def fits(found: Shape, wanted: Shape) -> bool:
    """Return whether every fixed dimension matches, and every dynamic one is dynamic."""
    return len(found) == len(wanted) and all(
        size in (-1, expected) for size, expected in zip(found, wanted, strict=True)
    )


def apply(arguments: BuilderArguments, config: trt.IBuilderConfig) -> None:
    """Apply COSMOS_EMBED1_TRT_EXTRA_ARGS to the builder."""
    a = arguments
    if a.optimization_level is not None:
        config.builder_optimization_level = a.optimization_level
    if a.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, a.workspace)
    if a.shared_memory is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_SHARED_MEMORY, a.shared_memory)
    if a.auxiliary_streams is not None:
        config.max_aux_streams = a.auxiliary_streams
    if a.timing_iterations is not None:
        config.avg_timing_iterations = a.timing_iterations
    if a.tactics is not None:
        config.max_num_tactics = a.tactics
    apply_kernels(arguments, config)


def apply_kernels(arguments: BuilderArguments, config: trt.IBuilderConfig) -> None:
    """Apply the arguments that say which kernels may be used and how they are reported."""
    a = arguments
    if a.tiling is not None:
        config.tiling_optimization_level = trt.TilingOptimizationLevel.__members__[a.tiling]
    if a.tiling_l2 is not None:
        config.l2_limit_for_tiling = a.tiling_l2
    if not a.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if a.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if a.verbosity is not None:
        config.profiling_verbosity = trt.ProfilingVerbosity.__members__[a.verbosity]


def set_target(config: trt.IBuilderConfig, sm: str) -> None:
    """Have TensorRT for RTX build for one compute capability. Raises ModelError if it does not support it."""
    known = trt.ComputeCapability.__members__
    if sm not in known:
        names = ", ".join(name for name in known if name.startswith("SM"))
        raise ModelError(f"TensorRT for RTX builds for {names}, not for {sm}: install tensorrt instead")
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[sm], 0)


class Log(trt.ILogger):
    """Forwards TensorRT's messages to our log, and keeps the errors."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: deque[str] = deque(maxlen=ERRORS_KEPT)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Log one message. TensorRT calls this on any thread."""
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self._errors.append(msg)
            log.error("TensorRT", said=msg)
        elif severity == trt.ILogger.Severity.WARNING:
            log.warning("TensorRT", said=msg)

    def errors(self) -> str:
        """Return the errors since the last call, on one line."""
        said = "; ".join(self._errors)
        self._errors.clear()
        return said or "TensorRT gives no reason"


class Monitor(trt.IProgressMonitor):
    """Turns the builder's nested phases into one share of progress."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        trt.IProgressMonitor.__init__(self)
        self._advance = advance
        self._changing = threading.Lock()
        self.phases = Phases()

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase of `num_steps` begins, within a step of its parent."""
        with self._changing:
            self.phases.start(phase_name, parent_phase, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """One step is done. Return True: continue the build."""
        with self._changing:
            self.phases.step(phase_name, step)
            share = self.phases.share
        try:
            self._advance(share)
        except Exception:  # an exception would kill TensorRT's thread
            log.exception("progress could not be reported")
        return True

    def phase_finish(self, phase_name: str) -> None:
        """All of a phase is done."""
        with self._changing:
            self.phases.finish(phase_name)


class _Phase(msgspec.Struct):
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """Progress of nested phases."""

    def __init__(self) -> None:
        self.share = 0.0
        """From 0 to 1; never falls."""
        self._running: dict[str, _Phase] = {}

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Phase `name` begins, within a step of `parent`."""
        self._running[name] = _Phase(parent, max(1, steps))

    def step(self, name: str, step: int) -> None:
        """Step number `step`, from 0, of the phase is done."""
        if phase := self._running.get(name):
            phase.done = min(step + 1, phase.steps)
        self.share = max(self.share, self._share_of(None))

    def finish(self, name: str) -> None:
        """The phase is done."""
        self._running.pop(name, None)

    def _share_of(self, parent: str | None) -> float:
        """Return the largest share among the phases within `parent`."""
        shares = [
            min(1.0, (phase.done + self._share_of(name)) / phase.steps)
            for name, phase in self._running.items()
            if phase.parent == parent
        ]
        return max(shares, default=0.0)
