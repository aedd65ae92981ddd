"""The Python environment that runs a checkpoint's own code: PyTorch and an older transformers, which conflict
with this package's dependencies."""

import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import structlog

from shared.errors import ModelError
from worker.children import network_environment
from worker.models.preparation_progress import Progress, silent

log = structlog.get_logger(__name__)

LOCK = Path(__file__).with_name("reference_lock.txt")
"""Everything but PyTorch, with hashes."""
PYTORCH = ("torch==2.13.0", "torchvision==0.28.0")
"""Pinned by version only: each index has its own builds."""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""The index of PyTorch's CPU builds: a tenth of the size, and sufficient."""
IN_CACHE = ".reference-environment"
MARK = ".rt-embed-environment"
"""A file in a complete environment: the versions that it was made from."""
LAST_LINES = 10
PATIENCE = 10.0  # seconds

CHECK = """
from importlib.metadata import PackageNotFoundError, version
for name in ("torch", "torchvision", "einops", "transformers"):
    try:
        found = version(name)
    except PackageNotFoundError:
        raise SystemExit(f"{name} is not installed")
major, minor = map(int, found.split(".")[:2])
if not (4, 49) <= (major, minor) <= (4, 55):
    raise SystemExit(f"transformers {found} is installed, and 4.49 to 4.55 are needed")
"""


def interpreter(given: str) -> str:
    """Return the interpreter that `given` names: itself, or that of an environment's folder."""
    inside = Path(given, "bin", "python")
    return str(inside) if inside.exists() else given


def missing_in(python: str) -> str:
    """Return why the interpreter cannot run a checkpoint's own code; empty if it can."""
    try:
        done = subprocess.run(  # noqa: S603 - the operator's choice
            [python, "-c", CHECK], env=network_environment(), capture_output=True, text=True, check=False
        )
    except OSError as error:
        return str(error)
    return done.stderr.strip().split("\n")[-1] if done.returncode else ""


def make_environment(folder: Path, index: str = CPU_INDEX, progress: Progress = silent) -> str:
    """Make an environment in `folder` with pip, from the lock; return its interpreter. Keep a complete one.

    PyTorch comes from `index`, or from pip's own index if that does not answer. Raises ModelError
    saying what failed.
    """
    python = folder / "bin" / "python"
    wanted = "\n".join([*PYTORCH, LOCK.read_text()])
    if (folder / MARK).exists() and (folder / MARK).read_text() == wanted:
        log.info("the environment exists", folder=str(folder))
        return str(python)
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        raise ModelError(f"{folder} is neither empty nor an environment: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    progress(f"making an environment in {folder}", 0, 0)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    progress("installing PyTorch and transformers: 1.2 GB without CUDA, 5 GB with it", 0, 0)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    extra = ("--extra-index-url", index) if index and answers(index) else ()
    _run([*pip, "--require-hashes", "--requirement", str(LOCK)])
    _run([*pip, *extra, *PYTORCH])
    if missing := missing_in(str(python)):
        raise ModelError(f"the environment in {folder} is not complete: {missing}")
    (folder / MARK).write_text(wanted)
    log.info("environment made", folder=str(folder), lock=LOCK.name)
    return str(python)


def answers(index: str) -> bool:
    """Return whether the index can be reached: pip would wait for it once per package."""
    try:
        with urllib.request.urlopen(f"{index.rstrip('/')}/torch/", timeout=PATIENCE):  # noqa: S310 - the operator's choice
            return True
    except (OSError, ValueError) as error:
        log.warning("PyTorch comes from pip's own index", unreachable=index, error=str(error))
        return False


def _run(command: Sequence[str]) -> None:
    # Packages may run code during installation: they get no key, token or password of ours.
    done = subprocess.run(  # noqa: S603 - our own
        command, env=network_environment("PIP_"), capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-LAST_LINES:])
        raise ModelError(f"{' '.join(command[:4])} ... ended with code {done.returncode}:\n  {last}")
