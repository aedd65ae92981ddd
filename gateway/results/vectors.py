"""Vectors as clients get them: as numbers, base64, integers or bits, whole or shortened."""

import math
import sys
from array import array
from base64 import b64encode

from gateway.api.schemas import EncodingFormat
from shared.errors import BadParameters
from shared.fleet import ServedModel

INT8_MAX = 127
BITS_PER_NUMBER = 8


def require_dimensions(dimensions: int | None, model: ServedModel) -> int:
    """Return how many numbers of a vector the client wants, 0 for all. Raises BadParameters if the model's
    vectors have fewer."""
    if dimensions is not None and dimensions > model.dimension:
        raise BadParameters(
            f"dimensions is {dimensions}; the vectors of the model {model.id} have {model.dimension} numbers"
        )
    return 0 if dimensions in (None, model.dimension) else dimensions or 0


def encoded(vector: bytes, form: EncodingFormat, dimensions: int = 0) -> list[float] | str:
    """Return a vector (little-endian float32) in the form that the client asked for.

    With `dimensions` only its first numbers are taken, and scaled to unit length. `int8` are integers, the
    largest magnitude being 127; `binary` one bit per number, 1 where it is positive, eight of them packed,
    the first one highest, into an integer, less 128.
    """
    if form == "base64" and not dimensions:
        return b64encode(vector).decode()
    values = shortened(floats(vector), dimensions)
    match form:
        case "base64":
            return b64encode(_little_endian(values)).decode()
        case "int8":
            return quantised(values)
        case "binary":
            return packed_signs(values)
        case "float":
            return values


def shortened(values: list[float], dimensions: int) -> list[float]:
    """Return the first `dimensions` numbers, scaled to unit length in float32; all, as they are, for 0."""
    if not dimensions:
        return values
    first = values[:dimensions]
    length = math.hypot(*first) or 1.0
    return array("f", (value / length for value in first)).tolist()


def quantised(values: list[float]) -> list[float]:
    """Return integers from -127 to 127 in proportion to the numbers, so that cosines stay the same except
    for rounding."""
    largest = max(map(abs, values), default=0.0) or 1.0
    return [round(value / largest * INT8_MAX) for value in values]


def packed_signs(values: list[float]) -> list[float]:
    """Return the signs of the numbers, eight to an integer from -128 to 127; the last one is filled up with
    zeros."""
    padded = values + [0.0] * (-len(values) % BITS_PER_NUMBER)
    bits = "".join("1" if value > 0 else "0" for value in padded)
    starts = range(0, len(bits), BITS_PER_NUMBER)
    return [int(bits[start : start + BITS_PER_NUMBER], 2) - 128 for start in starts]


def floats(vector: bytes) -> list[float]:
    """Return a vector (little-endian float32) as numbers."""
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def _little_endian(values: list[float]) -> bytes:
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
