"""Reads PyTorch checkpoints without PyTorch, and without running code from the pickle."""

import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.errors import ModelError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}

Weights = dict[str, NDArray[Any]]


class TorchStorage(msgspec.Struct, frozen=True):
    """One array of numbers in the file; tensors are views of it."""

    key: str
    dtype: np.dtype[Any]
    length: int


class TorchTensor(msgspec.Struct, frozen=True):
    """A tensor: its place in its storage. Offset and strides count elements."""

    storage: TorchStorage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_checkpoint(path: Path) -> Weights:
    """Return the tensors of a state dict saved by torch.save in its format before version 1.6: five pickles
    (magic number, protocol, machine, tensors, storage keys), then each storage's length and raw bytes.

    Nothing but float32 and int64 tensors is accepted. Raises ModelError.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except Exception as error:  # a damaged pickle may raise anything
        raise ModelError(f"{path} is not a checkpoint that can be read: {error}") from error


def _read(file: BinaryIO) -> Weights:
    magic, protocol, machine = (_Unpickler(file).load() for _ in range(3))
    if (magic, protocol) != (MAGIC, PROTOCOL) or machine["little_endian"] is not True:
        raise ValueError(f"magic {magic!r}, protocol {protocol!r}, machine {machine!r}")
    views: Mapping[str, TorchTensor] = _Unpickler(file).load()
    keys: list[str] = _Unpickler(file).load()
    storages = {view.storage.key: view.storage for view in views.values()}
    values = {key: _read_storage(file, storages[key]) for key in keys}
    return {name: _tensor(values[view.storage.key], view) for name, view in views.items()}


def _read_storage(file: BinaryIO, storage: TorchStorage) -> NDArray[Any]:
    (length,) = struct.unpack("<q", file.read(8))
    if length != storage.length:
        raise ValueError(f"storage {storage.key} has {length} elements, expected {storage.length}")
    return np.frombuffer(file.read(length * storage.dtype.itemsize), storage.dtype, length)


def _tensor(values: NDArray[Any], view: TorchTensor) -> NDArray[Any]:
    last = view.offset + sum((n - 1) * step for n, step in zip(view.shape, view.strides, strict=True))
    if min((view.offset, *view.strides)) < 0 or min(view.shape, default=1) < 1 or last >= len(values):
        raise ValueError(f"{view} lies outside its storage of {len(values)} elements")
    strides = [step * values.itemsize for step in view.strides]
    return np.lib.stride_tricks.as_strided(values[view.offset :], view.shape, strides).copy()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> TorchStorage:
        kind, dtype, key, _device, length, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"it asks for {pid!r}")
        return TorchStorage(key, dtype, length)


def _rebuild_tensor(
    storage: TorchStorage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> TorchTensor:
    return TorchTensor(storage, offset, shape, strides)
