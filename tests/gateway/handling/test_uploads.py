"""Uploads on the wire: many at once, cut off, refused in the middle, on several gateways."""

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.store import storage
from shared import keys
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve
from tests.support import until

MIB = 1 << 20
GIB = 1 << 30
FORM = {"purpose": "vision", "media_type": "video"}
BOUNDARY = "boundary"
HEAD = (
    "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in FORM.items()
    )
    + f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
)
TAIL = f"\r\n--{BOUNDARY}--\r\n"


@pytest.fixture
def unverified(settings: Settings) -> Settings:
    """Uploads are accepted unopened, so that no worker is needed."""
    return replace(settings, skip_media_verification=True)


def files(settings: Settings) -> list[Path]:
    return [path for path in settings.asset_dir.rglob("*") if path.is_file()]


async def upload(gateway: Gateway, data: bytes, **form: str) -> str:
    answer = await gateway.client.post("/files", data={**FORM, **form}, files={"file": ("a.mp4", data)})
    assert answer.status_code == 200, answer.text
    identity: str = answer.json()["id"]
    return identity


async def test_fifty_at_once_arrive_whole(serve: Serve, unverified: Settings, redis: Redis) -> None:
    async with serve(unverified) as one, serve(unverified) as other:
        data = [random.Random(number).randbytes(300_000 + number) for number in range(50)]
        ids = await asyncio.gather(
            *(upload((one, other)[number % 2], content) for number, content in enumerate(data))
        )
        assert len(set(ids)) == 50
        listed = (await one.client.get("/files?purpose=vision")).json()["data"]
        assert {file["id"]: file["bytes"] for file in listed} == {
            identity: len(content) for identity, content in zip(ids, data, strict=True)
        }
        for identity, content in zip(ids, data, strict=True):
            got = (await other.client.get(f"/files/{identity}/content")).content
            assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()
    assert await redis.zcard(keys.INCOMING_FOLDERS) == 0


async def test_a_client_that_vanishes_in_the_middle_leaves_nothing(
    serve: Serve, unverified: Settings
) -> None:
    async with serve(unverified) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}"
        writer.write(f"{head}\r\nContent-Length: {100 * MIB}\r\n\r\n{HEAD}".encode() + bytes(3 * MIB))
        await writer.drain()
        await until(lambda: any(path.stat().st_size for path in files(unverified)))
        writer.transport.abort()
        await until(lambda: not list((unverified.asset_dir / ".incoming").glob("*")))
        assert (await gateway.client.get("/files?purpose=vision")).json()["data"] == []


async def test_the_cap_is_reached_in_the_middle_of_an_upload(
    serve: Serve, unverified: Settings, redis: Redis
) -> None:
    bound: dict[str, Any] = {"storage_limit_gb": 10 * MIB / GIB}
    async with serve(replace(unverified, **bound)) as gateway:
        first = await upload(gateway, bytes(4 * MIB))
        await redis.zadd(keys.asset_users(first), {"a request": 2**40})
        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            yield HEAD.encode()
            for _ in range(20):
                yield bytes(MIB)
                sent += 1
            yield TAIL.encode()

        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        answer = await gateway.client.post("/files", content=body(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "ServerBusy")
        assert "retry-after" in answer.headers
        assert [path.parent.name for path in files(unverified)] == [first]
        stats = (await gateway.client.get("/assets/stats")).json()
        assert (stats["asset_count"], stats["aged_out_count"]) == (1, 0)
        await redis.delete(keys.asset_users(first))
        await upload(gateway, bytes(8 * MIB))
        assert (await gateway.client.get("/assets/stats")).json()["aged_out_count"] == 1
        gone = await gateway.client.get(f"/files/{first}")
        assert (gone.status_code, gone.json()["code"]) == (400, "BadParameter")
        assert "aged out" in gone.json()["message"]
        again = await upload(gateway, bytes(MIB), id=first)
        assert (await gateway.client.get(f"/files/{again}")).status_code == 200
        assert (await gateway.client.get("/assets/stats")).json()["aged_out_count"] == 0


async def test_statistics(serve: Serve, unverified: Settings, tmp_path: Path) -> None:
    here = tmp_path / "here.mp4"
    here.write_bytes(b"x")
    limited = replace(unverified, file_url_dirs=(str(tmp_path),))
    async with serve(replace(limited, storage_limit_gb=8, asset_max_age_hours=2.5)) as gateway:
        empty = (await gateway.client.get("/assets/stats")).json()
        assert empty == {
            "asset_count": 0, "asset_count_with_storage": 0, "aged_out_count": 0,
            "oldest_asset_age_hours": 0.0, "max_storage_usage_gb": 8, "max_asset_age_hours": 2.5,
        }  # fmt: skip
        stored = await upload(gateway, b"x")
        await gateway.client.post("/files", data={**FORM, "filename": str(here)})
        home = unverified.asset_dir / stored
        os.utime(home, (home.stat().st_mtime - 4500,) * 2)
        stats = (await gateway.client.get("/assets/stats")).json()
    assert (stats["asset_count"], stats["asset_count_with_storage"]) == (2, 1)
    assert stats["oldest_asset_age_hours"] == pytest.approx(1.25, abs=0.02)
    async with serve(unverified) as gateway:
        stats = (await gateway.client.get("/assets/stats")).json()
        assert (stats["max_storage_usage_gb"], stats["max_asset_age_hours"]) == (None, None)


async def test_a_gateway_that_dies_in_the_middle_leaves_nothing_counted(
    serve: Serve, unverified: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "CONFIRMATION_TIME", 0.0)
    lost = unverified.asset_dir / ".incoming" / "deadbeef"
    lost.mkdir(parents=True)
    (lost / "a.mp4").write_bytes(bytes(MIB))
    async with serve(unverified) as gateway:
        assert (await gateway.client.get("/assets/stats")).json()["asset_count"] == 0
        assert (await gateway.client.get("/files?purpose=vision")).json()["data"] == []
        await until(lambda: not lost.exists())
