"""Fetching the media at a URL into the asset store: http(s), s3, data, or a file on the server.

Bytes are written as they arrive; at most one piece of them is in memory.
"""

import re
import time
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec
import structlog

from gateway.api.validation import problem
from gateway.intake import data_source, s3_source
from gateway.intake.http_source import HttpNetwork, HttpSource
from gateway.intake.server_files import find_server_file
from gateway.store.asset_store import AssetStore
from gateway.store.storage import Writer
from shared.errors import (
    DownloadFailed,
    FileTooLarge,
    Forbidden,
    InvalidDataUrl,
    InvalidParameters,
    InvalidReference,
    MissingFile,
    RedirectNotAllowed,
)
from shared.settings import Settings
from shared.telemetry.instruments import (
    asset_download_bytes,
    asset_download_duration,
    asset_download_requests,
)

log = structlog.get_logger(__name__)

FETCH_ERRORS = (
    InvalidReference,
    MissingFile,
    InvalidDataUrl,
    RedirectNotAllowed,
    Forbidden,
    FileTooLarge,
    DownloadFailed,
)
"""Errors that fetching a URL may raise, besides InvalidParameters."""
FILE_NAME = "input_file.mp4"
MEASURED = {"http", "https", "s3"}
_KNOWN_NAME = re.compile(
    r"[A-Za-z0-9_\- ][A-Za-z0-9_.\- ]{0,200}\.(mp4|avi|mov|jpg|jpeg|png|webm)", re.IGNORECASE
)


class Location(msgspec.Struct, frozen=True):
    """A URL that may be fetched. `addresses` are its host's, which is not looked up again.

    The payload of a data: URL may be in the file `inline` already.
    """

    url: str
    addresses: list[str] = []
    inline: str | None = None
    inline_size: int = 0


class Downloaded(msgspec.Struct, frozen=True):
    """A file, its name for clients, and its size. `ours`: it is in the asset store and may be moved."""

    path: str
    filename: str
    size: int
    ours: bool


class Downloads:
    """Fetches the media at URLs."""

    def __init__(self, settings: Settings, store: AssetStore, network: HttpNetwork | None = None) -> None:
        self._settings = settings
        self._store = store
        self._http = HttpSource(settings, network or HttpNetwork())
        self.limit = int(settings.download_limit_gb * (1 << 30))

    async def locate(self, url: str, inline: str | None = None, inline_size: int = 0) -> Location:
        """Resolve the URL's host, once. The payload of a data: URL may be in the file `inline`.

        Raises InvalidParameters if the host is not allowed.
        """
        if inline is not None:
            return Location(url, inline=inline, inline_size=inline_size)
        if url.partition(":")[0] in ("file", "data", "s3"):
            return Location(url)
        try:
            return Location(url, await self._http.resolve(url))
        except InvalidParameters as error:
            raise problem(("body", "url"), error.message) from error

    async def fetch(
        self,
        source: Location,
        folder: str,
        *,
        headers: Mapping[str, str] | None = None,
        media_type: Literal["video", "image"] = "video",
    ) -> Downloaded:
        """Fetch the file at `source` into `folder`; a `file://` one is used in place.

        `headers` are sent to the URL's own host over https. `media_type` decides the name of a data URL's
        file if its own type does not. Raises InvalidParameters, RedirectNotAllowed, DownloadFailed and
        FileTooLarge (http), InvalidReference and RtEmbedError (s3), InvalidDataUrl and FileTooLarge (data),
        Forbidden and MissingFile (file).
        """
        scheme = source.url.partition(":")[0]
        if scheme == "file":
            return await self._store.in_thread(lambda: self._in_place(source.url))
        began = time.monotonic()
        name = _file_name(source.url, media_type)
        path = f"{folder}/{name}"
        if source.inline:
            path = await self._store.rename(source.inline, path)
            return Downloaded(path, name, source.inline_size, ours=True)
        writer = self._store.writer(path)
        status = "failure"
        try:
            async with writer:
                await self._copy(source, headers or {}, writer)
            status = "success"
        finally:
            seconds = time.monotonic() - began
            _measure(scheme, status, seconds, writer.size)
        log.info("url fetched", scheme=scheme, filename=name, bytes=writer.size, seconds=round(seconds, 3))
        return Downloaded(path, name, writer.size, ours=True)

    async def _copy(self, source: Location, headers: Mapping[str, str], writer: Writer) -> None:
        match source.url.partition(":")[0]:
            case "data":
                await data_source.copy(source.url, self.limit, writer.write)
            case "s3":
                await s3_source.copy(self._settings, source.url, writer.write)
            case _:
                await self._http.copy(source.url, source.addresses, headers, self.limit, writer.write)

    def _in_place(self, url: str) -> Downloaded:
        path = find_server_file(url.removeprefix("file://"), self._settings.file_url_dirs)
        return Downloaded(str(path), path.name, path.stat().st_size, ours=False)


def _file_name(url: str, media_type: str) -> str:
    """Return the file name in the URL if it is plain and has a known extension, else FILE_NAME."""
    scheme = url.partition(":")[0]
    if scheme == "data":
        return data_source.file_name(url, media_type)
    name = urlsplit(url).path.rpartition("/")[2] if scheme != "s3" else ""
    return name if _KNOWN_NAME.fullmatch(name) else FILE_NAME


def _measure(scheme: str, status: str, seconds: float, size: int) -> None:
    labels = {"source": scheme if scheme in MEASURED else "unknown", "status": status}
    asset_download_requests.add(1, labels)
    asset_download_duration.record(seconds, labels)
    asset_download_bytes.add(size, labels)
