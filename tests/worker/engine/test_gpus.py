import msgspec
import pytest

from shared.errors import ModelError, SettingsError
from worker.engine.gpus import Gpu, visible

L40S = Gpu(0, "GPU-aaaa-1", "NVIDIA L40S", 48 << 30, (8, 9), "580.65.06")
GPUS = [
    msgspec.structs.replace(L40S, index=i, uuid=f"GPU-{letter * 4}-{i}") for i, letter in enumerate("abcd")
]


@pytest.mark.parametrize(
    ("listed", "indexes"),
    [
        ("all", [0, 1, 2, 3]),
        ("0", [0]),
        ("3,1", [3, 1]),
        (" 2 , GPU-aaaa-0 ", [2, 0]),
        ("GPU-bbbb", [1]),
        ("GPU-dddd-3,GPU-cccc-2,GPU-bbbb-1,GPU-aaaa-0", [3, 2, 1, 0]),
        # As many numbers as there are GPUs: those of a host of which a container shows only these.
        ("4,5,6,7", [0, 1, 2, 3]),
    ],
)
def test_gpus_that_are_listed(listed: str, indexes: list[int]) -> None:
    assert [gpu.index for gpu in visible(GPUS, listed, "X")] == indexes


def test_a_container_that_shows_one_gpu_of_many() -> None:
    assert visible(GPUS[:1], "6", "X") == GPUS[:1]


@pytest.mark.parametrize("listed", ["none", "-1", "", " , "])
def test_no_gpu_is_allowed(listed: str) -> None:
    with pytest.raises(ModelError, match=r"CUDA_VISIBLE_DEVICES=.* allows no GPU"):
        visible(GPUS, listed, "CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("listed", ["4", "0,9", "GPU-eeee", "L40S", "GPU-", "all,1"])
def test_a_gpu_that_is_not_there_stops_the_start(listed: str) -> None:
    if listed == "GPU-":
        assert visible(GPUS, listed, "X") == GPUS[:1]  # as for CUDA, a beginning is enough
        return
    with pytest.raises(SettingsError, match=r"X=.*: there is no GPU .*, only 0 \(GPU-aaaa-0\), 1 "):
        visible(GPUS, listed, "X")


def test_an_instance_of_a_gpu_is_named_by_its_uuid_or_both_numbers() -> None:
    part = msgspec.structs.replace(L40S, uuid="MIG-1234-5", instance=1)
    assert visible([*GPUS[1:], part], "MIG-1234", "X") == [part]
    assert visible([*GPUS[1:], part], "0:1", "X") == [part]
    with pytest.raises(SettingsError, match=r"there is no GPU MIG-9, only 1 .*, 0:1 \(MIG-1234-5\)"):
        visible([*GPUS[1:], part], "MIG-9", "X")


def test_the_capability_as_tensorrt_spells_it() -> None:
    assert L40S.sm == "SM89"
    assert msgspec.structs.replace(L40S, capability=(12, 0)).sm == "SM120"
