"""Loads a model in Python and makes its engine."""

from pathlib import Path

import structlog

from shared.errors import ModelError, RtEmbedError
from worker.engine.custom.inference_module import (
    MODEL_TYPE,
    find_model_class,
    import_inference,
    input_config,
    model_identity,
    size_of,
)
from worker.engine.custom.model_scripts import install_prerequisites
from worker.engine.custom.original_modules import original_modules
from worker.engine.custom.python_engine import PythonEngine, wants_tensors
from worker.models.directory import ModelInfo

log = structlog.get_logger(__name__)


def load_python_model(
    implementation: Path, model_path: str, max_batch_size: int, *, warm_up: bool = True, patience: float = 600
) -> tuple[ModelInfo, "PythonEngine"]:
    """Create the model that `implementation`/inference.py defines, and find out what it does not declare.

    The class is named Model, VlmModel, CustomModel or Inference, or is the first class there that has a
    `generate` (see `worker.models.base` for the contract). `patience`: seconds that
    `install_prerequisites.sh` may take. Raises ModelError.
    """
    install_prerequisites(implementation, patience)
    with original_modules() as originals:
        kind = find_model_class(import_inference(implementation))
        try:
            name, api_type, owner = model_identity(kind, model_path)
            config = input_config(kind, model_path)
            model = kind(
                model_path, max_batch_size=max_batch_size, async_output=True, vlm_model_type=MODEL_TYPE
            )
        except RtEmbedError:
            raise
        except Exception as error:
            raise ModelError(f"{kind.__name__} in {implementation} did not start: {error!r}") from error
    if originals.given:
        log.info("the model is written for RT-Embed", modules=originals.given, tensors=wants_tensors(model))
    engine = PythonEngine(model, config, max_batch_size)
    engine.learn()
    if warm_up:
        engine.warm_up()
    info = ModelInfo(
        id=name,
        architecture="python",
        dimension=engine.dimension,
        frames=config.num_frames,
        resolution=size_of(config),
        max_text_tokens=0,
        owned_by=owner,
        api_type=api_type,
        source=str(implementation),
    )
    return info, engine
