"""The modules that a model written for RT-Embed imports: `models.base_vlm_model`, `common.chunk_info` and
`common.logger`. They exist only while such a model is imported and created."""

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import msgspec

from worker.models.base import Frames, InputConfig, ModelChunk

LOGGER = "custom_model"


class VlmGenerationConfig(msgspec.Struct):
    """Options for a model that generates text. Always empty here."""

    temperature: float | None = None
    max_new_tokens: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None


class VlmModelOutput(msgspec.Struct):
    """The output for one chunk, with RT-Embed's order of fields. `embeddings` is the vector."""

    output: str = ""
    embeddings: object = None
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_description: str = ""


class BaseVlmModel(ABC):
    """The base class of a model written for RT-Embed. A subclass must implement `generate`."""

    def __init__(self, model_path: str = "", max_batch_size: int | None = None, **kwargs: object) -> None:
        self.model_path = model_path
        self._max_batch_size = max_batch_size
        self._initialize_model(**kwargs)

    def _initialize_model(self, **kwargs: object) -> None:  # noqa: B027 - a subclass may leave it out
        """Load the model. Called once, by the constructor."""

    def _shutdown_model(self) -> None:  # noqa: B027 - a subclass may leave it out
        """Release the model. Called once, when the worker ends."""

    @property
    def model_name(self) -> str:
        """The name in logs."""
        return type(self).__name__

    @abstractmethod
    def generate(
        self,
        query: str,
        chunks: Sequence[ModelChunk],
        video_frames: Sequence[Frames],
        video_frames_times: Sequence[Sequence[float]],
        generation_config: VlmGenerationConfig,
        **kwargs: object,
    ) -> Sequence[VlmModelOutput] | Future[Sequence[VlmModelOutput]]:
        """Return one output per chunk, in order, or a future of them."""

    def can_batch(self, first: ModelChunk, second: ModelChunk) -> bool:
        """Return whether two chunks may share a call."""
        return False

    def can_enqueue_requests(self) -> bool:
        """Return whether the model takes a call now."""
        return True

    def warmup(self) -> None:  # noqa: B027 - a subclass may leave it out
        """Called once before the first request."""

    @staticmethod
    def get_model_info(model_path: str, vlm_model_type: str) -> tuple[str, str, str]:
        """Return (id, api_type, owner) as the API shows them."""
        return model_path.rstrip("/").rsplit("/", 1)[-1], "internal", "custom"

    @staticmethod
    def get_input_config(model_path: str, vlm_model_type: str) -> InputConfig:
        """Return the input that the model expects."""
        return InputConfig()


CONTENTS: dict[str, dict[str, object]] = {
    "models": {},
    "models.base_vlm_model": {
        "BaseVlmModel": BaseVlmModel,
        "InputConfig": InputConfig,
        "VlmGenerationConfig": VlmGenerationConfig,
        "VlmModelOutput": VlmModelOutput,
    },
    "common": {},
    "common.chunk_info": {"ChunkInfo": ModelChunk},
    "common.logger": {"logger": logging.getLogger(LOGGER)},
}
"""The contents of each module; one without contents is a package."""


class OriginalModules(MetaPathFinder, Loader):
    """Provides the modules of `CONTENTS` that nothing else on the path provides."""

    def __init__(self) -> None:
        self.given: list[str] = []
        """The names of the modules that were imported."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the module's spec if it is one of ours."""
        contents = CONTENTS.get(fullname)
        return None if contents is None else ModuleSpec(fullname, self, is_package=not contents)

    def exec_module(self, module: ModuleType) -> None:
        """Fill it."""
        vars(module).update(CONTENTS[module.__name__])
        self.given.append(module.__name__)


@contextmanager
def original_modules() -> Iterator[OriginalModules]:
    """Make the modules importable; remove them from `sys.modules` at the end."""
    finder = OriginalModules()
    sys.meta_path.append(finder)  # last: a folder's own `models` or `common` takes precedence
    try:
        yield finder
    finally:
        sys.meta_path.remove(finder)
        for name in finder.given:
            sys.modules.pop(name, None)
