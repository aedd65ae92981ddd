import json
from pathlib import Path

import pytest

from shared.settings.loading import VARIABLES
from tests.rt_embed.cli.test_main import rt_embed


def test_values_are_told_with_their_origin_and_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "rt-embed.toml"
    file.write_text('REDIS_PORT = 6380\nREDIS_HOST = "of-the-file"\nREDIS_PASSWORD = "hunter2"\n')
    done = rt_embed("settings", "--config", str(file), REDIS_HOST="redis-1", MODE="release", COLUMNS="300")
    assert done.returncode == 0, done.stderr
    rows = {
        line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.startswith("REDIS")
    }
    assert rows == {
        "REDIS_HOST": ["redis-1", "environment"],
        "REDIS_PORT": ["6380", str(file)],
        "REDIS_PASSWORD": ["(hidden)", str(file)],
    }
    assert "hunter2" not in done.stdout + done.stderr
    assert "MODE has no effect here" in done.stderr


def test_json_has_every_variable_by_group() -> None:
    done = rt_embed("settings", "--json", RTEMBED_API_KEYS="dock:s3cret")
    rows = json.loads(done.stdout)
    assert {row["variable"] for row in rows} == VARIABLES
    assert all(row.keys() == {"group", "variable", "value", "origin"} for row in rows)
    assert "s3cret" not in done.stdout
    (sentinels,) = (row for row in rows if row["variable"] == "REDIS_SENTINELS")
    assert sentinels == {"group": "Redis", "variable": "REDIS_SENTINELS", "value": None, "origin": "default"}


def test_a_word_chooses_variables() -> None:
    done = rt_embed("settings", "sentinel")
    assert "REDIS_SENTINEL_MASTER" in done.stdout
    assert "REDIS_HOST" not in done.stdout
    assert "no setting has 'nothing-like-it'" in rt_embed("settings", "nothing-like-it").stderr


def test_what_is_wrong_is_named_below_what_is_in_effect() -> None:
    done = rt_embed(
        "settings", BACKEND_PORT="http", REDIS_HOST="redis-1", RTEMBED_BAKEND="cpu", COLUMNS="300"
    )
    assert done.returncode == 2
    port, host = (line.split(maxsplit=2) for line in done.stdout.splitlines() if line[:4] in ("BACK", "REDI"))
    assert port == ["BACKEND_PORT", "8000", "default: the one of environment is wrong"]
    assert host == ["REDIS_HOST", "redis-1", "environment"]
    assert "BACKEND_PORT='http': must be a whole number" in done.stderr
    assert "RTEMBED_BAKEND: there is no such setting" in done.stderr


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_file_counts_for_every_command_wherever_it_is_named(tmp_path: Path, place: str) -> None:
    file = tmp_path / "rt-embed.env"
    file.write_text("BACKEND_PORT=none\n")
    option, command = ["--config", str(file)], ["gateway"]
    done = rt_embed(*(option + command if place == "before" else command + option))
    assert done.returncode == 2
    assert "BACKEND_PORT='none': must be a whole number" in done.stderr


def test_a_wrong_file_ends_a_command_with_2(tmp_path: Path) -> None:
    done = rt_embed("settings", "--config", str(tmp_path / "none.env"))
    assert done.returncode == 2
    assert "none.env: cannot be read: No such file or directory" in done.stderr
