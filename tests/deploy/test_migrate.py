"""The migration guide tells the truth about variables."""

import re
from pathlib import Path

from shared.settings.loading import VARIABLES
from shared.settings.names import WITHOUT_EFFECT, WITHOUT_EFFECT_BY_PREFIX

GUIDE = (Path(__file__).parents[2] / "deploy" / "migrate.md").read_text()


def names(heading: str, column: int) -> set[str]:
    section = GUIDE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")]
    return {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_*]+)`", row[column])}


def test_variables_with_the_same_meaning_are_settings() -> None:
    listed = names("Variables with the same meaning", 2)
    assert len(listed) > 60
    assert listed <= VARIABLES


def test_variables_without_effect_are_those_that_a_start_names() -> None:
    expected = {*WITHOUT_EFFECT, *(f"{prefix}*" for prefix in WITHOUT_EFFECT_BY_PREFIX)}
    assert names("Variables without effect", 1) == expected
    assert not set(WITHOUT_EFFECT) & VARIABLES


def test_what_replaces_a_variable_is_a_setting_or_a_name_of_compose() -> None:
    compose = (Path(__file__).parents[2] / "deploy" / "compose.yaml").read_text()
    ours = {name for name in names("Variables with another name or place", 2) if name.startswith("RTEMBED_")}
    assert not {name for name in ours if name not in VARIABLES and name not in compose}
