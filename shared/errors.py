"""Every failure that a caller may treat differently, in one tree.

The class holds the code, the HTTP status and whether trying again can help; the message names the thing
and the value. Nothing reads policy from a message.
"""

LONGEST_MESSAGE = 4096
"""Characters of a failure's message; it may repeat what a client, a file or a camera said."""


class RtEmbedError(Exception):
    """A failure with a public `code` and HTTP `status`; `retry` says whether the same call may work later."""

    code = "InternalServerError"
    status = 500
    retry = False

    def __init__(self, message: str) -> None:
        self.message = message[:LONGEST_MESSAGE]
        super().__init__(self.message)


# What a client sent -----------------------------------------------------------------------------------


class InvalidParameters(RtEmbedError):
    """The request does not fit its schema."""

    code, status = "InvalidParameters", 422


class InvalidReference(RtEmbedError):
    """A well-formed request names something outside the service that is not usable (a path, a bucket)."""

    code, status = "InvalidParameters", 400


class BadParameters(RtEmbedError):
    """Fields that contradict each other or the loaded model."""

    code, status = "BadParameters", 400


class BadParameter(RtEmbedError):
    """One value that cannot be used: an unknown asset, an overlap that is too long."""

    code, status = "BadParameter", 400


class UndecodableBody(RtEmbedError):
    """The body is not UTF-8."""

    code, status = "BadRequest", 400


class BadRequest(RtEmbedError):
    """A change of the configuration that cannot be made."""

    code, status = "BadRequest", 400


class InvalidFile(RtEmbedError):
    """The media is unreadable, has no video track, or is of the other kind."""

    code, status = "InvalidFile", 400


class FailedRequest(RtEmbedError):
    """The file of a request cannot be opened."""

    code, status = "FailedRequest", 400


class MissingFile(RtEmbedError):
    """A file:// URL names no existing regular file."""

    code, status = "FileNotFound", 400


class AssetAlreadyExists(RtEmbedError):
    """The id for the media behind a URL belongs to an asset already."""

    code, status = "AssetAlreadyExists", 400


class InvalidDataUrl(RtEmbedError):
    """The payload of a data URL cannot be decoded."""

    code, status = "InvalidDataUrl", 400


class Unauthorized(RtEmbedError):
    """The request has no API key that is known here."""

    code, status = "Unauthorized", 401


class Forbidden(RtEmbedError):
    """A file:// URL names a file outside the allowed folders."""

    code, status = "Forbidden", 403


class AdminOnly(RtEmbedError):
    """The request changes the service, and its key is not an administrator's."""

    code, status = "Forbidden", 403


class ForeignOrigin(RtEmbedError):
    """The request was sent by a page of a site that may not use the service."""

    code, status = "Forbidden", 403


class ForeignHost(RtEmbedError):
    """The request names a host under which this service is not served."""

    code, status = "MisdirectedRequest", 421


class NotFound(RtEmbedError):
    """What the request names does not exist or no longer exists."""

    code, status = "NotFound", 404


class ResourceInUse(RtEmbedError):
    """The asset is held by a running request."""

    code, status, retry = "ResourceInUse", 409, True


class Conflict(RtEmbedError):
    """Another client already reads this stream."""

    code, status, retry = "Conflict", 409, True


class InvalidParameter(RtEmbedError):
    """The id of a file where that of a live stream is wanted."""

    code, status = "InvalidParameter", 400


class DuplicateStreamId(RtEmbedError):
    """The requested id belongs to another stream or file."""

    code, status = "DuplicateStreamId", 409


class DuplicateCameraId(RtEmbedError):
    """The camera is registered already."""

    code, status = "DuplicateCameraId", 409


class DuplicateAssetId(RtEmbedError):
    """The requested id belongs to another asset."""

    code, status = "DuplicateAssetId", 409


class FileTooLarge(RtEmbedError):
    """More bytes than the configured limit."""

    code, status = "FileTooLarge", 413


class IdempotencyKeyReused(RtEmbedError):
    """The Idempotency-Key belongs to another request."""

    code, status = "IdempotencyKeyReused", 422

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was sent with another body; use a new key for each request")


class RedirectNotAllowed(RtEmbedError):
    """A URL redirects more often than is allowed."""

    code, status = "RedirectNotAllowed", 422


class TooManyRequests(RtEmbedError):
    """This client has sent more requests than it may; `Retry-After` says when to try again."""

    code, status, retry = "TooManyRequests", 429, True

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


# What the service could not do ------------------------------------------------------------------------


class ServerBusy(RtEmbedError):
    """A queue or the asset store is full; nothing was accepted."""

    code, status, retry = "ServerBusy", 503, True


class Unavailable(RtEmbedError):
    """Redis or every worker is away."""

    code, status, retry = "ServiceUnavailable", 503, True


class StoreUnusable(Unavailable):
    """The asset store's folder takes no files: its disk is full or read-only."""


class RequestLost(Unavailable):
    """An accepted request is no longer known: Redis lost it, or its keys were deleted."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"the request {request_id} is not known any more: Redis has lost it; send it again")


class DependencyError(RtEmbedError):
    """An asset vanished between the check and its use."""

    code, status, retry = "DependencyError", 503, True


class DownloadFailed(RtEmbedError):
    """The host of a URL did not send the file."""

    code, status, retry = "DownloadFailed", 502, True


class TextEmbeddingsError(RtEmbedError):
    """The model failed on a text."""

    code, status = "TextEmbeddingsError", 500


class NotSupported(RtEmbedError):
    """The loaded model does not support this."""

    code, status = "NotImplemented", 501


class EmbeddingFailed(RtEmbedError):
    """A chunk of the request failed; the message is the chunk's error."""

    code, status = "InternalServerError", 500


# What happens inside a worker -------------------------------------------------------------------------


class DecodeError(RtEmbedError):
    """A chunk could not be decoded."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"Decode error: {detail}")
        self.detail = detail


class EngineError(RtEmbedError):
    """The engine failed on a batch."""


class DeviceMemoryShort(EngineError):
    """A batch did not fit into the memory of the GPU; a smaller one may fit."""


class DeviceLost(Exception):
    """The GPU of this worker cannot be used any more. Not an RtEmbedError, as it answers no request: the
    job goes to another worker."""


class ModelError(RtEmbedError):
    """A model directory cannot be loaded or made."""


class IndexUnusable(RtEmbedError):
    """The database cannot hold a search index, and trying again does not help."""


class WebhookFailed(RtEmbedError):
    """A trigger's webhook that does not take an event."""

    retry = True


class SealedSecret(RtEmbedError):
    """A secret in Redis was encrypted with a key that this process does not have."""


class BusError(RtEmbedError):
    """A message bus cannot be reached, or refuses the connection."""

    retry = True


class MessageRefused(RtEmbedError):
    """A message bus will never take this message: it is too large, or not allowed."""


class SettingsError(RtEmbedError):
    """An environment variable has a value that is not allowed."""
