"""The other end of the tests of child processes: does what it is told, and tells what it sees."""

import os
import socket
import sys

import msgspec

from worker.framing import Framing


class Say(msgspec.Struct, tag=True, frozen=True):
    """Say it again."""

    text: str


class Die(msgspec.Struct, tag=True, frozen=True):
    """End: with a signal if it is negative, else with this exit status."""

    status: int


class Garbage(msgspec.Struct, tag=True, frozen=True):
    """Send these bytes as they are."""

    data: bytes


class Seen(msgspec.Struct, tag=True, frozen=True):
    """What was said, the arguments, and the environment."""

    text: str
    arguments: list[str]
    environment: dict[str, str]


TO_ECHO: Framing[Say | Die | Garbage] = Framing(Say | Die | Garbage)
FROM_ECHO: Framing[Seen] = Framing(Seen)


def main() -> None:
    """Serve until the socket is closed."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    while (message := TO_ECHO.receive(connection)) is not None:
        match message:
            case Say(text):
                connection.sendall(FROM_ECHO.pack(Seen(text, sys.argv[2:], dict(os.environ))))
            case Garbage(data):
                connection.sendall(data)
            case Die(status) if status < 0:
                os.kill(os.getpid(), -status)
            case Die(status):
                os._exit(status)


if __name__ == "__main__":
    main()
