import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

WriteFolder = Callable[[str], Path]
ClipsOf = Callable[[list[tuple[int, int, int]]], NDArray[np.uint8]]


@pytest.fixture
def folder(tmp_path: Path) -> WriteFolder:
    """Writes an `inference.py`; its folder."""

    def write(source: str) -> Path:
        (tmp_path / "inference.py").write_text(textwrap.dedent(source))
        return tmp_path

    return write


@pytest.fixture
def clips_of() -> ClipsOf:
    """Clips of two frames of 4 x 4 pixels, each of one colour."""

    def make(colours: list[tuple[int, int, int]]) -> NDArray[np.uint8]:
        clips = np.zeros((len(colours), 2, 3, 4, 4), np.uint8)
        clips[:] = np.array(colours, np.uint8)[:, None, :, None, None]
        return clips

    return make
