from pathlib import Path

import pytest

from shared.errors import ModelError
from worker.models.cosmos_embed1 import environment
from worker.models.cosmos_embed1.environment import LOCK, MARK, interpreter, make_environment


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A lock of nothing, and a check that looks for nothing."""
    lock = tmp_path / "lock.txt"
    lock.write_text("# nothing\n")
    monkeypatch.setattr(environment, "LOCK", lock)
    monkeypatch.setattr(environment, "CHECK", "pass")
    return lock


def test_the_lock_has_what_checkpoints_import_and_a_version_of_everything() -> None:
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    assert {"torch", "torchvision", "einops"} <= {line.partition("==")[0] for line in lines}
    assert "transformers==4.51.3" in lines
    assert all(line.partition("==")[2] for line in lines)


def test_an_environment_is_made_once(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "environment"
    python = make_environment(folder, "")
    assert Path(python).exists()
    assert interpreter(str(folder)) == python
    assert interpreter(python) == python
    (folder / "mine").write_text("still there")
    assert make_environment(folder, "") == python
    assert (folder / "mine").exists()
    small.write_text("# another lock\n")
    make_environment(folder, "")
    assert not (folder / "mine").exists()


@pytest.mark.usefixtures("small")
def test_what_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ModelError, match="neither empty nor an environment"):
        make_environment(tmp_path / "mine", "")


def test_a_package_that_cannot_be_had_is_named(small: Path, tmp_path: Path) -> None:
    small.write_text("no-such-package-as-this==9.9\n")
    folder = tmp_path / "environment"
    with pytest.raises(ModelError, match=r"(?s)ended with code 1:.*no-such-package-as-this==9\.9"):
        make_environment(folder, "")
    assert not (folder / MARK).exists()
