"""Scaling and colours, against the arithmetic in floating point."""

from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from worker.media.decoder.pictures.swscale import Scaler
from worker.media.decoder.runs import frame_look
from worker.media.gpu.surface import coefficients

Matrix = tuple[float, float]  # Kr, Kb

BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)
FFMPEG_MATRIX = {BT709: 1, BT601: 6, BT2020: 9}


def to_rgb(
    planes: Sequence[NDArray[np.float64]], matrix: Matrix, bits: int, full: bool
) -> NDArray[np.float64]:
    """Y'CbCr samples, all of one size, to R'G'B' from 0 to 255 [3, height, width] (ITU-T H.273)."""
    top = 2**bits - 1
    if full:
        y, u, v = (
            planes[0] / top,
            planes[1] / top - 2 ** (bits - 1) / top,
            planes[2] / top - 2 ** (bits - 1) / top,
        )
    else:
        unit = 2 ** (bits - 8)
        y = (planes[0] - 16 * unit) / (219 * unit)
        u, v = ((plane - 128 * unit) / (224 * unit) for plane in planes[1:])
    kr, kb = matrix
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    rgb: NDArray[np.float64] = np.clip(np.stack([red, green, blue]), 0, 1) * 255
    return rgb


def shrink(line: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Bilinear along the last axis, the triangle widened where it shrinks, centres aligned."""
    length = line.shape[-1]
    ratio = length / size
    centres = (np.arange(size) + 0.5) * ratio - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(length) - centres[:, None]) / max(1.0, ratio))
    shrunk: NDArray[np.float64] = line @ (weights / weights.sum(axis=1, keepdims=True)).T
    return shrunk


def resized(planes: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    return shrink(shrink(planes, size).swapaxes(-1, -2), size).swapaxes(-1, -2)


def frame_of(planes: Sequence[NDArray[np.uint16]], pixels: str) -> av.VideoFrame:
    """A frame with these samples."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pixels)
    for plane, samples in zip(frame.planes, planes, strict=True):
        kind = np.uint8 if plane.line_size < 2 * samples.shape[1] else np.uint16
        memory: Any = plane
        rows = np.frombuffer(memory, kind).reshape(samples.shape[0], -1)
        rows[:, : samples.shape[1]] = samples
    return frame


def scaled(frame: av.VideoFrame, size: int) -> NDArray[np.float64]:
    scaler, out = Scaler(), np.empty((3, size, size), np.uint8)
    scaler.scale(frame, out)
    scaler.close()
    return out.astype(np.float64)


def smooth(shape: tuple[int, int], low: int, high: int, seed: int) -> NDArray[np.uint16]:
    """Samples that change slowly, so that subsampled chroma has one right answer."""
    height, width = shape
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    phase = rng.uniform(0, 6, 4)
    wave = (
        np.sin(x / width * 5 + phase[0])
        + np.sin(y / height * 4 + phase[1])
        + np.sin((x + y) / width * 3 + phase[2])
    )
    samples: NDArray[np.uint16] = np.round(low + (wave + 3) / 6 * (high - low)).astype(np.uint16)
    return samples


@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020], ids=["BT.601", "BT.709", "BT.2020"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize(
    ("pixels", "bits"),
    [("yuv444p", 8), ("yuv444p10le", 10), ("yuv444p12le", 12)],
)
def test_colours(matrix: Matrix, full: bool, pixels: str, bits: int) -> None:
    """Flat patches of many colours keep their colour, whatever the matrix, range and depth."""
    rng, unit = np.random.default_rng(1), 2 ** (bits - 8)
    patches = rng.integers(60 * unit, 190 * unit, (3, 8, 8)).repeat(16, 1).repeat(16, 2).astype(np.uint16)
    frame = frame_of(list(patches), pixels)
    frame.colorspace, frame.color_range = FFMPEG_MATRIX[matrix], 2 if full else 1
    expected = to_rgb(list(patches.astype(np.float64)), matrix, bits, full)
    inside = np.zeros((128, 128), bool)
    inside.reshape(8, 16, 8, 16)[:, 4:12, :, 4:12] = True
    assert np.abs(scaled(frame, 128) - expected)[:, inside].max() <= 1.5


@pytest.mark.parametrize("size", [64, 100, 224])
@pytest.mark.parametrize(("width", "height"), [(640, 360), (321, 243), (200, 500)])
def test_shrinking_averages_as_the_models_preprocessing_does(size: int, width: int, height: int) -> None:
    rng = np.random.default_rng(2)
    noise = rng.integers(16, 236, (height, width)).astype(np.uint16)
    grey = np.full((height, width), 128, np.uint16)
    expected = to_rgb(
        list(resized(np.stack([noise, grey, grey]).astype(np.float64), size)), BT601, 8, full=False
    )
    frame = frame_of([noise, grey, grey], "yuv444p")
    frame.colorspace, frame.color_range = 6, 1
    assert np.abs(scaled(frame, size) - expected).mean() < 1


@pytest.mark.parametrize(
    ("pixels", "bits", "across", "down"),
    [
        ("yuv420p", 8, 2, 2),
        ("yuv422p", 8, 2, 1),
        ("yuv420p10le", 10, 2, 2),
        ("yuv422p10le", 10, 2, 1),
        ("yuv410p", 8, 4, 4),
    ],
)
@pytest.mark.parametrize("odd", [0, 2])
def test_subsampled_chroma(pixels: str, bits: int, across: int, down: int, odd: int) -> None:
    unit, width, height = 2 ** (bits - 8), 320 + odd, 240 + odd
    luma = smooth((height, width), 60 * unit, 180 * unit, 1)
    chroma = [
        smooth((-(-height // down), -(-width // across)), 90 * unit, 160 * unit, seed) for seed in (2, 3)
    ]
    frame = frame_of([luma, *chroma], pixels)
    frame.colorspace, frame.color_range = 1, 1
    planes = [resized(plane.astype(np.float64)[None], 64)[0] for plane in (luma, *chroma)]
    difference = np.abs(scaled(frame, 64) - to_rgb(planes, BT709, bits, full=False))
    assert difference.mean() < 1.5
    assert difference.max() < 8


@pytest.mark.parametrize(
    ("width", "height", "stated", "matrix"),
    [
        (64, 576, {}, BT601),
        (720, 576, {}, BT601),
        (64, 577, {}, BT709),
        (1280, 536, {}, BT709),
        (1280, 720, {}, BT709),
        (720, 1280, {}, BT709),
        (1279, 576, {}, BT601),
        (64, 64, {"color_primaries": 1}, BT709),
        (64, 64, {"color_primaries": 9}, BT2020),
        (64, 64, {"color_trc": 16}, BT2020),
        (1920, 1080, {"color_primaries": 9, "color_trc": 18}, BT2020),
        (1920, 1080, {"color_primaries": 6}, BT601),
        (1920, 1080, {"colorspace": 6, "color_primaries": 1}, BT601),
    ],
)
def test_an_unstated_matrix_goes_by_primaries_then_by_the_size(
    width: int, height: int, stated: dict[str, int], matrix: Matrix
) -> None:
    planes = [np.full((height, width), value, np.uint16) for value in (120, 90, 180)]
    frame = frame_of(planes, "yuv444p")
    for name, value in stated.items():
        setattr(frame, name, value)
    expected = to_rgb([plane[:1, :1].astype(np.float64) for plane in planes], matrix, 8, full=False)
    assert np.abs(scaled(frame, 32) - expected).max() <= 1.5
    look, sample = frame_look("h264", frame), [120.0, 90.0, 180.0]
    kernel = coefficients(look)  # what the GPU's kernel is given
    luma = (sample[0] - kernel.black) * kernel.y
    on_gpu = [
        luma + kernel.rv * (sample[2] - 128),
        luma + kernel.gu * (sample[1] - 128) + kernel.gv * (sample[2] - 128),
        luma + kernel.bu * (sample[1] - 128),
    ]
    assert np.abs(np.array(on_gpu) - expected[:, 0, 0]).max() <= 0.01


@pytest.mark.parametrize(("pixels", "level"), [("gray", 200), ("yuvj444p", 200)])
def test_an_unstated_range_is_full_where_that_is_usual(pixels: str, level: int) -> None:
    planes = [np.full((48, 64), level, np.uint16)]
    if pixels != "gray":
        planes += [np.full((48, 64), 128, np.uint16)] * 2
    assert np.abs(scaled(frame_of(planes, pixels), 32) - level).max() <= 1


@pytest.mark.parametrize("pixels", ["rgb24", "rgba", "bgr24", "gbrp"])
def test_rgb_stays_what_it_is(pixels: str) -> None:
    colour = np.array([250, 30, 128], np.uint8)
    frame = av.VideoFrame.from_ndarray(np.tile(colour, (40, 60, 1)), format="rgb24").reformat(format=pixels)
    assert np.abs(scaled(frame, 32) - colour[:, None, None]).max() <= 1


def test_a_palette_is_looked_up() -> None:
    palette = np.zeros((256, 4), np.uint8)
    palette[7] = [255, 250, 30, 128]  # alpha, red, green, blue
    looked_up: Any = (np.full((40, 60), 7, np.uint8), palette)
    frame = av.VideoFrame.from_ndarray(looked_up, format="pal8")
    assert np.abs(scaled(frame, 32) - np.array([250, 30, 128])[:, None, None]).max() <= 1


@pytest.mark.parametrize("size", [*range(1, 70, 7), 96, 100, 224, 333, 448])
def test_nothing_is_written_outside(size: int) -> None:
    """The clip's neighbours in shared memory stay as they are."""
    memory = np.full(3 * size * size + 8192, 0xA5, np.uint8)
    out = memory[4096:-4096].reshape(3, size, size)
    frame = frame_of(
        [smooth((241, 321), 16, 235, 1), *[smooth((121, 161), 90, 160, s) for s in (2, 3)]], "yuv420p"
    )
    scaler = Scaler()
    scaler.scale(frame, out)
    assert np.all(memory[:4096] == 0xA5)
    assert np.all(memory[-4096:] == 0xA5)
    assert np.array_equal(out, scaled(frame, size))


def test_a_stream_that_changes_its_size_does_not_fill_memory() -> None:
    scaler, out = Scaler(), np.empty((3, 16, 16), np.uint8)
    for width in range(32, 132, 2):
        scaler.scale(av.VideoFrame(width, 32, "yuv420p"), out)
    assert len(scaler._contexts) <= 8


def test_what_cannot_be_scaled_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot scale 64x64 bayer_bggr8"):
        Scaler().scale(av.VideoFrame(64, 64, "bayer_bggr8"), np.empty((3, 0, 0), np.uint8))
