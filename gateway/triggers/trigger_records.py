"""Triggers and their matches, as the index's database has them."""

from typing import Literal

import msgspec

from gateway.search.hits import Hit


class NewTrigger(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger to create. `delivery` is where a webhook's URL and secret are, encrypted if `sealed`."""

    id: str
    name: str
    question: str
    sentence: str
    model: str
    vector: list[float]
    threshold: float
    cameras: list[str] | None
    files: bool
    cooldown: int
    """Nanoseconds."""
    webhook: str = ""
    delivery: str = ""
    sealed: bool = False
    signed: bool = False


class StoredTrigger(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger as it stands. `last_match` is in milliseconds since 1970."""

    id: str
    name: str
    question: Literal["text", "image", "vector", "like"]
    sentence: str
    model: str
    threshold: float
    cameras: list[str] | None
    files: bool
    cooldown: int
    created: int
    matches: int
    webhook: str
    signed: bool
    given_up: int
    error: str
    last_match: int | None
    waiting: int


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A match of a trigger. `at` is in milliseconds since 1970."""

    key: int
    at: int
    trigger: str
    trigger_name: str
    hit: Hit
