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

from worker.models.cosmos_embed1.environment import LOCK, PYTORCH

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
LISTS = ROOT / "deploy" / "requirements"
IMAGES = {
    "gateway": [],
    "search": ["search"],
    "profiling": ["profiling"],
    "worker-cpu": ["worker", "media", "demo-model"],
    "worker-gpu": ["gpu", "media"],
}
"""The extras that each list is for."""


def pinned(name: str) -> dict[str, str]:
    """Versions by the names of packages, in a list or in the constraints."""
    text = (ROOT / "deploy" / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def requirements() -> list[str]:
    """What all extras ask for together: if that can be installed, so can each of them."""
    listed = [line for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
    found = {line: Requirement(line) for line in listed}
    return [line for line, asked in found.items() if asked.name != "rt-embed"]


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


def test_the_environment_of_checkpoints_can_be_installed(tmp_path: Path) -> None:
    pytorch = tmp_path / "requirements.txt"
    pytorch.write_text("\n".join(PYTORCH))
    resolve(str(LOCK), str(pytorch))
    asked_for = (LISTS / "reference.in").read_text()
    assert set(PYTORCH) <= set(asked_for.split("\n"))


@pytest.mark.parametrize("name", [*IMAGES, "build"])
def test_what_images_install_has_hashes_and_is_what_was_tested(name: str) -> None:
    text = (LISTS / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) > 20
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==\S+( +--hash=sha256:[0-9a-f]{64})+", line.strip()), line
    assert pinned(f"requirements/{name}.txt").items() <= pinned("constraints.txt").items()


@pytest.mark.parametrize("name", IMAGES)
def test_images_install_what_the_project_asks_for(name: str) -> None:
    versions = pinned(f"requirements/{name}.txt")
    for line in [*PROJECT["dependencies"], *(line for extra in IMAGES[name] for line in EXTRAS[extra])]:
        asked = Requirement(line)
        if asked.name != "rt-embed":
            found = versions[re.sub(r"[-_.]+", "-", asked.name).lower()]
            assert asked.specifier.contains(found, prereleases=True), (
                f"{line}: {found}: run scripts/lock --lists"
            )


def test_the_dockerfile_installs_nothing_without_a_hash() -> None:
    fetch = re.search(r'^ENV FETCH="(.*)"$', DOCKERFILE, re.MULTILINE)
    assert fetch
    assert "--require-hashes" in fetch[1]
    for command in re.findall(r"pip (?:install|wheel)\b[^&|\n\"]*", DOCKERFILE):
        assert "--require-hashes" in command or "--no-deps" in command, command
    named = set(re.findall(r"/requirements/([a-z-]+)\.txt", DOCKERFILE))
    assert named == {"build", "worker-cpu", "worker-gpu"}
    extras = re.search(r"set -- gateway \$GATEWAY_EXTRAS .*/requirements/\$extra\.txt", DOCKERFILE)
    assert extras, "the gateway's list, and those of the extras that are asked for"


def test_model_prepare_has_an_environment_for_a_checkpoints_own_code() -> None:
    made = re.search(r"rt-embed model environment (\S+)", DOCKERFILE)
    assert made
    assert f'"--python", "{made[1]}"' in DOCKERFILE
    assert f"COPY --from=model-prepare-packages {made[1]} {made[1]}" in DOCKERFILE
