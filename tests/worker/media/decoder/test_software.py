"""Decoding on the CPU. (What comes out of it is compared in test_equality.)"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

LEFT_EARLY = """
import contextlib, random, sys
import av
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.software import LostFrames, SoftwareDecoder

stream = (container := av.open(sys.argv[1])).streams.video[0]
packets = [bytes(packet) for packet in container.demux(stream) if packet.size][:20]
rng = random.Random(1)

def damaged():
    for packet in map(bytearray, packets):
        for _ in range(8):
            packet[rng.randrange(8, len(packet))] ^= 255
        yield av.Packet(bytes(packet))

for _ in range(100):
    context = av.CodecContext.create(stream.codec_context.name, "r")
    context.extradata = stream.codec_context.extradata
    decoder = SoftwareDecoder(context, MediaLimits(), threads=2)
    frames = decoder.decode(damaged())
    with contextlib.suppress(LostFrames):
        next(frames, None)
    frames.close()
    del context, decoder
print("closed")
"""


def test_a_decoder_whose_threads_are_at_work_can_be_freed(film: Callable[[str], Path]) -> None:
    # Damaged packets make them log, and packets from Python must be freed: for both they wait for Python.
    command = [sys.executable, "-c", LEFT_EARLY, str(film("h264-gop30"))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("closed\n", 0), done.stderr
