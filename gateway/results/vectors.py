"""Vectors as clients get them: numbers, or base64 of little-endian float32."""

import sys
from array import array
from base64 import b64encode

from gateway.api.schemas import EncodingFormat


def encoded(vector: bytes, form: EncodingFormat) -> list[float] | str:
    """Return a vector (little-endian float32) in the form that the client asked for."""
    return b64encode(vector).decode() if form == "base64" else floats(vector)


def floats(vector: bytes) -> list[float]:
    """Return a vector (little-endian float32) as numbers."""
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()
