"""The benchmarks' catalogue, and the table that `scripts/bench all` prints, without running one of them."""

import re
import sys
from pathlib import Path

import pytest

from tests.bench import all as bench_all
from tests.bench.all import Row, finished, has_gpu, read_figure, run, table
from tests.bench.benchmarks import BENCHMARKS, FOLDER, PARTS, Benchmark

NAMES = [benchmark.name for benchmark in BENCHMARKS]


def test_every_module_is_a_benchmark_or_a_part_of_one() -> None:
    assert sorted([*NAMES, *PARTS]) == sorted(path.stem for path in FOLDER.glob("*.py"))
    assert len(set(NAMES)) == len(NAMES)


def test_the_readme_has_the_same_benchmarks() -> None:
    head, _, _ = (FOLDER / "README.md").read_text().partition("\n## ")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| [^|]+ \|$", head, re.MULTILINE)
    assert rows == NAMES


def test_each_has_a_title_and_a_pattern_that_fits_its_words() -> None:
    for benchmark in BENCHMARKS:
        assert benchmark.title.endswith((".", "?")), benchmark.name
        groups = re.compile(benchmark.pattern).groups
        benchmark.told.format(*range(max(groups, 1)))


def made(monkeypatch: pytest.MonkeyPatch, code: str, limit: float = 20) -> Row:
    """The line of a benchmark with that code."""
    monkeypatch.setattr(bench_all, "QUICK_LIMIT", limit)
    command = [sys.executable, "-c", code]
    monkeypatch.setattr(bench_all, "finished", lambda _, seconds: finished(command, seconds))
    return run(Benchmark(name="x", against="y", pattern=r"^(\w) is (\d)", told="{0}: {1}"), quick=True)


def test_a_figure_is_what_the_pattern_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    row = made(monkeypatch, "print('a is 1'); print('b is 2')")
    assert (row.figure, row.failed) == ("a: 1; b: 2", False)


@pytest.mark.parametrize(
    ("code", "figure"),
    [
        ("print('a is 1'); raise SystemExit(3)", "FAILED: exit status 3"),
        ("print('nothing')", "FAILED: printed no figure"),
    ],
)
def test_a_failure_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], code: str, figure: str
) -> None:
    row = made(monkeypatch, code)
    assert (row.figure, row.failed) == (figure, True)
    assert code.split("'")[1] in capfd.readouterr().err


def test_one_that_hangs_is_stopped_as_by_ctrl_c(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wait = f"import signal\ntry:\n signal.pause()\nfinally:\n open({str(tmp_path / 'ended')!r}, 'w')"
    row = made(monkeypatch, wait, limit=0.3)
    assert row.failed
    assert row.figure.startswith("FAILED: did not end within")
    assert (tmp_path / "ended").exists()


def test_what_needs_a_gpu_is_skipped_where_there_is_none() -> None:
    row = run(Benchmark(name="x", against="y", needs=("gigabytes and minutes",)), quick=True)
    assert (row.figure, row.failed) == ("skipped: needs gigabytes and minutes", False)
    if not has_gpu():
        assert run(Benchmark(name="x", against="y", needs=("a GPU",)), quick=True).figure.endswith("a GPU")


def test_without_a_match_there_is_no_figure() -> None:
    assert not read_figure(Benchmark(name="x", against="y", pattern="a (b)"), "nothing")


def test_the_table_has_a_line_each() -> None:
    lines = table(
        [Row("x", "y", "1.5 times", 3.2), Row("long name", "z", "skipped: needs a GPU")]
    ).splitlines()
    assert lines[2] == "| x         | y       | 1.5 times            | 3       |"
    assert lines[3] == "| long name | z       | skipped: needs a GPU |         |"
