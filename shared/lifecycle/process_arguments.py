"""The arguments of `python -m gateway`, `python -m worker` and `python -m search`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shared.errors import SettingsError

BAD_SETTING = 2


def take_arguments(name: str, arguments: Sequence[str], internal: dict[str, int]) -> None:
    """Set what the file of `--config FILE` has and the environment has not.

    `internal` arguments, each with the number of its values, are for a process that this service starts. Ends
    this process with status 2 if another argument is given or the file is wrong.
    """
    if not arguments:
        return  # argparse and what reads files are not loaded, then
    parser = argparse.ArgumentParser(
        prog=f"rt-embed {name}",
        description="Every setting is an environment variable: see deploy/settings.md.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="settings in a file, NAME=value on a line or TOML (NAME.toml); the environment wins over them",
    )
    for argument, values in internal.items():
        parser.add_argument(
            argument, help=argparse.SUPPRESS, **({"nargs": values} if values else {"action": "store_true"})
        )
    given = parser.parse_args(arguments)
    if given.config is None:
        return
    from shared.settings.settings_file import apply_settings_file  # noqa: PLC0415 - where it is wanted

    try:
        apply_settings_file(given.config)
    except SettingsError as error:
        print(f"rt-embed {name}: {error}", file=sys.stderr)
        sys.exit(BAD_SETTING)
