"""What an indexer makes of messages, well-formed ones and others."""

import base64
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.chunk_messages import LARGEST_THUMBNAIL, IndexedAsset, read_chunk
from shared.chunks import SECOND
from shared.errors import MessageRefused
from shared.jobs import TextJob
from shared.messages.nv_pb2 import VisionLLM
from shared.results import Result
from tests.search.chunk_samples import MODEL, chunk_message, film, unit_vectors
from worker.publish.messages import build_message

VECTOR = unit_vectors(1)[0]
JPEG = b"\xff\xd8\xff\xe0 a picture"


def changed(**fields: Any) -> bytes:
    """A good message with other contents."""
    message = VisionLLM.FromString(chunk_message(film(), 3, VECTOR))
    for name, value in fields.items():
        if name == "vector":
            message.llm.visionEmbeddings[0].vector[:] = value
        else:
            message.info[name] = str(value)
    return message.SerializeToString()


def test_a_chunk_of_a_film_is_read() -> None:
    asset = film(7, creation_time="2024-06-09T18:32:11.500Z", camera_id="gate", description="the gate")
    chunk = read_chunk(chunk_message(asset, 3, VECTOR, request="r1"))
    assert chunk
    created = 1_717_957_931_500_000_000
    assert (chunk.model, chunk.number, chunk.request) == ("tiny", 3, "r1")
    assert (chunk.start, chunk.end) == (created + 30 * SECOND, created + 40 * SECOND)
    assert chunk.vector == pytest.approx(VECTOR.tolist())
    assert chunk.thumbnail is None
    assert chunk.asset == IndexedAsset(
        id=asset.id, kind="file", media_type="video", name="film7.mp4", sensor="gate", description="the gate"
    )


def test_a_camera_is_named_as_people_know_it() -> None:
    camera = film(
        1, kind="stream", path="rtsp://10.0.0.5/live", filename="", directory="", description="yard"
    )
    message = chunk_message(camera, 0, VECTOR)
    chunk = read_chunk(message)
    assert chunk
    assert (chunk.asset.kind, chunk.asset.name, chunk.asset.url) == ("stream", "yard", "")


def test_texts_and_failed_chunks_are_left_out() -> None:
    text = TextJob(request="r", texts=["a dog"])
    result = Result(chunk=0, vector=VECTOR.tobytes())
    assert read_chunk(build_message(MODEL, text, result)) is None
    failed = VisionLLM.FromString(chunk_message(film(), 0, VECTOR))
    failed.llm.ClearField("visionEmbeddings")
    assert read_chunk(failed.SerializeToString()) is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\xff\xff\xff", "not an nv.VisionLLM message"),
        (changed(vector=[0.0] * 8), "no direction"),
        (changed(vector=[1.0, float("nan")]), "half precision cannot hold"),
        (changed(vector=[float("inf"), float("nan")]), "half precision cannot hold"),
        (changed(vector=[1e6, 1.0]), "half precision cannot hold"),
        (changed(vector=[]), "a vector of 0 values"),
        (changed(vector=[1.0] * 4001), "a vector of 4001 values"),
        (changed(chunkIdx="-1"), "not a chunk number"),
        (changed(chunkIdx="9" * 50), "not a chunk number"),
        (changed(chunkIdx="٣"), "not a chunk number"),
    ],
)
def test_what_cannot_be_a_row_is_refused(message: bytes, reason: str) -> None:
    with pytest.raises(MessageRefused, match=reason):
        read_chunk(message)


def test_texts_are_cut_and_hold_no_nul() -> None:
    chunk = read_chunk(changed(streamId="a\0b" * 500, requestId="x\0y"))
    assert chunk
    assert (len(chunk.asset.id), chunk.request) == (171, "xy")
    assert "\0" not in chunk.asset.id


def test_a_picture_comes_with_its_chunk() -> None:
    chunk = read_chunk(changed(thumbnail=base64.b64encode(JPEG).decode()))
    assert chunk
    assert chunk.thumbnail == JPEG


@pytest.mark.parametrize(
    "text", ["not base64!", base64.b64encode(b"GIF89a").decode(), "A" * (LARGEST_THUMBNAIL * 4 // 3 + 4)]
)
def test_what_is_no_picture_is_none(text: str) -> None:
    chunk = read_chunk(changed(thumbnail=text))
    assert chunk
    assert chunk.thumbnail is None


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    try:
        chunk = read_chunk(data)
    except MessageRefused:
        return
    assert chunk is None or chunk.vector


@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_every_vector_that_is_taken_can_be_stored(values: list[float]) -> None:
    try:
        chunk = read_chunk(changed(vector=values))
    except MessageRefused:
        return
    assert chunk
    stored = np.array(struct.unpack(f"{len(values)}e", struct.pack(f"{len(values)}e", *chunk.vector)))
    assert np.isfinite(stored).all()
    assert stored.any()


def test_a_chunk_is_a_value() -> None:
    first, second = read_chunk(changed()), read_chunk(changed())
    assert first == second
    assert first
    assert first.key == (film().id, "tiny", 30 * SECOND, 40 * SECOND)
    assert msgspec.structs.replace(first, number=4).key == first.key
