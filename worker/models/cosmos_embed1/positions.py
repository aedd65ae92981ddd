"""Resizes the position table of a vision transformer to another patch grid."""

from math import isqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CUBIC = -0.75  # the kernel's free coefficient, as in PyTorch and OpenCV


def resize_positions(table: Floats, grid: int) -> Floats:
    """`table` float32 [1 + stored * stored, width], the class token first -> [1 + grid * grid, width].

    Bicubic with half-pixel centres, borders repeated, no antialiasing: what PyTorch's `interpolate` does
    with `align_corners=False`. The class token's row stays. A table that already fits is returned.
    """
    stored = isqrt(len(table) - 1)
    if stored == grid:
        return table
    weights = cubic_weights(stored, grid)
    square = table[1:].reshape(stored, stored, -1)
    square = np.einsum("yr,rxw->yxw", weights, square, optimize=True)
    square = np.einsum("xc,ycw->yxw", weights, square, optimize=True)
    return np.concatenate([table[:1], square.reshape(grid * grid, -1)])


def cubic_weights(old: int, new: int) -> Floats:
    """float32 [new, old]: how much each old sample counts for each new one (R. Keys, 1981)."""
    centres = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(centres).astype(int)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        distance = np.abs(centres - (first + tap))
        np.add.at(weights, (np.arange(new), np.clip(first + tap, 0, old - 1)), keys_kernel(distance))
    return weights.astype(np.float32)


def keys_kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cubic convolution kernel at `distance` >= 0, in samples."""
    near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
    far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
