"""What a native library prints is read, without either side waiting for the other."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from structlog.testing import capture_logs

from worker.media.gpu.native_output import NativeOutput


@contextmanager
def reading() -> Iterator[NativeOutput]:
    """Not a fixture: between fixtures and tests pytest puts a descriptor of its own in this place."""
    output = NativeOutput()
    try:
        yield output
    finally:
        output.close()


def say(text: str) -> None:
    ctypes.CDLL(None).printf(b"%s", text.encode())


def test_reports_of_damaged_pictures_are_counted() -> None:
    with reading() as output:
        assert output.errors() == 0
        say("Decode Error occurred for picture 5\nsomething else\nDecode Error occurred for ")
        assert output.errors() == 1
        say("picture 6\n")
        assert output.errors() == 2
        assert output.errors() == 2


def test_other_lines_go_to_the_log() -> None:
    with reading() as output, capture_logs() as logged:
        say("HW decoder was created\n")
        output.errors()
    assert logged == [{"event": "native library", "said": "HW decoder was created", "log_level": "info"}]


def test_a_library_that_prints_without_end_does_not_wait() -> None:
    with reading() as output:
        for _ in range(300):
            say("x" * 1000)
        assert output.errors() == 0


def test_the_descriptor_is_given_back() -> None:
    reading, writing = os.pipe()
    output = NativeOutput(writing)
    output.close()
    os.write(writing, b"plain")
    assert os.read(reading, 100) == b"plain"
    os.close(reading)
    os.close(writing)
