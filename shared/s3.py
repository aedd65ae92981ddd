"""Objects in S3, or in a service with the same protocol."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from obstore.exceptions import BaseError
from obstore.store import S3Store

from shared.assets import OBJECT_SCHEME
from shared.errors import Unavailable
from shared.settings import Settings

if TYPE_CHECKING:  # these exist for the type checker only
    from obstore.store import ClientConfig, S3Config

CONNECT_SECONDS, REQUEST_SECONDS, RETRY_SECONDS, RETRIES = 5, 60, 10, 3
LONGEST_ANSWER = 64 << 10
_SAID = re.compile(r"<(?:Code|Message)>([^<]{1,1000})</")
_STATUS = re.compile(r"non-2xx status code: (\d{3}[^:\n]*)")
_NETWORK = (
    ("dns error", "its host name is not known"),
    ("tcp connect error", "it cannot be connected to"),
    ("kind: Connect", "it cannot be connected to"),
    ("kind: Timeout", "it does not answer in time"),
    ("169.254.169.254", "there are no credentials: neither keys nor a role"),
)


def split(url: str) -> tuple[str, str]:
    """Return the bucket and the key of `s3://bucket/key`."""
    bucket, _, key = url.removeprefix(OBJECT_SCHEME).partition("/")
    return bucket, key


def open_bucket(
    settings: Settings,
    name: str,
    connect_seconds: int = CONNECT_SECONDS,
    seconds: int = REQUEST_SECONDS,
) -> S3Store:
    """Return a client of the bucket; nothing is sent yet. `seconds` bound each request.

    Without keys in the settings the library looks for those of a role, where AWS puts them: a web identity,
    a container's, or an instance's.
    """
    config: S3Config = {"region": settings.aws_region or settings.s3_region}
    client: ClientConfig = {"connect_timeout": f"{connect_seconds}s", "timeout": f"{seconds}s"}
    if settings.s3_access_key and settings.s3_secret_key:
        config["access_key_id"] = settings.s3_access_key
        config["secret_access_key"] = settings.s3_secret_key
        if settings.s3_session_token:
            config["session_token"] = settings.s3_session_token
    virtual = settings.s3_addressing == "virtual"
    if virtual:
        config["virtual_hosted_style_request"] = True
    if endpoint := settings.s3_endpoint_url or settings.aws_endpoint_url_s3:
        config["endpoint"] = endpoint.replace("://", f"://{name}.", 1) if virtual else endpoint
        client["allow_http"] = endpoint.startswith("http://")
    return S3Store(
        name,
        config=config,
        client_options=client,
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


def cause(error: BaseException) -> str:
    """Return why a call failed, in a few words: what S3 says, else the network's error."""
    text = str(error)
    if said := _SAID.findall(text[:LONGEST_ANSWER]):
        return ": ".join(said[:2])
    for mark, meaning in _NETWORK:
        if mark in text:
            return meaning
    if status := _STATUS.search(text):
        return f"it answers {status[1].strip()}"
    return text.partition("\n")[0][:256]


@contextmanager
def answering() -> Iterator[None]:
    """Raise Unavailable, with the cause, for errors of the asset store inside."""
    try:
        yield
    except (BaseError, OSError) as error:  # obstore raises Python's own where there is one
        raise Unavailable(f"the asset store cannot be used: {cause(error)}") from error
