"""Checkpoints in PyTorch's format before 1.6, written here as torch.save writes them."""

import io
import os
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from shared.errors import ModelError
from worker.models.conse.torch_checkpoint import MAGIC, PROTOCOL, read_checkpoint

MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Storage:
    def __init__(self, key: str, kind: str, values: np.ndarray[Any, Any]) -> None:
        self.key, self.kind, self.values = key, kind, values


class Tensor:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Storage):
            kind = getattr(sys.modules["torch"], obj.kind)
            return ("storage", kind, obj.key, "cpu", len(obj.values), None)
        return None


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much of PyTorch as a pickle names."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    for kind in ("FloatStorage", "LongStorage", "HalfStorage"):
        setattr(torch, kind, type(kind, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def saved(state: Any, *storages: Storage, magic: int = MAGIC, machine: dict[str, Any] | None = None) -> bytes:
    file = io.BytesIO()
    for value in (magic, PROTOCOL, machine or MACHINE):
        pickle.dump(value, file, protocol=2)
    Pickler(file, protocol=2).dump(state)
    pickle.dump([storage.key for storage in storages], file, protocol=2)
    for storage in storages:
        file.write(struct.pack("<q", len(storage.values)) + storage.values.tobytes())
    return file.getvalue()


def floats(count: int = 24, key: str = "1") -> Storage:
    return Storage(key, "FloatStorage", np.arange(count, dtype="<f4"))


def tensor(storage: Storage, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Tensor:
    return Tensor(storage, offset, shape, strides, False, OrderedDict())


def read(tmp_path: Path, data: bytes) -> dict[str, Any]:
    (tmp_path / "a.pth").write_bytes(data)
    return read_checkpoint(tmp_path / "a.pth")


def test_shapes_strides_and_offsets(tmp_path: Path) -> None:
    one, two = floats(), Storage("2", "LongStorage", np.array([7], dtype="<i8"))
    state = OrderedDict(
        rows=tensor(one, (2, 3), (3, 1)),
        columns=tensor(one, (3, 2), (1, 3)),
        later=tensor(one, (4,), (1,), offset=20),
        count=tensor(two, (), ()),
    )
    weights = read(tmp_path, saved(state, two, one))
    assert weights["rows"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert weights["columns"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert weights["later"].tolist() == [20, 21, 22, 23]
    assert weights["count"] == 7
    assert (weights["rows"].dtype, weights["count"].dtype) == (np.float32, np.int64)


class Command:
    """Runs something when it is unpickled by an unpickler that allows everything."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_cannot_run_anything(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"asks for {os.name}\.mkdir"):
        read(tmp_path, saved(OrderedDict(a=Command(tmp_path / "made"))))
    assert not (tmp_path / "made").exists()


def test_nor_can_the_header(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="asks for"):
        read(tmp_path, pickle.dumps(Command(tmp_path / "made")))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((25,), (1,), 0),
        ((2, 13), (12, 1), 0),
        ((4,), (1,), 21),
        ((4,), (-1,), 10),
        ((4,), (1,), -1),
        ((0,), (1,), 0),
    ],
)
def test_tensor_outside_its_storage(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    storage = floats()
    with pytest.raises(ModelError, match="outside its storage of 24"):
        read(tmp_path, saved({"a": tensor(storage, shape, strides, offset)}, storage))


def test_other_number_types(tmp_path: Path) -> None:
    storage = Storage("1", "HalfStorage", np.zeros(4, "<f2"))
    with pytest.raises(ModelError, match=r"asks for torch\.HalfStorage"):
        read(tmp_path, saved({"a": tensor(storage, (4,), (1,))}, storage))


@pytest.mark.parametrize("missing", [1, 20, 97, 300])
def test_truncated_file(tmp_path: Path, missing: int) -> None:
    storage = floats()
    data = saved({"a": tensor(storage, (24,), (1,))}, storage)
    with pytest.raises(ModelError, match=r"a\.pth is not a checkpoint"):
        read(tmp_path, data[:-missing])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        saved({}, magic=1),
        saved({}, machine={**MACHINE, "little_endian": False}),
        saved(["a"]),
        saved({"a": 1}),
    ],
)
def test_other_files(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelError, match=r"a\.pth is not a checkpoint"):
        read(tmp_path, data)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"b\.pth"):
        read_checkpoint(tmp_path / "b.pth")
