"""Where decoding of a live stream may begin: at key frames, after a gradual refresh, or else at any picture
that is intra-coded."""

from typing import NamedTuple

from shared.chunks import SECOND
from worker.live.pictures import LivePicture, PictureReader

INTRA_PATIENCE = 3 * SECOND
"""After this time without a key frame or recovery point a plain intra picture is used."""
USELESS_PATIENCE = 10 * SECOND
"""After this time without a usable picture an event says what is missing."""


class LivePacket(NamedTuple):
    """A coded picture on the stream's time line (ns).

    Where decoding begins here, `before` are the packets to decode first, those since the recovery point from
    which this picture comes out right, and `parameters` is what the decoder must know."""

    time: int
    data: bytes
    before: tuple["LivePacket", ...] = ()
    parameters: bytes = b""

    @property
    def size(self) -> int:
        """Bytes, with those before."""
        return len(self.data) + sum(len(packet.data) for packet in self.before)


class Entries:
    """Marks the pictures with which decoding may begin. `events` are for people, once each."""

    def __init__(self, reader: PictureReader, largest: int, most: int) -> None:
        """A gradual refresh of more than `largest` bytes or `most` pictures is no entry."""
        self.events: list[str] = []
        self._reader = reader
        self._largest, self._most = largest, most
        self._since: int | None = None
        self._begun = False
        self._told = False
        self._makeshift = False
        self._refresh: list[LivePacket] = []
        self._refreshing = False
        self._left = 0
        self._size = 0

    def lost(self) -> None:
        """Decoding cannot continue: an entry is needed again."""
        self._begun, self._since, self._told = False, None, False
        self._stop_refresh()

    def judge(self, picture: LivePicture, time: int, arrival: int) -> tuple[LivePicture, LivePacket]:
        """Return the next picture and its packet; decoding may begin there if its coding says entry."""
        packet = LivePacket(time, picture.unit.data)
        self._since = arrival if self._since is None else self._since
        coding = picture.coding
        if coding.entry and self._reader.missing:
            coding = coding._replace(entry=False, closed=False)
        elif coding.entry:
            self._makeshift = False
            self._stop_refresh()
        elif self._is_right(picture, packet):
            packet = packet._replace(before=tuple(self._refresh))
            coding = coding._replace(entry=True)
            self._makeshift = False
            self._stop_refresh()
        elif self._is_makeshift(picture, arrival - self._since):
            coding = coding._replace(entry=True)
        if coding.entry:
            self._begun, packet = True, packet._replace(parameters=self._reader.parameters)
        if not self._begun and arrival - self._since > USELESS_PATIENCE:
            self._complain()
        return picture._replace(coding=coding), packet

    # A gradual refresh -----------------------------------------------------------------------------------

    def _is_right(self, picture: LivePicture, packet: LivePacket) -> bool:
        """Return whether everything from here on is right because a gradual refresh has come to its end."""
        if not self._refreshing:
            self._refreshing, self._left = picture.recovery > 0 and not self._reader.missing, picture.recovery
        elif picture.coding.reference:
            self._left -= 1
        if not self._refreshing or not picture.coding.reference:
            return False
        if self._left == 0:
            return True
        self._refresh.append(packet)
        self._size += len(packet.data)
        if self._size > self._largest or len(self._refresh) > self._most:
            self._stop_refresh()
        return False

    def _stop_refresh(self) -> None:
        self._refresh, self._refreshing, self._size = [], False, 0

    # Without entries ---------------------------------------------------------------------------------------

    def _is_makeshift(self, picture: LivePicture, waited: int) -> bool:
        """Return whether an intra picture is used as an entry."""
        if not self._makeshift and (self._begun or self._refreshing or waited < INTRA_PATIENCE):
            return False
        if self._reader.missing or not (picture.recovery == 0 or self._reader.is_intra(picture)):
            return False
        if not self._makeshift:
            self.events.append("joined without a key frame: the first pictures may be damaged")
        self._makeshift = True
        return True

    def _complain(self) -> None:
        if self._told:
            return
        self._told = True
        what = "key frame, recovery point or intra picture"
        if self._reader.missing:
            what = f"{self._reader.missing} in the description or the stream"
        self.events.append(f"nothing can be decoded after {USELESS_PATIENCE // SECOND} s of video: no {what}")
