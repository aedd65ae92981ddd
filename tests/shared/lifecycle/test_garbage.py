"""What a process does with its memory when it is ready."""

import gc
from collections.abc import Iterator

import pytest

from shared.lifecycle.garbage import SELDOM, settle


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_was_made_before_is_left_out_of_collections() -> None:
    early = [object()]
    settle()
    late = [object()]
    watched = {id(found) for found in gc.get_objects()}
    assert id(early) not in watched
    assert id(late) in watched


def test_the_young_are_looked_through_seldom() -> None:
    settle()
    assert gc.get_threshold()[0] == SELDOM
