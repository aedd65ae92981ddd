"""Requests and answers as in OpenAI's API of embeddings."""

from typing import Annotated, Literal

from msgspec import Meta

from gateway.api.embedding_schemas import HTTP_URL, check_url
from gateway.api.schemas import ApiResponse, ApiType, Dimensions, Embedding, Encoding, ModelId

INPUTS = 2048
MEDIA_INPUTS = 16
LONGEST_TEXT = 8192


CLIP_BEGINNINGS = ("data:video_frames/jpg;base64,{", "data:video_frames/jpeg;base64,{")
CLIP_FRAMES = 64
MEDIA_BEGINNINGS = ("data:image/", "data:video/", "data:video_frames/")


def _check_input(given: str | list[str]) -> None:
    inputs = [given] if isinstance(given, str) else given
    if sum(map(is_media, inputs)) > MEDIA_INPUTS:
        raise ValueError(f"Must have at most {MEDIA_INPUTS} pictures and videos")
    for item in inputs:
        if not item:
            raise ValueError("Must not be empty")
        if frames := frames_in(item):
            if len(frames) > CLIP_FRAMES:
                raise ValueError(f"A clip must have at most {CLIP_FRAMES} frames")
        elif is_media(item):
            check_url(item)
        elif len(item) > LONGEST_TEXT:
            raise ValueError(f"A text must have at most {LONGEST_TEXT} characters")


def is_media(item: str) -> bool:
    """Return whether an input is an image or a video, by its `data:` or http address, not a text."""
    return item.startswith(MEDIA_BEGINNINGS) or HTTP_URL.fullmatch(item) is not None


def frames_in(item: str) -> list[str]:
    """Return the frames, base64 of JPEG files, of a clip as a Cosmos-Embed1 NIM takes it, else nothing."""
    begins = next((begin for begin in CLIP_BEGINNINGS if item.startswith(begin)), None)
    if begins is None:
        return []
    if not item.endswith("}"):
        raise ValueError("A clip must be data:video_frames/jpg;base64,{frame,frame,...}")
    return item[len(begins) : -1].split(",")


class EmbeddingsRequest(ApiType):
    """Texts, images and videos to embed, as in OpenAI's API. Unknown fields are ignored."""

    input: Annotated[
        str | Annotated[list[str], Meta(min_length=1, max_length=INPUTS)],
        Meta(
            extra={"check": _check_input},
            description=(
                "One or many inputs. Media at an http(s) URL, or in a `data:` URL of an image or video, "
                "is embedded, a video as one chunk; so is a clip of frames, "
                "`data:video_frames/jpg;base64,{frame,frame,...}`, each the base64 of a JPEG file; any other "
                "input is a text."
            ),
            examples=[["a forklift", "https://example.com/warehouse.mp4"]],
        ),
    ]
    model: ModelId
    encoding_format: Encoding = "float"
    dimensions: Dimensions = None
    user: str | None = None


class OneEmbedding(ApiResponse):
    """One input's vector."""

    object: Literal["embedding"] = "embedding"
    index: Annotated[int, Meta(ge=0, description="The input's place in the request.")]
    embedding: Embedding


class TokenUsage(ApiResponse):
    """Always 0: tokens are not counted."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingsResponse(ApiResponse):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[OneEmbedding]
    model: ModelId
    usage: TokenUsage
