"""The NVIDIA GPUs that this process may use. A worker has one GPU, which CUDA numbers 0 in its process."""

from collections.abc import Sequence

import msgspec

from shared.errors import ModelError, SettingsError


class Gpu(msgspec.Struct, frozen=True):
    """One GPU, or one MIG instance of a GPU. `index` is NVML's, as nvidia-smi shows it; `memory` is in bytes;
    `capability` is CUDA's, (8, 9) for an L40S; `instance` is the number of the MIG instance."""

    index: int
    uuid: str
    name: str
    memory: int
    capability: tuple[int, int]
    driver: str
    instance: int | None = None

    @property
    def number(self) -> str:
        """Its number in NVIDIA_VISIBLE_DEVICES: `0`, or `0:1` for an instance."""
        return str(self.index) if self.instance is None else f"{self.index}:{self.instance}"

    @property
    def sm(self) -> str:
        """The compute capability as TensorRT spells it: SM89."""
        return "SM{}{}".format(*self.capability)


SHOWN_BY_DRIVER = {"", "none", "void"}
"""Values of NVIDIA_VISIBLE_DEVICES for which the container runtime adds no GPU itself (NVIDIA Container
Toolkit, "Environment Variables"). CDI sets `void` in containers that get GPUs, so what the driver shows
counts."""


class Condition(msgspec.Struct, frozen=True):
    """The condition of a GPU: memory in bytes, utilizations from 0 to 1, degrees Celsius. None where the GPU
    does not report a value."""

    memory_used: int | None
    memory_total: int | None
    utilization: float | None
    decoder_utilization: float | None
    temperature: int | None


def visible(gpus: Sequence[Gpu], listed: str, variable: str) -> list[Gpu]:
    """Return the GPUs that `listed` names by number or UUID, in its order; `all` names all. A MIG instance is
    named by UUID (`MIG-...`) or as `0:1`.

    A container runtime reads numbers as the host's and shows only those GPUs: as many numbers as there are
    GPUs therefore mean all of them. Raises ModelError if `listed` allows none, SettingsError if it names a
    GPU that does not exist.
    """
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if names == ["all"]:
        return list(gpus)
    if names in ([], ["none"], ["-1"]):
        raise ModelError(f"{variable}={listed} allows no GPU")
    if len(names) >= len(gpus) and all(name.isdecimal() for name in names):
        return list(gpus)
    return [_named(gpus, name, f"{variable}={listed}") for name in names]


def _named(gpus: Sequence[Gpu], name: str, where: str) -> Gpu:
    for gpu in gpus:
        if name == gpu.number or (name.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(name)):
            return gpu
    known = ", ".join(f"{gpu.number} ({gpu.uuid})" for gpu in gpus)
    raise SettingsError(f"{where}: there is no GPU {name}, only {known}")
