import zipfile
from pathlib import Path

import pytest

from shared.errors import ModelError
from worker.models.cosmos_embed1 import environment
from worker.models.cosmos_embed1.environment import LOCK, MARK, PYTORCH, interpreter, make_environment


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A lock of nothing, and a check that looks for nothing."""
    lock = tmp_path / "lock.txt"
    lock.write_text("# nothing\n")
    monkeypatch.setattr(environment, "LOCK", lock)
    monkeypatch.setattr(environment, "PYTORCH", ("pip",))
    monkeypatch.setattr(environment, "CHECK", "pass")
    return lock


def test_what_checkpoints_import_comes_in_one_version_with_hashes() -> None:
    listed = [part.split() for part in LOCK.read_text().replace("\\\n", " ").splitlines() if part[0] != "#"]
    assert {"einops==0.8.2", "transformers==4.51.3"} <= {name for name, *_ in listed}
    assert all(hashes and all(h.startswith("--hash=sha256:") for h in hashes) for _, *hashes in listed)
    assert [pin.partition("==")[0] for pin in PYTORCH] == ["torch", "torchvision"]
    assert not {name.partition("==")[0] for name, *_ in listed} & {"torch", "torchvision"}


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


def test_a_package_that_is_not_what_was_listed_is_refused(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    small.write_text(f"thing==1.0 --hash=sha256:{64 * '0'}\n")
    folder = tmp_path / "environment"
    with pytest.raises(ModelError, match=r"(?s)ended with code 1:.*DO NOT MATCH THE HASHES.*thing==1\.0"):
        make_environment(folder, "")
    assert not (folder / MARK).exists()
