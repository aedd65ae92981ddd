"""The part of CuPy's extensions that the worker uses."""

from typing import Any

from numpy.typing import DTypeLike, NDArray

def empty_pinned(shape: int | tuple[int, ...], dtype: DTypeLike = ...) -> NDArray[Any]: ...
