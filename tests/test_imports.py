"""Dependencies point one way: gateway -> shared <- worker. The gateway needs no media or GPU package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"gateway", "rt_embed", "search", "shared", "tests", "worker"}
ALLOWED = {
    "gateway": {"gateway", "shared"},
    "rt_embed": {"rt_embed", "shared"},
    "shared": {"shared"},
    "worker": {"worker", "shared"},
}
MEDIA = {
    "av", "cupy", "cv2", "ml_dtypes", "numpy", "onnx", "onnxruntime", "PIL", "PyNvVideoCodec", "tensorrt",
    "tensorrt_rtx", "tokenizers", "torch",
}  # fmt: skip
SOURCES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    """The full names of what a module imports, also inside functions and under TYPE_CHECKING."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            yield ".".join(part for part in (base, node.module) if part)
        elif _imports_by_name(node):
            assert isinstance(node, ast.Call)
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant):
                yield str(name.value)


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
        "msgspec",
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_only_what_lies_below_them(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name.partition(".")[0] for name in imported(path)} & OURS
    assert ours <= ALLOWED[package], f"{path} imports {ours - ALLOWED[package]}"


@pytest.mark.parametrize("package", ["gateway", "shared"])
def test_no_media_package_is_named_outside_of_the_worker(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        assert not {name.partition(".")[0] for name in imported(path)} & MEDIA, path


@pytest.mark.parametrize(
    "module", ["gateway.__main__", "gateway.app", "rt_embed.cli.main", "shared.redis.connection"]
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
