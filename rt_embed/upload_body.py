"""Uploads that are read from the disk as they are sent, never whole into memory."""

import mimetypes
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

PIECE = 1 << 20
PICTURES = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_NOT_ALLOWED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029/\\\ud800-\udfff]")

UploadProgress = Callable[[int, int], None]
"""Told bytes sent and bytes in all, after every piece."""


class UploadBody:
    """A multipart body with one file and some fields. It can be sent again from the start."""

    def __init__(self, path: Path, fields: Mapping[str, str], progress: UploadProgress | None = None) -> None:
        """Raises OSError if the file cannot be read."""
        self.path = path
        self.name = allowed_name(path.name)
        self.fields = dict(fields)
        self._progress = progress
        self._boundary = secrets.token_hex(16)
        with path.open("rb") as file:
            self._size = os.fstat(file.fileno()).st_size
        self._head = self._form() + self._file_header()
        self._tail = f"\r\n--{self._boundary}--\r\n".encode()

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that describe the body."""
        return {
            "Content-Type": f"multipart/form-data; boundary={self._boundary}",
            "Content-Length": str(len(self._head) + self._size + len(self._tail)),
        }

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body, piece by piece."""
        yield self._head
        with self.path.open("rb") as file:
            sent = 0
            while piece := file.read(min(PIECE, self._size - sent)):
                yield piece
                sent += self._tell(sent, piece)
        yield self._tail

    def _tell(self, sent: int, piece: bytes) -> int:
        if self._progress:
            self._progress(sent + len(piece), self._size)
        return len(piece)

    def _form(self) -> bytes:
        parts = (
            f'--{self._boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in self.fields.items()
        )
        return "".join(parts).encode()

    def _file_header(self) -> bytes:
        kind = mimetypes.guess_type(self.name)[0] or "application/octet-stream"
        quoted = self.name.replace('"', "%22")  # as browsers do
        return (
            f'--{self._boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        ).encode()


def allowed_name(name: str) -> str:
    """Return a file's name as the service accepts it: control characters, backslashes and bytes that are no
    text become `_`."""
    return _NOT_ALLOWED.sub("_", name)


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Return whether a file's name is that of a still picture."""
    return Path(path).suffix.lower() in PICTURES
