from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tests.worker.models.cosmos_embed1.conftest import MakeCheckpoint, MakeClips, Miniature, NumpyModel
from worker.models.cosmos_embed1.checkpoint import open_checkpoint
from worker.models.cosmos_embed1.graph import Graph, Precision
from worker.models.cosmos_embed1.network import TextNetwork, VideoNetwork
from worker.models.cosmos_embed1.recipe import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Recipe,
    tails,
)


def session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def write(graph: Graph, path: Path) -> Path:
    graph.write_data(path.with_name(path.name + ".data"))
    graph.write(path, path.name + ".data", {})
    return path


def video_session(
    checkpoint: Miniature, folder: Path, *recipes: Recipe, precision: Precision = "fp32"
) -> Any:
    graph = VideoNetwork(open_checkpoint(checkpoint.path), precision).build(recipes or [Recipe()])
    return session(write(graph, folder / "video.onnx"))


def text_session(checkpoint: Miniature, folder: Path, precision: Precision = "fp32") -> Any:
    graph = TextNetwork(open_checkpoint(checkpoint.path), precision).build(Recipe())
    return session(write(graph, folder / "text.onnx"))


def video(running: Any, clips: NDArray[Any]) -> NDArray[Any]:
    vectors: NDArray[Any] = running.run(["video_embeddings"], {"videos": clips})[0]
    return vectors


def text(running: Any, ids: NDArray[Any], mask: NDArray[Any] | None = None) -> NDArray[Any]:
    mask = np.ones_like(ids) if mask is None else mask
    vectors: NDArray[Any] = running.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    return vectors


def token_ids(rows: int, tokens: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(1, 30000, (rows, tokens))


@pytest.fixture(scope="module")
def running_video(miniature: Miniature, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return video_session(miniature, tmp_path_factory.mktemp("video"))


@pytest.fixture(scope="module")
def running_text(miniature: Miniature, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return text_session(miniature, tmp_path_factory.mktemp("text"))


def test_video_against_numpy(
    running_video: Any, miniature: Miniature, numpy_model: type[NumpyModel], clips: MakeClips
) -> None:
    given = clips(3)
    model = numpy_model(miniature, CLIP_MEAN, CLIP_STD)
    expected = np.stack([model.video(clip) for clip in given])
    np.testing.assert_allclose(video(running_video, given), expected, atol=2e-6)
    assert (expected @ expected.T)[np.triu_indices(3, 1)].max() < 0.98  # the clips differ enough to matter


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(temporal="before_norm"),
        Recipe(pooling="mean_of_unit"),
        Recipe(pooling="first"),
        Recipe(mean=IMAGENET_MEAN, std=IMAGENET_STD, temporal="before_norm", pooling="mean_of_unit"),
        Recipe(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    ],
)
def test_every_recipe_against_numpy(
    miniature: Miniature, numpy_model: type[NumpyModel], clips: MakeClips, tmp_path: Path, recipe: Recipe
) -> None:
    given = clips(1)
    model = numpy_model(miniature, recipe.mean, recipe.std, recipe.temporal, recipe.pooling)
    vectors = video(video_session(miniature, tmp_path, recipe), given)
    np.testing.assert_allclose(vectors[0], model.video(given[0]), atol=2e-6)
    default = numpy_model(miniature, CLIP_MEAN, CLIP_STD).video(given[0])
    assert vectors[0] @ default < 0.99999


def test_one_graph_can_hold_every_way_to_end(miniature: Miniature, clips: MakeClips, tmp_path: Path) -> None:
    ways = tails(Recipe())
    given = clips(2)
    together = video_session(miniature, tmp_path, *ways).run(None, {"videos": given})
    for way, vectors in zip(ways, together, strict=True):
        (tmp_path / "one").mkdir(exist_ok=True)
        np.testing.assert_allclose(
            vectors, video(video_session(miniature, tmp_path / "one", way), given), atol=1e-6
        )


def test_recipes_of_one_graph_share_their_pixels(miniature: Miniature) -> None:
    network = VideoNetwork(open_checkpoint(miniature.path), "fp32")
    with pytest.raises(ValueError, match="share their pixel constants"):
        network.build([Recipe(), Recipe(mean=IMAGENET_MEAN)])


@pytest.mark.parametrize("stored_grid", [2, 3, 4])
def test_stored_and_enlarged_position_tables(
    make_checkpoint: MakeCheckpoint,
    numpy_model: type[NumpyModel],
    clips: MakeClips,
    tmp_path: Path,
    stored_grid: int,
) -> None:
    made = make_checkpoint(
        tmp_path / "c", stored_grid=stored_grid, vision_depth=1, text_depth=1, cross_layers=(0,)
    )
    given = clips(1)
    expected = numpy_model(made, CLIP_MEAN, CLIP_STD).video(given[0])
    np.testing.assert_allclose(video(video_session(made, tmp_path), given)[0], expected, atol=2e-6)


@pytest.mark.parametrize("cross_layers", [(1, 3), (3,), (0, 1, 2, 3)])
def test_cross_attention_where_the_checkpoint_has_it(
    make_checkpoint: MakeCheckpoint,
    numpy_model: type[NumpyModel],
    clips: MakeClips,
    tmp_path: Path,
    cross_layers: tuple[Any, ...],
) -> None:
    made = make_checkpoint(tmp_path / "c", cross_layers=cross_layers, vision_depth=1)
    given = clips(2)
    model = numpy_model(made, CLIP_MEAN, CLIP_STD)
    vectors = video(video_session(made, tmp_path), given)
    np.testing.assert_allclose(vectors, np.stack([model.video(clip) for clip in given]), atol=2e-6)


def test_the_true_width_of_224p(
    make_checkpoint: MakeCheckpoint, numpy_model: type[NumpyModel], clips: MakeClips, tmp_path: Path
) -> None:
    made = make_checkpoint(
        tmp_path / "c",
        vision_width=1408,
        vision_depth=1,
        vision_hidden=6144,
        stored_grid=16,
        resolution=224,
        text_width=768,
        text_depth=2,
        text_hidden=3072,
        cross_layers=(0,),
        queries=32,
        vocabulary=1000,
        positions=512,
        dimension=256,
        max_txt_len=128,
        frames=8,
    )
    given = np.repeat(clips(1, 224, 1), 8, axis=1)
    model = numpy_model(made, CLIP_MEAN, CLIP_STD)
    np.testing.assert_allclose(
        video(video_session(made, tmp_path), given)[0], model.still(given[0, 0]), atol=2e-6
    )
    ids = token_ids(1, 20) % 1000
    expected = model.text(ids[0], np.ones(20, np.int64))
    np.testing.assert_allclose(text(text_session(made, tmp_path), ids)[0], expected, atol=2e-6)


def test_one_frame_stands_for_a_picture_repeated(running_video: Any, clips: MakeClips) -> None:
    pictures = clips(3, frames=1)
    repeated = np.repeat(pictures, 8, axis=1)
    np.testing.assert_allclose(video(running_video, pictures), video(running_video, repeated), atol=1e-6)


def test_clips_do_not_influence_each_other(running_video: Any, clips: MakeClips) -> None:
    given = clips(4)
    together = video(running_video, given)
    for i in range(4):
        np.testing.assert_allclose(video(running_video, given[i : i + 1])[0], together[i], atol=1e-6)


def test_the_order_of_the_frames_matters(running_video: Any, clips: MakeClips) -> None:
    given = clips(1)
    assert video(running_video, given)[0] @ video(running_video, given[:, ::-1].copy())[0] < 0.9999


def test_text_against_numpy(running_text: Any, miniature: Miniature, numpy_model: type[NumpyModel]) -> None:
    ids = token_ids(3, 17)
    mask = np.ones_like(ids)
    mask[1, 5:] = 0
    mask[2, 16:] = 0
    model = numpy_model(miniature, CLIP_MEAN, CLIP_STD)
    expected = np.stack([model.text(*row) for row in zip(ids, mask, strict=True)])
    np.testing.assert_allclose(text(running_text, ids, mask), expected, atol=2e-6)


@pytest.mark.parametrize("padded", [7, 12, 24, 64])
def test_padding_does_not_change_a_text(running_text: Any, padded: int) -> None:
    ids = token_ids(2, 6)
    longer = np.zeros((2, padded), np.int64)
    longer[:, :6] = ids
    mask = (np.arange(padded) < 6).astype(np.int64) * np.ones((2, 1), np.int64)
    np.testing.assert_allclose(text(running_text, longer, mask), text(running_text, ids), atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 24, 64])
def test_texts_of_any_length(running_text: Any, tokens: int) -> None:
    vectors = text(running_text, token_ids(2, tokens))
    assert vectors.shape == (2, 48)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_fp16_is_close_to_fp32(
    miniature: Miniature, running_video: Any, running_text: Any, clips: MakeClips, tmp_path: Path
) -> None:
    given, ids = clips(2), token_ids(2, 9)
    half_video = video(video_session(miniature, tmp_path, precision="fp16"), given)
    half_text = text(text_session(miniature, tmp_path, precision="fp16"), ids)
    assert (half_video * video(running_video, given)).sum(1).min() > 0.9999
    assert (half_text * text(running_text, ids)).sum(1).min() > 0.9999


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_types_are_right_throughout(miniature: Miniature, tmp_path: Path, precision: Precision) -> None:
    """ONNX's own inference, strict: every node's types fit, and the outputs are what they say."""
    checkpoint = open_checkpoint(miniature.path)
    video_path = write(VideoNetwork(checkpoint, precision).build([Recipe()]), tmp_path / "video.onnx")
    text_path = write(TextNetwork(checkpoint, precision).build(Recipe()), tmp_path / "text.onnx")
    for path, shape in ((video_path, ["batch", 48]), (text_path, ["batch", 48])):
        model = onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)
        output = model.graph.output[0].type.tensor_type
        assert output.elem_type == onnx.TensorProto.FLOAT
        assert [d.dim_param or d.dim_value for d in output.shape.dim] == shape


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_is_sensitive_stays_fp32(miniature: Miniature, precision: Precision) -> None:
    graph = VideoNetwork(open_checkpoint(miniature.path), precision).build([Recipe()])
    types = {tensor.name: tensor.data_type for tensor in graph.initializers}
    norms = [node for node in graph.nodes if node.op_type == "LayerNormalization"]
    assert len(norms) == 2 * 2 + 1 + 1 + 4 * 2 + 2
    for node in norms:
        assert {types[name] for name in node.input[1:]} == {onnx.TensorProto.FLOAT}
    made_by = {name: node for node in graph.nodes for name in node.output}
    for node in graph.nodes:
        if node.op_type == "Softmax":
            cast = made_by[node.input[0]]
            assert (cast.op_type, cast.attribute[0].i) == ("Cast", onnx.TensorProto.FLOAT)
    assert types["vision_proj.weight.T"] == types["patches"] == types["temporal"] == onnx.TensorProto.FLOAT
    assert types["visual_encoder.blocks.0.mlp.fc1.weight.T"] != onnx.TensorProto.FLOAT
