"""Worker processes are kept running, one per GPU, and none is left behind: real processes throughout."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from shared.fleet import Worker, read_fleet
from shared.lifecycle.supervised import SupervisedProcess
from shared.lifecycle.watchdog import STUCK
from shared.redis.connection import Redis
from shared.settings import Settings, load
from shared.telemetry.fleet_metrics import read_figures
from tests.support import until
from tests.worker.conftest import Driver
from worker.engine.gpus import Gpu
from worker.supervisor import Supervisor, own_environment, worker_processes

ROOT = Path(__file__).parents[2]
GPUS = [Gpu(i, f"GPU-{i}", "NVIDIA L40S", 48 << 30, (8, 9), "580") for i in range(5)]

PERSISTENT = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def end(*_):
    (folder / f"ended-{os.getpid()}").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(folder / f"{sys.argv[2]}-{os.getpid()}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
while True:
    time.sleep(0.05)
"""
DEAF = PERSISTENT.replace("(signal.SIGTERM, end)", "(signal.SIGTERM, signal.SIG_IGN)")


def child(name: str, program: str, folder: Path, patience: float = 10) -> SupervisedProcess:
    return SupervisedProcess(
        name, [sys.executable, "-c", program, str(folder), name], dict(os.environ), patience
    )


def pids(folder: Path, name: str) -> list[int]:
    return sorted(int(path.name.rpartition("-")[2]) for path in folder.glob(f"{name}-*"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Which process gets which GPU ----------------------------------------------------------------------------


def environments(gpus: Sequence[Gpu], **environment: object) -> list[Mapping[str, str]]:
    settings = load({name: str(value) for name, value in environment.items()})
    size = settings.gpus_per_worker
    children = worker_processes(settings, gpus, {"PATH": "/bin"}, ["true"])
    assert [child._environment["PATH"] for child in children] == ["/bin"] * len(children)
    assert len(children) == len(gpus) // size
    return [child._environment for child in children]


def test_each_gpu_has_its_worker() -> None:
    found = environments(GPUS[:3])
    assert [e["CUDA_VISIBLE_DEVICES"] for e in found] == ["GPU-0", "GPU-1", "GPU-2"]
    assert [e["NUM_GPUS"] for e in found] == ["1", "1", "1"]
    assert "RTEMBED_WORKER_NAME" not in found[0]
    assert "RTEMBED_METRICS_PORT" not in found[0]


def test_gpus_in_groups_and_the_rest_unused() -> None:
    found = environments(GPUS, NUM_GPUS_PER_VLM_PROC=2)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in found] == ["GPU-0,GPU-1", "GPU-2,GPU-3"]
    assert [e["NUM_GPUS"] for e in found] == ["2", "2"]


def test_names_and_ports_of_workers_differ() -> None:
    settings = load({"RTEMBED_WORKER_NAME": "w", "RTEMBED_METRICS_PORT": "9500"})
    found = [own_environment(settings, [gpu], i) for i, gpu in enumerate(GPUS[3:])]
    assert [e["RTEMBED_WORKER_NAME"] for e in found] == ["w-gpu3", "w-gpu4"]
    assert [e["RTEMBED_METRICS_PORT"] for e in found] == ["9500", "9501"]


# Keeping processes ----------------------------------------------------------------------------------------


async def test_a_process_that_dies_is_started_again_and_all_end_at_the_stop(tmp_path: Path) -> None:
    supervisor = Supervisor([child(name, PERSISTENT, tmp_path) for name in ("a", "b")])
    running = asyncio.create_task(supervisor.run())
    await until(lambda: len(pids(tmp_path, "a")) == len(pids(tmp_path, "b")) == 1)
    (first,), (other,) = pids(tmp_path, "a"), pids(tmp_path, "b")
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(pids(tmp_path, "a")) == 2)
    assert pids(tmp_path, "b") == [other]
    supervisor.stop()
    assert await running == 0
    second = next(pid for pid in pids(tmp_path, "a") if pid != first)
    assert pids(tmp_path, "ended") == sorted([second, other])  # politely
    assert not alive(second)
    assert not alive(other)


async def test_a_process_that_does_not_end_is_killed(tmp_path: Path) -> None:
    supervisor = Supervisor([child("deaf", DEAF, tmp_path, patience=0.3)])
    running = asyncio.create_task(supervisor.run())
    await until(lambda: bool(pids(tmp_path, "deaf")))
    supervisor.stop()
    assert await running == 0
    assert not alive(pids(tmp_path, "deaf")[0])


async def test_cancelling_leaves_no_process_behind(tmp_path: Path) -> None:
    running = asyncio.create_task(Supervisor([child("a", PERSISTENT, tmp_path)]).run())
    await until(lambda: bool(pids(tmp_path, "a")))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not alive(pids(tmp_path, "a")[0])


async def test_when_no_worker_can_start_the_reason_is_the_exit_status(tmp_path: Path) -> None:
    children = [child("a", "raise SystemExit(2)", tmp_path), child("b", "raise SystemExit(4)", tmp_path)]
    assert await asyncio.wait_for(Supervisor(children).run(), 30) == 4


async def test_a_worker_that_cannot_start_is_tried_again_while_others_run(tmp_path: Path) -> None:
    once = f"import pathlib, sys\npathlib.Path({str(tmp_path)!r}, 'tried').open('a').write('x')\nsys.exit(4)"
    supervisor = Supervisor([child("a", PERSISTENT, tmp_path), child("b", once, tmp_path)], again=0.2)
    running = asyncio.create_task(supervisor.run())
    await until(lambda: (tmp_path / "tried").exists() and len((tmp_path / "tried").read_text()) >= 3)
    (steady,) = pids(tmp_path, "a")
    assert alive(steady)
    supervisor.stop()
    assert await running == 0
    assert not alive(steady)


# Whole workers, on GPUs that a driver shows -----------------------------------------------------------------


class Host:
    """`python -m worker` on a machine whose driver shows GPUs, with a model that needs none."""

    def __init__(self, driver: Driver, settings: Settings, log: Path, **more: str) -> None:
        self.log = log
        environment = {
            **os.environ, **driver.environment, "REDIS_URL": settings.redis_url or "",
            "MODEL_IMPLEMENTATION_PATH": str(ROOT / "tests" / "models" / "null"), "MODEL_PATH": "null",
            "RTEMBED_BACKEND": "cuda", "RTEMBED_DECODE_SLOTS": "1", "RTEMBED_CLAIM_TIMEOUT": "1",
            "RTEMBED_LOG_FORMAT": "json", "RTEMBED_SHUTDOWN_TIMEOUT": "1",
            "ENABLE_REDIS_ERROR_MESSAGES": "true", **more,
        }  # fmt: skip
        with log.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker"], cwd=ROOT, env=environment, stderr=said
            )

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)


@pytest.fixture
def host(driver: Driver, settings: Settings, tmp_path: Path) -> Iterator[Host]:
    host = Host(driver, settings, tmp_path / "log")
    yield host
    if host.process.poll() is None:
        host.stop()


async def ready(redis: Redis) -> list[Worker]:
    return [w for w in (await read_fleet(redis)).workers if w.state == "ready" and w.healthy]


async def two_are_ready(redis: Redis) -> bool:
    return len(await ready(redis)) == 2


async def test_a_worker_per_gpu_says_what_it_runs_on(redis: Redis, host: Host) -> None:
    await until(lambda: two_are_ready(redis), 40)
    workers = await ready(redis)
    told = {(w.backend, w.backend_wanted, w.backend_reason, w.gpu, w.driver) for w in workers}
    assert told == {("python", "cuda", "", "NVIDIA L40S", "580.65.06")}
    processes = {w.pid for w in workers}
    assert len(processes) == 2
    assert host.process.pid not in processes
    devices = {environment_of(pid)["CUDA_VISIBLE_DEVICES"] for pid in processes}
    assert devices == {"GPU-fake-0", "GPU-fake-1"}
    await until(lambda: both_are_measured(redis))
    assert await asyncio.to_thread(host.stop) == 0
    assert not any(map(alive, processes))
    assert (await read_fleet(redis)).workers == []


async def both_are_measured(redis: Redis) -> bool:
    found = {
        (family.name, sample.labels["gpu"]): sample.value
        for family in await read_figures(redis)
        for sample in family.samples
        if "gpu" in sample.labels and "state" not in sample.labels
    }
    return found == {
        ("rtembed_gpu_temperature_celsius", "0"): 40,
        ("rtembed_gpu_temperature_celsius", "1"): 41,
        ("rtembed_gpu_utilization_ratio", "0"): 0.25,
        ("rtembed_gpu_utilization_ratio", "1"): 0.25,
        # The second does not tell of its decoders.
        ("rtembed_gpu_decoder_utilization_ratio", "0"): 0.75,
    }


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


async def test_a_gpu_that_falls_off_the_bus_takes_its_worker_out(
    redis: Redis, settings: Settings, host: Host, driver: Driver
) -> None:
    await until(lambda: two_are_ready(redis), 40)
    victim = next(
        w for w in await ready(redis) if environment_of(w.pid)["CUDA_VISIBLE_DEVICES"] == "GPU-fake-1"
    )
    async with redis.pubsub() as operators:
        await operators.subscribe(settings.error_topic)
        driver.lose(1)
        driver.report(1, 79)
        await until(lambda: not alive(victim.pid), 20)
        assert await said(operators, "GPU-fake-1) is lost")
    await until(lambda: STUCK in statuses(host.log), 20)  # its watchdog ends a moment after it
    (survivor,) = [w for w in await ready(redis) if w.pid != victim.pid]
    assert alive(survivor.pid)
    # Its GPU does not come back, so the next process for it cannot start.
    await until(lambda: "there is no GPU GPU-fake-1" in host.log.read_text(), 30)
    assert await asyncio.to_thread(host.stop) == 0
    assert not alive(survivor.pid)


def statuses(log: Path) -> list[object]:
    """Of the processes that ended."""
    return [json.loads(line).get("status") for line in log.read_text().splitlines()]


async def said(operators: object, text: str) -> bool:
    async with asyncio.timeout(10):
        while True:
            message = await operators.get_message(timeout=1)  # type: ignore[attr-defined] # redis' PubSub
            if message and text in str(message["data"]):
                return True


async def test_when_the_supervisor_is_killed_its_workers_end(redis: Redis, host: Host) -> None:
    await until(lambda: two_are_ready(redis), 40)
    processes = [w.pid for w in await ready(redis)]
    host.process.kill()
    host.process.wait()
    await until(lambda: not any(map(alive, processes)), 20)


@pytest.mark.parametrize(
    "case",
    [
        ({"NUM_GPUS": "3"}, 2, "NUM_GPUS=3, but only 2 GPUs can be used here"),
        ({"NUM_GPUS_PER_VLM_PROC": "3"}, 2, "NUM_GPUS_PER_VLM_PROC=3, but only 2 GPUs are in use"),
        ({"NVIDIA_VISIBLE_DEVICES": "7"}, 2, "NVIDIA_VISIBLE_DEVICES=7: there is no GPU 7, only 0 (GPU-"),
        ({"CUDA_VISIBLE_DEVICES": ""}, 4, "RTEMBED_BACKEND=cuda, but CUDA_VISIBLE_DEVICES= allows no GPU"),
        ({"MODEL_IMPLEMENTATION_PATH": "", "MODEL_PATH": "demo"}, 4, "(MODEL_PATH=demo) runs on the CPU"),
    ],
)
def test_a_start_that_cannot_be_says_why(
    driver: Driver, settings: Settings, tmp_path: Path, case: tuple[dict[str, str], int, str]
) -> None:
    variables, status, message = case
    host = Host(driver, settings, tmp_path / "log", **variables)
    assert host.process.wait(40) == status
    assert message in host.log.read_text()
