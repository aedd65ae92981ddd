"""Runs the modelling code of a checkpoint, and stores its vectors.

A separate program: `python reference.py CHECKPOINT INPUTS.npz OUTPUTS.npz`. It needs torch, torchvision,
transformers 4.49 to 4.55 and einops (`rt-embed model environment` makes such an environment), and nothing of
this package. It works offline: the configuration of bert-base-uncased, which the code asks the hub for, is
provided, and code that a configuration names by its place on the hub is taken from the checkpoint's folder.

INPUTS holds `clips` uint8 [n, frames, 3, R, R], `sentences` [m], and `input_ids`, `attention_mask` int64
[m, S] for a checkpoint without a processor. OUTPUTS gets `video` and `text`, float32, and `notes`.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

BERT_BASE_UNCASED = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}


LARGEST_CONFIGURATION = 8 << 20
"""Bytes of a JSON file that may hold an `auto_map`; an index of weights is smaller, too."""
UNUSED = ("qformer.cls.", "itm_head.", "logit_scale", "logit_bias")
"""Weights that do not affect embeddings."""


def main() -> None:
    """Read the arguments, run, write."""
    checkpoint, inputs, outputs = sys.argv[1:]
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as local:
        prepare_environment(Path(cache))
        link_checkpoint(Path(checkpoint), Path(local))
        results = run(local, dict(np.load(inputs)))
    np.savez(outputs, **results)


def prepare_environment(cache: Path) -> None:
    """Point transformers to an empty cache with bert-base-uncased's configuration, and keep it offline."""
    for repository in ("bert-base-uncased", "google-bert--bert-base-uncased"):
        folder = cache / f"models--{repository}"
        (folder / "snapshots" / "local").mkdir(parents=True)
        (folder / "snapshots" / "local" / "config.json").write_text(json.dumps(BERT_BASE_UNCASED))
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("local")
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_CACHE=str(cache),
        HF_HOME=str(cache),
        HF_MODULES_CACHE=str(cache / "modules"),
        TOKENIZERS_PARALLELISM="false",
    )


def link_checkpoint(checkpoint: Path, folder: Path) -> None:
    """Show the checkpoint in `folder`, with the code that its `auto_map`s name on the hub
    (`nvidia/Cosmos-Embed1-448p--modeling_embed1.CosmosEmbed1`) as the file beside them, if there is one."""
    for path in checkpoint.iterdir():
        if path.suffix == ".json" and path.stat().st_size < LARGEST_CONFIGURATION:
            text = path.read_text("utf-8")
            (folder / path.name).write_text(json.dumps(localised(json.loads(text), checkpoint)), "utf-8")
        else:
            (folder / path.name).symlink_to(path.resolve())


def localised(value: Any, checkpoint: Path, *, mapped: bool = False) -> Any:
    """Return the same JSON; names within an `auto_map` lose the repository where the module is in the
    folder."""
    if isinstance(value, dict):
        return {key: localised(v, checkpoint, mapped=mapped or key == "auto_map") for key, v in value.items()}
    if isinstance(value, list):
        return [localised(item, checkpoint, mapped=mapped) for item in value]
    if mapped and isinstance(value, str):
        name = value.rpartition("--")[2]
        return name if (checkpoint / f"{name.partition('.')[0]}.py").exists() else value
    return value


def import_torchvision() -> str:
    """Import torchvision for checkpoints' preprocessing; return its version. A build from another index than
    PyTorch's lacks compiled operators, which its transforms do not need."""
    try:
        import torchvision  # noqa: PLC0415 - part of the environment
    except (RuntimeError, OSError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        operators = "torchvision._meta_registrations"
        sys.modules[operators] = ModuleType(operators)  # it fails where the operators are missing
        import torchvision  # noqa: PLC0415 - likewise

        return f"{torchvision.__version__} without its operators"
    return str(torchvision.__version__)


def run(checkpoint: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Vectors of the clips and the sentences by the checkpoint's own model in fp32."""
    import torch  # noqa: PLC0415 - only after the environment is prepared
    import transformers  # noqa: PLC0415 - likewise

    torchvision = import_torchvision()
    if int(transformers.__version__.split(".")[0]) > 4:
        # 5 skips the hook that enlarges the position table and leaves it random.
        raise SystemExit(
            f"transformers {transformers.__version__} cannot run the checkpoint's code; install <5"
        )
    model = load_model(transformers, torch, checkpoint)
    processor = load_processor(transformers, checkpoint)
    with torch.inference_mode():
        video = [
            vector(model.get_video_embeddings(**video_inputs(torch, processor, clip)), "visual_proj")
            for clip in inputs["clips"]
        ]
        text = [
            vector(model.get_text_embeddings(**text_inputs(torch, processor, inputs, i)), "text_proj")
            for i in range(len(inputs["sentences"]))
        ]
    pixels = "its own processor" if processor else "pixels / 255, as it has no processor"
    vision = f"torch {torch.__version__}, torchvision {torchvision}"
    notes = f"{vision}, transformers {transformers.__version__}, {pixels}"
    return {"video": np.concatenate(video), "text": np.concatenate(text), "notes": notes}


def load_model(transformers: Any, torch: Any, checkpoint: str) -> Any:
    """Load the model in fp32; all of its weights must come from the checkpoint."""
    model, report = transformers.AutoModel.from_pretrained(
        checkpoint, trust_remote_code=True, torch_dtype=torch.float32, output_loading_info=True
    )
    left = {str(key) for kind in ("missing_keys", "mismatched_keys") for key in report.get(kind, [])}
    used = {name for name, _ in model.named_parameters() if not name.startswith(UNUSED)}
    if left & used:
        raise SystemExit(f"not all of the checkpoint's weights were loaded: {', '.join(sorted(left & used))}")
    return model.eval().float()


def load_processor(transformers: Any, checkpoint: str) -> Any:
    """Return the checkpoint's processor. None if it has none (TAO's exports): the default would resize to
    224."""
    if not (Path(checkpoint) / "processor_config.json").exists():
        return None
    return transformers.AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)


def video_inputs(torch: Any, processor: Any, clip: Any) -> dict[str, Any]:
    """Arguments for one clip, uint8 [frames, 3, R, R]."""
    if processor is None:
        return {"videos": torch.from_numpy(clip[None]).float() / 255}
    return in_fp32(torch, processor(videos=clip[None]))


def text_inputs(torch: Any, processor: Any, inputs: dict[str, Any], i: int) -> dict[str, Any]:
    """Arguments for one sentence."""
    if processor is None:
        return {key: torch.from_numpy(inputs[key][i : i + 1]) for key in ("input_ids", "attention_mask")}
    return in_fp32(torch, processor(text=[str(inputs["sentences"][i])]))


def in_fp32(torch: Any, features: Any) -> dict[str, Any]:
    """Return the tensors, with floats in fp32."""
    tensors = {key: torch.as_tensor(value) for key, value in features.items()}
    return {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}


def vector(output: Any, name: str) -> Any:
    """float32 [1, dimension] from what the model returned: an object with that attribute, or the tensor."""
    return getattr(output, name, output).float().numpy()


if __name__ == "__main__":
    main()
