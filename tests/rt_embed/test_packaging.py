"""The wheel and the source distribution: what they hold, and how they work with nothing else installed."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.e2e.conftest import Stack
from tests.support import RedisServer, free_port

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "rt_embed", "search", "shared", "worker")
VERSION = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
LEFT_OUT = {"gateway/api/openapi.json"}
"""Tracked files inside the packages that nothing reads when it runs."""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a release's files lie: built from what git tracks, as a release is."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    made = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return made


def tracked() -> list[str]:
    """The files that git knows."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def wheel_of(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


class Installed:
    """A fresh environment with the wheel, and of what it needs only what its metadata names."""

    def __init__(self, folder: Path, wheel: Path, *extra: str) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        for found in closure([*(distribution("rt-embed").requires or ()), *extra]):
            for file in found.files or ():
                target = site / file
                if file.parts[0] != ".." and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(Path(str(found.locate_file(file))))
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--quiet"]
        subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)

    def run(
        self, *arguments: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment."""
        return subprocess.run(
            [str(self.folder / "bin" / arguments[0]), *arguments[1:]],
            cwd=cwd or self.folder,
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def closure(requirements: Sequence[str]) -> Iterator[Distribution]:
    """Every distribution that the requirements lead to; none of their extras unless they name them."""
    wanted: list[tuple[str, str]] = [(line, "") for line in requirements]
    seen: set[str] = set()
    while wanted:
        line, extra = wanted.pop()
        requirement = Requirement(line)
        if str(requirement) in seen or (
            requirement.marker and not requirement.marker.evaluate({"extra": extra})
        ):
            continue
        seen.add(str(requirement))
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            pytest.fail(f"{requirement} is not installed here")
        yield found
        wanted += [(inner, of) for inner in found.requires or () for of in ("", *requirement.extras)]


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`pip install rt-embed proto-plus` in a fresh environment."""
    return Installed(tmp_path_factory.mktemp("environment") / "venv", wheel_of(dist), "proto-plus")


# What they hold -----------------------------------------------------------------------------------------


def test_the_wheel_holds_the_packages_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(wheel_of(dist)) as wheel:
        names = set(wheel.namelist())
    metadata = {name for name in names if name.startswith(f"rt_embed-{VERSION}.dist-info/")}
    expected = {name for name in tracked() if name.partition("/")[0] in PACKAGES} - LEFT_OUT
    assert names - metadata == expected
    assert f"rt_embed-{VERSION}.dist-info/licenses/LICENSE" in metadata


def test_the_source_distribution_holds_what_the_wheel_is_made_of(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if not name.endswith("/")}
    with zipfile.ZipFile(wheel_of(dist)) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed <= names
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "proto/nv.proto"} <= names
    assert not {name for name in names if name.partition("/")[0] in {"tests", "deploy", "scripts"}}


def test_the_index_would_take_them(dist: Path) -> None:
    """The description renders; metadata is whole."""
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, dist.iterdir())]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("PASSED") == 2


def test_the_version_is_written_once() -> None:
    """The packages read it from the metadata; images and manifests are labelled with the same one."""
    assert distribution("rt-embed").version == VERSION
    labelled = [ROOT / name for name in tracked() if name.startswith("deploy/") and name.endswith(".yaml")]
    label = re.compile(r"(?:newTag: |rt-embed-[a-z-]+:)(\d+\.\d[\w.]*)")
    assert {tag for path in labelled for tag in label.findall(path.read_text())} == {VERSION}
    spelled = [name for name in tracked() if name.endswith(".py") and name.partition("/")[0] in PACKAGES]
    assert [name for name in spelled if f'version = "{VERSION}"' in (ROOT / name).read_text()] == []


@pytest.mark.parametrize("extra", ["worker", "gpu", "search", "demo", "parquet", "profiling"])
def test_extras_are_declared(extra: str) -> None:
    found = distribution("rt-embed").metadata
    assert extra in (found.get_all("Provides-Extra") or ())


# How they work ------------------------------------------------------------------------------------------


def test_the_command_works_without_extras(installed: Installed) -> None:
    assert installed.run("rt-embed", "--version").stdout == f"rt-embed {VERSION}\n"
    assert "Run the service" in installed.run("rt-embed", "--help").stdout
    help_of_demo = installed.run("rt-embed", "demo", "--help")
    assert (help_of_demo.returncode, help_of_demo.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "extra"), [("demo", "demo"), ("worker", "worker"), ("model list", "worker"), ("up", "demo")]
)
def test_a_missing_extra_is_a_sentence(installed: Installed, command: str, extra: str) -> None:
    done = installed.run("rt-embed", *command.split())
    assert done.returncode in {1, 2}
    (line,) = done.stderr.splitlines()
    assert line.startswith("rt-embed ")
    assert f"pip install 'rt-embed[{extra}]'" in line


def test_a_gateway_runs_without_extras(installed: Installed, valkey: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    environment = {
        "BACKEND_PORT": str(port), "REDIS_URL": f"redis://127.0.0.1:{valkey.port}/4",
        "ASSET_STORAGE_DIR": str(tmp_path), "RTEMBED_HOST": "127.0.0.1", "PATH": os.environ["PATH"],
    }  # fmt: skip
    command = [str(installed.folder / "bin" / "rt-embed"), "gateway"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        ask = ("rt-embed", "server-health-check", "--liveness", "--backend", f"127.0.0.1:{port}")
        for _ in range(50):
            done = installed.run(*ask)
            if done.returncode == 0:
                break
        assert done.returncode == 0, done.stderr
    finally:
        process.terminate()
        process.wait(20)


def test_googles_proto_works_beside_it(installed: Installed) -> None:
    program = (
        "import proto, rt_embed, shared.messages.nv_pb2 as nv\n"
        "class Film(proto.Message):\n"
        "    name = proto.Field(proto.STRING, number=1)\n"
        "print(Film.deserialize(Film.serialize(Film(name='a'))).name, nv.VisionLLM().version == '')\n"
        "print(rt_embed.Client.__name__)"
    )
    done = installed.run("python", "-c", program)
    assert done.stdout.split() == ["a", "True", "Client"], done.stderr


def test_an_application_may_have_modules_of_our_names(
    installed: Installed, service: Stack, tmp_path: Path
) -> None:
    """With `pip install rt-embed` alone, so also without NumPy."""
    for name in ("shared", "gateway", "worker", "search"):
        (tmp_path / f"{name}.py").write_text(f"MEANING = 'the {name} of the application'\n")
    (tmp_path / "application.py").write_text(
        "import gateway, shared, worker\n"
        "from rt_embed import Client\n"
        "with Client() as client:\n"
        "    (vector,) = client.embed_texts(['a cat'])\n"
        "print(type(vector).__name__, len(vector))\n"
        "print(shared.MEANING, gateway.MEANING, worker.MEANING, sep='\\n')\n"
    )
    done = installed.run("python", "application.py", cwd=tmp_path, RTVI_BACKEND=service.url)
    own = [f"the {name} of the application" for name in ("shared", "gateway", "worker")]
    assert done.stdout.splitlines() == ["array 768", *own], done.stderr
    text = installed.run("rt-embed", "text", "a cat", "--json", cwd=tmp_path, RTVI_BACKEND=service.url)
    assert len(json.loads(text.stdout)[0]["vector"]) == 768, text.stderr


def test_the_client_is_typed_for_applications(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text(
        "from rt_embed import AsyncClient, Client, ServiceError, VideoChunk\n\n\n"
        "def starts(client: Client) -> list[float]:\n"
        "    return [chunk.start for chunk in client.embed_video('film.mp4', chunk_duration=10)]\n\n\n"
        "async def first(client: AsyncClient) -> VideoChunk:\n"
        "    return await anext(client.embed_video('film.mp4'))\n\n\n"
        "def code(error: ServiceError) -> int:\n"
        "    return error.code\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(installed.python)]
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), "--config-file", os.devnull, "application.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(found) == 1, done.stdout
    assert 'application.py:13: error: Incompatible return value type (got "str", expected "int")' in found[0]
