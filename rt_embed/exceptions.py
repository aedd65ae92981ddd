"""What goes wrong between a client and the service.

`ClientError` is the base of all. `ServiceError` and its classes are answers of the service and carry its
code, the HTTP status and the id of the request; `ConnectionFailed` means that there was no answer.
"""

import httpx
import msgspec


class ClientError(Exception):
    """Something went wrong with a call. `request_id` finds it in the service's log."""

    def __init__(self, message: str, *, request_id: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id


class ConnectionFailed(ClientError):
    """The service cannot be reached, or the connection broke more often than is tried."""


class ServiceError(ClientError):
    """The service answered with an error."""

    def __init__(
        self, message: str, *, code: str, status: int, request_id: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.code = code
        self.status = status
        self.retry_after = retry_after

    def __str__(self) -> str:
        where = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.status} {self.code}: {self.message}{where}"


class BadRequestError(ServiceError):
    """400: something the request names cannot be used."""


class AuthenticationError(ServiceError):
    """401: the API key is missing or unknown."""


class ForbiddenError(ServiceError):
    """403: the request names what it may not read."""


class NotFoundError(ServiceError):
    """404: there is no such thing, or not any more."""


class ConflictError(ServiceError):
    """409: the id is taken, or another client reads this stream."""


class TooLargeError(ServiceError):
    """413: the file or body exceeds a limit of the service."""


class ValidationError(ServiceError):
    """422: the request does not fit its schema."""


class RateLimitError(ServiceError):
    """429: more requests than this client may send; `retry_after` is in seconds."""


class ServerError(ServiceError):
    """5xx: the service failed."""


class BusyError(ServerError):
    """503: the service is full or not ready; `retry_after` is in seconds, if it said so."""


_BY_STATUS: dict[int, type[ServiceError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: ValidationError,
    429: RateLimitError,
    503: BusyError,
}
_LONGEST_MESSAGE = 1024


class _ErrorBody(msgspec.Struct):
    code: str = ""
    message: str = ""
    detail: object = None


def error_of(answer: httpx.Response) -> ServiceError:
    """Return the error that an answer is. Its body may be the service's own, or anything a proxy sends."""
    try:
        body = msgspec.json.decode(answer.content, type=_ErrorBody)
    except msgspec.DecodeError:
        body = _ErrorBody(message=answer.text.strip())
    message = body.message or (str(body.detail) if body.detail else "") or answer.reason_phrase
    return service_error(
        answer.status_code,
        body.code,
        message[:_LONGEST_MESSAGE],
        answer.headers.get("x-request-id") or answer.request.headers.get("x-request-id", ""),
        _seconds(answer.headers.get("retry-after", "")),
    )


def service_error(
    status: int, code: str, message: str, request_id: str, retry_after: float | None = None
) -> ServiceError:
    """Return the error of the class that belongs to the status."""
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else ServiceError)
    return kind(
        message, code=code or f"Http{status}", status=status, request_id=request_id, retry_after=retry_after
    )


def _seconds(header: str) -> float | None:
    try:
        return max(0.0, float(header))
    except ValueError:
        return None
