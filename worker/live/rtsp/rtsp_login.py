"""Logging in to a camera: digest (RFC 7616, 2617), else basic (RFC 7617)."""

import base64
import hashlib
import re
import secrets

from worker.live.camera_description import CameraError
from worker.live.rtsp.rtsp_connection import Reply

MOST_CHALLENGES = 8
_SCHEME = re.compile(r"(?:\A|(?<=[\s,]))(digest|basic)(?=\s|\Z)", re.IGNORECASE)
_FIELD = re.compile(r'\b(\w{1,32}) ?= ?(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))', re.ASCII)
_QUOTED = re.compile(r'"[^"]*"')
_ESCAPED = re.compile(r"\\(.)")
_SEPARATOR = re.compile(r"[\s,]+")
HASHES = {"MD5": "md5", "SHA-256": "sha256"}


class RtspLogin:
    """Answers a camera's challenge."""

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password
        self._challenge: dict[str, str] = {}
        self._scheme = ""
        self._count = 0

    def learn(self, reply: Reply) -> None:
        """Take the challenge of a 401. Raises CameraError where there is nothing to answer with."""
        if not self._username and not self._password:
            raise CameraError("the camera wants a user name and a password (401)")
        challenges = list(_challenges(reply.headers.get("www-authenticate", [])))
        for wanted in ("digest", "basic"):
            for scheme, fields in challenges:
                if scheme == wanted and (scheme == "basic" or _hash_of(fields)):
                    self._scheme, self._challenge, self._count = scheme, fields, 0
                    return
        raise CameraError("the camera wants an unknown kind of login (401)")

    @property
    def stale(self) -> bool:
        """Whether the camera said that only the nonce was too old, not the password wrong."""
        return self._challenge.get("stale", "").lower() == "true"

    def headers(self, method: str, url: str) -> dict[str, str]:
        """Return the header that logs a request in; none before the camera has asked for it."""
        if self._scheme == "basic":
            token = base64.b64encode(f"{self._username}:{self._password}".encode()).decode()
            return {"Authorization": f"Basic {token}"}
        return {"Authorization": self._digest(method, url)} if self._scheme else {}

    def _digest(self, method: str, url: str) -> str:
        given = self._challenge
        algorithm = _hash_of(given) or "md5"

        def h(text: str) -> str:
            return hashlib.new(algorithm, text.encode(), usedforsecurity=False).hexdigest()

        realm, nonce = given.get("realm", ""), given.get("nonce", "")
        secret, action = h(f"{self._username}:{realm}:{self._password}"), h(f"{method}:{url}")
        self._count += 1
        count, ours = f"{self._count:08x}", secrets.token_hex(8)
        if given.get("algorithm", "").upper().endswith("-SESS"):
            secret = h(f"{secret}:{nonce}:{ours}")
        fields = {"username": self._username, "realm": realm, "nonce": nonce, "uri": url}
        plain = ""
        if "auth" in _SEPARATOR.split(given.get("qop", "").lower()):
            fields["response"] = h(f"{secret}:{nonce}:{count}:{ours}:auth:{action}")
            fields["cnonce"] = ours
            plain = f", qop=auth, nc={count}"
        else:
            fields["response"] = h(f"{secret}:{nonce}:{action}")
        if "opaque" in given:
            fields["opaque"] = given["opaque"]
        if "algorithm" in given:
            plain += f", algorithm={given['algorithm']}"
        return "Digest " + ", ".join(f'{name}="{_quoted(value)}"' for name, value in fields.items()) + plain


def _challenges(values: list[str]) -> list[tuple[str, dict[str, str]]]:
    """Return scheme and fields of every challenge; a header may hold several."""
    found = []
    for value in values[:MOST_CHALLENGES]:
        # Words within quotes are no scheme: hide them while looking for one.
        hidden = _QUOTED.sub(lambda quoted: "_" * len(quoted[0]), value)
        starts = list(_SCHEME.finditer(hidden))
        for index, start in enumerate(starts):
            end = starts[index + 1].start() if index + 1 < len(starts) else len(value)
            fields = {
                name.lower(): _ESCAPED.sub(r"\1", quoted) or plain
                for name, quoted, plain in _FIELD.findall(value[start.end() : end])
            }
            found.append((start[1].lower(), fields))
    return found


def _hash_of(fields: dict[str, str]) -> str | None:
    """Return the name of a digest's hash function, None where it is not known."""
    return HASHES.get(fields.get("algorithm", "MD5").upper().removesuffix("-SESS"))


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
