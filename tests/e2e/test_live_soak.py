"""The soak of `tests.bench.live_soak` in short: every chunk is accounted for, and memory is flat."""

from pathlib import Path

import pytest

from tests.bench.live_soak import soak


@pytest.mark.timeout(180)
def test_half_a_minute_of_twenty_cameras(tmp_path: Path) -> None:
    seen = soak(cameras=20, seconds=30, chunk_duration=5, folder=tmp_path, size=160)
    assert seen.expected == 120
    assert abs(seen.embedded + seen.dropped - seen.expected) <= 20, "one chunk of each may be under way"
    assert (seen.failed, seen.missing) == (0, seen.dropped)
    settled, last = seen.memory[len(seen.memory) // 3], seen.memory[-1]
    assert last - settled < 40, f"MiB: {seen.memory}"
