"""What the documents for operators tell people to type exists."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from rt_embed.cli.main import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "deploy").glob("*.md"))]
CODE = re.compile(r"`([^`\n]+)`|^ {4,}([^\n]+)$", re.MULTILINE)
SERVICES = {
    name
    for file in ("compose.yaml", "compose.gpu.yaml")
    for name in yaml.safe_load((ROOT / "deploy" / file).read_text())["services"]
}


def commands(path: Path) -> list[str]:
    """What stands in code, without comments, one command each."""
    text = path.read_text().replace("\\\n", " ")
    lines = [inline or block for inline, block in CODE.findall(text)]
    return [part.strip() for line in lines for part in re.split(r" # | \| |&&|;", line)]


def unknown(words: list[str]) -> str:
    """The first word or option that the command line does not know; empty if it knows them all."""
    command: Any = get_command(app)
    while words and not words[0].startswith("-") and hasattr(command, "get_command"):
        if not re.fullmatch(r"[a-z][a-z-]*", words[0]):
            return ""
        inner = command.get_command(None, words[0])
        if inner is None:
            return words[0]
        command, words = inner, words[1:]
    options = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
    return next((w for w in words if re.match(r"--?[a-z]", w) and w.partition("=")[0] not in options), "")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_a_document_exist(path: Path) -> None:
    for command in commands(path):
        found = re.search(r"(?<!-n )(?:^|(?<=[ \[]))rt-embed ([a-z-].*)", command)
        if not found:
            continue
        words = (
            shlex.split(found[1].split("`")[0].replace("'", "")) if '"' not in found[1] else found[1].split()
        )
        words = [word.strip("[].,:)(") for word in words if word not in {"...", "\\"}]
        assert not unknown(words), f"{path.name}: {command}: {unknown(words)}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_services_and_scripts_of_a_document_exist(path: Path) -> None:
    for command in commands(path):
        compose = re.search(
            r"docker compose .*?\b(?:exec|ps|logs|restart|run)((?: --?\S+)*(?: \S+:\S+)?) ([a-z-]+)", command
        )
        if compose:
            assert compose[2] in SERVICES, command
        for script in re.findall(r"(?:^|\s)(scripts/[a-z-]+)\b(?!\.)", command):
            assert (ROOT / script).exists(), command
