"""GET /v1/metrics: the whole fleet in one place, whichever gateway is asked."""

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.context import context


@Endpoint(
    "GET",
    "/v1/metrics",
    tag="Metrics",
    summary="Figures of the whole fleet",
    needs_key=False,
    answers=(
        Answer(
            description="Prometheus's text format.",
            texts={"text/plain": "# TYPE active_live_streams gauge\nactive_live_streams 0.0\n"},
        ),
    ),
)
async def metrics(request: HttpRequest) -> Response:
    """Return the text format of Prometheus; while Redis is away, what was last known of the others."""
    page = await context(request).metrics.page()
    return Response(page, media_type="text/plain; charset=utf-8")
