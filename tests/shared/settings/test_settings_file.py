from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.settings import load
from shared.settings.settings_file import MOST_BYTES, apply_settings_file, origins, read_settings_file


def written(folder: Path, text: str, name: str = "rt-embed.env") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_lines_are_read_as_compose_writes_them(tmp_path: Path) -> None:
    text = """# ours

        export REDIS_HOST=redis-1  # first
        REDIS_PASSWORD='a #"${b}'
        LOG_LEVEL="DEBUG" # loud
        HF_TOKEN=
        """
    assert read_settings_file(written(tmp_path, text)) == {
        "REDIS_HOST": "redis-1", "REDIS_PASSWORD": 'a #"${b}', "LOG_LEVEL": "DEBUG", "HF_TOKEN": "",
    }  # fmt: skip


def test_toml_may_have_headings_and_types(tmp_path: Path) -> None:
    text = (
        'MODEL_PATH = "demo"\n[redis]\nREDIS_PORT = 6380\nREDIS_CLUSTER = true\nRTEMBED_REDIS_TIMEOUT = 2.5\n'
    )
    variables = read_settings_file(written(tmp_path, text, "rt-embed.toml"))
    settings = load(variables)
    assert (settings.model_path, settings.redis_port, settings.redis_cluster) == ("demo", 6380, True)
    assert settings.redis_timeout == 2.5


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("REDIS_HOST\n", "a.env", r"a\.env, line 1: must be NAME=value"),
        ("A=1\nREDIS_HOST='x\n", "a.env", "line 2: REDIS_HOST has no closing '"),
        ("REDIS_HOST=${HOST}\n", "a.env", r"line 1: REDIS_HOST names another variable: \$\{...\}"),
        ("REDIS_HOST = [", "a.toml", "is not TOML"),
        ('REDIS_SENTINELS = ["a"]', "a.toml", "REDIS_SENTINELS must be a string, a number, true or false"),
        ('"a b" = 1', "a.toml", "'a b' cannot be a variable"),
        ("#" * (MOST_BYTES + 1), "a.env", "is longer than 1048576 bytes"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings_file(written(tmp_path, text, name))


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_settings_file(tmp_path / "none.env")
    (tmp_path / "b.env").write_bytes(b"A=\xff\n")
    with pytest.raises(SettingsError, match="is not UTF-8"):
        read_settings_file(tmp_path / "b.env")


def test_the_environment_wins_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.settings.settings_file.origins", {})
    path = written(tmp_path, "REDIS_HOST=of-the-file\nREDIS_PORT=6380\n")
    environment = {"REDIS_HOST": "of-the-environment"}
    apply_settings_file(path, environment)
    assert environment == {"REDIS_HOST": "of-the-environment", "REDIS_PORT": "6380"}
    assert "REDIS_HOST" not in origins
