"""One word, one thing: no two classes and no two modules share a name."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gateway", "rt_embed", "search", "shared", "worker")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

CLASSES: dict[str, str] = {}
"""Names that several public classes have, each with the reason why that is clearer than two names."""
MODULES = {
    "__init__": "Python's name",
    "__main__": "Python's name for what `python -m` runs",
}
"""Names that several modules have, each with the reason."""


def repeated(names: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    """Names that stand in more than one file, with those files."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, path in names:
        places[name].append(str(path.relative_to(ROOT)))
    return {name: found for name, found in places.items() if len(found) > 1}


def public_classes(path: Path) -> list[str]:
    """The names of the classes at a module's top level, without those that begin with an underscore."""
    body = ast.parse(path.read_text()).body
    return [node.name for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


def test_classes_have_names_of_their_own() -> None:
    found = repeated((name, path) for path in SOURCES for name in public_classes(path))
    assert {name: places for name, places in found.items() if name not in CLASSES} == {}


def test_modules_have_names_of_their_own() -> None:
    found = repeated((path.stem, path) for path in SOURCES)
    assert {name: places for name, places in found.items() if name not in MODULES} == {}


def test_exceptions_are_needed_still() -> None:
    classes = repeated((name, path) for path in SOURCES for name in public_classes(path))
    modules = repeated((path.stem, path) for path in SOURCES)
    assert CLASSES.keys() <= classes.keys()
    assert MODULES.keys() <= modules.keys()
    assert all({**CLASSES, **MODULES}.values())


def test_a_repeated_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_names.ROOT", tmp_path)
    for name in ("first.py", "second.py"):
        (tmp_path / name).write_text("class Session:\n    pass\n\nclass _Own:\n    pass\n")
    names = ((name, path) for path in sorted(tmp_path.glob("*.py")) for name in public_classes(path))
    assert repeated(names) == {"Session": ["first.py", "second.py"]}
