"""A TCP proxy that breaks connections: `python -m tests.chaos.proxy`, told by lines on its input.

    open NAME PORT TARGET     a link: connections to PORT go to the port TARGET
    target NAME TARGET        new connections go there; open ones stay where they are
    MODE NAME [SECONDS]       pass; cut (open connections are reset, new ones refused); half_close (open ones
                              get an end of file from the server's side); black_hole (nothing gets through,
                              nothing is lost); delay (each piece waits); accept_and_reset

Each line is answered with one.
"""

import asyncio
import contextlib
import socket
import struct
import sys

HOST = "127.0.0.1"
PIECE = 1 << 16
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST
Ends = tuple[asyncio.StreamWriter, asyncio.StreamWriter]


class Link:
    """One port and where it leads."""

    def __init__(self, port: int, target: int) -> None:
        self.target = target
        self._port = port
        self._mode = "pass"
        self._seconds = 0.0
        self._listener: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._ends: set[Ends] = set()
        self._ended: set[asyncio.StreamWriter] = set()
        """Those to which the proxy has said that nothing more comes."""

    async def set(self, mode: str, seconds: float = 0.0) -> None:
        """Change how connections are treated; open ones are broken at once by what breaks them."""
        self._mode, self._seconds = mode, seconds
        if mode == "black_hole":
            self._flowing.clear()
        else:
            self._flowing.set()
        if mode == "cut" and self._listener:
            self._listener.close()
            self._listener = None
        elif not self._listener:
            self._listener = await asyncio.start_server(self._serve, HOST, self._port, backlog=1000)
        for ends in tuple(self._ends):
            if mode in {"cut", "accept_and_reset"}:
                for writer in ends:
                    reset(writer)
            elif mode == "half_close":
                self._end(ends[0])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "accept_and_reset":
            reset(writer)
            return
        ends: Ends | None = None
        try:
            await self._flowing.wait()
            there_reader, there = await asyncio.open_connection(HOST, self.target)
            ends = writer, there
            self._ends.add(ends)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy(reader, there))
                both.create_task(self._copy(there_reader, writer))
        except* OSError:
            reset(writer)
        finally:
            for one in ends or (writer,):
                self._ended.discard(one)
                one.close()
            self._ends.discard(ends or (writer, writer))

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(PIECE):
            await self._flowing.wait()
            if self._mode == "delay":
                await asyncio.sleep(self._seconds)
            if sink not in self._ended:
                sink.write(data)
                await sink.drain()
        self._end(sink)

    def _end(self, sink: asyncio.StreamWriter) -> None:
        self._ended.add(sink)
        with contextlib.suppress(OSError):
            sink.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST instead of FIN."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def obey() -> None:
    """Obey until the input ends."""
    links: dict[str, Link] = {}
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        match line.decode().split():
            case ["open", name, port, target]:
                links[name] = Link(int(port), int(target))
                await links[name].set("pass")
            case ["target", name, target]:
                links[name].target = int(target)
            case [mode, name, *seconds]:
                await links[name].set(mode, *map(float, seconds))
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(obey())
