"""Decoder processes and the memory that they share with their worker."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from worker.media.decoder_client import SharedMemory


def test_shared_memory_is_never_made_smaller() -> None:
    """The worker would die of SIGBUS where it reads what is gone."""
    memory = SharedMemory()
    memory.take(1 << 20)
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 0)
    memory.array(0, (1 << 20,))[:] = 1
    memory.close()


def test_decoders_die_with_their_worker(film: Callable[[str], Path]) -> None:
    """Even with one that is killed."""
    code = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from shared.chunks import Chunk
        from worker.media.decoder_pool import DecoderPool

        async def main():
            pool = DecoderPool(2)
            await pool.start()
            clips = pool.clips(Path(sys.argv[1]), [Chunk(0, 0, 10**9), Chunk(1, 10**9, 2 * 10**9)], 8, 64)
            await anext(clips)
            print(*[slot.process.pid for slot in (*pool._slots, *pool._probers)], flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
    """)
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(film("h264-open"))], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    line = next(line for line in worker.stdout if line.strip().replace(" ", "").isdigit())
    decoders = [psutil.Process(int(pid)) for pid in line.split()]
    worker.kill()
    worker.wait()
    worker.stdout.close()
    _, alive = psutil.wait_procs(decoders, timeout=20)
    assert not alive
