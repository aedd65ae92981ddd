"""What is said of an operation, and what their examples have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.access import FREE
from shared import errors as e

TAGS = {
    "Health Check": "Whether the service lives and can serve.",
    "Metrics": "What the service measures.",
    "Models": "What the service embeds with.",
    "Metadata": "Which release this is.",
    "NIM Compatible": "The same, as NVIDIA NIM services tell it.",
    "Files": "Videos and images to embed.",
    "Embeddings": "Vectors for video, images and text.",
    "Requests": "Requests that are answered later.",
    "Config": "Changes at run time.",
    "Live Stream": "Cameras by their RTSP address.",
    "Stream": "Cameras, as other services of the same family announce them.",
}
PATH_PARAMETERS = {
    "file_id": "Id of a file, with or without hyphens.",
    "stream_id": "Id of a live stream, with or without hyphens.",
    "request_id": "Id of a request, with or without hyphens.",
}

ID = "123e4567-e89b-12d3-a456-426614174000"
MODEL = "cosmos-embed1-448p"
TIME = "2024-06-09T18:32:11.123Z"
CAMERA = "rtsp://camera.example.com:554/live"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response that is no error."""

    status: int = 200
    description: str
    json: Any = None
    """A type that msgspec knows."""
    others: tuple[type[msgspec.Struct], ...] = ()
    """What else the JSON may be."""
    example: Any = None
    texts: Mapping[str, str] = field(default_factory=dict)
    """Media type to example."""
    binaries: tuple[str, ...] = ()
    events: tuple[type[msgspec.Struct], ...] = ()
    """What the events of a text stream hold."""

    def types(self) -> tuple[Any, ...]:
        """The types that the document must describe for this answer."""
        return (*((self.json,) if self.json else ()), *self.others, *self.events)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    description: str = ""
    query: type[msgspec.Struct] | None = None
    form: type[msgspec.Struct] | None = None
    body: Any = None
    body_example: msgspec.Struct | None = None
    answers: tuple[Answer, ...]
    errors: tuple[type[e.RtEmbedError], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers that matter, and what for."""
    misfit: str = "('body', 'model'): Field required"
    """What a request that does not fit is told, for example."""

    def all_errors(self) -> tuple[type[e.RtEmbedError], ...]:
        """Its own errors and those that any operation of its kind may have."""
        takes_something = self.query or self.form or self.body or "{" in self.path
        return (
            *((e.InvalidParameters,) if takes_something else ()),
            *self.errors,
            *(() if self.path in FREE else (e.Unauthorized, e.TooManyRequests)),
            e.RtEmbedError,
        )
