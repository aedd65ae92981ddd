"""Which model runs, where it comes from, and on what it runs."""

import dataclasses
from pathlib import Path

from shared.settings.setting_types import (
    BOOLEAN,
    HTTP_URL,
    PATH,
    TEXT,
    SettingType,
    choice,
    listed,
    matching,
    number,
    setting,
    whole,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Models and GPUs"""

    model_path: str = setting(
        "MODEL_PATH",
        TEXT,
        "git:https://huggingface.co/nvidia/Cosmos-Embed1-448p",
        "Model: git:URL, ngc:ORG/TEAM/MODEL:VERSION, a folder, or demo (the small demonstration model)",
    )
    model_aliases: tuple[str, ...] = setting(
        "RTEMBED_MODEL_ALIASES",
        listed(","),
        (),
        "Names, separated by commas, by which requests may name the loaded model beside its id, for example "
        "cosmos-embed1-448p; NAME=ID where workers serve several models, else the one that was loaded first",
    )
    remote_endpoint: str | None = setting(
        "REMOTE_EMBED_ENDPOINT",
        HTTP_URL,
        None,
        "Base address of a Cosmos-Embed1 NIM that runs the model instead of the workers; or, for texts "
        "alone, of any server of OpenAI's /v1/embeddings",
    )
    remote_model: str = setting(
        "REMOTE_EMBED_ENDPOINT_MODEL_NAME",
        TEXT,
        "nvidia/cosmos-embed1",
        "Name of the remote model, as it is sent and as /v1/models shows it",
    )
    remote_api_key: str = setting(
        "REMOTE_EMBED_ENDPOINT_API_KEY", TEXT, "", "Bearer token for the remote model", secret=True
    )
    remote_timeout: float = setting(
        "REMOTE_EMBED_ENDPOINT_TIMEOUT_SEC",
        number(0.1, 3600),
        300.0,
        "Seconds for one call to the remote model",
    )
    remote_batch_size: int = setting(
        "REMOTE_EMBED_ENDPOINT_BATCH_SIZE", whole(1, 2048), 64, "Most texts in one call to the remote model"
    )
    remote_calls: int = setting(
        "RTEMBED_REMOTE_CALLS",
        whole(1, 256),
        8,
        "Calls to the remote model that run at a time in one worker, each of clips and of texts",
    )
    remote_patience: float = setting(
        "RTEMBED_REMOTE_PATIENCE",
        number(0, 3600),
        60.0,
        "Seconds for which a call is repeated while the remote model does not answer, or answers 429, 502, "
        "503 or 504; then the request ends with 503",
    )
    model_implementation: Path | None = setting(
        "MODEL_IMPLEMENTATION_PATH", PATH, None, "Folder with an inference.py that brings its own model"
    )
    model_repository_script: Path | None = setting(
        "MODEL_REPOSITORY_SCRIPT_PATH",
        PATH,
        None,
        "Python script that is run before a model in Python is made, with --model_path, --triton_repo_path "
        "and --max_batch_size",
    )
    script_timeout: float = setting(
        "RTEMBED_SCRIPT_TIMEOUT",
        number(1, 86_400),
        600.0,
        "Seconds that MODEL_REPOSITORY_SCRIPT_PATH and a model's install_prerequisites.sh may each take",
    )
    skip_warmup: bool = setting(
        "SKIP_PIPELINE_WARMUP", BOOLEAN, False, "Do not call the warmup() of a model in Python"
    )
    precision: str = setting(
        "COSMOS_EMBED1_TRT_PRECISION",
        choice("fp32", "fp16", "bf16", "int8", "fp8", "best"),
        "fp16",
        "Precision of the converted model on a GPU: fp32, fp16 or bf16; a CPU always takes fp32. "
        "int8, fp8 and best are refused when the model is converted",
    )
    allow_unverified_model: bool = setting(
        "RTEMBED_ALLOW_UNVERIFIED_MODEL",
        BOOLEAN,
        False,
        "Serve a converted checkpoint although its vectors were not compared with those of its own code",
    )
    hf_token: str | None = setting(
        "HF_TOKEN",
        TEXT,
        None,
        "Token of the Hugging Face hub, for private models and rate limits",
        secret=True,
    )
    hf_endpoint: str = setting(
        "HF_ENDPOINT",
        SettingType(matching(r"https?://.+"), "an http or https URL"),
        "https://huggingface.co",
        "Address of the Hugging Face hub or of a mirror",
    )
    ngc_api_key: str | None = setting("NGC_API_KEY", TEXT, None, "Key for models on NVIDIA NGC", secret=True)
    model_cache: Path = setting(
        "NGC_MODEL_CACHE",
        PATH,
        Path("~/.cache/rt-embed/models").expanduser(),
        "Folder where downloaded and converted models are kept",
    )
    engine_threads: int = setting(
        "RTEMBED_ENGINE_THREADS", whole(0, 1024), 0, "Threads of the CPU engine; 0: one per core"
    )

    backend: str = setting(
        "RTEMBED_BACKEND",
        choice("auto", "cpu", "cuda"),
        "auto",
        "auto: NVIDIA GPUs where there are any and the extra [gpu] is installed, else the CPU; cuda: no "
        "start without a GPU",
    )
    nvidia_devices: str = setting(
        "NVIDIA_VISIBLE_DEVICES",
        TEXT,
        "all",
        "all, none, or the numbers or UUIDs of the GPUs that workers of this host may use; separated by ,",
    )
    cuda_devices: str = setting(
        "CUDA_VISIBLE_DEVICES",
        TEXT,
        "all",
        "As NVIDIA_VISIBLE_DEVICES; both must allow a GPU. Empty: none",
        empty=True,
    )
    gpus: int | None = setting(
        "NUM_GPUS", whole(1, 1024), None, "GPUs to use, the first of those allowed; unset: all of them"
    )
    gpus_per_worker: int = setting(
        "NUM_GPUS_PER_VLM_PROC",
        whole(1, 64),
        1,
        "GPUs that each worker process sees. TensorRT uses the first; a model in Python may use them all",
    )
    tensorrt: str = setting(
        "RTEMBED_TENSORRT",
        choice("auto", "tensorrt", "tensorrt_rtx"),
        "auto",
        "Which TensorRT builds and runs engines; auto: tensorrt, or tensorrt_rtx (TensorRT for RTX) if that "
        "alone is installed",
    )
    text_graphs: bool = setting(
        "RTEMBED_TEXT_GRAPHS",
        BOOLEAN,
        True,
        "On a GPU, run batches of up to 8 texts as CUDA graphs, which are captured and compared with a plain "
        "run at the start; see deploy/gpu.md",
    )
    builder_arguments: str = setting(
        "COSMOS_EMBED1_TRT_EXTRA_ARGS",
        TEXT,
        "",
        "Arguments of TensorRT's builder in the manner of trtexec, quoted as in a shell; see deploy/gpu.md",
    )
