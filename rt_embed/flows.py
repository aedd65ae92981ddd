"""What each method of the clients asks of the service, and what it makes of the answers, as flows."""

import base64
import mimetypes
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from rt_embed.calls import Call, Flow, Retries, answered
from rt_embed.exceptions import ConflictError, ServiceError, service_error
from rt_embed.types import (
    CameraStream,
    EmbeddedImage,
    ModelEntry,
    RequestState,
    SearchHit,
    StoredFile,
    StoredMedia,
    Vector,
    to_vector,
)
from rt_embed.upload_body import UploadBody, UploadProgress, is_picture

TEXTS_AT_ONCE = 100
VIDEO_PATH = "/v1/generate_video_embeddings"
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_URL = re.compile(r"([a-z][a-z0-9+.\-]*://|data:)", re.IGNORECASE)

Source = str | os.PathLike[str]
"""A path, a URL, or the id of a file that the service has."""


class _Models(msgspec.Struct):
    data: list[ModelEntry]


class _Embeddings(msgspec.Struct):
    embeddings: str | list[float]


class _TextAnswer(msgspec.Struct):
    data: list[_Embeddings]


class _ImageAnswer(_Embeddings):
    thumbnail: str | None = None


class _VideoAnswer(msgspec.Struct):
    chunk_responses: list[_ImageAnswer]


class _Files(msgspec.Struct):
    data: list[StoredFile]


class _Id(msgspec.Struct):
    id: str


class _NotAdded(msgspec.Struct):
    error: str
    error_code: str
    status_code: int


class _AddedStreams(msgspec.Struct):
    results: list[_Id]
    errors: list[_NotAdded]


class _Hits(msgspec.Struct):
    hits: list[SearchHit]


def json_of(call: Call, retries: Retries) -> Flow[Any]:
    """Return the decoded JSON of an answer; None for an empty one."""
    answer = yield from answered(call, retries)
    return msgspec.json.decode(answer.content) if answer.content else None


def list_models(retries: Retries) -> Flow[list[ModelEntry]]:
    """Return the models that the service has loaded."""
    answer = yield from answered(Call("GET", "/v1/models"), retries)
    return msgspec.json.decode(answer.content, type=_Models).data


def embed_texts(texts: Sequence[str], model: str, retries: Retries) -> Flow[list[Vector]]:
    """Return one vector per text, in their order, asking for up to 100 at a time."""
    vectors: list[Vector] = []
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        some = list(texts[first : first + TEXTS_AT_ONCE])
        body = {"text_input": some, "model": model, "encoding_format": "base64"}
        call = Call("POST", "/v1/generate_text_embeddings", json=body, headers=idempotent())
        answer = yield from answered(call, retries)
        data = msgspec.json.decode(answer.content, type=_TextAnswer).data
        vectors += [to_vector(item.embeddings) for item in data]
    return vectors


def embed_image(
    image: Source, model: str, retries: Retries, *, thumbnail: bool = False
) -> Flow[EmbeddedImage]:
    """Return a picture's vector, and its thumbnail if that is wanted. A picture from the disk is sent inside
    the request and kept by nobody."""
    body: dict[str, Any] = {"model": model, "encoding_format": "base64", "media_type": "image"}
    if thumbnail:
        body["thumbnails"] = True
    if isinstance(image, str) and is_id(image):
        body["id"] = image
    else:
        body |= {"id": str(uuid.uuid4()), "url": image if is_url(image) else _data_url(Path(image))}
    answer = yield from answered(Call("POST", VIDEO_PATH, json=body, headers=idempotent()), retries)
    (chunk,) = msgspec.json.decode(answer.content, type=_VideoAnswer).chunk_responses
    made = base64.b64decode(chunk.thumbnail) if chunk.thumbnail else None
    return EmbeddedImage(vector=to_vector(chunk.embeddings), thumbnail=made)


def upload_file(
    path: Source,
    retries: Retries,
    *,
    media_type: str | None = None,
    creation_time: str | datetime | None = None,
    sensor_name: str = "",
    file_id: str | None = None,
    progress: UploadProgress | None = None,
) -> Flow[StoredFile]:
    """Upload a file under a chosen id, so that a retry after a lost answer does not make it twice."""
    chosen = file_id or str(uuid.uuid4())
    fields = {
        "purpose": "vision",
        "media_type": media_type or ("image" if is_picture(path) else "video"),
        "id": chosen,
        **({"creation_time": timestamp(creation_time)} if creation_time else {}),
        **({"sensor_name": sensor_name} if sensor_name else {}),
    }
    upload = UploadBody(Path(path), fields, progress)
    try:
        answer = yield from answered(Call("POST", "/v1/files", upload=upload), retries)
    except ConflictError:
        if file_id:
            raise
        return (yield from file_info(chosen, retries))
    return msgspec.json.decode(answer.content, type=StoredFile)


def list_files(retries: Retries) -> Flow[list[StoredFile]]:
    """Return every file of the service."""
    answer = yield from answered(Call("GET", "/v1/files", params={"purpose": "vision"}), retries)
    return msgspec.json.decode(answer.content, type=_Files).data


def file_info(file_id: str, retries: Retries) -> Flow[StoredFile]:
    """Return what the service knows of a file."""
    answer = yield from answered(Call("GET", f"/v1/files/{file_id}"), retries)
    return msgspec.json.decode(answer.content, type=StoredFile)


def file_media(file_id: str, retries: Retries) -> Flow[StoredMedia]:
    """Return what a worker of the service has found in a file."""
    answer = yield from answered(Call("GET", f"/v1/files/{file_id}/media"), retries)
    return msgspec.json.decode(answer.content, type=StoredMedia)


def add_stream(
    url: str, description: str, retries: Retries, stream_id: str | None = None, **fields: Any
) -> Flow[str]:
    """Register a live stream; return its id. Raises ServiceError, as the service says why it was refused."""
    chosen = stream_id or str(uuid.uuid4())
    stream = {"liveStreamUrl": url, "description": description, "id": chosen, **fields}
    answer = yield from answered(Call("POST", "/v1/streams/add", json={"streams": [stream]}), retries)
    added = msgspec.json.decode(answer.content, type=_AddedStreams)
    if added.results:
        return added.results[0].id
    refused = added.errors[0]
    if refused.error_code == "DuplicateStreamId" and not stream_id:
        return chosen  # added by an attempt whose answer was lost
    raise service_error(
        refused.status_code, refused.error_code, refused.error, answer.headers.get("x-request-id", "")
    )


def list_streams(retries: Retries) -> Flow[list[CameraStream]]:
    """Return every registered live stream."""
    answer = yield from answered(Call("GET", "/v1/streams/get-stream-info"), retries)
    return msgspec.json.decode(answer.content, type=list[CameraStream])


def request_state(request_id: str, retries: Retries) -> Flow[RequestState]:
    """Return how far a request is."""
    answer = yield from answered(Call("GET", f"/v1/requests/{request_id}"), retries)
    return msgspec.json.decode(answer.content, type=RequestState)


def why_it_failed(request_id: str, retries: Retries) -> Flow[ServiceError]:
    """Return the error with which a request ended."""
    try:
        error = (yield from request_state(request_id, retries)).error
    except ServiceError:
        error = None
    if error is None:
        return service_error(
            500, "InternalServerError", "the request failed; see the service's log", request_id
        )
    return service_error(500, error.code, error.message, request_id)


def find_chunks(query: Mapping[str, Any], retries: Retries) -> Flow[list[SearchHit]]:
    """Return the chunks that are nearest to a query."""
    answer = yield from answered(Call("POST", "/v1/search", json=dict(query)), retries)
    return msgspec.json.decode(answer.content, type=_Hits).hits


def idempotent() -> dict[str, str]:
    """Return a header by which the service knows a repeated request."""
    return {"Idempotency-Key": str(uuid.uuid4())}


def is_url(source: Source) -> bool:
    """Return whether a source is a URL."""
    return isinstance(source, str) and _URL.match(source) is not None


def is_id(source: Source) -> bool:
    """Return whether a source is the id of a file."""
    return isinstance(source, str) and _UUID.fullmatch(source) is not None


def timestamp(moment: str | datetime) -> str:
    """Return a time as the service takes it: UTC, with milliseconds. A naive time counts as local."""
    if isinstance(moment, str):
        return moment
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def search_query(
    text: str | None,
    image: Source | None,
    vector: Sequence[float] | None,
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a question to the index and these other `fields`. It holds a picture that is on the disk."""
    query = dict(fields)
    if text is not None:
        query["text"] = text
    if image is not None:
        query["image"] = image if is_url(image) or is_id(image) else _data_url(Path(image))
    if vector is not None:
        query["vector"] = [float(value) for value in vector]
    return query
