"""The part of PyNvVideoCodec that the worker uses, as its docstrings tell of it."""

from enum import Enum
from typing import ClassVar

class PyNvVCException(Exception): ...
class PyNvVCExceptionUnsupported(Exception): ...

class cudaVideoCodec:
    __members__: ClassVar[dict[str, cudaVideoCodec]]
    @property
    def name(self) -> str: ...

class cudaVideoChromaFormat:
    __members__: ClassVar[dict[str, cudaVideoChromaFormat]]
    @property
    def name(self) -> str: ...

class Pixel_Format:
    @property
    def name(self) -> str: ...

class DisplayDecodeLatencyType(Enum):
    NATIVE = 0
    LOW = 1
    ZERO = 2

class VideoPacketFlag(Enum):
    ENDOFPICTURE = 8

class PacketData:
    bsl: int
    bsl_data: int
    pts: int
    decode_flag: int | VideoPacketFlag

class CAIMemoryView:
    @property
    def shape(self) -> list[int]: ...

class DecodedFrame:
    @property
    def format(self) -> Pixel_Format: ...
    def getPTS(self) -> int: ...
    def GetPtrToPlane(self, index: int, /) -> int: ...
    def cuda(self) -> list[CAIMemoryView]: ...

class PyNvDecoder:
    def Decode(self, packet: PacketData, /) -> list[DecodedFrame]: ...
    def setReconfigParams(self, width: int = 0, height: int = 0) -> int: ...

def CreateDecoder(
    gpuid: int = 0,
    codec: cudaVideoCodec = ...,
    cudacontext: int = 0,
    cudastream: int = 0,
    usedevicememory: bool = False,
    maxwidth: int = 0,
    maxheight: int = 0,
    latency: DisplayDecodeLatencyType = ...,
) -> PyNvDecoder: ...
def GetDecoderCaps(
    gpuid: int = 0,
    codec: cudaVideoCodec = ...,
    chromaformat: cudaVideoChromaFormat = ...,
    bitdepth: int = 8,
) -> dict[str, int]: ...
