"""The running service against its own description: schemathesis looks for answers that it does not allow.

A longer run: `python -m tests.bench.contract --max-examples 200`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.contract import check
from tests.e2e.conftest import Stack
from tests.support import RedisServer


@pytest.fixture
def service(valkey: RedisServer, search_url: str, tmp_path: Path) -> Iterator[Stack]:
    """A service that registers cameras without connecting to them: made-up ones never answer."""
    stack = Stack(tmp_path, f"redis://127.0.0.1:{valkey.port}/3")
    stack.environment["VSS_SKIP_INPUT_MEDIA_VERIFICATION"] = "1"
    try:
        stack.start_indexer(search_url)
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.mark.timeout(240)
def test_no_answer_is_outside_the_description(service: Stack) -> None:
    outcome = check(service.url, "--max-examples", "4", "--seed", "1")
    assert outcome.returncode == 0, outcome.stdout[-8000:] + outcome.stderr[-2000:]
