"""Cameras that send more than anyone can hold or read: what is kept has bounds, and what is not is told."""

import asyncio
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from shared.chunks import SECOND
from tests.camera import Picture, ScriptedCamera, encode
from tests.support import until
from worker.live.backlog import IN_FLIGHT, LARGEST_BACKLOG, Backlog
from worker.live.camera_description import CameraOptions
from worker.live.camera_messages import Ended, FromCameras, Open, Opened, Taken, Told
from worker.live.chunker import Chunker, Cut
from worker.live.played_camera import PlayedCamera
from worker.live.rtp.access_units import AccessUnit, Assembler
from worker.live.rtp.excess import Excess
from worker.live.rtp.nal_payload import MOST_DISORDER
from worker.live.rtp.reordering import REORDERED, Reorder
from worker.live.rtp.rtp_packets import RtpPacket
from worker.live.rtp.sei import read_time
from worker.live.rtp.session_description import START_CODE, Track
from worker.live.rtsp.camera_sockets import OwnSockets
from worker.live.rtsp.reading_budget import BURST, LEAST, SHARED, TOO_MUCH, ReadingBudget
from worker.live.rtsp.rtsp_connection import Connection
from worker.media.decoder.runs import Run

MIB = 1 << 20
SLICE = b"\x41\x9a\x01"


@contextmanager
def most_memory(limit: int) -> Iterator[None]:
    """Fail if more than `limit` bytes are taken within, at any time."""
    tracemalloc.start()
    try:
        yield
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < limit, f"{taken / MIB:.1f} MiB"


def assembling(codec: str, disorder: int = -1) -> tuple[Callable[[int, bytes], None], list[int], list[str]]:
    """What takes timestamp and payload of a packet, the number of pieces of each picture, and the events."""
    units: list[int] = []
    events: list[str] = []
    assembler = Assembler(
        Track(codec, 96, disorder=disorder),
        lambda unit: units.append(len(unit.nals)),
        Excess(events.append).note,
    )
    return lambda at, payload: assembler.push(RtpPacket(0, at, 1, payload), lost=False), units, events


# Packets ---------------------------------------------------------------------------------------------------


def test_header_extensions_count_where_packets_wait() -> None:
    taken: list[int] = []
    reorder = Reorder(lambda packet, lost: taken.append(packet.sequence), patience=1e9)
    reorder.push(RtpPacket(0, 0, 1, SLICE), 0)
    with most_memory(6 * MIB):
        for sequence in range(2, REORDERED):
            reorder.push(RtpPacket(sequence, 0, 1, SLICE, False, bytes(60_000)), 0)
    assert len(taken) > REORDERED - 100


def test_a_jump_in_the_sequence_costs_no_more_than_a_step() -> None:
    """Each of them 4,000 ahead."""
    lost: list[bool] = []
    reorder = Reorder(lambda packet, gap: lost.append(gap), patience=0)
    began = time.process_time()
    for number in range(10_000):
        reorder.push(RtpPacket(number * 4000 & 0xFFFF, 0, 1, SLICE), 0)
    assert time.process_time() - began < 1.5  # once 4.5
    assert lost == [False] + [True] * 9_999
    assert reorder.lost == 9_999 * 3999


def test_nal_units_that_do_not_count_among_those_out_of_order_have_bounds_too() -> None:
    """SEI, of which RFC 6184 does not say how many may come before their turn."""
    push, _, _ = assembling("h264", disorder=5)
    began = time.process_time()
    for number in range(16_000):
        push(number, b"\x79" + struct.pack(">HH", number, 2) + b"\x06\x05")
    assert time.process_time() - began < 1.5  # once 3.2


def test_what_is_out_of_order_beyond_the_bound_is_handed_on() -> None:
    push, units, _ = assembling("h264", disorder=5)
    for number in range(MOST_DISORDER + 10):
        push(number, b"\x79" + struct.pack(">HH", number, 2) + b"\x06\x05")
    assert len(units) == 9, "the tenth is the picture that the assembler holds"


@pytest.mark.parametrize(
    ("codec", "first", "more"),
    [
        ("h264", b"\x7c\x81x", b"\x7c\x01"),
        ("h264", b"\x7c\x81x", b"\x7c\x01y"),
        ("h264", b"\x7d\x81\x00\x01x", b"\x7d\x01\x00\x01"),
        ("hevc", b"\x62\x01\x81x", b"\x62\x01\x01"),
        ("hevc", b"\x62\x01\x81x", b"\x62\x01\x01y"),
        ("mjpeg", bytes([0, 0, 0, 0, 1, 50, 4, 4, 9]), bytes([0, 0, 0, 1, 1, 50, 4, 4])),
    ],
)
def test_fragments_weigh_what_they_hold(codec: str, first: bytes, more: bytes) -> None:
    """Empty ones nothing, small ones no more than their bytes."""
    push, _, _ = assembling(codec)
    push(0, first)
    with most_memory(MIB // 16):
        for _ in range(12_000):
            push(0, more)


def test_a_nal_unit_in_fragments_that_never_ends_is_dropped_and_told() -> None:
    push, units, events = assembling("h264")
    push(0, b"\x7c\x81x")
    for _ in range(17 * 16):
        push(0, b"\x7c\x01" + bytes(MIB // 16))
    push(0, b"\x7c\x41end")
    push(1, SLICE)
    push(2, SLICE)
    assert units == [1]
    assert events == ["NAL units larger than 16 MiB are dropped (1 so far)"]


@pytest.mark.parametrize(
    "payload",
    [b"\x06", b"\x78" + b"\0\1\x06" * 20_000, START_CODE + b"\x06" + b"\0\0\1\x06" * 20_000],
    ids=["single", "aggregated", "with start codes"],
)
def test_pictures_of_too_many_pieces_are_dropped_and_told(payload: bytes) -> None:
    push, units, events = assembling("h264")
    with most_memory(4 * MIB):
        for _ in range(17_000 if len(payload) == 1 else 2):
            push(0, payload)
    for at in (1, 2):
        push(at, SLICE)
    assert units == [1], "the picture after it plays"
    assert events == ["pictures of more than 16 MiB or 16384 pieces are dropped (1 so far)"]


def test_start_codes_in_a_large_nal_unit_are_not_all_cut_at() -> None:
    push, units, _ = assembling("h264")
    with most_memory(8 * MIB):
        push(0, b"\x06" + b"\0\0\1\x06" * (MIB // 2))
    push(1, SLICE)
    assert units == []


# Pictures --------------------------------------------------------------------------------------------------


def unit(number: int, *nals: bytes) -> AccessUnit:
    return AccessUnit(number * SECOND // 30, None, START_CODE + START_CODE.join(nals), nals)


def test_groups_of_too_many_pictures_are_cut_off_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few bytes each, so that the bound in bytes is far away."""
    monkeypatch.setattr("worker.live.chunker.LONGEST_GOP", 200)
    film = encode(seconds=0.1)
    events: list[str] = []
    chunker = Chunker("h264", b"", SECOND, 8, note=Excess(events.append).note)
    with most_memory(MIB // 4):
        for number in range(1000):
            nals = film[0].nals if number == 0 else [SLICE]
            chunker.push(unit(number, *nals), number * SECOND // 30, 0)
    assert events == [
        "of more than 32 MiB or 200 pictures without a key frame the rest is not embedded (1 so far)"
    ]
    assert chunker.lost_gops == 1


def test_a_refresh_of_too_many_pictures_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It promises to be right after 60,000 pictures."""
    monkeypatch.setattr("worker.live.chunker.LONGEST_GOP", 200)
    sets = [nal for nal in encode(seconds=0.1)[0].nals if nal[0] & 31 in (7, 8)]
    recovery = b"\x06\x06\x04\x00\x01\xd4\xc1\x80"
    chunker = Chunker("h264", b"", SECOND, 8)
    with most_memory(MIB // 4):
        for number in range(1000):
            chunker.push(unit(number, *(sets if number == 0 else []), recovery, SLICE), number, 0)


def test_parameter_sets_are_not_held_with_every_picture() -> None:
    chunker = Chunker("h264", b"", SECOND, 8)
    film = encode(seconds=0.1)
    sets = [bytes([0x68, 0x80 | number & 0x7F]) for number in range(100)]
    size = len(sets) * 6
    with most_memory(60 * (size + 2000)):
        for number in range(60):
            nals = film[0].nals if number == 0 else [*sets, SLICE]
            chunker.push(unit(number, *nals), number * SECOND // 30, 0)


@pytest.mark.parametrize(
    "text",
    [
        b'{"sim_time": 1e308}',
        b'{"sim_time": -1e308}',
        b'{"timestamp": 9%s}' % (b"0" * 40),
        b'{"timestamp": -1}',
    ],
)
def test_times_of_no_use_in_pictures_are_ignored(text: bytes) -> None:
    nal = b"\x06" + bytes([5, 16 + len(text)]) + bytes(16) + text + b"\x80"
    assert read_time([nal], "h264") is None


# Chunks ----------------------------------------------------------------------------------------------------


def cut_of(size: int) -> Cut:
    return Cut(
        start=0, end=0, wall_start=0, wall_end=0, codec="h264", began=0, finished=0, arrived=0, kept=0,
        runs=[Run(b"", [(0, bytes(size))], [0])],
    )  # fmt: skip


@pytest.mark.parametrize(("blocking", "left"), [(False, 2), (True, 2 + IN_FLIGHT)])
def test_the_oldest_chunks_are_dropped_beyond_the_bound_in_number(blocking: bool, left: int) -> None:
    backlog = Backlog(2)
    dropped = 0
    for index in range(50):
        backlog.add(index, cut_of(1))
        dropped += backlog.shed(blocking=blocking)
    assert (len(backlog), dropped) == (left, 50 - left)
    assert backlog.take()[0] == 50 - left


@pytest.mark.parametrize(("blocking", "left"), [(False, 1), (True, 3)])
def test_the_oldest_chunks_are_dropped_beyond_the_bound_in_bytes(
    monkeypatch: pytest.MonkeyPatch, blocking: bool, left: int
) -> None:
    monkeypatch.setattr("worker.live.backlog.LARGEST_BACKLOG", LARGEST_BACKLOG >> 14)
    backlog = Backlog(1000)
    for index in range(20):
        backlog.add(index, cut_of(5000))
        assert backlog.full == (index > 0)
        backlog.shed(blocking=blocking)
    assert len(backlog) == left
    backlog.clear()
    assert backlog.has_room


class Collected:
    """The messages of one camera."""

    backlog = 0

    def __init__(self) -> None:
        self.all: list[FromCameras] = []

    def __call__(self, message: FromCameras) -> None:
        self.all.append(message)

    @property
    def error(self) -> str:
        """Why the stream has ended."""
        return next(message.error for message in self.all if isinstance(message, Ended))

    @property
    def taken(self) -> list[Taken]:
        return [message for message in self.all if isinstance(message, Taken)]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return encode(seconds=4, gop=10)


def order(url: str, transport: str) -> Open:
    options = CameraOptions(transport=transport, read_timeout=5, latency=0.1)  # type: ignore[arg-type]
    return Open(
        camera=1, url=url, username="", password="", options=options, duration=SECOND // 4, frames=4
    )  # fmt: skip


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_camera_that_has_to_wait(pictures: list[Picture], transport: str) -> None:
    """Over TCP nothing is lost; over UDP what was sent meanwhile is, and counts as chunks skipped."""
    collected = Collected()
    with ScriptedCamera(pictures, ends=True, speed=4) as camera:
        played = PlayedCamera(order(camera.url, transport), collected, OwnSockets([]))
        playing = asyncio.create_task(played.run())
        await until(lambda: len(collected.taken) >= 2)
        played.pause(on=True)
        seen = len(collected.taken)
        await asyncio.sleep(0.6)
        assert len(collected.taken) == seen
        played.pause(on=False)
        async with asyncio.timeout(10):
            await playing
    cuts = [taken.cut for taken in collected.taken]
    skipped = sum(taken.skipped for taken in collected.taken)
    if transport == "tcp":
        assert (len(cuts), skipped) == (16, 0)
        return
    assert skipped == 2
    assert len(cuts) < 16
    key_frames = {START_CODE + START_CODE.join(picture.nals) for picture in pictures[::10]}
    assert all(run.packets[0][1] in key_frames for cut in cuts for run in cut.runs)


# Time ------------------------------------------------------------------------------------------------------


def test_a_budget_is_exceeded_after_a_burst_and_fills_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReadingBudget, "open", set())
    budget = ReadingBudget(0)
    assert budget.spend(BURST, 0) == 0
    assert budget.spend(0.01, 0) == pytest.approx(0.01 / SHARED)
    assert budget.spend(0, 0.01 / SHARED) == pytest.approx(0)
    assert budget.spend(BURST, 1000) == 0
    others = [ReadingBudget(0) for _ in range(31)]
    assert budget.spend(0.01, 1000) == pytest.approx(0.01 / LEAST)
    for other in others:
        other.close()
    assert budget.open == {budget}


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_camera_that_costs_too_much_time_has_to_wait(
    pictures: list[Picture], transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.live.rtsp.reading_budget.SHARED", 0.01)
    monkeypatch.setattr("worker.live.rtsp.reading_budget.LEAST", 0.01)
    monkeypatch.setattr("worker.live.rtsp.reading_budget.BURST", 0.0 if transport == "tcp" else 0.001)
    spend = ReadingBudget.spend
    # However fast the machine is.
    monkeypatch.setattr(ReadingBudget, "spend", lambda self, taken, now: spend(self, taken + 0.0003, now))
    collected = Collected()
    with ScriptedCamera(pictures[:40], ends=True, speed=4) as camera:
        async with asyncio.timeout(10):
            await PlayedCamera(order(camera.url, transport), collected, OwnSockets([])).run()
    assert [message.camera for message in collected.all if isinstance(message, Opened)] == [1]
    (told,) = [message.event for message in collected.all if isinstance(message, Told)]
    assert told == f"{TOO_MUCH} (1 so far)"
    if transport == "tcp":
        assert len(collected.taken) == 6


async def test_others_have_their_turn_before_everything_that_has_arrived_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.live.rtsp.rtsp_connection.SLICE", 0)
    taken: list[bytes] = []
    connection = Connection(lambda channel, data: taken.append(data), lambda method, headers: None)
    connection.data_received(b"".join(b"$\0\0\1%c" % number for number in range(5)) + b"$\0")
    assert taken == [b"\0"]
    connection.pause(on=True)
    await asyncio.sleep(0.01)
    assert taken == [b"\0"]
    connection.pause(on=False)
    await until(lambda: len(taken) == 5)
    connection.data_received(b"\0\1\5")
    assert taken == [b"%c" % number for number in range(6)]


def test_what_comes_after_the_end_of_a_session_is_left() -> None:
    """In the same bytes."""
    loop = asyncio.new_event_loop()

    async def receive() -> None:
        connection = Connection(
            lambda channel, data: None,
            lambda method, headers: connection.close("the camera ends the session"),
        )
        connection.data_received(b"TEARDOWN * RTSP/1.0\r\nCSeq: 1\r\n\r\n" + b"$\0\0\1x" * 10)
        assert connection.closed.result() == "the camera ends the session"

    loop.run_until_complete(receive())
    loop.close()
