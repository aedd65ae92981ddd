"""Requests and answers about the search index."""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from gateway.api.embedding_schemas import check_url
from gateway.api.openai_schemas import LONGEST_TEXT
from gateway.api.schemas import (
    ApiRequest,
    ApiResponse,
    Embedding,
    Encoding,
    MediaType,
    ModelId,
    Parameters,
    StreamId,
    Timestamp,
    is_date,
)

MOST_HITS = 10_000
MOST_THUMBNAILS = 1000
"""In one answer."""
LONGEST_VECTOR = 4000
LARGEST_HALF = 65504

Score = Annotated[float, Meta(ge=-1.0001, le=1.0001, description="Cosine similarity.", examples=[0.31])]
Thumbnail = Annotated[str, Meta(description="A small JPEG, base64.")]
Seconds = Annotated[float, Meta(examples=[12.5])]
ChunkNumber = Annotated[int, Meta(ge=0, le=2_147_483_647, examples=[3])]


def is_url(image: str) -> bool:
    """Return whether `image` is a URL and no id."""
    return ":" in image[:8]


def _check_picture(image: str) -> None:
    """Raise ValueError unless `image` is a URL that may be fetched, or could be the id of an image."""
    if is_url(image):
        check_url(image)
        if image.startswith("data:") and not image.startswith("data:image/"):
            raise ValueError("Must be a picture: data:image/...")


def _check_vector(vector: list[float]) -> None:
    """ValueError unless half precision holds the vector and it has a direction."""
    largest = max(map(abs, vector), default=0.0)
    if largest > LARGEST_HALF:
        raise ValueError(f"Must have values from -{LARGEST_HALF} to {LARGEST_HALF}")
    if largest == 0:
        raise ValueError("Must not be all zeros")


class LikeChunk(ApiRequest):
    """A chunk of the index."""

    asset: StreamId
    chunk: ChunkNumber


class Question(ApiRequest):
    """What to look for."""

    text: Annotated[
        Annotated[str, Meta(min_length=1, max_length=LONGEST_TEXT)] | None,
        Meta(description="A sentence.", examples=["a forklift moving pallets"]),
    ] = None
    image: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            extra={"check": _check_picture},
            description="A picture: its http(s), s3 or data URL, or the id of an image.",
        ),
    ] = None
    vector: Annotated[
        Annotated[list[float], Meta(min_length=1, max_length=LONGEST_VECTOR)] | None,
        Meta(extra={"check": _check_vector}, description="A vector of the model."),
    ] = None
    like: Annotated[LikeChunk | None, Meta(description="A chunk whose like is wanted.")] = None
    model: Annotated[ModelId | None, Meta(description="The loaded model if absent.")] = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield problems with combinations of fields."""
        given = [n for n in ("text", "image", "vector", "like") if getattr(self, n) is not None]
        if len(given) != 1:
            names = " and ".join(given) or "none"
            yield (given or ["text"])[-1], f"Give one of text, image, vector and like, not {names}"


class SearchRequest(Question):
    """What to look for, and where."""

    top_k: Annotated[int, Meta(ge=1, le=MOST_HITS, description="Most hits.")] = 10
    assets: Annotated[
        Annotated[list[StreamId], Meta(max_length=1000)] | None,
        Meta(description="Only in these files and streams."),
    ] = None
    cameras: Annotated[
        Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=1000)] | None,
        Meta(description="Only of these cameras, by camera id, else sensor name, else asset id."),
    ] = None
    start_time: Annotated[
        Timestamp | None,
        Meta(description="Only what ends after this. A file without a creation time begins in 1970."),
    ] = None
    end_time: Annotated[Timestamp | None, Meta(description="Only what begins before this.")] = None
    min_score: Annotated[
        Annotated[float, Meta(ge=-1, le=1)] | None, Meta(description="Leave out what scores less.")
    ] = None
    merge: Annotated[bool, Meta(description="Answer with neighbouring chunks as one hit.")] = False
    exact: Annotated[
        bool, Meta(description="Compare every chunk instead of asking the HNSW index: slow, and complete.")
    ] = False
    thumbnails: Annotated[
        bool, Meta(description="Answer with the pictures of chunks whose messages brought one.")
    ] = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield problems with combinations of fields."""
        yield from Question.problems(self)
        if self.thumbnails and self.top_k > MOST_THUMBNAILS:
            yield "top_k", f"Must be at most {MOST_THUMBNAILS} with thumbnails"
        for name in ("start_time", "end_time"):
            if (time := getattr(self, name)) is not None and not is_date(time):
                yield name, f"{time} is no date that exists"


class StoredChunk(ApiResponse):
    """A chunk of the index. Offsets are seconds from the start of the file; null for streams."""

    chunk: ChunkNumber
    start: Seconds | None
    end: Seconds | None
    start_time: Annotated[Timestamp | None, Meta(description="Null for a file without a creation time.")]
    end_time: Timestamp | None
    request: Annotated[str, Meta(description="The request that embedded it.")]
    thumbnail: Thumbnail | None


class IndexHit(StoredChunk):
    """A chunk that was found, or several neighbours."""

    asset: StreamId
    name: Annotated[str, Meta(description="File name, or name of the camera.", examples=["myfile.mp4"])]
    kind: Literal["file", "stream"]
    media_type: MediaType
    camera: Annotated[str, Meta(description="Camera id, else sensor name, else asset id.")]
    chunks: Annotated[list[ChunkNumber], Meta(description="The chunks of this hit; several with `merge`.")]
    score: Score


class SearchResponse(ApiResponse):
    """What was found, the best first."""

    model: ModelId
    hits: list[IndexHit]


class SearchableModel(ApiResponse):
    """A model whose vectors the index holds."""

    id: ModelId
    dimension: Annotated[int, Meta(ge=1, examples=[768])]


class IndexerStatus(ApiResponse):
    """A process that writes into the index."""

    name: str
    state: Annotated[Literal["starting", "indexing", "waiting"], Meta(examples=["indexing"])]
    detail: Annotated[str, Meta(description="Why it does not index.")]
    bus: Annotated[str, Meta(description="`kafka` or `redis`.", examples=["redis"])]
    topic: Annotated[str, Meta(examples=["mdx-embed"])]
    indexed: Annotated[int, Meta(description="Chunks that it added since it started.")]
    refused: Annotated[int, Meta(description="Messages that it could not use.")]


class SearchState(ApiResponse):
    """What the index holds, and who keeps it up to date."""

    chunks: Annotated[int, Meta(description="About how many, as the database's statistics say.")]
    models: list[SearchableModel]
    indexers: list[IndexerStatus]
    lag_messages: Annotated[int | None, Meta(description="Messages that wait to be indexed.")]
    lag_seconds: Annotated[float | None, Meta(description="Age of the oldest of them.")]


class AssetChunksQuery(Parameters):
    """Which chunks of an asset, and what of them."""

    model: Annotated[ModelId | None, Meta(description="The loaded model if absent.")] = None
    after: Annotated[int, Meta(ge=0, le=10**9, description="Leave out this many from the start.")] = 0
    limit: Annotated[int, Meta(ge=1, le=MOST_HITS)] = 1000
    chunks: Annotated[
        Annotated[str, Meta(max_length=4000, pattern=r"^[0-9]{1,9}(,[0-9]{1,9})*\Z")] | None,
        Meta(description="Only these chunks, separated by commas.", examples=["0,12,24"]),
    ] = None
    thumbnails: Annotated[
        bool, Meta(description="Answer with the pictures of chunks whose messages brought one.")
    ] = False
    embeddings: Annotated[bool, Meta(description="Answer with the chunks' vectors.")] = False
    encoding_format: Encoding = "float"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield problems with combinations of fields."""
        if self.thumbnails and self.limit > MOST_THUMBNAILS:
            yield "limit", f"Must be at most {MOST_THUMBNAILS} with thumbnails"


class AssetChunk(StoredChunk):
    """A chunk of one asset."""

    embedding: Annotated[Embedding | None, Meta(description="As the index holds it, in half precision.")]


class AssetChunks(ApiResponse):
    """An asset's chunks in order of time. `more` says that there are others after these."""

    asset: StreamId
    model: ModelId
    chunks: list[AssetChunk]
    more: bool


class ForgottenAsset(ApiResponse):
    """The asset's chunks were removed from the index."""

    asset: StreamId
    forgotten: bool = True
