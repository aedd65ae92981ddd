"""RTP packets of real streams, changed by a seeded chance on their way: headers, extensions, payload headers,
sequence numbers, timestamps. Whatever comes, the camera plays on, little is held, chunks are messages."""

import asyncio
import random
import struct
import time
import tracemalloc
from typing import Any

import pytest

from shared.chunks import SECOND
from tests.camera import Picture, ScriptedCamera, describe, encode, packetize
from tests.worker.live.rtp.test_jpeg_payload import jpeg
from tests.worker.live.rtp.test_jpeg_payload import packets as jpeg_packets
from tests.worker.live.test_too_much import Collected
from worker.live.camera_description import CameraOptions
from worker.live.camera_messages import FROM_CAMERAS, Open
from worker.live.played_camera import PlayedCamera

ENCODERS = {"h264": "libx264", "hevc": "libx265", "mpeg4": "mpeg4"}
LIMITS = (0, 1, 0x40, 0x7F, 0x80, 0xFF)
KINDS = {
    "h264": [0x60 | kind for kind in range(32)],
    "hevc": [kind << 1 for kind in range(64)],
    "mjpeg": [0],
    "mpeg4": [0],
}
"""First bytes of a payload: single NAL units, several in one packet, fragments, PACI, reserved ones."""

INTERLEAVED = (
    "a=fmtp:96 packetization-mode=2;sprop-interleaving-depth=3;sprop-max-don-diff=9;sprop-depack-buf-nalus=3"
)


class Mutator:
    """Changes about one packet in three, up to `last`; those after it stay as they are."""

    def __init__(self, seed: int, codec: str, last: int) -> None:
        self.chance = random.Random(seed)
        self.codec = codec
        self.left = last
        self.changed = 0

    def __call__(self, packets: list[bytes]) -> list[bytes]:
        self.left -= 1
        if self.left < 0:
            return packets
        return [changed for packet in packets for changed in self._packet(packet)]

    def _packet(self, packet: bytes) -> list[bytes]:
        if self.chance.random() > 0.35:
            return [packet]
        self.changed += 1
        change = self.chance.choice(
            [
                self._flags,
                self._sequence,
                self._timestamp,
                self._payload,
                self._extension,
                self._cut,
                self._kind,
            ]
        )
        changed = change(packet)
        return self.chance.choice([[changed], [changed, changed], [packet, changed], []])

    def _flags(self, packet: bytes) -> bytes:
        """Padding, extension, number of sources, marker and payload type."""
        return bytes([0x80 | self.chance.randrange(64), self.chance.choice((96, 224, 97))]) + packet[2:]

    def _sequence(self, packet: bytes) -> bytes:
        number = self.chance.choice((0, 1, 65_535, self.chance.randrange(65_536)))
        return packet[:2] + struct.pack(">H", number) + packet[4:]

    def _timestamp(self, packet: bytes) -> bytes:
        number = self.chance.choice((0, 2**31, 2**32 - 1, self.chance.randrange(2**32)))
        source = self.chance.choice((packet[8:12], bytes(4)))
        return packet[:4] + struct.pack(">I", number) + source + packet[12:]

    def _payload(self, packet: bytes) -> bytes:
        """Some of the first bytes of the payload."""
        changed = bytearray(packet)
        for _ in range(self.chance.randint(1, 4)):
            at = 12 + self.chance.randrange(min(16, len(packet) - 12))
            changed[at] = self.chance.choice((*LIMITS, self.chance.randrange(256)))
        return bytes(changed)

    def _extension(self, packet: bytes) -> bytes:
        """One that is as long as it says, or not."""
        words, told = self.chance.randrange(40), self.chance.choice((0, 5, 40, 65_535))
        kind = self.chance.choice((b"\xbe\xde", b"\xff\xd8"))
        body = self.chance.choice((bytes(4 * words), b"\xff\xc4\x00\x02" * words))
        return bytes([packet[0] | 0x10]) + packet[1:12] + kind + struct.pack(">H", told) + body + packet[12:]

    def _cut(self, packet: bytes) -> bytes:
        return packet[: self.chance.randint(8, len(packet))]

    def _kind(self, packet: bytes) -> bytes:
        return packet[:12] + bytes([self.chance.choice(KINDS[self.codec])]) + packet[13:]


def film(codec: str) -> list[Picture]:
    if codec != "mjpeg":
        return encode(ENCODERS[codec], seconds=4, size=64)
    sent = [packet.payload for packet in jpeg_packets(jpeg(60, size=(64, 64)), 255, size=(64, 64))]
    return [Picture(number * 3000, sent) for number in range(120)]


def carry(picture: Picture, codec: str) -> list[bytes]:
    return picture.nals if codec == "mjpeg" else [p for nal in picture.nals for p in packetize(nal, codec)]


@pytest.mark.parametrize(
    ("codec", "transport", "disorder"),
    [
        *((codec, transport, False) for codec in KINDS for transport in ("tcp", "udp")),
        ("h264", "tcp", True),
        ("hevc", "tcp", True),
    ],
)
async def test_a_camera_whose_packets_are_changed_plays_on(
    codec: str, transport: Any, disorder: bool
) -> None:
    pictures = film(codec)
    mutator = Mutator(len(codec) + 10 * disorder, codec, len(pictures) - 10)
    collected = Collected()
    options = CameraOptions(transport=transport, latency=0.05)
    unhandled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
    with ScriptedCamera(
        pictures, codec, carry=lambda picture: carry(picture, codec), disturb=mutator, ends=True, speed=40,
        sdp=describe(codec, *([INTERLEAVED] if disorder else [])),
    ) as camera:  # fmt: skip
        order = Open(
            camera=1, url=camera.url, username="", password="", options=options, duration=SECOND, frames=8
        )  # fmt: skip
        began = time.process_time()
        tracemalloc.start()
        try:
            async with asyncio.timeout(20):
                await PlayedCamera(order, collected).run()
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert mutator.changed > 20
    assert (unhandled, collected.error) == ([], "")
    assert most < 8 << 20
    assert time.process_time() - began < 3
    for message in collected.all:
        assert FROM_CAMERAS.pack(message)
