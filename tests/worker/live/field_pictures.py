"""H.264 whose pictures are single fields (PAFF), which no encoder at hand makes: grey, 32x32 pixels."""

from collections.abc import Iterator
from typing import NamedTuple

SIZE = 32
FRAME_BITS = 4


class Field(NamedTuple):
    """One field: the number of its frame, and its NAL units."""

    frame: int
    nals: list[bytes]


class _Bits:
    def __init__(self) -> None:
        self._text = ""

    def u(self, count: int, value: int) -> "_Bits":
        """A number of so many bits."""
        self._text += format(value, f"0{count}b") if count else ""
        return self

    def ue(self, *values: int) -> "_Bits":
        """Exp-Golomb codes (ITU-T H.264, 9.1)."""
        for value in values:
            digits = format(value + 1, "b")
            self._text += "0" * (len(digits) - 1) + digits
        return self

    def raw(self, data: bytes) -> "_Bits":
        """Bytes, from the next whole one on."""
        self._text += "0" * (-len(self._text) % 8)
        self._text += "".join(format(byte, "08b") for byte in data)
        return self

    def nal(self, head: int) -> bytes:
        """The NAL unit, with its trailing bits and emulation prevention."""
        text = self._text + "1"
        text += "0" * (-len(text) % 8)
        data, out, zeros = int(text, 2).to_bytes(len(text) // 8, "big"), bytearray([head]), 0
        for byte in data:
            if zeros >= 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes(out)


def parameter_sets() -> list[bytes]:
    """Main profile, two macroblocks wide, one in each field high (7.3.2.1.1, 7.3.2.2)."""
    sps = (
        _Bits()
        .u(8, 77)
        .u(8, 0)
        .u(8, 30)
        .ue(0, FRAME_BITS - 4, 2, 1)
        .u(1, 0)
        .ue(SIZE // 16 - 1, SIZE // 32 - 1)
    )
    sps.u(1, 0).u(1, 0).u(1, 1).u(1, 0).u(1, 0)
    pps = _Bits().ue(0, 0).u(1, 0).u(1, 0).ue(0, 0, 0).u(1, 0).u(2, 0).ue(0, 0, 0).u(1, 1).u(1, 0).u(1, 0)
    return [sps.nal(0x67), pps.nal(0x68)]


def intra_field(frame: int, grey: int, *, bottom: bool, idr: int) -> bytes:
    """A slice of I_PCM macroblocks; of an IDR picture with the number `idr` for the top field."""
    bits = _Bits().ue(0, 7, 0).u(FRAME_BITS, frame % 16).u(1, 1).u(1, bottom)
    if not bottom:
        bits.ue(idr).u(2, 0)
    else:
        bits.u(1, 0)
    bits.ue(0, 1)
    for _ in range(SIZE // 16):
        bits.ue(25).raw(bytes([grey]) * 256 + bytes([128]) * 128)
    return bits.nal(0x61 if bottom else 0x65)


def copied_field(frame: int, *, bottom: bool) -> bytes:
    """A slice of skipped macroblocks, each as in the field of the same parity before."""
    bits = _Bits().ue(0, 5, 0).u(FRAME_BITS, frame % 16).u(1, 1).u(1, bottom).u(1, 0).u(1, 0).u(1, 0)
    return bits.ue(0, 1, SIZE // 16).nal(0x61)


def fields(frames: int, gop: int = 10) -> Iterator[Field]:
    """The fields of a stream whose brightness changes with every key frame."""
    for number in range(frames):
        index = number % gop
        if index == 0:
            grey = 40 + number % 160
            top = intra_field(0, grey, bottom=False, idr=number // gop % 2)
            yield Field(number, [*parameter_sets(), top])
            yield Field(number, [intra_field(0, grey, bottom=True, idr=0)])
        else:
            yield Field(number, [copied_field(index, bottom=False)])
            yield Field(number, [copied_field(index, bottom=True)])
