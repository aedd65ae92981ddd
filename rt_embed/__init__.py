"""rt-embed: a typed client of its service, and the command line.

from rt_embed import Client

with Client("http://localhost:8000") as client:
    for chunk in client.embed_video("film.mp4", chunk_duration=10):
        print(chunk.start, chunk.end, chunk.vector)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rt_embed.async_client import AsyncChunkStream as AsyncChunkStream
    from rt_embed.async_client import AsyncClient as AsyncClient
    from rt_embed.client import ChunkStream as ChunkStream
    from rt_embed.client import Client as Client
    from rt_embed.exceptions import AuthenticationError as AuthenticationError
    from rt_embed.exceptions import BadRequestError as BadRequestError
    from rt_embed.exceptions import BusyError as BusyError
    from rt_embed.exceptions import ClientError as ClientError
    from rt_embed.exceptions import ConflictError as ConflictError
    from rt_embed.exceptions import ConnectionFailed as ConnectionFailed
    from rt_embed.exceptions import ForbiddenError as ForbiddenError
    from rt_embed.exceptions import NotFoundError as NotFoundError
    from rt_embed.exceptions import RateLimitError as RateLimitError
    from rt_embed.exceptions import ServerError as ServerError
    from rt_embed.exceptions import ServiceError as ServiceError
    from rt_embed.exceptions import TooLargeError as TooLargeError
    from rt_embed.exceptions import ValidationError as ValidationError
    from rt_embed.types import Bookmark as Bookmark
    from rt_embed.types import CameraStream as CameraStream
    from rt_embed.types import EmbeddedImage as EmbeddedImage
    from rt_embed.types import MatchedChunk as MatchedChunk
    from rt_embed.types import ModelEntry as ModelEntry
    from rt_embed.types import RequestState as RequestState
    from rt_embed.types import SavedTrigger as SavedTrigger
    from rt_embed.types import SearchHit as SearchHit
    from rt_embed.types import StoredFile as StoredFile
    from rt_embed.types import StoredMedia as StoredMedia
    from rt_embed.types import Vector as Vector
    from rt_embed.types import VideoChunk as VideoChunk
    from rt_embed.types import WebhookDelivery as WebhookDelivery

_EXPORTS = {
    "rt_embed.async_client": ("AsyncChunkStream", "AsyncClient"),
    "rt_embed.client": ("ChunkStream", "Client"),
    "rt_embed.exceptions": (
        "AuthenticationError", "BadRequestError", "BusyError", "ClientError", "ConflictError",
        "ConnectionFailed", "ForbiddenError", "NotFoundError", "RateLimitError", "ServerError",
        "ServiceError", "TooLargeError", "ValidationError",
    ),
    "rt_embed.types": (
        "Bookmark", "CameraStream", "EmbeddedImage", "MatchedChunk", "ModelEntry", "RequestState",
        "SavedTrigger", "SearchHit", "StoredFile", "StoredMedia", "Vector", "VideoChunk", "WebhookDelivery",
    ),
}  # fmt: skip
_HOMES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - ruff wants a literal, which would list all names a third time


def __getattr__(name: str) -> Any:
    """Import names on first use: the command line starts faster without httpx."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
