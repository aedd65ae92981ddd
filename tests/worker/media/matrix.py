"""What media can be read, with the test of each: the source of deploy/media.md.

python -m tests.worker.media.matrix > deploy/media.md
"""

# ruff: noqa: E501 - a row of a table is a line

from collections.abc import Iterable, Sequence

from tests.worker.media.films import FILMS
from worker.media.decoder.container.demux import CONTAINERS
from worker.media.decoder.container.file_kinds import PICTURES
from worker.media.decoder.selection.picture_types import PICTURE_TYPES

WITHOUT_ORDER = {"h264-b-avi"}
"""Films of which nothing can be selected: the container does not say in which order frames are shown."""

PARSED = ["h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"]
"""Codecs whose pictures are parsed so far that those which nothing depends on are left out."""
CODECS = {"libx264": "h264", "libx265": "hevc", "libvpx": "vp8", "libvpx-vp9": "vp9", "libsvtav1": "av1",
          "prores_ks": "prores", "flv": "flv1"}  # fmt: skip

PROPERTIES = {
    "h264-gop1": "every frame a key frame",
    "h264-gop30": "B-frames, closed GOPs",
    "h264-gop250": "B-pyramid, long GOPs",
    "h264-no-b": "no B-frames",
    "h264-1-b": "one B-frame in a row",
    "h264-2-b-strict": "strict B-pyramid",
    "h264-16-b": "16 B-frames in a row",
    "h264-open": "open GOPs",
    "h264-open-mkv": "open GOPs",
    "h264-open-ts": "open GOPs",
    "h264-intra-refresh": "no key frame but the first: intra refresh",
    "h264-interlaced": "interlaced",
    "h264-slices": "four slices, CAVLC",
    "h264-444-10-bit": "4:4:4, 10 bits",
    "h264-fragmented": "fragments",
    "h264-fragments-in-gop": "fragments that begin within a GOP",
    "h264-vfr": "variable frame rate",
    "h264-vfr-mkv": "variable frame rate",
    "h264-late-start": "first frame long after 0",
    "h264-mov": "QuickTime",
    "h264-flv": "Flash",
    "h264-ts": "closed GOPs",
    "h264-avi": "no B-frames",
    "h264-b-avi": "B-pyramid, which AVI has no times for",
    "hevc-gop30": "closed GOPs",
    "hevc-open": "open GOPs, B-pyramid",
    "hevc-open-ts": "open GOPs, B-pyramid",
    "hevc-layers": "temporal layers",
    "hevc-radl": "RADL pictures",
    "hevc-10-bit": "10 bits",
    "vp8": "plain",
    "vp8-hidden-frames": "frames that are not shown",
    "vp9": "alternate reference frames",
    "vp9-mp4": "plain",
    "av1": "plain",
    "mpeg4": "B-frames",
    "mpeg4-avi": "B-frames",
    "mpeg2-ts": "B-frames",
    "mpeg2-ps": "B-frames",
    "mjpeg": "4:2:2, full range",
    "prores": "4:2:2, 10 bits",
    "wmv2": "plain",
    "flv1": "plain",
}

FURTHER = {
    "h263.mov": ("h263", True), "h263p.avi": ("h263p", True), "mpeg1.mpg": ("mpeg1video", True),
    "theora.ogv": ("libtheora", True), "ffv1.mkv": ("ffv1", True), "huffyuv.avi": ("huffyuv", True),
    "utvideo.avi": ("utvideo", True), "png.mov": ("png", True), "mpeg2.mxf": ("mpeg2video", True),
    "vp8.ivf": ("libvpx", True), "mpeg4.nut": ("mpeg4", True), "svq1.mov": ("svq1", False),
    "cinepak.avi": ("cinepak", False), "qtrle.mov": ("qtrle", False), "rawvideo.nut": ("rawvideo", False),
}  # fmt: skip
"""Films made by ffmpeg, the encoder of each, and whether frames are selected: test_matrix reads them."""

SITUATIONS = [
    ("packed MPEG-4 in AVI (DivX, Xvid)", "unpacked, then as others", "decoder/selection/test_packed.py::test_the_frames_are_those_of_a_full_decode"),
    ("every packet marked as a key frame, or none; MP4 without `stss`", "pictures tell, not the container", "test_key_flags.py::test_flags_change_no_frame"),
    ("recordings joined byte by byte: MPEG-TS and PS, Matroska, WebM, MP4 fragments, Ogg", "laid end to end", "test_joined.py::test_recordings_one_after_the_other"),
    ("a clock that jumps by more than 10 s in MPEG-TS, or runs backwards", "another recording begins", "test_joined.py::test_any_clocks_make_one_film_without_a_gap"),
    ("another size, range or codec parameters within the film", "followed", "decoder/test_reader.py::test_frames_that_change_their_size"),
    ("pauses: screen recordings, slide shows, recorders with gaps", "the frame that stands still", "test_pauses.py::test_any_pauses_give_the_frames_of_full_decoding"),
    ("video that begins after its sound", "chunks before it are left out, and reported", "test_pauses.py::test_video_that_begins_after_the_sound"),
    ("sound that outlasts the video", "the film ends with its last frame", "decoder/container/test_demux.py::test_sound_that_outlasts_the_video_does_not_count"),
    ("a header that states too little or too much, or nothing", "the film ends with its last frame", "decoder/test_film_facts.py::test_a_header_that_says_too_little_or_too_much"),
    ("a file that is cut off", "read as far as it goes", "decoder/container/test_demux.py::test_a_file_that_is_cut_off_ends_where_its_packets_do"),
    ("edit lists", "followed", "test_equality.py::test_frames_hidden_by_an_edit_list_are_not_there"),
    ("rotation and mirroring that a phone notes beside its video", "followed", "decoder/pictures/test_orientation.py::test_a_rotated_video_stands_upright"),
    ("BT.601, BT.709, BT.2020, limited and full range", "as the bit stream states", "test_colours.py::test_stated_colours"),
    ("no stated matrix", "by primaries or transfer function, else BT.709 for HD, BT.601 below", "decoder/pictures/test_swscale.py::test_an_unstated_matrix_goes_by_primaries_then_by_the_size"),
    ("4:2:0, 4:2:2, 4:4:4, 4:1:0, 8 to 12 bits, grey, RGB, palettes", "read; alpha is dropped", "decoder/pictures/test_swscale.py::test_subsampled_chroma"),
    ("HDR (PQ, HLG)", "by matrix and range; not tone-mapped", "decoder/pictures/test_swscale.py::test_an_unstated_matrix_goes_by_primaries_then_by_the_size"),
    ("parameter sets that change", "followed; within a GOP, it is decoded whole", "decoder/test_reader.py::test_parameter_sets_that_change_inside_a_gop"),
    ("a GOP of more than 128 MiB", "decoded whole", "decoder/test_reader.py::test_a_gop_that_is_too_long_to_hold"),
    ("a damaged part", "its chunks fail the request, or are skipped with `\"on_error\": \"skip\"`", "decoder/test_reader.py::test_a_chunk_whose_pictures_are_all_damaged_fails"),
    ("several video tracks, cover pictures", "the default track, else the first; cover pictures do not count", "decoder/container/test_demux.py::test_sound_with_a_cover_picture"),
]  # fmt: skip

IMAGES = [
    ("JPEG, PNG, WebP, GIF, BMP", "read", "test_pictures_are_those_that_pillow_sees"),
    ("animated GIF, PNG, WebP and AVIF", "the first frame", "test_an_animation_gives_its_first_frame"),
    ("HEIC of one picture or of tiles (iPhone)", "read whole", "test_the_tiles_of_a_phones_picture_are_put_together"),
    ("HEIC of several pictures", "the primary one", "test_a_picture_from_a_burst_is_the_one_that_its_camera_chose"),
    ("HEIC and AVIF in grey, with alpha, of more than 8 bits", "read; alpha is dropped", "test_kinds_of_heic"),
    ("EXIF orientation; rotation and mirroring in HEIC and AVIF", "followed", "test_exif_orientation_is_followed"),
    ("JPEG and WebP of any size", "BT.601, as their standards say", "test_large_pictures_keep_the_colours_of_small_ones"),
    ("damaged pictures", "refused with 400 at upload unless they can be decoded", "test_damaged_pictures_that_are_accepted_can_be_read"),
    ("more than `RTEMBED_MAX_IMAGE_PIXELS` pixels", "refused with 400 before decoding", "test_too_many_pixels_are_refused_before_decoding"),
]  # fmt: skip

KINDS = f"images may be {PICTURES}, videos in {CONTAINERS}"
REFUSED = {
    "MP4 that was never closed": "the index (moov) is missing: the file is incomplete",
    "MP4 whose index is cut off": "the index (moov) is cut off: the file is incomplete",
    "encrypted MP4 (cenc, cbcs ...)": "the video is encrypted",
    "a film without a frame that can be decoded": "no frame of the video can be decoded",
    "sound alone": "the file has no video track, only audio",
    "TIFF": f"a TIFF image is not supported; {KINDS}",
    "SVG": f"an SVG drawing is not supported; {KINDS}",
    "PDF": f"a PDF document is not supported; {KINDS}",
    "a HEIF file of another brand": f"a HEIF picture of the brand 'abcd' is not supported; {KINDS}",
    "HLS and other playlists": f"a playlist is not supported; {KINDS}",
    "a raw H.264 stream": f"not a video container of a supported kind ({CONTAINERS})",
    "a text": "not a readable video file: Invalid data found when processing input",
    "frames of too many pixels": "the video is 128x96, more than the allowed 12000 pixels per frame",
    "too long a film": "the video lasts 5.000 s, more than the allowed 3 s",
}
"""The message of each refusal; test_matrix makes and probes every one of them."""

HEAD = """# Films and pictures: what is read, and how

Find your kind of file here. Every row names the test that holds it to what it says, below `tests/worker/media`; the page itself is
generated from those tests (`python -m tests.worker.media.matrix`). Whatever is read gives exactly the frames that FFmpeg
gives when it decodes the whole film.

* **sparse**: only the packets that the wanted frames depend on are decoded.
* **whole**: everything from the last key frame before a chunk to its end is decoded, because packets do not tell what
  depends on what. The frames are the same; it costs more time.

What a file is, its bytes tell; its name does not matter. `GET /v1/files/<id>/media` says what was found in an upload.
"""


CONTAINERS_TEXT = """## Containers and codecs

Containers, by FFmpeg's names: {containers}.
MP4, M4V, 3GP and MOV are `mov`; MKV is `matroska`; TS, MTS and M2TS are `mpegts`; VOB and MPG are `mpeg`; WMV is `asf`.
Playlists, raw streams and files that name other files are refused.

| codecs, by FFmpeg's names | read |
| --- | --- |
| {parsed} | sparse: pictures that nothing depends on are left out |
| {typed} | sparse: from the key frame before a wanted frame |
| every other codec that FFmpeg decodes | whole |
"""

REFUSED_TEXT = """
## What is refused

With 400 `InvalidFile`, at upload or when a URL has been fetched; nothing is kept. Numbers and names in a message are those of
the example (`test_matrix.py::test_refusals`). `RTEMBED_MAX_FRAME_PIXELS`, `RTEMBED_MAX_IMAGE_PIXELS` and `RTEMBED_MAX_DURATION`
are the limits ([settings.md](settings.md)). Other kinds that are named: Photoshop, icons, JPEG XL, JPEG 2000, OpenEXR, raw images of
cameras, archives and sound files.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document() -> str:
    """The text of deploy/media.md."""
    films = [
        (film.suffix, CODECS.get(film.codec, film.codec), film.pixels, PROPERTIES[name],
         "whole" if name in WITHOUT_ORDER else "sparse", f"`{name}`")
        for name, film in FILMS.items()
    ]  # fmt: skip
    further = [
        (name.rpartition(".")[2], CODECS.get(codec, codec.removeprefix("lib")), "sparse" if sparse else "whole", f"`{name}`")
        for name, (codec, sparse) in FURTHER.items()
    ]  # fmt: skip
    containers = ", ".join(f"`{name}`" for name in CONTAINERS.split(","))
    parts = [
        HEAD,
        CONTAINERS_TEXT.format(
            containers=containers, parsed=", ".join(PARSED), typed=", ".join(sorted(PICTURE_TYPES))
        ),
        "## Films\n",
        "Tests: `test_equality.py`, and with useless key frame flags `test_key_flags.py`, for every film by its name.\n",
        table(["container", "codec", "pixels", "property", "read", "film"], films),
        "\nFurther codecs and containers (`test_matrix.py::test_further_films`):\n",
        table(["container", "codec", "read", "film"], further),
        "\n## What films do\n",
        table(["film", "what happens", "test"], [(a, b, f"`{c}`") for a, b, c in SITUATIONS]),
        "\n## Pictures\n",
        "Tests: `decoder/pictures/test_images.py`. A picture is decoded before it is accepted.\n",
        table(["picture", "what happens", "test"], [(a, b, f"`{c}`") for a, b, c in IMAGES]),
        REFUSED_TEXT,
        table(["file", "message"], [(what, f"`{message}`") for what, message in REFUSED.items()]),
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(document(), end="")
