"""Checks of `rt-embed doctor` for a worker on this machine: its backend and its model."""

from collections.abc import Iterator
from pathlib import Path

from shared.errors import RtEmbedError
from shared.findings import Finding
from shared.settings import Settings
from worker.engine.backend import choose_backend, implementation
from worker.models.conse.conse_recipe import EFFICIENTNET, MINILM, TOKENIZER
from worker.models.conse.wheels import wheel_file
from worker.models.directory import MODEL_JSON, load_model_directory
from worker.models.sources import access_by, cached, find_model, folder_name, parse_model_path


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield findings about backend and model. Nothing is downloaded, no engine is built."""
    yield _backend(settings)
    yield _model(settings)


def _backend(settings: Settings) -> Finding:
    try:
        backend = choose_backend(settings)
    except RtEmbedError as error:
        return Finding("GPU", "wrong", error.message, "see deploy/gpu.md, or set RTEMBED_BACKEND=cpu")
    if backend.gpus:
        shown = ", ".join(f"{gpu.name} ({gpu.memory >> 20} MiB, driver {gpu.driver})" for gpu in backend.gpus)
        return Finding("GPU", "ok", shown)
    return Finding("GPU", "ok", f"not used: {backend.reason}")


def _model(settings: Settings) -> Finding:
    subject = f"model {settings.model_path}"[:200]
    try:
        if folder := implementation(settings):
            return _implementation(subject, folder)
        if settings.model_path == "demo":
            for file in (EFFICIENTNET, MINILM, TOKENIZER):
                wheel_file(file.package, file.name)
            return Finding(subject, "ok", "the demonstration model; its packages are installed")
        return _files(subject, settings)
    except RtEmbedError as error:
        return Finding(subject, "wrong", error.message, "see deploy/models.md")


def _implementation(subject: str, folder: Path) -> Finding:
    if (folder / "inference.py").is_file():
        return Finding(subject, "ok", f"a Python class in {folder}")
    return Finding(
        subject, "wrong", f"MODEL_IMPLEMENTATION_PATH={folder} holds no inference.py", "see deploy/models.md"
    )


def _files(subject: str, settings: Settings) -> Finding:
    source = parse_model_path(settings.model_path, access_by(settings))
    if not isinstance(source, Path):
        files = cached(settings.model_cache / folder_name(source))
        if files is None:
            return Finding(
                subject,
                "warning",
                f"not in {settings.model_cache} yet: the first worker downloads and converts it",
                "run rt-embed model prepare beforehand",
            )
        return Finding(subject, "ok", f"downloaded to {files.path}")
    folder = find_model(source)
    if not (folder / MODEL_JSON).exists():
        return Finding(subject, "ok", f"a checkpoint in {folder}; the first worker converts it")
    info = load_model_directory(folder).info
    if info.architecture == "cosmos-embed1" and not info.verified and not settings.allow_unverified_model:
        return Finding(
            subject, "wrong", "it was not compared with its checkpoint, so workers refuse it",
            f"run rt-embed model verify {folder}, or set RTEMBED_ALLOW_UNVERIFIED_MODEL=true",
        )  # fmt: skip
    return Finding(subject, "ok", f"{info.id}, {info.dimension} dimensions, {info.precision}")
