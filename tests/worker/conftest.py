"""The demonstration model, made once for all tests of the worker; a driver that shows GPUs where there are
none."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.engine.onnx import OnnxEngine
from worker.models.conse.conse_recipe import build
from worker.models.directory import ModelDirectory


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    """The directory of the demonstration model."""
    return build(tmp_path_factory.mktemp("models") / "demo")


@pytest.fixture(scope="session")
def demo_engine(demo_model: ModelDirectory) -> Iterator[OnnxEngine]:
    """An engine that runs it."""
    engine = OnnxEngine(demo_model, 2)
    yield engine
    engine.close()


class Driver:
    """A machine with GPUs, for processes that are started with `environment`: nvidia-ml-py is real, the
    driver's library under it is `nvml.c`, and nothing can be computed."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.folder = folder
        self.environment = {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(folder)}

    def gpus(self, count: int) -> None:
        (self.folder / "gpus").write_text(str(count))

    def divide(self, gpu: int, instances: int) -> None:
        (self.folder / f"mig-{gpu}").write_text(str(instances))

    def lose(self, gpu: int) -> None:
        (self.folder / f"lost-{gpu}").touch()

    def report(self, gpu: int, xid: int) -> None:
        part = self.folder / "part"
        part.write_text(str(xid))
        part.rename(self.folder / f"xid-{gpu}")


@pytest.fixture(scope="session")
def driver_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc, to make a library that answers as a driver's")
    pytest.importorskip("pynvml")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("nvml.c")
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-Wall",
        "-Werror",
        "-o",
        str(folder / "libnvidia-ml.so.1"),
        str(source),
    ]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def driver(driver_library: Path, tmp_path: Path) -> Driver:
    """A driver that shows two GPUs."""
    folder = tmp_path / "nvml"
    folder.mkdir()
    driver = Driver(driver_library, folder)
    driver.gpus(2)
    return driver
