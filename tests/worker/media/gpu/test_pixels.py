"""The kernel that draws clips on the GPU: its arithmetic on the CPU, and its compilation for GPUs."""

import ctypes
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.worker.media.kernel import HostSurface, Kernel
from tests.worker.media.recorder import planes_of
from worker.media.decoder.pictures.orientation import EXIF, Turn, turn
from worker.media.decoder.pictures.swscale import Scaler, _library
from worker.media.decoder.runs import FrameLook, frame_look
from worker.media.gpu.surface import LAYOUTS, PRIMARIES, Coefficients, Picture, coefficients, picture

FORMATS = {
    "yuv420p": "NV12", "yuv420p10le": "P016", "yuv420p12le": "P016", "yuv422p": "NV16", "yuv422p10le": "P216",
    "yuv444p": "YUV444", "yuv444p10le": "YUV444_16Bit", "yuv444p12le": "YUV444_16Bit",
}  # fmt: skip
PICTURES = ["astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png"]
ARCHITECTURES = ["sm_80", "sm_89", "sm_90", "sm_100", "sm_120"]


def surface_of(frame: av.VideoFrame) -> HostSurface:
    return HostSurface(FORMATS[frame.format.name], planes_of(frame))


def drawn(kernel: Kernel, frame: av.VideoFrame, size: int) -> NDArray[np.int64]:
    out, surface = np.empty((3, size, size), np.uint8), surface_of(frame)
    kernel.draw(picture(surface), coefficients(frame_look("h264", frame)), out)
    return out.astype(np.int64)


def scaled(frame: av.VideoFrame, size: int) -> NDArray[np.int64]:
    scaler, out = Scaler(), np.empty((3, size, size), np.uint8)
    scaler.scale(frame, out)
    scaler.close()
    return out.astype(np.int64)


@pytest.fixture(scope="module")
def photographs() -> dict[str, av.VideoFrame]:
    """Real pictures, among them odd sizes, as RGB frames."""
    found = {}
    for name in PICTURES:
        path = Path(pytest.importorskip("skimage").__file__).parent / "data" / name
        if not path.exists():  # some come with the wheel, others are fetched
            continue
        with av.open(str(path)) as container:
            pixels = next(container.decode(video=0)).to_ndarray(format="rgb24")
        found[name] = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    assert len(found) >= 3
    return found


@pytest.mark.parametrize("pixels", FORMATS)
@pytest.mark.parametrize("size", [128, 224, 448])
def test_real_pictures_come_out_as_from_libswscale(
    pixels: str, size: int, kernel: Kernel, photographs: dict[str, av.VideoFrame]
) -> None:
    for name, photograph in photographs.items():
        frame = photograph.reformat(format=pixels)
        frame.colorspace, frame.color_range = 1, 1
        difference = np.abs(drawn(kernel, frame, size) - scaled(frame, size))
        assert difference.max() <= 1, name
        assert (difference == 0).mean() > 0.97, name


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (640, 360), (176, 144), (499, 281), (100, 300)])
@pytest.mark.parametrize("colours", [(1, 1), (1, 2), (6, 1), (6, 2), (9, 1), (2, 0)])
def test_real_pictures_of_any_shape_and_colours_do(
    width: int,
    height: int,
    colours: tuple[int, int],
    kernel: Kernel,
    photographs: dict[str, av.VideoFrame],
) -> None:
    """Enlarged and shrunk, odd sizes, all matrices and ranges, also unstated ones."""
    for pixels in ("yuv420p", "yuv420p10le", "yuv444p"):
        frame = photographs["coffee.png"].reformat(width, height, pixels)
        frame.colorspace, frame.color_range = colours
        difference = np.abs(drawn(kernel, frame, 224) - scaled(frame, 224))
        assert difference.max() <= 1
        assert (difference == 0).mean() > 0.97


def weights(length: int, size: int) -> NDArray[np.float64]:
    """float64 [size, length]: what each sample of a line of `length` contributes to each of `size` pixels.

    A triangle of the width of a target pixel, centred by steps of 1/65536 sample, its first tap found by a
    division that rounds towards 0: this is what libswscale does. Beyond the edges the last sample counts.
    """
    pace = ((length << 16) + size // 2) // size
    reach = max(1.0, length / size)
    taps = 1 + (2 * length + size - 1) // size if length > size else 3
    matrix = np.zeros((size, length))
    for at in range(size):
        centre = ((2 * at + 1) * pace - 65536) / 131072
        first = int(centre - (taps - 2) / 2)
        for tap in range(first, first + taps + 2):
            matrix[at, min(max(tap, 0), length - 1)] += max(0.0, 1 - abs(tap - centre) / reach)
    weights: NDArray[np.float64] = matrix / matrix.sum(axis=1, keepdims=True)
    return weights


def reference(
    planes: list[NDArray[np.float64]], size: int, primaries: tuple[float, float], full: bool
) -> NDArray[np.float64]:
    """float64 [3, size, size] of samples in levels of 8 bits (ITU-T H.273, 8.3)."""
    y, u, v = (weights(plane.shape[0], size) @ plane @ weights(plane.shape[1], size).T for plane in planes)
    kr, kb = primaries
    y = y / 255 if full else (y - 16) / 219
    u, v = ((plane - 128) / (255 if full else 224) for plane in (u, v))
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue]) * 255, 0, 255)


@st.composite
def random_pictures(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "name": draw(st.sampled_from(sorted(LAYOUTS))),
        "width": draw(st.integers(1, 300)),
        "height": draw(st.integers(1, 300)),
        "size": draw(st.integers(1, 96)),
        "padding": draw(st.integers(0, 40)) * 2,
        "matrix": draw(st.sampled_from(sorted(PRIMARIES))),
        "full": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**32)),
    }


def test_noise_comes_out_as_calculated(kernel: Kernel) -> None:
    """Any size and stride, every format, matrix and range, within rounding of float64."""

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(random_pictures())
    def check(case: dict[str, Any]) -> None:
        layout, size = LAYOUTS[case["name"]], case["size"]
        rng = np.random.default_rng(case["seed"])
        dtype = np.uint8 if layout.sample_bytes == 1 else np.uint16
        chroma = (-(-case["height"] // layout.down), -(-case["width"] // layout.across))
        shapes = [(case["height"], case["width"]), chroma, chroma]
        planes = [rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True) for shape in shapes]
        source, _kept = strided(planes, layout.alternating, case["padding"])
        look = FrameLook("h264", "", 0, 0, case["matrix"], case["full"], Turn(1, 0, 0, 1))
        out = np.empty((3, size, size), np.uint8)
        kernel.draw(source, coefficients(look), out)
        levels = [plane / (1 if layout.sample_bytes == 1 else 256) for plane in planes]
        expected = reference(levels, size, PRIMARIES[case["matrix"]], case["full"])
        assert np.abs(out - expected).max() <= 0.51

    check()


def strided(
    planes: list[NDArray[Any]], alternating: bool, padding: int
) -> tuple[Picture, list[NDArray[Any]]]:
    """The planes with `padding` bytes of something else behind each row; keep what else is returned."""

    def padded(plane: NDArray[Any]) -> NDArray[np.uint8]:
        rows = np.ascontiguousarray(plane).reshape(len(plane), -1).view(np.uint8)
        return np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5)

    luma, u, v = planes
    bytes_each = luma.itemsize
    kept = [padded(luma)]
    kept += [padded(np.stack([u, v], axis=-1))] if alternating else [padded(u), padded(v)]
    u_at = kept[1].ctypes.data
    v_at = u_at + bytes_each if alternating else kept[2].ctypes.data
    source = Picture(
        kept[0].ctypes.data, u_at, v_at, luma.shape[1], luma.shape[0], kept[0].shape[1],
        u.shape[1], u.shape[0], kept[1].shape[1], 2 if alternating else 1, bytes_each,
    )  # fmt: skip
    return source, kept


@pytest.mark.parametrize("how", EXIF.values())
def test_pictures_are_turned_as_the_cpu_turns_them(how: Turn, kernel: Kernel) -> None:
    rng = np.random.default_rng(3)
    frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (90, 70, 3), np.uint8), format="rgb24")
    frame = frame.reformat(format="yuv420p")
    source = surface_of(frame)
    colours = coefficients(frame_look("h264", frame))
    upright, turned = np.empty((2, 3, 41, 41), np.uint8)
    kernel.draw(picture(source), colours, upright)
    kernel.draw(picture(source), colours, turned, how)
    turn(upright, how)
    assert np.array_equal(turned, upright)


def test_nothing_is_written_outside(kernel: Kernel) -> None:
    frame = av.VideoFrame(320, 240, "yuv420p")
    source = surface_of(frame)
    for size in (1, 7, 64, 100):
        memory = np.full(3 * size * size + 200, 0xA5, np.uint8)
        kernel.draw(
            picture(source),
            coefficients(frame_look("h264", frame)),
            memory[100:-100].reshape(3, size, size),
        )
        assert np.all(memory[:100] == 0xA5)
        assert np.all(memory[-100:] == 0xA5)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(("width", "height"), [(64, 48), (65, 49)])
def test_the_planes_of_a_surface_are_found(name: str, width: int, height: int) -> None:
    """They lie one behind the other; where samples of U and V alternate, V begins one sample after U."""
    layout = LAYOUTS[name]
    dtype = np.uint8 if layout.sample_bytes == 1 else np.uint16
    chroma = (-(-height // layout.down), -(-width // layout.across))
    luma = np.full((height, width), 1, dtype)
    surface = HostSurface(name, [luma, np.full(chroma, 2, dtype), np.full(chroma, 3, dtype)])
    source = picture(surface)
    assert (source.width, source.height) == (width, height)
    assert (source.chroma_height, source.chroma_width) == chroma
    for at, stride, columns, step, rows, value in (
        (source.luma, source.stride, width, 1, height, 1),
        (source.u, source.chroma_stride, chroma[1], source.step, chroma[0], 2),
        (source.v, source.chroma_stride, chroma[1], source.step, chroma[0], 3),
    ):
        for row, column in product(range(rows), range(columns)):
            where = at + row * stride + column * step * layout.sample_bytes
            assert int.from_bytes(ctypes.string_at(where, layout.sample_bytes), "little") == value


@pytest.mark.parametrize("matrix", PRIMARIES)
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_those_of_libswscale(matrix: int, full: bool) -> None:
    look = FrameLook("h264", "yuv420p", 64, 64, matrix, full, Turn(1, 0, 0, 1))
    ours = coefficients(look)
    table = np.array(list(_library().sws_getCoefficients(matrix).contents)) / 65536
    if full:
        table = table * 224 / 255
    assert np.allclose([ours.rv, ours.bu, -ours.gu, -ours.gv], table, atol=2e-4)
    assert (ours.black, ours.y) == ((0, 1) if full else (16, pytest.approx(255 / 219)))


def test_an_unknown_layout_is_an_error() -> None:
    with pytest.raises(KeyError, match="RGBP"):
        picture(HostSurface("RGBP", [np.zeros((4, 4), np.uint8)] * 3))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernel_compiles_for_gpus(architecture: str) -> None:
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy is not installed")
    from worker.media.gpu.pixels import source

    try:
        program = nvrtc.createProgram(source(), "pixels.cu", (), ())
    except RuntimeError as error:
        pytest.skip(f"NVRTC is not installed: {error}")
    try:
        nvrtc.compileProgram(program, (f"-arch={architecture}", "-std=c++17"))
        cubin = nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    assert "warning" not in nvrtc.getProgramLog(program)  # NVRTC knows -Werror from 13.1 on only
    assert cubin[:4] == b"\x7fELF"
    assert b"draw_picture" in cubin


def test_the_kernel_is_told_what_the_header_expects() -> None:
    """The arguments of the kernel are the fields of the structures, in their order."""
    text = (Path(__file__).parents[4] / "worker" / "media" / "gpu" / "pixels.cu").read_text()
    arguments = text[text.index("draw_picture(") : text.index(") {")].split("(")[1].split(",")
    names = [argument.split()[-1].lstrip("*") for argument in arguments]
    assert tuple(names) == (*Picture._fields, *Coefficients._fields, *Turn._fields, "out", "size")
