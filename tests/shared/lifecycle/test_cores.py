"""How many cores a worker believes to have."""

import os
from pathlib import Path

import pytest

from shared.lifecycle.cores import cores

ALLOWED = len(os.sched_getaffinity(0))


def test_without_a_quota_all_that_the_scheduler_allows(tmp_path: Path) -> None:
    assert cores(tmp_path) == ALLOWED
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores(tmp_path) == ALLOWED


@pytest.mark.parametrize(
    ("quota", "expected"), [("100000 100000", 1), ("20000 100000", 1), ("6400000 100000", ALLOWED)]
)
def test_a_containers_quota_counts(quota: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cores(tmp_path) == expected


def test_so_does_the_quota_of_older_kernels(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path) == 1
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores(tmp_path) == ALLOWED


@pytest.mark.parametrize("text", ["", "nonsense", "0 0"])
def test_what_cannot_be_read_is_no_quota(text: str, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cores(tmp_path) == ALLOWED
