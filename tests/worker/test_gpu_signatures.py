"""What our GPU modules use of CuPy, TensorRT, PyNvVideoCodec and NVML exists in the real packages.

mypy checks the modules against the stubs in `typings/`; here the stubs are checked against the packages, name
by name and argument by argument, and the names that a module takes from a package once more without stubs.
Nothing is run, so no GPU is needed. What is not installed is skipped.
"""

import ast
import ctypes
import importlib
import importlib.metadata
import inspect
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TYPINGS = ROOT / "typings"
MODULES = [
    "worker/engine/backend.py",
    "worker/engine/build.py",
    "worker/engine/cache.py",
    "worker/engine/nvml.py",
    "worker/engine/tensorrt.py",
    "worker/engine/tower_session.py",
    "worker/media/gpu/nvdec.py",
    "worker/media/gpu/pixels.py",
]
"""Each module of ours that uses a GPU package."""
FOR_RTX_ONLY = {"num_compute_capabilities", "set_compute_capability", "ComputeCapability"}
"""TensorRT for RTX alone has these; `set_target` uses them, and is called for it alone."""
STRUCTURES = {
    "_Device": "c_nvmlDevice_t", "_EventSet": "c_nvmlEventSet_t", "_Memory": "c_nvmlMemory_t",
    "_Utilization": "c_nvmlUtilization_t", "_Event": "c_nvmlEventData_t",
    "_MemoryPointer": "cuda.MemoryPointer",
}  # fmt: skip
"""What a package calls the classes that its stub names for itself."""
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
"""All that TensorRT's bindings need of its libraries to be imported."""


def imported(name: str) -> ModuleType:
    """Skips the test where the package is not installed, or lacks the driver's libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            pytest.skip(f"{name} cannot be imported here: {error}")


@pytest.fixture(scope="module")
def tensorrt(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The bindings of TensorRT, over libraries with no content where its own are not installed."""
    try:
        return importlib.import_module("tensorrt_bindings")
    except ModuleNotFoundError as error:
        pytest.skip(f"tensorrt-cu13-bindings is not installed: {error}")
    except ImportError:
        pass
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc, to make libraries over which TensorRT's bindings can be imported")
    folder = tmp_path_factory.mktemp("libraries")
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ENTRY_POINTS))
    major = importlib.metadata.version("tensorrt-cu13-bindings").partition(".")[0]
    for library in LIBRARIES:
        file = f"lib{library}.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(folder / file), str(source)]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(folder / file), ctypes.RTLD_GLOBAL)
    return importlib.import_module("tensorrt_bindings")


@pytest.fixture(scope="module")
def tensorrt_rtx() -> ModuleType:
    return imported("tensorrt_rtx_bindings")


# The stubs and the packages --------------------------------------------------------------------------------


def differences(stub: Path, module: ModuleType) -> list[str]:
    """What the stub promises and the module lacks."""
    nodes = ast.parse(stub.read_text()).body
    return [line for node in nodes for line in _check(node, module, module.__name__)]


def _check(node: ast.stmt, owner: Any, where: str) -> Iterator[str]:
    match node:
        case ast.ClassDef(name=name):
            real = _attribute(owner, STRUCTURES.get(name, name))
            if real is None:
                yield f"{where} has no class {name}"
                return
            for inner in node.body:
                yield from _check(inner, real, f"{where}.{name}")
        case ast.FunctionDef(name="__buffer__"):
            pass  # part of the C API
        case ast.FunctionDef(name=name):
            real = getattr(owner, name, None)
            if real is None and not _is_instance_attribute(owner, name):
                yield f"{where} has no {name}"
            elif real is not None:
                yield from (f"{where}.{name} takes no {a}" for a in _unknown_arguments(node, owner, real))
        case ast.AnnAssign(target=ast.Name(id=name)):
            if not hasattr(owner, name) and not _is_instance_attribute(owner, name):
                yield f"{where} has no {name}"


def _attribute(owner: Any, path: str) -> Any:
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner


def _is_instance_attribute(owner: Any, name: str) -> bool:
    """Whether the class says that its instances have it: by its description, or when one is made."""
    if not isinstance(owner, type):
        return False
    if re.search(rf"\b{owner.__name__}\.{name}\b", owner.__doc__ or ""):
        return True
    return issubclass(owner, Exception) and hasattr(owner(700), name)


def _unknown_arguments(node: ast.FunctionDef, owner: Any, real: Any) -> list[str]:
    arguments = [a.arg for a in [*node.args.args, *node.args.kwonlyargs] if a.arg != "self"]
    if not arguments or (node.name.startswith("__") and node.name != "__init__") or node.name in CALLBACKS:
        return []
    known = parameters(owner if node.name == "__init__" else real)
    return [argument for argument in arguments if argument not in known]


CALLBACKS = {"log", "phase_start", "step_complete", "phase_finish"}
"""We define these, and TensorRT calls them by position."""


def parameters(function: Any) -> set[str]:
    """The names of the arguments, of all overloads: by the signature, or by the description of compiled
    ones."""
    try:
        found = set(inspect.signature(function).parameters) - {"args", "kwargs"}
    except (TypeError, ValueError):
        found = set()
    initializer = getattr(function, "__init__", None) if isinstance(function, type) else None
    for described in (function, initializer):
        for line in (getattr(described, "__doc__", None) or "").splitlines():
            if called := re.match(r"(?:\d+\. )?[\w.]+\((.*)\)", line):
                found |= {_name(part) for part in re.split(r", (?![^\[(<]*[\])>])", called[1])}
    return found


def _name(parameter: str) -> str:
    """Of `name: type = default` (pybind11) or `type name=default` (Cython)."""
    words = re.split(r"[:=]", parameter)[0].split()
    return words[-1] if words else ""


STUBS = sorted(str(path.relative_to(TYPINGS)) for path in TYPINGS.rglob("*.pyi") if path.stem != "tensorrt")


@pytest.mark.parametrize("stub", STUBS)
def test_the_stub_is_true_of_the_package(stub: str) -> None:
    package, _, inner = stub.removesuffix(".pyi").removesuffix("/__init__").replace("/", ".").partition(".")
    module = imported(package)
    try:
        found = differences(TYPINGS / stub, _attribute(module, inner) if inner else module)
    except (OSError, RuntimeError) as error:  # CuPy loads the driver when its functions are looked at
        pytest.skip(f"{stub} cannot be compared here: {error}")
    assert found == []


def test_the_stub_is_true_of_tensorrt(tensorrt: ModuleType) -> None:
    found = differences(TYPINGS / "tensorrt.pyi", tensorrt)
    assert {line.rpartition(" ")[2] for line in found} <= FOR_RTX_ONLY | {"__members__"}
    assert "tensorrt_bindings.IBuilderConfig has no set_compute_capability" in found


def test_the_stub_is_true_of_tensorrt_for_rtx(tensorrt_rtx: ModuleType) -> None:
    assert differences(TYPINGS / "tensorrt.pyi", tensorrt_rtx) == []


# The modules and the packages ------------------------------------------------------------------------------

PACKAGES = {"cupy", "cupyx", "pynvml", "tensorrt", "PyNvVideoCodec"}


def used(path: Path) -> dict[str, set[str]]:
    """By package, the names that a module takes from it: `cuda.Stream` for `cupy.cuda.Stream`."""
    tree = ast.parse(path.read_text())
    aliases: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name] = (alias.name, "")
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                aliases[alias.asname or alias.name] = (node.module, alias.name)
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        root, _, names = ast.unparse(node).partition(".")
        package, first = aliases.get(root, ("", ""))
        if package.partition(".")[0] in PACKAGES and re.fullmatch(r"[\w.]*", names):
            dotted = ".".join(filter(None, (*package.split(".")[1:], first, names)))
            found.setdefault(package.partition(".")[0], set()).add(dotted)
    return {package: names - {""} for package, names in found.items()}


@pytest.mark.parametrize("module", MODULES)
def test_every_name_that_is_used_exists(module: str, request: pytest.FixtureRequest) -> None:
    uses = used(ROOT / module)
    assert uses, f"{module} uses no GPU package: take it off the list"
    for package, names in uses.items():
        if package == "tensorrt":
            libraries = [request.getfixturevalue("tensorrt"), request.getfixturevalue("tensorrt_rtx")]
        else:
            libraries = [imported(package)]
        for library in libraries:
            missing = {name for name in names if _attribute(library, name) is None}
            rtx_only = set() if library.__name__.startswith("tensorrt_rtx") else FOR_RTX_ONLY
            assert {name for name in missing if name.partition(".")[0] not in rtx_only} == set()


def test_every_module_that_uses_a_gpu_package_is_listed() -> None:
    found = {str(p.relative_to(ROOT)) for p in (ROOT / "worker").rglob("*.py") if used(p)}
    assert found == set(MODULES)


def test_what_is_used_is_found() -> None:
    """The search itself, on a module that is known."""
    uses = used(ROOT / "worker/engine/tower_session.py")
    assert {"cuda.Stream", "ascontiguousarray", "cuda.get_current_stream"} <= uses["cupy"]
    assert "ExecutionContextAllocationStrategy.USER_MANAGED" in uses["tensorrt"]


def test_a_stub_that_is_not_true_is_seen(tmp_path: Path) -> None:
    stub = tmp_path / "stub.pyi"
    stub.write_text(
        "class NVMLError(Exception):\n    def retry(self) -> None: ...\n"
        "class NVMLError_NotThere(NVMLError): ...\n"
        "class _Memory:\n    total: int\n    spare: int\n"
        "nvmlNothing: int\n"
        "def nvmlDeviceGetTemperature(handle: object, colour: int) -> int: ...\n"
    )
    assert differences(stub, imported("pynvml")) == [
        "pynvml.NVMLError has no retry",
        "pynvml has no class NVMLError_NotThere",
        "pynvml._Memory has no spare",
        "pynvml has no nvmlNothing",
        "pynvml.nvmlDeviceGetTemperature takes no colour",
    ]


@pytest.mark.parametrize(
    ("description", "names"),
    [
        ("f(self: m.C, a: int = 0, b: Dict[int, str] = {}) -> None", {"self", "a", "b"}),
        (
            "f(*args, **kwargs)\nOverloaded function.\n\n1. f(x: int) -> int\n\n2. f(y: int) -> int",
            {"x", "y"},
        ),
        ("C.f(self, Pointer src, size_t size, stream=None)\n\nText (in it).", {"src", "size", "stream"}),
    ],
)
def test_arguments_are_read_from_descriptions(description: str, names: set[str]) -> None:
    class Compiled:
        __doc__ = description

        def __call__(self, *args: Any, **kwargs: Any) -> None: ...

    assert names <= parameters(Compiled())
    assert "Text" not in parameters(Compiled())
