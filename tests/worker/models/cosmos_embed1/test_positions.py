import numpy as np
import pytest

from worker.models.cosmos_embed1.positions import cubic_weights, keys_kernel, resize_positions


def test_a_table_that_fits_is_left_alone() -> None:
    table = np.arange(10, dtype=np.float32)[:, None]
    assert resize_positions(table, 3) is table


def test_the_class_token_stays_and_the_grid_grows() -> None:
    table = np.arange(5, dtype=np.float32)[:, None] * [[1, 2]]
    resized = resize_positions(table.astype(np.float32), 6)
    assert resized.shape == (37, 2)
    assert resized[0].tolist() == [0, 0]
    assert resized.dtype == np.float32


def test_weights_of_every_new_sample_sum_to_one() -> None:
    for old, new in ((16, 24), (16, 32), (2, 3), (7, 5)):
        np.testing.assert_allclose(cubic_weights(old, new).sum(1), 1, atol=1e-6)


def test_a_mirrored_table_gives_a_mirrored_result() -> None:
    table = np.random.default_rng(1).standard_normal((26, 3)).astype(np.float32)
    mirrored = np.concatenate([table[:1], table[1:].reshape(5, 5, 3)[::-1, ::-1].reshape(25, 3)])
    result = resize_positions(table, 8)[1:].reshape(8, 8, 3)
    np.testing.assert_allclose(
        resize_positions(mirrored, 8)[1:].reshape(8, 8, 3), result[::-1, ::-1], atol=1e-5
    )


def test_rows_and_columns_are_not_mixed_up() -> None:
    by_row = np.repeat(np.arange(4, dtype=np.float32), 4)[:, None]
    result = resize_positions(np.concatenate([[[0]], by_row]).astype(np.float32), 6)[1:, 0].reshape(6, 6)
    assert np.ptp(result, axis=1).max() < 1e-5
    assert (np.diff(result[:, 0]) > 0).all()


def test_doubling_uses_the_kernel_at_quarter_samples() -> None:
    row = cubic_weights(8, 16)[7]
    expected = keys_kernel(np.abs(np.array([2.0, 3.0, 4.0, 5.0]) - 3.25))
    np.testing.assert_allclose(row[2:6], expected, atol=1e-7)
    assert np.count_nonzero(row) == 4
    # a = -0.75 at distances 1.25, 0.25, 0.75, 1.75, worked out by hand
    np.testing.assert_allclose(expected, [-0.10546875, 0.87890625, 0.26171875, -0.03515625])


@pytest.mark.parametrize(("stored", "grid"), [(16, 24), (16, 32), (5, 3), (2, 3)])
def test_against_pytorch(stored: int, grid: int) -> None:
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(3).standard_normal((stored * stored + 1, 6)).astype(np.float32)
    square = torch.from_numpy(table[1:]).reshape(1, stored, stored, 6).permute(0, 3, 1, 2)
    square = torch.nn.functional.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    expected = square.permute(0, 2, 3, 1).reshape(grid * grid, 6).numpy()
    np.testing.assert_allclose(resize_positions(table, grid)[1:], expected, atol=1e-5)
