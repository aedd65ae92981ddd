"""MPEG-4 as DivX and Xvid pack it into AVI, against ffmpeg's own full decode."""

from pathlib import Path

import pytest

from shared.chunks import SECOND, plan_chunks
from tests.worker.media.numbered import film, full_decode, numbers
from tests.worker.media.reading import facts_of, read, setup
from worker.media.decoder.container.demux import VideoSource
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.reader import Reader
from worker.media.decoder.selection.packed import is_packed


def xvid(path: Path, *options: str, frames: int = 90) -> Path:
    return film(path, frames, "-c:v", "libxvid", "-q:v", "3", *options)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(
    "options", [("-g", "30", "-bf", "2"), ("-g", "12", "-bf", "1"), ("-g", "300", "-bf", "3")]
)
def test_the_frames_are_those_of_a_full_decode(
    options: tuple[str, ...], sparse: bool, tmp_path: Path
) -> None:
    path = xvid(tmp_path / "xvid.avi", *options)
    frames = full_decode(path)
    zero = frames[0][0]
    reader = Reader(setup(sparse=sparse))
    duration = facts_of(path).duration
    assert abs(duration / SECOND - (frames[-1][0] - zero + 1 / 30)) < 0.002
    for length in (SECOND, SECOND // 3):
        chunks = plan_chunks(0, duration, length, 0, None)
        clips, counts = read(reader, path, chunks, 8)
        assert (counts.dense_chunks == 0) is sparse
        for chunk, clip in zip(chunks, clips, strict=True):
            targets = [chunk.start + i * (chunk.end - chunk.start) // 8 for i in range(8)]
            expected = [
                next((n for when, n in frames if when - zero >= target / SECOND - 1e-4), None)
                for target in targets
            ]
            found = [n for n in dict.fromkeys(expected) if n is not None]
            assert numbers(clip) == found[: len(clip)]
            assert len(found) - len(clip) <= 1, "the last target may lie after the chunk's last frame"
    reader.close()


def test_every_frame_comes_once_and_in_order(tmp_path: Path) -> None:
    path = xvid(tmp_path / "xvid.avi", "-g", "30", "-bf", "2")
    reader = Reader(setup())
    duration = facts_of(path).duration
    clips, _ = read(reader, path, plan_chunks(0, duration, SECOND // 2, 0, None), 30)
    shown = [number for clip in clips for number in numbers(clip)]
    assert sorted(set(shown)) == [number for _, number in full_decode(path)]
    assert shown == sorted(shown)
    reader.close()


@pytest.mark.parametrize(
    ("codec", "options", "packs"),
    [("libxvid", ("-bf", "2"), True), ("mpeg4", ("-bf", "2"), False), ("mpeg4", ("-bf", "0"), False)],
)
def test_packed_pictures_are_told_from_others(
    codec: str, options: tuple[str, ...], packs: bool, tmp_path: Path
) -> None:
    path = film(tmp_path / "film.avi", 30, "-c:v", codec, "-q:v", "3", *options)
    source = VideoSource(str(path), MediaLimits())
    assert is_packed(source.stream.codec_context.extradata, source._read()) is packs
    source.close()
