"""Downloads from the Hugging Face hub or a mirror of it."""

import errno
import shutil
import time
from pathlib import Path

import msgspec
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from shared.errors import ModelError
from worker.models.preparation_progress import Progress, watched_folder
from worker.models.remote import ELSEWHERE, MAKE_ROOM, RemoteFile, check_file, check_room

PAUSES = (0.2, 1.0, 5.0, 15.0)
"""Seconds before a broken transfer is retried."""


class Repository(msgspec.Struct, frozen=True):
    """A model repository at a revision of the hub at `endpoint`."""

    name: str
    revision: str
    endpoint: str
    token: str | None = None

    @property
    def label(self) -> str:
        return f"{self.endpoint}/{self.name} at {self.revision}"


def download_repository(
    repository: Repository, folder: Path, progress: Progress
) -> tuple[str, dict[str, str]]:
    """Fetch every file into `folder`; resume an earlier attempt.

    Returns the commit and the SHA-256 of each file. Raises ModelError saying what to do.
    """
    disable_progress_bars()
    try:
        commit, files = list_files(repository)
        check_room(folder, sum(file.size for file in files))
        step = f"downloading {repository.name}"
        with watched_folder(folder, step, sum(file.size for file in files), progress):
            digests = {file.path: fetch(repository, commit, file, folder) for file in files}
    except ModelError:
        raise
    except Exception as error:  # the client's own, its HTTP library's, the disk's
        raise ModelError(explain(error, repository)) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's state for resuming
    return commit, digests


def list_files(repository: Repository) -> tuple[str, list[RemoteFile]]:
    """Return the revision's commit, and its files with their digests."""
    api = HfApi(endpoint=repository.endpoint, token=repository.token)
    info = api.model_info(repository.name, revision=repository.revision, files_metadata=True)
    files = [
        RemoteFile(sibling.rfilename, sibling.size or 0, "sha256", sibling.lfs.sha256)
        if sibling.lfs
        else RemoteFile(sibling.rfilename, sibling.size or 0, "git-sha1", sibling.blob_id or "")
        for sibling in info.siblings or []
    ]
    return info.sha or repository.revision, files


def fetch(repository: Repository, commit: str, file: RemoteFile, folder: Path) -> str:
    """Fetch and check one file; return its SHA-256. Retry a broken transfer."""
    for pause in (*PAUSES, None):
        try:
            path = hf_hub_download(
                repository.name,
                file.path,
                revision=commit,
                local_dir=folder,
                endpoint=repository.endpoint,
                token=repository.token,
            )
        except Exception as error:
            if pause is None or not is_broken_transfer(error):
                raise
            time.sleep(pause)
        else:
            break
    return check_file(file, Path(path))


def is_broken_transfer(error: Exception) -> bool:
    """Return whether the connection failed, as opposed to a refusal or a full disk."""
    disk = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return not disk and not isinstance(error, OfflineModeIsEnabled) and status_of(error) == 0


def explain(error: Exception, repository: Repository) -> str:
    """Return what happened and what to do about it."""
    name, hint = repository.label, token_hint(repository)
    status = status_of(error)
    if isinstance(error, GatedRepoError):
        message = f"{name} is gated: accept its terms on the model's page, {hint}"
    elif isinstance(error, RevisionNotFoundError):
        message = f"{name}: there is no such revision"
    elif isinstance(error, OfflineModeIsEnabled):
        message = f"{name} is not in the cache, and HF_HUB_OFFLINE forbids downloads"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        message = f"the disk is full while downloading {name}: {MAKE_ROOM}"
    elif status == 429:
        message = f"{repository.endpoint} limits the rate of downloads: wait some minutes, {hint}"
    elif status in (401, 403, 404):
        message = f"{name} does not exist or needs permission ({status}): check MODEL_PATH, {hint}"
    elif status:
        message = f"{repository.endpoint} answered {status} for {name}: {error}"
    else:
        message = (
            f"{repository.endpoint} cannot be reached ({error!r}): check the network, set HF_ENDPOINT to a "
            f"mirror, {ELSEWHERE}"
        )
    return message


def status_of(error: Exception) -> int:
    """Return the hub's HTTP status; 0 if it did not answer."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    return 0 if response is None else int(response.status_code)


def token_hint(repository: Repository) -> str:
    """Return how to authenticate, as the end of a sentence."""
    if repository.token:
        return "and check that HF_TOKEN is valid and may read it"
    return "and set HF_TOKEN to your token (https://huggingface.co/settings/tokens)"
