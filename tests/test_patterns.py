"""No text from outside makes a regular expression take more than linear time."""

import re

import pytest

from tests.patterns import Found, patterns, slow

FOUND = sorted(set(patterns()), key=str)


def test_the_patterns_of_all_packages_are_found() -> None:
    packages = {found.place.partition("/")[0] for found in FOUND}
    assert packages >= {"gateway", "shared", "worker"}
    assert len(FOUND) > 50


@pytest.mark.parametrize("found", FOUND, ids=[found.place for found in FOUND])
def test_time_grows_no_faster_than_the_text(found: Found) -> None:
    assert slow(found) is None, found.pattern.pattern


@pytest.mark.parametrize(
    "text",
    [
        r"\b[a-z][a-z0-9+.-]*://[^\s/?#]*@",
        r"\b[\w.-]*(?:password|secret)\s*=\S+",
        r'(\w+)=(?:"([^"]*)"|([^\s,]+))',
        r"(?i)\bdata:[\w.+-]*/[\w.+-]*[^,\s]*,",
        r"<a>.*?<b>",
        r"\s+$",
    ],
)
def test_patterns_of_quadratic_time_are_recognized(text: str) -> None:
    assert slow(Found("", re.compile(text), anchored=False)) is not None
