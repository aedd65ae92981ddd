"""Still images: what is accepted, how it is read, what is refused before it is decoded."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pillow_heif import HeifFile, from_pillow, register_heif_opener

from shared.errors import DecodeError, InvalidFile
from tests.worker.media.films import picture
from worker.media.decoder.container.demux import Refused
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.pictures.images import IMAGE_HEAD, image_facts, image_format, image_size, read_image
from worker.media.decoder.pictures.orientation import EXIF, UPRIGHT, exif_orientation
from worker.media.decoder.pictures.swscale import Scaler

SIZE = 64
LIMITS = MediaLimits()
FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}

register_heif_opener()  # here, not in the product: Image.open() then reads HEIC to compare with


def encoded(kind: str, width: int = 120, height: int = 90, **options: object) -> bytes:
    """A picture written by Pillow."""
    buffer = BytesIO()
    Image.fromarray(picture(3, width, height)).save(buffer, FORMATS[kind], **options)
    return buffer.getvalue()


def read(path: Path) -> NDArray[np.uint8]:
    scaler, out = Scaler(), np.zeros((3, SIZE, SIZE), np.uint8)
    read_image(str(path), scaler, LIMITS, out)
    scaler.close()
    return out


def by_pillow(data: bytes) -> NDArray[np.float64]:
    image = Image.open(BytesIO(data)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float64).transpose(2, 0, 1)


def store(folder: Path, data: bytes) -> Path:
    path = folder / "image.bin"  # the name says nothing, the bytes everything
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("width", "height"), [(120, 90), (33, 71), (1, 1), (500, 3)])
def test_sizes_are_read_from_headers(kind: str, width: int, height: int) -> None:
    data = encoded(kind, width, height)
    assert image_format(data[:32]) == kind
    assert image_size(data, kind) == (width, height)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0"}])
def test_sizes_of_every_kind_of_webp(options: dict[str, object]) -> None:
    assert image_size(encoded("webp", 77, 55, **options), "webp") == (77, 55)


def test_sizes_of_progressive_jpeg_with_thumbnail_and_comments() -> None:
    data = encoded("jpeg", 200, 100, progressive=True, comment=b"\xff\xc0 is not a header here" * 9)
    assert image_size(data, "jpeg") == (200, 100)


@pytest.mark.parametrize("kind", FORMATS)
def test_pictures_are_those_that_pillow_sees(kind: str, tmp_path: Path) -> None:
    data = encoded(kind)
    assert np.abs(read(store(tmp_path, data)) - by_pillow(data)).mean() < 3


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_large_pictures_keep_the_colours_of_small_ones(kind: str, tmp_path: Path) -> None:
    """The matrix of JPEG and WebP is BT.601 whatever their size, not BT.709 as for HD video."""
    shown = np.zeros((800, 1400, 3), np.uint8)
    shown[:] = (215, 40, 40)
    buffer = BytesIO()
    Image.fromarray(shown).save(buffer, FORMATS[kind], quality=95)
    assert (
        np.abs(read(store(tmp_path, buffer.getvalue())) - shown[0, 0][:, None, None].astype(float)).max() < 6
    )


def test_an_alpha_channel_is_dropped(tmp_path: Path) -> None:
    buffer = BytesIO()
    rgba = np.dstack([picture(1, 80, 60), np.full((60, 80), 40, np.uint8)])
    Image.fromarray(rgba, "RGBA").save(buffer, "PNG")
    assert np.abs(read(store(tmp_path, buffer.getvalue())) - by_pillow(buffer.getvalue())).mean() < 3


def heic(image: Image.Image, **options: object) -> bytes:
    """A HEIC picture, of several tiles where it is larger than `tile_size`."""
    buffer = BytesIO()
    from_pillow(image).save(buffer, quality=90, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("width", "height"), [(512, 384), (1000, 700), (640, 130)])
def test_the_tiles_of_a_phones_picture_are_put_together(width: int, height: int, tmp_path: Path) -> None:
    shown = picture(3, width, height)
    data = heic(Image.fromarray(shown), tile_size=128)
    assert data.count(b"hvc1") > 3, "several tiles"
    path = store(tmp_path, data)
    facts = image_facts(str(path), "heic", LIMITS)
    assert (facts.kind, facts.codec, facts.width, facts.height) == ("image", "heic", width, height)
    assert np.abs(read(path) - by_pillow(_png(shown))).mean() < 4


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_kinds_of_heic(mode: str, tmp_path: Path) -> None:
    grey = Image.fromarray(picture(3, 120, 90)).convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    data = heic(deep if mode == "I;16" else grey.convert(mode))
    assert image_format(data[:IMAGE_HEAD]) == "heic"
    assert np.abs(read(store(tmp_path, data)) - by_pillow(_png(np.asarray(grey)))).mean() < 4


def test_a_picture_from_a_burst_is_the_one_that_its_camera_chose(tmp_path: Path) -> None:
    file, buffer = HeifFile(), BytesIO()  # type: ignore[no-untyped-call]
    for index in (0, 50, 90):
        file.add_from_pillow(Image.fromarray(picture(index, 120, 90)))
    file.save(buffer, quality=90, primary_index=1)
    expected = by_pillow(_png(picture(50, 120, 90)))
    assert np.abs(read(store(tmp_path, buffer.getvalue())) - expected).mean() < 4


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_kinds_of_avif(mode: str, tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.fromarray(picture(3, 120, 90)).convert(mode).save(buffer, "AVIF", quality=90)
    path = store(tmp_path, buffer.getvalue())
    facts = image_facts(str(path), "avif", LIMITS)
    assert (facts.codec, facts.width, facts.height) == ("avif", 120, 90)
    expected = by_pillow(_png(np.asarray(Image.fromarray(picture(3, 120, 90)).convert(mode))))
    assert np.abs(read(path) - expected).mean() < 5


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        ("heic mif1", "heic"), ("heix", "heic"), ("mif1 heic", "heic"), ("msf1 hevc heic", "heic"),
        ("hevc msf1", "heic"), ("avif mif1", "avif"), ("avis", "avif"), ("mif1 miaf avif", "avif"),
        ("isom mp42 avc1", None), ("qt  heic", None), ("mp42 mif1", None),
    ],
)  # fmt: skip
def test_brands_tell_pictures_from_videos(brands: str, kind: str | None) -> None:
    major, *compatible = [brands[at : at + 4].encode() for at in range(0, len(brands), 5)]
    box = b"ftyp" + major + bytes(4) + b"".join(compatible)
    assert image_format((struct.pack(">I", len(box) + 4) + box + b"\0\0\0\x08meta")[:IMAGE_HEAD]) == kind


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_grey_and_indexed_pngs(mode: str, tmp_path: Path) -> None:
    grey = picture(1, 80, 60)[..., 0]
    buffer = BytesIO()
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    (deep if mode == "I;16" else Image.fromarray(grey).convert(mode)).save(buffer, "PNG")
    expected = by_pillow(buffer.getvalue()) if mode != "I;16" else by_pillow(_png(grey))
    assert np.abs(read(store(tmp_path, buffer.getvalue())) - expected).mean() < (8 if mode == "1" else 4)


def _png(grey: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GIF", {}),
        ("PNG", {}),
        ("WEBP", {"quality": 90}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 90}),
    ],
)
def test_an_animation_gives_its_first_frame(kind: str, options: dict[str, object], tmp_path: Path) -> None:
    buffer = BytesIO()
    first, *others = (Image.fromarray(picture(i, 80, 60)) for i in (0, 50, 90))
    first.save(buffer, kind, save_all=True, append_images=others, **options)
    path = store(tmp_path, buffer.getvalue())
    assert np.abs(read(path) - by_pillow(buffer.getvalue())).mean() < 3
    facts = image_facts(str(path), kind.lower(), LIMITS)
    assert (facts.kind, facts.width, facts.height) == ("image", 80, 60)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed(orientation: int, kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(picture(3, 96, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    image.save(buffer, kind, quality=95, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(buffer)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    expected = np.asarray(upright, np.float64).transpose(2, 0, 1)
    assert np.abs(read(store(tmp_path, buffer.getvalue())) - expected).mean() < 4


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
def test_broken_exif_turns_nothing(exif: bytes) -> None:
    assert exif_orientation(b"\xff\xd8\xff\xe1\0\x20Exif\0\0" + exif) == UPRIGHT


def saved(kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture(3, 96, 64)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_only_an_exif_block_turns_an_image(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    assert exif_orientation(saved(kind, exif=exif)) == EXIF[6]
    assert exif_orientation(saved(kind) + b"eXIf" + b"EXIF" + block) == UPRIGHT
    if kind == "JPEG":
        assert exif_orientation(saved(kind, comment=block)) == UPRIGHT
        assert exif_orientation(saved(kind, comment=b"x" * 999, exif=exif)) == EXIF[6]


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header announces more pixels than it has."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + piece(b"IHDR", header)
        + piece(b"IDAT", zlib.compress(b""))
        + piece(b"IEND", b"")
    )


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    path = store(tmp_path, bomb(60_000, 60_000))
    with pytest.raises(InvalidFile, match="60000x60000, more than the allowed 120000000 pixels per image"):
        image_facts(str(path), "png", LIMITS)
    with pytest.raises(Refused, match="60000x60000"):
        read(path)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("length", [4, 12, 20, 28])
def test_cut_off_headers_are_refused(kind: str, length: int, tmp_path: Path) -> None:
    path = store(tmp_path, encoded(kind)[:length])
    with pytest.raises(DecodeError):
        read(path)


def test_an_image_of_no_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="0x50 pixels"):
        image_facts(str(store(tmp_path, bomb(0, 50))), "png", LIMITS)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"<svg/>", b"BMW is a car, not a bitmap", b"RIFF\0\0\0\0WAVE"]
)
def test_other_files_are_no_images(data: bytes, tmp_path: Path) -> None:
    assert image_format(data[:32]) is None
    with pytest.raises(DecodeError, match=r"image\.bin is not an image of a known kind"):
        read(store(tmp_path, data))


@pytest.mark.parametrize("kind", [*FORMATS.values(), "AVIF", "HEIF", "animated WebP"])
def test_damaged_pictures_that_are_accepted_can_be_read(kind: str, tmp_path: Path) -> None:
    """Cut off, and with wrong bytes: InvalidFile at the probe, or a picture later."""
    buffer = BytesIO()
    first, second = (Image.fromarray(picture(i, 60, 40)) for i in (0, 50))
    if kind == "animated WebP":
        first.save(buffer, "WEBP", save_all=True, append_images=[second])
    else:
        first.save(buffer, kind)
    whole, rng, refused = buffer.getvalue(), np.random.default_rng(7), 0
    for _ in range(40):
        data = bytearray(whole[: rng.integers(12, len(whole))] if rng.random() < 0.3 else whole)
        for at in rng.integers(8, len(data), rng.integers(0, 6)):
            data[at] = rng.integers(256)
        path = store(tmp_path, bytes(data))
        found = image_format(bytes(data[:IMAGE_HEAD]))
        try:
            facts = image_facts(str(path), found or "none", LIMITS) if found else None
        except InvalidFile:
            refused += 1
        else:
            assert facts is None or (read(path).shape == (3, SIZE, SIZE) and facts.width > 0)
    assert refused > 0 or kind in ("GIF", "JPEG", "BMP")


def test_a_broken_image_names_itself(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"image\.bin: "):
        read(store(tmp_path, bomb(50, 50)))


def test_a_missing_image_names_itself(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"gone\.png: No such file"):
        read(tmp_path / "gone.png")
