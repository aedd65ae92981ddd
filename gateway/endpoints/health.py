"""Health: whether a request sent now would be served, and whether this process runs."""

import asyncio
import time

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.api.responses import json_response
from gateway.api.schemas import Health, HealthCheck, HealthQuery
from gateway.api.validation import validate_query
from gateway.context import Context, context
from shared import keys
from shared.fleet import Worker
from shared.records import added_ms
from shared.redis.connection import RedisError

STARTED = time.time()
BUS_PATIENCE = 1.0
"""Seconds that Redis has to say what waits."""
LATE = 15
"""Seconds after which a message has waited for too long."""

HEALTHY, UNHEALTHY = "Service is healthy", "Service is not healthy"
_CHECK = HealthCheck(healthy=True, message="running", component="redis", timestamp=1767000000.12)
_HEALTH = Health(healthy=True, timestamp=1767000000.12, uptime_seconds=512.8, checks=[_CHECK])
_FAILED_CHECK = msgspec.structs.replace(_CHECK, healthy=False, message="no answer in time")
_ANSWERS = (
    Answer(
        description="Healthy. Plain text, or every check with `detailed`.",
        json=Health,
        example=_HEALTH,
        texts={"text/plain": HEALTHY},
    ),
    Answer(
        status=503,
        description="Not healthy.",
        json=Health,
        example=msgspec.structs.replace(_HEALTH, healthy=False, checks=[_FAILED_CHECK]),
        texts={"text/plain": UNHEALTHY},
    ),
)


@Endpoint(
    "GET",
    "/v1/ready",
    tag="Health Check",
    summary="Check whether a request sent now would be served",
    needs_key=False,
    query=HealthQuery,
    invalid_example="('query', 'detailed'): Must be true or false",
    answers=_ANSWERS,
)
async def ready(request: HttpRequest) -> Response:
    """Return whether Redis answers, a worker is ready, and the asset store was writable at least once.

    A store that fails later, and a bus that takes no messages, are reported but do not make the service
    unready: texts are still served, requests that need files are refused with the reason, and messages wait.
    """
    ctx = context(request)
    checks = [_redis_check(ctx), _check("asset store", ctx.assets.problem), *_worker_checks(ctx)]
    if validate_query(request.query_params, HealthQuery).detailed and not ctx.view.redis_problem:
        checks += await _bus_checks(ctx)
    return _answer(request, checks, healthy=not _problem(ctx))


@Endpoint(
    "GET",
    "/v1/live",
    tag="Health Check",
    summary="Check whether this process runs",
    needs_key=False,
    query=HealthQuery,
    invalid_example="('query', 'detailed'): Must be true or false",
    answers=_ANSWERS,
)
async def live(request: HttpRequest) -> Response:
    """Return that this process runs: it answers."""
    return _answer(request, [_check("gateway", "")], healthy=True)


@Endpoint(
    "GET",
    "/v1/startup",
    tag="Health Check",
    summary="Get what the service is waiting for until it is ready",
    needs_key=False,
    answers=(
        Answer(
            description="Started; the text says whether it is ready.",
            texts={"text/plain": "Service is ready to serve requests."},
        ),
    ),
)
async def startup(request: HttpRequest) -> Response:
    """Return what the service is waiting for until it is ready; always 200, as clients expect."""
    problem = _problem(context(request))
    return PlainTextResponse(
        f"Service is not ready yet: {problem}" if problem else "Service is ready to serve requests."
    )


def _answer(request: HttpRequest, checks: list[HealthCheck], *, healthy: bool) -> Response:
    query = validate_query(request.query_params, HealthQuery)
    status = 200 if healthy else 503
    if not query.detailed:
        return PlainTextResponse(HEALTHY if healthy else UNHEALTHY, status)
    now = time.time()
    return json_response(
        Health(healthy=healthy, timestamp=now, uptime_seconds=now - STARTED, checks=checks), status
    )


def _problem(ctx: Context) -> str:
    """Return why requests are not served now; empty if they are."""
    return ctx.view.problem or ("" if ctx.assets.seen else ctx.assets.problem)


def _redis_check(ctx: Context) -> HealthCheck:
    return _check("redis", ctx.view.redis_problem)


async def _bus_checks(ctx: Context) -> list[HealthCheck]:
    """Return whether messages get to their bus; nothing if Redis does not say so at once."""
    try:
        async with asyncio.timeout(BUS_PATIENCE), ctx.redis.pipeline(transaction=False) as pipe:
            pipe.xrange(keys.OUTBOX, count=1)
            pipe.xlen(keys.OUTBOX)
            pipe.time()
            oldest, count, (now, _) = await pipe.execute()
    except (RedisError, TimeoutError):
        return []
    waited = now - added_ms(oldest[0][0]) // 1000 if oldest else 0
    if waited < LATE:
        return [_check("message bus", "", "no message waits for long")]
    problem = f"{count} messages wait for their bus, the oldest for {waited} s: it does not take them"
    return [_check("message bus", problem)]


def _worker_checks(ctx: Context) -> list[HealthCheck]:
    workers = ctx.view.fleet.workers
    if not workers:
        return [_check("workers", "no worker is running")]
    return [
        _check(
            f"worker {w.name}",
            "" if w.state == "ready" and w.healthy else f"{w.state}: {w.detail}".rstrip(": "),
            running_on(w),
        )
        for w in workers
    ]


def running_on(worker: Worker) -> str:
    """Return what a worker runs its model on, and why it uses no GPU if it uses none."""
    if worker.gpu:
        text = f"running on {worker.gpu}, driver {worker.driver}"
        return f"{text}, engine {worker.engine}" if worker.engine else text
    if not worker.backend_reason:
        return "running"
    wanted = f"RTEMBED_BACKEND={worker.backend_wanted}"
    reason = worker.backend_reason
    return f"running on the CPU: {reason if reason.startswith(wanted) else f'{wanted}, but {reason}'}"


def _check(component: str, problem: str, well: str = "running") -> HealthCheck:
    return HealthCheck(
        healthy=not problem, message=problem or well, component=component, timestamp=time.time()
    )
