"""Texts for one call of an engine: those of like length together, so that little is padded."""

from collections.abc import Sequence

MOST_TOKENS = 4096
"""Of one call, padding included: 32 texts of 128 tokens."""


def text_runs(lengths: Sequence[int], most_texts: int, most_tokens: int = MOST_TOKENS) -> list[list[int]]:
    """Cut texts of these `lengths` (tokens) into runs of at most `most_texts` texts and, padded to their
    longest, `most_tokens` tokens; a text that is longer than that has a run of its own. Each run is the
    indexes of its texts, and every index is in one run."""
    runs: list[list[int]] = []
    run: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if run and (len(run) == most_texts or (len(run) + 1) * lengths[index] > most_tokens):
            runs.append(run)
            run = []
        run.append(index)
    return [*runs, run] if run else runs
