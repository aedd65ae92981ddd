"""An optional base class for your own model. Any class with a suitable `generate` works, too."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8] | list[bytes]


class InputConfig(msgspec.Struct):
    """What `get_input_config` may set. `width` and `height` in pixels, 0 for 448."""

    num_frames: int = 8
    use_jpeg_encoding: bool = False
    width: int = 0
    height: int = 0
    embed_dim: int = 0


class ModelChunk(msgspec.Struct):
    """One thing to embed: a clip (`chunk_type` "video") or a text (`chunk_type` "text").

    The other fields say which part of which video a clip is, under the names of RT-Embed's `ChunkInfo`:
    times are in ns from the start of the stream, `streamId` is the id of the file or camera, and `file` its
    path. The first clip, which finds the model's dimension, has none of them. `is_last`, the NTP times,
    `asset_dir` and `cv_metadata_json_file` are never set.
    """

    chunk_type: Literal["video", "text"] = "video"
    text_input: str = ""
    streamId: str = ""  # noqa: N815 - RT-Embed's name
    chunkIdx: int = 0  # noqa: N815 - RT-Embed's name
    file: str = ""
    pts_offset_ns: int = 0
    start_pts: int = 0
    end_pts: int = 0
    start_ntp: str = ""
    end_ntp: str = ""
    start_ntp_float: float = 0.0
    end_ntp_float: float = 0.0
    is_first: bool = False
    is_last: bool = False
    cv_metadata_json_file: str = ""
    asset_dir: str = ""

    def get_timestamp(self, frame_pts: float) -> str:
        """Return a frame's time, `frame_pts` seconds from the start of the stream, as text."""
        return f"{frame_pts + self.pts_offset_ns / 1e9:.3f}"


class ModelOutput(msgspec.Struct):
    """The output for one chunk. `embeddings` is the vector, any one-dimensional sequence of floats."""

    embeddings: Sequence[float] | NDArray[np.float32]
    output: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_description: str = ""


class EmbeddingModel:
    """A model in Python, as `inference.py` of MODEL_IMPLEMENTATION_PATH provides it.

    A subclass must implement `generate`, and may define `embed_dim` (an int; by default a first clip
    determines it), `supports_text` (a bool; by default a first text determines it), `can_batch(first,
    second)` (without it every chunk is a separate call), `can_enqueue_requests()` (False while busy) and
    `warmup()`.
    """

    def __init__(self, model_path: str, max_batch_size: int | None = None, **kwargs: object) -> None:
        self.model_path = model_path
        self.max_batch_size = max_batch_size
        self._initialize_model(**kwargs)

    def _initialize_model(self, **kwargs: object) -> None:
        """Load the model. Called once, by the constructor."""

    def _shutdown_model(self) -> None:
        """Release the model. Called once, when the worker ends."""

    @property
    def model_name(self) -> str:
        """The name in logs."""
        return type(self).__name__

    def generate(
        self,
        query: str,
        chunks: Sequence[ModelChunk],
        video_frames: Sequence[Frames],
        video_frames_times: Sequence[Sequence[float]],
        generation_config: dict[str, object],
        **kwargs: object,
    ) -> Sequence[ModelOutput] | Future[Sequence[ModelOutput]]:
        """Return one output per chunk, in order. All chunks of a call have the same `chunk_type`.

        `video_frames[i]` is a NumPy array, uint8 [frames, height, width, 3] in RGB (where NVIDIA's service
        passes a PyTorch tensor: use `torch.from_numpy`), read-only and not always contiguous; or a list
        of JPEG files as bytes if `get_input_config` sets `use_jpeg_encoding`. It is empty for texts.
        `video_frames_times[i]` holds the frames' times in seconds from the start of the stream. `query` and
        `generation_config` are always empty: they are for models that generate text.
        """
        raise NotImplementedError

    @staticmethod
    def get_model_info(model_path: str, model_type: str) -> tuple[str, str, str]:
        """Return (id, api_type, owner) as the API shows them."""
        return model_path.rstrip("/").rsplit("/", 1)[-1], "internal", "custom"

    @staticmethod
    def get_input_config(model_path: str, model_type: str) -> dict[str, object]:
        """Return the expected input. Frames are square: `width` and `height` are equal, or 0 for 448."""
        return {"num_frames": 8, "use_jpeg_encoding": False, "width": 0, "height": 0}
