"""A JSON body that holds a file as a `data:` URL, encoded as it is sent."""

import base64
import mimetypes
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from rt_embed.cli.terminal import CommandFailed

PIECE = 3 << 18
"""Bytes of the file at a time: a multiple of three, so that the pieces' base64 can be joined."""
LONGEST = 4 << 30
"""Characters of a `url` that the service takes."""
_PLACE = "@@file@@"


class InlineFile:
    """The body of a video request whose `url` is the file itself."""

    def __init__(self, path: Path, body: Mapping[str, Any]) -> None:
        """Raise CommandFailed if the encoded file would not fit into a request, OSError if there is none."""
        size = path.stat().st_size
        kind = mimetypes.guess_type(path.name)[0] or "video/mp4"
        prefix = f"data:{kind};base64,"
        encoded = 4 * -(-size // 3)
        if len(prefix) + encoded > LONGEST:
            raise CommandFailed(
                f"{path} has {size} bytes; encoded it would not fit into 4 GiB. Upload it instead"
            )
        whole = msgspec.json.encode({**body, "url": prefix + _PLACE})
        self.path = path
        self.head, _, self.tail = whole.partition(_PLACE.encode())
        self._length = len(self.head) + encoded + len(self.tail)

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that describe the body."""
        return {"Content-Type": "application/json", "Content-Length": str(self._length)}

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body, piece by piece."""
        yield self.head
        with self.path.open("rb") as file:
            while piece := file.read(PIECE):
                yield base64.b64encode(piece)
        yield self.tail
