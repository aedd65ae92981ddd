"""Which files of the server a client may name."""

import os
from pathlib import Path

import pytest

from gateway.intake.server_files import find_server_file
from shared.errors import Forbidden, MissingFile


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder `films` with a film and links, beside a folder that nobody may name."""
    films, secret = tmp_path / "films", tmp_path / "secret"
    for folder in (films / "more", secret):
        folder.mkdir(parents=True)
    for file in (films / "a.mp4", films / "more" / "b c.mp4", secret / "id.png"):
        file.write_bytes(b"x")
    (films / "inside.mp4").symlink_to(films / "a.mp4")
    (films / "outside.mp4").symlink_to(secret / "id.png")
    (films / "folder").symlink_to(secret)
    (films / "loop.mp4").symlink_to(films / "loop.mp4")
    (tmp_path / "shortcut").symlink_to(films)
    os.mkfifo(films / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("films/a.mp4", "films/a.mp4"),
        ("films/more/b c.mp4", "films/more/b c.mp4"),
        ("films/more/../a.mp4", "films/a.mp4"),
        ("films/inside.mp4", "films/a.mp4"),
        ("shortcut/a.mp4", "films/a.mp4"),
    ],
)
@pytest.mark.parametrize("folder", ["films", "shortcut"])
def test_files_of_a_listed_folder_are_found(disk: Path, folder: str, named: str, found: str) -> None:
    allowed = [str(disk / folder), str(disk / "shortcut")]
    assert find_server_file(f"{disk}/{named}", allowed) == disk / found


@pytest.mark.parametrize(
    "named",
    ["secret/id.png", "secret/none.png", "films/../secret/id.png", "films/outside.mp4", "films/folder/id.png",
     "films/folder/../id.png", "filmsandmore/a.mp4", "", "films/../"],
)  # fmt: skip
def test_every_other_file_is_forbidden(disk: Path, named: str) -> None:
    with pytest.raises((Forbidden, MissingFile)) as refused:
        find_server_file(f"{disk}/{named}", [str(disk / "films")])
    if "folder/.." not in named:
        assert isinstance(refused.value, Forbidden)


@pytest.mark.parametrize("named", ["films/none.mp4", "films", "films/more", "films/pipe", "films/loop.mp4"])
def test_what_is_no_regular_file_is_missing(disk: Path, named: str) -> None:
    with pytest.raises(MissingFile):
        find_server_file(f"{disk}/{named}", [str(disk / "films")])


@pytest.mark.parametrize("named", ["a.mp4", "./a.mp4", "films/a.mp4", "~/a.mp4"])
def test_relative_paths_are_forbidden(disk: Path, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(disk)
    with pytest.raises(Forbidden):
        find_server_file(named, [str(disk)])


def test_without_folders_everything_is_forbidden(disk: Path) -> None:
    with pytest.raises(Forbidden):
        find_server_file(f"{disk}/films/a.mp4", [])


def test_nothing_is_looked_at_outside_the_folders(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So neither the answer nor its time can tell what there is."""
    looked: list[str] = []
    real = os.path.realpath

    def realpath(path: str) -> str:
        looked.append(str(path))
        return real(path)

    monkeypatch.setattr("gateway.intake.server_files.os.path.realpath", realpath)
    for named in ("secret/id.png", "secret/none.png"):
        with pytest.raises(Forbidden):
            find_server_file(f"{disk}/{named}", [str(disk / "films")])
    assert set(looked) == {str(disk / "films")}
