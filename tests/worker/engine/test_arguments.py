import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SettingsError
from worker.engine.arguments import KNOWN, BuilderArguments, parse_arguments, usage

MIB = 1 << 20


def test_nothing_is_left_to_tensorrt() -> None:
    assert parse_arguments("") == BuilderArguments()


def test_every_known_argument() -> None:
    text = (
        "--builderOptimizationLevel=5 --memPoolSize=workspace:1024,tacticSharedMem:48K --maxAuxStreams=2 "
        "--avgTiming=4 --maxTactics=100 --tilingOptimizationLevel=2 --l2LimitForTiling=4096 --noTF32 "
        "--sparsity=enable --profilingVerbosity=detailed"
    )
    assert {part.partition("=")[0] for part in text.split()} == set(KNOWN)
    assert parse_arguments(text) == BuilderArguments(
        optimization_level=5, workspace=1024 * MIB, shared_memory=48 << 10, auxiliary_streams=2,
        timing_iterations=4, tactics=100, tiling="MODERATE", tiling_l2=4096, tf32=False, sparse=True,
        verbosity="DETAILED",
    )  # fmt: skip


def test_shell_quoting_and_the_last_one_counts() -> None:
    assert parse_arguments("'--avgTiming=2'  --avgTiming=\"3\"") == BuilderArguments(timing_iterations=3)


@pytest.mark.parametrize(
    ("size", "expected"), [("1.5G", 3 << 29), ("16", 16 * MIB), ("7B", 7), ("2M", 2 * MIB), ("0", 0)]
)
def test_sizes(size: str, expected: int) -> None:
    assert parse_arguments(f"--memPoolSize=workspace:{size}").workspace == expected


@pytest.mark.parametrize("unknown", ["--fp16", "--best", "--useDLACore=0", "fp16", "--noTF33", "-"])
def test_an_unknown_argument_is_refused_with_those_that_are_known(unknown: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_arguments(f"--avgTiming=2 {unknown}")
    message = caught.value.message
    assert message.startswith("COSMOS_EMBED1_TRT_EXTRA_ARGS=")
    assert f"{unknown.partition('=')[0]} is not known" in message
    for name in KNOWN:
        assert usage(name) in message


@pytest.mark.parametrize(
    "bad",
    [
        "--builderOptimizationLevel=6", "--builderOptimizationLevel", "--builderOptimizationLevel=",
        "--builderOptimizationLevel=two", "--avgTiming=0", "--noTF32=1", "--sparsity=force",
        "--memPoolSize=workspace", "--memPoolSize=workspace:-1", "--memPoolSize=dlaSRAM:1",
        "--memPoolSize=workspace:1T", "--profilingVerbosity=verbose", "--tilingOptimizationLevel=FAST",
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_what_would_do(bad: str) -> None:
    with pytest.raises(SettingsError, match="must be given as") as caught:
        parse_arguments(bad)
    assert usage(bad.partition("=")[0]) in caught.value.message


def test_an_open_quote_is_refused() -> None:
    with pytest.raises(SettingsError, match="No closing quotation"):
        parse_arguments("'--noTF32")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(parse_arguments(text), BuilderArguments)
    except SettingsError as error:
        assert "COSMOS_EMBED1_TRT_EXTRA_ARGS" in error.message  # noqa: PT017 - both outcomes are right
