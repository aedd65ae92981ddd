"""Neighbouring chunks as one hit."""

from typing import Any

from gateway.search.hits import Hit, merged
from shared.chunks import SECOND


def hit(start: float, end: float, score: float, asset: str = "a", **fields: Any) -> Hit:
    values: dict[str, Any] = {
        "key": int(start * 10),
        "name": "film.mp4",
        "kind": "file",
        "media_type": "video",
        "camera": asset,
        "base": 0,
        "number": int(start),
        "numbers": [int(start)],
        "request": "r",
        **fields,
    }
    return Hit(asset=asset, start=int(start * SECOND), end=int(end * SECOND), score=score, **values)


def spans(hits: list[Hit]) -> list[tuple[str, float, float, float, list[int]]]:
    return [(h.asset, h.start / SECOND, h.end / SECOND, h.score, h.numbers) for h in hits]


def test_neighbours_become_one_with_the_best_score_and_its_picture() -> None:
    chunks = [
        hit(10, 20, 0.5, thumbnail=b"best"), hit(30, 40, 0.2), hit(0, 10, 0.4), hit(20, 30, 0.3),
        hit(50, 60, 0.45),
    ]  # fmt: skip
    found = merged(chunks)
    assert spans(found) == [("a", 0, 40, 0.5, [0, 10, 20, 30]), ("a", 50, 60, 0.45, [50])]
    assert (found[0].number, found[0].thumbnail) == (10, b"best")


def test_overlapping_chunks_are_neighbours_and_those_of_other_assets_are_not() -> None:
    chunks = [hit(0, 10, 0.1), hit(5, 15, 0.2), hit(3, 4, 0.15), hit(15.4, 20, 0.3), hit(16, 30, 0.9, "b")]
    assert spans(merged(chunks)) == [("b", 16, 30, 0.9, [16]), ("a", 0, 20, 0.3, [0, 3, 5, 15])]


def test_a_gap_of_half_a_second_parts_chunks() -> None:
    assert len(merged([hit(0, 10, 0.1), hit(10.5, 20, 0.2)])) == 2
    assert merged([]) == []
