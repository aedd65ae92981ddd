"""The client in applications that have other packages than ours, or others of the same names."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(program: str, folder: Path) -> str:
    """What a program prints that runs in `folder`, which comes first on its path."""
    (folder / "application.py").write_text(f"import sys\nsys.path.append({str(ROOT)!r})\n{program}")
    done = subprocess.run(
        [sys.executable, "application.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_modules_of_the_application_may_have_our_names(tmp_path: Path) -> None:
    for name in ("shared", "gateway", "worker", "search", "proto"):
        (tmp_path / f"{name}.py").write_text(f"print('imported the application own {name}')")
    program = (
        "import rt_embed\n"
        "from rt_embed import *\n"
        "Client('http://localhost:1').close()\n"
        "print(sorted({'shared', 'gateway', 'worker', 'search', 'proto'} & set(sys.modules)))\n"
    )
    assert run(program, tmp_path) == "[]"


def test_vectors_without_numpy(tmp_path: Path) -> None:
    program = (
        "sys.modules['numpy'] = None\n"
        "from rt_embed.types import to_vector\n"
        "vector = to_vector('AACAPwAAAMA=')\n"
        "print(type(vector).__name__, list(vector), list(to_vector([0.5])))\n"
    )
    assert run(program, tmp_path) == "array [1.0, -2.0] [0.5]"


def test_importing_the_package_is_cheap(tmp_path: Path) -> None:
    program = "import rt_embed\nprint(sorted({'httpx', 'msgspec', 'numpy'} & set(sys.modules)))"
    assert run(program, tmp_path) == "[]"


def test_what_the_package_offers() -> None:
    import rt_embed

    for name in rt_embed.__all__:
        assert getattr(rt_embed, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Klient'"):
        rt_embed.Klient  # noqa: B018
