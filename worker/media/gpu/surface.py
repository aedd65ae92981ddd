"""The memory layout of decoded pictures, as the kernel in `pixels.cu` gets it. No GPU is needed here."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from worker.media.decoder.pictures.swscale import BT601, BT709, BT2020, FCC, SMPTE240M
from worker.media.decoder.runs import FrameLook


class PixelFormat(Protocol):
    """A member of PyNvVideoCodec.Pixel_Format."""

    @property
    def name(self) -> str:
        """NV12 and so on."""


class PlaneView(Protocol):
    """One plane of a frame."""

    @property
    def shape(self) -> Sequence[int]:
        """Rows, columns, components."""


class Surface(Protocol):
    """A frame as PyNvVideoCodec gives it. Its planes lie one behind the other, without gaps; they are its
    decoder's, and hold something else after the next packet."""

    @property
    def format(self) -> PixelFormat:
        """How its samples are laid out."""

    def getPTS(self) -> int:  # noqa: N802 - NVIDIA's name
        """Return the time that its packet was given."""

    def GetPtrToPlane(self, index: int, /) -> int:  # noqa: N802 - NVIDIA's name
        """Return where a plane begins."""

    def cuda(self) -> Sequence[PlaneView]:
        """Return the planes."""


class SampleLayout(NamedTuple):
    """How the samples of a format lie: bytes of each, luma samples across and down to one of chroma, and
    whether U and V alternate in one plane."""

    sample_bytes: int
    across: int
    down: int
    alternating: bool


LAYOUTS = {
    "NV12": SampleLayout(1, 2, 2, True),
    "P016": SampleLayout(2, 2, 2, True),
    "NV16": SampleLayout(1, 2, 1, True),
    "P216": SampleLayout(2, 2, 1, True),
    "YUV444": SampleLayout(1, 1, 1, False),
    "YUV444_16Bit": SampleLayout(2, 1, 1, False),
}  # fmt: skip

# Kr and Kb (ITU-T H.273, table 4), by libswscale's numbers.
PRIMARIES = {
    BT709: (0.2126, 0.0722),
    BT601: (0.299, 0.114),
    BT2020: (0.2627, 0.0593),
    SMPTE240M: (0.212, 0.087),
    FCC: (0.30, 0.11),
}


class Picture(NamedTuple):
    """A decoded picture: where its planes begin, sizes in samples, strides in bytes. As `Picture` in
    pixels.h."""

    luma: int
    u: int
    v: int
    width: int
    height: int
    stride: int
    chroma_width: int
    chroma_height: int
    chroma_stride: int
    step: int
    sample_bytes: int


class Coefficients(NamedTuple):
    """From YUV to RGB in levels of 8 bits, as `Matrix` in pixels.h."""

    black: float
    y: float
    rv: float
    gu: float
    gv: float
    bu: float


def picture(surface: Surface) -> Picture:
    """Return where the samples of a surface are. Raises KeyError for a format that NVDEC does not write."""
    layout = LAYOUTS[surface.format.name]
    height, width = surface.cuda()[0].shape[:2]
    chroma_width, chroma_height = -(-width // layout.across), -(-height // layout.down)
    stride = width * layout.sample_bytes
    luma = surface.GetPtrToPlane(0)
    u = luma + stride * height
    if layout.alternating:
        v, step, chroma_stride = u + layout.sample_bytes, 2, 2 * chroma_width * layout.sample_bytes
    else:
        v, step, chroma_stride = u + stride * height, 1, stride
    return Picture(
        luma,
        u,
        v,
        width,
        height,
        stride,
        chroma_width,
        chroma_height,
        chroma_stride,
        step,
        layout.sample_bytes,
    )


def coefficients(look: FrameLook) -> Coefficients:
    """Return the colours of these frames (ITU-T H.273, 8.3)."""
    kr, kb = PRIMARIES[look.matrix]
    kg = 1 - kr - kb
    luma, chroma = (1.0, 1.0) if look.full_range else (255 / 219, 255 / 224)
    return Coefficients(
        black=0.0 if look.full_range else 16.0,
        y=luma,
        rv=2 * (1 - kr) * chroma,
        gu=-2 * (1 - kb) * kb / kg * chroma,
        gv=-2 * (1 - kr) * kr / kg * chroma,
        bu=2 * (1 - kb) * chroma,
    )
