"""Local files as a decoder process gets them: opened by its worker, each reader with a place of its own."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import InvalidFile
from worker.media.decoder.container.byte_sources import ByteSources, hand_over, open_file, receive_files

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Pair]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with pair[0], pair[1]:
        pair[0].setblocking(False)
        yield pair


def opened(path: Path) -> list[str]:
    """This process' descriptors of the file."""
    found = Path("/proc/self/fd").iterdir()
    return [fd.name for fd in found if fd.is_symlink() and os.path.realpath(fd) == str(path)]


def test_files_come_to_the_other_end_in_order(tmp_path: Path, ends: Pair) -> None:
    paths = [tmp_path / f"{index}.bin" for index in range(50)]
    for path in paths:
        path.write_text(path.name)
    ours, theirs = ends
    hand_over(ours, [open_file(str(path)) for path in paths])
    sources = ByteSources(handed=theirs)
    sources.begin([str(path) for path in paths])
    assert [sources.read(str(path), 100) for path in paths] == [path.name.encode() for path in paths]
    sources.end()
    assert opened(paths[0]) == []


def test_what_was_not_handed_over_cannot_be_read(tmp_path: Path, ends: Pair) -> None:
    path = tmp_path / "a"
    path.write_text("a")
    ours, theirs = ends
    hand_over(ours, [open_file(str(path))])
    sources = ByteSources(handed=theirs)
    sources.begin([str(path)])
    with pytest.raises(FileNotFoundError, match="passwd was not handed over"):
        sources.read("/etc/passwd", 10)
    assert sources.facts("/etc/passwd") is None


def test_fewer_files_than_paths_are_an_error(tmp_path: Path, ends: Pair) -> None:
    path = tmp_path / "a"
    path.touch()
    ours, theirs = ends
    hand_over(ours, [open_file(str(path))])
    with pytest.raises(OSError, match="1 files came from the worker, not 2"):
        receive_files(theirs, ["a", "b"])
    assert opened(path) == []


def test_a_process_that_takes_no_files_does_not_hold_up_the_worker(tmp_path: Path, ends: Pair) -> None:
    path = tmp_path / "a"
    path.touch()
    files = [open_file(str(path))]

    def go_on() -> None:
        for _ in range(10_000):
            hand_over(ends[0], files)

    with pytest.raises(OSError):  # noqa: PT011 - which one is the kernel's choice
        go_on()


def test_readers_of_one_file_do_not_move_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(range(100)))
    sources = ByteSources()
    first, second = sources.for_ffmpeg(str(path)), sources.for_ffmpeg(str(path))
    assert first.read(3) == bytes([0, 1, 2])
    assert second.seek(-2, os.SEEK_END) == 98
    assert second.read(10) == bytes([98, 99])
    assert second.read(10) == b""
    assert first.read(1) == bytes([3])
    assert (first.tell(), second.tell()) == (4, 100)
    assert first.seek(500) == 500
    assert first.read(1) == b""


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """Opening it as a file would wait for somebody who writes."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidFile, match="pipe is not a regular file"):
        open_file(str(tmp_path / "pipe"))
    assert opened(tmp_path / "pipe") == []


def test_facts_change_with_the_file(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_text("one")
    sources = ByteSources()
    before = sources.facts(str(path))
    assert sources.facts(str(path)) == before
    assert before is not None
    assert before.size == 3
    other.write_text("two")
    other.replace(path)
    assert sources.facts(str(path)) != before
