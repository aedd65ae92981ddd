import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from rt_embed.cli.main import COMMANDS, usage

ROOT = Path(__file__).parents[3]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`rt-embed` as its entry point starts it."""
    command = [sys.executable, "-c", "from rt_embed.cli.main import main; main()", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env=environment or None
    )


def test_the_command_is_installed() -> None:
    (found,) = [e for e in entry_points(group="console_scripts") if e.name == "rt-embed"]
    assert found.value == "rt_embed.cli.main:main"


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_command(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, usage() + "\n", "")
    listed = [line.split()[0] for line in done.stdout.splitlines()[2:]]
    assert listed == list(COMMANDS)


def test_another_word_is_refused() -> None:
    done = run("serve")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: rt-embed COMMAND")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version(flag: str) -> None:
    done = run(flag)
    assert (done.returncode, done.stdout) == (0, f"rt-embed {version('rt-embed')}\n")


@pytest.mark.parametrize("command", ["gateway", "worker", "up", "demo"])
def test_a_command_becomes_its_module_and_its_status_is_passed_on(command: str) -> None:
    done = run(command, BACKEND_PORT="none", PATH="/usr/bin:/bin")
    assert done.returncode in {1, 2}
    assert f"rt-embed {command}: BACKEND_PORT='none': must be a whole number" in (done.stdout + done.stderr)


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_commands_own_help(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: rt-embed {command}")
