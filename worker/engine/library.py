"""Finds the installed TensorRT: TensorRT, or TensorRT for RTX, which has the same API under another name."""

import importlib
import importlib.util
import sys

from shared.errors import ModelError

MODULES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
"""The packages that provide each library; the Python bindings can be installed alone."""


def provide_tensorrt(wanted: str) -> str:
    """Make `import tensorrt` load the library that RTEMBED_TENSORRT names, or for `auto` the first that is
    installed. Returns `tensorrt` or `tensorrt_rtx`. Raises ModelError if none can be imported."""
    if (before := sys.modules.get("tensorrt")) and before.__name__ != "tensorrt":
        del sys.modules["tensorrt"]
    libraries = list(MODULES) if wanted == "auto" else [wanted]
    problems = []
    for library in libraries:
        for name in MODULES[library]:
            if importlib.util.find_spec(name) is None:
                continue
            try:
                sys.modules["tensorrt"] = importlib.import_module(name)
            except ImportError as error:
                problems.append(f"{name} cannot be imported: {error}")
            else:
                return library
    missing = f"{' and '.join(libraries)} not installed; RTEMBED_TENSORRT={wanted}"
    raise ModelError("; ".join(problems) or missing)
