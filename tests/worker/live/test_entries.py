"""Streams joined anywhere: gradual refresh, intra pictures, leading pictures, fields that come apart."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.chunks import SECOND
from tests.camera import CLOCK_RATE, Picture, encode
from tests.worker.live.field_pictures import fields as field_pictures
from worker.live.chunker import Chunker, Cut
from worker.live.rtp.access_units import AccessUnit
from worker.live.rtp.session_description import START_CODE
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.runs import Run, decode_runs

NOW = 1_800_000_000 * SECOND
SIZE = 32
DAMAGED = "joined without a key frame: the first pictures may be damaged"
Pixels = NDArray[np.uint8]


def refreshed(seconds: float = 4, size: int = 320, keyint: int = 30, frames_b: int = 0) -> list[Picture]:
    """x264's rolling intra refresh: one IDR picture, and recovery points from then on."""
    return encode(
        seconds=seconds,
        size=size,
        gop=keyint,
        params=f"keyint={keyint}:intra-refresh=1:bframes={frames_b}:b-adapt=0",
    )


def kinds(picture: Picture, codec: str = "h264") -> list[int]:
    return [nal[0] & 31 if codec == "h264" else nal[0] >> 1 & 63 for nal in picture.nals]


def without(pictures: Sequence[Picture], *removed: int) -> list[Picture]:
    """The pictures without NAL units of these kinds."""
    return [Picture(p.pts, [nal for nal in p.nals if nal[0] & 31 not in removed]) for p in pictures]


def joined(codec: str, picture: Picture) -> bytes:
    """A picture as a decoder takes it."""
    has_nals = codec in {"h264", "hevc"}
    return START_CODE + START_CODE.join(picture.nals) if has_nals else picture.nals[0]


class Joined:
    """What a chunker makes of pictures that arrive in real time."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        codec: str = "h264",
        *,
        rate: int = 30,
        parameters: bytes = b"",
    ) -> None:
        chunker = Chunker(codec, parameters, SECOND, 8)
        self.codec = codec
        self.cuts: list[Cut] = []
        self.events: list[str] = []
        self.zero = pictures[0].pts
        for index, picture in enumerate(pictures):
            data = joined(codec, picture)
            time = picture.pts * SECOND // CLOCK_RATE
            arrival = index * SECOND // rate
            one = AccessUnit(time, None, data, tuple(picture.nals))
            self.cuts += chunker.push(one, arrival, NOW + arrival)
        self.cuts += chunker.finish()
        self.events += chunker.events

    def frames(self) -> dict[int, Pixels]:
        """What is shown, by the picture's number in the stream; checks that every wanted frame comes."""
        shown = {}
        for cut in self.cuts:
            out = np.empty((8, 3, SIZE, SIZE), np.uint8)
            times = decode_runs(self.codec, cut.runs, MediaLimits(), out)
            assert times == [time for run in cut.runs for time in run.wanted]
            for time, frame in zip(times, out, strict=False):
                shown[round((time * CLOCK_RATE / SECOND + self.zero) / 3000)] = frame
        return shown


def shown_by_ffmpeg(codec: str, pictures: Sequence[Picture], *numbers: int) -> dict[int, Pixels]:
    """What a full decode from the start of the stream shows, scaled as ours."""
    runs = [joined(codec, picture) for picture in pictures]
    whole = Run(
        b"", [(p.pts, data) for p, data in zip(pictures, runs, strict=True)], [n * 3000 for n in numbers]
    )
    out = np.empty((len(numbers), 3, SIZE, SIZE), np.uint8)
    times = decode_runs(codec, [whole], MediaLimits(), out)
    return {time // 3000: frame for time, frame in zip(times, out, strict=True)}


def assert_right(joined: Joined, codec: str, pictures: Sequence[Picture]) -> None:
    """Every frame is that of a full decode from the first picture."""
    ours = joined.frames()
    theirs = shown_by_ffmpeg(codec, pictures, *sorted(ours))
    assert ours.keys() == theirs.keys()
    for number, frame in ours.items():
        np.testing.assert_array_equal(frame, theirs[number], err_msg=f"picture {number}")


# Gradual refresh -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "frames_b"), [(7, 0), (31, 0), (7, 2), (0, 0)])
def test_a_stream_that_refreshes_gradually(first: int, frames_b: int) -> None:
    """The right frames, from where the first whole refresh has come to its end."""
    pictures = refreshed(frames_b=frames_b)
    assert [index for index, p in enumerate(pictures) if 5 in kinds(p)] == [0]
    joined = Joined(pictures[first:])
    assert_right(joined, "h264", pictures)
    assert joined.events == []
    numbers = sorted(joined.frames())
    refresh = 0 if first == 0 else -(-first // 30) * 30
    assert refresh <= numbers[0] < refresh + 30 * (1 + frames_b)
    assert len(joined.cuts) >= (119 - numbers[0]) // 30


def test_a_refresh_is_decoded_from_its_recovery_point_only() -> None:
    joined = Joined(refreshed(seconds=8)[7:])
    most = max(len(run.packets) for cut in joined.cuts for run in cut.runs)
    assert 20 < most < 2 * 30 + 2


def test_refreshes_that_overlap() -> None:
    """A recovery point every 10 pictures, each of which takes longer: none is broken off by the next."""
    pictures = refreshed(keyint=30)
    recovery = next(nal for nal in pictures[30].nals if nal[0] & 31 == 6)
    marked = [
        Picture(p.pts, [recovery, *p.nals]) if index % 10 == 0 and index % 30 else p
        for index, p in enumerate(pictures)
    ]
    assert len(Joined(marked[7:]).cuts) >= 2


def test_parameter_sets_that_never_come_are_named() -> None:
    joined = Joined(without(refreshed(seconds=12, size=96), 7, 8))
    assert joined.cuts == []
    assert joined.events == [
        "nothing can be decoded after 10 s of video: no SPS and PPS in the description or the stream"
    ]


# For want of anything better ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> list[Picture]:
    """Intra pictures each second that nothing marks: open GOPs without recovery points."""
    params = "open-gop=1:bframes=2:b-adapt=0:scenecut=0:keyint=30"
    made = encode(seconds=8, preset="medium", params=params)
    assert [index for index, p in enumerate(made) if 5 in kinds(p)] == [0]
    assert [p.pts // 3000 for p in made if 6 in kinds(p)] == [0, 30, 60, 90, 120, 150, 180, 210]
    return without(made, 6)


def test_a_plain_intra_picture_serves_after_a_while(plain: list[Picture]) -> None:
    joined = Joined(plain[7:])
    numbers = sorted(joined.frames())
    assert 97 <= numbers[0] <= 127, "3 s after the seventh picture, at the next intra picture"
    assert joined.events == [DAMAGED]
    assert len(joined.cuts) == 4


def test_pictures_from_an_intra_picture_on_are_those_of_a_full_decode(plain: list[Picture]) -> None:
    """Here no picture refers to what was before."""
    assert_right(Joined(plain[7:]), "h264", plain)


def test_where_key_frames_come_no_other_picture_serves(plain: list[Picture]) -> None:
    """The first IDR picture comes before an intra picture has to."""
    later = [Picture(p.pts + 60 * 3000, p.nals) for p in plain]
    joined = Joined([*plain[7:60], *later])
    assert min(joined.frames()) == 60
    assert joined.events == []


def test_a_stream_without_anything_to_begin_with_is_told_of_once() -> None:
    pictures = encode(seconds=14, gop=100_000)
    joined = Joined(pictures[7:])
    assert joined.cuts == []
    missing = "no key frame, recovery point or intra picture"
    none = "no SPS and PPS in the description or the stream"
    assert joined.events == [f"nothing can be decoded after 10 s of video: {none}"]
    with_sets = [Picture(pictures[7].pts, [*pictures[0].nals[:2], *pictures[7].nals]), *pictures[8:]]
    assert Joined(with_sets).events == [f"nothing can be decoded after 10 s of video: {missing}"]


def test_plain_intra_pictures_of_h265() -> None:
    """Intra slices in trailing pictures, which x265 makes on demand."""
    options = "log-level=none:keyint=1000:min-keyint=1000:bframes=0:scenecut=0"
    pictures = encode("libx265", seconds=8, intra=30, params=options)
    assert {kind for p in pictures[1:] for kind in kinds(p, "hevc")} == {1}
    with_sets = [Picture(pictures[7].pts, [*pictures[0].nals[:3], *pictures[7].nals]), *pictures[8:]]
    joined = Joined(with_sets, "hevc")
    assert joined.events == [DAMAGED]
    assert min(joined.frames()) == 120
    assert_right(joined, "hevc", pictures)
    nothing = encode("libx265", seconds=12, params=options)
    with_sets = [Picture(nothing[7].pts, [*nothing[0].nals[:3], *nothing[7].nals]), *nothing[8:]]
    joined = Joined(with_sets, "hevc")
    assert joined.cuts == []
    assert len(joined.events) == 1


# Leading pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [7, 40])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_the_first_chunk_begins_at_the_first_picture_that_can_be_shown(codec: str, first: int) -> None:
    """Open GOPs: leading pictures of the first key frame need what came before it."""
    if codec == "hevc":
        options = "log-level=none:keyint=30:min-keyint=30:bframes=3:open-gop=1:scenecut=0:b-adapt=0"
        pictures = encode("libx265", seconds=4, params=options)
    else:
        x264 = "open-gop=1:bframes=3:b-adapt=0:scenecut=0"
        pictures = encode(seconds=4, preset="medium", tune="film", params=x264)
    joined = Joined(pictures[first:], codec)
    assert_right(joined, codec, pictures)
    begins = next(p for p in pictures[first:] if _is_entry(p, codec))
    assert min(joined.frames()) == begins.pts // 3000
    first_chunk = joined.cuts[0]
    assert sum(len(run.wanted) for run in first_chunk.runs) == 8


def _is_entry(picture: Picture, codec: str) -> bool:
    found = kinds(picture, codec)
    return 6 in found if codec == "h264" else any(16 <= kind <= 21 for kind in found)


# Other codecs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 7])
def test_mpeg4(first: int) -> None:
    """Headers come with each key picture; one joined in the middle waits for the next."""
    pictures = encode("mpeg4", seconds=4, bf="2")
    joined = Joined(pictures[first:], "mpeg4")
    assert_right(joined, "mpeg4", pictures)
    assert len(joined.cuts) == (4 if first == 0 else 3)
    assert all(sum(len(run.wanted) for run in cut.runs) == 8 for cut in joined.cuts[:3])


def test_mpeg4_whose_headers_are_in_the_description_only() -> None:
    pictures = encode("mpeg4", seconds=2)
    (data,) = pictures[0].nals
    at = data.find(b"\0\0\1\xb6")
    bare = [Picture(p.pts, [p.nals[0][p.nals[0].find(b"\0\0\1\xb6") :]]) for p in pictures]
    assert_right(Joined(bare, "mpeg4", parameters=data[:at]), "mpeg4", pictures)


def test_mjpeg_is_decoded_picture_by_picture() -> None:
    pictures = encode("mjpeg", seconds=2)
    joined = Joined(pictures, "mjpeg")
    assert_right(joined, "mjpeg", pictures)
    assert [len(run.packets) for cut in joined.cuts for run in cut.runs] == [1] * 16


# Fields -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [True, False])
def test_fields_of_one_frame_are_one_picture(apart: bool) -> None:
    """Each field with its own time, a sixtieth of a second apart, or both with one."""
    shift = 1500 if apart else 0
    fields = [Picture(f.frame * 3000 + (i % 2) * shift, f.nals) for i, f in enumerate(field_pictures(90))]
    if not apart:
        pairs = zip(fields[::2], fields[1::2], strict=True)
        fields = [Picture(top.pts, top.nals + bottom.nals) for top, bottom in pairs]
    joined = Joined(fields, rate=60 if apart else 30)
    assert [len(run.wanted) for cut in joined.cuts for run in cut.runs]
    shown = joined.frames()
    assert len(joined.cuts) == 3
    assert all(sum(len(run.wanted) for run in cut.runs) == 8 for cut in joined.cuts[:2])
    for number, frame in shown.items():
        luma = 40 + number // 10 * 10
        assert abs(int(frame.mean()) - (luma - 16) * 255 / 219) < 2, number


def test_a_field_without_its_other_half_is_shown_as_it_is() -> None:
    fields = [Picture(f.frame * 3000 + (i % 2) * 1500, f.nals) for i, f in enumerate(field_pictures(90))]
    del fields[41]
    joined = Joined(fields, rate=60)
    assert len(joined.cuts) == 3


def test_interlaced_frames_are_left_whole() -> None:
    pictures = encode(seconds=3, params="tff=1:bframes=0")
    joined = Joined(pictures)
    assert len(joined.cuts) == 3
    assert_right(joined, "h264", pictures)
