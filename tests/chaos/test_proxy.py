"""The proxy breaks connections as it is told to."""

import socket
import time
from collections.abc import Iterator

import pytest

from tests.chaos.parts import ToldPart
from tests.support import free_port


class Wire:
    """The proxy with one link, and the listener behind it."""

    def __init__(self, proxy: ToldPart) -> None:
        self._proxy = proxy
        self._port = free_port()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(10)
        proxy.tell("open", "link", self._port, self.listener.getsockname()[1])

    def set(self, mode: str, *seconds: float) -> None:
        self._proxy.tell(mode, "link", *seconds)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=10)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A connection's two ends, the client's first."""
        here = self.connect()
        there, _ = self.listener.accept()
        there.settimeout(10)
        return here, there


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    proxy = ToldPart("proxy", "tests.chaos.proxy", tmp_path_factory.mktemp("proxy") / "log")
    proxy.start()
    wire = Wire(proxy)
    yield wire
    wire.listener.close()
    proxy.kill()


@pytest.fixture
def ends(wire: Wire) -> Iterator[tuple[socket.socket, socket.socket]]:
    wire.set("pass")
    here, there = wire.pair()
    here.sendall(b"hello")
    assert there.recv(5) == b"hello"
    yield here, there
    here.close()
    there.close()


Ends = tuple[socket.socket, socket.socket]


def test_cut(wire: Wire, ends: Ends) -> None:
    wire.set("cut")
    for end in ends:
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    with pytest.raises(ConnectionRefusedError):
        wire.connect()
    wire.set("pass")
    for end in wire.pair():
        end.close()


def test_accept_and_reset(wire: Wire, ends: Ends) -> None:
    wire.set("accept_and_reset")
    with pytest.raises(ConnectionResetError):
        ends[0].recv(1)
    with pytest.raises(ConnectionResetError), wire.connect() as again:  # perhaps while connecting
        again.recv(1)


def test_half_close(wire: Wire, ends: Ends) -> None:
    here, there = ends
    wire.set("half_close")
    assert here.recv(1) == b""
    here.sendall(b"still")
    assert there.recv(5) == b"still"


def test_black_hole(wire: Wire, ends: Ends) -> None:
    here, there = ends
    wire.set("black_hole")
    here.sendall(b"later")
    there.settimeout(0.2)
    with pytest.raises(TimeoutError):
        there.recv(5)
    wire.set("pass")
    there.settimeout(10)
    assert there.recv(5) == b"later"


def test_delay(wire: Wire, ends: Ends) -> None:
    here, there = ends
    wire.set("delay", 0.2)
    began = time.monotonic()
    here.sendall(b"late")
    assert there.recv(4) == b"late"
    assert time.monotonic() - began >= 0.2
