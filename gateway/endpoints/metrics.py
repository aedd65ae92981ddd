"""Metrics of the whole fleet, the same from every gateway, and statistics of the asset store."""

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.api.responses import json_response
from gateway.api.schemas import AssetStatistics
from gateway.context import context
from shared.errors import Unavailable

HOUR = 3600


@Endpoint(
    "GET",
    "/v1/metrics",
    tag="Metrics",
    summary="Get metrics of the whole fleet",
    needs_key=False,
    answers=(
        Answer(
            description="Prometheus's text format.",
            texts={"text/plain": "# TYPE active_live_streams gauge\nactive_live_streams 0.0\n"},
        ),
    ),
)
async def server_metrics(request: HttpRequest) -> Response:
    """Return metrics in Prometheus's text format; other processes' are the last known while Redis is away."""
    page = await context(request).metrics.page()
    return Response(page, media_type="text/plain; charset=utf-8")


@Endpoint(
    "GET",
    "/v1/assets/stats",
    tag="Metrics",
    summary="What the asset store holds",
    answers=(
        Answer(
            description="Numbers, ages and limits.",
            json=AssetStatistics,
            example=AssetStatistics(
                asset_count=3,
                asset_count_with_storage=2,
                aged_out_count=0,
                oldest_asset_age_hours=1.25,
                max_storage_usage_gb=8,
                max_asset_age_hours=None,
            ),
        ),
    ),
    errors=(Unavailable,),
)
async def assets_stats(request: HttpRequest) -> Response:
    """Return the number and ages of assets, and their limits."""
    ctx = context(request)
    assets = await ctx.assets.all()
    ages = await ctx.assets.ages([asset for asset in assets if asset.directory])
    return json_response(
        AssetStatistics(
            asset_count=len(assets),
            asset_count_with_storage=sum(bool(asset.directory) for asset in assets),
            aged_out_count=await ctx.assets.aged_out(),
            oldest_asset_age_hours=round(max(ages, default=0.0) / HOUR, 3),
            max_storage_usage_gb=ctx.settings.storage_limit_gb or None,
            max_asset_age_hours=ctx.settings.asset_max_age_hours or None,
        )
    )
