"""Names of variables that no setting has: misspelt ones of ours, and those of RT-Embed without effect
here."""

import difflib
from collections.abc import Collection, Iterable, Mapping

PREFIX = "RTEMBED_"
OF_OTHERS = {
    "RTEMBED_API_KEY", "RTEMBED_URL",
    "RTEMBED_GATEWAY_IMAGE", "RTEMBED_WORKER_IMAGE", "RTEMBED_PREPARE_IMAGE",
}  # fmt: skip
"""What clients, Compose files and benchmarks read."""

CAPTIONS = "it concerns captions, and this service makes none"
IPC = "frames of other processes are not taken; register the camera itself"
WITHOUT_EFFECT = {
    "DISABLE_OPTIMIZATION": "models never run in PyTorch; COSMOS_EMBED1_TRT_PRECISION chooses their types",
    "ENABLE_AUDIO": "audio is not embedded",
    "ENABLE_NSYS_PROFILER": "run the worker under nsys yourself: nsys profile rt-embed worker",
    "FORCE_PYTHON_GC": "memory is given back without it",
    "GST_ENABLE_CUSTOM_PARSER_MODIFICATIONS": "GStreamer is not used",
    "INSTALL_PROPRIETARY_CODECS": "FFmpeg's decoders come with the service",
    "KAFKA_INCIDENT_TOPIC": "embeddings make no incidents",
    "MODE": "there is one mode",
    "NUM_VLM_PROCS": "a worker process runs on each GPU: NUM_GPUS, and more workers",
    "NVIDIA_API_KEY": "nothing is asked of NVIDIA's API; NGC_API_KEY is for models",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "OTLP goes over HTTP always",
    "RTVI_DISABLE_LIVESTREAM_PREVIEW": "there is no preview",
    "RTVI_EXTRA_ARGS": "every setting is a variable; see deploy/settings.md",
    "RTVI_REUSE_FILE_DECODER_PIPELINE": "use DISABLE_DECODER_REUSE",
    "RTVI_RTPJITTERBUFFER_DROP_ON_LATENCY": "use RTEMBED_LIVE_OVERLOAD",
    "RTVI_RTPJITTERBUFFER_FASTSTART_MIN_PACKETS": "packets are passed on as they come",
    "RTVI_SRC_DIR": "install the service from its source instead",
    "VLM_INPUT_HEIGHT": "the model decides the size",
    "VLM_INPUT_WIDTH": "the model decides the size",
    "VLM_MODEL_SUPPORTS_AUDIO": "audio is not embedded",
    "VLM_MODEL_TO_USE": "use MODEL_PATH, and MODEL_IMPLEMENTATION_PATH for a model of your own",
    "VLM_OPENAI_MODEL_DEPLOYMENT_NAME": CAPTIONS,
    "VLM_MAX_GENERATION_TOKENS": CAPTIONS,
    "VLM_PROMPT_MAX_LENGTH": CAPTIONS,
    "VLM_SYSTEM_PROMPT_MAX_LENGTH": CAPTIONS,
    "VLLM_GPU_MEMORY_UTILIZATION": CAPTIONS,
    "VSS_NUM_GPUS_PER_VLM_PROC": "use NUM_GPUS_PER_VLM_PROC",
}
"""Variables of RT-Embed that have no effect here, and what to do instead."""
WITHOUT_EFFECT_BY_PREFIX = {
    "RTVI_IPC_": IPC,
    "VLM_DEFAULT_NUM_FRAMES_": "the model decides how many frames of a chunk it takes",
}


def unknown_names(given: Iterable[str], known: Collection[str]) -> list[str]:
    """Return a sentence for each variable of ours that no setting has, with the nearest known name."""
    ours = [name.removeprefix(PREFIX) for name in known if name.startswith(PREFIX)]
    problems = []
    for name in sorted(given):
        if not name.startswith(PREFIX) or name in known or name in OF_OTHERS:
            continue
        near = difflib.get_close_matches(name.removeprefix(PREFIX)[:100], ours, 1, 0.6)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else "rt-embed settings --all shows them"
        problems.append(f"{name[:100]}: there is no such setting; {hint}")
    return problems


def without_effect(given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of RT-Embed that are set and have no effect here, each with what to do instead."""
    found = {}
    for name, value in sorted(given.items()):
        prefix = next((p for p in WITHOUT_EFFECT_BY_PREFIX if name.startswith(p)), "")
        advice = WITHOUT_EFFECT.get(name) or (WITHOUT_EFFECT_BY_PREFIX[prefix] if prefix else "")
        if value.strip() and advice:
            found[name] = advice
    return found
