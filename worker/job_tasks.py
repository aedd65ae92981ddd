"""Does the jobs of each lane: text, probe, video."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing

import msgspec
import numpy as np
import structlog

from shared.chunks import SECOND, Chunk
from shared.errors import RtEmbedError
from shared.jobs import Claim, LiveJob, ProbeJob, TextJob, VideoJob
from shared.redis.redis_clock import RedisClock
from shared.requests import failed
from shared.results import Facts, Result
from worker.batcher import Batcher, Embedded, milliseconds
from worker.live.session import LiveSessions
from worker.media.clip_source import Clip, LeftOut, Media
from worker.media.decoder.media_facts import MediaFacts
from worker.media.gpu.clip_slots import DeviceClip
from worker.models.directory import ModelInfo
from worker.models.embedding_engine import Clips
from worker.publish.publisher import Publisher
from worker.worker_metrics import observe_chunk, observe_texts

log = structlog.get_logger(__name__)


class RequestEnded(Exception):
    """The request has ended, so the rest of its job is dropped."""


class Tasks:
    """Does claimed jobs. Each method returns when every result of the job is stored."""

    def __init__(
        self,
        *,
        media: Media,
        model: ModelInfo,
        texts: Batcher[str],
        clips: Batcher[Clip],
        publisher: Publisher,
        clock: RedisClock,
        clips_ahead: int,
        live: LiveSessions,
    ) -> None:
        self._media = media
        self._model = model
        self._texts = texts
        self._clips = clips
        self._publisher = publisher
        self._clock = clock
        self._clips_ahead = clips_ahead
        self._live = live

    async def run(self, claim: Claim) -> None:
        """Do a job of any kind. A failure of the job itself ends its request."""
        match claim.job:
            case TextJob() as job:
                await self.text(claim, job)
            case ProbeJob() as job:
                await self.probe(job)
            case VideoJob() as job:
                await self.video(claim, job)
            case LiveJob() as job:
                await self._live.run(claim, job)

    async def stand_by(self, claim: Claim) -> bool:
        """Return whether another worker has handed over its live session; `run` then continues it."""
        return await self._live.stand_by(claim)

    async def text(self, claim: Claim, job: TextJob) -> None:
        """Embed the texts of one request, all or none."""
        try:
            embedded = await asyncio.gather(*map(self._texts.embed, job.texts))
        except RtEmbedError as error:
            log.error("text embedding failed", texts=len(job.texts), error=error.message)
            code = "TextEmbeddingsError" if error.status == 500 else error.code
            end = failed(f"Failed to generate text embeddings: {error.message}", code, error.status)
            await self._publisher.fail(job, end)
            return
        results = [
            Result(
                chunk=index,
                vector=item.vector.tobytes(),
                inference_latency_ms=milliseconds(item.start, item.end),
                queue_time_s=self._clock.since(claim.enqueued_ms, item.start),
            )
            for index, item in enumerate(embedded)
        ]
        await self._publisher.publish(job, results)
        observe_texts(embedded, self._model)

    async def probe(self, job: ProbeJob) -> None:
        """Open a file and answer with its facts, or with the error that says why it is unusable."""
        try:
            is_file = job.asset.kind == "file"
            facts = await (self._media.probe(job.asset.path) if is_file else self._live.probe(job.asset))
        except RtEmbedError as error:
            log.info("file refused", asset=job.asset.id, error=error.message)
            await self._publisher.fail(job, failed(error.message, error.code, error.status))
            return
        answer = msgspec.json.encode(_facts(facts)).decode()
        await self._publisher.publish(job, [Result(chunk=0, facts=answer)])

    async def video(self, claim: Claim, job: VideoJob) -> None:
        """Decode and embed the job's chunks; publish results as they are ready.

        A failed chunk ends the request. If the request has ended, the job ends.
        """
        chunks = await self._wanted(claim, job)
        try:
            await self._embed_chunks(claim, job, chunks)
        except ExceptionGroup as group:
            error = group.exceptions[0]
            if isinstance(error, RequestEnded):
                log.info("rest of the job dropped, its request has ended")
            else:
                raise error from group

    async def _embed_chunks(self, claim: Claim, job: VideoJob, chunks: list[Chunk]) -> None:
        """Decode ahead of the engine by a bounded number of clips."""
        room = asyncio.Semaphore(self._clips_ahead)
        left = deque(chunks)
        with ExitStack() as held:
            async with asyncio.TaskGroup() as group, aclosing(self._decode(job, chunks)) as clips:
                try:
                    async for clip in clips:
                        left.popleft()
                        if isinstance(clip, LeftOut):
                            await self._leave_out(job, clip)
                            continue
                        held.callback(clip.release)  # for clips that never reach the engine
                        await room.acquire()
                        group.create_task(self._embed_clip(claim, job, clip, room))
                except RtEmbedError as error:
                    await self._fail_chunk(job, left[0], error)

    async def _wanted(self, claim: Claim, job: VideoJob) -> list[Chunk]:
        if await self._publisher.state(job) != "running":
            return []
        done = await self._publisher.chunks_done(job) if claim.deliveries > 1 else set()
        return [chunk for chunk in job.chunks if chunk.index not in done]

    async def _decode(self, job: VideoJob, chunks: Sequence[Chunk]) -> AsyncGenerator[Clip | LeftOut, None]:
        if not chunks:
            return
        paths = [asset.path for asset in job.assets]
        if job.assets[0].media_type == "image":
            yield await self._media.images(paths, self._model.resolution, thumbnails=job.thumbnails)
            return
        decoding = self._media.clips(
            paths[0],
            chunks,
            self._model.frames,
            self._model.resolution,
            joined=job.assets[0].joined,
            skip=job.on_error == "skip",
            thumbnails=job.thumbnails,
        )
        async with aclosing(decoding) as clips:
            async for clip in clips:
                yield clip

    async def _embed_clip(self, claim: Claim, job: VideoJob, clip: Clip, room: asyncio.Semaphore) -> None:
        clip.asset, clip.path = job.assets[0].id, job.assets[0].path
        try:
            embedded = await self._clips.embed(clip)
        except RtEmbedError as error:
            await self._fail_chunk(job, clip.chunk, error)
            raise RequestEnded from error
        finally:
            clip.release()
            room.release()
        observe_chunk(clip, embedded, job.assets[0].id, self._model)
        state = await self._publisher.publish(job, [self._result(claim, clip, embedded)])
        log.debug("chunk done", chunk=clip.chunk.index, state=state)
        if state not in ("running", "done"):
            raise RequestEnded

    async def _fail_chunk(self, job: VideoJob, chunk: Chunk, error: RtEmbedError) -> None:
        log.error("chunk failed", chunk=chunk.index, asset=job.assets[0].id, error=error.message)
        result = Result(chunk=chunk.index, start=chunk.start, end=chunk.end, error=error.message)
        end = failed(f"Failed to generate video embeddings: chunk {chunk.index}: {error.message}")
        await self._publisher.publish(job, [result], end)

    async def _leave_out(self, job: VideoJob, left_out: LeftOut) -> None:
        """Report a chunk without a clip; the request goes on."""
        chunk, reason = left_out.chunk, left_out.reason
        log.warning("chunk left out", chunk=chunk.index, asset=job.assets[0].id, reason=reason)
        event = (
            f"Chunk {chunk.index} ({chunk.start / SECOND:g} s to {chunk.end / SECOND:g} s) left out: {reason}"
        )
        result = Result(chunk=chunk.index, start=chunk.start, end=chunk.end, error=event)
        if await self._publisher.publish(job, [result]) not in ("running", "done"):
            raise RequestEnded

    def _result(self, claim: Claim, clip: Clip, embedded: Embedded) -> Result:
        return Result(
            chunk=clip.chunk.index,
            start=clip.chunk.start,
            end=clip.chunk.end,
            vector=embedded.vector.tobytes(),
            frame_times=_frame_times(clip),
            thumbnail=clip.thumbnail,
            decode_started=self._clock.at(clip.decode_start),
            decode_latency_ms=milliseconds(clip.decode_start, clip.decode_end),
            inference_latency_ms=milliseconds(embedded.start, embedded.end),
            chunk_latency_ms=milliseconds(clip.decode_start, embedded.end),
            queue_time_s=self._clock.since(claim.enqueued_ms, clip.decode_start),
            processing_latency_s=round(embedded.end - clip.decode_start, 3),
        )


def stack_clips(clips: Sequence[Clip], frames: int) -> Clips:
    """Return uint8 [len(clips), frames, 3, size, size], on the GPU if one of the clips is there. A single
    full clip, and adjacent full clips on the GPU, are passed on without a copy."""
    on_gpu = next((clip for clip in clips if isinstance(clip, DeviceClip)), None)
    if on_gpu is not None:
        stacked: Clips = on_gpu.slots.stack(clips, frames)
        return stacked
    if len(clips) == 1 and len(clips[0].frames) == frames:
        return clips[0].frames[None]
    batch = np.empty((len(clips), frames, *clips[0].frames.shape[1:]), np.uint8)
    for slot, clip in zip(batch, clips, strict=True):
        count = len(clip.frames)
        slot[:count] = clip.frames
        slot[count:] = clip.frames[-1]
    return batch


def _frame_times(clip: Clip) -> list[int]:
    """Return when the clip's frames were presented. A repeated frame counts once; images, whose chunk has no
    length, are all at 0."""
    has_length = clip.chunk.end > clip.chunk.start
    return list(dict.fromkeys(clip.times)) if has_length else clip.times


def _facts(facts: MediaFacts) -> Facts:
    return Facts(
        kind=facts.kind,
        codec=facts.codec,
        width=facts.width,
        height=facts.height,
        duration=facts.duration,
        frame_rate=str(facts.frame_rate or ""),
        last_frames=facts.last_frames,
        joined=facts.joined,
    )
