"""The demonstration model, made once for all tests of the worker."""

from collections.abc import Iterator

import pytest

from worker.engine.onnx import OnnxEngine
from worker.models.conse.recipe import build
from worker.models.directory import ModelDirectory


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    """The directory of the demonstration model."""
    return build(tmp_path_factory.mktemp("models") / "demo")


@pytest.fixture(scope="session")
def demo_engine(demo_model: ModelDirectory) -> Iterator[OnnxEngine]:
    """An engine that runs it."""
    engine = OnnxEngine(demo_model, 2)
    yield engine
    engine.close()
