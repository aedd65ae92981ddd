"""Requests for the vectors of texts: those of clients, and the questions of searches."""

import msgspec
import structlog

from gateway.api.caller import caller
from gateway.context import Context
from gateway.handling.idempotency import IdempotencyKey
from gateway.results.answers import TextOptions
from gateway.submission import collect
from shared.jobs import TextJob
from shared.requests import Request
from shared.results import Result


class EmbeddedTexts(msgspec.Struct, frozen=True):
    """A finished text request: its id, the second at which it was accepted, one result per text."""

    request: str
    created: int
    results: list[Result]


async def embed_texts(
    ctx: Context,
    model: str,
    texts: list[str],
    *,
    query: bool = False,
    key: IdempotencyKey | None = None,
    options: TextOptions | None = None,
) -> EmbeddedTexts:
    """Have a worker embed the texts, as a `query` without messages. Raises FailedEnd, ServerBusy.

    With a `key`, the request goes on when its client leaves, and keeps its `options`.
    """
    request = text_request(ctx, model, texts, key, options if key else None)
    structlog.contextvars.bind_contextvars(request_id=request.id)
    job = TextJob(request=request.id, texts=texts, model=model, query=query)
    async with ctx.submitter.submitted(request, [job], detached=bool(key)) as (created, follower):
        results = await collect(follower, len(texts), stored=bool(key))
    return EmbeddedTexts(request.id, created, results)


def text_request(
    ctx: Context, model: str, texts: list[str], key: IdempotencyKey | None, options: TextOptions | None
) -> Request:
    """Return a new request for the vectors of `texts`. Its id is that of the `key`."""
    return Request(
        id=key.request_id(ctx) if key else ctx.listener.new_id(),
        lane="text",
        planned=len(texts),
        model=model,
        options=msgspec.json.encode(options).decode() if options else "",
        caller=caller.get(),
        body=key.body if key else "",
    )
