import io
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.errors import EngineError, InvalidFile, ModelError, NotSupported, RtEmbedError, Unavailable
from tests.worker.engine.custom.conftest import ClipsOf, WriteFolder
from worker.engine.custom.jpeg import encode_jpeg
from worker.engine.custom.load_custom import load_python_model

BOTH = """
    from worker.models.base import EmbeddingModel, ModelOutput

    class Model(EmbeddingModel):
        embed_dim = 3
        calls = 0

        def generate(self, query, chunks, video_frames, video_frames_times, generation_config, **kwargs):
            Model.calls += 1
            if chunks[0].chunk_type == "text":
                return [ModelOutput([float(len(chunk.text_input)), 0.0, 1.0]) for chunk in chunks]
            return [ModelOutput(frames[0].mean(axis=(0, 1))) for frames in video_frames]

        @staticmethod
        def get_input_config(model_path, model_type):
            return {"num_frames": 2, "width": 4, "height": 4}
"""


def test_a_video_arrives_as_height_width_channel_frames(folder: WriteFolder, clips_of: ClipsOf) -> None:
    _, engine = load_python_model(folder(BOTH), "/models/mine", 8)
    assert engine.embed_video(clips_of([(10, 20, 30), (1, 2, 3)])).tolist() == [[10, 20, 30], [1, 2, 3]]


def test_a_text_arrives_in_its_chunk(folder: WriteFolder) -> None:
    _, engine = load_python_model(folder(BOTH), "/models/mine", 8)
    assert engine.supports_text
    vectors = engine.embed_text(["abc", ""])
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[3, 0, 1], [0, 0, 1]]


def test_an_empty_batch_gives_no_vectors(folder: WriteFolder) -> None:
    _, engine = load_python_model(folder(BOTH), "/models/mine", 8)
    assert engine.embed_text([]).shape == (0, 3)


def test_without_can_batch_every_chunk_is_a_call(folder: WriteFolder) -> None:
    _, engine = load_python_model(folder(BOTH), "/models/mine", 8)
    engine.model.__class__.calls = 0
    engine.embed_text(["a", "b", "c"])
    assert engine.model.calls == 3


def test_can_batch_joins_chunks_up_to_the_largest_batch(folder: WriteFolder) -> None:
    source = BOTH + "\n        def can_batch(self, first, second):\n            return True\n"
    _, engine = load_python_model(folder(source), "/models/mine", 4)
    engine.model.__class__.calls = 0
    assert engine.embed_text(["a"] * 9).shape == (9, 3)
    assert engine.model.calls == 3


def test_can_batch_may_part_chunks(folder: WriteFolder) -> None:
    source = BOTH + (
        "\n        def can_batch(self, first, second):"
        "\n            return len(first.text_input) == len(second.text_input)\n"
    )
    _, engine = load_python_model(folder(source), "/models/mine", 8)
    engine.model.__class__.calls = 0
    engine.embed_text(["a", "b", "cc", "dd", "e"])
    assert engine.model.calls == 3


def test_what_the_model_declares_becomes_its_record(folder: WriteFolder) -> None:
    source = BOTH + (
        "\n        @staticmethod"
        "\n        def get_model_info(model_path, model_type):"
        "\n            return 'mine-1', model_type, 'me'\n"
    )
    info, _ = load_python_model(folder(source), "/models/mine", 8)
    assert (info.id, info.api_type, info.owned_by) == ("mine-1", "custom", "me")
    assert (info.dimension, info.frames, info.resolution) == (3, 2, 4)


def test_a_failing_get_model_info_leaves_the_folder_name(folder: WriteFolder) -> None:
    source = BOTH + (
        "\n        @staticmethod"
        "\n        def get_model_info(model_path, model_type):"
        "\n            raise OSError('no card')\n"
    )
    info, _ = load_python_model(folder(source), "/models/mine/", 8)
    assert (info.id, info.api_type, info.owned_by) == ("mine", "internal", "custom")


def test_a_bare_class_needs_no_base_and_tells_its_dimension_by_a_first_clip(
    folder: WriteFolder, clips_of: ClipsOf
) -> None:
    source = """
        from types import SimpleNamespace

        class Whatever:
            def __init__(self, model_path, max_batch_size=None, **kwargs):
                self.given = (model_path, max_batch_size, kwargs)

            def generate(self, query, chunks, video_frames, video_frames_times, generation_config, **kwargs):
                return [SimpleNamespace(embeddings=list(map(float, frames.shape))) for frames in video_frames]
    """
    info, engine = load_python_model(folder(source), "/models/mine", 5)
    assert info.dimension == 4
    assert engine.embed_video(clips_of([(0, 0, 0)])).tolist() == [[2, 4, 4, 3]]
    assert engine.model.given == ("/models/mine", 5, {"async_output": True, "vlm_model_type": "custom"})


def test_a_video_only_model_is_learnt_and_refuses_texts(folder: WriteFolder, clips_of: ClipsOf) -> None:
    source = """
        from types import SimpleNamespace

        class Model:
            embed_dim = 1
            def __init__(self, model_path, **kwargs): ...
            def generate(self, query, chunks, video_frames, *rest, **kwargs):
                maxima = [float(video_frames[i].max()) for i in range(len(chunks))]
                return [SimpleNamespace(embeddings=[maximum]) for maximum in maxima]
    """
    _, engine = load_python_model(folder(source), "m", 1)
    assert not engine.supports_text
    with pytest.raises(NotSupported) as caught:
        engine.embed_text(["a dog"])
    assert (caught.value.code, caught.value.status) == ("NotImplemented", 501)
    assert engine.embed_video(clips_of([(7, 9, 8)])).tolist() == [[9]]


def test_not_implemented_error_means_not_supported(folder: WriteFolder) -> None:
    source = (
        BOTH.replace("Model.calls += 1", "raise NotImplementedError") + "\n        supports_text = True\n"
    )
    _, engine = load_python_model(folder(source), "m", 1)
    with pytest.raises(NotSupported):
        engine.embed_text(["a dog"])


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["First", "Inference", "CustomModel"], "CustomModel"),
        (["First", "Inference", "VlmModel", "Model"], "Model"),
        (["First", "Second"], "First"),
    ],
)
def test_the_order_in_which_a_class_is_looked_for(folder: WriteFolder, names: list[Any], chosen: str) -> None:
    classes = "".join(
        f"class {name}(EmbeddingModel):\n    embed_dim = 1\n    supports_text = False\n" for name in names
    )
    _, engine = load_python_model(folder("from worker.models.base import EmbeddingModel\n" + classes), "m", 1)
    assert type(engine.model).__name__ == chosen


def test_an_imported_class_is_not_taken_for_the_model(folder: WriteFolder) -> None:
    with pytest.raises(ModelError, match="defines no class with a generate method"):
        load_python_model(folder("from worker.models.base import EmbeddingModel\n"), "m", 1)


def test_modules_beside_inference_are_importable(folder: WriteFolder, tmp_path: Path) -> None:
    (tmp_path / "beside_the_model.py").write_text("DIMENSION = 3\n")
    source = BOTH.replace("embed_dim = 3", "from beside_the_model import DIMENSION as embed_dim")
    info, _ = load_python_model(folder(source), "m", 1)
    assert info.dimension == 3


def test_a_future_is_waited_for_while_other_calls_go_on(folder: WriteFolder, clips_of: ClipsOf) -> None:
    source = """
        from concurrent.futures import Future
        from worker.models.base import EmbeddingModel, ModelOutput

        class Model(EmbeddingModel):
            embed_dim = 1
            supports_text = True

            def _initialize_model(self, **kwargs):
                self.waiting = Future()

            def generate(self, query, chunks, *rest, **kwargs):
                if chunks[0].chunk_type == "video":
                    return self.waiting
                self.waiting.set_result([ModelOutput([5.0])])
                return [ModelOutput([6.0])]
    """
    _, engine = load_python_model(folder(source), "m", 1)
    seen = []
    video = Thread(target=lambda: seen.append(engine.embed_video(clips_of([(0, 0, 0)])).tolist()))
    video.start()
    assert engine.embed_text(["frees the clip"]).tolist() == [[6]]
    video.join(20)
    assert seen == [[[5]]]


def test_too_many_outputs_are_cut(folder: WriteFolder) -> None:
    source = BOTH.replace("for chunk in chunks]", "for chunk in [*chunks, *chunks]]")
    _, engine = load_python_model(folder(source), "m", 4)
    assert engine.embed_text(["abc"]).tolist() == [[3, 0, 1]]


def test_too_few_outputs_are_an_error(folder: WriteFolder) -> None:
    source = BOTH.replace("for chunk in chunks]", "for chunk in []]") + "\n        supports_text = True\n"
    _, engine = load_python_model(folder(source), "m", 4)
    with pytest.raises(EngineError, match=r"No response generated for this chunk \(0 outputs for 1 chunks\)"):
        engine.embed_text(["abc"])


@pytest.mark.parametrize(
    "vector", ["[1.0, 2.0]", "[[1.0, 2.0, 3.0]]", "[]", "None", "[1.0, 2.0, float('nan')]"]
)
def test_a_vector_that_is_none_is_an_error(folder: WriteFolder, clips_of: ClipsOf, vector: str) -> None:
    source = BOTH.replace("frames[0].mean(axis=(0, 1))", vector)
    _, engine = load_python_model(folder(source), "m", 4)
    with pytest.raises(EngineError, match="vector"):
        engine.embed_video(clips_of([(0, 0, 0)]))


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        ("ValueError('secret detail')", EngineError, "An unknown error occurred"),
        ("InvalidFile('no picture')", InvalidFile, "no picture"),
        ("OutOfMemoryError()", Unavailable, "CUDA out of memory while embedding 1 chunks"),
    ],
)
def test_errors_of_the_model(
    folder: WriteFolder, raised: str, expected: type[RtEmbedError], message: str
) -> None:
    source = """
        from shared.errors import InvalidFile
        from worker.models.base import EmbeddingModel

        class OutOfMemoryError(RuntimeError): ...

        class Model(EmbeddingModel):
            embed_dim = 1
            supports_text = True
            def generate(self, *arguments, **kwargs):
                raise """
    _, engine = load_python_model(folder(source + raised + "\n"), "m", 1)
    with pytest.raises(expected) as caught:
        engine.embed_text(["a"])
    assert caught.value.message == message


def test_a_busy_model_is_waited_for(folder: WriteFolder) -> None:
    source = BOTH + (
        "\n        asked = 0"
        "\n        def can_enqueue_requests(self):"
        "\n            self.asked += 1"
        "\n            return self.asked % 3 == 0\n"
    )
    _, engine = load_python_model(folder(source), "m", 1)
    engine.model.asked = 0
    engine.embed_text(["a"])
    assert engine.model.asked == 3


def test_jpeg_frames(folder: WriteFolder) -> None:
    source = """
        from worker.models.base import EmbeddingModel, ModelOutput

        class Model(EmbeddingModel):
            def generate(self, query, chunks, video_frames, *rest, **kwargs):
                self.seen = video_frames
                return [ModelOutput([float(len(frames))]) for frames in video_frames]

            @staticmethod
            def get_input_config(model_path, model_type):
                return {"num_frames": 2, "use_jpeg_encoding": True, "width": 16, "height": 16}
    """
    _, engine = load_python_model(folder(source), "m", 1)
    clips = np.zeros((1, 2, 3, 16, 16), np.uint8)
    clips[0, 1] = np.array([200, 30, 90])[:, None, None]
    assert engine.embed_video(clips).tolist() == [[2]]
    picture = np.asarray(Image.open(io.BytesIO(engine.model.seen[0][1])).convert("RGB"))
    assert picture.shape == (16, 16, 3)
    assert np.abs(picture.astype(int) - [200, 30, 90]).max() <= 3


def test_jpeg_keeps_a_pattern() -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :, 0] = 220
    picture[16:, :24, 2] = 180
    decoded = np.asarray(Image.open(io.BytesIO(encode_jpeg(picture))).convert("RGB")).astype(int)
    assert np.abs(decoded - picture).mean() < 3


def test_close_shuts_the_model_down(folder: WriteFolder) -> None:
    source = BOTH + (
        "\n        ended = False\n        def _shutdown_model(self):\n            self.ended = True\n"
    )
    _, engine = load_python_model(folder(source), "m", 1)
    engine.close()
    assert engine.model.ended


def test_a_failing_warm_up_is_not_fatal_and_can_be_left_out(folder: WriteFolder) -> None:
    source = BOTH + (
        "\n        warm = 0"
        "\n        def warmup(self):"
        "\n            self.warm += 1"
        "\n            raise RuntimeError('cold')\n"
    )
    implementation = folder(source)
    assert load_python_model(implementation, "m", 1)[1].model.warm == 1
    assert load_python_model(implementation, "m", 1, warm_up=False)[1].model.warm == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import a_module_that_is_not_there\n", r"inference\.py cannot be imported: ModuleNotFoundError"),
        ("x = 1\n", "defines no class with a generate method"),
        ("class Model:\n    def generate(self): ...\n", r"Model in .* did not start: TypeError"),
        (
            (
                "class Model:\n"
                "    def __init__(self, path, **kwargs): ...\n"
                "    def generate(self): ...\n"
                "    def get_input_config(path, kind):\n        return {'width': 640, 'height': 360}\n"
            ),
            "asks for 640x360 frames; frames must be square",
        ),
        (
            (
                "class Model:\n"
                "    def __init__(self, path, **kwargs): ...\n"
                "    def generate(self): ...\n"
                "    def get_input_config(path, kind):\n        return {'num_frames': 'many'}\n"
            ),
            "get_input_config of Model is not valid",
        ),
        (
            (
                "class Model:\n"
                "    def __init__(self, path, **kwargs): ...\n"
                "    def generate(self, *a, **k): raise ValueError('no weights')\n"
            ),
            "failed on a black clip",
        ),
    ],
)
def test_models_that_cannot_be_loaded(folder: WriteFolder, source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_python_model(folder(source), "m", 1)


def test_a_folder_without_inference(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no inference\.py"):
        load_python_model(tmp_path, "m", 1)
