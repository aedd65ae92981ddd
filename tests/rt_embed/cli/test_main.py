import os
import re
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from rt_embed.cli import main
from rt_embed.cli.main import MODULES, PANELS, app, run

ROOT = Path(__file__).parents[3]
SETTINGS_ONLY = {"PATH": "/usr/bin:/bin", "COLUMNS": "100"}


def rt_embed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`rt-embed` as its entry point starts it."""
    command = [sys.executable, "-c", "from rt_embed.cli.main import main; main()", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
        env=SETTINGS_ONLY | environment,
    )  # fmt: skip


def every_command() -> list[list[str]]:
    """All sub-commands and theirs, as words."""

    def below(command: Any, words: list[str]) -> list[list[str]]:
        names = command.list_commands(None) if hasattr(command, "list_commands") else []
        inner = [below(command.get_command(None, name), [*words, name]) for name in names]
        return [words, *(found for group in inner for found in group)]

    return below(get_command(app), [])


def test_the_command_is_installed() -> None:
    (found,) = [e for e in entry_points(group="console_scripts") if e.name == "rt-embed"]
    assert found.value == "rt_embed.cli.main:main"


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_command(arguments: tuple[str, ...]) -> None:
    done = rt_embed(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^│ (\w[\w-]*) ", done.stdout, re.MULTILINE) == list(MODULES)
    assert [panel for panel in PANELS if f"─ {panel} ─" in done.stdout] == list(PANELS)


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert " ".join(["Usage: rt-embed", *words]) in " ".join(shown.split())
    assert "--verbose" in shown


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_an_option_that_nobody_knows_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--xyzzy"]) == 2
    name = " ".join(["rt-embed", *words])
    assert capsys.readouterr().err == f"{name}: No such option: --xyzzy. Try '{name} --help'.\n"


def test_a_wrong_word_is_refused_in_one_line() -> None:
    done = rt_embed("serve")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rt-embed: No such command 'serve'. Try 'rt-embed --help'.\n"


def test_a_word_that_is_nearly_right_is_guessed() -> None:
    assert "Did you mean 'inspect'?" in rt_embed("inspekt").stderr


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version(flag: str) -> None:
    done = rt_embed(flag)
    assert (done.returncode, done.stdout) == (0, f"rt-embed {version('rt-embed')}\n")


@pytest.mark.parametrize("command", ["gateway", "worker", "up", "demo"])
def test_a_bad_setting_is_said_in_one_line(command: str) -> None:
    done = rt_embed(command, BACKEND_PORT="none")
    expected = f"rt-embed {command}: BACKEND_PORT='none': must be a whole number from 0 to 65535\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_options_of_a_process_become_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda _, argv, environment: became.append((argv, environment)))
    assert run(["gateway", "--port", "9999", "--host", "127.0.0.1"]) == 0
    assert run(["worker", "-v", "--model-path", "demo"]) == 0
    (gateway, its), (worker, theirs) = became
    assert gateway[1:] == ["-P", "-m", "gateway"]
    assert (its["BACKEND_PORT"], its["RTEMBED_HOST"]) == ("9999", "127.0.0.1")
    assert worker[1:] == ["-P", "-m", "worker"]
    assert (theirs["MODEL_PATH"], theirs["LOG_LEVEL"]) == ("demo", "debug")


def test_more_is_said_of_an_error_when_it_is_wanted() -> None:
    done = rt_embed("-v", "inspect", REDIS_URL="redis://127.0.0.1:1")
    assert done.returncode == 6
    assert "Traceback" in done.stderr
    done = rt_embed("inspect", "lanes", REDIS_URL="redis://127.0.0.1:1")
    assert len(done.stderr.splitlines()) == 1


def test_the_shell_completes_commands_and_options() -> None:
    bash = {"_RT_EMBED_COMPLETE": "complete_bash"}
    assert rt_embed(COMP_WORDS="rt-embed ins", COMP_CWORD="1", **bash).stdout.split() == ["inspect"]
    done = rt_embed(COMP_WORDS="rt-embed up --wor", COMP_CWORD="2", **bash)
    assert done.stdout.split() == ["--workers"]


def test_completion_can_be_installed(tmp_path: Path) -> None:
    done = rt_embed(
        "--install-completion", "bash", HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert done.returncode == 0, done.stderr
    assert "rt-embed" in (tmp_path / ".bashrc").read_text() or list(tmp_path.rglob("rt-embed*"))


def test_without_an_extra_a_sentence_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(main.MODULES, "model", "no_such_package.command")
    assert run(["model", "list"]) == 1
    expected = "rt-embed model: needs the extra [worker] (no_such_package is not installed): "
    assert capsys.readouterr().err.startswith(expected + "pip install 'rt-embed[worker]'")
    assert run(["model", "--help"]) == 0
    assert "pip install 'rt-embed[worker]'" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("command", "extra"), [("demo", "demo"), ("worker", "worker"), ("indexer", "search")]
)
def test_a_command_names_the_extra_that_it_needs(
    command: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rt_embed.cli.terminal.find_spec", lambda name: None)
    assert run([command]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"rt-embed {command}: needs the extra [{extra}] (")
    assert said.endswith(f"pip install 'rt-embed[{extra}]'\n")


def test_commands_are_imported_only_when_they_are_used() -> None:
    code = (
        "import sys; from rt_embed.cli.main import run; run(['--version']); "
        "print(sorted({'redis', 'httpx', 'av', 'numpy', 'uvicorn', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"
