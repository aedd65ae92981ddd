"""Records of assets in Redis, which hold more than messages do."""

from collections.abc import Iterable

from search.chunk_messages import LONGEST_ID, LONGEST_TEXT, IndexedAsset
from shared import keys
from shared.assets import ASSETS, Asset
from shared.redis.connection import Redis
from shared.telemetry.redaction import without_userinfo
from shared.timestamps import parse_timestamp


async def read_assets(redis: Redis, ids: Iterable[str]) -> dict[str, IndexedAsset]:
    """Return those of the assets that Redis knows, by id. Raises RedisError."""
    wanted = sorted(set(ids))
    async with redis.pipeline(transaction=False) as pipe:
        for asset_id in wanted:
            pipe.hgetall(keys.asset(asset_id))
        records = await pipe.execute()
    return {
        asset_id: indexed(ASSETS.read(record))
        for asset_id, record in zip(wanted, records, strict=True)
        if record
    }


def indexed(asset: Asset) -> IndexedAsset:
    """Return the asset as the index keeps it."""
    names = (asset.filename, asset.sensor_name, asset.description, asset.camera_id)
    if asset.kind == "stream":
        names = (asset.sensor_name, asset.description, asset.camera_id, without_userinfo(asset.path))
    return IndexedAsset(
        id=asset.id,
        kind=asset.kind,
        media_type=asset.media_type,
        name=_shortened(next(filter(None, names), asset.id), LONGEST_ID),
        sensor=_shortened(asset.camera_id.strip() or asset.sensor_name.strip() or asset.id, LONGEST_ID),
        description=_shortened(asset.description, LONGEST_TEXT),
        url=_shortened(without_userinfo(asset.url), LONGEST_TEXT),
        base=_base(asset),
        created=asset.created,
    )


def _base(asset: Asset) -> int | None:
    if asset.kind == "stream":
        return None
    try:
        return parse_timestamp(asset.creation_time) if asset.creation_time else 0
    except ValueError:
        return 0


def _shortened(text: str, longest: int) -> str:
    return text[:longest].replace("\0", "")
