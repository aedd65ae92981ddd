"""Which of GPU and CPU is taken, and what is said of it."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from shared.errors import ModelError, SettingsError
from shared.settings import Settings, load
from tests.worker.conftest import Driver
from worker.engine.backend import (
    PACKAGES,
    Backend,
    batch_size_of,
    check_driver,
    choose_backend,
    implementation,
    limited,
)
from worker.engine.gpus import Gpu

ROOT = Path(__file__).parents[3]
GIB = 1 << 30
GPUS = [Gpu(i, f"GPU-{i}", "NVIDIA L40S", 48 * GIB, (8, 9), "580") for i in range(3)]


def settings(**environment: object) -> Settings:
    return load({name: str(value) for name, value in environment.items()})


def choose(driver: Driver, **environment: str) -> str:
    """What a process on a machine with this driver chooses."""
    program = (
        "from worker.engine.backend import choose_backend; from shared.settings import load\n"
        "from shared.errors import RtEmbedError\n"
        "try: b = choose_backend(load()); print(b.wanted, b.active, len(b.gpus), b.reason)\n"
        "except RtEmbedError as error: print(type(error).__name__, error.message)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**driver.environment, **environment},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_the_cpu_is_taken_when_it_is_asked_for() -> None:
    chosen = choose_backend(settings(RTEMBED_BACKEND="cpu"))
    assert chosen == Backend("cpu", "cpu", "RTEMBED_BACKEND=cpu")
    assert (chosen.gpu, chosen.precision(settings()), chosen.batch_size(settings())) == (None, "fp32", 2)


def test_a_gpu_without_its_packages_is_not_used_and_that_is_said(driver: Driver) -> None:
    if all(find_spec(name) for name in PACKAGES):
        pytest.skip("the extra [gpu] is installed here")
    said = choose(driver, MODEL_PATH="/models/mine")
    assert said.startswith("auto cpu 0 the extra [gpu] is not installed: ")
    demanded = choose(driver, MODEL_PATH="/models/mine", RTEMBED_BACKEND="cuda")
    assert demanded.startswith("ModelError RTEMBED_BACKEND=cuda, but the extra [gpu] is not installed: ")


def test_a_library_of_the_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.backend.DRIVER_LIBRARIES", ("libc.so.6", "libnvcuvid.so.0"))
    with pytest.raises(ModelError, match=r"libnvcuvid\.so\.0 cannot be loaded .*must include compute"):
        check_driver()
    monkeypatch.setattr("worker.engine.backend.DRIVER_LIBRARIES", ("libc.so.6",))
    check_driver()


def test_a_model_in_python_brings_its_packages(driver: Driver, tmp_path: Path) -> None:
    own = {"MODEL_IMPLEMENTATION_PATH": str(tmp_path)}
    assert choose(driver, **own) == "auto cuda 2"
    assert choose(driver, **own, RTEMBED_BACKEND="cuda", NUM_GPUS="1") == "cuda cuda 1"
    driver.gpus(0)
    assert choose(driver, **own) == "auto cpu 0 the NVIDIA driver shows no GPU"
    refused = choose(driver, **own, RTEMBED_BACKEND="cuda")
    assert refused == "ModelError RTEMBED_BACKEND=cuda, but the NVIDIA driver shows no GPU"


def test_the_demonstration_model_runs_on_the_cpu(driver: Driver) -> None:
    assert choose(driver, MODEL_PATH="demo").startswith(
        "auto cpu 0 the demonstration model (MODEL_PATH=demo)"
    )


def test_gpus_that_are_asked_for_and_not_there_stop_the_start_under_auto_too(
    driver: Driver, tmp_path: Path
) -> None:
    own = {"MODEL_IMPLEMENTATION_PATH": str(tmp_path)}
    assert choose(driver, **own, NUM_GPUS="3").startswith("SettingsError NUM_GPUS=3")
    assert choose(driver, **own, CUDA_VISIBLE_DEVICES="5").startswith(
        "SettingsError CUDA_VISIBLE_DEVICES=5: "
    )


def test_the_first_gpus_are_taken() -> None:
    assert limited(GPUS, settings()) == GPUS
    assert limited(GPUS, settings(NUM_GPUS=2, NUM_GPUS_PER_VLM_PROC=2)) == GPUS[:2]
    with pytest.raises(SettingsError, match="NUM_GPUS_PER_VLM_PROC=3, but only 2 GPUs are in use"):
        limited(GPUS, settings(NUM_GPUS=2, NUM_GPUS_PER_VLM_PROC=3))


@pytest.mark.parametrize(
    ("mib", "size"),
    [
        (8_000, 2),
        (16_000, 2),
        (16_001, 4),
        (24_000, 4),
        (46_000, 4),
        (46_068, 16),
        (80_000, 16),
        (81_559, 16),
    ],
)
def test_the_batch_by_the_memory(mib: int, size: int) -> None:
    assert batch_size_of(mib << 20) == size


def test_precision_and_batch_on_a_gpu() -> None:
    on_gpu = Backend("auto", "cuda", gpus=tuple(GPUS))
    assert on_gpu.precision(settings(COSMOS_EMBED1_TRT_PRECISION="bf16")) == "bf16"
    assert (on_gpu.batch_size(settings()), on_gpu.batch_size(settings(VLM_BATCH_SIZE=5))) == (16, 5)
    assert on_gpu.gpu == GPUS[0]


def test_models_are_prepared_in_the_precision_that_this_machine_takes() -> None:
    wanted = settings(RTEMBED_BACKEND="cpu", COSMOS_EMBED1_TRT_PRECISION="bf16")
    assert choose_backend(wanted).precision(wanted) == "fp32"
    with pytest.raises(ModelError, match="RTEMBED_BACKEND=cuda, but"):
        choose_backend(settings(RTEMBED_BACKEND="cuda", CUDA_VISIBLE_DEVICES=""))


def test_the_built_in_model_of_rt_embeds_compose_file(tmp_path: Path) -> None:
    assert implementation(settings()) is None
    assert implementation(settings(MODEL_IMPLEMENTATION_PATH=tmp_path / "cosmos-embed1")) is None
    (tmp_path / "cosmos-embed1").mkdir()
    own = tmp_path / "cosmos-embed1"
    assert implementation(settings(MODEL_IMPLEMENTATION_PATH=own)) == own
