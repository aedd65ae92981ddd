"""NOT TensorRT: a stand-in with the part of its interface that the worker uses, over torch, for machines with
a GPU and without the libraries of TensorRT. It tests everything around TensorRT: the memory, streams, events,
batches and service of a worker on a real GPU. Its times are an upper bound.
"""

import json
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import torch
from onnx_torch import TYPES, OnnxTorch

__version__ = "11.4.0.torch"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {"__members__": {}})


class ILogger:
    Severity = Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")


class IProgressMonitor:
    pass


DataType = Enum("DataType", "UINT8 INT64 FLOAT HALF")
BuilderFlag = Enum("BuilderFlag", "SPARSE_WEIGHTS TF32")
MemoryPoolType = Enum("MemoryPoolType", "WORKSPACE TACTIC_SHARED_MEMORY")
PreviewFeature = Enum("PreviewFeature", "RUNTIME_ACTIVATION_RESIZE_10_10")
ProfilingVerbosity = Enum("ProfilingVerbosity", "LAYER_NAMES_ONLY DETAILED NONE")
TilingOptimizationLevel = Enum("TilingOptimizationLevel", "NONE FAST MODERATE FULL")
ExecutionContextAllocationStrategy = Enum("ExecutionContextAllocationStrategy", "USER_MANAGED")
_KINDS = {2: DataType.UINT8, 7: DataType.INT64, 1: DataType.FLOAT, 10: DataType.HALF}


def _tensor(info: Any) -> Any:
    kind = info.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
    return SimpleNamespace(name=info.name, dtype=_KINDS[kind.elem_type], shape=shape)


class Config:
    progress_monitor = None

    def __init__(self) -> None:
        self.profiles: list[Any] = []

    def add_optimization_profile(self, profile: Any) -> Any:
        self.profiles.append(profile)
        return 0

    def create_timing_cache(self, data: Any) -> Any:
        return SimpleNamespace(serialize=lambda: b"")

    def set_timing_cache(self, cache: Path, ignore_mismatch: Any) -> Any:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("set_", "clear_")):
            return lambda *a, **k: True
        raise AttributeError(name)


class Builder:
    def __init__(self, logger: Any) -> None:
        pass

    def create_network(self, flags: int = 0) -> Any:
        return SimpleNamespace()

    def create_builder_config(self) -> Any:
        return Config()

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(
            shapes=shapes, set_shape=lambda name, *s: shapes.__setitem__(name, [list(x) for x in s])
        )

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        if config.progress_monitor:
            config.progress_monitor.phase_start("Building", None, 1)
            config.progress_monitor.step_complete("Building", 0)
            config.progress_monitor.phase_finish("Building")
        return json.dumps({"graph": network.path, "profile": config.profiles[0].shapes}).encode()


class OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        self.network, self.logger = network, logger

    def parse_from_file(self, path: Path) -> Any:
        try:
            graph = onnx.load(path, load_external_data=False).graph
        except Exception as error:
            self.logger.log(ILogger.Severity.ERROR, str(error))
            return False
        n, n.path = self.network, None
        n.path = path
        ins, outs = [_tensor(i) for i in graph.input], [_tensor(o) for o in graph.output]
        n.num_inputs, n.num_outputs, n.get_input, n.get_output = (
            len(ins),
            len(outs),
            ins.__getitem__,
            outs.__getitem__,
        )
        return True


class _At:
    def __init__(self, address: Any, shape: Any, kind: str) -> None:
        name = {torch.uint8: "|u1", torch.int64: "<i8", torch.float32: "<f4"}[kind]
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": tuple(shape),
            "typestr": name,
            "version": 2,
        }


def _at(address: Any, shape: Any, kind: str) -> Any:
    return torch.as_tensor(_At(address, shape, kind), device="cuda")


class IExecutionContext:
    def __init__(self, graph: Any, profile: Any) -> None:
        self.graph, self.profile = graph, profile
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: Any) -> Any:
        least, _, most = self.profile[name]
        self.shapes[name] = tuple(shape)
        return len(shape) == len(least) and all(
            a <= s <= b for a, s, b in zip(least, shape, most, strict=False)
        )

    def update_device_memory_size_for_shapes(self) -> Any:
        return 256

    def set_device_memory(self, memory: Any, size: int) -> None:
        assert size >= 256

    def set_tensor_address(self, name: str, memory: Any) -> Any:
        assert memory % 256 == 0, name
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: Any) -> Any:
        stream = torch.cuda.ExternalStream(stream_handle)
        with torch.cuda.stream(stream):
            feeds = {
                name: _at(self.addresses[name], self.shapes[name], TYPES[t.elem_type])
                for name, t in self.graph.inputs.items()
            }
            out = self.graph(feeds)
            _at(self.addresses[self.graph.output], out.shape, torch.float32).copy_(out)
        return True


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, data: Any) -> Any:
        told = json.loads(bytes(data))
        graph = OnnxTorch(told["graph"], "cuda")
        torch.cuda.synchronize()
        return SimpleNamespace(
            create_execution_context=lambda strategy=None: IExecutionContext(graph, told["profile"])
        )
