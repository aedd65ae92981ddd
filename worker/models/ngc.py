"""Downloads from NVIDIA NGC through its REST API."""

import base64
import errno
import json
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import msgspec

from shared.errors import ModelError
from worker.models.preparation_progress import Progress, watched_folder
from worker.models.remote import ELSEWHERE, MAKE_ROOM, RemoteFile, check_file, check_room, from_base64

TIMEOUT = 60.0  # seconds without a byte
PIECE = 1 << 20
ATTEMPTS = 5
API = "https://api.ngc.nvidia.com"
AUTHENTICATION = "https://authn.nvidia.com"


class NgcModel(msgspec.Struct, frozen=True):
    """A version of a model on NGC; `team` may be empty."""

    org: str
    team: str
    name: str
    version: str
    api_key: str | None = None
    api: str = API
    authentication: str = AUTHENTICATION

    @property
    def url(self) -> str:
        """The URL of the version."""
        team = f"/team/{quote(self.team)}" if self.team else ""
        name, version = quote(self.name), quote(self.version)
        return f"{self.api}/v2/org/{quote(self.org)}{team}/models/{name}/versions/{version}"

    @property
    def label(self) -> str:
        parts = [part for part in (self.org, self.team, self.name) if part]
        return f"ngc:{'/'.join(parts)}:{self.version}"


def download_model(model: NgcModel, folder: Path, progress: Progress) -> dict[str, str]:
    """Fetch every file of the version into `folder`; resume an earlier attempt.

    Returns the SHA-256 of each. Raises ModelError saying what to do.
    """
    try:
        headers = authorization(model)
        files = list_files(model, headers)
        total = sum(file.size for file in files)
        check_room(folder, total)
        with watched_folder(folder, f"downloading {model.label}", total, progress):
            return {file.path: fetch(model, file, folder, headers) for file in files}
    except (OSError, ValueError, KeyError, msgspec.MsgspecError) as error:
        raise ModelError(explain(error, model)) from error


def authorization(model: NgcModel) -> dict[str, str]:
    """Return the API's authorization header. Personal keys are sent unchanged; older ones get a token."""
    if not model.api_key:
        return {}
    if model.api_key.startswith("nvapi-"):
        return {"Authorization": f"Bearer {model.api_key}"}
    basic = base64.b64encode(f"$oauthtoken:{model.api_key}".encode()).decode()
    scopes = [model.org, f"{model.org}/{model.team}"] if model.team else [model.org]
    asked = "".join(f"&scope=group/ngc:{quote(scope)}" for scope in scopes)
    url = f"{model.authentication}/token?service=ngc{asked}"
    token = _get_json(url, {"Authorization": f"Basic {basic}"})["token"]
    return {"Authorization": f"Bearer {token}"}


class _ListedFile(msgspec.Struct):
    path: str
    size: int = msgspec.field(name="sizeInBytes")
    sha256: str = msgspec.field(name="sha256_base64", default="")


def list_files(model: NgcModel, headers: dict[str, str]) -> list[RemoteFile]:
    """List every file of the version, from all pages."""
    files: list[RemoteFile] = []
    page, pages = 0, 1
    while page < pages:
        answer = _get_json(f"{model.url}/files?page-number={page}&page-size=500", headers)
        files += [_remote_file(listed) for listed in msgspec.convert(answer["modelFiles"], list[_ListedFile])]
        page, pages = page + 1, answer.get("paginationInfo", {}).get("totalPages", 1)
    return files


def _remote_file(listed: _ListedFile) -> RemoteFile:
    path = PurePosixPath(listed.path)
    if path.is_absolute() or ".." in path.parts:
        raise ModelError(f"NGC lists a file outside the model: {listed.path}")
    if not listed.sha256:
        return RemoteFile(listed.path, listed.size)
    return RemoteFile(listed.path, listed.size, "sha256", from_base64(listed.sha256))


def fetch(model: NgcModel, file: RemoteFile, folder: Path, headers: dict[str, str]) -> str:
    """Fetch or resume one file and check it; return its SHA-256."""
    path = folder / file.path
    if not path.exists():
        part = path.with_name(f"{path.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        url = f"{model.url}/files/{quote(file.path)}"
        for attempt in range(ATTEMPTS):
            try:
                _resume(url, headers, part, file.size)
                break
            except (ConnectionError, TimeoutError):
                if attempt == ATTEMPTS - 1:
                    raise
        part.replace(path)
    return check_file(file, path)


def _resume(url: str, headers: dict[str, str], part: Path, size: int) -> None:
    """Append the missing bytes to `part`. Raises ConnectionError if the answer ends early."""
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        return
    asked = {**headers, "Range": f"bytes={have}-"} if have else headers
    with _open(url, asked) as answer, part.open("ab" if answer.status == 206 else "wb") as file:
        while piece := answer.read(PIECE):
            file.write(piece)
    if part.stat().st_size < size:
        raise ConnectionError(f"{url} ended after {part.stat().st_size} of {size} bytes")


def _get_json(url: str, headers: dict[str, str]) -> Any:
    with _open(url, {**headers, "Accept": "application/json"}) as answer:
        return json.load(answer)


def _open(url: str, headers: dict[str, str]) -> Any:
    if not url.startswith(("https://", "http://")):
        raise ModelError(f"{url} is not an http or https URL")
    request = urllib.request.Request(url)  # noqa: S310 - checked above
    for name, value in headers.items():
        if name == "Authorization":
            # NGC redirects to signed storage URLs on another host, which must not get the key.
            request.add_unredirected_header(name, value)
        else:
            request.add_header(name, value)
    return urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310 - checked above


def explain(error: Exception, model: NgcModel) -> str:
    """Return what happened and what to do about it."""
    status = error.code if isinstance(error, urllib.error.HTTPError) else 0
    if status in (401, 403):
        key = "check that NGC_API_KEY is valid and may read it" if model.api_key else "set NGC_API_KEY"
        message = f"{model.label} needs permission ({status}): {key}"
    elif status == 404:
        message = f"{model.label} does not exist: check MODEL_PATH, whose form is ngc:ORG/TEAM/MODEL:VERSION"
    elif status == 429:
        message = f"{model.api} limits the rate of downloads: wait some minutes"
    elif status:
        message = f"{model.api} answered {status} for {model.label}"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        message = f"the disk is full while downloading {model.label}: {MAKE_ROOM}"
    elif isinstance(error, OSError):
        message = f"{model.api} cannot be reached ({error}): check the network, {ELSEWHERE}"
    else:
        message = f"{model.api} sent an unexpected answer for {model.label}: {error!r}"
    return message
