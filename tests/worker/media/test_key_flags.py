"""Containers that say of every packet, or of none, that it is a key frame: the pictures themselves decide."""

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from shared.chunks import SECOND, Chunk, plan_chunks
from tests.worker.media.films import FILMS
from tests.worker.media.numbered import film as numbered_film
from tests.worker.media.numbered import numbers
from tests.worker.media.reading import decode_everything, end_of, read, same, setup, shown
from worker.media.decoder.reader import Reader

FindFilm = Callable[[str], Path]

GOOD = ("-deadline", "good", "-cpu-used", "8", "-auto-alt-ref", "1", "-lag-in-frames", "16")
MADE = {
    "vp8.webm": ("-c:v", "libvpx", *GOOD),
    "vp9.webm": ("-c:v", "libvpx-vp9", *GOOD),
    "av1.mp4": ("-c:v", "libsvtav1", "-preset", "12", "-svtav1-params", "lp=1"),
    "av1.mkv": ("-c:v", "libaom-av1", "-cpu-used", "8", "-lag-in-frames", "10"),
    "theora.mkv": ("-c:v", "libtheora"),
    "ffv1.mkv": ("-c:v", "ffv1", "-level", "3"),
    "ffv1.avi": ("-c:v", "ffv1", "-level", "1", "-coder", "0"),
    "flv1.flv": ("-c:v", "flv"),
    "h263.avi": ("-c:v", "h263", "-s", "176x144"),
    "h263.mov": ("-c:v", "h263", "-s", "352x288"),
    "h263p.avi": ("-c:v", "h263p"),
    "wmv1.asf": ("-c:v", "wmv1"),
    "wmv2.asf": ("-c:v", "wmv2"),
    "msmpeg4v2.avi": ("-c:v", "msmpeg4v2"),
    "msmpeg4v3.avi": ("-c:v", "msmpeg4"),
    "mpeg4.mov": ("-c:v", "mpeg4", "-bf", "2"),
    "mpeg2.mkv": ("-c:v", "mpeg2video", "-bf", "2"),
    "mpeg1.mkv": ("-c:v", "mpeg1video", "-bf", "2"),
    "h264.mp4": ("-c:v", "libx264"),
    "h264.mkv": ("-c:v", "libx264", "-x264-params", "open-gop=1:bframes=3"),
    "hevc.mp4": ("-c:v", "libx265", "-x265-params", "log-level=none:pools=1:open-gop=1"),
}  # fmt: skip

UNFIT = {"h264-b-avi", "mpeg2-ps"}  # has no order of frames; takes no packets of another file


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader(setup())
    yield reader
    reader.close()


def flagged(source: Path, target: Path, *, key: bool) -> Path:
    """The film with every packet marked as a key frame, or none."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream, opaque=True)
        for packet in reading.demux(stream):
            if packet.size:
                packet.is_keyframe = key
                packet.stream = copied
                writing.mux(packet)
    return target


@pytest.mark.parametrize("name", MADE)
def test_pictures_and_not_the_container_say_where_decoding_may_begin(
    name: str, reader: Reader, tmp_path: Path
) -> None:
    pixels = () if name.startswith("ffv1") else ("-pix_fmt", "yuv420p")
    made = numbered_film(tmp_path / name, 100, *MADE[name], "-g", "25", *pixels)
    path = flagged(made, tmp_path / f"flagged-{name}", key=True)
    frames, end = decode_everything(path), end_of(path)
    assert len(set(numbers(frames))) > 95
    for start in (0, SECOND * 7 // 10, SECOND * 2):
        chunks = plan_chunks(start, end, SECOND, 0, None)
        clips, counts = read(reader, path, chunks, 3)
        assert same(clips, [shown(frames, chunk, 3, end) for chunk in chunks])
        assert counts.dense_chunks == 0


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("name", sorted(FILMS.keys() - UNFIT))
def test_flags_change_no_frame(name: str, key: bool, film: FindFilm, reader: Reader, tmp_path: Path) -> None:
    """As in the matrix of films, with flags that say nothing."""
    source = film(name)
    path = flagged(source, tmp_path / source.name, key=key)
    frames, end = decode_everything(path), end_of(path)
    chunks = [Chunk(0, SECOND * 3 // 2, SECOND * 2), Chunk(1, SECOND * 2, end)]
    clips, _ = read(reader, path, chunks, 4)
    assert same(clips, [shown(frames, chunk, 4, end) for chunk in chunks])


def test_mpeg4_from_an_encoder_that_names_no_sync_samples(reader: Reader, tmp_path: Path) -> None:
    """Without its table `stss`, every sample of an MP4 is a key frame to FFmpeg."""
    path = numbered_film(tmp_path / "x.mp4", 300, "-c:v", "mpeg4", "-q:v", "3", "-g", "60", "-bf", "0")
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    path.write_bytes(data.replace(b"stss", b"free"))
    clips, _ = read(reader, path, plan_chunks(0, 10 * SECOND, 2 * SECOND, 0, None), 8)
    assert numbers(clips[0]) == [0, 8, 15, 23, 30, 38, 45, 53]
    assert [numbers(clip)[0] for clip in clips] == [0, 60, 120, 180, 240]
