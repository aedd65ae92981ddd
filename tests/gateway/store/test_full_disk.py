"""An asset folder on a disk that is full or read-only, as clients see it."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.store import asset_store
from shared.fleet import Worker
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve
from tests.support import until

MIB = 1 << 20
ID = "123e4567-e89b-12d3-a456-426614174001"


class Disk:
    """A disk of 4 MiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mount("-t", "tmpfs", "-o", "size=4m", "tmpfs")

    def _mount(self, *options: str) -> None:
        command = ["mount", *options, str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs the right to mount a small disk: {done.stderr.strip()}")

    def read_only(self, *, on: bool) -> None:
        self._mount("-o", f"remount,{'ro' if on else 'rw'}")

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    made = Disk(tmp_path / "disk")
    yield made
    made.unmount()


@pytest.fixture
def on_disk(settings: Settings, disk: Disk) -> Settings:
    return replace(settings, asset_dir=disk.folder, skip_media_verification=True)


class Connection:
    """One connection to a gateway, for request after request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, Any]:
        head = f"{method} /v1{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        self._writer.write((head + (f"Content-Type: {kind}\r\n" if kind else "") + "\r\n").encode() + body)
        await self._writer.drain()
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        size = next(int(line.split(": ")[1]) for line in lines if line.startswith("content-length"))
        found = await self._reader.readexactly(size)
        return int(lines[0].split()[1]), msgspec.json.decode(found) if found[:1] in {b"{", b"["} else found

    async def upload(self, size: int) -> tuple[int, Any]:
        fields = "".join(
            f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in (("purpose", "vision"), ("media_type", "video"))
        )
        file = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        body = (fields + file).encode() + bytes(size) + b"\r\n--x--\r\n"
        return await self.ask("POST", "/files", body, "multipart/form-data; boundary=x")

    async def ready(self) -> Any:
        """What `ready` says of the store."""
        _, health = await self.ask("GET", "/ready?detailed=true")
        return next(c["message"] for c in health["checks"] if c["component"] == "asset store")


@asynccontextmanager
async def connected(gateway: Gateway) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    yield Connection(reader, writer)
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("size", [3 * MIB, 30 * MIB])
async def test_a_full_disk_is_503_and_the_connection_goes_on(
    serve: Serve, on_disk: Settings, disk: Disk, worker: Worker, size: int
) -> None:
    async with serve(on_disk) as gateway, connected(gateway) as connection:
        status, kept = await connection.upload(2 * MIB)
        assert status == 200
        status, refused = await connection.upload(size)
        assert (status, refused["code"]) == (503, "ServiceUnavailable")
        reason = f"the asset store {disk.folder} cannot be written to: No space left on device"
        assert refused["message"] == reason
        assert await connection.ready() == reason
        assert disk.files() == ["a.mp4"], "nothing partial stays"
        assert (await connection.ask("DELETE", f"/files/{kept['id']}"))[0] == 200
        assert (await connection.upload(3 * MIB))[0] == 200


async def test_a_disk_that_becomes_read_only_is_told_and_found_well_again(
    serve: Serve, on_disk: Settings, disk: Disk, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asset_store, "SWEEP_INTERVAL", 0.1)
    async with serve(on_disk) as gateway, connected(gateway) as connection:
        disk.read_only(on=True)
        status, refused = await connection.upload(10)
        assert status == 503
        reason = f"the asset store {disk.folder} cannot be written to: Read-only file system"
        assert refused["message"] == await connection.ready() == reason
        inline = msgspec.json.encode({"id": ID, "model": "null", "url": "data:video/mp4;base64,AAAA"})
        status, refused = await connection.ask(
            "POST", "/generate_video_embeddings", inline, "application/json"
        )
        assert (status, refused["message"]) == (503, reason)
        disk.read_only(on=False)
        await until(lambda: not gateway.context.assets.problem)
        assert await connection.ready() == "running"
        assert (await connection.upload(10))[0] == 200


async def test_a_gateway_that_starts_with_a_full_disk_is_not_ready(
    serve: Serve, on_disk: Settings, disk: Disk, worker: Worker
) -> None:
    disk.folder.joinpath("filler").write_bytes(bytes(4 * MIB))
    async with serve(on_disk) as gateway, connected(gateway) as connection:
        assert (await connection.ask("GET", "/ready"))[0] == 503
        assert "No space left on device" in await connection.ready()
