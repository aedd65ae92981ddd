import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ModelError
from worker.engine import library
from worker.engine.library import provide_tensorrt

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install(name, source) puts a module where it is found; TensorRT has names of its own here."""
    names = {"tensorrt": ("made_trt",), "tensorrt_rtx": ("made_rtx", "made_rtx_bindings")}
    monkeypatch.setattr(library, "MODULES", names)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("tensorrt", "made_trt", "made_rtx", "made_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, sys)
        del sys.modules[name]

    def write(name: str, source: str = "") -> None:
        (tmp_path / f"{name}.py").write_text(source)

    return write


def provided() -> str:
    import tensorrt

    return tensorrt.__name__


def test_tensorrt_itself_is_preferred(install: Install) -> None:
    install("made_trt")
    install("made_rtx")
    assert provide_tensorrt("auto") == "tensorrt"
    assert provided() == "made_trt"
    assert provide_tensorrt("tensorrt_rtx") == "tensorrt_rtx"
    assert provided() == "made_rtx"


def test_the_only_one_that_is_installed_is_taken(install: Install) -> None:
    install("made_rtx_bindings")
    assert provide_tensorrt("auto") == "tensorrt_rtx"
    assert provided() == "made_rtx_bindings"
    assert provide_tensorrt("auto") == "tensorrt_rtx"


def test_one_that_cannot_be_imported_is_passed_over_unless_it_was_asked_for(install: Install) -> None:
    install("made_trt", "raise ImportError('libnvinfer.so.11')")
    with pytest.raises(ModelError, match=r"made_trt cannot be imported: libnvinfer\.so\.11"):
        provide_tensorrt("auto")
    install("made_rtx")
    assert provide_tensorrt("auto") == "tensorrt_rtx"
    with pytest.raises(ModelError, match="made_trt cannot be imported"):
        provide_tensorrt("tensorrt")


@pytest.mark.usefixtures("install")
def test_none_is_installed() -> None:
    with pytest.raises(ModelError, match="tensorrt and tensorrt_rtx not installed; RTEMBED_TENSORRT=auto"):
        provide_tensorrt("auto")
    with pytest.raises(ModelError, match="tensorrt_rtx not installed; RTEMBED_TENSORRT=tensorrt_rtx"):
        provide_tensorrt("tensorrt_rtx")
