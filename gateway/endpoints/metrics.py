"""Metrics of the whole fleet, from whichever gateway is asked."""

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.context import context


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
