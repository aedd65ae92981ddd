"""Where models come from: MODEL_PATH, and the cache of downloads."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import structlog

from shared.errors import ModelError
from shared.settings import Settings
from worker.children import network_environment
from worker.models.cosmos_embed1.checkpoint import is_checkpoint
from worker.models.directory import MODEL_JSON
from worker.models.hub import Repository, download_repository
from worker.models.locks import host_lock
from worker.models.ngc import API, AUTHENTICATION, NgcModel, download_model
from worker.models.preparation_progress import Progress, silent

log = structlog.get_logger(__name__)

HUB_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
MARKER = ".rt-embed-source.json"
DEPTH = 2  # levels of subfolders searched for the model


class Hubs(msgspec.Struct, frozen=True):
    """Addresses and credentials of the hubs."""

    hf_endpoint: str = "https://huggingface.co"
    hf_token: str | None = None
    ngc_api_key: str | None = None
    ngc_api: str = API
    ngc_authentication: str = AUTHENTICATION


def access_by(settings: Settings) -> Hubs:
    """Return the hubs and keys of the settings."""
    return Hubs(
        hf_endpoint=settings.hf_endpoint, hf_token=settings.hf_token, ngc_api_key=settings.ngc_api_key
    )


class GitRepository(msgspec.Struct, frozen=True):
    """A git repository at a branch, tag or commit; the default branch if `revision` is empty."""

    url: str
    revision: str


Source = Repository | GitRepository | NgcModel | Path


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A model's files on this machine, and what is known about their source."""

    path: Path
    name: str
    source: str
    revision: str = ""


class Marker(msgspec.Struct, frozen=True):
    """The marker file of a finished download: its source, and the SHA-256 of every file."""

    source: str
    revision: str
    files: dict[str, str]


def parse_model_path(text: str, access: Hubs) -> Source:
    """Parse git:URL[@REVISION], hf:OWNER/NAME[@REVISION], ngc:ORG/[TEAM/][models/]MODEL:VERSION or a folder.

    Raises ModelError.
    """
    kind, _, rest = text.partition(":")
    if kind == "ngc":
        return parse_ngc(rest, access)
    if kind == "hf":
        name, _, revision = rest.partition("@")
        return _repository(name, revision, access)
    if kind == "git":
        return parse_git(rest, access)
    return Path(text).expanduser()


def parse_git(text: str, access: Hubs) -> Repository | GitRepository:
    """Parse a repository of the hub, recognised by its host, or of any other server."""
    base, slash, last = text.rpartition("/")
    last, _, revision = last.partition("@")
    url = f"{base}{slash}{last}"
    parts = urlsplit(url)
    if parts.hostname in HUB_HOSTS or parts.netloc == urlsplit(access.hf_endpoint).netloc:
        name = parts.path.strip("/").removesuffix(".git")
        tree = re.fullmatch(r"([^/]+/[^/]+)/tree/(.+)", name)
        return _repository(tree[1], tree[2], access) if tree else _repository(name, revision, access)
    if not last:
        raise ModelError(f"MODEL_PATH=git:{text} names no repository")
    return GitRepository(url, revision)


def _repository(name: str, revision: str, access: Hubs) -> Repository:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ModelError(f"{name!r} in MODEL_PATH is not OWNER/NAME of a model on the hub")
    return Repository(name, revision or "main", access.hf_endpoint.rstrip("/"), access.hf_token)


def parse_ngc(text: str, access: Hubs) -> NgcModel:
    """Parse ORG/MODEL, ORG/TEAM/MODEL or ORG/TEAM/models/MODEL, each with :VERSION."""
    path, _, version = text.partition(":")
    parts = path.strip("/").split("/")
    if len(parts) > 2 and parts[-2] == "models":
        del parts[-2]
    if len(parts) not in (2, 3) or not all(parts) or not version:
        raise ModelError(f"MODEL_PATH=ngc:{text} is not of the form ngc:ORG/TEAM/MODEL:VERSION")
    org, *team, name = parts
    return NgcModel(
        org,
        team[0] if team else "",
        name,
        version,
        access.ngc_api_key,
        access.ngc_api,
        access.ngc_authentication,
    )


def folder_name(source: Repository | GitRepository | NgcModel) -> str:
    """Return the name of a source's folder in the cache: RT-Embed's name, plus the revision if one is
    requested."""
    if isinstance(source, NgcModel):
        parts = [part for part in (source.org, source.team, source.name) if part]
        return f"{'_'.join(parts)}_{source.version.replace('.', '_')}"
    if isinstance(source, Repository):
        name, revision = source.name.rpartition("/")[2], source.revision.replace("main", "")
    else:
        name, revision = source.url.rpartition("/")[2].removesuffix(".git"), source.revision
    return f"{name}@{revision.replace('/', '_')}" if revision else name


def other_names(source: Repository | GitRepository | NgcModel) -> list[str]:
    """Return other names that RT-Embed may use for the folder: it keeps the `models` of a four-part path."""
    if not isinstance(source, NgcModel) or not source.team:
        return []
    return [f"{source.org}_{source.team}_models_{source.name}_{source.version.replace('.', '_')}"]


def fetch(source: Source, cache: Path, progress: Progress = silent) -> ModelFiles:
    """Return the files of a source; download them into `cache` if they are missing.

    Cached files are used without asking the hub. Other processes of this host wait for the one that
    downloads. Raises ModelError.
    """
    if isinstance(source, Path):
        return local(source)
    folder = cache / folder_name(source)
    for name in (folder.name, *other_names(source)):
        if fetched := cached(cache / name):
            return fetched
    step = f"waiting for another process to download {folder.name}"
    with host_lock(cache / f".{folder.name}.lock", lambda: progress(step, 0, 0)):
        return cached(folder) or download(source, folder, progress)


def local(path: Path) -> ModelFiles:
    """Return a folder of this machine. Raises ModelError if it does not exist."""
    if not path.is_dir():
        raise ModelError(f"MODEL_PATH={path} is not a folder (nor does it begin with git:, hf: or ngc:)")
    resolved = path.resolve()
    return ModelFiles(path=resolved, name=resolved.name, source=str(path))


def cached(folder: Path) -> ModelFiles | None:
    """Return an earlier download, or RT-Embed's download, which has no marker."""
    try:
        marker = msgspec.json.decode((folder / MARKER).read_bytes(), type=Marker)
    except FileNotFoundError:
        if not folder.is_dir():
            return None
        log.info("using a download made by another program", folder=str(folder))
        marker = Marker(str(folder), "", {})
    except msgspec.MsgspecError as error:
        raise ModelError(f"{folder / MARKER} is damaged ({error}): delete the folder") from error
    name = folder.name.partition("@")[0]
    return ModelFiles(path=folder, name=name, source=marker.source, revision=marker.revision)


def download(source: Repository | GitRepository | NgcModel, folder: Path, progress: Progress) -> ModelFiles:
    """Fetch into a folder beside `folder`; rename it when it is complete."""
    part = folder.with_name(f".{folder.name}.part")
    try:
        part.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Repository):
            commit, files = download_repository(source, part, progress)
            marker = Marker(f"{source.endpoint}/{source.name}", commit, files)
        elif isinstance(source, NgcModel):
            marker = Marker(source.label, source.version, download_model(source, part, progress))
        else:
            progress(f"cloning {source.url}", 0, 0)
            marker = Marker(source.url, clone(source, part), {})
        (part / MARKER).write_bytes(msgspec.json.encode(marker))
        part.replace(folder)
    except OSError as error:
        raise ModelError(f"cannot download to {folder}: {error}") from error
    name = folder.name.partition("@")[0]
    return ModelFiles(path=folder, name=name, source=marker.source, revision=marker.revision)


def clone(source: GitRepository, folder: Path) -> str:
    """Fetch one commit of a git repository, without history; return its hash. Raises ModelError."""
    shutil.rmtree(folder)
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "remote", "add", "origin", source.url)
    git(folder, "fetch", "--quiet", "--depth", "1", "origin", source.revision or "HEAD")
    git(folder, "checkout", "--quiet", "FETCH_HEAD")
    commit = git(folder, "rev-parse", "HEAD")
    shutil.rmtree(folder / ".git")
    for path in folder.rglob("*"):
        if (
            path.is_file()
            and path.stat().st_size < 1024
            and path.read_bytes().startswith(b"version https://git-lfs")
        ):
            raise ModelError(f"{source.url} keeps {path.name} in Git LFS: install git-lfs and try again")
    return commit


def git(folder: Path, *arguments: str) -> str:
    """Run git and return its output. It never asks for a password. Raises ModelError."""
    command = [
        "git",
        "-C",
        str(folder),
        "-c",
        "core.askPass=true",
        "-c",
        "credential.interactive=false",
        *arguments,
    ]
    try:
        # Filters and hooks of a repository are foreign code: they get no key, token or password of ours.
        done = subprocess.run(  # noqa: S603 - no shell
            command, env=network_environment("GIT_", "SSH_"), capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ModelError(
            "git: in MODEL_PATH needs git for servers other than the hub: install git"
        ) from error
    if done.returncode:
        raise ModelError(f"git {arguments[0]} failed: {done.stderr.strip()[-1000:]}")
    return done.stdout.strip()


def is_model(folder: Path) -> bool:
    """Return whether the folder is a model directory or a checkpoint."""
    return (folder / MODEL_JSON).exists() or is_checkpoint(folder)


def find_model(folder: Path) -> Path:
    """Return the model directory or checkpoint that the folder is or contains. Raises ModelError."""
    if is_model(folder):
        return folder
    below = [
        path for depth in range(1, DEPTH + 1) for path in sorted(folder.glob("*/" * depth)) if is_model(path)
    ]
    if len(below) == 1:
        return below[0]
    if below:
        names = ", ".join(str(path.relative_to(folder)) for path in below)
        raise ModelError(f"{folder} holds several models: set MODEL_PATH to one of {names}")
    raise ModelError(
        f"{folder} holds no model: neither {MODEL_JSON} nor a Cosmos-Embed1 checkpoint (config.json and "
        "safetensors; export TAO's .pth files in huggingface mode)"
    )
