"""Files at s3:// URLs, fetched with the service's own credentials."""

from typing import TYPE_CHECKING

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import S3Store

from gateway.intake.http_source import Write
from shared import s3
from shared.errors import InvalidReference, RtEmbedError
from shared.settings import Settings

if TYPE_CHECKING:  # this exists for the type checker only
    from obstore import GetOptions

log = structlog.get_logger(__name__)

PIECE = 8 << 20
"""Bytes per request: a lost connection costs one piece, and memory holds no more."""


async def copy(settings: Settings, url: str, write: Write) -> None:
    """Write the object that `url` names.

    Raises InvalidReference if it does not exist or credentials are missing, RtEmbedError if S3 refuses the
    request or cannot be reached.
    """
    bucket, key = s3.split(url)
    store = _bucket(settings, bucket)
    try:
        found = await obstore.head_async(store, key)
        for start in range(0, found["size"], PIECE):
            end = min(start + PIECE, found["size"])
            options: GetOptions = {"range": (start, end), "if_match": found["e_tag"]}
            piece = await obstore.get_async(store, key, options=options)
            await write(bytes(await piece.bytes_async()))
    except FileNotFoundError as error:  # obstore raises Python's own exception where there is one
        raise InvalidReference(f"{url[:256]} does not exist") from error
    except BaseError as error:
        log.warning("s3 download failed", bucket=bucket, error=str(error))
        raise RtEmbedError(f"{url[:256]} could not be read from S3") from error


def _bucket(settings: Settings, name: str) -> S3Store:
    if not settings.s3_access_key or not settings.s3_secret_key:
        raise InvalidReference("s3:// URLs need AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to be set")
    return s3.open_bucket(settings, name, settings.download_connect_timeout, settings.download_timeout)
