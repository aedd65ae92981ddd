"""What `inference.py` of a model in Python defines: its class, its name, its input."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import structlog

from shared.errors import ModelError
from worker.models.base import InputConfig

log = structlog.get_logger(__name__)

CLASS_NAMES = ("Model", "VlmModel", "CustomModel", "Inference")
MODEL_TYPE = "custom"
NATIVE_SIZE = 448


def inference_file(implementation: Path) -> Path:
    """Return `inference.py` of a model's folder. Raises ModelError if there is none."""
    path = implementation / "inference.py"
    if not path.exists():
        raise ModelError(f"{implementation} has no inference.py")
    return path


def import_inference(implementation: Path) -> ModuleType:
    """Import `inference.py`; modules beside it can be imported too. Raises ModelError."""
    path = inference_file(implementation)
    folder = str(implementation.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location("inference", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules["inference"] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ModelError(f"{path} cannot be imported: {error!r}") from error
    return module


def find_model_class(module: ModuleType) -> Any:
    """Return the class that `load_python_model` describes. Raises ModelError if there is none."""
    named = (getattr(module, name, None) for name in CLASS_NAMES)
    defined = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    )
    for candidate in (*named, *defined):
        if isinstance(candidate, type) and callable(getattr(candidate, "generate", None)):
            return candidate
    raise ModelError(f"{module.__file__} defines no class with a generate method")


def model_identity(kind: Any, model_path: str) -> tuple[str, str, str]:
    """Return (id, api_type, owner) from `get_model_info`; (folder name, "internal", "custom") if it fails."""
    try:
        name, api_type, owner = kind.get_model_info(model_path, MODEL_TYPE)
    except Exception as error:  # foreign code; the contract names this fallback
        log.info("get_model_info returned nothing", reason=repr(error))
        return Path(model_path).name or kind.__name__, "internal", "custom"
    return str(name), str(api_type), str(owner)


def input_config(kind: Any, model_path: str) -> InputConfig:
    """Read `get_input_config`, a mapping or an object, with the contract's defaults. Raises ModelError."""
    if not hasattr(kind, "get_input_config"):
        return InputConfig()
    given = kind.get_input_config(model_path, MODEL_TYPE)
    fields = {
        name: given.get(name) if isinstance(given, Mapping) else getattr(given, name, None)
        for name in InputConfig.__struct_fields__
    }
    known = {name: value for name, value in fields.items() if value is not None}
    try:
        config = msgspec.convert(known, InputConfig)
    except msgspec.ValidationError as error:
        raise ModelError(f"get_input_config of {kind.__name__} is not valid: {error}") from error
    if config.num_frames < 1 or size_of(config) < 1:
        raise ModelError(f"get_input_config of {kind.__name__} is not valid: {known}")
    return config


def size_of(config: InputConfig) -> int:
    """Return the edge of the square frames, px. Raises ModelError for a rectangle."""
    if config.width != config.height:
        raise ModelError(
            f"get_input_config asks for {config.width}x{config.height} frames; frames must be square"
        )
    return config.width or NATIVE_SIZE
