"""Chunks of a live stream: where they begin and end, which frames they get, what must be decoded for them."""

from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.chunks import SECOND, frame_targets
from tests.camera import CLOCK_RATE, Picture, encode
from worker.live.chunker import Chunker, Cut
from worker.live.rtp.access_units import AccessUnit
from worker.live.rtp.session_description import START_CODE
from worker.live.stream_clock import StreamClock
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.runs import decode_runs

NOW = 1_800_000_000 * SECOND
SIZE = 32


def unit(picture: Picture, shift: int = 0, wall: int | None = None) -> AccessUnit:
    data = START_CODE + START_CODE.join(picture.nals)
    return AccessUnit(picture.pts * SECOND // CLOCK_RATE + shift, wall, data, tuple(picture.nals), 1)


def arriving(pictures: Sequence[Picture], shift: int = 0) -> Iterator[tuple[AccessUnit, int]]:
    for index, picture in enumerate(pictures):
        yield unit(picture, shift), index * SECOND // 30


def cut(pictures: Sequence[Picture], seconds: float = 1, codec: str = "h264", frames: int = 8) -> list[Cut]:
    """The chunks of a whole stream."""
    chunker = Chunker(codec, b"", round(seconds * SECOND), frames)
    cuts = [c for u, arrival in arriving(pictures) for c in chunker.push(u, arrival, NOW + arrival)]
    return cuts + chunker.finish()


def wanted(chunk: Cut) -> list[int]:
    return [time for run in chunk.runs for time in run.wanted]


@pytest.fixture(scope="module")
def film() -> list[Picture]:
    """4 s at 30 fps, a key frame every second, no B-frames."""
    return encode(seconds=4)


@pytest.fixture(scope="module")
def reordered() -> list[Picture]:
    """4 s with B-frames and open GOPs."""
    params = "open-gop=1:bframes=3:b-adapt=0:scenecut=0"
    return encode(seconds=4, preset="medium", tune="film", params=params)


def test_with_a_beginning_the_first_chunk_starts_there(film: list[Picture]) -> None:
    """Frames before it are played, as the GOP that it lies in begins with them, and left out."""
    late = Chunker("h264", b"", SECOND, 8, begin=NOW + 3 * SECOND // 2)
    assert late.primed is None
    cuts: list[Cut] = []
    for unit_, arrival in arriving(film):
        cuts += late.push(unit_, arrival, NOW + arrival)
        assert late.primed == "arrival"
    first = cuts[0]
    assert 0 <= first.wall_start - (NOW + 3 * SECOND // 2) <= SECOND // 30
    assert wanted(first)[0] == first.start
    out = np.empty((8, 3, SIZE, SIZE), np.uint8)
    assert decode_runs("h264", first.runs, MediaLimits(), out) == wanted(first)


def expected(pictures: Sequence[Picture], start: int, end: int, frames: int) -> list[int]:
    """The frames that serve the targets of a window: each target's first frame at or after it."""
    times = sorted(p.pts * SECOND // CLOCK_RATE for p in pictures)
    zero = times[0]
    found = []
    for target in frame_targets(start, end, frames):
        at = next((t - zero for t in times if t - zero >= target), None)
        if at is not None and at <= end and at not in found:
            found.append(at)
    return found


@pytest.mark.parametrize("name", ["film", "reordered"])
def test_chunks_follow_each_other_by_plan(name: str, request: pytest.FixtureRequest) -> None:
    pictures: list[Picture] = request.getfixturevalue(name)
    cuts = cut(pictures)
    first = cuts[0].start
    assert [c.start - first for c in cuts] == [0, SECOND, 2 * SECOND, 3 * SECOND]
    for chunk in cuts:
        assert chunk.end == wanted(chunk)[-1]
        assert chunk.end < chunk.start + SECOND


def test_frames_are_those_of_the_targets(film: list[Picture]) -> None:
    for chunk in cut(film):
        assert wanted(chunk) == expected(film, chunk.start, chunk.start + SECOND, 8)


def test_a_chunk_is_there_as_soon_as_its_last_frame_is_known(film: list[Picture]) -> None:
    """The eighth target of a second lies at 0.875 s, whose frame is number 27; two frames later it is cut."""
    chunker = Chunker("h264", b"", SECOND, 8)
    needed = next(i for i, (one, arrival) in enumerate(arriving(film)) if chunker.push(one, arrival, NOW))
    assert needed == 28


@pytest.mark.parametrize("name", ["film", "reordered"])
@pytest.mark.parametrize("seconds", [0.5, 1.3])
def test_the_frames_decoded_are_those_of_a_full_decode(
    name: str, seconds: float, request: pytest.FixtureRequest
) -> None:
    pictures: list[Picture] = request.getfixturevalue(name)
    chunker = Chunker("h264", b"", round(seconds * SECOND), 8)
    whole: dict[int, np.ndarray] = {}
    context = av.CodecContext.create("h264", "r")
    packets: list[av.Packet[Any] | None] = []
    for picture in pictures:
        packet = av.Packet(START_CODE + START_CODE.join(picture.nals))
        packet.pts = picture.pts
        packets.append(packet)
    for coded in [*packets, None]:
        for frame in context.decode(coded):
            assert frame.pts is not None
            whole[frame.pts * SECOND // CLOCK_RATE] = frame.to_ndarray(format="gray")
    cuts = [c for u, a in arriving(pictures) for c in chunker.push(u, a, NOW)] + chunker.finish()
    zero = pictures[0].pts * SECOND // CLOCK_RATE
    assert len(cuts) >= 3
    for chunk in cuts:
        for run in chunk.runs:
            decoder = av.CodecContext.create("h264", "r")
            decoder.extradata = run.parameters
            found = {}
            for time, data in [*run.packets, (0, None)]:
                sent = av.Packet(data) if data else None
                if sent:
                    sent.pts = time
                for frame in decoder.decode(sent):
                    found[frame.pts] = frame.to_ndarray(format="gray")
            for time in run.wanted:
                np.testing.assert_array_equal(found[time], whole[time + zero])


def test_hevc() -> None:
    pictures = encode("libx265", seconds=3)
    cuts = cut(pictures, codec="hevc")
    assert len(cuts) == 3
    out = np.empty((8, 3, SIZE, SIZE), np.uint8)
    for chunk in cuts:
        assert decode_runs("hevc", chunk.runs, MediaLimits(), out) == wanted(chunk)


def test_pictures_before_the_first_key_frame_do_not_count(film: list[Picture]) -> None:
    cuts = cut(film[10:], seconds=0.5)
    assert abs(cuts[0].start - 20 * SECOND // 30) <= 1


def test_fewer_frames_than_targets() -> None:
    """One frame a second, two targets: the frame at the end of a chunk serves its last target, too."""
    slow = encode(seconds=30, rate=1, gop=5)
    cuts = cut(slow, seconds=4)
    assert [len(wanted(c)) for c in cuts] == [5] * 7 + [2]
    assert [c.start for c in cuts] == [4 * SECOND * i for i in range(len(cuts))]


def test_a_gap_leaves_out_windows_without_frames(film: list[Picture]) -> None:
    chunker = Chunker("h264", b"", SECOND, 8)
    cuts = []
    for index, picture in enumerate(film):
        later = 7 * SECOND if index >= 60 else 0
        arrival = index * SECOND // 30 + later
        cuts += chunker.push(unit(picture, later), arrival, NOW + arrival)
    cuts += chunker.finish()
    assert [c.start // SECOND for c in cuts] == [0, 1, 9, 10]
    assert all(len(wanted(c)) == 8 for c in cuts)


@pytest.mark.parametrize("jump", [-(10**6) * SECOND, -90 * SECOND, -3 * SECOND, 40 * SECOND, 10**6 * SECOND])
def test_a_clock_that_jumps_disturbs_nothing(film: list[Picture], jump: int) -> None:
    """The camera sets its clock in the middle of a GOP; the pictures keep their pace."""
    chunker = Chunker("h264", b"", SECOND, 8)
    cuts = []
    for index, picture in enumerate(film):
        shift = jump if index >= 50 else 0
        cuts += chunker.push(unit(picture, shift), index * SECOND // 30, NOW)
    cuts += chunker.finish()
    assert [c.start // SECOND for c in cuts] == [0, 1, 2, 3]
    out = np.empty((8, 3, SIZE, SIZE), np.uint8)
    for chunk in cuts:
        assert len(decode_runs("h264", chunk.runs, MediaLimits(), out)) == 8


def test_a_new_size_in_mid_stream(film: list[Picture]) -> None:
    larger = [Picture(p.pts + 4 * CLOCK_RATE, p.nals) for p in encode(seconds=4, size=160)]
    cuts = cut([*film, *larger])
    out = np.empty((8, 3, SIZE, SIZE), np.uint8)
    assert len(cuts) == 8
    for chunk in cuts:
        assert len(decode_runs("h264", chunk.runs, MediaLimits(), out)) == 8


def test_parameter_sets_that_came_once_are_given_to_every_decoder(film: list[Picture]) -> None:
    bare = [
        Picture(p.pts, [nal for nal in p.nals if i == 0 or nal[0] & 31 not in (7, 8)])
        for i, p in enumerate(film)
    ]
    out = np.empty((8, 3, SIZE, SIZE), np.uint8)
    cuts = cut(bare)
    assert len(cuts) == 4
    for chunk in cuts:
        assert len(decode_runs("h264", chunk.runs, MediaLimits(), out)) == 8


def test_the_wall_clock_is_the_cameras_or_that_of_arrival(film: list[Picture]) -> None:
    told = Chunker("h264", b"", SECOND, 8)
    untold = Chunker("h264", b"", SECOND, 8)
    for one, arrival in arriving(film):
        for chunk in told.push(one._replace(wall=NOW + one.time), arrival, NOW + 3600 * SECOND + arrival):
            assert chunk.wall_start == NOW + chunk.start
            assert chunk.wall_end == NOW + chunk.end
        for chunk in untold.push(one, arrival, NOW + one.time + 1234):
            assert chunk.wall_start == NOW + 1234 + chunk.start


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_times_in_sei_user_data_win(film: list[Picture], codec: str) -> None:
    body = b'{"timestamp": %d}' % (NOW + 7)
    sei = (
        (b"\x06" if codec == "h264" else b"\x4e\x01")
        + bytes([5, 16 + len(body)])
        + bytes(16)
        + body
        + b"\x80"
    )
    pictures = film if codec == "h264" else encode("libx265", seconds=2)
    chunker = Chunker(codec, b"", SECOND, 8)
    cuts = []
    for index, (one, arrival) in enumerate(arriving(pictures)):
        marked = one._replace(nals=(sei, *one.nals)) if index == 0 else one
        cuts += chunker.push(marked, arrival, 5)
    first = min(p.pts for p in pictures)
    assert cuts[0].wall_start == NOW + 7 - (pictures[0].pts - first) * SECOND // CLOCK_RATE


def test_a_gop_that_never_ends_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.live.chunker.LARGEST_GOP", 20_000)
    endless = encode(seconds=8, gop=100_000)
    chunker = Chunker("h264", b"", SECOND, 8)
    held = 0
    for one, arrival in arriving(endless):
        chunker.push(one, arrival, NOW)
        held = max(held, chunker._splitter._size)
    assert chunker.lost_gops == 1
    assert held <= 20_000


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@given(
    pictures=st.lists(st.lists(st.binary(min_size=1, max_size=24), min_size=1, max_size=4), max_size=20),
    times=st.lists(st.integers(-(2**63), 2**63), min_size=20, max_size=20),
)
def test_rubbish_from_a_camera_is_survived(codec: str, pictures: list[list[bytes]], times: list[int]) -> None:
    chunker = Chunker(codec, b"", SECOND, 8)
    for index, nals in enumerate(pictures):
        one = AccessUnit(times[index], None, START_CODE + START_CODE.join(nals), tuple(nals))
        chunker.push(one, index * SECOND // 30, NOW)
    chunker.finish()


def test_few_packets_need_to_be_decoded() -> None:
    pictures = encode(seconds=31)
    cuts = cut(pictures, seconds=10)
    assert len(cuts) == 4
    assert sum(c.kept for c in cuts[:3]) < 0.5 * sum(c.arrived for c in cuts[:3])


@given(
    steps=st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=60),
    entries=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_the_time_line_has_no_jumps_and_no_doubles(steps: list[int], entries: list[bool]) -> None:
    clock = StreamClock()
    raw, placed = 0, []
    for index, step in enumerate(steps):
        raw += step
        placed.append(clock.place(raw, index * SECOND // 30, entry=entries[index]))
    assert placed[0] == 0
    assert len(set(placed)) == len(placed)
    highest = 0
    for time in placed:
        assert highest - 2 * SECOND <= time <= highest + 10 * SECOND
        highest = max(highest, time)


def test_a_real_gap_is_kept() -> None:
    clock = StreamClock()
    assert clock.place(0, 0, entry=True) == 0
    assert clock.place(100 * SECOND, 99 * SECOND, entry=False) == 100 * SECOND
