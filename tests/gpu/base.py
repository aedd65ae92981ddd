"""What this machine is, and whether the worker finds its GPU: python -m tests.gpu.base"""

import importlib.metadata
import subprocess
import sys

from shared.settings import load
from worker.engine.backend import check_driver, find_gpus
from worker.engine.nvml import GpuMeter

PACKAGES = ("torch", "cupy-cuda13x", "PyNvVideoCodec", "numpy", "onnx", "onnxruntime", "av", "protobuf")


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def main() -> None:
    query = "--query-gpu=name,driver_version,memory.total,compute_cap,mig.mode.current"
    print(
        subprocess.run(
            ["nvidia-smi", query, "--format=csv"], capture_output=True, text=True, check=False
        ).stdout
    )
    print("Python", sys.version.split()[0], *(f"{name} {version(name)}" for name in PACKAGES), sep="\n")
    check_driver()
    gpus = find_gpus(load({}))
    print(*gpus, sep="\n")
    meter = GpuMeter(gpus[0])
    print(meter.read(), meter.trouble)


if __name__ == "__main__":
    main()
