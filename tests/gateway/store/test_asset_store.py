"""The asset store, on a folder and on a bucket: one id, one file; a cap, an age, and nothing left behind."""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pytest

from gateway.store import bucket, storage
from gateway.store.asset_store import AssetStore
from shared import keys, requests, s3
from shared.assets import Asset
from shared.errors import BadParameter, DuplicateAssetId, ResourceInUse, ServerBusy, Unavailable
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.buckets import Buckets
from tests.support import until

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


class FolderPlace:
    """The shared folder, seen from outside."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def sizes(self) -> list[int]:
        """The bytes of every file."""
        return [path.stat().st_size for path in self.settings.asset_dir.rglob("*") if path.is_file()]

    def uploads(self) -> list[str]:
        return [path.name for path in (self.settings.asset_dir / ".incoming").rglob("*.mp4")]

    def age(self, asset: Asset, seconds: float) -> None:
        then = time.time() - seconds
        os.utime(asset.directory, (then, then))

    def write(self, path: str) -> None:
        Path(path).write_bytes(b"half")

    def remove(self, path: str) -> None:
        Path(path).unlink()

    def exists(self, path: str) -> bool:
        return Path(path).exists()


class BucketPlace:
    """The bucket, seen from outside."""

    def __init__(self, settings: Settings, buckets: Buckets) -> None:
        self.bucket = buckets.make()
        self.settings = replace(
            settings,
            asset_store=f"s3://{self.bucket.name}/rt/embed/",
            s3_endpoint_url=buckets.endpoint,
            s3_access_key="key",
            s3_secret_key="secret",
        )

    def sizes(self) -> list[int]:
        """The bytes of every object."""
        return list(self.bucket.sizes().values())

    def uploads(self) -> list[str]:
        return self.bucket.uploads()

    def age(self, asset: Asset, seconds: float) -> None:
        self.bucket.age(s3.split(asset.path)[1], seconds)

    def write(self, path: str) -> None:
        self.bucket.write(s3.split(path)[1], b"half")

    def remove(self, path: str) -> None:
        self.bucket.remove(s3.split(path)[1])

    def exists(self, path: str) -> bool:
        return s3.split(path)[1] in self.bucket.sizes()


Place = FolderPlace | BucketPlace
only_a_folder = pytest.mark.parametrize("place", ["folder"], indirect=True)
only_a_bucket = pytest.mark.parametrize("place", ["bucket"], indirect=True)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, settings: Settings, buckets: Buckets) -> Place:
    return FolderPlace(settings) if request.param == "folder" else BucketPlace(settings, buckets)


@pytest.fixture
async def stores(redis: Redis, place: Place) -> AsyncIterator[Callable[..., AssetStore]]:
    """Stores in one place and on one Redis, as several gateways have them; `cap` in bytes."""
    made: list[AssetStore] = []

    def make(cap: int = 0, hours: float = 0, store_place: Place = place) -> AssetStore:
        bounds: dict[str, Any] = {"storage_limit_gb": cap / GIB, "asset_max_age_hours": hours}
        made.append(AssetStore(redis, replace(store_place.settings, **bounds)))
        return made[-1]

    yield make
    for store in made:
        store.close()


async def add(store: AssetStore, size: int = 100 * KIB, *, asset_id: str = "") -> Asset:
    """Write and keep a file."""
    async with store.incoming() as folder:
        async with store.writer(f"{folder}/a.mp4") as writer:
            for start in range(0, size, 10 * KIB):
                await writer.write(bytes(min(10 * KIB, size - start)))
        path = f"{folder}/a.mp4"
        asset = Asset(id=asset_id or str(uuid.uuid4()), filename="a.mp4", path=path, size=size)
        return await store.keep(asset)


async def add_old(store: AssetStore, place: Place, age: float, size: int = 100 * KIB) -> Asset:
    """Write and keep a file that was last changed `age` seconds ago."""
    asset = await add(store, size)
    place.age(asset, age)
    return asset


async def known(store: AssetStore, *assets: Asset) -> list[bool]:
    return [await store.find(asset.id) is not None for asset in assets]


# One id -----------------------------------------------------------------------------------------------


async def test_of_many_uploads_with_one_id_one_is_kept_whole(
    stores: Callable[..., AssetStore], place: Place
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
    assert place.sizes() == [kept[0].size]
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
    stores: Callable[..., AssetStore], place: Place, redis: Redis
) -> None:
    store = stores()
    for turn in range(12):
        adding = asyncio.create_task(add(store, KIB))
        for _ in range(10 * turn):
            await asyncio.sleep(0)
        adding.cancel()
        await asyncio.gather(adding, return_exceptions=True)
        for asset in await store.all():  # it was kept before it was cancelled
            await store.delete(asset)
    assert place.sizes() == []
    assert place.uploads() == []
    assert not await redis.exists(keys.ARRIVING_ASSETS)


# The cap ----------------------------------------------------------------------------------------------


async def test_the_oldest_assets_go_when_the_cap_is_near(
    stores: Callable[..., AssetStore], place: Place
) -> None:
    store = stores(cap=1000 * KIB)
    old, older, new = [await add_old(store, place, age, 250 * KIB) for age in (200, 300, 100)]
    added = await add(store, 200 * KIB)
    assert await known(store, old, older, new, added) == [True, False, True, True]
    assert sum(place.sizes()) <= 900 * KIB
    with pytest.raises(BadParameter, match="aged out"):
        await store.get(older.id)


async def test_an_asset_in_use_is_never_evicted(
    stores: Callable[..., AssetStore], redis: Redis, settings: Settings, place: Place
) -> None:
    store = stores(cap=1000 * KIB)
    used = await add_old(store, place, 900, 500 * KIB)
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
    await store.quota.enforce()
    assert await known(store, registered, camera) == [True, True]
    assert here.exists()


async def test_an_upload_that_finds_no_room_is_refused_and_removed(
    stores: Callable[..., AssetStore], redis: Redis, settings: Settings, place: Place
) -> None:
    store = stores(cap=1000 * KIB)
    used = await add(store, 600 * KIB)
    request = requests.Request(id="r", lane="video", planned=1, assets=[used.id])
    await requests.submit(redis, settings, request, [])
    with pytest.raises(ServerBusy, match="full"):
        await add(store, 500 * KIB)
    assert place.sizes() == [600 * KIB]
    await requests.finish(redis, settings, request, requests.CANCELLED)
    assert await add(store, 500 * KIB)
    assert await known(store, used) == [False]


async def test_several_gateways_share_the_cap(stores: Callable[..., AssetStore], place: Place) -> None:
    gateways = [stores(cap=4 * MIB) for _ in range(3)]
    for _ in range(4):
        await asyncio.gather(*(add(store, 400 * KIB) for store in gateways), return_exceptions=True)
        assert sum(place.sizes()) <= 4 * MIB
    assert len(place.sizes()) >= 5, "they do not evict more than is needed"


async def test_an_evicted_id_can_be_used_again(stores: Callable[..., AssetStore], redis: Redis) -> None:
    store = stores()
    asset = await add(store)
    assert await store.age_out(asset.id)
    assert await store.aged_out() == 1
    again = await add(store, asset_id=asset.id)
    assert await store.get(asset.id) == again
    assert await store.aged_out() == 0


@only_a_folder
async def test_deleted_assets_are_listed_for_the_search_index(
    stores: Callable[..., AssetStore], redis: Redis, place: Place
) -> None:
    unsearched = stores()
    await unsearched.delete(await add(unsearched))
    assert await redis.zcard(keys.SEARCH_DELETED) == 0
    place.settings = replace(place.settings, search_url="postgresql://somewhere/")
    store = stores()
    deleted, evicted, kept = [await add(store) for _ in range(3)]
    passing = await store.register(Asset(id="t", path="/nowhere/a.mp4", temporary=True))
    await store.delete(passing)
    await store.delete(deleted)
    assert await store.age_out(evicted.id)
    listed: Any = await redis.zrange(keys.SEARCH_DELETED, 0, -1, withscores=True)
    now, _ = await redis.time()
    assert {asset_id.decode() for asset_id, _ in listed} == {deleted.id, evicted.id}
    assert all(now - 60 < second <= now for _, second in listed)
    assert await store.find(kept.id)


# Age --------------------------------------------------------------------------------------------------


async def test_assets_go_at_their_greatest_age(stores: Callable[..., AssetStore], place: Place) -> None:
    store = stores(hours=1)
    old, young = await add_old(store, place, 3700), await add_old(store, place, 3500)
    assert [round(age, -1) for age in sorted(await store.ages([old, young]))] == [3500, 3700]
    await store.quota.enforce()
    assert await known(store, old, young) == [False, True]


async def test_without_cap_and_age_everything_stays(stores: Callable[..., AssetStore], place: Place) -> None:
    store = stores()
    asset = await add_old(store, place, 10 * 365 * 86_400)
    await store.quota.enforce()
    await store.quota.run()
    assert await known(store, asset) == [True]


# Left behind ------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "CONFIRMATION_TIME", 0.0)
    monkeypatch.setattr(bucket, "SWEEP_INTERVAL", 0.0)


@pytest.mark.usefixtures("impatient")
async def test_what_a_dead_gateway_was_writing_goes(
    stores: Callable[..., AssetStore], place: Place, redis: Redis
) -> None:
    dead, alive = stores(), stores()
    async with dead.incoming() as dead_folder, alive.incoming() as living_folder:
        lost, writing = f"{dead_folder}/a.mp4", f"{living_folder}/b.mp4"
        place.write(lost)
        place.write(writing)
        kept = await add(alive)
        await redis.zadd(keys.INCOMING_FOLDERS, {dead_folder.rpartition("/")[2]: 1})
        await alive.sweep_leftovers()
        assert not place.exists(lost)
        assert place.exists(writing)
        assert place.exists(kept.path)


async def test_an_upload_under_way_outlives_a_redis_that_forgot_it(
    stores: Callable[..., AssetStore], redis: Redis, place: Place
) -> None:
    store = stores()
    async with store.incoming() as folder:
        place.write(f"{folder}/a.mp4")
        await redis.delete(keys.INCOMING_FOLDERS)
        await store.sweep_leftovers()
        cleaning = asyncio.create_task(store.run())
        await until(lambda: redis.zscore(keys.INCOMING_FOLDERS, Path(folder).name))
        cleaning.cancel()
        await asyncio.gather(cleaning, return_exceptions=True)
        assert place.exists(f"{folder}/a.mp4")


@only_a_folder
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
    assert [path.parent.name for path in settings.asset_dir.rglob("*.mp4")] == [kept.id]
    assert not await redis.exists(keys.ARRIVING_ASSETS)


@only_a_folder
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
    stores: Callable[..., AssetStore], redis: Redis, settings: Settings, tmp_path: Path, place: Place
) -> None:
    store = stores()
    lost, whole, used = [await add(store) for _ in range(3)]
    registered = await store.register(Asset(id="r", path=str(tmp_path / "gone.mp4"), filename="gone.mp4"))
    request = requests.Request(id="r", lane="video", planned=1, assets=[used.id])
    await requests.submit(redis, settings, request, [])
    for asset in (lost, used):
        place.remove(asset.path)
    await store.heal()
    assert await known(store, lost, whole, used, registered) == [False, True, True, True]


async def test_a_file_missing_for_a_moment_is_not_forgotten(
    stores: Callable[..., AssetStore], place: Place
) -> None:
    store = stores()
    asset = await add(store)
    place.remove(asset.path)
    await store.heal()
    place.write(asset.path)
    await store.heal()
    assert await known(store, asset) == [True]


@pytest.mark.usefixtures("impatient")
async def test_what_lies_in_another_store_is_left_alone(
    stores: Callable[..., AssetStore], settings: Settings, buckets: Buckets
) -> None:
    """A service that moves from a folder to a bucket, or to another bucket, has gateways of both kinds."""
    places: list[Place] = [
        FolderPlace(settings),
        BucketPlace(settings, buckets),
        BucketPlace(settings, buckets),
    ]
    gateways = [stores(store_place=place) for place in places]
    assets = [await add(store) for store in gateways]
    for store in gateways:
        await store.heal()
        await store.sweep_leftovers()
    assert await known(gateways[0], *assets) == [True, True, True]
    assert all(place.exists(asset.path) for place, asset in zip(places, assets, strict=True))


@only_a_bucket
@pytest.mark.usefixtures("impatient")
async def test_objects_without_a_record_make_room_first_by_age(
    stores: Callable[..., AssetStore], place: Place
) -> None:
    """As after a Redis that was restored from an older copy: they are not taken for leftovers."""
    store = stores(cap=1000 * KIB)
    lost = await add_old(store, place, 900, 500 * KIB)
    await store._redis.delete(keys.asset(lost.id))
    await store._redis.zrem(keys.ASSETS, lost.id)
    await store.sweep_leftovers()
    assert place.exists(lost.path)
    added = [await add(store, 300 * KIB) for _ in range(2)]
    assert not place.exists(lost.path)
    assert await known(store, *added) == [True, True]
    assert await store.aged_out() == 0


@only_a_bucket
@pytest.mark.usefixtures("impatient")
async def test_an_asset_whose_mark_was_left_behind_stays(
    stores: Callable[..., AssetStore], place: Place
) -> None:
    store = stores()
    asset = await add(store)
    directory = asset.directory.rpartition("/")
    place.write(f"{directory[0]}/.incoming/{directory[2]}")
    await store.sweep_leftovers()
    assert place.exists(asset.path)
    assert len(place.sizes()) == 1


@only_a_bucket
@pytest.mark.usefixtures("impatient")
async def test_what_could_not_be_removed_goes_later(
    stores: Callable[..., AssetStore], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores()
    asset = await add(store)

    async def refuse_to_delete(*_: object) -> None:
        raise OSError("not now")

    with monkeypatch.context() as failing:
        failing.setattr(obstore, "delete_async", refuse_to_delete)
        await store.delete(asset)
    assert place.exists(asset.path)
    await store.sweep_leftovers()
    assert place.sizes() == []


# In parts ---------------------------------------------------------------------------------------------


@only_a_bucket
async def test_a_large_file_goes_up_in_parts_and_counts_while_it_does(
    stores: Callable[..., AssetStore], place: Place, redis: Redis
) -> None:
    store = stores(cap=40 * MIB)
    data = [bytes([number]) * MIB for number in range(26)]
    async with store.incoming() as folder:
        async with store.writer(f"{folder}/a.mp4") as writer:
            for piece in data:
                await writer.write(piece)
            assert (await store.quota._storage.contents()).size == 26 * MIB
            assert sum(place.sizes()) == 0
            with pytest.raises(ServerBusy, match="full"):
                await add(stores(cap=40 * MIB), 15 * MIB)
        asset = Asset(id=str(uuid.uuid4()), filename="a.mp4", path=f"{folder}/a.mp4", size=26 * MIB)
        await store.keep(asset)
    assert isinstance(place, BucketPlace)
    assert place.bucket.read(s3.split(asset.path)[1]) == b"".join(data)
    assert not await redis.exists(keys.INCOMING_BYTES)


class Refused(Exception):
    pass


async def refuse(store: AssetStore, size: int) -> None:
    """Give an upload up after `size` MiB."""
    async with store.incoming() as folder, store.writer(f"{folder}/a.mp4") as writer:
        for _ in range(size):
            await writer.write(bytes(MIB))
        raise Refused


@only_a_bucket
@pytest.mark.parametrize("size", [1, 12, 13, 30])
async def test_an_upload_that_is_given_up_leaves_no_part(
    stores: Callable[..., AssetStore], place: Place, redis: Redis, size: int
) -> None:
    with pytest.raises(Refused):
        await refuse(stores(), size)
    assert place.sizes() == []
    assert place.uploads() == []
    assert not await redis.exists(keys.INCOMING_BYTES)


@only_a_bucket
@pytest.mark.parametrize("turns", [0, 3, 30, 300])
async def test_an_upload_in_parts_that_is_cancelled_leaves_no_part(
    stores: Callable[..., AssetStore], place: Place, turns: int
) -> None:
    adding = asyncio.create_task(add(stores(), 40 * MIB))
    assert isinstance(place, BucketPlace)
    await until(place.bucket.uploads)
    for _ in range(turns):
        await asyncio.sleep(0)
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert place.sizes() == []
    assert place.uploads() == []


@only_a_bucket
async def test_a_bucket_that_goes_away_is_named_by_what_failed(
    stores: Callable[..., AssetStore], place: Place, redis: Redis
) -> None:
    store = stores()
    await store.check()
    assert (store.problem, store.seen) == ("", True)
    asset = await add(store)
    away = stores(store_place=Away(place.settings))
    await away.check()
    assert away.problem.endswith("cannot be used: it cannot be connected to")
    with pytest.raises(Unavailable, match="cannot be connected to"):
        await add(away)
    with pytest.raises(Unavailable, match="cannot be connected to"):
        await add(away, 15 * MIB)
    with pytest.raises(Unavailable, match="cannot be connected to"):
        await away.heal()
    with pytest.raises(Unavailable, match="cannot be connected to"):
        await away.content(asset, {}, head=False)
    assert await known(store, asset) == [True]
    await away.delete(asset)
    assert place.exists(asset.path)


class Away(FolderPlace):
    """A bucket behind an address where nobody answers."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(replace(settings, s3_endpoint_url="http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"asset_store": "s3://nowhere"}, "NoSuchBucket"),
        ({"s3_endpoint_url": "http://nowhere.invalid"}, "host name is not known"),
    ],
)
@only_a_bucket
async def test_a_bucket_that_cannot_be_used_says_why(
    redis: Redis, place: Place, change: dict[str, Any], message: str
) -> None:
    store = AssetStore(redis, replace(place.settings, **change))
    await store.check()
    store.close()
    assert message in store.problem
    assert not store.seen


async def test_a_folder_that_cannot_be_written_to_says_so(
    redis: Redis, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    store = AssetStore(redis, replace(settings, asset_dir=tmp_path / "file" / "assets"))
    await store.check()
    store.close()
    assert store.problem == f"the asset store {tmp_path}/file/assets cannot be created: Not a directory"
