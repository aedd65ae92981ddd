"""TensorRT for RTX builds engines from the graphs, as a worker does, for GPUs that are not here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

from shared.errors import ModelError
from tests.worker.models.cosmos_embed1.conftest import MakeCheckpoint
from worker.engine.library import provide_tensorrt
from worker.models.cosmos_embed1.checkpoint import open_checkpoint
from worker.models.cosmos_embed1.convert import convert, model_info
from worker.models.cosmos_embed1.graph import Precision
from worker.models.cosmos_embed1.recipe import Recipe
from worker.models.directory import ModelDirectory

try:
    provide_tensorrt("tensorrt_rtx")
except ModelError as error:
    pytest.skip(error.message, allow_module_level=True)

import tensorrt as trt

from worker.engine import build as building
from worker.engine.arguments import BuilderArguments
from worker.engine.build import Log, text_tower, video_tower


class Keeping(Log):
    """Keeps every line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[Any, str]] = []
        KEPT.append(self)

    def log(self, severity: Any, msg: str) -> None:
        super().log(severity, msg)
        self.lines.append((severity, msg))


KEPT: list[Keeping] = []
MakeModel = Callable[[Precision], ModelDirectory]


@pytest.fixture(scope="module")
def model(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """model(precision) -> a miniature's model directory, with as many tokens as 224p."""
    folder = tmp_path_factory.mktemp("tensorrt")
    made = make_checkpoint(folder / "c", resolution=224, vision_depth=1, text_depth=2, cross_layers=(0,))
    checkpoint = open_checkpoint(made.path)

    def make(precision: Precision) -> ModelDirectory:
        path = folder / precision
        info = model_info(checkpoint, Recipe(), precision, name="mini", source="", revision="")
        if not path.exists():
            path.mkdir()
            convert(checkpoint, path, Recipe(), precision)
        return ModelDirectory(path, info)

    return make


@pytest.mark.parametrize("sm", ["SM89", "SM120"])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_engines_for_gpus_that_are_not_here(
    model: MakeModel, precision: Precision, sm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "Log", Keeping)
    mini = model(precision)
    assert mini.text
    for tower in (video_tower(mini, 4), text_tower(mini.info, mini.text, 4)):
        built = building.build(tower, BuilderArguments(verbosity="DETAILED"), sm=sm)
        assert len(bytes(built.engine)) > 1_000_000
        lines = KEPT.pop().lines
        assert not [message for severity, message in lines if severity == trt.ILogger.Severity.ERROR]
        # Head size 88 is no power of two, and the softmax is fp32: they must be fused all the same.
        graph = onnx.load(tower.graph, load_external_data=False).graph
        first = next(node.name for node in graph.node if node.op_type == "Softmax")
        fused = [line for _, line in lines if "_gemm_mha" in line and f"[ONNX Layer: {first}]" in line]
        assert bool(fused) == (precision != "fp32")


def test_one_engine_can_serve_clips_and_pictures(model: MakeModel) -> None:
    mini = model("fp16")
    tower = video_tower(mini, 4)
    ((name, (_, typical, most)),) = tower.profile.items()
    picture = (1, 1, *typical[2:])
    tower = msgspec.structs.replace(tower, profile={name: (picture, typical, most)})
    assert len(bytes(building.build(tower, BuilderArguments(), sm="SM89").engine)) > 1_000_000


def test_the_profile_has_the_models_frames(model: MakeModel) -> None:
    mini = model("fp16")
    assert video_tower(mini, 6).profile == {"videos": tuple((n, 8, 3, 224, 224) for n in (1, 3, 6))}
    longest = mini.info.max_text_tokens
    shapes = ((1, 1), (6, longest // 2), (6, longest))
    assert text_tower(mini.info, Path("text.onnx"), 6).profile == dict.fromkeys(
        ("input_ids", "attention_mask"), shapes
    )
