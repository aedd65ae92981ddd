"""A model directory: `model.json`, `video.onnx`, `text.onnx`, `tokenizer.json`. All that a worker loads."""

from pathlib import Path

import msgspec

from shared.errors import ModelError

MODEL_JSON = "model.json"


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of `model.json`.

    `video.onnx` takes `videos` uint8 [B, frames, 3, resolution, resolution] in RGB and gives
    `video_embeddings` float32 [B, dimension]; `text.onnx` takes `input_ids` and `attention_mask` int64
    [B, S] and gives `text_embeddings` float32 [B, dimension]. Both outputs have unit length.
    """

    id: str
    architecture: str
    dimension: int
    frames: int
    resolution: int
    max_text_tokens: int
    owned_by: str = "nvidia"
    api_type: str = "custom"
    source: str = ""
    revision: str = ""
    precision: str = "fp32"
    verified: bool = False
    """Whether the vectors have been compared with an independent implementation's."""
    details: dict[str, str | float | int | bool] = {}
    """How it was made and what the verification found, for people."""


class ModelDirectory(msgspec.Struct, frozen=True):
    """A loaded `model.json` and its folder."""

    path: Path
    info: ModelInfo

    @property
    def video(self) -> Path:
        return self.path / "video.onnx"

    @property
    def text(self) -> Path | None:
        """None for a model that embeds no text."""
        path = self.path / "text.onnx"
        return path if path.exists() else None

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"


def load_model_directory(path: Path) -> ModelDirectory:
    """Read and check a model directory. Raises ModelError naming what is missing or wrong."""
    try:
        info = msgspec.json.decode((path / MODEL_JSON).read_bytes(), type=ModelInfo)
    except FileNotFoundError as error:
        raise ModelError(f"{path} is not a model directory: it has no {MODEL_JSON}") from error
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path / MODEL_JSON} is not valid: {error}") from error
    model = ModelDirectory(path, info)
    if not model.video.exists():
        raise ModelError(f"{path} has no video.onnx")
    if model.text and not model.tokenizer.exists():
        raise ModelError(f"{path} has a text.onnx but no tokenizer.json")
    return model


def write_model_json(path: Path, info: ModelInfo) -> None:
    """Write `model.json`. Call this last: a directory without it is unfinished."""
    data = msgspec.json.format(msgspec.json.encode(info), indent=2)
    temporary = path / f".{MODEL_JSON}.part"
    temporary.write_bytes(data + b"\n")
    temporary.replace(path / MODEL_JSON)
