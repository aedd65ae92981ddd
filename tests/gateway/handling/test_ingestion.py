"""Temporary assets: held while they are needed, swept when their holder is gone."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.store.asset_store import AssetStore
from shared import keys, requests
from shared.assets import Asset
from shared.redis.connection import Redis
from shared.settings import Settings


@pytest.fixture
async def store(redis: Redis, settings: Settings) -> AsyncIterator[AssetStore]:
    found = AssetStore(redis, settings)
    yield found
    found.close()


async def kept(store: AssetStore, *, temporary: bool = True, asset_id: str = "a") -> Asset:
    async with store.incoming() as folder:
        async with store.writer(f"{folder}/a.mp4") as writer:
            await writer.write(b"video")
        asset = Asset(id=asset_id, filename="a.mp4", path=f"{folder}/a.mp4", temporary=temporary)
        return await store.keep(asset)


def on_disk(asset: Asset) -> bool:
    return Path(asset.directory).exists()


async def test_a_held_asset_stays_until_it_is_released(store: AssetStore) -> None:
    await store.hold(Asset(id="a"), "holder", 60)
    asset = await kept(store)
    await store.sweep()
    assert await store.find("a")
    await store.release(asset, "holder")
    assert await store.find("a") is None
    assert not on_disk(asset)


async def test_an_asset_whose_holder_died_is_swept(store: AssetStore, redis: Redis) -> None:
    await store.hold(Asset(id="a"), "holder", -1)
    asset = await kept(store)
    await store.sweep()
    assert await store.find("a") is None
    assert not on_disk(asset)
    assert not await redis.exists(keys.TEMPORARY_ASSETS)


async def test_an_asset_about_to_be_recorded_is_not_forgotten(store: AssetStore) -> None:
    await store.hold(Asset(id="a"), "holder", 60)
    await store.sweep()
    asset = await kept(store)
    await store.release(asset, "other")
    assert await store.find("a")
    await store.release(asset, "holder")
    assert await store.find("a") is None


async def test_an_asset_that_was_never_recorded_is_forgotten(store: AssetStore, redis: Redis) -> None:
    await store.hold(Asset(id="a"), "holder", 60)
    await store.release(Asset(id="a"), "holder")
    assert not await redis.exists(keys.TEMPORARY_ASSETS)


async def test_a_request_keeps_the_asset_beyond_its_release(
    store: AssetStore, redis: Redis, settings: Settings
) -> None:
    await store.hold(Asset(id="a"), "holder", 60)
    asset = await kept(store)
    request = requests.Request(id="r", lane="video", planned=1, assets=["a"])
    await requests.submit(redis, settings, request, [])
    await store.release(asset, "holder")
    assert await store.find("a")
    await requests.finish(redis, settings, request, requests.CANCELLED)
    await store.sweep()
    assert await store.find("a") is None


async def test_an_uploaded_asset_under_the_same_id_is_left_alone(store: AssetStore) -> None:
    uploaded = await kept(store, temporary=False)
    await store.hold(Asset(id="a"), "holder", 60)
    await store.release(Asset(id="a", temporary=True), "holder")
    await store.sweep()
    assert await store.find("a") == uploaded
