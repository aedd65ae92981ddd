from pathlib import Path

from tests.worker.engine.suite import INFO, write_tiny_model
from worker.engine.elements import MOST_ELEMENTS, batch_within_limit, largest_tensor
from worker.models.directory import ModelDirectory

CLIP = (1, INFO.frames, 3, INFO.resolution, INFO.resolution)


def test_the_largest_tensor_grows_with_the_batch(demo_model: ModelDirectory) -> None:
    info = demo_model.info
    one = largest_tensor(demo_model.video, {"videos": (1, info.frames, 3, info.resolution, info.resolution)})
    two = largest_tensor(demo_model.video, {"videos": (2, info.frames, 3, info.resolution, info.resolution)})
    # 8 pictures after the first convolution that widens: 96 channels of 112 x 112.
    assert (one, two) == (8 * 96 * 112 * 112, 2 * 8 * 96 * 112 * 112)


def test_the_batch_is_limited_where_a_tensor_would_be_too_large(demo_model: ModelDirectory) -> None:
    info = demo_model.info
    shape = {"videos": (1, info.frames, 3, info.resolution, info.resolution)}
    most = MOST_ELEMENTS // (8 * 96 * 112 * 112)
    assert batch_within_limit(demo_model.video, shape, 10_000) == most
    assert batch_within_limit(demo_model.video, shape, 16) == 16


def test_a_model_of_which_one_clip_is_too_large_is_tried_all_the_same(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    huge = (1, INFO.frames, 3, INFO.resolution, INFO.resolution)
    assert batch_within_limit(model.video, {"videos": huge}, 1) == 1
