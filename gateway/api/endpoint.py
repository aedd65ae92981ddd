"""Declaring an endpoint, once, above its handler. Routes and the OpenAPI document are derived from it."""

from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from shared.errors import (
    AdminOnly,
    InvalidParameters,
    RtEmbedError,
    TooManyRequests,
    Unauthorized,
    UndecodableBody,
)

TAGS = {
    "Embeddings": "Vectors for video, images and text.",
    "Files": "Videos and images to embed.",
    "Requests": "Requests that are answered later.",
    "Search": "Chunks that are like what is asked for.",
    "Triggers": "Questions that each new chunk is compared with, and whom a match is told.",
    "Live Stream": "Cameras by their RTSP address.",
    "Stream": "Cameras, as other services of the same family announce them.",
    "Models": "What the service embeds with.",
    "Health Check": "Whether the service runs and can serve.",
    "Metrics": "What the service measures.",
    "Fleet": "Workers, queues, requests, and what was given up.",
    "Config": "Changes at run time.",
    "Metadata": "Which release this is.",
    "NIM Compatible": "The same, as NVIDIA NIM services tell it.",
}
"""In the order in which the API's pages show them."""
PATH_PARAMETERS = {
    "file_id": "Id of a file, with or without hyphens.",
    "stream_id": "Id of a live stream: a UUID, or the text given when it was added.",
    "model_id": "Id of the loaded model, or one of its aliases.",
    "request_id": "Id of a request, with or without hyphens.",
    "asset_id": "Id of a file or live stream.",
    "trigger_id": "Id of a trigger, with or without hyphens.",
}


class Handler(Protocol):
    """An async function that answers a request. Its name is the id of the operation."""

    __name__: str

    def __call__(self, request: HttpRequest, /) -> Awaitable[Response]:
        """Answer `request`."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response that is not an error."""

    status: int = 200
    description: str
    json: Any = None
    """The type of the JSON body."""
    others: tuple[type[msgspec.Struct], ...] = ()
    """Other types that the JSON body may have."""
    example: Any = None
    texts: Mapping[str, str] = field(default_factory=dict)
    """An example for each text media type."""
    binaries: tuple[str, ...] = ()
    events: tuple[type[msgspec.Struct], ...] = ()
    """Types of the events of a stream."""

    def types(self) -> tuple[Any, ...]:
        """Return the types that the document describes for this answer."""
        return (*((self.json,) if self.json else ()), *self.others, *self.events)


@dataclass
class Endpoint:
    """One method of one path: `@Endpoint("GET", "/v1/version", ...)` above the handler declares it.

    `errors` are its own errors that its description lists.
    """

    method: str
    path: str
    tag: str = field(kw_only=True)
    summary: str = field(kw_only=True)
    description: str = ""
    query: type[msgspec.Struct] | None = None
    form: type[msgspec.Struct] | None = None
    body: Any = None
    body_example: msgspec.Struct | None = None
    more_examples: Mapping[str, msgspec.Struct] = field(default_factory=dict)
    """Other bodies, by what they are for; `body_example` comes first."""
    answers: tuple[Answer, ...] = ()
    errors: tuple[type[RtEmbedError], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers that it reads, and what they mean."""
    invalid_example: str = "('body', 'model'): Field required"
    """An example of the message for a request that fails validation."""
    needs_key: bool = True
    """Whether API keys and the rate limit apply, where they are set."""
    admin: bool = False
    """Whether it changes the service for everybody; where keys are set, it needs an administrator's."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Other methods and paths that are served but not described."""
    handler: Handler = field(init=False)

    def __call__(self, handler: Handler) -> "Endpoint":
        """Set the handler; this makes the endpoint a decorator."""
        self.handler = handler
        return self

    @property
    def name(self) -> str:
        """The id of the operation."""
        return self.handler.__name__

    def routes(self) -> Iterator[Route]:
        """Yield the routes that Starlette serves for this endpoint."""
        yield Route(self.path, self.handler, methods=[self.method])
        for method, path in self.aliases:
            yield Route(path, self.handler, methods=[method], include_in_schema=False)

    def paths(self) -> Iterator[str]:
        """Yield every path that it serves."""
        yield self.path
        yield from (path for _, path in self.aliases)

    def all_errors(self) -> tuple[type[RtEmbedError], ...]:
        """Return its own errors and those that every endpoint of its kind may return."""
        takes_something = self.query or self.form or self.body or "{" in self.path
        return (
            *((InvalidParameters,) if takes_something else ()),
            *((UndecodableBody,) if self.body else ()),
            *self.errors,
            *((Unauthorized, TooManyRequests) if self.needs_key else ()),
            *((AdminOnly,) if self.admin else ()),
            RtEmbedError,
        )


def endpoints_of(*modules: ModuleType) -> tuple[Endpoint, ...]:
    """Return the endpoints that the modules declare, in their order."""
    return tuple(
        value for module in modules for value in vars(module).values() if isinstance(value, Endpoint)
    )
