"""The fleet at work: workers, queues, requests, and the jobs and messages that were given up."""

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import ID, MODEL
from gateway.api.fleet_schemas import (
    MOST_LETTERS,
    ChosenLetters,
    DeadLetter,
    DeadLetters,
    FleetState,
    JobFields,
    KnownRequestsQuery,
    LaneState,
    LetterOutcome,
    LetterOutcomes,
    OutboxState,
    QueueHolder,
    RequestList,
    RequestSummary,
    WorkerState,
)
from gateway.api.responses import json_response
from gateway.api.validation import validate_json, validate_query
from gateway.context import context
from gateway.handling.body import read_body
from shared.errors import FileTooLarge, Unavailable
from shared.fleet import Worker
from shared.inspection import dead_letters, queues

log = structlog.get_logger(__name__)

LONGEST_ERROR = 2000
_LETTER = "job:1717957951123-0"
_HOLDER = QueueHolder(name="worker-1", pending=2, silent_s=0.4)
_FLEET = FleetState(
    ready=True,
    problem="",
    models=[MODEL],
    workers=[
        WorkerState(
            name="worker-1",
            state="ready",
            healthy=True,
            detail="",
            host="node-7",
            model=MODEL,
            backend="cpu",
            backend_reason="no NVIDIA GPU",
            gpu="",
            batch_size=8,
            started=1767000000,
            jobs_running=2,
            jobs_done=40,
        )
    ],
    lanes=[LaneState(lane="video", model=MODEL, waiting=3, pending=2, oldest_s=1.5, workers=[_HOLDER])],
    outbox=OutboxState(
        waiting=0, pending=0, oldest_s=None, sent=1200, dropped=0, refused=0, publishers=[_HOLDER]
    ),
    dead_letters=0,
)


@Endpoint(
    "GET",
    "/v1/fleet",
    tag="Fleet",
    summary="Get the workers and the queues",
    description="An extension: what `rt-embed inspect` shows, in one answer.",
    answers=(Answer(description="The fleet as it is now.", json=FleetState, example=_FLEET),),
    errors=(Unavailable,),
)
async def fleet_state(request: HttpRequest) -> Response:
    """Return the fleet, its lanes, its outbox, and how many dead letters there are."""
    ctx = context(request)
    fleet = ctx.view.fleet
    return json_response(
        FleetState(
            ready=not ctx.view.problem,
            problem=ctx.view.problem,
            models=[model.id for model in fleet.models],
            workers=[_worker(worker) for worker in fleet.workers],
            lanes=msgspec.convert(await queues.lanes(ctx.redis), list[LaneState]),
            outbox=msgspec.convert(await queues.outbox(ctx.redis), OutboxState),
            dead_letters=await dead_letters.count_dead(ctx.redis),
        )
    )


def _worker(worker: Worker) -> WorkerState:
    shown = {name: getattr(worker, name) for name in WorkerState.__struct_fields__ if name != "model"}
    return WorkerState(**shown, model=worker.model.id if worker.model else None)


@Endpoint(
    "GET",
    "/v1/fleet/requests",
    tag="Fleet",
    summary="List the newest requests",
    description="An extension. Requests are remembered for a time after they have ended.",
    query=KnownRequestsQuery,
    invalid_example="('query', 'limit'): Must be a whole number",
    answers=(
        Answer(
            description="The requests, newest first.",
            json=RequestList,
            example=RequestList(
                data=[
                    RequestSummary(
                        id=ID,
                        lane="video",
                        state="running",
                        age_s=4,
                        ran_s=4,
                        chunks_done=12,
                        chunks_planned=60,
                        model=MODEL,
                        assets=[ID],
                    )
                ]
            ),
        ),
    ),
    errors=(Unavailable,),
)
async def list_requests(request: HttpRequest) -> Response:
    """Return the newest requests."""
    query = validate_query(request.query_params, KnownRequestsQuery)
    rows = await queues.requests(context(request).redis, query.state or "", query.limit)
    return json_response(RequestList(data=[_request(row) for row in rows]))


def _request(row: Mapping[str, Any]) -> RequestSummary:
    done, _, planned = str(row["chunks"]).partition("/")
    return RequestSummary(
        id=row["request"],
        lane=row["lane"],
        state=row["state"],
        age_s=row["age_s"],
        ran_s=row["ran_s"],
        chunks_done=int(done),
        chunks_planned=int(planned or 0),
        model=row["model"],
        assets=[asset for asset in str(row["assets"]).split(",") if asset],
    )


@Endpoint(
    "GET",
    "/v1/fleet/dead-letters",
    tag="Fleet",
    summary="List jobs and messages that were given up",
    description=f"An extension. The newest {MOST_LETTERS} of each kind.",
    answers=(
        Answer(
            description="What was given up, and why.",
            json=DeadLetters,
            example=DeadLetters(
                data=[
                    DeadLetter(
                        id=_LETTER,
                        kind="job",
                        age_s=90.5,
                        lane="video",
                        request=ID,
                        deliveries=3,
                        error="no worker has survived this job",
                    )
                ],
                total=1,
            ),
        ),
    ),
    errors=(Unavailable,),
)
async def list_dead_letters(request: HttpRequest) -> Response:
    """Return the newest dead letters."""
    redis = context(request).redis
    rows = await dead_letters.dead(redis, MOST_LETTERS)
    total = await dead_letters.count_dead(redis)
    return json_response(DeadLetters(data=[_letter(row) for row in rows], total=max(total, len(rows))))


def _letter(row: Mapping[str, Any]) -> DeadLetter:
    fields = msgspec.convert(row, JobFields)
    return DeadLetter(
        id=fields.id,
        kind="job" if fields.id.startswith("job:") else "message",
        age_s=fields.age_s,
        lane=fields.lane[:64],
        request=fields.request[:64],
        deliveries=int(fields.deliveries) if fields.deliveries.isdecimal() else None,
        error=fields.error[:LONGEST_ERROR],
    )


@Endpoint(
    "POST",
    "/v1/fleet/dead-letters/requeue",
    tag="Fleet",
    admin=True,
    summary="Put dead letters back into their queues",
    description=(
        "An extension. A job's request is open again, for as long as it is remembered and its files exist. "
        "Needs an administrator's key where there are some."
    ),
    body=ChosenLetters,
    body_example=ChosenLetters(ids=[_LETTER]),
    invalid_example="('body', 'ids'): Field required",
    answers=(
        Answer(
            description="What happened to each.",
            json=LetterOutcomes,
            example=LetterOutcomes(results=[LetterOutcome(id=_LETTER, done=True, outcome="requeued")]),
        ),
    ),
    errors=(FileTooLarge, Unavailable),
)
async def requeue_dead_letters(request: HttpRequest) -> Response:
    """Put dead letters back."""
    ctx = context(request)
    chosen = validate_json(await read_body(request), ChosenLetters)
    outcomes = [(i, await dead_letters.requeue(ctx.redis, ctx.settings, i)) for i in chosen.ids]
    return _acted("requeued", outcomes)


@Endpoint(
    "POST",
    "/v1/fleet/dead-letters/drop",
    tag="Fleet",
    admin=True,
    summary="Delete dead letters for good",
    description="An extension. Needs an administrator's key where there are some.",
    body=ChosenLetters,
    body_example=ChosenLetters(ids=[_LETTER]),
    invalid_example="('body', 'ids'): Field required",
    answers=(
        Answer(
            description="What happened to each.",
            json=LetterOutcomes,
            example=LetterOutcomes(results=[LetterOutcome(id=_LETTER, done=True, outcome="dropped")]),
        ),
    ),
    errors=(FileTooLarge, Unavailable),
)
async def drop_dead_letters(request: HttpRequest) -> Response:
    """Delete dead letters."""
    ctx = context(request)
    chosen = validate_json(await read_body(request), ChosenLetters)
    return _acted("dropped", [(i, await dead_letters.drop(ctx.redis, i)) for i in chosen.ids])


def _acted(wanted: str, outcomes: list[tuple[str, str]]) -> Response:
    for letter, outcome in outcomes:
        log.info("dead letter handled", letter=letter, outcome=outcome)
    results = [LetterOutcome(id=i, done=outcome == wanted, outcome=outcome) for i, outcome in outcomes]
    return json_response(LetterOutcomes(results=results))
