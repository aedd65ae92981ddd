"""RTP packets in order again: loss, copies, bounds."""

from hypothesis import given
from hypothesis import strategies as st

from worker.live.rtp.reordering import REORDERED, Reorder
from worker.live.rtp.rtp_packets import RtpPacket


def packet(sequence: int, timestamp: int = 0, payload: bytes = b"\x41x", source: int = 1) -> RtpPacket:
    return RtpPacket(sequence & 0xFFFF, timestamp & 0xFFFFFFFF, source, payload)


@given(
    start=st.integers(0, 65_535),
    order=st.permutations(range(1, 12)),
    missing=st.sets(st.integers(1, 11), max_size=3),
)
def test_packets_come_out_in_order_and_losses_are_reported(
    start: int, order: list[int], missing: set[int]
) -> None:
    taken: list[tuple[int, bool]] = []
    reorder = Reorder(lambda p, lost: taken.append((p.sequence, lost)), patience=1.0)
    reorder.push(packet(start), 0)
    for number in order:
        if number not in missing:
            reorder.push(packet(start + number), 0.1)
    for number in range(12, 16):
        reorder.push(packet(start + number), 5 * number)
    expected = [n for n in range(16) if n not in missing]
    assert [s for s, _ in taken] == [(start + n) & 0xFFFF for n in expected]
    assert [lost for _, lost in taken] == [n - 1 in missing for n in expected]
    assert reorder.lost == len(missing)


def test_copies_and_late_packets_are_dropped() -> None:
    taken: list[int] = []
    reorder = Reorder(lambda p, lost: taken.append(p.sequence), patience=0)
    for sequence in (10, 11, 11, 10, 12, 14, 13, 15):
        reorder.push(packet(sequence), 0)
    assert taken == [10, 11, 12, 14, 15]


def test_a_camera_that_counts_anew() -> None:
    taken: list[tuple[int, bool]] = []
    reorder = Reorder(lambda p, lost: taken.append((p.sequence, lost)), patience=1)
    for sequence in (10, 11, 40_000, 40_001):
        reorder.push(packet(sequence), 0)
    assert taken == [(10, False), (11, False), (40_000, True), (40_001, False)]


def test_no_more_packets_wait_than_may() -> None:
    taken: list[int] = []
    reorder = Reorder(lambda p, lost: taken.append(p.sequence), patience=1e9)
    reorder.push(packet(0), 0)
    for sequence in range(2, REORDERED + 10):
        reorder.push(packet(sequence), 0)
    assert taken == [0, *range(2, REORDERED + 10)]
    assert reorder.lost == 1
    large = bytes(60_000)
    for sequence in range(REORDERED + 11, REORDERED + 11 + 200):
        reorder.push(packet(sequence, payload=large), 0)
    assert len(taken) > REORDERED + 100, "4 MiB wait at most"
