"""What Redis knows of assets, as the index keeps it."""

from search.known_assets import indexed, read_assets
from shared import keys
from shared.assets import ASSETS
from shared.redis.connection import Redis
from tests.search.chunk_samples import film


async def test_known_assets_are_read_and_others_left_out(redis: Redis) -> None:
    camera = film(1, kind="stream", path="rtsp://me:secret@10.0.0.5/live", filename="", camera_id=" gate ")
    for asset in (film(), camera):
        await redis.hset(keys.asset(asset.id), items=ASSETS.fields(asset))
    found = await read_assets(redis, [film().id, camera.id, film(9).id])
    assert found == {film().id: indexed(film()), camera.id: indexed(camera)}


def test_a_film_begins_at_its_creation_time() -> None:
    assert (indexed(film()).name, indexed(film()).base) == ("film0.mp4", 0)
    assert indexed(film(creation_time="2024-06-09T18:32:11.500Z")).base == 1_717_957_931_500_000_000
    assert indexed(film(creation_time="yesterday")).base == 0


def test_a_camera_goes_by_its_name_and_shows_no_password() -> None:
    camera = film(1, kind="stream", path="rtsp://me:secret@10.0.0.5/live", filename="", camera_id="gate ")
    assert (indexed(camera).name, indexed(camera).sensor, indexed(camera).base) == ("gate ", "gate", None)
    nameless = film(1, kind="stream", path="rtsp://me:secret@h/live", filename="")
    assert indexed(nameless).name == "rtsp://h/live"
    assert indexed(film(description="d" * 2000, filename="n\0")).description == "d" * 1024
