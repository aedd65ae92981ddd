"""UDP as networks have it: packets late, lost, doubled, and from strangers."""

import random
import socket
from collections.abc import Callable

import pytest

from tests.camera import Picture, ScriptedCamera, encode
from tests.support import until
from worker.live.camera_description import CameraOptions, address
from worker.live.rtp.access_units import AccessUnit
from worker.live.rtsp.camera_sockets import OwnSockets
from worker.live.rtsp.media_sockets import MediaSockets
from worker.live.rtsp.rtsp_client import Player

OPTIONS = CameraOptions(open_timeout=3, udp_timeout=1, read_timeout=10, latency=0.2)
Disturb = Callable[[list[bytes]], list[bytes]]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """2 s, each picture in several packets."""
    made = encode(seconds=2, size=128, gop=1)
    assert min(sum(map(len, picture.nals)) for picture in made) > 2400
    return made


async def play(pictures: list[Picture], disturb: Disturb) -> tuple[list[AccessUnit], Player]:
    units: list[AccessUnit] = []
    with ScriptedCamera(pictures, disturb=disturb, ends=True, speed=2) as camera:
        player = Player(address(camera.url), OPTIONS, "udp")
        await player.play(units.append, lambda: None)
        await player.close()
    return units, player


def shuffled(seed: int) -> Disturb:
    """Packets of a picture and the next in disorder, some of them twice."""
    source, held = random.Random(seed), list[bytes]()

    def disturb(packets: list[bytes]) -> list[bytes]:
        mixed = held + packets
        held.clear()
        first, *rest = mixed
        source.shuffle(rest)
        held.extend(rest[: len(rest) // 3])
        sent = [first, *rest[len(rest) // 3 :]]
        return sent + source.sample(sent, len(sent) // 4)

    return disturb


@pytest.mark.parametrize("seed", range(3))
async def test_disorder_and_copies_change_nothing(pictures: list[Picture], seed: int) -> None:
    units, player = await play(pictures, shuffled(seed))
    whole = [picture.nals for picture in pictures]
    assert [list(unit.nals) for unit in units][: len(whole) - 1] == whole[:-1]
    assert player.reception.received > sum(map(len, whole))


async def test_what_is_lost_is_counted_and_nothing_is_put_together_wrongly(pictures: list[Picture]) -> None:
    """One packet in twenty: every NAL unit that comes out is one that was sent."""
    source, lost = random.Random(7), list[bytes]()

    def disturb(packets: list[bytes]) -> list[bytes]:
        kept = [packet for packet in packets if source.random() > 0.05]
        lost.extend(packet for packet in packets if packet not in kept)
        return kept

    units, player = await play(pictures, disturb)
    sent = {nal for picture in pictures for nal in picture.nals}
    assert len(lost) > 10
    assert {nal for unit in units for nal in unit.nals} <= sent
    assert len(units) >= len(pictures) - len(lost) - 1
    assert len(lost) - 3 <= player.reception.lost <= len(lost)


async def test_a_burst_of_loss_is_survived(pictures: list[Picture]) -> None:
    """Half a second of nothing, as when a radio link fades."""
    number = 0

    def disturb(packets: list[bytes]) -> list[bytes]:
        nonlocal number
        number += 1
        return [] if 20 <= number < 35 else packets

    units, _ = await play(pictures, disturb)
    whole = [picture.nals for picture in pictures]
    assert [list(unit.nals) for unit in units] == whole[:19] + whole[34:]


async def test_packets_of_strangers_are_ignored() -> None:
    got: list[tuple[int, bytes]] = []
    sockets = MediaSockets("127.0.0.9", lambda channel, data: got.append((channel, data)), OwnSockets([]))
    port = await sockets.bind()
    for host, data in (("127.0.0.1", b"stranger"), ("127.0.0.9", b"camera")):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((host, 0))
            sender.sendto(data, ("127.0.0.1", port))
            sender.sendto(data, ("127.0.0.1", port + 1))
    await until(lambda: len(got) >= 2)
    await sockets.close()
    assert got == [(0, b"camera"), (1, b"camera")]
