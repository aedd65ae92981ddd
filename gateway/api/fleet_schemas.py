"""Answers about the fleet, its queues and requests, and requests about dead letters."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.api.schemas import ApiRequest, ApiResponse, ModelId, Parameters, Second, StreamId

MOST_ROWS = 500
MOST_LETTERS = 100
LETTER_ID = r"^(job|message):[0-9]{1,19}-[0-9]{1,19}\Z"

Count = Annotated[int, Meta(ge=0)]
Age = Annotated[float, Meta(ge=0, description="Seconds.", examples=[1.5])]
LaneName = Annotated[str, Meta(examples=["video"])]
RequestState = Literal["running", "done", "failed", "cancelled"]


class WorkerState(ApiResponse):
    """A worker that is alive."""

    name: str
    state: Literal["starting", "ready", "stopping"]
    healthy: bool
    detail: Annotated[str, Meta(description="What it is doing while it starts, or why it is not well.")]
    host: str
    model: Annotated[str | None, Meta(description="Id of the model it has loaded.")]
    backend: Annotated[str, Meta(description="What runs the model.", examples=["cpu"])]
    backend_reason: Annotated[str, Meta(description="Why no GPU is used.")]
    gpu: str
    batch_size: Count
    started: Annotated[Second, Meta(description="Unix time.")]
    jobs_running: Count
    jobs_done: Count


class QueueHolder(ApiResponse):
    """A process that has taken jobs or messages from a queue."""

    name: str
    pending: Annotated[int, Meta(ge=0, description="What it has taken and not finished.")]
    silent_s: Annotated[float, Meta(ge=0, description="Seconds since it last asked for more.")]


class LaneState(ApiResponse):
    """A queue of jobs."""

    lane: LaneName
    model: Annotated[str, Meta(description="The model whose jobs these are; empty for probes.")]
    waiting: Annotated[int, Meta(description="Jobs that no worker has taken.")]
    pending: Annotated[int, Meta(ge=0, description="Jobs that workers have taken.")]
    oldest_s: Annotated[Age | None, Meta(description="Age of the oldest job; null for none.")]
    workers: list[QueueHolder]


class OutboxState(ApiResponse):
    """Messages that wait for the message bus, and counts of those sent and dropped."""

    waiting: int
    pending: Count
    oldest_s: Annotated[Age | None, Meta(description="Age of the oldest message; null for none.")]
    sent: Count
    dropped: Count
    refused: Count
    publishers: list[QueueHolder]


class FleetState(ApiResponse):
    """The fleet and its queues. `problem` says why a request sent now would not be served."""

    ready: bool
    problem: str
    models: Annotated[list[ModelId], Meta(description="Ids of the models that ready workers serve.")]
    workers: list[WorkerState]
    lanes: list[LaneState]
    outbox: OutboxState
    dead_letters: Annotated[int, Meta(ge=0, description="Jobs and messages that were given up.")]


class KnownRequestsQuery(Parameters):
    """Which requests to list."""

    state: Annotated[RequestState | None, Meta(description="Only these.")] = None
    limit: Annotated[int, Meta(ge=1, le=MOST_ROWS)] = 50


class RequestSummary(ApiResponse):
    """A request that is remembered."""

    id: str
    lane: LaneName
    state: RequestState
    age_s: Annotated[float, Meta(description="Seconds since it was accepted.")]
    ran_s: Annotated[float, Meta(description="Seconds until it ended, or until now.")]
    chunks_done: Count
    chunks_planned: Annotated[int, Meta(ge=0, description="0 for a live stream.")]
    model: str
    assets: list[StreamId]


class RequestList(ApiResponse):
    """The newest requests, newest first."""

    data: list[RequestSummary]


LetterId = Annotated[str, Meta(max_length=64, pattern=LETTER_ID, examples=["job:1717957951123-0"])]


class DeadLetter(ApiResponse):
    """A job or a message that was given up."""

    id: LetterId
    kind: Literal["job", "message"]
    age_s: Age
    lane: Annotated[str, Meta(description="The queue it was taken from; empty for a message.")]
    request: Annotated[str, Meta(description="The request it belongs to.")]
    deliveries: Annotated[
        int | None, Meta(description="How many workers it was given to; null for a message.")
    ]
    error: Annotated[str, Meta(description="Why it was given up.")]


class DeadLetters(ApiResponse):
    """The newest of each kind, oldest first. `total` counts all."""

    data: list[DeadLetter]
    total: Count


class ChosenLetters(ApiRequest):
    """Dead letters to put back or to delete."""

    ids: Annotated[list[LetterId], Meta(min_length=1, max_length=MOST_LETTERS)]


class LetterOutcome(ApiResponse):
    """What happened to one of them."""

    id: LetterId
    done: bool
    outcome: Annotated[str, Meta(examples=["requeued"])]


class LetterOutcomes(ApiResponse):
    """What happened to each, in the order of the request."""

    results: list[LetterOutcome]


class JobFields(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a dead letter's entry."""

    id: str
    age_s: float
    lane: str = ""
    request: str = ""
    deliveries: str = ""
    error: str = ""
