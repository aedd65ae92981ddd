"""Where the service is, and how a call becomes an HTTP request; the same for both clients."""

import asyncio
import os
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec

from rt_embed.calls import EVENT_SILENCE, Call, StreamedBody

DEFAULT_URL = "http://localhost:8000"


def connection_options(
    url: str | None, api_key: str | None, timeout: float, headers: dict[str, str] | None
) -> dict[str, Any]:
    """Return the options of an httpx client."""
    key = api_key if api_key is not None else os.environ.get("RTEMBED_API_KEY", "")
    address = (url or os.environ.get("RTVI_BACKEND") or DEFAULT_URL).rstrip("/")
    return {
        "base_url": address if "://" in address else f"http://{address}",
        "headers": {
            "User-Agent": f"rt-embed-client/{_version()}",
            **({"Authorization": f"Bearer {key}"} if key else {}),
            **(headers or {}),
        },
        "timeout": httpx.Timeout(timeout, connect=min(timeout, 10.0)),
        "follow_redirects": True,
    }


def http_request(http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
    """Return the request of a call. The body of an upload is read as it is sent."""
    content: Any = None
    headers = dict(call.headers)
    if call.upload:
        content = iter(call.upload) if isinstance(http, httpx.Client) else _in_threads(call.upload)
        headers |= call.upload.headers
    elif call.form is not None:
        content = urlencode(call.form).encode()
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    elif call.json is not None:
        content = msgspec.json.encode(call.json)
        headers["Content-Type"] = "application/json"
    timeout = http.timeout
    if call.stream:
        timeout = httpx.Timeout(
            connect=timeout.connect, read=EVENT_SILENCE, write=timeout.write, pool=timeout.pool
        )
    return http.build_request(
        call.method,
        call.path,
        params=dict(call.params) or None,
        headers=headers,
        content=content,
        timeout=timeout,
    )


async def _in_threads(body: StreamedBody) -> AsyncIterator[bytes]:
    """Yield a body whose pieces are read in threads."""
    pieces = iter(body)
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece


def _version() -> str:
    try:
        return version("rt-embed")
    except PackageNotFoundError:  # its folder was copied into an application
        return "unknown"
