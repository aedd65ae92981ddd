"""Files of the server that clients may name: those in the folders that the operator lists."""

import os
from collections.abc import Iterable
from pathlib import Path

from shared.errors import Forbidden, MissingFile


def find_server_file(named: str, folders: Iterable[str]) -> Path:
    """Return the real path of a regular file in one of the `folders`. Blocks.

    Raises Forbidden for every other place, without looking at it, so that neither answer nor timing tells a
    client what exists. Raises MissingFile for anything but a regular file.
    """
    listed = [Path(os.path.normpath(folder)) for folder in folders]
    real = [Path(os.path.realpath(folder)) for folder in listed]
    plain = Path(os.path.normpath(named))  # noqa: PTH - Path would leave ".." where it is
    if not plain.is_absolute() or not any(plain.is_relative_to(folder) for folder in (*listed, *real)):
        raise Forbidden(f"{named[:256]} is not in a folder that clients may name")
    path = Path(os.path.realpath(named))
    if not any(path.is_relative_to(folder) for folder in real):
        raise Forbidden(f"{named[:256]} is not in a folder that clients may name")
    if not path.is_file():
        raise MissingFile(f"{named[:256]} is not an existing regular file")
    return path
