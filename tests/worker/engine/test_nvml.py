"""What is asked of the NVIDIA driver, through the real nvidia-ml-py; each case in a process of its own, as it
loads the driver's library once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.conftest import Driver

ROOT = Path(__file__).parents[3]

LIST = """
import json, msgspec, sys
from shared import settings
from worker.engine.backend import find_gpus
from shared.errors import RtEmbedError
try:
    found = find_gpus(settings.load())
    print(json.dumps([json.loads(msgspec.json.encode(gpu)) for gpu in found]))
except RtEmbedError as error:
    print(json.dumps(f"{type(error).__name__}: {error.message}"))
"""

METER = """
import json, msgspec, sys
from shared import settings
from worker.engine.backend import find_gpus
from worker.engine.nvml import GpuMeter
meters = [GpuMeter(gpu) for gpu in find_gpus(settings.load())]
for line in sys.stdin:
    found = [[json.loads(msgspec.json.encode(meter.read())), meter.trouble] for meter in meters]
    print(json.dumps(found), flush=True)
"""


def find(driver: Driver, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", LIST], cwd=ROOT, env={**driver.environment, **environment},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_what_a_gpu_is(driver: Driver) -> None:
    first, second = find(driver)
    assert first == {
        "index": 0, "uuid": "GPU-fake-0", "name": "NVIDIA L40S", "memory": 46068 << 20,
        "capability": [8, 9], "driver": "580.65.06", "instance": None,
    }  # fmt: skip
    assert (second["index"], second["uuid"]) == (1, "GPU-fake-1")


def test_both_variables_choose(driver: Driver) -> None:
    driver.gpus(4)
    chosen = find(driver, NVIDIA_VISIBLE_DEVICES="3,1", CUDA_VISIBLE_DEVICES="GPU-fake-1")
    assert [gpu["index"] for gpu in chosen] == [1]
    assert "there is no GPU GPU-fake-0" in find(
        driver, NVIDIA_VISIBLE_DEVICES="3,1", CUDA_VISIBLE_DEVICES="GPU-fake-0"
    )


@pytest.mark.parametrize("value", ["", "void", "none", "all"])
def test_values_by_which_what_the_driver_shows_counts(driver: Driver, value: str) -> None:
    """CDI sets `void` in containers to which it gives GPUs."""
    assert [gpu["index"] for gpu in find(driver, NVIDIA_VISIBLE_DEVICES=value)] == [0, 1]


def test_instances_of_a_divided_gpu(driver: Driver) -> None:
    driver.divide(0, 2)
    first, second, whole = find(driver)
    assert first == {
        "index": 0, "uuid": "MIG-fake-0-0", "name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "memory": 9728 << 20, "capability": [8, 9], "driver": "580.65.06", "instance": 0,
    }  # fmt: skip
    assert (second["uuid"], whole["uuid"]) == ("MIG-fake-0-1", "GPU-fake-1")
    (chosen,) = find(driver, NVIDIA_VISIBLE_DEVICES="MIG-fake-0-1")
    assert chosen == second
    (chosen,) = find(driver, NVIDIA_VISIBLE_DEVICES="0:1,1", CUDA_VISIBLE_DEVICES="MIG-fake-0-1")
    assert chosen == second
    assert "there is no GPU 0, only 0:0 (MIG-fake-0-0), 0:1 (MIG-fake-0-1), 1 (GPU-fake-1)" in find(
        driver, NVIDIA_VISIBLE_DEVICES="0"
    )


def test_how_an_instance_is(driver: Driver) -> None:
    driver.gpus(1)
    driver.divide(0, 1)
    meters = Meters(driver)
    ((condition, trouble),) = meters.read()
    assert (condition["memory_total"], condition["decoder_utilization"], trouble) == (9728 << 20, None, "")
    driver.report(0, 79)  # the driver reports of the whole GPU
    ((_, trouble),) = meters.read()
    assert trouble.startswith("NVIDIA H100 80GB HBM3 MIG 1g.10gb (MIG-fake-0-0) is lost: XID 79")
    meters.close()


def test_a_lost_gpu_is_left_out(driver: Driver) -> None:
    driver.lose(0)
    assert [gpu["index"] for gpu in find(driver)] == [1]


def test_no_gpu_at_all(driver: Driver) -> None:
    driver.gpus(0)
    assert find(driver) == "ModelError: the NVIDIA driver shows no GPU"
    assert find(driver, CUDA_VISIBLE_DEVICES="") == "ModelError: the NVIDIA driver shows no GPU"
    driver.gpus(1)
    assert find(driver, CUDA_VISIBLE_DEVICES="") == "ModelError: CUDA_VISIBLE_DEVICES= allows no GPU"


def test_a_driver_that_does_not_answer(driver: Driver) -> None:
    del driver.environment["FAKE_NVML"]
    assert find(driver).startswith("ModelError: the NVIDIA driver does not answer: ")


class Meters:
    """The meters of all GPUs in a process; each question is a new reading."""

    def __init__(self, driver: Driver) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", METER], cwd=ROOT, env=driver.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def read(self) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate(timeout=20)
        assert self.process.returncode == 0


def test_how_gpus_are(driver: Driver) -> None:
    meters = Meters(driver)
    first, second = meters.read()
    assert first == [
        {
            "memory_used": 1 << 30, "memory_total": 46068 << 20, "utilization": 0.25,
            "decoder_utilization": 0.75, "temperature": 40,
        },
        "",
    ]  # fmt: skip
    assert second[0]["decoder_utilization"] is None  # this one does not tell
    assert (second[0]["temperature"], second[1]) == (41, "")
    meters.close()


def test_a_gpu_that_is_lost_is_in_trouble_for_good(driver: Driver) -> None:
    meters = Meters(driver)
    meters.read()
    driver.lose(1)
    first, second = meters.read()
    assert first[1] == ""
    assert second == [
        {
            "memory_used": None, "memory_total": None, "utilization": None, "decoder_utilization": None,
            "temperature": None,
        },
        "NVIDIA L40S (GPU-fake-1) is lost: GPU is lost",
    ]  # fmt: skip
    (driver.folder / "lost-1").unlink()
    assert meters.read()[1][1] == "NVIDIA L40S (GPU-fake-1) is lost: GPU is lost"
    meters.close()


@pytest.mark.parametrize(
    ("xid", "trouble"),
    [
        (79, "NVIDIA L40S (GPU-fake-0) is lost: XID 79, the GPU has fallen off the bus"),
        (48, "NVIDIA L40S (GPU-fake-0) is lost: XID 48, double-bit ECC error"),
        (31, ""),  # another program's invalid access
    ],
)
def test_reports_of_the_driver(driver: Driver, xid: int, trouble: str) -> None:
    driver.gpus(1)
    meters = Meters(driver)
    driver.report(0, xid)
    assert meters.read()[0][1] == trouble
    assert not (driver.folder / "xid-0").exists()
    meters.close()
