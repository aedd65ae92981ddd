"""The asynchronous client: the same methods as `rt_embed.client.Client`, awaited."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, overload

import httpx

from rt_embed import flows, trigger_calls
from rt_embed.calls import Call, Flow, Retries, Wait, answered
from rt_embed.flows import Source
from rt_embed.following import EmbedOptions, EventReader, Following
from rt_embed.transport import connection_options, http_request
from rt_embed.trigger_calls import Matches
from rt_embed.types import (
    Bookmark,
    CameraStream,
    EmbeddedImage,
    MatchedChunk,
    ModelEntry,
    RequestState,
    SavedTrigger,
    SearchHit,
    StoredFile,
    StoredMedia,
    Vector,
    VideoChunk,
)
from rt_embed.upload_body import PIECE, UploadProgress

E = TypeVar("E")
T = TypeVar("T")


class AsyncChunkStream(AsyncIterator[VideoChunk]):
    """The chunks of one request as they are finished, which may differ from their order in time.

    Leaving it early (`aclose`, or the end of an `async with` block) closes the connection; the service
    goes on.
    """

    def __init__(
        self,
        following: Following,
        chunks: AsyncGenerator[VideoChunk, None],
        forget: Callable[[], Awaitable[None]],
    ) -> None:
        self._following = following
        self._chunks = chunks
        self._forget = forget

    @property
    def asset_id(self) -> str:
        """The id of the film or live stream, once the first chunk was asked for."""
        return self._following.asset_id

    @property
    def bookmark(self) -> Bookmark | None:
        """How far this has come: for `resume_from` of a later call with the same options."""
        return self._following.bookmark

    @property
    def request_id(self) -> str:
        """The id of the request, once there was an event."""
        return self._following.request_id

    @property
    def chunks_planned(self) -> int | None:
        """How many chunks the film has, once there was an event; None for a live stream."""
        return self._following.chunks_planned

    async def __anext__(self) -> VideoChunk:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Stop reading, and delete what was added for this request only."""
        await self._chunks.aclose()
        await self._forget()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class AsyncClient:
    """A client of one service, for asyncio. Close it, or use it in an `async with` block."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        headers: dict[str, str] | None = None,
    ) -> None:
        """`url` and `api_key` default to RTVI_BACKEND (else http://localhost:8000) and RTEMBED_API_KEY.

        `timeout` is in seconds, for every single wait; `retries` is how often a call is tried again when the
        service is away or busy.
        """
        self._http = httpx.AsyncClient(**connection_options(url, api_key, timeout, headers))
        self._retries = Retries(retries)
        self._model = ""
        self.files = AsyncFiles(self, self._retries)
        self.streams = AsyncStreams(self, self._retries)
        self.triggers = AsyncTriggers(self, self._retries)

    @property
    def url(self) -> str:
        """The address of the service."""
        return str(self._http.base_url).rstrip("/")

    # Embedding

    def embed_video(
        self,
        source: Source,
        *,
        chunk_duration: int = 0,
        chunk_overlap: int = 0,
        start: int | None = None,
        end: int | None = None,
        model: str | None = None,
        creation_time: str | datetime | None = None,
        sensor_name: str = "",
        thumbnails: bool = False,
        url_headers: dict[str, str] | None = None,
        keep: bool = True,
        progress: UploadProgress | None = None,
        resume_from: Bookmark | None = None,
    ) -> AsyncChunkStream:
        """Embed a film: a path, a URL, or the id of a file of the service. Yields its chunks.

        Durations are seconds; 0 makes the film one chunk. `start` and `end` choose a part of it. With
        `thumbnails` a chunk has a small JPEG of the frame in its middle. `keep=False` deletes an uploaded
        file afterwards. `progress` is called with the bytes sent and the total. A broken connection is made
        again, and no chunk comes twice. `resume_from` goes on after the `bookmark` of an earlier stream; its
        results are kept for an hour, then NotFoundError is raised.
        Raises ServiceError, ConnectionFailed or OSError.
        """
        options = EmbedOptions(
            chunk_duration=chunk_duration,
            chunk_overlap=chunk_overlap,
            start=start,
            end=end,
            creation_time=creation_time,
            sensor_name=sensor_name,
            thumbnails=thumbnails,
            url_headers=url_headers,
            keep=keep,
            progress=progress,
            resume_from=resume_from,
        )
        return self._follow(Following(source, options, self._retries), model)

    def live(
        self,
        stream: str,
        *,
        chunk_duration: int = 10,
        chunk_overlap: int = 0,
        model: str | None = None,
        thumbnails: bool = False,
        retries: int | None = None,
    ) -> AsyncChunkStream:
        """Embed a live stream: its id, or an rtsp:// URL, which is registered until the end.

        Yields its chunks. Reconnects without limit, or gives up after `retries` attempts without a chunk.
        """
        options = EmbedOptions(
            chunk_duration=chunk_duration, chunk_overlap=chunk_overlap, thumbnails=thumbnails, live=True
        )
        return self._follow(Following(stream, options, Retries(retries)), model)

    async def embed_texts(self, texts: Sequence[str], *, model: str | None = None) -> list[Vector]:
        """Return one vector per text, in their order."""
        return await self.run(flows.embed_texts(texts, await self._model_id(model), self._retries))

    @overload
    async def embed_images(
        self,
        images: Sequence[Source],
        *,
        model: str | None = None,
        concurrency: int = 4,
        thumbnails: Literal[False] = False,
    ) -> list[Vector]: ...

    @overload
    async def embed_images(
        self,
        images: Sequence[Source],
        *,
        model: str | None = None,
        concurrency: int = 4,
        thumbnails: Literal[True],
    ) -> list[EmbeddedImage]: ...

    async def embed_images(
        self,
        images: Sequence[Source],
        *,
        model: str | None = None,
        concurrency: int = 4,
        thumbnails: bool = False,
    ) -> list[Vector] | list[EmbeddedImage]:
        """Return one vector per picture (paths, URLs or ids), in their order; with `thumbnails`, records of a
        vector and a small JPEG."""
        wanted = await self._model_id(model)
        limit = asyncio.Semaphore(concurrency)

        async def embed(image: Source) -> EmbeddedImage:
            async with limit:
                return await self.run(flows.embed_image(image, wanted, self._retries, thumbnail=thumbnails))

        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(embed(image)) for image in images]
        embedded = [task.result() for task in made]
        return embedded if thumbnails else [image.vector for image in embedded]

    async def search(
        self,
        text: str | None = None,
        *,
        image: Source | None = None,
        vector: Sequence[float] | None = None,
        top_k: int = 10,
        **filters: Any,
    ) -> list[SearchHit]:
        """Return the chunks nearest to a sentence, a picture or a vector, best first.

        `filters` are those of `POST /v1/search`: assets, cameras, start_time, end_time,
        min_score, like, merge and so on.
        """
        query = flows.search_query(text, image, vector, {"top_k": top_k, **filters})
        return await self.run(flows.find_chunks(query, self._retries))

    # The service

    async def models(self) -> list[ModelEntry]:
        """Return the models that the service has loaded."""
        return await self.run(flows.list_models(self._retries))

    async def request(self, request_id: str) -> RequestState:
        """Return how far a request is."""
        return await self.run(flows.request_state(request_id, self._retries))

    async def call(self, method: str, path: str, json: Any = None, **params: str | int) -> Any:
        """Call any endpoint; return its decoded JSON, None for an empty answer."""
        return await self.run(flows.json_of(Call(method, path, json=json, params=params), self._retries))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # How flows are carried out

    async def run(self, flow: Flow[T]) -> T:
        """Carry out a flow of `rt_embed.flows`; return its result."""
        answer: httpx.Response | None = None
        error: httpx.TransportError | None = None
        while True:
            try:
                step = flow.throw(error) if error else flow.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            answer = error = None
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
                continue
            try:
                answer = await self._send(step)
            except httpx.TransportError as failed:
                error = failed

    async def _send(self, call: Call) -> httpx.Response:
        answer = await self._http.send(http_request(self._http, call), stream=call.stream)
        if call.stream and answer.is_error:
            await answer.aread()
        return answer

    async def _model_id(self, model: str | None) -> str:
        if model:
            return model
        if not self._model:
            self._model = (await self.models())[0].id
        return self._model

    def _follow(self, following: Following, model: str | None) -> AsyncChunkStream:
        return AsyncChunkStream(
            following, self._chunks(following, model), lambda: self.run(following.forget())
        )

    async def _chunks(self, following: Following, model: str | None) -> AsyncGenerator[VideoChunk, None]:
        opened = partial(following.open, await self._model_id(model))
        async with aclosing(self.read_events(following, opened)) as chunks:
            async for chunk in chunks:
                yield chunk
        await self.run(following.finish())

    async def read_events(
        self, reader: EventReader[E], opened: Callable[[], Flow[httpx.Response]]
    ) -> AsyncGenerator[E, None]:
        """Yield what `reader` makes of the events, over as many connections as it opens."""
        while not reader.ended:
            lost: httpx.TransportError | None = None
            async with aclosing(await self.run(opened())) as answer:
                try:
                    async for line in answer.aiter_lines():
                        for event in reader.feed(line):
                            yield event
                        if reader.ended:
                            break
                except httpx.TransportError as error:
                    lost = error
            if not reader.ended:
                await self.run(reader.lost(lost))


class AsyncFiles:
    """The files that the service keeps."""

    def __init__(self, client: AsyncClient, retries: Retries) -> None:
        self._client = client
        self._retries = retries

    async def upload(
        self,
        path: Source,
        *,
        media_type: str | None = None,
        creation_time: str | datetime | None = None,
        sensor_name: str = "",
        file_id: str | None = None,
        progress: UploadProgress | None = None,
    ) -> StoredFile:
        """Upload a file from the disk. `media_type` (video or image) is guessed from its name."""
        return await self._client.run(
            flows.upload_file(
                path,
                self._retries,
                media_type=media_type,
                creation_time=creation_time,
                sensor_name=sensor_name,
                file_id=file_id,
                progress=progress,
            )
        )

    async def list(self) -> "list[StoredFile]":
        """Return every file."""
        return await self._client.run(flows.list_files(self._retries))

    async def get(self, file_id: str) -> StoredFile:
        """Return what is known of a file."""
        return await self._client.run(flows.file_info(file_id, self._retries))

    async def media(self, file_id: str) -> StoredMedia:
        """Return what is in a file: its codec, size, duration and frame rate."""
        return await self._client.run(flows.file_media(file_id, self._retries))

    async def download(self, file_id: str, path: Source) -> None:
        """Write a file's bytes to the disk."""
        call = Call("GET", f"/v1/files/{file_id}/content", stream=True)
        async with aclosing(await self._client.run(answered(call, self._retries))) as answer:
            file: Any = await asyncio.to_thread(Path(path).open, "wb")
            try:
                async for piece in answer.aiter_bytes(PIECE):
                    await asyncio.to_thread(file.write, piece)
            finally:
                await asyncio.to_thread(file.close)

    async def delete(self, file_id: str) -> None:
        """Delete a file."""
        await self._client.call("DELETE", f"/v1/files/{file_id}")


class AsyncStreams:
    """The live streams that are registered."""

    def __init__(self, client: AsyncClient, retries: Retries) -> None:
        self._client = client
        self._retries = retries

    async def add(
        self, url: str, description: str = "", *, stream_id: str | None = None, **fields: Any
    ) -> str:
        """Register an rtsp:// URL; return its id. `fields` are those of `POST /v1/streams/add`."""
        return await self._client.run(flows.add_stream(url, description, self._retries, stream_id, **fields))

    async def list(self) -> "list[CameraStream]":
        """Return every registered stream."""
        return await self._client.run(flows.list_streams(self._retries))

    async def stop(self, stream_id: str) -> None:
        """Stop embedding a stream, and keep it registered."""
        await self._client.call("DELETE", f"/v1/generate_video_embeddings/{stream_id}")

    async def delete(self, stream_id: str) -> None:
        """Stop embedding a stream, and remove it."""
        await self._client.call("DELETE", f"/v1/streams/delete/{stream_id}")


class AsyncTriggers:
    """Questions that the service compares each new chunk with. They need an index."""

    def __init__(self, client: AsyncClient, retries: Retries) -> None:
        self._client = client
        self._retries = retries

    async def add(
        self,
        name: str,
        *,
        threshold: float,
        text: str | None = None,
        image: Source | None = None,
        vector: Sequence[float] | None = None,
        **fields: Any,
    ) -> SavedTrigger:
        """Save a text, a picture (path, URL or id) or a vector; return the trigger.

        Chunks match whose score is `threshold` or more. `fields` are those of `POST /v1/triggers`: cameras,
        files, cooldown, webhook, webhook_secret, model, like.
        """
        body = flows.search_query(text, image, vector, {"name": name, "threshold": threshold, **fields})
        return await self._client.run(trigger_calls.add_trigger(body, self._retries))

    async def list(self) -> "list[SavedTrigger]":
        """Return every trigger, the oldest first."""
        return await self._client.run(trigger_calls.list_triggers(self._retries))

    async def get(self, trigger_id: str) -> SavedTrigger:
        """Return one trigger: how often it matched, and the state of its webhook."""
        return await self._client.run(trigger_calls.find_trigger(trigger_id, self._retries))

    def matches(self, trigger_id: str, *, last: int = 0) -> AsyncGenerator[MatchedChunk, None]:
        """Yield the `last` matches that have been, and those that come, until the trigger is deleted.

        Reconnects without limit. Close the iterator to stop earlier.
        """
        reader = Matches(trigger_id, last, Retries(None))
        return self._client.read_events(reader, reader.open)

    async def delete(self, trigger_id: str) -> None:
        """Delete a trigger and its matches."""
        await self._client.call("DELETE", f"{trigger_calls.TRIGGERS_PATH}/{trigger_id}")
