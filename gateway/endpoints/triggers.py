"""Triggers: a saved sentence, picture or vector, and events for the chunks that match it."""

import uuid
from urllib.parse import urlsplit

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import ID, MODEL
from gateway.api.responses import json_response
from gateway.api.trigger_schemas import (
    DeletedTrigger,
    Trigger,
    TriggerEvent,
    TriggerEventsQuery,
    TriggerList,
    TriggerRequest,
    WebhookState,
)
from gateway.api.validation import problem, validate_json, validate_query, validate_uuid
from gateway.context import Context, context
from gateway.endpoints.index_search import QUESTION_ERRORS, query_vector
from gateway.handling.body import read_body
from gateway.results.sse import EventStream
from gateway.triggers.trigger_events import read_event_id, trigger_events
from gateway.triggers.trigger_records import NewTrigger, StoredTrigger
from shared.chunks import SECOND
from shared.errors import (
    BadParameters,
    Conflict,
    InvalidParameters,
    NotFound,
    NotSupported,
    Unavailable,
)
from shared.timestamps import format_timestamp

MILLISECOND = SECOND // 1000
LONGEST_SENTENCE = 1000
"""Characters of a sentence that are kept to be shown; its vector is that of the whole."""
_ERRORS = (NotFound, NotSupported, Unavailable)

_TRIGGER = Trigger(
    id=ID,
    name="Forklift in the aisle",
    question="text",
    text="a forklift moving pallets",
    model=MODEL,
    threshold=0.3,
    cameras=["camera-001"],
    files=False,
    cooldown=60,
    created=1767000000,
    matches=2,
    last_match="2024-06-09T18:32:32.123Z",
    webhook=WebhookState(host="https://alerts.example.com", signed=True, waiting=0, given_up=0, error=""),
)
_EVENT = (
    f'data: {{"chunk": 3, "start": null, "end": null, "start_time": "2024-06-09T18:32:26.123Z", '
    f'"end_time": "2024-06-09T18:32:31.123Z", "request": "{ID}", "thumbnail": null, "asset": "camera-001", '
    '"name": "Dock 4", "kind": "stream", "media_type": "video", "camera": "camera-001", '
    f'"chunks": [3], "score": 0.31, "id": "17", "trigger": "{ID}", "trigger_name": "Forklift in the aisle", '
    '"matched_at": "2024-06-09T18:32:32.123Z"}\r\n'
    "id: 17\r\n\r\n"
)


@Endpoint(
    "POST",
    "/v1/triggers",
    tag="Triggers",
    summary="Save a sentence, picture or vector that new chunks are compared with",
    description=(
        "An extension. From now on each chunk that is indexed and scores the threshold is an event: at "
        "`/v1/triggers/{id}/events`, on the message bus, and by webhook if one is given. Without an index: "
        "501, and how to get one."
    ),
    body=TriggerRequest,
    body_example=TriggerRequest(
        name="Forklift in the aisle", text="a forklift moving pallets", threshold=0.3, cameras=["camera-001"]
    ),
    invalid_example="('body', 'text'): Give one of text, image, vector and like, not none",
    answers=(Answer(status=201, description="The trigger.", json=Trigger, example=_TRIGGER),),
    errors=(*QUESTION_ERRORS, Conflict),
)
async def add_trigger(request: HttpRequest) -> Response:
    """Create a trigger."""
    ctx = context(request)
    body = validate_json(await read_body(request), TriggerRequest)
    store = ctx.triggers
    model = ctx.view.named_model(body.model) if body.model else ctx.view.model().id
    vector, _ = await query_vector(ctx, request, body, model)
    await _check_length(ctx, model, vector)
    if body.webhook is not None:
        await _check_webhook(ctx, body.webhook)
    new = _new_trigger(ctx, body, model, vector)
    await store.create(new, ctx.settings.max_triggers)
    return json_response(_shown(await store.find(new.id)), 201)


async def _check_webhook(ctx: Context, url: str) -> None:
    try:
        await ctx.webhooks.check(url)
    except InvalidParameters as error:
        raise problem(("body", "webhook"), error.message) from error


async def _check_length(ctx: Context, model: str, vector: list[float]) -> None:
    """Raise BadParameters for a vector that no chunk of the model can be compared with."""
    lengths = dict(await ctx.index.models()) | {known.id: known.dimension for known in ctx.view.fleet.models}
    if (length := lengths.get(model, len(vector))) != len(vector):
        raise BadParameters(f"{model} makes vectors of {length} values, not {len(vector)}")


def _new_trigger(ctx: Context, body: TriggerRequest, model: str, vector: list[float]) -> NewTrigger:
    kind = next(name for name in ("text", "image", "vector", "like") if getattr(body, name) is not None)
    shown = ""
    if body.webhook:
        parts = urlsplit(body.webhook)
        shown = f"{parts.scheme}://{parts.netloc}"
    return NewTrigger(
        id=str(uuid.uuid4()),
        name=body.name,
        question=kind,
        sentence=(body.text or "")[:LONGEST_SENTENCE].replace("\0", ""),
        model=model,
        vector=vector,
        threshold=body.threshold,
        cameras=body.cameras and [camera.replace("\0", "") for camera in body.cameras],
        files=body.files,
        cooldown=round(body.cooldown * SECOND),
        webhook=shown,
        delivery=ctx.webhooks.packed(body.webhook, body.webhook_secret or "") if body.webhook else "",
        signed=body.webhook_secret is not None,
        sealed=bool(ctx.settings.secret_keys),
    )


@Endpoint(
    "GET",
    "/v1/triggers",
    tag="Triggers",
    summary="List triggers",
    description="An extension. Without an index: 501, and how to get one.",
    answers=(
        Answer(
            description="All of them, the oldest first.",
            json=TriggerList,
            example=TriggerList(triggers=[_TRIGGER]),
        ),
    ),
    errors=(NotSupported, Unavailable),
)
async def list_triggers(request: HttpRequest) -> Response:
    """Return all triggers."""
    found = await context(request).triggers.all()
    return json_response(TriggerList(triggers=[_shown(trigger) for trigger in found]))


@Endpoint(
    "GET",
    "/v1/triggers/{trigger_id}",
    tag="Triggers",
    summary="Get a trigger",
    description="An extension.",
    invalid_example="('path', 'trigger_id'): Must be a UUID",
    answers=(Answer(description="The trigger.", json=Trigger, example=_TRIGGER),),
    errors=_ERRORS,
)
async def get_trigger(request: HttpRequest) -> Response:
    """Return one trigger and the state of its webhook."""
    return json_response(_shown(await context(request).triggers.find(_trigger_id(request))))


@Endpoint(
    "DELETE",
    "/v1/triggers/{trigger_id}",
    tag="Triggers",
    summary="Delete a trigger and its events",
    description="An extension. What is not delivered yet is not any more.",
    invalid_example="('path', 'trigger_id'): Must be a UUID",
    answers=(Answer(description="It is gone.", json=DeletedTrigger, example=DeletedTrigger(id=ID)),),
    errors=_ERRORS,
)
async def delete_trigger(request: HttpRequest) -> Response:
    """Delete one trigger."""
    trigger = _trigger_id(request)
    await context(request).triggers.delete(trigger)
    return json_response(DeletedTrigger(id=trigger))


@Endpoint(
    "GET",
    "/v1/triggers/{trigger_id}/events",
    tag="Triggers",
    summary="Follow the matches of a trigger",
    description=(
        "An extension. Server-sent events without end, with a comment each second; `[DONE]` when the trigger "
        "is deleted. The newest 1,000 events are kept; `Last-Event-ID` and `last` go back to them."
    ),
    query=TriggerEventsQuery,
    headers={"Last-Event-ID": "Id of the event after which the stream goes on."},
    invalid_example="('query', 'last'): Must be at most 1000",
    answers=(Answer(description="Events.", texts={"text/event-stream": _EVENT}, events=(TriggerEvent,)),),
    errors=_ERRORS,
)
async def follow_trigger(request: HttpRequest) -> Response:
    """Send the matches of a trigger as they come."""
    store, trigger = context(request).triggers, _trigger_id(request)
    query = validate_query(request.query_params, TriggerEventsQuery)
    seen = request.headers.get("last-event-id")
    after = read_event_id(seen) if seen else None
    before = await store.position_before(trigger, query.last)
    return EventStream(trigger_events(store, trigger, before if after is None else after))


def _trigger_id(request: HttpRequest) -> str:
    return validate_uuid(request.path_params["trigger_id"], ("path", "trigger_id"))


def _shown(stored: StoredTrigger) -> Trigger:
    webhook = None
    if stored.webhook:
        webhook = WebhookState(
            host=stored.webhook,
            signed=stored.signed,
            waiting=stored.waiting,
            given_up=stored.given_up,
            error=stored.error,
        )
    return Trigger(
        id=stored.id,
        name=stored.name,
        question=stored.question,
        text=stored.sentence if stored.question == "text" else None,
        model=stored.model,
        threshold=stored.threshold,
        cameras=stored.cameras,
        files=stored.files,
        cooldown=stored.cooldown / SECOND,
        created=stored.created,
        matches=stored.matches,
        last_match=None if stored.last_match is None else format_timestamp(stored.last_match * MILLISECOND),
        webhook=webhook,
    )
