"""COSMOS_EMBED1_TRT_EXTRA_ARGS: arguments of TensorRT's builder, spelled as trtexec spells them."""

import re
import shlex
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from shared.errors import SettingsError

UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

Verbosity = Literal["LAYER_NAMES_ONLY", "DETAILED", "NONE"]
Tiling = Literal["NONE", "FAST", "MODERATE", "FULL"]


class BuilderArguments(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the builder; None leaves TensorRT's default. Sizes are bytes."""

    optimization_level: int | None = None
    workspace: int | None = None
    shared_memory: int | None = None
    auxiliary_streams: int | None = None
    timing_iterations: int | None = None
    tactics: int | None = None
    tiling: Tiling | None = None
    tiling_l2: int | None = None
    tf32: bool = True
    sparse: bool = False
    verbosity: Verbosity | None = None


def parse_arguments(text: str) -> BuilderArguments:
    """Parse the arguments, quoted as in a shell; a repeated argument keeps its last value.

    Raises SettingsError for an unknown argument, naming the known ones, and for a bad value.
    """
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise _refused(text, str(error)) from error
    fields: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in KNOWN:
            raise _refused(text, f"{name} is not known; known are {', '.join(map(usage, KNOWN))}")
        parse, allowed = KNOWN[name]
        try:
            fields |= parse(value)
        except (KeyError, ValueError):
            raise _refused(text, f"{name} must be given as {name}{allowed}") from None
    return BuilderArguments(**fields)


def usage(name: str) -> str:
    """Return how the argument is written."""
    return f"{name}{KNOWN[name][1]}"


def _refused(text: str, reason: str) -> SettingsError:
    return SettingsError(f"COSMOS_EMBED1_TRT_EXTRA_ARGS={text!r}: {reason}")


Parse = Callable[[str], dict[str, Any]]


def _number(field: str, low: int, high: int) -> Parse:
    def parse(text: str) -> dict[str, Any]:
        if not low <= int(text) <= high:
            raise ValueError(text)
        return {field: int(text)}

    return parse


def _choice(field: str, values: dict[str, object]) -> Parse:
    return lambda text: {field: values[text]}


def _pools(text: str) -> dict[str, Any]:
    """Parse `workspace:SIZE,tacticSharedMem:SIZE`; without a unit SIZE is MiB, as in trtexec."""
    fields = {"workspace": "workspace", "tacticSharedMem": "shared_memory"}
    pools = {}
    for part in text.split(","):
        pool, _, size = part.partition(":")
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([BKMG]?)", size)
        if not found:
            raise ValueError(part)
        pools[fields[pool]] = int(float(found[1]) * UNITS[found[2] or "M"])
    return pools


KNOWN: dict[str, tuple[Parse, str]] = {
    "--builderOptimizationLevel": (_number("optimization_level", 0, 5), "=0 to 5"),
    "--memPoolSize": (_pools, "=workspace:SIZE,tacticSharedMem:SIZE"),
    "--maxAuxStreams": (_number("auxiliary_streams", 0, 64), "=0 to 64"),
    "--avgTiming": (_number("timing_iterations", 1, 1000), "=1 to 1000"),
    "--maxTactics": (_number("tactics", 1, 1 << 20), "=NUMBER"),
    "--tilingOptimizationLevel": (
        _choice("tiling", {"0": "NONE", "1": "FAST", "2": "MODERATE", "3": "FULL"}),
        "=0 to 3",
    ),
    "--l2LimitForTiling": (_number("tiling_l2", 0, 1 << 40), "=BYTES"),
    "--noTF32": (_choice("tf32", {"": False}), ""),
    "--sparsity": (_choice("sparse", {"disable": False, "enable": True}), "=disable or enable"),
    "--profilingVerbosity": (
        _choice(
            "verbosity",
            {"layer_names_only": "LAYER_NAMES_ONLY", "detailed": "DETAILED", "none": "NONE"},
        ),
        "=layer_names_only, detailed or none",
    ),
}
"""Each argument's parser and allowed values. Precision is absent: a graph holds its own types."""
