"""Dependencies point one way: gateway -> shared <- worker, in no circle. The gateway needs no media code."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"gateway", "rt_embed", "search", "shared", "tests", "worker"}
ALLOWED = {
    "gateway": {"gateway", "shared"},
    "rt_embed": {"rt_embed", "shared"},
    "search": {"search", "shared"},
    "shared": {"shared"},
    "worker": {"worker", "shared"},
}
MEDIA = {
    "av", "cupy", "cv2", "ml_dtypes", "numpy", "onnx", "onnxruntime", "PIL", "PyNvVideoCodec", "tensorrt",
    "tensorrt_rtx", "tokenizers", "torch",
}  # fmt: skip
SOURCES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES
}
MOST_MODULES = 15
"""In one folder."""
_DECODER = "worker.media.decoder"
_DECODER_DATA = {f"{_DECODER}.limits", f"{_DECODER}.media_facts"}
ROOMS = {
    "gateway.api": {"gateway.api"},
    "gateway.store": {"gateway.api", "gateway.store"},
    _DECODER: {_DECODER, "worker.framing", "worker.isolation"},
    f"{_DECODER}.selection": {f"{_DECODER}.selection"},
    f"{_DECODER}.container": {f"{_DECODER}.container", f"{_DECODER}.selection", *_DECODER_DATA},
    f"{_DECODER}.pictures": {f"{_DECODER}.container", f"{_DECODER}.pictures", *_DECODER_DATA},
    "worker.live.rtp": {"worker.live.rtp", "worker.live.camera_description", f"{_DECODER}.selection"},
}
"""What low rooms may import of their package: modules, and rooms with all that is in them."""
ABOVE_ENDPOINTS = {"gateway.app", "gateway.all_endpoints"}


def imported(path: Path) -> Iterator[str]:
    """The full names of what a module imports, also inside functions and under TYPE_CHECKING.

    What it imports only when it is run as a command does not count: a command stands above everything.
    """
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in _walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield name if name in MODULES else source
        elif _imports_by_name(node):
            assert isinstance(node, ast.Call)
            name_given = node.args[0] if node.args else None
            if isinstance(name_given, ast.Constant):
                yield str(name_given.value)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "__name__ == '__main__'"):
            yield child
            yield from _walk(child)


def _imports_by_name(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in {"import_module", "__import__"}


def test_describing_the_api_needs_no_connection() -> None:
    """Neither the declarations nor the document they become import the client of Redis."""
    program = "import sys, gateway.api.openapi, gateway.api.examples; print('redis' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"


def test_there_is_something_to_look_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(ALLOWED)
    assert set(imported(ROOT / "gateway" / "context.py")) >= {
        "shared.redis.connection",
        "gateway.fleet_view",
        "starlette.requests",
    }
    assert "gateway.endpoints.video" in set(imported(ROOT / "gateway" / "all_endpoints.py"))
    assert "gateway.all_endpoints" not in set(imported(ROOT / "gateway" / "api" / "openapi.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_only_what_lies_below_them(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name.partition(".")[0] for name in imported(path)} & OURS
    assert ours <= ALLOWED[package], f"{path} imports {ours - ALLOWED[package]}"


def test_the_client_imports_nothing_of_ours() -> None:
    """It works in an application whose own modules are called shared, gateway or worker."""
    for name, path in MODULES.items():
        if name.startswith("rt_embed.") and not name.startswith(("rt_embed.cli", "rt_embed.__main__")):
            ours = {found for found in imported(path) if found.partition(".")[0] in OURS}
            assert {found for found in ours if not found.startswith("rt_embed")} == set(), name
            assert not [found for found in ours if found.startswith("rt_embed.cli")], name


def test_modules_import_each_other_in_no_circle() -> None:
    graph = {name: {found for found in imported(path) if found in MODULES} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("room", ROOMS)
def test_low_rooms_import_nothing_above_them(room: str) -> None:
    package = room.partition(".")[0]
    modules = [name for name in MODULES if name.startswith(f"{room}.")]
    assert modules
    for name in modules:
        found = {other for other in imported(MODULES[name]) if other.startswith(f"{package}.")}
        above = [
            other for other in found if not any(f"{other}.".startswith(f"{low}.") for low in ROOMS[room])
        ]
        assert above == [], name


def test_endpoints_are_imported_by_what_composes_the_application_only() -> None:
    for name, path in MODULES.items():
        if name not in ABOVE_ENDPOINTS and not name.startswith("gateway.endpoints"):
            assert not [found for found in imported(path) if found.startswith("gateway.endpoints")], name


def test_a_folder_has_few_enough_modules_to_be_read_at_a_glance() -> None:
    sizes = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert {str(folder): size for folder, size in sizes.items() if size > MOST_MODULES} == {}


@pytest.mark.parametrize("package", ["gateway", "shared"])
def test_no_media_package_is_named_outside_of_the_worker(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        assert not {name.partition(".")[0] for name in imported(path)} & MEDIA, path


@pytest.mark.parametrize(
    "module", ["gateway.gateway_process", "gateway.app", "rt_embed.cli.main", "shared.redis.connection"]
)
def test_a_fresh_interpreter_loads_no_media_package(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert module.partition(".")[0] in loaded
    assert not set(loaded) & (MEDIA | {"worker"})


def test_the_gateway_starts_where_no_media_package_is_installed() -> None:
    """Not even if one is imported where a failure would be forgiven."""
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MEDIA!r}:
            print("asked for", name)
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
from gateway.app import create_app
from shared.settings import load
print("made", type(create_app(load({{}}))).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["made Starlette"]
