"""What the extras and the images install can be installed together, in the versions that were tested."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from packaging.requirements import Requirement

from worker.models.cosmos_embed1.environment import LOCK

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
ELSEWHERE = {"tensorrt-cu13"}
"""What only NVIDIA's own index has."""


def requirements() -> list[str]:
    """What all extras ask for together: if that can be installed, so can each of them."""
    listed = [line for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
    found = {line: Requirement(line) for line in listed}
    return [line for line, asked in found.items() if asked.name not in {"rt-embed", *ELSEWHERE}]


def resolve(*arguments: str) -> None:
    """Let uv choose versions from what the index says of them; nothing is downloaded but that."""
    try:
        urlopen("https://pypi.org/simple/pip/", timeout=10).close()
    except (URLError, TimeoutError) as error:
        pytest.skip(f"no package index: {error}")
    uv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--python", sys.executable]
    done = subprocess.run([*uv, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_extra_can_be_installed_with_the_constraints(tmp_path: Path) -> None:
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("\n".join(requirements()))
    resolve("--constraint", str(ROOT / "deploy" / "constraints.txt"), str(wanted))


def test_the_environment_of_checkpoints_can_be_installed() -> None:
    resolve(str(LOCK))


def test_images_install_extras_that_exist() -> None:
    lines = re.findall(r"pip install (.*)", DOCKERFILE)
    assert lines
    for line in lines:
        for extra in re.findall(r"whl\)\[([a-z-]+)\]", line):
            assert extra in EXTRAS, line
        if "/wheels/" in line:
            assert "--constraint /constraints.txt" in line
    made = re.search(r"rt-embed model environment (\S+)", DOCKERFILE)
    assert made, "model-prepare has an environment for a checkpoint's own code"
    assert f'"--python", "{made[1]}"' in DOCKERFILE
    assert f"COPY --from=model-prepare-packages {made[1]} {made[1]}" in DOCKERFILE
