"""The asset store: one id, one folder; a cap, an age, and nothing left behind."""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import storage
from gateway.assets import AssetStore
from gateway.storage import Writer
from shared import keys, requests
from shared.assets import Asset
from shared.errors import BadParameter, DuplicateAssetId, ResourceInUse, ServerBusy
from shared.redis import Redis
from shared.settings import Settings
from tests.support import until

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


@pytest.fixture
async def stores(redis: Redis, settings: Settings) -> AsyncIterator[Callable[..., AssetStore]]:
    """Stores on one folder and one Redis, as several gateways have them; `cap` in bytes."""
    made: list[AssetStore] = []

    def make(cap: int = 0, hours: float = 0) -> AssetStore:
        made.append(
            AssetStore(redis, replace(settings, storage_limit_gb=cap / GIB, asset_max_age_hours=hours))
        )
        return made[-1]

    yield make
    for store in made:
        store.close()


@asynccontextmanager
async def closing(writer: Writer) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await writer.close()


async def add(store: AssetStore, size: int = 100 * KIB, *, age: float = 0, asset_id: str = "") -> Asset:
    """Write and keep a file, whose folder was last changed `age` seconds ago."""
    async with store.incoming() as folder:
        async with closing(writer := store.writer(folder / "a.mp4")):
            for start in range(0, size, 10 * KIB):
                await writer.write(bytes(min(10 * KIB, size - start)))
        asset = Asset(
            id=asset_id or str(uuid.uuid4()), filename="a.mp4", path=str(folder / "a.mp4"), size=size
        )
        asset = await store.keep(asset, folder)
    then = time.time() - age
    os.utime(asset.directory, (then, then))
    return asset


def lose(asset: Asset) -> None:
    Path(asset.path).unlink()


async def known(store: AssetStore, *assets: Asset) -> list[bool]:
    return [await store.find(asset.id) is not None for asset in assets]


def files(settings: Settings) -> list[Path]:
    return [path for path in settings.asset_dir.rglob("*") if path.is_file()]


# One id -----------------------------------------------------------------------------------------------


async def test_of_many_uploads_with_one_id_one_is_kept_whole(
    stores: Callable[..., AssetStore], settings: Settings
) -> None:
    gateways = [stores(), stores()]
    wanted = str(uuid.uuid4())
    outcomes = await asyncio.gather(
        *(add(gateways[number % 2], (number + 1) * KIB, asset_id=wanted) for number in range(20)),
        return_exceptions=True,
    )
    kept = [outcome for outcome in outcomes if isinstance(outcome, Asset)]
    assert len(kept) == 1
    assert all(isinstance(outcome, DuplicateAssetId) for outcome in outcomes if outcome not in kept)
    assert [path.stat().st_size for path in files(settings)] == [kept[0].size]
    assert await gateways[0].find(wanted) == kept[0]


async def test_a_registration_whose_answer_was_lost_may_be_repeated(
    stores: Callable[..., AssetStore], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=7))
    first, again = [await stores().register(Asset(id="a")) for _ in range(2)]
    assert first == again
    monkeypatch.undo()
    with pytest.raises(DuplicateAssetId):
        await stores().register(Asset(id="a"))


async def test_an_upload_that_is_cancelled_while_it_is_kept_leaves_nothing(
    stores: Callable[..., AssetStore], settings: Settings, redis: Redis
) -> None:
    store = stores()
    for turn in range(12):
        adding = asyncio.create_task(add(store, KIB))
        for _ in range(10 * turn):
            await asyncio.sleep(0)
        adding.cancel()
        (outcome,) = await asyncio.gather(adding, return_exceptions=True)
        if isinstance(outcome, Asset):
            await store.delete(outcome)
    assert files(settings) == []
    assert await store.all() == []
    assert not await redis.exists(keys.ARRIVING_ASSETS)


# The cap ----------------------------------------------------------------------------------------------


async def test_the_oldest_assets_go_when_the_cap_is_near(
    stores: Callable[..., AssetStore], settings: Settings
) -> None:
    store = stores(cap=1000 * KIB)
    old, older, new = [await add(store, 250 * KIB, age=age) for age in (200, 300, 100)]
    added = await add(store, 200 * KIB)
    assert await known(store, old, older, new, added) == [True, False, True, True]
    assert sum(path.stat().st_size for path in files(settings)) <= 900 * KIB
    with pytest.raises(BadParameter, match="aged out"):
        await store.get(older.id)


async def test_an_asset_in_use_is_never_evicted(
    stores: Callable[..., AssetStore], redis: Redis, settings: Settings
) -> None:
    store = stores(cap=1000 * KIB)
    used = await add(store, 500 * KIB, age=900)
    free = await add(store, 300 * KIB)
    request = requests.Request(id="r", lane="video", planned=1, assets=[used.id])
    await requests.submit(redis, settings, request, [])
    await add(store, 300 * KIB)
    assert await known(store, used, free) == [True, False]
    with pytest.raises(ResourceInUse):
        await store.delete(used)


async def test_what_lies_elsewhere_is_never_evicted(
    stores: Callable[..., AssetStore], tmp_path: Path
) -> None:
    store = stores(cap=200 * KIB, hours=1e-9)
    here = tmp_path / "here.mp4"
    here.write_bytes(bytes(500 * KIB))
    registered = await store.register(Asset(id=str(uuid.uuid4()), path=str(here), filename="here.mp4"))
    camera = await store.register(Asset(id=str(uuid.uuid4()), kind="stream", path="rtsp://camera"))
    await add(store, 190 * KIB)
    await add(store, 190 * KIB)
    await store.room.tidy()
    assert await known(store, registered, camera) == [True, True]
    assert here.exists()


async def test_an_upload_that_finds_no_room_is_refused_and_removed(
    stores: Callable[..., AssetStore], redis: Redis, settings: Settings
) -> None:
    store = stores(cap=1000 * KIB)
    used = await add(store, 600 * KIB)
    request = requests.Request(id="r", lane="video", planned=1, assets=[used.id])
    await requests.submit(redis, settings, request, [])
    with pytest.raises(ServerBusy, match="full"):
        await add(store, 500 * KIB)
    assert [path.stat().st_size for path in files(settings)] == [600 * KIB]
    await requests.finish(redis, settings, request, requests.CANCELLED)
    assert await add(store, 500 * KIB)
    assert await known(store, used) == [False]


async def test_several_gateways_share_the_cap(stores: Callable[..., AssetStore], settings: Settings) -> None:
    gateways = [stores(cap=4 * MIB) for _ in range(3)]
    for _ in range(4):
        await asyncio.gather(*(add(store, 400 * KIB) for store in gateways), return_exceptions=True)
        assert sum(path.stat().st_size for path in files(settings)) <= 4 * MIB
    assert len(files(settings)) >= 5, "they do not evict more than is needed"


async def test_an_evicted_id_can_be_used_again(stores: Callable[..., AssetStore], redis: Redis) -> None:
    store = stores()
    asset = await add(store)
    assert await store.age_out(asset.id)
    assert await store.aged_out() == 1
    again = await add(store, asset_id=asset.id)
    assert await store.get(asset.id) == again
    assert await store.aged_out() == 0


# Age --------------------------------------------------------------------------------------------------


async def test_assets_go_at_their_greatest_age(stores: Callable[..., AssetStore]) -> None:
    store = stores(hours=1)
    old, young = await add(store, age=3700), await add(store, age=3500)
    await store.room.tidy()
    assert await known(store, old, young) == [False, True]


async def test_without_cap_and_age_everything_stays(stores: Callable[..., AssetStore]) -> None:
    store = stores()
    asset = await add(store, age=10 * 365 * 86_400)
    await store.room.tidy()
    await store.room.run()
    assert await known(store, asset) == [True]


# Left behind ------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.0)


@pytest.mark.usefixtures("impatient")
async def test_what_a_dead_gateway_was_writing_goes(
    stores: Callable[..., AssetStore], settings: Settings, redis: Redis
) -> None:
    dead, alive = stores(), stores()
    async with dead.incoming() as lost, alive.incoming() as writing:
        (lost / "a.mp4").write_bytes(b"half")
        (writing / "b.mp4").write_bytes(b"half")
        await redis.zadd(keys.INCOMING_FOLDERS, {lost.name: 1})
        await alive.sweep_leftovers()
        assert not lost.exists()
        assert writing.exists()


async def test_an_upload_under_way_outlives_a_redis_that_forgot_it(
    stores: Callable[..., AssetStore], redis: Redis
) -> None:
    store = stores()
    async with store.incoming() as folder:
        await redis.delete(keys.INCOMING_FOLDERS)
        await store.sweep_leftovers()
        cleaning = asyncio.create_task(store.run())
        await until(lambda: redis.zscore(keys.INCOMING_FOLDERS, folder.name))
        cleaning.cancel()
        await asyncio.gather(cleaning, return_exceptions=True)
        assert folder.exists()


async def test_a_file_moved_but_never_recorded_goes(
    stores: Callable[..., AssetStore], settings: Settings, redis: Redis
) -> None:
    store = stores()
    lost = str(uuid.uuid4())
    (settings.asset_dir / lost).mkdir(parents=True)
    await redis.zadd(keys.ARRIVING_ASSETS, {lost: 1})
    kept = await add(store)
    await redis.zadd(keys.ARRIVING_ASSETS, {kept.id: 1})
    await store.sweep_leftovers()
    assert not (settings.asset_dir / lost).exists()
    assert [path.parent.name for path in files(settings)] == [kept.id]
    assert not await redis.exists(keys.ARRIVING_ASSETS)


async def test_a_folder_without_a_record_makes_room_first_by_age(
    stores: Callable[..., AssetStore], settings: Settings
) -> None:
    store = stores(cap=1000 * KIB)
    lost = settings.asset_dir / str(uuid.uuid4())
    lost.mkdir(parents=True)
    (lost / "a.mp4").write_bytes(bytes(500 * KIB))
    os.utime(lost, (1, 1))
    foreign = settings.asset_dir / "not-an-asset"
    foreign.mkdir()
    added = [await add(store, 300 * KIB) for _ in range(2)]
    assert not lost.exists()
    assert foreign.exists()
    assert await known(store, *added) == [True, True]
    assert await store.aged_out() == 0


@pytest.mark.usefixtures("impatient")
async def test_records_whose_files_are_lost_are_forgotten(
    stores: Callable[..., AssetStore], redis: Redis, settings: Settings, tmp_path: Path
) -> None:
    store = stores()
    lost, whole, used = [await add(store) for _ in range(3)]
    registered = await store.register(Asset(id="r", path=str(tmp_path / "gone.mp4"), filename="gone.mp4"))
    request = requests.Request(id="r", lane="video", planned=1, assets=[used.id])
    await requests.submit(redis, settings, request, [])
    for asset in (lost, used):
        lose(asset)
    await store.heal()
    assert await known(store, lost, whole, used, registered) == [False, True, True, True]


async def test_a_file_missing_for_a_moment_is_not_forgotten(
    stores: Callable[..., AssetStore], settings: Settings
) -> None:
    store = stores()
    asset = await add(store)
    home, away = settings.asset_dir / asset.id, settings.asset_dir / "away"
    home.rename(away)
    await store.heal()
    away.rename(home)
    await store.heal()
    assert await known(store, asset) == [True]
