"""Films for the tests of this folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.media.films import FILMS, make


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a film by its name; each is made once."""
    folder = tmp_path_factory.mktemp("films")
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in made:
            made[name] = make(folder / f"{name}.{FILMS[name].suffix}", FILMS[name])
        return made[name]

    return find
