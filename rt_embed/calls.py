"""Calls to the service as steps, without any input or output: the synchronous and the asynchronous client
carry them out, each in its own way.

A flow yields `Call` and gets the answer, or `Wait` and gets nothing; what it returns is its result.
"""

import itertools
import random
import uuid
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import httpx

from rt_embed.exceptions import ConnectionFailed, ServiceError, error_of

EVENT_SILENCE = 30.0
"""Seconds without a byte after which an event stream counts as broken; the service pings every second."""
LONGEST_RETRY_AFTER = 300.0
RETRIED = frozenset({429, 503, 504})

T = TypeVar("T")


class StreamedBody(Protocol):
    """A body that is read as it is sent, and may be sent again."""

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that describe it, its length among them."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield it, piece by piece."""


@dataclass(frozen=True)
class Call:
    """One HTTP request. `repeatable`: sending it twice does no more than sending it once."""

    method: str
    path: str
    json: Any = None
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] | None = None
    upload: StreamedBody | None = None
    stream: bool = False
    repeatable: bool = True


@dataclass(frozen=True)
class Wait:
    """A pause before the next attempt."""

    seconds: float


Flow = Generator[Call | Wait, httpx.Response | None, T]


@dataclass(frozen=True)
class Retries:
    """How often and how fast a call is tried again. `attempts` None: without limit."""

    attempts: int | None = 5
    first: float = 0.2
    longest: float = 10.0

    def allow(self, failures: int) -> bool:
        """Return whether to try again after so many failures."""
        return self.attempts is None or failures <= self.attempts

    def pause(self, failures: int, at_least: float | None = None) -> Wait:
        """Return a random pause that doubles with every failure, and what the service asked for at least."""
        longest = min(self.longest, self.first * 2 ** min(failures - 1, 16))
        waited = longest * random.uniform(0.5, 1)
        return Wait(max(waited, min(at_least or 0.0, LONGEST_RETRY_AFTER)))


def answered(call: Call, retries: Retries, also: frozenset[int] = frozenset()) -> Flow[httpx.Response]:
    """Send a call until it is answered; return the answer, which is no error.

    Tried again: a connection that breaks, 429, 503, 504, 502 of a proxy, and the statuses in `also`.
    Raises ServiceError or ConnectionFailed when that does not help.
    """
    request_id = str(uuid.uuid4())
    call = replace(call, headers={"X-Request-Id": request_id, **call.headers})
    for failures in itertools.count(1):
        try:
            answer = yield call
        except httpx.TransportError as error:
            nothing_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
            if not (nothing_sent or call.repeatable) or not retries.allow(failures):
                raise ConnectionFailed(_reason(error), request_id=request_id) from error
            yield retries.pause(failures)
            continue
        assert answer is not None  # noqa: S101 - a call is answered by a response
        if answer.is_success:
            return answer
        problem = error_of(answer)
        if not (_passes(problem) or problem.status in also) or not retries.allow(failures):
            raise problem
        yield retries.pause(failures, problem.retry_after)
    raise AssertionError("unreachable")


def _passes(problem: ServiceError) -> bool:
    """Return whether the same call may work later. A 502 with a code of the service is about the media's
    host."""
    return problem.status in RETRIED or (problem.status == 502 and problem.code == "Http502")


def _reason(error: httpx.TransportError) -> str:
    request = error.request
    return f"{request.url.copy_with(query=None)}: {error or type(error).__name__}"
