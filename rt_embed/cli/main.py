"""`rt-embed`: one command whose sub-commands are modules that also run with `python -m`."""

import os
import sys
from importlib.metadata import version

COMMANDS = {
    "up": ("rt_embed.cli.up", "start everything on this machine: Valkey, a gateway and workers"),
    "demo": ("rt_embed.cli.demo", "start everything, embed a film and search it by text"),
    "gateway": ("gateway", "run one gateway"),
    "worker": ("worker", "run one worker"),
    "inspect": ("rt_embed.cli.inspect", "see the queues, requests, messages and dead letters"),
    "model": ("worker.models", "prepare, verify, inspect and list models"),
}


def main() -> None:
    """Become the module of the sub-command, so that signals reach it directly."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):
        print("rt-embed", version("rt-embed"))
        return
    if not arguments or arguments[0] not in COMMANDS:
        asked = not arguments or arguments[0] in {"-h", "--help", "help"}
        print(usage(), file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    module, _ = COMMANDS[arguments[0]]
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments[1:]])  # noqa: S606 - no shell is wanted


def usage() -> str:
    """The list of sub-commands."""
    lines = ["usage: rt-embed COMMAND [--help] ...", ""]
    lines += [f"  {name:10} {meaning}" for name, (_, meaning) in COMMANDS.items()]
    return "\n".join(lines)
