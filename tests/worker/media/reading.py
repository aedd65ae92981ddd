"""Reading films without processes: by our reader, and by FFmpeg decoding everything from the start."""

import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from shared.chunks import SECOND, Chunk
from worker.media.clip_source import Clip, LeftOut
from worker.media.decoder.container.demux import VideoSource
from worker.media.decoder.decoder_messages import (
    ClipDone,
    Decode,
    DecodeCounts,
    Empty,
    Setup,
    Spare,
)
from worker.media.decoder.film_facts import video_facts
from worker.media.decoder.limits import MediaLimits
from worker.media.decoder.media_facts import MediaFacts
from worker.media.decoder.memory import Arena, ClipMemory
from worker.media.decoder.pictures.orientation import orientation, turn
from worker.media.decoder.pictures.swscale import Scaler
from worker.media.decoder.reader import Reader

SIZE = 128
Picture = NDArray[np.uint8]
Frames = list[tuple[int, Picture]]
"""Frames with their times in ns from the start of the file."""


def setup(*, sparse: bool = True, lanes: int = 2, **limits: Any) -> Setup:
    """What a decoder process is told."""
    return Setup(limits=MediaLimits(**limits), lanes=lanes, sparse=sparse, reuse=True)


def facts_of(path: Path, limits: MediaLimits | None = None) -> MediaFacts:
    """What a probe says of a film. Raises InvalidFile."""
    source = VideoSource(str(path), limits or MediaLimits())
    try:
        return video_facts(source, limits or MediaLimits())
    finally:
        source.close()


def read(
    reader: Reader, path: Path, chunks: Sequence[Chunk], frames: int, *, joined: bool = False
) -> tuple[list[Frames], DecodeCounts]:
    """The chunks' frames by our reader, none for a chunk that is left out. Raises what it raises."""
    shape = (frames, 3, SIZE, SIZE)
    each = frames * 3 * SIZE * SIZE
    arena = each * len(chunks)
    fd = os.memfd_create("test")
    os.ftruncate(fd, arena)
    memory, counts = Arena(fd), DecodeCounts()
    clips: list[Frames] = []

    def take(done: ClipDone | Empty | Spare) -> None:
        if isinstance(done, Spare):
            return
        if isinstance(done, Empty):
            assert done.position == len(clips)
            clips.append([])
            return
        pictures = memory.region(arena, done.offset, shape)
        clips.append([(when, pictures[i].copy()) for i, when in enumerate(done.times)])

    offsets = [each * position for position in range(len(chunks))]
    lanes = reader._setup.lanes
    job = Decode(str(path), list(chunks), frames, SIZE, lanes, lanes, arena, offsets, joined)
    try:
        reader.run(job, ClipMemory(lambda at: memory.region(arena, at, shape), offsets), take, counts)
    finally:
        os.close(fd)
    return clips, counts


def decode_everything(path: Path) -> Frames:
    """Every frame of the file as FFmpeg gives them from the first packet on, scaled as ours are."""
    clock = VideoSource(str(path), MediaLimits())
    scaler, frames = Scaler(), []
    with av.open(str(path)) as container:
        stream = container.streams.video[clock.stream.index]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.InvalidDataError):
                for frame in stream.codec_context.decode(packet if packet.size else None):
                    if frame.pts is not None:
                        out = np.empty((3, SIZE, SIZE), np.uint8)
                        scaler.scale(frame, out)
                        turn(out, orientation(frame))
                        frames.append((clock.time(frame.pts), out))
    scaler.close()
    clock.close()
    return frames


def pick(frames: Frames, chunk: Chunk, count: int) -> Frames:
    """The chunk's frames by the rule itself, step by step: the nearest target decides, the end cuts off."""
    targets = [chunk.start + i * (chunk.end - chunk.start) // count for i in range(count)]
    picked = []
    for when, picture in frames:
        if targets and targets[0] <= when <= chunk.end:
            picked.append((when, picture))
        if when >= chunk.end:
            targets = []
        targets = [target for target in targets if target > when]
    return picked


def same(ours: Sequence[Frames], theirs: Sequence[Frames]) -> bool:
    """Whether both have the same frames at the same times, bit for bit."""
    times = [[when for when, _ in clip] for clip in ours]
    assert times == [[when for when, _ in clip] for clip in theirs]
    return all(
        np.array_equal(mine, other)
        for mine_clip, other_clip in zip(ours, theirs, strict=True)
        for (_, mine), (_, other) in zip(mine_clip, other_clip, strict=True)
    )


def shown(frames: Frames, chunk: Chunk, count: int, end: int) -> Frames:
    """The chunk's frames by the rule for films, target by target: as `pick`, but where a frame stands still,
    it is what a target shows. The film ends at `end`."""
    step = max(SECOND // 2, (chunk.end - chunk.start) // count)
    chosen: Frames = []
    for index in range(count):
        target = chunk.start + index * (chunk.end - chunk.start) // count
        before = next((frame for frame in reversed(frames) if frame[0] < target), None)
        after = next((frame for frame in frames if frame[0] >= target), None)
        here = after is not None and after[0] == target
        still = (after[0] if after else end) - (before[0] if before else 0) > step
        if still and not here:
            on_screen = before or after
            if on_screen and on_screen[0] <= chunk.end and (after or target < end):
                chosen.append(on_screen)
        elif after and after[0] <= chunk.end and not (chosen and chosen[-1][0] == after[0]):
            chosen.append(after)
    earlier = [frame for frame in frames if frame[0] < chunk.start]
    return chosen or earlier[-1:]


def end_of(path: Path) -> int:
    """Until when (ns) the last frame is shown, as far as the file says."""
    source = VideoSource(str(path), MediaLimits())
    try:
        last = source.last_frame()
        for packet in source.packets():
            last.add(packet)
        return source.time(last.end)
    finally:
        source.close()


async def whole(clips: AsyncGenerator[Clip | LeftOut, None]) -> AsyncGenerator[Clip, None]:
    """The clips of a job that leaves no chunk out."""
    async with aclosing(clips):
        async for clip in clips:
            assert isinstance(clip, Clip)
            yield clip
