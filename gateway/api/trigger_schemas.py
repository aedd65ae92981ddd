"""Requests and answers about triggers. See `gateway.api.schemas`."""

from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from gateway.api.schemas import ApiResponse, ModelId, Parameters, Timestamp, Uuid
from gateway.api.search_schemas import IndexHit, Question

KEPT_EVENTS = 1000
"""Of each trigger."""
LONGEST_COOLDOWN = 30 * 86_400

TriggerName = Annotated[str, Meta(min_length=1, max_length=200, examples=["Forklift in the aisle"])]
Camera = Annotated[str, Meta(min_length=1, max_length=256)]
Cameras = Annotated[
    Annotated[list[Camera], Meta(min_length=1, max_length=1000)] | None,
    Meta(description="Only these, by camera id, sensor name or asset id; all if absent."),
]
Threshold = Annotated[float, Meta(ge=-1, le=1, description="Least score of a match.", examples=[0.3])]
Cooldown = Annotated[
    float,
    Meta(
        ge=0,
        le=LONGEST_COOLDOWN,
        description="Seconds before and after a match in which nothing else of the camera or file matches.",
        examples=[60],
    ),
]


def _check_webhook(url: str) -> None:
    """Raise ValueError unless an event can be sent to `url`."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("Must be an http:// or https:// URL")
    if "@" in parts.netloc:
        raise ValueError("Must hold no user name and password: sign with webhook_secret instead")


class TriggerRequest(Question):
    """A question to ask of each new chunk, and whom to tell."""

    name: TriggerName
    threshold: Threshold
    cameras: Cameras = None
    files: Annotated[bool, Meta(description="Match chunks of files, too.")] = False
    cooldown: Cooldown = 60.0
    webhook: Annotated[
        Annotated[str, Meta(max_length=2048)] | None,
        Meta(
            extra={"check": _check_webhook},
            description="URL to which each event is sent by POST, as JSON.",
            examples=["https://203.0.113.7/rt-embed"],
        ),
    ] = None
    webhook_secret: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None,
        Meta(
            extra={"secret": True},
            description="Key of the HMAC-SHA256 of the body in `X-RTEmbed-Signature: sha256=...`.",
        ),
    ] = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield problems with combinations of fields."""
        yield from Question.problems(self)
        if not self.name.isprintable() or not self.name.strip():
            yield "name", "Must be printable characters"
        if self.webhook_secret is not None and self.webhook is None:
            yield "webhook_secret", "Give a webhook, too"


class WebhookState(ApiResponse):
    """Where the events of a trigger are sent, and the state of the delivery."""

    host: Annotated[str, Meta(description="The URL without path and query, which may be secrets.")]
    signed: bool
    waiting: Annotated[int, Meta(description="Events that are not delivered yet.")]
    given_up: Annotated[int, Meta(description="Events that could not be delivered.")]
    error: Annotated[str, Meta(description="Of the last attempt; empty if it worked.")]


class Trigger(ApiResponse):
    """A trigger."""

    id: Uuid
    name: TriggerName
    question: Literal["text", "image", "vector", "like"]
    text: Annotated[str | None, Meta(description="The sentence, if it is one.")]
    model: ModelId
    threshold: float
    cameras: list[str] | None
    files: bool
    cooldown: float
    created: Annotated[int, Meta(description="Seconds since 1970.", examples=[1767000000])]
    matches: Annotated[int, Meta(description="Matches since it was created.")]
    last_match: Annotated[Timestamp | None, Meta(description="When it last matched.")]
    webhook: WebhookState | None


class TriggerList(ApiResponse):
    """All triggers, the oldest first."""

    triggers: list[Trigger]


class DeletedTrigger(ApiResponse):
    """The trigger and its events are gone."""

    id: Uuid
    deleted: bool = True


class TriggerEventsQuery(Parameters):
    """With which events to begin."""

    last: Annotated[
        int, Meta(ge=0, le=KEPT_EVENTS, description="Begin with this many events that have been.")
    ] = 0


class TriggerEvent(IndexHit):
    """A match: the chunk, and the trigger that it matched."""

    id: Annotated[str, Meta(description="Unique, and ascending for each trigger.", examples=["17"])]
    trigger: Uuid
    trigger_name: TriggerName
    matched_at: Annotated[Timestamp, Meta(description="When the chunk was indexed.")]
