"""What a process does with its memory when it is ready."""

import gc
from collections.abc import Iterator

import pytest

from shared.lifecycle.garbage import settle


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_was_made_before_is_left_out_of_collections() -> None:
    early = [object()]
    settle()
    late = [object()]
    watched = {id(found) for found in gc.get_objects()}
    assert id(early) not in watched
    assert id(late) in watched
