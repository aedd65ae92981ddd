"""What the asset store holds."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.schemas import AssetStatistics
from gateway.context import context, json

HOUR = 3600


async def assets_stats(request: Request) -> Response:
    """Numbers and ages of assets, and their bounds."""
    ctx = context(request)
    assets = await ctx.assets.all()
    ages = await ctx.assets.ages([asset for asset in assets if asset.directory])
    return json(
        AssetStatistics(
            asset_count=len(assets),
            asset_count_with_storage=sum(bool(asset.directory) for asset in assets),
            aged_out_count=await ctx.assets.aged_out(),
            oldest_asset_age_hours=round(max(ages, default=0.0) / HOUR, 3),
            max_storage_usage_gb=ctx.settings.storage_limit_gb or None,
            max_asset_age_hours=ctx.settings.asset_max_age_hours or None,
        )
    )
