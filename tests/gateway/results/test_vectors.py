import math
from array import array
from base64 import b64decode

import pytest

from gateway.results.vectors import encoded, require_dimensions
from shared.errors import BadParameters
from tests.support import served_model

VALUES = [0.5, -0.25, 0.125, 0.0, -0.75, 0.0625, 1.0, -1.0, 0.25]
MODEL = served_model(dimension=8)


def packed(values: list[float]) -> bytes:
    return array("f", values).tobytes()


def test_numbers_and_base64_are_the_vector_itself() -> None:
    assert encoded(packed(VALUES), "float") == VALUES
    text = encoded(packed(VALUES), "base64")
    assert isinstance(text, str)
    assert b64decode(text) == packed(VALUES)


def test_a_shortened_vector_has_unit_length_in_every_form() -> None:
    first = encoded(packed(VALUES), "float", 3)
    assert not isinstance(first, str)
    assert math.hypot(*first) == pytest.approx(1, abs=1e-6)
    assert first == pytest.approx([value / math.hypot(*VALUES[:3]) for value in VALUES[:3]])
    text = encoded(packed(VALUES), "base64", 3)
    assert isinstance(text, str)
    assert array("f", b64decode(text)).tolist() == first


def test_int8_keeps_cosines() -> None:
    values = [math.sin(7 * index) / 20 for index in range(768)]
    integers = encoded(packed(values), "int8")
    assert not isinstance(integers, str)
    assert max(map(abs, integers)) == 127
    assert all(isinstance(value, int) for value in integers)
    dot = sum(a * b for a, b in zip(values, integers, strict=True))
    assert dot / math.hypot(*values) / math.hypot(*integers) > 0.9999


def test_binary_packs_signs_the_first_highest() -> None:
    assert encoded(packed(VALUES), "binary") == [0b10100110 - 128, 0b10000000 - 128]
    assert encoded(packed(VALUES), "binary", 3) == [0b10100000 - 128]


def test_vectors_of_zeros_stay_zeros() -> None:
    assert encoded(packed([0.0] * 4), "int8", 2) == [0, 0]
    assert encoded(packed([0.0] * 4), "float", 2) == [0.0, 0.0]
    assert encoded(packed([0.0] * 4), "binary") == [-128]


def test_at_most_the_models_own_dimensions() -> None:
    assert [require_dimensions(wanted, MODEL) for wanted in (None, 8, 3)] == [0, 0, 3]
    with pytest.raises(BadParameters, match="dimensions is 9; the vectors of the model m have 8 numbers"):
        require_dimensions(9, MODEL)
